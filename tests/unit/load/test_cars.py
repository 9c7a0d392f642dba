"""CAR files: what is exported comes back as it was, in any order, from files and pipes, and goes on after a crash."""

from __future__ import annotations

import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import trio

from kachery_cloud.placing import place_directory
from kachery_p2p.access.audience import PRIVATE, PUBLIC, Audience
from kachery_p2p.dag.car import CarReader, write_car
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.dag.pb import PBLink, encode_node
from kachery_p2p.errors import ContentNotFound, HashMismatch, InvalidName, MalformedDag, UnsupportedCID
from kachery_p2p.load import car_source
from kachery_p2p.load.cars import CarRead, read_car, write_dags
from kachery_p2p.repo.kept_rows import LOADED
from kachery_p2p.repo.repo import Repo
from tests.unit.dag.test_car import v2

MIB = 1 << 20


class Pipe(io.RawIOBase):
    """Bytes that come once, some at a time; a second look fails."""

    def __init__(self, data: bytes, step: int = 100_000) -> None:
        self._data, self._at, self._step = data, 0, step

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        part = self._data[self._at : self._at + self._step]
        self._at += len(part)
        return part


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "theirs") as repo:
        yield repo


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "ours") as repo:
        yield repo


@pytest.fixture(params=["file", "pipe"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bytes], BinaryIO]:
    """A CAR file with these bytes: once as a regular file, once as a pipe."""

    def make(data: bytes) -> BinaryIO:
        if request.param == "pipe":
            return cast("BinaryIO", Pipe(data))
        path = tmp_path / "test.car"
        path.write_bytes(data)
        file = open(path, "rb", buffering=0)  # noqa: SIM115
        request.addfinalizer(file.close)
        return cast("BinaryIO", file)

    return make


def export(repo: Repo, *roots: CID) -> bytes:
    out = io.BytesIO()
    written = write_dags(repo, roots, out.write)
    assert written.size == len(out.getvalue())
    return out.getvalue()


def blocks_of(car: bytes) -> list[tuple[CID, bytes]]:
    reader = CarReader()
    return list(reader.feed(car))


def car_of(roots: list[CID], blocks: list[tuple[CID, bytes]]) -> bytes:
    out = io.BytesIO()
    write_car(out.write, roots, blocks)
    return out.getvalue()


def bring(repo: Repo, file: BinaryIO, to: Audience | None = None) -> CarRead:
    async def main() -> CarRead:
        return await read_car(repo, file, "test.car", progress=lambda done, total: None, audience=to)

    return trio.run(main, strict_exception_groups=True)


def tree(folder: Path) -> dict[str, bytes]:
    """A folder with small and large files, one in it twice, a link, an empty folder; and what is in it."""
    files = {
        "big": os.urandom(3 * MIB + 5),
        "small": b"small",
        "empty": b"",
        "deep/er/big": os.urandom(2 * MIB),
        "deep/again": b"small",
    }
    files["deep/same"] = files["big"]
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "none").mkdir()
    os.symlink("big", folder / "link")
    return files


def check_tree(repo: Repo, root: CID, files: dict[str, bytes], out: Path) -> None:
    place_directory(repo, root, out)
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and not p.is_symlink()} == (
        files
    )
    assert os.readlink(out / "link") == "big"
    assert (out / "none").is_dir()


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_a_folder_and_a_file_come_back(
    theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO], tmp_path: Path, profile: str
) -> None:
    """What was exported is here again, whole and listed, each file once; and exports to the same bytes."""
    (tmp_path / "in").mkdir()
    files = tree(tmp_path / "in")
    root = theirs.store_directory(tmp_path / "in", profile=profile).cid
    file = theirs.store_file(tmp_path / "in" / "big", profile=profile).cid
    car = export(theirs, root, file)
    found = bring(ours, opened(car))
    assert [each.cid for each in found.roots] == [root, file]
    assert [each.size for each in found.roots] == [None, 3 * MIB + 5]
    assert found.blocks == len(blocks_of(car)) == len({cid.multihash for cid, _ in blocks_of(car)})
    check_tree(ours, root, files, tmp_path / "out")
    assert ours.roots_among([root.multihash, file.multihash]) == {root.multihash, file.multihash}
    assert export(ours, root, file) == car
    assert ours.verify() == []
    assert not list((ours.directory / "partial").iterdir())
    assert not list((ours.directory / "tmp").iterdir())


