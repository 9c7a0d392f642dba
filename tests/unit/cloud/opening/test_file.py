"""A file that is opened reads as any other does, and fetches what is read. The node is a stand-in with a real repo."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kachery_cloud as kcl
from kachery_cloud.local import close_repositories, repository
from kachery_cloud.node import connection
from kachery_cloud.node.endpoint import NodeGone
from kachery_cloud.opening import content as content_module
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.node.messages import LoadResult
from kachery_p2p.repo.repo import Repo
from tests.helpers.opened_files import StandInNode, partial_files

#: Blocks of a KiB, in nodes of eight: a file of 100 KiB is three levels deep.
SMALL = Profile("small", chunk_size=1024, width=8)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInNode]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "here"))
    with Repo.open(tmp_path / "there") as peer:
        stand_in = StandInNode(peer)
        monkeypatch.setattr(connection, "get_connection", lambda config: stand_in)
        yield stand_in
        close_repositories()


def there(node: StandInNode, data: bytes, profile: Profile | str | None = None) -> str:
    return f"ipfs://{node.peer.store_bytes(data, profile=profile).cid}"


DATA = bytes(range(256)) * 390 + b"\nthe\nend\r\n of it"

STEP = st.one_of(
    st.tuples(st.just("seek"), st.integers(-20, len(DATA) + 20), st.just(0)),
    st.tuples(st.just("seek"), st.integers(-4000, 4000), st.just(1)),
    st.tuples(st.just("seek"), st.integers(-len(DATA) - 5, 20), st.just(2)),
    st.tuples(st.just("read"), st.one_of(st.none(), st.integers(-1, 5000))),
    st.tuples(st.just("readinto"), st.integers(0, 3000)),
    st.tuples(st.just("readline"), st.integers(-1, 400)),
    st.tuples(st.just("tell")),
)


@settings(max_examples=25)
@given(st.lists(STEP, max_size=30), st.sampled_from([0, 16384]))
def test_any_reads_are_those_of_a_file(node: StandInNode, steps: list[tuple[Any, ...]], read_ahead: int) -> None:
    """Whatever is sought and read, in whatever order: the same as of bytes in memory."""
    uri = there(node, DATA, SMALL)
    like = io.BytesIO(DATA)
    with kcl.open(uri, read_ahead=read_ahead) as file:
        for name, *given_arguments in steps:
            arguments: list[Any] = given_arguments
            if name == "readinto":
                arguments = [bytearray(arguments[0])]
            if name == "seek" and (0, like.tell(), len(DATA))[arguments[1]] + arguments[0] < 0:
                with pytest.raises(ValueError, match="before the beginning"):
                    file.seek(*arguments)
                continue
            wanted = getattr(like, name)(*arguments)
            first = bytes(arguments[0]) if name == "readinto" else b""
            assert getattr(file, name)(*arguments) == wanted
            assert not first or bytes(arguments[0]) == first
            assert file.tell() == like.tell()


def test_only_what_is_read_is_fetched(node: StandInNode) -> None:
    """A read moves the blocks that it touches, and once they are here nobody is asked for them."""
    data = os.urandom(300 * 1024)
    with kcl.open(there(node, data, SMALL)) as file:
        before = node.moved
        file.seek(100 * 1024 + 10)
        assert file.read(1024) == data[100 * 1024 + 10 :][:1024]
        nodes = 8 * 1024  # those on the way to the blocks
        assert 2048 <= node.moved - before <= 2048 + nodes
        asked, before = len(node.asked), node.moved
        for start in range(100 * 1024, 102 * 1024 - 50, 100):
            assert file.read_at(start, 50) == data[start : start + 50]
        assert (len(node.asked), node.moved) == (asked, before)


def test_a_half_read_file_is_completed_later(node: StandInNode) -> None:
    """What was read is not fetched again by a load of the whole file, nor by the next who opens it."""
    data = os.urandom(64 * 1024)
    uri = there(node, data, SMALL)
    with kcl.open(uri, read_ahead=0) as file:
        assert file.read(32 * 1024) == data[: 32 * 1024]
        first = node.moved
        assert first >= 32 * 1024
    with kcl.open(uri, read_ahead=0) as file:
        assert file.read(16 * 1024) == data[: 16 * 1024]
    assert node.moved == first
    assert Path(kcl.load_file(uri)).read_bytes() == data
    assert node.moved - first <= 32 * 1024 + 4096  # and the nodes that were not needed before


def test_a_file_that_was_read_to_its_end_is_whole(node: StandInNode) -> None:
    """Once all of it was read, it has its place as after a load, and needs no node."""
    data = os.urandom(20 * 1024)
    uri = there(node, data, SMALL)
    with kcl.open(uri) as file:
        while file.read1(700):
            pass
        while not file._content.is_whole:  # which the node makes it meanwhile
            file.read_at(0, 1)
    node.asked.clear()
    assert kcl.load_file(uri, local_only=True)
    with kcl.open(uri, local_only=True) as file:
        assert file.read() == data
    assert node.asked == []


@pytest.fixture
def ended(node: StandInNode, monkeypatch: pytest.MonkeyPatch) -> StandInNode:
    """The node, in a process that ends before a file of which all was read has its place."""
    monkeypatch.setattr(content_module.Content, "_make_whole", lambda self: None)
    return node


def read_through(uri: str) -> None:
    with kcl.open(uri, read_ahead=0) as file:
        while file.read(1000):
            pass


def test_a_process_that_ends_before_the_file_is_whole(ended: StandInNode) -> None:
    """All of it was read, so all of it is here: it is found without the network, and is listed as what was loaded."""
    data = os.urandom(64 * 1024 + 5)
    uri = there(ended, data, SMALL)
    read_through(uri)
    (item,) = kcl.list()
    assert (item.kind, item.complete) == ("partial", False)
    ended.asked.clear()
    assert kcl.load_bytes(uri, local_only=True) == data
    assert ended.asked == []
    (item,) = kcl.list()
    assert (item.kind, item.complete, item.size) == ("loaded", True, len(data))
    assert partial_files(kcl.load_config().directory) == []


def test_what_is_said_of_a_file_that_was_read_through(ended: StandInNode) -> None:
    """It is on this machine, and has a path."""
    data = os.urandom(64 * 1024 + 5)
    uri = there(ended, data, SMALL)
    read_through(uri)
    told = kcl.load_file_info(uri, local_only=True)
    assert (told["local"], told["complete"]) == (True, True)
    assert Path(told["path"]).read_bytes() == data


def test_a_folder_of_which_all_was_read(ended: StandInNode, tmp_path: Path) -> None:
    """Where each file of it was read through its path, nothing is missing of it."""
    data = os.urandom(64 * 1024 + 5)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(data)
    folder = ended.peer.store_directory(tmp_path / "folder", profile=SMALL).cid
    block = ended.peer.get_block(folder.multihash)
    assert block is not None
    repository(kcl.load_config()).put_blocks([(folder, block)])
    read_through(f"ipfs://{folder}/a")
    assert kcl.load_file_info(f"ipfs://{folder}", local_only=True)["local"]
    assert kcl.load_bytes(f"ipfs://{folder}/a", local_only=True) == data


def test_the_end_of_the_process_waits_until_it_is_whole(node: StandInNode) -> None:
    """What the node is about to make whole is waited for, also where the file is closed by then."""
    data = os.urandom(64 * 1024 + 5)
    uri = there(node, data, SMALL)
    with kcl.open(uri, read_ahead=0) as file:
        while file.tell() < file.size - 1000:
            file.read(1000)
        file.read()
        node.held.clear()
        file.read_at(0, 1)  # now that nothing is missing, it is to be made whole
    threading.Timer(0.1, node.held.set).start()
    content_module.wait_for_whole()
    assert repository(kcl.load_config()).find_file(CID.parse(uri.removeprefix("ipfs://"))) is not None


def test_the_end_of_the_process_does_not_wait_for_ever(node: StandInNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long is left: it is made whole by whoever asks for it next."""
    never: Future[LoadResult] = Future()
    monkeypatch.setattr(content_module, "_finishing", {never})
    monkeypatch.setattr(content_module, "WHOLE_AT_EXIT", 0.01)
    content_module.wait_for_whole()
    assert not never.done()


