"""`pinning-service.sqlite` in the data directory: who may pin here, what is pinned, and what is to be let go.

The process that serves and the commands that make tokens write to it side by side. A row is on the disk before whoever
asked for it is answered.

Pins belong to the name of a token, not to its letters: when a token is taken away, its pins stay, and a new token of
the same name finds them. Of a token only a hash is kept. It is random, and has 256 bits, so that one round of SHA-256
is enough: there is nothing to guess.

Several tokens may be of one account, as those of all computers of one person: their quota is one for all of them, and a
root that several of them have pinned counts once. Each still reaches its own pins alone.

`created` is unique, and grows: pages of a list are asked for by it. A root that no row has any more is written to
`leaving` in the same transaction that takes away the last row; the queue lets it go, and forgets it then.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

from kachery_p2p.dag.cid import CID
from kachery_p2p.pinning.server import limits
from kachery_p2p.pinning.server.counting import FELLOWS as _FELLOWS
from kachery_p2p.pinning.server.counting import USED as _USED
from kachery_p2p.pinning.server.counting import add_counters
from kachery_p2p.pinning.server.following import OWN, Following, add_tables, end_rights, note_deleted
from kachery_p2p.pinning.server.listing import PinListing, add_indexes
from kachery_p2p.pinning.server.requests import Filters, PinObject, no_funds
from kachery_p2p.pinning.server.rows import COLUMNS, FROM_VERSION_1, SCHEMA, Pin, Token, pin_of
from kachery_p2p.sqlite import Settings, SQLiteFile, storable
from kachery_p2p.sqlite_schema import make_schema

STORE_NAME = "pinning-service.sqlite"
_VERSION = 2

#: What a `Token` is made of.
_TOKEN = "id, name, quota, added, seen, hash IS NOT NULL, account"

#: Inside the class below, `list` is a method of it.
Pins = list[Pin]
Texts = list[str]
Values = list[Any]
Roots = list[CID]


def hash_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class PinStore:
    """The pins of one data directory. Safe to use from many threads, by many processes, and in a forked child.

    All methods raise RepoError when the file cannot be used, DiskFull and NoPermission.

    Args:
        path: the file, `STORE_NAME` in the data directory. It is made on first use, for its owner alone.
        wall: seconds since 1970.

    Attributes:
        listing: looks through the pins of all owners.
        following: what is pinned here because another node has it pinned.
    """

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall = wall
        self._file = SQLiteFile(
            path,
            Settings(
                name="the list of what others have pinned here,",
                unharmed="nothing that is pinned is harmed",
                repair="Stop kachery-cloud-node, move the file away, and have those who pin here pin it again",
                prepare=lambda db: _prepare(db, path),
                durable=True,
                version=_VERSION,
            ),
        )
        self.listing = PinListing(self._file)
        self.following = Following(self._file, wall, _delete)

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        self._file.let_go()

    def check(self) -> None:
        """Write something, as a sign that pins could be written."""
        with self._file.write() as db:
            db.execute("INSERT OR REPLACE INTO alive (id, at) VALUES (1, ?)", (self._wall(),))

    # --- tokens -----------------------------------------------------------------------------------------------------

    def add_token(self, name: str, quota: int | None = None) -> tuple[str, bool] | None:
        """Make a token.

        Returns:
            The token, which is kept nowhere, and whether there are pins of one of that name before; None where there
            is a token of that name.
        """
        token = secrets.token_urlsafe(limits.TOKEN_BYTES)
        with self._file.write() as db:
            row = db.execute("SELECT id, hash FROM tokens WHERE name = ?", (name,)).fetchone()
            if row is not None and row[1] is not None:
                return None
            db.execute(
                "INSERT INTO tokens (name, hash, quota, added) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "hash = excluded.hash, quota = excluded.quota, added = excluded.added, seen = NULL",
                (name, hash_of(token), quota, self._wall()),
            )
            return token, row is not None

    def remove_token(self, name: str, *, pins: bool = False) -> int | None:
        """Take a token away, and on request its pins.

        Returns:
            How many pins of that name are left; None where there is neither token nor pin of it.
        """
        with self._file.write() as db:
            row = db.execute("SELECT id FROM tokens WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            db.execute("UPDATE tokens SET hash = NULL WHERE id = ?", row)
            end_rights(db, row[0])
            if pins:
                for (pin,) in db.execute("SELECT id FROM pins WHERE owner = ?", row).fetchall():
                    _delete(db, pin)
            (left,) = db.execute("SELECT count(*) FROM pins WHERE owner = ?", row).fetchone()
            if not left:
                db.execute("DELETE FROM tokens WHERE id = ?", row)
            return left

    def grant(self, name: str, token_hash: bytes, account: str, quota: int | None) -> None:
        """Take a token of which only the hash is known here; an earlier one of that name ends.

        Args:
            name: whose pins it reaches.
            token_hash: see `hash_of`.
            account: whose quota it shares.
            quota: of the account, for all its tokens.
        """
        with self._file.write() as db:
            db.execute(
                "INSERT INTO tokens (name, hash, quota, added, account) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO "
                "UPDATE SET hash = excluded.hash, added = excluded.added, seen = NULL, account = excluded.account",
                (name, token_hash, quota, self._wall(), account),
            )
            db.execute("UPDATE tokens SET quota = ? WHERE account = ?", (quota, account))

    def owner(self, name: str, account: str, quota: int | None) -> Token:
        """Who has the pins of a name, which are on an account; without a token where there is none yet.

        For what is pinned on somebody's behalf by the process of the service itself.
        """
        with self._file.write() as db:
            db.execute(
                "INSERT INTO tokens (name, quota, added, account) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
                (name, quota, self._wall(), account),
            )
            row = db.execute(f"SELECT {_TOKEN} FROM tokens WHERE name = ?", (name,)).fetchone()
            return _token(row)

    def set_quota(self, account: str, quota: int | None) -> None:
        """Change the quota of an account."""
        with self._file.write() as db:
            db.execute("UPDATE tokens SET quota = ? WHERE account = ?", (quota, account))

    def used(self, account: str) -> int:
        """Bytes that the pins of an account take, each root once."""
        row = self._file.one("SELECT used FROM counted WHERE pot = ?", (account,))
        return 0 if row is None else row[0]

    def tokens(self) -> list[Token]:
        """Everybody who may pin here, or has pins, by name."""
        rows = self._file.all(
            "SELECT t.id, t.name, t.quota, t.added, t.seen, t.hash IS NOT NULL, "
            "(SELECT count(*) FROM pins p WHERE p.owner = t.id), "
            "(SELECT coalesce(sum(size), 0) FROM (SELECT max(size) AS size FROM pins WHERE owner = t.id GROUP BY key)) "
            ", t.account FROM tokens t ORDER BY t.name"
        )
        return [Token(id, name, quota, added, seen, bool(valid), *more) for id, name, quota, added, seen, valid, *more
                in rows]  # fmt: skip

    def token(self, text: str) -> Token | None:
        """Who shows a token; None where it is nobody's."""
        row = self._file.one(f"SELECT {_TOKEN} FROM tokens WHERE hash = ?", (hash_of(text),))
        if row is None:
            return None
        found, now = _token(row), self._wall()
        if found.seen is None or not now - 3600 < found.seen <= now:
            with self._file.write(durable=False) as db:
                db.execute("UPDATE tokens SET seen = ? WHERE id = ?", (now, found.id))
        return found

    # --- what clients do --------------------------------------------------------------------------------------------

    def add(self, owner: Token, wanted: PinObject, size: int | None, *, replaces: str | None = None) -> Pin | None:
        """Note that something is to be pinned; it is queued when this returns.

        Args:
            owner: who wants it.
            wanted: what.
            size: of it, where it is known; then it counts from now on.
            replaces: the request that goes in the same step.

        Returns:
            The pin; None where there is no such request to replace.

        Raises:
            Refusal: the quota is used up, or there are too many.
        """
        key = bytes(wanted.cid.to_v1())
        with self._file.write() as db:
            if replaces is not None and not self._take(db, owner, replaces):
                return None
            _check_room(db, owner, key, size)
            now = max(int(self._wall() * 1e6), 1 + (db.execute("SELECT max(created) FROM pins").fetchone()[0] or 0))
            request_id = str(uuid.uuid4())
            pin = db.execute(
                "INSERT INTO pins (request_id, owner, key, cid, name, folded, origins, meta, created, status, size) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?)",
                (
                    request_id, owner.id, key, wanted.text, wanted.name, wanted.name.casefold(),
                    json.dumps(wanted.origins), json.dumps(dict(wanted.meta)), now, size,
                ),
            ).lastrowid  # fmt: skip
            db.executemany("INSERT INTO meta VALUES (?, ?, ?)", [(pin, *each) for each in wanted.meta.items()])
            db.execute("DELETE FROM leaving WHERE key = ?", (key,))
            return pin_of(db.execute(f"SELECT {COLUMNS} FROM pins WHERE id = ?", (pin,)).fetchone())

    def quota_of(self, owner: Token) -> tuple[int, int | None]:
        """Bytes that their pins take, with those of their account; and their quota."""
        row = self._file.one(f"SELECT quota, {_USED} FROM tokens WHERE id = ?1", (owner.id,))
        return (0, owner.quota) if row is None else (row[1], row[0])

    def pin_of(self, owner: Token, root: CID) -> Pin | None:
        """Their first pin of a root that has not failed; None without one."""
        row = self._file.one(
            f"SELECT {COLUMNS} FROM pins WHERE owner = ? AND key = ? AND status <> 'failed' ORDER BY id LIMIT 1",
            (owner.id, bytes(root.to_v1())),
        )
        return None if row is None else pin_of(row)

    def names(self) -> dict[int, str]:
        """The names of all owners, by their numbers."""
        return dict(self._file.all("SELECT id, name FROM tokens"))

    def get(self, owner: Token, request_id: str) -> Pin | None:
        """One pin, if it is theirs."""
        row = self._file.one(
            f"SELECT {COLUMNS} FROM pins WHERE request_id = ? AND owner = ?", (storable(request_id), owner.id)
        )
        return None if row is None else pin_of(row)

    def list(self, owner: Token | None, filters: Filters) -> tuple[int, Pins]:
        """Their pins that fit, the newest first; and how many there are beside those that the limit leaves.

        Where no owner is named, those of all, but for those that are here because another node has them. They are not
        counted then, which would go through all for each page: of more than the limit, one more is said to be there.
        """
        where: Texts = [OWN] if owner is None else ["owner = ?"]
        values: Values = [] if owner is None else [owner.id]

        def among(column: str, wanted: Sequence[Any]) -> None:
            where.append(f"{column} IN ({','.join('?' * len(wanted))})")
            values.extend(wanted)

        among("status", filters.statuses)
        if filters.keys:
            among("key", filters.keys)
        if filters.name is not None:
            column = "folded" if filters.match.startswith("i") else "name"
            where.append(f"{column} = ?" if filters.match.endswith("exact") else f"instr({column}, ?) > 0")
            values.append(filters.name.casefold() if column == "folded" else filters.name)
        if filters.before is not None:
            where.append("created < ?")
            values.append(filters.before)
        if filters.after is not None:
            where.append("created > ?")
            values.append(filters.after)
        for each in filters.meta.items():
            where.append("EXISTS (SELECT 1 FROM meta m WHERE m.pin = pins.id AND m.key = ? AND m.value = ?)")
            values.extend(each)
        clause = " AND ".join(where)
        if not _fits(values):
            return 0, []
        query = f"SELECT {COLUMNS} FROM pins WHERE {clause} ORDER BY created DESC LIMIT ?"
        if owner is None:
            rows = self._file.all(query, [*values, filters.limit + 1])
            return len(rows), [pin_of(row) for row in rows[: filters.limit]]
        count = self._file.one(f"SELECT count(*) FROM pins WHERE {clause}", values)[0]
        rows = self._file.all(query, [*values, filters.limit])
        return count, [pin_of(row) for row in rows]

    def delete(self, owner: Token, request_id: str) -> bool:
        """Take a pin away; whether it was theirs."""
        with self._file.write() as db:
            return self._take(db, owner, request_id)

    def delete_any(self, request_id: str) -> bool:
        """Take a pin away, whosever it is; whether there was one. Who may is decided before."""
        with self._file.write() as db:
            row = db.execute("SELECT id FROM pins WHERE request_id = ?", (storable(request_id),)).fetchone()
            if row is not None:
                _delete(db, row[0])
            return row is not None

    def _take(self, db: sqlite3.Connection, owner: Token, request_id: str) -> bool:
        row = db.execute(
            "SELECT id FROM pins WHERE request_id = ? AND owner = ?", (storable(request_id), owner.id)
        ).fetchone()
        if row is None:
            return False
        _delete(db, row[0])
        return True

    # --- what the queue does ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The process has begun: what was under way when the last one ended is to be done."""
        with self._file.write() as db:
            db.execute("UPDATE pins SET status = 'queued', next_try = 0 WHERE status = 'pinning'")
            db.execute(
                "INSERT OR IGNORE INTO leaving (key, cid) SELECT key, cid FROM held h "
                "WHERE NOT EXISTS (SELECT 1 FROM pins p WHERE p.key = h.key AND p.status <> 'failed')"
            )

    def take(self, busy: Sequence[bytes]) -> Pin | None:
        """The pin whose turn it is, which is `pinning` from now on.

        First come those of whom least is under way, so that nobody waits for all that another has queued.

        Args:
            busy: roots that are worked on now.
        """
        now = self._wall()
        with self._file.write() as db:
            row = db.execute(
                f"SELECT {COLUMNS} FROM pins p JOIN (SELECT min(id) AS first FROM pins q WHERE q.status = 'queued' "
                f"AND q.next_try <= ? AND q.key NOT IN ({','.join('?' * len(busy))}) GROUP BY q.owner) "
                "ON p.id = first ORDER BY "
                "(SELECT count(*) FROM pins r WHERE r.owner = p.owner AND r.status = 'pinning'), p.id LIMIT 1",
                (now, *busy),
            ).fetchone()
            if row is None:
                return None
            db.execute("UPDATE pins SET status = 'pinning' WHERE id = ?", (row[0],))
            return pin_of((*row[:8], "pinning", *row[9:]))

    def next_turn(self) -> float | None:
        """Seconds until the turn of the next one that waits; None where none does."""
        (at,) = self._file.one("SELECT min(next_try) FROM pins WHERE status = 'queued'")
        return None if at is None else max(0.0, at - self._wall())

    def exists(self, pin: Pin) -> bool:
        """Whether nobody has deleted it meanwhile."""
        return self._file.one("SELECT 1 FROM pins WHERE id = ?", (pin.id,)) is not None

    def reserve(self, pin: Pin, size: int) -> bool:
        """Count the bytes of a pin; whether it is within the quota, and still there. Else nothing is counted."""
        with self._file.write() as db:
            row = db.execute("SELECT quota FROM tokens WHERE id = ?", (pin.owner,)).fetchone()
            if row is None:
                return False
            db.execute("UPDATE pins SET size = ? WHERE id = ?", (size, pin.id))
            (quota,) = row
            # What is followed was within the quota of the node that it is from.
            followed = db.execute("SELECT 1 FROM followed WHERE pin = ?", (pin.id,)).fetchone() is not None
            if quota is not None and not followed and db.execute(f"SELECT {_USED}", (pin.owner,)).fetchone()[0] > quota:
                db.execute("UPDATE pins SET size = NULL WHERE id = ?", (pin.id,))
                return False
            return True

    def finish(self, pin: Pin, status: str, details: str = "", *, tries: int = 0, pause: float = 0.0) -> None:
        """Note what came of a pin; a failed one takes nothing of the quota."""
        with self._file.write() as db:
            db.execute(
                "UPDATE pins SET status = ?1, details = ?2, tries = ?3, next_try = ?4, "
                "size = CASE WHEN ?1 = 'failed' THEN NULL ELSE size END WHERE id = ?5",
                (status, details[: limits.MAX_DETAILS], tries, self._wall() + pause if pause else 0.0, pin.id),
            )

    def tell(self, pin: Pin, details: str) -> None:
        """Note how far a pin is."""
        with self._file.write(durable=False) as db:
            db.execute("UPDATE pins SET details = ? WHERE id = ?", (details[: limits.MAX_DETAILS], pin.id))

    def hold(self, root: CID, before: int | None) -> int | None:
        """Note that a root is about to be kept for others.

        Args:
            root: which.
            before: as what it is kept now; None where nothing of it is here.

        Returns:
            The same of when that was first noted.
        """
        key = bytes(root.to_v1())
        with self._file.write() as db:
            db.execute("INSERT OR IGNORE INTO held (key, cid, before) VALUES (?, ?, ?)", (key, str(root), before))
            return db.execute("SELECT before FROM held WHERE key = ?", (key,)).fetchone()[0]

    def held(self, root: CID) -> tuple[bool, int | None]:
        """Whether a root is kept for others, and as what it was kept before."""
        row = self._file.one("SELECT before FROM held WHERE key = ?", (bytes(root.to_v1()),))
        return row is not None, None if row is None else row[0]

    def leaving(self) -> Roots:
        """What nobody has pinned any more, and is to be let go."""
        return [CID.parse(cid) for (cid,) in self._file.all("SELECT cid FROM leaving")]

    def is_wanted(self, root: CID) -> bool:
        """Whether somebody has pinned it, or it waits to be."""
        key = bytes(root.to_v1())
        return self._file.one("SELECT 1 FROM pins WHERE key = ? AND status <> 'failed' LIMIT 1", (key,)) is not None

    def let_go(self, root: CID) -> None:
        """Forget what has been let go."""
        key = bytes(root.to_v1())
        with self._file.write() as db:
            db.execute("DELETE FROM leaving WHERE key = ?", (key,))
            db.execute("DELETE FROM held WHERE key = ?", (key,))

    def stays(self, root: CID) -> None:
        """A root is not to be let go after all."""
        with self._file.write() as db:
            db.execute("DELETE FROM leaving WHERE key = ?", (bytes(root.to_v1()),))

    def leave(self, root: CID) -> None:
        """Let a root go, if nobody has it pinned: a pin of it has failed."""
        with self._file.write() as db:
            _leave(db, bytes(root.to_v1()), str(root))

    def again(self, roots: Sequence[CID]) -> None:
        """What was pinned is not here any more: it is queued again."""
        with self._file.write() as db:
            db.executemany(
                "UPDATE pins SET status = 'queued', next_try = 0, tries = 0 WHERE key = ? AND status = 'pinned'",
                [(bytes(root.to_v1()),) for root in roots],
            )

    def pinned_roots(self, but: Set[bytes]) -> Roots:
        """All that is pinned, each once, but for those of some keys."""
        rows = self._file.all("SELECT key, cid FROM pins WHERE status = 'pinned'")
        return [CID.parse(cid) for cid in {key: cid for key, cid in rows if key not in but}.values()]

    def counts(self) -> dict[str, int]:
        """How many pins are in which state."""
        return dict(self._file.all("SELECT status, count(*) FROM pins GROUP BY status"))


