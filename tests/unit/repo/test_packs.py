"""The format of packs: what is written is found again, also where parts of a pack are lost or damaged."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.dag.car import CarReader
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.profiles import UNIXFS_V0_2015, UNIXFS_V1_2025
from kachery_p2p.repo import packs
from kachery_p2p.repo.leaves import wrap_parts
from kachery_p2p.repo.packs import HEADER, Section, read_sections, removed_section, section_head
from kachery_p2p.repo.small import SmallFile
from kachery_p2p.wire import read_varint

PROFILES = (UNIXFS_V1_2025, UNIXFS_V0_2015)


def packed(files: list[SmallFile]) -> bytes:
    """A pack of these files."""
    parts = [HEADER]
    for file in files:
        tail = wrap_parts(file.wrap, len(file.data))[1]
        parts += [section_head(file.cid, len(file.data), file.wrap), bytes(file.data), tail]
    return b"".join(parts)


def sections(pack: bytes, start: int = 0) -> list[Section]:
    return list(read_sections(lambda at, length: pack[at : at + length], start))


def content(pack: bytes) -> list[tuple[CID | None, bytes]]:
    return [(each.cid, pack[each.offset : each.offset + each.length]) for each in sections(pack)]


files = st.lists(st.tuples(st.binary(max_size=300), st.sampled_from(PROFILES)), max_size=12).map(
    lambda chosen: [SmallFile.of(data, profile) for data, profile in chosen]
)


@given(files)
def test_what_is_written_is_read(chosen: list[SmallFile]) -> None:
    """Each file, in order, with its CID in the version it was asked by; and the pack is a CAR that anybody reads."""
    pack = packed(chosen)
    assert content(pack) == [(file.cid, file.data) for file in chosen]
    assert [each.wrap for each in sections(pack)] == [file.wrap for file in chosen]
    reader = CarReader()
    assert [cid for cid, _ in reader.feed(pack)] == [file.cid for file in chosen]
    assert reader.roots == []
    reader.close()


@given(files, st.data())
def test_a_pack_that_is_cut(chosen: list[SmallFile], data: st.DataObject) -> None:
    """Cut anywhere, it gives the files that are there whole."""
    pack = packed(chosen)
    whole = sections(pack)
    length = data.draw(st.integers(0, len(pack)))
    assert sections(pack[:length]) == [each for each in whole if each.end <= length]


@given(files.filter(bool), st.data())
def test_a_wrong_byte_costs_one_file(chosen: list[SmallFile], data: st.DataObject) -> None:
    """Whichever byte is wrong, also one of a length, only the file that it belongs to is lost."""
    pack = bytearray(packed(chosen))
    whole = sections(bytes(pack))
    at = data.draw(st.integers(len(HEADER), len(pack) - 1))
    pack[at] ^= data.draw(st.integers(1, 255))
    hit = next(number for number, each in enumerate(whole) if at < each.end)
    left = sections(bytes(pack))
    assert [each for number, each in enumerate(whole) if number != hit] == [
        each for each in left if each in whole and each != whole[hit]
    ]


def test_a_removed_file_leaves_a_section_that_is_right() -> None:
    """It has the same length, and none of the file's bytes; readers of CAR files go on behind it."""
    for profile in PROFILES:
        kept, gone = SmallFile.of(b"kept", profile), SmallFile.of(b"secret" * 40, profile)
        pack = packed([gone, kept])
        size, start = read_varint(pack, len(HEADER))
        pack = pack[:start] + removed_section(size) + pack[start + size :]
        assert content(pack)[1:] == [(kept.cid, b"kept")]
        assert content(pack)[0][0] is None
        assert b"secret" not in pack
        assert len(list(CarReader().feed(pack))) == 2


def test_a_file_that_is_itself_a_pack() -> None:
    """Its sections are its content, and no files of this pack, also where the end of a window cuts it."""
    inner = packed([SmallFile.of(b"%d" % number, UNIXFS_V1_2025) for number in range(100)])
    outer = [SmallFile.of(inner + b"%d" % number, UNIXFS_V1_2025) for number in range(1500)]
    pack = packed(outer)
    assert len(pack) > packs._WINDOW
    assert [cid for cid, _ in content(pack)] == [file.cid for file in outer]


def test_packs_larger_than_a_window() -> None:
    """Nothing is lost where one window ends and the next begins, nor behind megabytes of nonsense."""
    source = random.Random(5)
    chosen = [SmallFile.of(source.randbytes(20_000 + number), UNIXFS_V1_2025) for number in range(600)]
    pack = packed(chosen)
    assert len(pack) > 2 * packs._WINDOW
    assert [cid for cid, _ in content(pack)] == [file.cid for file in chosen]
    torn = pack + source.randbytes(6_000_000) + bytes(3_000_000) + pack[len(HEADER) :]
    assert [cid for cid, _ in content(torn)] == [file.cid for file in chosen] * 2
