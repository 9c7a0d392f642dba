"""Binary multiaddrs: what kind of network they lie in, and which of them belong into which DHT.

Each address is walked once to see that it is well-formed; the verdict is remembered. Two DHTs are kept apart as Kubo
keeps them: what is in the public one must be dialled from anywhere, what is in the LAN's must be on the LAN.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kachery_p2p import multiaddrs
from kachery_p2p.addresses import Reach, reach, reach_of_packed
from kachery_p2p.errors import InvalidAddress
from kachery_p2p.routing.dht import limits
from kachery_p2p.wire import read_varint

_IP4, _TCP, _DNS, _DNS4, _DNS6, _DNSADDR = 0x04, 0x06, 0x35, 0x36, 0x37, 0x38
_IP6, _CIRCUIT, _P2P, _UDP = 0x29, 0x0122, 0x01A5, 0x0111

#: Bytes of each protocol's value (multiformats table); -1: a length stands in front. An address with any other cannot
#: be read to its end; it is left out, as is one with a zone, which means something on one machine only.
_SIZES: Final = {
    **dict.fromkeys((_IP4,), 4),
    **dict.fromkeys((_IP6,), 16),
    **dict.fromkeys((_TCP, _UDP, 0x21, 0x84), 2),  # dccp, sctp
    **dict.fromkeys((_DNS, _DNS4, _DNS6, _DNSADDR, _P2P), -1),
    **dict.fromkeys((0x01C1, 0x01D2, 0x01E1, 0x01BE, 0x01BF), -1),  # sni, certhash, http-path, garlic64, garlic32
    # p2p-circuit, the webrtc family, https, tls, noise, quic, quic-v1, webtransport, ws, wss, http
    **dict.fromkeys((_CIRCUIT, 0x0113, 0x0114, 0x0118, 0x0119, 0x01BB, 0x01C0, 0x01C6), 0),
    **dict.fromkeys((0x01CC, 0x01CD, 0x01D1, 0x01DD, 0x01DE, 0x01DF, 0x01E0), 0),
}

#: What `kind_of` tells, as a sum: where the first component lies, and whether the address leads through a relay.
PUBLIC, LAN, LOOPBACK, RELAYED = 1, 2, 4, 8

_KINDS: Final = {Reach.PUBLIC: PUBLIC, Reach.PRIVATE: LAN, Reach.LINK: LAN, Reach.LOOPBACK: LOOPBACK, Reach.NOWHERE: 0}
#: An IPv4 address written as IPv6 begins so.
_MAPPED = bytes(10) + b"\xff\xff"


@lru_cache(maxsize=16384)
def kind_of(addr: bytes) -> int:
    """The sum of `PUBLIC`, `LAN` or `LOOPBACK`, and `RELAYED`; 0 when the address is malformed or leads nowhere."""
    kind = 0
    pos, end = 0, len(addr)
    first = True
    if end > limits.MAX_ADDR_SIZE:
        return 0
    try:
        while pos < end:
            code, pos = read_varint(addr, pos)
            size = _SIZES[code]
            if size < 0:
                size, pos = read_varint(addr, pos)
            value = addr[pos : pos + size]
            pos += size
            if pos > end:
                return 0
            if first:
                kind = _place(code, value)
                first = False
            elif code == _CIRCUIT:
                kind |= RELAYED
            if not kind:
                return 0
    except (KeyError, ValueError):
        return 0
    return kind


def _place(code: int, value: bytes) -> int:
    if code in (_IP4, _IP6):
        return _KINDS[reach_of_packed(value)] if len(value) == _SIZES[code] else 0
    if code in (_DNS, _DNS4, _DNS6, _DNSADDR):
        return _KINDS[reach(value.decode("ascii"))]
    return 0


def is_public(addr: bytes) -> bool:
    """Whether it can be dialled from anywhere, directly or through a public relay."""
    return bool(kind_of(addr) & PUBLIC)


def is_loopback(addr: bytes) -> bool:
    """Whether only this machine can dial it."""
    return bool(kind_of(addr) & LOOPBACK)


def is_relayed(addr: bytes) -> bool:
    """Whether it leads through a relay."""
    return bool(kind_of(addr) & RELAYED)


@lru_cache(maxsize=4096)
def ip_group(addr: bytes) -> bytes | None:
    """What an address's IP is counted under for diversity: its /16 (IPv4) or /32 (IPv6). None without an IP."""
    if addr[:1] == b"\x04" and len(addr) >= 5:
        return addr[:3]
    if addr[:1] == b"\x29" and len(addr) >= 17:
        # An IPv4 address written as IPv6 must not count apart.
        return b"\x04" + addr[13:15] if addr[1:13] == _MAPPED else addr[:5]
    return None


@dataclass(frozen=True, slots=True)
class DhtScope:
    """Which addresses belong into a DHT: the public one, or that of a LAN.

    Attributes:
        lan: the LAN's.
        allow_loopback: addresses of this machine count as well; for tests, and networks of one machine.
    """

    lan: bool
    allow_loopback: bool = False

    def usable(self, addrs: Sequence[bytes]) -> tuple[bytes, ...]:
        """Those of a peer's addresses that may be stored and passed on, without doubles; no more than a peer may have.

        As in Kubo: in the public DHT public ones (relayed ones, too); in a LAN's all but loopback.
        """
        mask = (PUBLIC | LAN if self.lan else PUBLIC) | (LOOPBACK if self.allow_loopback else 0)
        return tuple(dict.fromkeys(a for a in addrs[: limits.MAX_ADDRS_PER_PEER] if kind_of(a) & mask))

    def admits(self, addrs: Sequence[bytes], remote: bytes | None = None) -> bool:
        """Whether a peer may stand in the routing table.

        It must have an address of the right kind that leads to it without a relay.

        Args:
            addrs: what it says.
            remote: where we see it. Every home has 192.168.1.x, so only this tells who is on our LAN.
        """
        mask = (LAN if self.lan else PUBLIC) | (LOOPBACK if self.allow_loopback else 0)
        if self.lan and remote is not None:
            kind = kind_of(remote)
            # A connection from loopback or the LAN comes from close by, whatever the peer says.
            return bool(kind & (LAN | LOOPBACK)) and not kind & RELAYED and bool(self.usable(addrs))
        return any(kind & mask and not kind & RELAYED for kind in map(kind_of, addrs[: limits.MAX_ADDRS_PER_PEER]))

    def may_ask(self, addrs: Sequence[bytes]) -> bool:
        """Whether a lookup may ask a peer that was named: on a LAN any address will do, else a public one must be."""
        return bool(self.usable(addrs)) if self.lan else self.admits(addrs)


# --- text ----------------------------------------------------------------------------------------------------------


def to_texts(addrs: Iterable[bytes]) -> tuple[str, ...]:
    """The written forms; those that cannot be written are left out."""
    found = []
    for addr in addrs:
        with contextlib.suppress(InvalidAddress):
            found.append(multiaddrs.to_text(addr))
    return tuple(found)


def from_texts(texts: Iterable[str]) -> tuple[bytes, ...]:
    """The binary forms; those that cannot be read are left out."""
    found = []
    for text in texts:
        with contextlib.suppress(InvalidAddress):
            found.append(multiaddrs.to_binary(text))
    return tuple(found)
