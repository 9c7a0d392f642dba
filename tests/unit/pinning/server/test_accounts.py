"""Tokens of one account: one quota for all of them, and pins that each reaches alone."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.pinning.server.requests import Filters, PinObject, Refusal
from kachery_p2p.pinning.server.rows import Pin, Token
from kachery_p2p.pinning.server.store import STORE_NAME, PinStore, hash_of
from tests.helpers.pin_server import nowhere

#: As the tables were before there were accounts.
_BEFORE = """
CREATE TABLE tokens (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, hash BLOB UNIQUE, quota INTEGER,
    added REAL NOT NULL, seen REAL);
CREATE TABLE pins (id INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, owner INTEGER NOT NULL,
    key BLOB NOT NULL, cid TEXT NOT NULL, name TEXT NOT NULL, folded TEXT NOT NULL, origins TEXT NOT NULL,
    meta TEXT NOT NULL, created INTEGER NOT NULL UNIQUE, status TEXT NOT NULL, details TEXT NOT NULL DEFAULT '',
    size INTEGER, tries INTEGER NOT NULL DEFAULT 0, next_try REAL NOT NULL DEFAULT 0);
CREATE INDEX pins_by_owner ON pins (owner, created);
CREATE INDEX pins_by_key ON pins (key);
CREATE INDEX pins_by_size ON pins (owner, key, size);
CREATE INDEX pins_by_status ON pins (owner, status, created);
CREATE INDEX pins_by_turn ON pins (status, next_try);
CREATE TABLE meta (pin INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (pin, key));
CREATE TABLE held (key BLOB PRIMARY KEY, cid TEXT NOT NULL, before INTEGER);
CREATE TABLE leaving (key BLOB PRIMARY KEY, cid TEXT NOT NULL);
CREATE TABLE alive (id INTEGER PRIMARY KEY, at REAL NOT NULL);
"""


@pytest.fixture
def store(tmp_path: Path) -> PinStore:
    """A list of pins."""
    return PinStore(tmp_path / STORE_NAME)


def granted(store: PinStore, name: str, account: str, quota: int | None) -> Token:
    """Somebody with a token of an account."""
    store.grant(name, hash_of(name), account, quota)
    found = store.token(name)
    assert found is not None
    return found


def wanted(number: int) -> PinObject:
    """Something to pin."""
    return PinObject(CID.parse(nowhere(number)), nowhere(number))


def added(store: PinStore, owner: Token, number: int, size: int | None) -> Pin | None:
    """A pin; None where it is refused."""
    status = 409
    try:
        return store.add(owner, wanted(number), size)
    except Refusal as refusal:
        status = refusal.status
    assert status == 409
    return None


def test_one_quota(store: PinStore) -> None:
    """What one has pinned, the others cannot; what several have counts once; another account has its own."""
    one, two = (granted(store, name, "alice", 100) for name in ("one", "two"))
    other = granted(store, "other", "bob", 100)
    assert added(store, one, 1, 60)
    assert added(store, two, 2, 50) is None
    assert added(store, two, 1, 60)
    assert added(store, two, 3, 40)
    assert (store.used("alice"), store.used("bob")) == (100, 0)
    assert added(store, one, 4, 1) is None
    assert added(store, other, 4, 100)
    store.set_quota("alice", 110)
    assert added(store, one, 4, 10)
    assert store.list(two, Filters(statuses=("queued",)))[0] == 2


def test_sizes_that_show_later(store: PinStore) -> None:
    """The same where the size is found out when it is fetched."""
    one, two = (granted(store, name, "alice", 100) for name in ("one", "two"))
    first, second = added(store, one, 1, None), added(store, two, 2, None)
    assert first is not None
    assert second is not None
    assert store.reserve(first, 70)
    assert not store.reserve(second, 31)
    assert store.reserve(second, 30)
    assert store.used("alice") == 100


def test_in_parallel(store: PinStore) -> None:
    """However many ask at the same time, the quota holds, and is filled."""
    owners = [granted(store, f"client {number}", "alice", 1000) for number in range(8)]
    taken: list[Pin] = []
    ready = threading.Barrier(len(owners))

    def work(at: int) -> None:
        ready.wait()
        for number in range(5):
            pin = added(store, owners[at], at * 5 + number, 100)
            if pin is not None:
                taken.append(pin)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(owners))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 10
    assert store.used("alice") == 1000


def test_tokens_that_change(store: PinStore) -> None:
    """A new token ends the one before, and has its pins; an account without a token has pins all the same."""
    token = granted(store, "one", "alice", None)
    assert added(store, token, 1, 10)
    store.grant("one", hash_of("second"), "alice", 50)
    assert store.token("one") is None
    again = store.token("second")
    assert again is not None
    assert (again.id, again.quota, again.account) == (token.id, 50, "alice")
    without = store.owner("page", "alice", 50)
    assert not without.valid
    assert store.owner("page", "alice", 50) == without
    assert added(store, without, 2, 40)
    assert added(store, without, 3, 1) is None
    store.remove_token("one")
    assert store.token("second") is None
    assert store.used("alice") == 50


def test_the_list_of_a_version_before(tmp_path: Path) -> None:
    """It is brought up to date: its tokens and pins are there, each with its own quota."""
    path = tmp_path / STORE_NAME
    db = sqlite3.connect(path)
    db.executescript(_BEFORE)
    db.execute("INSERT INTO tokens (name, hash, quota, added) VALUES ('alice', ?, 100, 1)", (hash_of("secret"),))
    db.execute("INSERT INTO tokens (name, hash, quota, added) VALUES ('bob', ?, 100, 1)", (hash_of("other"),))
    db.execute("PRAGMA user_version=1")
    db.commit()
    db.close()
    store = PinStore(path)
    alice, bob = store.token("secret"), store.token("other")
    assert alice is not None
    assert bob is not None
    assert alice.account is None
    assert added(store, alice, 1, 100)
    assert added(store, alice, 2, 1) is None
    assert added(store, bob, 2, 100)
    store.close()
    assert [token.name for token in PinStore(path).tokens()] == ["alice", "bob"]
