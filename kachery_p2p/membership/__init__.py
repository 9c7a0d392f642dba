"""Groups: who belongs together, the secrets that they share, and how machines come to agree on both.

No server knows a group. Each owner signs one list of all that it says about members (`lists`); a machine keeps the
newest list of each owner (`state`), and what follows from them all, by the same rules everywhere, is who is in the
group. Lists and secrets go from member to member over the encrypted connections of the node (`protocol`, `service`).
The rules in full, for whoever wants to check them, are in `state` and in docs/groups.md.
"""
