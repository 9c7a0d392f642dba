"""Directories of other users beneath one's own: what may be read is read, and nothing there is made or changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from tests.helpers.users import ALICE, BOB, LAB, MALLORY, User, as_user, needs_root, open_folder, run_command, warm_up

pytestmark = needs_root

ABSENT = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("warm")
    warm_up(folder)
    # Others may not be able to read where it is installed.
    (folder / "folder").mkdir()
    (folder / "folder" / "a.txt").write_text("in a folder")
    content = os.urandom(3 << 20)
    (folder / "folder" / "large").write_bytes(content)
    (folder / "dest").mkdir()
    (folder / "site").mkdir()
    before = {name: os.environ.get(name) for name in ("KACHERY_CLOUD_DIR", "KACHERY_CLOUD_SHARED_DIRS")}
    try:
        os.environ["KACHERY_CLOUD_DIR"] = str(folder / "site")
        uris = stored(folder / "folder")
        os.environ["KACHERY_CLOUD_DIR"] = str(folder / "own")
        os.environ["KACHERY_CLOUD_SHARED_DIRS"] = str(folder / "site")
        read_all(uris, content, folder / "site", folder / "dest")
        for command in ("rm", "share", "repair"):
            run_command([command, ABSENT])
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture
def top() -> Iterator[Path]:
    with open_folder() as folder:
        (folder / "folder").mkdir()
        (folder / "folder" / "a.txt").write_text("in a folder")
        (folder / "folder" / "large").write_bytes(os.urandom(3 << 20))
        yield folder


def made_for(user: User, path: Path, mode: int, gid: int | None = None) -> Path:
    """An empty folder of a user's."""
    path.mkdir()
    os.chown(path, user.uid, user.gid if gid is None else gid)
    os.chmod(path, mode)
    return path


def filled(directory: Path, umask: int = 0o022) -> list[str]:
    """What Alice stores there: a text, a large file, and a folder."""
    return as_user(ALICE, lambda: stored(directory.parent / "folder"), directory=directory, umask=umask)


def stored(folder: Path) -> list[str]:
    """The same as this user."""
    return [
        kcl.store_text("alone", local=True),
        kcl.store_file(folder / "large", local=True),
        kcl.store_dir(folder, local=True),
    ]


def beneath(work: Any, *layers: Path) -> Any:
    """Work with these directories beneath one's own."""

    def run() -> Any:
        os.environ["KACHERY_CLOUD_SHARED_DIRS"] = os.pathsep.join(map(str, layers))
        return work()

    return run


def all_of(directory: Path) -> list[tuple[str, int, int]]:
    """Everything in a folder, with what shows a change."""
    return sorted(
        (str(path), status.st_mtime_ns, status.st_size)
        for path in (directory, *directory.rglob("*"))
        if (status := path.lstat())
    )


