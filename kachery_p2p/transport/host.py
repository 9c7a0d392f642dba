"""The libp2p host: listens, dials, keeps connections, opens and serves streams."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from kachery_p2p.errors import (
    AddressInUse,
    DialError,
    InvalidAddress,
    KacheryError,
    ProtocolNotSupported,
    StreamError,
)
from kachery_p2p.transport import compat, identify, limits, multistream
from kachery_p2p.transport.addresses import (
    Address,
    expand,
    parse_address,
    parse_listen,
    parse_peer_id,
    resolve,
    socket_multiaddr,
    tcp_multiaddr,
)
from kachery_p2p.transport.connection import Connection, Shared
from kachery_p2p.transport.dialer import Race
from kachery_p2p.transport.peers import ConnectionInfo, PeerTable, Signal
from kachery_p2p.transport.pnet import PrivateIO
from kachery_p2p.transport.sockets import ByteIO, SocketIO, connect_tcp, listen_tcp
from kachery_p2p.transport.stream import Stream
from kachery_p2p.transport.upgrade import Secured, WrongPeer, upgrade

logger = logging.getLogger("kachery_p2p.transport")

Handler = Callable[[Stream], Awaitable[None]]
DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT)
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def _parse_extra(text: str, peer: str | None) -> Address:
    """An address that may be nonsense, or another peer's: then it comes back with its `problem`."""
    try:
        address = parse_address(text)
    except InvalidAddress:
        return Address(text[:200], "", "", 0, None, "that is not a multiaddr")
    if address.peer and address.peer != peer:
        return Address(text, "", "", 0, None, "that is the address of another peer")
    return address


class _Dial:
    """A dial in progress, shared by all who want that peer."""

    def __init__(self, race: Race[Address, _Reached]) -> None:
        self.race = race
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.peer: str | None = None
        self.waiters = 0


class _Reached:
    """A dialled and secured channel that is not yet a connection."""

    def __init__(self, io: ByteIO, secured: Secured, address: str) -> None:
        self.io = io
        self.secured = secured
        self.address = address


