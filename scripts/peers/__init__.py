"""Real IPFS nodes that nobody here wrote, Kubo and Helia, for interoperability tests and benchmarks.

    with Kubo(Path("run/kubo")) as kubo, Helia() as helia:
        helia.connect(kubo.addrs[0])
        cid = kubo.add(Path("recording.dat"))
        helia.get(cid, Path("copy.dat"))

`scripts/peers/install` fetches what they need; README.md says what each can do and what is odd about it.
"""

from __future__ import annotations

from scripts.peers.peer import Helia, Kubo, Peer, PeerError
from scripts.peers.places import missing

__all__ = ["Helia", "Kubo", "Peer", "PeerError", "missing"]
