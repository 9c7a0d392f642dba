"""The locks of open files, as the system has them; it drops them by itself when their holder dies."""

from __future__ import annotations

import errno
import os
import sys

#: What systems say where a file system, or the server behind it, has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}

if sys.platform == "win32":
    import msvcrt

    # Locked bytes cannot be read by others on Windows, so the lock sits far beyond any content.
    _LOCK_AT = 1 << 40

    def lock_fd(fd: int) -> bool:
        """Take the exclusive lock of an open file without waiting; false when somebody else has it."""
        os.lseek(fd, _LOCK_AT, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock_fd(fd: int) -> None:
        """Give the lock of an open file back."""
        os.lseek(fd, _LOCK_AT, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def lock_fd(fd: int) -> bool:
        """Take the exclusive lock of an open file without waiting; false when somebody else has it."""
        return _flock(fd, fcntl.LOCK_EX)

    def unlock_fd(fd: int) -> None:
        """Give the lock of an open file back, for every process that inherited the descriptor."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def share_fd(fd: int) -> bool:
        """Take a share in the lock of an open file without waiting; false when somebody has it exclusively."""
        return _flock(fd, fcntl.LOCK_SH)

    def take_fd(fd: int) -> bool:
        """Make a share in a lock the whole of it, without waiting.

        Returns:
            False when others have a share. Then ours may be gone.
        """
        return _flock(fd, fcntl.LOCK_EX)

    def _flock(fd: int, how: int) -> bool:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NO_LOCKS:  # one number for all of them; `oserrors.explain` knows it
                raise OSError(errno.ENOLCK, error.strerror) from error
            raise
        return True
