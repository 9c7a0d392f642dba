"""Packs: small files that lie together in one, until somebody asks for the path of one of them.

A pack is `packs/<number>.car`, a CARv1 without roots (https://ipld.io/specs/transport/car/carv1/) that grows at its
end:

    11 a2 65 ...                     the header: varint 17 and the DAG-CBOR of {roots: [], version: 1}
    then for each file one section:
      varint                         bytes of the CID and the block together
      CID                            as it was asked by: `01 55 12 20` and 32 bytes of sha2-256 (raw), `01 70 12 20`
                                     and 32 bytes (dag-pb), or `12 20` and 32 bytes (version 0)
      block                          the bytes of the file, as they are (raw), or in a UnixFS node of one block (dag-pb)

A file that was removed leaves a section of the same length: `01 00 12 20`, the sha2-256 of what follows, and zeros.
Half a section, of a store that was interrupted, is at the end alone, until the next store cuts it off.

Each section proves itself by its hash, so a pack needs no catalog to be read, and a damaged one gives all that is right
in it: where a section is wrong, the next right one is looked for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.dag.car import car_header, car_section
from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.hashes import SHA2_256_PREFIX
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.nodes import read_node
from kachery_p2p.errors import KacheryError
from kachery_p2p.oserrors import explain
from kachery_p2p.repo.catalog import WRAP_NONE, Catalog
from kachery_p2p.repo.fileio import read_bytes_at
from kachery_p2p.repo.leaves import block_size, leaf_hashes_to, unwrap, wrap_parts
from kachery_p2p.repo.limits import MIB, SQL_KEYS
from kachery_p2p.repo.openfiles import OpenFiles
from kachery_p2p.wire import read_varint

HEADER = car_header([])

_DIGEST = 32
_REMOVED = b"\x01\x00" + SHA2_256_PREFIX
#: How the CIDs of packed files begin, in their order of frequency.
_KINDS = (b"\x01\x55" + SHA2_256_PREFIX, b"\x01\x70" + SHA2_256_PREFIX, SHA2_256_PREFIX, _REMOVED)
_LONGEST = max(map(len, _KINDS)) + _DIGEST + MAX_BLOCK_SIZE
_CID_BEGINS = re.compile(b"|".join(map(re.escape, _KINDS)))
#: Bytes of a pack that are looked at together; more than any section has.
_WINDOW = 4 * MIB
_NAME = re.compile(r"([1-9][0-9]{0,17})\.car")
#: The keys of roots that can be packed: these, and the multihash.
_ROOT_PREFIXES = (bytes((1, RAW)), bytes((1, DAG_PB)))
_SEEN = "SELECT 1 FROM seen WHERE key = ? LIMIT 1"


class PackPlace(NamedTuple):
    """Where a packed file is: `length` bytes at `offset` of a pack are its bytes, which are a block in that wrap."""

    pack: int
    offset: int
    length: int
    wrap: int


class PackedFile(NamedTuple):
    """A file in a pack, as the catalog says: it is not read yet, and may have moved when it is."""

    cid: CID
    place: PackPlace
    packs: PackReader

    @property
    def size(self) -> int:
        """In bytes."""
        return self.place.length

    def read(self) -> bytes | None:
        """Its bytes; None where they are no longer there, or not right."""
        return self.packs.read(self.cid.multihash, self.place)


class Section(NamedTuple):
    """A right section of a pack.

    Attributes:
        cid: of the file; None where one was removed.
        offset: of the bytes of the file in the pack.
        length: of them.
        wrap: of the block.
        end: where the section ends in the pack.
    """

    cid: CID | None
    offset: int
    length: int
    wrap: int
    end: int


def can_be_packed(cid: CID) -> bool:
    """Whether a pack takes files with such a CID."""
    return cid.codec in (RAW, DAG_PB) and cid.multihash[:2] == SHA2_256_PREFIX and len(cid.multihash) == 2 + _DIGEST


def section_head(cid: CID, length: int, wrap: int) -> bytes:
    """What stands in a section before the bytes of the file, `length` of them."""
    return car_section(cid, block_size(wrap, length)) + wrap_parts(wrap, length)[0]


def section_forms(cid: CID, length: int, wrap: int) -> list[bytes]:
    """The same, for each version in which the file may have been asked for."""
    forms = [cid.to_v1()]
    if cid.codec == DAG_PB:
        forms.append(CID(0, DAG_PB, cid.multihash))
    return [section_head(form, length, wrap) for form in forms]


def removed_section(size: int) -> bytes:
    """What takes the place of a section that has `size` bytes behind its first varint."""
    zeros = bytes(size - len(_REMOVED) - _DIGEST)
    return _REMOVED + hashlib.sha256(zeros).digest() + zeros


def read_sections(read: Callable[[int, int], bytes], start: int) -> Iterator[Section]:
    """The right sections of a pack from `start` on, in order.

    Args:
        read: gives so many bytes (the second) at an offset (the first), fewer at the end.
        start: where a section begins, or 0.
    """
    if start == 0:
        start = len(HEADER) if read(0, len(HEADER)) == HEADER else 0
    while window := read(start, _WINDOW):
        # A section that begins at or before this is in the window as a whole.
        last = _WINDOW - _LONGEST if len(window) == _WINDOW else len(window)
        at = 0
        while at <= last:
            found = _section_at(window, at) or _next_section(window, at, last)
            if found is None:
                at = last + 1
                break
            yield found._replace(offset=start + found.offset, end=start + found.end)
            at = found.end
        start += at


def _section_at(window: bytes, at: int) -> Section | None:
    """The section that begins there, if it is right and all of it is in the window."""
    try:
        size, start = read_varint(window, at)
    except ValueError:
        return None
    end = start + size
    if size > _LONGEST or end > len(window):
        return None
    for kind in _KINDS:
        if window.startswith(kind, start):
            break
    else:
        return None
    body = start + len(kind) + _DIGEST
    block = memoryview(window)[body:end]
    if body > end or hashlib.sha256(block).digest() != window[body - _DIGEST : body]:
        return None
    if kind is _REMOVED:
        return Section(None, body, len(block), WRAP_NONE, end)
    multihash = window[body - _DIGEST - len(SHA2_256_PREFIX) : body]
    codec = RAW if kind is _KINDS[0] else DAG_PB
    cid = CID(0 if kind is SHA2_256_PREFIX else 1, codec, multihash)
    if codec == RAW:
        return Section(cid, body, len(block), WRAP_NONE, end)
    try:
        node, data = read_node(cid, block)
    except KacheryError:
        return None
    inner = (data.data if data is not None else None) or b""
    found = None if node.links else unwrap(codec, block, len(inner))
    if found is None:
        return None
    return Section(cid, body + len(wrap_parts(found[0], len(inner))[0]), len(inner), found[0], end)


def _next_section(window: bytes, at: int, last: int) -> Section | None:
    """The first right section behind one that is wrong: where a CID could begin, with a length that fits before it.

    None where no such section begins at or before `last`.
    """
    for match in _CID_BEGINS.finditer(window, at):
        for width in (1, 2, 3, 4):
            begin = match.start() - width
            if at <= begin <= last:
                found = _section_at(window, begin)
                if found is not None:
                    return found
    return None


class PackReader:
    """Finds and reads packed files. Safe to use from many threads. What is given out was hashed just before."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self.folder = folder
        self._prefix = os.path.join(os.fsencode(folder), b"")
        self._catalog = catalog
        self._files = OpenFiles()

    def path_of(self, pack: int) -> Path:
        """Where a pack is."""
        return self.folder / f"{pack}.car"

    def numbers(self) -> list[int]:
        """The packs that there are."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match is not None)

    def files(self, cids: Sequence[CID]) -> dict[bytes, PackPlace]:
        """Where those of the files are that are packed, as the catalog says, by binary CIDv1."""
        return self._places([bytes(cid.to_v1()) for cid in cids])

    def file(self, cid: CID) -> PackPlace | None:
        """Where a file is, if it is packed, as the catalog says."""
        return self._place((bytes(cid.to_v1()),))

    def size(self, multihash: bytes) -> int | None:
        """The size in bytes of a packed block, or None."""
        place = self._place([prefix + multihash for prefix in _ROOT_PREFIXES])
        return None if place is None else block_size(place.wrap, place.length)

    def sizes(self, multihashes: Sequence[bytes]) -> dict[bytes, int]:
        """The sizes of those of the blocks that are packed."""
        places = self._places([prefix + key for key in multihashes for prefix in _ROOT_PREFIXES])
        return {key[2:]: block_size(place.wrap, place.length) for key, place in places.items()}

    def block(self, multihash: bytes) -> bytes | None:
        """A packed block that is right, or None."""
        place = self._place([prefix + multihash for prefix in _ROOT_PREFIXES])
        return None if place is None else self._block(multihash, place)

    def blocks(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the blocks that are packed and right."""
        places = self._places([prefix + key for key in multihashes for prefix in _ROOT_PREFIXES])
        found = ((key[2:], self._block(key[2:], place)) for key, place in places.items())
        return {key: block for key, block in found if block is not None}

    def read(self, multihash: bytes, place: PackPlace) -> bytes | None:
        """The bytes of the file at a place, if they are right. It may have moved to another pack meanwhile.

        Raises:
            RepoError: this process has too many files open.
        """
        data = self._read(multihash, place)
        if data is None:
            now = self._place([prefix + multihash for prefix in _ROOT_PREFIXES])
            if now is not None and now != place:
                data = self._read(multihash, now)
        return data

    def _read(self, multihash: bytes, place: PackPlace) -> bytes | None:
        path = b"%s%d.car" % (self._prefix, place.pack)  # thousands are read of one folder, and pathlib takes its time
        try:
            # Perhaps it was another file that was kept open; then what the path names now is looked at.
            for _ in range(2):
                held = self._files.get(place.pack, path)
                data = read_bytes_at(held.fd, place.length, place.offset)
                if len(data) == place.length and leaf_hashes_to(multihash, place.wrap, data):
                    return data
                self._files.drop(place.pack)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise explain(error, "reading", os.fsdecode(path)) from error
        self._lost(multihash)
        return None

    def after_fork(self) -> None:
        """In a forked child: a lock of the open files may be held by a thread that the child does not have."""
        self._files = OpenFiles()

    def drop_removed(self) -> None:
        """Let go of packs that were deleted."""
        self._files.drop_removed()

    def close(self) -> None:
        """Close all packs; they are opened again when they are needed."""
        self._files.clear()

    def _lost(self, multihash: bytes) -> None:
        """The bytes went bad: whoever stores the same file again is to write them anew, and not to be told "known"."""
        keys = [(prefix + multihash,) for prefix in _ROOT_PREFIXES]
        if not self._catalog.read_only and any(self._catalog.one(_SEEN, key) for key in keys):
            with self._catalog.write() as db:
                db.executemany("DELETE FROM seen WHERE key = ?", keys)

    def _places(self, keys: Sequence[bytes]) -> dict[bytes, PackPlace]:
        found: dict[bytes, PackPlace] = {}
        for start in range(0, len(keys), SQL_KEYS):
            some = keys[start : start + SQL_KEYS]
            for key, *place in self._catalog.all(
                "SELECT r.key, p.pack, p.offset, p.length, p.wrap FROM roots r JOIN packed p ON p.root = r.id "
                f"WHERE r.key IN ({','.join('?' * len(some))})",
                some,
            ):
                found[key] = PackPlace(*place)
        return found

    def _place(self, keys: Sequence[bytes]) -> PackPlace | None:
        row = self._catalog.one(
            "SELECT p.pack, p.offset, p.length, p.wrap FROM roots r JOIN packed p ON p.root = r.id "
            f"WHERE r.key IN ({','.join('?' * len(keys))})",
            keys,
        )
        return None if row is None else PackPlace(*row)

    def _block(self, multihash: bytes, place: PackPlace) -> bytes | None:
        data = self.read(multihash, place)
        if data is None or place.wrap == WRAP_NONE:
            return data
        head, tail = wrap_parts(place.wrap, place.length)
        return b"".join((head, data, tail))
