"""Defects of py-libp2p 0.8.1 that our host must not share, by their numbers in `kachery_p2p/transport/compat.py`.

Most are promises of the host in their own right and are tested there: 1, 3 and 4 in
`test_transport_hostile.py`; 2 and 12 in `unit/transport/test_stream.py`; 6, 7, 9, 10 and 14 in
`unit/transport/test_host.py`; 8 in `unit/transport/test_addresses.py`. Here are those that would not be thought
of otherwise.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from libp2p.crypto.exceptions import MissingDeserializerError
from libp2p.crypto.serialization import deserialize_public_key

from kachery_p2p.errors import DialError, InvalidAddress
from kachery_p2p.peer_ids import peer_id_of_key, peer_text
from kachery_p2p.peer_keys import read_public_key
from kachery_p2p.transport import compat
from kachery_p2p.transport.upgrade import Secured, upgrade
from tests.helpers.dht_ipns import public_key
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import new_host, started


async def test_5_no_transport_goes_around_the_swarm_key(nursery: trio.Nursery) -> None:
    """With a swarm key set there is no other way in or out than TCP under that key."""
    for address in ("/ip4/127.0.0.1/udp/4001/quic-v1", "/ip4/127.0.0.1/tcp/4001/ws"):
        with pytest.raises(InvalidAddress):
            new_host(listen=(address,), swarm_key=os.urandom(32))
        host = await started(nursery, swarm_key=os.urandom(32))
        with pytest.raises(DialError, match="not supported"):
            await host.connect(address)


class Dribble:
    """A `ByteIO` over an in-memory stream that hands out one byte at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.pending = b""

    async def wait_readable(self) -> None:
        if not self.pending:
            self.pending = bytes(await self.stream.receive_some(65536))

    def recv_into(self, buffer: memoryview) -> int:
        if not self.pending:
            raise BlockingIOError
        buffer[0] = self.pending[0]
        self.pending = self.pending[1:]
        return 1

    def send_nowait(self, data: memoryview) -> int:
        return 0

    async def send_all(self, data: memoryview) -> None:
        await self.stream.send_all(bytes(data))

    def shutdown_write(self) -> None: ...

    def close(self) -> None: ...


async def test_11_handshake_in_single_bytes() -> None:
    """A line that delivers one byte at a time is slow, not broken: the handshake messages are longer than 100 reads."""
    left, right = (Dribble(each) for each in trio.testing.memory_stream_pair())
    keys = [compat.Keys.from_seed(os.urandom(32)) for _ in range(2)]
    results: dict[bool, Secured] = {}

    async def side(io: Dribble, initiator: bool) -> None:
        results[initiator] = await upgrade(io, keys[initiator], initiator=initiator)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side, left, True)
            nursery.start_soon(side, right, False)
    assert results[True].peer == keys[False].peer_id
    assert results[False].peer == keys[True].peer_id


async def test_13_no_key_and_no_file_is_written(tmp_path: Path) -> None:
    """A host that runs and connects writes no file anywhere it could."""
    script = """
import os, trio, trio.testing
from kachery_p2p.transport.host import Host
async def main():
    async with trio.open_nursery() as nursery:
        a, b = (Host(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"]) for _ in range(2))
        await nursery.start(a.run)
        await nursery.start(b.run)
        await a.connect(b.addresses()[0])
        await trio.testing.wait_all_tasks_blocked(0.1)
        nursery.cancel_scope.cancel()
trio.run(main)
"""
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    await trio.run_process([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    assert os.listdir(tmp_path) == []


def test_15_keys_of_every_kind_are_known() -> None:
    """py-libp2p refuses a peer with an ECDSA key; a node that it cannot reach for that is no worse than any other."""
    encoded = public_key(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(MissingDeserializerError):
        deserialize_public_key(encoded)
    assert read_public_key(encoded).peer == peer_text(peer_id_of_key(encoded))


def test_14_nothing_is_printed_and_no_level_is_set() -> None:
    """Where nobody set up a log, py-libp2p's warnings go nowhere; levels and handlers are the program's own affair."""
    script = """
import logging
import libp2p
from kachery_p2p.transport import compat
before = [logging.getLogger(name).level for name in ("libp2p", "multiaddr", "noise")]
compat.quieten()
compat.quieten()
assert before == [logging.getLogger(name).level for name in ("libp2p", "multiaddr", "noise")]
for name in ("libp2p", "libp2p.network", "multiaddr", "noise"):
    logging.getLogger(name).error("loud")
heard = []
handler = logging.Handler()
handler.emit = lambda record: heard.append(record.getMessage())
logging.getLogger().addHandler(handler)
logging.getLogger("multiaddr").warning("heard")
assert heard == ["heard"]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