def test_reading_all_of_it_is_one_load(node: StandInNode) -> None:
    """`read()` of a file that is not here loads it, and leaves no partial file."""
    data = os.urandom(50 * 1024)
    with kcl.open(there(node, data, SMALL)) as file:
        assert file.read() == data
    assert [each.kind for each in node.asked] == ["bytes", "file"]
    assert partial_files(kcl.load_config().directory) == []


def test_what_is_here_is_read_without_the_node(node: StandInNode, tmp_path: Path) -> None:
    """A stored file, a small value and a linked file are read from where they are."""
    (tmp_path / "large").write_bytes(os.urandom(100_000))
    (tmp_path / "linked").write_bytes(os.urandom(100_000))
    for uri, data in (
        (kcl.store_file(tmp_path / "large", local=True), (tmp_path / "large").read_bytes()),
        (kcl.store_text("a small value", local=True), b"a small value"),
        (kcl.link_file(tmp_path / "linked", local=True), (tmp_path / "linked").read_bytes()),
        (kcl.store_text("", local=True), b""),
    ):
        with kcl.open(uri) as file:
            assert file.read() == data
            assert file.seek(-3, 2) == len(data) - 3 if data else True
            assert file.cat_ranges([(0, 4), (-4, len(data) + 9)]) == [data[:4], data[-4:]]
    assert node.asked == []


