"""The trustless and path gateway that a node may offer over HTTP."""
