"""How many peers are served at a time, so that a flood of some leaves room for others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kachery_p2p.membership import limits

if TYPE_CHECKING:
    from kachery_p2p.membership.groups import Groups
    from kachery_p2p.transport.stream import Stream


class Doors:
    """Lets exchanges in.

    Args:
        groups: of the node.

    Attributes:
        serving: how many exchanges that a peer has begun are under way, by peer.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.serving: Counter[str] = Counter()
        self._unknown_senders = 0

    @contextmanager
    def exchange(self, stream: Stream) -> Generator[bool, None, None]:
        """A place for an exchange; False, and the stream is reset, where there is none. Members find one always."""
        peer = stream.peer
        full = self.serving.total() >= limits.MAX_EXCHANGES and not self._groups.groups_of(peer)
        if full or self.serving[peer] >= limits.MAX_EXCHANGES_OF_PEER:
            stream.abort("there are too many exchanges")
            yield False
            return
        self.serving[peer] += 1
        try:
            yield True
        finally:
            self.serving[peer] -= 1
            if not self.serving[peer]:
                del self.serving[peer]

    @contextmanager
    def last_message(self, stream: Stream, *, known: bool) -> Generator[bool, None, None]:
        """The same for the last message, which may be long. `known`: the peer is a member."""
        if not known and self._unknown_senders >= limits.MAX_UNKNOWN_SENDERS:
            stream.abort("there are too many exchanges")
            yield False
            return
        self._unknown_senders += not known
        try:
            yield True
        finally:
            self._unknown_senders -= not known
