"""A data directory that can only be read: another user's, or one on a disk that is mounted read-only."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from tests.helpers.users import ALICE, MALLORY, Failed, as_user, needs_root, open_folder, run_command, warm_up

pytestmark = needs_root

ABSENT = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    warm_up(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def site() -> Iterator[Path]:
    """A directory of Alice's that everybody may read, in a folder that only she may write to."""
    with open_folder() as top:
        directory = top / "site"
        directory.mkdir()
        os.chmod(directory, 0o755)
        os.chown(directory, ALICE.uid, ALICE.gid)
        (top / "folder").mkdir()
        (top / "folder" / "a.txt").write_text("in a folder")
        (top / "folder" / "large").write_bytes(os.urandom(3 << 20))
        yield directory


def filled(directory: Path) -> list[str]:
    """What Alice stores there: a text, a large file, and a folder."""
    folder = directory.parent / "folder"
    return as_user(
        ALICE,
        lambda: [
            kcl.store_text("alone", local=True),
            kcl.store_file(folder / "large", local=True),
            kcl.store_dir(folder, local=True),
        ],
        directory=directory,
    )


def all_of(directory: Path) -> list[tuple[str, int, int]]:
    """Everything in a folder, with what shows a change."""
    return sorted(
        (str(path), status.st_mtime_ns, status.st_size)
        for path in (directory, *directory.rglob("*"))
        if (status := path.lstat())
    )


def read(uris: list[str], content: bytes) -> Any:
    """All that can be done with what is here, without the network."""
    assert kcl.load_text(uris[0], local_only=True) == "alone"
    assert Path(kcl.load_file(uris[1], local_only=True)).read_bytes() == content
    small(uris)
    assert kcl.load_bytes(uris[1], 5, 9, local_only=True) == content[5:9]
    assert [entry["name"] for entry in kcl.list_dir(uris[2], local_only=True)] == ["a.txt", "large"]
    assert kcl.load_text(uris[2] + "/a.txt", local_only=True) == "in a folder"
    assert kcl.load_file_info(uris[2], local_only=True)["local"]
    assert kcl.verify() == []
    code, _, err = run_command(["status"])
    assert code == 0, err
    return True


def small(uris: list[str]) -> None:
    """Small files, which lie in a pack: their path, where one is needed, is that of a copy for this user alone."""
    for uri, text in ((uris[0], "alone"), (uris[2] + "/a.txt", "in a folder")):
        paths = {kcl.load_file(uri, local_only=True) for _ in range(2)}
        (path,) = map(Path, paths)
        assert path.read_text() == text
        assert path.parent.stat().st_mode & 0o077 == 0
        path.unlink()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(kcl.load_dir(uris[2], f"{folder}/made", local_only=True))
        assert (made / "a.txt").read_text() == "in a folder"


def test_another_users_directory(site: Path) -> None:
    """All that is complete is loaded, listed and verified; nothing is made or changed."""
    uris = filled(site)
    content = (site.parent / "folder" / "large").read_bytes()
    before = all_of(site)
    assert as_user(MALLORY, lambda: read(uris, content), directory=site)
    assert all_of(site) == before


def test_while_its_owner_uses_it(site: Path) -> None:
    """What the owner stores meanwhile is seen at once, whether he has the catalog open or not."""
    uris = filled(site)
    reader, writer = os.pipe()
    answers, tell = os.pipe()
    content = (site.parent / "folder" / "large").read_bytes()

    def work() -> Any:
        read(uris, content)
        os.write(tell, b"1")
        new = os.read(reader, 200).decode()
        assert kcl.load_text(new, local_only=True) == "later"
        os.write(tell, b"2")
        newest = os.read(reader, 200).decode()
        assert kcl.load_text(newest, local_only=True) == "latest"
        os.write(tell, b"3")
        return True

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if as_user(MALLORY, work, directory=site) is True else 1
        finally:
            os._exit(code)
    os.close(tell)
    assert os.read(answers, 1) == b"1"
    # Each time Alice's process ends, the log goes into the catalog; the reader has that open.
    os.write(writer, as_user(ALICE, lambda: kcl.store_text("later", local=True), directory=site).encode())
    assert os.read(answers, 1) == b"2"
    os.write(writer, as_user(ALICE, lambda: kcl.store_text("latest", local=True), directory=site).encode())
    assert os.read(answers, 1) == b"3"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (reader, writer, answers):
        os.close(fd)


def test_without_the_catalog(site: Path) -> None:
    """Where the catalog may not be read, a file is found by its CID, and hashed before it is believed."""
    uris = filled(site)
    os.chmod(site / "catalog.sqlite", 0o600)
    content = (site.parent / "folder" / "large").read_bytes()
    for uri, text in ((uris[0], "alone"), (uris[0] + "?label=x", "alone")):
        assert as_user(MALLORY, lambda uri=uri: kcl.load_text(uri, local_only=True), directory=site) == text
    path = as_user(MALLORY, lambda: kcl.load_file(uris[1], local_only=True), directory=site)
    assert Path(path).read_bytes() == content
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.write(b"other bytes")
    with pytest.raises(Failed, match="DamagedFile"):
        as_user(MALLORY, lambda: kcl.load_file(uris[1], local_only=True), directory=site)


