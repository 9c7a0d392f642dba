"""What the public functions ask of the node, and what they make of its answers; the node itself is a stand-in here."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud import progress
from kachery_cloud.errors import ContentNotFound, DamagedFile, IsADirectory, NodeError
from kachery_cloud.inventory_tree import entries
from kachery_cloud.local import close_repositories, repository
from kachery_cloud.node import connection as background
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import DirectoryBuilder, symlink_block
from kachery_p2p.dag.nodes import drive
from kachery_p2p.dag.paths import resolve_path
from kachery_p2p.dag.profiles import profile
from kachery_p2p.node.messages import LoadRequest, LoadResult
from kachery_p2p.repo.repo import Repo
from tests.helpers.repo_helpers import is_directory

PEER = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


class StandIn:
    """Answers as the node does, from a second repo that plays the peer."""

    def __init__(self, peer: Repo, folder: Path) -> None:
        self.peer = peer
        self.folder = folder
        self.asked: list[LoadRequest] = []
        self.stored: list[CID] = []

    def load(self, request: LoadRequest, progress: Callable[[int, int], None] | None) -> LoadResult:
        self.asked.append(request)
        fetch = lambda cids: [self.peer.get_block(cid.multihash) or b"" for cid in cids]  # noqa: E731
        cid = drive(resolve_path(request.cid, request.path), fetch).cid
        here = repository(kcl.load_config())
        if is_directory(self.peer, cid):
            if request.kind == "info":
                return LoadResult(cid)
            if request.kind != "listing":
                raise IsADirectory("a directory")
            here.put_blocks([(cid, fetch([cid])[0])])
            return LoadResult(cid)
        source = self.peer.find_file(cid)
        if source is None:
            raise ContentNotFound("nobody has it")
        data = source.read_bytes()
        answer = LoadResult(cid, None, len(data), {"12D3peer": len(data)}, 0.1)
        if request.kind == "file":
            assert progress is not None
            progress(len(data), len(data))
            return replace(answer, path=str(here.store_bytes(data, profile="unixfs-v1-2025").path))
        if request.kind == "info":
            return answer
        # Only what was asked for is right in the partial file.
        start = request.start or 0
        end = len(data) if request.end is None else min(request.end, len(data))
        partial = self.folder / "partial"
        with open(partial, "r+b" if partial.exists() else "w+b") as file:
            file.truncate(len(data))
            file.seek(start)
            file.write(data[start:end])
        return replace(answer, path=str(partial))

    def notify_stored(self, cid: CID) -> None:
        self.stored.append(cid)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "here"))
    with Repo.open(tmp_path / "there") as peer:
        stand_in = StandIn(peer, tmp_path)
        monkeypatch.setattr(background, "get_connection", lambda config: stand_in)
        yield stand_in
        close_repositories()


def there(node: StandIn, data: bytes) -> str:
    return f"ipfs://{node.peer.store_bytes(data).cid}"


def test_the_request_carries_all_hints_and_the_patience(node: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers of the call come first, then those of the URI; the timeout is the call's or the setting's."""
    uri = there(node, b"data")
    other = "/dns4/example.org/tcp/4001"
    kcl.load_file(f"{uri}?provider={PEER}&label=x", providers=[other, PEER], timeout=7)
    cid = CID.parse(uri.removeprefix("ipfs://"))
    assert node.asked == [LoadRequest(cid, (), "file", None, None, (other, PEER), 7.0)]
    monkeypatch.setenv("KACHERY_CLOUD_TIMEOUT", "9")
    kcl.load_text(there(node, b"more"))
    assert node.asked[-1].timeout == 9.0


def test_a_link_elsewhere_of_which_an_older_node_says_that_it_is_no_file(node: StandIn) -> None:
    """It is listed as a link all the same; where it points is not known then."""
    here = repository(kcl.load_config())
    link, block = symlink_block("unixfs-v1-2025", "a")
    folder = DirectoryBuilder(profile(), lambda cid, data: here.put_blocks([(cid, data)]))
    folder.add("b", link, len(block))

    def older(request: LoadRequest, progress: Any) -> LoadResult:
        raise kcl.NotAFile("a symbolic link, not a file")

    node.load = older  # type: ignore[method-assign]
    (entry,) = entries(f"ipfs://{folder.finish().cid}")
    assert (entry.name, entry.kind, entry.size, entry.destination) == ("b", "link", 0, None)


