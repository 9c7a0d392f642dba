"""What users see of what is here: lists, tables, sizes; and what commands say when something may not be removed."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud import inventory_tables
from kachery_cloud.commands.main import find_command
from kachery_cloud.inventory import Items
from kachery_cloud.inventory_removal import RemovedItems
from kachery_cloud.local import outbox
from kachery_cloud.node import connection
from kachery_cloud.settings.config import load_config
from kachery_p2p.dag.cid import CID
from kachery_p2p.node.messages import Copies, CopiesRequest, WaitPinnedRequest
from kachery_p2p.pinning.outbox import ONLY_LOOK

DATA = b"spikes" * 10_000


def run(*line: str) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(find_command(line[0]), list(line[1:]))


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, str]:
    """URIs of a file, a linked file, a folder and a value."""
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "a.txt").write_bytes(b"in a folder")
    (tmp_path / "session.nwb").write_bytes(DATA)
    (tmp_path / "raw.bin").write_bytes(DATA[::-1])
    return {
        "file": kcl.store_file(tmp_path / "session.nwb", local=True),
        "link": kcl.link_file(tmp_path / "raw.bin", local=True),
        "folder": kcl.store_dir(tmp_path / "folder", label="mouse 12", local=True),
        "value": kcl.store_json({"a": 1}, local=True),
    }


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[CopiesRequest]:
    """Nobody else has anything; what was asked."""
    asked: list[CopiesRequest] = []

    class Node:
        def copies(self, request: CopiesRequest) -> Copies:
            asked.append(request)
            return Copies(asked=3, partly=("a peer",))

    monkeypatch.setattr(connection, "get_connection", lambda config: Node())
    return asked


def test_list(stored: dict[str, str], tmp_path: Path) -> None:
    """Each thing once, under the name of the file or its label; with its kind, size and URI, the newest first."""
    items = kcl.list()
    assert [(item.label, item.kind, item.directory, item.size) for item in items] == [
        (None, "stored", False, 7),
        ("mouse 12", "stored", True, 11),
        ("raw.bin", "linked", False, len(DATA)),
        ("session.nwb", "stored", False, len(DATA)),
    ]
    assert all(item.complete and item.problem == "" and item.here == item.size for item in items)
    assert items[1].uri == stored["folder"]
    assert items[2].path == str(tmp_path / "raw.bin")
    assert items[3].uri == stored["file"] + "?label=session.nwb"


def test_find_and_sort(stored: dict[str, str]) -> None:
    """By any part of a label, a URI or a path, whatever its capitals; and in each order, both ways."""
    assert [item.label for item in kcl.list(find="SESSION")] == ["session.nwb"]
    assert [item.label for item in kcl.list(find=stored["link"])] == ["raw.bin"]
    assert kcl.list(find="nothing has this") == []
    assert [item.label for item in kcl.list(sort="label")] == [None, "mouse 12", "raw.bin", "session.nwb"]
    assert [item.size for item in kcl.list(sort="size")] == [len(DATA), len(DATA), 11, 7]
    assert [item.size for item in kcl.list(sort="size", reverse=True)] == [7, 11, len(DATA), len(DATA)]
    assert kcl.list(sort="kind")[0].kind == "linked"
    with pytest.raises(kcl.InvalidArgument, match="added, used, size, label, kind"):
        kcl.list(sort="colour")


def test_where_it_is_pinned(stored: dict[str, str]) -> None:
    """Each service, with how far that is."""
    cid = stored["file"].removeprefix("ipfs://")
    outbox(load_config()).add(CID.parse(cid), "filebase")
    (item,) = kcl.list(find="session")
    assert [(each.service, each.state) for each in item.pinned] == [("filebase", "waiting")]
    assert "filebase (waiting)" in run("list").output


def test_tables(stored: dict[str, str]) -> None:
    """In a notebook a list is a table; labels come from strangers and cannot break out of it."""
    kcl.store_text("x", label="<script>alert(1)</script>\x1b[31m", local=True)
    page = kcl.list()._repr_html_()
    assert page.count("<tr>") == 6
    assert "<script>" not in page
    assert "\x1b" not in page
    assert "session.nwb" in kcl.list(find="session")[0]._repr_html_()
    assert "stored" in kcl.du()._repr_html_()
    assert RemovedItems()._repr_html_().startswith("<table>")


def test_dataframe(stored: dict[str, str]) -> None:
    """A column for each field, and times as times."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = kcl.list(sort="label").to_dataframe()
    assert list(frame["label"])[1:] == ["mouse 12", "raw.bin", "session.nwb"]
    assert isinstance(frame["added"].dtype, pandas.DatetimeTZDtype)
    assert kcl.du().to_dataframe()["bytes"].sum() > len(DATA)


