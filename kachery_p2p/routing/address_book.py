"""The address book: whom we met, where they answered, and who of them is of use. Kept over restarts.

After one meeting two machines of a lab find each other again with every public service gone, so the book has to keep
the few peers that matter through any number of strangers. It keeps five shelves, each with its own size, and a flood
on one never touches another:

    useful     gave us blocks; the rarest thing to fake, for each block was asked for and verified
    local      named by the user, or met on the local network
    served     took blocks from us
    met        strangers that answered when we dialled them (DHT servers, mostly)
    heard      strangers that dialled us, or of which somebody spoke

An address counts as proven only when we dialled it and that very peer answered. What a peer says of itself, what mDNS
or the DHT say of it, is tried after those that answered last time, and can neither crowd out proven ones nor make a
peer look better.

The book lives in memory; changes are written by a thread, some seconds later. Only the first block of a peer is written
at once. It is used from the trio thread alone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Any

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.peer_ids import any_peer_id
from kachery_p2p.protocols import KAD
from kachery_p2p.routing import limits, text
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.entry import ORIGINS, SPOKEN_NAMES, KnownAddress, PeerEntry, Shelf, least_worth, spoken
from kachery_p2p.routing.entry import ROOM as SHELF_ROOM
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.waking import Flag

log = logging.getLogger("kachery_p2p.routing")

_TABLES = """
CREATE TABLE IF NOT EXISTS known_peers (
    peer TEXT PRIMARY KEY, agent TEXT NOT NULL, speaks TEXT NOT NULL,
    received INTEGER NOT NULL, useful REAL NOT NULL, served REAL NOT NULL, seen REAL NOT NULL, met REAL NOT NULL,
    configured REAL NOT NULL, local REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS known_addresses (
    peer TEXT NOT NULL, addr TEXT NOT NULL, origin TEXT NOT NULL, told REAL NOT NULL,
    success REAL NOT NULL, failure REAL NOT NULL, seconds REAL NOT NULL,
    successes INTEGER NOT NULL, failures INTEGER NOT NULL,
    PRIMARY KEY (peer, addr)
);
"""


#: The rows of one peer: its own, and those of its addresses.
_Rows = tuple[tuple[Any, ...], list[tuple[Any, ...]]]


class KnownPeers:
    """The address book of this node.

    Args:
        db: where it is kept. It is read here; the tables are made when they are missing.
        local: our own peer ID, which is never entered.
        wall: seconds since the epoch.

    Raises:
        RepoError, DiskFull, NoPermission: the database cannot be used.
    """

    def __init__(self, db: Database, *, local: str = "", wall: Callable[[], float] = time.time) -> None:
        self._db = db
        self._local = local
        self._wall = wall
        self._peers: dict[str, PeerEntry] = {}
        self._counts: Counter[Shelf] = Counter()
        self._changed: set[str] = set()
        self._write_now = Flag()
        self._writing = trio.Lock()
        self._write_error = ""
        db.create(_TABLES)
        self._read()

    # --- what happened ----------------------------------------------------------------------------------------------

    def connected(self, peer: str, addr: str | None = None, seconds: float | None = None) -> None:
        """A connection with the peer was made.

        Args:
            peer: peer ID, base58.
            addr: the address that we dialled; None when the peer dialled us.
            seconds: how long that took, where it was measured.
        """
        entry = self._enter(peer)
        if entry is None:
            return
        now = self._wall()
        first = not entry.met
        entry.seen = now
        entry.met = entry.met or now
        good = text.dialable(addr, peer) if addr else None
        near = any(each.origin == "mdns" for each in entry.addrs.values())
        if good is not None:
            address = entry.addrs.get(good)
            if address is None:
                address = entry.addrs[good] = KnownAddress(good, "dialled")
            address.told = address.success = now
            address.failures = 0
            address.successes += 1
            if seconds is not None:
                address.seconds = seconds
            entry.trim()
            near = near or (text.scope(good) is not text.AddressScope.PUBLIC and not text.relayed(good))
        if near:
            entry.local = now
        self._touch(entry)
        if first and entry.shelved is Shelf.LOCAL:
            self._write_now.set()

    def failed(self, peer: str, addr: str) -> None:
        """A dial of an address of the peer failed. An address that is not in the book is nothing to remember."""
        entry = self._peers.get(peer)
        good = text.dialable(addr, peer)
        address = entry.addrs.get(good) if entry is not None and good is not None else None
        if entry is None or address is None:
            return
        address.failure = self._wall()
        address.failures += 1
        # The last address of a machine of the lab is kept: it may have been switched off over the winter.
        if address.stale(address.failure) and (len(entry.addrs) > 1 or entry.shelf > Shelf.LOCAL):
            del entry.addrs[address.addr]
        self._touch(entry)

    def heard(self, peer: str, addrs: Sequence[str], origin: str) -> None:
        """Somebody says where the peer is; nothing is proven by it.

        Args:
            peer: peer ID, base58.
            addrs: multiaddrs; those that cannot be dialled are left out.
            origin: `configured` (the user named it), `mdns`, or `dht` for any other peer's word.
        """
        entry = self._enter(peer)
        if entry is None:
            return
        now = self._wall()
        if origin == "configured":
            entry.configured = now
        elif origin == "mdns" and entry.met:
            entry.local = now  # not before: anyone in the network can say anything by mDNS
        if not entry.met:
            entry.seen = now
        entry.tell(addrs, origin, now)
        self._touch(entry)

    def identified(self, peer: str, addrs: Sequence[str], agent: str, protocols: Collection[str]) -> None:
        """The peer said what it is and where it listens (identify)."""
        entry = self._enter(peer)
        if entry is None:
            return
        now = self._wall()
        entry.seen = now
        entry.met = entry.met or now
        entry.agent = "".join(each for each in agent[: limits.MAX_AGENT_LENGTH] if each.isprintable())
        entry.speaks = spoken(protocols)
        entry.tell(addrs, "identify", now)
        self._touch(entry)

    def useful(self, peer: str, size: int) -> None:
        """The peer gave us `size` bytes of blocks that are what we asked for. Cheap enough to be called per block."""
        entry = self._enter(peer)
        if entry is None or size <= 0:
            return
        first = not entry.received
        entry.received += size
        entry.useful = entry.seen = self._wall()
        entry.met = entry.met or entry.useful
        self._touch(entry)
        if first:
            self._write_now.set()

    def served(self, peer: str) -> None:
        """The peer took a block from us."""
        entry = self._enter(peer)
        if entry is not None:
            entry.served = entry.seen = self._wall()
            entry.met = entry.met or entry.served
            self._touch(entry)

    def forget(self, peer: str) -> None:
        """Take a peer out of the book (it sent wrong blocks, say)."""
        entry = self._peers.get(peer)
        if entry is not None:
            self._drop(entry)
            self._write_now.set()

    # --- who is known -----------------------------------------------------------------------------------------------

    def addresses(self, peer: str) -> tuple[str, ...]:
        """Where the peer can be dialled, best first; empty when it is not known."""
        entry = self._peers.get(peer)
        return entry.best() if entry is not None else ()

    def candidates(self, count: int) -> list[tuple[str, tuple[str, ...]]]:
        """Peers that may have what a lab shares, with their addresses.

        They are dialled after a restart, and for a block of which no other source knows. First come those that gave us
        blocks, that the user named, or that were met on the local network, the most recent first; then those that took
        blocks from us. Ones that have not answered for some tries come last, and ones that failed just now are left
        out. Never strangers.
        """
        now = self._wall()
        found = [
            entry
            for entry in self._peers.values()
            if entry.shelved is not None and entry.shelved <= Shelf.SERVED and entry.addrs and not entry.resting(now)
        ]
        found.sort(key=lambda e: (e.failing(), e.shelved is Shelf.SERVED, -e.last_use(), -e.received, e.peer))
        return [(entry.peer, entry.best()) for entry in found[:count]]

    def dht_seeds(self, count: int, protocol: str = KAD) -> list[tuple[str, tuple[str, ...]]]:
        """Peers of a DHT that answered when we dialled them, the most recent first, spread over networks.

        They are enough to fill a routing table without bootstrap nodes.
        """
        speaks = spoken([protocol])
        now = self._wall()
        answered: list[tuple[bool, float, PeerEntry]] = []
        for entry in self._peers.values():
            success = max((each.success for each in entry.addrs.values()), default=0.0)
            if success and speaks & entry.speaks and not entry.resting(now):
                answered.append((entry.failing(), -success, entry))
        answered.sort(key=lambda item: item[:2])
        seeds: list[tuple[str, tuple[str, ...]]] = []
        crowd: Counter[str] = Counter()
        for _, _, entry in answered:
            if len(seeds) >= count:
                break
            addrs = entry.best()
            where = text.network(addrs[0])
            if text.scope(addrs[0]) is text.AddressScope.PUBLIC and crowd[where] >= limits.MAX_SEEDS_PER_NETWORK:
                continue
            crowd[where] += 1
            seeds.append((entry.peer, addrs))
        return seeds

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer: object) -> bool:
        return peer in self._peers

    # --- keeping it small -------------------------------------------------------------------------------------------

    def _enter(self, peer: str) -> PeerEntry | None:
        entry = self._peers.get(peer)
        if entry is None:
            if peer == self._local or any_peer_id(peer) != peer:
                return None
            entry = self._peers[peer] = PeerEntry(peer)
        return entry

    def _touch(self, entry: PeerEntry) -> None:
        """An entry has changed: it is to be written, and perhaps stands on another shelf now."""
        self._changed.add(entry.peer)
        shelf = entry.shelf
        if entry.shelved is shelf:
            return
        if entry.shelved is not None:
            self._counts[entry.shelved] -= 1
        entry.shelved = shelf
        self._counts[shelf] += 1
        surplus = self._counts[shelf] - SHELF_ROOM[shelf]
        if surplus > 0:
            there = [each for each in self._peers.values() if each.shelved is shelf]
            # A sixteenth more than is needed, so that a flood does not sort the shelf for each newcomer.
            for each in least_worth(there, shelf, entry)[: surplus + SHELF_ROOM[shelf] // 16]:
                self._drop(each)

    def _drop(self, entry: PeerEntry) -> None:
        del self._peers[entry.peer]
        if entry.shelved is not None:
            self._counts[entry.shelved] -= 1
        self._changed.add(entry.peer)

    def _purge(self) -> None:
        now = self._wall()
        for entry in [each for each in self._peers.values() if each.expires() < now]:
            self._drop(entry)

    # --- disk -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        now = self._wall()
        for peer, agent, speaks, received, *times in self._db.read(
            "SELECT peer, agent, speaks, received, useful, served, seen, met, configured, local FROM known_peers"
        ):
            names = frozenset(speaks.split()) & SPOKEN_NAMES
            self._peers[peer] = PeerEntry(peer, agent, names, received, *(min(each, now) for each in times))
            if max(times) > now:
                self._changed.add(peer)  # a clock that ran ahead once must not make anybody immortal
        for peer, addr, origin, told, success, failure, *numbers in self._db.read(
            "SELECT peer, addr, origin, told, success, failure, seconds, successes, failures FROM known_addresses "
            "ORDER BY rowid"  # the order in which the peer named them
        ):
            entry = self._peers.get(peer)
            if entry is not None and origin in ORIGINS:
                times = (min(each, now) for each in (told, success, failure))
                entry.addrs[addr] = KnownAddress(addr, origin, *times, *numbers)
        self._peers.pop(self._local, None)
        for entry in self._peers.values():
            entry.shelved = entry.shelf
            self._counts[entry.shelved] += 1
        self._purge()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write changes to disk until cancelled, and once more then. What cannot be written is tried again."""
        task_status.started()
        try:
            while True:
                with trio.move_on_after(limits.FLUSH_SECONDS):
                    await self._write_now.take()
                await self.flush()
                await trio.sleep(limits.FLUSH_PAUSE)
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()

    async def flush(self) -> None:
        """Write all changes to disk now. A failure shows in the status, and the changes wait for the next time."""
        async with self._writing:
            self._write_now.clear()
            self._purge()
            changed = list(self._changed)
            for first in range(0, len(changed), limits.FLUSH_BATCH):
                batch = changed[first : first + limits.FLUSH_BATCH]
                rows = [self._rows(peer) for peer in batch]
                self._changed.difference_update(batch)
                try:
                    await trio.to_thread.run_sync(self._write, batch, rows)
                except BaseException as error:
                    self._changed.update(batch)
                    if not isinstance(error, KacheryError):
                        raise
                    if not self._write_error:
                        log.warning("the address book could not be written: %s", error)
                    self._write_error = str(error)
                    return
            self._write_error = ""

    def _rows(self, peer: str) -> _Rows | None:
        """An entry as the values of its rows: the thread must not look at what the trio thread changes."""
        e = self._peers.get(peer)
        if e is None:
            return None
        speaks = " ".join(sorted(e.speaks))
        row = (peer, e.agent, speaks, e.received, e.useful, e.served, e.seen, e.met, e.configured, e.local)
        addrs = [
            (peer, a.addr, a.origin, a.told, a.success, a.failure, a.seconds, a.successes, a.failures)
            for a in e.addrs.values()
        ]
        return row, addrs

    def _write(self, peers: list[str], rows: list[_Rows | None]) -> None:
        with self._db.write() as db:
            db.executemany("DELETE FROM known_peers WHERE peer = ?", [(peer,) for peer in peers])
            db.executemany("DELETE FROM known_addresses WHERE peer = ?", [(peer,) for peer in peers])
            for row in rows:
                if row is not None:
                    db.execute("INSERT INTO known_peers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row[0])
                    db.executemany("INSERT INTO known_addresses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row[1])

    def status(self) -> dict[str, Any]:
        """How many peers of which kind, the most useful ones, and what went wrong, as plain JSON values."""
        best = sorted(
            (each for each in self._peers.values() if each.shelved in (Shelf.USEFUL, Shelf.LOCAL)),
            key=PeerEntry.last_use,
            reverse=True,
        )
        return {
            "peers": len(self._peers),
            "shelves": {shelf.name.lower(): self._counts[shelf] for shelf in Shelf},
            "best": [
                {
                    "peer": each.peer,
                    "agent": each.agent,
                    "addresses": list(each.best()),
                    "received": each.received,
                    "last_useful": each.useful or None,
                    "last_seen": each.seen or None,
                }
                for each in best[:10]
            ],
            "last_error": self._write_error,
        }


class KnownSource:
    """Known peers as a source: for any block, those that may have what a lab shares.

    The first is named after a head start for sources that know better.

    Args:
        known: the address book.
    """

    name = "known"

    def __init__(self, known: KnownPeers) -> None:
        self._known = known

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        """Whom to try; `multihash` makes no difference, since the book says nothing of blocks."""
        await trio.sleep(limits.KNOWN_HEAD_START)
        for peer, addrs in self._known.candidates(limits.MAX_KNOWN_PROVIDERS):
            yield Provider(peer, addrs, self.name)
