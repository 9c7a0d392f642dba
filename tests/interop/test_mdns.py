"""Finding each other on real networks of several machines, with Kubo and Helia: multicast packets over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dns.message
import pytest

from scripts.lab import Host, Lab, unavailable
from scripts.peers import Helia, Kubo, PeerError
from tests.helpers.patience import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
START = Callable[..., "Station"]


class Station:
    """A process of `mdns_node` on a machine of the lab, and what it said."""

    def __init__(self, machine: Host, *listen: str) -> None:
        with machine.entered():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.interop.mdns_node", *listen],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self.said: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.peer: str = self.wait_for("ready")["peer"]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self.said.append(json.loads(line))
                self._more.notify_all()

    def wait_for(self, event: str, *, since: int = 0, **fields: object) -> dict[str, Any]:
        """The first thing of that kind that it said, or says soon."""

        def fitting() -> dict[str, Any] | None:
            for each in self.said[since:]:
                if each["event"] == event and all(each[key] == value for key, value in fields.items()):
                    return each
            return None

        with self._more:
            assert self._more.wait_for(fitting, PATIENCE), f"no {event} {fields} in {self.said}"
            found = fitting()
        assert found is not None
        return found

    def ask(self, cmd: str, reply: str, **args: object) -> dict[str, Any]:
        """Ask it for something."""
        since = len(self.said)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"cmd": cmd, **args}) + "\n")
        self._process.stdin.flush()
        return self.wait_for(reply, since=since)

    def status(self) -> dict[str, Any]:
        """What `Mdns.status` gives."""
        return self.ask("status", "status")

    def leave(self) -> None:
        """Leave in order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE) == 0

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what could not be written to one that has gone
                    continue


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Machines and networks, where this machine can make them."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    with Lab() as lab:
        yield lab


@pytest.fixture
def start() -> Iterator[START]:
    """Starts stations that live for one test."""
    with ExitStack() as stack:

        def begin(machine: Host, *listen: str) -> Station:
            station = Station(machine, *listen)
            stack.callback(station.kill)
            return station

        yield begin


def with_route(machine: Host) -> Host:
    """Every machine at home has a way out; without one, Helia cannot send multicast at all."""
    machine.run("ip", "route", "replace", "default", "dev", "eth0")
    return machine


# --- among ourselves -------------------------------------------------------------------------------------------------


def test_two_machines(lab: Lab, start: START) -> None:
    """Two machines on one network find each other, can be dialled where they say, and part with a goodbye."""
    net = lab.network("10.81.0.0/24", "fd81::/64")
    anna = start(lab.host("anna", net), "/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001")
    ben = start(lab.host("ben", net))
    assert anna.wait_for("found")["addrs"] == ["/ip4/10.81.0.2/tcp/4001"]
    found = ben.wait_for("found", peer=anna.peer)
    assert set(found["addrs"]) == {"/ip4/10.81.0.1/tcp/4001", "/ip6/fd81::1/tcp/4001"}
    assert ben.ask("connect", "dialled", addrs=[f"{each}/p2p/{anna.peer}" for each in found["addrs"]])["error"] is None
    status = anna.status()
    assert status["state"] == "Looking for peers on eth0."
    assert [each["peer"] for each in status["peers"]] == [ben.peer]
    assert not any(status["not_believed"].values())
    assert status["packets"]["malformed"] == status["packets"]["other"] == 0
    ben.leave()
    anna.wait_for("gone", peer=ben.peer)


def test_one_machine(lab: Lab, start: START) -> None:
    """Two nodes on one machine share the port, and find each other and a third one on another machine."""
    net = lab.network("10.82.0.0/24")
    machine = lab.host("anna", net)
    stations = [start(machine, f"/ip4/0.0.0.0/tcp/{port}") for port in (4001, 4002)]
    stations.append(start(lab.host("ben", net)))
    for each in stations:
        for other in stations:
            if each is not other:
                each.wait_for("found", peer=other.peer)
    assert stations[0].wait_for("found", peer=stations[1].peer)["addrs"] == ["/ip4/10.82.0.1/tcp/4002"]


def test_ipv6_only(lab: Lab, start: START) -> None:
    """A network without IPv4 works the same."""
    net = lab.network("10.83.0.0/24", "fd83::/64")
    machines = [lab.host(name, net) for name in ("anna", "ben")]
    for machine in machines:
        machine.run("ip", "-4", "addr", "flush", "dev", "eth0")
    wait_until(lambda: all("tentative" not in each.run("ip", "-6", "addr", "show", "dev", "eth0") for each in machines))
    anna, ben = (start(machine, "/ip6/::/tcp/4001") for machine in machines)
    assert anna.wait_for("found", peer=ben.peer)["addrs"] == ["/ip6/fd83::2/tcp/4001"]
    ben.wait_for("found", peer=anna.peer)


def test_several_interfaces(lab: Lab, start: START) -> None:
    """A machine in two networks announces in each the address that it has there; one that it leaves and comes back to
    is noticed."""
    nets = [lab.network("10.84.0.0/24"), lab.network("10.85.0.0/24")]
    middle_machine = lab.host("middle", *nets)
    middle = start(middle_machine)
    left, right = (start(lab.host(name, net)) for name, net in zip(("left", "right"), nets, strict=True))
    assert left.wait_for("found")["addrs"] == ["/ip4/10.84.0.1/tcp/4001"]
    assert right.wait_for("found")["addrs"] == ["/ip4/10.85.0.1/tcp/4001"]
    for each in (left, right):
        middle.wait_for("found", peer=each.peer)
    middle_machine.link(False, 1)
    middle.wait_for("gone", peer=right.peer)
    assert [each["name"] for each in middle.status()["interfaces"]] == ["eth0"]
    since = len(middle.said)
    middle_machine.link(True, 1)
    # It takes the system a moment to see the carrier.
    wait_until(lambda: len(middle.status()["interfaces"]) == 2)
    middle.wait_for("found", since=since, peer=right.peer)


