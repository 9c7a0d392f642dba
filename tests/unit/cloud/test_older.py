"""What scripts for the older kachery-cloud call: it works, or the error says what to write instead."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import kachery_cloud as kcl
from kachery_cloud import older
from kachery_cloud.local import close_outboxes, close_repositories
from kachery_cloud.older_names import NAMES, REPLACED
from kachery_cloud.settings.config import load_config


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
    close_repositories()
    close_outboxes()


def test_values_are_stored_on_this_machine(tmp_path: Path) -> None:
    """The functions with `local` in their names give URIs that can be loaded."""
    file = tmp_path / "file.dat"
    file.write_bytes(b"bytes")
    assert Path(kcl.load_file(older.store_file_local(str(file), label="file.dat"))).read_bytes() == b"bytes"
    linked = older.store_file_local(str(file), reference=True)
    assert kcl.load_file(linked) is not None
    assert kcl.load_text(older.store_text_local("text")) == "text"
    assert kcl.load_json(older.store_json_local({"a": 1}, separators=(",", ":"))) == {"a": 1}
    assert kcl.load_npy(older.store_npy_local(np.arange(3))).tolist() == [0, 1, 2]
    assert kcl.load_pkl(older.store_pkl_local({"a": (1, 2)})) == {"a": (1, 2)}


def test_names_are_found_and_not_listed() -> None:
    """They are attributes of the package, and no completion offers them."""
    for name in NAMES:
        assert getattr(kcl, name) is getattr(older, name)
    assert not NAMES & {*kcl.__all__, *dir(kcl)}
    assert not NAMES & set(REPLACED)


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_what_is_gone_says_what_is_there_instead(name: str) -> None:
    """A sentence, for each."""
    with pytest.raises(AttributeError, match=rf"kachery_cloud.{name} is not there any more. [A-Z].*\."):
        getattr(kcl, name)
    assert not hasattr(kcl, name)


def test_each_says_what_to_write_now() -> None:
    """By a warning that only programmers see."""
    with pytest.warns(DeprecationWarning, match=r"load_config\(\).directory") as seen:
        directory = older.get_kachery_cloud_dir()
    assert directory == str(load_config().directory)
    assert seen[0].filename == __file__


def test_a_client_is_a_peer() -> None:
    """What it is known by is its peer ID."""
    assert older.get_client_id() == kcl.init()["peer_id"]


def test_a_temporary_directory() -> None:
    """It is there while it is used."""
    with older.TemporaryDirectory(prefix="abc") as path:
        assert Path(path).is_dir()
        assert Path(path).name.startswith("abc_")
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ("value", "sha1"),
    [
        # printf '{"a":1,"b":[1,2.5,"x"]}' | sha1sum, and so on
        ({"b": [1.0, 2.5, "x"], "a": 1.0}, "9ee6cd7995eae8f6d19ed2f9351ae52857424171"),
        ({}, "bf21a9e8fbc5a3846fb05b4fa0859e0917b2202f"),
    ],
)
def test_the_hash_of_a_dict_is_what_it_was(value: dict[str, object], sha1: str) -> None:
    """Keys in order, no spaces, whole numbers without a point."""
    assert older.sha1_of_dict(value) == sha1


# --- values under names --------------------------------------------------------------------------------------------


def test_a_value_is_kept_under_its_name(tmp_path: Path) -> None:
    """In a file that is the owner's alone, where the older package kept it."""
    assert older.get_mutable_local("lab/latest") is None
    assert older.get_mutable_local("lab/latest", "none") == "none"
    older.set_mutable_local("lab/latest", "ipfs://a\r\n")
    older.set_mutable_local("lab/other", "b")
    assert older.get_mutable_local("lab/latest") == "ipfs://a\r\n"
    assert older.get_mutable_local("lab/latest/more") is None
    file = tmp_path / "data" / "mutables" / "lab" / "latest"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in sorted(file.parent.iterdir())] == ["latest", "other"]


@pytest.mark.parametrize("key", ["", "/", "../key", "a/../../b", "a//b", "a/.", "a\0", "x" * 300, 3, None])
def test_a_name_stays_in_its_folder(key: object) -> None:
    """Whatever else is refused, to read and to write."""
    with pytest.raises(kcl.InvalidName, match="names no mutable"):
        older.set_mutable_local(key, "value")  # type: ignore[arg-type]
    with pytest.raises(kcl.InvalidName, match="names no mutable"):
        older.get_mutable_local(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [b"bytes", None, "x" * (older.MAX_MUTABLE + 1)])
def test_a_value_is_a_text(value: object) -> None:
    """Of a bounded length."""
    with pytest.raises(kcl.InvalidArgument, match="at most"):
        older.set_mutable_local("key", value)  # type: ignore[arg-type]


def test_a_name_that_is_a_folder() -> None:
    """An error with a name, not a loss of what is in it."""
    older.set_mutable_local("lab/latest", "a")
    with pytest.raises(kcl.KacheryError):
        older.set_mutable_local("lab", "b")
    with pytest.raises(kcl.KacheryError):
        older.get_mutable_local("lab")
    assert older.get_mutable_local("lab/latest") == "a"
