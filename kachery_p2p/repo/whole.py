"""Bytes of whole files, read as such: where a file is as it was hashed, it need not be read block by block.

The rule is that of single blocks (`serving`): what was read before the stamp was taken is what the stamp speaks of. A
file that is not as recorded is not read here; block by block, each is hashed before it is given out.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.catalog import OK, Catalog
from kachery_p2p.repo.fileio import read_bytes_at
from kachery_p2p.repo.serving import BlockReader, unchanged

#: A file may lie here as a copy, and be linked from several places.
_PLACES = 4

_FIND_FILE = (
    "SELECT f.id, f.path, f.linked, f.size, f.mtime_ns, f.ctime_ns, f.inode FROM roots r JOIN files f ON f.root = r.id "
    f"WHERE r.key = ? AND f.state = {OK} ORDER BY f.linked LIMIT {_PLACES}"
)


class _Place(NamedTuple):
    """Where the catalog says a whole file is."""

    file: int
    path: bytes
    linked: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class WholeFiles:
    """Reads from whole files. Safe to use from many threads."""

    def __init__(self, catalog: Catalog, reader: BlockReader) -> None:
        self._catalog = catalog
        self._reader = reader

    def read(self, cid: CID, start: int, end: int) -> bytes | None:
        """The bytes of a file from `start` to `end`; None where it is not here as a whole, or not as it was hashed."""
        for row in self._catalog.all(_FIND_FILE, (bytes(cid.to_v1()),)):
            place = _Place._make(row)
            if end <= place.size:
                data = self._read(place, start, end)
                if data is not None:
                    return data
        return None

    def _read(self, place: _Place, start: int, end: int) -> bytes | None:
        path = self._reader.absolute(place.path, place.linked)
        try:
            held = self._reader.files.get(place.file, path)
            data = read_bytes_at(held.fd, end - start, start)
            status = os.fstat(held.fd)
        except OSError:
            return None  # whoever reads its blocks is told why
        if len(data) != end - start or not unchanged(status, *place[2:]):
            # Perhaps another file was kept open. Block by block, the one that is there now is looked at.
            self._reader.files.drop(place.file)
            return None
        if status.st_nlink == 0:
            self._reader.files.drop(place.file)
        return data
