"""Dialling: several addresses of one peer side by side, several callers for one peer together.

The addresses start one after the other, each as soon as the one before has failed or has not answered for 250
ms (RFC 8305, "happy eyeballs"). The first that ends in a secured connection wins and the others are cancelled,
so a dead address costs a quarter of a second and not its timeout. Whoever wants a peer that is being dialled
already adds its addresses to that race and waits for it, each caller with its own timeout; when nobody waits
any more, the race is cancelled. Nothing is remembered of a failed dial: the next one tries again at once.

Dials leave from the port that we listen on where the system allows it, because then the address at which a peer
sees us is one that a NAT may let others in by. Addresses through a relay come last, and after a head start.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from kachery_p2p.errors import DialError, InvalidAddress, KacheryError
from kachery_p2p.peer_ids import parse_peer_id
from kachery_p2p.transport import compat, limits
from kachery_p2p.transport.addresses import Address, parse_address, resolve, tcp_multiaddr
from kachery_p2p.transport.connection import Connection
from kachery_p2p.transport.limits import TransportLimits
from kachery_p2p.transport.peers import PeerTable
from kachery_p2p.transport.security import HandshakeError, WrongPeer
from kachery_p2p.transport.sockets import ByteIO, PortNotFree, SocketIO, connect_tcp
from kachery_p2p.transport.upgrade import Secured, upgrade
from kachery_p2p.waking import Flag

log = logging.getLogger("kachery_p2p.transport")

Target = TypeVar("Target")
Result = TypeVar("Result")

_REASONS = {
    errno.ECONNREFUSED: "connection refused (nothing listens there)",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ENETUNREACH: "no route to that network",
    errno.ECONNRESET: "the peer closed the connection",
    errno.EPIPE: "the peer closed the connection",
    errno.EADDRNOTAVAIL: "no route to that host",
    errno.EAFNOSUPPORT: "this machine does not have that kind of address",
    errno.EACCES: "a firewall of this machine forbids it",
    errno.EPERM: "a firewall of this machine forbids it",
}


def explain(error: BaseException) -> str:
    """Why a dial failed, in plain words."""
    if isinstance(error, OSError) and not isinstance(error, KacheryError):
        reason = _REASONS.get(error.errno or 0)
        return reason or (error.strerror or str(error) or type(error).__name__)
    if isinstance(error, (trio.ClosedResourceError, trio.BrokenResourceError)):
        return "the peer closed the connection"
    return str(error).rstrip(".") or type(error).__name__


class Race(Generic[Target, Result]):
    """One race over a list of targets that may grow while it runs.

    Args:
        attempt: tries one target; raises when it fails.
        discard: disposes of a result that came second.
        is_late: says which targets wait until the others have had their head start, or have failed.
        head_start: seconds.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        attempt: Callable[[Target], Awaitable[Result]],
        discard: Callable[[Result], None],
        is_late: Callable[[Target], bool] = lambda target: False,
        head_start: float = 0.0,
    ) -> None:
        self.errors: dict[Target, str] = {}
        self.winner: Result | None = None
        self._attempt = attempt
        self._discard = discard
        self._is_late = is_late
        self._head_start = head_start
        self._known: dict[Target, None] = {}
        self._waiting: list[Target] = []
        self._running = 0
        self._step = Flag()
        for target in targets:
            self.add(target)

    def add(self, target: Target) -> None:
        """One more target, unless it is known."""
        if target not in self._known and len(self._known) < limits.MAX_DIAL_ADDRESSES:
            self._known[target] = None
            self._waiting.append(target)
            self._step.set()

    @property
    def targets(self) -> list[Target]:
        return list(self._known)

    async def run(self) -> Result | None:
        """The first result; `None` when all have failed, each with its reason in `errors`.

        A caller that gives up at the very instant at which somebody won gets nothing: the result is discarded.
        """
        begun = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                while self.winner is None and (self._waiting or self._running):
                    target, pause = self._next(trio.current_time() - begun)
                    if target is not None:
                        self._running += 1
                        nursery.start_soon(self._try, target)
                    self._step.clear()
                    with trio.move_on_after(pause):
                        await self._step.take()
                nursery.cancel_scope.cancel()
        except BaseException:
            if self.winner is not None:
                self._discard(self.winner)
            raise
        return self.winner

    def _next(self, elapsed: float) -> tuple[Target | None, float]:
        """The next target to start now, if any, and for how many seconds to wait before the one after it."""
        if not self._waiting:
            return None, float("inf")
        early = [target for target in self._waiting if not self._is_late(target)]
        head_start = self._head_start - elapsed
        if not early and self._running and head_start > 0:
            return None, head_start
        target = (early or self._waiting)[0]
        self._waiting.remove(target)
        return target, limits.DIAL_STAGGER if self._waiting else float("inf")

    async def _try(self, target: Target) -> None:
        try:
            result = await self._attempt(target)
        except (KacheryError, OSError, trio.ClosedResourceError, trio.BrokenResourceError) as error:
            self.errors[target] = explain(error)
        else:
            if self.winner is None:
                self.winner = result
            else:
                self._discard(result)
        finally:
            self._running -= 1
            self._step.set()


