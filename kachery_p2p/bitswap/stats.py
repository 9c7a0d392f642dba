"""What was sent and received, in all and by peer."""

from __future__ import annotations

from dataclasses import dataclass, field

from kachery_p2p.bitswap import limits


@dataclass
class PeerStats:
    """Sums for one peer."""

    blocks_received: int = 0
    bytes_received: int = 0
    duplicate_blocks: int = 0
    duplicate_bytes: int = 0
    blocks_sent: int = 0
    bytes_sent: int = 0
    malformed: int = 0

    def received(self, size: int, *, duplicate: bool) -> None:
        """A block came."""
        if duplicate:
            self.duplicate_blocks += 1
            self.duplicate_bytes += size
        else:
            self.blocks_received += 1
            self.bytes_received += size


@dataclass
class Stats:
    """Sums over the life of the exchange; `peers` holds those that were active last."""

    total: PeerStats = field(default_factory=PeerStats)
    peers: dict[str, PeerStats] = field(default_factory=dict[str, PeerStats])

    def of(self, peer: str) -> PeerStats:
        """The sums of a peer, which count as the newest from now on."""
        stats = self.peers.pop(peer, None) or PeerStats()
        self.peers[peer] = stats
        if len(self.peers) > limits.MAX_STATS_PEERS:
            del self.peers[next(iter(self.peers))]
        return stats

    def sent(self, peer: str, blocks: int, size: int) -> None:
        """Blocks went to a peer."""
        for sums in (self.of(peer), self.total):
            sums.blocks_sent += blocks
            sums.bytes_sent += size

    def malformed(self, peer: str, count: int) -> None:
        """A peer sent things that cannot be read."""
        self.of(peer).malformed += count
        self.total.malformed += count
