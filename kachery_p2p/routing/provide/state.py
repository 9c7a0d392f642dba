"""What was announced when and where, in the routing database.

One row for each target and key, in the order of the key space, so that a region is one range. Times are wall-clock
seconds; `announced` is 0 for a key that is still to be announced. All methods may be called in threads; each
transaction is short.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht.keys import BITS, kad_id
from kachery_p2p.routing.provide import limits

#: Leading bits of a key's place that are stored: they fit SQLite's integers.
PLACE_BITS = 62
#: Keys of one query: old builds of SQLite take 999 values.
_PAIRS = 400

_TABLES = """
CREATE TABLE IF NOT EXISTS announce_keys (
    target TEXT NOT NULL, place INTEGER NOT NULL, multihash BLOB NOT NULL,
    added REAL NOT NULL, announced REAL NOT NULL, copies INTEGER NOT NULL,
    PRIMARY KEY (target, place, multihash)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS announce_peers (
    target TEXT NOT NULL, peer BLOB NOT NULL, given REAL NOT NULL, PRIMARY KEY (target, peer)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS announce_meta (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""


def place_of(multihash: bytes) -> int:
    """The part of a key's place that is stored."""
    return kad_id(multihash) >> (BITS - PLACE_BITS)


@dataclass(slots=True)
class Region:
    """The keys of one prefix: how many, how many of them never announced, and when the oldest was (0: never)."""

    keys: int
    new: int
    oldest: float


class AnnounceState:
    """The tables of the announcer.

    Raises:
        RepoError, DiskFull, NoPermission: from every method, as `Database` does.
    """

    def __init__(self, db: Database, now: float) -> None:
        self._db = db
        db.create(_TABLES)
        with db.write() as tx:
            # A clock that was set back must not keep keys waiting for years.
            tx.execute("UPDATE announce_keys SET announced = ? WHERE announced > ?", (now, now))
            tx.execute("DELETE FROM announce_peers WHERE given > ? OR given < ?", (now, now - 2 * limits.INTERVAL))
        self.epoch = self.number("epoch", now)
        if self.epoch > now:
            self.set_number("epoch", now)
            self.epoch = now

    # --- numbers ---------------------------------------------------------------------------------------------------

    def number(self, name: str, default: float) -> float:
        """A number by name; the default is stored when there is none."""
        rows = self._db.read("SELECT value FROM announce_meta WHERE name = ?", (name,))
        if rows:
            return rows[0][0]
        self.set_number(name, default)
        return default

    def set_number(self, name: str, value: float) -> None:
        """Store a number."""
        with self._db.write() as tx:
            tx.execute("INSERT OR REPLACE INTO announce_meta VALUES (?, ?)", (name, value))

    # --- keys ------------------------------------------------------------------------------------------------------

    def add(self, targets: Sequence[str], multihashes: Iterable[bytes], now: float) -> None:
        """Keys that are to be announced; those that are known stay as they are."""
        rows = iter(multihashes)
        while batch := list(islice(rows, limits.ROWS)):
            placed = [(place_of(multihash), multihash) for multihash in batch]
            with self._db.write() as tx:
                for target in targets:
                    tx.executemany(
                        "INSERT OR IGNORE INTO announce_keys VALUES (?, ?, ?, ?, 0, 0)",
                        [(target, place, multihash, now) for place, multihash in placed],
                    )

    def sync(self, targets: Sequence[str], listed: Iterable[bytes], started: float) -> tuple[int, int]:
        """Bring the tables in step with a list of all keys that was begun at a time.

        Returns:
            How many keys were added and removed, counted for each target.
        """
        wanted = set(listed)
        added = removed = 0
        for target in targets:
            missing = set(wanted)
            after: tuple[int, bytes] = (-1, b"")
            while True:
                rows = self._db.read(
                    "SELECT place, multihash, added FROM announce_keys "
                    "WHERE target = ? AND (place, multihash) > (?, ?) ORDER BY place, multihash LIMIT ?",
                    (target, *after, limits.ROWS),
                )
                if not rows:
                    break
                after = (rows[-1][0], rows[-1][1])
                missing.difference_update(row[1] for row in rows)
                # What was added while the list was being made may not be on it.
                gone = [(target, row[0], row[1]) for row in rows if row[1] not in wanted and row[2] < started]
                if gone:
                    removed += len(gone)
                    with self._db.write() as tx:
                        tx.executemany(
                            "DELETE FROM announce_keys WHERE target = ? AND place = ? AND multihash = ?", gone
                        )
            added += len(missing)
            self.add([target], missing, started)
        return added, removed

    def forget(self, target: str, multihashes: Iterable[bytes]) -> None:
        """Keys that are no longer to be announced there."""
        with self._db.write() as tx:
            tx.executemany(
                "DELETE FROM announce_keys WHERE target = ? AND place = ? AND multihash = ?",
                [(target, place_of(multihash), multihash) for multihash in multihashes],
            )

    def regions(self, target: str, bits: int) -> dict[int, Region]:
        """All regions that have keys, by prefix."""
        rows = self._db.read(
            "SELECT place >> ?, count(*), sum(announced = 0), min(announced) FROM announce_keys "
            "WHERE target = ? GROUP BY 1",
            (PLACE_BITS - bits, target),
        )
        return {row[0]: Region(row[1], row[2], row[3]) for row in rows}

    def region(self, target: str, region: int, bits: int) -> Region | None:
        """One region, or None when it has no keys."""
        rows = self._db.read(
            "SELECT count(*), sum(announced = 0), min(announced) FROM announce_keys "
            "WHERE target = ? AND place >= ? AND place < ?",
            (target, *_range(region, bits)),
        )
        return Region(*rows[0]) if rows[0][0] else None

    def count(self, target: str) -> int:
        """Keys of a target."""
        return self._db.read("SELECT count(*) FROM announce_keys WHERE target = ?", (target,))[0][0]

    def due(self, target: str, region: int, bits: int, before: float, limit: int) -> list[bytes]:
        """Keys of a region that were announced at that time or before, or never."""
        rows = self._db.read(
            "SELECT multihash FROM announce_keys WHERE target = ? AND place >= ? AND place < ? "
            "AND (announced = 0 OR announced <= ?) LIMIT ?",
            (target, *_range(region, bits), before, limit),
        )
        return [row[0] for row in rows]

    def new_among(self, target: str, multihashes: Sequence[bytes]) -> list[bytes]:
        """Those of these keys that are still to be announced."""
        found: list[bytes] = []
        for at in range(0, len(multihashes), _PAIRS):
            some = multihashes[at : at + _PAIRS]
            rows = self._db.read(
                "SELECT multihash FROM announce_keys WHERE target = ? AND announced = 0 "
                f"AND (place, multihash) IN (VALUES {','.join(['(?, ?)'] * len(some))})",
                (target, *(each for key in some for each in (place_of(key), key))),
            )
            found += [row[0] for row in rows]
        return found

    def announced_page(
        self, target: str, after: tuple[int, bytes], added_after: float, announced_before: float, limit: int
    ) -> list[tuple[int, bytes, float, float]]:
        """Keys behind a (place, multihash) that a newcomer of the LAN may not have: with when added and announced."""
        return self._db.read(
            "SELECT place, multihash, added, announced FROM announce_keys WHERE target = ? "
            "AND (place, multihash) > (?, ?) AND added >= ? AND announced > 0 AND announced < ? "
            "ORDER BY place, multihash LIMIT ?",
            (target, *after, added_after, announced_before, limit),
        )

    def mark(self, target: str, copies: Mapping[bytes, tuple[int, float]]) -> None:
        """Keys that were announced: with how many peers, and when (0: it is to be tried again soon)."""
        rows = iter(copies.items())
        while batch := list(islice(rows, limits.ROWS)):
            with self._db.write() as tx:
                tx.executemany(
                    "UPDATE announce_keys SET copies = ?, announced = ? "
                    "WHERE target = ? AND place = ? AND multihash = ?",
                    [(count, when, target, place_of(key), key) for key, (count, when) in batch],
                )

    def copies(self, target: str, multihash: bytes) -> int:
        """With how many peers a key is."""
        rows = self._db.read(
            "SELECT copies FROM announce_keys WHERE target = ? AND place = ? AND multihash = ?",
            (target, place_of(multihash), multihash),
        )
        return rows[0][0] if rows else 0

    # --- peers of the LAN ------------------------------------------------------------------------------------------

    def given(self, target: str) -> dict[bytes, float]:
        """Up to when each peer of a target was given what it should have."""
        return dict(self._db.read("SELECT peer, given FROM announce_peers WHERE target = ?", (target,)))

    def set_given(self, target: str, given: Mapping[bytes, float]) -> None:
        """Note it for these peers, and forget those that are too many."""
        with self._db.write() as tx:
            tx.executemany(
                "INSERT OR REPLACE INTO announce_peers VALUES (?, ?, ?)",
                [(target, peer, when) for peer, when in given.items()],
            )
            tx.execute(
                "DELETE FROM announce_peers WHERE target = ? AND peer NOT IN "
                "(SELECT peer FROM announce_peers WHERE target = ? ORDER BY given DESC LIMIT ?)",
                (target, target, limits.MAX_REMEMBERED_PEERS),
            )


def _range(region: int, bits: int) -> tuple[int, int]:
    shift = PLACE_BITS - bits
    return region << shift, (region + 1) << shift
