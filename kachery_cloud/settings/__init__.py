"""Settings: from the environment, `config.json` and arguments to checked values."""
