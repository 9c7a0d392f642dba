"""What was hashed before and has not changed is not read again; what may have changed is."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.profiles import UNIXFS_V1_2025, Profile
from kachery_p2p.errors import DamagedFile
from kachery_p2p.repo import Repo, fileio, hashing, seen, storing
from kachery_p2p.repo.fileio import Stamp
from kachery_p2p.repo.scanning import FolderOptions

SECOND = 1_000_000_000
LARGE = 3_000_000


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this test are taken to have been written long before they are hashed."""
    monkeypatch.setattr(seen, "RACY_NS", -10 * SECOND)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that were read of files that are stored or linked."""
    counted: list[int] = []

    def counting(name: str, module: Any) -> None:
        real = getattr(module, name)

        def read(*arguments: Any) -> Any:
            got = real(*arguments)
            counted.append(got if isinstance(got, int) else len(got))
            return got

        monkeypatch.setattr(module, name, read)

    counting("read_at", hashing)
    counting("read_at", storing)
    return counted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small, empty and large files, in folders."""
    top = tmp_path / "folder"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "small").write_bytes(b"small")
    (top / ".hidden").write_bytes(b"")
    (top / "large").write_bytes(random.Random(1).randbytes(LARGE))
    (top / "sub" / "same as small").write_bytes(b"small")
    (top / "sub" / "medium").write_bytes(random.Random(2).randbytes(100_000))
    return top


Store = Callable[[Repo, Path], Any]


def store(repo: Repo, path: Path) -> Any:
    return repo.store_directory(path) if path.is_dir() else repo.store_file(path)


def link(repo: Repo, path: Path) -> Any:
    return repo.store_directory(path, link=True) if path.is_dir() else repo.link_file(path)


both = pytest.mark.parametrize("keep", [store, link])


@both
def test_an_unchanged_folder_is_not_read_again(repo: Repo, folder: Path, reads: list[int], keep: Store) -> None:
    """Stored or linked again, also by another process, it has the same URI, and no byte of its files is read."""
    first = keep(repo, folder)
    assert sum(reads) >= LARGE
    reads.clear()
    assert keep(repo, folder) == first
    assert reads == []
    repo.close()
    with Repo.open(repo.directory) as again:
        assert keep(again, folder) == first
        assert reads == []
        assert again.verify() == []


@both
def test_an_unchanged_large_file_is_not_read_again(repo: Repo, folder: Path, reads: list[int], keep: Store) -> None:
    """The same of one file, by each of its names: a symbolic link, a relative path, alone or in its folder."""
    large = folder / "large"
    first = keep(repo, large)
    (folder.parent / "name").symlink_to(large)
    reads.clear()
    seen_sizes: list[tuple[int, int]] = []
    assert keep(repo, large) == first
    assert keep(repo, folder.parent / "name").cid == first.cid
    assert keep(repo, folder / "sub" / ".." / "large").cid == first.cid
    (repo.store_file if keep is store else repo.link_file)(large, progress=lambda *at: seen_sizes.append(at))
    assert seen_sizes == [(LARGE, LARGE)]
    assert reads == []
    keep(repo, folder)
    assert 0 < sum(reads) < LARGE


@both
def test_rehash_reads_everything(repo: Repo, folder: Path, reads: list[int], keep: Store) -> None:
    """It is asked for, where somebody does not trust the times of files."""
    first = keep(repo, folder)
    reads.clear()
    again = repo.store_directory(folder, options=FolderOptions(link=keep is link, rehash=True))
    assert again == first
    assert sum(reads) >= LARGE + 100_000 + 10
    reads.clear()
    (repo.store_file if keep is store else repo.link_file)(folder / "large", rehash=True)
    assert sum(reads) >= LARGE


# --- what may have changed -------------------------------------------------------------------------------------------


def next_tick(path: Path) -> None:
    """Goes on once the clock of the file system has moved since the file was changed; some milliseconds at the most."""
    probe = path.with_name(".probe")
    changed = path.stat().st_ctime_ns
    while True:
        probe.write_bytes(b"")
        now = probe.stat().st_ctime_ns
        probe.unlink()
        if now > changed:
            return


