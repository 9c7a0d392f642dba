"""A node that asks for a free port gets the one it had the last time."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kachery_p2p.node.ports import Ports
from kachery_p2p.routing.database import Database

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture
def db() -> Iterator[Database]:
    """A database in memory."""
    database = Database(None)
    yield database
    database.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_the_port_of_the_last_time_is_taken_again(db: Database) -> None:
    """What was remembered for a multiaddr takes the place of its port 0; chosen ports stay as they are."""
    ports = Ports(db)
    port = free_port()
    wanted = [LOOPBACK, "/ip6/::1/tcp/0", "/ip4/127.0.0.1/tcp/4001"]
    first = ports.recall(wanted)
    assert first == {text: text for text in wanted}
    ports.remember(first, {LOOPBACK: port, "/ip4/127.0.0.1/tcp/4001": 4001})
    again = {f"/ip4/127.0.0.1/tcp/{port}": LOOPBACK, **{text: text for text in wanted[1:]}}
    assert ports.recall(wanted) == again
    ports.remember(again, {f"/ip4/127.0.0.1/tcp/{port}": port})
    assert ports.recall(wanted) == again


def test_a_port_that_others_have_is_let_go(db: Database) -> None:
    """When something else listens on the remembered port, a free one is asked for."""
    ports = Ports(db)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        ports.remember({LOOPBACK: LOOPBACK}, {LOOPBACK: sock.getsockname()[1]})
        assert ports.recall([LOOPBACK]) == {LOOPBACK: LOOPBACK}
