"""The data directory: rights, room, its file system, the key."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.doctor.findings import NOTHING, Finding, Report, found
from kachery_cloud.node.endpoint import SOCKET_NAME
from kachery_p2p import private
from kachery_p2p.errors import KacheryError
from kachery_p2p.ownfiles import describe
from kachery_p2p.repo.access_records import ACCESS_NAME
from kachery_p2p.repo.hosts import HOST_LOCK_NAME, locks_are_local, network_file_system
from kachery_p2p.repo.keys import PRIVATE_NAME, check_identity
from kachery_p2p.repo.labels import LABELS_NAME
from kachery_p2p.repo.layout import moving_to
from kachery_p2p.repo.locks import NODE_LOCK_NAME
from kachery_p2p.repo.removal_lock import REMOVAL_LOCK_NAME
from kachery_p2p.units import GIB, MIB

if TYPE_CHECKING:
    from kachery_cloud.doctor.facts import Facts

#: Bytes that must be free for a node to work at all, and those below which it soon will not.
FULL, NEARLY = 64 * MIB, GIB
#: Files that a file system must have room for; each stored file and each folder takes one.
_FEW_INODES, _SOME_INODES = 100, 10_000
#: Names in a data directory that are those of files.
_FILES = {NODE_LOCK_NAME, REMOVAL_LOCK_NAME, HOST_LOCK_NAME, LABELS_NAME, ACCESS_NAME}


def check_directory(facts: Facts) -> Report:
    """Whether the data directory is there, and can be read and written."""
    directory = facts.directory
    if os.path.lexists(directory) and not directory.is_dir():
        return found(
            [
                Finding(
                    f"{directory} is not a folder.",
                    "The data directory is one: nothing can be kept there.",
                    "Name another place in KACHERY_CLOUD_DIR, or move what is there away.",
                )
            ]
        )
    target = None if directory.exists() else moving_to(directory)
    if target is not None:
        return found(
            [
                Finding(
                    f"The data directory {directory} was being moved to {target}, and that was interrupted.",
                    "Nothing is lost, but no command works before it is done.",
                    f"Finish it with: kachery-cloud move {target}",
                )
            ]
        )
    if not directory.exists():
        return _missing(directory)
    findings = _rights(directory) or _kinds(directory)
    if not findings:
        findings = [
            Finding(
                text.partition(". ")[0] + ".", "They are no part of your lab.", text.partition(". ")[2] or text, False
            )
            for text in private.too_open(directory)
        ]
    return found(findings, f"{directory} can be read and written")


def _missing(directory: Path) -> Report:
    above = nearest(directory)
    if private.can_write(above):
        return Report(f"{directory} is made when it is needed")
    return found(
        [
            Finding(
                f"The data directory {directory} is not there, and may not be made in {above} by this user.",
                "Nothing can be stored or loaded.",
                f"Have somebody make it for you (mkdir -p {directory}; chown $USER {directory}), or name another place "
                "in KACHERY_CLOUD_DIR. If it is on a disk of its own, see whether that is mounted.",
            )
        ]
    )


def _rights(directory: Path) -> list[Finding]:
    who = _owner(directory)
    if not os.access(directory, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return [
            Finding(
                f"The data directory {directory}, which belongs to {who}, may not be read by this user.",
                "Nothing can be stored, loaded or served.",
                "Run the command as its owner, or name another directory in KACHERY_CLOUD_DIR.",
            )
        ]
    if not private.can_write(directory):
        mounted = hasattr(os, "statvfs") and os.statvfs(directory).f_flag & getattr(os, "ST_RDONLY", 1)
        return [
            Finding(
                f"The data directory {directory} can only be read"
                + (": its disk is mounted read-only." if mounted else f" by this user; it belongs to {who}."),
                "What is there can be used, but nothing can be stored or loaded into it, and no node can serve it.",
                "Mount the disk for writing (a disk that fails is mounted read-only by the system: see `dmesg`)."
                if mounted
                else f"Run the command as {who}, have it made a shared directory (chmod 2770), or name another one in "
                "KACHERY_CLOUD_DIR.",
            )
        ]
    for name in ("catalog.sqlite", "node.lock"):
        path = directory / name
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return [
                Finding(
                    f"{path}, which belongs to {_owner(path)}, may not be written by this user.",
                    "A command that was once run as another user (sudo) leaves such files. No node can start.",
                    f"Give it back to the owner of the directory: sudo chown -R {who}: {directory}",
                )
            ]
    return []


def _kinds(directory: Path) -> list[Finding]:
    """Names in the directory that something else has than a file. The databases have a check of their own."""
    findings: list[Finding] = []
    for path in sorted(directory.iterdir()):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # gone meanwhile
        strange = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and path.name != SOCKET_NAME
        if strange or (path.name in _FILES and stat.S_ISDIR(mode)):
            findings.append(
                Finding(
                    f"{path} is {describe(mode)}, not a file.",
                    "Commands that need the file of that name fail.",
                    "Move it away. A lock is made anew; a list comes back with: kachery-cloud repair",
                )
            )
    return findings


# --- room ------------------------------------------------------------------------------------------------------------


def check_disk(facts: Facts) -> Report:
    """Whether the disk has room."""
    if not hasattr(os, "statvfs"):
        return NOTHING
    where = nearest(facts.directory)
    status = os.statvfs(where)
    free, size = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    findings = judge_room(where, free, size) + judge_inodes(where, status.f_favail, status.f_files)
    return found(findings, f"{free / GIB:,.1f} GiB are free")


def judge_room(where: Path, free: int, size: int) -> list[Finding]:
    """What to say of so many free bytes of a disk of some size."""
    if free >= NEARLY or not size:
        return []
    full = free < FULL
    return [
        Finding(
            f"The disk of {where} is {'full' if full else 'nearly full'}: {free / MIB:,.0f} of {size / MIB:,.0f} "
            "MiB are free.",
            "Nothing more can be stored, loaded or pinned there, and a node may not be able to say where it is."
            if full
            else "Soon nothing more can be stored, loaded or pinned there.",
            "Free some: kachery-cloud du shows what takes it, kachery-cloud gc removes what was only loaded. Or move "
            "everything to a larger disk: kachery-cloud move /larger/disk/kachery",
            grave=full,
        )
    ]


def judge_inodes(where: Path, free: int, count: int) -> list[Finding]:
    """What to say of a file system that has room for so many more files, of so many in all (0: any number)."""
    if not count or free >= min(_SOME_INODES, count // 20 or 1):
        return []
    return [
        Finding(
            f"The file system of {where} has room for {free:,} more files only, however many bytes are free.",
            "Each file and each folder takes one of them (`df -i`).",
            "Remove small files that are not needed, or move the data directory to another file system: "
            "kachery-cloud move /larger/disk/kachery",
            grave=free < _FEW_INODES,
        )
    ]


# --- the file system -------------------------------------------------------------------------------------------------


def check_file_system(
    facts: Facts,
    kind_of: Callable[[Path], str | None] = network_file_system,
    local_locks: Callable[[Path], bool] = locks_are_local,
) -> Report:
    """Whether the data directory is on a disk of this machine alone."""
    where = nearest(facts.directory)
    kind = kind_of(where)
    if kind is None:
        return Report("it is on a disk of this machine")
    unsafe = local_locks(where)
    return found(
        [
            Finding(
                f"The data directory {facts.directory} is on a network file system ({kind})"
                + (", whose locks do not reach other machines." if unsafe else "."),
                "One machine at a time can use it there, and each small write waits for the network."
                + (" Two machines that use it at once can lose the catalog." if unsafe else ""),
                "Put it on a disk of this machine: kachery-cloud move /local/disk/kachery, or name one in "
                "KACHERY_CLOUD_DIR. Several machines may read one directory (KACHERY_CLOUD_SHARED_DIRS).",
                grave=unsafe,
            )
        ]
    )


# --- the key ---------------------------------------------------------------------------------------------------------


def check_key(facts: Facts) -> Report:
    """Whether the key of this machine can be used, and by nobody else."""
    directory = facts.directory
    path = directory / PRIVATE_NAME
    why = "Without it a node does not start, or is another peer: addresses and groups that name this one are lost."
    try:
        identity = check_identity(directory)
    except KacheryError as error:
        todo = "Put back a copy from a backup."
        if path.exists() and not os.access(path, os.R_OK):
            todo = (
                f"It belongs to {_owner(path)}. Run the node as that user, or give it to the owner of the directory: "
                f"sudo chown {_owner(directory)} {path}"
            )
        elif not os.path.lexists(path):
            todo = f"Put {path} back from a backup, or move public.pem away to begin with a new identity."
        else:
            todo += f" Without one, begin with a new identity: mv {path} {path}.damaged"
        return found([Finding(str(error), why, todo)])
    if identity is None:
        return Report(
            "" if directory.exists() and not private.is_ours(directory) else "a key is made when it is needed"
        )
    status = os.stat(path)
    mode = stat.S_IMODE(status.st_mode)
    findings: list[Finding] = []
    if os.name == "posix" and mode & 0o077:
        findings.append(
            Finding(
                f"Others may read the private key {path} (mode {mode:04o}).",
                "Whoever has it can be this machine: sign its names, and load what is for it.",
                f"chmod 600 {path}. If others had it, begin with a new one: move private.pem and public.pem away.",
            )
        )
    if os.name == "posix" and os.geteuid() not in (0, status.st_uid):
        findings.append(
            Finding(
                f"The private key {path} belongs to {_owner(path)}, not to the user that runs this.",
                why,
                f"Run the node as {_owner(path)}, or give it back: sudo chown {_owner(directory)} {path}",
            )
        )
    return found(findings, f"the key is that of {identity.peer_id}")


# --- parts -----------------------------------------------------------------------------------------------------------


def nearest(path: Path) -> Path:
    """A path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _owner(path: Path) -> str:
    """Whose a file is, by name where that is known."""
    try:
        return path.owner()
    except (KeyError, OSError, NotImplementedError):  # no such user, gone meanwhile, or a system that does not tell
        try:
            return f"user {os.stat(path).st_uid}"
        except OSError:
            return "somebody else"
