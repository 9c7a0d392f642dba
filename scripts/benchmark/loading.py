"""Rows that load a file or folder, from peers, over ssh and over HTTP; and those that read some of a file.

All peers run and are connected before the clock starts, except where it is said otherwise. Everything loaded is
compared with the original afterwards.
"""

from __future__ import annotations

import http.client
import random
import time

from scripts.benchmark.row import hash_pass, sync
from scripts.benchmark.stage import Source, Stage
from scripts.benchmark.storing import by_kubo
from scripts.benchmark.usage import Meter, Sample, Usage, run_measured

READ_BYTES = 4096
_READS = 30
_CHUNK = 1 << 20


def own_load(stage: Stage, source: Source, name: str, *, before: bool = False) -> Sample:
    """Our `load_file` or `load_dir`; `before`: of the other checkout."""
    with stage.fresh_folder() as folder, stage.new_own(folder, before=before) as own:
        own.load(source.hello, source.addr)
        reader, server = Meter(own.pid), Meter(source.pid)
        dest = folder / "copy" if stage.dataset.is_folder else None
        path, seconds = own.load(source.cid, source.addr, dest=dest)
        sample = Sample(seconds, {"own": reader.read(), f"from {name}": server.read()})
        stage.dataset.check(path)
        return sample


def kubo_load(stage: Stage, source: Source, name: str, command: str) -> Sample:
    """`ipfs pin add` or `ipfs get`."""
    with stage.fresh_folder() as folder, stage.new_kubo(folder) as peer:
        peer.connect(source.addr)
        server = Meter(source.pid)
        copy = folder / "copy"
        pins = command == "pin"
        sample = by_kubo(peer, lambda: peer.pin(source.cid) if pins else peer.get(source.cid, copy), folder)
        sample = Sample(sample.seconds, {**sample.sides, f"from {name}": server.read()})
        if pins:
            peer.get(source.cid, copy)
        stage.dataset.check(copy)
        return sample


def helia_load(stage: Stage, source: Source, name: str) -> Sample:
    """Helia's `get`."""
    with stage.fresh_folder() as folder, stage.new_helia(folder) as helia:
        helia.connect(source.addr)
        reader, server = Meter(helia.pid), Meter(source.pid)
        seconds = helia.get(source.cid, folder / "copy")
        sample = Sample(seconds, {"helia": reader.read(), f"from {name}": server.read()})
        stage.dataset.check(folder / "copy")
        return sample


def ssh_copy(stage: Stage, tool: str) -> Sample:
    """`scp` or `rsync -a` over ssh; the connection is made with the clock running, as their users do."""
    server = stage.ssh()
    with stage.fresh_folder() as folder:
        copy = folder / "copy"
        fetch = (server.scp if tool == "scp" else server.rsync)(stage.dataset.path, copy)
        meter = Meter(server.pid)
        sample = run_measured(tool, fetch, sync(copy))
        server.settle()
        # The memory is that of the process that listens, not of the one that sends.
        sample = Sample(sample.seconds, {**sample.sides, "sshd": Usage(meter.read().cpu, None)})
        stage.dataset.check(copy)
        return sample


def gateway_load(stage: Stage) -> Sample:
    """Our `load_file` or `load_dir` from our gateway, each block checked."""
    source = stage.gateway()
    with stage.fresh_folder() as folder, stage.new_own(folder, gateway=source.addr) as own:
        own.load(source.hello)
        reader, server = Meter(own.pid), Meter(source.pid)
        dest = folder / "copy" if stage.dataset.is_folder else None
        path, seconds = own.load(source.cid, dest=dest)
        sample = Sample(seconds, {"own": reader.read(), "gateway": server.read()})
        stage.dataset.check(path)
        return sample


def gateway_curl(stage: Stage) -> Sample:
    """`curl` from our gateway."""
    source = stage.gateway()
    return _curl(stage, f"{source.addr}/ipfs/{source.cid}", source.pid, "gateway")


def nginx_curl(stage: Stage) -> Sample:
    """`curl` from nginx."""
    server = stage.nginx()
    return _curl(stage, f"{server.url}/{stage.dataset.path.name}", server.pid, "nginx")


