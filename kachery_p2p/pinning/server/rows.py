"""The tables of the pinning service's list, and what a row says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kachery_p2p.dag.cid import CID

SCHEMA = """
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    hash BLOB UNIQUE,
    quota INTEGER,
    added REAL NOT NULL,
    seen REAL,
    account TEXT
);
CREATE TABLE pins (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    owner INTEGER NOT NULL,
    key BLOB NOT NULL,
    cid TEXT NOT NULL,
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    origins TEXT NOT NULL,
    meta TEXT NOT NULL,
    created INTEGER NOT NULL UNIQUE,
    status TEXT NOT NULL,
    details TEXT NOT NULL DEFAULT '',
    size INTEGER,
    tries INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0
);
CREATE INDEX pins_by_owner ON pins (owner, created);
CREATE INDEX pins_by_key ON pins (key);
CREATE INDEX pins_by_size ON pins (owner, key, size);
CREATE INDEX pins_by_status ON pins (owner, status, created);
CREATE INDEX pins_by_turn ON pins (status, next_try);
CREATE TABLE meta (pin INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (pin, key));
CREATE TABLE held (key BLOB PRIMARY KEY, cid TEXT NOT NULL, before INTEGER);
CREATE TABLE leaving (key BLOB PRIMARY KEY, cid TEXT NOT NULL);
CREATE TABLE alive (id INTEGER PRIMARY KEY, at REAL NOT NULL);
CREATE INDEX tokens_by_account ON tokens (account)
"""
#: What brings the tables of the version before up to date.
FROM_VERSION_1 = "ALTER TABLE tokens ADD COLUMN account TEXT; CREATE INDEX tokens_by_account ON tokens (account)"

#: What a row is made of; `status` and so on of the specification.
COLUMNS = "id, request_id, owner, cid, name, origins, meta, created, status, details, size, tries"


@dataclass(frozen=True)
class Token:
    """Somebody who may pin here.

    Attributes:
        quota: bytes that their pins may take; None for any number.
        added: when it was made; seconds since 1970.
        seen: when it was last used, to the hour; None where it was not.
        valid: whether there is a token; else there are only its pins.
        pins: how many they have.
        used: bytes that these take, as far as that is known.
        account: the quota is one for all tokens of it; None where it is for this one alone.
    """

    id: int
    name: str
    quota: int | None
    added: float
    seen: float | None
    valid: bool = True
    pins: int = 0
    used: int = 0
    account: str | None = None


@dataclass(frozen=True)
class Pin:
    """A request to keep something. `created` is in microseconds since 1970, sizes in bytes."""

    id: int
    request_id: str
    owner: int
    cid: str
    name: str
    origins: tuple[str, ...]
    meta: Mapping[str, str]
    created: int
    status: str
    details: str
    size: int | None
    tries: int

    @property
    def root(self) -> CID:
        """What is to be kept."""
        return CID.parse(self.cid)

    @property
    def key(self) -> bytes:
        """Of it in the tables."""
        return bytes(self.root.to_v1())


def pin_of(row: Sequence[Any]) -> Pin:
    """The pin of a row of `COLUMNS`."""
    id, request_id, owner, cid, name, origins, meta, created, status, details, size, tries = row
    return Pin(
        id, request_id, owner, cid, name, tuple(json.loads(origins)), json.loads(meta), created, status, details, size,
        tries,
    )  # fmt: skip
