"""Several nodes that load the same and serve each other, in virtual time: the real cores of client and server."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from kachery_p2p.bitswap.client import WantManager
from kachery_p2p.bitswap.engine import Engine, Reply
from kachery_p2p.bitswap.session import Session
from tests.helpers.bitswap_sim import made_cid

MIB = 1 << 20


@dataclass(eq=False)
class SwarmNode:
    """A node. `rate` is what it can send, in bytes per second."""

    name: str
    rate: float
    client: WantManager = field(init=False)
    engine: Engine = field(default_factory=Engine)
    blocks: set[bytes] = field(default_factory=set)
    session: Session | None = None
    peers: list[str] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)
    #: Where each block came from.
    sources: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    sent_blocks: int = 0
    #: When it had everything.
    done_at: float | None = None
    #: It wants, and never gives or has anything.
    useless: bool = False
    #: Its line is free again at this time.
    free_at: float = 0.0
    sending: int = 0

    def __post_init__(self) -> None:
        self.client = WantManager(self.name)


class Swarm:
    """Runs nodes. `delay` is one way, in seconds."""

    def __init__(self, delay: float = 0.01, size: int = MIB) -> None:
        self.now = 0.0
        self.delay = delay
        self.size = size
        self.nodes: dict[str, SwarmNode] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what))

    def node(self, name: str, rate: float) -> SwarmNode:
        node = self.nodes[name] = SwarmNode(name, rate)
        return node

    def connect(self, one: SwarmNode, two: SwarmNode) -> None:
        for a, b in ((one, two), (two, one)):
            a.peers.append(b.name)
            a.client.connected(b.name, self.now)

    def load(self, node: SwarmNode, count: int, source: SwarmNode, *, unclaimed: int = 0) -> None:
        """Want blocks 0 to `count`; `source` was named. Of the first `unclaimed` the DAG says no size."""
        session = node.session = node.client.new_session(discover=True)
        node.client.add_provider(session, source.name, self.now)
        cids = [made_cid(n) for n in range(count)]
        node.client.want(session, cids, self.now, {cid.multihash: self.size for cid in cids[unclaimed:]})
        for peer, multihashes in node.engine.waiting([cid.multihash for cid in cids]).items():
            node.client.loads_too(peer, multihashes)

    def run(self, until: Callable[[], bool], limit: float = 3600.0) -> bool:
        """Until the condition holds or the virtual time is over; says which."""
        for _ in range(3_000_000):
            if until():
                return True
            for node in self.nodes.values():
                self._flush(node)
            deadlines = [d for n in self.nodes.values() if (d := n.client.next_deadline(self.now)) is not None]
            event = self._events[0][0] if self._events else None
            if event is None and not deadlines:
                return until()
            if event is None or (deadlines and min(deadlines) < event):
                self.now = max(self.now, min(deadlines)) + 1e-6
            else:
                self.now = max(self.now, event)
                heapq.heappop(self._events)[2]()
            if self.now > limit:
                return until()
        raise AssertionError("the simulation does not end")

    def _flush(self, node: SwarmNode) -> None:
        node.client.poll(self.now)
        for name in node.client.ready(self.now):
            cancels, entries, full = node.client.take(name, self.now)
            self.at(self.now + self.delay, lambda n=name, e=(cancels, entries), f=full: self._wants(node, n, e, f))

    def _wants(self, sender: SwarmNode, name: str, messages: tuple, full: bool) -> None:
        node = self.nodes[name]
        for entries in messages:
            if entries or full:
                node.engine.receive(sender.name, entries, full)
                node.client.loads_too(sender.name, [e.cid.multihash for e in entries if not e.cancel])
        self._serve(node)

    def _serve(self, node: SwarmNode) -> None:
        while batch := node.engine.take_lookups():
            node.engine.looked_up(batch, [self.size if want.cid.multihash in node.blocks else None for want in batch])
        while node.sending < 2 and (reply := node.engine.next_reply()) is not None:
            node.sending += 1
            node.free_at = max(node.free_at, self.now) + (reply.size + 100) / node.rate
            self.at(node.free_at, lambda r=reply: self._sent(node, r))

    def _sent(self, node: SwarmNode, reply: Reply) -> None:
        node.sending -= 1
        wants = [want for want in reply.wants if node.engine.still_wanted(want)]
        node.engine.written(reply)
        node.engine.finished(reply, len(wants), self.size * len(wants))
        node.sent_blocks += len(wants)
        to = self.nodes[reply.peer]

        def arrive() -> None:
            for presence in reply.presences:
                to.client.presence(node.name, presence.cid.multihash, presence.have, self.now)
            for want in wants:
                self._block(to, node, want.cid.multihash)

        self.at(self.now + self.delay, arrive)
        self._serve(node)

    def _block(self, node: SwarmNode, sender: SwarmNode, multihash: bytes) -> None:
        arrival = node.client.block(sender.name, multihash, self.size, self.now)
        assert not arrival.lie
        node.duplicates += arrival.duplicate
        for session, cid in arrival.deliver:
            node.got.append(cid.multihash)
            node.sources[sender.name] = node.sources.get(sender.name, 0) + 1
            node.client.consumed(session, self.size)
            if not session.wanted:
                node.done_at = self.now
            if not node.useless:
                node.blocks.add(cid.multihash)
                node.engine.notify([cid.multihash])
                self._serve(node)
