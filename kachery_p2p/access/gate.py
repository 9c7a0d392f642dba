"""Who may see which block: the one place where that is decided, before any store is asked.

Bitswap, the gateway, the DHT and the protocol of audiences all ask here. They do not leave out what a peer may not see:
they ask the store for something else in its place, a multihash that nothing has (`look`). So the store does the very
work that it does for a block which is not here, and what comes of it is told in the same way. Nobody can tell one from
the other by an answer, nor by what becomes of a want afterwards; and the time they take differs by what it takes to
find one row.

Where nothing here is restricted, a question costs one call.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import TypeVar

from kachery_p2p.access.audience import Audience
from kachery_p2p.access.interfaces import Audiences, Memberships
from kachery_p2p.access.log import Belonging

T = TypeVar("T")

_NONE: frozenset[bytes] = frozenset()
_NO_ASKS: frozenset[tuple[str | None, bytes]] = frozenset()
#: The code of sha2-256 and its length in a multihash: what most multihashes here begin with.
_SHA2_256 = b"\x12\x20"


class NoMembers:
    """The memberships of a machine that is in no group: all peers are strangers to it."""

    def groups_of(self, peer: str) -> frozenset[str]:
        """None."""
        return frozenset()

    def own_groups(self) -> frozenset[str]:
        """None."""
        return frozenset()

    def members_of(self, group: str) -> Collection[str]:
        """Nobody."""
        return ()

    def addresses_of(self, peer: str) -> Collection[str]:
        """None."""
        return ()

    def on_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Nothing ever changes."""
        return lambda: None


class NothingRestricted:
    """The audiences of a store all of whose blocks are for everyone."""

    def any_restricted(self) -> bool:
        """No."""
        return False

    def audiences(self, multihashes: Collection[bytes]) -> Mapping[bytes, Audience]:
        """None."""
        return {}