@dataclass(frozen=True)
class Reached:
    """A dialled and secured channel that is not yet a connection."""

    io: ByteIO
    secured: Secured
    address: str
    limited: bool = False


class _Dial:
    """A dial in progress."""

    def __init__(self, race: Race[Address, Reached]) -> None:
        self.race = race
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.peer: str | None = None
        self.waiters = 0


class Dialer:
    """Makes outbound connections.

    Args:
        keys: of this node.
        table: who is connected or banned.
        wrap: puts the private network's layer on a socket where there is one.
        adopt: takes what was reached as a connection; `None` when it is not wanted.
        circuit: opens a channel to a peer through the relay at an address, and says whether the relay sets limits.
        beside: the listening socket whose port a dial to an IP address may leave from.
        bounds: of the host.
        max_dials: TCP connects and handshakes at once.
    """

    def __init__(
        self,
        keys: compat.Keys,
        table: PeerTable,
        wrap: Callable[[ByteIO], ByteIO],
        adopt: Callable[[Reached], Connection | None],
        circuit: Callable[[Address, str], Awaitable[tuple[ByteIO, bool]]],
        beside: Callable[[str], socket.socket | None],
        *,
        bounds: TransportLimits,
        max_dials: int,
    ) -> None:
        self._keys = keys
        self._table = table
        self._wrap = wrap
        self._adopt = adopt
        self._circuit = circuit
        self._beside = beside
        self._limits = bounds
        self._dials: dict[str, _Dial] = {}
        self._slots = trio.Semaphore(max_dials)

    async def connect(
        self,
        nursery: trio.Nursery,
        addr: str,
        addrs: Sequence[str] = (),
        *,
        timeout: float = limits.DIAL_TIMEOUT,
        fresh: bool = False,
    ) -> str:
        """See `Host.connect`. The dial itself runs in `nursery`."""
        if addr.startswith("/"):
            parsed = [parse_address(addr)]
            peer = parsed[0].peer
        else:
            parsed = []
            peer = parse_peer_id(addr)
        parsed += [_parse_extra(text, peer) for text in addrs]
        connected = self._connected(peer, parsed)
        if connected is not None and not fresh:
            await trio.lowlevel.checkpoint()
            return connected
        if peer is not None and all(each.problem for each in parsed):
            parsed += [_parse_extra(text, peer) for text in self._table.peek(peer).addresses]
        if not parsed:
            raise DialError(f"No address of the peer {peer} is known.")
        dial = self._join(nursery, peer, parsed)
        dial.waiters += 1
        try:
            with trio.move_on_after(timeout):
                await dial.done.wait()
        finally:
            dial.waiters -= 1
            if not dial.waiters:
                dial.scope.cancel()
        if dial.peer is not None:
            return dial.peer
        reasons = "; ".join(
            f"{each.text}: {dial.race.errors.get(each, f'no answer within {timeout:g} seconds')}"
            for each in dial.race.targets
        )
        raise DialError(f"Could not connect to {peer or 'the peer'}: {reasons}.")

    def _connected(self, peer: str | None, addresses: Sequence[Address]) -> str | None:
        """The peer, when there is a connection already.

        Raises:
            DialError: the peer is this node itself, or is banned.
        """
        if peer is None:
            for connection in self._table:
                if connection.initiator and connection.address == addresses[0].transport:
                    return connection.peer
            return None
        if peer == self._table.local:
            raise DialError(f"The peer {peer} is this node itself.")
        if seconds := self._table.banned(peer, trio.current_time()):
            raise DialError(f"The peer {peer} is banned for {seconds:.0f} seconds more.")
        return peer if self._table.best(peer) is not None else None

    def arrived(self, peer: str) -> None:
        """The peer connected by itself: whoever waits for it need not wait longer.

        Our own dial runs on all the same. Should both sides drop theirs for the other's, none were left.
        """
        dial = self._dials.get(peer)
        if dial is not None and dial.waiters:
            dial.waiters += 1  # so that the last waiter does not cancel it
            dial.peer = peer
            dial.done.set()

    def cancel(self) -> None:
        """Give up all dials."""
        for dial in list(self._dials.values()):
            dial.scope.cancel()

    def _join(self, nursery: trio.Nursery, peer: str | None, addresses: list[Address]) -> _Dial:
        key = peer or " ".join(sorted(each.text for each in addresses))
        dial = self._dials.get(key)
        if dial is not None and not dial.done.is_set() and not dial.scope.cancel_called:
            for address in addresses:
                dial.race.add(address)
            return dial

        async def attempt(address: Address) -> Reached:
            return await self._dial_address(address, peer)

        race = Race(
            addresses, attempt, _close, lambda address: address.relay is not None, self._limits.relay_head_start
        )
        dial = self._dials[key] = _Dial(race)
        nursery.start_soon(self._run, key, dial)
        return dial

    async def _run(self, key: str, dial: _Dial) -> None:
        try:
            with dial.scope:
                reached = await dial.race.run()
                if reached is not None and self._adopt(reached) is not None:
                    dial.peer = reached.secured.peer
        except Exception:
            log.exception("error while dialling %s", key)  # a bug in one dial must not end the host
        finally:
            if self._dials.get(key) is dial:
                del self._dials[key]
            dial.done.set()

    async def _dial_address(self, address: Address, peer: str | None) -> Reached:
        if address.problem:
            raise DialError(address.problem)
        if address.relay is not None:
            return await self._dial_circuit(address, address.relay, peer)
        found = await resolve(address)
        if found == [address]:
            return await self._dial_ip(address, peer)

        async def attempt(each: Address) -> Reached:
            return await self._dial_ip(each, peer)

        race = Race(found, attempt, _close)
        reached = await race.run()
        if reached is None:
            raise DialError("; ".join(f"{each.host}: {reason}" for each, reason in race.errors.items()))
        return reached

    async def _dial_circuit(self, address: Address, relay: Address, peer: str | None) -> Reached:
        if peer is None:
            raise DialError("it does not say which peer is behind that relay")
        if relay.peer == self._table.local:
            raise DialError("that relay is this node itself")
        io, limited = await self._circuit(relay, peer)
        io = self._wrap(io)
        return Reached(io, await self._secure(io, peer), address.transport, limited)

    async def _dial_ip(self, address: Address, peer: str | None) -> Reached:
        async with self._slots:
            beside = self._beside(address.host)
            if beside is not None:
                try:
                    return await self._dial_tcp(address, peer, beside)
                except PortNotFree:
                    pass  # any port, then
                except HandshakeError as error:
                    # It may be that the peer dialled us at the same instant from its own port: then the system made one
                    # connection of the two, in which both sides believe to have dialled.
                    log.debug("dialling %s once more, from another port: %s", address.text, error)
            return await self._dial_tcp(address, peer, None)

    async def _dial_tcp(
        self, address: Address, peer: str | None, beside: socket.socket | None, *, initiator: bool = True
    ) -> Reached:
        io = self._wrap(
            SocketIO(await connect_tcp(address.host, address.port, beside=beside), self._limits.write_stall_timeout)
        )
        secured = await self._secure(io, peer, initiator=initiator)
        return Reached(io, secured, tcp_multiaddr(address.kind, address.host, address.port))

    async def _secure(self, io: ByteIO, peer: str | None, *, initiator: bool = True) -> Secured:
        """The handshake. The channel is closed when it fails.

        Raises:
            DialError: the peer there is not the one that was wanted, is banned, or did not finish in time.
            HandshakeError: the handshake failed.
            OSError: the connection broke.
        """
        try:
            with trio.fail_after(self._limits.handshake_timeout):
                secured = await upgrade(io, self._keys, initiator=initiator, expected=peer if initiator else None)
            if secured.peer == self._table.local:
                raise DialError("that is this node itself")
            if self._table.banned(secured.peer, trio.current_time()):
                raise DialError(f"the peer there, {secured.peer}, is banned")
            if peer is not None and secured.peer != peer:
                raise WrongPeer(f"the peer there is {secured.peer}")
        except trio.TooSlowError as error:
            io.close()
            raise DialError("something answers there, but the security handshake timed out") from error
        except WrongPeer as error:
            io.close()
            raise DialError(f"{error}, not {peer}") from error
        except BaseException:
            io.close()
            raise
        return secured

    # --- hole punching ---------------------------------------------------------------------------------------------

    async def punch(self, addresses: Sequence[Address], peer: str, *, initiator: bool) -> Reached | None:
        """Dial all addresses at this instant, each until it answers or the caller gives up; what was reached first.

        From the port we listen on, where it can be had. When the peer does the same, both ends believe that they
        dialled. `None` when all addresses have failed for good.

        Args:
            addresses: where to dial.
            peer: the peer ID that must be there.
            initiator: the part that this side plays in the handshake.
        """
        reached: list[Reached] = []

        async def attempt(address: Address) -> None:
            while not reached:
                beside = self._beside(address.host)
                try:
                    result = await self._dial_tcp(address, peer, beside, initiator=initiator)
                except PortNotFree as error:
                    log.debug("punching to %s: %s", address.text, error)
                except (KacheryError, OSError, trio.ClosedResourceError) as error:
                    log.debug("punching to %s: %s", address.text, error)
                    if not isinstance(error, ConnectionRefusedError):
                        return
                else:
                    if reached:
                        _close(result)
                    else:
                        reached.append(result)
                        nursery.cancel_scope.cancel()
                await trio.sleep(limits.PUNCH_RETRY_PAUSE)

        try:
            async with trio.open_nursery() as nursery:
                for address in addresses[: limits.MAX_PUNCH_ADDRESSES]:
                    nursery.start_soon(attempt, address)
        except BaseException:
            for result in reached:  # the caller gave up at the instant at which it was there
                _close(result)
            raise
        return reached[0] if reached else None


def _close(reached: Reached) -> None:
    reached.io.close()


def _parse_extra(text: str, peer: str | None) -> Address:
    """An address that may be nonsense, or another peer's: then it comes back with its `problem`."""
    try:
        address = parse_address(text)
    except InvalidAddress:
        return Address(text[:200], "", "", 0, None, "that is not a multiaddr")
    if address.peer and address.peer != peer:
        return Address(text, "", "", 0, None, "that is the address of another peer")
    return address
