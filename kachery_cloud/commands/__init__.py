"""What users type: the console commands, and what they print.

entry         where they begin, before anything is imported
main          `kachery-cloud`, which imports a subcommand when it is used
storing       `store` and `link`
loading       `load`, `cat`, `ls` and `info`
upkeep        `init`, `verify` and `repair`
node          `node`
network       `status`, `whereis`, `announce`, and the key of a private network
pins          `pins`; `pin_services` is its `service`
settings      `settings`
status_text   the node and who has something, in words; `pins_text` does it for pins
support       what all of them share: results, errors, exit codes
"""
