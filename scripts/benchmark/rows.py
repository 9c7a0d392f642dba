"""The rows of the benchmark, in the order in which they are measured and printed."""

from __future__ import annotations

from scripts.benchmark import kubo, loading, nginx, ssh, starting, storing, swarm
from scripts.benchmark.dataset import FILE, FOLDER, START, SWARM, VALUES
from scripts.benchmark.row import (
    GATEWAY,
    LOAD,
    NOT_SYNCED,
    NOTHING,
    READ,
    STARTING,
    STORE,
    SWARM_LOAD,
    SYNCED,
    Row,
)
from scripts.peers import missing as peers_missing

_DATA = (FILE, FOLDER)


def _no_peers(far: bool) -> str | None:
    del far
    return peers_missing()


def _no_nginx(far: bool) -> str | None:
    del far
    return nginx.missing()


ROWS: tuple[Row, ...] = (
    Row(
        "store", STORE, "store (a copy in the data directory)", SYNCED, _DATA,
        lambda s: storing.own_store(s, link=False), far=False,
    ),
    Row(
        "store-before", STORE, "store, the other checkout", SYNCED, _DATA,
        lambda s: storing.own_store(s, link=False, before=True), far=False, before=True,
    ),
    Row("link", STORE, "link (no copy)", NOTHING, _DATA, lambda s: storing.own_store(s, link=True), far=False),
    Row("kubo-add", STORE, "Kubo add, then sync", SYNCED, _DATA, storing.kubo_add, kubo.missing, far=False),
    Row(
        "store-again", STORE, "store again, unchanged", SYNCED, _DATA,
        lambda s: storing.own_store(s, link=False, again=True), far=False,
    ),
    Row(
        "link-again", STORE, "link again, unchanged", NOTHING, _DATA,
        lambda s: storing.own_store(s, link=True, again=True), far=False,
    ),
    Row(
        "kubo-add-again", STORE, "Kubo add again, unchanged, then sync", SYNCED, _DATA,
        lambda s: storing.kubo_add(s, again=True), kubo.missing, far=False,
    ),
    Row("helia-add", STORE, "Helia add", NOT_SYNCED, _DATA, storing.helia_add, _no_peers, far=False),
    Row("cp", STORE, "cp, then a sha256 pass", SYNCED, _DATA, storing.cp_and_hash, far=False),
    Row("store-json", STORE, "store_json, one thread", SYNCED, (VALUES,), storing.store_json, far=False),
    Row(
        "store-json-threads", STORE, "store_json, 8 threads", SYNCED, (VALUES,),
        lambda s: storing.store_json(s, threads=8), far=False,
    ),
    Row(
        "store-json-processes", STORE, "store_json, 4 processes", SYNCED, (VALUES,),
        lambda s: storing.store_json(s, processes=4), far=False,
    ),
    Row(
        "load-own", LOAD, "load from our own node", SYNCED, _DATA, lambda s: loading.own_load(s, s.own(), "own"),
    ),
    Row(
        "load-before", LOAD, "the other checkout from itself", SYNCED, _DATA,
        lambda s: loading.own_load(s, s.own(before=True), "before", before=True), before=True,
    ),
    Row(
        "load-kubo", LOAD, "load from Kubo", SYNCED, _DATA, lambda s: loading.own_load(s, s.kubo(), "kubo"),
        kubo.missing,
    ),
    Row(
        "load-helia", LOAD, "load from Helia", SYNCED, _DATA, lambda s: loading.own_load(s, s.helia(), "helia"),
        _no_peers, far=False,
    ),
    Row(
        "kubo-pin-own", LOAD, "Kubo pin from our own node, then sync", SYNCED, _DATA,
        lambda s: loading.kubo_load(s, s.own(), "own", "pin"), kubo.missing,
    ),
    Row(
        "helia-get-own", LOAD, "Helia get from our own node", NOT_SYNCED, _DATA,
        lambda s: loading.helia_load(s, s.own(), "own"), _no_peers, far=False,
    ),
    Row(
        "kubo-pin-kubo", LOAD, "Kubo pin from Kubo, then sync", SYNCED, _DATA,
        lambda s: loading.kubo_load(s, s.kubo(), "kubo", "pin"), kubo.missing,
    ),
    Row(
        "kubo-get-kubo", LOAD, "Kubo get from Kubo, then sync", SYNCED, _DATA,
        lambda s: loading.kubo_load(s, s.kubo(), "kubo", "get"), kubo.missing, far=False,
    ),
    Row("scp", LOAD, "scp", SYNCED, _DATA, lambda s: loading.ssh_copy(s, "scp"), lambda _: ssh.missing("scp")),
    Row(
        "rsync", LOAD, "rsync -a over ssh", SYNCED, _DATA, lambda s: loading.ssh_copy(s, "rsync"),
        lambda _: ssh.missing("rsync"),
    ),
    Row("gateway-own", GATEWAY, "our gateway client from our gateway", SYNCED, _DATA, loading.gateway_load),
    Row(
        "gateway-curl", GATEWAY, "curl from our gateway, then sha256", SYNCED, (FILE,), loading.gateway_curl, _no_nginx,
    ),
    Row("nginx-curl", GATEWAY, "curl from nginx, then sha256", SYNCED, (FILE,), loading.nginx_curl, _no_nginx),
    Row("read-own", READ, "load_bytes from our own node", NOTHING, (FILE,), loading.own_read),
    Row("read-nginx", READ, "ranges from nginx, one connection", NOTHING, (FILE,), loading.nginx_read, _no_nginx),
    Row("swarm-1", SWARM_LOAD, "one loader", SYNCED, (SWARM,), lambda s: swarm.own_swarm(s, 1)),
    Row("swarm-8", SWARM_LOAD, "eight loaders at once", SYNCED, (SWARM,), lambda s: swarm.own_swarm(s, 8)),
    Row("help", STARTING, "kachery-cloud-load --help", NOTHING, (START,), starting.help_text, far=False),
    Row(
        "start", STARTING, "kachery-cloud-load, no node runs", SYNCED, (START,),
        lambda s: starting.load(s, node=False), far=False,
    ),
    Row(
        "start-node", STARTING, "kachery-cloud-load, a node runs", SYNCED, (START,),
        lambda s: starting.load(s, node=True), far=False,
    ),
    Row("first-own", STARTING, "load_file in a running node", SYNCED, (START,), loading.own_first),
    Row("first-nginx", STARTING, "a new connection to nginx", NOTHING, (START,), loading.nginx_first, _no_nginx),
)  # fmt: skip

#: What the ratios of each group are taken against.
REFERENCES = {
    STORE: ("kubo-add", "cp"),
    LOAD: ("kubo-pin-kubo", "rsync"),
    GATEWAY: ("nginx-curl",),
    READ: ("read-nginx",),
    SWARM_LOAD: ("swarm-1",),
    STARTING: ("first-nginx",),
}

TITLES = {
    STORE: "Store",
    LOAD: "Load",
    GATEWAY: "Over HTTP",
    READ: "30 reads of 4 KiB at random",
    SWARM_LOAD: "Swarm",
    STARTING: "From nothing to a file",
}
