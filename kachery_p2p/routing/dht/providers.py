"""Who has what: the provider records that others entrusted to us, in the routing database.

A record is one key and one peer; the peer's addresses are kept once, with a shorter life. Writes are gathered in
memory (a sweep by one Kubo brings thousands) and go to disk together, by `flush`; reads see them at once.

Bounds are fair: who announces too much loses its own oldest records; when the whole store is full, the one with the
most records does. A key that has its full number of providers takes no new ones until one expires, so that nobody can
push out those who were there.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable

from kachery_p2p.errors import KacheryError
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht import limits
from kachery_p2p.routing.dht.limits import StoreLimits
from kachery_p2p.routing.dht.messages import DhtPeer
from kachery_p2p.wire import delimited, read_varint

log = logging.getLogger("kachery_p2p.routing")

#: Records written in one transaction: some ten milliseconds.
_BATCH = 250


class ProviderStore:
    """Provider records of one DHT.

    Times are seconds since the epoch, as the records outlive the process.

    Args:
        db: where they are kept.
        name: which DHT: `wan` or `lan`; each has tables of its own.
        bounds: how much is kept.

    Raises:
        RepoError, DiskFull, NoPermission: the database cannot be used.
    """

    def __init__(self, db: Database, name: str = "wan", bounds: StoreLimits = limits.DEFAULTS) -> None:
        if name not in ("wan", "lan"):
            raise ValueError(f"There is no DHT named {name!r}.")
        self._db = db
        self._limits = bounds
        self._peers = f"dht_{name}_peers"
        self._records = f"dht_{name}_providers"
        db.create(f"""
            CREATE TABLE IF NOT EXISTS {self._peers} (
                id INTEGER PRIMARY KEY, peer BLOB UNIQUE NOT NULL, addrs BLOB NOT NULL,
                heard REAL NOT NULL, records INTEGER NOT NULL DEFAULT 0);
            CREATE INDEX IF NOT EXISTS {self._peers}_records ON {self._peers} (records);
            CREATE INDEX IF NOT EXISTS {self._peers}_heard ON {self._peers} (heard);
            CREATE TABLE IF NOT EXISTS {self._records} (
                key BLOB NOT NULL, peer INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (key, peer)) WITHOUT ROWID;
            CREATE INDEX IF NOT EXISTS {self._records}_peer ON {self._records} (peer, at);
            CREATE INDEX IF NOT EXISTS {self._records}_at ON {self._records} (at);
        """)
        self._total: int = db.read(f"SELECT count(*) FROM {self._records}")[0][0]
        #: Not yet written: key -> peer -> when.
        self._pending: dict[bytes, dict[bytes, float]] = {}
        self._pending_peers: dict[bytes, tuple[tuple[bytes, ...], float]] = {}
        self._pending_count = 0
        #: What `flush` is writing, in another thread perhaps; reads see this, too.
        self._flushing: dict[bytes, dict[bytes, float]] = {}
        self._flushing_peers: dict[bytes, tuple[tuple[bytes, ...], float]] = {}
        self._flush_lock = threading.Lock()
        #: Held for moments only: `flush` takes what is gathered away from under `add`.
        self._swap_lock = threading.Lock()

    def __len__(self) -> int:
        """How many records there are, roughly: unwritten ones may be renewals."""
        return self._total + self._pending_count

    @property
    def unwritten(self) -> int:
        """Records that wait for the next `flush`."""
        return self._pending_count

    def add(self, key: bytes, provider: DhtPeer, now: float) -> bool:
        """Note that a peer has something; the addresses have passed the DHT's `Scope`.

        Returns:
            False when the key has its full number of providers already.
        """
        with self._swap_lock:
            peers = self._pending.setdefault(key, {})
            if provider.id not in peers:
                if len(peers) >= self._limits.max_providers_per_key:
                    return False
                self._pending_count += 1
            peers[provider.id] = now
            self._pending_peers[provider.id] = (provider.addrs, now)
        if self._pending_count >= limits.MAX_UNFLUSHED:
            try:
                self.flush(now)
            except KacheryError as error:
                log.warning("provider records are lost: %s", error)
        return True

    def get(self, key: bytes, now: float) -> list[DhtPeer]:
        """The providers of a key, those last heard of first; without addresses where these are too old."""
        oldest = now - limits.PROVIDER_TTL
        found: dict[bytes, tuple[float, bytes | tuple[bytes, ...], float]] = {}
        # Taken before the database is read: what a thread writes meanwhile is in the one or the other.
        pending, pending_peers = self._pending, self._pending_peers
        flushing, flushing_peers = self._flushing, self._flushing_peers
        try:
            for peer, at, addrs, heard in self._db.read(
                f"SELECT p.peer, r.at, p.addrs, p.heard FROM {self._records} r JOIN {self._peers} p ON p.id = r.peer "
                "WHERE r.key = ? AND r.at > ?",
                (key, oldest),
            ):
                found[peer] = (at, addrs, heard)
        except KacheryError as error:
            log.warning("provider records cannot be read: %s", error)
        for unwritten in (flushing.get(key), pending.get(key)):
            for peer, at in (unwritten or {}).items():
                if at > oldest and (peer in found or len(found) < self._limits.max_providers_per_key):
                    found[peer] = (at, b"", 0.0)
        infos: list[DhtPeer] = []
        for peer, (_, addrs, heard) in sorted(found.items(), key=lambda item: -item[1][0]):
            newer = pending_peers.get(peer) or flushing_peers.get(peer)
            if newer is not None:
                addrs, heard = newer
            if now - heard > limits.PROVIDER_ADDRS_TTL:
                addrs = ()
            infos.append(DhtPeer(peer, addrs if isinstance(addrs, tuple) else _unpack(addrs)))
        return infos

    def flush(self, now: float) -> int:
        """Write what is gathered; how many records. To be called every few seconds, in a thread where that is easy.

        Raises:
            RepoError, DiskFull, NoPermission: they cannot be written; they are given up.
        """
        with self._flush_lock:
            if not self._pending_count:
                return 0
            with self._swap_lock:
                count = self._pending_count
                # In this order a read in between sees a record twice rather than not at all.
                self._flushing, self._flushing_peers = self._pending, self._pending_peers
                self._pending, self._pending_peers, self._pending_count = {}, {}, 0
            try:
                self._write(self._flushing, self._flushing_peers)
            finally:
                self._flushing, self._flushing_peers = {}, {}
        return count

    def _write(
        self, pending: dict[bytes, dict[bytes, float]], peers: dict[bytes, tuple[tuple[bytes, ...], float]]
    ) -> None:
        by_peer: dict[bytes, list[tuple[bytes, float]]] = {}
        for key, providers in pending.items():
            for peer, at in providers.items():
                by_peer.setdefault(peer, []).append((key, at))
        # In many short transactions: a read waits for the one that is under way.
        batch: list[tuple[bytes, list[tuple[bytes, float]]]] = []
        size = 0
        for peer, entries in by_peer.items():
            for start in range(0, len(entries), _BATCH):
                batch.append((peer, entries[start : start + _BATCH]))
                size += len(batch[-1][1])
                if size >= _BATCH:
                    self._write_batch(batch, peers)
                    batch, size = [], 0
        self._write_batch(batch, peers)

    def _write_batch(
        self,
        batch: list[tuple[bytes, list[tuple[bytes, float]]]],
        peers: dict[bytes, tuple[tuple[bytes, ...], float]],
    ) -> None:
        if not batch:
            return
        total = self._total
        with self._db.write() as db:
            for peer, entries in batch:
                addrs, heard = peers[peer]
                db.execute(
                    f"INSERT INTO {self._peers} (peer, addrs, heard) VALUES (?, ?, ?) ON CONFLICT (peer) "
                    "DO UPDATE SET addrs = excluded.addrs, heard = excluded.heard",
                    (peer, _pack(addrs), heard),
                )
                number, held = db.execute(f"SELECT id, records FROM {self._peers} WHERE peer = ?", (peer,)).fetchone()
                renewed = db.executemany(
                    f"UPDATE {self._records} SET at = ? WHERE key = ? AND peer = ?",
                    [(at, key, number) for key, at in entries],
                ).rowcount
                if renewed == len(entries):
                    continue
                added = db.executemany(
                    f"INSERT OR IGNORE INTO {self._records} SELECT ?, ?, ? WHERE "
                    f"(SELECT count(*) FROM {self._records} WHERE key = ?) < ?",
                    [(key, number, at, key, self._limits.max_providers_per_key) for key, at in entries],
                ).rowcount
                db.execute(f"UPDATE {self._peers} SET records = records + ? WHERE id = ?", (added, number))
                total += added
                total -= self._evict(db, number, held + added - self._limits.max_records_per_provider)
            while total > self._limits.max_provider_records:
                number, held = db.execute(
                    f"SELECT id, records FROM {self._peers} ORDER BY records DESC, heard LIMIT 1"
                ).fetchone()
                gone = self._evict(db, number, min(held, total - self._limits.max_provider_records))
                if not gone:
                    break
                total -= gone
            total -= self._forget_peers(db)
        self._total = total

    def _evict(self, db: sqlite3.Connection, number: int, count: int) -> int:
        """Drop the oldest records of one provider; how many went."""
        if count <= 0:
            return 0
        gone = db.execute(
            f"DELETE FROM {self._records} WHERE peer = ?1 AND key IN "
            f"(SELECT key FROM {self._records} WHERE peer = ?1 ORDER BY at LIMIT ?2)",
            (number, count),
        ).rowcount
        db.execute(f"UPDATE {self._peers} SET records = records - ? WHERE id = ?", (gone, number))
        return gone

    def _forget_peers(self, db: sqlite3.Connection) -> int:
        """Too many providers: those not heard of for the longest time go, with their records; how many of these."""
        (count,) = db.execute(f"SELECT count(*) FROM {self._peers}").fetchone()
        gone = 0
        excess = count - self._limits.max_provider_peers
        if excess > 0:
            numbers = db.execute(
                f"SELECT id, records FROM {self._peers} ORDER BY heard LIMIT ?",
                (excess,),
            ).fetchall()
            for number, _ in numbers:
                gone += db.execute(f"DELETE FROM {self._records} WHERE peer = ?", (number,)).rowcount
                db.execute(f"DELETE FROM {self._peers} WHERE id = ?", (number,))
        return gone

    def purge(self, now: float) -> int:
        """Drop what has expired; how many records. To be called about every hour.

        Raises:
            RepoError, DiskFull, NoPermission: the database cannot be written.
        """
        self.flush(now)
        oldest = now - limits.PROVIDER_TTL
        with self._db.write() as db:
            gone = db.execute(f"DELETE FROM {self._records} WHERE at <= ?", (oldest,)).rowcount
            db.execute(f"DELETE FROM {self._peers} WHERE heard <= ?", (oldest,))
            if gone:
                db.execute(
                    f"UPDATE {self._peers} SET records = (SELECT count(*) FROM {self._records} r "
                    f"WHERE r.peer = {self._peers}.id)"
                )
            (self._total,) = db.execute(f"SELECT count(*) FROM {self._records}").fetchone()
        return gone


def _pack(addrs: Iterable[bytes]) -> bytes:
    return b"".join(map(delimited, addrs))


def _unpack(packed: bytes) -> tuple[bytes, ...]:
    addrs = []
    pos = 0
    while pos < len(packed):
        size, pos = read_varint(packed, pos)
        addrs.append(packed[pos : pos + size])
        pos += size
    return tuple(addrs)
