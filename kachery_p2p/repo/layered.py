"""One's own data directory, and those of others beneath it, looked up as if they were one.

What is whole in a layer is used where it lies. What is there only in part is taken from there when the rest is loaded
(`download.py`, `kachery_p2p.load`), and then is whole in one's own directory. Nothing is ever written to a layer.

The node gives others only what is in its own directory (`Repo.own`). Whoever removes something from a layer asks other
nodes whether they have a copy of it: one that spoke for the layer itself would vouch for the very copy that goes. And
who may read a layer is for its owner to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.errors import DamagedFile
from kachery_p2p.repo.contents import Contents
from kachery_p2p.repo.filenodes import FileNodes
from kachery_p2p.repo.layers import Layers
from kachery_p2p.repo.packs import PackedFile

T = TypeVar("T")
K = TypeVar("K")


class Layered:
    """Finds and reads what is in one's own directory or beneath it. Safe to use from many threads.

    Attributes:
        own: what is in one's own directory.
        layers: the directories beneath it.
        many: the same questions for many small files together.
        file_nodes: the nodes of files that were looked into lately. Those that may be of a layer are kept apart, so
            that the node does not give them to others.
    """

    def __init__(self, own: Contents, layers: Layers) -> None:
        self.own = own
        self.layers = layers
        self.many = ManyLayered(own, layers)
        self.file_nodes = FileNodes() if layers else own.file_nodes

    def find_file(self, cid: CID) -> Path | None:
        """The path of the whole file with that CID; None when it is not here. See `Contents.find_file`.

        Raises:
            DamagedFile: our own only file of that CID is changed, damaged or missing, and no layer has it.
        """
        return self._whole(lambda contents: contents.find_file(cid))

    def file_size(self, cid: CID) -> int | None:
        """The size in bytes of the whole file with that CID, or None when it is not here. Makes no path for it.

        Raises:
            DamagedFile: as for `find_file`.
        """
        return self._whole(lambda contents: contents.file_size(cid))

    def packed_file(self, cid: CID) -> bytes | None:
        """The bytes of a file that lies in a pack, where it is as good as its path; None for every other file."""
        return self._first(lambda contents: contents.packed_file(cid))

    def read_file(self, cid: CID, start: int, end: int) -> bytes | None:
        """Bytes of a file that is here as a whole. Never wrong bytes: None where it is not as it was when hashed."""
        return self._first(lambda contents: contents.read_file(cid, start, end))

    def file_part(self, cid: CID) -> bytes | FileNode | None:
        """A block of a file, or None where it is not here. An inner node that a catalog keeps comes decoded.

        Raises:
            MalformedDag: it is no block of a file.
        """
        part = self.own.file_part(cid)
        if part is not None or not self.layers:
            return part
        found = self.layers.first(lambda contents: contents.file_part(cid))
        return found if isinstance(found, FileNode) else self.layers.block(cid.multihash)

    def has_block(self, multihash: bytes) -> int | None:
        """The size in bytes of that block if it is here, else None. Does not look at the files."""
        return self._first(lambda contents: contents.has_block(multihash))

    def block_sizes(self, multihashes: Sequence[bytes]) -> dict[bytes, int]:
        """The sizes of those of the blocks that are here."""
        return all_of(self.own, self.layers, multihashes, lambda contents, left: contents.block_sizes(left))

    def get_block(self, multihash: bytes) -> bytes | None:
        """That block, or None. Never wrong bytes: a block of a file that is not as recorded is hashed again."""
        block = self.own.get_block(multihash)
        return self.layers.block(multihash) if block is None and self.layers else block

    def read_leaves(self, multihashes: Sequence[bytes], buffer: memoryview) -> list[memoryview | None]:
        """Those of the blocks that can be read into the buffer as they are, at once; `get_block` has the others."""
        return self.own.read_leaves(multihashes, buffer)

    def get_blocks(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the blocks that are here, looked up together: for the small ones of directories."""
        return self._blocks(multihashes, lambda contents, left: contents.get_blocks(left))

    def get_node(self, multihash: bytes) -> bytes | None:
        """An inner or directory node that a catalog keeps, or None; never a leaf that is part of a file."""
        node = self.own.get_node(multihash)
        if node is not None or not self.layers:
            return node
        return self.layers.blocks([multihash], lambda contents, left: contents.get_nodes(left)).get(multihash)

    def get_nodes(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the blocks that a catalog keeps, looked up together; never a leaf that is part of a file."""
        return self._blocks(multihashes, lambda contents, left: contents.get_nodes(left))

    def only_beneath(self, cid: CID) -> Path | None:
        """The layer that has a root of which nothing is in one's own directory; None where there is none such."""
        if not self.layers or not self.own.many.lacking([cid]):
            return None
        return self.layers.holder(cid)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _first(self, look: Callable[[Contents], T | None]) -> T | None:
        found = look(self.own)
        return self.layers.first(look) if found is None and self.layers else found

    def _whole(self, look: Callable[[Contents], T | None]) -> T | None:
        """A whole file. A damaged one of our own does not matter where a layer has it."""
        try:
            return self._first(look)
        except DamagedFile:
            found = self.layers.first(look)
            if found is None:
                raise
            return found

    def _blocks(
        self, multihashes: Sequence[bytes], look: Callable[[Contents, Sequence[bytes]], dict[bytes, bytes]]
    ) -> dict[bytes, bytes]:
        found = look(self.own, multihashes)
        if not self.layers:
            return found
        return {**found, **self.layers.blocks([each for each in multihashes if each not in found], look)}


class ManyLayered:
    """Answers for many small files together, of one's own directory and those beneath it; see `many.ManyFiles`."""

    def __init__(self, own: Contents, layers: Layers) -> None:
        self._own = own
        self._layers = layers

    def packed(self, cids: Sequence[CID]) -> dict[CID, PackedFile]:
        """Those of the files that lie in packs, as the catalogs say. They are not read."""
        return all_of(self._own, self._layers, cids, lambda contents, left: contents.many.packed(left))

    def lacking(self, cids: Sequence[CID]) -> set[CID]:
        """Those of the files of which nothing is here that `Repo.file_size` would find."""
        lacking = self._own.many.lacking(cids)
        for layer in self._layers:
            found = layer.look(lambda opened, left=lacking: opened.own.many.lacking(list(left)))
            lacking = lacking if found is None else found
        return lacking


def all_of(
    own: Contents, layers: Layers, keys: Sequence[K], look: Callable[[Contents, Sequence[K]], dict[K, T]]
) -> dict[K, T]:
    """What is found of many things: of each in the first that has it."""
    found = look(own, keys)
    for layer in layers:
        left = [key for key in keys if key not in found]
        if not left:
            break
        more = layer.look(lambda opened, left=left: look(opened.own, left))
        found = {**found, **(more or {})}
    return found
