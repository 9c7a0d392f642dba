"""What the operating system says when it fails, as the named error that a user gets."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from kachery_p2p.errors import DiskFull, FileMissing, KacheryError, NoPermission, RepoError

NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_TOO_MANY = {errno.EMFILE, errno.ENFILE}


def explain(error: OSError, doing: str, path: object) -> KacheryError:
    """The named error for what the operating system said while `doing` (such as "writing") something to `path`."""
    if isinstance(error, KacheryError):
        return error
    named = _named(error, doing, path)
    if isinstance(named, OSError) and error.errno is not None:
        named.errno, named.strerror = error.errno, error.strerror or os.strerror(error.errno)
    return named


def _named(error: OSError, doing: str, path: object) -> KacheryError:
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return DiskFull(
            f"There is no room on the disk (or in the quota) for {doing} {path}. Free some space, or use a data "
            "directory on a larger disk, and try again; nothing that was stored is harmed."
        )
    if error.errno == errno.ENOLCK:
        return RepoError(
            f"The file system of {path} has no file locks ({reason}), and without them two processes could harm a data "
            "directory. Choose one on a disk of this machine with KACHERY_CLOUD_DIR, or have this file system mounted "
            "with locks (NFS: without `nolock`, and with its lock service running)."
        )
    if error.errno == errno.EFBIG:
        return DiskFull(
            f"The file system, or a limit of this process, does not take a file this large: {doing} {path} failed. "
            "Use a data directory on another disk, or raise the limit (`ulimit -f`)."
        )
    if error.errno in _NOT_ALLOWED:
        return NoPermission(
            f"The system does not allow {doing} {path} ({reason}). Check who owns it and its permissions, or use "
            "another data directory."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return FileMissing(f"There is no {path}: {doing} it failed ({reason}).")
    if error.errno in _TOO_MANY:
        return RepoError(
            f"This process has too many files open, so {doing} {path} failed. Raise the limit (`ulimit -n`)."
        )
    return RepoError(f"The operating system failed at {doing} {path}: {reason}.")


@contextmanager
def explained(doing: str, path: object) -> Iterator[None]:
    """Turn every OSError of the block into its named error. Errors that have names already pass."""
    try:
        yield
    except KacheryError:
        raise
    except OSError as error:
        raise explain(error, doing, path) from error
