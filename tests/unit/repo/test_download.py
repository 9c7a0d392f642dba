"""Loading into the repo: only what is missing is fetched, and only a whole file appears."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.pb import PBLink, encode_node
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from kachery_p2p.dag.walk import FileWalk, Ref
from kachery_p2p.errors import DiskFull, HashMismatch, MalformedDag, RepoBusy, RepoError
from kachery_p2p.repo import Download, Repo
from tests.helpers.profiles import custom_profile

RAW_LEAVES = custom_profile(chunk_size=1000, width=4)
WRAPPED = custom_profile("unixfs-v0-2015", chunk_size=1000, width=4)
DATA = random.Random(1).randbytes(9_500)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "here") as opened:
        yield opened


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "there") as opened:
        yield opened


def load(download: Download, source: Repo, *, stop_after: int = 10**9, finish: bool = True) -> list[CID]:
    """Load as the node does, taking blocks from another repo. Returns the CIDs that had to be fetched."""
    walk = FileWalk(download.cid)
    fetched: list[CID] = []
    while not walk.finished:
        refs = walk.take(7)
        for ref, present in zip(refs, download.has(refs), strict=True):
            if present:
                walk.skip(ref)
                continue
            if len(fetched) >= stop_after:
                return fetched
            block = source.get_block(ref.cid.multihash)
            assert block is not None
            fetched.append(ref.cid)
            pieces = walk.feed(ref, block)
            if ref.length is None:
                assert walk.size is not None
                download.allocate(walk.size)
            download.accept(ref, block, pieces)
    if finish:
        assert walk.size is not None
        download.finish(walk.size)
    return fetched


@pytest.mark.parametrize("profile", [RAW_LEAVES, WRAPPED], ids=["raw", "wrapped"])
@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 9_500])
def test_loaded_file_is_as_if_stored(here: Repo, there: Repo, profile: Profile, size: int) -> None:
    """A loaded file lies where a stored one would, is found and served like one, and its partial file is gone."""
    stored = there.store_bytes(DATA[:size], profile=profile)
    with here.download(stored.cid) as download:
        load(download, there)
        assert download.complete == here.path_for(stored.cid)
    path = here.find_file(stored.cid)
    assert path is not None
    assert path == here.path_for(stored.cid)
    assert path.read_bytes() == DATA[:size]
    assert path.stat().st_mode & 0o222 == 0
    assert list((here.directory / "partial").iterdir()) == []
    assert here.verify() == []
    with there.download(stored.cid) as download:
        assert download.complete == stored.path
        download.finish(size)
    here.remove(stored.cid)
    # A single raw block went with its file; the empty one is always there.
    left = here.get_block(stored.cid.multihash)
    assert left is None or profile is not RAW_LEAVES or size > 1000 or (left, size) == (b"", 0)


def test_loaded_wrapped_file_serves_the_same_blocks(here: Repo, there: Repo) -> None:
    """What was loaded can be loaded on from us, block by block, also with dag-pb leaves."""
    stored = there.store_bytes(DATA, profile=WRAPPED)
    with here.download(stored.cid) as download:
        first = load(download, there)
    there.remove(stored.cid)
    there.sweep(min_age=-1)
    assert there.stats.blocks == 0
    with there.download(stored.cid) as download:
        assert load(download, here) == first


@pytest.mark.parametrize("profile", [RAW_LEAVES, WRAPPED], ids=["raw", "wrapped"])
@pytest.mark.parametrize("stop_after", [0, 1, 4, 9, 13])
def test_stopped_load_goes_on_where_it_was(here: Repo, there: Repo, profile: Profile, stop_after: int) -> None:
    """Leaving the context keeps what has arrived; the next load fetches the other leaves, and no leaf twice."""
    stored = there.store_bytes(DATA, profile=profile)
    with here.download(stored.cid) as download:
        first = load(download, there, stop_after=stop_after)
        partial = download.path
    assert len(first) == stop_after
    assert partial.exists()
    assert here.find_file(stored.cid) is None
    with here.download(stored.cid) as download:
        second = load(download, there)
    leaves = {cid for cid in first + second if here.get_node(cid.multihash) is None}
    assert len([cid for cid in first + second if cid in leaves]) == len(leaves) == 10
    assert here.path_for(stored.cid).read_bytes() == DATA


def test_bytes_that_went_bad_in_the_partial_file_are_fetched_again(here: Repo, there: Repo) -> None:
    """Nothing in a partial file is trusted: what does not have its hash is not present."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    with here.download(stored.cid) as download:
        load(download, there, finish=False)
        partial = download.path
    with partial.open("r+b") as out:
        out.seek(2500)
        out.write(b"bad")
        out.truncate(8999)
    with here.download(stored.cid) as download:
        fetched = [cid for cid in load(download, there) if cid.codec == RAW]
    assert fetched == [CID(1, RAW, sha256_multihash(DATA[i : i + 1000])) for i in (2000, 8000, 9000)]
    assert here.path_for(stored.cid).read_bytes() == DATA


