"""What a node does to find others and to be found. Plain values, so that reading settings imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class NodeOptions:
    """All that others hear of is off by default: such a node does not look for others, and they do not hear of it.

    In a private network (with a swarm key) delegated routers, gateways and port mapping stay off whatever is said here.
    The DHTs are then the lab's own, for everybody in them holds the key.

    Attributes:
        dht: take part in the public DHT (`/ipfs/kad/1.0.0`): `off`, `client`, `server`, or `auto`, which is a server
            while others can reach this node.
        lan_dht: take part in the DHT of the local network (`/ipfs/lan/kad/1.0.0`).
        mdns: find peers on the local network by multicast DNS, and be found.
        known_peers: keep an address book, and try those in it when no other peer is known.
        bootstrap: multiaddrs of peers through which the DHTs are entered.
        delegated: URLs of HTTP routers (`/routing/v1`).
        provide: what is announced: `off`, `roots` (files and directories), or `all` blocks.
        dnslink: look up names of the DNS where one stands in the place of an IPNS name.
        relays: multiaddrs of relays to be reachable through when others cannot dial this node.
        use_relays: be reachable through a relay, one of `relays` or any that is met, when others cannot dial
            this node.
        relay_service: relay for others: `off`, `on`, or `auto`, while others can reach this node.
        port_map: ask the router of the local network to forward a port (UPnP, NAT-PMP).
        autonat: ask peers whether they can dial this node, and answer them the same question.
        reachability: `auto`, or `public` / `private` to be believed without asking.
        gateways: URLs of trustless HTTP gateways, which help loads that peers are slow with.
        gateway_tokens: what some of them want to be shown, by URL.
        own_peers: peer IDs of the user's other machines, which may have what is private.
        show_owner: who is handed the proof of who stands behind this machine: the `members` of its groups and the
            user's other machines, `everyone`, or nobody (`off`).
        access_log: write down who is given what is not for everyone.
    """

    dht: str = "off"
    lan_dht: bool = False
    mdns: bool = False
    known_peers: bool = False
    bootstrap: tuple[str, ...] = ()
    delegated: tuple[str, ...] = ()
    provide: str = "off"
    dnslink: bool = False
    relays: tuple[str, ...] = ()
    use_relays: bool = False
    relay_service: str = "off"
    port_map: bool = False
    autonat: bool = False
    reachability: str = "auto"
    gateways: tuple[str, ...] = ()
    gateway_tokens: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    own_peers: tuple[str, ...] = ()
    show_owner: str = "off"
    access_log: bool = True
