"""One request of the user: what is on disk, what is missing, whom to ask."""
