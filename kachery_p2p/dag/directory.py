"""Directories: building them, and listing them.

A directory is one block with a link for each entry, in the order of their names' bytes, until that block would be too
large (how large, and how that is reckoned, is part of the profile); then it is a trie of shards, see `hamt`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kachery_p2p.dag.cid import CID, DAG_PB, sha256_multihash
from kachery_p2p.dag.hamt import HamtEntry, bits_of, decode_shard, encode_shard, hash_name, index_at, max_levels
from kachery_p2p.dag.limits import (
    LARGEST_LIST_BATCH,
    LIST_BATCH,
    MAX_DIRECTORY_ENTRIES,
    MAX_SYMLINK_TARGET,
    SHARDS_ON_TRUST,
    SMALL_SHARD,
)
from kachery_p2p.dag.names import name_bytes
from kachery_p2p.dag.nodes import Asking, ask, read_node
from kachery_p2p.dag.pb import PBLink, PBNode, encode_node
from kachery_p2p.dag.profiles import Profile, profile
from kachery_p2p.dag.unixfs import NO_ATTRIBUTES, Attributes, DataType, UnixFSData, encode
from kachery_p2p.errors import InvalidName, MalformedDag, NotADirectory
from kachery_p2p.wire import varint_size

__all__ = ["BuiltDirectory", "DirectoryBuilder", "HamtEntry", "ListLimits", "list_directory", "symlink_block"]


class BuiltDirectory(NamedTuple):
    """A finished directory: its CID, and the bytes of all blocks in and below it."""

    cid: CID
    dag_size: int


class _Item(NamedTuple):
    hashed: int
    link: PBLink


class DirectoryBuilder:
    """Builds one directory from its entries, which may come in any order.

    Args:
        which: a profile, or its name.
        on_node: called with (cid, block) for each block made, children before parents.
        attributes: what it says of itself.
    """

    def __init__(
        self,
        which: str | Profile,
        on_node: Callable[[CID, bytes], None] | None = None,
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> None:
        self.profile = profile(which)
        self._on_node = on_node
        self._links: dict[bytes, PBLink] = {}
        self._links_bytes = 0
        self._attributes = attributes
        #: The data field, where it is one block.
        self._plain = encode(attributes.put_into(UnixFSData(DataType.DIRECTORY)))
        data = len(self._plain)
        self._block_bytes = 1 + varint_size(data) + data

    def __len__(self) -> int:
        return len(self._links)

    def add(self, name: str, cid: CID, dag_size: int) -> None:
        """Add an entry.

        Args:
            name: its name in the directory.
            cid: its root.
            dag_size: the bytes of all its blocks, as its own builder says.

        Raises:
            InvalidName: the name cannot stand in a directory, or stands in this one already.
        """
        key = name_bytes(name)
        if key in self._links:
            raise InvalidName(f"The directory already has an entry named {name!a}.")
        self._links[key] = PBLink(name, cid, dag_size)
        cid_size = len(bytes(cid))
        self._links_bytes += len(key) + cid_size
        body = 3 + varint_size(cid_size) + cid_size + varint_size(len(key)) + len(key) + varint_size(dag_size)
        self._block_bytes += 1 + varint_size(body) + body

    @property
    def sharded(self) -> bool:
        """Whether the directory, as it is now, is too large for one block."""
        size = self._block_bytes if self.profile.shard_rule == "block-bytes" else self._links_bytes
        return size > self.profile.shard_threshold

    def finish(self) -> BuiltDirectory:
        """Make the blocks. Entries may be added afterwards, and `finish` called again."""
        if not self.sharded:
            links = [self._links[key] for key in sorted(self._links)]
            return self._emit(encode_node(links, self._plain), links)
        items = sorted((_Item(hash_name(key), link) for key, link in self._links.items()), key=lambda i: i.hashed)
        return self._shard(items, 0)

    def _emit(self, block: bytes, links: list[PBLink]) -> BuiltDirectory:
        cid = CID(self.profile.cid_version, DAG_PB, sha256_multihash(block))
        if self._on_node is not None:
            self._on_node(cid, block)
        return BuiltDirectory(cid, len(block) + sum(link.tsize or 0 for link in links))

    def _shard(self, items: list[_Item], level: int) -> BuiltDirectory:
        fanout = self.profile.hamt_fanout
        if level >= max_levels(fanout):
            names = " and ".join(ascii(item.link.name) for item in items[:2])
            raise InvalidName(f"The names {names} have the same hash, so one directory cannot hold both. Rename one.")
        links: list[tuple[int, PBLink]] = []
        start = 0
        while start < len(items):
            # Sorted by hash, so entries of one index lie side by side.
            index = index_at(items[start].hashed, level, fanout)
            stop = start + 1
            while stop < len(items) and index_at(items[stop].hashed, level, fanout) == index:
                stop += 1
            if stop - start == 1:
                links.append((index, items[start].link))
            else:
                below = self._shard(items[start:stop], level + 1)
                links.append((index, PBLink("", below.cid, below.dag_size)))
            start = stop
        attributes = NO_ATTRIBUTES if level else self._attributes
        data = attributes.put_into(UnixFSData(DataType.HAMT_SHARD))
        return self._emit(encode_shard(links, fanout, data), [link for _, link in links])


def symlink_block(which: str | Profile, target: str, attributes: Attributes = NO_ATTRIBUTES) -> tuple[CID, bytes]:
    """The block of a symbolic link.

    Raises:
        InvalidName: the target is empty, too long, or not Unicode.
    """
    try:
        data = target.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidName(f"A symbolic link to {target!a} cannot be stored: that is not valid UTF-8.") from None
    if not data or len(data) > MAX_SYMLINK_TARGET or b"\0" in data:
        raise InvalidName(f"A symbolic link to {target[:80]!a} cannot be stored: its target is no valid path.")
    block = encode_node([], encode(attributes.put_into(UnixFSData(DataType.SYMLINK, data))))
    return CID(profile(which).cid_version, DAG_PB, sha256_multihash(block)), block


@dataclass(frozen=True)
class ListLimits:
    """Bounds of a listing; see limits.py for the reason of each default.

    Attributes:
        entries: of a sharded directory.
        batch, largest_batch: blocks asked for at once, at first and at the most.
        small_shard: bytes; batches grow while no block is larger.
        on_trust: shards read before there must be entries.
    """

    entries: int = MAX_DIRECTORY_ENTRIES
    batch: int = LIST_BATCH
    largest_batch: int = LARGEST_LIST_BATCH
    small_shard: int = SMALL_SHARD
    on_trust: int = SHARDS_ON_TRUST


DEFAULT_LIMITS = ListLimits()


def list_directory(cid: CID, limits: ListLimits = DEFAULT_LIMITS, *, by_name: bool = True) -> Asking[list[HamtEntry]]:
    """List a directory, plain or sharded; a generator that asks for blocks, see `nodes.drive`.

    Args:
        cid: of the directory.
        limits: bounds of the listing.
        by_name: whether the entries of a sharded directory come in the order of the names' bytes. Otherwise they come
            in the order of its links, depth first, as in a CAR of all that is in it.

    Returns:
        The entries; those of a plain directory in its own order. Names are given as they stand there: any Unicode text,
        `..` and `/` included.

    Raises:
        NotADirectory: it is something else.
        MalformedDag: it has duplicates, misplaced entries, empty shards, or more entries than are allowed.
    """
    (block,) = yield from ask([cid])
    node, data = read_node(cid, block)
    if data is None or data.kind not in (DataType.DIRECTORY, DataType.HAMT_SHARD):
        raise NotADirectory(f"{cid} is not a directory.")
    if data.kind is DataType.DIRECTORY:
        entries = [HamtEntry(name or "", link, tsize) for name, link, tsize in node.links]
    else:
        entries = yield from _list_shards(cid, node, data, limits)
        entries.sort(key=_name_key if by_name else _link_key)
    if len({entry.name for entry in entries}) != len(entries):
        raise MalformedDag(f"The directory {cid} has two entries of the same name.")
    return entries


def _name_key(entry: HamtEntry) -> bytes:
    return entry.name.encode("utf-8")


def _link_key(entry: HamtEntry) -> int:
    return hash_name(_name_key(entry))


def _list_shards(root: CID, node: PBNode, data: UnixFSData, limits: ListLimits) -> Asking[list[HamtEntry]]:
    entries: list[HamtEntry] = []
    seen = 0
    # Shards to read: CID, level, and the part of the hash that leads there. The last ones first: what waits stays
    # within one batch's children for each level, however wide the trie.
    waiting: list[tuple[CID, int, int]] = []
    batch = [(root, 0, 0)]
    decoded: list[tuple[PBNode, UnixFSData | None]] = [(node, data)]
    fanout: int | None = None
    most = limits.batch
    while batch:
        for (cid, level, prefix), (part, about) in zip(batch, decoded, strict=True):
            if about is None or about.kind is not DataType.HAMT_SHARD:
                raise MalformedDag(f"The block {cid} is no part of a sharded directory, but {root} says so.")
            shard = decode_shard(cid, part, about, prefix, level, fanout)
            fanout = shard.fanout
            seen += 1
            entries.extend(shard.entries.values())
            if len(entries) > limits.entries:
                raise MalformedDag(f"The directory {root} has more than {limits.entries:,} entries.")
            bits = bits_of(fanout)
            waiting.extend((below, level + 1, prefix << bits | i) for i, below in shard.shards.items())
        if seen > limits.on_trust + 2 * len(entries):
            raise MalformedDag(f"The directory {root} is built of far more parts than it has entries.")
        batch = waiting[-most:]
        del waiting[-most:]
        if batch:
            blocks = yield from ask([cid for cid, _, _ in batch])
            small = max(map(len, blocks)) <= limits.small_shard
            most = min(2 * most, limits.largest_batch) if small else limits.batch
            decoded = [read_node(cid, block) for (cid, _, _), block in zip(batch, blocks, strict=True)]
    return entries
