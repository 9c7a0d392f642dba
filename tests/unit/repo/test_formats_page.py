"""docs/formats.md shows the bytes that are really on the disk."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.repo import catalog
from kachery_p2p.repo.labels import LabelRecord, LabelRecords
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.records import LinkRecord, LinkRecords
from kachery_p2p.repo.repo import Repo

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
HELLO = b"hello\n"
TWO_CHUNKS = bytes(1 << 20) + b"end\n"


def shown(after: str) -> bytes:
    """The bytes of the first block of the page behind some words: what stands in each line before two blanks."""
    text = PAGE[PAGE.index(after) :].partition("```text\n")[2].partition("```")[0]
    return bytes.fromhex("".join(re.split(r"  +", line)[0] for line in text.splitlines()))


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "data") as opened:
        yield opened


def stored(repo: Repo, folder: Path, data: bytes, profile: str = "unixfs-v1-2025") -> CID:
    source = folder / "source"
    source.write_bytes(data)
    return repo.store_file(source, profile=profile).cid


def test_a_file_of_one_block(repo: Repo, tmp_path: Path) -> None:
    """Its CID, where it lies, and that it holds the bytes themselves."""
    cid = stored(repo, tmp_path, HELLO)
    assert bytes(cid) == shown("**`hello` and a line feed**")
    assert f"`{cid}`" in PAGE
    path = PAGE.partition("The first example above is\n\n```text\n")[2].partition("\n")[0]
    assert (repo.directory / path).read_bytes() == HELLO


def test_a_leaf_of_the_old_profile(repo: Repo, tmp_path: Path) -> None:
    """The block is a dag-pb node, and the file holds the bytes all the same."""
    cid = stored(repo, tmp_path, HELLO, "unixfs-v0-2015")
    assert f"`{cid}`" in PAGE
    assert repo.get_block(cid.multihash) == shown("**Under `unixfs-v0-2015`**")
    path = repo.find_file(cid)
    assert path is not None
    assert path.read_bytes() == HELLO


def test_a_node_above_leaves(repo: Repo, tmp_path: Path) -> None:
    """The root of a file of two chunks."""
    cid = stored(repo, tmp_path, TWO_CHUNKS)
    assert f"`{cid}`" in PAGE
    assert repo.get_block(cid.multihash) == shown("**A file of two chunks**")


def test_a_folder_and_its_second_place(repo: Repo, tmp_path: Path) -> None:
    """The node of a folder, and the CAR file that has it, too."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_bytes(HELLO)
    cid = repo.store_directory(folder).cid
    assert f"`{cid}`" in PAGE
    assert repo.get_block(cid.multihash) == shown("**A folder** is a node")
    name = f"nodes/{str(cid)[-2:]}/{cid}.car"
    assert f"`{name}`" in PAGE
    assert (repo.directory / name).read_bytes() == shown("For the folder above")


def test_a_pack(repo: Repo) -> None:
    """The bytes of a pack with one value in it."""
    repo.store_value(HELLO)
    assert (repo.directory / "packs" / "1.car").read_bytes() == shown("One with `hello` and a line feed in it")


def test_a_line_of_a_link(tmp_path: Path) -> None:
    """The line that stands on the page is read."""
    line = PAGE.partition("**`links/<24 hexadecimal digits>`**")[2].partition("```text\n")[2].partition("```")[0]
    layout = Layout(tmp_path)
    layout.links.mkdir()
    (layout.links / ("0" * 24)).write_text(line, encoding="ascii")
    found = LinkRecords(layout).read()[0]
    cid = re.findall(r'"cid": "(\w+)"', line)[0]
    assert found == [LinkRecord(CID.parse(cid), "/data/hello.txt", None)]


def test_the_line_of_a_label(tmp_path: Path) -> None:
    """The line of the page is read, and written, as it stands there."""
    (line,) = re.findall(r'^[0-9a-f]{8} \{.*"label": .*\}$', PAGE, re.MULTILINE)
    layout = Layout(tmp_path)
    layout.make()
    records = LabelRecords(layout)
    cid = CID.parse(re.findall(r'"cid": "(\w+)"', line)[0])
    records.append([LabelRecord(cid, 1, "hello.txt", False, 1760000000.5)])
    assert records.path.read_text(encoding="ascii") == line + "\n"
    assert records.read() == ([LabelRecord(cid, 1, "hello.txt", False, 1760000000.5)], 0)


def test_the_tables_of_the_catalog(repo: Repo) -> None:
    """Each table and column is on the page, and the numbers of the header are right."""
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (catalog.SCHEMA_VERSION,)
        assert db.execute("PRAGMA application_id").fetchone() == (0x6B636831,)
        tables = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall()
        assert len(tables) == 14
        for (table,) in tables:
            assert f"| `{table}` |" in PAGE
            for column in db.execute(f"PRAGMA table_info({table})"):
                assert column[1] == "id" or f"`{column[1]}`" in PAGE
    assert f"`user_version` {catalog.SCHEMA_VERSION}" in PAGE
