"""The address book: who matters stays, strangers come and go, and nothing is lost by a crash."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import base58
import pytest
import trio
import trio.testing

from kachery_p2p.errors import DiskFull
from kachery_p2p.routing import limits
from kachery_p2p.routing.address_book import KnownPeers, KnownSource
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.interfaces import Provider

DAY = 86400.0
KAD = "/ipfs/kad/1.0.0"


def peer(number: int) -> str:
    """A peer ID of its own for each number."""
    return base58.b58encode(b"\x12\x20" + number.to_bytes(32, "big")).decode()


def wan(number: int, port: int = 4001) -> str:
    """A public address; every number is in a network of its own."""
    return f"/ip4/{11 + number // 256 % 100}.{number % 256}.1.1/tcp/{port}"


class Clock:
    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


class Book:
    """An address book that can be closed and opened again."""

    def __init__(self, path: Path | None = None) -> None:
        self.wall = Clock()
        self.db = Database(path)
        self.known = KnownPeers(self.db, local=peer(0), wall=self.wall)

    async def reopen(self) -> None:
        await self.known.flush()
        self.known = KnownPeers(self.db, local=peer(0), wall=self.wall)


@pytest.fixture
def book() -> Iterator[Book]:
    book = Book()
    yield book
    book.db.close()


def names(candidates: list[tuple[str, tuple[str, ...]]]) -> list[str]:
    return [each for each, _ in candidates]


async def test_a_peer_that_gave_blocks_is_found_again(book: Book) -> None:
    """After one useful meeting the peer and its address are there after a restart."""
    book.known.connected(peer(1), wan(1), 0.02)
    book.known.identified(peer(1), [wan(1)], "kachery-cloud/1", [KAD, "/ipfs/bitswap/1.2.0"])
    book.known.useful(peer(1), 1 << 20)
    await book.reopen()
    assert book.known.candidates(10) == [(peer(1), (wan(1),))]
    (best,) = book.known.status()["best"]
    assert (best["agent"], best["received"]) == ("kachery-cloud/1", 1 << 20)


async def test_candidates_are_the_machines_of_the_lab(book: Book) -> None:
    """Useful, configured and local peers by their last use; then whom we served; never strangers of the DHT."""
    known = book.known
    for n in range(50, 60):
        known.connected(peer(n), wan(n), 0.1)
        known.identified(peer(n), [wan(n)], "kubo", [KAD])
    known.connected(peer(1), wan(1))
    known.useful(peer(1), 10)
    book.wall.now += 10
    known.heard(peer(2), [wan(2)], "configured")
    book.wall.now += 10
    known.heard(peer(3), ["/ip4/192.168.1.3/tcp/4001"], "mdns")
    known.connected(peer(3), "/ip4/192.168.1.3/tcp/4001")
    book.wall.now += 10
    known.connected(peer(4))
    known.identified(peer(4), [wan(4)], "kachery", [])
    known.served(peer(4))
    assert names(known.candidates(10)) == [peer(3), peer(2), peer(1), peer(4)]
    assert names(known.candidates(2)) == [peer(3), peer(2)]
    book.wall.now += 10
    known.useful(peer(1), 10)
    assert names(known.candidates(1)) == [peer(1)]
    await book.reopen()
    assert names(book.known.candidates(10)) == [peer(1), peer(3), peer(2), peer(4)]


async def test_mdns_alone_makes_nobody_local(book: Book) -> None:
    """Anyone can shout names into a network: a peer is local when it proved who it is."""
    book.known.heard(peer(1), ["/ip4/192.168.1.9/tcp/1"], "mdns")
    assert book.known.candidates(10) == []
    book.known.connected(peer(1))
    assert names(book.known.candidates(10)) == [peer(1)]


async def test_proven_addresses_come_first(book: Book) -> None:
    """Dialled ones by speed, then configured, told and rumoured ones; those that failed last; relays after direct."""
    known = book.known
    relay = f"{wan(9)}/p2p/{peer(9)}/p2p-circuit"
    known.heard(peer(1), [wan(5)], "dht")
    known.identified(peer(1), [wan(4), relay], "", [])
    known.heard(peer(1), [wan(3)], "configured")
    known.connected(peer(1), wan(2), 0.5)
    known.connected(peer(1), wan(1), 0.01)
    known.connected(peer(1), wan(6), 0.001)
    known.failed(peer(1), wan(6))
    expected = (wan(1), wan(2), wan(3), wan(4), relay, wan(6), wan(5))
    assert known.addresses(peer(1)) == expected
    await book.reopen()
    assert book.known.addresses(peer(1)) == expected
    book.known.connected(peer(1), wan(6), 0.001)
    assert book.known.addresses(peer(1))[0] == wan(6)
    book.known.connected(peer(1), wan(7))
    book.known.connected(peer(1), wan(6))
    assert book.known.addresses(peer(1))[:4] == (wan(6), wan(1), wan(2), wan(7))


async def test_what_others_say_proves_nothing(book: Book) -> None:
    """Thousands of rumoured addresses neither push out a proven one nor come before it, nor make a DHT seed."""
    known = book.known
    known.connected(peer(1), wan(1), 3.0)
    known.useful(peer(1), 1)
    for n in range(100, 2000, 10):
        known.heard(peer(1), [wan(k) for k in range(n, n + 10)], "dht")
        known.identified(peer(1), [wan(k, 4002) for k in range(n, n + 10)], "", [KAD])
    addrs = known.addresses(peer(1))
    assert addrs[0] == wan(1)
    assert len(addrs) == 1 + limits.MAX_UNPROVEN_PER_PEER
    known.heard(peer(2), [wan(2)], "dht")
    known.identified(peer(2), [wan(2)], "", [KAD])
    assert names(known.dht_seeds(10)) == [peer(1)]


async def test_seeds_of_the_dht_are_spread(book: Book) -> None:
    """Servers of that DHT that answered us, latest first, and only a few of any one network."""
    known = book.known
    for n in range(1, 40):
        book.wall.now += 1
        known.connected(peer(n), f"/ip4/11.0.{n}.1/tcp/4001", 0.1)
        known.identified(peer(n), [], "kubo", [KAD])
    for n in range(50, 55):
        book.wall.now += 1
        known.connected(peer(n), wan(n), 0.1)
        known.identified(peer(n), [], "kubo", [KAD])
    known.connected(peer(60), wan(60), 0.1)
    known.identified(peer(60), [], "kubo", ["/ipfs/lan/kad/1.0.0"])
    assert names(known.dht_seeds(20)) == [*(peer(n) for n in (54, 53, 52, 51, 50)), peer(39), peer(38)]
    assert names(known.dht_seeds(3)) == [peer(54), peer(53), peer(52)]
    assert names(known.dht_seeds(5, "/ipfs/lan/kad/1.0.0")) == [peer(60)]
    await book.reopen()
    assert len(book.known.dht_seeds(20)) == 7


async def test_a_flood_of_strangers_evicts_no_friend(book: Book) -> None:
    """However many strangers come in whatever way, the lab's machines stay, and so does the book's size."""
    known = book.known
    for n in range(1, 11):
        known.connected(peer(n), wan(n), 0.01)
        known.useful(peer(n), 1 << 30)
    known.heard(peer(11), [wan(11)], "configured")
    rng = random.Random(1)
    for n in range(1000, 6000):
        book.wall.now += 0.01
        match rng.randrange(4):
            case 0:
                known.connected(peer(n), wan(n), 0.1)
            case 1:
                known.connected(peer(n))
                known.identified(peer(n), [wan(k) for k in range(30)], "x" * 10000, [KAD])
            case 2:
                known.heard(peer(n), [wan(n)], "mdns")
            case _:
                known.served(peer(n))
    assert set(names(known.candidates(11))) == {peer(n) for n in range(1, 12)}
    room = limits.MAX_MET_STRANGERS + limits.MAX_HEARD_STRANGERS + limits.MAX_SERVED_PEERS
    assert len(known) <= 11 + room
    counts = known.status()["shelves"]
    assert sum(counts.values()) == len(known)
    await book.reopen()
    assert book.known.status()["shelves"] == counts


async def test_many_small_gifts_do_not_evict_a_big_one(book: Book) -> None:
    """Identities that each gave one small block cannot push out the machine that gave terabytes."""
    book.known.connected(peer(1), wan(1), 0.01)
    book.known.useful(peer(1), 1 << 40)
    for n in range(1000, 1000 + 3 * limits.MAX_USEFUL_PEERS):
        book.wall.now += 1
        book.known.useful(peer(n), 1000)
    assert peer(1) in book.known
    assert len(book.known) <= limits.MAX_USEFUL_PEERS


async def test_one_network_does_not_fill_the_strangers_shelf(book: Book) -> None:
    """Strangers of a single network do not push out those of all others: seeds stay spread."""
    known = book.known
    for n in range(1, 21):
        known.connected(peer(n), wan(n), 0.1)
        known.identified(peer(n), [], "kubo", [KAD])
    for n in range(1000, 1000 + 3 * limits.MAX_MET_STRANGERS):
        book.wall.now += 1
        known.connected(peer(n), f"/ip4/99.9.{n % 250}.{1 + n // 250}/tcp/4001", 0.1)
    assert all(peer(n) in known for n in range(1, 21))


async def test_people_are_forgotten_in_time(book: Book) -> None:
    """Strangers after days, machines of the lab after months; a clock that ran ahead makes nobody immortal."""
    known = book.known
    known.connected(peer(1), wan(1), 0.1)
    known.connected(peer(2), wan(2), 0.1)
    known.useful(peer(2), 1)
    book.wall.now += 1000 * DAY
    known.connected(peer(3), wan(3), 0.1)
    known.useful(peer(3), 1)
    book.wall.now -= 1000 * DAY
    book.wall.now += (limits.STRANGER_DAYS + 1) * DAY
    await book.reopen()
    assert peer(1) not in book.known
    assert peer(2) in book.known
    book.wall.now += (limits.USEFUL_DAYS - limits.STRANGER_DAYS) * DAY
    await book.reopen()
    assert peer(2) not in book.known
    assert peer(3) in book.known
    book.wall.now += 2 * limits.STRANGER_DAYS * DAY
    await book.reopen()
    assert len(book.known) == 0


async def test_addresses_that_fail_for_weeks_are_dropped(book: Book) -> None:
    """A dead address goes after a month of failures; the last one of a useful machine stays."""
    known = book.known
    known.connected(peer(1), wan(1), 0.1)
    known.connected(peer(1), wan(2), 0.1)
    known.useful(peer(1), 1)
    for _ in range(50):
        book.wall.now += DAY
        known.connected(peer(1), wan(2), 0.1)
        known.failed(peer(1), wan(1))
    assert known.addresses(peer(1)) == (wan(2),)
    for _ in range(50):
        book.wall.now += DAY
        known.failed(peer(1), wan(2))
    assert known.addresses(peer(1)) == (wan(2),)


async def test_a_laptop_that_is_closed_is_not_forgotten(book: Book) -> None:
    """A thousand failures within an hour drop nothing: the machine is off, not gone."""
    book.known.connected(peer(1), wan(1), 0.1)
    book.known.connected(peer(1), wan(2), 0.1)
    for _ in range(1000):
        book.wall.now += 3
        book.known.failed(peer(1), wan(1))
    assert book.known.addresses(peer(1)) == (wan(2), wan(1))


async def test_peers_that_just_failed_rest(book: Book) -> None:
    """A peer none of whose addresses answered is left out for a minute, and comes after the others from then on."""
    known = book.known
    for n in (1, 2):
        known.connected(peer(n), wan(n), 0.1)
        known.useful(peer(n), 1)
        book.wall.now += 1
    for _ in range(limits.MIN_FAILURES_TO_DROP):
        known.failed(peer(2), wan(2))
    assert names(known.candidates(5)) == [peer(1)]
    book.wall.now += limits.DEAD_PAUSE + 1
    assert names(known.candidates(5)) == [peer(1), peer(2)]


async def test_nonsense_is_not_entered(book: Book) -> None:
    """What is no peer ID, is our own, or is no address that can be dialled, leaves no trace."""
    known = book.known
    known.connected("not a peer", wan(1))
    known.connected(peer(0), wan(1))
    known.useful(peer(0), 5)
    known.useful(peer(5), 0)
    known.failed(peer(8), wan(1))
    assert [known.addresses(each) for each in ("not a peer", peer(0), peer(8))] == [(), (), ()]
    known.identified(peer(1), ["junk", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/0.0.0.0/tcp/1"], "a\nb\x1b", [])
    assert known.addresses(peer(1)) == ()


async def test_forgotten_is_forgotten(book: Book) -> None:
    """A peer that is taken out does not come back with the next start."""
    book.known.connected(peer(1), wan(1), 0.1)
    book.known.useful(peer(1), 1)
    await book.reopen()
    book.known.forget(peer(1))
    await book.reopen()
    assert peer(1) not in book.known


@contextlib.asynccontextmanager
async def running(known: KnownPeers) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(known.run)
        yield
        nursery.cancel_scope.cancel()


def rows(db: Database) -> int:
    return len(db.read("SELECT peer FROM known_peers"))


async def test_writing_waits_and_the_end_writes_all(
    book: Book, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events cause no write of their own; they are written every half minute, and when the node stops."""

    async def no_thread(function: object, *args: object) -> object:
        await trio.lowlevel.checkpoint()
        assert callable(function)
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    async with running(book.known):
        for n in range(1, 20):
            book.known.connected(peer(n), wan(n), 0.1)
            await trio.sleep(0.1)
        assert rows(book.db) == 0
        await trio.sleep(limits.FLUSH_SECONDS + 1)
        assert rows(book.db) == 19
        book.known.connected(peer(30), wan(30), 0.1)
        book.known.useful(peer(31), 5)
        await trio.sleep(limits.FLUSH_PAUSE + 0.1)
        assert rows(book.db) == 21
        book.known.connected(peer(32), wan(32), 0.1)
    assert rows(book.db) == 22