def rewrite(path: Path) -> None:
    """Other bytes of the same length, in the same file."""
    next_tick(path)
    with open(path, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(b"?" if first != b"?" else b"!")


def and_put_the_time_back(path: Path) -> None:
    status = path.stat()
    rewrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def replace_by_another(path: Path) -> None:
    """Another file of the same size and modification time has the name now."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    and_put_the_time_back(other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, and_put_the_time_back, replace_by_another])
@pytest.mark.parametrize("name", ["large", "sub/medium"])
@both
def test_what_changed_is_hashed(
    repo: Repo, folder: Path, keep: Store, name: str, change: Callable[[Path], None]
) -> None:
    """Whatever was done to hide it: the change time or the inode tells."""
    before = keep(repo, folder)
    change(folder / name)
    after = keep(repo, folder)
    assert after.cid != before.cid
    with Repo.open(repo.directory.parent / "fresh") as fresh:
        assert fresh.store_directory(folder).cid == after.cid
    assert repo.store_file(folder / name).path.read_bytes() == (folder / name).read_bytes()


def test_a_change_in_the_tick_of_the_clock_in_which_it_was_hashed(
    repo: Repo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was written just before may change again without its stamp moving: it is not noted."""
    monkeypatch.setattr(seen, "RACY_NS", 3600 * SECOND)
    large = folder / "large"
    before = repo.store_file(large)
    frozen = Stamp.of(large.stat())
    rewrite(large)
    # As a coarse clock would have it.
    monkeypatch.setattr(fileio.Stamp, "of", classmethod(lambda cls, status: frozen))
    assert repo.store_file(large).cid != before.cid


@pytest.mark.parametrize(
    ("mtime", "ctime", "began", "network", "settled"),
    [
        (0, 5_123_456_789, 5_133_456_789, False, False),  # within two ticks of a clock
        (0, 5_123_456_789, 5_143_456_790, False, True),
        (6 * SECOND, 5_123_456_789, 5_200_000_000, False, False),  # of the future
        (0, 5 * SECOND, 6 * SECOND, False, False),  # a clock of whole seconds
        (0, 5 * SECOND, 8 * SECOND, False, True),
        (0, 5_120_000_000, 6_120_000_000, False, False),  # a clock of hundredths
        (0, 5_123_456_789, 8_123_456_789, True, False),  # the clock of another machine
        (0, 5_123_456_789, 68_123_456_789, True, True),
        (5_123_456_789, 0, 68_123_456_789, False, False),  # no times
    ],
)
def test_stamps_that_prove_something(
    monkeypatch: pytest.MonkeyPatch, mtime: int, ctime: int, began: int, network: bool, settled: bool
) -> None:
    """A stamp is noted when any change after the file was hashed must show in it."""
    monkeypatch.setattr(seen, "RACY_NS", storing.RACY_NS)
    assert seen._has_settled(Stamp(1, mtime, ctime, 1), began, network) is settled


def test_a_file_that_this_process_has_mapped(repo: Repo, tmp_path: Path, reads: list[int]) -> None:
    """A write through a mapping moves the time of a file once: it is hashed for as long as it is mapped."""
    path = tmp_path / "mapped"
    path.write_bytes(bytes(LARGE))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        cids: set[CID] = set()
        for value in range(3):
            mapped[0] = value
            cids.add(repo.store_file(path).cid)
            cids.add(repo.store_directory(tmp_path, options=FolderOptions(exclude=("/repo/",))).cid)
        assert len(cids) == 6
        files = seen.SeenFiles(repo._placer, UNIXFS_V1_2025, linked=None)
        files.note_one(str(path), Stamp.of(path.stat()), 2**62, CID.parse("bafkqaaa"), 0)
        assert files.find_one(str(path), Stamp.of(path.stat())) is None
    repo.store_file(path)
    reads.clear()
    repo.store_file(path)
    assert reads == []


def test_on_a_network_file_system_the_file_is_opened(
    repo: Repo, folder: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this machine remembers of the file may be old; opening it asks the server."""
    monkeypatch.setattr(seen, "network_file_system", lambda _: "nfs4")
    monkeypatch.setattr(seen, "NETWORK_RACY_NS", -10 * SECOND)
    first = repo.store_directory(folder)
    reads.clear()
    assert repo.store_directory(folder) == first
    assert reads == []
    rewrite(folder / "sub" / "medium")
    # The listing of the folder still has the old times; an open file has the new ones.
    monkeypatch.setattr(seen.SeenFiles, "find", _with_old_stamp(seen.SeenFiles.find))
    assert repo.store_directory(folder).cid != first.cid


def _with_old_stamp(find: Any) -> Any:
    def found(self: Any, name: str, stamp: Stamp) -> Any:
        row = self._rows.get(os.fsencode(name))
        return find(self, name, stamp if row is None else Stamp(*row[:4]))

    return found


# --- what is not here any more ---------------------------------------------------------------------------------------


def lose(path: Path, repo: Repo) -> None:
    path.chmod(0o600)
    path.unlink()


def damage(path: Path, repo: Repo) -> None:
    path.chmod(0o600)
    rewrite(path)


@pytest.mark.parametrize("harm", [lose, damage])
def test_a_copy_that_is_gone_or_damaged_is_made_again(
    repo: Repo, folder: Path, harm: Callable[[Path, Repo], None]
) -> None:
    """To be known is not to be here."""
    first = repo.store_directory(folder)
    large = repo.store_file(folder / "large")
    harm(large.path, repo)
    assert repo.store_directory(folder) == first
    found = repo.find_file(large.cid)
    assert found is not None
    assert found.read_bytes() == (folder / "large").read_bytes()
    harm(large.path, repo)
    assert repo.store_file(folder / "large") == large
    assert large.path.read_bytes() == (folder / "large").read_bytes()


@pytest.mark.parametrize("notice", ["verify", "read", "size"])
def test_a_pack_that_is_damaged_is_made_good(repo: Repo, folder: Path, notice: str) -> None:
    """Once it was noticed that a small file went bad, storing it again brings it back; a pack cut short is noticed."""
    first = repo.store_directory(folder)
    cid = repo.store_file(folder / "small").cid  # of the same bytes, so it is found by them
    packed = repo._reader.packs.file(cid)
    assert packed is None or packed.length == 5
    place = repo._reader.packs.file(repo.store_value(b"small").cid)
    assert place is not None
    repo.store_file(folder / "small").path.unlink()
    pack = repo.directory / "packs" / f"{place.pack}.car"
    with open(pack, "r+b") as file:
        if notice == "size":
            file.truncate(place.offset)
        else:
            file.seek(place.offset)
            file.write(b"wrong")
    if notice == "verify":
        assert repo.verify()
    elif notice == "read":
        assert repo.packed_file(cid) is None
    assert repo.store_directory(folder) == first
    assert repo.packed_file(cid) == b"small"


def test_another_profile_is_another_question(repo: Repo, folder: Path, reads: list[int]) -> None:
    """What is known under one profile says nothing of another; each is remembered."""
    tiny = Profile("tiny", chunk_size=1000)
    answers = [repo.store_directory(folder, profile=which).cid for which in (UNIXFS_V1_2025, "unixfs-v0-2015", tiny)]
    assert len(set(answers)) == 3
    assert [cid.version for cid in answers] == [1, 0, 1]
    reads.clear()
    for which, cid in zip((UNIXFS_V1_2025, "unixfs-v0-2015", tiny), answers, strict=True):
        assert repo.store_directory(folder, profile=which).cid == cid
    assert reads == []


def test_linked_is_not_stored(repo: Repo, folder: Path) -> None:
    """A file known as a link is copied when a copy is asked for, and the other way round; a changed link is noticed."""
    large = folder / "large"
    linked = repo.link_file(large)
    assert linked.path == large
    stored = repo.store_file(large)
    assert (stored.cid, stored.path) == (linked.cid, repo.path_for(linked.cid))
    assert repo.remove(stored.cid)
    assert repo.store_directory(folder, link=True).path == folder
    assert repo.find_file(linked.cid) == large
    rewrite(large)
    with pytest.raises(DamagedFile):
        repo.find_file(linked.cid)
    assert repo.link_file(large).cid != linked.cid


def test_two_names_of_one_file(repo: Repo, folder: Path, reads: list[int]) -> None:
    """Hard links are two files here, each with a row of its own; a change through one is seen by the other."""
    os.link(folder / "large", folder / "twin")
    first = repo.store_directory(folder)
    reads.clear()
    assert repo.store_directory(folder) == first
    assert reads == []
    rewrite(folder / "twin")
    repo.store_directory(folder)
    assert repo.store_file(folder / "large").path.read_bytes() == (folder / "twin").read_bytes()


# --- any history -----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "sub/c", "sub/d"])
CHANGES = st.sampled_from([rewrite, and_put_the_time_back, replace_by_another])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), NAMES, CHANGES),
        st.tuples(st.just("move"), NAMES, NAMES),
        st.tuples(st.just("link"), NAMES, NAMES),
        st.tuples(st.just("remove"), NAMES, st.none()),
        st.tuples(st.just("store"), st.booleans(), st.booleans()),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_was_done_to_a_folder(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    """Stored or linked in between or not, it has the URI that a repo gives which never saw it; and it can be read."""
    base = tmp_path_factory.mktemp("history")
    top = base / "folder"
    (top / "sub").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "sub/c", "sub/d")):
        (top / name).write_bytes(bytes([number]) * (40_000 if number % 2 else 10))
    with Repo.open(base / "repo") as repo:
        for what, one, other in steps:
            if what == "store":
                repo.store_directory(top, options=FolderOptions(link=one, rehash=other))
            elif not (top / one).exists():
                continue
            elif what == "change":
                other(top / one)
            elif what == "move":
                os.replace(top / one, top / other)
            elif what == "link" and not (top / other).exists():
                os.link(top / one, top / other)
            elif what == "remove":
                (top / one).unlink()
        stored = repo.store_directory(top)
        with Repo.open(base / "fresh") as fresh:
            assert fresh.store_directory(top) == stored
            for file in fresh.list_files():
                data = fresh.packed_file(file.cid) if file.kind == "file" else None
                path = repo.find_file(file.cid) if file.kind == "file" else None
                if path is not None:
                    assert path.read_bytes() == (data if data is not None else fresh.path_for(file.cid).read_bytes())
                else:
                    assert file.kind == "directory"


# --- its size --------------------------------------------------------------------------------------------------------


def rows(repo: Repo) -> int:
    return repo._catalog.one("SELECT count(*) FROM seen")[0]


def test_it_is_forgotten_with_the_root(repo: Repo, folder: Path) -> None:
    """A root that was removed is not known any more, and nothing is kept of it; stored again, it is back."""
    repo.store_directory(folder)
    assert rows(repo) == 5
    large = repo.store_file(folder / "large")
    assert repo.remove(large.cid)
    assert rows(repo) == 4
    assert repo.store_file(folder / "large") == large
    assert large.path.exists()


def test_it_is_bounded(repo: Repo, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many files, those noted longest ago are forgotten; what is stored again and again has one row."""
    for _ in range(3):
        repo.store_directory(folder, options=FolderOptions(rehash=True))
    assert rows(repo) == 5
    monkeypatch.setattr(seen, "SEEN_FILES", 3)
    first = repo.store_directory(folder, options=FolderOptions(rehash=True))
    assert rows(repo) == 3
    assert repo.store_directory(folder) == first


def test_what_was_hashed_of_a_linked_folder_is_kept(
    repo: Repo, tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a large folder loses little: what was hashed of it until then is not read again."""
    from kachery_p2p.repo import folders

    monkeypatch.setattr(folders, "BATCH_LINKED", 2 * LARGE)
    folder = tmp_path / "large ones"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}").write_bytes(random.Random(number).randbytes(LARGE))

    def stop(done: int, _: int) -> None:
        if done >= 5 * LARGE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.store_directory(folder, link=True, progress=stop)
    reads.clear()
    stored = repo.store_directory(folder, link=True)
    assert 3 * LARGE <= sum(reads) <= 5 * LARGE
    reads.clear()
    assert repo.store_directory(folder, link=True) == stored
    assert sum(reads) == 0