def read_all(uris: list[str], content: bytes, layer: Path, dest: Path) -> bool:
    """All that can be done with what is in a layer, without the network."""
    text, large, folder = uris
    assert kcl.load_text(text, local_only=True) == "alone"
    path = Path(kcl.load_file(large, local_only=True))
    assert path.is_relative_to(layer)
    assert path.read_bytes() == content
    assert kcl.load_bytes(large, 5, 9, local_only=True) == content[5:9]
    with kcl.open(large, local_only=True) as file:
        file.seek(-7, os.SEEK_END)
        assert file.read() == content[-7:]
    assert [entry["name"] for entry in kcl.list_dir(folder, local_only=True)] == ["a.txt", "large"]
    assert kcl.load_text(folder + "/a.txt", local_only=True) == "in a folder"
    made = Path(kcl.load_dir(folder, dest / "made", local_only=True))
    assert (made / "a.txt").read_text() == "in a folder"
    assert (made / "large").read_bytes() == content
    named = Path(kcl.load_file(large + "?label=run.dat", local_only=True))
    assert named.name == "run.dat"
    assert named.read_bytes() == content
    taken = Path(kcl.load_file(large, dest=dest / "copy.dat", local_only=True))
    assert taken.read_bytes() == content
    info = kcl.load_file_info(large, local_only=True)
    assert (info["local"], info["shared"], info["kept"]) == (True, str(layer), "stored")
    assert kcl.load_file_info(folder, local_only=True)["local"]
    assert {item.shared for item in kcl.list()} == {str(layer)}
    assert len(kcl.list()) == 3
    assert kcl.list(own=True) == []
    (row,) = [row for row in kcl.du() if row.what == f"in {layer}"]
    assert (row.files, row.here) == (3, False)
    assert kcl.diff(folder, made) == kcl.diff(folder, folder)
    kcl.export_car(large, dest / "out.car", local_only=True)
    assert (dest / "out.car").stat().st_size > len(content)
    assert kcl.verify() == []
    return True


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_that_looks_up_sees_it(top: Path, umask: int) -> None:
    """Every function finds what lies in another user's directory; the directory stays as it is."""
    site = made_for(ALICE, top / "site", 0o755)
    own = made_for(MALLORY, top / "own", 0o700)
    dest = made_for(MALLORY, top / "dest", 0o700)
    uris = filled(site)
    content = (top / "folder" / "large").read_bytes()
    before = all_of(site)
    work = beneath(lambda: read_all(uris, content, site, dest), site)
    assert as_user(MALLORY, work, directory=own, umask=umask)
    assert all_of(site) == before


def test_a_directory_that_the_user_may_write_to(top: Path) -> None:
    """One that a group shares is a layer, too: then a member changes nothing in it, though he could."""
    site = made_for(ALICE, top / "site", 0o2770, LAB)
    own = made_for(BOB, top / "own", 0o700)
    dest = made_for(BOB, top / "dest", 0o700)
    uris = filled(site)
    content = (top / "folder" / "large").read_bytes()
    before = all_of(site)
    assert as_user(BOB, beneath(lambda: read_all(uris, content, site, dest), site), directory=own)
    assert all_of(site) == before


def test_nothing_of_it_is_removed_or_looked_after(top: Path) -> None:
    """`rm`, `verify` and `repair` say where it is, and that it is its owner's."""
    site = made_for(ALICE, top / "site", 0o755)
    own = made_for(MALLORY, top / "own", 0o700)
    uris = filled(site)
    before = all_of(site)
    for arguments in (["rm", uris[1]], ["rm", "--force", uris[0]], ["verify", uris[1]], ["repair", uris[1]]):
        work = beneath(lambda arguments=arguments: run_command(arguments), site)
        code, _, err = as_user(MALLORY, work, directory=own)
        assert code == 3, err
        assert str(site) in err
        assert "owner" in err
    code, _, err = as_user(MALLORY, beneath(lambda: run_command(["share", uris[1]]), site), directory=own)
    assert code == 3, err
    assert str(site) in err
    assert all_of(site) == before


def test_a_copy_of_ones_own_is_removed(top: Path) -> None:
    """What is in both goes from one's own directory alone; `rm` says that the other still has it."""
    site = made_for(ALICE, top / "site", 0o755)
    own = made_for(MALLORY, top / "own", 0o700)
    filled(site)

    def work() -> Any:
        uri = kcl.store_file(top / "folder" / "large", local=True)
        mine = kcl.load_file(uri, local_only=True)
        refused = run_command(["rm", "--timeout", "0.1", uri])
        done = run_command(["rm", "--force", uri])
        return mine, refused, done, kcl.load_file(uri, local_only=True)

    mine, refused, done, theirs = as_user(MALLORY, beneath(work, site), directory=own)
    assert mine.startswith(str(own))
    assert refused[0] != 0
    assert "does not count" in refused[2]
    assert str(site) in refused[2]
    assert done[0] == 0, done
    assert str(site) in done[1]
    assert theirs.startswith(str(site))


