"""Who has a root: every source is asked, and every peer that is named must show that it has it.

A provider record may be old, and that a machine is on the local network says nothing of what it has. So each peer is
dialled and asked whether it has the root block. Each answers for itself, and nothing is fetched.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
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
#: Seconds for the answer of one.
ANSWER_TIMEOUT = 10.0


@dataclass
class _Named:
    """A peer as one source named it."""

    peer: str
    addrs: list[str]
    source: str
    seconds: float
    error: str | None = None


class Whereis:
    """One question. Use once."""

    def __init__(self, host: Host, exchange: Exchange, finding: Finding) -> None:
        self._host = host
        self._exchange = exchange
        self._finding = finding
        self._slots = trio.Semaphore(ASKED_AT_ONCE)
        self._found: dict[tuple[str, str], _Named] = {}
        self._has: dict[str, bool | None] = {}
        self._errors: dict[str, str] = {}

    async def run(self, request: WhereisRequest) -> tuple[Whereabouts, ...]:
        """Ask, and wait for the answers.

        Returns:
            A row for each peer and each source that named it. Those that have it come first.
        """
        root = request.cid
        with trio.move_on_after(request.timeout):
            async with trio.open_nursery() as nursery:
                for addr in request.providers:
                    nursery.start_soon(self._ask_hint, nursery, root, addr)
                for peer in self._host.connected():
                    self._note(nursery, root, _Named(peer, [], "connected", 0.0))
                async with contextlib.aclosing(self._finding.sightings(root)) as sightings:
                    async for each in sightings:
                        found = each.provider
                        self._note(nursery, root, _Named(found.peer, list(found.addrs), found.source, each.seconds))
        trips = {each.peer: each.round_trip for each in self._host.connections() if each.round_trip}
        connected = set(self._host.connected())
        rows = [self._row(named, named.peer in connected, trips.get(named.peer)) for named in self._found.values()]
        order = {True: 0, None: 1, False: 2}
        return tuple(sorted(rows, key=lambda row: (order[row.has], row.seconds)))

    def _row(self, named: _Named, connected: bool, round_trip: float | None) -> Whereabouts:
        has = self._has.get(named.peer)
        error = named.error or self._errors.get(named.peer, "It did not answer in time.")
        return Whereabouts(
            peer=named.peer,
            addrs=tuple(named.addrs),
            source=named.source,
            seconds=named.seconds,
            connected=connected,
            round_trip_ms=None if round_trip is None else round(1000 * round_trip, 1),
            has=has,
            error=error if has is None else named.error,
        )

    def _note(self, nursery: trio.Nursery, root: CID, named: _Named) -> None:
        known = self._found.get((named.peer, named.source))
        if known is not None:
            known.addrs = list(dict.fromkeys([*known.addrs, *named.addrs]))
            return
        if len(self._has) >= MAX_PEERS and named.peer not in self._has:
            return
        self._found[named.peer, named.source] = named
        if named.peer not in self._has:
            self._has[named.peer] = None
            nursery.start_soon(self._ask, root, named.peer, tuple(named.addrs))

    async def _ask_hint(self, nursery: trio.Nursery, root: CID, addr: str) -> None:
        begun = trio.current_time()
        where, _, peer = addr.rpartition("/p2p/") if "/p2p/" in addr else (addr, "", "")
        try:
            peer = await self._host.connect(addr)
        except KacheryError as error:
            self._found.setdefault((peer or addr, "hint"), _Named(peer, [where], "hint", 0.0, str(error)))
            return
        self._note(nursery, root, _Named(peer, [where], "hint", trio.current_time() - begun))

    async def _ask(self, root: CID, peer: str, addrs: tuple[str, ...]) -> None:
        async with self._slots:
            try:
                await self._finding.dial(peer, addrs, timeout=DIAL_TIMEOUT)
            except KacheryError as error:
                self._errors[peer] = str(error)
                return
            with trio.move_on_after(ANSWER_TIMEOUT) as late:
                self._has[peer] = await self._exchange.ask(peer, root)
            if late.cancelled_caught:
                self._errors[peer] = f"It is connected, and did not say within {ANSWER_TIMEOUT:g} s whether it has it."
            elif self._has[peer] is None:
                self._errors[peer] = "It left before it said whether it has it."
