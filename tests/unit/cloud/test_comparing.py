"""What differs between directories, told by their CIDs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kachery_cloud as kcl
from kachery_cloud.commands import main as cli
from kachery_cloud.comparing import Differences
from kachery_cloud.errors import ContentNotFound, FileMissing, InvalidURI
from kachery_cloud.local import close_repositories, repository
from tests.helpers.trees import Tree, make_tree


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    yield tmp_path / "data"
    close_repositories()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, ["diff", *(str(a) for a in arguments)])


def expected(one: Tree, other: Tree, prefix: str = "") -> Differences:
    """The same, from the trees themselves."""
    added = [prefix + name for name in other if name not in one]
    removed = [prefix + name for name in one if name not in other]
    changed: list[str] = []
    for name in one.keys() & other.keys():
        mine, theirs = one[name], other[name]
        if isinstance(mine, dict) and isinstance(theirs, dict):
            inner = expected(mine, theirs, f"{prefix}{name}/")
            added += inner.added
            removed += inner.removed
            changed += inner.changed
        elif mine != theirs:
            changed.append(prefix + name)
    return Differences(tuple(sorted(added)), tuple(sorted(removed)), tuple(sorted(changed)))


LARGE = bytes(range(256)) * 10_000
NAMES = st.sampled_from(["a", "b", "c", ".x", "d e"])
FILES = [b"", b"1", b"2", LARGE, LARGE[1:]]
CONTENTS = st.one_of(st.integers(0, len(FILES) - 1).map(lambda number: FILES[number]), st.sampled_from(["a", "gone"]))
TREES = st.recursive(
    st.dictionaries(NAMES, CONTENTS, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(CONTENTS, inner), max_size=4),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=TREES, other=TREES, profile=st.sampled_from(["unixfs-v1-2025", "unixfs-v0-2015", "random-16k"]))
def test_any_two_trees(tmp_path_factory: pytest.TempPathFactory, one: Tree, other: Tree, profile: str) -> None:
    """Directories, and a directory with a folder in either order: what differs in the trees, and nothing else."""
    base = tmp_path_factory.mktemp("trees")
    first = kcl.store_dir(make_tree(base / "one", one), local=True, profile=profile)
    second = kcl.store_dir(make_tree(base / "other", other), local=True, profile=profile)
    wanted = expected(one, other)
    assert kcl.diff(first, second, local_only=True) == wanted
    assert kcl.diff(first, base / "other", local_only=True) == wanted
    assert kcl.diff(base / "one", second, local_only=True) == wanted
    assert bool(wanted) == (first != second)


def test_the_command_is_like_diff(tmp_path: Path) -> None:
    """A line for each, in the order of names; 0 for equal, 1 for different, and 2 and more for what it could not do."""
    one = make_tree(tmp_path / "one", {"a": b"a", "gone": {"x": b""}, "sub": {"b": b"b"}})
    other = make_tree(tmp_path / "other", {"a": b"A", "new": b"", "sub": {"b": b"b", "c": b""}})
    first, second = (kcl.store_dir(path, local=True) for path in (one, other))
    result = run(first, second)
    assert (result.exit_code, result.output) == (1, "! a\n- gone\n+ new\n+ sub/c\n")
    assert (run(first, one).exit_code, run(first, one).output) == (0, "")
    assert run(f"{first}/sub", one / "sub").exit_code == 0
    result = run(other, first, "--json")
    assert json.loads(result.output) == {"added": ["gone"], "removed": ["new", "sub/c"], "changed": ["a"]}
    assert run(first, other, "--exclude", "new", "--exclude", "c", "--exclude", "/a").output == "- a\n- gone\n"
    for wrong in (("nothing", first), (one, other), (first, "ipfs://nothing"), (first,)):
        assert run(*wrong).exit_code == 2
    assert run(first, "ipfs://QmSWRWFxmGk7ZRpTuXsTp6TM5pThpuW4mrJMnXikPX6sek", "--local-only").exit_code == 3


def test_mistakes_are_named(tmp_path: Path) -> None:
    """A path that is not there, and two folders, which another program compares."""
    uri = kcl.store_dir(make_tree(tmp_path / "one", {"a": b"a"}), local=True)
    with pytest.raises(FileMissing, match="nothing, and it is no URI"):
        kcl.diff(uri, tmp_path / "nothing")
    with pytest.raises(InvalidURI, match="diff -r"):
        kcl.diff(tmp_path, tmp_path)
    with pytest.raises(ContentNotFound):
        kcl.diff("ipfs://QmSWRWFxmGk7ZRpTuXsTp6TM5pThpuW4mrJMnXikPX6sek", uri, local_only=True)


def test_single_files(tmp_path: Path) -> None:
    """Two files are the same or not."""
    path = make_tree(tmp_path / "one", {"a": LARGE, "b": b"b"})
    large, small = (kcl.store_file(path / name, local=True) for name in "ab")
    assert not kcl.diff(large, path / "a")
    assert not kcl.diff(small, small)
    assert kcl.diff(large, path / "b") == kcl.diff(large, small) == Differences(changed=(".",))
    assert kcl.diff(large, kcl.store_dir(path, local=True)) == Differences(changed=(".",))


def test_no_file_is_loaded_or_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not asked for; one of the folder that was hashed before, and has not changed, is not read."""
    from kachery_p2p.repo import hashing, seen

    monkeypatch.setattr(seen, "RACY_NS", -10_000_000_000)
    one = make_tree(tmp_path / "one", {"large": LARGE, "sub": {"large": LARGE[1:]}})
    other = make_tree(tmp_path / "other", {"large": LARGE, "sub": {"large": LARGE[2:]}})
    first, second = (kcl.store_dir(path, local=True) for path in (one, other))
    repo = repository(kcl.load_config())
    for file in repo.list_files():
        if file.kind == "file" and file.path is not None:
            file.path.chmod(0o600)
            os.truncate(file.path, 0)
    assert kcl.diff(first, second, local_only=True) == Differences(changed=("sub/large",))
    kcl.diff(first, other, local_only=True)

    def read(*_: Any) -> int:
        raise AssertionError("it was read")

    monkeypatch.setattr(hashing, "read_at", read)
    assert kcl.diff(first, one, local_only=True) == Differences()
    assert repo.stats.files == 3