def test_a_directory_of_an_older_version(site: Path) -> None:
    """One without packs is read as it is; and when its owner has gone on with this version, what he stores is seen."""
    uris = filled(site)
    text = as_user(ALICE, lambda: kcl.load_file(uris[0], local_only=True), directory=site)
    with closing(sqlite3.connect(site / "catalog.sqlite")) as db:
        db.executescript("DROP TABLE packed; DROP TABLE packs; PRAGMA user_version=2")
    shutil.rmtree(site / "packs")
    reader, writer = os.pipe()
    answers, tell = os.pipe()

    def work() -> Any:
        assert kcl.load_file(uris[0], local_only=True) == text
        os.write(tell, b"1")
        assert kcl.load_text(os.read(reader, 200).decode(), local_only=True) == "new"
        return True

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if as_user(MALLORY, work, directory=site) is True else 1
        finally:
            os._exit(code)
    os.close(tell)
    assert os.read(answers, 1) == b"1"
    os.write(writer, as_user(ALICE, lambda: kcl.store_text("new", local=True), directory=site).encode())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (reader, writer, answers):
        os.close(fd)


def test_what_is_not_there(site: Path) -> None:
    """Loading from the network into it, and storing, is refused in a sentence that names it and the way out."""
    filled(site)
    before = all_of(site)
    (site.parent / "file").write_text("x")
    for arguments in (["load", ABSENT], ["cat", ABSENT], ["info", ABSENT], ["store", str(site.parent / "file")]):
        code, _, err = as_user(MALLORY, lambda arguments=arguments: run_command(arguments), directory=site)
        assert code == 5, err
        assert str(site) in err
        assert "KACHERY_CLOUD_DIR" in err
    code, _, err = as_user(MALLORY, lambda: run_command(["load", "--local-only", ABSENT]), directory=site)
    assert code == 3, err
    assert all_of(site) == before


def test_a_log_that_was_left_over(site: Path) -> None:
    """A copy, or a snapshot, of a directory in use has a log beside its catalog: what is only in the log is found."""
    copy = site.parent / "copy"

    def work() -> list[str]:
        uris = [kcl.store_text("alone", local=True), kcl.store_text("in the log", local=True)]
        shutil.copytree(site, copy.parent / "by-alice" / "copy")
        return uris

    (site.parent / "by-alice").mkdir()
    os.chown(site.parent / "by-alice", ALICE.uid, ALICE.gid)
    uris = as_user(ALICE, work, directory=site)
    copy = site.parent / "by-alice" / "copy"
    (copy / "catalog.sqlite-shm").unlink()
    assert (copy / "catalog.sqlite-wal").stat().st_size
    before = all_of(copy)

    def listed() -> Any:
        from kachery_cloud.local import repository
        from kachery_cloud.settings.config import load_config

        return [kcl.load_text(uri, local_only=True) for uri in uris], len(repository(load_config()).list_files())

    assert as_user(MALLORY, listed, directory=copy) == [["alone", "in the log"], 2]
    assert all_of(copy) == before


def test_settings_that_may_not_be_read(site: Path) -> None:
    """Settings of the owner's that are private do not keep others from reading what is stored."""
    uris = filled(site)
    (site / "config.json").write_text('{"public": false}')
    os.chmod(site / "config.json", 0o600)
    assert as_user(MALLORY, lambda: kcl.load_text(uris[0], local_only=True), directory=site) == "alone"


def test_a_directory_that_may_not_even_be_read(site: Path) -> None:
    """One that is closed to this user is named, and not taken for an empty one."""
    filled(site)
    os.chmod(site, 0o700)
    code, _, err = as_user(MALLORY, lambda: run_command(["load", "--local-only", ABSENT]), directory=site)
    assert code == 5, err
    assert "KACHERY_CLOUD_DIR" in err


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_disk_that_is_mounted_read_only(site: Path) -> None:
    """A read-only mount is read, by root, too; a load from the network is refused."""
    uris = filled(site)
    mount = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', site]
    environ = {**os.environ, "KACHERY_CLOUD_DIR": str(site)}
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    program = "import sys; from kachery_cloud.commands.main import main; main()"
    command = [*mount, sys.executable, "-c", program]
    before = all_of(site)
    for arguments in (["load", "--local-only", uris[1]], ["ls", "--local-only", uris[2]], ["verify"], ["status"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environ, check=False)
        assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "load", ABSENT], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 5
    assert str(site) in done.stderr
    assert all_of(site) == before
