"""The second place of audiences: for whom each root is, in a file beside the catalog, `access.txt`.

Lines of ASCII like those of `links/`: the CRC-32 of what follows the blank, a blank, a JSON object, LF.

    {"cid": ..., "to": "public"}      or "private", or the IDs of groups joined by commas; the last line of a root holds
    {"cid": ..., "gone": true}

The file is made, with a line for each root that is kept then, before the first root is stored that not everyone may
see. From then on it has a line for every root that is kept, public ones too. So whoever makes the catalog anew knows:
what has no line there, because a loss of power took it or somebody the file, is for nobody else, until the user says
otherwise. Lines that let fewer people see something than the line before are synced; of others, those of the last
seconds may be lost.

`restricted`, an empty file, says that there must be an `access.txt`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from kachery_p2p import private
from kachery_p2p.access.audience import Audience, parse_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidCID, KacheryError, UnsupportedCID
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import open_own_file, read_own_file
from kachery_p2p.repo.fileio import sync_fd, sync_folder
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.limits import LABEL_BYTES
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.repo.records import checked_line, read_line

ACCESS_NAME = "access.txt"
MARK_NAME = "restricted"


class AccessRecord(NamedTuple):
    """For whom a root is; `audience` is None where it is not kept any more."""

    cid: CID
    audience: Audience | None


class AccessRecords:
    """The file of audiences of one data directory. Whoever calls has the lock of those who add, or of who removes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.path = layout.directory / ACCESS_NAME
        self._mark = layout.directory / MARK_NAME
        self._begun = False

    def fit(self) -> None:
        """Bring the files to the mode that they would be made with: the directory may have become a shared one."""
        private.fit(self.path)
        private.fit(self._mark)

    def begun(self) -> bool:
        """Whether there is, or ever was, something here that not everyone may see."""
        if not self._begun:
            self._begun = os.path.lexists(self._mark) or os.path.lexists(self.path)
        return self._begun

    def complete(self) -> bool:
        """Whether both files are there."""
        return os.path.lexists(self._mark) and os.path.lexists(self.path)

    def begin(self, records: Iterable[AccessRecord]) -> None:
        """Make the file, with a line for each root that is kept now; on the disk when this returns."""
        self.write(records)
        with explained("writing", self._mark):
            if not os.path.lexists(self._mark):
                private.make_empty(self._mark)
            sync_folder(self._mark.parent)
        self._begun = True

    def write(self, records: Iterable[AccessRecord]) -> None:
        """Write the file anew."""
        with NewFile(self._layout.temporary) as new, explained("writing", self.path):
            with os.fdopen(os.dup(new.fd), "wb") as out:
                out.writelines(map(_line, records))
            try:
                mode = stat.S_IMODE(os.stat(self.path).st_mode)
            except FileNotFoundError:
                private.make_empty(self.path)
                mode = stat.S_IMODE(os.stat(self.path).st_mode)
            os.fchmod(new.fd, mode)
            sync_fd(new.fd)
            new.move_to(self.path)

    def append(self, records: Iterable[AccessRecord], *, durable: bool) -> None:
        """Write some lines down; one write, so that those of other processes never come in between.

        Raises:
            DiskFull, NoPermission: the system does not allow it.
        """
        lines = b"".join(map(_line, records))
        if not lines:
            return
        with explained("writing", self.path):
            flags = os.O_RDWR | os.O_APPEND
            try:
                fd = open_own_file(self.path, flags)
            except FileNotFoundError:  # what it had is for nobody else now, should the catalog be lost as well
                private.make_empty(self.path)
                fd = open_own_file(self.path, flags)
            try:
                # What was cut off in the middle of a line must not take this one with it.
                end = os.fstat(fd).st_size
                if end and os.pread(fd, 1, end - 1) != b"\n":
                    lines = b"\n" + lines
                os.write(fd, lines)
                if durable:
                    sync_fd(fd)
            finally:
                os.close(fd)

    def read(self) -> tuple[dict[bytes, AccessRecord], int]:
        """What holds of each root, by binary CIDv1, and how many lines cannot be read."""
        try:
            with explained("reading", self.path):
                lines = read_own_file(self.path).splitlines()
        except FileNotFoundError:
            return {}, 0
        found: dict[bytes, AccessRecord] = {}
        damaged = 0
        for line in lines:
            record = _parse(line)
            if record is None:
                damaged += bool(line)
            elif record.audience is None:
                found.pop(bytes(record.cid.to_v1()), None)
            else:
                found[bytes(record.cid.to_v1())] = record
        return found, damaged

    def tidy(self) -> None:
        """Write the file anew, without what no longer holds, where that is most of it. Nobody may append meanwhile."""
        try:
            size = os.path.getsize(self.path)
        except OSError:
            return
        if size < LABEL_BYTES:
            return
        records = self.read()[0].values()
        if sum(len(_line(record)) for record in records) <= size // 2:
            self.write(records)


def _line(record: AccessRecord) -> bytes:
    if record.audience is None:
        return checked_line({"cid": str(record.cid), "gone": True})
    return checked_line({"cid": str(record.cid), "to": str(record.audience)})


def _parse(line: bytes) -> AccessRecord | None:
    values = read_line(line)
    try:
        cid = CID.parse(values["cid"])
        return AccessRecord(cid, None if values.get("gone") else parse_audience(values["to"]))
    except (TypeError, KeyError, ValueError, AttributeError, InvalidCID, UnsupportedCID, KacheryError):
        return None
