"""Who may see what, when rows were lost: brought back, or for nobody else; never for everyone."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kachery_p2p.access.audience import PRIVATE, PUBLIC, Audience, group_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import NoPermission
from kachery_p2p.repo import Repo
from kachery_p2p.repo.access_records import AccessRecord, AccessRecords
from kachery_p2p.repo.layout import Layout
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=3)
DATA = random.Random(1).randbytes(9_500)
A, B = group_audience(["a" * 26]), group_audience(["b" * 26])


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def filled(repo: Repo, tmp_path: Path) -> dict[str, CID]:
    """A directory with public and restricted roots that share blocks; closed. `repo` is where it is."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(DATA)
    (folder / "sub" / "b").write_bytes(b"b")
    found = {
        "public": repo.store_bytes(DATA[:2_000], profile=TINY).cid,
        "folder": repo.store_directory(folder, profile=TINY, audience=A).cid,
        "value": repo.store_value(b"value", audience=B).cid,
        "later": repo.store_value(b"public again", audience=B).cid,
        "linked": repo.link_file(folder / "a", profile=TINY, audience=A | B).cid,
        "known": repo.store_value(b"a public value").cid,
    }
    repo.access.set_audience(found["later"], PUBLIC)
    repo.close()
    return found


def audiences(repo: Repo) -> tuple[dict[bytes, Audience], list[tuple[CID, Audience]]]:
    return repo.access.audiences(list(repo.all_multihashes())), sorted(repo.access.roots(), key=str)


def lose(repo: Repo, *patterns: str) -> None:
    for pattern in patterns:
        for path in repo.directory.glob(pattern):
            path.unlink()


@pytest.mark.parametrize("lost", [[], ["catalog.sqlite*"], ["access.txt"], ["access.txt", "restricted"]])
def test_a_catalog_that_is_made_anew(repo: Repo, filled: dict[str, CID], lost: list[str]) -> None:
    """By the old one or by `access.txt`, whichever is there, all is for whom it was, to the block."""
    with Repo.open(repo.directory) as before:
        must = audiences(before)
    lose(repo, *lost)
    assert Repo.rebuild(repo.directory) == []
    with Repo.open(repo.directory) as after:
        assert audiences(after) == must
        assert {audience for _, audience in must[1]} == {A, B, A | B}
        assert after.verify() == []
    assert (repo.directory / "access.txt").exists()
    lose(repo, "catalog.sqlite*")
    assert Repo.rebuild(repo.directory) == []
    with Repo.open(repo.directory) as after:
        assert audiences(after) == must


@pytest.mark.parametrize("mark", ["restricted", "access.txt"])
def test_both_are_lost(repo: Repo, filled: dict[str, CID], mark: str) -> None:
    """Then everything is for nobody else until the user says for whom, and the report names each root."""
    lose(repo, "catalog.sqlite*", "access.txt", "restricted")
    (repo.directory / mark).touch()
    problems = Repo.rebuild(repo.directory)
    with Repo.open(repo.directory) as after:
        roots = {root.cid for root in after.inventory.roots()}
        assert {problem.cid for problem in problems} == roots >= set(filled.values()) - {filled["linked"]}
        assert all("visibility" in problem.detail and problem.what == "unknown" for problem in problems)
        assert dict(after.access.roots()) == dict.fromkeys(roots, PRIVATE)
        here = list(after.all_multihashes())
        assert after.access.audiences(here) == dict.fromkeys(here, PRIVATE)
        after.access.set_audience(filled["public"], PUBLIC)
        assert after.access.audience_of(filled["public"]) == PUBLIC
    assert Repo.rebuild(repo.directory) == []


