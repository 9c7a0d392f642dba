"""What is left out of a folder: patterns as git has them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kachery_p2p.errors import InvalidName, NotAFile
from kachery_p2p.repo import Repo
from kachery_p2p.repo.ignoring import IGNORE_NAME, Ignoring
from kachery_p2p.repo.limits import IGNORE_BYTES
from kachery_p2p.repo.scanning import Folder, FolderOptions, Scan


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def make(top: Path, *files: str) -> Path:
    for file in files:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    return top


def found(top: Path, *exclude: str) -> list[str]:
    """The files that would be stored."""
    names: list[str] = []

    def visit(folder: Folder, prefix: str) -> None:
        names.extend(prefix + file.name for file in folder.files)
        for name, below in folder.folders:
            visit(below, f"{prefix}{name}/")

    visit(Scan(top.parent.parent.stat(), FolderOptions(exclude=exclude)).run(top), "")
    return sorted(names)


def test_patterns_of_the_caller(tmp_path: Path) -> None:
    """Of names, of paths, of folders; `!` takes in again what an earlier one left out."""
    top = make(tmp_path / "top", "a.tmp", "b.dat", "keep.tmp", "build/x", "sub/build", "sub/c.tmp", ".hidden")
    assert found(top) == sorted([".hidden", "a.tmp", "b.dat", "build/x", "keep.tmp", "sub/build", "sub/c.tmp"])
    assert found(top, "*.tmp", "!keep.tmp") == [".hidden", "b.dat", "build/x", "keep.tmp", "sub/build"]
    assert found(top, "build/", ".*", "/sub/*.tmp") == ["a.tmp", "b.dat", "keep.tmp", "sub/build"]
    assert found(top, "# a comment", "", "*") == []


def test_files_in_the_folders(tmp_path: Path) -> None:
    """Each holds for its folder and below, the nearest first; the caller's patterns come before all."""
    top = make(tmp_path / "top", "a.log", "b.txt", "sub/a.log", "sub/b.txt", "sub/deep/a.log", "out/b.txt")
    (top / IGNORE_NAME).write_text("\ufeff*.log\r\n/out/\n")
    (top / "sub" / IGNORE_NAME).write_text("!a.log\n/b.txt\n")
    ours = [IGNORE_NAME, f"sub/{IGNORE_NAME}"]
    assert found(top) == sorted([*ours, "b.txt", "sub/a.log", "sub/deep/a.log"])
    assert found(top, "deep", "!b.txt") == sorted([*ours, "b.txt", "sub/a.log", "sub/b.txt"])
    assert found(top, IGNORE_NAME) == ["b.txt", "sub/a.log", "sub/deep/a.log"]


def test_what_is_left_out_does_not_matter(repo: Repo, tmp_path: Path) -> None:
    """A pipe, a link that leads out, the data directory: left out, they hinder nothing, and nothing is read of them."""
    top = make(tmp_path / "top", "file")
    plain = repo.store_directory(top)
    (top / "out").symlink_to("/etc")
    shutil.copytree(repo.directory / "nodes", top / "private")
    (top / "private").chmod(0)
    try:
        assert repo.store_directory(top, options=FolderOptions(exclude=("out", "private/"))) == plain
    finally:
        (top / "private").chmod(0o700)
    assert str(repo.store_directory(tmp_path, options=FolderOptions(exclude=("/repo/", "out")))) != ""


def test_patterns_that_are_none(tmp_path: Path) -> None:
    """They are named, with the file and the line."""
    top = make(tmp_path / "top", "file")
    with pytest.raises(InvalidName, match=r"The pattern '!' is no pattern.*\*\.tmp"):
        Ignoring(["*.tmp", "!"])
    (top / IGNORE_NAME).write_text("*.tmp\n!\n")
    with pytest.raises(InvalidName, match=r"Line 2 of .*top/.kacheryignore, '!',"):
        found(top)
    (top / IGNORE_NAME).write_bytes(b"\xff\n")
    with pytest.raises(InvalidName, match=r"kacheryignore is not UTF-8"):
        found(top)
    (top / IGNORE_NAME).write_bytes(b"#" * (IGNORE_BYTES + 1))
    with pytest.raises(NotAFile):
        found(top)


NAMES = st.sampled_from(["a", "b", "a.x", "b.x", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATTERNS = st.lists(
    st.builds(
        lambda no, start, body, end: no + start + body + end,
        st.sampled_from(["", "", "!"]),
        st.sampled_from(["", "/", "**/"]),
        st.sampled_from(["a", "*.x", "a/b", "a/**", "?", "a/*", "[ab].x", "c"]),
        st.sampled_from(["", "", "/"]),
    ),
    max_size=4,
)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here to be compared with")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.sets(PATHS, min_size=1, max_size=8), top_rules=PATTERNS, sub_rules=PATTERNS)
def test_git_leaves_out_the_same(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str], top_rules: list[str], sub_rules: list[str]
) -> None:
    """Of any tree, git would take in the files that we do."""
    top = tmp_path_factory.mktemp("git") / "top"
    top.mkdir()
    for path in paths:
        if not any(other.startswith(f"{path}/") for other in paths):
            make(top, path)
    rules = {top: top_rules}
    if (top / "a").is_dir():
        rules[top / "a"] = sub_rules
    for folder, lines in rules.items():
        (folder / IGNORE_NAME).write_text("\n".join(lines))
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(top)]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-o", "-z", f"--exclude-per-directory={IGNORE_NAME}"], check=True, capture_output=True
    ).stdout.decode()
    expected = sorted(name for name in listed.split("\0") if name)
    assert found(top, "/.git/") == expected
