"""Who may load what: audiences of roots, and the one place where a peer's questions are held against them."""
