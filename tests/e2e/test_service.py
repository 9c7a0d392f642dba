"""`kachery-cloud-node` as a service that runs for months: its settings, its log, its signals, and what it does about a
disk that fills up or rots. The program as it is run, and killed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.certificates import self_signed
from tests.helpers.patience import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and file modes are POSIX")

_LOAD = "say([kcl.load_file(uri) for uri in args[0]])"


def write(station: Workstation, text: str) -> Path:
    """Write node.toml there."""
    station.directory.mkdir(parents=True, exist_ok=True)
    path = station.directory / "node.toml"
    path.write_text(text, encoding="utf-8")
    return path


def metrics(station: Workstation) -> dict[str, float]:
    """The figures of the node."""
    url = station.status()["pinning_service"]
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"{url}/metrics", timeout=PATIENCE
    ) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def stored(station: Workstation, tmp_path: Path, count: int, size: int) -> list[str]:
    """Files that are stored and served there; their URIs, with the address of the station."""
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    paths: list[str] = []
    for number in range(count):
        path = folder / f"{number}.dat"
        path.write_bytes(random.Random(number).randbytes(size))
        paths.append(str(path))
    station.start()
    uris = station.call("say([kcl.store_file(path) for path in args[0]])", paths)
    return [f"{uri.partition('?')[0]}?provider={station.addr}" for uri in uris]


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- settings -------------------------------------------------------------------------------------------------------


def test_the_file_is_written_and_read(workstation: StartWorkstation) -> None:
    """--init writes it once; the environment goes before it; what is wrong in it ends the program with its line."""
    station = workstation()
    made = station.run("kachery-cloud-node", "--init")
    path = Path(made.stdout.strip())
    assert path == station.directory / "node.toml"
    text = path.read_text()
    assert "# storage_limit = " in text
    path.write_text(text.replace('# pinning_service = "off"', 'pinning_service = "127.0.0.1:0"') + "\ntimeout = 5\n")
    assert station.run("kachery-cloud-node", "--init").stdout == made.stdout
    station.start()
    assert station.status()["pinning_service"].startswith("http://127.0.0.1:")
    assert station.stop() == 0
    write(station, "mdns = false\nlisen = []\n")
    failed = station.run("kachery-cloud-node", check=False)
    assert failed.returncode == 2
    assert "node.toml, line 2, is no setting. Is listen meant?" in failed.stderr
    other = station.folder / "other.toml"
    other.write_text("timeout = 'soon'")
    failed = station.run("kachery-cloud-node", "--config", str(other), check=False)
    assert failed.returncode == 2
    assert "other.toml, line 1, is 'soon'" in failed.stderr


def test_reload(workstation: StartWorkstation) -> None:
    """What can be taken up is, what needs a restart is named, a broken file changes nothing. SIGHUP does the same."""
    station, other = workstation(), workstation()
    log = station.folder / "node.log"
    base = f'pinning_service = "127.0.0.1:0"\nlog_file = "{log}"\nlog_format = "json"\n'
    write(station, f'{base}log_level = "error"\n')
    station.start()
    other.start()
    write(station, f'{base}storage_limit = "5GB"\nprovide = "all"\nlog_level = "info"\npeers = ["{other.addr}"]\n')
    said = json.loads(station.run("kachery-cloud-node", "reload", "--json").stdout)
    assert set(said["applied"]) == {"peers", "storage_limit", "log_level"}
    assert said["restart"] == ["provide"]
    assert metrics(station)["kachery_storage_limit_bytes"] == 5e9
    wait_until(lambda: other.status()["peer_id"] in str(station.status()["connected"]), "that it is connected")
    write(station, "storage_limit = 1\nnonsense = 2\n")
    failed = station.run("kachery-cloud-node", "reload", check=False)
    assert failed.returncode == 2
    assert "node.toml, line 2, is no setting" in failed.stderr
    assert metrics(station)["kachery_storage_limit_bytes"] == 5e9
    write(station, f'{base}storage_limit = "6GB"\nlog_level = "info"\n')
    station.node.send_signal(signal.SIGHUP)
    wait_until(lambda: metrics(station)["kachery_storage_limit_bytes"] == 6e9, "that the limit is another one")
    assert station.stop() == 0
    said = [line["message"] for line in logged(log)]
    assert "stopped" in said
    assert not any(line.startswith("serving as") for line in said)


def test_a_certificate_that_is_renewed(workstation: StartWorkstation, tmp_path: Path) -> None:
    """It is served from the next connection on; connections that there are stay; one that is broken is not taken up."""
    station = workstation()
    certificate = self_signed(tmp_path)
    first = certificate.read_bytes()
    write(station, f'pinning_service = "127.0.0.1:0"\ntls_cert = "{certificate}"\n')
    station.start()
    port = int(station.status()["pinning_service"].rpartition(":")[2])

    def served() -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw) as sock:
            found = sock.getpeercert(binary_form=True)
            assert found is not None
            return found

    before = served()
    assert before in ssl.PEM_cert_to_DER_cert(first.decode().partition("-----END PRIVATE KEY-----\n")[2])
    self_signed(tmp_path)
    said = json.loads(station.run("kachery-cloud-node", "reload", "--json").stdout)
    assert said["files"] == [str(certificate)]
    assert served() != before
    after = served()
    certificate.write_text("no certificate")
    assert station.run("kachery-cloud-node", "reload", check=False).returncode == 2
    assert served() == after


@pytest.mark.slow
def test_a_certificate_is_taken_up_by_itself(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Nobody has to say that it was renewed."""
    station = workstation()
    certificate = self_signed(tmp_path)
    write(station, f'pinning_service = "127.0.0.1:0"\ntls_cert = "{certificate}"\n')
    station.start()
    port = int(station.status()["pinning_service"].rpartition(":")[2])
    before = ssl.get_server_certificate(("127.0.0.1", port))
    self_signed(tmp_path)
    wait_until(lambda: ssl.get_server_certificate(("127.0.0.1", port)) != before, "that the new one is served")
    assert station.stop() == 0


