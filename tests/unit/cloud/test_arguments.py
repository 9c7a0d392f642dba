"""Whatever a caller gives to a public function: it works, or the error is one sentence that names the argument."""

from __future__ import annotations

import inspect
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_cloud
from kachery_cloud.errors import ContentNotFound, InvalidArgument, KacheryError
from kachery_cloud.local import close_repositories
from kachery_cloud.node import connection as background
from tests.helpers.terminal_helpers import harmless

# Much of what is given here is wrong by its type already.
kcl: Any = kachery_cloud
CID = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


class Frame:
    """As a table of pandas: it has no truth, compares cell by cell, and is not hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("The truth value of a DataFrame is ambiguous.")

    def __eq__(self, other: object) -> Any:
        return self

    def __len__(self) -> int:
        return 3


class Unshowable:
    """What fails when it is shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def strange_values() -> dict[str, Any]:
    return {
        "None": None, "int": 5, "negative": -1, "float": 2.5, "nan": float("nan"), "inf": float("inf"),
        "huge": 10**5000, "True": True, "bytes": b"x.csv", "bytearray": bytearray(b"x"), "memory": memoryview(b"x"),
        "list": ["a"],
        "mixed": ["a", 5], "tuple": (), "dict": {"a": 1}, "set": {1}, "object": object(), "function": len, "type": str,
        "frame": Frame(), "unshowable": Unshowable(), "unshowables": [Unshowable()], "array": np.zeros(3),
        "numpy int": np.int64(3), "numpy bool": np.bool_(True), "path": Path("x.csv"), "no path": Path("data/x.csv"),
        "uri object": kcl.parse_uri(CID), "empty": "", "blank": " ", "NUL": "a\0b", "surrogate": "\udcff",
        "ESC": "\x1b[2J", "long": "x" * 100_000, "file": "x.csv", "scheme": "ipfs://", "URL": "https://example.org/x",
        "home": "~nobody/x",
        "generator": (each for each in "ab"), "stream": io.StringIO(),
    }  # fmt: skip


