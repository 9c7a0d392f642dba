"""One IPFS node, put together: repo, transport, Bitswap, and the loads that run on them.

It holds no protocol and no format of its own: it starts the parts in the right order, hands each what it needs of the
others as plain callables, keeps connections to the peers it was told of, and stops everything when it is cancelled. Two
modules beside it put together what belongs together: `discovery` routing, reachability and relays, `pins` the pinning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from kachery_p2p import __version__, ownership
from kachery_p2p.access import asking
from kachery_p2p.access.gate import Gate
from kachery_p2p.access.log import LOG_NAME, AccessLog
from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, DialError, DiskFull, KacheryError, NoPermission
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.membership.groups import Groups
from kachery_p2p.membership.own_machines import OwnMachines
from kachery_p2p.membership.service import GroupService
from kachery_p2p.node.copies import HIDDEN_SECONDS, CopySearch
from kachery_p2p.node.discovery import Finding
from kachery_p2p.node.fetched import Counters
from kachery_p2p.node.loading import Loading, LoadProgress, no_progress
from kachery_p2p.node.members import MembersFirst
from kachery_p2p.node.messages import Copies, LoadResult, PublishedName, ResolvedName
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.node.pins import Keeping
from kachery_p2p.node.ports import Ports
from kachery_p2p.node.public_loads import PublicLoads
from kachery_p2p.node.status import discovery_status
from kachery_p2p.node.status_messages import ConnectedPeer, GatewayStatus, NodeStatus, TrafficStatus
from kachery_p2p.node.whereis import Whereis
from kachery_p2p.routing.database import DATABASE_NAME, Database
from kachery_p2p.routing.dht.records import read_ipns
from kachery_p2p.routing.ipns.names import name_text
from kachery_p2p.transport.addresses import parse_address
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.limits import DIAL_TIMEOUT
from kachery_p2p.units import GIB, HOUR

if TYPE_CHECKING:
    from kachery_p2p.bitswap.interfaces import GatewaySource
    from kachery_p2p.gateway.client.client import GatewayClient
    from kachery_p2p.node.messages import (
        Announced,
        AnnounceRequest,
        CopiesRequest,
        LoadRequest,
        OwnerRequest,
        PublishRequest,
        ResolveRequest,
        Whereabouts,
        WhereisRequest,
    )
    from kachery_p2p.node.room import Room
    from kachery_p2p.node.served_log import ServedLog
    from kachery_p2p.pinning.config import PinService
    from kachery_p2p.pinning.outbox import PinOutbox
    from kachery_p2p.pinning.server.keeper import ServiceFigures
    from kachery_p2p.repo.keys import NodeKey
    from kachery_p2p.repo.repo import Repo

log = logging.getLogger("kachery_p2p.node.node")


#: What identify tells other peers we are.
AGENT = f"kachery-cloud/{__version__}"
#: Seconds for which a peer that sent wrong bytes is not talked to.
BAN_SECONDS = HOUR
#: Seconds between looks at which peers took blocks from us.
SERVED_INTERVAL = 60.0
#: Peers of one log line.
MAX_NAMED_PEERS = 5
#: Bytes that the routing database must take at the start: what a node learns in its first hours.
PROBE_BYTES = 1 << 16
#: Seconds between tries to reach a configured peer again: first, and at the most.
RECONNECT_FIRST, RECONNECT_MOST = 1.0, 60.0
#: How often a load goes on after room was made for it, and bytes that are made free where it does not say how many.
ROOM_TRIES, ROOM_STEP = 5, GIB


class Node:
    """An IPFS node over a repo.

    Args:
        repo: the data directory. The node does not close it.
        identity: key and peer ID.
        listen: multiaddrs to listen on.
        peers: multiaddrs of peers to stay connected with and to ask first.
        announce: multiaddrs to tell others besides those that are found out.
        swarm_key: the 32-byte key of a private network, or None.
        options: how it finds others and is found; by default not at all.
        pin_services: that may be asked to keep what is in the outbox.
        outbox: what is to be pinned; that of the data directory, opened anew, where None.
        served_log: counts how much each peer is given; None where nobody wants to know.

    Attributes:
        keeping: what is pinned elsewhere.
        public_loads: loads for those who may have nothing but what everybody may.
        gate: decides who may see what. Whatever gives something away asks it.
        access_log: who was given what is not for everyone.
        groups: the groups that this machine is in, and who else is.
        membership: speaks for them on the network.
        counters: are told how much goes out to whom.
        service_figures: how the program is doing that the node is a part of; None where nobody says it.
        room: makes room where a load has none; None where nothing goes by itself.

    Raises:
        InvalidAddress: an address to listen on, or of a peer, does not parse.
        GatewayError: the same of a gateway, or its token cannot be sent.

    Use::

        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            loaded = await node.load(LoadRequest(cid, providers=("/ip4/192.0.2.7/tcp/4001/p2p/12D3...",)))
    """

    def __init__(
        self,
        repo: Repo,
        identity: NodeKey,
        *,
        listen: Sequence[str],
        peers: Sequence[str] = (),
        announce: Sequence[str] = (),
        swarm_key: bytes | None = None,
        options: NodeOptions | None = None,
        pin_services: Sequence[PinService] = (),
        outbox: PinOutbox | None = None,
        served_log: ServedLog | None = None,
    ) -> None:
        self.repo = repo
        self.served_log = served_log
        self.counters = Counters([] if served_log is None else [served_log])
        self.room: Room | None = None
        self.service_figures: Callable[[], ServiceFigures] | None = None
        options = options or NodeOptions()
        self._peers = list(dict.fromkeys(peers))
        for addr in self._peers:
            parse_address(addr)
        self._db = _open_database(repo.directory / DATABASE_NAME)
        self._ports = Ports(self._db)
        self._listen = self._ports.recall(listen)
        self.host = Host(identity.seed, list(self._listen), announce=announce, swarm_key=swarm_key, agent=AGENT)
        self.groups = Groups(repo.directory, self.host.keys, own_peers=options.own_peers)
        self.gate = Gate(self.groups, repo.access)
        self.access_log = AccessLog(repo.directory / LOG_NAME, self.gate.belongings)
        self.gateways: GatewayClient | None = None
        sources: list[GatewaySource] = []
        if options.gateways and swarm_key is None:
            from kachery_p2p.gateway.client.client import GatewayClient
            from kachery_p2p.load.gateways import ClientSource

            self.gateways = GatewayClient(options.gateways, options.gateway_tokens)
            sources = [ClientSource(self.gateways, gateway) for gateway in self.gateways.gateways]
        self._downloads = Downloads(repo)
        self.exchange = Exchange(
            self.host,
            self._downloads.arriving,
            on_bad_peer=self._on_bad_peer,
            gateways=sources,
            gate=self.gate,
            served=self.access_log,
            counted=self.counters,
        )
        self.host.set_handler(asking.PROTOCOL, asking.AudienceServer(self.gate, self._downloads.arriving).handle)
        owner = ownership.OwnerServer(
            repo.directory, options.show_owner, lambda peer: bool(self.groups.groups_of(peer))
        )
        self.host.set_handler(ownership.PROTOCOL, owner.handle)
        self._downloads.arriving.notify = self.exchange.notify
        self.finding = Finding(
            self.host,
            repo,
            self._db,
            options,
            peers=self._peers,
            announce=announce,
            swarm_key=swarm_key,
            arriving=lambda: self._lasting,
            gate=self.gate,
            members=self.groups,
        )
        self._own_machines = OwnMachines(self.host, self.groups)
        self._members_first = MembersFirst(
            self.host,
            self.finding,
            self.groups,
            self.gate,
            settled=self._own_machines.settled,
            formerly=repo.access.leaving.formerly,
            ever_restricted=repo.access.records.begun,
        )
        self.membership = GroupService(self.host, self.groups, self._reach_member)
        self.keeping = Keeping(self.host, self.exchange, repo, pin_services, outbox=outbox)
        self._peer_errors: dict[str, str] = {}
        self._staying: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._said_addresses: list[str] | None = None
        #: Roots of loads that have lasted for some time: a part of each is here.
        self._lasting: frozenset[bytes] = frozenset()
        self._loading = Loading(
            repo,
            self._downloads,
            self.exchange,
            self.finding,
            self.groups,
            self._members_first,
            reach=self._reach,
            peers=self._peers,
            lasting=self._is_lasting,
        )
        self.public_loads = PublicLoads(
            repo, self.host, self.exchange, self.finding, self.gate, self.groups, reach=self._reach, peers=self._peers
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled.

        Raises:
            AddressInUse: an address to listen on is taken.
        """
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.host.run)
                try:
                    self._ports.remember(self._listen, self.host.ports())
                except KacheryError as error:
                    log.warning("the ports cannot be remembered: %s", error)
                # Whoever is removed from a group hears of no want any more, also of a load that is under way.
                self.groups.on_changed(self.exchange.look_again)
                await nursery.start(self.access_log.run)
                if self.served_log is not None:
                    await nursery.start(self.served_log.run)
                await nursery.start(self.exchange.run)
                await nursery.start(self.finding.run)
                await nursery.start(self.membership.run)
                await nursery.start(self._own_machines.run)
                if self.gateways is not None:
                    await nursery.start(self.gateways.run)
                await nursery.start(self.keeping.run)
                nursery.start_soon(self.public_loads.run)
                nursery.start_soon(self._note_served)
                self._nursery = nursery
                self.set_peers(self._peers)
                self._say_addresses()
                task_status.started()
        finally:
            self._db.close()

    # --- peers

    async def connect(self, addr: str) -> str:
        """Connect to a multiaddr, with or without ``/p2p/<peer ID>``; returns the peer ID.

        Raises:
            InvalidAddress: not a multiaddr that can be dialled.
            DialError: no peer answers there, or another one does.
        """
        return await self.host.connect(addr)

    async def _reach(self, addr: str, addrs: Sequence[str]) -> str:
        """For loads: dial a multiaddr, or a peer that was found, at the addresses that go with it."""
        if addr.startswith("/"):
            return await self.host.connect(addr, addrs)
        return await self.finding.dial(addr, addrs, timeout=DIAL_TIMEOUT)

    async def _reach_member(self, peer: str, addrs: Sequence[str], timeout: float) -> str:
        """For groups: the same, wherever the peer is now."""
        return await self.finding.dial(peer, addrs, timeout=timeout)

    def set_peers(self, peers: Sequence[str]) -> None:
        """Stay connected with these peers from now on, and with no others.

        Connections that there are stay. While the node does not run, it only says whom it begins with.

        Raises:
            InvalidAddress: one of them does not parse. Then nothing has changed.
        """
        wanted = list(dict.fromkeys(peers))
        for addr in wanted:
            parse_address(addr)
        self._peers[:] = wanted
        if self._nursery is None:
            return
        for addr in set(self._staying) - set(wanted):
            self._staying.pop(addr).cancel()
            self._peer_errors.pop(addr, None)
        for addr in wanted:
            if addr not in self._staying:
                scope = self._staying[addr] = trio.CancelScope()
                self._nursery.start_soon(self._stay, addr, scope)

    async def _stay(self, addr: str, scope: trio.CancelScope) -> None:
        with scope:
            await self._stay_connected(addr)

    async def _stay_connected(self, addr: str) -> None:
        pause = RECONNECT_FIRST
        while True:
            gone = trio.Event()
            try:
                peer = await self.connect(addr)
            except DialError as error:
                self._peer_errors[addr] = str(error)
                log.info("%s", error)
            else:
                self._peer_errors.pop(addr, None)
                self.host.protect(peer, "configured")
                self.finding.configured(peer, addr)
                pause = RECONNECT_FIRST
                unsubscribe = self.host.on_disconnected(
                    lambda p, peer=peer, gone=gone: gone.set() if p == peer else None
                )
                if peer in self.host.connected():
                    await gone.wait()
                unsubscribe()
            await trio.sleep(pause)
            pause = min(2 * pause, RECONNECT_MOST)

    async def _note_served(self) -> None:
        """Remember the peers that take blocks from us: they have what we have."""
        before: dict[str, int] = {}
        total = 0
        while True:
            await trio.sleep(SERVED_INTERVAL)
            stats = self.exchange.stats()
            sent = {peer: each.blocks_sent for peer, each in stats.peers.items()}
            served = [peer for peer, count in sent.items() if count > before.get(peer, 0)]
            self.finding.served(served)
            before = sent
            if stats.total.bytes_sent > total:
                size, named = stats.total.bytes_sent - total, ", ".join(served[:MAX_NAMED_PEERS]) or "none that is left"
                log.info("served %d bytes in the last minute; peers: %d (%s)", size, len(served), named)
                total = stats.total.bytes_sent
            self._say_addresses()

    def _say_addresses(self) -> None:
        """Log where we are, when that is another place than the last time."""
        addresses = self.host.addresses()
        if addresses != self._said_addresses:
            self._said_addresses = addresses
            log.info("others reach this node at: %s", ", ".join(addresses) or "no address, as far as is known")

    def _on_bad_peer(self, peer: str, why: str) -> None:
        log.warning("dropping peer %s: %s", peer, why)
        self.host.ban(peer, BAN_SECONDS)
        self.finding.bad(peer)

    # --- data

    async def notify_stored(self, cids: Sequence[CID]) -> None:
        """Answer the peers that wait for what was stored in the repo, and announce what of it is here.

        These are files or directories, and other processes may have stored them.
        """
        multihashes = [cid.multihash for cid in cids]
        self.exchange.notify(multihashes)
        self.finding.announce(multihashes)

    async def announce(self, request: AnnounceRequest) -> Announced:
        """Announce a root and wait until that is done.

        Raises:
            ContentNotFound: it is not here, or not all of it: others would come for nothing.
            KacheryError: it is neither for everybody nor for a group that this machine is in.
        """
        cid = request.cid
        if not await trio.to_thread.run_sync(self.repo.roots_among, [cid.multihash]):
            raise ContentNotFound(
                f"ipfs://{cid} is not on this machine, or not all of it, so it cannot be announced from here. Store "
                "it, or load all of it first (kachery-cloud-load; a directory with --dest FOLDER)."
            )
        if not await self.finding.may_announce(cid.multihash):
            raise KacheryError(
                f"ipfs://{cid} is for no group that this machine is in, so it is announced to nobody. Your own "
                "machines find it by asking each other. Who may load it: kachery-cloud access"
            )
        return await self.finding.announced(cid.multihash, request.timeout)

    async def whereis(
        self, request: WhereisRequest, tell: Callable[[Whereabouts], None] = lambda row: None
    ) -> tuple[Whereabouts, ...]:
        """Who has a root; `tell` hears of each that has answered. See `kachery_p2p.node.whereis`.

        Raises:
            NotAMember: it is for groups, and this machine is in none of them.
        """
        plan = await self._members_first.plan(request.cid, request.groups, members_only=request.members_only)
        return await Whereis(self.host, self.exchange, self.finding, tell, plan.groups).run(request)

    async def publish(self, request: PublishRequest) -> PublishedName:
        """Let a name of this machine point to a path; see `kachery_p2p.routing.ipns.service.Names.publish`.

        Raises:
            NoPermission: what it would point to is not for everybody. The record would tell everybody its CID.
        """
        await self._check_public(request.path)
        names = self.finding.names
        sent = await names.publish(request.key, request.path, ttl=request.ttl, timeout=request.timeout)
        record = read_ipns(sent.name, sent.record)
        until = record.valid_until / 1e9
        return PublishedName(
            name_text(sent.name), request.path, record.sequence, until, sent.copies, routes=names.routes
        )

    async def _check_public(self, path: str) -> None:
        """See `publish`."""
        if not await self.finding.may_be_told(path):
            raise NoPermission(
                f"ipfs:/{path.removeprefix('/ipfs')} is not for everybody, and a published name would tell everybody "
                "its CID. Pass on its URI instead; or make it public first (kachery-cloud visibility)."
            )

    async def resolve(self, request: ResolveRequest) -> ResolvedName:
        """Where a name leads; see `kachery_p2p.routing.ipns.service.Names.resolve`."""
        found = await self.finding.names.resolve(request.name, timeout=request.timeout)
        record = found.record
        if record is None:
            return ResolvedName(found.path, found.names)
        return ResolvedName(
            found.path, found.names, record.sequence, record.valid_until / 1e9, record.ttl / 1e9, found.fresh
        )

    async def owner(self, request: OwnerRequest) -> str:
        """The proof of who stands behind a peer, as the peer hands it over; see `kachery_p2p.ownership`.

        Raises:
            DialError: it cannot be reached.
            KacheryError: it does not answer, or does not know the question.
        """
        if request.peer not in self.host.connected():
            await self.finding.dial(request.peer, request.addrs, timeout=request.timeout)
        # Whether it is one of the user's own machines is settled on both sides by the same exchange.
        with trio.move_on_after(ownership.SECONDS):
            await self._own_machines.settled(request.peer)
        return (await ownership.ask_owner(self.host, request.peer)).decode("utf-8", "replace")

    async def copies(self, request: CopiesRequest) -> Copies:
        """Whether anybody else has all of a root; see `kachery_p2p.node.copies`.

        From now on, and where a copy was seen for a minute more, this node does not say that it has it.
        """
        multihash = request.cid.multihash
        arriving = self._downloads.arriving
        arriving.hide(multihash, request.timeout + HIDDEN_SECONDS)
        found = Copies()
        try:
            plan = await self._members_first.plan(request.cid, request.groups, members_only=request.members_only)
            found = await CopySearch(self.host, self.exchange, self.finding, request, plan.groups).run()
        finally:
            if found.seen:
                arriving.hide(multihash, HIDDEN_SECONDS)
            else:
                arriving.show([multihash])
                self.exchange.notify([multihash])
        return found

    async def notify_removed(self, cids: Sequence[CID]) -> None:
        """Another process has removed these, or has left them: announce them no more, and let go of open files."""
        await trio.to_thread.run_sync(self.repo.removal.let_go)
        self._downloads.arriving.show([cid.multihash for cid in cids])
        self.finding.refresh()

    async def notify_access(self) -> None:
        """Another process has changed who may see what: those who wait for it get it, and announcements follow."""
        self.gate.changed()
        self.finding.refresh()
        self.finding.names.look_again()

    async def load(self, request: LoadRequest, progress: LoadProgress = no_progress) -> LoadResult:
        """Bring a file, a byte range of one, or a directory to this machine; see `loading.Loading.load`.

        Raises:
            NotAMember: it is for groups, and this machine is in none of them.
            PathNotFound, IsADirectory, ContentNotFound, MalformedDag, DiskFull ...: see `kachery_p2p.errors`.
            InvalidAddress: one of the providers is not a multiaddr.
        """
        for tries in reversed(range(ROOM_TRIES)):
            try:
                result = await self._loading.load(request, progress)
                break
            except DiskFull as error:
                if not tries or self.room is None or await self.room.make(error.lacking or ROOM_STEP) <= 0:
                    raise
        else:
            raise AssertionError("the last try returns or raises")
        if self.room is not None:
            self.room.arrived(sum(result.sources.values()))
        return result

    async def load_public(self, request: LoadRequest) -> LoadResult:
        """The same for somebody unknown, who may have nothing but what everybody may; see `PublicLoads`."""
        return await self.public_loads.load(request)

    def _is_lasting(self, root: CID, lasts: bool) -> None:
        """A load of a root has lasted for some time, and a part of it is here; or it has ended."""
        self._lasting = self._lasting | {root.multihash} if lasts else self._lasting - {root.multihash}

    # --- what is going on

    def status(self) -> NodeStatus:
        """Peer ID, addresses, connections and counters."""
        return NodeStatus(
            peer_id=self.host.peer_id,
            addresses=tuple(self.host.addresses()),
            connected=tuple(ConnectedPeer(each.peer, each.addr, each.direction) for each in self.host.connections()),
            unreachable_peers=dict(self._peer_errors),
            pinning=self.keeping.status(),
            gateways={name: GatewayStatus(**each) for name, each in self.exchange.gateways().items()},
            discovery=discovery_status(self.finding),
            traffic=TrafficStatus(**asdict(self.exchange.stats().total)),
        )


def _open_database(path: Path) -> Database:
    """What routing remembers over a restart.

    Where the disk does not take it, it is kept in memory: all of it can be learned anew, and serving what is here
    needs none of it.
    """
    try:
        db = Database(path)
        try:
            # Tried with as much as is soon needed: a node must not stop for it later.
            db.create("CREATE TABLE IF NOT EXISTS room (filler BLOB);")
            with db.write() as tx:
                tx.execute("INSERT INTO room VALUES (zeroblob(?))", (PROBE_BYTES,))
                tx.execute("DELETE FROM room")
        except BaseException:
            db.close()
            raise
    except KacheryError as error:
        log.warning("until the next start, what is learned of other peers is kept in memory alone: %s", error)
        return Database(None)
    return db
