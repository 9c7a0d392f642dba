"""Looking after who may see what: claims that the catalog has lost, and the audiences of one that is made anew."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from kachery_p2p.access.audience import PRIVATE, PUBLIC, Audience, parse_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError
from kachery_p2p.repo.access import RootAccess
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.checking import Problem
from kachery_p2p.repo.claim_rows import add_claims, is_claimed, new_access, widen
from kachery_p2p.repo.dag_blocks import each_block
from kachery_p2p.repo.damaged import is_sound, open_damaged
from kachery_p2p.repo.kept_rows import LINKED, STORED, keep_row
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.serving import BlockReader


def check_access(access: RootAccess, catalog: Catalog, reader: BlockReader) -> list[Problem]:
    """Blocks of restricted roots that everyone could see, because their claims were lost. They are claimed again."""
    if catalog.read_only:
        return []
    problems: list[Problem] = []
    roots = access.rows_of_roots()
    lost: set[bytes] = set()
    for row, cid in roots:
        lacking = {each for some in each_block(cid, reader.nodes) for each in access.unclaimed(row, some)}
        if lacking:
            lost |= lacking
            with catalog.write(durable=True) as db:
                add_claims(db, (row,), lacking, narrow=True)
            detail = (
                f"For whom {len(lacking)} blocks of {cid} are was lost from the catalog, so that everyone could load "
                f"them. They are for {access.audience_of(cid)} again, and for whom else they are in other roots."
            )
            problems.append(Problem(cid, catalog.path, "damaged", detail))
    for cid in list(access.public_roots()) if access.any_restricted() else ():
        hidden = access.widen(cid)
        if hidden and not lost:
            detail = (
                f"{hidden} blocks of {cid} were for some only, though it is for everyone. They are for everyone again."
            )
            problems.append(Problem(cid, catalog.path, "damaged", detail))
    if roots and not access.records.complete():
        access.write_records()
        detail = f"The second place of audiences was missing, {access.records.path}. It was written anew."
        problems.append(Problem(roots[0][1], access.records.path, "missing", detail))
    return problems


def bring_back_access(access: RootAccess, catalog: Catalog, reader: BlockReader, old: Path) -> list[Problem]:
    """Restrict what is in a catalog that is made anew, before anybody uses it: by `access.txt`, and the old catalog.

    Returns:
        The roots of which nobody knows for whom they are. They are for nobody else.
    """
    records, _ = access.records.read()
    said, ever = _old_audiences(old)
    if not (ever or access.records.begun()):
        return []
    problems: list[Problem] = []
    with catalog.write() as db:
        # What was found on the way is restricted to nobody else; here all is known that can be.
        db.execute("DELETE FROM claims")
        db.execute("DELETE FROM access WHERE id <> 0")
        # The file tells of each root that was kept by itself, also of one that is in a folder as well.
        for key in records:
            row = db.execute(
                "SELECT r.added, (SELECT min(f.linked) FROM files f WHERE f.root = r.id) FROM roots r "
                "WHERE r.key = ?1 AND NOT EXISTS (SELECT 1 FROM kept WHERE key = ?1)",
                (key,),
            ).fetchone()
            if row is not None:
                keep_row(db, key, LINKED if row[1] else STORED, row[0], whole=None)
    public: list[CID] = []
    for key, version in catalog.all(
        "SELECT k.key, coalesce(r.version, 1) FROM kept k LEFT JOIN roots r ON r.key = k.key ORDER BY k.added"
    ):
        cid = cid_of(key, version)
        audience = said.get(key)
        if audience is None and key in records:
            audience = records[key].audience
        if audience is None:
            audience = PRIVATE
            detail = (
                f"For whom {cid} is, was lost. It is for your own machines now. Say for whom it is with: "
                f"kachery-cloud visibility ipfs://{cid} --to NAME"
            )
            problems.append(Problem(cid, access.records.path, "unknown", detail))
        if audience.everyone:
            public.append(cid)
            continue
        with catalog.write() as db:
            row = new_access(db, str(audience), key)
            for some in each_block(cid, reader.nodes):
                add_claims(db, (row,), some, narrow=True)
    seen: set[bytes] = set()
    for cid in public:
        for some in each_block(cid, reader.nodes):
            seen.update(some)
    with catalog.write() as db:
        widen(db, seen)
        # Blocks that no root reaches, as of a folder that was being stored: nobody knows for whom they were.
        loose = [
            multihash
            for (multihash,) in db.execute(
                "SELECT multihash FROM blocks b WHERE NOT EXISTS (SELECT 1 FROM claims WHERE multihash = b.multihash)"
            )
            if multihash not in seen and is_claimed(multihash)
        ]
        if loose:
            add_claims(db, (new_access(db, str(PRIVATE)),), loose, narrow=True)
    access.write_records()
    return problems


def _old_audiences(path: Path) -> tuple[dict[bytes, Audience], bool]:
    """What a sound catalog says of the roots that it keeps, and whether it has, or had, anything restricted.

    One that is damaged is not asked for whom a root is: what it lost would be for everyone.
    """
    if not path.exists():
        return {}, False
    try:
        with closing(open_damaged(path)) as db:
            ever = _has_any(db)
            if not is_sound(db):
                return {}, ever
            said = {
                key: PUBLIC if text is None else parse_audience(text)
                for key, text in db.execute(
                    "SELECT k.key, a.audience FROM kept k LEFT JOIN access a ON a.key = k.key"
                ).fetchall()
            }
            return said, ever
    except (sqlite3.Error, KacheryError):
        return {}, False


def _has_any(db: sqlite3.Connection) -> bool:
    for table in ("claims WHERE access <> 0", "access WHERE id <> 0"):
        try:
            if db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None:
                return True
        except sqlite3.Error:
            continue  # an older catalog, or a damaged table
    return False
