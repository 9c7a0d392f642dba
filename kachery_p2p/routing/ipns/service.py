"""Publishing names, resolving them, and keeping ours alive while the node runs.

Before anything of ours is sent, the newest record is looked for: the key may be on another machine, too, and the name
must not go back. All routes are asked side by side, and the newest valid record counts, whoever had it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio

from kachery_p2p.errors import ContentNotFound, InvalidName, KacheryError
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.routing.dht.records import IpnsRecord, newest, read_ipns
from kachery_p2p.routing.ipns import limits
from kachery_p2p.routing.ipns.limits import TIMES, IpnsTimes
from kachery_p2p.routing.ipns.making import make_record, next_terms
from kachery_p2p.routing.ipns.names import name_text, parse_name, routing_key
from kachery_p2p.routing.ipns.shelf import OwnName
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_p2p.repo.keys import NodeKey
    from kachery_p2p.routing.interfaces import ValueRoute
    from kachery_p2p.routing.ipns.seen import SeenRecords
    from kachery_p2p.routing.ipns.shelf import Shelf

log = logging.getLogger("kachery_p2p.routing")

_NS = 1_000_000_000

#: Gives the texts of a name of the DNS.
TxtRecords = Callable[[str], Awaitable[list[str]]]


@dataclass(frozen=True)
class Sent:
    """What became of a record that was published.

    Attributes:
        name: the binary peer ID.
        record: what was signed.
        copies: how many DHT servers and routers took it.
    """

    name: bytes
    record: bytes
    copies: int


@dataclass(frozen=True)
class Found:
    """Where a name leads.

    Attributes:
        path: `/ipfs/...`.
        names: the names on the way, the one that was asked for first, as they were written.
        record: of the last of them that is a key; None where there was none.
        fresh: whether it was heard now, or so lately that the record says it need not be asked for again.
        ttl: seconds for which it may be remembered, as the records on the way say.
    """

    path: str
    names: tuple[str, ...]
    record: IpnsRecord | None
    fresh: bool = True
    ttl: float = limits.UNSURE_TTL


class Signed(NamedTuple):
    """The newest valid record of a name.

    Attributes:
        raw: the record, as it was signed.
        record: what it says.
        fresh: whether it is as new as it claims to be.
        ttl: seconds for which it may be remembered from now on.
    """

    raw: bytes
    record: IpnsRecord
    fresh: bool
    ttl: float


class Names:
    """The names of a node.

    Args:
        shelf: our own names.
        seen: the newest records of all names.
        routes: who keeps records.
        txt: asks the DNS; None where its names are not to be resolved.
        may_tell: says of a path whether everybody may know it, which is what a record tells them.
        wall: seconds since the epoch.
        times: how long things take.

    It runs once: `await nursery.start(names.run)`.
    """

    def __init__(
        self,
        shelf: Shelf,
        seen: SeenRecords,
        routes: Sequence[ValueRoute],
        *,
        txt: TxtRecords | None = None,
        may_tell: Callable[[str], Awaitable[bool]] | None = None,
        wall: Callable[[], float] = time.time,
        times: IpnsTimes = TIMES,
    ) -> None:
        self._shelf = shelf
        self._seen = seen
        self._routes = routes
        self._txt = txt
        self._may_tell = may_tell
        self._wall = wall
        self._times = times
        self._woken = Flag()
        #: One at a time for each key: the number of the next record follows from the one before.
        self._turns: dict[str, trio.Lock] = {}

    @property
    def routes(self) -> int:
        """How many routes there are."""
        return len(self._routes)

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(self, key: str, path: str, *, ttl: float, timeout: float) -> Sent:
        """Let a name point to a content path.

        Args:
            key: the name of a key, which is made where it is missing; "self" is the machine's own.
            path: `/ipfs/...`.
            ttl: seconds for which others may remember it without asking again.
            timeout: seconds that the search for an older record, and then the sending, may take.

        Raises:
            InvalidName: a key cannot be called that.
            InvalidRecord: the path is too long.
            KacheryError: the key cannot be made, or the record not be written.

        Where nobody takes it now (`copies` is 0) it is sent as soon as there is somebody.
        """
        node_key = await trio.to_thread.run_sync(lambda: self._shelf.key(key, make=True))
        assert node_key is not None
        name = peer_bytes(node_key.peer_id)
        value = path.encode()
        async with self._turn(key):
            before = await self._newest_of_own(key, name, timeout)
            record = self._sign(node_key, value, before, int(ttl * _NS))
            await trio.to_thread.run_sync(self._shelf.put, key, record)
            copies = await self._send(key, name, record, timeout)
        self._woken.set()
        return Sent(name, record, copies)

    def _sign(self, key: NodeKey, value: bytes, before: IpnsRecord | None, ttl: int) -> bytes:
        now = int(self._wall() * _NS)
        return make_record(key.seed, value, next_terms(value, before, now, int(limits.LIFETIME * _NS)), ttl)

    async def _newest_of_own(self, key: str, name: bytes, timeout: float) -> IpnsRecord | None:
        """The newest record of a name of ours, here or anywhere; of the one here it does not matter how old it is."""
        heard = await self._ask(name, timeout)
        own = await trio.to_thread.run_sync(self._shelf.own, key)
        seen = self._seen.get(name)
        here = [each for each in (own and own.record, seen and seen[0], heard) if each]
        best = newest(name, here)
        return None if best is None else read_ipns(name, best)

    async def _send(self, key: str, name: bytes, record: bytes, timeout: float) -> int:
        """Give a record of ours to all routes; how many took it."""
        self._seen.put(name, record, self._wall())
        taken: list[int] = []

        async def put(route: ValueRoute) -> None:
            try:
                taken.append(await route.put_value(routing_key(name), record))
            except KacheryError as error:
                log.debug("a name is not sent to %s: %s", route.name, error)

        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                for route in self._routes:
                    nursery.start_soon(put, route)
        copies = sum(taken)
        if copies:
            await trio.to_thread.run_sync(self._shelf.taken, key, record, self._wall())
        return copies

    def _turn(self, key: str) -> trio.Lock:
        return self._turns.setdefault(key, trio.Lock())

    # --- keeping alive -----------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sign and send our names again, before others forget them, until cancelled."""
        task_status.started()
        pause = self._times.retry_first
        while True:
            self._woken.clear()
            due, waiting = await self._keep_all()
            if waiting:
                due = min(due, self._wall() + pause)
            pause = min(2 * pause, self._times.retry_most) if waiting else self._times.retry_first
            while not self._woken and self._wall() < due:
                # By the clock of the wall, which goes on while a laptop sleeps: so it is looked at now and then.
                with trio.move_on_after(min(due - self._wall(), self._times.look)):
                    await self._woken.take()
                    break

    async def _keep_all(self) -> tuple[float, bool]:
        """One look at all names: when the next is due, and whether one of them was taken by nobody."""
        if not self._routes:
            return math.inf, False
        try:
            names = await trio.to_thread.run_sync(self._shelf.published)
        except KacheryError as error:
            log.warning("the names of this machine cannot be read: %s", error)
            return self._wall() + self._times.republish, False
        due, waiting = math.inf, False
        for own in names:
            now = self._wall()
            again = own.taken_at + self._times.republish
            if not own.taken_at <= now < again:
                again = self._wall() + self._times.republish
                try:
                    waiting |= not await self._keep(own)
                except KacheryError as error:
                    log.warning("the name %s cannot be kept alive: %s", name_text(own.name), error)
            due = min(due, again)
        return due, waiting

    async def _keep(self, own: OwnName) -> bool:
        """Sign and send one again; whether anybody took it."""
        async with self._turn(own.key):
            key = await trio.to_thread.run_sync(lambda: self._shelf.key(own.key, make=False))
            current = await trio.to_thread.run_sync(self._shelf.own, own.key)
            if key is None or current is None or current.record is None:
                return True  # it has gone meanwhile
            mine = read_ipns(own.name, current.record)
            best = await self._newest_of_own(own.key, own.name, self._times.keep) or mine
            # One that nobody has taken yet is what was said last here. Else whoever has the key has said more since.
            value = mine.value if not current.taken_at else best.value
            if not await self._may_be_told(value):
                # It was published when everybody could have it. What is out expires; nothing new is said.
                log.info("the name %s is not sent again: what it points to is not for everybody", name_text(own.name))
                return True
            record = self._sign(key, value, best, mine.ttl if value == mine.value else best.ttl)
            await trio.to_thread.run_sync(self._shelf.put, own.key, record)
            copies = await self._send(own.key, own.name, record, self._times.keep)
        log.info("the name %s was sent again; taken by %d", name_text(own.name), copies)
        return copies > 0

    async def _may_be_told(self, value: bytes) -> bool:
        return self._may_tell is None or await self._may_tell(value.decode("utf-8", "replace"))

    def look_again(self) -> None:
        """Who may know what has changed: what was not sent may be sent now."""
        self._woken.set()

    # --- resolving ---------------------------------------------------------------------------------------------------

    async def resolve(self, text: str, *, timeout: float) -> Found:
        """Where a name leads, through as many names as there are on the way.

        Args:
            text: a name: a key in any form, or a name of the DNS; perhaps with a path behind it.
            timeout: seconds, for all of it.

        Raises:
            InvalidName: it is no name, leads in a circle, or to something that is no content.
            ContentNotFound: nobody has a record of it that is valid.
        """
        names: list[str] = []
        record: IpnsRecord | None = None
        fresh = True
        ttl = limits.MAX_TTL
        end = trio.current_time() + timeout
        rest = ""
        at = text
        while True:
            head, slash, tail = at.partition("/")
            rest = slash + tail + rest
            if head in names or len(names) >= limits.MAX_DEPTH:
                raise InvalidName(f"The name {text} leads from name to name and to no content.")
            names.append(head)
            name = parse_name(head)
            left = max(0.0, end - trio.current_time())
            if name is None:
                path = await self._dns(head, left)
                ttl = min(ttl, limits.UNSURE_TTL)
            else:
                signed = await self._record(name, head, left)
                record = signed.record
                fresh &= signed.fresh
                ttl = min(ttl, signed.ttl)
                path = _text(record.value, head)
            if path.startswith("/ipns/"):
                at = path.removeprefix("/ipns/").rstrip("/")
                continue
            if path.startswith("/ipfs/"):
                return Found(path.rstrip("/") + rest, tuple(names), record, fresh, ttl)
            raise InvalidName(f"The name {head} leads to {path[:200]!r}, which is no content (/ipfs/... or /ipns/...).")

    async def record(self, text: str, *, timeout: float) -> Signed:
        """The newest record of a name, whatever it points to.

        Args:
            text: the name of a key, in any form.
            timeout: seconds.

        Raises:
            InvalidName: it is no such name.
            ContentNotFound: nobody has a record of it that is valid.
        """
        name = parse_name(text)
        if name is None:
            raise InvalidName(f"{text[:100]!r} is not the name of a key: one looks like k51qzi5uqu5d... or 12D3KooW...")
        return await self._record(name, text, timeout)

    async def owns(self, text: str) -> bool:
        """Whether a name is one of this machine: that of one of its keys."""
        name = parse_name(text)
        return name is not None and await trio.to_thread.run_sync(self._shelf.by_name, name) is not None

    async def _record(self, name: bytes, text: str, timeout: float) -> Signed:
        now = self._wall()
        seen = self._seen.get(name)
        known = _valid(name, [seen[0]] if seen is not None else [], now)
        if seen is not None and known is not None:
            record = read_ipns(name, known)
            until = seen[1] + min(record.ttl / _NS, limits.MAX_TTL)
            if seen[1] <= now < until:
                return _signed(known, record, True, until - now, now)
        own = await trio.to_thread.run_sync(self._shelf.by_name, name)
        mine = own.record if own is not None else None
        heard = await self._ask(name, timeout)
        now = self._wall()
        # What was seen before counts, too: who sends an older one, by mistake or on purpose, is not believed.
        best = _valid(name, [each for each in (mine, known, heard) if each is not None], now)
        if best is None:
            late = "" if seen is None and mine is None else " The one that was known has expired."
            raise ContentNotFound(
                f"Nobody who was asked has a valid record of the name {text}.{late} A node of whoever publishes it has "
                "to have run in the last two days."
            )
        confirmed = heard is not None or mine is not None
        if confirmed:
            self._seen.put(name, best, now)
        record = read_ipns(name, best)
        ttl = min(record.ttl / _NS, limits.MAX_TTL) if confirmed else limits.UNSURE_TTL
        return _signed(best, record, confirmed, ttl, now)

    async def _ask(self, name: bytes, timeout: float) -> bytes | None:
        """The newest record that the routes have; None where none has one, or none answers in time."""
        found: list[bytes] = []
        with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:

            def take(value: bytes) -> None:
                found.append(value)
                scope.deadline = min(scope.deadline, trio.current_time() + self._times.linger)

            async def ask(route: ValueRoute) -> None:
                try:
                    await route.get_value(routing_key(name), take)
                except KacheryError as error:
                    log.debug("%s cannot be asked for a name: %s", route.name, error)

            async with trio.open_nursery() as nursery:
                for route in self._routes:
                    nursery.start_soon(ask, route)
        return newest(name, found)

    async def _dns(self, domain: str, timeout: float) -> str:
        """Where a name of the DNS leads (DNSLink: https://dnslink.dev)."""
        if "." not in domain or len(domain) > 253:
            raise InvalidName(
                f"{domain[:100]!r} is not the name of a key: one looks like k51qzi5uqu5d... or 12D3KooW..."
            )
        if self._txt is None:
            raise InvalidName(
                f"{domain} is a name of the DNS, and public services are switched off here (KACHERY_CLOUD_PUBLIC), so "
                "it is not looked up. Use the name of a key: ipns://k51..."
            )
        texts: list[str] = []
        with trio.move_on_after(timeout):
            try:
                texts = await self._txt(f"_dnslink.{domain}")
            except KacheryError as error:
                raise ContentNotFound(f"The DNS does not say where {domain} leads: {error}.") from error
        links = sorted(
            text.removeprefix("dnslink=") for text in texts if text.startswith(("dnslink=/ipfs/", "dnslink=/ipns/"))
        )
        if not links:
            raise ContentNotFound(f"The DNS does not say where {domain} leads (no TXT record at _dnslink.{domain}).")
        return links[0]


def _signed(raw: bytes, record: IpnsRecord, fresh: bool, ttl: float, now: float) -> Signed:
    return Signed(raw, record, fresh, max(0.0, min(ttl, record.valid_until / _NS - now)))


def _valid(name: bytes, values: Sequence[bytes], now: float) -> bytes | None:
    """The newest of some records that has not expired; None where there is none."""
    return newest(name, [each for each in values if read_ipns(name, each).valid_until > now * _NS])


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidName(f"The name {name} leads to bytes that are no text.") from None
