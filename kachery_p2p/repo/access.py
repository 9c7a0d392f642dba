"""Who may see which block of a repo.

A root is for everyone, or it has an audience. Then each of its blocks has a claim (claim_rows.py), and only those may
see a block who are in the audience of one of its claims. A block without a claim is for everyone; so is one that is in
a public root as well. In a repo without such roots all that costs is a look at an empty table.

A block is claimed before it is here, or in the same transaction, and its claims go when it has gone. So whoever serves
blocks asks for whom one is before it is looked for, and once more when it was found, and gives it only if both answers
allow it: what was not here a moment ago, and so had no claim, may be here now, and has one; and what was found may
have been removed since, and its claim with it.

For whom a root is, the user says: a store without a word leaves it as it is, and a new one is public. A store for
somebody adds to those who may see it; `set_audience` replaces them. What is loaded is for whom the load says. It has a
`Claim`, which the blocks are put under as they come; the end binds it to the root. What is interrupted stays under the
claim it had until `gc` has removed its blocks.

What has no owner any more that could say for whom it is, such as a file whose rows were lost with the power, or all of
a catalog that was lost with `access.txt`, is for nobody else in a repo where anything was ever restricted.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache

from kachery_p2p.access.audience import NOBODY, PRIVATE, PUBLIC, Audience, parse_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, DiskFull, KacheryError, RepoError
from kachery_p2p.repo.access_records import AccessRecord, AccessRecords
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.claim_rows import (
    EVERYONE,
    access_of_block,
    add_claims,
    any_claims,
    batches,
    is_claimed,
    make_public,
    move_claims,
    narrow_public,
    new_access,
    release,
    widen,
)
from kachery_p2p.repo.dag_blocks import each_block
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.limits import ORPHAN_SECONDS, SQL_KEYS
from kachery_p2p.repo.locks import NodeLock
from kachery_p2p.repo.removal_lock import RemovalLock
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.serving import BlockReader

#: What is done in the transaction in which a root is kept.
Step = Callable[[sqlite3.Connection], None]


class Claim:
    """What is being stored or loaded for some audience. Made by `RootAccess.claim`. Safe to use from many threads.

    Attributes:
        audience: who may see it.
        rows: what the rows of its blocks are claimed by; see claim_rows.py.
    """

    def __init__(self, access: RootAccess, row: int, audience: Audience) -> None:
        self._access = access
        self.audience = audience
        self.rows: tuple[int, ...] = (row,)
        self.kept = False

    def widen(self, audience: Audience) -> None:
        """Let these have it, too."""
        self.set(self.audience | audience)

    def set(self, audience: Audience) -> None:
        """Say anew who may see it. All blocks that were put under the claim go with it."""
        if audience != self.audience:
            self._access.change_claim(self, audience)
            self.audience = audience

    def cover(self, cid: CID) -> None:
        """Claim all blocks of a root that are here, or that nodes of it which are here link to."""
        self._access.cover(self.rows, cid)

    def keep(self, cid: CID) -> None:
        """Bind it to its root, all of which is here. Who may see that root already still may.

        The caller lists the root (`Inventory`). What is put under the claim afterwards belongs to that root, too.
        """
        self._access.bind(self, cid)


class RootAccess:
    """For whom the roots of one repo are, and so its blocks. Safe to use from many threads and processes."""

    def __init__(self, layout: Layout, catalog: Catalog, reader: BlockReader, lock: RemovalLock) -> None:
        self._layout = layout
        self._catalog = catalog
        self._reader = reader
        self._lock = lock
        self.records = AccessRecords(layout)
        self._ready = False

    # --- asked by those who serve ------------------------------------------------------------------------------------

    def any_restricted(self) -> bool:
        """Whether there is any block here that not everyone may see."""
        return self._catalog.one("SELECT 1 FROM claims LIMIT 1") is not None

    def audiences(self, multihashes: Collection[bytes]) -> dict[bytes, Audience]:
        """Of these blocks those that not everyone may see, and who may.

        Ask before a block is looked for, and after it was found; see the module.
        """
        found: dict[bytes, Audience] = {}
        wanted = list(multihashes)
        for start in range(0, len(wanted), SQL_KEYS):
            keys = wanted[start : start + SQL_KEYS]
            for multihash, text in self._catalog.all(
                "SELECT c.multihash, a.audience FROM claims c LEFT JOIN access a ON a.id = c.access "
                f"WHERE c.multihash IN ({','.join('?' * len(keys))})",
                keys,
            ):
                known = found.get(multihash)
                found[multihash] = _parsed(text) if known is None else known | _parsed(text)
        return {multihash: audience for multihash, audience in found.items() if not audience.everyone}

    def roots_of(self, multihashes: Collection[bytes]) -> dict[bytes, list[bytes]]:
        """Of these blocks the restricted roots that they are in, each by its multihash."""
        found: dict[bytes, list[bytes]] = {}
        wanted = list(multihashes)
        for start in range(0, len(wanted), SQL_KEYS):
            keys = wanted[start : start + SQL_KEYS]
            for multihash, key in self._catalog.all(
                "SELECT c.multihash, a.key FROM claims c JOIN access a ON a.id = c.access "
                f"WHERE a.key IS NOT NULL AND c.multihash IN ({','.join('?' * len(keys))})",
                keys,
            ):
                found.setdefault(multihash, []).append(cid_of(key, 1).multihash)
        return found

    def audience_of(self, cid: CID) -> Audience:
        """Who may see a root: as the user said; else who may see its first block. PUBLIC where nothing was said."""
        key = bytes(cid.to_v1())
        row = self._catalog.one(
            "SELECT (SELECT audience FROM access WHERE key = ?1), (SELECT 1 FROM kept WHERE key = ?1)", (key,)
        )
        if row[0] is not None:
            return _parsed(row[0])
        if row[1] is not None:
            return PUBLIC
        return self.audiences([cid.multihash]).get(cid.multihash, PUBLIC)

    def roots(self) -> list[tuple[CID, Audience]]:
        """The roots that are kept and not public, oldest first."""
        return [
            (cid_of(key, version), _parsed(text))
            for key, version, text in self._catalog.all(
                "SELECT a.key, coalesce(r.version, 1), a.audience FROM access a JOIN kept k ON k.key = a.key "
                "LEFT JOIN roots r ON r.key = a.key ORDER BY k.added"
            )
        ]

    def why(self, cid: CID) -> list[tuple[CID, Audience]]:
        """The kept roots that blocks of this one are in, and who may see those: this one itself, and others.

        Public ones are among them only if they have a block of it: they are why everyone may see that.
        """
        blocks: set[bytes] = set()
        claims: set[int] = set()
        for some in each_block(cid, self._reader.nodes):
            fresh = [each for each in some if each not in blocks and is_claimed(each)]
            blocks.update(fresh)
            for start in range(0, len(fresh), SQL_KEYS):
                keys = fresh[start : start + SQL_KEYS]
                claims.update(
                    each
                    for (each,) in self._catalog.all(
                        f"SELECT DISTINCT access FROM claims WHERE multihash IN ({','.join('?' * len(keys))})", keys
                    )
                )
        restricted = [
            (cid_of(key, version), _parsed(text))
            for number, key, version, text in self._catalog.all(
                "SELECT a.id, a.key, coalesce(r.version, 1), a.audience FROM access a "
                "LEFT JOIN roots r ON r.key = a.key WHERE a.key IS NOT NULL ORDER BY a.id"
            )
            if (number in claims or key == bytes(cid.to_v1())) and not key.startswith(_OF_LAYER)
        ]
        public = [
            (root, PUBLIC)
            for root in self.public_roots()
            if root.multihash == cid.multihash
            or any(not blocks.isdisjoint(some) for some in each_block(root, self._reader.nodes))
        ]
        return sorted([*restricted, *public], key=lambda found: found[0] != cid)

    def is_wider(self, cid: CID, audience: Audience) -> bool:
        """Whether others than these may see some block of a root that is here. Looks through no other root."""
        for some in each_block(cid, self._reader.nodes):
            for batch in batches(each for each in some if is_claimed(each)):
                found = self.audiences(batch)
                if any(not found.get(each, PUBLIC) <= audience for each in batch):
                    return True
        return False

    # --- said by the user --------------------------------------------------------------------------------------------

    def set_audience(self, cid: CID, audience: Audience) -> None:
        """Say for whom a root is that is kept here, in place of whoever it was for.

        What is in another root, too, is also for whom that one is; `why` tells.

        Raises:
            ContentNotFound: it is not kept by itself.
            RepoBusy: something is being stored all the time.
            RepoError, NoPermission, DiskFull: the system does not allow it; or a program that knows no audiences runs.
        """
        key = bytes(cid.to_v1())
        with self._lock.removing():
            if self._catalog.one("SELECT 1 FROM kept WHERE key = ?", (key,)) is None:
                raise ContentNotFound(
                    f"ipfs://{cid} was not stored, linked or loaded by itself here, so nothing can be said of who may "
                    "see it. List what was with: kachery-cloud list"
                )
            row = self._catalog.one("SELECT id, audience FROM access WHERE key = ?", (key,))
            before = PUBLIC if row is None else _parsed(row[1])
            if before == audience:
                return
            if not audience.everyone:
                self._begin()
            if self.records.begun():
                self.records.append([AccessRecord(cid, audience)], durable=not before <= audience)
            if row is None:
                self._narrow(cid, key, audience)
            else:
                with self._catalog.write(durable=True) as db:
                    db.execute("UPDATE access SET audience = ? WHERE id = ?", (str(audience), row[0]))
                    if audience.everyone:
                        make_public(db, row[0])

    def _narrow(self, cid: CID, key: bytes, audience: Audience) -> None:
        """Restrict a public root: but for what is in other public roots."""
        mine = {each for some in each_block(cid, self._reader.nodes) for each in some}
        shared: set[bytes] = set()
        for root in self.public_roots(without=key):
            for some in each_block(root, self._reader.nodes):
                shared.update(mine.intersection(some))
        with self._catalog.write(durable=True) as db:
            row = new_access(db, str(audience), key)
            add_claims(db, (row,), mine, narrow=True)
            narrow_public(db, mine - shared)
            widen(db, shared)

    def public_roots(self, without: bytes | None = None) -> Iterator[CID]:
        """The roots that are kept and public, oldest first; but for one, by its key."""
        for key, version in self._catalog.all(
            "SELECT k.key, coalesce(r.version, 1) FROM kept k LEFT JOIN roots r ON r.key = k.key "
            "WHERE NOT EXISTS (SELECT 1 FROM access a WHERE a.key = k.key) ORDER BY k.added"
        ):
            if key != without:
                yield cid_of(key, version)

    # --- while something is stored or loaded -------------------------------------------------------------------------

    @contextmanager
    def claim(self, audience: Audience) -> Iterator[Claim]:
        """What is stored or loaded for an audience, while it lasts. What is not kept in the end stays under the claim.

        Raises:
            RepoError: a program that knows no audiences is the node of this directory.
            NoPermission, DiskFull: the system does not allow it.
        """
        if not audience.everyone:
            self._begin()
        with self._catalog.write() as db:
            row = new_access(db, str(audience))
        claim = Claim(self, row, audience)
        try:
            yield claim
        finally:
            if not claim.kept:
                with self._catalog.write() as db:
                    db.execute(
                        "DELETE FROM access WHERE id = ?1 AND key IS NULL "
                        "AND NOT EXISTS (SELECT 1 FROM claims WHERE access = ?1)",
                        (row,),
                    )

    def change_claim(self, claim: Claim, audience: Audience) -> None:
        """See Claim.set."""
        if not audience.everyone:
            self._begin()
        with self._catalog.write() as db:
            for row in claim.rows:
                db.execute("UPDATE access SET audience = ? WHERE id = ?", (str(audience), row))

    def cover(self, rows: Sequence[int], cid: CID) -> None:
        """See Claim.cover."""
        for some in each_block(cid, self._reader.nodes):
            for batch in batches(some):
                for row in rows:
                    lacking = self.unclaimed(row, batch)
                    if lacking:
                        with self._catalog.write() as db:
                            add_claims(db, (row,), lacking)

    def unclaimed(self, row: int, multihashes: Sequence[bytes]) -> list[bytes]:
        """Those of the blocks that could have a claim of that row, and have none."""
        found: set[bytes] = set()
        for start in range(0, len(multihashes), SQL_KEYS):
            keys = multihashes[start : start + SQL_KEYS]
            found.update(
                each
                for (each,) in self._catalog.all(
                    f"SELECT multihash FROM claims WHERE multihash IN ({','.join('?' * len(keys))}) AND access = ?",
                    [*keys, row],
                )
            )
        return [each for each in multihashes if each not in found and is_claimed(each)]

    def bind(self, claim: Claim, cid: CID) -> None:
        """See Claim.keep."""
        step = self.before_keeping(cid, claim.audience, claim)
        with self._catalog.write() as db:
            step(db)

    def before_keeping(self, cid: CID, audience: Audience | None, claim: Claim | None = None) -> Step:
        """Prepare for a root to be kept, all of which is here. The caller has the lock of those who add.

        Args:
            cid: of the root.
            audience: for whom it is stored or loaded; None where nothing was said: then a root that is known stays as
                it is, also one that is known as a part of others, and a new one is public.
            claim: what it was stored or loaded under.

        Returns:
            What is to be done in the transaction in which it is kept, before that.
        """
        key = bytes(cid.to_v1())
        number, text, kept, going = self._state(key)
        known = None if number is None or going else _parsed(text)
        public = bool(kept) and not going and number is None
        if audience is None:
            if known is not None or public:
                return _nothing
            audience = self._as_part(cid)
        if claim is None and audience.everyone:
            if self.records.begun():
                self.records.append([AccessRecord(cid, PUBLIC)], durable=False)
            if not public and self.any_restricted():
                for some in each_block(cid, self._reader.nodes):
                    for batch in batches(some):
                        with self._catalog.write() as db:
                            widen(db, batch)
            return lambda db: self._bind_public(db, key)
        if not audience.everyone:
            self._begin()
        if claim is None:
            with self._catalog.write() as db:
                rows: tuple[int, ...] = (new_access(db, str(audience)),)
        else:
            rows = claim.rows
            if claim.kept:  # it has a root already, and goes on with another one
                with self._catalog.write() as db:
                    rows = (new_access(db, str(audience)),)
        self.cover(rows, cid)
        final = PUBLIC if public else audience if known is None else audience | known
        if self.records.begun():
            self.records.append([AccessRecord(cid, final)], durable=False)
        return lambda db: self._bind(db, key, rows, audience, claim)

    def _as_part(self, cid: CID) -> Audience:
        """Who may see a root of which nothing was said: as the roots that it is in."""
        audience = NOBODY
        rows = self._catalog.all(
            "SELECT a.id, a.audience, a.key FROM claims c JOIN access a ON a.id = c.access WHERE c.multihash = ?",
            (cid.multihash,),
        )
        for number, text, key in rows:
            if number == EVERYONE:
                return PUBLIC
            if key is not None:
                audience |= _parsed(text)
        return PUBLIC if audience == NOBODY else audience

    def _state(self, key: bytes) -> tuple[int | None, str, bool, bool]:
        """Of a root: its row of `access` and what that says, whether it is kept, and whether it is being removed."""
        row = self._catalog.one(_STATE, (key,))
        return row[0], row[1] or "", bool(row[2]), bool(row[3])

    def _bind_public(self, db: sqlite3.Connection, key: bytes) -> None:
        number, _, _, _ = db.execute(_STATE, (key,)).fetchone()
        if number is not None:
            make_public(db, number)

    def _bind(
        self, db: sqlite3.Connection, key: bytes, rows: tuple[int, ...], audience: Audience, claim: Claim | None
    ) -> None:
        """Give the claims of some rows to a root."""
        number, text, kept, going = db.execute(_STATE, (key,)).fetchone()
        (row,) = rows
        if number is not None and going:
            db.execute("UPDATE access SET key = NULL WHERE id = ?", (number,))
            number = None
        if number is None and kept and not going:
            final, bound = PUBLIC, row
        elif number is None:
            final, bound = audience, row
        else:
            final, bound = audience | _parsed(text), number
        if bound != row:
            move_claims(db, row, bound)
        db.execute("UPDATE access SET key = ?, audience = ? WHERE id = ?", (key, str(final), bound))
        if final.everyone:
            make_public(db, bound)
        if claim is not None and not claim.kept:
            claim.kept = True
            claim.rows = () if final.everyone else (bound,)

    def _begin(self) -> None:
        """See to what must be before anything is restricted: no program that knows nothing of it, and `access.txt`.

        Raises:
            RepoError: such a program may be running.
        """
        if not self._catalog.keeps_older_out:
            self.keep_older_out()
            if not self._catalog.keeps_older_out:
                raise RepoError(
                    f"A node of an older version of this program runs in {self._layout.directory}. It would give "
                    "to everyone what is for some. Stop it, and do this again then: kachery-cloud node stop"
                )
        if not self._ready and not self.records.complete():
            self.write_records()
        self._ready = True

    def write_records(self) -> None:
        """Write `access.txt` anew: for whom each root is that is kept now."""
        self.records.begin(
            AccessRecord(cid_of(key, version), PUBLIC if text is None else _parsed(text))
            for key, version, text in self._catalog.all(
                "SELECT k.key, coalesce(r.version, 1), a.audience FROM kept k LEFT JOIN roots r ON r.key = k.key "
                "LEFT JOIN access a ON a.key = k.key ORDER BY k.added"
            )
        )

    def rows_of_roots(self) -> list[tuple[int, CID]]:
        """The roots that are kept and not public, each with its row."""
        return [
            (row, cid_of(key, version))
            for row, key, version in self._catalog.all(
                "SELECT a.id, a.key, coalesce(r.version, 1) FROM access a JOIN kept k ON k.key = a.key "
                "LEFT JOIN roots r ON r.key = a.key ORDER BY a.id"
            )
        ]

    def keep_older_out(self) -> None:
        """Note in the catalog that no older program is the node, where none is; it cannot become it then."""
        if self._catalog.read_only:
            return
        lock = NodeLock(self._layout.directory)
        holder = lock.holder() if lock.is_held() else None
        if holder is None or (holder.pid == os.getpid() and not holder.is_elsewhere):
            self._catalog.keep_older_out()

    def says_more(self, db: sqlite3.Connection) -> bool:
        """Whether there may be more to do when a public root is kept than to list it; in the caller's transaction."""
        return self.records.begun() or any_claims(db)

    # --- what was found ----------------------------------------------------------------------------------------------

    def rows_for_found(self, cid: CID) -> tuple[int, ...]:
        """What a file is claimed by that lies here without rows, or of which some were lost, before they are written.

        One that the catalog knows has the claims of its root. Of another one nobody knows for whom it is, if anything
        was ever restricted here and `access.txt` does not tell: it is for nobody else.
        """
        if self._catalog.read_only:
            return ()
        row = self._catalog.one(
            "SELECT EXISTS (SELECT 1 FROM roots WHERE key = ?), EXISTS (SELECT 1 FROM claims WHERE multihash = ?)",
            (bytes(cid.to_v1()), cid.multihash),
        )
        if row == (0, 0) and self.records.begun():
            with self._catalog.write() as db:
                self.claim_found(db, [cid])
        return tuple(access for (access,) in self._catalog.all(_ACCESS_OF, (cid.multihash,)))

    def claim_found(self, db: sqlite3.Connection, cids: Sequence[CID]) -> None:
        """The same for several files of one block, in a transaction of the caller's, before their rows are written."""
        if not self.records.begun():
            return
        records: dict[bytes, AccessRecord] | None = None
        rows: dict[str, int] = {}
        for cid in cids:
            key = bytes(cid.to_v1())
            known = db.execute("SELECT 1 FROM roots WHERE key = ?", (key,)).fetchone()
            if known is not None or access_of_block(db, cid.multihash) or not is_claimed(cid.multihash):
                continue
            if records is None:
                records = self.records.read()[0]
            record = records.get(key)
            audience = PRIVATE if record is None or record.audience is None else record.audience
            if audience.everyone:
                continue
            text = str(audience)
            if text not in rows:
                rows[text] = new_access(db, text)
            add_claims(db, (rows[text],), [cid.multihash])

    def settle_found(self) -> None:
        """Roots that are listed again, and whose blocks are claimed, are for whom these are."""
        if self._catalog.read_only:
            return
        for key, version in (
            self._catalog.all(
                "SELECT k.key, coalesce(r.version, 1) FROM kept k LEFT JOIN roots r ON r.key = k.key "
                "WHERE NOT EXISTS (SELECT 1 FROM access a WHERE a.key = k.key)"
            )
            if self.any_restricted()
            else ()
        ):
            cid = cid_of(key, version)
            audience = self.audiences([cid.multihash]).get(cid.multihash)
            if audience is not None:
                with self._catalog.write() as db:
                    rows = (new_access(db, str(audience), key),)
                self.cover(rows, cid)

    def as_in_layers(self, beneath: Mapping[bytes, Audience]) -> None:
        """Blocks are to be put here that are restricted in a layer: they are for whom they are there, too.

        Args:
            beneath: the blocks, and for whom each is there.
        """
        by_audience: dict[Audience, list[bytes]] = {}
        for multihash, audience in beneath.items():
            by_audience.setdefault(audience, []).append(multihash)
        for audience, multihashes in by_audience.items():
            self._begin()
            key = _OF_LAYER + str(audience).encode()
            with self._catalog.write() as db:
                row = db.execute("SELECT id FROM access WHERE key = ?", (key,)).fetchone()
                number = new_access(db, str(audience), key) if row is None else row[0]
                add_claims(db, (number,), multihashes)

    # --- what goes ---------------------------------------------------------------------------------------------------

    def going(self, db: sqlite3.Connection, key: bytes, *, stays: bool) -> None:
        """A root was taken off the list, in a transaction of the caller's; `stays` as a part of others."""
        row = db.execute("SELECT id FROM access WHERE key = ?", (key,)).fetchone()
        if row is None:
            # A public one: what it shares with others is looked at once more when it is gone.
            db.execute("UPDATE access SET added = 1 WHERE id = 0 AND EXISTS (SELECT 1 FROM claims WHERE access = 0)")
        elif stays:
            release(db, row[0])

    def forget(self, cids: Sequence[CID]) -> None:
        """Write down that some roots are not kept any more: what was public of them is not for everyone for ever."""
        if self.records.begun():
            with suppress(DiskFull):
                self.records.append([AccessRecord(cid, None) for cid in cids], durable=True)

    def gone(self, keys: Sequence[bytes], *, more: bool = False) -> None:
        """The blocks of some roots are gone, but for what others need. `more` follow, and then `look_again`."""
        if self.any_restricted() or self._catalog.one("SELECT 1 FROM access WHERE id <> 0 LIMIT 1") is not None:
            with self._catalog.write() as db:
                for key in keys:
                    row = db.execute("SELECT id FROM access WHERE key = ?", (key,)).fetchone()
                    if row is not None and not _is_kept(db, key):
                        release(db, row[0])
        if not more:
            self.look_again()

    def needs_look(self) -> bool:
        """Whether a public root has gone, and it was not looked at yet for whom its blocks are that are still here."""
        return self._catalog.one("SELECT 1 FROM access WHERE id = 0 AND added > 0") is not None

    def look_again(self) -> None:
        """Where a public root has gone, find out which blocks no public root has any more.

        The caller has the lock of who removes.
        """
        if not self.needs_look():
            return
        left = {each for (each,) in self._catalog.all("SELECT multihash FROM claims WHERE access = 0")}
        for root in self.public_roots() if left else ():
            for some in each_block(root, self._reader.nodes):
                left.difference_update(some)
        with self._catalog.write(durable=True) as db:
            narrow_public(db, left)
            db.execute("UPDATE access SET added = 0 WHERE id = 0")

    def tidy(self, partial: Collection[bytes]) -> None:
        """Drop claims of what was interrupted long ago and of which nothing is here.

        The caller has the lock of who removes.

        Args:
            partial: multihashes of files that are loaded in part: their claims stay.
        """
        rows = self._catalog.all(
            "SELECT a.id FROM access a WHERE a.id <> 0 AND a.added < ? "
            "AND NOT EXISTS (SELECT 1 FROM kept k WHERE k.key = a.key)",
            (time.time() - ORPHAN_SECONDS,),
        )
        for (row,) in rows:
            with self._catalog.write() as db:
                if not any(row in access_of_block(db, each) for each in partial):
                    release(db, row)
        if not self._catalog.read_only:
            self.records.tidy()


_STATE = (
    "SELECT (SELECT id FROM access WHERE key = ?1), (SELECT audience FROM access WHERE key = ?1), "
    "EXISTS (SELECT 1 FROM kept WHERE key = ?1), EXISTS (SELECT 1 FROM going WHERE key = ?1)"
)
#: How the keys of rows begin that stand for no root, but for what layers restrict. No CID begins like that.
_OF_LAYER = b"\0layer "
_ACCESS_OF = "SELECT access FROM claims WHERE multihash = ?"


def _nothing(db: sqlite3.Connection) -> None:
    """All is as it was."""


def _is_kept(db: sqlite3.Connection, key: bytes) -> bool:
    return db.execute("SELECT 1 FROM kept WHERE key = ?", (key,)).fetchone() is not None


@lru_cache(maxsize=4096)
def _parsed(text: str | None) -> Audience:
    """An audience of the catalog. What cannot be read, or is missing, lets nobody in."""
    try:
        return NOBODY if text is None else parse_audience(text)
    except KacheryError:
        return NOBODY
