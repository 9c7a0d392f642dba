"""Two machines of a lab with a long line between them: real TCP, over real interfaces."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.lab import Host, Lab, LabError, LongLine, congestion_controls, unavailable
from scripts.line import Line

#: Sends back what comes, after all of it has come.
SERVER = """
import socket
with socket.create_server(("0.0.0.0", 4001)) as server:
    print("up", flush=True)
    while True:
        client, address = server.accept()
        with client:
            data = b""
            while piece := client.recv(1 << 20):
                data += piece
            client.sendall(data)
"""
#: Sends so many bytes, prints whether they came back, the seconds to connect, and the congestion control.
CLIENT = """
import random, socket, sys, time
data = random.Random(1).randbytes(int(sys.argv[2]))
began = time.monotonic()
with socket.create_connection((sys.argv[1], 4001)) as client:
    connected = time.monotonic() - began
    control = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode()
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    back = b""
    while piece := client.recv(1 << 20):
        back += piece
print(back == data, connected, time.monotonic() - began, control)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    if reason := unavailable():
        pytest.skip(f"no lab here: {reason}")
    with Lab() as made:
        yield made


def connected(
    lab: Lab, line: Line, *, control: str | None = None, log: Path | None = None
) -> tuple[Host, Host, LongLine]:
    """Two machines with a line between them, and a server on the second."""
    here, there = lab.host("here"), lab.host("there")
    try:
        made = lab.line(here, there, line, control=control, log=log)
    except LabError as error:
        pytest.skip(f"no long lines here: {error}")
    with there.entered():
        process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lab.end_with(process)
    assert process.stdout.readline() == "up\n"
    return here, there, made


def exchange(here: Host, there: Host, size: int) -> tuple[float, float, str]:
    """Send bytes and get them back. Returns the seconds to connect, and in all, and the congestion control."""
    same, seconds, total, control = here.run(sys.executable, "-c", CLIENT, there.address, str(size)).split()
    assert same == "True"
    return float(seconds), float(total), control


def test_a_round_trip_takes_twice_the_delay(lab: Lab, tmp_path: Path) -> None:
    """At least: to connect takes one, to send and get an answer one more. The log has the packets of both sides."""
    here, there, line = connected(lab, Line(delay=0.05), log=tmp_path / "log")
    seconds, total, _ = exchange(here, there, 1000)
    assert seconds >= 0.1
    assert total >= 0.2
    line.counts()
    line.close()
    packets = [each.split() for each in (tmp_path / "log").read_text().splitlines()]
    sent = {side: [each for each in packets if each[1] == side and each[-1] == "1000"] for side in "01"}
    assert float(sent["1"][0][0]) - float(sent["0"][0][0]) >= 0.05
    assert [each[4] for each in packets if "4001" in each[2:4]][:2] == ["S", "SA"]


def test_bytes_arrive_whole_over_a_line_that_loses(lab: Lab) -> None:
    """TCP repeats what was lost. Losses are counted on both ways; the kernel hands over many segments at once."""
    here, there, line = connected(lab, Line(delay=0.001, loss=0.05))
    exchange(here, there, 2_000_000)
    for counts in line.counts():
        assert counts.packets > 1300
        assert counts.bytes > 2_000_000
        assert abs(counts.lost - counts.packets * 0.05) < 5 * (counts.packets * 0.05 * 0.95) ** 0.5


def test_a_narrow_line_takes_its_time_and_drops(lab: Lab) -> None:
    """A megabyte over 20 Mbit/s, to and fro, takes what its bits take at least; a queue that is too short drops, and
    TCP learns from that."""
    here, there, line = connected(lab, Line(delay=0.005, rate=20e6, queue=16_000))
    _, total, _ = exchange(here, there, 1_000_000)
    assert total >= 2 * 8e6 / 20e6
    sent, _ = line.counts()
    assert sent.overflowed > 0


@pytest.mark.parametrize("control", congestion_controls() if sys.platform == "linux" else [])
def test_congestion_is_controlled_as_asked(lab: Lab, control: str) -> None:
    """By each of those that the kernel names, on both sides."""
    here, there, _ = connected(lab, Line(delay=0.001), control=control)
    assert exchange(here, there, 1000)[2] == control
