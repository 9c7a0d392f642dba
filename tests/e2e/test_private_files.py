"""Private means private: what others can read after each command, when it is the first in a directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.users import (
    ALICE,
    MALLORY,
    as_user,
    needs_root,
    node_of,
    open_folder,
    readable,
    run_command,
    warm_up,
)

pytestmark = needs_root

UMASKS = (0o000, 0o022, 0o077)
#: What others may read where the owner lets them into the directory: the stored files, and what describes them.
CONTENT = ("ipfs/", "packs/", "nodes/", "links/", "partial/", "damaged/", "catalog.sqlite")

#: Of no file that is here.
ABSENT = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


class Row(NamedTuple):
    """A command in an empty directory, what is typed to it, and the exit code that it ends with."""

    command: str
    code: int = 0
    typed: str = ""


ROWS = (
    Row("store {file}"),
    Row("store -r {folder}"),
    Row("store --to private {file}"),
    Row("store --encrypt {file}"),
    Row("store --service nowhere {file}", 2),
    Row("link {file}"),
    Row(f"load --timeout 0.2 {ABSENT}", 3),
    Row(f"load --local-only {ABSENT}", 3),
    Row(f"cat --timeout 0.2 {ABSENT}", 3),
    Row("ls --local-only bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", 3),
    Row(f"info --local-only {ABSENT}", 3),
    Row("verify"),
    Row("repair"),
    Row("doctor"),
    Row("init"),
    Row("init --private"),
    Row("status"),
    Row(f"whereis --timeout 0.2 {ABSENT}", 3),
    Row("pins"),
    Row("pins service add lab http://127.0.0.1:9/psa --token-stdin", typed="a-token-of-the-lab\n"),
    Row("keygen-swarm"),
    Row("key"),
    Row("gateway-token"),
    Row("group"),
    Row("group create mice"),
    Row(f"publish --timeout 0.2 {ABSENT}"),
    Row("node"),
)
COMMANDS = {row.command: row for row in ROWS}


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    warm_up(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of Alice's that everybody may look into. (Not one of pytest's, which are root's alone.)"""
    with open_folder() as top:
        home = top / "home"
        home.mkdir()
        (home / "folder").mkdir()
        (home / "file").write_text("secret")
        (home / "folder" / "a").write_text("secret, too")
        os.chown(home, ALICE.uid, ALICE.gid)
        yield home


def run(name: str, home: Path, directory: Path, umask: int) -> None:
    if name == "node":
        with node_of(ALICE, directory, umask=umask):
            assert forbidden(directory) == []
        return
    row = COMMANDS[name]
    arguments = row.command.format(file=home / "file", folder=home / "folder").split()
    code, out, err = as_user(ALICE, lambda: run_command(arguments, row.typed), umask=umask, directory=directory)
    assert code == row.code, f"{out}\n{err}"


def forbidden(directory: Path) -> list[str]:
    """What somebody else can read and must not."""
    return [path for path in as_user(MALLORY, lambda: readable(directory)) if not path.startswith(CONTENT)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_new_directory(name: str, home: Path) -> None:
    """Whatever the first command and the umask, a new data directory is its owner's alone."""
    for umask in UMASKS:
        directory = home / f"new-{umask:o}"
        run(name, home, directory, umask)
        if directory.exists():
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert as_user(MALLORY, lambda directory=directory: readable(directory)) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_directory_that_is_open_to_all(name: str, home: Path) -> None:
    """In one that the owner has made open, others read what is stored, as far as the umask lets them, and no more."""
    for umask in UMASKS:
        directory = home / f"open-{umask:o}"
        directory.mkdir()
        os.chmod(directory, 0o755)
        os.chown(directory, ALICE.uid, ALICE.gid)
        run(name, home, directory, umask)
        assert forbidden(directory) == []
        if umask == 0o077:
            assert as_user(MALLORY, lambda directory=directory: readable(directory)) == []


def test_what_is_there_and_wider_is_narrowed(home: Path) -> None:
    """Databases, locks and settings with secrets that an older version left open are closed."""
    directory = home / "old"
    as_user(ALICE, lambda: run_command(["init"]), directory=directory)
    with node_of(ALICE, directory):
        pass
    as_user(ALICE, lambda: run_command(["store", "--service", "nowhere", str(home / "file")]), directory=directory)
    (directory / "config.json").write_text('{"gateway_tokens": {"https://gateway.example.org": "secret"}}')
    os.chmod(directory, 0o755)
    for path in directory.iterdir():
        if path.is_file():
            os.chmod(path, 0o644)
    assert "config.json" in forbidden(directory)
    with node_of(ALICE, directory):
        assert forbidden(directory) == []
    assert forbidden(directory) == []


def test_what_cannot_be_narrowed_is_named(home: Path) -> None:
    """`status` says what others may read: the directory that is open to all, a file that belongs to somebody else."""
    directory = home / "named"
    as_user(ALICE, lambda: run_command(["init"]), directory=directory)
    code, _, err = as_user(ALICE, lambda: run_command(["status"]), directory=directory)
    assert code == 0, err
    os.chmod(directory, 0o755)
    os.chown(directory / "config.json", MALLORY.uid, MALLORY.gid)
    os.chmod(directory / "config.json", 0o644)
    _, out, _ = as_user(ALICE, lambda: run_command(["status"]), directory=directory)
    assert f"Every user of this machine may read what is stored in {directory}" in " ".join(out.split())
    assert f"Others may read {directory / 'config.json'}" in " ".join(out.split())


def test_root_does_not_lock_the_owner_out(home: Path) -> None:
    """What a command that root ran has made belongs to the owner of the directory."""
    directory = home / "shared-with-root"
    directory.mkdir(mode=0o700)
    os.chown(directory, ALICE.uid, ALICE.gid)
    os.environ["KACHERY_CLOUD_DIR"] = str(directory)
    assert run_command(["init"])[0] == 0
    assert run_command(["store", "-r", str(home / "folder")])[0] == 0
    code, _, err = as_user(ALICE, lambda: run_command(["store", str(home / "file")]), directory=directory)
    assert code == 0, err
    with node_of(ALICE, directory) as said:
        assert "peer_id" in said