@settings(max_examples=30)
@given(data=st.data())
def test_has_is_true_exactly_for_right_bytes(here: Repo, data: st.DataObject) -> None:
    """For any mixture of right, wrong and never written parts, `has` tells which are right."""
    kinds = data.draw(st.lists(st.sampled_from(["right", "wrong", "hole"]), min_size=1, max_size=40))
    rng = random.Random(len(kinds))
    parts = [rng.randbytes(5000) for _ in kinds]
    refs = [Ref(CID(1, RAW, sha256_multihash(part)), i * 5000, 5000, 1) for i, part in enumerate(parts)]
    with here.download(CID(1, DAG_PB, sha256_multihash(repr(kinds).encode()))) as download:
        download.allocate(5000 * len(kinds))
        for ref, kind, part in zip(refs, kinds, parts, strict=True):
            if kind != "hole":
                download.write(ref.offset, part if kind == "right" else part[::-1])
        assert download.has(refs) == [kind == "right" for kind in kinds]


def test_blocks_of_other_local_files_are_not_fetched(here: Repo, there: Repo, tmp_path: Path) -> None:
    """What lies in a linked file, or in another stored one, is copied from there."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    (tmp_path / "linked").write_bytes(DATA[2000:5000])
    here.link_file(tmp_path / "linked", profile=RAW_LEAVES)
    here.store_bytes(DATA[6000:7000])
    with here.download(stored.cid) as download:
        fetched = [cid for cid in load(download, there) if cid.codec == RAW]
    assert len(fetched) == 6
    assert here.path_for(stored.cid).read_bytes() == DATA


@pytest.mark.parametrize("profile", [RAW_LEAVES, WRAPPED], ids=["raw", "wrapped"])
@pytest.mark.parametrize("claimed", [999, 1001])
def test_a_lie_about_a_leaf_that_is_here(here: Repo, there: Repo, profile: Profile, claimed: int) -> None:
    """A leaf of another size than the node above it says is an error that says so. Nobody is asked for such a leaf."""
    leaf = here.store_bytes(DATA[:1000], profile=profile).cid
    lie = encode_node([PBLink("", leaf, claimed)], encode(UnixFSData(DataType.FILE, None, claimed, (claimed,))))
    root = CID(1, DAG_PB, sha256_multihash(lie))
    there.put_blocks([(root, lie)])
    with here.download(root) as download, pytest.raises(MalformedDag, match=f"1000 bytes, .* it says {claimed}"):
        load(download, there)


@pytest.mark.parametrize("profile", [RAW_LEAVES, WRAPPED], ids=["raw", "wrapped"])
def test_damaged_copy_is_repaired(here: Repo, there: Repo, profile: Profile) -> None:
    """After quarantine, a load fetches only the damaged part, and the damaged copy stays in damaged/."""
    stored = there.store_bytes(DATA, profile=profile)
    here.store_bytes(DATA, profile=profile)
    copy = here.path_for(stored.cid)
    copy.chmod(0o644)
    wrong = DATA[:4321] + b"!" + DATA[4322:]
    copy.write_bytes(wrong)
    moved = here.quarantine(stored.cid)
    assert moved is not None
    assert here.find_file(stored.cid) is None
    with here.download(stored.cid) as download:
        fetched = load(download, there)
    assert len([cid for cid in fetched if there.get_node(cid.multihash) is None]) == 1
    assert copy.read_bytes() == DATA
    assert moved.read_bytes() == wrong


def test_identity_parts_need_no_fetching(here: Repo) -> None:
    """A leaf in an identity CID is written from the CID itself."""
    parts = [b"inline", b"also inline"]
    cids = [CID(1, RAW, bytes((0, len(part))) + part) for part in parts]
    sizes = [len(part) for part in parts]
    top = encode_node(
        [PBLink("", cid, size) for cid, size in zip(cids, sizes, strict=True)],
        encode(UnixFSData(DataType.FILE, None, sum(sizes), sizes)),
    )
    root = CID(1, DAG_PB, sha256_multihash(top))
    walk = FileWalk(root)
    with here.download(root) as download:
        (ref,) = walk.take(1)
        assert download.has([ref]) == [False]
        download.accept(ref, top, walk.feed(ref, top))
        refs = walk.take(10)
        assert download.has(refs) == [True, True]
        assert download.finish(sum(sizes)).read_bytes() == b"inlinealso inline"
    assert here.verify() == []


def test_root_and_inner_nodes_are_never_present(here: Repo, there: Repo) -> None:
    """`has` speaks of leaves only: a root of unknown size and inner nodes are not there, even when they are."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    walk = FileWalk(stored.cid)
    with there.download(stored.cid) as download:
        refs = walk.take(1)
        assert download.has(refs) == [False]
        block = there.get_block(stored.cid.multihash)
        assert block is not None
        walk.feed(refs[0], block)
        inner = walk.take(1)
        assert there.get_node(inner[0].cid.multihash) is not None
        assert download.has(inner) == [False]