def test_loopback_only(lab: Lab, start: START) -> None:
    """A node that listens on loopback opens no port, and is not found."""
    net = lab.network("10.86.0.0/24")
    machine = lab.host("anna", net)
    anna = start(machine, "/ip4/127.0.0.1/tcp/4001")
    start(lab.host("ben", net))
    assert "this machine only" in anna.status()["state"]
    assert ":14E9" not in machine.run("cat", "/proc/net/udp", "/proc/net/udp6"), "port 5353 is open"


def test_port_in_use(lab: Lab, start: START) -> None:
    """Where another program holds port 5353 for itself the status says so; when it lets go, all works."""
    net = lab.network("10.87.0.0/24")
    machine = lab.host("anna", net)
    with machine.entered():
        taken = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
    taken[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for each in taken:
        each.bind(("", 5353))
    anna, ben = start(machine), start(lab.host("ben", net))
    status = anna.status()
    assert "held by a program that does not share it" in status["state"]
    assert len(status["interfaces"][0]["problems"]) == 2
    for each in taken:
        each.close()
    anna.wait_for("found", peer=ben.peer)
    assert anna.status()["interfaces"][0]["problems"] == []


def test_plain_resolver(lab: Lab, start: START) -> None:
    """A DNS client that knows nothing of multicast (`dig @224.0.0.251 -p 5353`) is answered."""
    net = lab.network("10.88.0.0/24")
    anna = start(lab.host("anna", net))
    client = with_route(lab.host("client", net))
    query = dns.message.make_query("_p2p._udp.local.", "PTR")
    with client.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # As such clients do, it asks again: a datagram may get lost on its way, where a network has just been made.
        sock.settimeout(PATIENCE / 60)
        for _ in range(60):
            sock.sendto(query.to_wire(), ("224.0.0.251", 5353))
            with contextlib.suppress(TimeoutError):
                data, sender = sock.recvfrom(9000)
                break
        else:
            pytest.fail("nobody answered")
    assert sender == ("10.88.0.1", 5353)
    reply = dns.message.from_wire(data)
    assert query.is_response(reply)
    assert f"dnsaddr=/ip4/10.88.0.1/tcp/4001/p2p/{anna.peer}".encode() in data


# --- with others -----------------------------------------------------------------------------------------------------


def kubo_peers(kubo: Kubo) -> str:
    """Kubo's connections, as text."""
    return " ".join(kubo.call("peers")["peers"])


@pytest.mark.parametrize("first", ["kubo", "we"])
def test_kubo(lab: Lab, start: START, start_kubo: Callable[..., Kubo], first: str) -> None:
    """Kubo finds us and connects, and we find it, whoever was there first."""
    net = lab.network("10.89.0.0/24", "fd89::/64")
    ours, theirs = lab.host("ours", net), lab.host("kubo", net)
    listen = ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001")
    station = start(ours, *listen) if first == "we" else None
    with theirs.entered():
        kubo = start_kubo(host="0.0.0.0", mdns=True)
    station = station or start(ours, *listen)
    found = station.wait_for("found", peer=kubo.peer_id)
    assert [each.rpartition("/")[0] for each in found["addrs"]] == ["/ip4/10.89.0.2/tcp"]
    station.wait_for("connected", peer=kubo.peer_id)
    wait_until(lambda: station.peer in kubo_peers(kubo))
    assert station.ask("connect", "dialled", addrs=found["addrs"])["error"] is None


@pytest.mark.parametrize("first", ["helia", "we"])
def test_helia(lab: Lab, start: START, start_helia: Callable[..., Helia], first: str) -> None:
    """We find Helia, and Helia finds us, whoever was there first: told nothing but our peer ID it can dial us."""
    net = lab.network("10.90.0.0/24")
    ours, theirs = lab.host("ours", net), with_route(lab.host("helia", net))
    station = start(ours) if first == "we" else None
    with theirs.entered():
        helia = start_helia(host="0.0.0.0", mdns=True, in_memory=True)
    station = station or start(ours)
    found = station.wait_for("found", peer=helia.peer_id)
    assert [each.rpartition("/")[0] for each in found["addrs"]] == ["/ip4/10.90.0.2/tcp"]

    def connects() -> bool:
        try:
            helia.connect(f"/p2p/{station.peer}", timeout=5)
        except PeerError:
            return False
        return True

    wait_until(connects)
    station.wait_for("connected", peer=helia.peer_id)


def test_all_on_one_machine(
    lab: Lab, start: START, start_kubo: Callable[..., Kubo], start_helia: Callable[..., Helia]
) -> None:
    """Kubo, Helia and we share port 5353 of one machine; each is found from another machine, and by us."""
    net = lab.network("10.91.0.0/24")
    machine = with_route(lab.host("shared", net))
    with machine.entered():
        kubo = start_kubo(host="0.0.0.0", mdns=True)
        helia = start_helia(host="0.0.0.0", mdns=True, in_memory=True)
    near, far = start(machine), start(with_route(lab.host("far", net)))
    for station, other in ((near, far), (far, near)):
        for peer in (kubo.peer_id, helia.peer_id, other.peer):
            station.wait_for("found", peer=peer)
    wait_until(lambda: near.peer in kubo_peers(kubo) and far.peer in kubo_peers(kubo))
