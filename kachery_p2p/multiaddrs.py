"""Multiaddrs, written and in binary.

The protocols that nodes of this network use are read here, strictly. An address with another one in it is left to the
package multiaddr. That is imported when it is needed, for it brings a dozen packages with it.
(https://github.com/multiformats/multiaddr)
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from kachery_p2p.errors import InvalidAddress
from kachery_p2p.peer_ids import any_peer_id, is_peer_id, peer_bytes, peer_text
from kachery_p2p.wire import encode_varint, read_varint

if TYPE_CHECKING:
    from multiaddr import Multiaddr

Result = TypeVar("Result")


class _Rare(Exception):
    """Something that is for the package multiaddr to decide."""


# --- values of protocols -------------------------------------------------------------------------------------------

# Each function raises a ValueError for what is wrong.


def _port(text: str) -> bytes:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise ValueError("not a port")
    try:
        return int(text).to_bytes(2, "big")
    except OverflowError:
        raise ValueError("not a port") from None


def _port_text(raw: bytes) -> str:
    return str(int.from_bytes(raw, "big"))


def _ip6(text: str) -> bytes:
    if "%" in text:
        raise ValueError("a zone means something on one machine only")
    return IPv6Address(text).packed


def _ip6_text(raw: bytes) -> str:
    ip = IPv6Address(raw)
    # Python writes this form differently from version to version.
    return str(ip) if ip.ipv4_mapped is None else f"::ffff:{ip.ipv4_mapped}"


#: A name that needs no IDNA.
_LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PLAIN_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


def _name_text(raw: bytes) -> str:
    text = raw.decode()
    if len(text) > 253 or not _PLAIN_NAME.fullmatch(text):
        raise _Rare
    return text


def _name(text: str) -> bytes:
    return _name_text(text.encode()).encode()


def _peer(text: str) -> bytes:
    peer = any_peer_id(text)
    if peer is None:
        raise ValueError("not a peer ID")
    return peer_bytes(peer)


def _peer_text(raw: bytes) -> str:
    raw = raw.removeprefix(b"\x01\x72")  # as a CID
    if not is_peer_id(raw):
        raise ValueError("not a peer ID")
    return peer_text(raw)


def _certhash_text(raw: bytes) -> str:
    if len(raw) != 34 or raw[:2] != b"\x12\x20":
        raise _Rare
    return "u" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _certhash(text: str) -> bytes:
    raw = base64.urlsafe_b64decode(text[1:] + "==") if len(text) == 47 else b""
    if _certhash_text(raw) != text:
        raise _Rare
    return raw


class _Protocol(NamedTuple):
    """A protocol, and what stands behind its name. `size` is in bytes; -1: a length stands in front, 0: nothing."""

    name: str
    code: int
    size: int = 0
    to_binary: Callable[[str], bytes] = str.encode
    to_text: Callable[[bytes], str] = bytes.decode


_PROTOCOLS = (
    _Protocol("ip4", 0x04, 4, lambda text: IPv4Address(text).packed, lambda raw: str(IPv4Address(raw))),
    _Protocol("ip6", 0x29, 16, _ip6, _ip6_text),
    _Protocol("tcp", 0x06, 2, _port, _port_text),
    _Protocol("udp", 0x0111, 2, _port, _port_text),
    _Protocol("dns", 0x35, -1, _name, _name_text),
    _Protocol("dns4", 0x36, -1, _name, _name_text),
    _Protocol("dns6", 0x37, -1, _name, _name_text),
    _Protocol("dnsaddr", 0x38, -1, _name, _name_text),
    _Protocol("sni", 0x01C1, -1, _name, _name_text),
    _Protocol("p2p", 0x01A5, -1, _peer, _peer_text),
    _Protocol("certhash", 0x01D2, -1, _certhash, _certhash_text),
    _Protocol("p2p-circuit", 0x0122),
    _Protocol("quic", 0x01CC),
    _Protocol("quic-v1", 0x01CD),
    _Protocol("webtransport", 0x01D1),
    _Protocol("webrtc-direct", 0x0118),
    _Protocol("webrtc", 0x0119),
    _Protocol("ws", 0x01DD),
    _Protocol("wss", 0x01DE),
    _Protocol("tls", 0x01C0),
    _Protocol("noise", 0x01C6),
    _Protocol("http", 0x01E0),
    _Protocol("https", 0x01BB),
)
_BY_NAME = {each.name: each for each in _PROTOCOLS}
_BY_CODE = {each.code: each for each in _PROTOCOLS}


# --- addresses -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16384)
def to_binary(text: str) -> bytes:
    """The binary form.

    Raises:
        InvalidAddress: it is not a multiaddr.
    """
    try:
        return _encode(text)
    except _Rare:
        return _by_package(text, lambda addr: addr.to_bytes())
    except ValueError as error:
        raise _refused(text) from error


@lru_cache(maxsize=16384)
def to_text(raw: bytes) -> str:
    """The written form.

    Raises:
        InvalidAddress: it is not a binary multiaddr.
    """
    try:
        return "".join(f"/{name}" if value is None else f"/{name}/{value}" for name, value in _decode(raw))
    except _Rare:
        return _by_package(raw, str)
    except ValueError as error:
        raise _refused(raw) from error


def split(text: str) -> list[tuple[str, str | None]]:
    """The protocols, each with what stands behind it; None where nothing does.

    Values are in their usual form: a peer ID in base58, an IPv6 address in small letters.

    Raises:
        InvalidAddress: it is not a multiaddr.
    """
    raw = to_binary(text)
    try:
        return list(_decode(raw))
    except _Rare:
        return _by_package(raw, lambda addr: [(protocol.name, value) for protocol, value in addr.items()])


def _encode(text: str) -> bytes:
    if text[:1] != "/" or not text.strip("/"):
        raise ValueError("it does not begin with the name of a protocol")
    parts = iter(text[1:].rstrip("/").split("/"))
    out = bytearray()
    for name in parts:
        if not name:
            raise ValueError("a part of it is empty")
        protocol = _BY_NAME.get(name)
        if protocol is None:
            raise _Rare
        out += encode_varint(protocol.code)
        if protocol.size:
            value = protocol.to_binary(next(parts, ""))
            out += value if protocol.size > 0 else encode_varint(len(value)) + value
    return bytes(out)


def _decode(raw: bytes) -> Iterator[tuple[str, str | None]]:
    pos, end = 0, len(raw)
    if not raw:
        raise ValueError("it is empty")
    while pos < end:
        code, pos = read_varint(raw, pos)
        protocol = _BY_CODE.get(code)
        if protocol is None:
            raise _Rare
        size = protocol.size
        if not size:
            yield protocol.name, None
            continue
        if size < 0:
            size, pos = read_varint(raw, pos)
        if size > end - pos:
            raise ValueError("it is cut short")
        yield protocol.name, protocol.to_text(raw[pos : pos + size])
        pos += size


def _by_package(address: str | bytes, use: Callable[[Multiaddr], Result]) -> Result:
    from multiaddr import Multiaddr

    try:
        return use(Multiaddr(address))
    except Exception as error:
        # The package and the codecs under it raise dozens of types.
        raise _refused(address) from error


def _refused(address: str | bytes) -> InvalidAddress:
    if isinstance(address, bytes):
        return InvalidAddress(f"{address[:64].hex()} is not a binary multiaddr.")
    return InvalidAddress(
        f"{address[:200]!r} is not a multiaddr. One looks like /ip4/192.168.1.7/tcp/4001/p2p/12D3Koo..."
    )