async def test_a_write_for_somebody_else_wakes_nobody_too_late(
    book: Book, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is worth writing at once is written at once, also when all was written for another reason while the book
    waited. It once went on waiting for an event that was no longer the one to be set."""

    async def no_thread(function: object, *args: object) -> object:
        await trio.lowlevel.checkpoint()
        assert callable(function)
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    async with running(book.known):
        await trio.testing.wait_all_tasks_blocked()
        await book.known.flush()
        book.known.useful(peer(1), 5)
        await trio.sleep(0.1)
        assert rows(book.db) == 1


async def test_a_full_disk_costs_nothing_but_time(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails shows in the status, and is made up for later."""
    book.known.connected(peer(1), wan(1), 0.1)

    def full(*args: object) -> None:
        raise DiskFull("No room on the disk for routing.sqlite.")

    with monkeypatch.context() as patch:
        patch.setattr(KnownPeers, "_write", full)
        await book.known.flush()
    assert rows(book.db) == 0
    assert "No room" in book.known.status()["last_error"]
    await book.known.flush()
    assert rows(book.db) == 1
    assert book.known.status()["last_error"] == ""


def test_the_first_useful_meeting_survives_a_kill(tmp_path: Path) -> None:
    """A process that is killed a moment after its first block has written down who gave it."""
    script = f"""
        import trio
        from pathlib import Path
        from kachery_p2p.routing.database import Database
        from kachery_p2p.routing.address_book import KnownPeers

        async def main():
            db = Database(Path({str(tmp_path / "routing.sqlite")!r}))
            known = KnownPeers(db)
            async with trio.open_nursery() as nursery:
                await nursery.start(known.run)
                known.connected({peer(1)!r}, {wan(1)!r}, 0.1)
                known.useful({peer(1)!r}, 1000)
                while not db.read("SELECT peer FROM known_peers"):
                    await trio.sleep(0.01)
                print("written", flush=True)
                await trio.sleep_forever()

        trio.run(main)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.kill()
    with closing(Database(tmp_path / "routing.sqlite")) as db:
        assert KnownPeers(db).candidates(5) == [(peer(1), (wan(1),))]


async def test_known_peers_as_a_source(book: Book, autojump_clock: trio.testing.MockClock) -> None:
    """For any block, after a head start, the candidates and no more than so many."""
    for n in range(1, 40):
        book.known.connected(peer(n), wan(n), 0.1)
        book.known.useful(peer(n), 1)
    source = KnownSource(book.known)
    begun = trio.current_time()
    found = [each async for each in source.find_providers(b"\x12\x20" + bytes(32))]
    assert trio.current_time() - begun == pytest.approx(limits.KNOWN_HEAD_START)
    assert len(found) == limits.MAX_KNOWN_PROVIDERS
    assert found[0] == Provider(peer(1), (wan(1),), "known")
