"""`kachery-cloud repair`: whatever happens to one of the databases, the loss is said, and all that was stored loads."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud.commands.main import cli
from kachery_cloud.local import close_outboxes, close_repositories, outbox
from kachery_cloud.node import connection
from kachery_cloud.settings.config import load_config
from kachery_p2p.node.messages import LoadRequest, LoadResult
from kachery_p2p.pinning import OUTBOX_NAME
from kachery_p2p.pinning.repair import repair_outbox
from kachery_p2p.repo import NodeLock
from kachery_p2p.routing.database import DATABASE_NAME, Database

CATALOG = "catalog.sqlite"
DATA = random.Random(3).randbytes(2_500_000)
PINS = 120


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def close_all() -> None:
    close_repositories()
    close_outboxes()


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "kachery"))
    monkeypatch.setenv("KACHERY_CLOUD_PUBLIC", "off")
    monkeypatch.setenv("KACHERY_CLOUD_MDNS", "off")
    return tmp_path / "kachery"


@pytest.fixture
def stored(directory: Path, tmp_path: Path) -> dict[str, str]:
    """URIs of one thing of each kind; a list of pins, and what a node has learned, are there too."""
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "large").write_bytes(DATA)
    (tmp_path / "linked").write_bytes(DATA[1:])
    uris = {
        "text": kcl.store_text("some text", local=True),
        "folder": kcl.store_dir(tmp_path / "folder", local=True),
        "linked": kcl.link_file(tmp_path / "linked", local=True),
    }
    box = outbox(load_config())
    for i in range(PINS):
        box.add(kcl.store_text(f"pin {i}", local=True).removeprefix("ipfs://"), "lab", f"name {i}", {"i": str(i)}, i)
    routing = Database(directory / DATABASE_NAME)
    routing.create("CREATE TABLE IF NOT EXISTS peers (id TEXT); CREATE TABLE IF NOT EXISTS records (id TEXT);")
    with routing.write() as db:
        db.executemany("INSERT INTO peers VALUES (?)", [(f"peer {i}" * 20,) for i in range(200)])
    routing.close()
    close_all()
    return uris


def check(stored: dict[str, str]) -> None:
    assert kcl.load_text(stored["text"], local_only=True) == "some text"
    assert Path(kcl.load_file(stored["folder"] + "/below/large", local_only=True)).read_bytes() == DATA
    assert Path(kcl.load_file(stored["linked"], local_only=True)).read_bytes() == DATA[1:]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    else:
        rng = random.Random(how)
        for _ in range(40):
            content[rng.randrange(100, len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["deleted", "empty", "half", "flips 1", "flips 2", "flips 3"])
@pytest.mark.parametrize("name", [CATALOG, OUTBOX_NAME, DATABASE_NAME])
def test_every_root_loads_after_a_repair(directory: Path, stored: dict[str, str], name: str, how: str) -> None:
    """Each of the databases deleted, emptied, cut or with wrong bytes in it: after the repair everything loads, nothing
    is wrong any more, and a second repair finds nothing to do."""
    damage(directory / name, how)
    result = run("repair", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["ok"], found["problems"]) == (True, [])
    assert (found["directories"], found["linked_files"], found["files"]) == (1, 1, PINS + 2)
    assert (found["pins"] is not None) == (name == OUTBOX_NAME and how != "deleted")
    check(stored)
    assert kcl.verify() == []
    if name != OUTBOX_NAME:
        assert len(outbox(load_config()).list()) == PINS
    Database(directory / DATABASE_NAME).close()
    close_all()
    again = json.loads(run("repair", "--json").output)
    assert (again["ok"], again["pins"], again["routing"]) == (True, None, False)


@pytest.mark.parametrize("how", ["deleted", "empty", "half"])
def test_lost_catalog_is_said_by_every_command(directory: Path, stored: dict[str, str], how: str) -> None:
    """No command goes on as if nothing had been stored, and each names the one that helps."""
    damage(directory / CATALOG, how)
    for arguments in (("verify",), ("ls", stored["folder"]), ("load", "--local-only", stored["text"])):
        result = run(*arguments)
        assert result.exit_code == 4
        assert "kachery-cloud repair" in result.stderr
    assert run("repair").exit_code == 0
    check(stored)


def test_repair_says_what_it_did(directory: Path, stored: dict[str, str], tmp_path: Path) -> None:
    """Counts where all is well; exit code 4 and the reason for what cannot be brought back."""
    (directory / CATALOG).unlink()
    result = run("repair")
    assert result.exit_code == 0
    assert f"{PINS + 2} files, 1 linked files and 1 directories" in result.stdout
    assert "Everything that was stored, loaded or linked is here." in result.stdout
    (tmp_path / "linked").unlink()
    close_all()
    result = run("repair")
    assert result.exit_code == 4
    assert f"missing: {stored['linked'].removeprefix('ipfs://')}" in result.stdout


def test_no_repair_while_a_node_runs(directory: Path, stored: dict[str, str]) -> None:
    """The node's lock is respected."""
    lock = NodeLock(directory)
    assert lock.try_acquire()
    try:
        result = run("repair", "--json")
    finally:
        lock.release()
    assert result.exit_code == 5
    assert json.loads(result.output)["error"]["type"] == "RepoBusy"


# --- the list of pins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["empty", "half"])
def test_damaged_list_of_pins_is_said(directory: Path, stored: dict[str, str], how: str) -> None:
    """What was to be pinned is not silently forgotten: the list's loss is an error that names the command."""
    damage(directory / OUTBOX_NAME, how)
    result = run("pins")
    assert result.exit_code == 4
    assert "kachery-cloud repair" in result.stderr


