"""Looking through the pins of all owners, page by page: for a page, or a program, of whoever runs the service.

The answers come from indexes: a page of a list costs the same whether there are a hundred pins or a hundred thousand.
Sums go through all of them; whoever asks often remembers them.

What belongs together is told by one entry of the metadata of pins, `PROJECT`.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kachery_p2p.pinning.server.rows import COLUMNS, Pin, pin_of
from kachery_p2p.sqlite import SQLiteFile, storable

#: The entry of a pin's metadata that says to which project it belongs, and that which says what it is called.
PROJECT, LABEL = "project", "label"
#: Keys of one query.
_KEYS = 500

_INDEXES = (
    "CREATE INDEX IF NOT EXISTS pins_of_owner ON pins (owner)",
    f"CREATE INDEX IF NOT EXISTS pins_of_project ON meta (value, pin) WHERE key = '{PROJECT}'",
)
_PREFIXED = ", ".join(f"p.{name}" for name in COLUMNS.split(", "))
_SELECT = (
    f"SELECT {_PREFIXED}, t.name, t.account, (SELECT value FROM meta WHERE pin = p.id AND key = '{PROJECT}') "
    "FROM pins p LEFT JOIN tokens t ON t.id = p.owner "
)


@dataclass(frozen=True)
class OwnedPin:
    """A pin, and whose it is.

    Attributes:
        pin: itself.
        owner: the name of the token; empty where that is not known any more.
        account: that the token is of; empty for none.
        project: to which it belongs; empty for none.
    """

    pin: Pin
    owner: str
    account: str
    project: str

    @property
    def label(self) -> str:
        """What it is called."""
        return self.pin.meta.get(LABEL) or self.pin.name


@dataclass(frozen=True)
class Sum:
    """So many pins, and the bytes of their roots, each root once."""

    pins: int = 0
    bytes: int = 0


def add_indexes(db: sqlite3.Connection) -> None:
    """Have the indexes there that this needs. A program of an older version does not mind them."""
    for statement in _INDEXES:
        db.execute(statement)


class PinListing:
    """Looks through the pins of a service. Safe to use from many threads.

    All methods raise RepoError when the file cannot be used.

    Args:
        file: that of `PinStore`.
    """

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    def get(self, request_id: str) -> OwnedPin | None:
        """One pin, whosever it is."""
        row = self._file.one(f"{_SELECT} WHERE p.request_id = ?", (storable(request_id),))
        return None if row is None else _owned(row)

    def owners_of(self, account: str) -> list[int]:
        """The numbers of the owners of pins that are on an account (`Pin.owner`)."""
        return [number for (number,) in self._file.all("SELECT id FROM tokens WHERE account = ?", (account,))]

    def accounts(self) -> dict[str, str]:
        """The accounts of tokens, by their names; also of those that were taken away, while their pins are here."""
        return dict(self._file.all("SELECT name, account FROM tokens WHERE account IS NOT NULL"))

    def page(
        self,
        limit: int,
        *,
        before: int | None = None,
        owners: Collection[int] | None = None,
        projects: Collection[str] | None = None,
        label: str = "",
    ) -> list[OwnedPin]:
        """Some pins, the newest first.

        Args:
            limit: at most so many.
            before: only those that are older than the pin of this number (`Pin.id`).
            owners: those of these, by their numbers.
            projects: and those that belong to these. Where both are None, all.
            label: only those whose name has this in it, whether written large or small.
        """
        start = (1 << 62) if before is None else before
        if label:
            return self._rows(self._labelled(label, start, limit, owners, projects))
        if owners is None and projects is None:
            return self._rows(self._every(start, limit))
        sources = [self._of_owner(owner, start, limit) for owner in owners or ()]
        sources += [self._of_project(storable(project), start, limit) for project in projects or ()]
        numbers: list[int] = []
        for number in heapq.merge(*sources, reverse=True):
            if not numbers or numbers[-1] != number:
                numbers.append(number)
                if len(numbers) == limit:
                    break
        return self._rows(numbers)

    def projects_of(self, keys: Collection[bytes]) -> dict[bytes, str]:
        """To which projects roots belong, by their binary CIDv1; of several that of the first pin, and empty for none.

        Those that nobody has pinned are left out.
        """
        found: dict[bytes, str] = {}
        for some in _batches(list(keys)):
            rows = self._file.all(
                f"SELECT p.key, coalesce((SELECT value FROM meta WHERE pin = p.id AND key = '{PROJECT}'), '') "
                f"FROM pins p WHERE p.key IN ({_marks(some)}) ORDER BY p.id",
                some,
            )
            for key, project in rows:
                if not found.get(key):
                    found[key] = project
        return found

    def by_project(self) -> dict[str, Sum]:
        """How much there is in each project. Goes through all pins."""
        return {project: found for (_, project), found in self._summed("''").items() if project}

    def by_owner(self) -> dict[tuple[str, str], Sum]:
        """How much each owner has in each project, by the names of both. Goes through all pins."""
        names = dict(self._file.all("SELECT id, name FROM tokens"))
        return {(names.get(owner, ""), project): found for (owner, project), found in self._summed("p.owner").items()}

    def _summed(self, owner: str) -> dict[tuple[Any, str], Sum]:
        """Sums by owner and project, each root once in each.

        Most roots are pinned once. So all are summed up as they are, and what is there several times is taken out
        again: to group a hundred thousand roots takes ten times as long.
        """
        joined = f"FROM pins p LEFT JOIN meta m ON m.pin = p.id AND m.key = '{PROJECT}' WHERE p.status <> 'failed'"
        what = f"{owner} AS owner, coalesce(m.value, '') AS project"
        sums = {
            (name, project): [pins, size]
            for name, project, pins, size in self._file.all(
                f"SELECT {what}, count(*), coalesce(sum(p.size), 0) {joined} GROUP BY 1, 2"
            )
        }
        largest: dict[tuple[Any, str, bytes], int] = {}
        for name, project, key, size in self._file.all(
            f"SELECT {what}, p.key, p.size {joined} AND p.size IS NOT NULL "
            "AND p.key IN (SELECT key FROM pins GROUP BY key HAVING count(*) > 1)"
        ):
            known = largest.get((name, project, key))
            largest[name, project, key] = size if known is None else max(known, size)
            if known is not None and (name, project) in sums:
                sums[name, project][1] -= min(known, size)
        return {at: Sum(*found) for at, found in sums.items()}

    def roots_of_project(self, project: str) -> dict[bytes, str]:
        """The roots in a project: their CIDs by their keys."""
        return dict(
            self._file.all(
                "SELECT DISTINCT p.key, p.cid FROM meta m JOIN pins p ON p.id = m.pin "
                f"WHERE m.key = '{PROJECT}' AND m.value = ?",
                (storable(project),),
            )
        )

    def count_of_project(self, project: str) -> int:
        """How many pins there are in a project, failed ones among them."""
        (count,) = self._file.one(
            f"SELECT count(*) FROM meta WHERE key = '{PROJECT}' AND value = ?", (storable(project),)
        )
        return count

    # --- inside -----------------------------------------------------------------------------------------------------

    def _every(self, before: int, limit: int) -> list[int]:
        rows = self._file.all("SELECT id FROM pins WHERE id < ? ORDER BY id DESC LIMIT ?", (before, limit))
        return [number for (number,) in rows]

    def _of_owner(self, owner: int, before: int, limit: int) -> list[int]:
        rows = self._file.all(
            "SELECT id FROM pins INDEXED BY pins_of_owner WHERE owner = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (owner, before, limit),
        )
        return [number for (number,) in rows]

    def _of_project(self, project: str, before: int, limit: int) -> list[int]:
        rows = self._file.all(
            f"SELECT pin FROM meta WHERE key = '{PROJECT}' AND value = ? AND pin < ? ORDER BY pin DESC LIMIT ?",
            (project, before, limit),
        )
        return [number for (number,) in rows]

    def _labelled(
        self, label: str, before: int, limit: int, owners: Collection[int] | None, projects: Collection[str] | None
    ) -> list[int]:
        """Goes through all pins once, until there are enough."""
        every = owners is None and projects is None
        of, among = frozenset(owners or ()), frozenset(projects or ())
        found: list[int] = []
        while len(found) < limit:
            rows = self._file.all(
                f"SELECT id, owner, (SELECT value FROM meta WHERE pin = pins.id AND key = '{PROJECT}') FROM pins "
                "WHERE id < ? AND instr(folded, ?) > 0 ORDER BY id DESC LIMIT ?",
                (before, storable(label).casefold(), _KEYS),
            )
            found += [number for number, owner, project in rows if every or owner in of or project in among]
            if len(rows) < _KEYS:
                break
            before = rows[-1][0]
        return found[:limit]

    def _rows(self, numbers: Sequence[int]) -> list[OwnedPin]:
        found: list[OwnedPin] = []
        for some in _batches(numbers):
            rows = self._file.all(f"{_SELECT} WHERE p.id IN ({_marks(some)}) ORDER BY p.id DESC", some)
            found.extend(_owned(row) for row in rows)
        return found


def _owned(row: Sequence[Any]) -> OwnedPin:
    *columns, owner, account, project = row
    return OwnedPin(pin_of(columns), owner or "", account or "", project or "")


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _KEYS):
        yield values[start : start + _KEYS]
