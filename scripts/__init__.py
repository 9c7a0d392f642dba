"""Development tools: quickstart, tests, benchmark and real IPFS peers."""
