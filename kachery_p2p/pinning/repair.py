"""Making a damaged outbox anew from the rows that can still be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidCID, UnsupportedCID
from kachery_p2p.oserrors import explained
from kachery_p2p.pinning.outbox import COLUMNS, MARK_NAME, STATES, PinOutbox, entry_of
from kachery_p2p.repo.damaged import fresh_beside, is_sound, open_damaged, put_in_place

#: Row numbers tried one by one where a damaged table can be read neither from its beginning nor from its end.
_MOST_PROBED = 100_000

_SELECT = f"SELECT key, {', '.join(COLUMNS)} FROM pins"


class RepairedOutbox(NamedTuple):
    """What a repair kept.

    Attributes:
        kept: rows as they were.
        begun_anew: rows of which only the root, the service and the name could be read; they wait as if they were new.
        aside: where the damaged file is; None where it was missing.
    """

    kept: int
    begun_anew: int
    aside: Path | None


def repair_outbox(path: Path, damaged: Path) -> RepairedOutbox | None:
    """Replace the outbox at `path` if it is damaged or was deleted; the old one goes to the folder `damaged`.

    No other process may use it meanwhile.

    Returns:
        None where nothing is wrong, or where there never was an outbox.

    Raises:
        DiskFull, NoPermission, RepoError: it cannot be replaced.
    """
    mark = path.with_name(MARK_NAME)
    if not path.exists():
        if not mark.exists():
            return None
        with explained("removing", mark):
            mark.unlink()
        return RepairedOutbox(0, 0, None)
    rows: dict[tuple[Any, Any], dict[str, Any]] = {}
    with suppress(sqlite3.Error), closing(open_damaged(path)) as old:
        if _is_sound(old):
            return None
        rows = {(row["key"], row["service"]): row for row in _readable(old)}
    fresh = fresh_beside(path)
    outbox = PinOutbox(fresh)
    kept = begun_anew = 0
    for row in sorted(rows.values(), key=lambda row: row["id"] if isinstance(row["id"], int) else 0):
        if _is_whole(row):
            outbox.restore(row)
            kept += 1
        else:
            name = row["name"] if isinstance(row["name"], str) else ""
            outbox.add(row["cid"], row["service"], name)
            begun_anew += 1
    outbox.close()
    aside = put_in_place(fresh, path, damaged, "the damaged list of pins")
    if not path.exists():  # nothing could be read
        with explained("removing", mark):
            mark.unlink(missing_ok=True)
    return RepairedOutbox(kept, begun_anew, aside)


def _is_sound(db: sqlite3.Connection) -> bool:
    if not is_sound(db):
        return False
    try:
        return all(_is_whole(dict(zip(("key", *COLUMNS), row, strict=True))) for row in db.execute(_SELECT))
    except sqlite3.Error:
        return False


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether a row is one that an outbox could have written."""
    try:
        entry = entry_of([row[name] for name in COLUMNS])
    except (ValueError, TypeError):
        return False
    numbers = (entry.revision, entry.asked, entry.tries, entry.polls, entry.waited, entry.next_try, entry.added)
    texts = (entry.name, entry.request_id, entry.problem, entry.last_error)
    return (
        _names_a_root(row)
        and entry.state in STATES
        and all(isinstance(number, (int, float)) for number in numbers)
        and all(isinstance(text, str) for text in texts)
        and isinstance(entry.meta, dict)
        and (entry.size is None or isinstance(entry.size, int))
    )


def _names_a_root(row: dict[str, Any]) -> bool:
    """Whether a row says of which root and service it is: its key proves its CID."""
    try:
        named = bytes(CID.parse(row["cid"]).to_v1()) == row["key"]
    except (InvalidCID, UnsupportedCID, TypeError, AttributeError, ValueError):
        return False
    return named and isinstance(row["service"], str) and row["service"].isprintable() and bool(row["service"])


def _readable(db: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Every row that can be read and says of what it is: from the beginning, from the end, then one by one between."""
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    seen: list[int] = []
    for order in ("ASC", "DESC"):
        last = 0
        try:
            for row in db.execute(f"{_SELECT} ORDER BY id {order}"):
                found = _row(row)
                last = found["id"] if isinstance(found["id"], int) else last
                if _names_a_root(found):
                    yield found
            return
        except sqlite3.Error as error:
            if "no such table" in str(error):
                return
            seen.append(last)
    first, stop = seen[0] + 1, seen[1] or seen[0] + _MOST_PROBED
    for number in range(first, min(stop, first + _MOST_PROBED)):
        try:
            row = db.execute(f"{_SELECT} WHERE id = ?", (number,)).fetchone()
        except sqlite3.Error:
            continue
        if row is not None and _names_a_root(_row(row)):
            yield _row(row)


def _row(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(("key", *COLUMNS), values, strict=True))
