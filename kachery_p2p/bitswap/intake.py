"""Blocks that have just come: what is done with them in a thread, many at a time.

To hand work to a thread and back costs about as much as to hash 100 KiB, and while both threads run, they take the
interpreter from each other. So one trip does all that needs no decision: the blocks of all messages that have come
since the last trip began are hashed, and those for which a session has named a place are put there. Meanwhile the
streams are read on, as far as the budgets of their peers go; what comes is taken along by the next trip.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.messages import Block
from kachery_p2p.bitswap.session import Session
from kachery_p2p.dag.cid import hash_block
from kachery_p2p.errors import InvalidCID, KacheryError, UnsupportedCID
from kachery_p2p.wire import Buffer

log = logging.getLogger("kachery_p2p.bitswap")


class Place(Protocol):
    """Where a session wants a block to be put as soon as its hash was checked."""

    def put(self, multihash: bytes, data: Buffer) -> bool:
        """In a thread: put the block in its place. Returns whether it is there, and its bytes are not needed any more.

        Raises:
            KacheryError: it cannot be put there. The session is given its bytes then, and meets the same error.
        """
        ...


class Arrived(NamedTuple):
    """The blocks of one message."""

    peer: str
    blocks: Sequence[Block]
    #: Called when they were dealt with; is told whether anybody still looks at their bytes.
    done: Callable[[bool], None]


class Checked(NamedTuple):
    """What was found out about one block."""

    #: Empty where it cannot be computed.
    multihash: bytes
    #: The session for which it was put in its place.
    placed: Session | None


class Intake:
    """Checks what has come.

    Args:
        places: where blocks are to be put, by multihash, and for which session.
        checked: is given each message with what was found out; says whether anybody still looks at its bytes.
        finished: called at the end of each trip.
    """

    def __init__(
        self,
        places: Mapping[bytes, tuple[Session, Place]],
        checked: Callable[[str, Sequence[Block], Sequence[Checked]], bool],
        finished: Callable[[], None],
    ) -> None:
        self._places = places
        self._checked = checked
        self._finished = finished
        self._threads = trio.CapacityLimiter(limits.HASH_THREADS)
        self._waiting: deque[Arrived] = deque()
        self._size = 0
        self._trips = 0
        self._last_began = 0.0

    def put(self, arrived: Arrived, nursery: trio.Nursery) -> None:
        """Check this soon."""
        self._waiting.append(arrived)
        self._size += _size(arrived)
        # One thread is enough where hashing is fast, and more would only take the interpreter from each other.
        behind = self._size >= limits.HASH_TRIP or trio.current_time() > self._last_began + limits.HASH_PATIENCE
        if not self._trips or (behind and self._trips < limits.HASH_THREADS):
            self._trips += 1
            nursery.start_soon(self._travel)

    async def _travel(self) -> None:
        try:
            while self._waiting:
                await self._trip()
        finally:
            self._trips -= 1

    async def _trip(self) -> None:
        batch: list[Arrived] = []
        size = 0
        while self._waiting and size < limits.HASH_TRIP:
            batch.append(self._waiting.popleft())
            size += _size(batch[-1])
        self._size -= size
        self._last_began = trio.current_time()
        try:
            found = await trio.to_thread.run_sync(self._check, batch, limiter=self._threads)
        except Exception:
            # The node goes on without them: they are asked for again when they are missed.
            log.exception("Blocks that came cannot be checked")
            for arrived in batch:
                arrived.done(True)
            return
        for (peer, blocks, done), results in zip(batch, found, strict=True):
            done(self._checked(peer, blocks, results))
        self._finished()

    def _check(self, batch: Sequence[Arrived]) -> list[list[Checked]]:
        """In a thread."""
        return [[self._check_one(block) for block in arrived.blocks] for arrived in batch]

    def _check_one(self, block: Block) -> Checked:
        multihash = multihash_of(block)
        session, place = self._places.get(multihash, (None, None))
        if place is not None:
            try:
                if place.put(multihash, block.data):
                    return Checked(multihash, session)
            except KacheryError as error:
                log.debug("a block cannot be put in its place: %s", error)
        return Checked(multihash, None)


def multihash_of(block: Block) -> bytes:
    """The multihash of a block as it came, empty where it cannot be computed."""
    prefix, data = block
    try:
        return hash_block(prefix.hash_code, data, prefix.hash_length) if prefix else b""
    except (InvalidCID, UnsupportedCID):
        return b""


def _size(arrived: Arrived) -> int:
    return sum(len(block.data) for block in arrived.blocks)