def test_what_is_here_is_not_asked_for_again(node: StandIn) -> None:
    """After one load the network is not needed any more."""
    uri = there(node, b"data")
    assert kcl.load_text(uri) == kcl.load_text(uri, local_only=True) == "data"
    assert len(node.asked) == 1


def test_a_range_is_asked_for_as_such(node: StandIn) -> None:
    """load_bytes asks for its bytes alone, once, and reads them from the partial file."""
    data = os.urandom(3_000_000)
    uri = there(node, data)
    assert kcl.load_bytes(uri, 1_000_000, 2_500_000) == data[1_000_000:2_500_000]
    assert [(t.kind, t.start, t.end) for t in node.asked] == [("bytes", 1_000_000, 2_500_000)]
    assert kcl.load_bytes(uri) == data


@pytest.mark.parametrize(
    ("start", "end", "asked"),
    [
        (2, 9, [(2, 9)]),
        (9, 99, [(9, 99)]),
        (3, 1, [(3, 3)]),
        (2, 10**30, [(2, (1 << 63) - 1)]),
        (-3, None, [(0, 0), (1, 4)]),
        (-9, -1, [(0, 0), (0, 3)]),
        (1, -1, [(0, 0), (1, 3)]),
    ],
)
def test_slices_of_what_is_elsewhere(node: StandIn, start: int, end: int | None, asked: list[tuple[int, int]]) -> None:
    """What lies past the end is left out; what counts from the end is asked for once the size is known."""
    assert kcl.load_bytes(there(node, b"data"), start, end) == b"data"[start:end]
    assert [(each.start, each.end) for each in node.asked] == asked


@pytest.mark.parametrize("size", [1, 1 << 20, (1 << 20) + 1, 10_000_000])
def test_cat_asks_for_growing_windows(node: StandIn, size: int) -> None:
    """The first bytes come after a small request; the windows cover the file once, in order."""
    data = os.urandom(size)
    out = io.BytesIO()
    kcl.cat_file(there(node, data), out)
    assert out.getvalue() == data
    windows = [(t.start or 0, t.end or 0) for t in node.asked]
    assert windows[0] == (0, 1 << 20)
    for (_, end), (start, _) in pairwise(windows):
        assert end == start
    assert all(b - a == 1 << (20 + i) for i, (a, b) in enumerate(windows[:-1]))


def test_cat_writes_each_window_before_it_asks_for_the_next(node: StandIn) -> None:
    """What has arrived is out before more is waited for."""
    seen: list[int] = []
    out = io.BytesIO()
    load = node.load

    def watched(request: LoadRequest, progress: Any) -> LoadResult:
        seen.append(len(out.getvalue()))
        return load(request, progress)

    node.load = watched  # type: ignore[method-assign]
    kcl.cat_file(there(node, os.urandom(8 << 20)), out)
    assert seen == [0, 1 << 20, 3 << 20, 7 << 20]


def test_a_partial_file_that_was_finished_meanwhile_is_found(node: StandIn) -> None:
    """Between the answer and the reading another process may complete the file; the bytes are then read from there."""
    uri = there(node, b"x" * 100)
    load = node.load

    def finish(request: LoadRequest, progress: Any) -> LoadResult:
        result = load(request, progress)
        repository(kcl.load_config()).store_bytes(b"x" * 100)
        os.unlink(result.path or "")
        return result

    node.load = finish  # type: ignore[method-assign]
    assert kcl.load_bytes(uri, 5, 9) == b"xxxx"


