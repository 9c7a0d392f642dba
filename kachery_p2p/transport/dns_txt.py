"""TXT records of the DNS, for `/dnsaddr` names: a stub resolver that has one kind of question.

(RFC 1035, RFC 6891; the name servers are those of this machine.) dnspython writes and reads the messages. Its own
resolver knows more ways to ask, over HTTPS, QUIC and TLS, and imports asyncio, and aioquic and its kin where they are
installed, for them: a seventh of a second and 10 MiB for the one question that a node has when it starts.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import DialError
from kachery_p2p.transport import limits

if TYPE_CHECKING:
    from dns.message import Message

log = logging.getLogger("kachery_p2p.transport")

_RESOLV_CONF = "/etc/resolv.conf"
_PORT = 53

#: A name server: its IP address, and its port.
Server = tuple[str, int]


async def txt_records(name: str, servers: Sequence[Server] | None = None) -> list[str]:
    """The texts of a name, in the order in which they came.

    Args:
        name: all of it; no domain is added.
        servers: those to ask; those of this machine where None.

    Raises:
        DialError: there is no such name, or no server answers in time.
    """
    with trio.move_on_after(limits.DIAL_TIMEOUT):
        # In a thread, for the import takes a moment.
        question = await trio.to_thread.run_sync(_make_question, name, abandon_on_cancel=True)
        if servers is None:
            servers = await trio.to_thread.run_sync(name_servers, abandon_on_cancel=True)
        for _ in range(limits.DNS_ROUNDS):
            for server in servers[: limits.MAX_NAME_SERVERS]:
                texts = await _ask(server, question)
                if texts is not None:
                    return texts
    raise DialError(f"the name {name} does not resolve")


def name_servers() -> list[Server]:
    """The name servers of this machine."""
    try:
        with open(_RESOLV_CONF, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        # A system that keeps them elsewhere.
        from dns.resolver import get_default_resolver

        return [(str(each), _PORT) for each in get_default_resolver().nameservers]
    return [(words[1], _PORT) for words in lines if len(words) > 1 and words[0] == "nameserver"]


def _make_question(name: str) -> Message:
    from dns.exception import DNSException
    from dns.message import make_query

    try:
        return make_query(name, "TXT", use_edns=0, payload=limits.DNS_PAYLOAD)
    except (DNSException, ValueError) as error:
        raise DialError(f"{name} is not a name") from error


async def _ask(server: Server, question: Message) -> list[str] | None:
    """What one server says, over UDP, and over TCP where the answer is too long for that; None where it says nothing.

    Raises:
        DialError: there is no such name.
    """
    from dns.flags import TC
    from dns.rcode import NOERROR, NXDOMAIN

    answer = None
    with trio.move_on_after(limits.DNS_TRY):
        try:
            answer = await _by_udp(server, question)
            if answer.flags & TC:
                answer = await _by_tcp(server, question)
        except (OSError, trio.BrokenResourceError) as error:
            log.debug("the name server %s: %s", server[0], error)
    if answer is None:
        return None
    if answer.rcode() == NXDOMAIN:
        raise DialError(f"the name {question.question[0].name} does not resolve")
    return _texts(answer) if answer.rcode() == NOERROR else None


async def _by_udp(server: Server, question: Message) -> Message:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect(server)  # what others send does not come in
        await sock.send(question.to_wire())
        while True:
            answer = _read(await sock.recv(limits.DNS_PAYLOAD), question)
            if answer is not None:
                return answer


async def _by_tcp(server: Server, question: Message) -> Message | None:
    async with await trio.open_tcp_stream(*server) as stream:
        wire = question.to_wire()
        await stream.send_all(len(wire).to_bytes(2, "big") + wire)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            more = await stream.receive_some()
            if not more:
                return None
            data += more
        return _read(data[2 : 2 + int.from_bytes(data[:2], "big")], question)


def _read(data: bytes, question: Message) -> Message | None:
    """The answer to the question; None for anything else."""
    from dns.exception import DNSException
    from dns.message import from_wire

    with contextlib.suppress(DNSException, ValueError):
        answer = from_wire(data)
        if question.is_response(answer):
            return answer
    return None


def _texts(answer: Message) -> list[str]:
    """The texts of all TXT records in it: those of the name, and of the name that it stands for."""
    from dns.rdatatype import TXT

    records = [record for rrset in answer.answer if rrset.rdtype == TXT for record in rrset]
    return [b"".join(record.strings).decode("utf-8", "replace") for record in records]
