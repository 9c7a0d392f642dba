"""Who may read and write what is made in a data directory. Whatever makes something there asks here for its mode.

A data directory is made 0700, and its secrets (databases, keys, settings with tokens, the control socket) are 0600
whatever the umask says. Others may read in it only where its owner has opened the top folder to them; even then only
the stored files and the catalog that describes them, and no more than the umask of whoever stored them allows.

A *shared* directory is one whose top folder its group may write to (`chmod 2770`). In it folders
are made 2770, and files that change (databases, settings, partial files) 0660, whoever makes them and whatever the
umask is. Files that never change again, the stored ones and those in `nodes/` and `links/`, are nobody's to write to:
0444 less the umask, but at least 0440. The private key stays its owner's.
New things belong to the group of the folder that they are in. What root makes belongs to the owner of that folder, so
that a command run as root does not lock the owner out.

The umask is that of the whole process, so it is never changed: modes are set on what was made, before anything is in
it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

_POSIX = os.name == "posix"
_FLAGS = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

PRIVATE_FILE = 0o600
SHARED_FILE = 0o660
SHARED_FOLDER = 0o2770


_KEY_FILES = ("private.pem", "public.pem", "ownership.json", "labs.json")
_SECRETS = (
    "access.sqlite",
    "config.json",
    "gateway-token",
    "node.json",
    "node.lock",
    "node.toml",
    "outbox.sqlite",
    "routing.sqlite",
    "scrub.json",
    "tokens.json",
)


def is_shared(folder: Path | str) -> bool:
    """Whether the group of a folder may write to it. False where the folder is missing.

    Raises:
        OSError: the system does not tell.
    """
    if not _POSIX:
        return False
    try:
        return bool(os.stat(folder).st_mode & stat.S_IWGRP)
    except FileNotFoundError:
        return False


def is_ours(path: Path | str) -> bool:
    """Whether a file or folder belongs to the user of this process.

    Raises:
        OSError: it is missing, or the system does not tell.
    """
    return not _POSIX or os.stat(path).st_uid == os.geteuid()


def can_write(folder: Path | str) -> bool:
    """Whether this process may make files in a folder that is there: not on a disk mounted read-only, for one."""
    effective = os.access in os.supports_effective_ids
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def make_directory(directory: Path) -> None:
    """Make a data directory, mode 0700, and the folders above it. One that is there stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_folder(path: Path | str) -> None:
    """Make a folder in a data directory.

    Raises:
        FileExistsError: it is there already.
        FileNotFoundError: the folder that it is to be in is missing.
        OSError: it cannot be made for another reason.
    """
    parent = os.path.dirname(path)
    around = os.stat(parent)
    if not _POSIX or not around.st_mode & stat.S_IWGRP:
        os.mkdir(path)
        if _POSIX and os.geteuid() == 0 and around.st_uid != 0:
            os.chown(path, around.st_uid, around.st_gid)
        return
    if os.path.isdir(path):
        raise FileExistsError(path)
    # Under another name until its mode is right: another member may need it at the same instant.
    temporary = os.path.join(parent, f".{secrets.token_hex(8)}")
    os.mkdir(temporary, 0o700)
    try:
        _give(temporary, around)
        os.chmod(temporary, SHARED_FOLDER | stat.S_IMODE(around.st_mode) & 0o005)
        os.rename(temporary, path)
    except OSError:
        os.rmdir(temporary)
        if not os.path.isdir(path):
            raise


def make_file(path: Path | str) -> int:
    """A new file of a data directory, empty, open for reading and writing; its descriptor.

    Mode 0600; 0660 where the folder is shared.

    Raises:
        FileExistsError: it is there already.
        OSError: it cannot be made for another reason.
    """
    fd = os.open(path, _FLAGS, PRIVATE_FILE)
    try:
        open_to_group(fd, os.path.dirname(path), SHARED_FILE)
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise
    return fd


def open_to_group(target: int | str, folder: Path | str, mode: int) -> None:
    """Give a new file in a shared folder the group of the folder and at least `mode`.

    One that cannot be given to that group is not opened to another.

    Args:
        target: the file, as its descriptor or path.
        folder: the folder that it is in.
        mode: what its owner and the group may do at least.

    Raises:
        OSError: the system does not allow it.
    """
    if not _POSIX:
        return
    around = os.stat(folder)
    _give(target, around)
    if around.st_mode & stat.S_IWGRP:
        status = os.stat(target)
        now = stat.S_IMODE(status.st_mode)
        if now & mode != mode and status.st_gid == around.st_gid:
            os.chmod(target, now | mode)


def give_to_owner(fd: int, folder: Path) -> None:
    """Give what root makes to the owner of the folder.

    Raises:
        OSError: the system fails. Where it only does not allow it, the file stays root's.
    """
    if _POSIX and os.geteuid() == 0:
        around = os.stat(folder)
        if around.st_uid != 0:
            with contextlib.suppress(PermissionError):
                os.chown(fd, around.st_uid, around.st_gid)


