"""`kachery-cloud-node doctor` on set-ups that are really broken, as real processes: each is named, with what to do."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from scripts.lab import Lab, unavailable
from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.certificates import self_signed
from tests.helpers.pin_clients import add_token, pinning_lab
from tests.helpers.users import ALICE, as_user, needs_root, open_folder, run_command, warm_up

ROOT = Path(__file__).resolve().parents[2]
#: An address of a peer that is nowhere.
NOBODY = "/ip4/127.0.0.1/tcp/{port}/p2p/12D3KooWGRuQ8BGCvVEV9pHV2nR8NbxuSFXJDVT9U4nFXoCBiFzy"


def examine(station: Workstation, *options: str) -> dict[str, Any]:
    """What the doctor says: its outcomes by the names of the checks."""
    done = station.run("kachery-cloud-node", *options, "doctor", "--json", check=False)
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["ok"] else 1), done.stderr
    assert done.stderr == ""
    return {**{each["name"]: each for each in said["checks"]}, "ok": said["ok"]}


def grave(said: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """What is wrong, by the names of the checks."""
    found = {
        name: [each for each in outcome["findings"] if each["grave"]] for name, outcome in said.items() if name != "ok"
    }
    return {name: findings for name, findings in found.items() if findings}


def only(said: Mapping[str, Any], name: str, *words: str) -> dict[str, str]:
    """The one thing that is wrong, which a check has found, with these words in what it says."""
    found = grave(said)
    assert list(found) == [name], found
    assert not said["ok"]
    assert not [each for key, each in said.items() if key != "ok" and each["failed"]], said
    (finding,) = found[name]
    text = " ".join(finding[part] for part in ("what", "why", "todo"))
    assert all(finding[part] for part in ("what", "why", "todo"))
    for word in words:
        assert word in text, text
    return finding


def listing(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of a folder: size, time of change, mode."""
    found: dict[str, tuple[int, int, int]] = {}
    for folder, _, names in os.walk(directory):
        for path in [Path(folder), *(Path(folder, name) for name in names)]:
            status = os.lstat(path)
            found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_mode)
    return found


# --- all is well ------------------------------------------------------------------------------------------------------


def test_all_is_well_and_nothing_changes(workstation: StartWorkstation) -> None:
    """With a node that runs, with none, and before there is anything: exit code 0, and the disk stays as it was."""
    station = workstation()
    assert examine(station)["ok"]
    assert not station.directory.exists()
    station.call("say(kcl.store_text('x' * 50_000, local=True))")
    station.run("kachery-cloud-init")
    for path in station.directory.glob("*.pem"):
        os.chmod(path, 0o600)
    before = listing(station.directory)
    said = examine(station)
    assert said["ok"], grave(said)
    assert listing(station.directory) == before
    station.start()
    said = examine(station)
    assert said["ok"], grave(said)
    assert str(station.node.pid) in said["node"]["well"]
    text = station.run("kachery-cloud", "doctor").stdout
    assert text.startswith("Well: ")
    assert text.rstrip().endswith("Nothing is wrong.")


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_port_is_taken(workstation: StartWorkstation) -> None:
    """By another program, which is named."""
    station = workstation()
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = other.stdout.readline().strip()
        words = [f"Port {port} of 127.0.0.1 is taken"]
        if sys.platform == "linux":
            words += [f"process {other.pid}", f"kill {other.pid}"]
        only(examine(station, "--pinning-service", f"127.0.0.1:{port}"), "ports", *words)
        only(examine(station, "--listen", f"/ip4/127.0.0.1/tcp/{port}"), "ports", "--listen")
        other.kill()
    assert examine(station, "--pinning-service", f"127.0.0.1:{port}")["ok"]


def test_an_address_of_another_machine(workstation: StartWorkstation) -> None:
    """It cannot be listened on."""
    only(examine(workstation(), "--pinning-service", "192.0.2.1:8095"), "ports", "does not have the address")


