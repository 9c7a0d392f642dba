"""Port mapping with routers that forward for real, each in network namespaces of its own."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest
import trio

from kachery_p2p.transport.nat import natpmp, portmap
from kachery_p2p.transport.nat.home_router import HomeRouter, parse_proc_route
from kachery_p2p.transport.nat.natpmp import Granted
from scripts.lab import Host, Lab, unavailable
from tests.helpers.patience import PATIENCE, until

ROOT = Path(__file__).resolve().parents[4]

#: A workstation that keeps a port mapped, and answers on it. It tells of each change, and stops when its input ends.
MAPPER = """
import json, sys
import trio
from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.limits import NatLimits
from kachery_p2p.transport.nat.portmap import PortMapper

listen, lifetime, port = sys.argv[1], int(sys.argv[2]), 4001
bounds = NatLimits(ssdp_wait_ms=150, min_renewal=0.5, map_lifetime=lifetime or limits.DEFAULTS.map_lifetime)

def tell():
    print(json.dumps({"external": mapper.external and mapper.external.text, "state": mapper.state}), flush=True)

mapper = PortMapper(lambda: [f"/ip4/{listen}/tcp/{port}"], tell, bounds=bounds)

async def answer(stream):
    await stream.send_all(b"it is me")
    await stream.aclose()

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_tcp, answer, port)
        nursery.start_soon(mapper.run)
        nursery.start_soon(until_input_ends, nursery.cancel_scope)
        last = ""
        while True:
            if mapper.state != last:
                last = mapper.state
                tell()
            await trio.sleep(0.05)

async def until_input_ends(scope):
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
    scope.cancel()

trio.run(main)
print(json.dumps({"external": None, "state": mapper.state}), flush=True)
"""
DIAL = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as client:
        print(client.recv(100).decode())
except OSError:
    print("unreachable")
"""
#: Sends a router a question of either kind, and says from which port.
ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    question = b"\\0\\0" if sys.argv[2] == "5351" else b"M-SEARCH urn:schemas-upnp-org:device:InternetGatewayDevice:1"
    sock.sendto(question, (sys.argv[1], int(sys.argv[2])))
    print(sock.getsockname()[1])
"""


class Process:
    """A process on a machine of the lab that prints lines of JSON."""

    def __init__(self, lab: Lab, host: Host, *args: str) -> None:
        with host.entered():
            self.process = subprocess.Popen(
                [sys.executable, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
        lab.end_with(self.process)
        self._lines: Queue[dict[str, Any]] = Queue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def until(self, fits: Callable[[dict[str, Any]], object], seconds: float = PATIENCE) -> dict[str, Any]:
        """The next line that fits."""
        end = time.monotonic() + seconds
        seen = []
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            except Empty:
                raise AssertionError(f"no such line among {seen}") from None
            if fits(line):
                return line
            seen.append(line)

    def rest(self) -> list[dict[str, Any]]:
        """What it has said meanwhile."""
        return [self._lines.get() for _ in range(self._lines.qsize())]

    def end(self) -> None:
        """Ask it to stop, and wait."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None  # whoever cleans up need not close it again
        self.process.wait(PATIENCE)


