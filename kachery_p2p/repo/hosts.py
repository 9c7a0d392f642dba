"""Several machines, or several users, and one data directory.

A home directory may be on a network file system and so belong to several machines. Process numbers and sockets mean
nothing on another one, and SQLite's shared memory does not reach there: a catalog that two machines use at once is
lost. So on such a file system a directory is one machine's at a time. Its processes share the lock of `host.lock`, in
which the machine's name stands; another machine may put its own name there when nobody has that lock any more.
"""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from kachery_p2p import private
from kachery_p2p.errors import RepoError
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import open_own_file
from kachery_p2p.repo import filelocks

HOST_LOCK_NAME = "host.lock"
#: Bytes of a file that names a machine.
MAX_NAMED = 4096
#: Tries, with pauses of up to `_PAUSE` seconds, to tell a machine that uses a directory from another process that looks
#: at the same moment.
_TRIES, _PAUSE = 12, 0.1

#: File systems that several machines may have mounted at once, by their names in /proc/self/mountinfo.
_NETWORK = (
    " 9p afs beegfs ceph cifs coda fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs gfs2 glusterfs gpfs lustre"
    " nfs nfs4 ocfs2 orangefs panfs pvfs2 smb2 smb3 smbfs virtiofs vboxsf wekafs "
)
_MOUNTS = "/proc/self/mountinfo"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MACHINE_ID = "/etc/machine-id"


class MachineIdentity(NamedTuple):
    """What tells a machine from others, and one of its starts from the others.

    Attributes:
        name: of the machine.
        boot: which of its starts this is; empty where the system does not tell.
        machine: the number it was given when it was installed; empty where the system does not tell.
    """

    name: str
    boot: str = ""
    machine: str = ""

    def is_same(self, other: MachineIdentity) -> bool:
        """Whether both are one machine, restarted or not. Containers of one machine are that machine."""
        if self.boot and self.boot == other.boot:
            return True
        # Machines that were copied from one image have the same number, so the name must be the same, too.
        numbered = not (self.machine and other.machine) or self.machine == other.machine
        return self.name == other.name and numbered


@lru_cache(maxsize=1)
def this_host() -> MachineIdentity:
    """The machine that this process runs on."""
    return MachineIdentity(socket.gethostname() or "unnamed", _line(_BOOT_ID), _line(_MACHINE_ID))


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(128).strip()
    except (OSError, UnicodeDecodeError):
        return ""


# --- who has a file --------------------------------------------------------------------------------------------------


class Holder(NamedTuple):
    """Who has a lock, as is written in its file: the process, its machine, and since when (seconds since 1970)."""

    pid: int
    host: MachineIdentity
    since: float

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is on another machine."""
        return not this_host().is_same(self.host)

    @property
    def in_words(self) -> str:
        """Its machine, since when, and its process there."""
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"{self.host.name}, since {since} (process {self.pid} there)"


def write_holder(fd: int) -> None:
    """Write into an open file that this process has it.

    What was there is written over, and then cut: where there was something, this needs no more room on the disk.

    Raises:
        OSError: the system does not allow it.
    """
    here = this_host()
    fields = {"pid": os.getpid(), **here._asdict(), "since": round(time.time(), 3)}
    line = json.dumps(fields).encode() + b"\n"
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, line)
    os.ftruncate(fd, len(line))


def read_holder(fd: int) -> Holder | None:
    """Who has an open file; None where it does not say."""
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        fields = read_json(os.read(fd, MAX_NAMED))
    except (OSError, InvalidJSON):
        return None
    if not isinstance(fields, dict):
        return None
    pid, since = fields.get("pid"), fields.get("since")
    names: list[Any] = [fields.get(key) for key in MachineIdentity._fields]
    if type(pid) is not int or not isinstance(since, float) or not all(isinstance(name, str) for name in names):
        return None
    return Holder(pid, MachineIdentity(*names), since)


# --- one machine at a time -------------------------------------------------------------------------------------------

#: Open files with the shared lock, by directory. A forked child has a share in them, as it should.
_claims: dict[str, int] = {}


def claim(directory: Path) -> None:
    """Say that this machine uses a data directory; needed on network file systems alone, and free of cost elsewhere.

    The claim ends with the process, and with its forked children.

    Raises:
        RepoError: another machine uses it, or the file system has no locks by which that could be known.
        DiskFull: it cannot be written down.
    """
    key = str(directory)
    if key in _claims or os.name != "posix":
        return
    kind = network_file_system(directory)
    if kind is None:
        return
    path = directory / HOST_LOCK_NAME
    with explained("locking", path):
        try:
            fd = open_own_file(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return  # whoever cannot write here cannot do harm
            raise
        try:
            private.open_to_group(fd, directory, private.SHARED_FILE)
            _share(fd, directory, kind)
        except BaseException:
            os.close(fd)
            raise
    # Of two threads that do this at once, one keeps its own: no lock, which a fork could copy while it is held.
    if _claims.setdefault(key, fd) != fd:
        os.close(fd)


def _share(fd: int, directory: Path, kind: str) -> None:
    # Named through the module: on Windows, which never comes here, it has no shared locks.
    holder = None
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(random.uniform(_PAUSE / 4, _PAUSE))  # apart from others that try at the same moment
        if not filelocks.share_fd(fd):
            continue  # another process has it for the moment of writing its machine's name
        holder = read_holder(fd)
        if holder is not None and not holder.is_elsewhere:
            return
        if holder is not None and locks_are_local(directory):
            raise RepoError(
                f"The data directory {directory} was used last on {holder.in_words}, and its file system ({kind}) has "
                "locks that do not reach other machines, so nothing tells whether it still is. Choose a directory on a "
                f"disk of this machine with KACHERY_CLOUD_DIR; or, if {holder.host.name} no longer uses it, remove "
                f"{directory / HOST_LOCK_NAME}."
            )
        if filelocks.take_fd(fd):
            holder = read_holder(fd)
            if holder is None or holder.is_elsewhere:
                write_holder(fd)
                os.fsync(fd)
        # Looked at again: between the two kinds of lock another machine may have come first.
    who = holder.in_words if holder is not None else "another machine"
    raise RepoError(
        f"The data directory {directory} is in use on {who}. It is on a network file system ({kind}), where only one "
        "machine at a time can use it. End what uses it there, or choose a directory on a disk of this machine with "
        "KACHERY_CLOUD_DIR."
    )


# --- file systems ----------------------------------------------------------------------------------------------------


def network_file_system(directory: Path) -> str | None:
    """The name of the file system, where it is one that several machines may have mounted; else None.

    Known on Linux alone: elsewhere every directory is taken to be on a disk of this machine.
    """
    mount = _mount_of(directory)
    return mount[0] if mount is not None and f" {mount[0]} " in _NETWORK else None


def locks_are_local(directory: Path) -> bool:
    """Whether locks on a network file system are kept from other machines (NFS mounted with `nolock`)."""
    mount = _mount_of(directory)
    options = mount[1].split(",") if mount is not None else []
    return any(option in options for option in ("nolock", "local_lock=all", "local_lock=flock"))


def _mount_of(directory: Path) -> tuple[str, str] | None:
    """The name of a directory's file system, and the options it is mounted with."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        device = os.stat(directory).st_dev
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
            wanted = f"{os.major(device)}:{os.minor(device)}"
            for line in lines:
                fields = line.split()
                # "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
                if len(fields) > 9 and fields[2] == wanted and "-" in fields[6:-3]:
                    at = fields.index("-", 6)
                    return fields[at + 1], f"{fields[5]},{fields[-1]}"
    except OSError:
        pass
    return None
