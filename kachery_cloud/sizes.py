"""What the entries of a folder are and how large their contents are, as far as that is known here.

A folder states of each entry the bytes of all its blocks (`Tsize`). That is a hint by whoever made it, and more than
the contents: blocks of folders and of large files have bytes of their own. How large a file is says its first block;
a folder is as large as all files in and below it. Nothing is fetched to find that out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kachery_cloud.errors import DamagedFile, KacheryError
from kachery_cloud.local import BlockNotLocal, list_local, local_size

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

#: Entries below a folder that are looked at to say how large it is: about a second's work. What is larger is told by
#: what its first block states.
MOST_ENTRIES = 200_000
#: Nodes in memory at once: those of large files have up to some 50 KB each.
_AT_ONCE = 256


class Contents(NamedTuple):
    """What something is.

    Attributes:
        kind: "file", "directory" or "link"; None where that cannot be told by what is here.
        size: bytes of a file, or of all files in and below a folder, each as often as it is there; 0 for a link. None
            where that cannot be told by what is here, or not in a moment.
        destination: what a link points to.
    """

    kind: str | None
    size: int | None = None
    destination: str | None = None


_UNKNOWN = Contents(None)
_FOLDER = Contents("directory")


class Sizes:
    """Looks at what is here. What was looked at once is not looked at again.

    Args:
        repo: where it looks.
        most: entries of folders below those that are asked for that are looked at, in all.
    """

    def __init__(self, repo: Repo, most: int = MOST_ENTRIES) -> None:
        self._repo = repo
        self._left = most
        #: Of folders; None where it could not be told.
        self._folders: dict[CID, int | None] = {}

    def of(self, entries: Sequence[tuple[CID, int | None]]) -> list[Contents]:
        """What these are, in their order.

        Args:
            entries: each with what its folder states of it.
        """
        return [
            each._replace(size=self.folder(cid)) if each.kind == "directory" else each
            for (cid, _), each in zip(entries, self._look(entries), strict=True)
        ]

    def folder(self, root: CID) -> int | None:
        """Bytes of all files in and below a folder; None where not all that says it is here, or where it has too many.

        Of a file of one block it is enough that its folder states it.
        """
        below: dict[CID, list[tuple[CID, Contents]] | None] = {}
        waiting = [root]
        # Each folder twice: first to put those in it on top, then to add them up. So depth costs no stack.
        while waiting:
            at = waiting[-1]
            if at in self._folders:
                waiting.pop()
                continue
            if at not in below:
                below[at] = found = self._entries(at)
                waiting += dict.fromkeys(cid for cid, each in found or () if each == _FOLDER)
                continue
            waiting.pop()
            self._folders[at] = self._sum(below.pop(at))
        return self._folders[root]

    def _sum(self, entries: list[tuple[CID, Contents]] | None) -> int | None:
        from kachery_p2p.dag.tree import UNCOUNTABLE

        if entries is None:
            return None
        size = 0
        for cid, each in entries:
            more = self._folders.get(cid) if each == _FOLDER else each.size
            if more is None:
                return None
            size = min(size + more, UNCOUNTABLE)
        return size

    def _entries(self, folder: CID) -> list[tuple[CID, Contents]] | None:
        """What is in a folder, without the sizes of the folders in it."""
        if self._left <= 0:
            return None
        try:
            entries = [(entry.cid, entry.tsize) for entry in list_local(self._repo, folder)]
        except (BlockNotLocal, KacheryError):  # not here, damaged, or no folder after all
            return None
        self._left -= len(entries)
        if self._left < 0:
            return None
        return list(zip((cid for cid, _ in entries), self._look(entries), strict=True))

    def _look(self, entries: Sequence[tuple[CID, int | None]]) -> list[Contents]:
        from kachery_p2p.dag.cid import DAG_PB, RAW

        found: list[Contents] = []
        for start in range(0, len(entries), _AT_ONCE):
            batch = entries[start : start + _AT_ONCE]
            nodes = self._repo.get_nodes([cid.multihash for cid, _ in batch if cid.codec == DAG_PB])
            lengths = self._repo.block_sizes([cid.multihash for cid, _ in batch if cid.codec == RAW])
            for cid, stated in batch:
                if cid.codec == RAW:
                    found.append(Contents("file", lengths.get(cid.multihash, stated)))
                elif cid.codec != DAG_PB:
                    found.append(Contents("file"))
                else:
                    found.append(self._node(cid, nodes.get(cid.multihash)))
        return found

    def _node(self, cid: CID, block: bytes | None) -> Contents:
        from kachery_p2p.dag.filenode import FileNode
        from kachery_p2p.dag.nodes import node_kind, symlink_target
        from kachery_p2p.dag.unixfs import DataType

        if block is None:  # a file of one block, which lies in the file itself; or nothing
            try:
                size = local_size(self._repo, cid)
            except DamagedFile:
                return Contents("file")
            if size is None:
                return _UNKNOWN if self._repo.has_block(cid.multihash) is None else Contents("file")
            return Contents("file", size)
        try:
            kind = node_kind(block, cid)
        except KacheryError:
            return _UNKNOWN
        if kind in (DataType.DIRECTORY, DataType.HAMT_SHARD):
            return _FOLDER
        try:
            if kind is DataType.SYMLINK:
                return Contents("link", 0, symlink_target(block, cid))
            return Contents("file", FileNode(cid, block).size)
        except KacheryError:
            return Contents("link" if kind is DataType.SYMLINK else "file")
