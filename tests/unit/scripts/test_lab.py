"""The lab itself: what the tests of networks rely on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from scripts.lab import Host, Lab, unavailable
from tests.helpers.patience import PATIENCE

SERVER = """
import socket
with socket.socket() as server:
    server.bind(("0.0.0.0", 4001))
    server.listen()
    print("up", flush=True)
    while True:
        client, address = server.accept()
        client.sendall(f"{address[0]} {address[1]}".encode())
        client.close()
"""
DIAL = """
import socket, sys
with socket.socket() as client:
    client.settimeout(float(sys.argv[2]))
    client.bind(("", 5555))
    try:
        client.connect((sys.argv[1], 4001))
        answer = b""
        while piece := client.recv(100):  # to the end: the side that closes first keeps the port for a minute
            answer += piece
        print(answer.decode())
    except OSError:
        print("unreachable")
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    if reason := unavailable():
        pytest.skip(f"no lab here: {reason}")
    with Lab() as made:
        yield made


def serve(host: Host, lab: Lab) -> None:
    with host.entered():
        process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lab.end_with(process)
    assert process.stdout.readline() == "up\n"


def dial(host: Host, address: str, seconds: float = PATIENCE) -> str:
    """From where the server there sees the host; "unreachable" when it does not get there in time."""
    return host.run(sys.executable, "-c", DIAL, address, str(seconds)).strip()


@pytest.mark.parametrize("nat", ["port-preserving", "symmetric"])
def test_a_nat_translates_and_lets_nothing_in(lab: Lab, nat: str) -> None:
    """From behind a NAT the outside is reached, under the router's address; from outside nothing gets in."""
    internet, home = lab.network("11.0.0.0/24"), lab.network("192.168.7.0/24")
    router = lab.router("nat", inside=home, outside=internet, nat=nat)
    inner, outer = lab.host("inner", home), lab.host("outer", internet)
    serve(outer, lab)
    serve(inner, lab)
    seen, port = dial(inner, outer.address).split()
    assert seen == router.addresses[1]
    assert (port == "5555") == (nat == "port-preserving")
    assert dial(outer, inner.address, 1) == "unreachable"
    assert dial(outer, router.addresses[1], 1) == "unreachable"


def test_machines_of_one_network_reach_each_other_and_nobody_else(lab: Lab) -> None:
    """A switch connects its hosts; two switches are two worlds, and neither has a way to this machine's network."""
    one, other = lab.network("10.1.0.0/24"), lab.network("10.1.0.0/24")
    alice, bob, carol = lab.host("alice", one), lab.host("bob", one), lab.host("carol", other)
    serve(bob, lab)
    assert dial(alice, bob.address) == f"{alice.address} 5555"
    assert dial(carol, bob.address, 1) == "unreachable"
    assert "default" not in alice.run("ip", "route")
    bob.link(up=False)
    assert dial(alice, bob.address, 1) == "unreachable"