def test_dataframe_without_pandas(stored: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what is missing and how it is installed."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(kcl.KacheryError, match="pip install pandas"):
        kcl.list().to_dataframe()


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "?"), (0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_600, "1 MB"), (12_345_678, "12.3 MB")],
)
def test_sizes(size: int | None, text: str) -> None:
    """Three digits, and never a thousand of a unit."""
    assert inventory_tables.size_text(size) == text


def test_the_command_list(stored: dict[str, str]) -> None:
    """A line for each, and all of it as JSON."""
    lines = run("list", "--sort", "label").output.splitlines()
    assert lines[0].split() == ["LABEL", "SIZE", "KIND", "ADDED", "USED", "COMPLETE", "URI"]
    assert lines[1].startswith("(no label) ")
    assert lines[2].startswith("mouse 12/")
    uris = [line.split()[-1] for line in lines[1:]]
    assert uris[1] == stored["folder"].partition("?")[0].replace("//", "//label=mouse%2012@")
    assert not any(re.search(r"[^\w:/.%=@-]", uri) for uri in uris)  # they can be pasted into a shell
    items = json.loads(run("list", "--json").output)["items"]
    assert [item["label"] for item in items] == [None, "mouse 12", "raw.bin", "session.nwb"]
    assert run("list", "--find", "nothing").output == "Nothing here has that in its name.\n"


def test_a_folder_without_a_label_is_marked_as_one(stored: dict[str, str]) -> None:
    """As after an import: it ends in / as each folder does; a file does not."""
    folder = next(item for item in kcl.list() if item.directory)
    shown = Items([replace(folder, label=None), replace(folder, label=None, directory=False)]).lines()
    assert [line.partition("  ")[0] for line in shown[1:]] == ["(no label)/", "(no label)"]


def test_an_empty_directory() -> None:
    """Nothing is here, and that is said; nothing is wrong with it."""
    assert kcl.list() == []
    assert "yet" in run("list").output
    assert kcl.du().total >= 0
    assert run("gc").exit_code == 0


def test_info(stored: dict[str, str]) -> None:
    """What `list` shows, of one URI."""
    found = kcl.load_file_info(stored["file"], local_only=True)
    assert (found["kept"], found["labels"], found["complete"]) == ("stored", ["session.nwb"], True)
    lines = run("info", stored["folder"]).output.splitlines()
    assert "kept:    stored" in lines
    assert any(line.startswith("added:   20") for line in lines)


def test_ls_marks_folders(stored: dict[str, str]) -> None:
    """They end with a slash, and have the size of what is in them; with --tree, that follows."""
    assert run("ls", stored["folder"]).output.split()[-1] == "sub/"
    lines = run("ls", "--tree", stored["folder"]).output.splitlines()
    assert [line.split()[-1] for line in lines] == ["sub/", "a.txt"]
    assert lines[1].index("a.txt") == lines[0].index("sub/") + 2
    (folder, file) = json.loads(run("ls", "--tree", "--json", stored["folder"]).output)["entries"]
    assert (folder["kind"], file["kind"], file["depth"]) == ("directory", "file", 1)
    assert folder["size"] >= file["size"] == 11


def test_ls_of_nothing_is_the_list(stored: dict[str, str]) -> None:
    """Whoever types it without a URI sees what is here; options that are about a folder want one."""
    assert run("ls").output == run("list").output
    assert json.loads(run("ls", "--json").output) == json.loads(run("list", "--json").output)
    assert run("ls", "--tree").exit_code == 2