class Host:
    """A libp2p node on TCP with Noise and Yamux.

    Args:
        seed: the 32 bytes of an Ed25519 private key; they determine the peer ID.
        listen: multiaddrs to listen on; port 0 takes a free one. Empty: dial only. Where this machine has no IPv6, the
            default list goes on without it.
        announce: multiaddrs to tell peers in addition to those of the network interfaces (a forwarded port, say).
        swarm_key: 32 bytes; only peers with the same key can connect either way (private network).
        max_connections: above this, the least useful connections are closed.
        agent: what we say we are.

    A host runs once: `await nursery.start(host.run)`; cancel that task to stop it. Peer IDs are base58 text throughout.
    """

    def __init__(
        self,
        seed: bytes,
        listen: Sequence[str] = DEFAULT_LISTEN,
        *,
        announce: Sequence[str] = (),
        swarm_key: bytes | None = None,
        max_connections: int = limits.MAX_CONNECTIONS,
        agent: str = "kachery-p2p",
    ) -> None:
        compat.quieten()
        if swarm_key is not None and len(swarm_key) != 32:
            raise ValueError("a swarm key has 32 bytes")
        self._keys = compat.Keys.from_seed(seed)
        self.peer_id: str = self._keys.peer_id.to_base58()
        self._listen_default = tuple(listen) == DEFAULT_LISTEN
        self._listen = [parse_listen(text) for text in listen]
        self._announce = [parse_address(text).transport for text in announce]
        self._swarm_key = swarm_key
        self._identity = identify.Identity(self._keys, agent)
        self._shared = Shared()
        self._handlers: dict[str, Handler] = {}
        self._table = PeerTable(self.peer_id, max_connections)
        self._listeners: list[socket.socket] = []
        self._bound: list[tuple[str, int]] = []
        self._dials: dict[str, _Dial] = {}
        self._dial_slots = trio.Semaphore(limits.MAX_DIALS)
        self._handshakes: dict[object, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._started = False
        self._push = trio.Event()
        #: called with a peer ID when its first connection is there, when its last one is gone, when it was identified
        self.on_connected: Signal[str] = Signal()
        self.on_disconnected: Signal[str] = Signal()
        self.on_identified: Signal[str] = Signal()
        self._handlers[identify.IDENTIFY] = self._serve_identify
        self._handlers[identify.IDENTIFY_PUSH] = self._serve_push

    # --- running ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled; started once listening.

        Raises:
            AddressInUse: an address to listen on is taken.
        """
        if self._started:
            raise RuntimeError("a Host runs once; make a new one")
        self._started = True
        try:
            self._open_listeners()
            async with trio.open_nursery() as outer:
                ready = trio.Event()
                work = trio.CancelScope(shield=True)
                outer.start_soon(self._work, work, ready)
                try:
                    await ready.wait()
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._say_goodbye()
                    work.cancel()
        finally:
            self._nursery = None
            for sock in self._listeners:
                sock.close()
            self._listeners.clear()

    async def _work(self, scope: trio.CancelScope, ready: trio.Event) -> None:
        """All tasks of the host. Shielded, so that connections can still say goodbye when the host is cancelled."""
        with scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for sock in self._listeners:
                    nursery.start_soon(self._accept_loop, sock)
                nursery.start_soon(self._housekeeping)
                nursery.start_soon(self._push_identify)
                ready.set()

    async def _say_goodbye(self) -> None:
        self._stop_listening()
        for dial in list(self._dials.values()):
            dial.scope.cancel()
        for scope in list(self._handshakes.values()):
            scope.cancel()
        async with trio.open_nursery() as nursery:
            for connection in self._table:
                nursery.start_soon(connection.close)

    def _open_listeners(self) -> None:
        for address in self._listen:
            try:
                sock = listen_tcp(address.host, address.port, multiaddr=address.text)
            except (OSError, AddressInUse) as error:
                cause = error.__cause__ if isinstance(error, AddressInUse) else error
                missing = isinstance(cause, OSError) and cause.errno in _NO_SUCH_FAMILY
                if self._listen_default and address.kind == "ip6" and missing:
                    logger.debug("no IPv6 on this machine, listening on IPv4 only")
                    continue
                if isinstance(error, AddressInUse):
                    raise
                raise AddressInUse(f"Cannot listen on {address.text}: {error.strerror or error}.") from error
            self._listeners.append(sock)
            self._bound.append((address.host, sock.getsockname()[1]))

    def _stop_listening(self) -> None:
        for sock in self._listeners:
            if sock.fileno() != -1:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    def _require_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("the host is not running")
        return self._nursery

    # --- inbound connections ---------------------------------------------------------------------------------------

    async def _accept_loop(self, listener: socket.socket) -> None:
        nursery = self._require_nursery()
        while True:
            try:
                sock, name = listener.accept()
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(listener)
                except trio.ClosedResourceError:
                    return
                continue
            except OSError as error:
                if listener.fileno() == -1:
                    return
                if error.errno in _OUT_OF_FILES:
                    logger.warning("no file descriptors left; new connections wait")
                    await trio.sleep(limits.ACCEPT_PAUSE)
                else:
                    await trio.lowlevel.checkpoint()  # the peer was gone before it was accepted
                continue
            sock.setblocking(False)
            if len(self._handshakes) >= limits.MAX_HANDSHAKES:
                # Honest handshakes take milliseconds, so the oldest one most likely is not.
                self._handshakes.pop(next(iter(self._handshakes))).cancel()
            key, scope = object(), trio.CancelScope()
            self._handshakes[key] = scope
            nursery.start_soon(self._accept, SocketIO(sock), socket_multiaddr(name), key, scope)
            await trio.lowlevel.checkpoint()

    async def _accept(self, sock: SocketIO, address: str, key: object, scope: trio.CancelScope) -> None:
        io = self._wrap(sock)
        secured = None
        try:
            with scope, trio.move_on_after(limits.HANDSHAKE_TIMEOUT):
                secured = await upgrade(io, self._keys, initiator=False)
        except (KacheryError, OSError, trio.ClosedResourceError) as error:
            logger.debug("handshake with %s failed: %s", address, error)
        except Exception:
            logger.exception("error in the handshake with %s", address)
        finally:
            self._handshakes.pop(key, None)
            if secured is None:
                io.close()
        if secured is not None:
            self._adopt(io, secured, address, initiator=False)

    def _wrap(self, sock: SocketIO) -> ByteIO:
        return sock if self._swarm_key is None else PrivateIO(sock, self._swarm_key)

    def _adopt(self, io: ByteIO, secured: Secured, address: str, *, initiator: bool) -> Connection | None:
        """Make a secured channel a connection; `None` when it is not wanted."""
        peer = secured.peer
        if peer == self.peer_id or self._nursery is None or self._table.banned(peer, trio.current_time()):
            io.close()
            return None
        connection = Connection(
            io,
            secured.cipher,
            peer=peer,
            address=address,
            initiator=initiator,
            shared=self._shared,
            serve=self._serve,
            received=secured.received,
            plaintext=secured.plaintext,
        )
        first = self._table.add(connection)
        self._nursery.start_soon(self._run_connection, connection)
        for victim in self._table.surplus(connection):
            victim.drop("there are too many connections")
            self._forget(victim)
        dial = self._dials.get(peer)
        if dial is not None:
            # The peer was faster. Our own dial runs on all the same: should both sides drop theirs, none were left.
            dial.peer = peer
            dial.done.set()
        if first:
            self.on_connected.emit(peer)
        return connection

    async def _run_connection(self, connection: Connection) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._identify, connection)
                await connection.run()
                nursery.cancel_scope.cancel()
        finally:
            connection.abort("the host stopped")
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        if self._table.remove(connection):
            self.on_disconnected.emit(connection.peer)

    async def _housekeeping(self) -> None:
        while True:
            await trio.sleep(limits.HOUSEKEEPING_INTERVAL)
            for connection in self._table.idle_duplicates(trio.current_time()):
                connection.drop("there is another connection with that peer")

    # --- dialling --------------------------------------------------------------------------------------------------

    async def connect(self, addr: str, addrs: Sequence[str] = (), *, timeout: float = limits.DIAL_TIMEOUT) -> str:
        """Connect to a peer, unless it is connected; its peer ID.

        Args:
            addr: a multiaddr, with or without `/p2p/<peer ID>` at its end, or a peer ID.
            addrs: more addresses of the same peer, possibly from strangers: bad ones are reasons, not errors. A peer
                ID alone is dialled at the addresses it gave us before.
            timeout: seconds in all.

        Raises:
            InvalidAddress: `addr` does not parse.
            DialError: no address led to the peer; says for each why.
        """
        self._require_nursery()
        if addr.startswith("/"):
            parsed = [parse_address(addr)]
            peer = parsed[0].peer
        else:
            parsed = []
            peer = parse_peer_id(addr)
        parsed += [_parse_extra(text, peer) for text in addrs]
        if peer is None:
            for connection in self._table:
                if connection.initiator and connection.address == parsed[0].transport:
                    await trio.lowlevel.checkpoint()
                    return connection.peer
        else:
            if peer == self.peer_id:
                raise DialError(f"The peer {peer} is this node itself.")
            if seconds := self._table.banned(peer, trio.current_time()):
                raise DialError(f"The peer {peer} is banned for {seconds:.0f} seconds more.")
            if self._table.best(peer) is not None:
                await trio.lowlevel.checkpoint()
                return peer
            if not [each for each in parsed if not each.problem]:
                parsed += [_parse_extra(text, peer) for text in self._table.peek(peer).addresses]
        if not parsed:
            raise DialError(f"No address of the peer {peer} is known.")
        dial = self._join_dial(peer, parsed)
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

    def _join_dial(self, peer: str | None, addresses: list[Address]) -> _Dial:
        key = peer or " ".join(sorted(each.text for each in addresses))
        dial = self._dials.get(key)
        if dial is not None and not dial.done.is_set():
            for address in addresses:
                dial.race.add(address)
            return dial

        async def attempt(address: Address) -> _Reached:
            return await self._dial_address(address, peer)

        dial = self._dials[key] = _Dial(Race(addresses, attempt, lambda reached: reached.io.close()))
        self._require_nursery().start_soon(self._run_dial, key, dial)
        return dial

    async def _run_dial(self, key: str, dial: _Dial) -> None:
        try:
            with dial.scope:
                reached = await dial.race.run()
                if reached is not None and self._adopt(reached.io, reached.secured, reached.address, initiator=True):
                    dial.peer = reached.secured.peer
        except Exception:
            logger.exception("error while dialling %s", key)
        finally:
            if self._dials.get(key) is dial:
                del self._dials[key]
            dial.done.set()

    async def _dial_address(self, address: Address, peer: str | None) -> _Reached:
        if address.problem:
            raise DialError(address.problem)
        found = await resolve(address)
        if found == [address]:
            return await self._dial_ip(address, peer)

        async def attempt(each: Address) -> _Reached:
            return await self._dial_ip(each, peer)

        race = Race(found, attempt, lambda reached: reached.io.close())
        reached = await race.run()
        if reached is None:
            raise DialError("; ".join(f"{each.host}: {reason}" for each, reason in race.errors.items()))
        return reached

    async def _dial_ip(self, address: Address, peer: str | None) -> _Reached:
        async with self._dial_slots:
            io = self._wrap(SocketIO(await connect_tcp(address.host, address.port)))
            try:
                with trio.fail_after(limits.HANDSHAKE_TIMEOUT):
                    secured = await upgrade(io, self._keys, initiator=True, expected=peer)
                if secured.peer == self.peer_id:
                    raise DialError("that is this node itself")
                if self._table.banned(secured.peer, trio.current_time()):
                    raise DialError(f"the peer there, {secured.peer}, is banned")
            except trio.TooSlowError as error:
                io.close()
                raise DialError("something answers there, but the security handshake timed out") from error
            except WrongPeer as error:
                io.close()
                raise DialError(f"{error}, not {peer}") from error
            except BaseException:
                io.close()
                raise
        return _Reached(io, secured, tcp_multiaddr(address.kind, address.host, address.port))

    async def disconnect(self, peer_id: str) -> None:
        """Close all connections with a peer, if there are any."""
        async with trio.open_nursery() as nursery:
            for connection in self._table.of(peer_id):
                nursery.start_soon(connection.close)
        for connection in self._table.of(peer_id):
            self._forget(connection)

    def ban(self, peer_id: str, seconds: float) -> None:
        """Close all connections with a peer, and make and take none for that long."""
        self._table.ban(peer_id, trio.current_time() + seconds)
        for connection in self._table.of(peer_id):
            connection.drop("the peer is banned")
            self._forget(connection)

    def protect(self, peer_id: str, tag: str) -> None:
        """Keep the peer's connections when there are too many, until each tag is taken back."""
        self._table.protect(peer_id, tag)

    def unprotect(self, peer_id: str, tag: str) -> bool:
        """Take a tag back; whether others still protect the peer."""
        return self._table.unprotect(peer_id, tag)

    # --- streams ---------------------------------------------------------------------------------------------------

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """Serve a protocol. Each stream runs `handler` in a task of its own and is closed when that returns.

        An exception of the handler resets its stream, is logged, and does nothing else.
        """
        self._handlers[protocol] = handler
        self._push.set()

    def remove_handler(self, protocol: str) -> None:
        """Serve a protocol no longer; streams that are open go on."""
        if self._handlers.pop(protocol, None) is not None:
            self._push.set()

    def protocols(self) -> list[str]:
        """The protocols that are served."""
        return list(self._handlers)

    async def open_stream(
        self, peer_id: str, protocols: Sequence[str], *, timeout: float = limits.NEGOTIATE_TIMEOUT
    ) -> Stream:
        """Open a stream to a connected peer, with the first of `protocols` that the peer speaks.

        Raises:
            ProtocolNotSupported: it speaks none of them.
            StreamError: the peer is not connected, does not answer within `timeout` seconds, or the connection broke.
        """
        connection = self._table.best(peer_id)
        if connection is None:
            raise StreamError(f"There is no connection with the peer {peer_id}.")
        known = self._table.peek(peer_id).protocols
        wanted = sorted(protocols, key=lambda name: name not in known) if known else protocols
        stream = None
        try:
            with trio.move_on_after(timeout):
                stream = await connection.open_stream()
                stream.protocol = await multistream.select(stream, wanted)
                return stream
        except ProtocolNotSupported as error:
            if stream is not None:
                stream.abort()
            names = ", ".join(protocols)
            raise ProtocolNotSupported(f"The peer {peer_id} speaks none of {names}.") from error
        except BaseException:
            if stream is not None:
                stream.abort()
            raise
        if stream is not None:
            stream.abort()
        raise StreamError(f"The peer {peer_id} did not answer within {timeout:g} seconds to {', '.join(protocols)}.")

    async def _serve(self, stream: Stream) -> None:
        """Serve a stream that a peer opened. Only cancellation gets out of here."""
        try:
            with trio.move_on_after(limits.NEGOTIATE_TIMEOUT):
                stream.protocol = await multistream.negotiate(stream, self._handlers)
            handler = self._handlers.get(stream.protocol)
            if handler is None:
                stream.abort("no protocol was agreed on")
                return
            await handler(stream)
            await stream.close()
        except (StreamError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            logger.debug("%r ended: %s", stream, error)
            stream.abort()
        except Exception:
            logger.warning("the handler of %s failed", stream.protocol, exc_info=True)
            stream.abort("the handler failed")
        except BaseException:
            stream.abort()
            raise

    # --- identify --------------------------------------------------------------------------------------------------

    async def _serve_identify(self, stream: Stream) -> None:
        observed = stream.connection.address
        await stream.write(self._identity.message(self._own_transports(), self._handlers, observed))

    async def _serve_push(self, stream: Stream) -> None:
        with trio.fail_after(limits.IDENTIFY_TIMEOUT):
            await self._learn(stream)

    async def _identify(self, connection: Connection) -> None:
        """Ask a new peer who it is. Whatever goes wrong, the connection is good without it."""
        try:
            with trio.move_on_after(limits.IDENTIFY_TIMEOUT):
                async with await connection.open_stream() as stream:
                    stream.protocol = await multistream.select(stream, (identify.IDENTIFY,))
                    await stream.close_write()
                    await self._learn(stream)
        except StreamError as error:
            logger.debug("identify of %s failed: %s", connection.peer, error)

    async def _learn(self, stream: Stream) -> None:
        said, _ = await identify.read_identify(stream)
        info = self._table.info(stream.peer)
        info.protocols, info.agent, info.identified = said.protocols, said.agent, True
        if said.addresses:
            info.addresses = said.addresses
        self.on_identified.emit(stream.peer)

    async def _push_identify(self) -> None:
        """Tell connected peers when our handlers change."""
        while True:
            await self._push.wait()
            await trio.sleep(limits.IDENTIFY_PUSH_DELAY)
            self._push = trio.Event()
            async with trio.open_nursery() as nursery:
                for peer in self._table.peers():
                    if identify.IDENTIFY_PUSH in self._table.peek(peer).protocols:
                        nursery.start_soon(self._push_to, peer)

    async def _push_to(self, peer: str) -> None:
        try:
            with trio.move_on_after(limits.IDENTIFY_TIMEOUT):
                async with await self.open_stream(peer, (identify.IDENTIFY_PUSH,)) as stream:
                    observed = stream.connection.address
                    await stream.write(self._identity.message(self._own_transports(), self._handlers, observed))
        except StreamError as error:
            logger.debug("identify push to %s failed: %s", peer, error)

    # --- what is known ---------------------------------------------------------------------------------------------

    def _own_transports(self) -> list[str]:
        return list(dict.fromkeys([*self._announce, *expand(self._bound)]))

    def addresses(self) -> list[str]:
        """The multiaddrs under which we can be dialled, each ending in our peer ID; loopback last."""
        return [f"{each}/p2p/{self.peer_id}" for each in self._own_transports()]

    def connected(self) -> list[str]:
        """The peers with at least one connection."""
        return self._table.peers()

    def connections(self) -> list[ConnectionInfo]:
        """All open connections."""
        return [
            ConnectionInfo(
                peer=each.peer,
                addr=each.address,
                direction="out" if each.initiator else "in",
                opened_at=each.opened_at,
                streams=each.stream_count,
                bytes_received=each.core.bytes_received,
                bytes_sent=each.core.bytes_sent,
                round_trip=each.core.round_trip,
            )
            for each in self._table
        ]

    def protocols_of(self, peer_id: str) -> frozenset[str]:
        """What a peer says it speaks; empty before it was identified."""
        return self._table.peek(peer_id).protocols

    def agent_of(self, peer_id: str) -> str:
        """What a peer says it is; empty before it was identified."""
        return self._table.peek(peer_id).agent

    def addresses_of(self, peer_id: str) -> list[str]:
        """Where a peer says it listens, each ending in its peer ID; empty before it was identified."""
        return [f"{each}/p2p/{peer_id}" for each in self._table.peek(peer_id).addresses]
