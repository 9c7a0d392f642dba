"""A path that dies without a word, as under a laptop that wakes in another network. Real nodes over loopback."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from kachery_p2p.node.messages import LoadRequest
from tests.helpers.clocks import PatientClock
from tests.helpers.patience import PATIENCE
from tests.unit.load.test_swarm import MIB, _start

#: Seconds for which a load waits for others, unless it is told otherwise.
TIMEOUT = 60.0


class Line:
    """Carries connections to a port; the first one only for so many bytes, and then nothing, either way."""

    def __init__(self, port: int, least: int) -> None:
        self._port = port
        self._least = least
        self.connections = 0
        #: The first one carries nothing more.
        self.dead = trio.Event()

    async def carry(self, near: trio.SocketStream) -> None:
        self.connections += 1
        dies = self.connections == 1
        far = await trio.open_tcp_stream("127.0.0.1", self._port)
        dead = self.dead if dies else trio.Event()
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, near, far, dead, False)
            nursery.start_soon(self._pump, far, near, dead, dies)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, dead: trio.Event, dies: bool) -> None:
        carried = 0
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some():
                if dead.is_set():
                    await trio.sleep_forever()
                await sink.send_all(data)
                carried += len(data)
                if dies and carried >= self._least:
                    dead.set()
                    await trio.sleep_forever()
            await sink.send_eof()


async def test_a_connection_that_dies_without_a_word_is_replaced_in_time(
    tmp_path: Path, patient_clock: PatientClock
) -> None:
    """Neither side hears that the path is gone. The loader finds out and dials its only source again, before it would
    have given up; what had come is not fetched twice."""
    size = 24 * MIB
    data = os.urandom(size)
    (tmp_path / "input").write_bytes(data)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            source, loader = await _start(nursery, tmp_path / "source"), await _start(nursery, tmp_path / "loader")
            cid = source.repo.store_file(tmp_path / "input").cid
            port = source.host.addresses()[0].split("/")[4]
            line = Line(int(port), 8 * MIB)
            (listener,) = await nursery.start(partial(trio.serve_tcp, line.carry, 0, host="127.0.0.1"))
            here = listener.socket.getsockname()[1]
            begun = trio.current_time()
            result = await loader.load(
                LoadRequest(cid, providers=(f"/ip4/127.0.0.1/tcp/{here}/p2p/{source.host.peer_id}",), timeout=TIMEOUT)
            )
            assert trio.current_time() - begun < TIMEOUT
        assert line.connections == 2
        assert Path(result.path or "").read_bytes() == data
        got = loader.exchange.stats().total
        assert got.duplicate_blocks == 0
        assert got.blocks_received == size // MIB + 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who", ["loader", "source"])
async def test_leaving_does_not_wait_for_a_silent_peer(tmp_path: Path, patient_clock: PatientClock, who: str) -> None:
    """Ctrl-C is pressed where the other side says nothing more, or takes nothing more. Then a node in the middle of a
    load ends within a second, whichever side it is."""
    (tmp_path / "input").write_bytes(os.urandom(24 * MIB))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as leaving:
                of_source, of_loader = (leaving, nursery) if who == "source" else (nursery, leaving)
                source = await _start(of_source, tmp_path / "source")
                loader = await _start(of_loader, tmp_path / "loader")
                cid = source.repo.store_file(tmp_path / "input").cid
                line = Line(int(source.host.addresses()[0].split("/")[4]), 8 * MIB)
                (listener,) = await nursery.start(partial(trio.serve_tcp, line.carry, 0, host="127.0.0.1"))
                addr = f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}/p2p/{source.host.peer_id}"
                of_loader.start_soon(loader.load, LoadRequest(cid, providers=(addr,), timeout=TIMEOUT))
                await line.dead.wait()
                begun = trio.current_time()
                leaving.cancel_scope.cancel()
            assert trio.current_time() - begun < 1.0
        nursery.cancel_scope.cancel()
