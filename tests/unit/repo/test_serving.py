"""Blocks out of plain files: always the right bytes, or none."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.dag.builder import leaf_wrap
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash, verify_block
from kachery_p2p.dag.pb import PBLink, encode_node
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import DamagedFile, HashMismatch
from kachery_p2p.repo import Repo
from kachery_p2p.repo.openfiles import OpenFile, OpenFiles
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=4)
DATA = random.Random(1).randbytes(9_500)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def leaves(data: bytes = DATA) -> list[bytes]:
    """The multihashes of the leaves of some bytes under TINY."""
    return [sha256_multihash(data[i : i + 1000]) for i in range(0, len(data), 1000)]


def test_unknown_block_is_not_here(repo: Repo) -> None:
    """A block that nobody stored has no size and no bytes."""
    unknown = sha256_multihash(b"unknown")
    assert repo.has_block(unknown) is None
    assert repo.get_block(unknown) is None
    assert repo.block_sizes([unknown]) == {}


def test_sizes_in_one_go(repo: Repo) -> None:
    """block_sizes tells of leaves, wrapped leaves, inner nodes and identity CIDs what has_block tells one by one."""
    stored = [
        repo.store_bytes(DATA, profile=profile)
        for profile in (TINY, custom_profile("unixfs-v0-2015", chunk_size=1000, width=4))
    ]
    hashes = {b"\x00\x03abc": 3}
    for file in stored:
        walk = FileWalk(file.cid)
        while not walk.finished:
            for ref in walk.take(5):
                block = repo.get_block(ref.cid.multihash)
                assert block is not None
                hashes[ref.cid.multihash] = len(block)
                walk.feed(ref, block)
    assert len(hashes) > 25
    asked = [*hashes, sha256_multihash(b"unknown")] * 30
    assert repo.block_sizes(asked) == hashes
    assert {key: repo.has_block(key) for key in hashes} == hashes


def test_identity_block_is_in_its_multihash(repo: Repo) -> None:
    """The block of an identity CID needs no file."""
    assert repo.get_block(b"\x00\x05hello") == b"hello"
    assert repo.has_block(b"\x00\x05hello") == 5
    assert repo.has_block(b"\x00\x00") == 0
    assert repo.get_block(b"\x00\x00") == b""


def test_empty_block(repo: Repo) -> None:
    """The block of the empty file has size 0, which is not the same as not being here."""
    stored = repo.store_bytes(b"")
    assert repo.has_block(stored.cid.multihash) == 0
    assert repo.get_block(stored.cid.multihash) == b""


def test_changed_linked_file_never_gives_wrong_bytes(repo: Repo, tmp_path: Path) -> None:
    """After a linked file changed, blocks that are still right are served, the changed one is not, and the file is
    named, with what to do, when it is asked for."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    linked = repo.link_file(path, profile=TINY)
    assert repo.get_block(leaves()[0]) == DATA[:1000]
    with path.open("r+b") as out:
        out.seek(3500)
        out.write(b"????")
    assert repo.get_block(leaves()[1]) == DATA[1000:2000]
    assert repo.get_block(leaves()[3]) is None
    assert repo.has_block(leaves()[3]) is None
    assert repo.get_block(leaves()[1]) is None, "found changed, nothing of the file is served before a whole check"
    with pytest.raises(DamagedFile, match=r"link it again") as caught:
        repo.find_file(linked.cid)
    assert str(path) in str(caught.value)


def test_file_that_became_shorter(repo: Repo, tmp_path: Path) -> None:
    """A linked file that was cut off gives its early blocks, and none that it does not have any more."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    repo.link_file(path, profile=TINY)
    os.truncate(path, 2500)
    assert repo.get_block(leaves()[0]) == DATA[:1000]
    assert repo.get_block(leaves()[2]) is None


def test_touched_file_is_still_served(repo: Repo, tmp_path: Path) -> None:
    """New times, a copy in its place, another mode: the same bytes are served, and known again after find_file."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    linked = repo.link_file(path, profile=TINY)
    os.utime(path, (1, 1))
    assert repo.get_block(leaves()[4]) == DATA[4000:5000]
    (tmp_path / "copy").write_bytes(DATA)
    os.replace(tmp_path / "copy", path)
    assert repo.get_block(leaves()[5]) == DATA[5000:6000]
    assert repo.find_file(linked.cid) == path
    path.chmod(0o600)
    assert repo.find_file(linked.cid) == path


