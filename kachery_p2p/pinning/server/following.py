"""What is pinned here because another node has it pinned; and what a node that follows us may read.

A pin that was followed has a row in `followed`: which list it is from, and its request there. Such pins are not told
to those who follow us, so that nothing goes round in circles. A list has a random ID. When another node answers with
another ID, it has lost its list: then what was followed from it stays, as if it had been pinned here, and that node
gets it back when it follows us.

Deletions go both ways. What is gone from the other list is deleted here after a time of grace. What a member deletes
here, though it was pinned there, is noted in `unfollowed`; the other node asks for that, and deletes its pin after the
same time.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kachery_p2p.pinning.server.requests import PinObject
from kachery_p2p.sqlite import SQLiteFile

_TABLES = (
    "CREATE TABLE IF NOT EXISTS follow_list (id TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS follow_rights (token INTEGER PRIMARY KEY, tokens INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS follow_sources (
        url TEXT PRIMARY KEY, list TEXT NOT NULL, after INTEGER NOT NULL, top INTEGER NOT NULL, before INTEGER,
        look INTEGER NOT NULL, deleted INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS followed (
        pin INTEGER PRIMARY KEY, list TEXT NOT NULL, request_id TEXT NOT NULL, look INTEGER NOT NULL, missing REAL,
        UNIQUE (list, request_id))""",
    """CREATE TABLE IF NOT EXISTS unfollowed (
        id INTEGER PRIMARY KEY AUTOINCREMENT, list TEXT NOT NULL, request_id TEXT NOT NULL,
        UNIQUE (list, request_id))""",
    "CREATE TABLE IF NOT EXISTS follow_due (pin INTEGER PRIMARY KEY, at REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS follow_tokens (token INTEGER PRIMARY KEY, list TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS followed_missing ON followed (list, missing)",
)
#: How an account begins that is one of a node that we follow.
_THEIRS = "list "
#: SQL: that a row of `pins` was pinned here, by a member.
OWN = "NOT EXISTS (SELECT 1 FROM followed f WHERE f.pin = pins.id)"


@dataclass(frozen=True)
class RemotePin:
    """A pin as another node tells it.

    Attributes:
        request_id: there.
        owner: the name of the token.
        wanted: what is pinned; its origins lead to that node, too.
        created: microseconds since 1970; unique in its list.
    """

    request_id: str
    owner: str
    wanted: PinObject
    created: int


@dataclass(frozen=True)
class RemoteToken:
    """A token as another node hands it on: its name, hash and quota."""

    name: str
    hash: bytes
    quota: int | None


def add_tables(db: sqlite3.Connection) -> None:
    """Have the tables there. A program of an older version does not mind them."""
    for statement in _TABLES:
        db.execute(statement)
    if db.execute("SELECT 1 FROM follow_list").fetchone() is None:
        db.execute(
            "INSERT INTO follow_list (id) SELECT ? WHERE NOT EXISTS (SELECT 1 FROM follow_list)",
            (secrets.token_urlsafe(16),),
        )


def note_deleted(db: sqlite3.Connection, pin: int) -> None:
    """A member deletes a pin: where it was followed, that is noted for the node that it is from."""
    db.execute(
        "INSERT OR IGNORE INTO unfollowed (list, request_id) SELECT list, request_id FROM followed WHERE pin = ?",
        (pin,),
    )
    db.execute("DELETE FROM followed WHERE pin = ?", (pin,))
    db.execute("DELETE FROM follow_due WHERE pin = ?", (pin,))


def end_rights(db: sqlite3.Connection, token: int) -> None:
    """A token is taken away. What it may beside pinning goes with it: its number may be another one's later."""
    db.execute("DELETE FROM follow_rights WHERE token = ?", (token,))
    db.execute("DELETE FROM follow_tokens WHERE token = ?", (token,))


