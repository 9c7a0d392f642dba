"""Keeping members connected, so that lists spread and members find each other."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.membership import limits
from kachery_p2p.transport.limits import DIAL_TIMEOUT
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_p2p.membership.groups import Groups
    from kachery_p2p.transport.host import Host

log = logging.getLogger("kachery_p2p.membership")

Dial = Callable[[str, Sequence[str], float], Awaitable[object]]


class MemberKeeper:
    """Dials members that are away: a bounded number, and ever less often.

    Args:
        host: of the node.
        groups: of the node.
        dial: gets to a peer at some addresses, or wherever else it is known to be, within so many seconds.
        rng: chooses members of large groups.
    """

    def __init__(self, host: Host, groups: Groups, dial: Dial, rng: random.Random) -> None:
        self._host = host
        self._groups = groups
        self._dial = dial
        self._rng = rng
        self._wake = Flag()
        self._protected: set[str] = set()

    def wake(self) -> None:
        """Somebody came or went: look again, in a moment."""
        self._wake.set()

    async def run(self) -> None:
        """Connect to members that are known, some of them where they are many, and try again, ever less often."""
        pause = limits.RETRY_FIRST
        while True:
            missing = self._missing()
            slots = trio.Semaphore(limits.DIALS_AT_ONCE)
            async with trio.open_nursery() as nursery:
                for peer in missing:
                    nursery.start_soon(self._reach, peer, slots)
            kept = self._kept()
            for peer in self._protected - kept:
                self._host.unprotect(peer, "group")
            for peer in kept - self._protected:
                self._host.protect(peer, "group")
            self._protected = kept
            pause = min(2 * pause, limits.RETRY_MOST) if missing else limits.RETRY_FIRST
            with trio.move_on_after(pause) as waited:
                await self._wake.take()
                # Several changes come together; and who has just left is not called back at once.
                await trio.sleep(limits.RETRY_FIRST)
            if not waited.cancelled_caught:
                pause = limits.RETRY_FIRST

    def _members(self) -> set[str]:
        groups = self._groups
        return {peer for group in groups.own_groups() for peer in groups.members_of(group)}

    def _kept(self) -> set[str]:
        connected = set(self._host.connected())
        return set(sorted(self._members() & connected)[: limits.MAX_KEPT])

    def _missing(self) -> list[str]:
        members = self._members()
        connected = set(self._host.connected())
        room = limits.MAX_KEPT - len(members & connected)
        away = sorted(members - connected)
        if room <= 0 or not away:
            return []
        # Owners know most, and those of whom an address is known can be found.
        owners = {peer for each in self._groups.held() for peer in each.state.view.owners}
        away.sort(key=lambda peer: (peer not in owners, not self._groups.addresses_of(peer), self._rng.random()))
        return away[:room]

    async def _reach(self, peer: str, slots: trio.Semaphore) -> None:
        async with slots:
            try:
                await self._dial(peer, self._groups.addresses_of(peer), DIAL_TIMEOUT)
            except KacheryError as error:
                log.debug("%s", error)