def test_overwritten_file_with_its_old_time_and_size(repo: Repo, tmp_path: Path) -> None:
    """A linked file whose content was replaced, with size and time put back, is noticed all the same."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    linked = repo.link_file(path, profile=TINY)
    before = path.stat()
    with path.open("r+b") as out:
        out.write(bytes(100))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert repo.get_block(leaves()[0]) is None
    with pytest.raises(DamagedFile):
        repo.find_file(linked.cid)


def test_missing_linked_file_comes_back(repo: Repo, tmp_path: Path) -> None:
    """A linked file that is away (a drive not mounted) is an error that names it; put back, it is served again."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    linked = repo.link_file(path, profile=TINY)
    os.rename(path, tmp_path / "away")
    assert repo.get_block(leaves()[0]) is None
    with pytest.raises(DamagedFile, match="not there any more") as caught:
        repo.find_file(linked.cid)
    assert str(path) in str(caught.value)
    os.rename(tmp_path / "away", path)
    assert repo.find_file(linked.cid) == path
    assert repo.get_block(leaves()[0]) == DATA[:1000]


def test_changed_file_whose_content_is_put_back(repo: Repo, tmp_path: Path) -> None:
    """Found changed, and then restored from a backup, a linked file counts again."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    linked = repo.link_file(path, profile=TINY)
    path.write_bytes(b"other")
    with pytest.raises(DamagedFile):
        repo.find_file(linked.cid)
    path.write_bytes(DATA)
    assert repo.find_file(linked.cid) == path
    assert repo.get_block(leaves()[0]) == DATA[:1000]


def test_changed_file_is_not_hashed_for_every_question(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file found changed, and not touched since, is refused without hashing it again."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    linked = repo.link_file(path, profile=TINY)
    path.write_bytes(DATA[::-1])
    with pytest.raises(DamagedFile):
        repo.find_file(linked.cid)
    monkeypatch.setattr(repo._checker, "check", lambda *a: pytest.fail("hashed again"))
    with pytest.raises(DamagedFile):
        repo.find_file(linked.cid)


def test_relinked_path_serves_the_new_content_only(repo: Repo, tmp_path: Path) -> None:
    """One path linked with one content and then with another: the first CID is damaged, the second is served."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    old = repo.link_file(path, profile=TINY)
    path.write_bytes(DATA[::-1])
    new = repo.link_file(path, profile=TINY)
    assert {entry.cid: entry.state for entry in repo.list_files()} == {old.cid: "changed", new.cid: "ok"}
    assert repo.find_file(new.cid) == path
    assert repo.get_block(leaves(DATA[::-1])[2]) == DATA[::-1][2000:3000]
    assert repo.get_block(leaves()[2]) is None
    with pytest.raises(DamagedFile):
        repo.find_file(old.cid)


def test_leaf_is_served_from_the_file_that_still_has_it(repo: Repo, tmp_path: Path) -> None:
    """A block that several files contain is served as long as one of them is right."""
    paths = [tmp_path / name for name in "abc"]
    for i, path in enumerate(paths):
        path.write_bytes(DATA[:1000] + bytes([i]) * 500)
        repo.link_file(path, profile=TINY)
    paths[0].write_bytes(b"gone")
    paths[1].unlink()
    assert repo.get_block(leaves()[0]) == DATA[:1000]
    assert repo.has_block(leaves()[0]) == 1000


def test_own_copy_deleted_by_hand(repo: Repo) -> None:
    """Our own copy, removed behind our back, is simply not here any more: it can be loaded again."""
    stored = repo.store_bytes(DATA, profile=TINY)
    assert repo.get_block(leaves()[0]) == DATA[:1000]
    stored.path.unlink()
    assert repo.find_file(stored.cid) is None
    assert repo.has_block(leaves()[0]) is None
    assert repo.get_block(leaves()[0]) is None
    assert repo.store_bytes(DATA, profile=TINY) == stored
    assert repo.find_file(stored.cid) == stored.path
    assert repo.get_block(leaves()[0]) == DATA[:1000]