@pytest.mark.parametrize("size", [5_000, 3 * MIB + 5], ids=["one block", "several"])
@pytest.mark.parametrize("to", [None, PRIVATE], ids=["for everybody", "for some"])
def test_a_file_is_listed(theirs: Repo, ours: Repo, size: int, to: Audience | None) -> None:
    """What was imported is listed as loaded, is counted as such, and is removed like everything that is listed."""
    root = theirs.store_bytes(os.urandom(size)).cid
    bring(ours, io.BytesIO(export(theirs, root)), to)
    (kept,) = ours.inventory.roots()
    assert (kept.cid, kept.how, kept.size, kept.whole) == (root, LOADED, size, True)
    assert ours.access.audience_of(root) == (to or PUBLIC)
    used = {row.what: row.bytes for row in ours.usage.read()}
    assert (used["loaded"], used["unlisted"]) == (size, 0)
    ours.removal.remove(kept)
    assert ours.find_file(root) is None
    assert ours.inventory.roots() == []
    bring(ours, io.BytesIO(export(theirs, root)), to)
    bring(ours, io.BytesIO(export(theirs, root)), to)
    assert [each.cid for each in ours.inventory.roots()] == [root]


def test_blocks_are_in_depth_first_order(theirs: Repo, tmp_path: Path) -> None:
    """Each block once, a parent before its children; the root first."""
    path = tmp_path / "input"
    path.write_bytes(bytes(1 * MIB) + os.urandom(MIB) + bytes(MIB))
    stored = theirs.store_file(path)
    blocks = blocks_of(export(theirs, stored.cid))
    assert blocks[0][0] == stored.cid
    assert [len(block) for _, block in blocks[1:]] == [MIB, MIB]  # the first leaf is there again as the third


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_blocks_in_any_order(
    theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO], tmp_path: Path, order: str
) -> None:
    """Leaves before their parents, everything before the root: all of it comes, to its place."""
    (tmp_path / "in").mkdir()
    files = tree(tmp_path / "in")
    root = theirs.store_directory(tmp_path / "in").cid
    blocks = blocks_of(export(theirs, root))
    blocks.reverse()
    if order == "shuffled":
        random.Random(7).shuffle(blocks)
    bring(ours, opened(car_of([root], blocks)))
    check_tree(ours, root, files, tmp_path / "out")


def test_a_second_version(theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO], tmp_path: Path) -> None:
    """A CARv2 is read: padding, the CARv1 in it, and not its index, whatever that has in it."""
    path = tmp_path / "input"
    path.write_bytes(os.urandom(2 * MIB))
    cid = theirs.store_file(path).cid
    found = bring(ours, opened(v2(export(theirs, cid), gap=1000, index=os.urandom(50_000))))
    assert [each.cid for each in found.roots] == [cid]
    copy = ours.find_file(cid)
    assert copy is not None
    assert copy.read_bytes() == path.read_bytes()


def test_a_file_in_the_middle_of_a_file(theirs: Repo, ours: Repo, tmp_path: Path) -> None:
    """A CAR file that begins where its user has read to is read from there."""
    cid = theirs.store_value(b"some text").cid
    (tmp_path / "both").write_bytes(b"what stands before" + export(theirs, cid))
    with open(tmp_path / "both", "rb", buffering=0) as file:
        file.seek(len(b"what stands before"))
        assert [each.cid for each in bring(ours, cast("BinaryIO", file)).roots] == [cid]


def test_a_repeated_leaf_comes_once(
    theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO], tmp_path: Path
) -> None:
    """A file of many equal parts has few blocks, and comes whole."""
    path = tmp_path / "input"
    path.write_bytes((bytes(MIB) + os.urandom(MIB)) * 4)
    cid = theirs.store_file(path).cid
    car = export(theirs, cid)
    assert len(car) < 3 * MIB
    bring(ours, opened(car))
    copy = ours.find_file(cid)
    assert copy is not None
    assert copy.read_bytes() == path.read_bytes()