def test_a_damaged_copy_is_put_aside_and_loaded_again(node: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """With the network allowed the user gets the right bytes and a line on stderr that says why it took longer."""
    uri = there(node, b"right")
    path = Path(kcl.load_file(uri))
    path.chmod(0o600)
    path.write_bytes(b"wrong")
    with pytest.raises(DamagedFile):
        kcl.load_file(uri, local_only=True)
    assert Path(kcl.load_file(uri)).read_bytes() == b"right"
    assert "Loading it again" in capsys.readouterr().err
    assert len(list((path.parents[4] / "damaged").iterdir())) == 1


def test_paths_and_listings_of_directories_elsewhere(node: StandIn, tmp_path: Path) -> None:
    """A path is resolved by the node; a listing is fetched first and then read here."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    uri = f"ipfs://{node.peer.store_directory(folder).cid}"
    assert kcl.load_text(uri + "/a.txt") == "a"
    assert node.asked[-1].path == ("a.txt",)
    assert [entry["name"] for entry in kcl.list_dir(uri)] == ["a.txt"]
    assert node.asked[-1].kind == "listing"
    elsewhere = f"ipfs://{node.peer.store_directory(_another(folder)).cid}"
    info = kcl.load_file_info(elsewhere)
    assert (info["kind"], info["size"], info["local"]) == ("directory", None, False)
    assert [asked.kind for asked in node.asked[2:]] == ["info"]


def _another(folder: Path) -> Path:
    (folder / "b.txt").write_text("b")
    return folder


def test_info_of_a_file_elsewhere_loads_nothing(node: StandIn) -> None:
    """The node is asked what it is, and for no bytes."""
    info = kcl.load_file_info(there(node, b"12345"))
    assert (info["size"], info["local"], info["path"]) == (5, False, None)
    assert [asked.kind for asked in node.asked] == ["info"]


def test_storing_tells_the_node(node: StandIn, tmp_path: Path) -> None:
    """Without local=True the node is told of the new CID; with it, not."""
    uri = kcl.store_text("x")
    kcl.store_text("y", local=True)
    assert [str(cid) for cid in node.stored] == [uri.removeprefix("ipfs://")]


def test_a_store_succeeds_when_no_node_can_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The data is safe on disk: that nobody can fetch it now is a warning."""

    def broken(_: Any) -> Any:
        raise NodeError("no node today")

    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "here"))
    monkeypatch.setattr(background, "get_connection", broken)
    with pytest.warns(RuntimeWarning, match="no node today"):
        uri = kcl.store_text("x")
    assert kcl.load_text(uri) == "x"
    close_repositories()


def test_verbose_says_where_the_data_came_from(node: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, so that stdout stays for data; nothing is said otherwise."""
    uri = there(node, b"data")
    kcl.load_file(uri, verbose=True)
    kcl.load_file(uri, verbose=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "12D3peer" in err
    assert "on this machine already" in err
    kcl.load_file(uri)
    assert capsys.readouterr() == ("", "")


# --- the bar -------------------------------------------------------------------------------------------------------


def test_no_bar_for_short_work_or_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn when nobody watches, nor before half a second has gone by."""
    with progress.progress_bar("Storing x") as update:
        time.sleep(progress.DELAY + 0.05)
        update(1, 100)
    assert progress.DELAY == 0.5
    monkeypatch.setattr(progress, "DELAY", 1e9)  # a busy machine may take longer than that between two lines
    with progress.progress_bar("Storing x", enabled=True) as update:
        update(1, 100)
        update(100, 100)
    assert capsys.readouterr() == ("", "")


def test_a_bar_for_long_work(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what is done, the rate, the time left, and how many peers give, from whatever thread, on stderr; and is
    gone afterwards."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with progress.progress_bar("Storing x", enabled=True) as update:
        thread = threading.Thread(target=update, args=(10, 100))
        thread.start()
        thread.join()
        update(50, 200)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Storing x" in err
    with progress.progress_bar("Loading x", enabled=True) as update:
        update(10, 200, 1)
        update(50, 200, 3)
        update.__self__._bar.refresh()  # type: ignore[attr-defined]
    err = capsys.readouterr().err
    assert all(part in err for part in ("25%", "50.0/200", "3 peers", "B/s", "<")), err  # what is done, rate, time left
    update(60, 200)
    with progress.progress_bar("Storing y", enabled=True) as late:
        pass
    late(10, 100)
    assert capsys.readouterr() == ("", "")  # late news is not drawn
