"""Who has a root: every source is asked, and every peer that is named must show that it has it.

A provider record may be old, and that a machine is on the local network says nothing of what it has. So each peer is
dialled and asked whether it has the root block. Each answers for itself, and nothing is fetched.

What is for groups is asked of their members alone: a question would tell others the CID.

There is one row for each peer, with all that named it. Who answers is told at once. Who does not is told at the end:
until then another source may name an address that leads there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.node.messages import Whereabouts
from kachery_p2p.transport.limits import DIAL_TIMEOUT

if TYPE_CHECKING:
    from kachery_p2p.bitswap.exchange import Exchange
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.discovery import Finding
    from kachery_p2p.node.messages import WhereisRequest
    from kachery_p2p.transport.host import Host

#: Peers asked at once, and in all.
ASKED_AT_ONCE = 16
MAX_PEERS = 128
#: Addresses of one that are tried. A node has some ten; a liar may name any number.
MAX_ADDRS = 32
#: Seconds for the answer of one.
ANSWER_TIMEOUT = 10.0


@dataclass
class _Found:
    """What is known of one peer so far."""

    peer: str
    addrs: list[str] = field(default_factory=list[str])
    found_by: dict[str, float] = field(default_factory=dict[str, float])
    has: bool | None = None
    asked: bool = False
    asking: bool = False
    why_silent: str = ""
    hint_error: str = ""


class Whereis:
    """One question. Use once.

    Args:
        host, exchange, finding: of the node.
        tell: called with the row of each peer that has answered, once. What else names it later is in the result.
        groups: that it is for; None where it is for everybody.
    """

    def __init__(
        self,
        host: Host,
        exchange: Exchange,
        finding: Finding,
        tell: Callable[[Whereabouts], None] = lambda row: None,
        groups: frozenset[str] | None = None,
    ) -> None:
        self._groups = groups
        self._may_hear = None if groups is None else finding.members.admits(groups)
        self._host = host
        self._exchange = exchange
        self._finding = finding
        self._tell = tell
        self._slots = trio.Semaphore(ASKED_AT_ONCE)
        self._found: dict[str, _Found] = {}

    def _admits(self, peer: str) -> bool:
        return self._may_hear is None or self._may_hear(peer)

    async def run(self, request: WhereisRequest) -> tuple[Whereabouts, ...]:
        """Ask, and wait for the answers.

        Returns:
            A row for each peer. Those that have it come first.
        """
        root = request.cid
        with trio.move_on_after(request.timeout):
            async with trio.open_nursery() as nursery:
                for addr in request.providers:
                    nursery.start_soon(self._ask_hint, nursery, root, addr)
                for peer in self._host.connected():
                    if self._admits(peer):
                        self._note(nursery, root, peer, (), "connected", 0.0)
                async with contextlib.aclosing(self._finding.sightings(root, self._groups)) as sightings:
                    async for each in sightings:
                        found = each.provider
                        self._note(nursery, root, found.peer, found.addrs, found.source, each.seconds)
        order = {True: 0, None: 1, False: 2}
        rows = [self._row(found) for found in self._found.values()]
        return tuple(sorted(rows, key=lambda row: (order[row.has], row.seconds)))

    def _row(self, found: _Found) -> Whereabouts:
        trips = [each.round_trip for each in self._host.connections() if each.peer == found.peer and each.round_trip]
        found_by = dict(sorted(found.found_by.items(), key=lambda way: way[1]))
        source, seconds = next(iter(found_by.items()))
        error = found.hint_error
        if found.has is None:
            error = error or found.why_silent or "It did not answer in time."
        return Whereabouts(
            peer=found.peer,
            # Where nobody named an address: the one that led there, or those that it says to have.
            addrs=tuple(
                found.addrs
                or self._host.remote_addresses_of(found.peer)
                or [addr.rpartition("/p2p/")[0] for addr in self._host.addresses_of(found.peer)]
            ),
            source=source,
            seconds=seconds,
            connected=found.peer in self._host.connected(),
            round_trip_ms=round(1000 * min(trips), 1) if trips else None,
            has=found.has,
            error=error or None,
            found_by=found_by,
        )

    def _note(
        self, nursery: trio.Nursery, root: CID, peer: str, addrs: Sequence[str], source: str, seconds: float
    ) -> None:
        """A peer was named. It is asked once; again where it was not reached, and there are new addresses now."""
        found = None if peer == self._host.peer_id else self._entry(peer, source, seconds)
        if found is None:
            return
        new = [addr for addr in addrs if addr not in found.addrs][: MAX_ADDRS - len(found.addrs)]
        found.addrs += new
        if found.has is None and not found.asking and (new or not found.asked):
            found.asked = found.asking = True
            nursery.start_soon(self._ask, root, found)

    def _entry(self, key: str, source: str, seconds: float) -> _Found | None:
        """What is known of a peer, with one more that named it; None where there are too many."""
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= MAX_PEERS:
                return None
            found = self._found[key] = _Found(key)
        found.found_by.setdefault(source, seconds)
        return found

    async def _ask_hint(self, nursery: trio.Nursery, root: CID, addr: str) -> None:
        begun = trio.current_time()
        where, _, peer = addr.rpartition("/p2p/") if "/p2p/" in addr else (addr, "", "")
        try:
            peer = await self._host.connect(addr)
        except KacheryError as error:
            found = self._entry(peer or addr, "hint", 0.0)
            if found is not None:
                found.peer = peer
                found.hint_error = found.hint_error or str(error)
                found.addrs += [where] if where not in found.addrs else []
            return
        if self._admits(peer):
            self._note(nursery, root, peer, (where,), "hint", trio.current_time() - begun)
        elif (found := self._entry(peer, "hint", trio.current_time() - begun)) is not None:
            found.addrs += [where] if where not in found.addrs else []
            found.hint_error = "It is in none of the groups that this is for, so it was not asked."

    async def _ask(self, root: CID, found: _Found) -> None:
        tried = -1
        while found.has is None and tried < len(found.addrs):
            tried = len(found.addrs)
            try:
                async with self._slots:
                    await self._finding.dial(found.peer, tuple(found.addrs), timeout=DIAL_TIMEOUT)
                    await self._ask_connected(root, found)
                break
            except KacheryError as error:
                found.why_silent = str(error)
        found.asking = False
        if found.has is not None:
            self._tell(self._row(found))

    async def _ask_connected(self, root: CID, found: _Found) -> None:
        with trio.move_on_after(ANSWER_TIMEOUT) as late:
            found.has = await self._exchange.ask(found.peer, root)
        if late.cancelled_caught:
            found.why_silent = f"It is connected, and did not say within {ANSWER_TIMEOUT:g} s whether it has it."
        elif found.has is None:
            found.why_silent = "It left before it said whether it has it."
