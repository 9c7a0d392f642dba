"""Making files whole without asking anybody: all that they are made of is here already.

A file that was read to its end in pieces, or of which the load ended before its last step, has all of its bytes in the
partial file. And where our own copy was deleted by hand or is damaged, a linked file may have them. Either way each
leaf is hashed, and the file gets its place as at the end of every load (download.py).
"""

from __future__ import annotations

import os
from itertools import islice

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.nodes import read_node
from kachery_p2p.dag.walk import Ref
from kachery_p2p.errors import KacheryError, MalformedDag, UnsupportedCID
from kachery_p2p.repo.catalog import OK
from kachery_p2p.repo.checking import Checker
from kachery_p2p.repo.download import Download
from kachery_p2p.repo.fileio import BINARY, CLOEXEC
from kachery_p2p.repo.leaves import MissingNode, walk_leaves
from kachery_p2p.repo.limits import HAS_BATCH, TRIED_PARTIALS
from kachery_p2p.repo.placing import Placer
from kachery_p2p.repo.serving import unchanged

#: Hole finding is a hint that not all systems have.
_SEEK_HOLE = getattr(os, "SEEK_HOLE", None)


class Completer:
    """Finds out what can be made whole, and does it. Part of `Repo`."""

    def __init__(self, placer: Placer, checker: Checker) -> None:
        self._placer = placer
        self._checker = checker
        self._layout = placer.layout
        self._reader = placer.reader
        #: Partial files that seemed to be full and were not, with the size and time that they had.
        self._in_vain: dict[bytes, tuple[int, int]] = {}

    def seems_full(self, cid: CID) -> bool:
        """Whether there is a partial file without holes, as long as the whole one. One look at it, which reads nothing.

        One that this process has found to lack something, and that has not changed since, is not full.
        """
        try:
            fd = os.open(self._layout.partial_for(cid), os.O_RDONLY | CLOEXEC | BINARY)
        except (OSError, UnsupportedCID):
            return False
        try:
            status = os.fstat(fd)
            if self._in_vain.get(bytes(cid)) == (status.st_size, status.st_mtime_ns):
                return False
            return status.st_size > 0 and status.st_size == self._stated_size(cid, status) and not _has_hole(fd, status)
        except (OSError, KacheryError):
            return False
        finally:
            os.close(fd)

    def finish(self, download: Download) -> bool:
        """Make a file whole of which the partial one seems to be full; false where it is not."""
        if self._make_whole(download, os.stat(download.path).st_size):
            return True
        status = os.stat(download.path)
        if len(self._in_vain) >= TRIED_PARTIALS:
            self._in_vain.clear()
        self._in_vain[bytes(download.cid)] = status.st_size, status.st_mtime_ns
        return False

    def is_right(self, cid: CID) -> bool:
        """Whether our own copy is here, as the catalog has it; or the file is packed, and its bytes are right."""
        return self._placer.own_copy(cid) is not None or self._checker.packed(cid) is not None

    def had_copy(self, cid: CID) -> bool:
        """Whether there was ever a copy of our own, right or not."""
        own = any(not row.linked for row in self._checker.rows(cid)) or self._reader.packs.file(cid) is not None
        return own or os.path.lexists(self._layout.path_for(cid))

    def linked_size(self, cid: CID) -> int | None:
        """The bytes of a linked file that is as it was; None where there is none."""
        for row in self._checker.rows(cid):
            if row.linked and row.state == OK:
                try:
                    status = os.stat(self._reader.absolute(row.path, row.linked))
                except OSError:
                    continue
                if unchanged(status, *row[2:7]):
                    return row.size
        return None

    def copy_linked(self, download: Download, size: int) -> bool:
        """Make our own copy from a linked file of so many bytes; false where that changes meanwhile."""
        return self._make_whole(download, size)

    def _make_whole(self, download: Download, size: int) -> bool:
        if download.complete is not None:
            return True
        try:
            download.allocate(size)
            leaves = walk_leaves(download.cid, size, self._reader.node)
            while batch := list(islice(leaves, HAS_BATCH)):
                for leaf in batch:
                    if leaf.inline is not None:
                        download.write(leaf.offset, leaf.inline)
                refs = [Ref(leaf.cid, leaf.offset, leaf.length, 0) for leaf in batch if leaf.inline is None]
                if not all(download.has(refs)):
                    return False
        except (MissingNode, MalformedDag):
            return False
        download.finish(size)
        return True

    def _stated_size(self, cid: CID, status: os.stat_result) -> int | None:
        """How long a file is, as its root says; one that is a single block is as long as what is here of it."""
        block = self._reader.node(cid.multihash) if cid.codec == DAG_PB else None
        if block is None:
            return status.st_size if status.st_size <= MAX_BLOCK_SIZE else None
        unixfs = read_node(cid, block)[1]
        return None if unixfs is None else unixfs.filesize


def _has_hole(fd: int, status: os.stat_result) -> bool:
    """Whether the file system knows of bytes that were never written."""
    if _SEEK_HOLE is None:
        return getattr(status, "st_blocks", 1 << 40) * 512 < status.st_size
    return os.lseek(fd, 0, _SEEK_HOLE) < status.st_size
