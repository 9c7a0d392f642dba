"""How many bytes the pins of a token, or of all tokens of an account, take: counted when a pin changes, not when asked.

A root counts once, with the largest size that is known of it, however many of them have pinned it. Adding them up takes
a tenth of a second for a hundred thousand pins, and is to be known whenever one is added. So the database keeps the
sums itself (`counted`), by triggers: whatever changes a pin changes the sum, in the same transaction.
"""

from __future__ import annotations

import sqlite3

#: The account of a token, or it alone where it has none; and the tokens that share it.
_POT = "(SELECT coalesce(account, 'token ' || id) FROM tokens WHERE id = {owner})"
_FELLOWS = (
    "(SELECT {owner} UNION SELECT f.id FROM tokens t JOIN tokens f ON f.account = t.account WHERE t.id = {owner})"
)
#: Of a token, which is the first parameter.
FELLOWS = _FELLOWS.format(owner="?1")
USED = f"(SELECT coalesce((SELECT used FROM counted WHERE pot = {_POT.format(owner='?1')}), 0))"

_SUM = (
    "SELECT coalesce(sum(size), 0) FROM (SELECT max(p.size) AS size FROM pins p JOIN tokens t ON t.id = p.owner "
    "WHERE coalesce(t.account, 'token ' || t.id) = {pot} GROUP BY p.key)"
)
#: The largest size of a root in the other pins of an account.
_OTHERS = (
    "coalesce((SELECT max(p.size) FROM pins p WHERE p.owner IN {fellows} AND p.key = {row}.key "
    "AND p.id <> {row}.id), 0)"
)


def _others(row: str) -> str:
    return _OTHERS.format(row=row, fellows=_FELLOWS.format(owner=f"{row}.owner"))


def _there(pot: str) -> str:
    # Not INSERT OR IGNORE: within a trigger what counts is how the statement that fired it deals with conflicts.
    return (
        f"INSERT INTO counted (pot, used) SELECT {pot}, 0 WHERE NOT EXISTS (SELECT 1 FROM counted WHERE pot = {pot});"
    )


def _counting(row: str, change: str) -> str:
    pot = _POT.format(owner=f"{row}.owner")
    return f"{_there(pot)} UPDATE counted SET used = used + {change} WHERE pot = {pot};"


def _anew(row: str) -> str:
    pot = f"coalesce({row}.account, 'token ' || {row}.id)"
    return f"{_there(pot)} UPDATE counted SET used = ({_SUM.format(pot=pot)}) WHERE pot = {pot};"


#: By how much a sum changes.
_ADDED = f"max(0, NEW.size - {_others('NEW')})"
_CHANGED = f"max({_others('NEW')}, coalesce(NEW.size, 0)) - max({_others('NEW')}, coalesce(OLD.size, 0))"
_DELETED = f"- max(0, OLD.size - {_others('OLD')})"

_STATEMENTS = (
    "CREATE TABLE counted (pot TEXT PRIMARY KEY, used INTEGER NOT NULL) WITHOUT ROWID",
    f"CREATE TRIGGER counted_added AFTER INSERT ON pins WHEN NEW.size IS NOT NULL BEGIN {_counting('NEW', _ADDED)} END",
    "CREATE TRIGGER counted_changed AFTER UPDATE OF size ON pins WHEN NEW.size IS NOT OLD.size BEGIN "
    f"{_counting('NEW', _CHANGED)} END",
    "CREATE TRIGGER counted_deleted AFTER DELETE ON pins WHEN OLD.size IS NOT NULL BEGIN "
    f"{_counting('OLD', _DELETED)} END",
    "CREATE TRIGGER counted_moved AFTER UPDATE OF account ON tokens WHEN NEW.account IS NOT OLD.account BEGIN "
    f"{_anew('OLD')} {_anew('NEW')} END",
    "CREATE TRIGGER counted_left AFTER DELETE ON tokens WHEN OLD.account IS NULL BEGIN "
    "DELETE FROM counted WHERE pot = 'token ' || OLD.id; END",
    "INSERT INTO counted (pot, used) SELECT pot, coalesce(sum(size), 0) FROM (SELECT "
    "coalesce(t.account, 'token ' || t.id) AS pot, max(p.size) AS size FROM pins p JOIN tokens t ON t.id = p.owner "
    "GROUP BY 1, p.key) GROUP BY pot",
)


def add_counters(db: sqlite3.Connection) -> None:
    """Have the database count, from what is in it; where it does, nothing is done."""
    if _counts(db):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have done it since.
        for statement in () if _counts(db) else _STATEMENTS:
            db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _counts(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'counted'").fetchone() is not None
