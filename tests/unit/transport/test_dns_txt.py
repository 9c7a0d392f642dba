"""TXT records: from a real name server on loopback, over UDP and TCP, whatever comes between."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import dns.message
import dns.rcode
import pytest
import trio

from kachery_p2p.errors import DialError
from kachery_p2p.transport import dns_txt, limits
from kachery_p2p.transport.dns_txt import Server, name_servers, txt_records
from tests.helpers.name_server import NameServer
from tests.helpers.patience import PATIENCE

NAME = "_dnsaddr.example.org"


async def test_texts(nursery: trio.Nursery) -> None:
    """All texts of the name; a long one is made of several parts."""
    texts = ["dnsaddr=/ip4/192.0.2.1/tcp/1", "x" * 500]
    server = NameServer({f"{NAME}.": texts})
    address = await nursery.start(server.run)
    assert sorted(await txt_records(NAME, [address])) == texts
    assert server.asked == ["udp"]


async def test_a_long_answer_comes_over_tcp(nursery: trio.Nursery) -> None:
    """What does not fit in one packet is asked for again, and comes whole."""
    texts = [f"{number} {'x' * 180}" for number in range(100)]
    server = NameServer({f"{NAME}.": texts})
    address = await nursery.start(server.run)
    assert sorted(await txt_records(NAME, [address])) == sorted(texts)
    assert server.asked == ["udp", "tcp"]


async def test_no_such_name(nursery: trio.Nursery) -> None:
    """It is said at once, and no other server is asked. A name without texts is there, and has none."""
    first, second = NameServer({"empty.": []}), NameServer({})
    addresses = [await nursery.start(each.run) for each in (first, second)]
    with pytest.raises(DialError, match="does not resolve"):
        await txt_records(NAME, addresses)
    assert await txt_records("empty", addresses) == []
    assert (first.asked, second.asked) == (["udp", "udp"], [])


async def test_the_next_server(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails, is not there or loses the question is passed over; after the last one the first has a turn."""
    monkeypatch.setattr(limits, "DNS_TRY", 0.2)
    monkeypatch.setattr(limits, "DIAL_TIMEOUT", PATIENCE)
    failing = await nursery.start(NameServer({}, rcode=dns.rcode.SERVFAIL).run)
    with socket.socket(type=socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nobody: Server = closed.getsockname()
    forgetful = NameServer({f"{NAME}.": ["a text"]}, lost=1)
    address = await nursery.start(forgetful.run)
    assert await txt_records(NAME, [failing, nobody, address]) == ["a text"]
    assert forgetful.asked == ["udp", "udp"]


async def test_no_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is an error, in the time of a dial. So it is where there is no server, or no name."""
    monkeypatch.setattr(limits, "DNS_TRY", 0.05)
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(DialError, match="does not resolve"):
            await txt_records(NAME, [silent.getsockname()])
    with pytest.raises(DialError, match="does not resolve"):
        await txt_records(NAME, [])
    with pytest.raises(DialError, match="is not a name"):
        await txt_records("a..b", [])


async def test_only_the_answer_counts(nursery: trio.Nursery) -> None:
    """Nonsense, an answer to another question, and a question are passed over."""
    other = dns.message.make_response(dns.message.make_query("another.example", "TXT")).to_wire()
    query = dns.message.make_query(NAME, "TXT").to_wire()
    server = NameServer({f"{NAME}.": ["the text"]}, garbage=[b"", b"x", bytes(12), other, query])
    address = await nursery.start(server.run)
    assert await txt_records(NAME, [address]) == ["the text"]


def test_name_servers_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As resolv.conf names them, and nothing else that is in it."""
    file = tmp_path / "resolv.conf"
    file.write_text("# nameserver 192.0.2.9\nsearch lab\nnameserver 192.0.2.1\nnameserver\n nameserver fe80::1%eth0 \n")
    monkeypatch.setattr(dns_txt, "_RESOLV_CONF", str(file))
    assert name_servers() == [("192.0.2.1", 53), ("fe80::1%eth0", 53)]


def test_no_heavy_package_is_imported() -> None:
    """The question is asked without asyncio, QUIC or HTTP."""
    code = """
import sys, trio
from kachery_p2p.errors import DialError
from kachery_p2p.transport.dns_txt import txt_records
try:
    trio.run(txt_records, "_dnsaddr.example.org", [])
except DialError:
    pass
assert "dns.message" in sys.modules
print(sorted({"asyncio", "aioquic", "httpx", "httpcore", "OpenSSL", "dns.resolver"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