def test_a_linked_file_that_changes_while_it_is_open(node: StandInNode, tmp_path: Path) -> None:
    """Bytes that are not those of the URI are never given out; the error says what happened."""
    path = tmp_path / "linked"
    path.write_bytes(b"a" * 100_000)
    with kcl.open(kcl.link_file(path, local=True)) as file:
        assert file.read(3) == b"aaa"
        path.write_bytes(b"b" * 100_000)
        os.utime(path, ns=(1, 1))
        with pytest.raises(kcl.DamagedFile, match="changed while it was open"):
            file.read(3)


def test_a_partial_file_that_is_removed(node: StandInNode) -> None:
    """Somebody cleans the data directory: what was there is fetched again, and no hole is read as zeros."""
    data = os.urandom(64 * 1024)
    with kcl.open(there(node, data, SMALL), read_ahead=0) as file:
        assert file.read_at(0, 4096) == data[:4096]
        (partial,) = partial_files(kcl.load_config().directory)
        partial.unlink()
        assert file.read_at(8192, 4096) == data[8192:12288]
        assert file.read_at(0, 4096) == data[:4096]


def test_a_file_that_is_stored_while_it_is_open(node: StandInNode, tmp_path: Path) -> None:
    """What had come of it before goes, and it is read on, without anybody being asked."""
    data = os.urandom(100 * 1024)
    uri = there(node, data, SMALL)
    with kcl.open(uri, read_ahead=0) as file:
        assert file.read(10) == data[:10]
        repository(kcl.load_config()).store_bytes(data, profile=SMALL)
        assert partial_files(kcl.load_config().directory) == []
        moved = node.moved
        assert file.read() == data[10:]
        assert node.moved == moved
    (item,) = kcl.list()
    assert (item.kind, item.complete) == ("stored", True)


