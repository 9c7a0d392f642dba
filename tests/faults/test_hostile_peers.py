"""Hostile peers against whole nodes: the node lives, its memory stays bounded, and the next honest peer is served.

The attacked server is a real `kachery-cloud-node` process; the attackers are bare libp2p hosts and bare sockets. The
rooms have tests of their own with finer attacks; these show that the parts hold together.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.bitswap.messages import WantlistEntry, WantType, decode, encode
from kachery_p2p.bitswap.reader import ByteBudget, MessageReader
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.pb import PBLink, encode_node
from kachery_p2p.dag.unixfs import DataType, UnixFSData
from kachery_p2p.dag.unixfs import encode as encode_unixfs
from kachery_p2p.errors import ContentNotFound, MalformedDag, StreamError
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.node.node import Node
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.stream import Stream
from kachery_p2p.wire import encode_varint
from scripts.workstation import LISTEN, Workstation
from tests.conftest import StartWorkstation
from tests.helpers.patience import PATIENCE

BITSWAP = "/ipfs/bitswap/1.2.0"
MIB = 1 << 20
#: What an attack may cost the node at its worst moment, above what it has at rest.
ROOM = 100 * MIB


def memory(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} of process {pid}")


async def started_host(nursery: trio.Nursery) -> Host:
    host = Host(os.urandom(32), [LISTEN])
    await nursery.start(host.run)
    return host


async def started_node(nursery: trio.Nursery, folder: Path) -> Node:
    node = Node(Repo.open(folder), load_or_create_identity(folder), listen=[LISTEN])
    await nursery.start(node.run)
    return node


# --- against a node that serves --------------------------------------------------------------------------------------


async def too_long_a_message(host: Host, victim: Workstation) -> None:
    stream = await host.open_stream(victim.peer_id, [BITSWAP])
    await stream.write(encode_varint(4 * MIB + 1))
    try:
        for _ in range(4):
            await stream.write(bytes(MIB))
        await stream.write(b"\0")
    except StreamError:
        pass  # cut off before we were done: as it should be
    await stream.reset()


async def truncated_messages(host: Host, victim: Workstation) -> None:
    for _ in range(3):
        stream = await host.open_stream(victim.peer_id, [BITSWAP])
        await stream.write(encode_varint(MIB) + bytes(1000))
        await stream.close()


async def a_hundred_thousand_wants(host: Host, victim: Workstation) -> None:
    entries = [
        WantlistEntry(CID(1, RAW, sha256_multihash(i.to_bytes(8, "big"))), 1, False, WantType.BLOCK, True)
        for i in range(100_000)
    ]
    stream = await host.open_stream(victim.peer_id, [BITSWAP])
    for first in range(0, len(entries), 10_000):
        try:
            for part in encode(protocol=BITSWAP, entries=entries[first : first + 10_000]):
                await stream.write(bytes(part))
        except StreamError:
            return


async def not_utf8(host: Host, victim: Workstation) -> None:
    port = int(victim.addr.split("/")[4])
    for line in (b"\x0c\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6\xf5\n", b"\xff" * 100, os.urandom(5000)):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"\x13/multistream/1.0.0\n" + line)
            with trio.move_on_after(1):
                try:
                    while await stream.receive_some(4096):
                        pass
                except trio.BrokenResourceError:
                    pass


async def silence(host: Host, victim: Workstation) -> None:
    port = int(victim.addr.split("/")[4])
    streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(50)]
    for _ in range(50):
        await host.open_stream(victim.peer_id, [BITSWAP])
    for stream in streams:
        await stream.aclose()


async def three_hundred_connections(host: Host, victim: Workstation) -> None:
    for _ in range(300):
        await host.connect(victim.addr, fresh=True)
        await host.disconnect(victim.peer_id)
    await host.connect(victim.addr)


async def blocks_that_nobody_wants(host: Host, victim: Workstation) -> None:
    data = os.urandom(MIB)
    for _ in range(8):
        try:
            stream = await host.open_stream(victim.peer_id, [BITSWAP])
            for part in encode(protocol=BITSWAP, blocks=[(CID(1, RAW, sha256_multihash(b"something else")), data)] * 3):
                await stream.write(bytes(part))
        except StreamError:
            return  # thrown out


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize(
    "attack",
    [
        too_long_a_message,
        truncated_messages,
        a_hundred_thousand_wants,
        not_utf8,
        silence,
        three_hundred_connections,
        blocks_that_nobody_wants,
    ],
)
async def test_the_node_lives_and_serves_the_next_peer(
    attack: Callable[[Host, Workstation], Awaitable[None]],
    workstation: StartWorkstation,
    tmp_path: Path,
    nursery: trio.Nursery,
) -> None:
    """After each attack the same process is there, took no more than a bounded amount of memory, and serves others."""
    victim = workstation().start()
    source = tmp_path / "file"
    source.write_bytes(os.urandom(2 * MIB + 1))
    uri = victim.run("kachery-cloud-store", source).stdout.strip()
    before = memory(victim.node.pid, "VmRSS")
    attacker = await started_host(nursery)
    with trio.fail_after(PATIENCE):
        await attacker.connect(victim.addr)
        await attack(attacker, victim)
        honest = await started_node(nursery, tmp_path / "honest")
        loaded = await honest.load(LoadRequest(CID.parse(uri.removeprefix("ipfs://")), providers=(victim.addr,)))
    assert Path(loaded.path or "").read_bytes() == source.read_bytes()
    assert victim.node.poll() is None
    assert memory(victim.node.pid, "VmHWM") - before < ROOM


# --- against a node that loads ---------------------------------------------------------------------------------------


class WrongBytes:
    """A provider that answers every want at once, with bytes that are not what was asked for."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.answered = 0
        host.set_handler(BITSWAP, self.serve)

    async def serve(self, stream: Stream) -> None:
        reader = MessageReader(stream, (ByteBudget(8 * MIB),), lambda size: None)
        while (body := await reader.next()) is not None:
            wants = [entry for entry in decode(body).entries if not entry.cancel]
            reader.done()
            if wants:
                reply = await self.host.open_stream(stream.peer, [BITSWAP])
                self.answered += len(wants)
                await reply.write_parts(
                    encode(protocol=BITSWAP, blocks=[(entry.cid, os.urandom(1000)) for entry in wants])
                )
                await reply.close()


