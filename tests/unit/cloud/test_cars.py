"""`export` and `import` as users meet them: results, refusals, pipes, and what is left after Ctrl-C and a kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud.commands import main as cli
from kachery_cloud.local import close_repositories
from tests.helpers.patience import PATIENCE

MIB = 1 << 20
ELSEWHERE = "ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@pytest.fixture(autouse=True)
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Goes to a data directory; the first is `here`."""

    def go(name: str) -> Path:
        close_repositories()
        monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / name))
        return tmp_path / name

    go("here")
    yield go
    close_repositories()


def run(*arguments: object, data: bytes = b"") -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments], input=data)


def store(tmp_path: Path, size: int = 3 * MIB) -> tuple[str, Path]:
    path = tmp_path / "input"
    path.write_bytes(os.urandom(size))
    return kcl.store_file(path, local=True), path


def folder(tmp_path: Path) -> tuple[str, Path]:
    top = tmp_path / "folder"
    (top / "notes").mkdir(parents=True)
    (top / "notes" / "readme.txt").write_text("read me", encoding="utf-8")
    (top / "data").write_bytes(os.urandom(2 * MIB))
    return kcl.store_dir(top, local=True), top


def test_there_and_back(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """The path is printed, then the URIs, one a line; the data is whole, and under its own URI."""
    file, path = store(tmp_path)
    tree, top = folder(tmp_path)
    done = run("export", file, tree + "?label=x", tmp_path / "out.car")
    assert (done.exit_code, done.output) == (0, f"{tmp_path / 'out.car'}\n")
    at("there")
    done = run("import", tmp_path / "out.car")
    assert (done.exit_code, done.output) == (0, f"{file}\n{tree}\n")
    assert Path(kcl.load_file(file, local_only=True)).read_bytes() == path.read_bytes()
    assert kcl.load_text(f"{tree}/notes/readme.txt", local_only=True) == "read me"
    assert (
        Path(kcl.load_dir(tree, tmp_path / "copy", local_only=True)).joinpath("data").read_bytes()
        == (top / "data").read_bytes()
    )


def test_it_lies_there_as_if_it_had_been_loaded(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """A file that came in a CAR file is listed and counted, goes with `gc --keep`, and with `rm`."""
    file, _ = store(tmp_path)
    run("export", file, tmp_path / "out.car")
    at("there")
    for take_away in (lambda: kcl.remove(file, force=True), lambda: kcl.gc(0, force=True)):
        kcl.import_car(tmp_path / "out.car", local=True)
        assert [(each.uri, each.kind, each.complete) for each in kcl.list()] == [(file, "loaded", True)]
        assert {row.what: row.files for row in kcl.du() if row.what in ("loaded", "unlisted")} == {
            "loaded": 1,
            "unlisted": 0,
        }
        take_away()
        assert kcl.list() == []
        with pytest.raises(kcl.ContentNotFound):
            kcl.load_file(file, local_only=True)


def test_json(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """What a program wants to know."""
    file, _ = store(tmp_path)
    made = json.loads(run("export", file, tmp_path / "out.car", "--json").output)
    size = (tmp_path / "out.car").stat().st_size
    assert made == {"uris": [file], "path": str(tmp_path / "out.car"), "blocks": 4, "size": size, "kept": 0}
    came = json.loads(run("import", tmp_path / "out.car", "--json").output)
    assert came == {"roots": [{"uri": file, "kind": "file", "size": 3 * MIB}], "blocks": 4}


def test_a_part_of_a_folder(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """A URI with a path: what it leads to, and nothing above it."""
    tree, _ = folder(tmp_path)
    made = kcl.export_car(f"{tree}/notes", tmp_path / "out.car", local_only=True)
    at("there")
    assert kcl.import_car(tmp_path / "out.car", local=True).uris == list(made.uris)
    assert made.uris[0] != tree
    assert kcl.load_text(f"{made.uris[0]}/readme.txt", local_only=True) == "read me"


def test_pipes(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """With `-` both go through pipes; the figures go to standard error."""
    tree, _ = folder(tmp_path)
    done = run("export", tree, "-", "--local-only")
    assert done.exit_code == 0
    assert done.stderr.startswith(f"{len(done.stdout_bytes):,} bytes, ")
    at("there")
    assert run("import", "-", data=done.stdout_bytes).output == f"{tree}\n"
    assert kcl.load_text(f"{tree}/notes/readme.txt", local_only=True) == "read me"


def test_file_objects(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """In Python both take files that are open."""
    file, path = store(tmp_path)
    out = io.BytesIO()
    assert kcl.export_car(file, out, local_only=True).path is None
    at("there")
    assert kcl.import_car(io.BytesIO(out.getvalue()), local=True).uris == [file]
    assert Path(kcl.load_file(file, local_only=True)).read_bytes() == path.read_bytes()


def test_inside_an_event_loop(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """A program that runs trio itself can import, too."""
    file, _ = store(tmp_path)
    kcl.export_car(file, tmp_path / "out.car", local_only=True)
    at("there")

    async def main() -> list[str]:
        return kcl.import_car(tmp_path / "out.car", local=True).uris

    assert trio.run(main) == [file]


def test_nothing_is_replaced(tmp_path: Path) -> None:
    """A file that is there stays, unless it is said; so does a folder, always."""
    file, _ = store(tmp_path)
    (tmp_path / "out.car").write_text("mine", encoding="utf-8")
    done = run("export", file, tmp_path / "out.car")
    assert done.exit_code == 2
    assert "exists already" in done.stderr
    assert "--force" in done.stderr
    assert (tmp_path / "out.car").read_text(encoding="utf-8") == "mine"
    assert run("export", file, tmp_path / "out.car", "--force").exit_code == 0
    assert (tmp_path / "out.car").stat().st_size > 3 * MIB
    assert run("export", file, tmp_path, "--force").exit_code == 2
    assert run("export", file, tmp_path / "no" / "such" / "folder.car").exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "input", "out.car"]


def test_what_is_not_here(tmp_path: Path) -> None:
    """With --local-only it is an error that says so, and no file is made."""
    done = run("export", ELSEWHERE, tmp_path / "out.car", "--local-only")
    assert done.exit_code == 3
    assert "is not on this machine" in done.stderr
    assert not (tmp_path / "out.car").exists()


def test_a_folder_of_which_a_part_is_missing(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """With --local-only an incomplete folder is an error, too."""
    tree, _ = folder(tmp_path)
    kcl.export_car(tree, tmp_path / "out.car", local_only=True)
    cut = (tmp_path / "out.car").read_bytes()[: 2 * MIB]
    at("there")
    (tmp_path / "cut.car").write_bytes(cut)
    done = run("import", tmp_path / "cut.car")
    assert done.exit_code == 4
    assert "cut short" in done.stderr
    assert f"kachery-cloud-load {tree}" in done.stderr
    assert run("export", tree, tmp_path / "again.car", "--local-only").exit_code == 3
    assert run("import", tmp_path / "out.car").exit_code == 0
    assert run("export", tree, tmp_path / "again.car", "--local-only").exit_code == 0
    assert (tmp_path / "again.car").read_bytes() == (tmp_path / "out.car").read_bytes()


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [("missing.car", 2, "missing.car"), (".", 2, "is a folder"), ("text", 2, "not a CAR file")],
)
def test_what_cannot_be_imported(tmp_path: Path, name: str, code: int, says: str) -> None:
    """A sentence that names the file, and its exit code."""
    (tmp_path / "text").write_text("just a text, and long enough to be one", encoding="utf-8")
    done = run("import", tmp_path / name)
    assert (done.exit_code, done.stdout) == (code, "")
    assert says in done.stderr
    assert str(tmp_path) in done.stderr


def test_a_file_that_was_tampered_with(tmp_path: Path, at: Callable[[str], Path]) -> None:
    """Wrong bytes in it are damage of what is here, and no fault of the network; so is an end that is not there."""
    file, _ = store(tmp_path, 100)
    kcl.export_car(file, tmp_path / "out.car")
    data = (tmp_path / "out.car").read_bytes()
    at("there")
    for wrong, said in ((data[:-1] + bytes([data[-1] ^ 1]), "HashMismatch"), (data[:-1], "MalformedDag")):
        (tmp_path / "wrong.car").write_bytes(wrong)
        done = run("import", tmp_path / "wrong.car", "--json")
        assert done.exit_code == 4
        assert json.loads(done.stdout)["error"]["type"] == said


@pytest.mark.parametrize("uris", [[], [1], ["no uri"], "", None])
def test_wrong_arguments(tmp_path: Path, uris: object) -> None:
    """Each is an error of ours, and makes nothing."""
    with pytest.raises(kcl.KacheryError):
        kcl.export_car(uris, tmp_path / "out.car")  # type: ignore[arg-type]
    assert not (tmp_path / "out.car").exists()


def importing(source: Path) -> subprocess.Popen[bytes]:
    """The command, reading a pipe."""
    code = "from kachery_cloud.commands.entry import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_is_left(tmp_path: Path, at: Callable[[str], Path], number: signal.Signals) -> None:
    """Ctrl-C, while a pipe is silent, ends it at once with a sentence; after that, and after a kill, what had come is
    not written again."""
    file, path = store(tmp_path, 8 * MIB)
    kcl.export_car(file, tmp_path / "out.car", local_only=True)
    there = at("there")
    process = importing(there)
    assert process.stdin is not None
    process.stdin.write((tmp_path / "out.car").read_bytes()[: 5 * MIB])
    process.stdin.flush()
    partial = there / "partial" / file.removeprefix("ipfs://")
    # As many blocks as there were sent are on the disk, of a file that is a hole at first.
    wait_for(lambda: partial.exists() and partial.stat().st_blocks * 512 >= 4 * MIB)
    process.send_signal(number)
    out, err = process.communicate()
    if number == signal.SIGINT:
        assert (process.returncode, out) == (130, b"")
        assert b"What has come is kept" in err
    inode = partial.stat().st_ino
    assert run("import", tmp_path / "out.car").exit_code == 0
    copy = Path(kcl.load_file(file, local_only=True))
    assert copy.read_bytes() == path.read_bytes()
    assert copy.stat().st_ino == inode
    assert not list((there / "tmp").iterdir())
