"""The parameters that decide a file's CID.

Two profiles have names from IPIP-499 (https://specs.ipfs.tech/ipips/ipip-0499/): the same bytes under the same profile
give the same CID in every implementation. Other parameters make other CIDs. `random-16k` is a name of ours, for files
of which small parts are read here and there: a few bytes of a file cost the block that they are in, and over a long
line a block of 16 KiB comes in one round trip, where one of 1 MiB takes several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kachery_p2p.dag.limits import MAX_BLOCK_SIZE, MAX_HAMT_FANOUT, MAX_WIDTH, MIN_CHUNK_SIZE
from kachery_p2p.errors import InvalidProfile
from kachery_p2p.text import shown

#: A dag-pb leaf adds at most this many bytes: two tags and two lengths around the data, its type and its size.
LEAF_OVERHEAD = 16


@dataclass(frozen=True)
class Profile:
    """How a file or directory becomes a DAG.

    `chunk_size` in bytes; `width` the most links of an inner node; `raw_leaves` false wraps each chunk in a dag-pb
    node; `cid_version` of the dag-pb nodes (raw leaves are always version 1). A directory becomes a HAMT of
    `hamt_fanout` when its size, reckoned by `shard_rule`, is more than `shard_threshold` bytes: 'block-bytes' is the
    size of the encoded directory block, 'links-bytes' the names and CIDs alone.

    Raises:
        InvalidProfile: the parameters cannot make a valid DAG.
    """

    name: str
    cid_version: int = 1
    chunk_size: int = 1024 * 1024
    width: int = 1024
    raw_leaves: bool = True
    hamt_fanout: int = 256
    shard_threshold: int = 256 * 1024
    shard_rule: Literal["block-bytes", "links-bytes"] = "block-bytes"

    def __post_init__(self) -> None:
        if self.cid_version not in (0, 1):
            raise InvalidProfile(f"There is no CID version {self.cid_version}; use 0 or 1.")
        largest = MAX_BLOCK_SIZE if self.raw_leaves else MAX_BLOCK_SIZE - LEAF_OVERHEAD
        if not MIN_CHUNK_SIZE <= self.chunk_size <= largest:
            raise InvalidProfile(
                f"A chunk size of {self.chunk_size} bytes is not possible; it must be from {MIN_CHUNK_SIZE} to "
                f"{largest}, because no peer accepts blocks over {MAX_BLOCK_SIZE} bytes."
            )
        if not 2 <= self.width <= MAX_WIDTH:
            raise InvalidProfile(f"A width of {self.width} links is not possible; it must be from 2 to {MAX_WIDTH}.")
        fanout = self.hamt_fanout
        if not 8 <= fanout <= MAX_HAMT_FANOUT or fanout & (fanout - 1):
            raise InvalidProfile(f"A HAMT fanout of {fanout} is not possible; use a power of two from 8 to 1024.")
        if not 0 <= self.shard_threshold <= MAX_BLOCK_SIZE:
            raise InvalidProfile(f"A directory block of {self.shard_threshold} bytes is more than peers accept.")
        if self.shard_rule not in ("block-bytes", "links-bytes"):
            raise InvalidProfile(f"'{self.shard_rule}' is no way to reckon the size of a directory.")


UNIXFS_V1_2025 = Profile("unixfs-v1-2025")
UNIXFS_V0_2015 = Profile(
    "unixfs-v0-2015",
    cid_version=0,
    chunk_size=256 * 1024,
    width=174,
    raw_leaves=False,
    shard_rule="links-bytes",
)
RANDOM_16K = Profile("random-16k", chunk_size=16 * 1024)
DEFAULT = UNIXFS_V1_2025

_NAMED = {p.name: p for p in (UNIXFS_V1_2025, UNIXFS_V0_2015, RANDOM_16K)}
#: Of all that there are.
NAMES = tuple(_NAMED)


def profile(which: str | Profile | None = None) -> Profile:
    """The profile of that name, or the given Profile itself; the default when nothing is given.

    Raises:
        InvalidProfile: there is none of that name; names those that there are.
    """
    if which is None:
        return DEFAULT
    if isinstance(which, Profile):
        return which
    try:
        return _NAMED[which]
    except (KeyError, TypeError):
        *others, last = _NAMED
        raise InvalidProfile(f"There is no profile {shown(which)}; there are {', '.join(others)} and {last}.") from None
