"""Settings: from the environment, `config.json` and arguments to checked values.

config         all settings, and what each means
pin_services   pinning services: which there are, and where their tokens are
values         how each kind of value is read, and the file
"""
