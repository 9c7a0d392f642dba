"""Announces what the repo has, again and again, at a cost that does not grow with its size."""
