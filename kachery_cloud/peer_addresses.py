"""Addresses of peers (multiaddrs) as users write them: in URIs, calls, options and settings."""

from __future__ import annotations

from kachery_cloud import uri_notes
from kachery_cloud.errors import InvalidAddress, InvalidArgument
from kachery_p2p.text import shown

#: So much of an address is quoted in an error.
_SHOWN = 300

#: The protocols of multiaddrs (github.com/multiformats/multiaddr): those that have a value, and those that have none.
_WITH_VALUE = frozenset((
    "ip4", "ip6", "ip6zone", "ipcidr", "dns", "dns4", "dns6", "dnsaddr", "tcp", "udp", "dccp", "sctp", "sni",
    "certhash", "http-path", "onion", "onion3", "garlic32", "garlic64", "p2p", "ipfs", "unix", "memory",
))  # fmt: skip
_WITHOUT_VALUE = frozenset((
    "udt", "utp", "tls", "noise", "plaintextv2", "shs", "quic", "quic-v1", "webtransport", "ws", "wss", "http", "https",
    "webrtc", "webrtc-direct", "p2p-circuit", "p2p-webrtc-direct", "p2p-webrtc-star", "p2p-websocket-star",
    "p2p-stardust",
))  # fmt: skip


def check_peer_address(address: str, origin: str) -> str:
    """The address, if it has the shape of a multiaddr (the node checks the values when it dials).

    Args:
        address: a bare peer ID is taken for `/p2p/<peer ID>`.
        origin: where the address came from, for the error.

    Raises:
        InvalidAddress: it has another shape.
    """
    if not isinstance(address, str):
        raise InvalidAddress(f"The address of a peer is text, not {type(address).__name__} ({origin}).")
    text = address.strip()
    if uri_notes.PEER_ID.fullmatch(text):
        return "/p2p/" + text
    unknown = None if any(c.isspace() for c in text) else _unknown_part(text)
    if unknown is None:
        raise InvalidAddress(
            f"{shown(address, _SHOWN)} ({origin}) is not the address of a peer. "
            "An address looks like /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW..."
        )
    if unknown:
        raise InvalidAddress(
            f"{shown(unknown)} in {shown(address, _SHOWN)} ({origin}) is no part of an address, which looks like "
            "/ip4/192.168.1.20/tcp/4001/p2p/12D3KooW... The path to a file goes before the '?' of a URI: "
            "ipfs://CID/PATH?provider=ADDRESS."
        )
    return text


def check_peer_addresses(addresses: object, origin: str) -> tuple[str, ...]:
    """All of them, each once; a single text is taken for one address.

    Raises:
        InvalidArgument: it is no list.
        InvalidAddress: one of them is not the address of a peer.
    """
    given = (addresses,) if isinstance(addresses, str) else addresses
    if not isinstance(given, (list, tuple)):
        raise InvalidArgument(f"providers is {shown(addresses)}; it must be a list of addresses of peers.")
    return tuple(dict.fromkeys(check_peer_address(address, origin) for address in given))


def _unknown_part(text: str) -> str | None:
    """The first part of a multiaddr that is no protocol of one; empty where all are, None where it is no multiaddr."""
    # split("/") of a multiaddr gives an empty first part, then a protocol, then its value if it has one.
    parts = text.split("/")
    if parts[0] or len(parts) < 2 or parts[1] not in _WITH_VALUE | _WITHOUT_VALUE:
        return None
    at = 1
    while at < len(parts):
        name = parts[at]
        if name in _WITH_VALUE:
            if at + 1 >= len(parts) or not parts[at + 1]:
                return None
            if name == "unix":  # the rest is a path
                return ""
            at += 2
            after = "/".join(parts[at:])
            # What a peer ID is followed by is a way from that peer.
            if name in ("p2p", "ipfs") and after and parts[at] not in ("p2p-circuit", "http-path"):
                return after
        elif name in _WITHOUT_VALUE:
            at += 1
        else:
            return name or None
    return ""
