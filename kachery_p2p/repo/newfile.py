"""Files under construction in `tmp/`, and what killed processes left there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kachery_p2p.oserrors import explained
from kachery_p2p.private import open_to_group
from kachery_p2p.repo.fileio import BINARY, CLOEXEC, READABLE, sync_folder
from kachery_p2p.repo.filelocks import lock_fd
from kachery_p2p.repo.layout import make_folders
from kachery_p2p.repo.locks import LockedFile


class NewFile:
    """A file under construction in `tmp/`, locked while this process lives so that nobody takes it for a left-over.

    Use as a context manager: unless `move_to` put it in its place, it is gone afterwards. The final mode is 0444 (what
    the umask leaves of it): a stored file is not to be edited.
    """

    def __init__(self, folder: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | CLOEXEC | BINARY
        with explained("making a file in", folder):
            while True:
                self.path = folder / secrets.token_hex(12)
                fd = os.open(self.path, flags, 0o444)
                # Between the two calls a cleaner may take it for a left-over; then nothing is at the path any more.
                if lock_fd(fd) and os.fstat(fd).st_nlink > 0:
                    break
                os.close(fd)
            self._file = LockedFile(fd)
            self._placed = False
            open_to_group(fd, folder, READABLE)

    @property
    def fd(self) -> int:
        return self._file.fd

    def move_to(self, path: Path, *, sync: bool = True) -> None:
        """Give it its final name, replacing what is there. Its folder is made where it is missing.

        Args:
            path: the final name.
            sync: whether the name is on the disk when this returns.
        """
        if os.name != "posix":
            self._file.close()
        try:
            os.replace(self.path, path)
        except FileNotFoundError:
            make_folders(path.parent)
            os.replace(self.path, path)
        self._placed = True
        if sync:
            sync_folder(path.parent)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *exc: object) -> None:
        # In a forked child the lock, and so the file, is its parent's.
        if not self._placed and self._file.fd >= 0:
            if os.name != "posix":
                self._file.close()
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass
        self._file.close()


def clean_left_overs(folder: Path) -> int:
    """Remove what killed processes left in `tmp/`; what a living process holds stays. Returns how many went."""
    if os.name != "posix":
        return 0
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                continue
            try:
                fd = os.open(entry.path, os.O_RDONLY | CLOEXEC)
            except OSError:
                continue
            try:
                if lock_fd(fd):
                    os.unlink(entry.path)
                    removed += 1
            except OSError:
                continue
            finally:
                os.close(fd)
    return removed
