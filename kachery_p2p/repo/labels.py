"""The second place of labels: what the user called what, in a file beside the catalog, `labels.txt`.

Lines of ASCII like those of `links/`: the CRC-32 of what follows the blank, a blank, a JSON object, LF.

    {"cid": ..., "how": 1, "label": "session.nwb", "given": false, "added": 1760000000.5}
    {"cid": ..., "how": 4, "label": null, "given": false, "added": 1760000000.5, "of": ...}
    {"cid": ..., "gone": true}

`how` is as in the catalog (`kept.how`). With `of`, it is a file that was read through that folder, of which only a part
is here; it goes with it. A line is appended where something gets a label, or is loaded; what was stored
without a label needs none. Lines are not synced one by one: a loss of power may take those of the last seconds with it,
as it may the rows of the catalog that they stand for. They are read only when the catalog was lost.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from kachery_p2p import private
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidCID, UnsupportedCID
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import open_own_file, read_own_file
from kachery_p2p.repo.fileio import sync_fd
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.limits import LABEL_BYTES
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.repo.records import checked_line, read_line

LABELS_NAME = "labels.txt"


class LabelRecord(NamedTuple):
    """A root that the user keeps, and perhaps what it is called. `how` is 0 for one that is gone.

    Where there is `of`, it is a part of that folder, and not kept by itself (folder_parts.py).
    """

    cid: CID
    how: int
    label: str | None = None
    given: bool = False
    added: float = 0.0
    of: CID | None = None


class LabelRecords:
    """The file of labels of one data directory. Whoever calls has the lock of those who add, or of who removes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.path = layout.directory / LABELS_NAME

    def fit(self) -> None:
        """Bring the file to the mode that it would be made with: the directory may have become a shared one."""
        private.fit(self.path)

    def append(self, records: Iterable[LabelRecord]) -> None:
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
            except FileNotFoundError:
                private.make_empty(self.path)
                fd = open_own_file(self.path, flags)
            try:
                # What was cut off in the middle of a line must not take this one with it.
                end = os.fstat(fd).st_size
                if end and os.pread(fd, 1, end - 1) != b"\n":
                    lines = b"\n" + lines
                os.write(fd, lines)
            finally:
                os.close(fd)

    def read(self) -> tuple[list[LabelRecord], int]:
        """All that still holds, in order, and how many lines cannot be read."""
        try:
            with explained("reading", self.path):
                lines = read_own_file(self.path).splitlines()
        except FileNotFoundError:
            return [], 0
        except PermissionError:
            if not self._layout.read_only:
                raise
            return [], 0  # who may only read here may know the data, and not what its owner calls it
        found: dict[bytes, dict[tuple[str | None, CID | None], LabelRecord]] = {}
        parts: dict[bytes, set[bytes]] = {}
        damaged = 0
        for line in lines:
            record = _parse(line)
            if record is None:
                damaged += bool(line)
                continue
            key = bytes(record.cid.to_v1())
            if record.how == 0:
                found.pop(key, None)
                for part in parts.pop(key, ()):
                    for which in [which for which, each in found.get(part, {}).items() if _of(each) == key]:
                        del found[part][which]
                continue
            if record.of is not None:
                parts.setdefault(bytes(record.of.to_v1()), set()).add(key)
            found.setdefault(key, {})[record.label, record.of] = record
        return [record for each in found.values() for record in each.values()], damaged

    def tidy(self) -> None:
        """Write the file anew, without what no longer holds, where that is most of it. Nobody may append meanwhile."""
        try:
            size = os.path.getsize(self.path)
        except OSError:
            return
        if size < LABEL_BYTES:
            return
        lines = [_line(record) for record in self.read()[0]]
        if sum(map(len, lines)) > size // 2:
            return
        with NewFile(self._layout.temporary) as new, explained("writing", self.path):
            with os.fdopen(os.dup(new.fd), "wb") as out:
                out.writelines(lines)
            sync_fd(new.fd)
            os.fchmod(new.fd, stat.S_IMODE(os.stat(self.path).st_mode))
            new.move_to(self.path)


def _of(record: LabelRecord) -> bytes | None:
    return None if record.of is None else bytes(record.of.to_v1())


def _line(record: LabelRecord) -> bytes:
    if record.how == 0:
        return checked_line({"cid": str(record.cid), "gone": True})
    return checked_line(
        {
            "cid": str(record.cid),
            "how": record.how,
            "label": record.label,
            "given": record.given,
            "added": record.added,
            **({} if record.of is None else {"of": str(record.of)}),
        }
    )


def _parse(line: bytes) -> LabelRecord | None:
    values = read_line(line)
    try:
        cid = CID.parse(values["cid"])
        if values.get("gone"):
            return LabelRecord(cid, 0)
        label, how, added = values["label"], values["how"], values["added"]
        if not isinstance(how, int) or how <= 0 or not (label is None or isinstance(label, str)):
            return None
        of = None if values.get("of") is None else CID.parse(values["of"])
        return LabelRecord(cid, how, label, bool(values["given"]), float(added), of)
    except (TypeError, KeyError, ValueError, AttributeError, InvalidCID, UnsupportedCID):
        return None
