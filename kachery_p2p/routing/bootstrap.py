"""Public services that a node uses unless it is told otherwise. Constants only.

A node needs none of them once it has met somebody (`known`), and none at all on a local network (mDNS, LAN DHT): they
are how a node that knows nobody finds its first peers of the public network. They belong to others, and any of them
may be away for good by the time this is read; nothing waits for them. To do without, give the node empty lists; a node
with a swarm key never uses them.
"""

from __future__ import annotations

#: Peers asked for the first entries of the public DHT's routing table. The list that Kubo starts with, without its
#: one QUIC address, which is the last machine over again.
BOOTSTRAP_PEERS: tuple[str, ...] = (
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
    "/dnsaddr/va1.bootstrap.libp2p.io/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8",
    "/ip4/104.131.131.82/tcp/4001/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
)

#: HTTP routers (`/routing/v1`) asked for providers beside the DHT. Each learns which CIDs this machine looks for, as
#: the peers of the DHT do.
DELEGATED_ROUTERS: tuple[str, ...] = ("https://delegated-ipfs.dev",)
