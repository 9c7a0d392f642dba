"""Open files: how many this process may have, and how the bounds of the node follow.

Every connection is an open file, and so are databases, data files and whatever else the program of the user opens. The
usual soft limit is 256 on macOS and 1024 on Linux; when it is reached nobody gets in any more, and nothing can be
opened. So the bounds of connections are shares of what is left after a reserve. A program of ours raises the soft limit
when it starts; a library in somebody else's process leaves that alone.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

#: Open files that are kept for databases, data files, and the program that this is part of.
RESERVE = 96
#: What a program of ours asks for; enough for all bounds at their highest.
WANTED = 4096
#: However low the limit is, so many files are shared out: below that nothing works in any case.
LEAST = 64


@dataclass(frozen=True)
class Shares:
    """How many open files each part may use.

    Attributes:
        connections: with peers.
        handshakes: connections that come in and whose peer is not known yet.
        dials: connections that are being made.
        gateway: connections of the HTTP gateway.
        control: other processes of the same user.
    """

    connections: int
    handshakes: int
    dials: int
    gateway: int
    control: int


def soft_limit() -> int | None:
    """How many files this process may have open; None where that is not bounded, or not known."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are no files
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def raise_soft_limit(wanted: int = WANTED) -> int | None:
    """Raise the soft limit where it is lower and the hard limit allows; what it is then.

    For programs: a library does not change the limits of the process it is in.
    """
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS refuses more than OPEN_MAX whatever the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, target), hard))
    return soft_limit()


def shares(limit: int | None = None) -> Shares:
    """The shares of a limit; of this process's soft limit when none is given."""
    if limit is None:
        limit = soft_limit()
    if limit is None:
        limit = WANTED
    room = max(limit - RESERVE, LEAST)
    return Shares(
        connections=room * 50 // 100,
        handshakes=room * 12 // 100,
        dials=room * 10 // 100,
        gateway=room * 20 // 100,
        control=room * 8 // 100,
    )
