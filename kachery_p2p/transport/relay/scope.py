"""How far the host of a multiaddr reaches."""

from __future__ import annotations

from kachery_p2p.addresses import Reach, reach
from kachery_p2p.errors import InvalidAddress
from kachery_p2p.transport.addresses import parse_address


def _reach(multiaddr: str) -> Reach:
    """Of the IP address or the name that a multiaddr begins with; NOWHERE for relays and nonsense."""
    try:
        address = parse_address(multiaddr)
    except InvalidAddress:
        return Reach.NOWHERE
    return reach(address.host) if address.host else Reach.NOWHERE


def is_loopback(multiaddr: str) -> bool:
    """Whether it is this machine, whichever machine that is."""
    return _reach(multiaddr) is Reach.LOOPBACK


def is_public(multiaddr: str) -> bool:
    """Whether it means the same everywhere: an address of the internet, or a name of the public DNS."""
    return _reach(multiaddr) is Reach.PUBLIC
