"""The blocks of one root that is on this machine: all of them as a CAR, or one of them by chance.

A CAR is written in two passes: the first adds up sizes, which the catalog knows without reading a file, so that the
length is known before the first byte is sent; the second reads and sends. Memory: the multihashes seen so far.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kachery_p2p.dag.car import car_header, car_section
from kachery_p2p.dag.cid import CID, DAG_PB, inline_block, known_block
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.errors import PinningError


class Blocks(Protocol):
    """What is needed of a repo; see `kachery_p2p.repo.repo.Repo`."""

    def get_block(self, multihash: bytes) -> bytes | None: ...

    def get_node(self, multihash: bytes) -> bytes | None: ...

    def block_sizes(self, multihashes: Sequence[bytes]) -> Mapping[bytes, int]: ...


@dataclass(frozen=True)
class CarPlan:
    """A CAR that could be sent: bytes of the CAR, blocks in it, bytes of the largest block."""

    size: int
    blocks: int
    largest: int


def plan(root: CID, blocks: Blocks) -> CarPlan:
    """How large the CAR of a root is.

    Raises:
        PinningError: not all of it is on this machine.
    """
    size, count, largest = len(car_header([root])), 0, 0
    for cid, length in _walk(root, blocks):
        size += len(car_section(cid, length)) + length
        count += 1
        largest = max(largest, length)
    return CarPlan(size, count, largest)


def car(root: CID, blocks: Blocks) -> Iterator[bytes]:
    """The CAR of a root, piece by piece; exactly as long as `plan` says.

    Raises:
        PinningError: a block went bad since it was planned.
    """
    yield car_header([root])
    for cid, length in _walk(root, blocks):
        data = blocks.get_block(cid.multihash)
        if data is None or len(data) != length:
            raise _missing(root, cid)
        yield car_section(cid, length) + data


def pick(root: CID, blocks: Blocks, rng: random.Random) -> CID:
    """A block below a root, by chance; a leaf where all the nodes above it are here, and the root itself if need be."""
    at = root
    while at.codec == DAG_PB:
        node = blocks.get_node(at.multihash)
        links = [link.cid for link in decode_node(node).links] if node is not None else []
        links = [cid for cid in links if known_block(cid) is None]
        if not links:
            break
        at = rng.choice(links)
    return at


def _walk(root: CID, blocks: Blocks) -> Iterator[tuple[CID, int]]:
    """Each block of a DAG once with its size, depth first."""
    seen: set[bytes] = set()
    pending: list[Iterator[tuple[CID, int]]] = [_sizes(root, [root], blocks)]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            continue
        cid, length = found
        if cid.multihash in seen:
            continue
        seen.add(cid.multihash)
        yield cid, length
        if cid.codec == DAG_PB:
            # A leaf that is part of a file is not kept as a node, and has no links.
            node = blocks.get_node(cid.multihash)
            if node is not None:
                pending.append(_sizes(root, [link.cid for link in decode_node(node).links], blocks))


def _sizes(root: CID, cids: Iterable[CID], blocks: Blocks) -> Iterator[tuple[CID, int]]:
    # The empty block is sent like any other: not everybody who takes a CAR knows it.
    wanted = [cid for cid in cids if inline_block(cid) is None]
    sizes = blocks.block_sizes([cid.multihash for cid in wanted])
    for cid in wanted:
        length = sizes.get(cid.multihash)
        if length is None:
            raise _missing(root, cid)
        yield cid, length


def _missing(root: CID, cid: CID) -> PinningError:
    return PinningError(
        f"Not all of {root} is on this machine: the block {cid} is missing or damaged. Load or store it again; "
        "it is sent then."
    )


#: Called with (bytes sent, bytes in all).
Sent = Callable[[int, int], None]