def test_one_loader_at_a_time(here: Repo, there: Repo) -> None:
    """While one loads a file, another gets RepoBusy; one that waits finds it whole when the first is done."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    first = here.download(stored.cid)
    with pytest.raises(RepoBusy, match=str(stored.cid)):
        here.download(stored.cid)
    waited: list[Path | None] = []

    def wait() -> None:
        with here.download(stored.cid, timeout=120) as second:
            waited.append(second.complete)
            second.finish(len(DATA))

    thread = threading.Thread(target=wait)
    thread.start()
    load(first, there)
    thread.join()
    assert waited == [here.path_for(stored.cid)]
    assert here.path_for(stored.cid).read_bytes() == DATA
    assert list((here.directory / "partial").iterdir()) == []


def test_store_that_finishes_first_wins(here: Repo, there: Repo) -> None:
    """When the same file was stored while it was being loaded, finish keeps that one."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    with here.download(stored.cid) as download:
        load(download, there, finish=False)
        inode = here.store_bytes(DATA, profile=RAW_LEAVES).path.stat().st_ino
        assert download.finish(len(DATA)).stat().st_ino == inode
        assert download.finish(len(DATA)) == here.path_for(stored.cid)
    assert list((here.directory / "partial").iterdir()) == []


def test_whole_file_without_rows_is_not_loaded_again(here: Repo, there: Repo) -> None:
    """When another process has put the file into place and not yet recorded it, a load finds it and fetches nothing."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    here.store_bytes(DATA, profile=RAW_LEAVES)
    with here._catalog.write() as db:
        for table in ("leaves", "files", "roots"):
            db.execute(f"DELETE FROM {table}")
    with here.download(stored.cid) as download:
        assert download.complete == here.path_for(stored.cid)
        assert download.finish(len(DATA)) == here.path_for(stored.cid)
    assert list((here.directory / "partial").iterdir()) == []


def test_wrong_file_in_the_way_does_not_hinder_a_load(here: Repo, there: Repo) -> None:
    """A damaged copy that nobody moved away is set aside when the right file is finished."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    path = here.path_for(stored.cid)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wrong")
    with here.download(stored.cid) as download:
        assert download.complete is None
        load(download, there)
    assert path.read_bytes() == DATA
    assert (here.directory / "damaged" / f"{stored.cid}.1").read_bytes() == b"wrong"


def test_finish_needs_the_inner_nodes(here: Repo, there: Repo) -> None:
    """Without an inner node in the catalog the file does not get its place, and the node is named."""
    for data in (DATA, bytes(3_000_000)):
        stored = there.store_bytes(data, profile=RAW_LEAVES if data is DATA else None)
        with here.download(stored.cid) as download:
            download.write(0, data)
            with pytest.raises((RepoError, HashMismatch), match=str(stored.cid)):
                download.finish(len(data))
            assert here.find_file(stored.cid) is None
            load(download, there)
        assert here.path_for(stored.cid).read_bytes() == data


