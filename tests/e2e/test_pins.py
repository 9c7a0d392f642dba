"""What one workstation stores is kept by a pinning service and loaded by another, while the first one sleeps."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from scripts.data import sha256_of_folder, write_random
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
TOKEN = "the-token-of-this-test"
SIZE = 5_000_000


class Service:
    """`scripts.pinning_service`, a process that really fetches."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.pinning_service", str(folder), "--token", TOKEN],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.url, self.addr = ready["url"], ready["addr"]

    def misbehave(self, **fault: Any) -> list[str]:
        """Have it do so; the requests so far."""
        request = Request(f"{self.url}/misbehave", json.dumps(fault).encode(), method="POST")
        with urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def posts(self) -> int:
        """How often it was asked to pin something."""
        return sum(seen.startswith("POST /pins") for seen in self.misbehave())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "service")
    yield made
    made.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "input").mkdir()
    return write_random(tmp_path / "input" / "recording.dat", SIZE, seed=31)


def set_up(at: Workstation, service: Service, kind: str = "pinning", *options: str, name: str = "lab") -> Workstation:
    """A workstation that knows the service, as its user makes it."""
    at.env["THE_TOKEN"] = TOKEN
    at.run(
        "kachery-cloud-pins", "service", "add", name, service.url, "--kind", kind, "--token-env", "THE_TOKEN", *options
    )
    return at


def states(at: Workstation) -> list[str]:
    return [row["state"] for row in json.loads(at.run("kachery-cloud-pins", "--json").stdout)["pins"]]


@pytest.mark.parametrize("kind", ["pinning", "rpc"])
def test_kept_while_the_storer_sleeps(
    workstation: Callable[..., Workstation], service: Service, data: Path, kind: str
) -> None:
    """Store, wait until it is verified, stop the storer: another workstation loads the same bytes from the service."""
    storing = set_up(workstation(), service, kind).start()
    done = storing.run("kachery-cloud-store", data, "--service", "lab", "--json")
    found = json.loads(done.stdout)
    assert [(row["state"], row["claimed"]) for row in found["pins"]] == [("verified", True)]
    assert storing.stop() == 0
    loading = workstation(env={"KACHERY_CLOUD_PEERS": service.addr})
    loaded = loading.run("kachery-cloud-load", found["uri"], timeout=120)
    assert Path(loaded.stdout.strip()).read_bytes() == data.read_bytes()
    assert TOKEN not in done.stdout + done.stderr + (storing.folder / "node.log").read_text()


@pytest.mark.parametrize("kind", ["pinning", "rpc"])
def test_a_folder_from_a_script_without_a_node(
    workstation: Callable[..., Workstation], service: Service, tmp_path: Path, kind: str
) -> None:
    """A script that waits is the node itself; the service's address travels with the URI."""
    folder = tmp_path / "experiment"
    (folder / "sub").mkdir(parents=True)
    write_random(folder / "sub" / "a.bin", 3_000_000, seed=32)
    (folder / "b.txt").write_text("b")
    storing = set_up(workstation(), service, kind)
    uri = storing.call("say(kcl.store_dir(args[0], pin='lab', wait='verified', timeout=300))", folder)
    (row,) = storing.call("say(kcl.pins())")
    assert (row["uri"], row["state"], row["name"]) == (uri, "verified", "experiment")
    loading = workstation()
    copy = tmp_path / "copy"
    loading.run("kachery-cloud-load", f"{uri}?provider={service.addr}", "--dest", copy, timeout=120)
    assert sha256_of_folder(copy) == sha256_of_folder(folder)


def test_written_down_now_and_done_later(workstation: Callable[..., Workstation], service: Service, data: Path) -> None:
    """Without a node and with --no-wait it is written down; the next node does it, and asks once."""
    at = set_up(workstation(), service)
    done = at.run("kachery-cloud-store", data, "--pin", "--no-wait")
    uri = done.stdout.strip()
    assert "No node is running here" in done.stderr
    assert (states(at), service.posts()) == (["waiting"], 0)
    at.call("kcl.store_file(args[0], pin=True, local=True)", data)
    at.start()
    at.run("kachery-cloud-pins", "wait", uri, "--verified", "--timeout", "300")
    at.run("kachery-cloud-store", data, "--pin")
    assert (states(at), service.posts()) == (["verified"], 1)
    assert any("lab: 1 verified" in line for line in at.run("kachery-cloud-status").stdout.splitlines())


def test_removed_again(workstation: Callable[..., Workstation], service: Service, data: Path) -> None:
    """What is removed is gone from the list, and from the service once a node has told it."""
    at = set_up(workstation(), service).start()
    uri = at.run("kachery-cloud-store", data, "--pin").stdout.strip()
    at.run("kachery-cloud-pins", "remove", uri)
    wait_until(lambda: states(at) == [], "the removal")
    assert any(seen.startswith("DELETE /pins/") for seen in service.misbehave())
    assert at.run("kachery-cloud-pins", "wait", uri, check=False).returncode == 3


def test_a_service_refuses(workstation: Callable[..., Workstation], service: Service, data: Path) -> None:
    """A wrong token is one sentence that says what to do, and exit code 6; it is stored all the same."""
    at = set_up(workstation(), service)
    at.env["THE_TOKEN"] = "wrong-token-of-this-test"
    done = at.run("kachery-cloud-store", data, "--service", "lab", check=False)
    assert done.returncode == 6
    assert done.stdout.startswith("ipfs://")
    assert "lab" in done.stderr
    assert "token" in done.stderr
    assert "wrong-token" not in done.stderr + done.stdout
    assert states(at) == ["refused"]
    at.env["THE_TOKEN"] = TOKEN
    at.run("kachery-cloud-pins", "add", done.stdout.strip())
    assert states(at) == ["verified"]


