"""One shard of a large directory: a hash array mapped trie (https://specs.ipfs.tech/unixfs/#dag-pb-hamtdirectory).

A name's place is given by the 64 bits of its murmur3 hash, the most significant first: log2(fanout) bits for each
level. A link of a shard begins with its index as upper-case hex digits. If nothing follows them, it leads to the shard
one level down; otherwise the name of the entry follows. The data field holds the indexes in use as a big-endian
number, without leading zero bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.limits import HAMT_HASH_BITS, MAX_HAMT_FANOUT
from kachery_p2p.dag.pb import PBLink, PBNode, encode_node
from kachery_p2p.dag.unixfs import MURMUR3_X64_64, DataType, UnixFSData, encode
from kachery_p2p.errors import MalformedDag


class HamtEntry(NamedTuple):
    """An entry of a directory.

    Attributes:
        name: as it stands there; see `names.safe_name` before using it as a file name.
        cid: its root.
        tsize: Tsize, the size of all its blocks as the directory's author claims.
    """

    name: str
    cid: CID
    tsize: int | None


class Shard(NamedTuple):
    """A decoded shard: index -> entry, and index -> CID of the shard one level down."""

    fanout: int
    entries: dict[int, HamtEntry]
    shards: dict[int, CID]


def hash_name(name: bytes) -> int:
    """The 64-bit hash of a name. Kubo's library gave 64 bits where 128 were meant, and so it stayed."""
    import mmh3

    return mmh3.hash64(name)[0] & 0xFFFF_FFFF_FFFF_FFFF  # it comes signed


def bits_of(fanout: int) -> int:
    """How many bits of the hash one level uses."""
    return fanout.bit_length() - 1


def max_levels(fanout: int) -> int:
    """How many levels a trie of this fanout can have before the hash is used up."""
    return HAMT_HASH_BITS // bits_of(fanout)


def index_at(hashed: int, level: int, fanout: int) -> int:
    """Where a hash belongs in a shard of this level (0 for the root)."""
    return hashed >> (HAMT_HASH_BITS - bits_of(fanout) * (level + 1)) & (fanout - 1)


def encode_shard(links: list[tuple[int, PBLink]], fanout: int, meta: UnixFSData) -> bytes:
    """A shard of (index, link), in the order of the indexes. A link's name is without the index, '' for a sub-shard.

    `meta` gives mode and mtime.
    """
    width = len(f"{fanout - 1:X}")
    used = 0
    for index, _ in links:
        used |= 1 << index
    data = meta._replace(
        kind=DataType.HAMT_SHARD,
        data=used.to_bytes((used.bit_length() + 7) // 8, "big"),
        hash_type=MURMUR3_X64_64,
        fanout=fanout,
    )
    named = [link._replace(name=f"{index:0{width}X}{link.name}") for index, link in links]
    return encode_node(named, encode(data))


def decode_shard(cid: CID, node: PBNode, data: UnixFSData, prefix: int, level: int, fanout: int | None) -> Shard:
    """Check a shard and take it apart.

    Every entry must stand where its hash says, so that listing a directory and looking into it agree.

    Args:
        cid: of the shard.
        node: what its block was decoded to.
        data: what the data of the node was decoded to.
        prefix: the part of the hash that leads to it.
        level: its depth.
        fanout: that of the root; None for the root itself.

    Raises:
        MalformedDag: an entry does not stand there, or the shard is malformed; names the CID.
    """

    def bad(why: str) -> MalformedDag:
        return MalformedDag(f"The block {cid} is not a valid part of a sharded directory: {why}.")

    own = data.fanout or 0
    if not 8 <= own <= MAX_HAMT_FANOUT or own & (own - 1):
        raise bad(f"its fanout is {own}, not a power of two from 8 to {MAX_HAMT_FANOUT}")
    if fanout is not None and own != fanout:
        raise bad(f"its fanout is {own}, and that of the directory is {fanout}")
    if data.hash_type != MURMUR3_X64_64:
        raise bad(f"its hash type is {data.hash_type}, and only murmur3-x64-64 (0x22) is known")
    if level >= max_levels(own):
        raise bad("it lies deeper than there are bits in a name's hash")
    if level and not node.links:
        raise bad("it is empty")
    bits = bits_of(own)
    width = len(f"{own - 1:X}")
    entries: dict[int, HamtEntry] = {}
    shards: dict[int, CID] = {}
    used = 0
    shift = HAMT_HASH_BITS - bits * (level + 1)
    for full_name, link_cid, tsize in node.links:
        digits, name = (full_name or "")[:width], (full_name or "")[width:]
        try:
            index = int(digits, 16)
        except ValueError:
            raise bad(f"a link named {full_name!a} has no index") from None
        if index >= own or digits != f"{index:0{width}X}":
            raise bad(f"a link named {full_name!a} has no valid index")
        if used >> index & 1:
            raise bad(f"two links have the index {digits}")
        used |= 1 << index
        if name:
            if hash_name(name.encode("utf-8")) >> shift != prefix << bits | index:
                raise bad(f"the entry {name!a} stands in the wrong place")
            entries[index] = HamtEntry(name, link_cid, tsize)
        else:
            if link_cid.codec != DAG_PB:
                raise bad(f"its link {digits} should lead to a further part, but {link_cid} is not dag-pb")
            shards[index] = link_cid
    if int.from_bytes(data.data or b"", "big") != used:
        raise bad("its bit field does not tell which links it has")
    return Shard(own, entries, shards)
