"""What is in one data directory, looked up by CID and by multihash. This alone is what the node gives to others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.checking import Checker
from kachery_p2p.repo.filenodes import FileNodes
from kachery_p2p.repo.many import ManyFiles
from kachery_p2p.repo.serving import BlockReader
from kachery_p2p.repo.whole import WholeFiles


class Contents:
    """Finds and reads what is in one data directory. Safe to use from many threads.

    The methods are those of `kachery_p2p.repo.repo.Repo`, without what lies beneath it (`layered.py`).

    Attributes:
        many: the same questions for many small files together.
        file_nodes: the nodes of files that were looked into lately; shared by all that read from here in this process.
    """

    def __init__(self, catalog: Catalog, reader: BlockReader, checker: Checker, many: ManyFiles) -> None:
        self._catalog = catalog
        self._reader = reader
        self._checker = checker
        self._whole = WholeFiles(catalog, reader)
        self.many = many
        self.file_nodes = FileNodes()

    # --- files -------------------------------------------------------------------------------------------------------

    def find_file(self, cid: CID) -> Path | None:
        """The path of the whole file with that CID, our own copy or a linked one, or None when it is not here. Cheap.

        A file whose size, time or inode is not as recorded is hashed again first, and so is one at its place
        under `ipfs/` that the catalog does not know. One that lies in a pack is brought to its place first. In a
        directory that can only be read, it is copied to a folder of this user's among the temporary ones.

        Raises:
            DamagedFile: the only file of that CID is changed or damaged, or was linked and is missing; says what to do.
        """
        return self._checker.find(cid)

    def file_size(self, cid: CID) -> int | None:
        """The size in bytes of the whole file with that CID, or None when it is not here. Makes no path for it.

        Raises:
            DamagedFile: as for `find_file`.
        """
        return self._checker.size(cid)

    def packed_file(self, cid: CID) -> bytes | None:
        """The bytes of a file that lies in a pack, where it is as good as its path; None for every other file."""
        return self._checker.packed(cid)

    def read_file(self, cid: CID, start: int, end: int) -> bytes | None:
        """Bytes of a file that is here as a whole. Never wrong bytes: None where it is not as it was when hashed."""
        return self._whole.read(cid, start, end)

    def file_part(self, cid: CID) -> bytes | FileNode | None:
        """A block of a file, or None where it is not here. An inner node that the catalog keeps comes decoded.

        Raises:
            MalformedDag: it is no block of a file.
        """
        node = self.file_nodes.get(cid)
        if node is not None and not self._catalog.has_node(cid.multihash):
            return node.block
        if node is None:
            block = self._reader.node(cid.multihash) if cid.codec == DAG_PB else None
            if block is None:
                return self._reader.get(cid.multihash)
            node = self.file_nodes.decode(cid, block)
        # A leaf that the catalog keeps, or a node that has bytes of the file in it, is to be written to its place.
        return node if node.count and not node.data else node.block

    # --- blocks ------------------------------------------------------------------------------------------------------

    def has_block(self, multihash: bytes) -> int | None:
        """The size in bytes of that block if it is here, else None. Does not look at the disk."""
        return self._reader.size(multihash)

    def block_sizes(self, multihashes: Sequence[bytes]) -> dict[bytes, int]:
        """The sizes of those of the blocks that are here."""
        return self._reader.sizes(multihashes)

    def get_block(self, multihash: bytes) -> bytes | None:
        """That block, or None. Never wrong bytes: a block of a file that is not as recorded is hashed again."""
        return self._reader.get(multihash)

    def read_leaves(self, multihashes: Sequence[bytes], buffer: memoryview) -> list[memoryview | None]:
        """Those of the blocks that can be read into the buffer as they are, at once; `get_block` has the others."""
        return self._reader.leaves(multihashes, buffer)

    def get_blocks(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the blocks that are here, looked up together: for the small ones of directories."""
        return self._reader.blocks(multihashes)

    def get_node(self, multihash: bytes) -> bytes | None:
        """An inner or directory node that the catalog keeps, or None; never a leaf that is part of a file."""
        return self._reader.node(multihash)

    def get_nodes(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the blocks that the catalog keeps, looked up together; never a leaf that is part of a file."""
        return self._reader.nodes(multihashes)