def test_many_ranges_come_side_by_side(node: StandInNode) -> None:
    """What is missing of many ranges is asked for at once, each block once; the answers are in their order."""
    data = os.urandom(200 * 1024)
    with kcl.open(there(node, data, SMALL), read_ahead=0) as file:
        node.held.clear()
        threading.Timer(0.2, node.held.set).start()
        ranges = [(start, start + 100) for start in range(190 * 1024, 0, -10 * 1024)] + [(5, 5), (0, 3)]
        assert file.cat_ranges(ranges) == [data[start:end] for start, end in ranges]
    assert node.most >= 10
    wanted = [(each.start, each.end) for each in node.asked[1:]]
    assert len(set(wanted)) == len(wanted)
    assert len(data) / 2 > node.moved
    with kcl.open(there(node, data, SMALL)) as file, pytest.raises(kcl.InvalidRange, match="two numbers"):
        file.cat_ranges([(0, "x")])  # type: ignore[list-item]


def test_more_ranges_than_may_be_under_way(node: StandInNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more of them than the node takes at once, the others wait, and all come."""
    monkeypatch.setattr(content_module, "REQUESTS_AT_ONCE", 3)
    data = os.urandom(200 * 1024)
    ranges = [(start, start + 10) for start in range(0, 200 * 1024, 5 * 1024)]
    with kcl.open(there(node, data, SMALL)) as file:
        assert file.cat_ranges(ranges) == [data[start:end] for start, end in ranges]
    assert node.most <= 3


def test_threads_share_what_comes(node: StandInNode) -> None:
    """Threads that read the same at one time ask for it once, and each gets its bytes."""
    data = os.urandom(100 * 1024)
    got: list[bool] = []
    with kcl.open(there(node, data, SMALL), read_ahead=0) as file:
        node.held.clear()

        def read(start: int) -> None:
            got.append(file.read_at(start, 3000) == data[start : start + 3000])

        threads = [threading.Thread(target=read, args=(start,)) for start in [0, 0, 0, 1000, 2000, 50_000, 50_000]]
        for thread in threads:
            thread.start()
        node.held.set()
        for thread in threads:
            thread.join()
    assert got == [True] * 7
    wanted = sorted((each.start or 0, each.end or 0) for each in node.asked if each.start != each.end)
    assert all(before[1] <= after[0] for before, after in pairwise(wanted))


def test_what_nobody_has_is_said_and_may_come_later(node: StandInNode) -> None:
    """A read that fails says so, leaves the position alone, and is tried again by the next one."""
    data = os.urandom(10 * 1024)
    with kcl.open(there(node, data, SMALL)) as file:
        file.seek(2000)
        node.failing = [kcl.ContentNotFound("nobody has it now")]
        with pytest.raises(kcl.ContentNotFound, match="nobody has it now"):
            file.read(10)
        assert file.tell() == 2000
        assert file.read(10) == data[2000:2010]


def test_the_node_goes_away_during_a_read(node: StandInNode) -> None:
    """The next one is asked, as by every load."""
    data = os.urandom(10 * 1024)
    with kcl.open(there(node, data, SMALL)) as file:
        node.failing = [NodeGone("it left"), NodeGone("it left")]
        assert file.read_at(2000, 10) == data[2000:2010]


def test_what_was_read_ahead_in_vain_is_no_error(node: StandInNode) -> None:
    """What fails ahead of its time is asked for again when it is read."""
    data = os.urandom(300 * 1024)
    out = b""
    with kcl.open(there(node, data, SMALL)) as file:
        for number in range(300):
            before = len(node.asked)
            out += file.read(1024)
            if number > 40 and len(node.asked) > before:
                node.failing = [kcl.ContentNotFound("nobody has it now")] if not node.failing else node.failing
                break
        node.failing.clear()
        out += file.read()
    assert out == data


def test_closing_ends_what_is_under_way(node: StandInNode) -> None:
    """A closed file raises ValueError, as every file of Python does; what was asked for ahead is cancelled."""
    data = os.urandom(300 * 1024)
    file = kcl.open(there(node, data, SMALL))
    for _ in range(200):
        file.read(1024)
    file.close()
    file.close()
    assert file.closed
    for use in (
        lambda: file.read(1),
        lambda: file.seek(0),
        lambda: file.tell(),
        lambda: file.read_at(0, 1),
        lambda: file.cat_ranges([(0, 1)]),
        lambda: file.readable(),
        lambda: pickle.dumps(file),
        lambda: next(file),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(io.UnsupportedOperation):
        kcl.open(there(node, data, SMALL)).fileno()


def test_what_it_says_of_itself(node: StandInNode, tmp_path: Path) -> None:
    """Libraries look at the name for its ending, and ask what can be done with it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "scan.nii.gz").write_bytes(b"x" * 5000)
    folder = f"ipfs://{node.peer.store_directory(tmp_path / 'folder').cid}"
    with kcl.open(folder + "/scan.nii.gz") as file:
        assert (file.name, file.mode, file.size) == ("scan.nii.gz", "rb", 5000)
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
    labelled = there(node, b"y" * 5000) + "?label=cell.tif"
    with kcl.open(labelled) as file:
        assert (file.name, file.uri) == ("cell.tif", labelled)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
    with pytest.raises(kcl.IsADirectory):
        kcl.open(folder)