def test_while_its_owner_stores(top: Path) -> None:
    """A reader sees each thing that the owner has stored just now, and is not in his way."""
    site = made_for(ALICE, top / "site", 0o755)
    own = made_for(MALLORY, top / "own", 0o700)
    filled(site)
    count = 40
    uris, tell_uri = os.pipe()
    answers, tell = os.pipe()

    def store() -> Any:
        for number in range(count):
            os.write(tell_uri, kcl.store_text(f"text {number}", local=True).encode() + b"\n")
        assert os.read(answers, 1) == b"."  # the catalog stays open until the last was read
        return True

    def read() -> Any:
        with os.fdopen(uris) as lines:
            for number in range(count):
                assert kcl.load_text(lines.readline().strip(), local_only=True) == f"text {number}"
        os.write(tell, b".")
        return True

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(tell_uri)  # so that a writer that fails is noticed
            code = 0 if as_user(MALLORY, beneath(read, site), directory=own) is True else 1
        finally:
            os._exit(code)
    os.close(tell)  # so that a reader that fails is noticed
    try:
        assert as_user(ALICE, store, directory=site) is True
    finally:
        for fd in (uris, tell_uri, answers):
            os.close(fd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0


@pytest.mark.parametrize("how", ["closed", "missing", "corrupt"])
def test_one_that_cannot_be_used(top: Path, how: str) -> None:
    """One line says which, and why; what is in one's own, and in the next one, is loaded all the same."""
    site = made_for(ALICE, top / "site", 0o755)
    second = made_for(ALICE, top / "second", 0o755)
    own = made_for(MALLORY, top / "own", 0o700)
    filled(site)
    uris = filled(second)
    if how == "closed":
        os.chmod(site, 0o700)
    elif how == "missing":
        shutil.rmtree(site)
    else:
        for name in ("catalog.sqlite", "catalog.sqlite-wal"):  # all of it may still be in the log
            (site / name).write_bytes(b"no database " * 700)
    mine = as_user(MALLORY, lambda: kcl.store_text("mine", local=True), directory=own)

    def work() -> Any:
        assert kcl.load_text(mine, local_only=True) == "mine"
        path = kcl.load_file(uris[1], local_only=True)
        missing = run_command(["load", "--local-only", ABSENT])
        return path, missing, run_command(["status"]), run_command(["status", "--json"])

    path, missing, status, as_json = as_user(MALLORY, beneath(work, site, second), directory=own)
    assert path.startswith(str(second))
    assert missing[0] == 3
    assert status[0] == 0, status
    assert f"{site} cannot be used now" in " ".join(status[1].split())
    assert f"{second}: 3 files" in " ".join(status[1].split())
    import json

    shared = json.loads(as_json[1])["shared"]
    assert [each["directory"] for each in shared] == [str(site), str(second)]
    assert shared[0]["files"] is None
    assert str(site) in shared[0]["problem"]
    assert (shared[1]["files"], shared[1]["problem"]) == (3, "")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_one_that_is_mounted_read_only(top: Path) -> None:
    """A read-only mount is a layer for everybody, root too."""
    site = made_for(ALICE, top / "site", 0o755)
    uris = filled(site)
    mount = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', site]
    environ = {
        **os.environ,
        "KACHERY_CLOUD_DIR": str(top / "own"),
        "KACHERY_CLOUD_SHARED_DIRS": str(site),
        "KACHERY_CLOUD_PUBLIC": "off",
        "KACHERY_CLOUD_MDNS": "off",
    }
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    program = "import sys; from kachery_cloud.commands.main import main; main()"
    before = all_of(site)
    for arguments, says in (
        (["load", "--local-only", uris[1]], str(site)),
        (["cat", "--local-only", uris[0]], "alone"),
        (["ls", "--local-only", uris[2]], "a.txt"),
        (["list"], str(site)),
        (["status"], str(site)),
    ):
        command = [*mount, sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
    assert all_of(site) == before
