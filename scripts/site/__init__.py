"""The documentation as a site: what mkdocs calls while it builds (`hooks`), and a look at what was built (`check`)."""
