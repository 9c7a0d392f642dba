"""What the exchange keeps of one peer: its streams, and what it may make us do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.reader import ByteBudget
from kachery_p2p.turns import Allowance

if TYPE_CHECKING:
    from kachery_p2p.bitswap.interfaces import StreamLike
    from kachery_p2p.bitswap.lanes import WantLane
    from kachery_p2p.bitswap.messages import BitswapMessage, Block
    from kachery_p2p.turns import Pool


class PeerStreams:
    """The streams of one peer."""

    def __init__(self, pool: Pool) -> None:
        self.allowance = Allowance(limits.MESSAGE_RATE, limits.MESSAGE_BURST, pool)
        self.inbound = 0
        self.slots = trio.Semaphore(limits.MAX_INBOUND_STREAMS_PER_PEER)
        self.budget = ByteBudget(limits.MAX_INBOUND_BYTES_PER_PEER)
        self.offences: list[float] = []
        self.want_lane: WantLane | None = None
        #: Of the lane and of the inbound streams: cancelled when the peer goes or is dropped.
        self.scopes: set[trio.CancelScope] = set()
        self.life = 0
        #: Messages that brought something wanted, and that no stream was credited with yet.
        self.useful = 0

    def cancel(self) -> None:
        """End all streams of the peer."""
        for scope in self.scopes:
            scope.cancel()

    def thank(self, stream: StreamLike) -> None:
        """Blocks that we wanted pay for the streams that they came on: each message for one.

        Kubo opens a stream for each message of a reply, and those hold some 16 KiB: of small files hundreds come a
        second. As work that a peer causes unasked they would be held back.
        """
        while self.useful:
            self.useful -= 1
            stream.useful()


def cost(message: BitswapMessage) -> float:
    """What a message makes us do; less than nothing when it brings much."""
    items = len(message.entries) + len(message.presences) + message.malformed + message.dropped
    brought = sum(map(block_size, message.blocks)) // limits.BYTES_PER_UNIT
    return limits.MESSAGE_COST + items + len(message.blocks) - brought


def block_size(block: Block) -> int:
    """Bytes of a block as it came."""
    return len(block.data)