class Following:
    """The tables of one pinning service. Safe to use from many threads.

    All methods raise RepoError when the file cannot be used, DiskFull and NoPermission.

    Args:
        file: that of `PinStore`.
        wall: seconds since 1970.
        delete: deletes a row of `pins` in a transaction; it is told to nobody.
    """

    def __init__(
        self, file: SQLiteFile, wall: Callable[[], float], delete: Callable[[sqlite3.Connection, int], None]
    ) -> None:
        self._file = file
        self._wall = wall
        self._delete = delete

    # --- for those who follow us ------------------------------------------------------------------------------------

    @property
    def list_id(self) -> str:
        """Which list ours is."""
        return self._file.one("SELECT id FROM follow_list")[0]

    def rights(self, token: int) -> bool | None:
        """Whether a token is for a node that follows us, and then whether it gets our tokens; None where it is not."""
        row = self._file.one("SELECT tokens FROM follow_rights WHERE token = ?", (token,))
        return None if row is None else bool(row[0])

    def followers(self) -> dict[int, bool]:
        """The tokens of nodes that follow us, by their numbers, and whether they get our tokens."""
        return {token: bool(tokens) for token, tokens in self._file.all("SELECT token, tokens FROM follow_rights")}

    def allow(self, token: int, *, tokens: bool) -> None:
        """A token is for a node that follows us; with `tokens`, it gets the hashes of our tokens."""
        with self._file.write() as db:
            db.execute("INSERT OR REPLACE INTO follow_rights VALUES (?, ?)", (token, tokens))

    def deleted(self, their_list: str, after: int, limit: int) -> list[tuple[int, str]]:
        """What members deleted here of the list of another node: a number, which grows, and the request there."""
        return self._file.all(
            "SELECT id, request_id FROM unfollowed WHERE list = ? AND id > ? ORDER BY id LIMIT ?",
            (their_list, after, limit),
        )

    def tokens(self) -> list[RemoteToken]:
        """Our own tokens that are in use, but for those of nodes that follow us."""
        rows = self._file.all(
            "SELECT name, hash, quota FROM tokens t WHERE hash IS NOT NULL "
            "AND NOT EXISTS (SELECT 1 FROM follow_rights r WHERE r.token = t.id) "
            "AND NOT EXISTS (SELECT 1 FROM follow_tokens f WHERE f.token = t.id) ORDER BY name"
        )
        return [RemoteToken(*row) for row in rows]

    def accounts(self) -> dict[str, str]:
        """The accounts of those who may pin at this node itself, or have pins here, by the names of their tokens."""
        return dict(
            self._file.all(
                "SELECT name, account FROM tokens WHERE account IS NOT NULL AND substr(account, 1, ?2) <> ?1",
                (_THEIRS, len(_THEIRS)),
            )
        )

    # --- what we follow ---------------------------------------------------------------------------------------------

    def known(self, url: str) -> int:
        """Up to which number what was deleted at a source of our list is known here."""
        row = self._file.one("SELECT deleted FROM follow_sources WHERE url = ?", (url,))
        return 0 if row is None else row[0]

    def begin(self, url: str, list_id: str) -> tuple[int, int, int | None, int]:
        """A source has answered with the ID of its list.

        Returns:
            `after`, `top` and `before` of the look at what is new that is under way; and up to which number what was
            deleted there of our list is known.
        """
        with self._file.write() as db:
            row = db.execute(
                "SELECT list, after, top, before, deleted FROM follow_sources WHERE url = ?", (url,)
            ).fetchone()
            if row is not None and row[0] == list_id:
                return row[1:]
            if row is not None:
                # It has lost its list. What is from that is ours now.
                db.execute("DELETE FROM followed WHERE list = ?", (row[0],))
                db.execute("DELETE FROM follow_tokens WHERE list = ?", (row[0],))
            db.execute("INSERT OR REPLACE INTO follow_sources VALUES (?, ?, 0, 0, NULL, 0, 0)", (url, list_id))
            return 0, 0, None, 0

    def take(
        self, url: str, list_id: str, pins: Iterable[RemotePin], cursor: tuple[int, int, int | None] | None
    ) -> int:
        """Pin what is on a page, where it is not yet; and note how far the look is, in the same step.

        Args:
            url: of the source.
            list_id: of its list.
            pins: on the page.
            cursor: where the look at what is new is; None in one at everything.

        Returns:
            How many are new here.
        """
        new = 0
        with self._file.write() as db:
            (look,) = db.execute("SELECT look FROM follow_sources WHERE url = ?", (url,)).fetchone()
            for pin in pins:
                new += self._take(db, list_id, pin, look)
            if cursor is not None:
                db.execute("UPDATE follow_sources SET after = ?, top = ?, before = ? WHERE url = ?", (*cursor, url))
        return new

    def _take(self, db: sqlite3.Connection, list_id: str, pin: RemotePin, look: int) -> bool:
        known = db.execute(
            "UPDATE followed SET look = ?, missing = NULL WHERE list = ? AND request_id = ?",
            (look, list_id, pin.request_id),
        ).rowcount
        gone = db.execute(
            "SELECT 1 FROM unfollowed WHERE list = ? AND request_id = ?", (list_id, pin.request_id)
        ).fetchone()
        if known or gone:
            return False
        db.execute(
            "INSERT INTO tokens (name, hash, quota, added) VALUES (?, NULL, NULL, ?) ON CONFLICT (name) DO NOTHING",
            (pin.owner, self._wall()),
        )
        (owner,) = db.execute("SELECT id FROM tokens WHERE name = ?", (pin.owner,)).fetchone()
        wanted, key = pin.wanted, bytes(pin.wanted.cid.to_v1())
        now = max(int(self._wall() * 1e6), 1 + (db.execute("SELECT max(created) FROM pins").fetchone()[0] or 0))
        number = db.execute(
            "INSERT INTO pins (request_id, owner, key, cid, name, folded, origins, meta, created, status) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued')",
            (
                str(uuid.uuid4()), owner, key, wanted.text, wanted.name, wanted.name.casefold(),
                json.dumps(wanted.origins), json.dumps(dict(wanted.meta)), now,
            ),
        ).lastrowid  # fmt: skip
        db.executemany("INSERT INTO meta VALUES (?, ?, ?)", [(number, *each) for each in wanted.meta.items()])
        db.execute("DELETE FROM leaving WHERE key = ?", (key,))
        db.execute("INSERT INTO followed VALUES (?, ?, ?, ?, NULL)", (number, list_id, pin.request_id, look))
        return True

    def begin_whole(self, url: str) -> None:
        """A look at everything begins. What has failed here meanwhile is tried again."""
        with self._file.write() as db:
            db.execute("UPDATE follow_sources SET look = look + 1 WHERE url = ?", (url,))
            db.execute(
                "UPDATE pins SET status = 'queued', next_try = 0, tries = 0 WHERE status = 'failed' "
                "AND id IN (SELECT pin FROM followed WHERE list = (SELECT list FROM follow_sources WHERE url = ?))",
                (url,),
            )

    def end_whole(self, url: str) -> int:
        """It has gone through all of the list: what it did not meet is missing there. How many pins that are."""
        with self._file.write() as db:
            look, list_id = db.execute("SELECT look, list FROM follow_sources WHERE url = ?", (url,)).fetchone()
            db.execute(
                "UPDATE followed SET missing = ? WHERE list = ? AND look < ? AND missing IS NULL",
                (self._wall(), list_id, look),
            )
            return db.execute(
                "SELECT count(*) FROM followed WHERE list = ? AND missing IS NOT NULL", (list_id,)
            ).fetchone()[0]

    def deleted_there(self, url: str, requests: Sequence[tuple[int, str]], grace: float) -> None:
        """Members deleted pins of ours at another node: they go here, too, after the time of grace in seconds."""
        with self._file.write() as db:
            for number, request_id in requests:
                db.execute(
                    f"INSERT OR IGNORE INTO follow_due SELECT id, ? FROM pins WHERE request_id = ? AND {OWN}",
                    (self._wall() + grace, request_id),
                )
                db.execute("UPDATE follow_sources SET deleted = ? WHERE url = ? AND deleted < ?", (number, url, number))

    def sweep(self, grace: float) -> int:
        """Delete what has been missing for the time of grace, in seconds; how many pins that were."""
        now = self._wall()
        with self._file.write() as db:
            rows = db.execute(
                "SELECT pin FROM followed WHERE missing <= ? UNION SELECT pin FROM follow_due WHERE at <= ?",
                (now - grace, now),
            ).fetchall()
            for (pin,) in rows:
                db.execute("DELETE FROM followed WHERE pin = ?", (pin,))
                db.execute("DELETE FROM follow_due WHERE pin = ?", (pin,))
                if db.execute("SELECT 1 FROM pins WHERE id = ?", (pin,)).fetchone() is not None:
                    self._delete(db, pin)
        return len(rows)

    def take_tokens(self, list_id: str, tokens: Sequence[RemoteToken], accounts: Mapping[str, str]) -> None:
        """The tokens of a source are good here, too, where there is none of that name. Those it took away are not.

        Args:
            list_id: of its list.
            tokens: all that it has.
            accounts: whose quota they share there, by their names; and of those who have pins there without a token.
        """
        with self._file.write() as db:
            for each in tokens:
                db.execute(
                    "INSERT INTO tokens (name, hash, quota, added) VALUES (?, NULL, NULL, ?) "
                    "ON CONFLICT (name) DO NOTHING",
                    (each.name, self._wall()),
                )
                (token, kept) = db.execute("SELECT id, hash FROM tokens WHERE name = ?", (each.name,)).fetchone()
                theirs = db.execute("SELECT 1 FROM follow_tokens WHERE token = ? AND list = ?", (token, list_id))
                if kept is None or theirs.fetchone() is not None:
                    db.execute(
                        "UPDATE OR IGNORE tokens SET hash = ?, quota = ? WHERE id = ?", (each.hash, each.quota, token)
                    )
                    db.execute("INSERT OR REPLACE INTO follow_tokens VALUES (?, ?)", (token, list_id))
            names = {each.name for each in tokens}
            for token, name in db.execute(
                "SELECT t.id, t.name FROM tokens t JOIN follow_tokens f ON f.token = t.id WHERE f.list = ?", (list_id,)
            ).fetchall():
                if name not in names:
                    db.execute("UPDATE tokens SET hash = NULL WHERE id = ?", (token,))
                    db.execute("DELETE FROM follow_tokens WHERE token = ?", (token,))
            # Those of us who have a token of our own, or an account, keep it. Two lists may have one name for an
            # account, so ours has the name of the list in it, and is none of ours or of another list.
            ours = f"{_THEIRS}{list_id} "
            rows = db.execute(
                "SELECT t.id, t.name, t.account FROM tokens t LEFT JOIN follow_tokens f ON f.token = t.id "
                "WHERE f.list = ?1 OR (t.hash IS NULL AND (t.account IS NULL OR substr(t.account, 1, ?3) = ?2))",
                (list_id, ours, len(ours)),
            ).fetchall()
            for token, name, account in rows:
                there = ours + accounts[name] if name in accounts else None
                if there != account:
                    db.execute("UPDATE tokens SET account = ? WHERE id = ?", (there, token))
