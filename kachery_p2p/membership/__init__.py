"""Groups: who belongs together, the secrets that they share, and how machines come to agree on both.

No server knows a group. Each owner signs one list of all that it says about members (`lists`); a machine keeps the
newest list of each owner (`state`), and what follows from them all, by the same rules everywhere, is who is in the
group. Lists and secrets go from member to member over the encrypted connections of the node (`protocol`, `service`).
The rules in full, for whoever wants to check them, are in `state` and in docs/groups.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from kachery_p2p.membership.groups import Groups

_open: dict[Path, Groups] = {}


def groups_of_directory(directory: Path) -> Groups:
    """The groups of a data directory, as they are in its files now, for a process that need not be its node.

    Raises:
        IdentityError: the key files of the directory cannot be read, or do not fit together.
    """
    from kachery_p2p.membership.groups import Groups
    from kachery_p2p.repo.keys import kept_identity, new_identity
    from kachery_p2p.transport.compat import Keys

    found = _open.get(directory)
    if found is None:
        identity = kept_identity(directory)
        if identity is None:  # then it is in no group, and has to be looked for again
            return Groups(directory, Keys.from_seed(new_identity().seed))
        # Of two threads that make it at once, both get the same.
        return _open.setdefault(directory, Groups(directory, Keys.from_seed(identity.seed)))
    found.reload()
    return found


# A lock that another thread holds at the fork would stay held in the child.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)