def test_nothing_is_a_hole_before_something_was_removed(stored: dict[str, str]) -> None:
    """What stands around small files in a pack is not counted as room that could be had back; what is removed is."""
    lines = run("du").output
    assert "holes" not in lines
    assert "Linked files lie elsewhere" in lines
    kcl.remove(stored["value"], force=True)
    assert "holes" in run("du").output
    kcl.gc()
    kcl.remove(stored["link"], force=True)
    assert "holes" not in run("du").output
    assert "Linked" not in run("du").output


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Copies(), "no other machine was found"),
        (Copies(asked=1, lacking=1), "the one machine that was found lacks it"),
        (Copies(asked=1, partly=("a",)), "the one machine that was found has only a part of it"),
        (Copies(asked=1, silent=("refused",)), "the one machine that was found does not answer"),
        (Copies(asked=2), "of the 2 machines that were found, 2 do not answer"),
        (
            Copies(asked=6, lacking=1, partly=("a", "b")),
            "of the 6 machines that were found, 1 lacks it, 2 have only a part of it, 3 do not answer",
        ),
    ],
)
def test_why_it_may_be_the_last_copy(
    found: Copies, says: str, stored: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words that fit how many were found, and what became of asking them."""

    class Node:
        def copies(self, request: CopiesRequest) -> Copies:
            return found

    monkeypatch.setattr(connection, "get_connection", lambda config: Node())
    with pytest.raises(kcl.LastCopy, match=f"session.nwb may be the last copy, so it stays: {says}\\."):
        kcl.remove(stored["file"])


def test_the_last_copy_stays(stored: dict[str, str], alone: list[CopiesRequest]) -> None:
    """What nobody else is seen to have is not removed, and the sentence says what to do; forced, it goes."""
    refused = run("rm", stored["file"])
    assert refused.exit_code == 1
    assert "session.nwb may be the last copy" in refused.output
    assert f"kachery-cloud rm --force {stored['file']}" in refused.output
    assert "only a part" in refused.output
    assert len(kcl.list()) == 4
    (request,) = alone
    assert request.proofs[0] == request.blocks[0] == request.cid
    done = kcl.remove(stored["file"], force=True)
    assert (done.label, done.freed, done.why) == ("session.nwb", len(DATA), "forced")
    with pytest.raises(kcl.ContentNotFound, match="kachery-cloud list"):
        kcl.remove(stored["file"])


def test_a_linked_file_needs_no_other_copy(stored: dict[str, str], alone: list[CopiesRequest], tmp_path: Path) -> None:
    """Only the link goes; the user's file stays, and nobody is asked."""
    assert "your file stays" in run("rm", stored["link"]).output
    assert (tmp_path / "raw.bin").read_bytes() == DATA[::-1]
    assert alone == []


def test_a_verified_pin_is_a_copy(
    stored: dict[str, str], alone: list[CopiesRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a service only claims does not count; nor what came back from it once, and not when it is asked now."""
    cid = CID.parse(stored["file"].removeprefix("ipfs://"))
    box = outbox(load_config())
    box.add(cid, "filebase")
    entry = box.get(cid, "filebase")
    assert entry is not None
    box.update(entry, state="pinned")
    with pytest.raises(kcl.LastCopy):
        kcl.remove(stored["file"])
    entry = box.get(cid, "filebase")
    assert entry is not None
    box.update(entry, state="verified", verified=1.0)
    now: list[dict[str, Any]] = [
        {},
        {"state": "verified"},  # it cannot be asked
        {"problem": "unproven", "next_try": 9e8},
        {"state": "refused", "problem": "gone"},
        {"state": "verified", "verified": 2.0},
    ]

    class Node:
        def wait_pinned(self, request: WaitPinnedRequest) -> None:
            row = box.get(cid, "filebase")
            assert row is not None
            assert (row.in_question, row.next_try, request.verified) == (True, ONLY_LOOK, True)
            box.update(row, **now[0])

        def copies(self, request: CopiesRequest) -> Copies:
            return Copies()

        def notify_removed(self, cids: object) -> None:
            pass

    monkeypatch.setattr(connection, "get_connection", lambda config: Node())
    while len(now) > 1:
        with pytest.raises(kcl.LastCopy):
            kcl.remove(stored["file"])
        entry = box.get(cid, "filebase")
        assert entry is not None
        box.update(entry, state="verified", verified=1.0, problem="")
        del now[0]
    assert kcl.remove(stored["file"]).why == "pinned at filebase, and verified"


def test_what_is_in_a_folder_goes_with_it(stored: dict[str, str]) -> None:
    """It is said which folder it is in."""
    inside = kcl.list_dir(kcl.join(stored["folder"], "sub"))[0]["uri"]
    with pytest.raises(kcl.InvalidArgument, match=stored["folder"].partition("?")[0]):
        kcl.remove(f"ipfs://{kcl.load_file_info(inside)['cid']}", force=True)
    assert kcl.load_bytes(inside, local_only=True) == b"in a folder"


def test_a_file_that_a_folder_has_stays(tmp_path: Path, alone: list[CopiesRequest]) -> None:
    """Off the list it goes at once: the reason says that a folder has it, and how many files that are is right."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "a.bin").write_bytes(DATA)
    (folder / "b.bin").write_bytes(DATA[::-1])
    one, other = (kcl.store_file(folder / name, local=True) for name in ("a.bin", "b.bin"))
    kcl.store_dir(folder, local=True)
    (folder / "new.txt").write_text("new")
    kcl.store_dir(folder, local=True)
    done = kcl.remove(one)
    assert (done.freed, done.shared, done.why) == (0, 1, "nothing is lost: a folder still has it")
    assert kcl.load_bytes(one, local_only=True) == DATA
    told = run("rm", other)
    assert told.exit_code == 0
    assert "0 bytes free, 1 file of it stays, because something else has it" in told.output
    assert alone == []


def test_each_uri_is_taken_once(stored: dict[str, str]) -> None:
    """What is named twice, in whatever way, is removed, and is no error."""
    named = (stored["file"], stored["file"], stored["file"] + "?label=another.nwb")
    done = run("rm", "--force", *named)
    assert (done.exit_code, done.output.count("Removed ")) == (0, 1)
    assert len(kcl.list()) == 3
    assert run("rm", "--force", stored["file"], stored["file"]).output.count("is not on this machine") == 1


def test_several_at_once(stored: dict[str, str], alone: list[CopiesRequest]) -> None:
    """What can go goes; the exit code tells of what could not."""
    done = run("rm", stored["link"], stored["file"], stored["value"])
    assert done.exit_code == 1
    assert {item.label for item in kcl.list()} == {None, "session.nwb", "mouse 12"}


def test_gc_leaves_what_was_stored(stored: dict[str, str], alone: list[CopiesRequest]) -> None:
    """Without --stored nothing that the user stored goes, and with it nothing that may be the last copy."""
    left = run("gc", "--keep", "10KB")
    assert left.exit_code == 1
    assert "With --stored" in left.output
    assert alone == []
    left = run("gc", "--keep", "10KB", "--stored", "--json")
    found = json.loads(left.output)
    assert (found["removed"], found["reached"]) == ([], False)
    assert {each["label"] for each in found["kept_back"]} == {"session.nwb", "mouse 12", None}
    assert len(kcl.list()) == 4
    assert kcl.gc("10KB", stored=True, force=True).reached
    # The least recently used went first, and no more than was needed.
    assert {item.label for item in kcl.list()} == {"raw.bin", "mouse 12", None}


@pytest.mark.parametrize("keep", ["much", "-1", "10 apples", True])
def test_wrong_sizes(keep: object) -> None:
    """A size that is none is named."""
    with pytest.raises(kcl.ConfigError, match="keep"):
        kcl.gc(keep)  # type: ignore[arg-type]


def test_move_says_what_is_in_the_way(stored: dict[str, str], tmp_path: Path) -> None:
    """Nothing is replaced, and a directory is not moved into itself."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    directory = load_config().directory
    for target in (tmp_path / "full", directory / "inside", directory):
        with pytest.raises(kcl.FileExists):
            kcl.move(target)
    with pytest.raises(kcl.FileMissing, match="no folder"):
        kcl.move(tmp_path / "missing" / "new")
    assert len(kcl.list()) == 4


def test_python_has_its_own_list() -> None:
    """`from kachery_cloud import *` does not take the names of Python's own away."""
    names: dict[str, object] = {}
    exec("from kachery_cloud import *", names)
    assert "list" not in names
    assert "list" in dir(kcl)
    assert callable(kcl.list)
