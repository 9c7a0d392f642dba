"""The rows of the benchmark: each does one thing once, with a fresh data directory, and says what it took.

All peers run and are connected before the clock starts. Everything loaded is compared with the original afterwards.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark import kubo, nginx, ssh
from scripts.benchmark.own import Own
from scripts.benchmark.stage import Source, Stage
from scripts.benchmark.usage import ChildrenMeter, Meter, Sample, run_measured
from scripts.peers import missing as peers_missing

STORE = "store"
LOAD = "load"
GATEWAY = "gateway"

_HASH_PASS = """
import hashlib, os, sys
def each(path):
    if os.path.isdir(path):
        for name in sorted(os.listdir(path)): yield from each(os.path.join(path, name))
    else: yield path
for path in each(sys.argv[1]):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20): digest.update(piece)
"""


def _always() -> str | None:
    return None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `durable` says what is safe on the disk when the clock stops; `unavailable` why the row cannot be measured here;
    `small_only` and `big_only` are for rows that make sense with many small files, or one big one, only.
    """

    key: str
    group: str
    title: str
    durable: str
    run: Callable[[Stage], Sample]
    unavailable: Callable[[], str | None] = _always
    small_only: bool = False
    big_only: bool = False


# --- store --------------------------------------------------------------------------------------------------


def _own_store(stage: Stage, *, link: bool) -> Sample:
    with stage.fresh_folder() as folder, Own(folder) as own:
        meter = Meter(own.pid)
        _, seconds = own.store(stage.dataset.path, link=link)
        return Sample(seconds, {"own": meter.read()})


def _own_store_json(stage: Stage) -> Sample:
    with stage.fresh_folder() as folder, Own(folder) as own:
        meter = Meter(own.pid)
        seconds = own.store_json(stage.dataset.files)
        return Sample(seconds, {"own": meter.read()})


def _kubo_add(stage: Stage) -> Sample:
    with stage.fresh_folder() as folder, stage.new_kubo(folder) as peer:
        return _by_kubo(peer, lambda: peer.add(stage.dataset.path), folder)


def _by_kubo(peer: kubo.AnyKubo, work: Callable[[], object], folder: Path) -> Sample:
    """Have Kubo do something, and bring it to the disk.

    It keeps blocks that the system has not written yet. Its own command line is part of its side.
    """
    daemon, commands = Meter(peer.pid), ChildrenMeter()
    began = time.monotonic()
    work()
    subprocess.run(_sync(folder), check=True)
    seconds = time.monotonic() - began
    return Sample(seconds, {"kubo": daemon.read().plus(commands.read())})


def _helia_add(stage: Stage) -> Sample:
    with stage.fresh_folder() as folder, stage.new_helia(folder) as helia:
        meter = Meter(helia.pid)
        command = "add_dir" if stage.dataset.is_folder else "add"
        result = helia.call(command, path=str(stage.dataset.path), profile="unixfs-v1-2025")
        return Sample(result["seconds"], {"helia": meter.read()})


def _cp_and_hash(stage: Stage) -> Sample:
    with stage.fresh_folder() as folder:
        source, copy = stage.dataset.path, folder / "copy"
        hash_pass = [sys.executable, "-S", "-c", _HASH_PASS, str(source)]
        return run_measured("cp", ["cp", "-r", str(source), str(copy)], _sync(copy), hash_pass)


# --- load ---------------------------------------------------------------------------------------------------


def _own_load(stage: Stage, source: Source, name: str) -> Sample:
    with stage.fresh_folder() as folder, Own(folder) as own:
        own.load(source.hello, source.addr)
        reader, server = Meter(own.pid), Meter(source.pid)
        dest = folder / "copy" if stage.dataset.is_folder else None
        path, seconds = own.load(source.cid, source.addr, dest=dest)
        sample = Sample(seconds, {"own": reader.read(), f"from {name}": server.read()})
        stage.dataset.check(path)
        return sample


def _kubo_load(stage: Stage, source: Source, name: str, command: str) -> Sample:
    with stage.fresh_folder() as folder, stage.new_kubo(folder) as peer:
        peer.connect(source.addr)
        server = Meter(source.pid)
        copy = folder / "copy"
        pins = command == "pin"
        sample = _by_kubo(peer, lambda: peer.pin(source.cid) if pins else peer.get(source.cid, copy), folder)
        sample = Sample(sample.seconds, {**sample.sides, f"from {name}": server.read()})
        if pins:
            peer.get(source.cid, copy)
        stage.dataset.check(copy)
        return sample


def _helia_load(stage: Stage, source: Source, name: str) -> Sample:
    with stage.fresh_folder() as folder, stage.new_helia(folder) as helia:
        helia.connect(source.addr)
        reader, server = Meter(helia.pid), Meter(source.pid)
        seconds = helia.get(source.cid, folder / "copy")
        sample = Sample(seconds, {"helia": reader.read(), f"from {name}": server.read()})
        stage.dataset.check(folder / "copy")
        return sample


