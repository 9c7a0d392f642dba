"""A swarm in virtual time around the client core: peers and gateways with a speed, holdings and manners."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kachery_p2p.bitswap.client import Arrival, WantManager
from kachery_p2p.bitswap.fetches import Fetch
from kachery_p2p.bitswap.interfaces import GatewayAnswer, NoBlock
from kachery_p2p.bitswap.messages import WantlistEntry, WantType
from kachery_p2p.bitswap.session import Session
from kachery_p2p.dag.cid import CID, RAW


def made_cid(number: int) -> CID:
    """A CID of block `number`; nothing is hashed in a simulation."""
    return CID(1, RAW, b"\x12\x20" + number.to_bytes(32, "big"))


@dataclass(eq=False)
class SimPeer:
    """A peer. `rate` in bytes per second, `delay` one way in seconds."""

    name: str
    rate: float = 10e6
    delay: float = 0.01
    holds: set[bytes] | None = None
    #: It answers nothing at all.
    silent: bool = False
    #: It stops for good after so many blocks.
    dies_after: int | None = None
    #: Each block it sends is another than the one asked for.
    lies: bool = False
    #: It forgets this part of the wants it gets.
    loses: float = 0.0
    #: Bitswap 1.1: no HAVE, no DONT_HAVE.
    old: bool = False
    queue: dict[bytes, WantlistEntry] = field(default_factory=dict)
    waiting: dict[bytes, WantlistEntry] = field(default_factory=dict)
    busy: bool = False
    sent_blocks: int = 0
    sent_bytes: int = 0
    connected: bool = False
    epoch: int = 0


@dataclass(eq=False)
class SimGateway:
    """A gateway that answers each request after `seconds`."""

    name: str
    seconds: float = 0.01
    holds: set[bytes] | None = None
    #: It takes requests and answers none.
    silent: bool = False
    #: Until then it cannot be reached, but for these blocks.
    down_until: float = 0.0
    spared: set[bytes] = field(default_factory=set)
    #: When it was asked for what.
    asked: list[tuple[float, bytes]] = field(default_factory=list)


class Sim:
    """Runs one client against its peers."""

    def __init__(self, size: Callable[[bytes], int] = lambda _: 1 << 20, seed: int = 1) -> None:
        self.now = 0.0
        self.client = WantManager()
        self.size = size
        self.random = random.Random(seed)
        self.peers: dict[str, SimPeer] = {}
        self.gateways: dict[str, SimGateway] = {}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.got: dict[Session, list[bytes]] = {}
        self.unread: list[tuple[Session, int]] = []
        self.reading = True
        self.duplicates = 0
        self.duplicate_bytes = 0
        self.bad: list[str] = []
        self.most_held = 0

    # --- setting up ------------------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what))

    def add(self, peer: SimPeer, session: Session | None = None, at: float = 0.0) -> SimPeer:
        self.peers[peer.name] = peer

        def join() -> None:
            peer.connected = True
            self.client.connected(peer.name, self.now, presence=not peer.old)
            if session is not None:
                self.client.add_provider(session, peer.name, self.now)

        self.at(at, join)
        return peer

    def pause(self, at: float, seconds: float) -> None:
        """The process of the client does not run for some time; what comes meanwhile, it finds afterwards."""

        def hold() -> None:
            self.now += seconds

        self.at(at, hold)

    def leave(self, peer: SimPeer, at: float) -> None:
        def go() -> None:
            peer.connected = False
            peer.epoch += 1
            peer.queue.clear()
            peer.waiting.clear()
            self.client.disconnected(peer.name, self.now)

        self.at(at, go)

    def add_gateway(self, gateway: SimGateway) -> SimGateway:
        """Before the sessions in which it takes part."""
        self.gateways[gateway.name] = gateway
        self.client.gateways.add(gateway.name)
        return gateway

    def session(self) -> Session:
        session = self.client.new_session()
        if self.gateways:
            self.client.gateways.join(session, 0, None, self.now)
        self.got[session] = []
        return session

    # --- running ---------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], limit: float = 600.0) -> bool:
        """Until the condition holds or the virtual time is over; says which."""
        steps = 0
        while not until():
            self._flush()
            steps += 1
            assert steps < 2_000_000, "the simulation does not end"
            deadline = self.client.next_deadline(self.now)
            next_event = self.events[0][0] if self.events else None
            if next_event is None and deadline is None:
                return until()
            if next_event is None or (deadline is not None and deadline < next_event):
                assert deadline is not None
                self.now = max(self.now, deadline) + 1e-6
            else:
                self.now = max(self.now, next_event)
                heapq.heappop(self.events)[2]()
            if self.now > limit:
                return until()
        return True

    def _flush(self) -> None:
        self.client.poll(self.now)
        for name in self.client.ready(self.now):
            peer = self.peers[name]
            cancels, entries, full = self.client.take(name, self.now)
            epoch = peer.epoch
            self.at(
                self.now + peer.delay, lambda p=peer, e=cancels + entries, f=full, n=epoch: self._arrive(p, e, f, n)
            )
        for link in self.client.changed_gateways():
            for fetch in [each for each in self.client.gateways.fetches(link) if not each.started]:
                fetch.started = True
                for ask in fetch.asks.values():
                    ask.sent, ask.at = True, self.now
                self._request(self.gateways[link.peer], fetch)
        for session in self.got:
            held = session.outstanding + session.buffered
            self.most_held = max(self.most_held, held)

    def _request(self, gateway: SimGateway, fetch: Fetch) -> None:
        (multihash,) = fetch.expected
        gateway.asked.append((self.now, multihash))

        def answer() -> None:
            open_ask = fetch.busy
            refusal = None
            if gateway.down_until > self.now and multihash not in gateway.spared:
                refusal = NoBlock(GatewayAnswer.FAILED, "The request failed: connection refused.")
            elif gateway.holds is not None and multihash not in gateway.holds:
                refusal = NoBlock(GatewayAnswer.LACKS, "It does not have the block.")
            elif open_ask:
                self._delivered(self.client.block(gateway.name, multihash, self.size(multihash), self.now), multihash)
            self.client.gateways.ended(fetch, refusal, self.now)

        if not gateway.silent:
            self.at(self.now + gateway.seconds, answer)

    def _arrive(self, peer: SimPeer, entries: Iterable[WantlistEntry], full: bool, epoch: int) -> None:
        if epoch != peer.epoch or peer.silent:
            return
        if full:
            peer.queue.clear()
            peer.waiting.clear()
        for entry in entries:
            multihash = entry.cid.multihash
            if entry.cancel:
                peer.queue.pop(multihash, None)
                peer.waiting.pop(multihash, None)
            elif peer.loses and self.random.random() < peer.loses:
                continue
            elif peer.holds is None or multihash in peer.holds:
                if entry.want_type is WantType.HAVE:
                    assert not peer.old, "an old peer was asked for HAVE"
                    self._presence(peer, multihash, True)
                else:
                    peer.queue[multihash] = entry
            else:
                peer.waiting[multihash] = entry
                if entry.send_dont_have and not peer.old:
                    self._presence(peer, multihash, False)
        self._serve(peer)

    def gains(self, peer: SimPeer, multihash: bytes) -> None:
        """The peer gets a block, and answers those who wait for it."""
        if peer.holds is not None:
            peer.holds.add(multihash)
        entry = peer.waiting.pop(multihash, None)
        if entry is not None:
            if entry.want_type is WantType.HAVE:
                self._presence(peer, multihash, True)
            else:
                peer.queue[multihash] = entry
                self._serve(peer)

    def _presence(self, peer: SimPeer, multihash: bytes, have: bool) -> None:
        epoch = peer.epoch

        def tell() -> None:
            if epoch == peer.epoch:
                self.client.presence(peer.name, multihash, have, self.now)

        self.at(self.now + peer.delay, tell)

    def _serve(self, peer: SimPeer) -> None:
        if peer.busy or not peer.queue or not peer.connected:
            return
        if peer.dies_after is not None and peer.sent_blocks >= peer.dies_after:
            return
        best = max(peer.queue.values(), key=lambda e: e.priority)
        multihash = best.cid.multihash
        del peer.queue[multihash]
        size = self.size(multihash)
        peer.busy = True
        epoch = peer.epoch

        def done() -> None:
            peer.busy = False
            if epoch == peer.epoch:
                peer.sent_blocks += 1
                peer.sent_bytes += size
                self.at(self.now + peer.delay, lambda: self._deliver(peer, multihash, size, epoch))
            self._serve(peer)

        self.at(self.now + size / peer.rate, done)

    def _deliver(self, peer: SimPeer, multihash: bytes, size: int, epoch: int) -> None:
        if epoch != peer.epoch or peer.name in self.bad:
            return
        if peer.lies:
            multihash = b"\x12\x20" + b"\xff" * 32
        arrival = self.client.block(peer.name, multihash, size, self.now)
        if arrival.lie:
            self.bad.append(peer.name)
            self.client.bad_peer(peer.name, self.now)
            return
        if arrival.duplicate:
            self.duplicates += 1
            self.duplicate_bytes += size
        self._delivered(arrival, multihash)

    def _delivered(self, arrival: Arrival, multihash: bytes) -> None:
        size = self.size(multihash)
        for session, cid in arrival.deliver:
            assert cid.multihash not in self.got[session], "a block was delivered twice"
            self.got[session].append(cid.multihash)
            if self.reading:
                self.client.consumed(session, size)
            else:
                self.unread.append((session, size))
