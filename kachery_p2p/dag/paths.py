"""Resolving a path such as `<cid>/session/raw.nwb`, through plain and sharded directories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.dag.hamt import Shard, bits_of, decode_shard, hash_name, index_at
from kachery_p2p.dag.limits import MAX_PATH_SEGMENTS
from kachery_p2p.dag.names import name_bytes
from kachery_p2p.dag.nodes import Asking, ask, drive, node_kind, read_node, symlink_target
from kachery_p2p.dag.pb import PBLink
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import InvalidName, MalformedDag, NotADirectory, PathNotFound
from kachery_p2p.wire import Buffer

__all__ = ["Resolved", "drive", "node_kind", "resolve_path", "symlink_target"]

#: What a decoded node takes beside its block, and for each of its links.
_OVERHEAD = 1024
_LINK_BYTES = 350

#: A node of a directory and where it stands: level, the part of the hash that leads there, and the fanout above it.
FolderKey = tuple[CID, int, int, int | None]
#: A plain directory, its links by name, None for a name that it has twice; or one shard of a large one.
FolderNode = dict[str, PBLink | None] | Shard


class KnownFolders(Protocol):
    """Nodes of directories that were decoded before; see `kachery_p2p.repo.decoded`."""

    def get(self, key: FolderKey, /) -> FolderNode | None: ...
    def keep(self, key: FolderKey, node: FolderNode, memory: int, /) -> None: ...


class Resolved(NamedTuple):
    """Where a path leads.

    Attributes:
        cid: of what is there.
        name: the last segment; '' for the root itself.
        tsize: the size of all blocks there as the directory claims; None when it does not, or for the root.
    """

    cid: CID
    name: str
    tsize: int | None


def resolve_path(root: CID, segments: Sequence[str], known: KnownFolders | None = None) -> Asking[Resolved]:
    """Follow names down from a root; a generator that asks for blocks, see `nodes.drive`.

    Empty segments are passed over. The block at the end of the path is not read.

    Args:
        root: where it begins.
        segments: the names.
        known: what was decoded before, which is not asked for; what is decoded is kept there.

    Raises:
        PathNotFound: a directory has no such entry; names the segment.
        NotADirectory: the path goes on below a file or a symbolic link.
        InvalidName: a segment is `.` or `..`.
        MalformedDag, UnsupportedCID: a block on the way cannot be read.
    """
    if len(segments) > MAX_PATH_SEGMENTS:
        raise InvalidName(f"A path of {len(segments)} parts is too long.")
    at = Resolved(root, "", None)
    path = str(root)
    for segment in segments:
        if not segment:
            continue
        key = name_bytes(segment)
        link = yield from _look_up(at.cid, path, segment, key, known)
        if link is None:
            raise PathNotFound(f"There is no '{segment}' in {path}.")
        path = f"{path}/{segment}"
        at = Resolved(link.cid, segment, link.tsize)
    return at


def _look_up(cid: CID, path: str, name: str, key: bytes, known: KnownFolders | None) -> Asking[PBLink | None]:
    """The link of one name in one directory."""
    if cid.codec == RAW:
        raise NotADirectory(f"{path} is a file, so there is no '{name}' in it.")
    top: FolderKey = (cid, 0, 0, None)
    folder = None if known is None else known.get(top)
    if folder is None:
        (block,) = yield from ask([cid])
        folder = _decode(cid, block, path, name)
        if known is not None:
            known.keep(top, folder, _memory(block, folder))
    if isinstance(folder, Shard):
        return (yield from _look_up_sharded(folder, name, hash_name(key), known))
    link = folder.get(name)
    if link is None and name in folder:
        raise MalformedDag(f"The directory {cid} has two entries named '{name}'.")
    return link


def _decode(cid: CID, block: Buffer, path: str, name: str) -> FolderNode:
    """A directory in which a name is looked for, or its first shard."""
    node, data = read_node(cid, block)
    kind = DataType.RAW if data is None else data.kind
    if kind is DataType.SYMLINK:
        raise NotADirectory(f"{path} is a symbolic link, which is not followed, so there is no '{name}' in it.")
    if data is None or kind not in (DataType.DIRECTORY, DataType.HAMT_SHARD):
        raise NotADirectory(f"{path} is a file, so there is no '{name}' in it.")
    if kind is DataType.HAMT_SHARD:
        return decode_shard(cid, node, data, 0, 0, None)
    links: dict[str, PBLink | None] = {}
    for link in node.links:
        links[link.name or ""] = None if link.name in links else link
    return links


def _memory(block: Buffer, folder: FolderNode) -> int:
    """Bytes that a decoded node takes, about."""
    count = len(folder.entries) + len(folder.shards) if isinstance(folder, Shard) else len(folder)
    return _OVERHEAD + len(block) + _LINK_BYTES * count


def _look_up_sharded(shard: Shard, name: str, hashed: int, known: KnownFolders | None) -> Asking[PBLink | None]:
    level = prefix = 0
    fanout = shard.fanout
    while True:
        index = index_at(hashed, level, fanout)
        entry = shard.entries.get(index)
        if entry is not None:
            return PBLink(*entry) if entry.name == name else None
        cid = shard.shards.get(index)
        if cid is None:
            return None
        prefix = prefix << bits_of(fanout) | index
        level += 1
        # Bounded: decode_shard refuses levels for which the hash has no bits.
        key: FolderKey = (cid, level, prefix, fanout)
        found = None if known is None else known.get(key)
        if not isinstance(found, Shard):
            (block,) = yield from ask([cid])
            node, data = read_node(cid, block)
            if data is None or data.kind is not DataType.HAMT_SHARD:
                raise MalformedDag(f"The block {cid} is no part of a sharded directory, but its parent says so.")
            found = decode_shard(cid, node, data, prefix, level, fanout)
            if known is not None:
                known.keep(key, found, _memory(block, found))
        shard = found
