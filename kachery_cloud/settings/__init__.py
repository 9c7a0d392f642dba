"""Settings: from the environment, `config.json` and arguments to checked values.

config          all settings, each one entry: how it is read, its default, what it means
values          how each kind of value is read
config_file     reading and writing `config.json`
pin_services    pinning services: which there are, and what each takes
pin_tokens      their tokens
pin_choice      which of them a call means, and which the node may ask
"""
