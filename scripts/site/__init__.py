"""The documentation site: what mkdocs calls while it builds (`hooks`), and the check that a page loads nothing from elsewhere."""
