"""Files of which all bytes are here become whole without others: out of their partial file, or of a linked one."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.access.audience import PRIVATE, PUBLIC, Audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.profiles import UNIXFS_V0_2015, Profile
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import RepoBusy
from kachery_p2p.repo.kept_rows import LINKED, LOADED, STORED
from kachery_p2p.repo.repo import Repo
from tests.helpers.profiles import custom_profile

#: Blocks of 8 KiB: a file system knows of holes of that size.
SMALL = custom_profile(chunk_size=8192, width=3)
OLD = Profile("old", chunk_size=8192, width=3, raw_leaves=False, cid_version=0)
DATA = random.Random(1).randbytes(100_000)


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as repo:
        yield repo


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def read_through(theirs: Repo, repo: Repo, cid: CID, end: int | None = None, audience: Audience = PUBLIC) -> None:
    """Bring the bytes of a file as reading it in pieces does: nobody makes it whole in the end."""
    walk = FileWalk(cid, 0, end, whole_blocks=True)

    def bring(claim: object = None) -> None:
        with repo.download(cid, claim) as download:  # type: ignore[arg-type]
            while not walk.finished:
                for ref in walk.take(5):
                    block = theirs.get_block(ref.cid.multihash)
                    assert block is not None
                    download.accept(ref, block, walk.feed(ref, block))

    if audience.everyone:
        bring()
    else:
        with repo.access.claim(audience) as claim:
            bring(claim)


def partial_files(repo: Repo) -> list[str]:
    return os.listdir(repo.directory / "partial")


# --- out of the partial file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [SMALL, OLD, UNIXFS_V0_2015], ids=["raw leaves", "wrapped leaves", "one block"])
@pytest.mark.parametrize("audience", [PUBLIC, PRIVATE], ids=["for everybody", "for some"])
def test_a_file_that_was_read_through(theirs: Repo, repo: Repo, profile: Profile, audience: Audience) -> None:
    """Killed before its last step, a load leaves all bytes: they are found, and the file is as after that load."""
    cid = theirs.store_bytes(DATA, profile=profile).cid
    read_through(theirs, repo, cid, audience=audience)
    assert repo.find_file(cid) is None
    assert repo.finish_partial(cid)
    path = repo.find_file(cid)
    assert path == repo.path_for(cid)
    assert repo.path_for(cid).read_bytes() == DATA
    assert partial_files(repo) == []
    (kept,) = repo.inventory.roots()
    assert (kept.cid, kept.how, kept.whole, kept.here) == (cid, LOADED, True, len(DATA))
    assert repo.access.audience_of(cid) == audience
    assert repo.verify() == []
    assert not repo.finish_partial(cid)


def test_nothing_is_hashed_that_has_a_hole(theirs: Repo, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file of which a part is missing that is seen at once, and the part stays as it is."""
    cid = theirs.store_bytes(DATA, profile=SMALL).cid
    read_through(theirs, repo, cid, 50_000)
    monkeypatch.setattr(repo, "download", None)
    assert not repo.finish_partial(cid)
    assert partial_files(repo) == [str(cid)]


def test_wrong_bytes_are_no_file(theirs: Repo, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash has left in it that is not right is noticed; it is looked at again when it has changed."""
    cid = theirs.store_bytes(DATA, profile=SMALL).cid
    read_through(theirs, repo, cid)
    with open(repo.partial_for(cid), "r+b") as file:
        file.seek(50_000)
        file.write(bytes(10))
    assert not repo.finish_partial(cid)
    assert repo.find_file(cid) is None
    with monkeypatch.context() as patch:
        patch.setattr(repo, "download", None)
        assert not repo.finish_partial(cid), "it was hashed once, and is as it was"
    with repo.download(cid) as download:
        download.write(50_000, DATA[50_000:50_010])
    os.utime(repo.partial_for(cid), (1, 1))
    assert repo.finish_partial(cid)


def test_a_file_that_is_being_loaded_is_left(theirs: Repo, repo: Repo) -> None:
    """Whoever loads it makes it whole."""
    cid = theirs.store_bytes(DATA, profile=SMALL).cid
    read_through(theirs, repo, cid)
    with repo.download(cid), pytest.raises(RepoBusy):
        repo.finish_partial(cid)
    assert repo.finish_partial(cid)


def test_a_file_of_a_folder_is_a_part_of_that(theirs: Repo, repo: Repo, tmp_path: Path) -> None:
    """What was read through a folder is listed with the folder, and has no row of its own."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(DATA)
    (tmp_path / "folder" / "b").write_bytes(DATA[::-1])
    folder = theirs.store_directory(tmp_path / "folder", profile=SMALL).cid
    cid = theirs.store_file(tmp_path / "folder" / "a", profile=SMALL).cid
    read_through(theirs, repo, cid)
    repo.inventory.loaded_part(folder, cid)
    assert repo.finish_partial(cid)
    (kept,) = repo.inventory.roots()
    assert (kept.cid, kept.here, kept.whole) == (folder, len(DATA), False)


# --- out of a linked file --------------------------------------------------------------------------------------------


@pytest.fixture
def both(repo: Repo, tmp_path: Path) -> CID:
    """A file that was stored and linked."""
    (tmp_path / "file").write_bytes(DATA)
    cid = repo.store_file(tmp_path / "file", profile=SMALL).cid
    assert repo.link_file(tmp_path / "file", profile=SMALL).cid == cid
    return cid


@pytest.mark.parametrize("damaged", [False, True], ids=["deleted", "damaged"])
def test_a_copy_comes_back_from_the_link(repo: Repo, both: CID, damaged: bool) -> None:
    """What was stored is stored again: the linked file has its bytes, and no network is needed."""
    path = repo.path_for(both)
    path.unlink()
    if damaged:
        path.write_bytes(DATA[:-1] + bytes(1))
    assert [problem.what for problem in repo.verify([both])] == ["damaged" if damaged else "missing"]
    assert repo.mend(both)
    assert path.read_bytes() == DATA
    assert repo.verify() == []
    (kept,) = repo.inventory.roots()
    assert (kept.how, kept.copied, kept.linked, kept.path) == (STORED | LINKED, True, True, path)
    assert partial_files(repo) == []


def test_a_link_that_has_changed_gives_nothing(repo: Repo, both: CID, tmp_path: Path) -> None:
    """Then others have to be asked."""
    repo.path_for(both).unlink()
    (tmp_path / "file").write_bytes(DATA[::-1])
    repo.verify([both])
    assert not repo.mend(both)
    assert not repo.path_for(both).exists()


def test_a_right_copy_stays_where_it_is(repo: Repo, both: CID, tmp_path: Path) -> None:
    """It is the linked file that is gone: nothing is wrong with the copy, and it is not set aside."""
    (tmp_path / "file").unlink()
    assert [problem.what for problem in repo.verify([both])] == ["missing"]
    assert repo.mend(both)
    assert repo.path_for(both).read_bytes() == DATA
    assert os.listdir(repo.directory / "damaged") == []


def test_what_was_only_linked_is_not_copied(repo: Repo, tmp_path: Path) -> None:
    """Of a file that is linked twice one may go; a link costs no bytes, before and after."""
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(DATA)
        cid = repo.link_file(tmp_path / name, profile=SMALL).cid
    (tmp_path / "one").unlink()
    assert [problem.what for problem in repo.verify([cid])] == ["missing"]
    assert repo.mend(cid)
    assert not repo.path_for(cid).exists()
