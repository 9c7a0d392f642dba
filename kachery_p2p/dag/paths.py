"""Resolving a path such as `<cid>/session/raw.nwb`, through plain and sharded directories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.dag.hamt import bits_of, decode_shard, hash_name, index_at
from kachery_p2p.dag.limits import MAX_PATH_SEGMENTS
from kachery_p2p.dag.names import name_bytes
from kachery_p2p.dag.nodes import Asking, ask, drive, node_kind, read_node, symlink_target
from kachery_p2p.dag.pb import PBLink, PBNode
from kachery_p2p.dag.unixfs import DataType, UnixFSData
from kachery_p2p.errors import InvalidName, MalformedDag, NotADirectory, PathNotFound

__all__ = ["Resolved", "drive", "node_kind", "resolve_path", "symlink_target"]


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


def resolve_path(root: CID, segments: Sequence[str]) -> Asking[Resolved]:
    """Follow names down from a root; a generator that asks for blocks, see `nodes.drive`.

    Empty segments are passed over. The block at the end of the path is not read.

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
        link = yield from _look_up(at.cid, path, segment, key)
        if link is None:
            raise PathNotFound(f"There is no '{segment}' in {path}.")
        path = f"{path}/{segment}"
        at = Resolved(link.cid, segment, link.tsize)
    return at


def _look_up(cid: CID, path: str, name: str, key: bytes) -> Asking[PBLink | None]:
    """The link of one name in one directory."""
    if cid.codec == RAW:
        raise NotADirectory(f"{path} is a file, so there is no '{name}' in it.")
    (block,) = yield from ask([cid])
    node, data = read_node(cid, block)
    kind = DataType.RAW if data is None else data.kind
    if kind is DataType.SYMLINK:
        raise NotADirectory(f"{path} is a symbolic link, which is not followed, so there is no '{name}' in it.")
    if kind not in (DataType.DIRECTORY, DataType.HAMT_SHARD):
        raise NotADirectory(f"{path} is a file, so there is no '{name}' in it.")
    if kind is DataType.DIRECTORY:
        found = [link for link in node.links if link.name == name]
        if len(found) > 1:
            raise MalformedDag(f"The directory {cid} has two entries named '{name}'.")
        return found[0] if found else None
    return (yield from _look_up_sharded(cid, node, data, name, hash_name(key)))


def _look_up_sharded(cid: CID, node: PBNode, data: UnixFSData | None, name: str, hashed: int) -> Asking[PBLink | None]:
    level = prefix = 0
    fanout: int | None = None
    while True:
        if data is None or data.kind is not DataType.HAMT_SHARD:
            raise MalformedDag(f"The block {cid} is no part of a sharded directory, but its parent says so.")
        # Bounded: decode_shard refuses levels for which the hash has no bits.
        shard = decode_shard(cid, node, data, prefix, level, fanout)
        fanout = shard.fanout
        index = index_at(hashed, level, fanout)
        entry = shard.entries.get(index)
        if entry is not None:
            return PBLink(*entry) if entry.name == name else None
        below = shard.shards.get(index)
        if below is None:
            return None
        cid = below
        prefix = prefix << bits_of(fanout) | index
        level += 1
        (block,) = yield from ask([cid])
        node, data = read_node(cid, block)