def test_few_open_files(workstation: StartWorkstation) -> None:
    """A hard limit below what a node needs."""
    station = workstation()
    line = f"ulimit -n 120 && exec {shutil.which('kachery-cloud-node', path=Path(sys.executable).parent)} doctor --json"
    done = subprocess.run(["sh", "-c", line], env=station.env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (finding,) = next(each for each in json.loads(done.stdout)["checks"] if each["name"] == "files")["findings"]
    assert "120 files" in finding["what"]
    assert "LimitNOFILE" in finding["todo"]


@contextmanager
def service(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("off", "words"), [(7200.0, "2 hours slow"), (-86400.0 * 30, "30 days fast")])
def test_the_clock_is_off(workstation: StartWorkstation, off: float, words: str) -> None:
    """By what a service says that it is."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        import time

        request.send_response_only(200)
        request.send_header("Date", formatdate(time.time() + off, usegmt=True))
        body = b'{"count": 0, "results": []}'
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    station = workstation()
    with service(answer) as url:
        station.env["KACHERY_CLOUD_PIN_SERVICES"] = f"lab={url}"
        only(examine(station), "clock", words, "set-ntp")


# --- the data directory -----------------------------------------------------------------------------------------------


def _with_a_small_disk(code: str, folder: Path) -> None:
    """Run some code where it may mount what it likes, and nobody else sees it."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and namespaces of Linux")
    line = ["unshare", "--mount", sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
        pytest.skip("this system allows no mount namespace")
    assert done.returncode == 0, done.stderr


def test_the_disk_is_full(tmp_path: Path) -> None:
    """A small disk of memory, in a mount namespace of its own."""
    code = """
import json, os, subprocess, sys
from pathlib import Path
from scripts.workstation import Workstation
with Workstation(Path(sys.argv[1]) / "one") as station:
    station.directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", str(station.directory)], check=True)
    station.call("say(kcl.store_text('x' * 100_000, local=True))")
    with open(station.directory / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    done = station.run("kachery-cloud-node", "doctor", "--json", check=False)
    said = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    (finding,) = said["disk"]["findings"]
    assert done.returncode == 1 and finding["grave"], said
    assert "is full: 0 of 16 MiB" in finding["what"], finding
    assert "kachery-cloud gc" in finding["todo"], finding
    assert not said["databases"]["findings"] and not said["databases"]["failed"], said
"""
    line = ["unshare", "--mount", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        line, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
        pytest.skip("this system allows no mount namespace")
    assert done.returncode == 0, done.stderr


def _prepared(make: StartWorkstation) -> Workstation:
    station = make()
    station.run("kachery-cloud-init")
    station.call("say(kcl.store_text('x' * 50_000, local=True))")
    return station


def test_the_key_is_damaged(workstation: StartWorkstation) -> None:
    """Cut short, readable by others, or lost."""
    station = _prepared(workstation)
    key = station.directory / "private.pem"
    content = key.read_bytes()
    key.write_bytes(content[: len(content) // 2])
    only(examine(station), "key", "private.pem", "Put back a copy")
    key.write_bytes(content)
    os.chmod(key, 0o644)
    only(examine(station), "key", "Others may read", "chmod 600")
    assert key.stat().st_mode & 0o777 == 0o644
    key.unlink()
    only(examine(station), "key", "public.pem")


@needs_root
def test_the_key_is_of_another_user() -> None:
    """A command that was run as root has left it; the user of the node cannot read it."""
    with open_folder() as top:
        warm_up(top)
        directory = top / "data"
        directory.mkdir(mode=0o700)
        os.chown(directory, ALICE.uid, ALICE.gid)
        assert as_user(ALICE, lambda: run_command(["init"])[0], directory=directory) == 0
        assert as_user(ALICE, lambda: run_command(["doctor", "--json"])[0], directory=directory) == 0
        os.chown(directory / "private.pem", 0, 0)
        code, out, _ = as_user(ALICE, lambda: run_command(["doctor", "--json"]), directory=directory)
        assert code == 1
        said = {each["name"]: each for each in json.loads(out)["checks"]}
        (finding,) = said["key"]["findings"]
        assert "It belongs to root" in finding["todo"]
        assert "sudo chown" in finding["todo"]


def test_the_catalog_is_damaged(workstation: StartWorkstation) -> None:
    """Overwritten in the middle, or no database at all; and one that is gone."""
    station = _prepared(workstation)
    catalog = station.directory / "catalog.sqlite"
    for path in station.directory.glob("catalog.sqlite-*"):
        path.unlink()
    content = catalog.read_bytes()
    catalog.write_bytes(content[:8192] + os.urandom(len(content) - 8192))
    only(examine(station), "databases", "catalog", "kachery-cloud repair")
    catalog.write_bytes(b"no database" * 1000)
    only(examine(station), "databases", "catalog", "kachery-cloud repair")
    catalog.unlink()
    only(examine(station), "databases", "missing", "kachery-cloud repair")
    assert not catalog.exists()


def test_a_newer_format(workstation: StartWorkstation) -> None:
    """A catalog of a version to come."""
    station = _prepared(workstation)
    with closing(sqlite3.connect(station.directory / "catalog.sqlite")) as db:
        db.execute("PRAGMA user_version=99")
        db.commit()
    only(examine(station), "databases", "newer version", "pip install --upgrade")


def test_linked_files_are_gone(workstation: StartWorkstation, tmp_path: Path) -> None:
    """What was linked was moved away."""
    station = _prepared(workstation)
    path = tmp_path / "recording.dat"
    path.write_bytes(os.urandom(10_000))
    station.run("kachery-cloud", "link", path)
    assert examine(station)["ok"]
    path.rename(tmp_path / "elsewhere.dat")
    only(examine(station), "linked", "recording.dat", "kachery-cloud rm")


def test_a_read_only_disk(tmp_path: Path) -> None:
    """The disk of the directory was mounted read-only."""
    code = """
import json, subprocess, sys
from pathlib import Path
from scripts.workstation import Workstation
with Workstation(Path(sys.argv[1]) / "one") as station:
    station.directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m,mode=0700", "tmpfs", str(station.directory)], check=True)
    station.run("kachery-cloud-init")
    subprocess.run(["mount", "-o", "remount,ro", str(station.directory)], check=True)
    done = station.run("kachery-cloud-node", "doctor", "--json", check=False)
    said = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    (finding,) = said["directory"]["findings"]
    assert done.returncode == 1 and "read-only" in finding["what"], said
"""
    line = ["unshare", "--mount", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        line, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
        pytest.skip("this system allows no mount namespace")
    assert done.returncode == 0, done.stderr


# --- the node ---------------------------------------------------------------------------------------------------------


def test_two_nodes_on_one_directory(workstation: StartWorkstation) -> None:
    """A second one does not start, and the doctor says which process is the first; one that hangs is named as that."""
    station = _prepared(workstation).start()
    second = station.run("kachery-cloud-node", check=False)
    assert second.returncode != 0
    said = examine(station)
    assert said["ok"]
    assert f"process {station.node.pid} is the node" in said["node"]["well"]
    os.kill(station.node.pid, signal.SIGSTOP)
    try:
        only(examine(station), "node", str(station.node.pid), "does not answer", "kill")
    finally:
        os.kill(station.node.pid, signal.SIGCONT)


def test_the_node_is_on_another_machine(workstation: StartWorkstation) -> None:
    """The lock is held, and by a machine of another name."""
    station = _prepared(workstation).start()
    lock = station.directory / "node.lock"
    content = json.loads(lock.read_bytes())
    os.truncate(lock, 0)
    with open(lock, "r+b") as file:
        file.write(json.dumps({**content, "name": "basement", "boot": "another", "machine": "another"}).encode())
    only(examine(station), "node", "basement", "KACHERY_CLOUD_SHARED_DIRS")


# --- settings ---------------------------------------------------------------------------------------------------------


def test_keys_that_are_none(workstation: StartWorkstation) -> None:
    """Typos and old names, of keys and of variables, each with what is meant; all of them at once."""
    station = _prepared(workstation)
    path = station.directory / "config.json"
    path.write_text(json.dumps({"gatewyas": [], "zone": "lab", "timeout": "soon", "peers": ["nonsense"]}))
    station.env["KACHERY_CLOUD_TIMOUT"] = "5"
    said = examine(station)
    findings = said["settings"]["findings"]
    text = {each["what"]: each["todo"] for each in findings}
    assert len(text) == 5, text
    assert any("'gatewyas'" in what and "gateways" in todo for what, todo in text.items())
    assert any("'zone'" in what and "group" in todo for what, todo in text.items())
    assert any("timeout" in what and "seconds" in todo for what, todo in text.items())
    assert any("nonsense" in what for what in text)
    assert any("KACHERY_CLOUD_TIMOUT" in what and "timeout" in todo for what, todo in text.items())
    path.write_text('{"timeout": 5,')
    station.env.pop("KACHERY_CLOUD_TIMOUT")
    only(examine(station), "settings", "not JSON", "json.tool")
    path.write_text("{}")
    (station.directory / "node.toml").write_text("storage_limt = '5GB'\n")
    only(examine(station), "settings", "node.toml", "storage_limit")


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab() -> Iterator[Lab]:
    if reason := unavailable():
        pytest.skip(f"these tests need several machines: {reason}")
    with Lab() as made:
        yield made


def test_no_way_out(lab: Lab, tmp_path: Path) -> None:
    """A machine whose network leads nowhere."""
    host = lab.host("alice", lab.network("10.1.0.0/24"))
    with host.entered():
        for family in ("-4", "-6"):
            subprocess.run(["ip", family, "route", "flush", "default"], check=False, capture_output=True)
    env = {"KACHERY_CLOUD_PUBLIC": "on", "KACHERY_CLOUD_GATEWAYS": "none", "KACHERY_CLOUD_DELEGATED": "none"}
    only(examine(host.workstation(tmp_path / "alice", env=env)), "route", "no default route", "ip route")


def test_multicast_is_blocked(lab: Lab, tmp_path: Path) -> None:
    """A firewall on the machine itself lets no multicast DNS in, or none out."""
    host = lab.host("alice", lab.network("10.1.0.0/24"))
    station = host.workstation(tmp_path / "alice", env={"KACHERY_CLOUD_MDNS": "on"})
    assert "multicast works on" in examine(station)["multicast"]["well"]
    for hook in ("input", "output"):
        rules = f"table inet shut {{ chain c {{ type filter hook {hook} priority 0; udp dport 5353 drop; }}; }}"
        with host.entered():
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        (finding,) = examine(station)["multicast"]["findings"]
        assert "5353" in finding["todo"]
        with host.entered():
            subprocess.run(["nft", "delete", "table", "inet", "shut"], check=True)


def test_an_unreachable_relay(workstation: StartWorkstation, free_port: Callable[[], int]) -> None:
    """Nothing listens there; and a node that does is none with the name that was expected."""
    station = _prepared(workstation)
    port = free_port()
    station.env["KACHERY_CLOUD_RELAYS"] = NOBODY.format(port=port)
    only(examine(station), "relays", "connection is refused", "`relays`")
    relay = workstation().start()
    station.env["KACHERY_CLOUD_RELAYS"] = relay.addr
    assert examine(station)["ok"]
    address, _, _ = relay.addr.partition("/p2p/")
    station.env["KACHERY_CLOUD_RELAYS"] = address + "/p2p/" + NOBODY.rpartition("/")[2]
    only(examine(station), "relays", "another one answers there", relay.peer_id)


def test_a_peer_with_another_swarm_key(workstation: StartWorkstation) -> None:
    """Ours and its key differ; we have one and it none; it has one and we none."""
    station, peer = workstation(), workstation()
    for each in (station, peer):
        each.run("kachery-cloud", "keygen-swarm")
    peer.start()
    station.env["KACHERY_CLOUD_PEERS"] = peer.addr
    only(examine(station), "peers", "another swarm key")
    key = station.directory / "swarm.key"
    content = key.read_bytes()
    key.unlink()
    only(examine(station), "peers", "swarm.key")
    peer.stop()
    (peer.directory / "swarm.key").unlink()
    peer.start()
    key.write_bytes(content)
    station.env["KACHERY_CLOUD_PEERS"] = peer.addr
    only(examine(station), "peers", "in no private network")


# --- services ---------------------------------------------------------------------------------------------------------


def test_a_wrong_token(workstation: StartWorkstation, free_port: Callable[[], int]) -> None:
    """For a pinning service, for a gateway, and for a node that is followed."""
    station, theirs = _prepared(workstation), workstation()
    token = add_token(theirs, "alice")
    url = pinning_lab(theirs)
    station.env["KACHERY_CLOUD_PIN_SERVICES"] = f"lab={url}"
    station.env["KACHERY_CLOUD_PIN_TOKEN_LAB"] = "wrong"
    only(examine(station), "services", "refuses the token", "401", "kachery-cloud-pins service add lab")
    station.env["KACHERY_CLOUD_PIN_TOKEN_LAB"] = token
    assert examine(station)["ok"]
    station.env["KACHERY_CLOUD_FOLLOW"] = f"{url}=wrong"
    only(examine(station), "services", "followed node", "--follow")
    del station.env["KACHERY_CLOUD_FOLLOW"]
    theirs.stop()
    only(examine(station), "services", "cannot be reached")


def test_certificates(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Expired, of another name, and not of the key."""
    station = _prepared(workstation)
    good = self_signed(tmp_path)
    options = ("--pinning-service", "127.0.0.1:0", "--tls-cert")
    assert examine(station, *options, str(good))["certificate"]["well"]
    (tmp_path / "old").mkdir()
    old = self_signed(tmp_path / "old", days=(-30, -1))
    only(examine(station, *options, str(old)), "certificate", "expired on", "Renew")
    only(examine(station, "--pinning-service", "127.0.0.2:0", "--tls-cert", str(good)), "certificate", "127.0.0.2")
    lines = old.read_text().split("-----BEGIN CERTIFICATE")[0]
    (tmp_path / "key.pem").write_text(lines)
    only(examine(station, *options, str(good), "--tls-key", str(tmp_path / "key.pem")), "certificate", "belong")


def test_public_services_are_left_alone(workstation: StartWorkstation, tmp_path: Path) -> None:
    """With `public` off, no connection but to this machine is tried: a proxy that is named for all sees nothing."""
    station = _prepared(workstation)
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        proxy.settimeout(0.0)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        station.env.update(HTTPS_PROXY=url, HTTP_PROXY=url, ALL_PROXY=url, KACHERY_CLOUD_PUBLIC="off")
        assert examine(station)["ok"]
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_it_is_read_on_a_terminal(workstation: StartWorkstation) -> None:
    """What works in a line, then each problem with three parts; and how many."""
    station = _prepared(workstation)
    (station.directory / "config.json").write_text('{"gatewyas": []}')
    done = station.run("kachery-cloud-node", "doctor", check=False)
    assert done.returncode == 1
    for words in ("What is wrong:", "  1. Settings:", "Why it matters:", "What to do:", "1 problem."):
        assert words in done.stdout
