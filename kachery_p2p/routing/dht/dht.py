"""The DHT as the rest of the node sees it: find providers and peers, announce, serve.

A node takes part in up to two of them, as Kubo does: the public one (`/ipfs/kad/1.0.0`), and that of its local network
(`/ipfs/lan/kad/1.0.0`), which differ in the addresses that they admit. The pieces: `network` asks and looks up,
`refresh` keeps us in, `server` answers, `rpc` carries messages, `reach` gets to peers.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p.errors import DialError, InvalidAddress, InvalidRecord, KacheryError, StreamError
from kachery_p2p.peer_ids import peer_bytes, peer_text
from kachery_p2p.protocols import KAD, LAN_KAD
from kachery_p2p.routing.dht import addresses, limits, records, shell_limits
from kachery_p2p.routing.dht.addresses import DhtScope
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType, ValueRecord
from kachery_p2p.routing.dht.network import Network
from kachery_p2p.routing.dht.providers import ProviderStore
from kachery_p2p.routing.dht.reach import bare, without_peer
from kachery_p2p.routing.dht.refresh import Seeds, Upkeep
from kachery_p2p.routing.dht.server import DhtServer
from kachery_p2p.routing.dht.shell_limits import ShellLimits
from kachery_p2p.routing.dht.values import ValueStore
from kachery_p2p.routing.interfaces import Provider

if TYPE_CHECKING:
    from kachery_p2p.routing.database import Database
    from kachery_p2p.routing.interfaces import HostLike

log = logging.getLogger("kachery_p2p.routing")


def _nothing(multihash: bytes) -> bool:
    return False


def _is_close(addr: str) -> bool:
    """Whether a bootstrap address may lead to a server of a LAN's DHT: those of the public network have none."""
    return not any(map(addresses.is_public, addresses.from_texts([addr])))


