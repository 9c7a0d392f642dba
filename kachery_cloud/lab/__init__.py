"""The lab's own node: accounts, projects, usage, and the pages that show them."""