def test_duplicates_and_strangers_are_left(
    theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO], tmp_path: Path
) -> None:
    """Blocks that are there twice do no harm; what no root leads to does not come."""
    path = tmp_path / "input"
    path.write_bytes(os.urandom(2 * MIB))
    cid = theirs.store_file(path).cid
    stranger = b"nobody asked for this"
    blocks = blocks_of(export(theirs, cid))
    odd = (CID(1, RAW, sha256_multihash(stranger)), stranger)
    bring(ours, opened(car_of([cid], [odd, *blocks, odd, *blocks])))
    assert ours.find_file(cid) is not None
    assert ours.has_block(odd[0].multihash) is None


def test_a_root_twice_and_a_root_in_itself(theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO]) -> None:
    """A root that is named twice comes once; one whose CID holds its bytes needs no block."""
    cid = theirs.store_value(b"text").cid
    inline = CID(1, RAW, b"\x00\x03abc")
    found = bring(ours, opened(car_of([cid, cid, inline], [(cid, b"text")])))
    assert [each.cid for each in found.roots] == [cid, inline]
    assert [each.size for each in found.roots] == [4, 3]


# --- going on ---------------------------------------------------------------------------------------------------------


def test_an_import_goes_on_where_it_was(
    theirs: Repo, ours: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a cut file the whole one brings the rest, and nothing that is here is taken from it again."""
    path = tmp_path / "input"
    path.write_bytes(os.urandom(8 * MIB))
    cid = theirs.store_file(path).cid
    car = export(theirs, cid)
    (tmp_path / "cut.car").write_bytes(car[: 5 * MIB])
    says = r"cut short.*What came of .* is kept.*kachery-cloud-load ipfs://"
    with open(tmp_path / "cut.car", "rb", buffering=0) as file, pytest.raises(MalformedDag, match=says):
        bring(ours, cast("BinaryIO", file))
    assert ours.find_file(cid) is None
    taken: list[int] = []
    take = car_source.CarSource.take
    monkeypatch.setattr(
        car_source.CarSource,
        "take",
        lambda *args: [taken.append(len(each.data)) or each for each in take(*args)],
    )
    (tmp_path / "whole.car").write_bytes(car)
    with open(tmp_path / "whole.car", "rb", buffering=0) as file:
        bring(ours, cast("BinaryIO", file))
    copy = ours.find_file(cid)
    assert copy is not None
    assert copy.read_bytes() == path.read_bytes()
    assert taken.count(MIB) == 4  # the other four had come
    taken.clear()
    with open(tmp_path / "whole.car", "rb", buffering=0) as file:
        bring(ours, cast("BinaryIO", file))
    assert taken == []  # and now all of it is here


@pytest.mark.skipif(os.name != "posix", reason="pipes that do not block are POSIX's")
def test_a_pipe_that_does_not_block(theirs: Repo, ours: Repo, tmp_path: Path) -> None:
    """Where nothing is there yet, it is waited for, and not taken for the end."""
    path = tmp_path / "input"
    path.write_bytes(os.urandom(2 * MIB))
    cid = theirs.store_file(path).cid
    car = export(theirs, cid)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def write() -> None:
        with open(writing, "wb", buffering=0) as out:
            for at in range(0, len(car), 300_000):
                out.write(car[at : at + 300_000])

    writer = threading.Thread(target=write)
    with open(reading, "rb", buffering=0) as file:
        writer.start()
        assert [each.cid for each in bring(ours, cast("BinaryIO", file)).roots] == [cid]
    writer.join()


def test_of_a_pipe_only_what_is_early_is_kept(
    theirs: Repo, ours: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that comes through a pipe in order is not written twice, not even when most of it is here already."""
    path = tmp_path / "input"
    path.write_bytes(os.urandom(6 * MIB))
    cid = theirs.store_file(path).cid
    car = export(theirs, cid)
    kept: list[int] = []
    keep = car_source.CarSource._keep
    monkeypatch.setattr(
        car_source.CarSource, "_keep", lambda self, mh, block: (kept.append(len(block)), keep(self, mh, block))[0]
    )
    with pytest.raises(MalformedDag, match="cut short"):
        bring(ours, cast("BinaryIO", Pipe(car[: 5 * MIB])))
    bring(ours, cast("BinaryIO", Pipe(car)))
    assert ours.find_file(cid) is not None
    assert sum(kept) < MIB  # the root, which comes with the header


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_cut_at_every_byte(theirs: Repo, tmp_path: Path, opened: Callable[[bytes], BinaryIO]) -> None:
    """A CAR file that ends anywhere brings nothing wrong, says that it is cut, and a whole one completes it."""
    builder = DirectoryBuilder("unixfs-v1-2025", on_node=lambda cid, block: theirs.put_blocks([(cid, block)]))
    for name in ("a", "b"):
        builder.add(name, theirs.store_value(name.encode() * 20).cid, 20)
    root = builder.finish().cid
    theirs.keep_directory(root)
    car = export(theirs, root)
    with Repo.open(tmp_path / "here") as repo:
        for cut in range(len(car)):
            with pytest.raises((MalformedDag, ContentNotFound), match=r"cut short|is not in the CAR file"):
                bring(repo, opened(car[:cut]))
            repo.remove(theirs.store_value(b"a" * 20).cid)
        bring(repo, opened(car))
        place_directory(repo, root, tmp_path / "out")
    assert (tmp_path / "out" / "b").read_bytes() == b"b" * 20


def test_cut_in_a_block_that_is_passed_over(theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO]) -> None:
    """The end of a file is missed also where it is in a block that nobody wants yet."""
    data = os.urandom(MIB)
    stranger = CID(1, RAW, sha256_multihash(data))
    cid = theirs.store_value(b"text").cid
    car = car_of([cid], [(cid, b"text"), (stranger, data)])
    with pytest.raises(MalformedDag, match=r"cut short.*is on this machine now"):
        bring(ours, opened(car[:-1]))
    nowhere = CID(1, RAW, sha256_multihash(b"nowhere"))
    with pytest.raises(MalformedDag, match="cut short"):
        bring(ours, opened(car_of([nowhere], [(stranger, data)])[:-1]))


