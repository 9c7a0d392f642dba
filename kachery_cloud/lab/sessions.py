"""Sessions of browsers: a table of `lab.sqlite`, and the cookie.

Of a session's secret only a hash is kept. It is random, and has 256 bits, so one round of SHA-256 is enough. A session
ends by signing out, when nothing was asked in it for a while, in any case after some days, and with its member.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

from kachery_cloud.lab import limits
from kachery_cloud.lab.database import LabDatabase, Tables
from kachery_p2p.pinning.server.store import hash_of

TABLES = Tables(
    "sessions",
    (
        """
        CREATE TABLE sessions (
            hash BLOB PRIMARY KEY,
            member TEXT NOT NULL,
            begun REAL NOT NULL,
            seen REAL NOT NULL
        );
        CREATE INDEX sessions_by_member ON sessions (member, begun)
        """,
    ),
)

#: The cookie. Over HTTPS it cannot be set by anything but this very host (`__Host-`, RFC 6265bis).
COOKIE = "kachery-session"
SECURE_COOKIE = f"__Host-{COOKIE}"


@dataclass(frozen=True)
class Session:
    """A browser that somebody has signed in with.

    Attributes:
        member: his id.
        csrf: what state changes have to show in `X-CSRF-Token`.
        begun: seconds since 1970.
    """

    member: str
    csrf: str
    begun: float


def csrf_of(secret: str) -> str:
    """What a page of ours shows to change something: it follows from the secret, and does not give it away."""
    return hmac.new(secret.encode("utf-8", "surrogatepass"), b"kachery csrf", "sha256").hexdigest()


class Sessions:
    """All sessions. Safe to use from many threads and by many processes.

    All methods raise RepoError, DiskFull and NoPermission as the database does.

    Args:
        database: of the lab.
    """

    def __init__(self, database: LabDatabase) -> None:
        self._database = database
        database.use(TABLES)

    def begin(self, member: str, instead_of: str | None = None) -> str:
        """Begin a session, with a new secret in any case; of too many the oldest end.

        Args:
            member: who has signed in.
            instead_of: the secret of the session that the browser had before, which ends.

        Returns:
            The secret, which is kept nowhere.
        """
        secret, now = secrets.token_urlsafe(limits.SECRET_BYTES), self._database.wall()
        with self._database.write() as db:
            if instead_of is not None:
                db.execute("DELETE FROM sessions WHERE hash = ?", (hash_of(instead_of),))
            db.execute(
                "DELETE FROM sessions WHERE member = ?1 AND hash NOT IN "
                "(SELECT hash FROM sessions WHERE member = ?1 ORDER BY begun DESC LIMIT ?2)",
                (member, limits.MAX_SESSIONS - 1),
            )
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (hash_of(secret), member, now, now))
        return secret

    def find(self, secret: str) -> Session | None:
        """The session of a secret; None where there is none, or it is over."""
        row = self._database.one("SELECT member, begun, seen FROM sessions WHERE hash = ?", (hash_of(secret),))
        if row is None:
            return None
        member, begun, seen = row
        now = self._database.wall()
        if now - seen >= limits.SESSION_IDLE or now - begun >= limits.SESSION_LIFE:
            self.end(secret)
            return None
        if now - seen >= limits.SESSION_NOTED:
            with self._database.write(durable=False) as db:
                db.execute("UPDATE sessions SET seen = ? WHERE hash = ?", (now, hash_of(secret)))
        return Session(member, csrf_of(secret), begun)

    def end(self, secret: str) -> None:
        """End a session, if there is one."""
        with self._database.write() as db:
            db.execute("DELETE FROM sessions WHERE hash = ?", (hash_of(secret),))

    def forget_old(self) -> None:
        """Take away the rows of sessions that are over."""
        now = self._database.wall()
        with self._database.write(durable=False) as db:
            db.execute(
                "DELETE FROM sessions WHERE seen <= ? OR begun <= ?",
                (now - limits.SESSION_IDLE, now - limits.SESSION_LIFE),
            )
