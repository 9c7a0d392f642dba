"""Rows that store: a file, a folder, small values."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from scripts.benchmark.kubo import AnyKubo
from scripts.benchmark.own import Own
from scripts.benchmark.row import hash_pass, sync
from scripts.benchmark.stage import Stage
from scripts.benchmark.usage import ChildrenMeter, Meter, Sample, Usage, run_measured
from scripts.workstation import Workstation


def own_store(stage: Stage, *, link: bool, again: bool = False, before: bool = False) -> Sample:
    """Our `store_file` or `store_dir`, or the same as links; `again` measures the second time.

    With `before` it is that of the other checkout.
    """
    with stage.fresh_folder() as folder, stage.new_own(folder, before=before) as own:
        if again:
            own.store(stage.dataset.path, link=link)
        meter = Meter(own.pid)
        _, seconds = own.store(stage.dataset.path, link=link)
        return Sample(seconds, {"own": meter.read()})


def store_json(stage: Stage, *, threads: int = 1, processes: int = 1) -> Sample:
    """Our `store_json`, in some threads or processes, beside a node in a process of its own."""
    share = stage.dataset.files // processes
    with stage.fresh_folder() as folder, ExitStack() as stack:
        node = stack.enter_context(Workstation(folder)).start()
        own = [stack.enter_context(Own(folder)) for _ in range(processes)]
        meters, node_meter = [Meter(each.pid) for each in own], Meter(node.node.pid)
        began = time.monotonic()
        for future in [each.store_json(number * share, share, threads) for number, each in enumerate(own)]:
            future.result()
        seconds = time.monotonic() - began
        ours = Usage(0.0, None)
        for meter in meters:
            ours = ours.plus(meter.read())
        sides = {"own": ours, "node": node_meter.read()}
        return Sample(seconds, sides, {"values/s": share * processes / seconds})


def kubo_add(stage: Stage, *, again: bool = False) -> Sample:
    """`ipfs add`, and what it leaves in the page cache brought to the disk; `again` measures the second time."""
    with stage.fresh_folder() as folder, stage.new_kubo(folder) as peer:
        if again:
            by_kubo(peer, lambda: peer.add(stage.dataset.path), folder)
        return by_kubo(peer, lambda: peer.add(stage.dataset.path), folder)


def by_kubo(peer: AnyKubo, work: Callable[[], object], folder: Path) -> Sample:
    """Have Kubo do something, and bring it to the disk.

    It keeps blocks that the system has not written yet. Its own command line is part of its side.
    """
    daemon, commands = Meter(peer.pid), ChildrenMeter()
    began = time.monotonic()
    work()
    subprocess.run(sync(folder), check=True)
    seconds = time.monotonic() - began
    return Sample(seconds, {"kubo": daemon.read().plus(commands.read())})


def helia_add(stage: Stage) -> Sample:
    """Helia's `add`."""
    with stage.fresh_folder() as folder, stage.new_helia(folder) as helia:
        meter = Meter(helia.pid)
        command = "add_dir" if stage.dataset.is_folder else "add"
        result = helia.call(command, path=str(stage.dataset.path), profile="unixfs-v1-2025")
        return Sample(result["seconds"], {"helia": meter.read()})


def cp_and_hash(stage: Stage) -> Sample:
    """`cp`, and the hash pass that it saves itself."""
    with stage.fresh_folder() as folder:
        source, copy = stage.dataset.path, folder / "copy"
        return run_measured("cp", ["cp", "-r", str(source), str(copy)], sync(copy), hash_pass(source))
