"""Making packs smaller: what is left in one with many holes is stored once more in another, and the old one goes.

    1  the old pack is locked: nobody writes to it, or removes from it
    2  what its rows speak of is read and hashed, and put into another pack as every store does it: written, synced, and
       then its rows point there (packing.py)
    3  the old pack is deleted, if no row speaks of it any more

Readers find each file in the one or the other. Killed in 2, the sections behind what is catalogued get their rows when
the repo is opened. Killed before 3, the old pack is one that no row speaks of; the next compaction deletes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from kachery_p2p.dag.cid import CID
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.fileio import sync_folder
from kachery_p2p.repo.leaves import wrap_parts
from kachery_p2p.repo.limits import BATCH_BYTES, PACK_WASTE
from kachery_p2p.repo.packing import PackedFile, Packer
from kachery_p2p.repo.packs import HEADER, PackPlace, PackReader, section_head
from kachery_p2p.repo.root_keys import cid_of


class _Live(NamedTuple):
    """A file that a pack still has, as the catalog says."""

    cid: CID
    place: PackPlace


def compact(packer: Packer, catalog: Catalog, reader: PackReader) -> int:
    """Compact the packs of which a good part is of no use, and delete those of which all is.

    Packs that somebody writes to are left for another time.

    Returns:
        The bytes that are free now.

    Raises:
        DiskFull, NoPermission, RepoError: the system does not allow it. Nothing is lost then.
    """
    freed = 0
    for number in reader.numbers():
        path = reader.path_of(number)
        with explained("looking at", path):
            try:
                size = os.path.getsize(path)
            except FileNotFoundError:
                continue
        if is_wasteful(size, _used(_live(catalog, number))):
            freed += _compact(packer, catalog, reader, number)
    return freed


def _compact(packer: Packer, catalog: Catalog, reader: PackReader, number: int) -> int:
    # All of it is looked through first: a section without a row, which the catalog has lost, is a file like others.
    pack = packer.lock(number, whole=True)
    if pack is None:
        return 0
    with pack:
        path = reader.path_of(number)
        size = os.fstat(pack.fd).st_size
        live = _live(catalog, number)
        if not is_wasteful(size, _used(live)):
            return 0
        batch: list[PackedFile] = []
        left = 0
        for cid, place in live:
            data = reader.read(cid.multihash, place)
            if data is None:
                continue
            batch.append(PackedFile(cid, data, place.wrap))
            left += len(data)
            if left >= BATCH_BYTES:
                packer.keep(batch)
                batch, left = [], 0
        if batch:
            packer.keep(batch)
        if catalog.one("SELECT 1 FROM packed WHERE pack = ? LIMIT 1", (number,)) is not None:
            return 0  # what is damaged stays for whoever wants to look at it
        with explained("removing", path):
            path.unlink()
            sync_folder(path.parent)
    return size - _used(live)


def used_bytes(catalog: Catalog, number: int) -> int:
    """The bytes of a pack that are of use: its files, and what stands before and behind each."""
    return _used(_live(catalog, number))


def pack_contents(catalog: Catalog, number: int) -> dict[bytes, int]:
    """The files of a pack, by the keys of their roots, and the bytes that each takes with what stands around it."""
    return {bytes(each.cid.to_v1()): _section_bytes(each) for each in _live(catalog, number)}


def is_wasteful(size: int, used: int) -> bool:
    """Whether so much of a pack is of no use that it is to be compacted. Both in bytes."""
    return size - used > PACK_WASTE * size


def _live(catalog: Catalog, number: int) -> list[_Live]:
    """The files that a pack has, in the order in which they lie."""
    return [
        _Live(cid_of(key, version), PackPlace(*place))
        for key, version, *place in catalog.all(
            "SELECT r.key, r.version, p.pack, p.offset, p.length, p.wrap FROM packed p JOIN roots r ON r.id = p.root "
            "WHERE p.pack = ? ORDER BY p.offset",
            (number,),
        )
    ]


def _used(live: Sequence[_Live]) -> int:
    """The bytes of a pack that are of use."""
    return (len(HEADER) if live else 0) + sum(map(_section_bytes, live))


def _section_bytes(each: _Live) -> int:
    cid, place = each
    head, tail = section_head(cid, place.length, place.wrap), wrap_parts(place.wrap, place.length)[1]
    return len(head) + place.length + len(tail)