def make_empty(path: Path, *, readable: bool = False) -> None:
    """Make an empty file of a data directory, and the directory, where they are missing.

    It is for a lock, or for an SQLite database, whose `-wal` and `-shm` then get the same mode.

    Args:
        path: of the file.
        readable: also those may read it who may read in its folder, as far as the umask allows.

    Raises:
        OSError: it cannot be made.
    """
    if os.path.lexists(path):
        return
    make_directory(path.parent)
    # Under another name until its mode is right, so that nobody finds it closed. Nor may an SQLite file ever be opened
    # and closed beside SQLite: that would drop the locks that SQLite holds on it.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    around = os.stat(path.parent).st_mode
    fd = os.open(temporary, _FLAGS, PRIVATE_FILE | (around & 0o044 if readable else 0))
    try:
        try:
            open_to_group(fd, path.parent, SHARED_FILE)
        finally:
            os.close(fd)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:
            # No hard links here (FAT, some network drives), and so hardly any modes either.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, _FLAGS, stat.S_IMODE(os.stat(temporary).st_mode)))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def fit(path: Path, *, readable: bool = False) -> None:
    """Bring a file of ours that was made before to the mode that it would be made with.

    That is narrower, or in a directory that has become a shared one, wider. Another user's file stays as it is, and a
    missing one is not made.
    """
    if not _POSIX:
        return
    with contextlib.suppress(FileNotFoundError, PermissionError):
        status = os.stat(path)
        around = os.stat(path.parent)
        if os.geteuid() not in (0, status.st_uid):
            return
        now = stat.S_IMODE(status.st_mode)
        shared = around.st_mode & stat.S_IWGRP
        allowed = (SHARED_FILE if shared else PRIVATE_FILE) | (around.st_mode & 0o044 if readable else 0)
        wanted = now & allowed | (SHARED_FILE if shared else 0)
        if shared and status.st_gid != around.st_gid:
            os.chown(path, -1, around.st_gid)
        if wanted != now:
            os.chmod(path, wanted)


def make_private(path: Path) -> None:
    """Take a file of ours away from everybody else, also in a shared directory.

    Raises:
        OSError: the system does not allow it, or the file is missing.
    """
    if _POSIX:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            os.chmod(path, mode & PRIVATE_FILE | PRIVATE_FILE)


def too_open(directory: Path) -> list[str]:
    """What other users of this machine may do with a data directory that they perhaps should not, a sentence each."""
    if not _POSIX:
        return []
    found = []
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(os.stat(directory).st_mode)
        if mode & 0o002:
            found.append(
                f"Every user of this machine may change what is in {directory}. To end that: chmod o-w {directory}"
            )
        elif mode & 0o005:
            found.append(
                f"Every user of this machine may read what is stored in {directory}. Where that is not meant: "
                f"chmod o-rx {directory}"
            )
        keys = [directory / name for name in _KEY_FILES] + sorted(directory.glob("ipns/*/private.pem"))
        groups = sorted(directory.glob("groups/*.json"))
        for path in (*keys, *groups, *(directory / name for name in _SECRETS)):
            with contextlib.suppress(FileNotFoundError):
                shared = 0 if path in keys or path in groups else mode & stat.S_IWGRP
                if stat.S_IMODE(os.stat(path).st_mode) & 0o077 & ~(SHARED_FILE if shared else PRIVATE_FILE):
                    found.append(f"Others may read {path}. To end that, as its owner: chmod 600 {path}")
    return found


def open_tree_to_group(top: Path) -> None:
    """Let the group of a directory that has become a shared one write to `top` and our folders below it.

    `top` itself comes last: where it is open, all below is.

    Raises:
        OSError: the system does not allow it.
    """
    if not _POSIX:
        return
    around = os.stat(top.parent)
    if not around.st_mode & stat.S_IWGRP or os.stat(top).st_mode & stat.S_IWGRP or not is_ours(top):
        return
    for folder, _, _ in os.walk(top, topdown=False):
        if is_ours(folder):
            os.chown(folder, -1, around.st_gid)
            os.chmod(folder, SHARED_FOLDER | stat.S_IMODE(around.st_mode) & 0o005)


def _give(target: int | str, around: os.stat_result) -> None:
    """Let a new file or folder belong to the group of the folder around it; root's to the owner of that, too."""
    now = os.stat(target)
    owner = around.st_uid if os.geteuid() == 0 and around.st_uid != 0 else -1
    group = around.st_gid if owner >= 0 or around.st_mode & stat.S_IWGRP else -1
    if (owner >= 0 and owner != now.st_uid) or (group >= 0 and group != now.st_gid):
        # Refused to those who are not of the group, and by file systems without owners: then it is as it was made.
        with contextlib.suppress(PermissionError):
            os.chown(target, owner, group)