def test_rows_that_can_be_read_are_kept(directory: Path, stored: dict[str, str]) -> None:
    """Of a list with a damaged part the other rows come back as they were, and a row of which only the essentials can
    be read waits again."""
    path = directory / OUTBOX_NAME
    box = outbox(load_config())
    before = {entry.cid: entry for entry in box.list()}
    close_all()
    db = sqlite3.connect(path)
    db.execute("UPDATE pins SET meta = '{' WHERE id = 7")
    db.execute("UPDATE pins SET cid = 'bafy' WHERE id = 9")
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    content = bytearray(path.read_bytes())
    # One page in the middle of the table.
    at = next(at for at in range(0, len(content), size) if b"name 60" in content[at : at + size] and content[at] == 13)
    content[at : at + size] = os.urandom(size)
    path.write_bytes(content)
    repaired = repair_outbox(path, directory / "damaged")
    assert repaired is not None
    assert repaired.aside.exists()
    assert repaired.begun_anew == 1
    after = {entry.cid: entry for entry in outbox(load_config()).list()}
    assert len(after) == repaired.kept + 1
    assert repaired.kept > PINS // 2
    for cid, entry in after.items():
        assert (entry.service, entry.name, entry.state) == (before[cid].service, before[cid].name, "waiting")
    whole = [entry for entry in after.values() if entry.meta]
    assert all((entry.meta, entry.size, entry.added) == _facts(before[entry.cid]) for entry in whole)


def _facts(entry) -> tuple[object, object, object]:
    return entry.meta, entry.size, entry.added


def test_sound_list_is_left_alone(directory: Path, stored: dict[str, str], tmp_path: Path) -> None:
    """Nothing is replaced where nothing is wrong."""
    content = (directory / OUTBOX_NAME).read_bytes()
    assert repair_outbox(directory / OUTBOX_NAME, directory / "damaged") is None
    assert repair_outbox(tmp_path / "none", directory / "damaged") is None
    assert (directory / OUTBOX_NAME).read_bytes() == content
    shutil.rmtree(directory)


# --- of some URIs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[LoadRequest]:
    """What the node was asked to load. It finds nobody who has anything."""
    requests: list[LoadRequest] = []

    class Node:
        def load(self, request: LoadRequest, progress: object = None) -> LoadResult:
            requests.append(request)
            raise kcl.ContentNotFound("Nobody has it.")

    monkeypatch.setattr(connection, "get_connection", lambda config: Node())
    return requests


@pytest.mark.parametrize("packed", [False, True], ids=["a file of its own", "in a pack"])
@pytest.mark.parametrize("how", ["deleted", "flips 1"])
def test_a_stored_file_that_is_linked_too(
    directory: Path, tmp_path: Path, asked: list[LoadRequest], how: str, packed: bool
) -> None:
    """Its copy comes back from the link, without a network, and then nothing is wrong any more."""
    data = DATA[:5_000] if packed else DATA
    (tmp_path / "file").write_bytes(data)
    if packed:
        uri = kcl.store_bytes(data, local=True)
        (copy,) = (directory / "packs").iterdir()
    else:
        uri = kcl.store_file(tmp_path / "file", local=True)
        copy = Path(kcl.load_file(uri, local_only=True))
    assert kcl.link_file(tmp_path / "file", local=True) == uri
    os.chmod(copy, 0o644)
    damage(copy, how)
    assert run("verify").exit_code == 4
    done = run("repair", uri)
    assert (done.exit_code, asked) == (0, []), done.output
    assert Path(kcl.load_file(uri, local_only=True)).read_bytes() == data
    assert run("verify").exit_code == 0
    (tmp_path / "file").unlink()
    assert kcl.load_bytes(uri, local_only=True) == data


def test_a_file_of_a_folder_that_is_linked_too(directory: Path, tmp_path: Path, asked: list[LoadRequest]) -> None:
    """So it is with a file that lies in a folder; what no link has is asked for."""
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        (tmp_path / "folder" / name).write_bytes(DATA + name.encode())
    uri = kcl.store_dir(tmp_path / "folder", local=True)
    kcl.link_file(tmp_path / "folder" / "a", local=True)
    copies = {path.read_bytes()[-1:]: path for path in (directory / "ipfs").rglob("baf*")}
    first, second = copies[b"a"], copies[b"b"]
    first.unlink()
    assert (run("repair", uri).exit_code, asked) == (0, [])
    assert first.read_bytes() == DATA + b"a"
    second.unlink()
    assert run("repair", uri).exit_code == 3
    assert [request.kind for request in asked] == ["directory"]


def test_peers_and_patience_of_a_repair(directory: Path, tmp_path: Path, asked: list[LoadRequest]) -> None:
    """Who is to be asked, and for how long, can be said, as for a load; not where nothing is loaded."""
    (tmp_path / "file").write_bytes(DATA)
    uri = kcl.store_file(tmp_path / "file", local=True)
    Path(kcl.load_file(uri, local_only=True)).unlink()
    peer = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWEqnTdgqHnkkwarSrJjeMP2ZJiADWLYADaNvUb6SQNyPF"
    assert run("repair", uri, "--peer", peer, "--timeout", "7").exit_code == 3
    with pytest.raises(kcl.ContentNotFound):
        kcl.repair([uri], providers=[peer], timeout=7)
    assert [(request.providers, request.timeout) for request in asked] == [((peer,), 7.0)] * 2
    assert run("repair", "--peer", peer).exit_code == 2
    with pytest.raises(kcl.InvalidArgument, match="URIs"):
        kcl.repair(timeout=7)
