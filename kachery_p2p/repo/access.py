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

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from kachery_p2p.access.audience import NOBODY, PUBLIC, Audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, KacheryError, RepoError
from kachery_p2p.repo.access_begin import Beginning
from kachery_p2p.repo.access_found import Found
from kachery_p2p.repo.access_interface import Widening
from kachery_p2p.repo.access_leaving import Leaving
from kachery_p2p.repo.access_records import AccessRecord, AccessRecords
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.claim_rows import (
    EVERYONE,
    LOOSE,
    OF_LAYER,
    add_claims,
    any_claims,
    batches,
    drop_loose,
    is_claimed,
    make_public,
    move_claims,
    narrow_public,
    new_access,
    parsed,
    widen,
)
from kachery_p2p.repo.dag_blocks import each_block
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.limits import SQL_KEYS
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
        """Say anew who may see it. All blocks that were put under the claim go with it.

        Raises:
            RepoError: it is bound to its root by now.
        """
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
    """For whom the roots of one repo are, and so its blocks. Safe to use from many threads and processes.

    Attributes:
        records: the second place.
        found: restricts what comes from where nobody says for whom it is.
        leaving: what becomes of claims when roots go.
        widening: asked before a store lets more people see something; None where nobody is to be.
    """

    def __init__(self, layout: Layout, catalog: Catalog, reader: BlockReader, lock: RemovalLock) -> None:
        self._layout = layout
        self._catalog = catalog
        self._reader = reader
        self._lock = lock
        self.records = AccessRecords(layout)
        self.found = Found(self, catalog)
        self.leaving = Leaving(self, catalog, reader)
        self.widening: Widening | None = None
        self._beginning = Beginning(layout, catalog, self.records)

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
                found[multihash] = parsed(text) if known is None else known | parsed(text)
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
            "SELECT (SELECT audience FROM access WHERE key = ?1), (SELECT 1 FROM kept WHERE key = ?1 AND how > 0)",
            (key,),
        )
        if row[0] is not None:
            return parsed(row[0])
        if row[1] is not None:
            return PUBLIC
        return self.audiences([cid.multihash]).get(cid.multihash, PUBLIC)

    def roots(self) -> list[tuple[CID, Audience]]:
        """The roots that are kept and not public, oldest first."""
        return [
            (cid_of(key, version), parsed(text))
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
            (cid_of(key, version), parsed(text))
            for number, key, version, text in self._catalog.all(
                "SELECT a.id, a.key, coalesce(r.version, 1), a.audience FROM access a "
                "LEFT JOIN roots r ON r.key = a.key WHERE a.key IS NOT NULL ORDER BY a.id"
            )
            if (number in claims or key == bytes(cid.to_v1())) and not key.startswith(OF_LAYER)
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

    def others(self, cid: CID | None = None) -> dict[bytes, Audience]:
        """The restricted roots that are kept of which others may see a block, too, by their keys; and who these are.

        Args:
            cid: of the only root that is looked at; all of them where None.
        """
        shared = (
            "SELECT multihash FROM claims GROUP BY multihash HAVING count(*) > 1"
            if cid is None
            else "SELECT multihash FROM claims WHERE access = (SELECT id FROM access WHERE key = ?)"
        )
        found: dict[bytes, Audience] = {}
        for key, own, other in self._catalog.all(
            f"SELECT DISTINCT a.key, a.audience, b.audience FROM ({shared}) s "
            "JOIN claims m ON m.multihash = s.multihash JOIN access a ON a.id = m.access AND a.key IS NOT NULL "
            "JOIN claims o ON o.multihash = s.multihash AND o.access <> m.access JOIN access b ON b.id = o.access",
            () if cid is None else (bytes(cid.to_v1()),),
        ):
            if not key.startswith(OF_LAYER) and not parsed(other) <= parsed(own):
                found[key] = found.get(key, NOBODY) | parsed(other)
        return found

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
        while True:
            public = self._catalog.one("SELECT 1 FROM access WHERE key = ?", (key,)) is None
            # What public roots share is looked at while none comes or goes; else stores are not waited for.
            with self._lock.removing() if public else self._lock.adding():
                row = self._catalog.one("SELECT id, audience FROM access WHERE key = ?", (key,))
                if (row is None) == public:
                    self._set(cid, key, row, audience)
                    return

    def _set(self, cid: CID, key: bytes, row: tuple[int, str] | None, audience: Audience) -> None:
        if self._catalog.one("SELECT 1 FROM kept WHERE key = ?", (key,)) is None:
            raise ContentNotFound(
                f"ipfs://{cid} was not stored, linked or loaded by itself here, so nothing can be said of who may "
                "see it. List what was with: kachery-cloud list"
            )
        before = PUBLIC if row is None else parsed(row[1])
        if before == audience:
            return
        if not audience.everyone:
            self.begin()
        if self.records.begun():
            self.records.append([AccessRecord(cid, audience)], durable=not before <= audience)
        if row is None:
            self._narrow(cid, key, audience)
            return
        blocks: set[bytes] = set()
        if self._catalog.one(f"{LOOSE} LIMIT 1") is not None:
            blocks.update(each for some in each_block(cid, self._reader.nodes) for each in some)
        with self._catalog.write(durable=True) as db:
            # By its key: a store that ended just now may have given it another row.
            db.execute("UPDATE access SET audience = ? WHERE key = ?", (str(audience), key))
            drop_loose(db, blocks)
            if audience.everyone:
                self._bind_public(db, key)

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
            drop_loose(db, mine)
            narrow_public(db, mine - shared)
            widen(db, shared)

    def public_roots(self, without: bytes | None = None) -> Iterator[CID]:
        """The roots that are kept and public, oldest first; but for one, by its key."""
        for key, version in self._catalog.all(
            "SELECT k.key, coalesce(r.version, 1) FROM kept k LEFT JOIN roots r ON r.key = k.key "
            "WHERE k.how > 0 AND NOT EXISTS (SELECT 1 FROM access a WHERE a.key = k.key) ORDER BY k.added"
        ):
            if key != without:
                yield cid_of(key, version)

    # --- before something is stored ----------------------------------------------------------------------------------

    def ask(self, cid: CID, said: Audience | None, rows: Sequence[int] = ()) -> None:
        """Have `widening` asked, where a store would let more people see what some roots have that are kept here.

        Args:
            cid: of what is stored; all of it is here.
            said: for whom it is; None where nothing was said.
            rows: what it is claimed by so far.

        Raises:
            KacheryError: what is asked says no.
        """
        if self.widening is None or not self.any_restricted():
            return
        if said is None or said.everyone:
            number, _, kept, going = self._state(bytes(cid.to_v1()))
            is_public = kept and number is None
            if not going and (is_public or (said is None and number is not None)):
                return  # it stays as it is
            if said is None and not self._as_part(cid).everyone:
                return
        wanted = PUBLIC if said is None else said
        self.widening.ask(cid, said, lambda: self.narrower(cid, wanted, rows))

    def in_others(self, cid: CID, audience: Audience) -> dict[bytes, Audience]:
        """The blocks of a root that other restricted roots have which not all of an audience may see, and who may."""
        row = self._catalog.one("SELECT id FROM access WHERE key = ?", (bytes(cid.to_v1()),))
        return self.narrower(cid, audience, () if row is None else (row[0],))

    def narrower(self, cid: CID, audience: Audience, rows: Sequence[int]) -> dict[bytes, Audience]:
        """The blocks of a root that restricted roots have which not all of an audience may see, and who may.

        What was interrupted, and what some rows claim, says nothing.
        """
        found: dict[bytes, Audience] = {}
        for some in each_block(cid, self._reader.nodes):
            kept: set[bytes] = set()
            known: dict[bytes, Audience] = {}
            for start in range(0, len(some), SQL_KEYS):
                keys = some[start : start + SQL_KEYS]
                for multihash, row, text, key in self._catalog.all(
                    "SELECT c.multihash, c.access, a.audience, a.key FROM claims c JOIN access a ON a.id = c.access "
                    f"WHERE c.multihash IN ({','.join('?' * len(keys))})",
                    keys,
                ):
                    if row not in rows:
                        known[multihash] = known.get(multihash, NOBODY) | parsed(text)
                        kept.update([multihash] if key is not None else [])
            found.update((each, known[each]) for each in kept if not audience <= known[each])
        return found

    # --- while something is stored or loaded -------------------------------------------------------------------------

    @contextmanager
    def claim(self, audience: Audience) -> Iterator[Claim]:
        """What is stored or loaded for an audience, while it lasts. What is not kept in the end stays under the claim.

        Raises:
            RepoError: a program that knows no audiences is the node of this directory.
            NoPermission, DiskFull: the system does not allow it.
        """
        if not audience.everyone:
            self.begin()
        with self._catalog.write() as db:
            row = new_access(db, str(audience))
        claim = Claim(self, row, audience)
        try:
            yield claim
        finally:
            if not claim.kept:
                self._end(row)

    def _end(self, row: int) -> None:
        """Drop the row of a claim under which nothing came."""
        with suppress(KacheryError), self._catalog.write() as db:  # `gc` takes it, too
            db.execute(
                "DELETE FROM access WHERE id = ?1 AND key IS NULL "
                "AND NOT EXISTS (SELECT 1 FROM claims WHERE access = ?1)",
                (row,),
            )

    def change_claim(self, claim: Claim, audience: Audience) -> None:
        """See Claim.set."""
        if claim.kept:
            raise RepoError("What was loaded belongs to its root already; for whom that is, `set_audience` says.")
        if not audience.everyone:
            self.begin()
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

    def widen(self, cid: CID) -> int:
        """Let everyone have the blocks of a root, whatever else claims them; how many were for some only."""
        count = 0
        for some in each_block(cid, self._reader.nodes):
            for batch in batches(some):
                claimed = self.audiences(batch)
                if claimed:
                    with self._catalog.write() as db:
                        widen(db, claimed)
                    count += len(claimed)
        return count

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
        step = self.before_keeping(cid, claim.audience, claim, widens=False)
        with self._catalog.write() as db:
            step(db)

    def bind_part(self, db: sqlite3.Connection, claim: Claim, root: CID) -> None:
        """Give a claim to the folder that something was read through; in the caller's transaction."""
        if not claim.kept:
            self._bind(db, bytes(root.to_v1()), claim.rows, claim.audience, claim)

    def before_keeping(
        self, cid: CID, audience: Audience | None, claim: Claim | None = None, *, widens: bool = True
    ) -> Step:
        """Prepare for a root to be kept, all of which is here. The caller has the lock of those who add.

        Args:
            cid: of the root.
            audience: for whom it is stored or loaded; None where nothing was said: then a root that is known stays as
                it is, also one that is known as a part of others, and a new one is public.
            claim: what it was stored or loaded under.
            widens: whether a root for everyone lets everyone have all of its blocks. What the user stores does. What
                was loaded does not: a stranger may have made a folder of what only some may see, and it was here.

        Returns:
            What is to be done in the transaction in which it is kept, before that.
        """
        key = bytes(cid.to_v1())
        number, text, kept, going = self._state(key)
        known = None if number is None or going else parsed(text)
        public = bool(kept) and not going and number is None
        if audience is None:
            if known is not None or public:
                return _nothing
            audience = self._as_part(cid)
        if claim is None and audience.everyone:
            if self.records.begun():
                self.records.append([AccessRecord(cid, PUBLIC)], durable=False)
            if widens and not public and self.any_restricted():
                self.widen(cid)
            return lambda db: self._bind_public(db, key)
        if not audience.everyone:
            self.begin()
        if claim is None:
            with self._catalog.write() as db:
                rows: tuple[int, ...] = (new_access(db, str(audience)),)
        else:
            rows = claim.rows
            if claim.kept:  # it has a root already, and goes on with another one
                with self._catalog.write() as db:
                    rows = (new_access(db, str(audience)),)
        if widens or not audience.everyone:  # else what has come is claimed, and what was here is for whom it was
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
                audience |= parsed(text)
        return PUBLIC if audience == NOBODY else audience

    def _state(self, key: bytes) -> tuple[int | None, str, bool, bool]:
        """Of a root: its row of `access` and what that says, whether it is kept, and whether it is being removed."""
        row = self._catalog.one(_STATE, (key,))
        return row[0], row[1] or "", bool(row[2]), bool(row[3])

    def _bind_public(self, db: sqlite3.Connection, key: bytes) -> None:
        db.execute("DELETE FROM formerly WHERE multihash = ?", (cid_of(key, 1).multihash,))
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
            final, bound = audience | parsed(text), number
        if bound != row:
            move_claims(db, row, bound)
        db.execute("UPDATE access SET key = ?, audience = ? WHERE id = ?", (key, str(final), bound))
        if final.everyone:
            make_public(db, bound)
        if claim is not None and not claim.kept:
            claim.kept = True
            claim.rows = () if final.everyone else (bound,)

    def rows_of_roots(self) -> list[tuple[int, CID]]:
        """The roots that are kept and not public, each with its row."""
        return [
            (row, cid_of(key, version))
            for row, key, version in self._catalog.all(
                "SELECT a.id, a.key, coalesce(r.version, 1) FROM access a JOIN kept k ON k.key = a.key "
                "LEFT JOIN roots r ON r.key = a.key ORDER BY a.id"
            )
        ]

    def begin(self) -> None:
        """See to what must be before anything is restricted.

        Raises:
            RepoError: a program that knows no audiences may be running.
        """
        self._beginning.begin()

    def write_records(self) -> None:
        """Write `access.txt` anew."""
        self._beginning.write_records()

    def keep_older_out(self) -> None:
        """Note that no older program is the node, where none is."""
        self._beginning.keep_older_out()

    def says_more(self, db: sqlite3.Connection) -> bool:
        """Whether there may be more to do when a public root is kept than to list it; in the caller's transaction."""
        return self.records.begun() or any_claims(db)


_STATE = (
    "SELECT (SELECT id FROM access WHERE key = ?1), (SELECT audience FROM access WHERE key = ?1), "
    "EXISTS (SELECT 1 FROM kept WHERE key = ?1 AND how > 0), EXISTS (SELECT 1 FROM going WHERE key = ?1)"
)


def _nothing(db: sqlite3.Connection) -> None:
    """All is as it was."""
