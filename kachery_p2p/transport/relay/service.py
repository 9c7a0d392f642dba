"""Being a relay: who may reserve, who may have a circuit, and the copying between the two ends.

Copying moves the pieces that came in from one stream's queue to the other's, neither joined nor copied in between,
and reads on only when they are on their way: the slower end sets the pace of the faster one through the window of
its stream, so a circuit holds what its windows allow and nothing more.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p import multiaddrs
from kachery_p2p.errors import MalformedMessage, StreamError
from kachery_p2p.groups import group_of, most_crowded
from kachery_p2p.peer_ids import is_peer_id, peer_bytes, peer_text
from kachery_p2p.protocols import CIRCUIT
from kachery_p2p.transport.addresses import parse_address
from kachery_p2p.transport.relay import limits
from kachery_p2p.transport.relay.messages import (
    HOP,
    STOP,
    Limit,
    RelayMessage,
    RelayMessageType,
    Reserved,
    Status,
    encode,
    read_message,
    seal_voucher,
)

if TYPE_CHECKING:
    from kachery_p2p.transport.host import Host
    from kachery_p2p.transport.stream import Stream

log = logging.getLogger("kachery_p2p.transport")

_TAG = "relay reservation"


@dataclass(frozen=True)
class RelayLimits:
    """What a relay gives.

    Attributes:
        reservations: peers that may hold one at a time.
        reservations_per_ip: of them, those that come from one IP address (IPv6: one /64).
        circuits: at a time, all together.
        circuits_per_peer: at a time, begun by one peer or ending at it.
        seconds: that a stranger's circuit may last; 0 for no limit.
        bytes: that a stranger's circuit may carry each way; 0 for no limit.
        reservation_seconds: that a reservation lasts.
        message_timeout: for the first message of a stream.
        stop_timeout: for the other side to accept a circuit.
        watch_interval: so often a circuit is looked at for an end that left.
    """

    reservations: int = limits.MAX_RESERVATIONS
    reservations_per_ip: int = limits.MAX_RESERVATIONS_PER_IP
    circuits: int = limits.MAX_CIRCUITS
    circuits_per_peer: int = limits.MAX_CIRCUITS_PER_PEER
    seconds: float = limits.STRANGER_SECONDS
    bytes: int = limits.STRANGER_BYTES
    reservation_seconds: float = limits.RESERVATION_SECONDS
    message_timeout: float = limits.MESSAGE_TIMEOUT
    stop_timeout: float = limits.STOP_TIMEOUT
    watch_interval: float = limits.WATCH_INTERVAL


@dataclass
class RelayCounters:
    """What has happened since the start."""

    reserved: int = 0
    refused: int = 0
    circuits: int = 0
    failed: int = 0
    bytes: int = 0


@dataclass
class _Slot:
    ip: str  # see `group_of`
    expires: float  # trio clock


class RelayService:
    """Relays for others, from construction to `close`; `run` sweeps, and closes when it is cancelled.

    Args:
        host: of the node.
        allow: which peers may reserve or begin circuits; everybody when it is not given.
        is_friend: peers whose circuits have no limits, whichever end of them they are.
        settings: limits for the others.
    """

    def __init__(
        self,
        host: Host,
        *,
        allow: Callable[[str], bool] = lambda peer: True,
        is_friend: Callable[[str], bool] = lambda peer: False,
        settings: RelayLimits | None = None,
    ) -> None:
        self._host = host
        self._allow = allow
        self._is_friend = is_friend
        self.settings = settings or RelayLimits()
        self.counters = RelayCounters()
        self._slots: dict[str, _Slot] = {}
        self._circuits: Counter[str] = Counter()
        self._open = 0
        self._unsubscribe = host.on_disconnected.subscribe(self._release)
        host.set_handler(HOP, self._serve)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled."""
        task_status.started()
        try:
            while True:
                await trio.sleep(limits.SWEEP_INTERVAL)
                self._sweep()
        finally:
            self.close()

    def close(self) -> None:
        """Take no more requests, and forget the reservations. Circuits go on until their ends close them."""
        self._host.remove_handler(HOP)
        self._unsubscribe()
        for peer in list(self._slots):
            self._release(peer)

    def status(self) -> dict[str, Any]:
        """Reservations and circuits of now, and counters, as plain JSON values."""
        self._sweep()
        return {"reservations": len(self._slots), "open_circuits": self._open, **vars(self.counters)}

    def _sweep(self) -> None:
        now = trio.current_time()
        for peer, slot in list(self._slots.items()):
            if slot.expires <= now:
                self._release(peer)

    def _release(self, peer: str) -> None:
        if self._slots.pop(peer, None) is not None:
            self._host.unprotect(peer, _TAG)

    # --- requests --------------------------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        """Handler of `HOP`."""
        request: RelayMessage | None = None
        try:
            with trio.move_on_after(self.settings.message_timeout):
                request = await read_message(stream, HOP)
        except MalformedMessage as error:
            log.debug("%s", error)
            await self._answer(stream, Status.MALFORMED_MESSAGE)
            return
        if request is None:
            stream.abort("no request came")
        elif stream.connection.is_relayed:  # a relay behind a relay: nobody could tell who pays
            await self._answer(stream, Status.PERMISSION_DENIED)
        elif request.kind is RelayMessageType.RESERVE:
            await self._reserve(stream)
        elif request.kind is RelayMessageType.CONNECT:
            await self._connect(stream, request)
        else:
            await self._answer(stream, Status.UNEXPECTED_MESSAGE)

    async def _answer(self, stream: Stream, status: Status, message: RelayMessage | None = None) -> None:
        if status is not Status.OK:
            log.debug("relay: %s to %s", status.name, stream.peer)
        with trio.move_on_after(self.settings.message_timeout) as scope:
            await stream.write(encode(HOP, message or RelayMessage(RelayMessageType.STATUS, status=status)))
        if scope.cancelled_caught:
            stream.abort("the peer does not read")

    def limit_of(self, one: str, other: str) -> Limit:
        """What a circuit between two peers may cost."""
        if self._is_friend(one) or self._is_friend(other):
            return Limit()
        return Limit(math.ceil(self.settings.seconds), self.settings.bytes)

    async def _reserve(self, stream: Stream) -> None:
        status = self._take_slot(stream.peer, stream.connection.address)
        if status is not Status.OK:
            self.counters.refused += 1
            await self._answer(stream, status)
            return
        expire = int(time.time() + self.settings.reservation_seconds)
        reserved = Reserved(
            expire, tuple(self._own_addresses()), seal_voucher(self._host.keys, peer_bytes(stream.peer), expire)
        )
        limit = self.limit_of(stream.peer, stream.peer)
        message = RelayMessage(
            RelayMessageType.STATUS, reservation=reserved, limit=limit if limit.is_limited else None, status=Status.OK
        )
        await self._answer(stream, Status.OK, message)

    def _take_slot(self, peer: str, address: str) -> Status:
        if not self._allow(peer):
            return Status.PERMISSION_DENIED
        self._sweep()
        others = {holder: slot for holder, slot in self._slots.items() if holder != peer}
        ip = group_of(parse_address(address).host)
        of_same = sum(slot.ip == ip for slot in others.values())
        if of_same >= self.settings.reservations_per_ip:
            return Status.RESERVATION_REFUSED
        if len(others) >= self._most():
            # The address with most reservations gives its oldest one to an address that has fewer by two at least,
            # else both would take it from each other for ever.
            unused = {holder: slot.ip for holder, slot in others.items() if not self._circuits[holder]}
            victim = most_crowded(unused, [slot.ip for slot in others.values()])
            if victim is None or sum(slot.ip == unused[victim] for slot in others.values()) < of_same + 2:
                return Status.RESERVATION_REFUSED
            self._release(victim)
        self._slots.pop(peer, None)  # the order is by age
        self._slots[peer] = _Slot(ip, trio.current_time() + self.settings.reservation_seconds)
        self._host.protect(peer, _TAG)
        self.counters.reserved += 1
        return Status.OK

    def _most(self) -> int:
        """How many may hold a reservation: each keeps a connection that is not closed for others, so half of those."""
        return min(self.settings.reservations, self._host.table.max_connections // 2)

    def _own_addresses(self) -> list[bytes]:
        """Where others find this relay, with its peer ID."""
        direct = [each for each in self._host.addresses() if CIRCUIT not in each and "/ip6zone/" not in each]
        return [multiaddrs.to_binary(each) for each in direct[: limits.MAX_ADDRESSES]]

    # --- circuits --------------------------------------------------------------------------------------------------

    async def _connect(self, stream: Stream, request: RelayMessage) -> None:
        source = stream.peer
        if not is_peer_id(request.peer):
            await self._answer(stream, Status.MALFORMED_MESSAGE)
            return
        target = peer_text(request.peer)
        refusal = self._refusal(source, target)
        if refusal is not None:
            self.counters.refused += 1
            await self._answer(stream, refusal)
            return
        limit = self.limit_of(source, target)
        self._open += 1
        self._circuits[source] += 1
        self._circuits[target] += 1
        try:
            await self._bridge(stream, source, target, limit)
        finally:
            self._open -= 1
            for peer in (source, target):
                self._circuits[peer] -= 1
                if not self._circuits[peer]:
                    del self._circuits[peer]

    def _refusal(self, source: str, target: str) -> Status | None:
        """Why there will be no circuit; `None` when there may be one."""
        if not self._allow(source) or source == target:
            return Status.PERMISSION_DENIED
        slot = self._slots.get(target)
        if slot is None or slot.expires <= trio.current_time():
            return Status.NO_RESERVATION
        most = self.settings.circuits_per_peer
        if (
            self._open >= self.settings.circuits
            or self._circuits[source] >= most
            or self._circuits[target] >= most * limits.TARGET_FACTOR
        ):
            return Status.RESOURCE_LIMIT_EXCEEDED
        return None

    async def _bridge(self, stream: Stream, source: str, target: str, limit: Limit) -> None:
        said = limit if limit.is_limited else None
        far: Stream | None = None
        try:
            with trio.fail_after(self.settings.stop_timeout):
                far = await self._host.open_stream(target, (STOP,), timeout=self.settings.stop_timeout)
                if far.connection.is_relayed:
                    raise StreamError(f"The peer {target} is connected through another relay.")
                await far.write(
                    encode(STOP, RelayMessage(RelayMessageType.CONNECT, peer=peer_bytes(source), limit=said))
                )
                answer = await read_message(far, STOP)
                if answer.kind is not RelayMessageType.STATUS or answer.status != Status.OK:
                    raise StreamError(f"The peer {target} refused a circuit with status {answer.status}.")
        except (StreamError, trio.TooSlowError) as error:
            if far is not None:
                far.abort()
            log.debug("relay: no circuit from %s to %s: %s", source, target, error)
            self.counters.failed += 1
            await self._answer(stream, Status.CONNECTION_FAILED)
            return
        except BaseException:
            if far is not None:
                far.abort()
            raise
        self.counters.circuits += 1
        reason, whole = "the circuit ended", False
        try:
            with trio.move_on_after(limit.duration or float("inf")) as scope:
                await self._answer(
                    stream, Status.OK, RelayMessage(RelayMessageType.STATUS, limit=said, status=Status.OK)
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, stream, far, nursery.cancel_scope)
                    async with trio.open_nursery() as copies:
                        copies.start_soon(self._copy, stream, far, limit.data, nursery.cancel_scope)
                        copies.start_soon(self._copy, far, stream, limit.data, nursery.cancel_scope)
                    whole = True
                    nursery.cancel_scope.cancel()
            if scope.cancelled_caught:
                reason = "the circuit lasted as long as this relay allows"
        finally:
            if not whole:
                stream.abort(reason)
                far.abort(reason)
        if whole:
            await far.close()

    async def _watch(self, one: Stream, other: Stream, circuit: trio.CancelScope) -> None:
        """End the circuit when an end was torn down: a copy that waits for one end does not see the other."""
        while not (one.reset_reason or other.reset_reason):  # noqa: ASYNC110 - two streams, and no event
            await trio.sleep(self.settings.watch_interval)
        circuit.cancel()

    async def _copy(self, source: Stream, sink: Stream, allowed: int, circuit: trio.CancelScope) -> None:
        """One direction. Ends the whole circuit when it breaks, or has carried what it may."""
        carried = 0
        try:
            while parts := await source.read_parts(limits.COPY_BYTES):
                size = sum(map(len, parts))
                carried += size
                self.counters.bytes += size
                if allowed and carried > allowed:
                    log.debug("relay: a circuit carried the %d bytes it may", allowed)
                    circuit.cancel()
                    return
                await sink.write_parts(parts)
            await sink.close_write()
        except StreamError as error:
            log.debug("relay: a circuit broke: %s", error)
            circuit.cancel()
