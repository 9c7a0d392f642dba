"""Newcomers of the LAN are given what they should have and do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from kachery_p2p.errors import InvalidAddress
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.routing.dht.sweep import REGION_KEYS
from kachery_p2p.routing.provide import limits
from kachery_p2p.routing.provide.batch import Sender
from kachery_p2p.routing.provide.state import AnnounceState

log = logging.getLogger("kachery_p2p.routing")


@dataclass(slots=True)
class _Newcomer:
    """A peer that is to be greeted: keys added after `since` and announced before it arrived are new to it."""

    since: float
    arrived: float
    tries: int = 0
    not_before: float = 0.0


class Greeter:
    """Watches who is there.

    A peer that is present gets new keys like everybody, as they are announced; so it is up to date until the moment it
    is last seen. When it comes back, it is given what was added since; a peer never seen, or not for an interval, is
    given everything.

    To mark the keys as due again would be less code, but another thing. All peers would be told all keys once more for
    each notebook that is opened, also one that was away for five minutes; keys that are well announced would count as
    waiting; and in a network of more peers than a record has copies, only the nearest ones would be told.
    """

    def __init__(self, sender: Sender, state: AnnounceState, wall: Callable[[], float]) -> None:
        self._sender = sender
        self._state = state
        self._wall = wall
        self._name = sender.target.name
        #: Up to when each peer has what it should have.
        self._given = state.given(self._name)
        self._unsaved: set[bytes] = set()
        self._saved_at = 0.0
        self._present: set[bytes] = set()
        self._newcomers: dict[bytes, _Newcomer] = {}

    def look(self) -> None:
        """Note who came and who left."""
        now = self._wall()
        current: set[bytes] = set()
        for peer in self._sender.target.peers():
            try:
                current.add(peer_bytes(peer))
            except InvalidAddress:
                log.debug("no peer ID: %r", peer)
        for peer in current - self._present:
            given = self._given.get(peer, 0.0)
            since = given if now - given < limits.INTERVAL else 0.0
            self._newcomers[peer] = _Newcomer(since, now)
        for peer in self._present - current:
            self._newcomers.pop(peer, None)
        self._present = current
        for peer in current - self._newcomers.keys():
            self._given[peer] = now
            self._unsaved.add(peer)

    def missed(self, peers: Iterable[bytes]) -> None:
        """These did not take what they were to have: they are given everything when there is an opportunity."""
        for peer in peers:
            self._given.pop(peer, None)
            if peer in self._present and peer not in self._newcomers:
                pause = trio.current_time() + limits.RETRY_FIRST
                self._newcomers[peer] = _Newcomer(0.0, self._wall(), not_before=pause)

    async def round(self) -> None:
        """Look, and greet whoever is new."""
        self.look()
        now = trio.current_time()
        if len(self._present) > limits.MAX_GREETED:
            self._newcomers.clear()
        todo = {peer: each for peer, each in self._newcomers.items() if each.not_before <= now}
        if todo:
            await self._greet(todo)
        if self._unsaved and (todo or now - self._saved_at >= limits.SAVE_EVERY):
            self._saved_at = now
            given = {peer: self._given[peer] for peer in self._unsaved if peer in self._given}
            self._unsaved.clear()
            await trio.to_thread.run_sync(self._state.set_given, self._name, given)

    async def _greet(self, todo: dict[bytes, _Newcomer]) -> None:
        begun = self._wall()
        refused: set[bytes] = set()
        after: tuple[int, bytes] = (-1, b"")
        added_after = min(each.since for each in todo.values())
        announced_before = max(each.arrived for each in todo.values())
        while True:
            rows = await trio.to_thread.run_sync(
                self._state.announced_page, self._name, after, added_after, announced_before, REGION_KEYS
            )
            if not rows or refused >= todo.keys():
                break
            after = (rows[-1][0], rows[-1][1])
            times = {row[1]: (row[2], row[3]) for row in rows}

            def wants(peer: bytes, key: bytes, times: dict[bytes, tuple[float, float]] = times) -> bool:
                added, announced = times[key]
                return added >= todo[peer].since and announced < todo[peer].arrived

            outcome = await self._sender.send(list(times), only=todo, wants=wants)
            refused |= outcome.refused
            if len(outcome.met) < self._sender.size.k and len(outcome.absent) < len(times):
                # The others are all there are: who is not among them did not answer.
                refused |= todo.keys() - outcome.met
        for peer, each in todo.items():
            if self._newcomers.get(peer) is not each:
                continue  # it left meanwhile, or came again
            if peer not in refused:
                del self._newcomers[peer]
                self._given[peer] = begun
                self._unsaved.add(peer)
                continue
            each.tries += 1
            if each.tries >= limits.GREET_TRIES:
                del self._newcomers[peer]
                self._given.pop(peer, None)
            else:
                each.not_before = trio.current_time() + limits.RETRY_FIRST * 2 ** (each.tries - 1)
