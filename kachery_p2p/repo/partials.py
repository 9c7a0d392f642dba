"""The partial files of one data directory, seen from outside of a load: locked, and deleted where they are of no use.

A file of which parts were read, and which was then stored or linked, is here as a whole. What had come of it before
would lie here a second time: so it goes when the file has come, and where somebody was loading it then, with the next
`gc`.
Whoever has the partial file open reads on in what it has open, and finds the whole file with its next request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.errors import KacheryError, RepoBusy, UnsupportedCID
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import OK
from kachery_p2p.repo.checking import Checker
from kachery_p2p.repo.fileio import BINARY, CLOEXEC
from kachery_p2p.repo.filelocks import lock_fd
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.serving import unchanged

log = logging.getLogger("kachery_p2p.repo")


class Partials:
    """The partial files of one data directory. Safe to use from many threads and processes."""

    def __init__(self, placer: Placer, checker: Checker) -> None:
        self._layout = placer.layout
        self._reader = placer.reader
        self._checker = checker

    def all(self) -> list[CID]:
        """The files of which there is one."""
        found: list[CID] = []
        with suppress(FileNotFoundError):
            for name in os.listdir(self._layout.partial):
                with suppress(KacheryError):
                    found.append(CID.parse(name))
        return found

    def unneeded(self) -> Iterator[CID]:
        """Those of them that are here as a whole."""
        return (cid for cid in self.all() if self._is_whole(cid))

    def drop_unneeded(self) -> int:
        """Delete those, but for what is being loaded just now; the bytes that are free then.

        Raises:
            NoPermission, RepoError: the system does not allow it.
        """
        return sum(map(self._drop, self.unneeded()))

    def came_whole(self, cid: CID) -> None:
        """A file was stored or linked just now: what had come of it before goes.

        Whatever is in the way of that is in the way of no store: `gc` tries again.
        """
        # It may have been asked for in either version.
        forms = [cid.to_v1(), *([CID(0, DAG_PB, cid.multihash)] if cid.codec == DAG_PB else [])]
        self._drop_quietly([form for form in forms if self._is_there(form)])

    def folder_came(self) -> None:
        """The same of a folder, which may have any of them."""
        self._drop_quietly(self.all())

    def _drop_quietly(self, cids: Sequence[CID]) -> None:
        try:
            for cid in cids:
                if self._is_whole(cid):
                    self._drop(cid)
        except (KacheryError, OSError) as error:
            log.info("a partial file stays: %s", error)

    def _drop(self, cid: CID) -> int:
        """Delete one, unless somebody loads into it."""
        with suppress(RepoBusy), PartialLock(self._layout, cid) as path:
            if path is not None:
                freed = partial_bytes(path)
                with explained("removing", path):
                    path.unlink(missing_ok=True)
                return freed
        return 0

    def _is_there(self, cid: CID) -> bool:
        try:
            return os.path.lexists(self._layout.partial_for(cid))
        except UnsupportedCID:
            return False

    def _is_whole(self, cid: CID) -> bool:
        """Whether a file is here, as the catalog has it: our own copy, a linked or a packed one. It is not read."""
        for row in self._checker.rows(cid):
            if row.state == OK:
                with suppress(OSError):
                    if unchanged(os.stat(self._reader.absolute(row.path, row.linked)), *row[2:7]):
                        return True
        return self._checker.packed(cid) is not None


class PartialLock:
    """The lock of a partial file, if there is one, so that nobody loads into it while it goes.

    Raises:
        RepoBusy: on entering: somebody does.
    """

    def __init__(self, layout: Layout, cid: CID) -> None:
        self._path: Path | None = None
        with suppress(UnsupportedCID):
            self._path = layout.partial_for(cid)
        self._cid = cid
        self._fd = -1

    def __enter__(self) -> Path | None:
        if self._path is None:
            return None
        with explained("removing", self._path):
            try:
                self._fd = os.open(self._path, os.O_RDWR | CLOEXEC | BINARY)
            except FileNotFoundError:
                return None
            if not lock_fd(self._fd):
                self.__exit__()
                raise RepoBusy(
                    f"ipfs://{self._cid} is being loaded into this data directory just now, so it is not removed. End "
                    "that load, or wait until it is done."
                )
        return self._path

    def __exit__(self, *exc: object) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def partial_bytes(path: Path | str) -> int:
    """What a partial file takes on the disk, without its holes; 0 where it is gone.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    return min(status.st_size, getattr(status, "st_blocks", 1 << 40) * 512)
