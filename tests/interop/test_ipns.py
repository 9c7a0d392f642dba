"""Names that move, both ways with the newest Kubo, over the DHT of loopback peers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.peers import KuboDaemon, missing_kubo_daemon
from scripts.workstation import Workstation
from tests.interop.common import cid_of

_STORE = "say(kcl.store_text(args[0]))"
_PUBLISH = """
done = kcl.publish(args[0], args[1], timeout=120)
say({"uri": done.uri, "sequence": done.sequence, "copies": done.copies, "target": done.target})
"""
_RESOLVE = "say(kcl.resolve(args[0], timeout=120))"
_LOAD = "say(kcl.load_text(args[0], timeout=120))"


@pytest.fixture(scope="module")
def daemon() -> Iterator[KuboDaemon]:
    """The newest Kubo, a server of the LAN's DHT."""
    reason = missing_kubo_daemon()
    if reason is not None:
        pytest.skip(reason)
    with KuboDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def ours(module_workstation, daemon: KuboDaemon) -> Workstation:
    """One of our workstations, its node running and connected to the daemon."""
    started = module_workstation().start()
    daemon.connect(started.addr)
    return started


def test_kubo_resolves_our_names(daemon: KuboDaemon, ours: Workstation) -> None:
    """A name that we publish leads Kubo to the content, and to the newer content when it is published again."""
    first = ours.call(_STORE, "the first version")
    done = ours.call(_PUBLISH, "recordings", first)
    assert done["copies"] >= 1
    name = done["uri"].removeprefix("ipns://")
    assert daemon.run("name", "resolve", "--nocache", f"/ipns/{name}").strip() == f"/ipfs/{cid_of(first)}"
    assert daemon.run("cat", f"/ipns/{name}", timeout=120) == "the first version"
    second = ours.call(_STORE, "the second version")
    again = ours.call(_PUBLISH, "recordings", second)
    assert (again["uri"], again["sequence"]) == (done["uri"], done["sequence"] + 1)
    assert daemon.run("name", "resolve", "--nocache", f"/ipns/{name}").strip() == f"/ipfs/{cid_of(second)}"
    inspected = daemon.run_bytes("routing", "get", f"/ipns/{name}")
    assert b"ipns-signature" not in inspected
    assert f"/ipfs/{cid_of(second)}".encode() in inspected


def test_kubo_checks_our_record(daemon: KuboDaemon, ours: Workstation, tmp_path: Path) -> None:
    """Kubo's own checker calls the record valid, both signatures among it."""
    uri = ours.call(_STORE, "checked")
    name = ours.call(_PUBLISH, "self", uri)["uri"].removeprefix("ipns://")
    (tmp_path / "record").write_bytes(daemon.run_bytes("routing", "get", f"/ipns/{name}"))
    told = daemon.run("name", "inspect", f"--verify={name}", tmp_path / "record")
    assert "Valid:" in told
    assert "true" in told.partition("Valid:")[2].splitlines()[0]
    assert f"/ipfs/{cid_of(uri)}" in told


def test_we_resolve_names_of_kubo(daemon: KuboDaemon, ours: Workstation, tmp_path: Path) -> None:
    """A name that Kubo publishes is loaded, in each written form of the name, with a path, and follows its changes.

    The records may be remembered for a nanosecond, so that each load asks anew, however fast the machine.
    """
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a file.txt").write_text("by Kubo", encoding="utf-8")
    cid = daemon.add(tmp_path / "tree")
    key = daemon.run("key", "gen", "--type=ed25519", "moving").strip()
    daemon.run("name", "publish", "--key=moving", "--ttl=1ns", f"/ipfs/{cid}", timeout=120)
    assert ours.call(_RESOLVE, f"ipns://{key}") == f"ipfs://{cid}"
    other_form = daemon.run("key", "list", "-l", "--ipns-base=b58mh").split()
    peer_id = other_form[other_form.index("moving") - 1]
    assert ours.call(_LOAD, f"ipns://{peer_id}/a%20file.txt") == "by Kubo"
    (tmp_path / "tree" / "a file.txt").write_text("changed", encoding="utf-8")
    daemon.run(
        "name", "publish", "--key=moving", "--ttl=1ns", f"/ipfs/{daemon.add(tmp_path / 'tree')}/a file.txt", timeout=120
    )
    assert ours.call(_LOAD, f"/ipns/{key}") == "changed"


def test_we_resolve_an_rsa_name_of_kubo(daemon: KuboDaemon, ours: Workstation) -> None:
    """Names of the older kind of key, which the record has to carry."""
    uri = ours.call(_STORE, "by an RSA key")
    daemon.run("key", "gen", "--type=rsa", "--size=2048", "old", timeout=120)
    told = daemon.run("name", "publish", "--key=old", f"/ipfs/{cid_of(uri)}", timeout=120)
    name = told.split()[2].rstrip(":")
    assert ours.call(_RESOLVE, f"ipns://{name}") == uri
