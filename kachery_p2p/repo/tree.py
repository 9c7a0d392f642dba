"""A directory tree, read from the nodes that are here: which nodes it is made of, and which files are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kachery_p2p.dag.cid import CID, DAG_PB, inline_block
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.nodes import drive, node_kind
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import KacheryError, RepoError
from kachery_p2p.repo.limits import TREE_BATCH

GetNodes = Callable[[Sequence[bytes]], Mapping[bytes, bytes]]

_FOLDERS = (DataType.DIRECTORY, DataType.HAMT_SHARD)


@dataclass
class StoredTree:
    """What `read_tree` found. Each folder is there once, however often the tree has it."""

    #: Multihashes of the nodes of its directories and symbolic links; no file's.
    nodes: dict[bytes, None] = field(default_factory=dict)
    #: For each folder its files, with the size of their blocks that the folder states, and its folders.
    files: dict[CID, list[tuple[CID, int]]] = field(default_factory=dict)
    folders: dict[CID, list[CID]] = field(default_factory=dict)
    #: Folders that cannot be read, and why.
    broken: list[tuple[CID, str]] = field(default_factory=list)

    def all_files(self) -> list[CID]:
        """Its files, each once."""
        return list(dict.fromkeys(cid for entries in self.files.values() for cid, _ in entries))

    def size(self, root: CID, sizes: Mapping[bytes, int]) -> int:
        """The bytes of all files in and below the root. `sizes` are those known, by binary CIDv1; for the others the
        sizes stated for their blocks are taken."""
        totals: dict[CID, int] = {}
        waiting = [root]
        while waiting:
            folder = waiting[-1]
            below = [cid for cid in self.folders.get(folder, ()) if cid not in totals]
            if folder not in totals and below:
                waiting += below
                continue
            waiting.pop()
            totals[folder] = sum(
                sizes.get(bytes(cid.to_v1()), stated) for cid, stated in self.files.get(folder, ())
            ) + sum(totals[cid] for cid in self.folders.get(folder, ()))
        return totals[root]


def read_tree(root: CID, get_nodes: GetNodes) -> StoredTree:
    """Read the directory `root` with all that is below it. `get_nodes` gives those of the nodes that are here."""
    tree = StoredTree()

    def fetch(cids: list[CID]) -> list[bytes]:
        found = get_nodes([cid.multihash for cid in cids])
        for cid in cids:
            if cid.multihash not in found:
                raise RepoError(f"The directory node {cid} is missing or damaged.")
            tree.nodes[cid.multihash] = None
        return [found[cid.multihash] for cid in cids]

    waiting, seen = [root], {root}
    while waiting:
        folder = waiting.pop()
        files = tree.files.setdefault(folder, [])
        folders = tree.folders.setdefault(folder, [])
        try:
            entries = drive(list_directory(folder), fetch)
            for start in range(0, len(entries), TREE_BATCH):
                batch = entries[start : start + TREE_BATCH]
                blocks = get_nodes([entry.cid.multihash for entry in batch if entry.cid.codec == DAG_PB])
                for entry in batch:
                    cid = entry.cid
                    block = inline_block(cid) or blocks.get(cid.multihash)
                    kind = None if block is None or cid.codec != DAG_PB else node_kind(block, cid)
                    if kind is DataType.SYMLINK:
                        tree.nodes[cid.multihash] = None
                    elif kind not in _FOLDERS:
                        files.append((cid, entry.tsize or 0))
                    else:
                        folders.append(cid)
                        if cid not in seen:
                            seen.add(cid)
                            waiting.append(cid)
        except KacheryError as why:
            tree.broken.append((folder, str(why)))
    return tree