def _ssh_copy(stage: Stage, tool: str) -> Sample:
    server = stage.ssh()
    with stage.fresh_folder() as folder:
        copy = folder / "copy"
        fetch = (server.scp if tool == "scp" else server.rsync)(stage.dataset.path, copy)
        sample = run_measured(tool, fetch, _sync(copy))
        stage.dataset.check(copy)
        return sample


def _gateway_load(stage: Stage) -> Sample:
    source = stage.gateway()
    with stage.fresh_folder() as folder, Own(folder, gateway=source.addr) as own:
        own.load(source.hello)
        reader, server = Meter(own.pid), Meter(source.pid)
        dest = folder / "copy" if stage.dataset.is_folder else None
        path, seconds = own.load(source.cid, dest=dest)
        sample = Sample(seconds, {"own": reader.read(), "gateway": server.read()})
        stage.dataset.check(path)
        return sample


def _curl(stage: Stage, url: str, pid: int | None) -> Sample:
    """curl, sync, and the hash pass that makes sure of what our client has made sure of."""
    with stage.fresh_folder() as folder:
        copy = folder / "copy"
        server = None if pid is None else Meter(pid)
        hash_pass = [sys.executable, "-S", "-c", _HASH_PASS, str(copy)]
        sample = run_measured("curl", ["curl", "-sSf", "-o", str(copy), url], _sync(copy), hash_pass)
        stage.dataset.check(copy)
        return sample if server is None else Sample(sample.seconds, {**sample.sides, "gateway": server.read()})


def _gateway_curl(stage: Stage) -> Sample:
    source = stage.gateway()
    return _curl(stage, f"{source.addr}/ipfs/{source.cid}", source.pid)


def _nginx_curl(stage: Stage) -> Sample:
    return _curl(stage, f"{stage.nginx().url}/{stage.dataset.path.name}", None)


def _sync(path: Path) -> list[str]:
    """The command that brings a file, or the file system of a folder, to the disk."""
    return ["sync", "-f", str(path)] if sys.platform == "linux" else ["sync"]


# --- the table ----------------------------------------------------------------------------------------------

_SYNCED = "synced"
_NOT_SYNCED = "not synced"

ROWS: tuple[Row, ...] = (
    Row("store", STORE, "store (a copy in the data directory)", _SYNCED, lambda s: _own_store(s, link=False)),
    Row("link", STORE, "link (no copy)", "nothing to sync", lambda s: _own_store(s, link=True)),
    Row("store-json", STORE, "store_json, one after the other", _SYNCED, _own_store_json, small_only=True),
    Row("kubo-add", STORE, "Kubo add, then sync", _SYNCED, _kubo_add, kubo.missing),
    Row("helia-add", STORE, "Helia add", _NOT_SYNCED, _helia_add, peers_missing),
    Row("cp", STORE, "cp, then a sha256 pass", _SYNCED, _cp_and_hash),
    Row("load-own", LOAD, "load from our own node", _SYNCED, lambda s: _own_load(s, s.own(), "own")),
    Row("load-kubo", LOAD, "load from Kubo", _SYNCED, lambda s: _own_load(s, s.kubo(), "kubo"), kubo.missing),
    Row("load-helia", LOAD, "load from Helia", _SYNCED, lambda s: _own_load(s, s.helia(), "helia"), peers_missing),
    Row(
        "kubo-pin-own", LOAD, "Kubo pin from our own node, then sync", _SYNCED,
        lambda s: _kubo_load(s, s.own(), "own", "pin"), kubo.missing,
    ),
    Row(
        "helia-get-own", LOAD, "Helia get from our own node", _NOT_SYNCED,
        lambda s: _helia_load(s, s.own(), "own"), peers_missing,
    ),
    Row(
        "kubo-pin-kubo", LOAD, "Kubo pin from Kubo, then sync", _SYNCED,
        lambda s: _kubo_load(s, s.kubo(), "kubo", "pin"), kubo.missing,
    ),
    Row(
        "kubo-get-kubo", LOAD, "Kubo get from Kubo, then sync", _SYNCED,
        lambda s: _kubo_load(s, s.kubo(), "kubo", "get"), kubo.missing,
    ),
    Row("scp", LOAD, "scp", _SYNCED, lambda s: _ssh_copy(s, "scp"), lambda: ssh.missing("scp")),
    Row("rsync", LOAD, "rsync over ssh", _SYNCED, lambda s: _ssh_copy(s, "rsync"), lambda: ssh.missing("rsync")),
    Row("gateway-own", GATEWAY, "our gateway client from our gateway", _SYNCED, _gateway_load),
    Row(
        "gateway-curl", GATEWAY, "curl from our gateway, then sha256", _SYNCED, _gateway_curl, nginx.missing,
        big_only=True,
    ),
    Row(
        "nginx-curl", GATEWAY, "curl from nginx, then sha256", _SYNCED, _nginx_curl, nginx.missing, big_only=True,
    ),
)  # fmt: skip

#: What the ratios of each group are taken against.
REFERENCES = {STORE: ("kubo-add", "cp"), LOAD: ("kubo-pin-kubo", "scp"), GATEWAY: ("nginx-curl",)}
