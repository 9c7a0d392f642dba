"""A data directory that a group shares: whoever comes first, and whatever he does, all can go on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from tests.helpers.users import (
    ALICE,
    BOB,
    LAB,
    MALLORY,
    Failed,
    User,
    as_user,
    needs_root,
    node_of,
    open_folder,
    readable,
    run_command,
    warm_up,
)

pytestmark = needs_root

TEXT = "from {}, with {:o}"
#: Of no file that is here.
ABSENT = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    warm_up(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def lab() -> Iterator[Path]:
    with open_folder() as top:
        yield top


def shared(lab: Path, mode: int = 0o2770) -> Path:
    """An empty directory that Alice shares with the group."""
    directory = lab / "data"
    directory.mkdir()
    os.chown(directory, ALICE.uid, LAB)
    os.chmod(directory, mode)
    return directory


def use(user: User, directory: Path, umask: int = 0o022) -> list[str]:
    """Store a value, a folder and a large file, and load all back. The URIs."""

    def work() -> list[str]:
        folder = directory.parent / f"folder-{os.getuid()}"
        text = kcl.store_text(TEXT.format(user.uid, umask), local=True)
        kept = kcl.store_dir(folder, local=True)
        assert kcl.load_text(text, local_only=True) == TEXT.format(user.uid, umask)
        return [text, kept]

    folder = directory.parent / f"folder-{user.uid}"
    folder.mkdir(exist_ok=True)
    (folder / f"small-{umask:o}").write_text(f"{user.uid}")
    (folder / f"large-{umask:o}").write_bytes(bytes([user.uid % 256]) * (3 << 20))
    return as_user(user, work, umask=umask, directory=directory)


def can_load(user: User, directory: Path, uris: list[str]) -> None:
    def work() -> Any:
        for uri in uris:
            if kcl.load_file_info(uri, local_only=True)["kind"] == "directory":
                for entry in kcl.list_dir(uri, local_only=True):
                    Path(kcl.load_file(entry["uri"], local_only=True)).read_bytes()
            else:
                kcl.load_text(uri, local_only=True)
        return [str(problem) for problem in kcl.verify()]

    assert as_user(user, work, directory=directory) == []


@pytest.mark.parametrize("mode", [0o2770, 0o770])
@pytest.mark.parametrize("order", [(ALICE, BOB), (BOB, ALICE)], ids=["owner first", "member first"])
def test_both_store_and_load(lab: Path, mode: int, order: tuple[User, User]) -> None:
    """Whoever stores first, under whatever umask, both store and load afterwards, also what the other one stored."""
    directory = shared(lab, mode)
    uris: list[str] = []
    for umask in (0o077, 0o022):
        for user in order:
            uris += use(user, directory, umask)
            for other in order:
                can_load(other, directory, uris)
    assert as_user(MALLORY, lambda: readable(directory)) == []


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("status", 0),
        ("verify", 0),
        ("repair", 0),
        ("node", 0),
        (f"whereis --timeout 0.2 {ABSENT}", 3),
        ("pins", 0),
        ("pins service add lab http://127.0.0.1:9/psa --token-stdin", 0),
        ("init", 0),
        ("init --private", 0),
        ("key", 5),  # keys and names are the owner's own
        ("gateway-token", 0),
        ("group create mice", 0),
        (f"publish --timeout 0.2 {ABSENT}", 5),
        (f"load --timeout 0.2 {ABSENT}", 3),
    ],
)
def test_a_member_who_comes_first_locks_nobody_out(lab: Path, command: str, expected: int, umask: int) -> None:
    """Whatever a member does first in an empty directory, its owner then stores, and is the node with a key of his."""
    directory = shared(lab)
    if command == "node":
        with node_of(BOB, directory, umask=umask) as said:
            assert "peer_id" in said
    else:
        typed = "a-token-of-the-lab\n" if "--token-stdin" in command else ""
        code, out, err = as_user(BOB, lambda: run_command(command.split(), typed), umask=umask, directory=directory)
        assert code == expected, f"{out}\n{err}"
    assert not (directory / "private.pem").exists()
    can_load(BOB, directory, use(ALICE, directory))
    with node_of(ALICE, directory) as said:
        assert "peer_id" in said
    key = (directory / "private.pem").stat()
    assert (key.st_uid, stat.S_IMODE(key.st_mode)) == (ALICE.uid, 0o600)
    can_load(ALICE, directory, use(BOB, directory, umask))


@pytest.mark.parametrize(("runs", "asks"), [(ALICE, BOB), (BOB, ALICE)], ids=["owner's node", "member's node"])
def test_the_node_of_one_serves_the_other(lab: Path, runs: User, asks: User) -> None:
    """Members share one node; a member's has an identity of its own, while the owner's key is not touched."""
    directory = shared(lab)
    made = as_user(ALICE, lambda: run_command(["init", "--json"]), directory=directory)[1]
    with node_of(runs, directory, umask=0o077):
        code, out, err = as_user(asks, lambda: run_command(["status", "--json"]), directory=directory)
        assert code == 0, err
        import json

        found = json.loads(out)
        assert found["running"], out
        assert (found["peer_id"] == json.loads(made)["peer_id"]) == (runs == ALICE)
        use(asks, directory)


def test_a_directory_becomes_shared(lab: Path) -> None:
    """When the owner opens one that is full to the group, members read it at once, and write after his next use."""
    directory = lab / "data"
    directory.mkdir()
    os.chown(directory, ALICE.uid, ALICE.gid)
    os.chmod(directory, 0o700)
    uris = use(ALICE, directory)
    os.chown(directory, ALICE.uid, LAB)
    os.chmod(directory, 0o2770)
    with pytest.raises(Failed, match="can only be read"):
        use(BOB, directory)
    can_load(BOB, directory, uris[:1])
    as_user(ALICE, lambda: run_command(["verify"]), directory=directory)
    uris += use(BOB, directory)
    can_load(BOB, directory, uris)
    can_load(ALICE, directory, uris)


def test_no_more_than_the_group(lab: Path) -> None:
    """In a shared directory nothing is for others: not the content, the lists, nor the control socket."""
    directory = shared(lab)
    with node_of(BOB, directory, umask=0):
        use(ALICE, directory, 0)
        for path in directory.iterdir():
            assert path.stat().st_gid == LAB, path
            if path.name not in ("ipfs", "nodes", "links", "partial", "tmp", "damaged"):
                assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0, path
        assert as_user(MALLORY, lambda: readable(directory)) == []