class Gate:
    """Decides who may see what. Safe to ask from many threads.

    Args:
        memberships: which peers are in which groups; None where this machine is in none.
        audiences: who may see which block; None where everyone may see all of them.

    Attributes:
        generation: a number that grows whenever somebody may have lost or won the sight of something. What was decided
            at an earlier one is to be decided anew.

    Raises:
        KacheryError: from all questions, where the audiences cannot be read. Whoever asks then tells and gives nothing.
    """

    def __init__(self, memberships: Memberships | None = None, audiences: Audiences | None = None) -> None:
        self._memberships: Memberships = NoMembers() if memberships is None else memberships
        self._audiences: Audiences = NothingRestricted() if audiences is None else audiences
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._end: Callable[[], None] | None = None
        #: Makes what is asked for in place of something else: nobody can know it, so nothing here has it.
        self._key = secrets.token_bytes(32)
        self._restricted = False
        self.generation = 0

    # --- what a peer may see

    def any_restricted(self) -> bool:
        """Whether anything here is not for everyone. Cheap. What was so once is taken to be so until `changed`."""
        if not self._restricted:
            self._restricted = self._audiences.any_restricted()
        return self._restricted

    def guards(self) -> bool:
        """Whether this machine has, or could get, anything that is not for everyone. Cheap."""
        return self._audiences.any_restricted() or bool(self._memberships.own_groups())

    def visible(self, peer: str, multihashes: Collection[bytes]) -> Collection[bytes]:
        """Those of some blocks that a peer may see, whether they are here or not.

        Args:
            peer: its ID, as its connection has proved it.
            multihashes: of the blocks.
        """
        hidden = self.hidden(peer, multihashes)
        return [multihash for multihash in multihashes if multihash not in hidden] if hidden else multihashes

    def hidden(self, peer: str | None, multihashes: Collection[bytes]) -> Set[bytes]:
        """Those of some blocks that a peer may not see; None for somebody unknown, who sees what everyone may."""
        audiences = self.audiences(multihashes)
        if not audiences:
            return _NONE
        groups = _groups(self._memberships, peer)
        return {multihash for multihash, audience in audiences.items() if not audience.admits(groups)}

    def hidden_of(self, asks: Sequence[tuple[str | None, bytes]]) -> Set[tuple[str | None, bytes]]:
        """Of questions of several peers (who asks, and for which block) those about what that peer may not see."""
        audiences = self.audiences([multihash for _, multihash in asks]) if asks else {}
        if not audiences:
            return _NO_ASKS
        groups = {peer: _groups(self._memberships, peer) for peer in {peer for peer, _ in asks}}
        return {
            (peer, multihash)
            for peer, multihash in asks
            if (audience := audiences.get(multihash)) is not None and not audience.admits(groups[peer])
        }

    def look(
        self, asks: Sequence[tuple[str | None, bytes]], find: Callable[[Sequence[bytes]], Mapping[bytes, T]]
    ) -> list[T | None]:
        """Look blocks up for those who ask for them.

        Args:
            asks: who asks, and for which block; None for somebody unknown, who sees what everyone may.
            find: finds those of some blocks that are here. It is asked for something else in place of what is not for
                whoever asks.

        Returns:
            What was found, in the order of the questions; None for what is not here, and for what is not for them.
        """
        hidden = self.hidden_of(asks)
        seen = [self.stand_in(ask[1]) if hidden and ask in hidden else ask[1] for ask in asks]
        there = find(seen)
        found = [there.get(multihash) for multihash in seen]
        # What was not here a moment ago had no audience then, and may have come since. It has one now.
        late = self.hidden_of([ask for ask, each in zip(asks, found, strict=True) if each is not None])
        return [None if ask in late else each for ask, each in zip(asks, found, strict=True)] if late else found

    def stand_in(self, multihash: bytes) -> bytes:
        """The multihash of nothing, which the store is asked for in place of this one. Always the same for the same."""
        return _SHA2_256 + hashlib.blake2b(multihash, key=self._key, digest_size=32).digest()

    def audiences(self, multihashes: Collection[bytes]) -> Mapping[bytes, Audience]:
        """Of some blocks those that are not for everyone, and for whom they are."""
        return self._audiences.audiences(multihashes) if self.any_restricted() else {}

    def groups_with(self, peer: str) -> frozenset[str]:
        """The groups that this machine and a peer are both in."""
        return self._memberships.groups_of(peer)

    def belongings(self, multihashes: Collection[bytes]) -> Mapping[bytes, Belonging]:
        """What blocks that are not for everyone are part of, for the log.

        Where they are only known to be for somebody, that alone.
        """
        roots_of: Callable[[Collection[bytes]], Mapping[bytes, Collection[bytes]]] | None
        roots_of = getattr(self._audiences, "roots_of", None)
        roots = {} if roots_of is None else roots_of(multihashes)
        found: dict[bytes, Belonging] = {}
        for multihash, audience in self.audiences(multihashes).items():
            of = list(roots.get(multihash, ()))
            found[multihash] = Belonging(of[0] if len(of) == 1 else b"", str(audience))
        return found

    # --- when that changes

    def on_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be called, in the event loop, when somebody may see more or less than before. Returns how to end that."""
        key = object()
        if self._end is None:
            self._end = self._memberships.on_changed(self.changed)
        self._callbacks[key] = callback

        def end() -> None:
            self._callbacks.pop(key, None)
            if not self._callbacks and self._end is not None:
                self._end()
                self._end = None

        return end

    def changed(self) -> None:
        """Members or audiences have changed. Call it in the event loop.

        What is taken away counts from the next question on, whether this was called or not: nothing is remembered here.
        Those who wait for what they may see now hear of it, and what was read but not sent is looked at again.
        """
        self.generation += 1
        self._restricted = False
        for callback in list(self._callbacks.values()):
            callback()


def _groups(memberships: Memberships, peer: str | None) -> frozenset[str]:
    return frozenset() if peer is None else memberships.groups_of(peer)