# --- signals --------------------------------------------------------------------------------------------------------


def half_a_request(station: Workstation) -> socket.socket:
    """A request of which the end is missing: it is being answered until that comes."""
    port = int(station.status()["pinning_service"].rpartition(":")[2])
    made = json.loads(station.run("kachery-cloud-node", "tokens", "add", "alice", "--json").stdout)
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    head = f"POST /pins HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made['token']}\r\nContent-Length: 2\r\n\r\n{{"
    sock.sendall(head.encode())

    def arrived() -> bool:
        return metrics(station)['kachery_connections{kind="pinning_service"}'] >= 2

    wait_until(arrived, "that the request is there")
    return sock


def test_what_is_being_answered_is_finished(workstation: StartWorkstation) -> None:
    """After the first signal no more come in, but those that are here are answered; then it ends well."""
    station = workstation()
    station.start("--pinning-service", "127.0.0.1:0")
    with half_a_request(station) as sock:
        station.node.send_signal(signal.SIGTERM)
        port = sock.getpeername()[1]

        def closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(closed, "that nobody else gets in")
        sock.sendall(b"}")
        assert sock.recv(4096).startswith(b"HTTP/1.1 400")
    assert station.node.wait(PATIENCE) == 0


def test_the_second_signal_ends_it_at_once(workstation: StartWorkstation) -> None:
    """Whatever is being answered."""
    station = workstation()
    station.start("--pinning-service", "127.0.0.1:0")
    with half_a_request(station) as sock:
        station.node.send_signal(signal.SIGTERM)
        station.node.send_signal(signal.SIGINT)
        assert station.node.wait(PATIENCE) == 0
        assert sock.recv(4096) == b""


