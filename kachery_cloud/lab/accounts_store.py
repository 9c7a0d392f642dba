"""Members of the lab, and the clients (computers) that they have registered: tables of `lab.sqlite`.

A member is somebody by a name; one who signs in at an OpenID provider is known by issuer and subject from then on, and
by the e-mail address alone only until then. A member who was removed is kept as one who may not come in again, since a
rule of the settings may let everybody of a domain in.

What a client has pinned is in the list of the pinning service (`PinStore`): there it has a token whose name is
`client:` and its peer ID, and all clients of a member are on one account, whose quota they share. A client counts as
registered only while it is in this table as well.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kachery_cloud.lab import invitations, limits, sessions
from kachery_cloud.lab.answers import conflict, forbidden, not_found
from kachery_cloud.lab.database import LabDatabase, Tables
from kachery_p2p.pinning.server.requests import Refusal
from kachery_p2p.pinning.server.store import PinStore
from kachery_p2p.sqlite import storable

Role = Literal["member", "administrator"]
ROLES: tuple[Role, ...] = ("member", "administrator")

#: Before the peer ID in the name of a client's token.
CLIENT = "client:"

TABLES = Tables(
    "accounts",
    (
        """
        CREATE TABLE members (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            email TEXT UNIQUE,
            role TEXT NOT NULL,
            quota INTEGER,
            issuer TEXT,
            subject TEXT,
            added REAL NOT NULL,
            seen REAL,
            removed REAL,
            UNIQUE (issuer, subject)
        );
        CREATE TABLE clients (
            peer TEXT PRIMARY KEY,
            member TEXT NOT NULL REFERENCES members (id),
            label TEXT NOT NULL,
            registered REAL NOT NULL,
            seen REAL,
            proof TEXT
        );
        CREATE INDEX clients_by_member ON clients (member)
        """,
    ),
)

_MEMBER = "id, name, email, role, quota, added, seen, removed, subject IS NOT NULL"
_CLIENT = "peer, member, label, registered, seen"


@dataclass(frozen=True)
class Member:
    """Somebody who may use the lab's node. Times are seconds since 1970.

    Attributes:
        id: a short text of letters and digits.
        email: in small letters; None where it is not known.
        quota: bytes that what their clients store may take together; None for any number.
        seen: when they were last here, roughly; None where they were not yet.
        removed: when they were removed; None while they are members.
        openid: whether they have signed in at the OpenID provider.
    """

    id: str
    name: str
    email: str | None
    role: Role
    quota: int | None
    added: float
    seen: float | None
    removed: float | None
    openid: bool

    @property
    def account(self) -> str:
        """Under which the pinning service counts what their clients store."""
        return account_of(self.id)

    @property
    def is_administrator(self) -> bool:
        return self.role == "administrator"


@dataclass(frozen=True)
class Client:
    """A computer that belongs to a member. Times are seconds since 1970."""

    peer: str
    member: str
    label: str
    registered: float
    seen: float | None


def account_of(member: str) -> str:
    """The account of a member, by his id, in the list of the pinning service."""
    return f"member:{member}"


class Accounts:
    """Members and clients. Safe to use from many threads and by many processes.

    All methods raise RepoError, DiskFull and NoPermission as the databases do.

    Args:
        database: of the lab.
        pins: the list of the pinning service, for tokens and quotas.
    """

    def __init__(self, database: LabDatabase, pins: PinStore) -> None:
        self._database = database
        self._pins = pins
        for tables in (TABLES, sessions.TABLES, invitations.TABLES):
            database.use(tables)

    # --- members ----------------------------------------------------------------------------------------------------

    def add_member(
        self, name: str, *, email: str | None = None, role: Role = "member", quota: int | None = None
    ) -> Member:
        """Make a member, who has not been here yet. One of that address who was removed comes back.

        Raises:
            Refusal: there is one of that e-mail address, or there are too many.
        """
        with self._database.write() as db:
            found = None if email is None else _by(db, "email = ?", email)
            if found is not None and found.removed is None:
                raise conflict("MEMBER_EXISTS", f"{found.name} ({email}) is a member already.")
            if found is not None:
                db.execute(
                    "UPDATE members SET removed = NULL, name = ?, role = ?, quota = ? WHERE id = ?",
                    (name, role, quota, found.id),
                )
                return _existing(db, found.id)
            return _insert(db, self._database.wall(), name, email, role, quota)

    def member(self, id: str) -> Member | None:
        """A member by his id, if he was not removed."""
        row = self._database.one(f"SELECT {_MEMBER} FROM members WHERE id = ? AND removed IS NULL", (id,))
        return None if row is None else _member(row)

    def members(self, *, removed: bool = False, after: str = "", limit: int = -1) -> list[Member]:
        """Members, in the order of their ids, which were given by chance.

        Args:
            removed: those, too, who were removed.
            after: only those whose ids come behind this one.
            limit: so many at most; -1 for all.
        """
        which = "" if removed else "AND removed IS NULL"
        rows = self._database.all(
            f"SELECT {_MEMBER} FROM members WHERE id > ? {which} ORDER BY id LIMIT ?", (after, limit)
        )
        return [_member(row) for row in rows]

    def find(self, text: str) -> list[Member]:
        """The members who have a text for id, e-mail address or name."""
        rows = self._database.all(
            f"SELECT {_MEMBER} FROM members WHERE removed IS NULL AND (id = ?1 OR email = ?2 OR name = ?1) ORDER BY id",
            (storable(text), storable(text).casefold()),
        )
        return [_member(row) for row in rows]

    def change_member(
        self, id: str, *, name: str | None = None, role: Role | None = None, quota: int | Literal[False] | None = False
    ) -> Member:
        """Change what is given: `quota` False leaves it as it is.

        Raises:
            Refusal: there is no such member; or he is the last administrator, and would be none.
        """
        with self._database.write() as db:
            member = _existing(db, id)
            if role == "member" and member.is_administrator:
                _check_other_administrator(db, id)
            db.execute(
                "UPDATE members SET name = ?, role = ?, quota = ? WHERE id = ?",
                (name or member.name, role or member.role, member.quota if quota is False else quota, id),
            )
            changed = _existing(db, id)
        if quota is not False:
            self._pins.set_quota(changed.account, quota)
        return changed

    def remove_member(self, id: str, *, last: bool = False) -> list[str]:
        """Remove a member: tokens and sessions of his end at once. What his clients have pinned stays.

        Args:
            id: of the member.
            last: also where he is the last administrator.

        Returns:
            The peer IDs of his clients.

        Raises:
            Refusal: there is no such member, or he is the last administrator.
        """
        with self._database.write() as db:
            member = _existing(db, id)
            if member.is_administrator and not last:
                _check_other_administrator(db, id)
            peers = [peer for (peer,) in db.execute("SELECT peer FROM clients WHERE member = ?", (id,)).fetchall()]
            db.execute("UPDATE members SET removed = ? WHERE id = ?", (self._database.wall(), id))
            db.execute("DELETE FROM clients WHERE member = ?", (id,))
            db.execute("DELETE FROM sessions WHERE member = ?", (id,))
            db.execute("DELETE FROM invitations WHERE member = ?", (id,))
        # From here on nothing takes the tokens for those of a client; then the pinning service does not, either.
        for peer in peers:
            self._pins.remove_token(CLIENT + peer)
        return peers

    def make_administrator(self, email: str) -> Member:
        """Make a member an administrator; where nobody has that address, whoever first signs in with it is one."""
        with self._database.write() as db:
            found = _by(db, "email = ?", email)
            if found is None:
                return _insert(db, self._database.wall(), email.partition("@")[0], email, "administrator", None)
            db.execute("UPDATE members SET role = 'administrator', removed = NULL WHERE id = ?", (found.id,))
            return _existing(db, found.id)

    def has_administrator(self) -> bool:
        """Whether anybody is one."""
        return self._database.one(
            "SELECT 1 FROM members WHERE role = 'administrator' AND removed IS NULL LIMIT 1"
        ) is not None  # fmt: skip

    # --- who signs in -----------------------------------------------------------------------------------------------

    def signed_in(
        self, issuer: str, subject: str, *, name: str, email: str | None, invitation: str | None, admitted: bool
    ) -> Member | None:
        """The member who has signed in at the provider.

        Somebody who was here before is known by issuer and subject. Else an invitation makes him the member that it is
        for; else the e-mail address, where one was named beforehand; else, where he is admitted, he becomes a member.

        Args:
            issuer: of the provider.
            subject: who he is there.
            name: that the provider gives.
            email: one that the provider has verified; else None.
            invitation: the secret of one, which is used up where this succeeds.
            admitted: whether the settings let him in.

        Returns:
            None where he may not come in.

        Raises:
            Refusal: the invitation is used or for somebody else, or there are too many members.
        """
        now = self._database.wall()
        with self._database.write() as db:
            found = _by(db, "issuer = ? AND subject = ?", issuer, subject)
            if invitation is not None:
                invited = invitations.use(db, invitation, now)
                if invited is None:
                    raise not_found("There is no such invitation: it was used, or has expired. Ask for another one.")
                found = _take_invited(db, found, invited, issuer, subject)
            elif found is None and email is not None:
                found = _by(db, "email = ? AND subject IS NULL", email)
            if found is None and admitted and not _is_taken(db, email):
                found = _insert(db, now, name or (email or "").partition("@")[0] or "somebody", email, "member", None)
            if found is None or found.removed is not None:
                return None
            known = found.email or (None if _is_taken(db, email) else email)
            db.execute(
                "UPDATE members SET issuer = ?, subject = ?, email = ?, seen = ? WHERE id = ?",
                (issuer, subject, known, now, found.id),
            )
            return _existing(db, found.id)

    # --- clients ----------------------------------------------------------------------------------------------------

    def register(self, member: str, peer: str, label: str, token_hash: bytes, proof: str | None = None) -> Client:
        """Make a computer a client of a member; from now on the pinning service takes its token.

        Args:
            member: his id.
            peer: the peer ID.
            label: a name for people.
            token_hash: of the token; an earlier one of this client ends.
            proof: of his sign-in for this computer, where there was one; see `id_tokens.proof_of`.

        Raises:
            Refusal: there is no such member; he has too many clients; or it is another member's.
        """
        now = self._database.wall()
        with self._database.write() as db:
            owner = _existing(db, member)
            row = db.execute("SELECT member FROM clients WHERE peer = ?", (peer,)).fetchone()
            if row is not None and row[0] != member:
                raise conflict(
                    "OTHER_MEMBER", "This computer is registered for another member, who is to remove it first."
                )
            (count,) = db.execute("SELECT count(*) FROM clients WHERE member = ?", (member,)).fetchone()
            if row is None and count >= limits.MAX_CLIENTS:
                raise conflict(
                    "TOO_MANY_CLIENTS",
                    f"{owner.name} has {count} clients, and {limits.MAX_CLIENTS} are the most. Remove one first.",
                )
            db.execute(
                "INSERT INTO clients (peer, member, label, registered, proof) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (peer) DO UPDATE SET label = excluded.label, registered = excluded.registered, "
                "proof = coalesce(excluded.proof, proof)",
                (peer, member, label, now, proof),
            )
        self._pins.grant(CLIENT + peer, token_hash, owner.account, owner.quota)
        client = self.client(peer)
        if client is None or client.member != member:
            # He, or his client, was removed between the two steps.
            self._pins.remove_token(CLIENT + peer)
            raise conflict("REMOVED", "This computer, or its member, was removed meanwhile.")
        return client

    def client(self, peer: str) -> Client | None:
        """A client by its peer ID."""
        row = self._database.one(f"SELECT {_CLIENT} FROM clients WHERE peer = ?", (storable(peer),))
        return None if row is None else Client(*row)

    def proof(self, peer: str) -> str | None:
        """What `register` was given of a client; None where nobody signed in for it."""
        row = self._database.one("SELECT proof FROM clients WHERE peer = ?", (peer,))
        return None if row is None else row[0]

    def clients(self, member: str | None = None) -> list[Client]:
        """The clients of a member, or of all, the oldest first."""
        rows = self._database.all(
            f"SELECT {_CLIENT} FROM clients WHERE ?1 IS NULL OR member = ?1 ORDER BY registered, peer", (member,)
        )
        return [Client(*row) for row in rows]

    def remove_client(self, peer: str, member: str | None = None) -> bool:
        """Remove a client: its token ends at once. What it has pinned stays.

        Args:
            peer: the peer ID.
            member: only where it is his.

        Returns:
            Whether there was such a client.
        """
        with self._database.write() as db:
            count = db.execute(
                "DELETE FROM clients WHERE peer = ?1 AND (?2 IS NULL OR member = ?2)", (storable(peer), member)
            ).rowcount
        if count:
            self._pins.remove_token(CLIENT + peer)
        return bool(count)

    def saw(self, member: str, peer: str = "") -> None:
        """Note that a member, and his client, were here; at most every few minutes."""
        now = self._database.wall()
        late = now - limits.SESSION_NOTED
        row = self._database.one(
            "SELECT 1 FROM members m LEFT JOIN clients c ON c.peer = ?2 WHERE m.id = ?1 AND "
            "(coalesce(m.seen, 0) < ?3 OR (c.peer IS NOT NULL AND coalesce(c.seen, 0) < ?3))",
            (member, peer, late),
        )
        if row is None:
            return
        with self._database.write(durable=False) as db:
            db.execute("UPDATE members SET seen = ? WHERE id = ?", (now, member))
            db.execute("UPDATE clients SET seen = ? WHERE peer = ?", (now, peer))

    def used(self, member: str) -> int:
        """Bytes that what a member's clients have pinned takes."""
        return self._pins.used(account_of(member))

    def reconcile(self) -> None:
        """Take away the tokens of clients that are none any more: a process may have ended between the two steps."""
        known = {CLIENT + client.peer for client in self.clients()}
        for token in self._pins.tokens():
            if token.valid and token.name.startswith(CLIENT) and token.name not in known:
                self._pins.remove_token(token.name)


