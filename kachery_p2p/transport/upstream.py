"""Our host as py-libp2p sees one, so that its protocols (ping, circuit relay, DCUtR, AutoNAT ...) run on it.

`UpstreamHost` has the `IHost` interface, `UpstreamNetwork` the `INetworkService` one. They hold nothing of
their own but the peer store and the list of notifees: connections and streams are thin views of ours, made when
asked for. What py-libp2p offers beyond (health monitoring, metrics, auto-connection) is not here and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import trio
from libp2p.abc import (
    IHost,
    IListener,
    IMuxedConn,
    INetConn,
    INetStream,
    INetworkService,
    INotifee,
    IPeerStore,
    IRawConnection,
)
from libp2p.crypto.keys import PrivateKey, PublicKey
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore, PeerStoreError, create_signed_peer_record
from libp2p.protocol_muxer.multiselect import Multiselect
from multiaddr import Multiaddr

from kachery_p2p.errors import DialError, KacheryError, StreamError
from kachery_p2p.transport.connection import Connection
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.stream import Stream
from kachery_p2p.transport.upstream_views import ConnectionView, MuxedView, RawConnectionIO, StreamView, no_such_thing

logger = logging.getLogger("kachery_p2p.transport")

# How long an address that a peer told us stays in the peer store, seconds; as in go-libp2p for connected peers.
_ADDRESS_TTL = 3600


class UpstreamNetwork(INetworkService):
    """`INetworkService` on our host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.peerstore: IPeerStore = PeerStore()
        self.peerstore.add_key_pair(host.keys.peer_id, host.keys.identity)
        self.listeners: dict[str, IListener] = {}
        self.connection_gate = None
        self._notifees: list[INotifee] = []
        host.on_connected.subscribe(self._connected)
        host.on_identified.subscribe(self._identified)

    # What our host tells.

    def _connected(self, peer: str) -> None:
        for connection in self._host.table.of(peer):
            view = ConnectionView(connection)
            for notifee in self._notifees:
                self._spawn(partial(notifee.connected, self, view))

    def _identified(self, peer: str) -> None:
        addresses = [Multiaddr(each) for each in self._host.table.peek(peer).addresses]
        self.peerstore.add_addrs(ID.from_base58(peer), addresses, _ADDRESS_TTL)
        self.peerstore.add_protocols(ID.from_base58(peer), list(self._host.protocols_of(peer)))

    def _spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        async def contained() -> None:
            try:
                await function()
            except Exception:
                logger.warning("a py-libp2p component failed", exc_info=True)

        try:
            self._host.require_nursery().start_soon(contained)
        except RuntimeError:
            logger.debug("the host stopped before a py-libp2p component had run")

    # Connections.

    @property
    def connections(self) -> dict[ID, list[INetConn]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.get_connections_map()

    def get_peer_id(self) -> ID:
        return self._host.keys.peer_id

    def get_connections(self, peer_id: ID | None = None) -> list[INetConn]:
        table = self._host.table
        return [ConnectionView(each) for each in (table if peer_id is None else table.of(peer_id.to_base58()))]

    def get_connections_map(self) -> dict[ID, list[INetConn]]:
        return {ID.from_base58(peer): self.get_connections(ID.from_base58(peer)) for peer in self._host.connected()}

    def get_connection(self, peer_id: ID) -> INetConn | None:
        best = self._host.table.best(peer_id.to_base58())
        return None if best is None else ConnectionView(best)

    def get_total_connections(self) -> int:
        return len(self._host.table)

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        try:
            addresses = [str(each) for each in self.peerstore.addrs(peer_id)]
        except PeerStoreError:
            addresses = []
        try:
            await self._host.connect(peer_id.to_base58(), addresses)
        except KacheryError as error:
            raise SwarmException(str(error)) from error
        return self.get_connections(peer_id)

    async def dial_addr(self, addr: Multiaddr, peer_id: ID, source: tuple[str, int] | None = None) -> INetConn:
        try:
            await self._host.connect(peer_id.to_base58(), [str(addr)], fresh=True)
        except KacheryError as error:
            raise SwarmException(str(error)) from error
        connection = self.get_connection(peer_id)
        if connection is None:
            raise SwarmException("the connection is gone already")
        return connection

    async def dial_addr_as_responder(
        self, addr: Multiaddr, peer_id: ID, source: tuple[str, int] | None = None
    ) -> INetConn:
        no_such_thing("dialling as the responder")

    async def new_stream(self, peer_id: ID) -> INetStream:
        if self.get_connection(peer_id) is None:
            await self.dial_peer(peer_id)
        best = self._host.table.best(peer_id.to_base58())
        if best is None:
            raise SwarmException(f"no connection with {peer_id}")
        return StreamView(await best.open_stream())

    async def upgrade_outbound_raw_conn(self, raw_conn: IRawConnection, peer_id: ID) -> INetConn:
        return ConnectionView(await self._upgrade(raw_conn, peer_id.to_base58(), initiator=True))

    async def upgrade_inbound_raw_conn(self, raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
        return MuxedView(await self._upgrade(raw_conn, None, initiator=False))

    async def _upgrade(self, raw: IRawConnection, expected: str | None, *, initiator: bool) -> Connection:
        addresses = raw.get_transport_addresses()
        # Where nobody knows the way a connection came, the bare circuit says at least what it is.
        address = str(addresses[0]) if addresses else "/p2p-circuit"
        io = RawConnectionIO(raw, self._spawn)
        try:
            return await self._host.upgrade(io, address, initiator=initiator, expected=expected)
        except (StreamError, DialError, OSError) as error:
            raise SwarmException(str(error)) from error

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        no_such_thing("one handler for all streams")

    async def listen(self, *multiaddrs: Multiaddr) -> bool:
        no_such_thing("listening on more addresses while running")

    def register_notifee(self, notifee: INotifee) -> None:
        self._notifees.append(notifee)

    def remove_notifee(self, notifee: INotifee) -> None:
        if notifee in self._notifees:
            self._notifees.remove(notifee)

    async def close(self) -> None:
        no_such_thing("closing the network; cancel Host.run")

    async def close_peer(self, peer_id: ID) -> None:
        await self._host.disconnect(peer_id.to_base58())

    # Tags, health and services.

    def protect(self, peer_id: ID, tag: str) -> None:
        self._host.protect(peer_id.to_base58(), tag)

    def unprotect(self, peer_id: ID, tag: str) -> bool:
        return self._host.unprotect(peer_id.to_base58(), tag)

    def is_protected(self, peer_id: ID, tag: str = "") -> bool:
        return self._host.table.is_protected(peer_id.to_base58(), tag)

    def tag_peer(self, peer_id: ID, tag: str, value: int) -> None:
        """Values are not weighed; see `PeerTable.surplus`."""

    def untag_peer(self, peer_id: ID, tag: str) -> None:
        """Values are not weighed; see `PeerTable.surplus`."""

    def get_tag_info(self, peer_id: ID) -> Any:
        return None

    def get_conn_mgr_info(self) -> Any:
        no_such_thing("the connection manager's report")

    def get_metrics(self) -> dict[str, int]:
        return {"connections": self.get_total_connections()}

    def get_peer_health_summary(self, peer_id: ID) -> dict[str, Any]:
        return {}

    def get_global_health_summary(self) -> dict[str, Any]:
        return {}

    def export_health_metrics(self, format: str = "json") -> str:
        return "{}"

    async def get_health_monitor_status(self) -> dict[str, Any]:
        return {}

    def get_manager(self) -> Any:
        no_such_thing("a service manager")

    async def run(self) -> None:
        no_such_thing("running the network; run the Host")


class UpstreamHost(IHost):
    """`IHost` on our host: hand this to py-libp2p's protocol classes."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._network = UpstreamNetwork(host)
        self.peerstore = self._network.peerstore
        self.peerstore.set_local_record(
            create_signed_peer_record(host.keys.peer_id, [], host.keys.identity.private_key)
        )

    def get_id(self) -> ID:
        return self._host.keys.peer_id

    def get_public_key(self) -> PublicKey:
        return self._host.keys.identity.public_key

    def get_private_key(self) -> PrivateKey:
        return self._host.keys.identity.private_key

    def get_network(self) -> INetworkService:
        return self._network

    def get_peerstore(self) -> IPeerStore:
        return self.peerstore

    def get_mux(self) -> Multiselect:
        return Multiselect({TProtocol(name): None for name in self._host.protocols()})

    def get_addrs(self) -> list[Multiaddr]:
        return [Multiaddr(each) for each in self._host.addresses()]

    def get_transport_addrs(self) -> list[Multiaddr]:
        return [Multiaddr(each) for each in self._host.transport_addresses()]

    @property
    def conn_manager(self) -> Any:
        return self._network

    def get_connected_peers(self) -> list[ID]:
        return [ID.from_base58(each) for each in self._host.connected()]

    def get_live_peers(self) -> list[ID]:
        return self.get_connected_peers()

    def run(
        self, listen_addrs: Sequence[Multiaddr], *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> AbstractAsyncContextManager[None]:
        no_such_thing("running the host through this view; use Host.run")

    def set_stream_handler(self, protocol_id: TProtocol, stream_handler: StreamHandlerFn) -> None:
        async def handler(stream: Stream) -> None:
            stream.keep()  # such handlers close their streams themselves, or hand them on (circuit relay)
            try:
                await stream_handler(StreamView(stream))
            except (StreamEOF, StreamReset, StreamClosed) as error:
                raise StreamError(f"The stream {stream.protocol} with {stream.peer} ended: {error}.") from error

        self._host.set_handler(str(protocol_id), handler)

    def remove_stream_handler(self, protocol_id: TProtocol) -> None:
        self._host.remove_handler(str(protocol_id))

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        try:
            if self._network.get_connection(peer_id) is None:
                await self._network.dial_peer(peer_id)
            return StreamView(await self._host.open_stream(peer_id.to_base58(), [str(each) for each in protocol_ids]))
        except KacheryError as error:
            # What protocols catch (host/basic_host.py raises host.exceptions.StreamFailure).
            from libp2p.host.exceptions import StreamFailure

            raise StreamFailure(str(error)) from error

    async def connect(self, peer_info: PeerInfo) -> None:
        self.peerstore.add_addrs(peer_info.peer_id, peer_info.addrs, _ADDRESS_TTL)
        await self._network.dial_peer(peer_info.peer_id)

    async def disconnect(self, peer_id: ID) -> None:
        await self._network.close_peer(peer_id)

    async def close(self) -> None:
        no_such_thing("closing the host through this view; cancel Host.run")

    async def upgrade_outbound_connection(self, raw_conn: IRawConnection, peer_id: ID) -> INetConn:
        return await self._network.upgrade_outbound_raw_conn(raw_conn, peer_id)

    async def upgrade_inbound_connection(self, raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
        return await self._network.upgrade_inbound_raw_conn(raw_conn, maddr)

    def get_metrics_recv_channel(self) -> trio.MemoryReceiveChannel[Any] | None:
        return None

    async def initiate_autotls_procedure(self, public_ip: str | None = None) -> None:
        no_such_thing("AutoTLS")

    def get_connection_health(self, peer_id: ID) -> dict[str, Any]:
        return {}

    def get_network_health_summary(self) -> dict[str, Any]:
        return {}

    def export_health_metrics(self, format: str = "json") -> str:
        return "{}"

    async def get_health_monitor_status(self) -> dict[str, Any]:
        return {}
