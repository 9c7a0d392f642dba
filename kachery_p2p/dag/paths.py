"""Resolving a path such as `<cid>/session/raw.nwb`, through plain and sharded directories, and symbolic links.

Symbolic links are followed as POSIX has it, which is what the UnixFS specification asks for: a target is read from the
folder that the link lies in. The root of a path is the top of all that there is, so a target that is absolute, or leads
above the root, leads nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.hamt import Shard, bits_of, decode_shard, hash_name, index_at
from kachery_p2p.dag.limits import MAX_LINKS_FOLLOWED, MAX_PATH_SEGMENTS, MAX_SYMLINK_BLOCK, MAX_SYMLINK_TARGET
from kachery_p2p.dag.names import name_bytes
from kachery_p2p.dag.nodes import Asking, ask, drive, node_kind, read_node, symlink_target
from kachery_p2p.dag.pb import PBLink
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import BrokenLink, InvalidName, MalformedDag, NotADirectory, PathNotFound
from kachery_p2p.wire import Buffer

__all__ = ["Resolved", "drive", "node_kind", "resolve_path", "symlink_target"]

#: What a decoded node takes beside its block, and for each of its links.
_OVERHEAD = 1024
_LINK_BYTES = 350
#: Characters of a target that an error tells.
_SHOWN = 200

#: A node of a directory and where it stands: level, the part of the hash that leads there, and the fanout above it.
FolderKey = tuple[CID, int, int, int | None]
#: A plain directory, its links by name, None for a name that it has twice; one shard of a large one; or the target of
#: a symbolic link that stands where a directory may.
FolderNode = dict[str, PBLink | None] | Shard | str


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
        destination: what the last segment points to, where that is a symbolic link that was followed; as its author
            wrote it.
    """

    cid: CID
    name: str
    tsize: int | None
    destination: str | None = None


class _Place(NamedTuple):
    """Something on the way; decoded, where that was needed to see whether it is a symbolic link."""

    cid: CID
    path: str
    tsize: int | None = None
    node: FolderNode | None = None


class _Link(NamedTuple):
    """A symbolic link that is being followed."""

    path: str
    target: str
    #: How many segments are left when its target is at its end.
    rest: int

    def broken(self, why: str) -> BrokenLink:
        target = self.target if len(self.target) <= _SHOWN else self.target[:_SHOWN] + "..."
        return BrokenLink(f"{self.path} is a symbolic link to '{target}', {why}")

    def leads_out(self, root: CID) -> BrokenLink:
        return self.broken(
            f"which is not within {root}, where the path begins. Links are followed only from there on: begin with a "
            "folder that has both, or load what it points to by a URI of its own. Whoever stores the folder can have "
            "what is behind its links stored in their place: --follow (follow=True)."
        )


def resolve_path(
    root: CID, segments: Sequence[str], known: KnownFolders | None = None, *, follow: bool = True
) -> Asking[Resolved]:
    """Follow names down from a root; a generator that asks for blocks, see `nodes.drive`.

    Empty segments are passed over. The block at the end of the path is read only where it may be a symbolic link.

    Args:
        root: where it begins.
        segments: the names.
        known: what was decoded before, which is not asked for; what is decoded is kept there.
        follow: whether the last segment is followed, where it is a symbolic link. If not, its block is not read at all,
            and the link itself is at the end of the path. Those before it are followed in any case.

    Raises:
        PathNotFound: a directory has no such entry; names the segment.
        BrokenLink: a symbolic link on the way leads out of the root, nowhere, or in a circle; says where it points.
        NotADirectory: the path goes on below a file.
        InvalidName: a segment is `.` or `..`.
        MalformedDag, UnsupportedCID: a block on the way cannot be read.
    """
    if len(segments) > MAX_PATH_SEGMENTS:
        raise InvalidName(f"A path of {len(segments)} parts is too long.")
    #: What is to be followed yet, the next at the end. None is a step up, which only the target of a link has.
    left: list[str | None] = [segment for segment in reversed(segments) if segment]
    #: From the root to where it is.
    way = [_Place(root, str(root))]
    links: list[_Link] = []
    name, destination = left[0] or "" if left else "", None
    steps = followed = 0
    while left:
        segment = left.pop()
        links = [link for link in links if link.rest <= len(left)]
        steps += 1
        if links and steps > 2 * MAX_PATH_SEGMENTS:
            raise links[-1].broken("and with all that its links point to, the path has too many parts.")
        if segment is None:
            if len(way) == 1:
                raise links[-1].leads_out(root)
            way.pop()
            continue
        # Whose names are not there: those of the path itself, or of a link.
        within = links
        try:
            key = name_bytes(segment)
            at = way[-1] = yield from _opened(way[-1], known, segment)
            found = yield from _look_up(at, segment, key, known)
            if found is None:
                raise PathNotFound(f"There is no '{segment}' in {at.path}.")
            place = _Place(found.cid, f"{at.path}/{segment}", found.tsize)
            if left:
                within = [link for link in links if link.rest < len(left)]
                place = yield from _opened(place, known, left[-1])
            elif links or follow:
                place = yield from _ended(place, known)
        except (PathNotFound, NotADirectory, InvalidName) as error:
            if not within:
                raise
            raise within[-1].broken(f"which leads nowhere: {error}") from None
        target = place.node if isinstance(place.node, str) else None
        if target is not None and not left and not links:
            destination = target
        if target is None:
            way.append(place)
            continue
        link = _Link(place.path, target, len(left))
        followed += 1
        if followed > MAX_LINKS_FOLLOWED:
            raise link.broken(f"and that leads in a circle, or through more than {MAX_LINKS_FOLLOWED} links.")
        if target.startswith("/"):
            raise link.leads_out(root)
        if not target or len(target) > MAX_SYMLINK_TARGET:
            raise link.broken("which leads nowhere.")
        links.append(link)
        parts = [part for part in target.split("/") if part not in ("", ".")]
        left += [None if part == ".." else part for part in reversed(parts)]
    end = way[-1]
    return Resolved(end.cid, name, end.tsize, destination)