def test_own_copy_edited_by_hand(repo: Repo) -> None:
    """An edited copy is refused, with the way out in the message."""
    stored = repo.store_bytes(DATA, profile=TINY)
    stored.path.chmod(0o644)
    stored.path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(DamagedFile, match="kachery-cloud repair ipfs://") as caught:
        repo.find_file(stored.cid)
    assert str(stored.path) in str(caught.value)
    assert repo.get_block(leaves()[9]) is None


def test_block_kept_in_a_damaged_catalog_row_is_not_given_out(repo: Repo) -> None:
    """Bytes of the catalog itself are hashed, too, before they leave."""
    stored = repo.store_bytes(DATA, profile=TINY)
    assert repo.get_node(stored.cid.multihash) == repo.get_block(stored.cid.multihash) is not None
    with repo._catalog.write() as db:
        db.execute("UPDATE blocks SET data = zeroblob(length(data))")
    assert repo.get_block(stored.cid.multihash) is None
    assert repo.get_node(stored.cid.multihash) is None


def test_put_block_takes_only_what_has_the_hash(repo: Repo) -> None:
    """A block under a wrong CID is refused, and so is the whole batch it is in."""
    good = encode_node([], encode(UnixFSData(DataType.DIRECTORY)))
    cid = CID(1, DAG_PB, sha256_multihash(good))
    with pytest.raises(HashMismatch):
        repo.put_blocks([(cid, good), (CID(1, DAG_PB, sha256_multihash(b"")), b"x")])
    assert repo.get_block(cid.multihash) is None
    repo.put_blocks([(cid, good)])
    repo.put_blocks([(cid, good)])
    assert repo.get_node(cid.multihash) == good


@pytest.mark.parametrize(
    "kinds", [(DataType.FILE, DataType.FILE), (DataType.RAW, DataType.RAW), (DataType.FILE, DataType.RAW)]
)
def test_leaf_wrapped_as_other_importers_do_is_a_part_of_the_file(repo: Repo, kinds: tuple[DataType, DataType]) -> None:
    """Leaves of UnixFS kind Raw, as old Kubo made them, and of kind File are rebuilt from the file's bytes, also when
    one file has both."""
    parts = [DATA[:1000], DATA[1000:1500]]
    blocks = [
        b"".join((leaf_wrap(kind, len(part))[0], part, leaf_wrap(kind, len(part))[1]))
        for kind, part in zip(kinds, parts, strict=True)
    ]
    root = load_wrapped(repo, parts, blocks)
    assert repo.get_node(sha256_multihash(blocks[0])) is None
    for block in blocks:
        assert repo.get_block(sha256_multihash(block)) == block
        assert repo.has_block(sha256_multihash(block)) == len(block)
    assert repo.verify([root]) == []


def test_leaf_wrapped_in_no_known_way_is_kept_whole(repo: Repo) -> None:
    """A leaf whose node our wrapping does not reproduce (here: with a mode) is kept in the catalog as it came."""
    parts = [DATA[:1000], DATA[1000:1500]]
    blocks = [encode_node([], encode(UnixFSData(DataType.FILE, p, len(p), mode=0o644))) for p in parts]
    root = load_wrapped(repo, parts, blocks)
    for block in blocks:
        assert repo.get_node(sha256_multihash(block)) == block
        assert repo.get_block(sha256_multihash(block)) == block
    assert repo.verify([root]) == []


