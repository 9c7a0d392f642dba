"""The libp2p host: puts listener, dialler, connections and protocols together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

import trio

from kachery_p2p import descriptors
from kachery_p2p.errors import InvalidAddress, ProtocolNotSupported, StreamError
from kachery_p2p.protocols import DEFAULT_LISTEN
from kachery_p2p.transport import compat, identify, limits, multistream, ping
from kachery_p2p.transport.addresses import Address, parse_address
from kachery_p2p.transport.connection import Connection, Shared
from kachery_p2p.transport.dialer import Dialer, Reached
from kachery_p2p.transport.limits import TransportLimits
from kachery_p2p.transport.listener import Listener
from kachery_p2p.transport.peers import ConnectionInfo, Hook, PeerTable
from kachery_p2p.transport.pnet import PrivateIO
from kachery_p2p.transport.relay.circuit import open_circuit
from kachery_p2p.transport.sockets import ByteIO
from kachery_p2p.transport.stream import Stream
from kachery_p2p.transport.tls import tls_works
from kachery_p2p.transport.upgrade import upgrade

log = logging.getLogger("kachery_p2p.transport")

Handler = Callable[[Stream], Awaitable[None]]


class Host:
    """A libp2p node on TCP with TLS or Noise, and Yamux.

    Args:
        seed: the 32 bytes of an Ed25519 private key; they determine the peer ID.
        listen: multiaddrs to listen on; port 0 takes a free one. Empty: dial only. Where this machine has no IPv6,
            `/ip6/::` beside others is left out.
        announce: multiaddrs to tell peers in addition to those of the network interfaces (a forwarded port, say).
        swarm_key: 32 bytes; only peers with the same key can connect either way (private network).
        max_connections: above this, the least useful connections are closed; what `limits.py` and the number of files
            that this process may open allow when not given.
        agent: what we say we are.
        bounds: what it allows itself and its peers; `limits` afterwards.

    Raises:
        InvalidAddress: an address to listen on or to announce does not parse.

    A host runs once: `await nursery.start(host.run)`; cancel that task to stop it. Peer IDs are base58 text throughout.
    """

    def __init__(
        self,
        seed: bytes,
        listen: Sequence[str] = DEFAULT_LISTEN,
        *,
        announce: Sequence[str] = (),
        swarm_key: bytes | None = None,
        max_connections: int | None = None,
        agent: str = "kachery-p2p",
        bounds: TransportLimits = limits.DEFAULTS,
    ) -> None:
        compat.quieten()
        if swarm_key is not None and len(swarm_key) != 32:
            raise ValueError("a swarm key has 32 bytes")
        self.keys = compat.Keys.from_seed(seed)
        self.peer_id: str = self.keys.peer_id
        self._announce = [parse_address(text).transport for text in announce]
        #: turns the addresses of the interfaces into those that peers are told; None tells them as they are
        self.advertise: Callable[[list[str]], list[str]] | None = None
        self._swarm_key = swarm_key
        self.limits = bounds
        self._shared = Shared(bounds)
        self._handlers: dict[str, Handler] = {}
        files = descriptors.shares()
        if max_connections is None:
            max_connections = min(bounds.max_connections, files.connections)
        self.table = PeerTable(self.peer_id, max_connections, bounds)
        self._listener = Listener(
            listen,
            self.keys,
            self._wrap,
            self._adopt_inbound,
            bounds=bounds,
            max_handshakes=min(limits.MAX_HANDSHAKES, files.handshakes),
            spare=self._spare_file,
        )
        self._dialer = Dialer(
            self.keys,
            self.table,
            self._wrap,
            self._adopt_outbound,
            self._open_circuit,
            self._listener.beside,
            bounds=bounds,
            max_dials=min(limits.MAX_DIALS, files.dials),
        )
        self._identify = identify.Service(self, agent)
        self._nursery: trio.Nursery | None = None
        self._started = False
        #: called with a peer ID when its first connection is there, when its last one is gone, when it was identified
        self.on_connected: Hook[str] = Hook()
        self.on_disconnected: Hook[str] = Hook()
        self.on_identified: Hook[str] = Hook()
        #: called with each new connection, a second or third one of a peer as well
        self.on_connection: Hook[Connection] = Hook()
        self._handlers[identify.IDENTIFY] = self._identify.serve
        self._handlers[identify.IDENTIFY_PUSH] = self._identify.serve_push
        self._handlers[ping.PING] = ping.serve_ping

    # --- running ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled; started once listening.

        Raises:
            AddressInUse: an address to listen on is taken.
        """
        if self._started:
            raise RuntimeError("a Host runs once; make a new one")
        self._started = True
        self._listener.open()
        try:
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
            self._listener.close()

    async def prepare(self) -> None:
        """Read and make what the first connection needs, so that nobody waits for it then: a certificate takes 30 ms.

        It is for a node that stays. One that is here for a short command may never connect.
        """
        await trio.to_thread.run_sync(tls_works, self.keys)

    async def _work(self, scope: trio.CancelScope, ready: trio.Event) -> None:
        """All tasks of the host. Shielded, so that connections can still say goodbye when the host is cancelled."""
        with scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._listener.start(nursery)
                nursery.start_soon(self._housekeeping)
                nursery.start_soon(self._identify.push_changes)
                ready.set()

    async def _say_goodbye(self) -> None:
        self._listener.close()
        self._dialer.cancel()
        async with trio.open_nursery() as nursery:
            for connection in list(self.table):
                # Where nothing runs, nothing that was sent can be lost. Of a hundred strangers one is always slow.
                if connection.is_used:
                    nursery.start_soon(connection.close)
                else:
                    connection.drop("the host stopped")

    def require_nursery(self) -> trio.Nursery:
        """The nursery of the running host.

        Raises:
            RuntimeError: the host is not running.
        """
        if self._nursery is None:
            raise RuntimeError("the host is not running")
        return self._nursery

    # --- connections -----------------------------------------------------------------------------------------------

    def _wrap(self, io: ByteIO) -> ByteIO:
        return io if self._swarm_key is None else PrivateIO(io, self._swarm_key)

    async def _open_circuit(self, relay: Address, peer: str) -> tuple[ByteIO, bool]:
        return await open_circuit(self, relay, peer, timeout=self.limits.circuit_timeout)

    def _adopt_inbound(self, reached: Reached) -> Connection | None:
        return self._adopt(reached, initiator=False)

    def _adopt_outbound(self, reached: Reached) -> Connection | None:
        return self._adopt(reached, initiator=True)

    def _adopt(self, reached: Reached, *, initiator: bool) -> Connection | None:
        """Make a secured channel a connection; `None` when it is not wanted."""
        secured = reached.secured
        peer = secured.peer
        if peer == self.peer_id or self._nursery is None or self.table.banned(peer, trio.current_time()):
            reached.io.close()
            return None
        connection = Connection(
            reached.io,
            secured.records,
            peer=peer,
            address=reached.address,
            initiator=initiator,
            shared=self._shared,
            serve=self._serve,
            ended=self._forget,
            plaintext=secured.plaintext,
            limited=reached.limited,
        )
        first = self.table.add(connection)
        self._nursery.start_soon(self._run_connection, connection)
        for victim in self.table.surplus(connection):
            victim.drop("there are too many connections")
        if not initiator:
            self._dialer.arrived(peer)
        if first:
            self.on_connected.emit(peer)
        self.on_connection.emit(connection)
        return connection

    async def _run_connection(self, connection: Connection) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._identify.ask, connection)
                await connection.run()
                nursery.cancel_scope.cancel()
        finally:
            connection.abort("the host stopped")

    def _spare_file(self) -> None:
        """The process has no files left: the least useful connection makes room, if there is one that is not in use."""
        victim = self.table.least_useful()
        if victim is not None:
            victim.drop("this process has too many files open")

    def _forget(self, connection: Connection) -> None:
        if self.table.remove(connection):
            self.on_disconnected.emit(connection.peer)

    async def _housekeeping(self) -> None:
        while True:
            await trio.sleep(self.limits.housekeeping_interval)
            for connection in self.table.idle_duplicates(trio.current_time()):
                connection.drop("there is another connection with that peer")
            for connection in self.table.superseded(trio.current_time()):
                connection.drop("there is a direct connection with that peer")

    async def connect(
        self, addr: str, addrs: Sequence[str] = (), *, timeout: float = limits.DIAL_TIMEOUT, fresh: bool = False
    ) -> str:
        """Connect to a peer, unless it is connected; its peer ID.

        Args:
            addr: a multiaddr, with or without `/p2p/<peer ID>` at its end, or a peer ID.
            addrs: more addresses of the same peer, possibly from strangers: bad ones are reasons, not errors. A peer
                ID alone is dialled at the addresses it gave us before.
            timeout: seconds in all.
            fresh: dial even if there is a connection (a direct one beside a relayed one, say).

        Raises:
            InvalidAddress: `addr` does not parse.
            DialError: no address led to the peer; says for each why.
        """
        return await self._dialer.connect(self.require_nursery(), addr, addrs, timeout=timeout, fresh=fresh)

    async def punch(self, peer_id: str, addrs: Sequence[str], *, initiator: bool, timeout: float) -> bool:
        """Dial several addresses of a peer at this instant, while it does the same.

        Args:
            peer_id: base58.
            addrs: IP addresses only are tried; the others, and nonsense, are left out.
            initiator: which part this side plays in a connection that both have dialled. In one that reaches only a
                listening socket it must be True.
            timeout: seconds in all.

        Returns:
            Whether there is a direct connection then, ours or the peer's.
        """
        self.require_nursery()
        parsed: list[Address] = []
        for text in addrs:
            with contextlib.suppress(InvalidAddress):
                address = parse_address(text)
                if address.kind in ("ip4", "ip6"):
                    parsed.append(address)
        arrived = trio.Event()

        def look(connection: Connection) -> None:
            if connection.peer == peer_id and not connection.is_relayed:
                arrived.set()

        reached: Reached | None = None

        async def dial() -> None:
            nonlocal reached
            reached = await self._dialer.punch(parsed, peer_id, initiator=initiator)
            if reached is None:  # then the peer may still get through to us, soon or never
                await trio.sleep(limits.PUNCH_GRACE)
            nursery.cancel_scope.cancel()

        unsubscribe = self.on_connection.subscribe(look)
        try:
            with trio.move_on_after(timeout):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(dial)
                    await arrived.wait()
                    nursery.cancel_scope.cancel()
        finally:
            unsubscribe()
            if reached is not None:
                self._adopt(reached, initiator=initiator)
        return self.is_direct(peer_id)

    def is_direct(self, peer_id: str) -> bool:
        """Whether there is a connection with the peer that no relay carries."""
        best = self.table.best(peer_id)
        return best is not None and not best.is_relayed

    async def upgrade(
        self, io: ByteIO, address: str, *, initiator: bool, expected: str | None = None, limited: bool = False
    ) -> Connection:
        """Secure a channel that something else made (a relayed one, say), and take it as a connection.

        Args:
            io: the channel.
            address: the multiaddr of the other end, without its peer ID.
            initiator: whether this side opened it.
            expected: the peer ID that must be at the other end; None for any.
            limited: the channel will be cut after some time or some bytes.

        Raises:
            StreamError, WrongPeer, OSError: the handshake failed. The channel is closed then.
        """
        self.require_nursery()
        io = self._wrap(io)
        try:
            with trio.fail_after(self.limits.handshake_timeout):
                secured = await upgrade(io, self.keys, initiator=initiator, expected=expected)
        except trio.TooSlowError as error:
            io.close()
            raise StreamError("The security handshake timed out.") from error
        except BaseException:
            io.close()
            raise
        connection = self._adopt(Reached(io, secured, address, limited), initiator=initiator)
        if connection is None:
            raise StreamError(f"A connection with the peer {secured.peer} is not wanted.")
        return connection

    async def disconnect(self, peer_id: str) -> None:
        """Close all connections with a peer, if there are any."""
        async with trio.open_nursery() as nursery:
            for connection in self.table.of(peer_id):
                nursery.start_soon(connection.close)

    def ban(self, peer_id: str, seconds: float) -> None:
        """Close all connections with a peer, and make and take none for that long."""
        self.table.ban(peer_id, trio.current_time() + seconds)
        for connection in self.table.of(peer_id):
            connection.drop("the peer is banned")

    def protect(self, peer_id: str, tag: str) -> None:
        """Keep the peer's connections when there are too many, until each tag is taken back."""
        self.table.protect(peer_id, tag)

    def unprotect(self, peer_id: str, tag: str) -> bool:
        """Take a tag back; whether others still protect the peer."""
        return self.table.unprotect(peer_id, tag)

    # --- streams ---------------------------------------------------------------------------------------------------

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """Serve a protocol.

        Each stream runs `handler` in a task of its own and is closed when that returns, unless `Stream.keep` was
        called. An exception of the handler resets its stream, is logged, and does nothing else.
        """
        self._handlers[protocol] = handler
        self._identify.changed()

    def remove_handler(self, protocol: str) -> None:
        """Serve a protocol no longer; streams that are open go on."""
        if self._handlers.pop(protocol, None) is not None:
            self._identify.changed()

    def protocols(self) -> list[str]:
        """The protocols that are served."""
        return list(self._handlers)

    async def open_stream(
        self,
        peer_id: str,
        protocols: Sequence[str],
        *,
        timeout: float = limits.DEFAULTS.negotiate_timeout,
        ahead: Callable[[], None] | None = None,
    ) -> Stream:
        """Open a stream to a connected peer, with the first of `protocols` that the peer speaks.

        Args:
            peer_id: base58.
            protocols: names, the preferred one first.
            timeout: seconds to wait for the peer's answer.
            ahead: do not wait for the peer's answer where it is not known that it does not speak the preferred one,
                which saves a round trip. Where it does not, the stream breaks, and what was written is lost; then this
                is called, and the next stream is negotiated first.

        Raises:
            ProtocolNotSupported: it speaks none of them.
            StreamError: the peer is not connected, does not answer within `timeout` seconds, or the connection broke.
        """
        connection = self.table.best(peer_id)
        if connection is None:
            raise StreamError(f"There is no connection with the peer {peer_id}.")
        info = self.table.peek(peer_id)
        known = info.protocols if info.identified else info.opened
        wanted = sorted(protocols, key=lambda name: name not in known) if known else protocols
        stream = None
        try:
            with trio.move_on_after(timeout):
                stream = await connection.open_stream()
                if ahead is not None and not info.asked_first and (wanted[0] in known or not info.identified):
                    await self._propose(stream, wanted[0], ahead)
                else:
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

    async def _propose(self, stream: Stream, protocol: str, tell: Callable[[], None]) -> None:
        """Propose a protocol, and go on as if the peer had agreed."""

        def refused() -> None:
            log.debug("the peer %s does not speak %s", stream.peer, protocol)
            self.table.info(stream.peer).asked_first = True
            tell()

        proposal = multistream.proposal_of(protocol)
        stream.protocol = protocol
        stream.expect(proposal, refused)
        await stream.write(proposal)

    async def _serve(self, stream: Stream) -> None:
        """Serve a stream that a peer opened. Only cancellation gets out of here."""
        try:
            with trio.move_on_after(self.limits.negotiate_timeout):
                stream.protocol = await multistream.negotiate(stream, self._handlers)
            handler = self._handlers.get(stream.protocol)
            if handler is None:
                stream.abort("no protocol was agreed on")
                return
            self.table.info(stream.peer).opened.add(stream.protocol)
            await handler(stream)
            if not stream.kept:
                await stream.close()
        except (StreamError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("%r ended: %s", stream, error)
            stream.abort()
        except Exception:
            log.warning("the handler of %s failed", stream.protocol, exc_info=True)
            stream.abort("the handler failed")
        except BaseException:
            stream.abort()
            raise

    # --- what is known ---------------------------------------------------------------------------------------------

    def ports(self) -> dict[str, int]:
        """The port that each multiaddr to listen on led to."""
        return self._listener.ports()

    def listen_addresses(self) -> list[str]:
        """The multiaddrs that this machine listens on, wildcards expanded, without the peer ID; loopback last."""
        return list(self._listener.addresses())

    def transport_addresses(self) -> list[str]:
        """The multiaddrs that peers are told, without the peer ID: announced ones first, loopback last."""
        own = self.listen_addresses()
        return list(dict.fromkeys([*self._announce, *(own if self.advertise is None else self.advertise(own))]))

    def addresses_changed(self) -> None:
        """What `advertise` gives has changed: connected peers are told (identify push)."""
        self._identify.changed()

    def addresses(self) -> list[str]:
        """The same, each ending in our peer ID."""
        return [f"{each}/p2p/{self.peer_id}" for each in self.transport_addresses()]

    def connected(self) -> list[str]:
        """The peers with at least one connection."""
        return self.table.peers()

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
                limited=each.limited,
                security=each.security,
            )
            for each in self.table
        ]

    @property
    def handshakes(self) -> int:
        """Connections that came in and whose handshake is not done."""
        return self._listener.handshakes

    def protocols_of(self, peer_id: str) -> frozenset[str]:
        """What a peer says it speaks; empty before it was identified."""
        return self.table.peek(peer_id).protocols

    def agent_of(self, peer_id: str) -> str:
        """What a peer says it is; empty before it was identified."""
        return self.table.peek(peer_id).agent

    def addresses_of(self, peer_id: str) -> list[str]:
        """Where a peer says it listens, each ending in its peer ID; empty before it was identified."""
        return [f"{each}/p2p/{peer_id}" for each in self.table.peek(peer_id).addresses]

    def remote_addresses_of(self, peer_id: str) -> list[str]:
        """Where the other ends of the connections that we opened to a peer are, without the peer ID: they answered."""
        return [each.address for each in self.table.of(peer_id) if each.initiator]