class DHT:
    """A Kademlia DHT over a host (libp2p kad-dht specification, as Kubo speaks it).

    Args:
        host: the host; it must run before `run` is called.
        db: where the records that others entrust to us are kept.
        lan: the DHT of the local network instead of the public one.
        mode: `server` answers questions of others, `client` does not; `auto` is a server on a LAN, and in the public
            DHT one while `set_server(True)` holds, for only those who can be dialled are of use as servers.
        bootstrap: multiaddrs ending in a peer ID, by which to enter; a LAN's DHT passes over public ones.
        seeds: gives peers met before with their multiaddrs, tried beside the bootstrap peers.
        provides: whether this node announces a multihash; then it is named when it is asked itself.
        loopback: whether addresses of this machine count. In a LAN's DHT they do anyway while the host tells no others
            (a network of one machine).
        rng: randomness.
        wall: seconds since the epoch.
        bounds: what it allows itself and its peers.

    Runs once: `await nursery.start(dht.run)`; until then, and without peers, searches find nothing.
    """

    def __init__(
        self,
        host: HostLike,
        db: Database,
        *,
        lan: bool,
        mode: str = "auto",
        bootstrap: Sequence[str] = (),
        seeds: Seeds | None = None,
        provides: Callable[[bytes], bool] = _nothing,
        loopback: bool = False,
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
        bounds: ShellLimits = shell_limits.DEFAULTS,
    ) -> None:
        if mode not in ("auto", "client", "server"):
            raise ValueError(f"A DHT cannot be in the mode {mode!r}; it is auto, client or server.")
        self.name = "lan-dht" if lan else "dht"
        self.protocol = LAN_KAD if lan else KAD
        #: whether its peers are neighbours (`AnnounceTarget`)
        self.local = lan
        self._host = host
        self._lan = lan
        self._mode = mode
        self._rng = rng or random.Random()
        self._limits = bounds
        self._wall = wall
        self._bootstrap = [addr for addr in bootstrap if not lan or _is_close(addr)]
        self._seeds = seeds
        self._provides = provides
        self._wanted_server = mode == "server" or (mode == "auto" and lan)
        self._providers = ProviderStore(db, "lan" if lan else "wan")
        self._values = ValueStore(db, "lan" if lan else "wan")
        self._writers = trio.CapacityLimiter(1)
        self._nursery: trio.Nursery | None = None
        self._next_purge = 0.0
        self.found = self.delivered = 0
        self._build(allow_loopback=loopback)

    def _build(self, *, allow_loopback: bool) -> None:
        """Put the pieces together; done again when it turns out at the start that loopback addresses count."""
        scope = DhtScope(self._lan, allow_loopback)
        self._network = network = Network(self._host, self.protocol, scope, self._answer, self._rng, self._limits)
        self._upkeep = Upkeep(network, self._bootstrap, self._seeds, self._chores)
        self._server = DhtServer(
            network.table,
            self._providers,
            self._values,
            scope,
            own_addrs=network.reach.own_addresses,
            addrs_of=lambda peer: network.reach.addresses_of(peer_text(peer)),
            provides=self._provides,
        )

    # --- running ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled."""
        if self._lan:
            own = without_peer(self._host.transport_addresses())
            if own and all(map(addresses.is_loopback, own)):
                grown = self._network.grown
                self._build(allow_loopback=True)
                grown.notify()  # who waits for peers shall look at the new table
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._network.rpc.run)
                await nursery.start(self._upkeep.run)
                nursery.start_soon(self._flush)
                self._nursery = nursery
                self._network.rpc.serve_peers(self._wanted_server)
                task_status.started()
        finally:
            self._nursery = None
            try:
                self._providers.flush(self._wall())
            except KacheryError as error:
                log.warning("provider records are lost: %s", error)

    def set_server(self, serve: bool) -> None:
        """Whether others can reach us; makes a DHT in the mode `auto` a server or a client."""
        if self._mode != "auto" or self._lan:
            return
        self._wanted_server = serve
        if self._nursery is not None:
            self._network.rpc.serve_peers(serve)

    async def _flush(self) -> None:
        while True:
            await trio.sleep(shell_limits.FLUSH_INTERVAL)
            try:
                # In a thread: what peers announced in these seconds may take a tenth of one to write.
                await trio.to_thread.run_sync(self._providers.flush, self._wall(), limiter=self._writers)
            except KacheryError as error:
                self._network.note(str(error))

    async def _chores(self) -> None:
        now = self._wall()
        if now < self._next_purge:
            return
        self._next_purge = now + shell_limits.PURGE_INTERVAL
        try:
            self._providers.purge(now)
            self._values.purge(now)
        except KacheryError as error:
            self._network.note(str(error))

    def _answer(self, message: DhtMessage, peer: str) -> DhtMessage | None:
        try:
            remote = DhtPeer(peer_bytes(peer), self._network.reach.addresses_of(peer))
        except InvalidAddress as error:  # an ID of a kind that no DHT has
            raise StreamError(str(error)) from error
        if message.providers:
            message = replace(message, providers=bare(message.providers))
        return self._server.handle(message, remote, self._wall())

    # --- finding ---------------------------------------------------------------------------------------------------

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        """Who has a block: those who told us, then those who told others, as they are found.

        A provider that is named without a usable address comes again once its addresses are found. The search rests
        while twenty providers wait to be read, and ends by itself. Raises nothing.
        """
        if self._nursery is None:
            return
        send, receive = trio.open_memory_channel[Provider](shell_limits.ENOUGH_PROVIDERS)
        scope = trio.CancelScope()
        self._nursery.start_soon(self._search, multihash, send, scope)
        try:
            async for provider in receive:
                yield provider
        finally:
            # No cancel scope is left open across a yield: the search is a task of the DHT.
            scope.cancel()
            receive.close()

    async def _search(self, multihash: bytes, send: trio.MemorySendChannel[Provider], scope: trio.CancelScope) -> None:
        network = self._network
        told: dict[bytes, set[bytes]] = {}
        #: Providers that were named without an address that we can dial.
        without_address: dict[bytes, None] = {}
        full = trio.Event()

        async def tell(info: DhtPeer) -> None:
            addrs = network.scope.usable(info.addrs)
            known = told.get(info.id)
            if info.id == network.local or (known is not None and known.issuperset(addrs)):
                return
            if known is None and len(told) >= shell_limits.MAX_PROVIDERS:
                full.set()
                return
            told.setdefault(info.id, set()).update(addrs)
            if addrs:
                without_address.pop(info.id, None)
            elif not network.reach.is_connected(info.id):
                without_address[info.id] = None
            self.found += known is None
            await send.send(Provider(peer_text(info.id), addresses.to_texts(addrs), self.name))

        async def look(info: DhtPeer, answer: DhtMessage) -> None:
            for provider in bare(answer.providers):
                await tell(provider)

        async def find_addresses(peer: bytes) -> None:
            addrs = await self._addresses(peer)
            if addrs:
                await tell(DhtPeer(peer, addrs))

        with scope, send:
            for info in self._providers.get(multihash, self._wall()):
                await tell(info)
            try:
                await network.lookup(DhtMessage(MessageType.GET_PROVIDERS, multihash), look=look, enough=full)
                async with trio.open_nursery() as nursery:
                    for peer in list(without_address)[: shell_limits.MAX_ADDRESS_LOOKUPS]:
                        nursery.start_soon(find_addresses, peer)
            except trio.BrokenResourceError:
                log.debug("the providers of %s are no longer asked for", multihash.hex())

    async def find_peer(self, peer: str) -> tuple[str, ...]:
        """Multiaddrs of a peer, without its ID; empty when nobody knows it.

        Raises:
            InvalidAddress: not a peer ID.
        """
        return addresses.to_texts(await self._addresses(peer_bytes(peer)))

    async def _addresses(self, peer: bytes) -> tuple[bytes, ...]:
        network = self._network
        if network.reach.is_connected(peer):
            said = network.reach.addresses_of(peer_text(peer))
            if said:
                return said
        found: dict[bytes, None] = {}
        witnesses = 0
        enough = trio.Event()

        async def look(info: DhtPeer, answer: DhtMessage) -> None:
            nonlocal witnesses
            for each in bare(answer.closer):
                usable = network.scope.usable(each.addrs)
                if each.id == peer and usable:
                    found.update(dict.fromkeys(usable))
                    # One may lie, or remember an old address.
                    witnesses += 1
                    if witnesses >= shell_limits.ENOUGH_WITNESSES:
                        enough.set()

        await network.lookup(DhtMessage(MessageType.FIND_NODE, peer), look=look, enough=enough)
        return tuple(found)[: limits.MAX_ADDRS_PER_PEER]

    # --- announcing ------------------------------------------------------------------------------------------------

    async def wait_peers(self) -> None:
        """Wait until there is somebody to ask."""
        while not len(self._network.table):
            await self._network.grown.wait()

    async def wait_ready(self) -> None:
        """Wait until there is somebody to announce to, and we have an address to announce."""
        while not len(self._network.table) or not self._network.reach.own_addresses():
            with trio.move_on_after(shell_limits.READY_INTERVAL):  # addresses change without a word
                await self._network.grown.wait()

    async def closest(self, key: bytes) -> list[DhtPeer]:
        """The k servers nearest to a multihash, or to any other key, nearest first.

        Raises:
            StreamError: no peer is known to begin with.
        """
        self._network.require_peers()
        return await self._network.lookup(DhtMessage(MessageType.FIND_NODE, key), all_closest=True, background=True)

    async def deliver(self, peer: DhtPeer, keys: Sequence[bytes]) -> bool:
        """Tell a peer that we provide these multihashes. Whether it has taken them all."""
        network = self._network
        own = network.reach.own_info()
        if not own.addrs:
            network.note("Nothing can be announced: no address is known at which others could dial this machine.")
            return False
        last = DhtMessage(MessageType.FIND_NODE, network.local)
        for start in range(0, len(keys), shell_limits.MAX_KEYS_PER_DELIVERY):
            some = keys[start : start + shell_limits.MAX_KEYS_PER_DELIVERY]
            messages = [DhtMessage(MessageType.ADD_PROVIDER, key, providers=(own,)) for key in some]
            try:
                await network.tell(peer.id, peer.addrs, messages, last)
            except (DialError, StreamError) as error:
                log.debug("%s did not take our provider records: %s", peer_text(peer.id), error)
                return False
            self.delivered += len(some)
        return True

    # --- values ----------------------------------------------------------------------------------------------------

    async def put_value(self, key: bytes, value: bytes) -> int:
        """Store an IPNS record or a public key with the k peers nearest to its key; how many took it.

        Raises:
            InvalidRecord: it is not valid.
            StreamError: no peer is known.
        """
        network = self._network
        records.validate(key, value, self._wall())
        record = ValueRecord(key, value)
        self._values.put(record, network.local, self._wall())
        message = DhtMessage(MessageType.PUT_VALUE, key, record)
        taken = 0

        async def put(info: DhtPeer) -> None:
            nonlocal taken
            try:
                answer = await network.ask(info.id, info.addrs, message)
            except (DialError, StreamError) as error:
                log.debug("%s did not take a record: %s", peer_text(info.id), error)
            else:
                taken += answer.record is not None and answer.record.value == value

        nearest = await self.closest(key)
        async with trio.open_nursery() as nursery:
            for info in nearest:
                nursery.start_soon(put, info)
        return taken

    async def get_value(self, key: bytes, found: Callable[[bytes], None] = lambda value: None) -> bytes | None:
        """The best valid record of a key; None when nobody has one.

        Args:
            key: with its name space.
            found: called with each valid record that is better than those before, as it comes.

        Raises:
            InvalidRecord: the key is of no name space that is known.
        """
        network = self._network
        best: list[bytes] = []

        def take(value: bytes, whose: str) -> None:
            """See whether a record is better than the best one so far, which alone is kept."""
            if value in best:
                return
            try:
                records.validate(key, value, self._wall())
            except InvalidRecord as error:
                log.debug("%s has a record that is not valid: %s", whose, error)
                return
            if not best or records.select(key, [best[0], value]) == 1:
                best[:] = [value]
                found(value)

        own = self._values.get(key, self._wall())
        if own is not None:
            take(own.value, "this node")

        async def look(info: DhtPeer, answer: DhtMessage) -> None:
            record = answer.record
            if record is not None and record.key == key:
                take(record.value, peer_text(info.id))

        await network.lookup(DhtMessage(MessageType.GET_VALUE, key), look=look)
        return best[0] if best else None

    # --- what is going on ------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Mode, peers and counters, as plain JSON values."""
        network, rpc = self._network, self._network.rpc
        kept, inbound = rpc.open_streams()
        return {
            "protocol": self.protocol,
            "mode": "server" if self._wanted_server else "client",
            "running": self._nursery is not None,
            "peers": len(network.table),
            "addresses": list(addresses.to_texts(network.reach.own_addresses())),
            "lookups": network.lookups,
            "providers_found": self.found,
            "records_delivered": self.delivered,
            "records_held": len(self._providers),
            "questions": {"sent": rpc.sent, "failed": rpc.failed, "received": rpc.received, "refused": rpc.refused},
            "served": dict(self._server.counts),
            "streams": {"kept": kept, "inbound": inbound},
            "dials": {"tried": network.reach.dials, "failed": network.reach.failed},
            "bootstraps": self._upkeep.bootstraps,
            "errors": list(network.errors),
        }

    def peers(self) -> list[str]:
        """The peers of the routing table."""
        return [peer_text(peer) for peer in self._network.table]
