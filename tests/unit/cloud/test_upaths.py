"""Paths of universal_pathlib: by their URIs, without a word of warning."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import kachery_cloud as kcl
from kachery_cloud.local import close_outboxes, close_repositories

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytest.importorskip("fsspec", reason="fsspec is not installed")
pytest.importorskip("upath", reason="universal_pathlib is not installed")

PROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a folder with names that a URI has no room for."""
    from upath.registry import register_implementation

    from kachery_cloud.upaths import KacheryPath

    for scheme in ("ipfs", "kachery"):  # as its entry point does, where this package is installed as it is now
        register_implementation(scheme, KacheryPath, clobber=True)
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "100%25 a?b#c.txt").write_text("odd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield kcl.store_dir(tmp_path / "folder", label="a label", local=True)
    close_repositories()
    close_outboxes()


def test_universal_pathlib_finds_the_class() -> None:
    """For each scheme that fsspec finds the file system for, the same."""
    from kachery_cloud.upaths import KacheryPath

    entries = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]
    group = "universal_pathlib.implementations"
    assert set(entries[group]) == set(entries["fsspec.specs"])
    for name, value in entries[group].items():
        assert EntryPoint(name, value, group).load() is KacheryPath


@pytest.mark.parametrize("scheme", ["ipfs", "kachery"])
def test_a_path_leads_into_a_folder(folder: str, scheme: str) -> None:
    """It lists, joins and reads; its URI is one that everything else takes, whatever the name is."""
    from kachery_cloud.upaths import KacheryPath

    top = KacheryPath(folder.replace("ipfs://", f"{scheme}://"))
    (file,) = top.rglob("*.txt")
    assert file == top / "sub" / "100%25 a?b#c.txt"
    assert (file.read_text(), file.stat().st_size, file.is_file(), (top / "sub").is_dir()) == ("odd", 3, True, True)
    assert not (top / "none").exists()
    assert file.as_uri().endswith("/sub/100%2525%20a%3Fb%23c.txt")
    assert kcl.load_text(file.as_uri(), local_only=True) == "odd"
    assert KacheryPath(file.as_uri()).read_text() == "odd"
    assert pickle.loads(pickle.dumps(file)).read_text() == "odd"


def test_nothing_is_changed_by_a_path(folder: str) -> None:
    """It is said why, and what to do instead."""
    from kachery_cloud.upaths import KacheryPath

    top = KacheryPath(folder)
    for change in (lambda: (top / "a").write_text("x"), lambda: (top / "b").mkdir(), lambda: (top / "sub").rmdir()):
        with pytest.raises(kcl.NoPermission, match="never changes"):
            change()
