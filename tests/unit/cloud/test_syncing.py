"""A directory loaded into a folder that is there: what differs is written, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kachery_cloud as kcl
from kachery_cloud.commands import main as cli
from kachery_cloud.errors import FileExists, InvalidArgument, InvalidName
from kachery_cloud.local import close_repositories
from tests.helpers.trees import Tree, make_tree

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    yield tmp_path / "data"
    close_repositories()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments])


def found(top: Path) -> Tree:
    """The other way."""
    tree: Tree = {}
    for path in top.iterdir():
        if path.is_symlink():
            tree[path.name] = os.readlink(path)
        else:
            tree[path.name] = found(path) if path.is_dir() else path.read_bytes()
    return tree


LARGE = bytes(range(256)) * 5_000
THERE: Tree = {"a": b"a", ".hidden": b"", "large": LARGE, "link": "a", "sub": {"b": b"b", "empty": {}, "up": "../a"}}


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return kcl.store_dir(make_tree(tmp_path / "there", THERE), local=True)


def stamps(top: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in top.rglob("*")}


def test_what_is_the_same_is_not_touched(uri: str, tmp_path: Path) -> None:
    """Loaded again, nothing is written, not even a folder's time."""
    out = tmp_path / "out"
    assert kcl.load_dir(uri, out).written == 6
    before, top = stamps(out), out.stat().st_mtime_ns
    again = kcl.load_dir(uri, out)
    assert (again, again.written, again.removed, again.skipped) == (str(out), 0, (), ())
    assert (stamps(out), out.stat().st_mtime_ns) == (before, top)


def test_only_what_differs_is_written(uri: str, tmp_path: Path) -> None:
    """A file with other bytes, a missing one, a folder, a link elsewhere. What else is there stays."""
    out = Path(kcl.load_dir(uri, tmp_path / "out"))
    make_tree(out, {"mine": b"mine", "my folder": {"x": b"x"}})
    (out / "a").write_bytes(b"A")
    (out / "a").chmod(0o640)
    shutil.rmtree(out / "sub" / "empty")
    (out / "link").unlink()
    (out / "link").symlink_to("mine")
    before = stamps(out)
    assert kcl.load_dir(uri, out).written == 2
    assert found(out) == {**THERE, "mine": b"mine", "my folder": {"x": b"x"}}
    assert (out / "a").stat().st_mode & 0o777 == 0o640
    after = stamps(out)
    assert {path for path in before if before[path] != after.get(path)} == {
        str(out / name) for name in ("a", "link", "sub")
    }


def test_delete_removes_what_is_not_in_the_directory(uri: str, tmp_path: Path) -> None:
    """Files, folders, links; what a link leads to stays, and so does all that is outside."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"x")
    out = Path(kcl.load_dir(uri, tmp_path / "out"))
    make_tree(
        out, {"mine": b"mine", "my": {"deep": {"x": b"x"}}, "to": str(tmp_path / "outside"), "sub": {".new": b""}}
    )
    assert set(kcl.load_dir(uri, out, delete=True).removed) == {"mine", "my", "to", "sub/.new"}
    assert found(out) == THERE
    assert found(tmp_path / "outside") == {"x": b"x"}


def test_nothing_goes_through_a_symbolic_link(uri: str, tmp_path: Path) -> None:
    """A link where the directory has a folder or a file is replaced itself; what it leads to is not touched."""
    outside = make_tree(tmp_path / "outside", {"b": b"theirs", "extra": b""})
    out = make_tree(tmp_path / "out", {"sub": str(outside), "a": str(outside / "b"), "large": str(outside / "none")})
    with pytest.raises(FileExists, match=r"'a', 'large', 'sub' in .*--force"):
        kcl.load_dir(uri, out, overwrite=False)
    kcl.load_dir(uri, out, delete=True)
    assert found(out) == THERE
    assert found(outside) == {"b": b"theirs", "extra": b""}
    (tmp_path / "name").symlink_to(out)
    with pytest.raises(FileExists, match="exists already"):
        kcl.load_dir(uri, tmp_path / "name")


def test_what_is_in_the_way_needs_a_word(uri: str, tmp_path: Path) -> None:
    """Files are replaced in Python, and with --force; folders go with delete alone. Until then nothing is written."""
    out = make_tree(tmp_path / "out", {"a": b"mine"})
    result = run("load", uri, "--dest", out)
    assert (result.exit_code, found(out)) == (2, {"a": b"mine"})
    assert "--force" in result.stderr
    with pytest.raises(FileExists, match=r"'a'.*overwrite=True"):
        kcl.load_dir(uri, out, overwrite=False)
    assert run("load", uri, "--dest", out, "--force").output == f"{out}\n"
    assert found(out) == THERE
    (out / "a").unlink()
    make_tree(out, {"a": {"deep": b"mine"}})
    before = found(out)
    with pytest.raises(FileExists, match=r"'a'.*delete=True"):
        kcl.load_dir(uri, out)
    assert found(out) == before
    result = run("load", uri, "--dest", out, "--delete", "--force", "--json")
    assert result.exit_code == 0
    assert '"written": 1' in result.stdout
    assert found(out) == THERE
    with pytest.raises(InvalidArgument):
        kcl.load_dir(uri, out, delete="no")  # type: ignore[arg-type]


def test_new_files_need_no_word(uri: str, tmp_path: Path) -> None:
    """A folder that has other files takes the directory beside them, also from the command."""
    out = make_tree(tmp_path / "out", {"mine": b"mine"})
    assert run("load", uri, "--dest", out).exit_code == 0
    assert found(out) == {**THERE, "mine": b"mine"}


@pytest.mark.parametrize("where", [".", "above"])
def test_the_home_directory_is_nothing_to_be_written_to(
    uri: str, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a hidden file is a command. Nor is a folder that holds it."""
    home = tmp_path / "above" / "home"
    home.mkdir(parents=True)
    (home / "x").write_bytes(b"")
    monkeypatch.setenv("HOME", str(home))
    for delete in (False, True):
        with pytest.raises(FileExists, match="home directory"):
            kcl.load_dir(uri, home if where == "." else home.parent, delete=delete)
    assert found(home) == {"x": b""}