def test_finish_refuses_a_short_file_and_a_wrong_size(here: Repo, there: Repo) -> None:
    """A file with bytes missing, or of another size than its DAG says, stays a partial file."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    with here.download(stored.cid) as download:
        load(download, there, finish=False)
        with pytest.raises(RepoError, match="9501"):
            download.finish(9501)
        with pytest.raises(RepoError, match="9499"):
            download.finish(9499)
        assert here.find_file(stored.cid) is None


def test_wrapped_leaves_that_nobody_vouched_for_are_hashed(here: Repo, there: Repo) -> None:
    """With write and put_blocks alone the wraps are found by hashing; wrong bytes are then found out, too."""
    stored = there.store_bytes(DATA, profile=WRAPPED)
    for wrong in (True, False):
        walk = FileWalk(stored.cid)
        with here.download(stored.cid) as download:
            while not walk.finished:
                for ref in walk.take(5):
                    block = there.get_block(ref.cid.multihash)
                    assert block is not None
                    if there.get_node(ref.cid.multihash) is not None:
                        here.put_blocks([(ref.cid, block)])
                    for piece in walk.feed(ref, block):
                        download.write(piece.offset, bytes(len(piece.data)) if wrong else piece.data)
            if wrong:
                with pytest.raises(HashMismatch):
                    download.finish(len(DATA))
                assert here.find_file(stored.cid) is None
            else:
                assert download.finish(len(DATA)).read_bytes() == DATA
    assert here.verify() == []


def test_short_single_block_is_not_finished(here: Repo) -> None:
    """A file of one raw block that has not all its bytes stays a partial file."""
    with here.download(CID(1, RAW, sha256_multihash(DATA))) as download:
        download.write(0, DATA[:-1])
        with pytest.raises(RepoError, match=f"{len(DATA)}"):
            download.finish(len(DATA))
        assert here.find_file(download.cid) is None
        download.write(len(DATA) - 1, DATA[-1:])
        assert download.finish(len(DATA)).read_bytes() == DATA


def test_dag_that_claims_absurd_sizes_is_refused_at_once(here: Repo) -> None:
    """A few small nodes that repeat one leaf a hundred million times are refused before they are walked."""
    leaf = DATA[:1000]
    link, size = PBLink("", CID(1, RAW, sha256_multihash(leaf)), 1000), 1000
    for _ in range(4):
        node = encode_node([link] * 100, encode(UnixFSData(DataType.FILE, None, size * 100, [size] * 100)))
        link, size = PBLink("", CID(1, DAG_PB, sha256_multihash(node)), size * 100), size * 100
        here.put_blocks([(link.cid, node)])
    with here.download(link.cid) as download:
        download.write(0, leaf)
        with pytest.raises(RepoError, match=str(link.cid)):
            download.finish(1000)


def test_lock_of_a_file_that_was_just_renamed_is_not_kept(here: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets the lock of a partial file at the moment it is finished by another begins with a new one."""
    import kachery_p2p.repo.download as module

    cid = CID(1, RAW, sha256_multihash(DATA))
    lock, calls = module.lock_fd, []

    def slow_lock(fd: int) -> bool:
        calls.append(fd)
        if len(calls) == 1:
            os.rename(here.directory / "partial" / str(cid), here.directory / "elsewhere")
        return lock(fd)

    monkeypatch.setattr(module, "lock_fd", slow_lock)
    with here.download(cid) as download:
        download.write(0, b"x")
        assert download.path.read_bytes() == b"x"
        assert (here.directory / "elsewhere").read_bytes() == b""


def test_wrapped_leaf_of_another_kind_that_was_only_written(here: Repo) -> None:
    """When some leaves were vouched for and others only written, each is looked at, and found in its own wrap."""
    from kachery_p2p.dag.builder import leaf_wrap

    parts = [DATA[:1000], DATA[1000:1500]]
    kinds = [DataType.FILE, DataType.RAW]
    blocks = [
        b"".join((*leaf_wrap(k, len(p))[:1], p, leaf_wrap(k, len(p))[1])) for k, p in zip(kinds, parts, strict=True)
    ]
    links = [PBLink("", CID(1, DAG_PB, sha256_multihash(block)), len(block)) for block in blocks]
    top = encode_node(links, encode(UnixFSData(DataType.FILE, None, 1500, [1000, 500])))
    walk = FileWalk(CID(1, DAG_PB, sha256_multihash(top)))
    with here.download(walk.root) as download:
        (ref,) = walk.take(1)
        download.accept(ref, top, walk.feed(ref, top))
        first, second = walk.take(2)
        download.accept(first, blocks[0], walk.feed(first, blocks[0]))
        download.write(1000, parts[1][::-1])
        with pytest.raises(HashMismatch):
            download.finish(1500)
        assert here.find_file(walk.root) is None
        assert list((here.directory / "ipfs").iterdir()) == []
        download.write(1000, parts[1])
        download.finish(1500)
    assert second.offset == 1000
    assert [here.get_block(sha256_multihash(block)) for block in blocks] == blocks


