"""The rows of who may see what: writing and deleting them, in transactions of the caller's. See access.py.

    access    an audience: of a root that is kept and not public (`key` is its binary CIDv1), or of something that is
              being stored or loaded, or was when that was interrupted (`key` is null). Row 0 stands for everyone
    claims    multihash -> access: for whom a block is. One without a claim is for everyone

What everything here keeps up, and the reasons why nothing that is restricted is ever seen by others:

1. A block gets its claim in the transaction in which it becomes visible, or before.
2. What a node links to has all claims of the node, as soon as the node is here. So the leaves of a file are claimed
   before the first of them can arrive.
3. A block that is here without a claim is for everyone. If it gets one, it gets that of row 0 as well, and stays so.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

from kachery_p2p.access.audience import NOBODY, Audience, parse_audience
from kachery_p2p.dag.cid import DAG_PB, RAW, names_nothing
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.errors import KacheryError, MalformedDag, UnsupportedCID
from kachery_p2p.repo.limits import ROW_BATCH

#: The row of `access` that stands for everyone.
EVERYONE = 0

#: How the keys of rows begin that stand for no root, but for what layers restrict. No CID begins like that.
OF_LAYER = b"\0layer "

_PREFIXES = (bytes((1, RAW)), bytes((1, DAG_PB)))
#: A block that was here without a claim, and so for everyone, stays so.
_STAYS_PUBLIC = (
    "INSERT INTO claims (multihash, access) SELECT ?1, 0 "
    "WHERE NOT EXISTS (SELECT 1 FROM claims WHERE multihash = ?1) AND ("
    "EXISTS (SELECT 1 FROM blocks WHERE multihash = ?1) OR EXISTS (SELECT 1 FROM leaves WHERE multihash = ?1) "
    "OR EXISTS (SELECT 1 FROM packed p JOIN roots r ON r.id = p.root WHERE r.key IN (?2, ?3)))"
)
_CLAIM = "INSERT OR IGNORE INTO claims (multihash, access) VALUES (?, ?)"
#: Claims of row 0 that say nothing: without another one, a block is for everyone anyhow.
_IDLE = (
    "DELETE FROM claims WHERE access = 0 AND multihash = ?1 "
    "AND NOT EXISTS (SELECT 1 FROM claims WHERE multihash = ?1 AND access <> 0)"
)


def is_claimed(multihash: bytes) -> bool:
    """Whether a block can have claims: not one without bytes, nor one whose bytes are in its hash. All have those."""
    return multihash[:1] != b"\0" and not names_nothing(multihash)


def any_claims(db: sqlite3.Connection) -> bool:
    """Whether there is any claim."""
    return db.execute("SELECT 1 FROM claims LIMIT 1").fetchone() is not None


def new_access(db: sqlite3.Connection, audience: str, key: bytes | None = None) -> int:
    """The number of a new row of `access`."""
    made = db.execute(
        "INSERT INTO access (key, audience, added) VALUES (?, ?, ?)", (key, audience, time.time())
    ).lastrowid
    assert made is not None
    return made


def access_of_block(db: sqlite3.Connection, multihash: bytes) -> list[int]:
    """The rows of `access` that a block has claims of."""
    return [each for (each,) in db.execute("SELECT access FROM claims WHERE multihash = ?", (multihash,))]


def add_claims(
    db: sqlite3.Connection, access: Sequence[int], multihashes: Iterable[bytes], *, narrow: bool = False
) -> None:
    """Claim blocks, before their rows are written.

    Args:
        db: of the transaction.
        access: the rows of `access`.
        multihashes: of the blocks.
        narrow: do not mind that some are here for everyone.
    """
    real = [each for each in access if each != EVERYONE]
    if not real:
        return
    wanted = iter(multihashes)
    while some := [each for each in islice(wanted, ROW_BATCH) if is_claimed(each)]:
        if not narrow:
            first, second = _PREFIXES
            db.executemany(_STAYS_PUBLIC, [(each, first + each, second + each) for each in some])
        for row in real:
            db.executemany(_CLAIM, [(each, row) for each in some])
        if len(real) < len(access):
            db.executemany(_CLAIM, [(each, EVERYONE) for each in some])


def claim_node(db: sqlite3.Connection, access: Sequence[int], multihash: bytes, block: bytes) -> None:
    """Claim a node, and what it links to, before its row is written."""
    add_claims(db, access, [multihash])
    found = access_of_block(db, multihash)
    if found:
        add_claims(db, found, links_of(block))


def links_of(block: bytes) -> list[bytes]:
    """The multihashes that a block of the catalog links to."""
    try:
        return [link.cid.multihash for link in decode_node(block).links]
    except (MalformedDag, UnsupportedCID):
        return []  # one that cannot be read leads nowhere


def widen(db: sqlite3.Connection, multihashes: Iterable[bytes]) -> None:
    """Let everyone have these blocks, whatever else claims them."""
    wanted = iter(multihashes)
    while some := list(islice(wanted, ROW_BATCH)):
        db.executemany(
            "INSERT OR IGNORE INTO claims (multihash, access) SELECT DISTINCT multihash, 0 FROM claims "
            "WHERE multihash = ?",
            [(each,) for each in some],
        )


def bind_found(db: sqlite3.Connection, key: bytes, multihash: bytes) -> None:
    """A root is listed again, in this transaction, and nobody says for whom: it is for whom its first block is."""
    rows = db.execute(
        "SELECT c.access, a.audience FROM claims c LEFT JOIN access a ON a.id = c.access WHERE c.multihash = ?",
        (multihash,),
    ).fetchall()
    known = db.execute("SELECT 1 FROM access WHERE key = ?", (key,)).fetchone()
    if rows and known is None and not any(access == EVERYONE for access, _ in rows):
        audience = NOBODY
        for _, text in rows:
            audience |= parsed(text)
        add_claims(db, (new_access(db, str(audience), key),), [multihash])


def make_public(db: sqlite3.Connection, access: int) -> None:
    """What a row of `access` claims is for everyone from now on. The row goes."""
    mine = _claimed_by(db, access)
    widen(db, mine)
    drop_access(db, access, mine)


def drop_access(db: sqlite3.Connection, access: int, claimed: Sequence[bytes] | None = None) -> None:
    """Delete a row of `access` with its claims."""
    mine = _claimed_by(db, access) if claimed is None else claimed
    db.execute("DELETE FROM claims WHERE access = ?", (access,))
    db.execute("DELETE FROM access WHERE id = ? AND id <> 0", (access,))
    db.executemany(_IDLE, [(each,) for each in mine])


def move_claims(db: sqlite3.Connection, old: int, new: int) -> None:
    """What one row of `access` claims is claimed by another one from now on. The old row goes."""
    db.execute(
        "INSERT OR IGNORE INTO claims (multihash, access) SELECT multihash, ? FROM claims WHERE access = ?", (new, old)
    )
    db.execute("DELETE FROM claims WHERE access = ?", (old,))
    db.execute("DELETE FROM access WHERE id = ?", (old,))


def release(db: sqlite3.Connection, access: int) -> None:
    """The root of a row of `access` is not kept any more: its claims go, but for those of blocks that are still here.

    A block that something else claims is for that alone. When the rest goes, too, `Leaving.tidy` drops the row.
    """
    db.execute("UPDATE access SET key = NULL, added = 0 WHERE id = ? AND id <> 0", (access,))
    mine = _claimed_by(db, access)
    first, second = _PREFIXES
    db.executemany(
        "DELETE FROM claims WHERE multihash = ?1 AND access = ?4 AND ("
        "EXISTS (SELECT 1 FROM claims WHERE multihash = ?1 AND access <> ?4) OR NOT ("
        "EXISTS (SELECT 1 FROM blocks WHERE multihash = ?1) OR EXISTS (SELECT 1 FROM leaves WHERE multihash = ?1) "
        "OR EXISTS (SELECT 1 FROM packed p JOIN roots r ON r.id = p.root WHERE r.key IN (?2, ?3))))",
        [(each, first + each, second + each, access) for each in mine],
    )
    db.executemany(_IDLE, [(each,) for each in mine])
    db.execute(
        "DELETE FROM access WHERE id = ?1 AND id <> 0 AND NOT EXISTS (SELECT 1 FROM claims WHERE access = ?1)",
        (access,),
    )


#: Rows of `access` that stand for no root that is kept: of what was interrupted, or is going on, and of layers.
LOOSE = "SELECT id FROM access WHERE id <> 0 AND (key IS NULL OR substr(key, 1, 1) = x'00')"


def drop_loose(db: sqlite3.Connection, multihashes: Iterable[bytes]) -> None:
    """The user says for whom these blocks are, so what was interrupted, or came from a layer, does not."""
    db.executemany(f"DELETE FROM claims WHERE multihash = ? AND access IN ({LOOSE})", [(each,) for each in multihashes])


def narrow_public(db: sqlite3.Connection, multihashes: Iterable[bytes]) -> None:
    """No public root has these blocks any more: who else claims them says for whom they are."""
    db.executemany("DELETE FROM claims WHERE multihash = ? AND access = 0", [(each,) for each in multihashes])


def _claimed_by(db: sqlite3.Connection, access: int) -> list[bytes]:
    return [each for (each,) in db.execute("SELECT multihash FROM claims WHERE access = ?", (access,))]


def batches(multihashes: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Multihashes, as many at a time as go into one transaction."""
    wanted = iter(multihashes)
    while some := list(islice(wanted, ROW_BATCH)):
        yield some


@lru_cache(maxsize=4096)
def parsed(text: str | None) -> Audience:
    """An audience of the catalog. What cannot be read, or is missing, lets nobody in."""
    try:
        return NOBODY if text is None else parse_audience(text)
    except KacheryError:
        return NOBODY
