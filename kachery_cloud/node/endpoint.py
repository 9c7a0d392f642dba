"""Where the node of a data directory listens: ``node.json``, and the place of the socket it names.

Both are for the owner alone (0600). In a directory that its group may write to, they are for the group (0660): its
members share one node.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import stat
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from kachery_p2p import private
from kachery_p2p.errors import NodeError, NotAFile
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.json_shapes import WrongShape, from_json
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.repo.hosts import Holder, MachineIdentity, this_host
from kachery_p2p.repo.locks import NodeLock

ENDPOINT_NAME = "node.json"
SOCKET_NAME = "node.sock"
#: A path of a Unix socket must fit into sockaddr_un (104 bytes on macOS, 108 on Linux).
MAX_SOCKET_PATH = 100
#: Bytes of `node.json`: it has a few names and numbers.
MAX_ENDPOINT = 16_384
#: Connections that may wait to be accepted.
BACKLOG = 64
#: Beginnings of the names of what is under construction; what a killed process left is removed by the next one.
_NEW_FOLDER, _NEW_FILE = ".n-", ".node.json."
#: How often the folder for sockets is made again because another node, which left, removed it.
_TRIES = 5


class NodeGone(NodeError):
    """The process that was the node has left, or never answered. The caller may take its place."""


class NodeElsewhere(NodeError):
    """The node of the directory runs on another machine: `holder`."""

    holder: Holder

    def __init__(self, message: str, holder: Holder | None = None) -> None:
        super().__init__(message)
        if holder is not None:  # pickle makes it of its message alone, and sets the rest
            self.holder = holder


@dataclass(frozen=True)
class ControlEndpoint:
    """Where the node of a directory listens.

    Attributes:
        pid: its process, on the machine that `host` names.
        secret: what every connection must open with.
        path: of its Unix socket.
        port: of its TCP socket on 127.0.0.1, where it has no Unix socket.
        host, boot, machine: see `kachery_p2p.repo.hosts`.
        started: when it began, in seconds since 1970.
    """

    pid: int
    secret: str
    path: str | None
    port: int | None
    host: str = ""
    boot: str = ""
    machine: str = ""
    started: float = 0.0

    @classmethod
    def of_this_process(cls, path: str | None, port: int | None) -> ControlEndpoint:
        """That of a node which begins in this process, with a new secret."""
        here = this_host()
        secret = secrets.token_hex(16)
        return cls(os.getpid(), secret, path, port, here.name, here.boot, here.machine, round(time.time(), 3))

    @classmethod
    def read(cls, directory: Path) -> ControlEndpoint:
        """Read ``node.json``.

        Raises:
            NodeGone: there is no such file, or it does not say where a node is.
        """
        try:
            found = from_json(cls, read_json(read_own_file(directory / ENDPOINT_NAME, MAX_ENDPOINT)))
        except (OSError, NotAFile, InvalidJSON, WrongShape) as error:
            raise NodeGone(f"No node answers for {directory}: {ENDPOINT_NAME} cannot be read ({error}).") from error
        if not found._names_a_place:
            raise NodeGone(f"No node answers for {directory}: {ENDPOINT_NAME} does not say where one is.")
        return found

    @property
    def _names_a_place(self) -> bool:
        """Whether it names one socket that there can be."""
        if self.path is not None:
            return self.port is None and bool(self.path) and "\0" not in self.path
        return self.port is not None and 0 < self.port < 65536

    def write(self, directory: Path) -> None:
        """Write ``node.json``, whole or not at all.

        Raises:
            OSError: there is no room for it, or no right to write it.
        """
        fd, name = tempfile.mkstemp(prefix=_NEW_FILE, dir=directory)  # mkstemp makes it 0600
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                json.dump(asdict(self), file)
            private.open_to_group(name, directory, private.SHARED_FILE)
            os.replace(name, directory / ENDPOINT_NAME)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    @property
    def holder(self) -> Holder | None:
        """Whose it is, as far as it says so."""
        return (
            Holder(self.pid, MachineIdentity(self.host, self.boot, self.machine), self.started) if self.host else None
        )


def silent_holder(directory: Path) -> str:
    """What to say of a process of this machine that has the node lock, and does not answer."""
    holder = NodeLock(directory).holder()
    who = "Another process" if holder is None else f"Process {holder.pid}"
    return (
        f"{who} holds the node lock of {directory} but does not answer. Wait a moment if it is starting or leaving; if "
        "it hangs, stop it. A full disk keeps it from saying where it is, too: then free some space."
    )


def node_elsewhere(directory: Path) -> NodeElsewhere | None:
    """What to say where the node of a directory runs on another machine; None where it does not. Makes nothing."""
    lock = NodeLock(directory)
    holder = lock.holder()
    if holder is None:
        with contextlib.suppress(NodeGone):
            holder = ControlEndpoint.read(directory).holder
    if holder is None or not holder.is_elsewhere or not lock.is_held():
        return None
    return NodeElsewhere(
        f"The node of {directory} runs on another machine: on {holder.in_words}. One node per directory, and only its "
        "own machine can use it. Work there, or stop it there, or choose a directory for this machine alone with "
        "KACHERY_CLOUD_DIR.",
        holder,
    )


# --- the socket ------------------------------------------------------------------------------------------------------


def listen_unix(directory: Path) -> tuple[socket.socket, str] | None:
    """Listen on a Unix socket that at no moment can be reached by another user; the socket and its path.

    It gets its name when its mode is right. The umask belongs to the whole process and is not touched. None where such
    a socket cannot be made: then there is loopback TCP.
    """
    if os.name != "posix" or not hasattr(socket, "AF_UNIX"):
        return None
    _clean(directory)
    path = os.path.join(directory, SOCKET_NAME)
    if _fits(directory):
        return _bind(path, directory), path
    if private.is_shared(directory):
        return None  # the place below is for one user
    for _ in range(_TRIES):
        place = _place_of_user()
        if place is None or not _fits(place):
            return None
        name = hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:16]
        path = os.path.join(place, f"{name}.sock")
        with contextlib.suppress(FileNotFoundError):
            return _bind(path, directory), path
    return None


def remove_socket(path: str) -> None:
    """Remove a socket when its node leaves, and the folder that was made for it, unless it has others."""
    with contextlib.suppress(OSError):
        os.unlink(path)
        if not path.endswith(os.sep + SOCKET_NAME):
            os.rmdir(os.path.dirname(path))


def _bind(path: str, directory: Path) -> socket.socket:
    folder = tempfile.mkdtemp(prefix=_NEW_FOLDER, dir=os.path.dirname(path))  # mkdtemp makes it 0700
    inside = os.path.join(folder, "s")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(inside)
        os.chmod(inside, 0o600)
        private.open_to_group(inside, directory, private.SHARED_FILE)
        sock.listen(BACKLOG)
        # What stands there was left by a process that was killed: the caller holds the node lock, so it has no server.
        os.rename(inside, path)
    except BaseException:
        sock.close()
        raise
    finally:
        _remove_folder(folder)
    return sock


def _remove_folder(folder: str) -> None:
    for remove, name in ((os.unlink, os.path.join(folder, "s")), (os.rmdir, folder)):
        with contextlib.suppress(OSError):
            remove(name)


def _clean(directory: Path) -> None:
    """Remove what killed processes left half made. The caller holds the node lock."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(_NEW_FOLDER):
                _remove_folder(entry.path)
            elif entry.name.startswith(_NEW_FILE):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _fits(folder: str | Path) -> bool:
    return len(os.fsencode(os.path.join(folder, f"{_NEW_FOLDER}12345678", "s"))) <= MAX_SOCKET_PATH


def _place_of_user() -> str | None:
    """A folder of this user alone in the temporary directory; None where it cannot be made, or its name is taken."""
    path = os.path.join(tempfile.gettempdir(), f"kachery-{os.geteuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return None
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(path, 0o700)
    except OSError:
        return None
    return path


def no_room(error: OSError) -> bool:
    """Whether the disk, or the quota, is full."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
