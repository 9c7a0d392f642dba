"""Using relays: reserving slots, keeping them, and taking the circuits that come in.

`RelayClient.run` holds `wanted` reservations as long as `enabled` is set. Candidates are the relays it was told of,
in that order, then connected peers that offer to relay. A reservation ends with the connection to its relay; then
another candidate takes its place, and the lost one is tried again later, after pauses that double.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p import multiaddrs
from kachery_p2p.errors import InvalidAddress, MalformedMessage, RelayRefused, StreamError
from kachery_p2p.peer_ids import parse_peer_id, peer_bytes, peer_text
from kachery_p2p.protocols import CIRCUIT
from kachery_p2p.transport import limits as transport_limits
from kachery_p2p.transport.addresses import Address, parse_address
from kachery_p2p.transport.peers import Hook
from kachery_p2p.transport.relay import limits
from kachery_p2p.transport.relay.circuit import FAILURES, CircuitIO, connect_relay
from kachery_p2p.transport.relay.limits import RelayClientLimits
from kachery_p2p.transport.relay.messages import (
    HOP,
    STOP,
    Limit,
    RelayMessage,
    RelayMessageType,
    Status,
    encode,
    explain,
    read_message,
)
from kachery_p2p.transport.relay.scope import is_loopback, is_public
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_p2p.transport.host import Host
    from kachery_p2p.transport.stream import Stream

log = logging.getLogger("kachery_p2p.transport")

_TAG = "our relay"


@dataclass(frozen=True)
class Reservation:
    """A slot at a relay.

    Attributes:
        relay: peer ID, base58.
        expires: trio clock.
        renew_at: when it is time to ask again.
        addrs: where others reach us through it, ending in `/p2p-circuit`.
        limit: what it allows one circuit.
    """

    relay: str
    expires: float
    renew_at: float
    addrs: tuple[str, ...]
    limit: Limit


@dataclass
class _Failure:
    until: float
    pause: float
    why: str


class RelayClient:
    """Holds reservations, and takes the circuits that come in through them.

    Args:
        host: of the node.
        relays: multiaddrs of relays to use first, ending in `/p2p/<peer ID>`.
        wanted: reservations to hold.
        use_others: whether connected peers that were not named but offer to relay may be used.
        bounds: what relays are believed, and what is taken from them.

    Raises:
        InvalidAddress: one of `relays` is not the address of a relay.
    """

    def __init__(
        self,
        host: Host,
        relays: Sequence[str] = (),
        *,
        wanted: int = limits.RELAYS_WANTED,
        use_others: bool = True,
        bounds: RelayClientLimits = limits.CLIENT_DEFAULTS,
    ) -> None:
        self._limits = bounds
        self._host = host
        self._configured: dict[str, Address] = {}
        for text in relays:
            address = parse_address(text)
            if address.peer is None or address.problem or address.relay is not None:
                raise InvalidAddress(f"{text!r} is not the address of a relay; one ends in /p2p/ and its peer ID.")
            self._configured.setdefault(address.peer, address)
        self._wanted = wanted
        self._use_others = use_others
        self._enabled = False
        self._held: dict[str, Reservation] = {}
        self._failures: dict[str, _Failure] = {}
        self._wake = Flag()
        #: circuits that came in and whose handshake is not done
        self.handshakes = 0
        #: called with `addresses()` when they have changed
        self.on_change: Hook[list[str]] = Hook()
        host.set_handler(STOP, self._serve_stop)

    @property
    def enabled(self) -> bool:
        """Whether reservations are made and kept. Taking it back lets go of those there are."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if value != self._enabled:
            self._enabled = value
            self._wake.set()

    def addresses(self) -> list[str]:
        """Where others reach us through relays, without our peer ID."""
        return [addr for reservation in self._held.values() for addr in reservation.addrs]

    def reservations(self) -> list[Reservation]:
        """Those held now."""
        return list(self._held.values())

    def status(self) -> dict[str, Any]:
        """What is held and what failed, as plain JSON values."""
        now = trio.current_time()
        return {
            "enabled": self._enabled,
            "relays": [
                {
                    "relay": each.relay,
                    "addresses": list(each.addrs),
                    "expires_in": round(each.expires - now),
                    "seconds_per_circuit": each.limit.duration,
                    "bytes_per_circuit": each.limit.data,
                }
                for each in self._held.values()
            ],
            "failures": {peer: failure.why for peer, failure in self._failures.items()},
        }

    # --- reserving -------------------------------------------------------------------------------------------------

    async def reserve(self, relay: str) -> Reservation:
        """Reserve a slot, or renew it.

        Args:
            relay: multiaddr ending in `/p2p/<peer ID>`, or the peer ID of a connected relay.

        Raises:
            RelayRefused: it says no, or does not answer.
            DialError, StreamError, InvalidAddress: it cannot be reached, or breaks off.
        """
        address = parse_address(relay) if relay.startswith("/") else Address(relay, "", "", 0, parse_peer_id(relay))
        try:
            with trio.fail_after(limits.RESERVE_TIMEOUT):
                peer = await connect_relay(self._host, address)
                async with await self._host.open_stream(peer, (HOP,)) as stream:
                    await stream.write(encode(HOP, RelayMessage(RelayMessageType.RESERVE)))
                    answer = await read_message(stream, HOP)
        except trio.TooSlowError as error:
            raise RelayRefused(f"The relay {relay} did not answer in time.") from error
        if answer.kind is not RelayMessageType.STATUS or answer.status != Status.OK or answer.reservation is None:
            raise RelayRefused(f"The relay {peer} made no reservation: {explain(answer.status)}.")
        # Its clock may be wrong, and it may lie: the date is taken for what is usual at most.
        lifetime = min(
            max(answer.reservation.expire - time.time(), self._limits.shortest_reservation), limits.LONGEST_RESERVATION
        )
        reservation = Reservation(
            peer,
            trio.current_time() + lifetime,
            trio.current_time() + max(lifetime / 2, lifetime - limits.RENEW_BEFORE),
            tuple(self._circuit_addresses(peer, address, answer.reservation.addrs)),
            answer.limit or Limit(),
        )
        if peer not in self._host.connected():
            raise RelayRefused(f"The connection with the relay {peer} was lost.")
        before = self.addresses()
        self._held[peer] = reservation
        self._host.protect(peer, _TAG)
        if self.addresses() != before:
            self.on_change.emit(self.addresses())
        return reservation

    def _circuit_addresses(self, relay: str, address: Address, said: Sequence[bytes]) -> list[str]:
        """Addresses to announce: those the relay says it has that make sense, else where we found it.

        A relay that we reach over the internet must not make us announce addresses of somebody's LAN, nor loopback.
        """
        found = {address.transport: None} if address.kind and not address.problem else {}
        for each in self._host.table.of(relay):
            if each.initiator and not each.is_relayed:
                found[each.address] = None
        told: dict[str, None] = {}
        for raw in said:
            try:
                parsed = parse_address(multiaddrs.to_text(raw))
            except InvalidAddress:
                continue
            if parsed.relay is None and not parsed.problem and parsed.peer in (relay, None):
                told[parsed.transport] = None
        loopback = all(map(is_loopback, found)) and bool(found)
        public = any(map(is_public, found))
        usable = [each for each in told if (is_public(each) or not public) and (loopback or not is_loopback(each))]
        addresses = usable or list(found)
        return [f"{each}/p2p/{relay}{CIRCUIT}" for each in addresses[: limits.MAX_RELAY_ADDRESSES]]

    def _let_go(self, relay: str) -> None:
        if self._held.pop(relay, None) is not None:
            self._host.unprotect(relay, _TAG)
            self.on_change.emit(self.addresses())
        self._wake.set()

    # --- keeping ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep reservations until cancelled."""
        unsubscribe = [
            self._host.on_disconnected.subscribe(self._let_go),
            self._host.on_identified.subscribe(lambda peer: self._wake.set()),
        ]
        task_status.started()
        try:
            while True:
                self._wake.clear()
                if self._enabled:
                    await self._tend()
                else:
                    for relay in list(self._held):
                        self._let_go(relay)
                    self._wake.clear()  # it was we who let go
                    if self._enabled:
                        continue
                with trio.move_on_after(self._pause()):
                    await self._wake.take()
        finally:
            for each in unsubscribe:
                each()

    def _pause(self) -> float:
        """Seconds until something is due."""
        if not self._enabled:
            return float("inf")
        now = trio.current_time()
        due = [each.renew_at for each in self._held.values()]
        if len(self._held) < self._wanted:
            due += [failure.until for failure in self._failures.values()]
        return max(0.05, min(due, default=float("inf")) - now)

    async def _tend(self) -> None:
        """Renew what is due, and fill up what is missing."""
        now = trio.current_time()
        for each in list(self._held.values()):
            if each.renew_at <= now and not await self._try(each.relay, each.relay):
                self._let_go(each.relay)
        # As many side by side as are missing, so that one that does not answer holds nobody up.
        while (missing := self._wanted - len(self._held)) > 0 and (candidates := self._candidates()):
            async with trio.open_nursery() as nursery:
                for peer, text in candidates[:missing]:
                    nursery.start_soon(self._try, peer, text)

    def _candidates(self) -> list[tuple[str, str]]:
        now = trio.current_time()
        found = {peer: address.text for peer, address in self._configured.items()}
        if self._use_others:
            for peer in self._host.connected():
                if HOP in self._host.protocols_of(peer) and self._host.is_direct(peer):
                    found.setdefault(peer, peer)
        return [
            (peer, text)
            for peer, text in found.items()
            if peer not in self._held and (peer not in self._failures or self._failures[peer].until <= now)
        ]

    async def _try(self, peer: str, text: str) -> bool:
        try:
            await self.reserve(text)
        except FAILURES as error:
            before = self._failures.pop(peer, None)
            pause = min(2 * before.pause, limits.RETRY_MOST) if before else limits.RETRY_FIRST
            self._failures[peer] = _Failure(trio.current_time() + pause, pause, str(error))
            if len(self._failures) > limits.MAX_REMEMBERED:
                del self._failures[next(iter(self._failures))]
            log.debug("no reservation at %s: %s", peer, error)
            return False
        self._failures.pop(peer, None)
        return True

    # --- circuits that come in -------------------------------------------------------------------------------------

    async def _serve_stop(self, stream: Stream) -> None:
        """Handler of `STOP`."""
        request: RelayMessage | None = None
        status = Status.OK
        try:
            with trio.move_on_after(limits.MESSAGE_TIMEOUT):
                request = await read_message(stream, STOP)
        except MalformedMessage as error:
            log.debug("%s", error)
            status = Status.MALFORMED_MESSAGE
        else:
            if request is None:
                stream.abort("no request came")
                return
            if request.kind is not RelayMessageType.CONNECT:
                status = Status.UNEXPECTED_MESSAGE
            elif stream.peer not in self._held or stream.connection.is_relayed:
                status = Status.PERMISSION_DENIED  # we have asked nothing of that peer
            elif self.handshakes >= self._limits.max_handshakes:
                status = Status.RESOURCE_LIMIT_EXCEEDED
        with trio.move_on_after(limits.MESSAGE_TIMEOUT) as scope:
            await stream.write(encode(STOP, RelayMessage(RelayMessageType.STATUS, status=status)))
        if scope.cancelled_caught:
            stream.abort("the relay does not read")
        elif status is Status.OK and request is not None:
            await self._accept(stream, request)

    async def _accept(self, stream: Stream, request: RelayMessage) -> None:
        """The handshake over a circuit. Whom the relay named does not count: the handshake says who it is."""
        stream.keep()
        address = f"{stream.connection.address}/p2p/{stream.peer}{CIRCUIT}"
        limited = request.limit is not None and request.limit.is_limited
        self.handshakes += 1
        try:
            connection = await self._host.upgrade(CircuitIO(stream), address, initiator=False, limited=limited)
        except (StreamError, OSError, trio.ClosedResourceError) as error:
            log.debug("no connection through the relay %s: %s", stream.peer, error)
            return
        finally:
            self.handshakes -= 1
        if request.peer != peer_bytes(connection.peer):
            log.info("the relay %s said that %s is %s", stream.peer, connection.peer, peer_text(request.peer[:64]))


assert limits.CLIENT_DEFAULTS.max_handshakes <= transport_limits.MAX_HANDSHAKES
