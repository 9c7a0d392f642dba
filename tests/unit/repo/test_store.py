"""Storing and linking: right CIDs, one copy, nothing half done."""

from __future__ import annotations

import json
import os
import random
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID, sha256_multihash
from kachery_p2p.dag.profiles import UNIXFS_V0_2015, UNIXFS_V1_2025, Profile
from kachery_p2p.errors import FileChanged, FileMissing, InvalidProfile, IsADirectory, NotAFile, RepoError
from kachery_p2p.repo import Repo
from kachery_p2p.repo.fileio import Stamp
from kachery_p2p.repo.limits import TASK_BYTES
from kachery_p2p.repo.newfile import NewFile
from tests.helpers.profiles import custom_profile

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "unixfs_cids.json").read_text())
PROFILES = {
    "unixfs-v1-2025": UNIXFS_V1_2025,
    "unixfs-v0-2015": UNIXFS_V0_2015,
    "raw_256k_174": custom_profile("unixfs-v1-2025", chunk_size=256 * 1024, width=174),
}
TINY = custom_profile(chunk_size=1000, width=3)
TINY_WRAPPED = custom_profile("unixfs-v0-2015", chunk_size=1000, width=3)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def everything_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def pattern(size: int) -> bytes:
    """Bytes without repetition, so that no two leaves are the same; always the same ones."""
    return random.Random(7).randbytes(size)


def content_of(entry: dict) -> bytes:
    words = entry["input"].split()
    if entry["input"] == "no bytes":
        return b""
    if words[1:] == ["zero", "bytes"]:
        return bytes(int(words[0]))
    return {"b'hello'": b"hello", "b'hello\\n'": b"hello\n"}[entry["input"]]


@pytest.mark.parametrize("entry", VECTORS["files"], ids=lambda entry: entry["input"])
@pytest.mark.parametrize("name", PROFILES)
def test_cids_are_those_of_other_implementations(repo: Repo, tmp_path: Path, entry: dict, name: str) -> None:
    """Stored as a file, as bytes, and linked, the same content gets the CID that Kubo and Helia give it."""
    data = content_of(entry)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert str(repo.link_file(path, profile=PROFILES[name]).cid) == entry[name]
    assert str(repo.store_file(path, profile=PROFILES[name]).cid) == entry[name]
    assert str(repo.store_bytes(data, profile=PROFILES[name]).cid) == entry[name]


