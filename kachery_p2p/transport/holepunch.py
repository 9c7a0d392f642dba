"""Hole punching: two peers behind NATs that met through a relay try to meet without it (libp2p DCUtR).

The side to which the relayed connection came in begins. It first dials the other's public addresses, which needs no
trick when only one side is behind a NAT. If that fails, it opens a stream over the relay and sends CONNECT with the
addresses at which others see it; the answer has the other side's, and tells the round trip time; then SYNC, and half
a round trip later both dial. Each NAT takes the other's packet for an answer to its own side's, if it gives a port
the same outside address whomever it talks to, and if the dial leaves from the port that address belongs to: that is
why `Dialer` dials from the listening port. Up to three attempts; what came of it is reported either way.

In TCP both ends may then believe to have dialled, and somebody must play the server in the handshake. The
specification says: who began with CONNECT. go-libp2p does it the other way round (go-libp2p issue 3171; newer ones
follow the specification at first), so the third attempt swaps the parts, as theirs does (pull request 3457).
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p import multiaddrs
from kachery_p2p.errors import InvalidAddress, MalformedMessage, ProtocolNotSupported, StreamError
from kachery_p2p.transport import limits
from kachery_p2p.transport.addresses import parse_address
from kachery_p2p.transport.peers import Hook
from kachery_p2p.transport.relay.scope import is_loopback, is_public
from kachery_p2p.wire import (
    BYTES,
    VARINT,
    Schema,
    Source,
    bytes_field,
    delimited,
    fields,
    naming,
    number_field,
    read_delimited,
)

if TYPE_CHECKING:
    from kachery_p2p.transport.connection import Connection
    from kachery_p2p.transport.host import Host
    from kachery_p2p.transport.stream import Stream

log = logging.getLogger("kachery_p2p.transport")

DCUTR = "/libp2p/dcutr"
CONNECT, SYNC = 100, 300


@dataclass(frozen=True)
class HolePunchResult:
    """How an attempt to get a direct connection ended.

    Attributes:
        peer: peer ID, base58.
        ok: whether there is a direct connection.
        began: whether this side began with CONNECT.
        attempts: how often both dialled; 0 when plain dialling sufficed, or it did not come to that.
        rtt: seconds to the peer and back through the relay; 0.0 when not measured.
        why: in plain words.
    """

    peer: str
    ok: bool
    began: bool
    attempts: int
    rtt: float
    why: str


def encode_message(kind: int, addrs: Sequence[str] = ()) -> bytes:
    """A DCUtR message with its length in front."""
    body = number_field(1, kind) + b"".join(bytes_field(2, multiaddrs.to_binary(addr)) for addr in addrs)
    return delimited(body)


_MESSAGE = Schema({1: VARINT, 2: BYTES})


async def read_message(channel: Source, expected: int) -> list[str]:
    """Read a message of the kind that is due; the addresses in it.

    Raises:
        MalformedMessage: it is of another kind, or not a message.
        StreamError: the channel broke.
    """
    body = await read_delimited(channel, limits.MAX_PUNCH_MESSAGE, "A peer sent a hole punching message")
    kind = 0
    addrs: list[str] = []
    with naming("A hole punching message"):
        for number, value, part in fields(body, _MESSAGE):
            if number == 1:
                kind = value
            elif len(addrs) < limits.MAX_PUNCH_ADDRESSES:
                try:
                    addrs.append(multiaddrs.to_text(part))
                except InvalidAddress:
                    log.debug("an address in a hole punching message cannot be read")
    if kind != expected:
        raise MalformedMessage(f"A peer sent a hole punching message of type {kind} where {expected} was due.")
    return addrs


class HolePunch:
    """Turns relayed connections into direct ones.

    Args:
        host: of the node.
        addresses: gives the addresses at which others may see us, best first; what connected peers say they see when it
            is not given.
    """

    def __init__(self, host: Host, addresses: Callable[[], Sequence[str]] | None = None) -> None:
        self._host = host
        self._addresses = addresses or self._observed
        self._nursery: trio.Nursery | None = None
        self._active: set[str] = set()
        self._joins: dict[str, trio.CancelScope] = {}
        #: per peer that began: how many of its attempts we have seen, and when the last one was
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._counters: Counter[str] = Counter()
        self._last: OrderedDict[str, HolePunchResult] = OrderedDict()
        #: called with each result
        self.on_result: Hook[HolePunchResult] = Hook()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch for relayed connections until cancelled."""
        unsubscribe = self._host.on_connection.subscribe(self._look)
        self._host.set_handler(DCUTR, self._serve)
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._host.remove_handler(DCUTR)
            unsubscribe()

    def status(self) -> dict[str, Any]:
        """Counters and the last results, as plain JSON values."""
        return {
            "succeeded": self._counters["ok"],
            "failed": self._counters["failed"],
            "last": [vars(result) for result in self._last.values()],
        }

    def _report(self, result: HolePunchResult) -> None:
        log.info("hole punching with %s: %s", result.peer, result.why)
        self._counters["ok" if result.ok else "failed"] += 1
        self._last[result.peer] = result
        self._last.move_to_end(result.peer)
        if len(self._last) > limits.MAX_PUNCH_RESULTS:
            self._last.popitem(last=False)
        self.on_result.emit(result)

    # --- addresses -------------------------------------------------------------------------------------------------

    def _observed(self) -> list[str]:
        """What most peers say they see comes first."""
        table = self._host.table
        seen = Counter(table.peek(peer).observed for peer in self._host.connected())
        return [addr for addr, _ in seen.most_common() if addr]

    def _ours(self, loopback: bool) -> list[str]:
        """Addresses to tell a peer."""
        found = dict.fromkeys([*self._addresses(), *filter(is_public, self._host.transport_addresses())])
        return _dialable(found, loopback)[: limits.MAX_PUNCH_ADDRESSES]

    # --- the side that begins --------------------------------------------------------------------------------------

    def _look(self, connection: Connection) -> None:
        peer = connection.peer
        if connection.initiator or not connection.is_relayed or self._nursery is None or peer in self._active:
            return
        if len(self._active) < limits.MAX_PUNCHES:
            self._active.add(peer)
            self._nursery.start_soon(self._begin, connection)

    async def _begin(self, connection: Connection) -> None:
        peer = connection.peer
        try:
            result = await self._punch(connection)
        except (StreamError, trio.TooSlowError) as error:
            why = str(error) or "the peer did not answer in time"
            result = HolePunchResult(peer, False, True, 0, 0.0, why)
        except Exception:  # a bug in one attempt must not end the node
            log.exception("error while punching a hole to %s", peer)
            return
        finally:
            self._active.discard(peer)
        if result is not None:
            self._report(result)

    async def _punch(self, connection: Connection) -> HolePunchResult | None:
        host, peer = self._host, connection.peer
        await self._identified(peer)
        if host.is_direct(peer) or connection.is_closed:
            return None
        loopback = is_loopback(connection.address.partition("/p2p/")[0])
        public = [
            addr for addr in host.table.peek(peer).addresses if is_public(addr) or (loopback and is_loopback(addr))
        ]
        if public and await host.punch(peer, public, initiator=True, timeout=self._host.limits.punch_timeout):
            return HolePunchResult(peer, True, True, 0, 0.0, "the peer answered at its public address")
        rtt = 0.0
        for attempt in range(1, limits.PUNCH_ATTEMPTS + 1):
            ours = self._ours(loopback)
            if not ours:
                why = "nobody has told us at which address we are seen"
                return HolePunchResult(peer, False, True, attempt - 1, rtt, why)
            try:
                with trio.fail_after(limits.PUNCH_TALK_TIMEOUT):
                    async with await host.open_stream(peer, (DCUTR,)) as stream:
                        begun = trio.current_time()
                        await stream.write(encode_message(CONNECT, ours))
                        theirs = _dialable(await read_message(stream, CONNECT), loopback)
                        rtt = trio.current_time() - begun
                        await stream.write(encode_message(SYNC))
            except ProtocolNotSupported:
                return HolePunchResult(peer, False, True, 0, 0.0, "the peer does not punch holes")
            await trio.sleep(rtt / 2)
            # We began, so by the specification we are the server.
            initiator = attempt == limits.PUNCH_ATTEMPTS
            if await host.punch(peer, theirs, initiator=initiator, timeout=self._host.limits.punch_timeout):
                return HolePunchResult(peer, True, True, attempt, rtt, f"a direct connection at attempt {attempt}")
            if connection.is_closed:
                return HolePunchResult(peer, False, True, attempt, rtt, "the relayed connection was lost")
        why = "the NATs or firewalls in between do not let it through; the connection stays on the relay"
        return HolePunchResult(peer, False, True, limits.PUNCH_ATTEMPTS, rtt, why)

    async def _identified(self, peer: str) -> None:
        """Wait until the peer has said who it is, or long enough."""
        said = trio.Event()
        unsubscribe = self._host.on_identified.subscribe(lambda each: said.set() if each == peer else None)
        try:
            if not self._host.table.peek(peer).identified:
                with trio.move_on_after(limits.IDENTIFY_TIMEOUT):
                    await said.wait()
        finally:
            unsubscribe()

    # --- the other side --------------------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        """Handler of `DCUTR`."""
        connection = stream.connection
        if not connection.is_relayed or not connection.initiator or self._nursery is None:
            stream.abort("hole punching is for relayed connections, and the side that was called begins")
            return
        peer = stream.peer
        loopback = is_loopback(connection.address.partition("/p2p/")[0])
        theirs: list[str] | None = None
        rtt = 0.0
        with trio.move_on_after(limits.PUNCH_TALK_TIMEOUT) as talk:
            theirs = _dialable(await read_message(stream, CONNECT), loopback)
            begun = trio.current_time()
            await stream.write(encode_message(CONNECT, self._ours(loopback)))
            await read_message(stream, SYNC)
            rtt = trio.current_time() - begun
        if talk.cancelled_caught or theirs is None:
            stream.abort("the messages of hole punching did not come in time")
            return
        if peer in self._joins:
            self._joins[peer].cancel()  # the peer has given up that attempt
        elif len(self._joins) >= limits.MAX_PUNCHES:
            stream.abort("too many holes are being punched")
            return
        self._joins[peer] = scope = trio.CancelScope()
        # In a task of its own: the stream may end with its connection before the dial does.
        self._nursery.start_soon(self._join, scope, peer, theirs, self._count(peer), rtt)

    def _count(self, peer: str) -> int:
        """Which attempt of the peer this is."""
        count, when = self._seen.pop(peer, (0, 0.0))
        now = trio.current_time()
        count = count + 1 if now - when < limits.PUNCH_ROUND else 1
        self._seen[peer] = (count, now)
        if len(self._seen) > limits.MAX_PUNCH_RESULTS:
            self._seen.popitem(last=False)
        return count

    async def _join(self, scope: trio.CancelScope, peer: str, theirs: Sequence[str], attempt: int, rtt: float) -> None:
        ok = False
        try:
            with scope:
                initiator = attempt != limits.PUNCH_ATTEMPTS
                ok = await self._host.punch(peer, theirs, initiator=initiator, timeout=self._host.limits.punch_timeout)
        finally:
            if self._joins.get(peer) is scope:
                del self._joins[peer]
        if scope.cancelled_caught:
            return
        if ok:
            self._report(HolePunchResult(peer, True, False, attempt, rtt, f"a direct connection at attempt {attempt}"))
        elif attempt >= limits.PUNCH_ATTEMPTS:
            why = "the NATs or firewalls in between do not let it through; the connection stays on the relay"
            self._report(HolePunchResult(peer, False, False, attempt, rtt, why))


def _dialable(addrs: Sequence[str] | dict[str, None], loopback: bool) -> list[str]:
    """Those of IP addresses and TCP; on loopback only if the relay is there too (several nodes on one machine)."""
    found: list[str] = []
    for text in addrs:
        try:
            address = parse_address(text)
        except InvalidAddress:
            continue
        if address.kind in ("ip4", "ip6") and is_loopback(text) == loopback and "%" not in address.host:
            found.append(address.transport)
    return found