def test_wrong_bytes_are_named(theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO], tmp_path: Path) -> None:
    """A block with other bytes than its hash is refused by name; what was right before it stays, and a good file
    completes it."""
    path = tmp_path / "input"
    path.write_bytes(os.urandom(4 * MIB))
    cid = theirs.store_file(path).cid
    good = blocks_of(export(theirs, cid))
    bad = [(each, bytes(MIB) if number == 3 else block) for number, (each, block) in enumerate(good)]
    with pytest.raises(HashMismatch, match=f"test.car: .*{bad[3][0]}.*is kept"):
        bring(ours, opened(car_of([cid], bad)))
    assert ours.find_file(cid) is None
    assert (ours.directory / "partial" / str(cid)).exists()
    bring(ours, opened(car_of([cid], good)))
    assert ours.find_file(cid) is not None


def test_a_block_or_a_root_that_is_not_there(
    theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO], tmp_path: Path
) -> None:
    """A missing leaf, and a root without a block, are said by name; the other roots come."""
    path = tmp_path / "input"
    path.write_bytes(os.urandom(3 * MIB))
    cid = theirs.store_file(path).cid
    other = theirs.store_value(b"other").cid
    nowhere = CID(1, DAG_PB, sha256_multihash(b"nowhere"))
    blocks = blocks_of(export(theirs, cid, other))
    lacking = [each for number, each in enumerate(blocks) if number != 2]
    with pytest.raises(ContentNotFound, match=f"{blocks[2][0]} is not in the CAR file.*These are here.*{other}"):
        bring(ours, opened(car_of([cid, other], lacking)))
    with pytest.raises(ContentNotFound, match=f"{nowhere} is not in the CAR file"):
        bring(ours, opened(car_of([nowhere, cid], blocks)))
    assert ours.find_file(cid) is not None


def test_what_is_no_unixfs_is_said(theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO]) -> None:
    """A root of another kind is refused in a sentence, nothing of it is kept, and the others come."""
    other = theirs.store_value(b"other").cid
    node = b"\xa1\x61a\x01"
    cbor = CID(1, 0x71, sha256_multihash(node))
    with pytest.raises(UnsupportedCID, match=f"{cbor} holds dag-cbor data, and no file or directory.*{other}"):
        bring(ours, opened(car_of([cbor, other], [(cbor, node), (other, b"other")])))
    assert ours.has_block(cbor.multihash) is None
    assert ours.has_block(other.multihash) is not None


