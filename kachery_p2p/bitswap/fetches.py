"""The requests to one gateway, and which of its asks each of them answers. Sans-IO.

A peer is sent one list of what is wanted. A gateway is sent requests: for one block, or for a CAR of many. What a CAR
is expected to bring is asked of the link like anything else, so that windows, stalls, copies and liars are the same for
all; a `Fetch` says which of these asks are answered by which request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from kachery_p2p.bitswap.link import GatewayLink
from kachery_p2p.bitswap.places import Place
from kachery_p2p.bitswap.session import Ask, Session, Want
from kachery_p2p.dag.cid import CID


class Scope(Enum):
    """What a request is for."""

    #: One block.
    BLOCK = "block"
    #: Bytes of a file that are wanted, block after block.
    BYTES = "bytes"
    #: A root, with the first bytes of the file or the rest of the directory: what is wanted next shows only in it.
    HEAD = "head"
    #: A directory with all that is in it.
    TREE = "tree"


@dataclass(eq=False)
class Fetch:
    """One request to a gateway.

    Attributes:
        link: the gateway.
        session: the one that it was made for.
        cid: what is asked for.
        scope: which blocks of it.
        span: the first and the last byte, of BYTES and HEAD.
        asks: those that it is to answer, by multihash; those that are over may be among them.
        expected: the multihashes that it was made for.
        started: the request has gone out.
        cursor: the place in the session's order up to which it was seen whether the wants come with this.
        brought: blocks that came and were wanted, or were kept until they are.
        stray: bytes that came and were not asked for, or had come before.
        paused: there is no room for what it brings ahead of its time, and nothing is read of it.
    """

    link: GatewayLink
    session: Session
    cid: CID
    scope: Scope
    span: tuple[int, int] | None = None
    asks: dict[bytes, Ask] = field(default_factory=dict[bytes, Ask])
    expected: frozenset[bytes] = frozenset()
    started: bool = False
    cursor: int = 0
    brought: int = 0
    stray: int = 0
    paused: bool = False

    @property
    def is_car(self) -> bool:
        return self.scope is not Scope.BLOCK

    @property
    def keeps(self) -> bool:
        """Whether blocks that are not wanted yet are kept: it was made before it was known what is wanted."""
        return self.scope in (Scope.HEAD, Scope.TREE)

    def open_asks(self) -> list[Ask]:
        """The asks that wait for it."""
        asked = self.link.asks
        return [ask for multihash, ask in self.asks.items() if asked.get(multihash) is ask]

    @property
    def busy(self) -> bool:
        """Whether somebody waits for what it brings. Asks that are over are dropped on the way."""
        if self.scope is Scope.TREE or (self.scope is Scope.HEAD and self.brought):
            return not self.session.closed
        asked = self.link.asks
        while self.asks:
            multihash, ask = next(iter(self.asks.items()))
            if asked.get(multihash) is ask:
                return True
            del self.asks[multihash]
        return False

    @property
    def whole(self) -> bool:
        """Whether it has brought all that it was made for, and only the end of its answer is missing."""
        return self.scope is Scope.BYTES and self.brought >= len(self.expected)

    def may_bring(self, want: Want, place: Place | None) -> bool:
        """Whether a want that came up later comes with it, as far as can be told."""
        if self.paused or not self.brought:
            return self.scope is Scope.TREE and not self.paused
        if self.scope is Scope.TREE or place is None:
            return True
        return (
            self.span is not None
            and place.root == self.cid
            and self.span[0] <= place.offset
            and place.end <= self.span[1] + 1
        )