def _member(row: Sequence[object]) -> Member:
    *values, openid = row
    return Member(*values, openid=bool(openid))  # type: ignore[arg-type]


def _by(db: sqlite3.Connection, where: str, *values: object) -> Member | None:
    row = db.execute(f"SELECT {_MEMBER} FROM members WHERE {where}", values).fetchone()
    return None if row is None else _member(row)


def _existing(db: sqlite3.Connection, id: str) -> Member:
    found = _by(db, "id = ? AND removed IS NULL", id)
    if found is None:
        raise not_found("There is no such member.")
    return found


def _is_taken(db: sqlite3.Connection, email: str | None) -> bool:
    """Whether an address is one of a member already, who may be one that was removed."""
    return email is not None and _by(db, "email = ?", email) is not None


def _insert(db: sqlite3.Connection, now: float, name: str, email: str | None, role: Role, quota: int | None) -> Member:
    (count,) = db.execute("SELECT count(*) FROM members").fetchone()
    if count >= limits.MAX_MEMBERS:
        raise Refusal(507, "TOO_MANY_MEMBERS", f"There are {count} members, which is the most there can be.")
    id = secrets.token_hex(8)
    db.execute(
        "INSERT INTO members (id, name, email, role, quota, added) VALUES (?, ?, ?, ?, ?, ?)",
        (id, name[: limits.MAX_NAME], email, role, quota, now),
    )
    return _existing(db, id)


def _take_invited(db: sqlite3.Connection, found: Member | None, invited: str, issuer: str, subject: str) -> Member:
    """The member of an invitation, which somebody follows who may be known already."""
    wanted = _existing(db, invited)
    if found is not None and found.id != wanted.id:
        raise conflict(
            "OTHER_MEMBER",
            f"You are {found.name} here already, and the invitation is for {wanted.name}. Sign in as somebody else.",
        )
    other = db.execute(
        "SELECT 1 FROM members WHERE id = ? AND subject IS NOT NULL AND (issuer, subject) <> (?, ?)",
        (invited, issuer, subject),
    ).fetchone()
    if other is not None:
        raise forbidden(f"{wanted.name} signs in with another account.")
    return wanted


def _check_other_administrator(db: sqlite3.Connection, id: str) -> None:
    if _by(db, "role = 'administrator' AND removed IS NULL AND id <> ? LIMIT 1", id) is None:
        raise conflict("LAST_ADMINISTRATOR", "This is the last administrator. Make somebody else one first.")
