"""A directory tree, read from the nodes that are here: which nodes it is made of, and which files are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kachery_p2p.dag.cid import CID, DAG_PB, inline_block
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.nodes import drive, node_kind
from kachery_p2p.dag.tree import NO_LIMITS, TreeWalk
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import KacheryError, RepoError
from kachery_p2p.repo.limits import TREE_BATCH

GetNodes = Callable[[Sequence[bytes]], Mapping[bytes, bytes]]

_FOLDERS = (DataType.DIRECTORY, DataType.HAMT_SHARD)


@dataclass
class StoredTree:
    """What `read_tree` found, each thing once, however often the tree has it."""

    walk: TreeWalk[CID]
    #: Multihashes of the nodes of its directories and symbolic links; no file's.
    nodes: dict[bytes, None] = field(default_factory=dict)
    files: dict[CID, None] = field(default_factory=dict)
    #: Folders that cannot be read, and why.
    broken: list[tuple[CID, str]] = field(default_factory=list)

    def size(self, sizes: Mapping[bytes, int]) -> int:
        """The bytes of all its files, each as often as it is there.

        Args:
            sizes: those known, by binary CIDv1; for the others, what their folders state of their blocks is taken.
        """
        return self.walk.shape(
            lambda cid, stated: sizes.get(bytes(cid.to_v1()), stated) if cid in self.files else 0
        ).size


def read_tree(root: CID, get_nodes: GetNodes) -> StoredTree:
    """Read the directory `root` with all that is below it.

    Args:
        root: of the directory.
        get_nodes: gives those of the nodes that are here.
    """
    tree = StoredTree(TreeWalk(root, NO_LIMITS))
    while level := tree.walk.take():
        for folder in level:
            try:
                _read_folder(tree, folder, get_nodes)
            except KacheryError as error:
                tree.broken.append((folder, str(error)))
    return tree


def _read_folder(tree: StoredTree, folder: CID, get_nodes: GetNodes) -> None:
    def fetch(cids: list[CID]) -> list[bytes]:
        found = get_nodes([cid.multihash for cid in cids])
        for cid in cids:
            if cid.multihash not in found:
                raise RepoError(f"The directory node {cid} is missing or damaged.")
            tree.nodes[cid.multihash] = None
        return [found[cid.multihash] for cid in cids]

    tree.walk.add(folder, ())  # it has been met, even if it cannot be read
    entries = drive(list_directory(folder), fetch)
    new = [cid for cid, _ in tree.walk.add(folder, [(entry.cid, entry.tsize or 0) for entry in entries])]
    for start in range(0, len(new), TREE_BATCH):
        batch = new[start : start + TREE_BATCH]
        blocks = get_nodes([cid.multihash for cid in batch if cid.codec == DAG_PB])
        for cid in batch:
            block = inline_block(cid) or blocks.get(cid.multihash)
            try:
                kind = None if block is None or cid.codec != DAG_PB else node_kind(block, cid)
            except KacheryError as error:
                tree.broken.append((folder, str(error)))
                continue
            if kind is DataType.SYMLINK:
                tree.nodes[cid.multihash] = None
            elif kind in _FOLDERS:
                tree.walk.enter(cid)
            else:
                tree.files[cid] = None
