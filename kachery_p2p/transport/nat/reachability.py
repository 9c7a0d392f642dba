"""Can others reach us, and which addresses do we tell them? Puts this package together.

When servers are asked: a little after the first one was met, until three networks have answered (or all there are);
then again after a quarter of an hour, and after twice that each time the answer stays the same, up to some hours;
and anew when our addresses change. In between nothing is sent, and nothing runs but a look at the network interfaces
every now and then. Servers are asked only over direct connections, and only those whose address is public: one on
our own network cannot know what the world sees.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.transport.addresses import parse_address
from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.autonat import AutonatClient
from kachery_p2p.transport.nat.autonat_messages import V2_DIAL
from kachery_p2p.transport.nat.autonat_server import AutonatServer
from kachery_p2p.transport.nat.endpoints import IP, TcpEndpoint, from_text, is_public, network_of
from kachery_p2p.transport.nat.home_router import default_gateway
from kachery_p2p.transport.nat.known import PRIVATE, PUBLIC, UNKNOWN, AddressState, Known
from kachery_p2p.transport.nat.limits import NatLimits
from kachery_p2p.transport.nat.observed import Observed
from kachery_p2p.transport.nat.portmap import PortMapper
from kachery_p2p.transport.peers import Hook
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_p2p.transport.host import Host

log = logging.getLogger("kachery_p2p.transport")


class _ServerPeer(NamedTuple):
    peer: str
    ip: IP
    network: str


class Reachability:
    """Knows whether others can reach this node, and what to tell them.

    Args:
        host: of the node. The caller sets `host.advertise = reachability.advertise`.
        announce: multiaddrs that are told whatever happens (a port forwarded by hand, say).
        forced: `"public"` or `"private"`: the user knows; nobody is asked, and no port is mapped.
        lan_only: the node keeps to its LAN: nobody is asked, no port is mapped, no request of others is served.
        map_ports: ask the router for a forwarded port (NAT-PMP, UPnP).
        swarm_key: of the private network, where there is one.
        extra: gives the addresses that relays hold for us.
        counts: which IP addresses are public; another rule makes sense in tests and closed networks only.
        rng: for choices between servers.

    Raises:
        InvalidAddress: an address to announce does not parse.
        ValueError: `forced` is something else.

    Attributes:
        state: `"public"`, `"private"` or `"unknown"`.
        on_change: emits the state whenever it, or what peers are told, has changed; `host.addresses_changed` has been
            called then.
    """

    def __init__(
        self,
        host: Host,
        *,
        announce: Sequence[str] = (),
        forced: str | None = None,
        lan_only: bool = False,
        map_ports: bool = True,
        swarm_key: bytes | None = None,
        extra: Callable[[], list[str]] = list,
        counts: Callable[[IP], bool] = is_public,
        rng: random.Random | None = None,
        bounds: NatLimits = limits.DEFAULTS,
    ) -> None:
        if forced not in (None, PUBLIC, PRIVATE):
            raise ValueError(f"forced is public, private or None, not {forced!r}")
        self._host = host
        self._limits = bounds
        self._forced = forced
        self._lan_only = lan_only
        self._may_serve = not lan_only
        self._asks = forced is None and not lan_only
        self._extra = extra
        self._counts = counts
        self._rng = rng or random.Random()
        self._known = Known([parse_address(text).transport for text in announce], counts)
        self._observed = Observed(counts)
        self._client = AutonatClient(host, bounds=bounds)
        self._server = AutonatServer(host, swarm_key=swarm_key, counts=counts, bounds=bounds)
        self._mapper = PortMapper(host.listen_addresses, self.refresh, counts=counts, bounds=bounds)
        self._maps = map_ports and self._asks
        self.state: str = forced or UNKNOWN
        self.on_change: Hook[str] = Hook()
        self._now = float("-inf")  # when conclusions were last drawn, at most WATCH_INTERVAL ago
        self._listened: list[str] = []
        self._told: list[str] | None = None
        self._running = False
        self._wake = Flag()
        self._epoch = float("-inf")  # answers from before it are asked for again
        self._needed = limits.QUORUM  # votes that decide: as many as the last round could get
        self._candidates: frozenset[TcpEndpoint] = frozenset()
        self._interval = limits.SPARSE_INTERVAL
        self._settled_on: object = None
        self._refused: dict[str, float] = {}
        self._errors: deque[str] = deque(maxlen=limits.MAX_ERRORS)

    # --- running ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch, ask and map until cancelled. The host must be running."""
        unsubscribe = [self._host.on_identified(self._identified)]
        try:
            if self._asks:
                self._client.start()
            self._running = True
            self.refresh()
            for peer in self._host.connected():
                self._identified(peer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                if self._asks:
                    nursery.start_soon(self._ask_on)
                if self._maps:
                    nursery.start_soon(self._mapper.run)
                task_status.started()
        finally:
            self._running = False
            for each in unsubscribe:
                each()
            self._client.stop()
            self._server.enable(False)

    async def _watch(self) -> None:
        looked_at, looked = None, float("-inf")
        while True:
            now, listening = trio.current_time(), self._host.listen_addresses()
            if listening != looked_at or now - looked >= limits.GATEWAY_INTERVAL:
                looked_at, looked = listening, now
                before, self._known.preferred = self._known.preferred, await self._address_by_gateway()
                if before and self._known.preferred not in ("", before):
                    self._known.forget()
                    self._needed = limits.QUORUM
                    self._ask_anew()
            self._observed.purge(self._host.connected(), now)
            self.refresh()
            await trio.sleep(limits.WATCH_INTERVAL)

    async def _address_by_gateway(self) -> str:
        """Our address on the interface of the default route; empty without one, or when it does not matter."""
        gateway = await trio.to_thread.run_sync(default_gateway) if self._listens_on_a_network() else None
        return gateway.local if gateway else ""

    def _listens_on_a_network(self) -> bool:
        return any(each is None or not each.ip.is_loopback for each in map(from_text, self._host.listen_addresses()))

    def refresh(self) -> None:
        """Work out state and addresses anew; peers are told if anything changed. For whoever changes `extra`'s list."""
        known, host = self._known, self._host
        listening = host.listen_addresses()
        known.listening = listening
        if listening != self._listened:
            self._listened = listening
            self._mapper.network_changed()
        known.mapped = self._mapper.external
        known.observed = self._observed.confirmed()
        known.observed_ips = self._observed.confirmed_ips()
        candidates = frozenset(known.candidates())
        if candidates - self._candidates and self._asks:
            self._ask_anew()
        self._candidates = candidates
        self._conclude()

    def _conclude(self) -> None:
        self._now = trio.current_time()
        before = (self.state, self._told)
        self.state = self._forced or self._known.state(self._needed, self._now)
        self._told = [each.address for each in self._states() if each.told]
        self._server.enable(self._running and self._may_serve and self._good_server())
        if (self.state, self._told) != before:
            if before[1] is not None:
                self._host.addresses_changed()
            if before[0] != self.state:
                log.info("reachability: %s (%s)", self.state, self.why())
            self.on_change.emit(self.state)

    @property
    def wants_relay(self) -> bool:
        """Whether a relay is worth having: we are private, or nobody could tell and all our addresses are private."""
        if self._lan_only or self.state == PUBLIC:
            return False
        return self.state == PRIVATE or (not self._known.candidates() and self._listens_on_a_network())

    def _good_server(self) -> bool:
        """Whoever is behind a NAT cannot tell well whether others are not; who has a public address most likely can."""
        if self.state == UNKNOWN:
            return any(self._counts(each.ip) for each in self._known.listening_endpoints())
        return self.state == PUBLIC

    # --- what is told ----------------------------------------------------------------------------------------------

    def advertise(self, listening: list[str]) -> list[str]:
        """The addresses that peers are told, given those we listen on: for `Host.advertise`, from any thread."""
        if listening != self._known.listening:
            self._known.listening = listening
        return [each.address for each in self._states() if each.told]

    def _states(self) -> list[AddressState]:
        forced = self._forced is not None
        return self._known.told(self.state, self._needed, self._now, self._extra(), forced=forced)

    # --- servers ---------------------------------------------------------------------------------------------------

    def _direct_ip(self, peer: str) -> IP | None:
        """The IP address of a peer's direct connection; `None` when there is none."""
        for connection in self._host.table.of(peer):
            endpoint = from_text(connection.address)
            if endpoint is not None:
                return endpoint.ip
        return None

    def _identified(self, peer: str) -> None:
        ip = self._direct_ip(peer)
        if ip is None:
            return
        seen = from_text(self._host.table.peek(peer).observed)
        if seen is not None:
            before = self._known.observed
            self._observed.saw(peer, ip, seen, trio.current_time())
            if self._observed.confirmed().keys() != before.keys():
                self.refresh()
        open_question = self._asks and len(self._known.voted_since(self._epoch)) < limits.QUORUM
        if open_question and self._counts(ip) and self._client.speaks(peer):
            self._wake.set()

    def _servers(self) -> list[_ServerPeer]:
        """Connected peers that can be asked; those of version 2 first, else in random order."""
        now = trio.current_time()
        self._refused = {peer: until for peer, until in self._refused.items() if until > now}
        found = []
        for peer in self._host.connected():
            if not self._client.speaks(peer) or peer in self._refused:
                continue
            ip = self._direct_ip(peer)
            if ip is not None and self._counts(ip):
                found.append(_ServerPeer(peer, ip, network_of(ip)))
        self._rng.shuffle(found)
        return sorted(found, key=lambda each: self._client.speaks(each.peer) != V2_DIAL)

    # --- asking ----------------------------------------------------------------------------------------------------

    def _ask_anew(self) -> None:
        """Our addresses have changed: what servers said is asked again, but not more often than once a minute."""
        now = trio.current_time()
        if now - self._epoch >= limits.SPARSE_INTERVAL or not self._known.voted_since(self._epoch):
            self._epoch = now
        self._interval = limits.SPARSE_INTERVAL
        self._wake.set()

    async def _ask_on(self) -> None:
        pause = float("inf")
        while True:
            with trio.move_on_after(pause) as waited:
                await self._wake.take()
                await trio.sleep(self._limits.settle)
            if waited.cancelled_caught:
                self._epoch = trio.current_time()
            self._wake.clear()
            await self._round()
            pause = self._next_pause()

    def _next_pause(self) -> float:
        answered = len(self._known.voted_since(self._epoch))
        if not answered:
            # Nobody there: whoever comes will wake us. Somebody who refused: later.
            return limits.REFUSAL_PAUSE if self._refused else float("inf")
        if answered < limits.QUORUM:
            pause, self._interval = self._interval, min(2 * self._interval, limits.RECHECK_FIRST)
            return pause
        result = (self.state, frozenset(self._known.reachable(self._needed, trio.current_time())))
        if result != self._settled_on:
            self._settled_on, self._interval = result, limits.RECHECK_FIRST
        else:
            self._interval = min(max(2 * self._interval, limits.RECHECK_FIRST), limits.RECHECK_LAST)
        return self._interval

    async def _round(self) -> None:
        """Ask until three networks have answered since the epoch began, or all there are."""
        while True:
            answered = self._known.voted_since(self._epoch)
            chosen: dict[str, _ServerPeer] = {}
            for server in sorted(self._servers(), key=lambda each: self._known.last_vote(each.network)):
                if server.network not in answered:
                    chosen.setdefault(server.network, server)
            wanted = list(chosen.values())[: limits.QUORUM - len(answered)] if len(answered) < limits.QUORUM else []
            if not wanted:
                self._needed = len(answered) or self._needed
                self._conclude()
                return
            async with trio.open_nursery() as nursery:
                for server in wanted:
                    nursery.start_soon(self._ask, server)

    async def _ask(self, server: _ServerPeer) -> None:
        seen = self._observed.by(server.peer) or from_text(self._host.table.peek(server.peer).observed)
        try:
            answer = await self._client.ask(server.peer, self._known.questions(seen), self._known.listening_endpoints())
        except KacheryError as error:
            self._refuse(server.peer, str(error))
            return
        if not answer.overall and not answer.reached and seen is not None:
            # Version 1 says only "nowhere", and looked at no other IP address than the one it sees us at.
            mine = [each for each in self._known.candidates() if each.ip == seen.ip]
            answer.reached.update((each, False) for each in mine)
        self._known.record(server.network, server.peer, answer, trio.current_time())

    def _refuse(self, peer: str, why: str) -> None:
        """That server was of no use; it is left alone for a while."""
        self._errors.append(why)
        while len(self._refused) >= limits.MAX_REFUSALS:
            del self._refused[min(self._refused, key=self._refused.__getitem__)]
        self._refused[peer] = trio.current_time() + limits.REFUSAL_PAUSE

    # --- what is known ---------------------------------------------------------------------------------------------

    def why(self) -> str:
        """Why the state is what it is, in plain words."""
        if self._forced:
            return f"the settings say {self._forced}"
        if self._lan_only:
            return "this node keeps to its LAN, so nobody was asked"
        needed, now = self._needed, self._now
        for best in self._known.reachable(needed, now) if self.state == PUBLIC else ():
            tally = self._known.tally(best, needed, now)
            return f"{tally.yes} of {tally.yes + tally.no} peers could dial back {best.text}"
        overall = self._known.overall(needed, now)
        asked = overall.yes + overall.no
        if self.state == PRIVATE:
            relays = self._extra()
            told = f"; reachable through {len(relays)} relay address(es)" if relays else "; no relay in use"
            return f"behind a NAT or a firewall: {overall.no} of {asked} peers could not dial back{told}"
        if asked:
            return f"{overall.yes} of {asked} peers could dial back, at addresses that too few have confirmed"
        return "no connected peer with a public address could be asked to dial back"

    def status(self) -> dict[str, Any]:
        """State, addresses with reasons, port mapping and last errors, as plain JSON values."""
        return {
            "state": self.state,
            "why": self.why(),
            "addresses": [
                {
                    "address": each.address,
                    "source": each.source,
                    "reachable": each.reachable,
                    "told": each.told,
                    "reason": each.reason,
                }
                for each in self._states()
            ],
            "observed": [{"address": each.text, "networks": count} for each, count in self._known.observed.items()],
            "port_mapping": self._mapper.state if self._maps else "switched off",
            "dial_back_server": {
                "enabled": self._server.enabled,
                "served": self._server.served,
                "reached": self._server.reached,
            },
            "errors": list(self._errors),
        }
