"""Coming into the network and staying in it: bootstrap, newcomers, liveness checks, refreshes.

A node enters by the peers it is told of (bootstrap list, address book) or by anyone who connects and speaks the
protocol. Then it looks itself up, which makes it known where it belongs, and goes into each bucket once. From then on
all that happens is a check of peers that were silent for ten minutes and a refresh as often (both as in Kubo).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import DialError, InvalidAddress, KacheryError
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.routing.dht import limits, shell_limits
from kachery_p2p.routing.dht.messages import DhtMessage, MessageType
from kachery_p2p.routing.dht.reach import without_peer
from kachery_p2p.waking import Signal

if TYPE_CHECKING:
    from kachery_p2p.routing.dht.network import Network

log = logging.getLogger("kachery_p2p.routing")

#: Peers met before, with their multiaddrs.
Seeds = Callable[[], Iterable[tuple[str, Sequence[str]]]]


class Upkeep:
    """Keeps a node in its DHT.

    Args:
        network: the DHT.
        bootstrap: multiaddrs with peer ID, tried while the table is (nearly) empty.
        seeds: gives peers met before, tried likewise.
        chores: called with the time at each round: what else is to be done now and then.
    """

    def __init__(
        self, network: Network, bootstrap: Sequence[str], seeds: Seeds | None, chores: Callable[[], Awaitable[None]]
    ) -> None:
        self._network = network
        self._bootstrap = list(dict.fromkeys(bootstrap))
        self._seeds = seeds
        self._chores = chores
        self._newcomers: dict[bytes, None] = {}
        self._newcomer = Signal()
        self._looked_up = float("-inf")
        self.bootstraps = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        host = self._network.host
        forget = [host.on_connected(self._connected), host.on_identified(self._identified)]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._check_newcomers)
                nursery.start_soon(self._stay_in)
                nursery.start_soon(self._look_around)
                nursery.start_soon(self._maintain)
                for peer in host.connected():
                    self._identified(peer)
                task_status.started()
        finally:
            for each in forget:
                each()
            self._network.reach.keep_near(())

    # --- peers that come to us -------------------------------------------------------------------------------------

    def _connected(self, peer: str) -> None:
        try:
            self._network.reach.arrived(peer_bytes(peer))
        except InvalidAddress:
            log.debug("a peer with the ID %s is no peer of a DHT", peer)

    def _identified(self, text: str) -> None:
        network = self._network
        try:
            peer = peer_bytes(text)
        except InvalidAddress:
            return
        spoken = network.host.protocols_of(text)
        if network.rpc.protocol not in spoken:
            if spoken and peer in network.table:
                network.table.dead(peer, trio.current_time())
        elif peer in network.table:
            network.readdress(peer)
        elif len(self._newcomers) < shell_limits.MAX_TO_CHECK:
            self._newcomers[peer] = None
            self._newcomer.notify()

    async def _check_newcomers(self) -> None:
        while True:
            while not self._newcomers:
                await self._newcomer.wait()
            newcomers, self._newcomers = list(self._newcomers), {}
            await self._check([(peer, ()) for peer in newcomers])

    async def _check(self, peers: Sequence[tuple[bytes, Sequence[bytes]]]) -> None:
        """Ask whether they live, a few at a time."""
        slots = trio.Semaphore(shell_limits.MAX_CHECKS_AT_ONCE)

        async def check(peer: bytes, addrs: Sequence[bytes]) -> None:
            async with slots:
                await self._network.check(peer, addrs)

        async with trio.open_nursery() as nursery:
            for peer, addrs in peers:
                nursery.start_soon(check, peer, addrs)

    # --- entering --------------------------------------------------------------------------------------------------

    async def _stay_in(self) -> None:
        """Whenever the table is nearly empty: try all peers we were told of, with growing pauses."""
        network = self._network
        table = network.table
        pause = network.limits.bootstrap_first
        while True:
            if len(table) >= shell_limits.ENOUGH_PEERS:
                pause = network.limits.bootstrap_first
                await trio.sleep(shell_limits.MAINTENANCE_INTERVAL)
                continue
            before = len(table)
            await self._enter()
            if len(table) > before:
                pause = network.limits.bootstrap_first
            # A newcomer ends the pause: with somebody to ask, the rest of the network may be found.
            with trio.move_on_after(pause):
                await network.grown.wait()
            pause = min(2 * pause, shell_limits.BOOTSTRAP_MOST)

    async def _enter(self) -> None:
        network = self._network
        seeds: list[tuple[bytes, tuple[bytes, ...]]] = []
        for peer, addrs in self._seeds() if self._seeds is not None else ():
            if len(seeds) >= shell_limits.MAX_SEEDS:
                break
            try:
                raw = peer_bytes(peer)
            except InvalidAddress:
                continue
            if raw not in network.table and raw != network.local:
                seeds.append((raw, without_peer(addrs)))
        if not seeds and not self._bootstrap:
            return
        self.bootstraps += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check, seeds)
            for addr in self._bootstrap:
                nursery.start_soon(self._enter_by, addr)

    async def _enter_by(self, addr: str) -> None:
        network = self._network
        try:
            peer = await network.reach.connect_address(addr)
            await network.ask(peer, without_peer([addr]), DhtMessage(MessageType.FIND_NODE, network.local))
        except (DialError, InvalidAddress) as error:
            network.note(f"The bootstrap peer {addr} cannot be reached: {error}")
        except KacheryError as error:
            network.note(f"The bootstrap peer {addr} does not answer as a server of the DHT: {error}")

    async def _look_around(self) -> None:
        """Look ourselves up, so that we know our neighbours and they us.

        This is done whenever somebody new is in a small table. While it stays small, it is done again with growing
        pauses, for somebody may just not have answered the last time.
        """
        network = self._network
        pause = network.limits.self_lookup_interval
        while True:
            while not len(network.table):
                await network.grown.wait()
            await trio.sleep(network.limits.self_lookup_delay)
            # Once the table is well filled, the refresh as often as every ten minutes is enough.
            small = len(network.table) < limits.K
            await trio.sleep_until(
                self._looked_up + (network.limits.self_lookup_interval if small else limits.REFRESH_INTERVAL)
            )
            newcomers = network.newcomers
            await self._look_up_self()
            grown = network.newcomers != newcomers
            pause = network.limits.self_lookup_interval if grown else min(2 * pause, limits.REFRESH_INTERVAL)
            with trio.move_on_after(pause):
                while network.newcomers == newcomers:
                    await network.grown.wait()

    async def _look_up_self(self) -> None:
        network = self._network
        self._looked_up = trio.current_time()
        question = DhtMessage(MessageType.FIND_NODE, network.local)
        await network.lookup(question, all_closest=True, background=True, linger=network.limits.request_timeout)

    # --- staying ---------------------------------------------------------------------------------------------------

    async def _maintain(self) -> None:
        network = self._network
        table = network.table
        while True:
            await trio.sleep(shell_limits.MAINTENANCE_INTERVAL)
            now = trio.current_time()
            network.reach.keep_near(table.nearest(table.local_id, shell_limits.MAX_PROTECTED))
            await self._check([(info.id, info.addrs) for info in table.to_check(now)])
            if len(table):
                if now - self._looked_up >= limits.REFRESH_INTERVAL:
                    await self._look_up_self()
                for number in table.to_refresh(now):
                    question = DhtMessage(MessageType.FIND_NODE, table.refresh_key(number))
                    await network.lookup(question, background=True)
            await network.reach.trim()
            await self._chores()
