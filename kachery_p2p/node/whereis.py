"""Who has a root: every source is asked, and every peer that is named must show that it has it.

A provider record may be old, and that a machine is on the local network says nothing of what it has. So each peer is
dialled and asked whether it has the root block. Each answers for itself, and nothing is fetched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.transport.limits import DIAL_TIMEOUT

if TYPE_CHECKING:
    from kachery_p2p.bitswap.exchange import Exchange
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.discovery import Finding
    from kachery_p2p.transport.host import Host

#: Peers asked at once, and in all.
ASKED_AT_ONCE = 16
MOST_PEERS = 128
#: Seconds for the answer of one.
ANSWER_TIMEOUT = 10.0


class Whereis:
    """One question. Use once."""

    def __init__(self, host: Host, exchange: Exchange, finding: Finding) -> None:
        self._host = host
        self._exchange = exchange
        self._finding = finding
        self._slots = trio.Semaphore(ASKED_AT_ONCE)
        self._found: dict[tuple[str, str], dict[str, Any]] = {}
        self._has: dict[str, bool | None] = {}
        self._errors: dict[str, str] = {}

    async def run(self, root: CID, timeout: float, hints: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Ask for at most ``timeout`` seconds.

        Args:
            hints: multiaddrs of peers to ask, whoever else is found.

        Returns:
            For each peer and source: ``peer``; ``addrs`` as the source named them; ``source``; ``seconds`` after which
            it was named; ``connected``; ``round_trip_ms`` or None; ``has``: True, False, or None when it could not be
            asked or did not answer; ``error`` then says why. Those that have it come first.
        """
        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                for addr in hints:
                    nursery.start_soon(self._ask_hint, nursery, root, addr)
                for peer in self._host.connected():
                    self._note(nursery, root, peer, (), "connected", 0.0)
                async with contextlib.aclosing(self._finding.sightings(root)) as sightings:
                    async for each in sightings:
                        provider = each.provider
                        self._note(nursery, root, provider.peer, provider.addrs, provider.source, each.seconds)
        trips = {each.peer: each.round_trip for each in self._host.connections() if each.round_trip}
        connected = set(self._host.connected())
        for entry in self._found.values():
            peer = entry["peer"]
            entry["connected"] = peer in connected
            entry["round_trip_ms"] = round(1000 * trips[peer], 1) if peer in trips else None
            entry["has"] = self._has.get(peer)
            if entry["has"] is None:
                entry.setdefault("error", self._errors.get(peer, "It did not answer in time."))
        order = {True: 0, None: 1, False: 2}
        return sorted(self._found.values(), key=lambda entry: (order[entry["has"]], entry["seconds"]))

    def _note(
        self, nursery: trio.Nursery, root: CID, peer: str, addrs: tuple[str, ...], source: str, seconds: float
    ) -> None:
        entry = self._found.get((peer, source))
        if entry is not None:
            entry["addrs"] = list(dict.fromkeys([*entry["addrs"], *addrs]))
            return
        if len(self._has) >= MOST_PEERS and peer not in self._has:
            return
        self._found[peer, source] = {"peer": peer, "addrs": list(addrs), "source": source, "seconds": seconds}
        if peer not in self._has:
            self._has[peer] = None
            nursery.start_soon(self._ask, root, peer, addrs)

    async def _ask_hint(self, nursery: trio.Nursery, root: CID, addr: str) -> None:
        begun = trio.current_time()
        where, _, peer = addr.rpartition("/p2p/") if "/p2p/" in addr else (addr, "", "")
        try:
            peer = await self._host.connect(addr)
        except KacheryError as error:
            self._found.setdefault(
                (peer or addr, "hint"),
                {"peer": peer, "addrs": [where], "source": "hint", "seconds": 0.0, "error": str(error)},
            )
            return
        self._note(nursery, root, peer, (where,), "hint", trio.current_time() - begun)

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
