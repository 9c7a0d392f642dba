"""Rows in which several load one file from one source at the same time, and know of each other."""

from __future__ import annotations

from contextlib import ExitStack

from scripts.benchmark.own import Own
from scripts.benchmark.stage import Stage
from scripts.benchmark.usage import Meter, Sample, Usage


def own_swarm(stage: Stage, loaders: int) -> Sample:
    """So many of our nodes on the reader's machine load it at once; each is told of the source and of the others.

    The time is that of the last one. How many copies left the source is counted by the source.
    """
    source = stage.own()
    assert isinstance(source.peer, Own)
    with stage.fresh_folder() as folder, ExitStack() as stack:
        nodes = [stack.enter_context(stage.new_own(folder / f"loader-{number}")) for number in range(loaders)]
        for node in nodes:
            node.load(source.hello, source.addr)
        sent = source.peer.bytes_sent()
        meters, server = [Meter(node.pid) for node in nodes], Meter(source.pid)
        loads = [
            node.begin_load(source.cid, source.addr, *(other.addrs[0] for other in nodes if other is not node))
            for node in nodes
        ]
        results = [load.result() for load in loads]
        seconds = max(result["seconds"] for result in results)
        readers = Usage(0.0, None)
        for meter in meters:
            readers = readers.plus(meter.read())
        copies = (source.peer.bytes_sent() - sent) / stage.dataset.bytes
        for result in results:
            stage.dataset.check(result["path"])
        sides = {"all loaders": readers, "from own": server.read()}
        return Sample(seconds, sides, {"copies sent by the source": copies})