@pytest.mark.parametrize("where", [".", "..", "ipfs"])
def test_the_data_directory_is_nothing_to_be_written_to(uri: str, data: Path, where: str) -> None:
    """Nor deleted."""
    (data / "ipfs" / "x").write_bytes(b"")
    before = sorted(data.rglob("*"))
    with pytest.raises(FileExists, match="data directory"):
        kcl.load_dir(uri, data / where, delete=True)
    assert sorted(data.rglob("*")) == before


def test_two_names_that_are_one_here(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that takes `A` for `a`, the second is an error and does not replace the first."""
    uri = kcl.store_dir(make_tree(tmp_path / "two", {"A": b"A", "a": b"a"}), local=True)
    out = make_tree(tmp_path / "out", {"a": b"A", "mine": b""})
    real_stat, real_open = os.stat, os.open

    def stat(path: Any, **named: Any) -> os.stat_result:
        return real_stat("a" if path == "A" else path, **named)

    def open_(path: Any, *flags: Any, **named: Any) -> int:
        return real_open("a" if path == "A" else path, *flags, **named)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "open", open_)
    with pytest.raises(InvalidName, match="tell the two names apart"):
        kcl.load_dir(uri, out)
    monkeypatch.undo()
    assert found(out) == {"a": b"A", "mine": b""}


# --- any trees -----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", ".x", "d e", "ü"])
FILES = [b"", b"1", b"2", b"33", LARGE, b"x" * 40_000]
CONTENTS = st.one_of(
    st.integers(0, len(FILES) - 1).map(lambda number: FILES[number]), st.sampled_from(["a", "gone", "b"])
)
TREES = st.recursive(
    st.dictionaries(NAMES, CONTENTS, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(CONTENTS, inner), max_size=4),
    max_leaves=6,
)


def merged(old: Tree, new: Tree) -> Tree:
    """What is to be there without delete."""
    both = dict(old)
    for name, what in new.items():
        before = old.get(name)
        both[name] = merged(before, what) if isinstance(what, dict) and isinstance(before, dict) else what
    return both


def needs_delete(old: Tree, new: Tree) -> bool:
    """Whether a folder is where the other tree has something else."""
    return any(
        isinstance(old.get(name), dict) and (not isinstance(what, dict) or needs_delete(old[name], what))
        for name, what in new.items()
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=TREES, new=TREES, delete=st.booleans())
def test_any_folder_becomes_any_directory(
    tmp_path_factory: pytest.TempPathFactory, old: Tree, new: Tree, delete: bool
) -> None:
    """With delete it is the directory, without it both; the second time nothing is written; the URI is the same."""
    base = tmp_path_factory.mktemp("trees")
    uri = kcl.store_dir(make_tree(base / "new", new), local=True)
    out = make_tree(base / "out", old)
    try:
        kcl.load_dir(uri, out, delete=delete)
    except FileExists:
        assert not delete
        assert needs_delete(old, new)
        assert found(out) == old
        return
    assert found(out) == (new if delete else merged(old, new))
    assert kcl.load_dir(uri, out, delete=delete).written == 0
    assert [path.name for path in out.iterdir() if path.name.endswith(".part")] == []
    if delete:
        assert kcl.store_dir(out, local=True) == uri


# --- crashes ---------------------------------------------------------------------------------------------------------

# Dies before one of its changes to names.
DIE = """
import os, signal, sys
import kachery_cloud as kcl

left = int(sys.argv[3])
def dying(name):
    real = getattr(os, name)
    def call(*args, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)
    setattr(os, name, call)
for name in ("rename", "mkdir", "symlink", "fsync", "fchmod"):
    dying(name)
kcl.load_dir(sys.argv[1], sys.argv[2], local_only=True, delete=True)
"""


def test_killed_at_any_moment_each_file_is_the_old_or_the_new_one(uri: str, tmp_path: Path) -> None:
    """And the next load finishes it, and clears away what was left."""
    old: Tree = {"a": b"old", "large": LARGE[::-1], "link": "b", "sub": {"b": b"old"}, "extra": {"x": b"x"}}
    for calls in range(40):
        out = make_tree(tmp_path / f"out{calls}", old)
        done = subprocess.run([sys.executable, "-c", DIE, uri, str(out), str(calls)], cwd=ROOT, capture_output=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        for name, what in found(out).items():
            if name in ("a", "large", "link", ".hidden"):
                assert what in (old.get(name), THERE[name])
            elif name == "sub":
                assert what["b"] in (b"old", b"b")
        kcl.load_dir(uri, out, delete=True)
        assert found(out) == THERE
        if done.returncode == 0:
            break
    else:
        raise AssertionError("it was killed each time")
    assert calls > 5
