"""How this node finds others and is found: the sources of routing, reachability and relays, put together.

Each part can be switched off, and is not imported then. Each can fail while the node goes on: it runs in a task of its
own, and what ended it is kept in `errors`. What one part learns the others are told here, and nowhere else:

    mDNS, connections, loads   -> the address book
    reachability               -> server or client of the public DHT, relay service, reservations at relays, identify
    the address book           -> the first peers of the DHTs, and whom to dial after a start

What is not for everybody is announced, and looked for, under keys that only members of its groups can compute
(`kachery_p2p.routing.blinded`). All that is announced goes through `Blinding`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p.access.gate import Gate
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError
from kachery_p2p.node.dialling import Dialler
from kachery_p2p.node.messages import Announced
from kachery_p2p.protocols import KAD, LAN_KAD
from kachery_p2p.routing.address_book import KnownPeers, KnownSource
from kachery_p2p.routing.interfaces import Provider, ProviderSource
from kachery_p2p.routing.ipns.seen import SeenRecords
from kachery_p2p.routing.ipns.service import Names
from kachery_p2p.routing.ipns.shelf import Shelf
from kachery_p2p.routing.members import MemberSearch
from kachery_p2p.routing.provide.blinding import Blinding, Members, NoGroups
from kachery_p2p.routing.router import Router, Sighting
from kachery_p2p.transport.dns_txt import txt_records
from kachery_p2p.transport.holepunch import HolePunch
from kachery_p2p.transport.nat.reachability import Reachability
from kachery_p2p.transport.relay.client import RelayClient
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_p2p.node.options import NodeOptions
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.routing.database import Database
    from kachery_p2p.routing.dht.dht import DHT
    from kachery_p2p.routing.mdns import Mdns
    from kachery_p2p.routing.provide.announcer import Announcer
    from kachery_p2p.transport.host import Host
    from kachery_p2p.transport.relay.service import RelayService

log = logging.getLogger("kachery_p2p.node.node")

#: Peers of the local network that are kept connected; a larger network is found through its DHT.
MAX_LAN_PEERS = 64
#: Peers of the address book that are dialled after a start: the machines of a lab.
RECALLED_PEERS = 16
#: Peers of the address book by which a DHT is entered, beside the bootstrap peers.
DHT_SEEDS = 32
#: Seconds after the start for which a search waits for a DHT to have its first peer, where there is a way to one.
ENTRY_SECONDS = 10.0
#: Seconds for which new keys gather before they are announced.
ANNOUNCE_DELAY = 0.1
#: Blocks of which is looked up at once whether they are for everybody.
BLOCKS_AT_ONCE = 1000
#: Errors kept for `status`.
MAX_ERRORS = 20

Run = Callable[..., Awaitable[None]]


class _Entering:
    """A DHT as a source, and a route, that has its first peers before it is asked, while it may still be entering."""

    def __init__(self, dht: DHT, entering: Callable[[], float]) -> None:
        self.name = dht.name
        self._dht = dht
        self._entering = entering

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        await self._enter()
        async with contextlib.aclosing(self._dht.find_providers(multihash)) as found:
            async for provider in found:
                yield provider

    async def get_value(self, key: bytes, found: Callable[[bytes], None]) -> object:
        await self._enter()
        return await self._dht.get_value(key, found)

    async def put_value(self, key: bytes, value: bytes) -> int:
        await self._enter()
        return await self._dht.put_value(key, value)

    async def _enter(self) -> None:
        with trio.move_on_after(self._entering()):
            await self._dht.wait_peers()


class Finding:
    """All of it for one node. Made inside the trio run of the node.

    Args:
        host: of the node.
        repo: whose contents are announced.
        db: what is remembered over a restart.
        options: which parts there are.
        peers: configured peers, with their IDs where they were given.
        announce: multiaddrs that are told whatever happens.
        swarm_key: of the private network, where there is one. Nothing that cannot hold it is asked then.
        arriving: the roots of which a part is here and the rest is being loaded. They are announced, too.
        gate: says who may see which root.
        members: the groups of this machine, and their secrets.

    Attributes:
        members: finds members of groups that may have something.
        known: the address book; None where it is switched off. So are `mdns`, `lan_dht`, `dht`, `delegated`,
            `announcer`, and `relay_service` while this node does not relay for others.
        names: IPNS, ours and those of others.
        errors: what ended parts or went wrong lately, with the time in seconds since 1970.
    """

    def __init__(
        self,
        host: Host,
        repo: Repo,
        db: Database,
        options: NodeOptions,
        *,
        peers: Sequence[str] = (),
        announce: Sequence[str] = (),
        swarm_key: bytes | None = None,
        arriving: Callable[[], frozenset[bytes]] = frozenset,
        gate: Gate | None = None,
        members: Members | None = None,
    ) -> None:
        self._host = host
        self._repo = repo
        self._arriving = arriving
        self._gate = Gate() if gate is None else gate
        self._groups: Members = members or NoGroups()
        self._blinding = Blinding(self._gate, self._groups)
        self.options = options
        self._peers = peers
        self.swarm_key = swarm_key
        self.errors: deque[tuple[float, str]] = deque(maxlen=MAX_ERRORS)
        self._nursery: trio.Nursery | None = None
        self._new: dict[bytes, None] = {}
        self._new_came = Flag()
        self._lan_peers: set[str] = set()
        self._begun = 0.0
        self._said_state = ""
        rng = random.Random()

        self.known = KnownPeers(db, local=host.peer_id) if options.known_peers else None
        self.mdns: Mdns | None = None
        if options.mdns:
            from kachery_p2p.routing.mdns import Mdns

            self.mdns = Mdns(
                peer_id=host.peer_id,
                addresses=host.listen_addresses,
                on_found=self._on_lan_peer,
                on_gone=self._on_lan_gone,
            )
        self.lan_dht = self._make_dht(db, rng, lan=True) if options.lan_dht else None
        self.dht = self._make_dht(db, rng, lan=False) if options.dht != "off" else None
        dhts = [dht for dht in (self.lan_dht, self.dht) if dht is not None]
        self._dialler = Dialler(host, self.known, dhts)
        self.delegated: Any = None
        if options.delegated and not self.is_private:
            from kachery_p2p.routing.delegated import Delegated

            self.delegated = Delegated(options.delegated)
        entered = [_Entering(dht, self._entering) for dht in dhts]
        sources: list[ProviderSource] = [*([self.mdns] if self.mdns else []), *entered]
        self.names = Names(
            Shelf(repo.directory),
            SeenRecords(db),
            [*entered, *([self.delegated] if self.delegated is not None else [])],
            txt=txt_records if options.dnslink and not self.is_private else None,
            may_tell=self.may_be_told,
        )
        if self.delegated is not None:
            sources.append(self.delegated)
        if self.known is not None:
            sources.append(KnownSource(self.known))
        self.router = Router(sources, local=host.peer_id)
        self.members = MemberSearch(
            self.router,
            self._groups,
            known=self.known.addresses if self.known is not None else None,
            local=host.peer_id,
            rng=rng,
        )

        self.announcer: Announcer | None = None
        if options.provide != "off" and dhts:
            from kachery_p2p.routing.provide.announcer import Announcer

            listed = self._all_keys if options.provide == "all" else self._root_keys
            self.announcer = Announcer(db, dhts, listed, here=self._keys_among)

        forced = None if options.reachability == "auto" else options.reachability
        self.relays = RelayClient(host, options.relays, use_others=options.use_relays)
        self.relay_service: RelayService | None = None
        self._relay_scope = trio.CancelScope()
        self.hole_punch = HolePunch(host)
        self.reachability = Reachability(
            host,
            announce=announce,
            forced=forced,
            lan_only=not options.autonat,
            map_ports=options.port_map and not self.is_private,
            swarm_key=swarm_key,
            extra=self.relays.addresses,
            rng=rng,
        )
        host.advertise = self.reachability.advertise

        parts: list[tuple[str, Any]] = [
            ("the address book", self.known),
            ("the router", self.router),
            ("mDNS", self.mdns),
            ("the LAN DHT", self.lan_dht),
            ("the public DHT", self.dht),
            ("delegated routing", self.delegated),
            ("announcing", self.announcer),
            ("keeping names alive", self.names),
            ("the relay client", self.relays),
            ("hole punching", self.hole_punch),
            ("reachability", self.reachability),
        ]
        self._parts = [(name, part.run) for name, part in parts if part is not None]

    @property
    def is_private(self) -> bool:
        """Whether this is a private network."""
        return self.swarm_key is not None

    def _roots(self) -> Iterator[bytes]:
        yield from self._arriving()
        yield from self._repo.roots()

    def _root_keys(self) -> Iterator[bytes]:
        """In a thread: under which keys all roots are announced."""
        return self._blinding.listed(self._roots())

    def _all_keys(self) -> Iterator[bytes]:
        """The same where each block is announced: of what is not for everybody still the roots alone."""
        yield from self._root_keys()
        blocks = self._repo.all_multihashes()
        while some := list(islice(blocks, BLOCKS_AT_ONCE)):
            yield from self._blinding.public(some)

    def _keys_among(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of some keys that may be announced."""
        return self._blinding.right(keys, self._here_among)

    def _here_among(self, multihashes: Sequence[bytes]) -> set[bytes]:
        found = self._repo.roots_among(multihashes) | self._arriving().intersection(multihashes)
        if self.options.provide == "all":
            found.update(self._repo.own.block_sizes(multihashes))
        return found

    def _provides(self, key: bytes) -> bool:
        """Whether a peer that asks for the providers of a key is told our name.

        Whoever passes the answer on is not known here. So of a multihash everybody is told what everybody may see; of a
        key that only members can know, those who know it are told.
        """
        if self.options.provide == "off":
            return False
        root = self._blinding.root_of(key)
        if root is not None:
            return self._repo.own.has_block(root) is not None
        return self._gate.look([(None, key)], self._repo.own.block_sizes) != [None]

    def _make_dht(self, db: Database, rng: random.Random, *, lan: bool) -> DHT:
        from kachery_p2p.routing.dht.dht import DHT

        known = self.known
        protocol = LAN_KAD if lan else KAD

        def seeds() -> list[tuple[str, tuple[str, ...]]]:
            return known.dht_seeds(DHT_SEEDS, protocol) if known is not None else []

        return DHT(
            self._host,
            db,
            lan=lan,
            mode="auto" if lan else self.options.dht,
            bootstrap=self.options.bootstrap,
            seeds=seeds,
            provides=self._provides,
            rng=rng,
        )

    # --- running ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find and be found until cancelled. The host must be running. Raises nothing."""
        unsubscribe = [
            self._host.on_connected(self._on_connected),
            self._host.on_identified(self._on_identified),
            # Secrets change, and with them the keys.
            self._groups.on_changed(self.refresh),
            self.reachability.on_change(self._on_reachability),
            self.relays.on_change(lambda _: self.reachability.refresh()),
        ]
        self._begun = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                async with trio.open_nursery() as starting:
                    for name, run in self._parts:
                        starting.start_soon(nursery.start, self._guard, name, run)
                self._on_reachability(self.reachability.state)
                nursery.start_soon(self._recall)
                if self.announcer is not None:
                    nursery.start_soon(self._announce_new, self.announcer)
                task_status.started()
        finally:
            self._nursery = None
            for each in unsubscribe:
                each()

    async def _guard(self, name: str, run: Run, *, task_status: trio.TaskStatus[None]) -> None:
        """Run one part. Should it fail, the others and the node go on without it."""
        ready = trio.Event()

        class Started:
            """What the part is given: it may end before it has started."""

            def started(self, value: None = None) -> None:
                if not ready.is_set():
                    ready.set()
                    task_status.started()

        try:
            await run(task_status=Started())
        except KacheryError as error:
            log.warning("%s ended: %s", name, error)
            self._note(f"{name}: {error}")
        except Exception as error:
            log.exception("%s failed; the node goes on without", name)
            self._note(f"{name} failed: {type(error).__name__}: {error}")
        finally:
            Started().started()

    def _note(self, what: str) -> None:
        self.errors.append((time.time(), what))

    # --- what the parts learn --------------------------------------------------------------------------------------

    def _on_connected(self, peer: str) -> None:
        if self.known is not None:
            dialled = self._host.remote_addresses_of(peer)
            self.known.connected(peer, dialled[0] if dialled else None)

    def _on_identified(self, peer: str) -> None:
        if self.known is not None:
            host = self._host
            self.known.identified(peer, host.addresses_of(peer), host.agent_of(peer), host.protocols_of(peer))

    def _on_lan_peer(self, peer: str, addrs: list[str]) -> None:
        if self.known is not None:
            self.known.heard(peer, addrs, "mdns")
        if self._nursery is None or (peer not in self._lan_peers and len(self._lan_peers) >= MAX_LAN_PEERS):
            return
        self._lan_peers.add(peer)
        self._host.protect(peer, "lan")
        self._nursery.start_soon(self._dialler.dial_quietly, peer, addrs)

    def _on_lan_gone(self, peer: str) -> None:
        self._lan_peers.discard(peer)
        self._host.unprotect(peer, "lan")

    def _on_reachability(self, state: str) -> None:
        reachable = state == "public"
        if state != self._said_state:
            self._said_state = state
            log.info("whether others can dial this machine: %s", state)
        if self.dht is not None:
            self.dht.set_server(reachable)
        service = self.options.relay_service
        self._relay_for_others(service == "on" or (service == "auto" and reachable))
        # Relays that the user named are used even by a node that does not ask others whether it can be reached.
        named = bool(self.options.relays) and not reachable
        self.relays.enabled = named or (self.options.use_relays and self.reachability.wants_relay)

    def _relay_for_others(self, wanted: bool) -> None:
        if wanted == (self.relay_service is not None) or self._nursery is None:
            return
        if not wanted:
            self._relay_scope.cancel()
            self.relay_service = None
            return
        from kachery_p2p.transport.relay.service import RelayService

        # A user who switches it on means it for data. A node that relays because it happens to be reachable helps
        # strangers to a direct connection. Data it relays only for its own people.
        freely = self.options.relay_service == "on" or self.is_private
        service = self.relay_service = RelayService(self._host, is_friend=lambda peer: freely or self._is_friend(peer))
        scope = self._relay_scope = trio.CancelScope()

        async def run(*, task_status: Any) -> None:
            with scope:
                await service.run(task_status=task_status)

        self._nursery.start_soon(self._nursery.start, self._guard, "the relay service", run)

    def _is_friend(self, peer: str) -> bool:
        """Whether a peer is of our lab: on our network, or named in the settings."""
        return peer in self._lan_peers or any(addr.endswith(f"/p2p/{peer}") for addr in self._peers)

    # --- getting to peers ------------------------------------------------------------------------------------------

    async def dial(self, peer: str, addrs: Sequence[str], *, timeout: float) -> str:
        """See `kachery_p2p.node.dialling.Dialler.dial`."""
        return await self._dialler.dial(peer, addrs, timeout=timeout)

    async def _recall(self) -> None:
        """Dial the machines that were of use before, so that they can be asked, and know where we are now."""
        if self.known is None:
            return
        async with trio.open_nursery() as nursery:
            for peer, addrs in self.known.candidates(RECALLED_PEERS):
                nursery.start_soon(self._dialler.dial_quietly, peer, addrs)

    def _entering(self) -> float:
        """For how many seconds more a DHT without peers may be on its way in; 0 where there is no way in."""
        known = self.known
        has_way = self.options.bootstrap or self._peers or self._host.connected()
        if not has_way and not (known is not None and (known.candidates(1) or known.dht_seeds(1))):
            return 0.0
        return max(0.0, self._begun + ENTRY_SECONDS - trio.current_time())

    # --- what the node asks ----------------------------------------------------------------------------------------

    def providers(self, cid: CID, groups: Iterable[str] | None = None) -> AsyncGenerator[Provider, None]:
        """Who has a block, as they are found; ends when no source has more to say.

        Args:
            cid: of the block.
            groups: that it is for: their members are looked for, without a word of the CID to others. None where it is
                for everybody.
        """
        if groups is not None:
            return self.members.find_providers(groups, cid.multihash, label=str(cid))
        return self.router.find_providers(cid.multihash, label=str(cid))

    def sightings(self, cid: CID, groups: Iterable[str] | None = None) -> AsyncGenerator[Sighting, None]:
        """The same for display: everything that every source says, now."""
        if groups is not None:
            return self.members.search(groups, cid.multihash, label=str(cid), fresh=True)
        return self.router.search(cid.multihash, label=str(cid), fresh=True)

    def configured(self, peer: str, addr: str) -> None:
        """A peer that the settings name was reached there."""
        if self.known is not None:
            self.known.heard(peer, [addr.partition("/p2p/")[0]], "configured")

    def served(self, peers: Iterable[str]) -> None:
        """These peers took blocks from us lately."""
        if self.known is not None:
            for peer in peers:
                self.known.served(peer)

    def useful(self, sources: dict[str, int]) -> None:
        """These peers gave us so many bytes."""
        if self.known is not None:
            for peer, size in sources.items():
                self.known.useful(peer, size)

    def bad(self, peer: str) -> None:
        """This peer sent wrong bytes."""
        if self.known is not None:
            self.known.forget(peer)

    def announce(self, multihashes: Iterable[bytes]) -> None:
        """These are here now: tell the DHTs, in a moment, with whatever else comes until then."""
        if self.announcer is None:
            return
        self._new.update(dict.fromkeys(multihashes))
        self._new_came.set()

    def refresh(self) -> None:
        """Something was removed: look at what is to be announced."""
        if self.announcer is not None:
            self.announcer.refresh()

    async def _announce_new(self, announcer: Announcer) -> None:
        while True:
            await self._new_came.take()
            # A script that stores one value after the other makes one transaction of a hundred.
            await trio.sleep(ANNOUNCE_DELAY)
            self._new_came.clear()
            new, self._new = self._new, {}
            try:
                await announcer.announce(await self._keys_of(new))
            except KacheryError as error:
                # What is here is listed again every now and then, so that nothing stays untold.
                self._note(f"announcing: {error}")

    async def may_be_told(self, path: str) -> bool:
        """Whether everybody may know where a name points. Of `/ipns/` paths nothing can be told."""
        parts = path.split("/")
        if parts[:2] != ["", "ipfs"] or len(parts) < 3 or not self._gate.any_restricted():
            return True
        multihash = CID.parse(parts[2]).multihash
        return not await trio.to_thread.run_sync(self._gate.audiences, [multihash])

    async def may_announce(self, multihash: bytes) -> bool:
        """Whether there is anybody to whom a root may be announced."""
        return bool(await self._keys_of([multihash]))

    async def announced(self, multihash: bytes, timeout: float) -> Announced:
        """Announce one and wait until that is done. `copies` is 0 where nothing is announced at all.

        Of one for several groups, or at the end of a period, it is that of the key with the fewest.
        """
        keys = await self._keys_of([multihash]) if self.announcer is not None else []
        if self.announcer is None or not keys:
            return Announced(0, 0.0)
        begun = trio.current_time()
        await self.announcer.announce(keys)
        copies = [
            (await self.announcer.wait(key, max(0.0, begun + timeout - trio.current_time()))).copies for key in keys
        ]
        return Announced(min(copies), trio.current_time() - begun)

    async def _keys_of(self, multihashes: Iterable[bytes]) -> list[bytes]:
        """Under which keys these are announced."""
        return await trio.to_thread.run_sync(lambda: list(self._blinding.keys(multihashes)))
