"""Where something is served over HTTP, as users write it."""

from __future__ import annotations

import ipaddress
import re

from kachery_p2p.errors import InvalidAddress

#: Where the gateway listens when nothing else is said: 8080 is Kubo's, and often taken by others.
DEFAULT_ADDRESS = "127.0.0.1:8090"


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPv6]:PORT`, `HOST` or `:PORT` / `PORT`, where HOST is an address or `localhost`.

    Raises:
        InvalidAddress: it is none of these.
    """
    default_host, _, default_port = DEFAULT_ADDRESS.rpartition(":")
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]*))(?::(\d{1,5}))?", text.strip())
    if match is None:
        raise InvalidAddress(f"{text!a} is not an address to listen on. It looks like {DEFAULT_ADDRESS}.")
    host, port = match[1] or match[2] or default_host, match[3] or default_port
    if host.isascii() and host.isdigit() and match[3] is None:
        host, port = default_host, host
    if host == "localhost":
        host = default_host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise InvalidAddress(
            f"{text!a} is not an address to listen on: {host!a} is no IP address. It looks like {DEFAULT_ADDRESS}."
        ) from None
    if int(port) > 65535:
        raise InvalidAddress(
            f"{text!a} is not an address to listen on: there is no port {port}. It looks like {DEFAULT_ADDRESS}."
        )
    return host, int(port)