class Home:
    """A workstation behind a router that drops what comes from outside, and somebody outside."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        internet, home = lab.network("11.0.0.0/24"), lab.network("192.168.7.0/24")
        self.router = lab.router("router", inside=home, outside=internet)
        self.lan, self.wan = self.router.addresses
        self.alice = lab.host("alice", home)
        self.outside = lab.host("outside", internet)

    def service(self, kind: str, wan: str = "") -> Process:
        process = Process(self.lab, self.router, "-m", "tests.helpers.nat_gateway", kind, self.lan, wan or self.wan)
        process.until(lambda line: line["event"] == "up")
        return process

    def mapper(self, listen: str = "", lifetime: int = 0) -> Process:
        return Process(self.lab, self.alice, "-c", MAPPER, listen or self.alice.address, str(lifetime))

    def dial(self, port: int, seconds: float = PATIENCE) -> str:
        """What somebody outside reads at a port of the router; "unreachable" when he does not get there in time."""
        return self.outside.run(sys.executable, "-c", DIAL, self.wan, str(port), str(seconds)).strip()


@pytest.fixture
def home() -> Iterator[Home]:
    if reason := unavailable():
        pytest.skip(f"no lab here: {reason}")
    with Lab() as lab:
        yield Home(lab)


@pytest.mark.parametrize("kind", ["natpmp", "upnp", "upnp-permanent"])
def test_mapped_and_given_back(home: Home, kind: str) -> None:
    """The router forwards a port, which works from outside; when the node stops it works no more."""
    router = home.service(kind)
    alice = home.mapper()
    mapped = alice.until(lambda line: line["external"])
    # The router of NAT-PMP gives another port than the one wished for; that of UPnP says that 4001 is taken.
    assert mapped["external"] == f"/ip4/{home.wan}/tcp/4002"
    assert ("NAT-PMP" if kind == "natpmp" else "UPnP") in mapped["state"]
    assert home.dial(4002) == "it is me"
    assert home.dial(4001, 0.4) == "unreachable"
    alice.end()
    assert alice.until(lambda line: line["state"] == "stopped")
    assert router.until(lambda line: line["event"] == "unmapped")["port"] == 4002
    assert home.dial(4002, 0.4) == "unreachable"


def test_renewed_at_half_life(home: Home) -> None:
    """Before a mapping ends it is asked for again, and the external port stays."""
    router = home.service("natpmp")
    alice = home.mapper(lifetime=2)
    alice.until(lambda line: line["external"])
    assert router.until(lambda line: line["event"] == "mapped") == {"event": "mapped", "port": 4002, "lifetime": 2}
    for _ in range(2):
        assert router.until(lambda line: line["event"] == "mapped")["port"] == 4002
    assert not [line for line in alice.rest() if line["external"] != f"/ip4/{home.wan}/tcp/4002"]


def test_nothing_is_sent_on_loopback_only(home: Home) -> None:
    """A node that listens on loopback only asks no router, although there is one."""
    routers = [home.service("natpmp"), home.service("upnp")]
    alice = home.mapper("127.0.0.1")
    assert "not needed" in alice.until(lambda line: line["state"] != "not started")["state"]
    alice.end()
    alice.until(lambda line: line["state"] == "stopped")
    # What anyone in the home sends now comes behind what the node has sent.
    alone = {int(home.alice.run(sys.executable, "-c", ASK, home.lan, port)) for port in ("5351", "1900")}
    assert {router.until(lambda line: True)["by"] for router in routers} == alone


def test_refused_and_no_router(home: Home) -> None:
    """A router that says no, or has neither service, is told of in plain words, and nothing is announced."""
    home.service("natpmp-refuses")
    alice = home.mapper()
    line = alice.until(lambda line: line["state"] != "not started")
    assert line["external"] is None
    assert "does not allow port mappings" in line["state"]
    assert "No UPnP device answered" in line["state"]


def test_a_second_nat_behind(home: Home) -> None:
    """When the router has a private address itself its mapping is of no use, and the status says so."""
    home.service("natpmp", "100.64.0.9")
    line = home.mapper().until(lambda line: line["state"] != "not started")
    assert line["external"] is None
    assert "another NAT" in line["state"]


# --- without a network ---------------------------------------------------------------------------------------------


async def test_bridges_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router is asked again when our address towards it changes, and not when containers start and stop."""
    asked: list[str] = []

    class Router(portmap._NatPmp):
        async def external_address(self) -> str:
            await trio.lowlevel.checkpoint()
            return "11.9.9.9"

        async def map_port(self, internal: int, external: int) -> Granted:
            await trio.lowlevel.checkpoint()
            asked.append(self._gateway)
            return Granted(external, 7200)

        async def unmap_port(self, internal: int, external: int) -> None:
            await trio.lowlevel.checkpoint()
            asked.append("given back")

    gateway = HomeRouter("192.168.1.1", "192.168.1.5")
    listening = ["/ip4/192.168.1.5/tcp/4001"]
    looked = 0

    def default_gateway() -> HomeRouter:
        nonlocal looked
        looked += 1
        return gateway

    monkeypatch.setattr(portmap, "_NatPmp", Router)
    monkeypatch.setattr(portmap, "default_gateway", default_gateway)
    mapper = portmap.PortMapper(lambda: listening, lambda: None)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapper.run)
            await until(lambda: mapper.external)
            for number in range(5):
                listening.append(f"/ip4/172.17.{number}.1/tcp/4001")
                before = looked
                mapper.network_changed()
                await until(lambda before=before: looked > before)
            assert asked == ["192.168.1.1"]
            gateway = HomeRouter("10.0.0.1", "10.0.0.7")
            listening[:] = ["/ip4/10.0.0.7/tcp/4001"]
            mapper.network_changed()
            await until(lambda: len(asked) == 2)
            nursery.cancel_scope.cancel()
    assert asked == ["192.168.1.1", "10.0.0.1", "given back"]


# --- formats ---------------------------------------------------------------------------------------------------------


def test_natpmp_bytes() -> None:
    """Requests and answers are those of RFC 6886, section 3.3."""
    assert natpmp.map_request(4001, 5001, 7200) == bytes.fromhex("0002 0000 0fa1 1389 00001c20")
    answer = bytes.fromhex("0082 0000 00000007 0fa1 1389 00001c20")
    assert natpmp.parse_answer(answer, 2, 16) == struct.pack("!HHL", 4001, 5001, 7200)
    assert natpmp.parse_answer(answer, 0, 12) is None
    assert natpmp.parse_answer(answer[:12], 2, 16) is None
    assert natpmp.parse_answer(b"", 2, 16) is None
    with pytest.raises(natpmp.MappingError, match="does not allow"):
        natpmp.parse_answer(bytes.fromhex("0082 0002 00000007"), 2, 16)


def test_default_route() -> None:
    """Of several default routes the one with the lowest metric counts; others and broken lines do not."""
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    order = "<" if sys.byteorder == "little" else ">"

    def row(destination: str, gateway: tuple[int, ...], flags: str, metric: int, mask: str = "00000000") -> str:
        raw = f"{struct.unpack(order + 'L', bytes(gateway))[0]:08X}"
        return f"eth0\t{destination}\t{raw}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"

    assert parse_proc_route(head) is None
    table = head + row("00000000", (192, 168, 1, 1), "0003", 600) + row("00000000", (10, 0, 0, 1), "0003", 100)
    assert parse_proc_route(table) == "10.0.0.1"
    assert parse_proc_route(head + row("00000000", (10, 0, 0, 1), "0001", 0)) is None
    assert parse_proc_route(head + row("0000000A", (10, 0, 0, 1), "0003", 0, "000000FF")) is None
    assert parse_proc_route(head + "broken\n") is None