def test_read_gives_what_was_written(here: Repo) -> None:
    """Ranges can be read from a partial file; where nothing was written there are zeros, behind its end nothing."""
    cid = CID(1, RAW, sha256_multihash(DATA))
    with here.download(cid) as download:
        download.allocate(100)
        download.write(10, b"abc")
        assert download.read(9, 5) == b"\0abc\0"
        assert download.read(98, 10) == b"\0\0"
        assert download.read(200, 10) == b""


def test_room_is_asked_for_before_loading(here: Repo) -> None:
    """A file larger than the disk is refused at once, not after hours."""
    empty = CID(1, RAW, sha256_multihash(b""))
    with here.download(empty) as download, pytest.raises(DiskFull, match="Free some space"):
        download.allocate(1 << 60)


def test_writers_in_several_threads(here: Repo, there: Repo) -> None:
    """Parts written by several threads at once end up each at its place."""
    stored = there.store_bytes(DATA)
    with here.download(stored.cid) as download:
        download.allocate(len(DATA))

        def write(start: int) -> None:
            for offset in range(start, len(DATA), 400):
                download.write(offset, DATA[offset : offset + 100])

        threads = [threading.Thread(target=write, args=(k,)) for k in (0, 100, 200, 300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert download.finish(len(DATA)).read_bytes() == DATA


def test_small_files_in_one_go(here: Repo) -> None:
    """Many single-block files are kept at once, each at its place; with wrong bytes among them none is written."""
    files = [(CID(1, RAW, sha256_multihash(b"%d" % i)), b"%d" % i) for i in range(100)]
    with pytest.raises(HashMismatch):
        here.add_small_files([*files, (files[0][0], b"wrong")])
    assert here.list_files() == []
    here.add_small_files([*files, files[3]])
    for cid, data in files:
        path = here.find_file(cid)
        assert path is not None
        assert path == here.path_for(cid)
        assert path.read_bytes() == data
    assert all(here.get_block(cid.multihash) == data for cid, data in files)
    assert len(here.list_files()) == 100


def test_small_wrapped_files(here: Repo, there: Repo) -> None:
    """The same for small files of CIDv0: the file's bytes are given, and its block is served."""
    stored = there.store_bytes(b"hello", profile="unixfs-v0-2015")
    here.add_small_files([(stored.cid, b"hello")])
    path = here.find_file(stored.cid)
    assert path is not None
    assert path.read_bytes() == b"hello"
    assert here.get_block(stored.cid.multihash) == there.get_block(stored.cid.multihash)


def test_forked_child_does_not_hold_a_load(here: Repo) -> None:
    """A worker forked during a load does not keep the partial file locked after the load ends."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    cid = CID(1, RAW, sha256_multihash(DATA))
    download = here.download(cid)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    download.close()
    here.download(cid).close()
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)


def test_nothing_is_put_once_it_is_closed(here: Repo, there: Repo) -> None:
    """`put` writes while the file is open, and tells when it is not: the descriptor may be somebody else's by then."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    download = here.download(stored.cid)
    assert download.put(0, DATA[:1000])
    assert download.read(0, 1000) == DATA[:1000]
    download.close()
    assert not download.put(1000, DATA[1000:2000])
    assert download.path.read_bytes() == DATA[:1000]


def test_closing_waits_for_what_is_being_put(here: Repo, there: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread in the middle of a `put` has its file until it is done."""
    stored = there.store_bytes(DATA, profile=RAW_LEAVES)
    download = here.download(stored.cid)
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    write = download.write

    def slow(offset: int, data: bytes) -> None:
        begun.set()
        assert go_on.wait(60)
        write(offset, data)

    monkeypatch.setattr(download, "write", slow)
    putting = threading.Thread(target=download.put, args=(0, DATA[:1000]))
    putting.start()
    assert begun.wait(60)

    def close() -> None:
        download.close()
        closed.set()

    closing = threading.Thread(target=close)
    closing.start()
    assert not closed.wait(0.2)
    go_on.set()
    putting.join(60)
    closing.join(60)
    assert closed.is_set()
    assert download.path.read_bytes() == DATA[:1000]