def test_interrupted_while_waiting(workstation: Callable[..., Workstation], service: Service, data: Path) -> None:
    """A terminal shows how far it is; Ctrl-C says what is still on its way, ends with 130, and the node goes on."""
    service.misbehave(stuck=True)
    at = set_up(workstation(), service).start()
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    script = Path(at.python).with_name("kachery-cloud-store")
    process = subprocess.Popen(
        [str(script), str(data), "--pin"], env=at.env, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    assert process.stdout is not None
    uri = process.stdout.readline().strip()
    shown = b""
    while b"lab: queued" not in shown:
        shown += os.read(ours, 1000)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # so a terminal ends
        while more := os.read(ours, 1000):
            shown += more
    os.close(ours)
    assert process.wait(PATIENCE) == 130
    assert f"lab: {uri} is queued at the service" in shown.decode()
    assert "goes on while a node runs" in shown.decode()
    process.stdout.close()
    assert states(at) == ["queued"]


def test_a_quota_that_only_the_service_can_see(
    workstation: Callable[..., Workstation], service: Service, data: Path
) -> None:
    """One that it sees crossed when it has fetched all is a refusal like any other: a sentence, and exit code 6."""
    at = set_up(workstation(), service).start()
    service.misbehave(fail=100, why="INSUFFICIENT_FUNDS: with its 5000000 bytes the quota would be crossed.")
    done = at.run("kachery-cloud-store", data, "--pin", check=False)
    assert done.returncode == 6
    assert done.stdout.startswith("ipfs://")
    assert "the quota would be crossed. Remove pins there" in done.stderr
    code = "try: kcl.store_file(args[0], pin='lab', wait='pinned')\nexcept kcl.PinningError as e: say(str(e))"
    assert "the quota would be crossed" in at.call(code, data)
    assert states(at) == ["refused"]


def test_who_waits_hears_why(workstation: Callable[..., Workstation], service: Service, data: Path) -> None:
    """Also where there is no terminal, as in a job of a cluster; and once, however often it is tried."""
    service.misbehave(method="POST", path="/pins", status=500, count=1_000_000)
    at = set_up(workstation(), service).start()
    script = Path(at.python).with_name("kachery-cloud-store")
    process = subprocess.Popen(
        [str(script), str(data), "--pin"], env=at.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "to its local network" in process.stderr.readline()
    assert "(The pinning service lab has failed (status 500)" in process.stderr.readline()
    before = service.posts()
    wait_until(lambda: service.posts() > before, "that it is tried again")
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert rest.startswith("Interrupted.")


def test_a_time_to_wait(workstation: Callable[..., Workstation], service: Service, data: Path) -> None:
    """When it is over, an error says how far it is; nothing is lost."""
    service.misbehave(stuck=True)
    at = set_up(workstation(), service)
    code = (
        "try: kcl.store_file(args[0], pin='lab', wait='pinned', timeout=4)\nexcept kcl.PinningError as e: say(str(e))"
    )
    assert "Not done within 4 s: lab: ipfs://" in at.call(code, data)
    assert states(at) == ["queued"]


def test_pinned_by_default(workstation: Callable[..., Workstation], service: Service) -> None:
    """With --default everything that is stored is pinned; not what is too large, which is stored and told."""
    at = set_up(workstation(), service, "pinning", "--default", "--max-bytes", "1000")
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        "    kcl.store_text('small'); kcl.store_text('x' * 2000); kcl.store_text('none', pin=False)\n"
        "say([str(w.message) for w in told if 'pin' in str(w.message)])"
    )
    (warning,) = at.call(code)
    assert warning.startswith("Stored, but not pinned: ")
    assert len(states(at)) == 1


def test_a_node_that_does_not_know_the_service(
    workstation: Callable[..., Workstation], service: Service, data: Path
) -> None:
    """Services are read when a node starts: who waits is told of `reload` instead of waiting for ever."""
    at = workstation().start()
    set_up(at, service)
    assert "does not know" in at.run("kachery-cloud-store", data, "--pin", "--no-wait").stderr
    done = at.run("kachery-cloud-store", data, "--pin", check=False)
    assert done.returncode == 6
    assert "kachery-cloud-node reload" in done.stderr
    assert states(at) == ["waiting"]


@pytest.mark.parametrize(
    ("status", "what"), [(413, "too large"), (409, "quota or credit"), (403, "token does not allow")]
)
def test_each_refusal_says_what_to_do(
    workstation: Callable[..., Workstation], service: Service, data: Path, status: int, what: str
) -> None:
    """Too large, no credit, no right: told apart, in a sentence, with exit code 6."""
    at = set_up(workstation(), service).start()
    # A command that wakes the node may reach it when the service has just refused: then it is asked once more.
    service.misbehave(method="POST", path="/pins", status=status, count=10)
    done = at.run("kachery-cloud-store", data, "--pin", check=False)
    assert done.returncode == 6
    assert done.stdout.startswith("ipfs://")
    assert what in done.stderr
    assert states(at) == ["refused"]


@pytest.mark.parametrize("prefix", ["", "rpc+"])
def test_set_up_by_the_environment_alone(
    workstation: Callable[..., Workstation], service: Service, data: Path, prefix: str
) -> None:
    """Two variables are enough, as in a container; nothing of the token is left on the disk."""
    env = {"KACHERY_CLOUD_PIN_SERVICES": f"lab={prefix}{service.url}", "KACHERY_CLOUD_PIN_TOKEN": TOKEN}
    at = workstation(env=env)
    done = at.run("kachery-cloud-store", data)
    assert "a block was fetched back" in done.stderr
    assert states(at) == ["verified"]
    assert not [path for path in at.directory.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