def test_one_in_a_terminal_ends_with_it(workstation: StartWorkstation) -> None:
    """It is not left running where nobody sees it; without a terminal, SIGHUP only has it read its settings."""
    import pty
    import termios

    station = workstation()
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "kachery_cloud.commands.main", "node"]
    take = f"import fcntl, os, sys; fcntl.ioctl(0, {termios.TIOCSCTTY}, 0); os.execv(sys.executable, {line!r})"
    node = subprocess.Popen(
        [sys.executable, "-c", take],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=station.env,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    while b"Others load from here" not in said:
        said += os.read(ours, 4096)
    node.send_signal(signal.SIGHUP)
    assert station.run("kachery-cloud-node", "reload").returncode == 0
    assert node.poll() is None
    os.close(ours)
    assert node.wait(PATIENCE) == 0


def test_a_service_manager_is_told(workstation: StartWorkstation, tmp_path: Path) -> None:
    """As sd_notify(3) has it: when it serves, that it lives, when it reads its settings again, and when it stops."""
    path = Path("/tmp") / f"notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE)
        try:
            station = workstation(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"})
            station.start()
            heard = ""

            def hear(what: str) -> None:
                nonlocal heard
                while what not in heard:
                    heard += manager.recv(4096).decode() + "\n"

            hear("READY=1")
            assert "STATUS=serving as 12D3" in heard
            hear("WATCHDOG=1")
            heard = ""
            station.run("kachery-cloud-node", "reload")
            hear("RELOADING=1\nMONOTONIC_USEC=")
            hear("READY=1")
            assert station.stop() == 0
            hear("STOPPING=1")
        finally:
            path.unlink()


# --- the log --------------------------------------------------------------------------------------------------------


def test_who_fetched_what(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Each line is JSON; who fetched what is one of them, with peer, root and bytes."""
    station, other = workstation(), workstation()
    log = station.folder / "node.log"
    write(station, f'log_file = "{log}"\nlog_format = "json"\n')
    (uri,) = stored(station, tmp_path, 1, 3_000_000)
    other.start()
    other.call(_LOAD, [uri])
    peer = other.status()["peer_id"]
    assert station.stop() == 0
    (line,) = [line for line in logged(log) if line.get("event") == "fetched"]
    assert (line["peer"], line["root"]) == (peer, uri.removeprefix("ipfs://").partition("?")[0])
    assert 3_000_000 <= line["bytes"] < 3_100_000
    assert line["time"].endswith("+00:00")


def test_what_the_gateway_gives_counts(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Who read what through it is said, and that was used."""
    station = workstation()
    log = station.folder / "node.log"
    write(station, f'gateway = "127.0.0.1:0"\nlog_file = "{log}"\nlog_format = "json"\n')
    (uri,) = stored(station, tmp_path, 1, 300_000)
    used_long_ago(station)
    cid = uri.removeprefix("ipfs://").partition("?")[0]
    url = f"{station.status()['gateway']['url']}/ipfs/{cid}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=PATIENCE) as answer:
        assert len(answer.read()) == 300_000
    assert station.stop() == 0
    (line,) = [line for line in logged(log) if line.get("event") == "fetched"]
    assert (line["peer"], line["root"], line["bytes"]) == ("http:127.0.0.1", cid, 300_000)
    with closing(sqlite3.connect(station.directory / "catalog.sqlite")) as db:
        ((used, added),) = db.execute("SELECT used, added FROM kept").fetchall()
        assert used > added


# --- the disk -------------------------------------------------------------------------------------------------------


def used_long_ago(station: Workstation) -> None:
    """As if what is there had been used some hours ago, the first first."""
    with closing(sqlite3.connect(station.directory / "catalog.sqlite", timeout=60)) as db, db:
        db.execute("UPDATE kept SET used = added - 20000, added = added - 20000")


def test_it_stays_under_its_limit(workstation: StartWorkstation, tmp_path: Path) -> None:
    """What was loaded goes, the least recently used first; what was stored here stays; and all can be loaded again."""
    origin, cache = workstation(), workstation()
    uris = stored(origin, tmp_path, 6, 2_000_000)
    write(cache, 'pinning_service = "127.0.0.1:0"\n')
    cache.start()
    own = tmp_path / "own"
    own.write_bytes(random.Random(99).randbytes(2_000_000))
    mine = cache.call("say(kcl.store_file(args[0]))", str(own))
    for uri in uris:
        cache.call(_LOAD, [uri])
    used_long_ago(cache)
    write(cache, 'pinning_service = "127.0.0.1:0"\nstorage_limit = "9MB"\n')
    cache.run("kachery-cloud-node", "reload")
    wait_until(lambda: metrics(cache)["kachery_evicted_bytes_total"] > 0, "that room is made")
    listed = json.loads(cache.run("kachery-cloud", "list", "--json").stdout)
    items = listed["items"] if isinstance(listed, dict) else listed
    left = {item["cid"] for item in items}
    cids = [uri.removeprefix("ipfs://").partition("?")[0] for uri in uris]
    assert mine.removeprefix("ipfs://").partition("?")[0] in left
    here = [cid in left for cid in cids]
    assert here == sorted(here)
    assert here.count(False) >= 3
    assert here[-1]
    assert cache.run("kachery-cloud", "verify").returncode == 0
    found = metrics(cache)
    assert found["kachery_storage_limit_bytes"] == 9e6
    assert found["kachery_evicted_roots_total"] == here.count(False)
    cache.call(_LOAD, uris[:1])


def test_by_hand(workstation: StartWorkstation, tmp_path: Path) -> None:
    """`gc --to` does the same where no node runs: it asks nobody, and ends with 1 where not enough may go."""
    origin, cache = workstation(), workstation()
    uris = stored(origin, tmp_path, 3, 2_000_000)
    cache.start()
    cache.call(_LOAD, uris)
    cache.stop()
    origin.stop()
    dry = json.loads(cache.run("kachery-cloud", "gc", "--to", "5MB", "--dry-run", "--json").stdout)
    assert len(dry["removed"]) == 1
    done = json.loads(cache.run("kachery-cloud", "gc", "--to", "5MB", "--json").stdout)
    assert (len(done["removed"]), done["reached"]) == (1, True)
    assert done["after"] <= 5_000_000
    assert cache.run("kachery-cloud", "gc", "--to", "1KB", check=False).returncode == 1
    assert cache.run("kachery-cloud", "gc", "--to", "1KB", "--force", check=False).returncode == 2


def flip(path: Path, at: int) -> None:
    """Change one bit as a failing disk does: without a trace in the file's times."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as out:
        out.seek(at)
        byte = out.read(1)
        out.seek(at)
        out.write(bytes([byte[0] ^ 0x10]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_rots_is_mended(workstation: StartWorkstation, tmp_path: Path) -> None:
    """All is read through; what is damaged is brought back from others, and what nobody has is named."""
    origin, station = workstation(), workstation()
    (uri,) = stored(origin, tmp_path, 1, 3_000_000)
    write(station, f'pinning_service = "127.0.0.1:0"\nscrub_days = 1e-7\npeers = ["{origin.addr}"]\n')
    (path,) = station.call(_LOAD, [uri])
    own = tmp_path / "own"
    own.write_bytes(random.Random(99).randbytes(2_000_000))
    station.call("kcl.store_file(args[0], local=True)", str(own))
    mine = station.call("say(kcl.load_file(kcl.store_file(args[0], local=True)))", str(own))
    flip(Path(path), 1_500_000)
    flip(Path(mine), 500_000)
    station.start()
    wait_until(lambda: metrics(station)["kachery_mended_total"] == 1, "that the one is mended")
    wait_until(lambda: metrics(station)["kachery_damaged"] == 1, "that the other is named")
    assert Path(path).read_bytes() == random.Random(0).randbytes(3_000_000)
    checked = station.run("kachery-cloud", "verify", check=False)
    assert checked.returncode == 4
    assert Path(mine).name in checked.stdout
    (warning,) = [each for each in station.status()["warnings"] if "damaged" in each]
    assert warning.startswith("One thing here")
    wait_until(lambda: metrics(station)["kachery_scrubbed_bytes_total"] > 3_000_000, "that it goes on reading")


def test_killed_while_it_reads(workstation: StartWorkstation, tmp_path: Path) -> None:
    """kill -9: it goes on where it was, and what is damaged is known."""
    station = workstation()
    own = tmp_path / "own"
    own.write_bytes(random.Random(99).randbytes(2_000_000))
    mine = station.call("say(kcl.load_file(kcl.store_file(args[0], local=True)))", str(own))
    flip(Path(mine), 500_000)
    write(station, 'pinning_service = "127.0.0.1:0"\nscrub_days = 1e-7\n')
    station.start()
    wait_until(lambda: metrics(station)["kachery_damaged"] == 1, "that it is found")
    station.kill()
    state = json.loads((station.directory / "scrub.json").read_text())
    assert [each["what"] for each in state["damaged"]] == ["damaged"]
    write(station, 'pinning_service = "127.0.0.1:0"\nscrub_days = "off"\n')
    station.start()
    assert metrics(station)["kachery_damaged"] == 1
    assert station.stop() == 0


# --- packaging ------------------------------------------------------------------------------------------------------


def test_the_unit_is_one(workstation: StartWorkstation, tmp_path: Path) -> None:
    """systemd finds nothing wrong with it."""
    station = workstation()
    text = station.run("kachery-cloud-node", "--systemd").stdout
    assert f"KACHERY_CLOUD_DIR={station.directory}" in text
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "kachery-cloud-node.service"
    unit.write_text(text)
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "kachery" in line and "man" not in line]
    assert complaints == []


def test_the_compose_file_is_one() -> None:
    """It builds the Containerfile beside it; and docker can read it, where it knows how to."""
    yaml = pytest.importorskip("yaml")
    root = Path(__file__).resolve().parents[2]
    path = root / "packaging" / "compose.yaml"
    (service,) = yaml.safe_load(path.read_text())["services"].values()
    assert (path.parent / service["build"]["context"]).resolve() == root
    assert (root / service["build"]["dockerfile"]).exists()
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not here")
    subprocess.run([docker, "compose", "--file", str(path), "config", "--quiet"], check=True)


def test_the_options_of_the_container_are_some(workstation: StartWorkstation) -> None:
    """What the container and the compose file start can be started."""
    yaml = pytest.importorskip("yaml")
    folder = Path(__file__).resolve().parents[2] / "packaging"
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    places = {"/ip4/0.0.0.0/tcp/4001": "/ip4/127.0.0.1/tcp/0"}
    places |= dict.fromkeys(("0.0.0.0:8095", "0.0.0.0:8090"), "127.0.0.1:0")
    settings: dict[str, str] = service["environment"]
    # What stands behind the name of a variable of compose is what holds without it.
    station = workstation(env={name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in settings.items()})
    options: list[str] = service["command"]
    station.start(*(places.get(each, each) for each in options))
    assert station.status()["lab"]
    assert station.status()["gateway"]["url"]
    made = station.run("kachery-cloud-node", "members", "invite", "Ada", "--administrator", "--json")
    assert json.loads(made.stdout)["invitation"].startswith("http://localhost:8095/invitation/")
    assert {each.rpartition(":")[2] for each in service["ports"]} == {"4001", "8095", "8090"}
    commands = re.findall(r"^ +CMD (\[.*\])$", (folder / "Containerfile").read_text(), re.MULTILINE)
    for words in commands:
        assert station.run(*json.loads(words)).returncode == 0
    assert len(commands) == 1
