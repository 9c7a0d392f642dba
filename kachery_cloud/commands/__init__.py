"""What users type: the console commands, and what they print.

entry         where they begin, before anything is imported
main          `kachery-cloud`, its subcommands, and the short names
network       status, whereis, announce, and the key of a private network
pins          `kachery-cloud-pins`; `pin_services` is its `service`
status_text   the node and who has something, in words; `pins_text` does it for pins
support       what all of them share: results, errors, exit codes
"""
