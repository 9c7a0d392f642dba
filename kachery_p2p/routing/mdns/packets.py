"""DNS messages as libp2p's discovery uses them (RFC 1035, RFC 6762, and the libp2p mdns specification).

Every node gives itself a random name, new at each start, and owns these records:

    _p2p._udp.local          PTR   <name>._p2p._udp.local
    <name>._p2p._udp.local   TXT   "dnsaddr=/ip4/192.168.1.7/tcp/4001/p2p/12D3..." "dnsaddr=..."
    <name>._p2p._udp.local   SRV   0 0 4001 <name>.local
    <name>.local             A     192.168.1.7

libp2p needs only PTR and TXT. Kubo's resolver takes a node for real only with SRV and an address record, though, and of
several TXT records in a packet it keeps the last, so all strings go into one. Helia reads PTR in the answers only; it
sends no SRV and no address record, and a TXT record of its own for each address, among the answers. So: we write what
all understand, and read everything.

The reader is our own, as dnspython follows compression links of any length, and reads records that nobody asked for;
here a packet costs a bounded time, and raises `MalformedMessage` or is read.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.routing.mdns import limits

Name = tuple[bytes, ...]

LOCAL: Name = (b"local",)
SERVICE: Name = (b"_p2p", b"_udp", b"local")
#: Asked by tools that list all services of a network (RFC 6763, 9).
ALL_SERVICES: Name = (b"_services", b"_dns-sd", b"_udp", b"local")

A, PTR, TXT, AAAA, SRV, ANY = 1, 12, 16, 28, 33, 255
IN = 1
#: The top bit of a class: for a question "you may answer to me alone", for a record "forget the old ones".
TOP_BIT = 0x8000

_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_RESPONSE, _AUTHORITATIVE = 0x8000, 0x0400
#: Opcode and response code, both zero in Multicast DNS.
_NOT_MDNS = 0x7800 | 0x000F
_PREFIX = b"dnsaddr="


class DnsQuestion(NamedTuple):
    """What somebody wants to know; the name in lower case."""

    name: Name
    type: int


class DnsRecord(NamedTuple):
    """A record of type PTR (`target`) or TXT (`strings`, but the shortest); no other is read. Names in lower case."""

    name: Name
    type: int
    flush: bool
    ttl: int
    target: Name
    strings: tuple[bytes, ...]


@dataclass(slots=True)
class Packet:
    """A packet, as far as it concerns us.

    Attributes:
        id: to be repeated in an answer to a one-shot resolver.
        response: whether it answers, or asks.
        questions: what it asks.
        records: PTR and TXT records, wherever they stand. In a question they are what the sender knows already.
    """

    id: int = 0
    response: bool = False
    questions: list[DnsQuestion] = field(default_factory=list)
    records: list[DnsRecord] = field(default_factory=list)


def about_libp2p(data: bytes) -> bool:
    """Whether the packet can concern us at all: most on a network are about printers, and need not be read.

    The first mention of a label is never compressed, so it is in the bytes.
    """
    if b"\x04_p2p" in data or b"\x07_dns-sd" in data:
        return True
    lowered = data.lower()
    return b"\x04_p2p" in lowered or b"\x07_dns-sd" in lowered


# --- reading -------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> Packet:
    """Read a packet.

    Raises:
        MalformedMessage: it is cut short, contradicts itself, or goes beyond `limits`.
    """
    return _Reader(data).packet()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        #: names and their sizes by where they begin, so that many links to one place cost nothing
        self._names: dict[int, tuple[Name, int]] = {}

    def packet(self) -> Packet:
        if len(self._data) > limits.MAX_RECEIVED:
            raise MalformedMessage("An mDNS packet is longer than any may be.")
        ident, flags, n_questions, *counts = self._unpack(_HEADER)
        if flags & _NOT_MDNS:
            raise MalformedMessage("A packet on the mDNS port is neither a plain question nor a plain answer.")
        n_records = sum(counts)
        if n_questions > limits.MAX_QUESTIONS or n_records > limits.MAX_RECORDS:
            raise MalformedMessage(f"An mDNS packet has {n_questions} questions and {n_records} records.")
        packet = Packet(ident, bool(flags & _RESPONSE))
        for _ in range(n_questions):
            name = self._name()
            kind, klass = struct.unpack("!HH", self._take(4))
            if klass & ~TOP_BIT in (IN, ANY):
                packet.questions.append(DnsQuestion(name, kind))
        for _ in range(n_records):
            record = self._record()
            if record is not None:
                packet.records.append(record)
        return packet

    def _record(self) -> DnsRecord | None:
        name = self._name()
        kind, klass, ttl, length = self._unpack(_RECORD)
        end = self._at + length
        if end > len(self._data):
            raise MalformedMessage("A record of an mDNS packet is cut short.")
        target: Name = ()
        strings: list[bytes] = []
        if klass & ~TOP_BIT != IN or kind not in (PTR, TXT):
            self._at = end
            return None
        if kind == PTR:
            target = self._name()
        else:
            at, data = self._at, self._data
            while at < end:
                begin = at + 1
                at = begin + data[at]
                if at - begin > len(_PREFIX):
                    strings.append(data[begin:at])
            self._at = at
        if self._at != end:
            raise MalformedMessage("A record of an mDNS packet has another length than it says.")
        # RFC 2181, 8: a time to live with the top bit set is none.
        return DnsRecord(name, kind, bool(klass & TOP_BIT), 0 if ttl >> 31 else ttl, target, tuple(strings))

    def _name(self) -> Name:
        name, _, self._at = self._name_at(self._at, limits.MAX_LINKS)
        return name

    def _name_at(self, at: int, links: int) -> tuple[Name, int, int]:
        """The name that begins there, its size, and where what follows it begins."""
        begin, labels, size, data = at, [], 0, self._data
        tail, tail_size = (), 0
        while True:
            if at >= len(data):
                raise MalformedMessage("A name in an mDNS packet is cut short.")
            length = data[at]
            if length == 0:
                at += 1
                break
            if length >= 0xC0:
                if at + 2 > len(data):
                    raise MalformedMessage("A name in an mDNS packet is cut short.")
                link = (length & 0x3F) << 8 | data[at + 1]
                at += 2
                # Links lead backwards only, so there are no loops.
                if link >= begin or links == 0:
                    raise MalformedMessage("The names in an mDNS packet refer to each other without end.")
                tail, tail_size = self._names.get(link) or self._name_at(link, links - 1)[:2]
                break
            if length > 63:
                raise MalformedMessage("A name in an mDNS packet has a label of an unknown kind.")
            label = data[at + 1 : at + 1 + length]
            if len(label) != length:
                raise MalformedMessage("A name in an mDNS packet is cut short.")
            labels.append(label.lower())
            at += 1 + length
            size += 1 + length
            if len(labels) > limits.MAX_LABELS:
                raise MalformedMessage("A name in an mDNS packet is too long.")
        size += tail_size
        if size >= limits.MAX_NAME or len(labels) + len(tail) > limits.MAX_LABELS:
            raise MalformedMessage("A name in an mDNS packet is too long.")
        name = (*labels, *tail) if labels else tail
        self._names[begin] = name, size
        return name, size, at

    def _unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self._take(form.size))

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise MalformedMessage("An mDNS packet is cut short.")
        self._at += count
        return part


@dataclass(slots=True)
class Heard:
    """What one packet says about one node.

    Attributes:
        name: the node's random name, lower case.
        ttl: seconds for which it may be believed; 0 says goodbye.
        flush: whether addresses that are not in this packet, nor in others of the same second, hold no more.
        texts: its multiaddrs, unchecked.
    """

    name: bytes
    ttl: int
    flush: bool = False
    texts: list[str] = field(default_factory=list)


def heard(packet: Packet) -> list[Heard]:
    """The nodes that a response speaks of."""
    found: dict[bytes, Heard] = {}
    for record in packet.records:
        name = record.target if record.type == PTR else record.name
        if name[-3:] != SERVICE or len(name) < 4 or (record.type == PTR and record.name != SERVICE):
            continue
        label = b".".join(name[:-3])
        node = found.get(label)
        if node is None:
            if len(found) == limits.MAX_PEERS_PER_PACKET:
                continue
            node = found[label] = Heard(label, record.ttl)
        node.ttl = min(node.ttl, record.ttl)
        node.flush |= record.type == TXT and record.flush
        for text in record.strings[: limits.MAX_STRINGS_PER_PEER - len(node.texts)]:
            if text.startswith(_PREFIX):
                node.texts.append(text[len(_PREFIX) :].decode("utf-8", "replace"))
    return list(found.values())


def asks_for(packet: Packet, label: bytes) -> bool:
    """Whether a question concerns the node of that name: all nodes, its records, its host name."""
    own, host = (label, *SERVICE), (label, *LOCAL)
    return any(
        (each.name == SERVICE and each.type in (PTR, ANY))
        or (each.name == own and each.type in (SRV, TXT, ANY))
        or (each.name == host and each.type in (A, AAAA, ANY))
        for each in packet.questions
    )


def asks_for_services(packet: Packet) -> bool:
    """Whether somebody lists the kinds of services on this network."""
    return any(each.name == ALL_SERVICES and each.type in (PTR, ANY) for each in packet.questions)


def knows(packet: Packet, label: bytes) -> bool:
    """Whether the asker says that it knows the node of that name, and will for at least half the record's time."""
    own = (label, *SERVICE)
    return any(each.type == PTR and each.target == own and each.ttl >= limits.TTL // 2 for each in packet.records)


# --- writing -------------------------------------------------------------------------------------------------------


class _Writer:
    """One packet in the making. Names are compressed."""

    def __init__(self, ident: int = 0, flags: int = 0) -> None:
        self._ident, self._flags = ident, flags
        self._counts = [0, 0, 0, 0]
        self._body = bytearray()
        self._names: dict[Name, int] = {}

    def __len__(self) -> int:
        return _HEADER.size + len(self._body)

    def done(self) -> bytes:
        return _HEADER.pack(self._ident, self._flags, *self._counts) + bytes(self._body)

    def question(self, name: Name, kind: int) -> None:
        self._write_name(name)
        self._body += struct.pack("!HH", kind, IN)
        self._counts[0] += 1

    def record(self, section: int, name: Name, kind: int, ttl: int, *data: bytes | Name, flush: bool = False) -> None:
        """Section 1: answers, 3: additional. Parts of the data are bytes, or names."""
        self._write_name(name)
        self._body += _RECORD.pack(kind, IN | (TOP_BIT if flush else 0), ttl, 0)
        begin = len(self._body)
        for part in data:
            if isinstance(part, bytes):
                self._body += part
            else:
                self._write_name(part)
        struct.pack_into("!H", self._body, begin - 2, len(self._body) - begin)
        self._counts[section] += 1

    def _write_name(self, name: Name) -> None:
        for index in range(len(name)):
            rest = name[index:]
            link = self._names.get(rest)
            if link is not None:
                self._body += struct.pack("!H", 0xC000 | link)
                return
            if len(self) < 0x4000:
                self._names[rest] = len(self)
            self._body += bytes([len(name[index])]) + name[index]
        self._body += b"\0"


def query(known: Iterable[tuple[bytes, float]] = ()) -> bytes:
    """The question who is there.

    Args:
        known: name and remaining seconds of nodes that need not answer; as many as fit.
    """
    writer = _Writer()
    writer.question(SERVICE, PTR)
    for label, seconds in known:
        if len(writer) + len(label) + 16 > limits.MAX_SENT:
            break
        writer.record(1, SERVICE, PTR, int(seconds), (label, *SERVICE))
    return writer.done()


def answers(label: bytes, peer: str, addrs: Sequence[str], *, to: Packet | None = None) -> Iterator[bytes]:
    """The packets that tell where a node is: one, or more where there are many addresses.

    Args:
        label: its random name.
        peer: its peer ID.
        addrs: multiaddrs `/ip4/.../tcp/...` without the peer ID, best first: Kubo looks at the first packet only.
        to: the packet of a one-shot resolver, which wants its one question repeated (RFC 6762, 6.7).
    """
    own, host = (label, *SERVICE), (label, *LOCAL)
    ttl = limits.TTL if to is None else min(limits.TTL, limits.LEGACY_TTL)
    waiting = [(addr, text) for addr in addrs if len(text := _string(addr, peer)) <= limits.MAX_STRING + 1]
    while waiting:
        writer = _Writer(to.id if to else 0, _RESPONSE | _AUTHORITATIVE)
        if to is not None:
            writer.question(to.questions[0].name, to.questions[0].type)
        writer.record(1, SERVICE, PTR, ttl, own)
        flush = to is None
        port = int(waiting[0][0].rpartition("/")[2])
        writer.record(3, own, SRV, ttl, struct.pack("!HHH", 0, 0, port), host, flush=flush)
        strings, room = b"", limits.MAX_SENT - len(writer) - 12
        ips: dict[bytes, None] = {}
        while waiting:
            addr, text = waiting[0]
            ip = ipaddress.ip_address(addr.split("/")[2]).packed
            cost = len(text) + (0 if ip in ips else len(ip) + 12)
            if strings and cost > room:
                break
            strings += text
            ips[ip] = None
            room -= cost
            waiting.pop(0)
        writer.record(3, own, TXT, ttl, strings, flush=flush)
        for ip in ips:
            writer.record(3, host, A if len(ip) == 4 else AAAA, ttl, ip, flush=flush)
        yield writer.done()


def _string(addr: str, peer: str) -> bytes:
    text = _PREFIX + f"{addr}/p2p/{peer}".encode()
    return bytes([min(len(text), limits.MAX_STRING)]) + text


def services(to: Packet | None = None) -> bytes:
    """The answer to `asks_for_services`."""
    writer = _Writer(to.id if to else 0, _RESPONSE | _AUTHORITATIVE)
    if to is not None:
        writer.question(to.questions[0].name, to.questions[0].type)
    writer.record(1, ALL_SERVICES, PTR, limits.LEGACY_TTL if to else limits.TTL, SERVICE)
    return writer.done()


def goodbye(label: bytes) -> bytes:
    """The packet of a node that leaves."""
    writer = _Writer(0, _RESPONSE | _AUTHORITATIVE)
    writer.record(1, SERVICE, PTR, 0, (label, *SERVICE))
    return writer.done()
