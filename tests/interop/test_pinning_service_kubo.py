"""`ipfs pin remote` of the newest Kubo, with our node as the service."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.peers import KuboDaemon, missing_kubo_daemon
from scripts.peers.peer import PeerError
from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.pin_clients import PinClient, add_token, pinning_lab


@pytest.fixture(scope="module")
def daemon() -> Iterator[KuboDaemon]:
    """One daemon for the tests of the module."""
    reason = missing_kubo_daemon()
    if reason is not None:
        pytest.skip(reason)
    with KuboDaemon() as running:
        yield running


@pytest.fixture
def lab(workstation: StartWorkstation) -> Workstation:
    """A workstation whose node is to be the service."""
    return workstation()


def test_ipfs_pin_remote(daemon: KuboDaemon, lab: Workstation, tmp_path: Path) -> None:
    """add (in the foreground and in the background), ls with filters, rm, and the service's statistics."""
    token = add_token(lab, "kubo")
    url = pinning_lab(lab)
    daemon.run("pin", "remote", "service", "add", "lab", url, token)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.dat").write_bytes(random.Random(number).randbytes(400_000))
    cid = daemon.run("add", "-Q", "-r", folder).strip()
    other = daemon.run("add", "-Q", data=b"in the background").strip()

    said = daemon.run("pin", "remote", "add", "--service=lab", "--name=session", cid)
    assert cid in said
    assert "pinned" in said
    daemon.run("pin", "remote", "add", "--service=lab", "--name=other", "--background", other)
    client = PinClient(url, token)
    for each in client.ask("GET", "/pins?status=queued,pinning,pinned")[1]["results"]:
        client.wait_pinned(each["requestid"])

    rows = [json.loads(line) for line in daemon.run("pin", "remote", "ls", "--service=lab", "--enc=json").splitlines()]
    assert {(row["Cid"], row["Name"], row["Status"]) for row in rows} == {
        (cid, "session", "pinned"),
        (other, "other", "pinned"),
    }
    assert daemon.run("pin", "remote", "ls", "--service=lab", "--name=session").split()[0] == cid
    assert other in daemon.run("pin", "remote", "ls", "--service=lab", f"--cid={other}", "--status=pinned,queued")
    stat = daemon.run("pin", "remote", "service", "ls", "--stat").split()
    assert "0/0/2/0" in stat  # queued, pinning, pinned, failed

    daemon.run("pin", "remote", "rm", "--service=lab", "--name=other")
    assert other not in daemon.run("pin", "remote", "ls", "--service=lab")
    assert cid in daemon.run("pin", "remote", "ls", "--service=lab")
    daemon.run("pin", "remote", "service", "rm", "lab")


def test_kubo_tells_why_it_is_refused(daemon: KuboDaemon, lab: Workstation) -> None:
    """A wrong token, and a quota that is used up: what we say reaches the one who types."""
    add_token(lab, "kubo")
    small = add_token(lab, "small", "--quota", "1KB")
    url = pinning_lab(lab)
    daemon.run("pin", "remote", "service", "add", "wrong", url, "no-token")
    daemon.run("pin", "remote", "service", "add", "small", url, small)
    cid = daemon.run("add", "-Q", data=b"x" * 5000).strip()
    with pytest.raises(PeerError, match=r"401|UNAUTHORIZED"):
        daemon.run("pin", "remote", "ls", "--service=wrong")
    with pytest.raises(PeerError):
        daemon.run("pin", "remote", "add", "--service=small", cid)
    client = PinClient(url, small)
    (failed,) = client.ask("GET", "/pins?status=failed")[1]["results"]
    assert failed["info"]["status_details"].startswith("INSUFFICIENT_FUNDS")
