"""What only the clock tells: stalled peers, wants that a peer skips, and the endgame. Sans-IO.

A peer that owes blocks and gives no sign of life for some seconds is stalled: what others can deliver goes to them.
What nobody else has stays with it, and after a pause it is asked once more, on a fresh stream, with one block of
trust; each time the pause doubles, until it delivers.
"""

from __future__ import annotations

import heapq

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.asks import Asks
from kachery_p2p.bitswap.link import PeerLink
from kachery_p2p.bitswap.schedule import Scheduler
from kachery_p2p.bitswap.session import Ask, PeerState, Session

#: Seconds between looks at single wants: they wait for many seconds anyway.
_SKIP_TICK = 1.0


class SessionWatch:
    """Called ten times a second while blocks are under way."""

    def __init__(self, asks: Asks, scheduler: Scheduler) -> None:
        self._asks = asks
        self._scheduler = scheduler
        self._due = 0.0
        #: Whether the next look was asked for by its time, and whether it came too late to judge anybody.
        self._armed = False
        self._overslept = False
        self._skips_due = 0.0
        self._forgive: list[tuple[float, int, bytes, PeerLink]] = []
        self._count = 0

    def deadline(self) -> float | None:
        """When `tick` is due; None while there is nothing to watch."""
        due = self._forgive[0][0] if self._forgive else None
        asks = self._asks
        self._armed = bool(
            asks.in_flight
            or any(link.stalled or link.probes for link in asks.links.values())
            or any(
                (session.standby is not None or session.fellows) and session.wanted
                for session in asks.sessions.values()
            )
        )
        if self._armed:
            due = self._due if due is None else min(due, self._due)
        return due

    def tick(self, now: float) -> None:
        """Look at everything, if it is time."""
        self._forgive_skips(now)
        if now < self._due:
            return
        # This node did not run for some time. What came meanwhile lies in its sockets, and has to be taken from there
        # before it can be said who is slow. On a machine that is always late, every second look counts.
        self._overslept = self._armed and now - self._due > limits.TICK and not self._overslept
        self._due = now + limits.TICK
        links = list(self._asks.links.values())
        busy = [link for link in links if link.block_asks]
        total = sum(link.window for link in busy)
        self._scheduler.scale = min(1.0, limits.MAX_IN_FLIGHT / total) if total else 1.0
        for link in busy:
            if link.stalled:
                self._rescue(link, now)
            else:
                self._check_stall(link, now)
        self._watch_gateways(now)
        for link in links:
            if link.stalled and now >= link.retry_at:
                self._retry(link, now)
        if self._overslept:
            return
        if now >= self._skips_due:
            self._skips_due = now + _SKIP_TICK
            for link in links:
                if link.connected and not link.stalled:
                    self._check_skipped(link, now)
                    self._check_probes(link, now)
        for session in self._asks.sessions.values():
            if session.wanted and session.fellows:
                self._judge_fellows(session, now)
            if session.wanted and self._asks.in_flight:
                self._endgame(session, now)

    # --- stalls ----------------------------------------------------------------------------------------------------

    def _check_stall(self, link: PeerLink, now: float) -> None:
        oldest = next((ask for ask in link.asks.values() if ask.live), None)
        if oldest is None or not oldest.sent or self._overslept:
            return
        unproven = not link.presence and link.blocks == 0
        if unproven or link.silent_for(now) <= link.patience(max(oldest.charge, 1)):
            return
        link.silent(now)
        self._rescue(link, now)

    def _rescue(self, link: PeerLink, now: float) -> None:
        """Take from a stalled peer what somebody else can deliver; the rest stays, it may come yet."""
        for ask in [ask for ask in link.asks.values() if ask.live]:
            if self._asks.others(link, ask.want):
                self._asks.give_up(ask, now, tell=True)

    def _retry(self, link: PeerLink, now: float) -> None:
        """Another chance, with one block, on a fresh stream that carries all that is still wanted of it."""
        link.stalled = False
        link.fresh(now)
        link.probation = True
        for ask in link.asks.values():
            ask.at = now
        if link.asks:
            self._asks.outboxes.start_over(link)
        self._asks.dirty.add(link)

    def _watch_gateways(self, now: float) -> None:
        """The same for gateways. One that nothing is wanted of is not looked at: its rest takes no time."""
        for link in self._asks.gateways.values():
            if not link.members:
                continue
            if not link.stalled:
                if link.block_asks:
                    self._check_stall(link, now)
            elif now >= link.retry_at:
                link.stalled = link.resting = False
                link.fresh(now)
                link.probation = True
            elif not link.resting:
                self._rescue(link, now)
            was = link.connected
            link.look(now)
            for session in link.members:
                if link.connected != was:
                    session.check_all()
        for session in self._asks.sessions.values():
            if session.standby is not None and session.wanted:
                session.standby.judge(now, session.buffered)
                if now < session.standby.begins:
                    self._due = min(self._due, session.standby.begins)
                self._asks.dirty.update(session.gateways)

    # --- skipped wants ---------------------------------------------------------------------------------------------

    def _check_skipped(self, link: PeerLink, now: float) -> None:
        """Wants that a peer passes over while it delivers others, or that an old peer has no words to decline."""
        wait = limits.SKIPPED_WANT_SECONDS if link.presence else limits.LEGACY_DONT_HAVE_SECONDS
        for ask in list(link.asks.values()):
            if not ask.live or not ask.sent:
                continue
            if now - ask.at <= max(wait, 4 * ask.expected()):
                continue
            want = ask.want
            if link.presence and not self._asks.others(link, want):
                self._asks.repeat(ask, now)
                continue
            want.lacking.add(link)
            if link.presence:  # an older peer has no other way to say that it does not have it
                want.skipped.add(link)
            self._count += 1
            heapq.heappush(self._forgive, (now + limits.FORGIVE_SECONDS, self._count, want.multihash, link))
            for session in want.sessions:
                member = session.members.get(link)
                if member is not None:
                    member.negative()
            self._asks.give_up(ask, now, tell=True)
            for session in want.sessions:
                session.orphans[want.multihash] = want

    def _check_probes(self, link: PeerLink, now: float) -> None:
        """Questions without an answer are asked again, if nobody else delivers the block in the meantime."""
        for ask in link.asks.values():
            if (
                not ask.block
                and not ask.declined
                and ask.sent
                and ask.want.in_flight == 0
                and now - ask.at > limits.SKIPPED_WANT_SECONDS
            ):
                self._asks.repeat(ask, now)

    def _forgive_skips(self, now: float) -> None:
        """What a peer skipped some time ago it may be asked for again."""
        while self._forgive and self._forgive[0][0] <= now:
            _, _, multihash, link = heapq.heappop(self._forgive)
            want = self._asks.wants.get(multihash)
            if want is not None and link in want.lacking and link not in want.asks:
                self._asks.forgive(want, link)
                for session in want.sessions:
                    self._asks.returned(want, session)

    # --- who loads the same ----------------------------------------------------------------------------------------

    def _judge_fellows(self, session: Session, now: float) -> None:
        """When all that is left is for fellows to fetch, and they bring nothing, it is fetched from the source."""
        fellows = session.fellows
        if session.outstanding or session.buffered:
            fellows.idle_since = now
            return
        rates = [link.rate for link in session.members if link.usable and link not in fellows]
        rate, size = max(rates, default=0.0), max((want.claimed for want in fellows.left), default=0)
        if now - fellows.idle_since <= max(limits.FELLOW_SECONDS, 2 * size / rate if rate > 0 else 0.0):
            return
        fellows.idle_since = now
        for link in fellows.links:
            if not link.usable or not session.members[link].has:
                fellows.remove(link, useless=True)
                session.members[link].is_fellow = False
        session.divide_anew()
        self._asks.mark(session)

    # --- the endgame -----------------------------------------------------------------------------------------------

    def _endgame(self, session: Session, now: float) -> None:
        """Let idle fast peers fetch what slow ones still owe, when nothing else is left to ask."""
        idle = [
            link
            for link, member in session.members.items()
            if link.usable
            and link.rate > 0
            and member.state is PeerState.PROBABLE
            and self._scheduler.choose(member) is None
        ]
        if not idle:
            return
        idle.sort(key=lambda link: -link.rate)
        gain, margin = limits.ENDGAME_GAIN, limits.ENDGAME_MARGIN
        if session.fellows:
            # The source is idle because it shall be, and the end is when nothing is left to the fellows.
            if any(want.in_flight == 0 for want in session.in_order()):
                return
            gain, margin = 2 * gain, limits.FELLOW_SECONDS
        late: list[tuple[float, int, Ask]] = []
        for want in session.in_order():
            if 0 < want.in_flight < limits.MAX_COPIES:
                holder = next(ask for ask in want.asks.values() if ask.live and not ask.link.gateway)
                late.append((_seconds_left(holder, now), len(late), holder))
        # Those that are furthest from coming: a peer that sends in order is not overtaken where it is just now.
        for left, _, holder in sorted(late, reverse=True):
            if session.copies < 1:
                return
            want = holder.want
            size = session.expected_size(want)
            for link in idle:
                if link is holder.link or link in want.lacking or link.room(self._scheduler.scale, size) < size:
                    continue
                if left > gain * link.seconds_for(size) + margin:
                    self._asks.ask(want, link, session, now, block=True)
                    want.asks[link].copy = True
                    session.earn(-1)
                    break


def _seconds_left(ask: Ask, now: float) -> float:
    """When an ask may be answered, in seconds from now; what is overdue will take as long again."""
    age = now - ask.at
    if ask.link.rate <= 0:
        # Nothing is known of this peer, not even after some time: then it is slow.
        return age if age > limits.ENDGAME_UNKNOWN_SECONDS else 0.0
    expected = ask.expected()
    return expected - age if expected > age else age
