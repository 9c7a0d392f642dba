"""Which names a lab goes by, and what every answer says to browsers. No input or output."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}

#: Said with every answer that does not say it in its own way. Scripts and styles are files of ours alone.
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
#: Said in addition where the lab is reached over HTTPS: for a year never without.
STRICT_TRANSPORT = "max-age=31536000"


def host_of(authority: str) -> str:
    """The host of `HOST` or `HOST:PORT`, in small letters and without brackets; empty where it is none."""
    try:
        parts = urlsplit(f"//{authority}")
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        return ""
    if "@" in authority or parts.path or parts.query or parts.fragment or not authority.isprintable():
        return ""
    return (parts.hostname or "").rstrip(".")


def is_own(authority: str, public_url: str | None) -> bool:
    """Whether a Host header is a name of ours.

    A page of somebody else can have its own name point to our address (DNS rebinding); then the browser would take us
    for that page, but it sends that name. It cannot send an IP address, which nobody can point elsewhere.

    Args:
        authority: the header.
        public_url: under which others reach us, where the settings say it.
    """
    host = host_of(authority)
    if not host:
        return False
    if host == "localhost" or (public_url is not None and host == urlsplit(public_url).hostname):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def normal(scheme: str, authority: str) -> str:
    """`HOST:PORT` in small letters, without the port that goes without saying (RFC 9421, section 2.2.3)."""
    authority = authority.lower()
    return authority.removesuffix(f":{_DEFAULT_PORTS[scheme]}")


def is_loopback(authority: str) -> bool:
    """Whether an authority is this machine by an address, or by `localhost`."""
    host = host_of(authority)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_path(text: str | None) -> str:
    """Where to go next within the lab: a path of ours, or `/` where it is none.

    No way leads from us to elsewhere: browsers take `//host`, the same with a backslash, and what has control
    characters in it for an address of somebody else.
    """
    if not text or len(text) > 500 or not text.isascii() or not text.isprintable() or " " in text:
        return "/"
    if not text.startswith("/") or text.startswith("//") or "\\" in text:
        return "/"
    return text