async def test_a_provider_of_wrong_bytes_is_dropped(tmp_path: Path, nursery: trio.Nursery) -> None:
    """With a liar and an honest provider the load succeeds, nothing of the liar is kept, and it is not asked on."""
    data = os.urandom(20 * MIB)
    (tmp_path / "file").write_bytes(data)
    honest = await started_node(nursery, tmp_path / "honest")
    cid = honest.repo.store_file(tmp_path / "file").cid
    liar_host = await started_host(nursery)
    liar = WrongBytes(liar_host)
    loader = await started_node(nursery, tmp_path / "loader")
    await loader.connect(liar_host.addresses()[0])
    with trio.fail_after(PATIENCE):
        loaded = await loader.load(LoadRequest(cid, providers=(honest.host.addresses()[0],)))
    assert Path(loaded.path or "").read_bytes() == data
    assert set(loaded.sources) == {honest.host.peer_id}
    assert liar_host.peer_id not in loader.host.connected()
    assert liar.answered < 21


async def test_only_a_liar(tmp_path: Path, nursery: trio.Nursery) -> None:
    """With nobody but a liar the load ends with an error soon, and no file."""
    liar_host = await started_host(nursery)
    WrongBytes(liar_host)
    loader = await started_node(nursery, tmp_path / "loader")
    cid = CID(1, RAW, sha256_multihash(b"what is wanted"))
    with trio.fail_after(PATIENCE), pytest.raises(ContentNotFound, match=str(cid)):
        await loader.load(LoadRequest(cid, providers=(liar_host.addresses()[0],), timeout=10 * PATIENCE))
    assert loader.repo.find_file(cid) is None


class Blocks:
    """A store of blocks made by hand."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}

    def add(self, codec: int, block: bytes) -> CID:
        cid = CID(1, codec, sha256_multihash(block))
        self.blocks[cid.multihash] = block
        return cid

    def has_block(self, multihash: bytes) -> int | None:
        block = self.blocks.get(multihash)
        return None if block is None else len(block)

    def get_block(self, multihash: bytes) -> bytes | None:
        return self.blocks.get(multihash)


@pytest.mark.parametrize("claimed", [0, 5, 7, 1 << 40, (1 << 63) - 1])
async def test_a_dag_whose_sizes_lie(claimed: int, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Blocks with right hashes that claim a wrong length are an error that names the CID, never a wrong file."""
    store = Blocks()
    leaf = store.add(RAW, b"sixsix")
    node = UnixFSData(DataType.FILE, filesize=claimed, blocksizes=(claimed,))
    root = store.add(DAG_PB, encode_node([PBLink("", leaf, 6)], encode_unixfs(node)))
    hostile = await started_host(nursery)
    exchange = Exchange(hostile, store)
    await nursery.start(exchange.run)
    loader = await started_node(nursery, tmp_path / "loader")
    with trio.fail_after(PATIENCE), pytest.raises(Exception) as raised:
        await loader.load(LoadRequest(root, providers=(hostile.addresses()[0],)))
    if claimed < 1 << 60:
        assert str(root) in str(raised.value) or str(leaf) in str(raised.value)
    assert isinstance(raised.value, MalformedDag) or "disk" in str(raised.value)
    assert loader.repo.find_file(root) is None
    assert not list((tmp_path / "loader" / "ipfs").rglob("*afy*"))