def load_wrapped(repo: Repo, parts: list[bytes], blocks: list[bytes]) -> CID:
    """Load a file with these leaf blocks, as the node would from a peer."""
    links = [PBLink("", CID(1, DAG_PB, sha256_multihash(block)), len(block)) for block in blocks]
    sizes = [len(part) for part in parts]
    top = encode_node(links, encode(UnixFSData(DataType.FILE, None, sum(sizes), sizes)))
    by_hash = {sha256_multihash(block): block for block in [top, *blocks]}
    root = CID(1, DAG_PB, sha256_multihash(top))
    walk = FileWalk(root)
    with repo.download(root) as download:
        while not walk.finished:
            for ref in walk.take(10):
                block = by_hash[ref.cid.multihash]
                download.accept(ref, block, walk.feed(ref, block))
        assert download.finish(sum(sizes)).read_bytes() == b"".join(parts)
    return root


def test_other_hash_functions(repo: Repo) -> None:
    """A raw file named by another hash function than sha2-256 is kept, found and served."""
    from kachery_p2p.dag.cid import hash_block

    for code in (0x13, 0x14, 0xB220):
        cid = CID(1, RAW, hash_block(code, DATA))
        repo.add_small_files([(cid, DATA)])
        path = repo.path_for(cid)
        assert path.read_bytes() == DATA
        assert repo.get_block(cid.multihash) == DATA
        os.utime(path, (1, 1))
        assert repo.get_block(cid.multihash) == DATA
        assert repo.find_file(cid) == path


def test_many_threads_read_at_once(repo: Repo, tmp_path: Path) -> None:
    """Many readers of more files than are kept open each get the right blocks, while files come and go."""
    repo._reader.files = OpenFiles(3)
    files = [random.Random(i).randbytes(5000) for i in range(12)]
    wanted: dict[bytes, bytes] = {}
    for i, data in enumerate(files):
        path = tmp_path / str(i)
        path.write_bytes(data)
        repo.link_file(path, profile=TINY)
        wanted.update((sha256_multihash(data[k : k + 1000]), data[k : k + 1000]) for k in range(0, 5000, 1000))
    wrong: list[bytes] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for multihash in rng.choices(list(wanted), k=300):
            block = repo.get_block(multihash)
            if block != wanted[multihash]:
                wrong.append(multihash)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for i in range(40):
        (tmp_path / "copy").write_bytes(files[i % 12])
        os.replace(tmp_path / "copy", tmp_path / str(i % 12))
    for thread in threads:
        thread.join()
    assert wrong == []


def test_open_files_close_only_when_nobody_reads(tmp_path: Path) -> None:
    """A file that falls out of the table stays open for whoever is reading from it, and closes after that."""
    table = OpenFiles(1)
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    held = table.get(1, os.fsencode(tmp_path / "a"))
    table.get(2, os.fsencode(tmp_path / "b"))
    assert os.pread(held.fd, 1, 0) == b"a"
    fd = held.fd
    del held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert isinstance(table.get(2, b"/nowhere"), OpenFile)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_uses_the_repo(repo: Repo) -> None:
    """A forked worker reads and stores with the repo it inherited, while the parent goes on with its own."""
    before = repo.store_bytes(DATA, profile=TINY)
    repo.get_block(leaves()[0])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            stored = repo.store_bytes(b"from the child")
            if repo.get_block(leaves()[1]) == DATA[1000:2000] and repo.find_file(stored.cid) == stored.path:
                status = 0
        finally:
            os._exit(status)
    repo.store_bytes(b"from the parent")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert repo.find_file(before.cid) == before.path
    assert {entry.size for entry in repo.list_files()} == {len(DATA), 14, 15}


def test_every_block_given_out_is_verified_by_this_test(repo: Repo, tmp_path: Path) -> None:
    """Whatever bytes of a linked file are changed, and however, get_block gives the right block or None."""
    rng = random.Random(5)
    path = tmp_path / "file"
    for _ in range(30):
        path.write_bytes(DATA)
        repo.link_file(path, profile=TINY)
        how = rng.randrange(4)
        at = rng.randrange(len(DATA))
        if how == 0:
            changed = DATA[:at] + rng.randbytes(rng.randrange(1, 2000)) + DATA[at:]
        elif how == 1:
            changed = DATA[:at]
        elif how == 2:
            changed = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]
        else:
            changed = rng.randbytes(len(DATA))
        path.write_bytes(changed)
        for multihash in leaves():
            block = repo.get_block(multihash)
            assert block is None or verify_block(multihash, block)
