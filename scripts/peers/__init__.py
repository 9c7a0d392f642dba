"""Real IPFS nodes that nobody here wrote, Kubo, Helia and go-libp2p, for interoperability tests and benchmarks.

    with Kubo(Path("run/kubo")) as kubo, Helia() as helia:
        helia.connect(kubo.addrs[0])
        cid = kubo.add(Path("recording.dat"))
        helia.get(cid, Path("copy.dat"))

`scripts/peers/install` fetches what they need; README.md says what each can do and what is odd about it.
"""

from __future__ import annotations

from scripts.peers.kubo_daemon import KuboDaemon
from scripts.peers.peer import GoLibp2p, Helia, Kubo, Peer, PeerError
from scripts.peers.places import missing, missing_go, missing_kubo_daemon

__all__ = [
    "GoLibp2p",
    "Helia",
    "Kubo",
    "KuboDaemon",
    "Peer",
    "PeerError",
    "missing",
    "missing_go",
    "missing_kubo_daemon",
]