def test_a_damaged_catalog_is_not_asked(repo: Repo, filled: dict[str, CID]) -> None:
    """What it lost would be for everyone."""
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        db.execute("DELETE FROM access WHERE key IS NOT NULL")
        db.execute("DELETE FROM claims")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'seen'").fetchone()[0]
    with open(repo.directory / "catalog.sqlite", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    assert Repo.rebuild(repo.directory) == []
    with Repo.open(repo.directory) as after:
        assert dict(after.access.roots()) == {
            filled["folder"]: A,
            filled["value"]: B,
            filled["linked"]: A | B,
        }


def test_lines_that_the_power_took(repo: Repo, filled: dict[str, CID]) -> None:
    """Each root without a line is for nobody else, public ones too."""
    path = repo.directory / "access.txt"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    lose(repo, "catalog.sqlite*")
    problems = Repo.rebuild(repo.directory)
    with Repo.open(repo.directory) as after:
        found = dict(after.access.roots())
        assert filled["public"] not in found
        assert found[filled["known"]] == PRIVATE
        assert found[filled["folder"]] == A
        assert {problem.cid for problem in problems} == {cid for cid, audience in found.items() if audience == PRIVATE}


def test_a_removed_root_that_is_stored_again(repo: Repo, filled: dict[str, CID]) -> None:
    """That it was public once does not count."""
    with Repo.open(repo.directory) as opened:
        root = opened.inventory.get(filled["known"])
        assert root is not None
        opened.removal.remove(root)
        opened.store_value(b"a public value", audience=A)
    path = repo.directory / "access.txt"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    lose(repo, "catalog.sqlite*")
    assert [problem.cid for problem in Repo.rebuild(repo.directory)] == [filled["known"]]
    with Repo.open(repo.directory) as after:
        assert after.access.audience_of(filled["known"]) == PRIVATE


def test_files_without_rows(repo: Repo, tmp_path: Path) -> None:
    """After a loss of power they are for nobody else, where something was ever restricted; else they are public."""
    cid = repo.store_bytes(DATA, profile=TINY).cid
    small = repo.store_value(b"small").cid
    repo.close()
    shutil.copytree(repo.directory, tmp_path / "restricted")
    for directory, to in ((repo.directory, PUBLIC), (tmp_path / "restricted", PRIVATE)):
        with Repo.open(directory) as opened:
            if to == PRIVATE:
                opened.store_value(b"another", audience=A)
        with closing(sqlite3.connect(directory / "catalog.sqlite")) as db:
            for table in ("roots", "files", "leaves", "packed", "packs", "kept", "labels", "blocks", "seen"):
                db.execute(f"DELETE FROM {table}")
            db.execute("DELETE FROM access WHERE id <> 0")
            db.execute("DELETE FROM claims")
            db.commit()
        if to == PRIVATE:
            AccessRecords(Layout(directory)).write([])
        with Repo.open(directory) as opened:
            assert opened.find_file(cid) is not None
            assert opened.packed_file(small) == b"small"
            for each in (cid, small):
                assert opened.access.audience_of(each) == to
            here = list(opened.all_multihashes())
            assert len(here) > 10
            assert opened.access.audiences(here) == ({} if to == PUBLIC else dict.fromkeys(here, PRIVATE))
            opened.store_bytes(DATA, profile=TINY)  # said once more, it is public
            assert opened.access.audience_of(cid) == PUBLIC


def test_what_is_listed_again(repo: Repo, tmp_path: Path) -> None:
    """A file with a label whose rows were lost is listed by `verify`, and for whom `access.txt` says, all of it."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    repo.store_value(b"another", audience=B)
    cid = repo.store_file(source, profile=TINY, audience=A, label="mine").cid
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        for table in ("roots", "files", "leaves", "kept", "labels", "blocks", "seen", "claims"):
            db.execute(f"DELETE FROM {table}")
        db.execute("DELETE FROM access WHERE id <> 0")
        db.commit()
    repo.close()
    with Repo.open(repo.directory) as opened:
        opened.verify()
        assert (cid, A) in opened.access.roots()
        assert set(opened.access.audiences(_blocks(opened, cid)).values()) == {A}
        root = opened.inventory.get(cid)
        assert root is not None
        assert [label.text for label in root.labels] == ["mine"]


@pytest.mark.parametrize("line", [True, False])
def test_a_store_that_was_killed_before_it_was_listed(repo: Repo, tmp_path: Path, line: bool) -> None:
    """When `verify` lists it, as its label was written down, it is for whom it was stored, as its blocks are."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    cid = repo.store_file(source, profile=TINY, audience=A, label="mine").cid
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        db.execute("DELETE FROM kept")
        db.execute("DELETE FROM labels")
        db.execute("UPDATE access SET key = NULL")
        db.commit()
    if not line:
        repo.access.records.write([])
    assert repo.access.roots() == []
    assert repo.verify() == []
    assert repo.access.roots() == [(cid, A)]
    assert set(repo.access.audiences(_blocks(repo, cid)).values()) == {A}
    repo.access.set_audience(cid, B)  # what was interrupted does not keep it for anybody else
    assert set(repo.access.audiences(_blocks(repo, cid)).values()) == {B}


def _blocks(repo: Repo, cid: CID) -> list[bytes]:
    walk = FileWalk(cid)
    found: list[bytes] = []
    while not walk.finished:
        for ref in walk.take(8):
            block = repo.get_block(ref.cid.multihash)
            assert block is not None
            found.append(ref.cid.multihash)
            walk.feed(ref, block)
    return found


def test_claims_that_were_lost(repo: Repo, filled: dict[str, CID]) -> None:
    """`verify` says so, and puts them right; what is shared with a public root is for everyone all the same."""
    with Repo.open(repo.directory) as opened:
        must = audiences(opened)
        assert opened.verify() == []
        with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
            db.execute("DELETE FROM claims")
            db.commit()
        problems = opened.verify()
        assert {problem.cid for problem in problems} == {filled["folder"], filled["value"], filled["linked"]}
        assert audiences(opened) == must
        assert opened.verify() == []


def test_a_public_root_that_seems_to_be_for_some(repo: Repo, filled: dict[str, CID]) -> None:
    """`verify` says so, and lets everyone have all of it again; that `access.txt` calls it public counts."""
    with Repo.open(repo.directory) as opened:
        leaf = opened.store_bytes(DATA[:1_000], profile=TINY, audience=PUBLIC).cid
        must = audiences(opened)
        with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
            db.execute("DELETE FROM claims WHERE access = 0")
            db.commit()
        assert opened.access.audiences([leaf.multihash])
        assert {problem.cid for problem in opened.verify()} <= {filled["public"], leaf}
        assert audiences(opened) == must
        assert opened.verify() == []


def test_the_second_place_was_lost(repo: Repo, filled: dict[str, CID]) -> None:
    """`verify` says so, and writes it anew."""
    before, damaged = AccessRecords(Layout(repo.directory)).read()
    assert not damaged
    lose(repo, "access.txt")
    with Repo.open(repo.directory) as opened:
        assert [problem.what for problem in opened.verify()] == ["missing"]
        assert opened.verify() == []
    after, damaged = AccessRecords(Layout(repo.directory)).read()
    assert not damaged
    assert {cid: record for cid, record in before.items() if cid in after} == after
    assert len(after) == 6


def test_rows_that_make_no_sense(repo: Repo, filled: dict[str, CID]) -> None:
    """An audience that cannot be read, or is missing, lets nobody in."""
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        db.execute("UPDATE access SET audience = 'everybody?' WHERE key = ?", (bytes(filled["value"]),))
        db.execute("DELETE FROM access WHERE key = ?", (bytes(filled["folder"]),))
        db.commit()
    with Repo.open(repo.directory) as opened:
        for name in ("value", "folder"):
            multihash = filled[name].multihash
            (audience,) = opened.access.audiences([multihash]).values()
            assert not audience.everyone
            assert not audience.groups
        opened.verify()
        assert opened.access.audience_of(filled["folder"]) == A
        assert opened.access.audiences([filled["folder"].multihash]) == {filled["folder"].multihash: A}


def test_the_file_of_audiences(tmp_path: Path) -> None:
    """The last line of a root holds; damaged ones are counted; what is of no use is left out when it is most of it."""
    layout = Layout(tmp_path / "data")
    layout.make()
    records = AccessRecords(layout)
    assert not records.begun()
    cids = [CID(1, 0x55, b"\x12\x20" + bytes([number]) * 32) for number in range(3)]
    records.begin([AccessRecord(cids[0], PUBLIC)])
    assert records.begun()
    assert records.complete()
    records.append([AccessRecord(cids[1], A), AccessRecord(cids[2], A | B)], durable=True)
    records.append([AccessRecord(cids[0], PRIVATE), AccessRecord(cids[1], None)], durable=False)
    must = {bytes(cids[0]): AccessRecord(cids[0], PRIVATE), bytes(cids[2]): AccessRecord(cids[2], A | B)}
    assert records.read() == (must, 0)
    with open(records.path, "ab") as file:
        file.write(b"half a li")
    records.append([AccessRecord(cids[1], B)], durable=False)
    assert records.read() == ({**must, bytes(cids[1]): AccessRecord(cids[1], B)}, 1)
    for _ in range(6_000):
        records.append([AccessRecord(cids[1], A)] * 2, durable=False)
    size = records.path.stat().st_size
    records.tidy()
    assert records.path.stat().st_size < size / 1000
    assert records.read() == ({**must, bytes(cids[1]): AccessRecord(cids[1], A)}, 0)
    assert records.path.stat().st_mode & 0o777 == 0o600


# --- directories of others beneath it --------------------------------------------------------------------------------


def test_what_a_layer_restricts(repo: Repo, tmp_path: Path) -> None:
    """A load that takes blocks from there leaves them restricted here, also when nobody says so."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_bytes(b"b")
    file = repo.store_bytes(DATA, profile=TINY, audience=A).cid
    folder = repo.store_directory(tmp_path / "folder", audience=B).cid
    public = repo.store_bytes(DATA[::-1], profile=TINY).cid
    with Repo.open(tmp_path / "mine", layers=[repo.directory]) as mine:
        assert mine.access.audience_of(file) == PUBLIC  # nothing of it is here, and this node gives nothing of it
        for cid in (file, public):
            with mine.download(cid) as download:
                _load(download.cid, mine, download)
            mine.inventory.loaded(cid)
        node = mine.get_node(folder.multihash)
        assert node is not None
        mine.put_blocks([(folder, node)])
        (member,) = repo.inventory.members(folder).files
        mine.add_small_files([(member, b"b")])
        mine.keep_directory(folder)
        assert dict(mine.access.roots()) == {file: A, folder: B}
        assert set(mine.access.audiences(_blocks(repo, file)).values()) == {A}
        assert mine.access.audiences([folder.multihash, member.multihash]) == dict.fromkeys(
            (folder.multihash, member.multihash), B
        )
        assert mine.access.audiences(_blocks(repo, public)) == {}
        assert mine.access.why(file) == [(file, A)]


def _load(cid: CID, source: Repo, download: object) -> None:
    from kachery_p2p.repo import Download

    assert isinstance(download, Download)
    walk = FileWalk(cid)
    while not walk.finished:
        refs = walk.take(7)
        for ref, present in zip(refs, download.has(refs), strict=True):
            if present:
                walk.skip(ref)
                continue
            block = source.get_block(ref.cid.multihash)
            assert block is not None
            pieces = walk.feed(ref, block)
            if ref.length is None:
                assert walk.size is not None
                download.allocate(walk.size)
            download.accept(ref, block, pieces)
    assert walk.size is not None
    download.finish(walk.size)


def test_a_directory_that_can_only_be_read(repo: Repo, filled: dict[str, CID]) -> None:
    """It says for whom things are, and nothing can be changed."""
    with Repo.open(repo.directory) as opened:
        must = audiences(opened)
    with Repo.open_to_read(repo.directory) as reader:
        assert audiences(reader) == must
        assert reader.access.any_restricted()
        with pytest.raises(NoPermission):
            reader.access.set_audience(filled["value"], PUBLIC)
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        db.executescript("DROP TABLE access; DROP TABLE claims; PRAGMA user_version=4; PRAGMA wal_checkpoint(TRUNCATE)")
    with Repo.open_to_read(repo.directory) as reader:
        assert not reader.access.any_restricted()
        assert reader.access.audience_of(filled["value"]) == PUBLIC
