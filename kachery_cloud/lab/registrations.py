"""Registrations: how a computer becomes a member's client. A table of `lab.sqlite`.

The computer asks for one, signed with its key, and shows a link and a short code. Somebody follows the link, signs in,
compares the code, and registers the computer; or does not. The computer looks, by a secret that it alone has, what has
become of it. Its token follows from that secret, and only its hash is kept here, so that it can be given twice, where
an answer is lost, and yet is nowhere written down.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import Literal

from kachery_cloud.lab import limits
from kachery_cloud.lab.answers import conflict, not_found
from kachery_cloud.lab.database import LabDatabase, Tables
from kachery_cloud.lab.sessions import hash_of
from kachery_p2p.pinning.server.requests import Refusal

State = Literal["waiting", "registered", "refused", "expired"]

TABLES = Tables(
    "registrations",
    (
        """
        CREATE TABLE registrations (
            id TEXT PRIMARY KEY,
            secret BLOB NOT NULL,
            token BLOB NOT NULL,
            peer TEXT NOT NULL,
            label TEXT NOT NULL,
            code TEXT NOT NULL,
            address TEXT NOT NULL,
            made REAL NOT NULL,
            expires REAL NOT NULL,
            state TEXT NOT NULL,
            member TEXT,
            nonce TEXT,
            proof TEXT,
            signed_in TEXT
        );
        CREATE INDEX registrations_by_peer ON registrations (peer);
        CREATE INDEX registrations_by_expires ON registrations (expires)
        """,
    ),
)
#: Letters and digits that nobody takes for one another.
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_COLUMNS = "id, peer, label, code, address, made, expires, state, member, nonce"


@dataclass(frozen=True)
class Registration:
    """A computer that asks to be somebody's client. Times are seconds since 1970.

    Attributes:
        code: that the computer shows, and the page as well.
        address: of the network that it came from.
        member: who registered it; None where nobody did.
        nonce: that commits to the computer's key, for the sign-in of whoever follows the link; None without one.
    """

    id: str
    peer: str
    label: str
    code: str
    address: str
    made: float
    expires: float
    state: State
    member: str | None
    nonce: str | None


def token_of(secret: str) -> str:
    """The token of a client, which follows from the secret of its registration."""
    digest = hashlib.sha256(b"kachery client token " + secret.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


class Registrations:
    """All registrations. Safe to use from many threads and by many processes.

    All methods raise RepoError, DiskFull and NoPermission as the database does.

    Args:
        database: of the lab.
    """

    def __init__(self, database: LabDatabase) -> None:
        self._database = database
        database.use(TABLES)

    def begin(self, peer: str, label: str, address: str, nonce: str | None = None) -> tuple[str, Registration]:
        """A computer asks; an earlier registration of it that waits has expired.

        Args:
            peer: its peer ID.
            label: what it calls itself.
            address: of the network that it came from.
            nonce: see `Registration`.

        Returns:
            The secret, which is kept nowhere, and the registration.

        Raises:
            Refusal: too many wait.
        """
        secret, now = secrets.token_urlsafe(limits.SECRET_BYTES), self._database.wall()
        code = "".join(secrets.choice(_LETTERS) for _ in range(8))
        made = Registration(
            secrets.token_urlsafe(12), peer, label, f"{code[:4]}-{code[4:]}", address, now,
            now + limits.REGISTRATION_LIFE, "waiting", None, nonce,
        )  # fmt: skip
        with self._database.write() as db:
            db.execute("DELETE FROM registrations WHERE expires <= ?", (now - limits.REGISTRATION_LIFE,))
            db.execute("UPDATE registrations SET state = 'expired' WHERE peer = ? AND state = 'waiting'", (peer,))
            (count,) = db.execute("SELECT count(*) FROM registrations").fetchone()
            if count >= limits.MAX_REGISTRATIONS:
                again = {"retry-after": "600"}
                raise Refusal(503, "TOO_MANY_REGISTRATIONS", "Too many computers wait. Try again later.", again)
            db.execute(
                f"INSERT INTO registrations ({_COLUMNS}, secret, token) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    made.id, peer, label, made.code, address, made.made, made.expires, made.state, None, nonce,
                    hash_of(secret), hash_of(token_of(secret)),
                ),
            )  # fmt: skip
        return secret, made

    def find(self, id: str) -> Registration | None:
        """A registration, with what it is now; None where there is none, or it was long ago."""
        row = self._database.one(f"SELECT {_COLUMNS} FROM registrations WHERE id = ?", (id,))
        return None if row is None else self._now(Registration(*row))

    def of_secret(self, id: str, secret: str) -> Registration | None:
        """The same, for the computer: None also where the secret is not that of it."""
        row = self._database.one(
            f"SELECT {_COLUMNS} FROM registrations WHERE id = ? AND secret = ?", (id, hash_of(secret))
        )
        return None if row is None else self._now(Registration(*row))

    def _now(self, found: Registration) -> Registration:
        now = self._database.wall()
        life = limits.REGISTRATION_LIFE if found.state in ("registered", "refused") else 0.0
        if now < found.expires + life or found.state == "expired":
            return found
        return replace(found, state="expired")

    def signed_in(self, id: str, member: str, proof: str, nonce: str) -> None:
        """Somebody has signed in with the nonce of a registration that waits; it is for him to register it."""
        with self._database.write() as db:
            db.execute(
                "UPDATE registrations SET proof = ?, signed_in = ? WHERE id = ? AND state = 'waiting' AND nonce = ?",
                (proof, member, id, nonce),
            )

    def decide(
        self, id: str, state: Literal["registered", "refused"], member: str
    ) -> tuple[Registration, bytes, str | None]:
        """Somebody registers the computer, or refuses it; that can be done once.

        Returns:
            The registration, the hash of the token, and the proof of this member's sign-in for it, if any.

        Raises:
            Refusal: there is no such registration, or it does not wait.
        """
        with self._database.write() as db:
            row = db.execute(
                f"SELECT {_COLUMNS}, token, proof, signed_in FROM registrations WHERE id = ?", (id,)
            ).fetchone()
            if row is None:
                raise not_found("There is no such registration.")
            *columns, token, proof, signed_in = row
            found = self._now(Registration(*columns))
            if found.state == "expired":
                raise Refusal(
                    410, "EXPIRED", "This registration has expired. Run kachery-cloud-init again on that computer."
                )
            if found.state != "waiting":
                raise conflict("USED", f"This registration was used already: the computer was {found.state}.")
            db.execute("UPDATE registrations SET state = ?, member = ? WHERE id = ?", (state, member, id))
            decided = replace(found, state=state, member=member)
            return decided, token, proof if signed_in == member else None

    def undo(self, id: str) -> None:
        """It was not carried out after all: the registration waits again."""
        with self._database.write() as db:
            db.execute("UPDATE registrations SET state = 'waiting', member = NULL WHERE id = ?", (id,))
