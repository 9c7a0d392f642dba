"""Measures storing and loading, side by side with others, in one run: `./scripts/bench`."""