@pytest.mark.parametrize("size", [0, 1, 300, 1 << 20, (1 << 20) + 1, TASK_BYTES, 2 * TASK_BYTES + 12345])
def test_stored_file_is_at_its_place(repo: Repo, tmp_path: Path, size: int) -> None:
    """A stored file is a plain file at ipfs/ab/cd/ef/<cid>, read-only, with just the bytes that went in."""
    data = pattern(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    stored = repo.store_file(path)
    name = str(stored.cid)
    expected = repo.directory / "ipfs" / name[-6:-4] / name[-4:-2] / name[-2:] / name
    assert (stored.size, stored.path, repo.path_for(stored.cid)) == (size, expected, expected)
    assert expected.read_bytes() == data
    assert stat.S_IMODE(expected.stat().st_mode) & 0o222 == 0
    assert repo.find_file(stored.cid) == expected
    assert everything_under(repo.directory / "tmp") == []
    assert repo.store_bytes(data) == stored


@settings(max_examples=25)
@given(
    size=st.integers(0, 20_000),
    chunk=st.integers(1, 5000),
    width=st.integers(2, 5),
    raw=st.booleans(),
    version=st.sampled_from([0, 1]),
)
def test_any_profile_gives_every_block_back(
    repo: Repo, size: int, chunk: int, width: int, raw: bool, version: int
) -> None:
    """Whatever the chunk size, width and leaf kind: each block of the DAG comes out of the plain file, right."""
    profile = custom_profile(chunk_size=max(chunk, size // 40 + 1), width=width, raw_leaves=raw, cid_version=version)
    data = pattern(size)
    stored = repo.store_bytes(data, profile=profile)
    assert stored.path.read_bytes() == data
    assert read_dag(repo, stored.cid) == data
    assert stored.dag_size == dag_bytes(repo, stored.cid)


def read_dag(repo: Repo, cid: CID) -> bytes:
    """The file as a peer would see it: block by block, each checked."""
    from kachery_p2p.dag.cid import verify_block
    from kachery_p2p.dag.walk import FileWalk

    walk = FileWalk(cid)
    parts: dict[int, bytes] = {}
    while not walk.finished:
        for ref in walk.take(10):
            block = repo.get_block(ref.cid.multihash)
            assert block is not None
            assert verify_block(ref.cid.multihash, block)
            assert repo.has_block(ref.cid.multihash) == len(block)
            for piece in walk.feed(ref, block):
                parts[piece.offset] = bytes(piece.data)
    return b"".join(parts[offset] for offset in sorted(parts))


def dag_bytes(repo: Repo, cid: CID) -> int:
    from kachery_p2p.dag.cid import DAG_PB
    from kachery_p2p.dag.pb import decode_node

    block = repo.get_block(cid.multihash)
    assert block is not None
    below = decode_node(block).links if cid.codec == DAG_PB else ()
    return len(block) + sum(dag_bytes(repo, link.cid) for link in below)


def test_storing_again_writes_nothing(repo: Repo, tmp_path: Path) -> None:
    """The second store of the same bytes, small or large, from whatever path, leaves the first copy alone."""
    for size in (100, 3_000_000):
        first, second = tmp_path / "first", tmp_path / "second"
        first.write_bytes(pattern(size))
        second.write_bytes(pattern(size))
        stored = repo.store_file(first)
        before = Stamp.of(stored.path.stat())
        assert repo.store_file(second) == stored
        assert Stamp.of(stored.path.stat()) == before


def test_two_profiles_share_one_file(repo: Repo, tmp_path: Path) -> None:
    """The same bytes under another profile get their own path and CID, but no second copy on the disk."""
    path = tmp_path / "file"
    path.write_bytes(pattern(3_000_000))
    one = repo.store_file(path, profile="unixfs-v1-2025")
    two = repo.store_file(path, profile="unixfs-v0-2015")
    assert one.path != two.path
    assert os.path.samefile(one.path, two.path)
    assert repo.find_file(one.cid) == one.path
    assert repo.find_file(two.cid) == two.path
    assert read_dag(repo, one.cid) == read_dag(repo, two.cid) == pattern(3_000_000)


def test_same_size_and_samples_are_not_taken_for_the_same_bytes(repo: Repo, tmp_path: Path) -> None:
    """Files that differ only where nobody sampled are two files, each whole."""
    data = bytearray(pattern(3_000_000))
    path = tmp_path / "file"
    path.write_bytes(data)
    one = repo.store_file(path)
    data[700_000] ^= 1
    path.write_bytes(data)
    two = repo.store_file(path)
    assert one.cid != two.cid
    assert two.path.read_bytes() == data
    assert one.path.read_bytes() == pattern(3_000_000)


def test_cidv0_and_its_cidv1_form_are_one_root(repo: Repo) -> None:
    """A file stored as Qm... is found by the bafy... form of that CID."""
    stored = repo.store_bytes(b"x" * 300_000, profile="unixfs-v0-2015")
    assert str(stored.cid).startswith("Qm")
    assert repo.find_file(stored.cid.to_v1()) == stored.path


def test_linking_copies_nothing(repo: Repo, tmp_path: Path) -> None:
    """A linked file is found, and served, from where it lies; nothing appears under ipfs/."""
    path = tmp_path / "file"
    path.write_bytes(pattern(3_000_000))
    linked = repo.link_file(path)
    assert linked.path == path
    assert everything_under(repo.directory / "ipfs") == []
    assert repo.find_file(linked.cid) == path
    assert read_dag(repo, linked.cid) == pattern(3_000_000)
    assert repo.store_bytes(pattern(3_000_000)).cid == linked.cid


def test_linking_a_symbolic_link_links_the_file(repo: Repo, tmp_path: Path) -> None:
    """The file itself is recorded, so that turning the symbolic link elsewhere does no harm."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "symlink").symlink_to("file")
    linked = repo.link_file(tmp_path / "symlink")
    (tmp_path / "symlink").unlink()
    assert repo.find_file(linked.cid) == tmp_path / "file"


def test_own_copy_is_preferred_to_a_link(repo: Repo, tmp_path: Path) -> None:
    """Linked and stored, a file is found at our own copy, and stays when the linked one goes."""
    path = tmp_path / "file"
    path.write_bytes(pattern(2_000_000))
    linked = repo.link_file(path)
    stored = repo.store_file(path)
    path.unlink()
    assert repo.find_file(linked.cid) == stored.path
    assert read_dag(repo, linked.cid) == pattern(2_000_000)


def test_progress_grows_to_the_size(repo: Repo, tmp_path: Path) -> None:
    """Progress is told in bytes, in growing numbers, and ends at the size of the file."""
    size = 3 * TASK_BYTES + 17
    path = tmp_path / "file"
    path.write_bytes(pattern(size))
    seen: list[tuple[int, int]] = []
    repo.store_file(path, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)
    assert len(seen) > 2


def _append(path: Path) -> None:
    with path.open("ab") as out:
        out.write(b"more")


def _overwrite(path: Path) -> None:
    with path.open("r+b") as out:
        out.write(b"other")


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


@pytest.mark.parametrize(
    "change",
    [_append, _overwrite, _replace, lambda path: os.truncate(path, 100), Path.unlink],
    ids=["append", "overwrite", "replace", "truncate", "delete"],
)
@pytest.mark.parametrize("link", [False, True], ids=["store", "link"])
def test_file_that_changes_meanwhile_is_refused(
    repo: Repo, tmp_path: Path, change: Callable[[Path], None], link: bool
) -> None:
    """A file that changes while it is read is an error that names it, and leaves nothing at all behind."""
    path = tmp_path / "file"
    path.write_bytes(pattern(2 * TASK_BYTES + 5))
    os.utime(path, (1, 1))
    changed = False

    def progress(done: int, total: int) -> None:
        nonlocal changed
        if not changed:
            changed = True
            change(path)

    act = repo.link_file if link else repo.store_file
    with pytest.raises(FileChanged, match="file"):
        act(path, progress=progress)
    assert everything_under(repo.directory / "ipfs") == []
    assert everything_under(repo.directory / "tmp") == []
    assert repo.stats == (0, 0, 0, 0, 0, 0, 0)


def test_what_cannot_be_stored_is_said(repo: Repo, tmp_path: Path) -> None:
    """No such file, a folder, a named pipe, a socket, a device, a profile that does not exist: each its own error."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for act in (repo.store_file, repo.link_file):
            with pytest.raises(FileMissing, match="nothing-there"):
                act(tmp_path / "nothing-there")
            with pytest.raises(IsADirectory):
                act(tmp_path)
            with pytest.raises(NotAFile, match="named pipe"):
                act(tmp_path / "pipe")
            with pytest.raises(NotAFile, match="socket"):
                act(tmp_path / "socket")
            with pytest.raises(NotAFile, match="device"):
                act("/dev/null")
            (tmp_path / "file").write_bytes(b"x")
            with pytest.raises(InvalidProfile):
                act(tmp_path / "file", profile="unixfs-v9")


def test_error_of_the_progress_function_stops_the_store(repo: Repo, tmp_path: Path) -> None:
    """When the caller's function raises (a cancelled load, Ctrl-C), the store ends and leaves nothing."""
    path = tmp_path / "file"
    path.write_bytes(pattern(2 * TASK_BYTES + 5))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.store_file(path, progress=stop)
    assert everything_under(repo.directory / "ipfs") + everything_under(repo.directory / "tmp") == []


def test_damaged_copy_is_set_aside_when_the_file_is_stored_again(repo: Repo, tmp_path: Path) -> None:
    """Storing over a copy that somebody edited brings the right bytes back, and keeps the edited ones in damaged/."""
    for data in (b"small", pattern(3_000_000)):
        path = tmp_path / "file"
        path.write_bytes(data)
        stored = repo.store_file(path)
        stored.path.chmod(0o644)
        stored.path.write_bytes(b"edited")
        assert repo.store_file(path) == stored
        assert stored.path.read_bytes() == data
        assert (repo.directory / "damaged" / f"{stored.cid}.1").read_bytes() == b"edited"
        assert repo.find_file(stored.cid) == stored.path


def test_right_file_without_rows_is_kept_when_it_is_stored_again(repo: Repo, tmp_path: Path) -> None:
    """A whole file that the catalog does not know (after a crash) is taken over, not taken for damaged."""
    for data in (b"small", pattern(3_000_000)):
        path = tmp_path / "file"
        path.write_bytes(data)
        stored = repo.store_file(path)
        before = stored.path.stat()
        with repo._catalog.write() as db:
            for table in ("leaves", "files", "roots"):
                db.execute(f"DELETE FROM {table}")
        assert repo.store_file(path) == stored
        assert stored.path.stat().st_ino == before.st_ino
        assert repo.find_file(stored.cid) == stored.path
        assert everything_under(repo.directory / "damaged") == []


def test_left_overs_of_dead_processes_go_and_others_stay(tmp_path: Path) -> None:
    """Opening a repo removes temporary files that no process holds, and none that one does."""
    from kachery_p2p.repo.newfile import NewFile

    with Repo.open(tmp_path):
        pass
    (tmp_path / "tmp" / "0123").write_bytes(b"left over")
    with NewFile(tmp_path / "tmp") as new, Repo.open(tmp_path):
        assert everything_under(tmp_path / "tmp") == [new.path]
    assert everything_under(tmp_path / "tmp") == []


def test_closed_repo_says_so(tmp_path: Path) -> None:
    """Using a repo after close is an error in words."""
    repo = Repo.open(tmp_path)
    repo.close()
    repo.close()
    with pytest.raises(RepoError, match="closed"):
        repo.store_bytes(b"x")


def test_written_file_is_stored_without_a_copy(repo: Repo) -> None:
    """What was written to a new file of the repo becomes the stored file itself; dropped, it leaves nothing."""
    for size in (0, 100, 3_000_000):
        with NewFile(repo.directory / "tmp") as new:
            os.write(new.fd, pattern(size))
            inode = os.fstat(new.fd).st_ino
            stored = repo.store_new(new)
        assert stored.path.read_bytes() == pattern(size)
        assert stored.path.stat().st_ino == inode
        assert stored == repo.store_bytes(pattern(size))
        with NewFile(repo.directory / "tmp") as new:
            os.write(new.fd, pattern(size))
            assert repo.store_new(new) == stored
        assert stored.path.stat().st_ino == inode
        assert everything_under(repo.directory / "tmp") == []
    with NewFile(repo.directory / "tmp") as new:
        os.write(new.fd, b"never stored")
    assert everything_under(repo.directory / "tmp") == []


def test_without_hard_links_the_second_profile_is_a_copy(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system has no hard links, both roots are there all the same."""

    def refuse(*_args: object, **_kw: object) -> None:
        raise OSError(1, "no hard links")

    path = tmp_path / "file"
    path.write_bytes(pattern(3_000_000))
    one = repo.store_file(path)
    monkeypatch.setattr(os, "link", refuse)
    two = repo.store_file(path, profile="unixfs-v0-2015")
    assert not os.path.samefile(one.path, two.path)
    assert read_dag(repo, two.cid) == pattern(3_000_000)


def test_profiles_of_one_block_and_explicit_profile_objects(repo: Repo) -> None:
    """A Profile object is taken as well as a name, and wrapped single leaves work."""
    assert isinstance(TINY, Profile)
    for profile in (TINY, TINY_WRAPPED):
        for size in (0, 1, 1000, 1001, 12_345):
            stored = repo.store_bytes(pattern(size), profile=profile)
            assert read_dag(repo, stored.cid) == pattern(size)


def test_roots_are_what_has_a_uri_of_its_own(repo: Repo, tmp_path: Path) -> None:
    """Files, directories and the files in them are roots, the nodes between are not; blocks are listed on request."""
    single = tmp_path / "single"
    single.write_bytes(pattern(2500))
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "member").write_bytes(b"member")
    file = repo.store_file(single, profile=TINY)
    directory = repo.store_directory(folder)
    member = CID(1, 0x55, sha256_multihash(b"member"))
    assert set(repo.roots()) == {file.cid.multihash, directory.cid.multihash, member.multihash}
    everything = list(repo.all_multihashes())
    assert len(everything) == len(set(everything))
    leaves = {sha256_multihash(pattern(2500)[start : start + 1000]) for start in (0, 1000, 2000)}
    assert set(everything) >= {*repo.roots(), *leaves}
    repo.remove(file.cid)
    assert set(repo.roots()) == {directory.cid.multihash, member.multihash}