FUNCTIONS = [
    name
    for name in (*kcl.__all__, "open")
    if inspect.isfunction(getattr(kcl, name)) and name not in ("init", "get_node_info", "load_config")
]
#: What is given for the parameters that must be given and are not the one under test.
GIVEN: dict[str, Any] = {
    "filename": "x.csv", "path": ".", "text": "t", "value": 1, "array": np.zeros(2), "dest": "out", "cid": CID,
    "watcher": False,
    "data": b"d", "spec": {"mark": "point", "data": {"values": []}},
    "first": "ipfs://bafkqaaa", "second": "ipfs://bafkqaaa", "uris": "ipfs://bafkqaaa",
    "source": "x.car", "name": "recordings", "target": "moved", "to": "private",
    "group": "hippocampus", "member": "laptop", "role": "reader", "invitation": "kachery-group:x",
}  # fmt: skip


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Something that is here; and a working directory with a file. The network has nothing."""

    class Nobody:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def ask(*_: Any, **__: Any) -> Any:
                raise ContentNotFound("Nobody has it.")

            return ask

    monkeypatch.setattr(background, "get_connection", lambda config: Nobody())
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("x.csv").write_text("x")
    yield kcl.store_text("hello", local=True, label="l.txt")
    close_repositories()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_argument_is_too_strange(function: str, uri: str) -> None:
    """Every public function, every parameter, every kind of value: no error but ours, each a line that can be printed,
    which does not fill the screen."""
    parameters = inspect.signature(getattr(kcl, function)).parameters
    for name in parameters:
        for kind, value in strange_values().items():
            text = told(function, name, value, uri)
            if text is not None:
                assert text, (function, name, kind)
                assert harmless(text), (function, name, kind)
                assert "\n" not in text, (function, name, kind)
                assert len(text) < 4_100, (function, name, kind)


def told(function: str, name: str, value: object, uri: str) -> str | None:
    """What a function says when this is one of its arguments; None when it takes it."""
    parameters = inspect.signature(getattr(kcl, function)).parameters
    needed = [
        each
        for each, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    given = {each: uri if each == "uri" else GIVEN[each] for each in needed}
    given |= {each: True for each in ("local", "local_only") if each in parameters}
    if function == "cat_file":
        given["out"] = io.BytesIO()
    more: list[object] = []
    if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
        more = [given.pop("uri"), value]
    else:
        given[name] = value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that what was stored is not served
            getattr(kcl, function)(*more, **given)
    except KacheryError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda uri: kcl.store_file(b".."), r"b'\.\.'; it must be a path: text, or a pathlib\.Path\. Use os\.fsdecode"),
        (lambda uri: kcl.store_file(None), "is None; it must be a path"),
        (lambda uri: kcl.store_file(5), "is 5; it must be a path"),
        (lambda uri: kcl.store_dir(["a"]), r"is \['a'\]; it must be a path"),
        (lambda uri: kcl.link_file(np.zeros(3)), "a value of the type ndarray; it must be a path"),
        (lambda uri: kcl.store_text("x", label=5), "label is 5; it must be text"),
        (lambda uri: kcl.store_file("x.csv", label=b"x"), r"label is b'x'; it must be text"),
        (lambda uri: kcl.store_text("x", local="no"), "local is 'no'; it must be True or False"),
        (lambda uri: kcl.store_dir(".", link=None), "link is None; it must be True or False"),
        (lambda uri: kcl.load_file(uri, local_only="yes"), "local_only is 'yes'; it must be True or False"),
        (lambda uri: kcl.load_file(uri, verbose=2), "verbose is 2; it must be True or False"),
        (lambda uri: kcl.load_file(uri, dest="x", overwrite="no"), "overwrite is 'no'; it must be True or False"),
        (lambda uri: kcl.load_file(uri, dest=b"x"), "dest is b'x'; it must be a path"),
        (lambda uri: kcl.load_file(uri, providers=5), "providers is 5; it must be a list of addresses"),
        (lambda uri: kcl.cat_file(uri, "x"), "out is 'x'; it must be open for writing bytes"),
        (lambda uri: kcl.cat_file(uri, io.StringIO()), "must be open for writing bytes"),
        (lambda uri: kcl.verify(5), "uris is 5; it must be text, or a list of texts"),
        (lambda uri: kcl.unpin(uri, 5), "service is 5; it must be text, or a list of texts"),
        (lambda uri: kcl.pins(removed=0), "removed is 0; it must be True or False"),
        (lambda uri: kcl.join(uri, 5), "text, not int"),
    ],
)
def test_what_a_function_takes_is_said(call: Callable[[str], Any], says: str, uri: str) -> None:
    """A wrong kind of value is InvalidArgument, which is also a TypeError, and exit code 2; nothing is done before."""
    with pytest.raises(InvalidArgument, match=says) as caught:
        call(uri)
    assert isinstance(caught.value, TypeError)
    assert caught.value.exit_code == 2


def test_a_wrong_label_is_told_before_anything_is_stored(uri: str) -> None:
    """Not after an hour of copying."""
    Path("y").write_bytes(b"never stored")
    before = _contents()
    with pytest.raises(InvalidArgument):
        kcl.store_file("y", label=5, local=True)  # type: ignore[arg-type]
    with pytest.raises(kcl.InvalidURI):
        kcl.store_file("y", label="\udcff", local=True)
    assert _contents() == before
    kcl.store_file("y", label="y", local=True)
    assert _contents() != before


def _contents() -> dict[Path, bytes]:
    """All that lies in the data directory, small values among it, but for the catalog."""
    home = Path(os.environ["KACHERY_CLOUD_DIR"])
    return {path: path.read_bytes() for top in ("ipfs", "packs") for path in (home / top).rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: kcl.load_file("data/x.csv"), kcl.FileMissing, "neither a file on this machine nor a URI"),
        (lambda: kcl.list_dir("data/x.csv"), kcl.InvalidURI, "looks like a path on this machine.*store_file"),
        (lambda: kcl.list_dir("x.csv"), kcl.InvalidURI, "It is here: open it as it is"),
        (lambda: kcl.load_text(None), kcl.InvalidURI, "A URI is text, not NoneType"),
        (lambda: kcl.store_file(f"ipfs://{CID}"), kcl.FileMissing, "is a URI, not a path.*load_file"),
        (lambda: kcl.store_file("https://example.org/x"), kcl.FileMissing, "is a URI, not a path"),
        (lambda: kcl.store_file("a\0b"), kcl.InvalidName, "cannot be a path"),
        (lambda: kcl.store_dir(""), kcl.InvalidName, "cannot be a path"),
        (lambda: kcl.load_bytes(CID, 2.5), kcl.InvalidRange, "start is 2.5"),
        (lambda: kcl.load_npy(CID, mmap_mode="r+"), kcl.InvalidArgument, "mmap_mode is 'r\\+'"),  # type: ignore[arg-type]
        (lambda: kcl.load_text(CID, timeout=10**400), kcl.ConfigError, "The timeout is 1000"),
        (lambda: kcl.verify([f"ipfs://{CID}", "ipfs://bafybeifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e/a"]),
         kcl.ContentNotFound, "nothing to verify"),
    ],
)  # fmt: skip
def test_likely_mistakes_are_told_with_what_to_do(
    call: Callable[[], Any], error: type[KacheryError], says: str, uri: str
) -> None:
    """A path where a URI is meant and the other way round, and numbers that are none."""
    with pytest.raises(error, match=says):
        call()


def test_numbers_of_numpy_are_numbers(uri: str) -> None:
    """Positions that come out of an array, flags of a comparison."""
    assert kcl.load_bytes(uri, np.int64(1), np.uint8(3)) == b"el"
    assert kcl.load_text(uri, local_only=np.bool_(True), timeout=np.float32(3)) == "hello"  # type: ignore[arg-type]


def test_bytes_where_standard_output_takes_none(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook, `sys.stdout` is for text alone: cat_file says so."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(InvalidArgument, match="Give `out`, or use load_bytes"):
        kcl.cat_file(uri)
