"""How the processes of one data directory share one node: the control socket.

The process that holds the node lock listens on a Unix socket (``node.sock``; where there can be none, on a loopback TCP
port) and writes ``node.json`` beside it: where it listens, its process id and machine, and a secret that it made for
this run (`kachery_cloud.node.endpoint`). Every connection must open with that secret, so that another user of the
machine, or a web page that talks to loopback ports, gets nothing, whatever the transport. What a connection sends can
end that connection, never the node.

Both directions speak one JSON object a line. The frames and the calls are in `kachery_cloud.node.messages`::

    -> {"secret": "...", "version": 1}
    <- {"ok": true, "pid": 4711}
    -> {"id": 7, "method": "load", "params": {...}}
    <- {"id": 7, "progress": [1048576, 200000128]}
    <- {"id": 7, "part": {...}}           one row of a list that comes row by row, to who asked with "parts": true
    <- {"id": 7, "result": {...}}     or     {"id": 7, "error": {"type": "DiskFull", "message": "..."}}
    -> {"cancel": 7}

Data never crosses this socket: both processes see the same directory, so an answer is a path. Here is what both sides
need: `control_server` is the side of the node, `control_client` that of the others.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator
from typing import Any

from kachery_cloud.node.messages import ErrorText
from kachery_p2p import errors
from kachery_p2p.errors import KacheryError, NodeError
from kachery_p2p.json_shapes import to_json

VERSION = 1
#: A request or an answer is a few paths and addresses; more than this is not one of ours.
MAX_LINE = 1 << 20
#: Characters of an error's text on the wire; a longer one could make an answer that cannot be sent.
MAX_ERROR_TEXT = 20_000
#: Seconds for the other side to answer the greeting: it is on the same machine.
GREETING_TIMEOUT = 10.0


# --- lines -----------------------------------------------------------------------------------------------------------


def encode_line(frame: Any) -> bytes:
    """One frame as a line of JSON.

    Raises:
        ValueError: it would not be read back: it is too long, or a number that JSON does not have is in it.
        TypeError: it holds something that JSON has no form for.
    """
    line = json.dumps(to_json(frame), separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise ValueError(f"a control message of {len(line)} bytes is over the limit of {MAX_LINE}")
    return line


def encode_error(error: BaseException) -> ErrorText:
    """A named error, or for anything else (a bug) its type and text, as it travels to the other process."""
    return ErrorText(type(error).__name__, str(error)[:MAX_ERROR_TEXT])


def decode_error(told: ErrorText) -> KacheryError:
    """The error that `encode_error` described; a `NodeError` where there is none of that name."""
    kind = getattr(errors, told.type, None)
    if isinstance(kind, type) and issubclass(kind, KacheryError):
        return kind(told.message)
    return NodeError(f"The node failed ({told.type}): {told.message}")


# --- forked children ------------------------------------------------------------------------------------------------

_open_fds: set[int] = set()


@contextlib.contextmanager
def closed_in_forks(fd: int) -> Generator[None, None, None]:
    """While this lasts, a forked child does not keep ``fd`` open.

    A child that held a copy of a control socket would hide from the other processes that the node has gone.
    """
    _open_fds.add(fd)
    try:
        yield
    finally:
        _open_fds.discard(fd)


def _close_after_fork() -> None:
    # Replaced, not closed: the child still has the Python objects, and one that is collected closes its number again.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in _open_fds:
        os.dup2(null, fd, inheritable=False)
    os.close(null)
    _open_fds.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)