def test_text(node: StandInNode) -> None:
    """`mode="r"` gives lines of text in the encoding that is named, and UTF-8 else."""
    text = "µV\r\nzweite Zeile\n" * 3000
    with kcl.open(there(node, text.encode(), SMALL), "r") as file:
        assert file.readline() == "µV\n"
        assert file.read() == text.replace("\r\n", "\n")[3:]
    with kcl.open(there(node, text.encode("utf-16"), SMALL), "rt", encoding="utf-16", newline="") as file:
        assert list(file) == text.splitlines(keepends=True)
    with kcl.open(there(node, b"a,b\n1,2\n" * 999), "rb") as lines:
        assert sum(1 for _ in lines) == 1998
    uri = there(node, b"text")
    for mistake in (
        lambda: kcl.open(uri, "w"),  # type: ignore[call-overload]
        lambda: kcl.open(uri, "rb", encoding="utf-8"),  # type: ignore[call-overload]
        lambda: kcl.open(uri, read_ahead=-1),
    ):
        with pytest.raises(kcl.InvalidArgument):
            mistake()


def test_a_pickled_file_opens_again(node: StandInNode) -> None:
    """It is at the same position, and asks the same peers with the same patience."""
    peer = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
    data = os.urandom(10 * 1024)
    with kcl.open(there(node, data, SMALL), providers=[peer], timeout=7) as file:
        file.seek(5000)
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.tell() == 5000
            assert again.read(100) == data[5000:5100]
    assert {(each.providers, each.timeout) for each in node.asked} == {((peer,), 7.0)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are a matter of POSIX")
def test_a_forked_child_reads_on(node: StandInNode) -> None:
    """What the parent had under way is nothing to the child: it does not wait for it, and what is here it reads."""
    data = os.urandom(64 * 1024)
    with kcl.open(there(node, data, SMALL), read_ahead=0) as file:
        assert file.read_at(0, 1024) == data[:1024]
        node.held.clear()
        waiting = threading.Thread(target=file.read_at, args=(30_000, 10))
        waiting.start()
        while len(node.asked) < 3:
            pass
        child = os.fork()
        if child == 0:
            code = 1
            try:
                node.held.set()
                code = file.read_at(30_000, 10) != data[30_000:30_010] or file.read(1024) != data[:1024]
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]  # before the parent goes on: the stand-in is in each of them
        node.held.set()
        waiting.join()
        assert status == 0


def test_open_is_not_starred() -> None:
    """`from kachery_cloud import *` leaves Python's own `open` alone; `kcl.open` is there all the same."""
    names: dict[str, Any] = {}
    exec("from kachery_cloud import *", names)
    assert "open" not in names
    assert names["KacheryFile"] is kcl.KacheryFile
    assert "open" in dir(kcl)