def _curl(stage: Stage, url: str, pid: int, name: str) -> Sample:
    """curl, sync, and the hash pass that makes sure of what our client has made sure of."""
    with stage.fresh_folder() as folder:
        copy = folder / "copy"
        server = Meter(pid)
        sample = run_measured("curl", ["curl", "-sSf", "-o", str(copy), url], sync(copy), hash_pass(copy))
        sample = Sample(sample.seconds, {**sample.sides, name: server.read()})
        stage.dataset.check(copy)
        return sample


# --- some of a file, and the first byte -------------------------------------------------------------------------------


def own_read(stage: Stage) -> Sample:
    """Our `load_bytes`, each of another leaf of which nothing is here; the root and its links are."""
    source = stage.own()
    with stage.fresh_folder() as folder, stage.new_own(folder) as own:
        first, *ranges = _ranges(stage)
        own.read(source.cid, source.addr, [first])
        reader, server = Meter(own.pid), Meter(source.pid)
        seconds = own.read(source.cid, source.addr, ranges)
        sides = {"own": reader.read(), "from own": server.read()}
        return Sample(seconds, sides, _each(stage, seconds, len(ranges)))


def nginx_read(stage: Stage) -> Sample:
    """Requests for the same ranges, over one connection, by Python's HTTP client."""
    server = stage.nginx()
    with stage.fresh_folder():
        first, *ranges = _ranges(stage)
        connection = http.client.HTTPConnection(server.address, server.port, timeout=60)
        try:
            _request(connection, stage, first)
            meter, used = Meter(server.pid), time.process_time()
            began = time.monotonic()
            for each in ranges:
                _request(connection, stage, each)
            seconds = time.monotonic() - began
        finally:
            connection.close()
        sides = {"client": Usage(time.process_time() - used, None), "nginx": meter.read()}
        return Sample(seconds, sides, _each(stage, seconds, len(ranges)))


def _request(connection: http.client.HTTPConnection, stage: Stage, wanted: tuple[int, int]) -> None:
    start, end = wanted
    connection.request("GET", f"/{stage.dataset.path.name}", headers={"Range": f"bytes={start}-{end - 1}"})
    answer = connection.getresponse()
    assert len(answer.read()) == end - start
    assert answer.status == http.client.PARTIAL_CONTENT


def _ranges(stage: Stage) -> list[tuple[int, int]]:
    """Ranges in leaves of their own, the same ones each time; all but the first are measured."""
    dice = random.Random(5)
    chunks = stage.dataset.bytes // _CHUNK
    starts = [chunk * _CHUNK + dice.randrange(_CHUNK - READ_BYTES) for chunk in dice.sample(range(chunks), chunks)]
    return [(start, start + READ_BYTES) for start in starts[: _READS + 1]]


def own_first(stage: Stage) -> Sample:
    """A file of some bytes, by a running node, from a peer of which it has the address and that it never dialled."""
    source = stage.own()
    with stage.fresh_folder() as folder, stage.new_own(folder) as own:
        reader, server = Meter(own.pid), Meter(source.pid)
        _, seconds = own.load(source.hello, source.addr)
        sides = {"own": reader.read(), "from own": server.read()}
        return Sample(seconds, sides, _each(stage, seconds, 1))


def nginx_first(stage: Stage) -> Sample:
    """The first request of a connection: dialled, asked and answered."""
    server = stage.nginx()
    with stage.fresh_folder():
        meter, used = Meter(server.pid), time.process_time()
        began = time.monotonic()
        connection = http.client.HTTPConnection(server.address, server.port, timeout=60)
        try:
            _request(connection, stage, (0, stage.dataset.bytes))
        finally:
            connection.close()
        seconds = time.monotonic() - began
        sides = {"client": Usage(time.process_time() - used, None), "nginx": meter.read()}
        return Sample(seconds, sides, _each(stage, seconds, 1))


def _each(stage: Stage, seconds: float, count: int) -> dict[str, float]:
    """Milliseconds of each of `count`, and round trips where there is a long line."""
    figures = {"ms each": 1000 * seconds / count}
    if stage.around.round_trip:
        figures["round trips each"] = seconds / count / stage.around.round_trip
    return figures
