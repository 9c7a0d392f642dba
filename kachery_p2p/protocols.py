"""Names of protocols that several packages know. What one package alone speaks is named there."""

from __future__ import annotations

#: The versions of Bitswap, in the order of preference in which they are offered.
BITSWAP = ("/ipfs/bitswap/1.2.0", "/ipfs/bitswap/1.1.0", "/ipfs/bitswap/1.0.0", "/ipfs/bitswap")
#: The public DHT, and that of a local network.
KAD = "/ipfs/kad/1.0.0"
LAN_KAD = "/ipfs/lan/kad/1.0.0"
#: How a relay is asked for a reservation or a circuit.
RELAY_HOP = "/libp2p/circuit/relay/0.2.0/hop"

#: What names a host in a multiaddr.
HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")
#: Where a node listens unless it is told otherwise: a free port on all interfaces.
DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
#: Stands between a relay and the peer behind it in a multiaddr.
CIRCUIT = "/p2p-circuit"