def _token(row: Sequence[Any]) -> Token:
    id, name, quota, added, seen, valid, account = row
    return Token(id, name, quota, added, seen, bool(valid), account=account)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring those of the version before up to date."""
    if db.execute("PRAGMA user_version").fetchone()[0] == 1:
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] == 1:
                for statement in FROM_VERSION_1.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={_VERSION}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    make_schema(db, SCHEMA, _VERSION, path, "a list of pins for others")
    add_counters(db)
    add_indexes(db)
    add_tables(db)


def _check_room(db: sqlite3.Connection, owner: Token, key: bytes, size: int | None) -> None:
    """Refuse what is over the quota.

    Raises:
        Refusal: it is.
    """
    (quota,) = db.execute("SELECT quota FROM tokens WHERE id = ?", (owner.id,)).fetchone() or (None,)
    (total,) = db.execute("SELECT count(*) FROM pins WHERE owner = ?", (owner.id,)).fetchone()
    (waiting,) = db.execute(
        "SELECT count(*) FROM pins WHERE owner = ? AND status IN ('queued', 'pinning')", (owner.id,)
    ).fetchone()
    if total >= limits.MAX_PINS or waiting >= limits.MAX_WAITING:
        raise no_funds(f"There are {total} pins already, of which {waiting} wait. Delete some, or wait.")
    if quota is None:
        return
    (used,) = db.execute(f"SELECT {_USED}", (owner.id,)).fetchone()
    (own,) = db.execute(
        f"SELECT max(size) FROM pins WHERE owner IN {_FELLOWS} AND key = ?2", (owner.id, key)
    ).fetchone()
    if own is None and used + (size or 1) > quota:
        needed = "" if size is None else f", and this takes {size}"
        raise no_funds(f"{used} of {quota} bytes are used{needed}. Delete pins, or ask those who run this service.")


def _delete(db: sqlite3.Connection, pin: int) -> None:
    key, cid = db.execute("SELECT key, cid FROM pins WHERE id = ?", (pin,)).fetchone()
    note_deleted(db, pin)
    db.execute("DELETE FROM pins WHERE id = ?", (pin,))
    db.execute("DELETE FROM meta WHERE pin = ?", (pin,))
    _leave(db, key, cid)


def _leave(db: sqlite3.Connection, key: bytes, cid: str) -> None:
    db.execute(
        "INSERT OR IGNORE INTO leaving (key, cid) SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM held WHERE key = ?1) "
        "AND NOT EXISTS (SELECT 1 FROM pins WHERE key = ?1 AND status <> 'failed')",
        (key, cid),
    )


def _fits(values: Sequence[Any]) -> bool:
    """Whether the database can hold such numbers: times of the year 9999 it can."""
    return all(not isinstance(value, int) or abs(value) < 1 << 63 for value in values)
