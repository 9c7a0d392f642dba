"""Invitations: links that each let somebody in once. A table of `lab.sqlite`; only a hash of the secret is kept.

A link is fetched by programs that only want to show what is behind it, so looking at one uses nothing up.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass

from kachery_cloud.lab import limits
from kachery_cloud.lab.database import LabDatabase, Tables
from kachery_cloud.lab.sessions import hash_of

TABLES = Tables(
    "invitations",
    (
        """
        CREATE TABLE invitations (
            hash BLOB PRIMARY KEY,
            member TEXT NOT NULL,
            made REAL NOT NULL,
            expires REAL NOT NULL
        );
        CREATE INDEX invitations_by_member ON invitations (member, made)
        """,
    ),
)


@dataclass(frozen=True)
class Invitation:
    """For whom it is (the id of a member), and until when; seconds since 1970."""

    member: str
    expires: float


class Invitations:
    """All invitations. Safe to use from many threads and by many processes.

    All methods raise RepoError, DiskFull and NoPermission as the database does.

    Args:
        database: of the lab.
    """

    def __init__(self, database: LabDatabase) -> None:
        self._database = database
        database.use(TABLES)

    def make(self, member: str, seconds: float = limits.INVITATION_LIFE) -> tuple[str, Invitation]:
        """Make one; of too many for the same member the oldest end.

        Args:
            member: his id.
            seconds: for which it may be used.

        Returns:
            Its secret, which is kept nowhere, and what it says.
        """
        secret, now = secrets.token_urlsafe(limits.SECRET_BYTES), self._database.wall()
        made = Invitation(member, now + min(seconds, limits.MAX_INVITATION_LIFE))
        with self._database.write() as db:
            db.execute("DELETE FROM invitations WHERE expires <= ?", (now,))
            db.execute(
                "DELETE FROM invitations WHERE member = ?1 AND hash NOT IN "
                "(SELECT hash FROM invitations WHERE member = ?1 ORDER BY made DESC LIMIT ?2)",
                (member, limits.MAX_INVITATIONS - 1),
            )
            db.execute("INSERT INTO invitations VALUES (?, ?, ?, ?)", (hash_of(secret), member, now, made.expires))
        return secret, made

    def find(self, secret: str) -> Invitation | None:
        """The invitation of a secret; None where there is none, or it was used or has expired."""
        row = self._database.one(
            "SELECT member, expires FROM invitations WHERE hash = ? AND expires > ?",
            (hash_of(secret), self._database.wall()),
        )
        return None if row is None else Invitation(*row)

    def use(self, secret: str) -> str | None:
        """Use one up.

        Returns:
            For which member it is; None where there is none, or it was used or has expired.
        """
        with self._database.write() as db:
            return use(db, secret, self._database.wall())


def use(db: sqlite3.Connection, secret: str, now: float) -> str | None:
    """The same within a transaction, which may still fail; then it is not used."""
    row = db.execute(
        "DELETE FROM invitations WHERE hash = ? AND expires > ? RETURNING member", (hash_of(secret), now)
    ).fetchone()
    return None if row is None else row[0]
