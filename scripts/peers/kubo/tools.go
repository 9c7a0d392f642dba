//go:build tools

// Package tools names the program that `scripts/peers/install` builds, so that go.mod and go.sum pin all it is made of.
package tools

import _ "github.com/ipfs/kubo/cmd/ipfs"
