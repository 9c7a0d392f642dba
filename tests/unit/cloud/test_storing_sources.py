"""What can be stored beside a path: bytes, files that are open, standard input, several paths at once."""

from __future__ import annotations

import io
import json
import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud.commands import main as cli
from kachery_cloud.errors import InvalidArgument, StoreTooLarge
from kachery_cloud.local import close_repositories, repository

LARGE = bytes(range(256)) * 50_000


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    yield tmp_path / "data"
    close_repositories()


def run(*arguments: object, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(cli.cli, ["store", *(str(a) for a in arguments)], input=stdin)


# --- bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"some bytes", LARGE])
def test_bytes_are_a_file_with_these_bytes(content: bytes, tmp_path: Path) -> None:
    """Whatever holds them; the label is in the URI."""
    (tmp_path / "file").write_bytes(content)
    uri = kcl.store_file(tmp_path / "file", local=True)
    values: list[Any] = [content, bytearray(content), memoryview(content), np.frombuffer(content, np.uint8)]
    for value in values:
        assert kcl.store_bytes(value, local=True) == uri
    assert kcl.load_bytes(uri) == content
    assert kcl.store_bytes(content, label="a b", local=True) == kcl.store_file(
        tmp_path / "file", label="a b", local=True
    )


def test_bytes_as_they_lie_in_memory() -> None:
    """Of numbers, and of every second of them."""
    numbers = array("I", [1, 2, 3, 4])
    view: Any = memoryview(numbers)
    assert kcl.load_bytes(kcl.store_bytes(view, local=True)) == numbers.tobytes()
    view = memoryview(b"abcdef")[::2]
    assert kcl.load_bytes(kcl.store_bytes(view, local=True)) == b"ace"


@pytest.mark.parametrize(
    ("value", "said"), [("text", "store_text"), *((value, "store_json") for value in (None, 3, [1, 2], {}, object()))]
)
def test_what_is_no_bytes_is_an_error_that_says_where_to_go(value: Any, said: str) -> None:
    """Text has a function of its own, and other values have theirs."""
    with pytest.raises(InvalidArgument, match=said):
        kcl.store_bytes(value, local=True)


# --- open files ----------------------------------------------------------------------------------------------------


class Slow(io.RawIOBase):
    """Gives a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._left = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._left.read(min(len(buffer), 100_000))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("content", [b"", b"some bytes", LARGE])
def test_open_files_are_read_to_their_end(content: bytes, tmp_path: Path) -> None:
    """From where they stand; they stay open."""
    (tmp_path / "file").write_bytes(content)
    uri = kcl.store_file(tmp_path / "file", local=True)
    with open(tmp_path / "file", "rb") as file, open(tmp_path / "file", "rb", buffering=0) as raw:
        for each in (file, raw, io.BytesIO(content), Slow(content)):
            assert kcl.store_file(each, local=True) == uri  # type: ignore[arg-type]
            assert each.read() == b""
        file.seek(len(content) // 2)
        half = kcl.store_file(file, profile="unixfs-v0-2015", local=True)
    (tmp_path / "half").write_bytes(content[len(content) // 2 :])
    assert half == kcl.store_file(tmp_path / "half", profile="unixfs-v0-2015", local=True)
    assert list((tmp_path / "data" / "tmp").iterdir()) == []


def test_files_that_give_no_bytes(tmp_path: Path) -> None:
    """Open for text, for writing alone, or closed: a sentence, and nothing is left behind."""
    (tmp_path / "file").write_text("text")
    with open(tmp_path / "file") as text, open(tmp_path / "out", "wb") as out, open(tmp_path / "file", "rb") as closed:
        closed.close()
        for file, said in ((text, "'rb'"), (io.StringIO("x"), "store_text"), (out, "read"), (closed, "closed")):
            with pytest.raises(InvalidArgument, match=said):
                kcl.store_file(file, local=True)  # type: ignore[arg-type]
    for wrong in (None, 3, b"file"):
        with pytest.raises(InvalidArgument, match="must be a path"):
            kcl.store_file(wrong, local=True)  # type: ignore[arg-type]
    assert repository(kcl.load_config()).list_files() == []


def test_the_limit_holds_for_what_has_no_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is noticed while it is read."""
    monkeypatch.setenv("KACHERY_CLOUD_MAX_STORE_BYTES", "1000")
    with pytest.raises(StoreTooLarge):
        kcl.store_file(io.BytesIO(LARGE), local=True)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(3):
        (folder / str(number)).write_bytes(bytes(400))
    with pytest.raises(StoreTooLarge):
        kcl.store_dir(folder, local=True)
    assert repository(kcl.load_config()).list_files() == []
    # What is left out does not count.
    kcl.store_dir(folder, exclude=["2"], local=True)


# --- the command ---------------------------------------------------------------------------------------------------


def test_several_paths_and_standard_input(tmp_path: Path) -> None:
    """A URI a line, in the order given; with --json a list. One alone is an object, as ever."""
    for name in "ab":
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / "b", "-", tmp_path / "a", tmp_path / "folder"]
    expected = [
        kcl.store_text("b", local=True),
        kcl.store_bytes(LARGE, local=True),
        kcl.store_text("a", local=True),
        kcl.store_dir(tmp_path / "folder", local=True),
    ]
    result = run("-r", *paths, stdin=LARGE)
    assert (result.exit_code, result.stdout.split()) == (0, expected)
    result = run("-r", "--json", *paths, stdin=LARGE)
    assert [each["uri"] for each in json.loads(result.stdout)] == expected
    assert json.loads(run("--json", tmp_path / "a").stdout)["uri"] == expected[2]
    assert run("-", stdin=b"a").stdout.split() == [expected[2]]


def test_mistakes_show_before_anything_is_stored(tmp_path: Path) -> None:
    """One path that is wrong, or options that do not go together."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "folder").mkdir()
    a, folder = tmp_path / "a", tmp_path / "folder"
    for wrong, said in (
        ((a, tmp_path / "missing"), "Nothing was stored"),
        ((a, folder), "--recursive"),
        ((a, a, "--label", "x"), "--label"),
        (("-", "-"), "once"),
        ((a, "--exclude", "x"), "--recursive"),
        (("-r", folder, "--exclude", "!"), "no pattern"),
        ((), "PATH"),
    ):
        result = run(*wrong)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stdout == ""
    assert CliRunner().invoke(cli.cli, ["link", "-"]).exit_code == 2
    assert repository(kcl.load_config()).list_files() == []


def test_options_for_folders(tmp_path: Path) -> None:
    """What the command says is what the function does."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("a")
    (folder / "b.tmp").write_text("b")
    (folder / "link").symlink_to(os.path.abspath(__file__))
    assert run("-r", folder).exit_code == 2
    result = run("-r", folder, "--follow", "--exclude", "*.tmp", "--preserve", "--rehash")
    assert result.stdout.strip() == kcl.store_dir(folder, follow=True, exclude=["*.tmp"], preserve=True, local=True)
    linked = CliRunner().invoke(cli.cli, ["link", "-r", str(folder), "--exclude", "link", "--exclude", "b.tmp"])
    assert linked.stdout.strip() == kcl.store_dir(folder, exclude=("link", "b.tmp"), local=True)
