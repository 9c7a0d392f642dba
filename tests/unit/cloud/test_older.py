"""What scripts for the older kachery-cloud call: it works, or the error says what to write instead."""

from __future__ import annotations

import hashlib
import json
import stat
import warnings
from collections.abc import Callable, Iterator
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


@pytest.mark.parametrize("store", [kcl.store_text, kcl.store_npy, kcl.store_pkl])
def test_a_label_may_come_second(store: Callable[..., str]) -> None:
    """Without its name, as in the first versions; it is the same as with it."""
    value = np.arange(3) if store is kcl.store_npy else "text"
    uri = store(value, "a label", local=True)
    assert uri.endswith("?label=a%20label")
    assert uri == store(value, label="a label", cache_locally=True, local=True)


@pytest.mark.parametrize("store", [kcl.store_json, older.store_json_local])
def test_json_is_written_in_one_way(store: Callable[..., str]) -> None:
    """What older scripts say of it is taken where it is that; of anything else it is said what to write instead."""
    value = {"b": [1, 2], "a": None}
    plain = kcl.store_json(value, local=True)
    assert store(value, separators=(",", ":"), indent=None) == store(value, separators=[",", ":"]) == plain
    for style in ({"indent": 4}, {"indent": 0}, {"indent": "  "}, {"separators": (", ", ": ")}, {"separators": ","}):
        (name,) = style
        with pytest.raises(kcl.InvalidArgument, match=rf"{name} is .*store_text\(json.dumps\(value, {name}=") as error:
            store(value, **style)
        assert "load_json" in str(error.value)
    assert kcl.load_json(kcl.store_text(json.dumps(value, indent=4), local=True)) == value


def test_bytes_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """As `cat_file` writes them."""
    uri = kcl.store_text("0123456789", local=True)
    assert kcl.load_bytes(uri, 2, 5, write_to_stdout=True) == b""
    assert capfdbinary.readouterr().out == b"234"
    with pytest.raises(kcl.InvalidArgument, match="write_to_stdout"):
        kcl.load_bytes(uri, 2, 5, write_to_stdout="no")  # type: ignore[arg-type]


def test_an_older_uri_is_stored_like_its_file(tmp_path: Path) -> None:
    """`store_file_local` took one in place of a path."""
    digest = hashlib.sha1(b"bytes", usedforsecurity=False).hexdigest()
    kept = tmp_path / "data" / "sha1" / digest[:2] / digest[2:4] / digest[4:6] / digest
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"bytes")
    assert older.store_file_local(f"sha1://{digest}?label=x") == kcl.store_bytes(b"bytes", local=True)


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


def test_values_are_forgotten(tmp_path: Path) -> None:
    """One by one, and all of a folder; nothing else of the data directory is a folder of values."""
    for key in ("@lab/a", "@lab/@b/c", "d"):
        older.set_mutable_local(key, "value")
    older.delete_mutable_local("@lab/a")
    assert older.get_mutable_local("@lab/a") is None
    older.delete_mutable_folder_local("@lab")
    assert older.get_mutable_local("@lab/@b/c") is None
    assert older.get_mutable_local("d") == "value"
    for name in ("@lab/a", "d/e", "none"):
        with pytest.raises(kcl.FileMissing, match="There is no mutable"):
            older.delete_mutable_local(name)
    for name in ("@lab", "d"):
        with pytest.raises(kcl.FileMissing, match="There are no mutables"):
            older.delete_mutable_folder_local(name)
    for name in ("", "..", "../mutables"):
        with pytest.raises(kcl.InvalidName):
            older.delete_mutable_folder_local(name)
    assert (tmp_path / "data" / "mutables" / "d").exists()


def test_a_name_that_is_a_folder() -> None:
    """An error with a name, not a loss of what is in it."""
    older.set_mutable_local("lab/latest", "a")
    with pytest.raises(kcl.KacheryError):
        older.set_mutable_local("lab", "b")
    with pytest.raises(kcl.KacheryError):
        older.get_mutable_local("lab")
    assert older.get_mutable_local("lab/latest") == "a"