def _look_up(at: _Place, name: str, key: bytes, known: KnownFolders | None) -> Asking[PBLink | None]:
    """The link of one name in one directory, which is decoded."""
    folder = at.node
    assert folder is not None, "a name is looked for in a place that was opened"
    if isinstance(folder, str):  # a root; others are followed when they are met
        raise NotADirectory(
            f"{at.path} is a symbolic link to '{folder[:_SHOWN]}', which is followed only in a path that begins with "
            f"the folder it lies in. So there is no '{name}' in it."
        )
    if isinstance(folder, Shard):
        return (yield from _look_up_sharded(folder, name, hash_name(key), known))
    link = folder.get(name)
    if link is None and name in folder:
        raise MalformedDag(f"The directory {at.cid} has two entries named '{name}'.")
    return link


def _opened(place: _Place, known: KnownFolders | None, name: str | None) -> Asking[_Place]:
    """A place in which a name is looked for, decoded: a directory, or the first shard of one, or a symbolic link."""
    if place.node is not None:
        return place
    cid = place.cid
    if cid.codec == RAW:
        raise _no_folder(place.path, name)
    top: FolderKey = (cid, 0, 0, None)
    folder = None if known is None else known.get(top)
    if folder is None:
        (block,) = yield from ask([cid])
        folder = _decode(cid, block, place.path, name)
        if known is not None:
            known.keep(top, folder, _memory(block, folder))
    return place._replace(node=folder)


def _ended(place: _Place, known: KnownFolders | None) -> Asking[_Place]:
    """The end of a path, decoded where it is a symbolic link. What is too large to be one is not read."""
    if place.cid.codec != DAG_PB or (place.tsize or 0) > MAX_SYMLINK_BLOCK:
        return place
    if known is not None and (node := known.get((place.cid, 0, 0, None))) is not None:
        return place._replace(node=node)
    (block,) = yield from ask([place.cid])
    try:
        is_link = node_kind(block, place.cid) is DataType.SYMLINK
    except MalformedDag:
        return place  # whoever reads it says so
    return place._replace(node=symlink_target(block, place.cid)) if is_link else place


def _no_folder(path: str, name: str | None) -> NotADirectory:
    return NotADirectory(f"{path} is a file, so there is no '{'..' if name is None else name}' in it.")


def _decode(cid: CID, block: Buffer, path: str, name: str | None) -> FolderNode:
    node, data = read_node(cid, block)
    kind = DataType.RAW if data is None else data.kind
    if kind is DataType.SYMLINK:
        return symlink_target(block, cid)
    if data is None or kind not in (DataType.DIRECTORY, DataType.HAMT_SHARD):
        raise _no_folder(path, name)
    if kind is DataType.HAMT_SHARD:
        return decode_shard(cid, node, data, 0, 0, None)
    links: dict[str, PBLink | None] = {}
    for link in node.links:
        links[link.name or ""] = None if link.name in links else link
    return links


def _memory(block: Buffer, folder: FolderNode) -> int:
    """Bytes that a decoded node takes, about."""
    count = len(folder.entries) + len(folder.shards) if isinstance(folder, Shard) else len(folder)
    if isinstance(folder, str):
        count = 0
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