def test_no_roots(ours: Repo, opened: Callable[[bytes], BinaryIO]) -> None:
    """Without a root nobody could find it again: refused, with what to do."""
    with pytest.raises(MalformedDag, match="names no root"):
        bring(ours, opened(car_of([], [(CID(1, RAW, sha256_multihash(b"x")), b"x")])))


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"<html>no</html>" * 100, b"\xff" * 5000, b"\x80" * 5000, b"\xff\xff\xff\xff\x0f\xa2" + bytes(5000)],
    ids=["empty", "line", "page", "ones", "varint", "huge header"],
)
def test_what_is_no_car_file(ours: Repo, opened: Callable[[bytes], BinaryIO], data: bytes) -> None:
    """Whatever it is, it is an error that says so, and nothing is kept."""
    with pytest.raises(MalformedDag, match="CAR file"):
        bring(ours, opened(data))
    assert not list((ours.directory / "tmp").iterdir())


def test_garbage_behind_what_was_good(theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO]) -> None:
    """A file that is damaged behind all that its roots lead to is said to be; what came is here."""
    cid = theirs.store_value(b"good").cid
    with pytest.raises(MalformedDag, match="is on this machine now"):
        bring(ours, opened(export(theirs, cid) + b"\xff" * 100))
    assert ours.file_size(cid) == 4


def test_names_that_would_leave_the_folder(theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO]) -> None:
    """A directory with a hostile name is refused as in a load."""
    leaf = theirs.store_value(b"x").cid
    node = encode_node([PBLink("../../etc", leaf, 1)], b"\x08\x01")
    root = CID(1, DAG_PB, sha256_multihash(node))
    with pytest.raises(InvalidName, match="etc"):
        bring(ours, opened(car_of([root], [(root, node), (leaf, b"x")])))


def test_folders_that_unfold_without_end(theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO]) -> None:
    """Sixty blocks that stand for a million million million files are refused before anything is made of them."""
    leaf = theirs.store_value(b"x").cid
    blocks: list[tuple[CID, bytes]] = [(leaf, b"x")]
    at = leaf
    for _ in range(60):
        builder = DirectoryBuilder("unixfs-v1-2025", on_node=lambda cid, block: blocks.append((cid, block)))
        builder.add("a", at, 1)
        builder.add("b", at, 1)
        at = builder.finish().cid
    with pytest.raises(InvalidName, match="more than"):
        bring(ours, opened(car_of([at], blocks)))


def test_files_nested_without_end(ours: Repo, opened: Callable[[bytes], BinaryIO]) -> None:
    """A file whose nodes lie in each other a hundred deep is refused, by name."""
    at, size = CID(1, RAW, sha256_multihash(b"x")), 1
    blocks: list[tuple[CID, bytes]] = [(at, b"x")]
    for _ in range(100):
        node = encode_node([PBLink("", at, size)], b"\x08\x02\x18\x01\x20\x01")
        at, size = CID(1, DAG_PB, sha256_multihash(node)), size + len(node)
        blocks.append((at, node))
    with pytest.raises(MalformedDag, match="levels deep"):
        bring(ours, opened(car_of([at], blocks[::-1])))


@pytest.mark.parametrize(
    ("offset", "size"), [(2**40, 100), (51, 2**40), (51, 2**64 - 1), (2**64 - 1, 2**64 - 1), (10, 100), (51, 0)]
)
def test_a_second_version_that_lies(
    theirs: Repo, ours: Repo, opened: Callable[[bytes], BinaryIO], offset: int, size: int
) -> None:
    """A header that points beyond the file, or into itself, is an error; what is good before that place may stay."""
    inner = export(theirs, theirs.store_value(b"text").cid)
    head = bytes(16) + offset.to_bytes(8, "little") + size.to_bytes(8, "little") + bytes(8)
    with pytest.raises(MalformedDag, match="CAR file"):
        bring(ours, opened(bytes.fromhex("0aa16776657273696f6e02") + head + inner))


def test_an_export_needs_all_of_it(theirs: Repo, tmp_path: Path) -> None:
    """A directory of which a file is missing is not exported: the block is named."""
    leaf = CID(1, RAW, sha256_multihash(b"elsewhere"))
    builder = DirectoryBuilder("unixfs-v1-2025", on_node=lambda cid, block: theirs.put_blocks([(cid, block)]))
    builder.add("a", leaf, 9)
    with pytest.raises(ContentNotFound, match=str(leaf)):
        export(theirs, builder.finish().cid)
