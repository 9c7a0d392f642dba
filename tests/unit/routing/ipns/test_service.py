"""Publishing, resolving, and keeping alive: against routes that have old, wrong, or no records, in virtual time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from kachery_p2p.errors import ContentNotFound, DialError, InvalidName, InvalidRecord, RoutingError
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.private import too_open
from kachery_p2p.repo.keys import load_or_create_identity, new_identity
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.dht import records
from kachery_p2p.routing.dht.records import read_ipns
from kachery_p2p.routing.ipns import limits
from kachery_p2p.routing.ipns.limits import IpnsTimes
from kachery_p2p.routing.ipns.making import Terms, make_record
from kachery_p2p.routing.ipns.names import name_text, routing_key
from kachery_p2p.routing.ipns.seen import SeenRecords
from kachery_p2p.routing.ipns.service import Names
from kachery_p2p.routing.ipns.shelf import Shelf
from tests.helpers.clocks import PatientClock

NS = 10**9
A, B, C = (f"/ipfs/bafkqaa{letter}" for letter in "abc")
KEY = new_identity()
NAME = peer_bytes(KEY.peer_id)
TEXT = name_text(NAME)


#: Looks at the clock every hour: each look takes a moment of real time, and these tests last for days.
SELDOM = IpnsTimes(look=3600.0)


class World:
    """A clock of the wall that goes with trio's, and what the others keep."""

    def __init__(self) -> None:
        self.ahead = 1_800_000_000.0

    def now(self) -> float:
        return self.ahead + trio.current_time()


class Route:
    """Others who keep records, and check them as a DHT does. `slow` seconds pass before they answer."""

    def __init__(self, world: World, *, slow: float = 0.0, broken: bool = False, takes: int = 3) -> None:
        self.name = "route"
        self.world = world
        self.slow, self.broken, self.takes = slow, broken, takes
        self.kept: dict[bytes, bytes] = {}
        self.puts: list[bytes] = []

    async def put_value(self, key: bytes, value: bytes) -> int:
        await trio.sleep(self.slow)
        if self.broken:
            raise RoutingError("It is broken.")
        records.validate(key, value, self.world.now())
        if not self.takes:
            return 0
        held = self.kept.get(key)
        if held is not None and records.select(key, [value, held]) != 0:
            return 0
        self.kept[key] = value
        self.puts.append(value)
        return self.takes

    async def get_value(self, key: bytes, found: Callable[[bytes], None]) -> None:
        await trio.sleep(self.slow)
        if self.broken:
            raise RoutingError("It is broken.")
        if key in self.kept:
            records.validate(key, self.kept[key], self.world.now())
            found(self.kept[key])


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def db() -> Iterator[Database]:
    found = Database(None)
    yield found
    found.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "data").mkdir(mode=0o700)
    load_or_create_identity(tmp_path / "data")
    return Shelf(tmp_path / "data")


def record(world: World, path: str, sequence: int, *, lasts: float = 3600.0, ttl: float = 0.0, key=KEY) -> bytes:
    terms = Terms(sequence, int((world.now() + lasts) * NS))
    return make_record(key.seed, path.encode(), terms, int(ttl * NS))


def says(raw: bytes, name: bytes = NAME) -> tuple[str, int]:
    found = read_ipns(name, raw)
    return found.value.decode(), found.sequence


# --- publishing -------------------------------------------------------------------------------------------------------


async def test_what_is_published_is_found(
    world: World, db: Database, shelf: Shelf, patient_clock: PatientClock
) -> None:
    """A name points to what was published last; the number goes up with each change, and not without."""
    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    sent = await names.publish("work", A, ttl=300, timeout=60)
    assert sent.copies == 3
    assert says(sent.record, sent.name) == (A, 0)
    assert read_ipns(sent.name, sent.record).ttl == 300 * NS
    await trio.sleep(1)
    assert says((await names.publish("work", A, ttl=300, timeout=60)).record, sent.name) == (A, 0)
    assert says((await names.publish("work", B, ttl=300, timeout=60)).record, sent.name) == (B, 1)
    found = await names.resolve(name_text(sent.name), timeout=30)
    assert (found.path, found.fresh) == (B, True)
    assert says(route.kept[routing_key(sent.name)], sent.name) == (B, 1)


async def test_keys_are_private_and_stay(
    world: World, db: Database, shelf: Shelf, tmp_path: Path, patient_clock
) -> None:
    """Each key is a name of its own; its file is for its owner alone, and the same after a restart."""
    names = Names(shelf, SeenRecords(db), [Route(world)], wall=world.now)
    one = await names.publish("one", A, ttl=0, timeout=60)
    two = await names.publish("two", A, ttl=0, timeout=60)
    own = await names.publish("self", A, ttl=0, timeout=60)
    assert len({one.name, two.name, own.name}) == 3
    assert own.name == peer_bytes(load_or_create_identity(tmp_path / "data").peer_id)
    for path in (tmp_path / "data" / "ipns").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    os.chmod(tmp_path / "data" / "ipns" / "two" / "private.pem", 0o644)
    assert any("ipns/two/private.pem" in each for each in too_open(tmp_path / "data"))
    again = Names(Shelf(tmp_path / "data"), SeenRecords(db), [], wall=world.now)
    assert (await again.publish("one", B, ttl=0, timeout=60)).name == one.name


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "../x", "-rf", ".hidden", "x" * 65, "naïve", "a b"])
async def test_names_of_keys(world: World, db: Database, shelf: Shelf, key: str, patient_clock: PatientClock) -> None:
    """What could lead out of the folder, or means something to a shell, cannot be the name of a key."""
    names = Names(shelf, SeenRecords(db), [], wall=world.now)
    with pytest.raises(InvalidName, match="name of a key"):
        await names.publish(key, A, ttl=0, timeout=60)


async def test_publishing_never_goes_back(
    world: World, db: Database, shelf: Shelf, patient_clock: PatientClock
) -> None:
    """Another machine with the same key has published since: ours goes on from its number, whatever ours was."""
    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    sent = await names.publish("work", A, ttl=0, timeout=60)
    key = shelf.key("work", make=False)
    assert key is not None
    route.kept[routing_key(sent.name)] = record(world, B, 41, key=key)
    again = await names.publish("work", C, ttl=0, timeout=60)
    assert says(again.record, sent.name) == (C, 42)
    assert again.copies == 3


async def test_a_clock_that_went_back(world: World, db: Database, shelf: Shelf, patient_clock: PatientClock) -> None:
    """The machine's clock is set back by a day: what is published then counts all the same."""
    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    sent = await names.publish("work", A, ttl=0, timeout=60)
    world.ahead -= 86_400
    again = await names.publish("work", A, ttl=0, timeout=60)
    assert (says(again.record, sent.name), again.copies) == ((A, 1), 3)


async def test_nobody_takes_it_now(world: World, db: Database, shelf: Shelf, nursery, patient_clock) -> None:
    """Without anybody to send it to it is kept, and sent as soon as there is somebody."""
    route = Route(world, broken=True)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    await nursery.start(names.run)
    sent = await names.publish("work", A, ttl=0, timeout=60)
    assert sent.copies == 0
    await trio.sleep(3 * limits.RETRY_FIRST)
    route.broken = False
    await trio.sleep(2 * limits.RETRY_MOST)
    assert says(route.kept[routing_key(sent.name)], sent.name)[0] == A


async def test_what_nobody_took_counts_more_than_what_others_have(
    world: World, db: Database, shelf: Shelf, nursery: trio.Nursery, patient_clock: PatientClock
) -> None:
    """Published while offline, with a number that another machine had used already: it is sent under the next one."""
    route = Route(world, broken=True)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    sent = await names.publish("work", A, ttl=0, timeout=60)
    key = shelf.key("work", make=False)
    assert key is not None
    route.kept[routing_key(sent.name)] = record(world, B, 5, key=key)
    route.broken = False
    await nursery.start(names.run)
    await trio.sleep(limits.RETRY_MOST)
    assert says(route.kept[routing_key(sent.name)], sent.name) == (A, 6)


# --- keeping alive ----------------------------------------------------------------------------------------------------


async def test_names_are_kept_alive(world: World, db: Database, shelf: Shelf, nursery, patient_clock) -> None:
    """A record is signed and sent again every four hours, so that it never expires; its number stays."""
    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now, times=SELDOM)
    sent = await names.publish("work", A, ttl=7, timeout=60)
    await nursery.start(names.run)
    for _ in range(15):
        await trio.sleep(4 * 3600)
        kept = read_ipns(sent.name, route.kept[routing_key(sent.name)])
        assert (kept.value.decode(), kept.sequence, kept.ttl) == (A, 0, 7 * NS)
        assert kept.valid_until > (world.now() + 40 * 3600) * NS
    assert 12 <= len(route.puts) <= 17


async def test_a_restart_does_not_send_again_too_soon(
    world: World, db: Database, shelf: Shelf, tmp_path: Path, nursery, patient_clock
) -> None:
    """Scripts that start and end do not each send all names; one that comes late does."""
    route = Route(world)
    sent = await Names(shelf, SeenRecords(db), [route], wall=world.now).publish("work", A, ttl=0, timeout=60)
    again = Names(Shelf(tmp_path / "data"), SeenRecords(db), [route], wall=world.now, times=SELDOM)
    await nursery.start(again.run)
    await trio.sleep(3600)
    assert len(route.puts) == 1
    await trio.sleep(60 * 3600)
    assert len(route.puts) > 10
    assert says(route.kept[routing_key(sent.name)], sent.name) == (A, 0)


async def test_a_laptop_that_slept(world: World, db: Database, shelf: Shelf, nursery, patient_clock) -> None:
    """The clock of the wall jumps by three days, and the name has expired: it is alive again after a minute."""
    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    sent = await names.publish("work", A, ttl=0, timeout=60)
    await nursery.start(names.run)
    await trio.sleep(100)
    world.ahead += 3 * 86_400
    route.kept.clear()
    await trio.sleep(2 * limits.LOOK_INTERVAL)
    assert says(route.kept[routing_key(sent.name)], sent.name) == (A, 0)


async def test_another_publisher_is_followed(world: World, db: Database, shelf: Shelf, nursery, patient_clock) -> None:
    """Another machine with the key has published something newer: it is kept alive, and not what we had."""
    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now, times=SELDOM)
    sent = await names.publish("work", A, ttl=0, timeout=60)
    key = shelf.key("work", make=False)
    assert key is not None
    route.kept[routing_key(sent.name)] = record(world, B, 9, key=key, ttl=11, lasts=40 * 3600)
    await nursery.start(names.run)
    await trio.sleep(5 * 3600)
    kept = read_ipns(sent.name, route.kept[routing_key(sent.name)])
    assert (kept.value.decode(), kept.sequence, kept.ttl) == (B, 9, 11 * NS)
    assert kept.valid_until > (world.now() + 40 * 3600) * NS


async def test_a_damaged_shelf_keeps_the_rest(
    world: World, db: Database, shelf: Shelf, tmp_path: Path, nursery, patient_clock
) -> None:
    """A record or key that was damaged on the disk costs its own name, and no other."""
    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now, times=SELDOM)
    good = await names.publish("good", A, ttl=0, timeout=60)
    for bad in ("bad", "worse"):
        await names.publish(bad, A, ttl=0, timeout=60)
    os.truncate(tmp_path / "data" / "ipns" / "bad" / "record", 40)
    (tmp_path / "data" / "ipns" / "worse" / "private.pem").write_text("nonsense")
    (tmp_path / "data" / "ipns" / "no folder").write_text("nothing to do with it")
    route.kept.clear()
    await nursery.start(names.run)
    await trio.sleep(5 * 3600)
    assert says(route.kept[routing_key(good.name)], good.name) == (A, 0)


# --- resolving --------------------------------------------------------------------------------------------------------


async def test_the_newest_of_all_routes(world: World, db: Database, shelf: Shelf, patient_clock: PatientClock) -> None:
    """One route has an old record at once, another the newer one a moment later: the newer counts."""
    quick, slow = Route(world), Route(world, slow=limits.LINGER / 2)
    quick.kept[routing_key(NAME)] = record(world, A, 1)
    slow.kept[routing_key(NAME)] = record(world, B, 2)
    names = Names(shelf, SeenRecords(db), [quick, slow, Route(world, broken=True)], wall=world.now)
    assert (await names.resolve(TEXT, timeout=30)).path == B


async def test_a_slow_route_is_not_waited_for(world: World, db: Database, shelf: Shelf, patient_clock) -> None:
    """Once one has answered, the others have some seconds; without an answer it ends with the time that it has."""
    quick, never = Route(world), Route(world, slow=1e6)
    quick.kept[routing_key(NAME)] = record(world, A, 1)
    names = Names(shelf, SeenRecords(db), [quick, never], wall=world.now)
    begun = trio.current_time()
    assert (await names.resolve(TEXT, timeout=30)).path == A
    assert trio.current_time() - begun == pytest.approx(limits.LINGER)
    begun = trio.current_time()
    with pytest.raises(ContentNotFound, match="has a valid record of the name"):
        await Names(shelf, SeenRecords(db), [never], wall=world.now).resolve(name_text(OTHER), timeout=7)
    assert trio.current_time() - begun == pytest.approx(7)


OTHER = peer_bytes(new_identity().peer_id)


async def test_a_record_is_remembered_for_its_ttl(world: World, db: Database, shelf: Shelf, patient_clock) -> None:
    """Nobody is asked again before that, an hour at most; then the newer one is found, also after a restart."""
    route = Route(world)
    route.kept[routing_key(NAME)] = record(world, A, 1, ttl=100)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    assert (await names.resolve(TEXT, timeout=30)).path == A
    route.kept[routing_key(NAME)] = record(world, B, 2, ttl=10**6, lasts=10**7)
    await trio.sleep(99)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    assert (await names.resolve(TEXT, timeout=30)).path == A
    await trio.sleep(2)
    assert (await names.resolve(TEXT, timeout=30)).path == B
    route.kept[routing_key(NAME)] = record(world, C, 3, lasts=10**7)
    await trio.sleep(limits.MAX_TTL + 1)
    assert (await names.resolve(TEXT, timeout=30)).path == C


async def test_a_record_that_was_rolled_back(world: World, db: Database, shelf: Shelf, patient_clock) -> None:
    """Who sends an older record, valid as it may be, is not believed, also after a restart."""
    route = Route(world)
    route.kept[routing_key(NAME)] = record(world, B, 2, lasts=1000)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    assert (await names.resolve(TEXT, timeout=30)).path == B
    route.kept[routing_key(NAME)] = record(world, A, 1, lasts=1000)
    assert (await names.resolve(TEXT, timeout=30)).path == B
    assert (await Names(shelf, SeenRecords(db), [route], wall=world.now).resolve(TEXT, timeout=30)).path == B


async def test_nobody_answers_now(world: World, db: Database, shelf: Shelf, patient_clock: PatientClock) -> None:
    """What was seen stands in while it is valid, and is said not to be fresh; once expired it is nothing."""
    route = Route(world)
    route.kept[routing_key(NAME)] = record(world, A, 1, lasts=1000)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    await names.resolve(TEXT, timeout=30)
    route.broken = True
    await trio.sleep(900)
    found = await names.resolve(TEXT, timeout=30)
    assert (found.path, found.fresh) == (A, False)
    await trio.sleep(200)
    with pytest.raises(ContentNotFound, match="has expired"):
        await names.resolve(TEXT, timeout=30)


async def test_our_own_names_need_nobody(world: World, db: Database, shelf: Shelf, patient_clock) -> None:
    """A name of this machine is known here."""
    sent = await Names(shelf, SeenRecords(db), [], wall=world.now).publish("work", A, ttl=0, timeout=60)
    fresh = Database(None)
    found = await Names(shelf, SeenRecords(fresh), [], wall=world.now).resolve(name_text(sent.name), timeout=30)
    fresh.close()
    assert (found.path, found.fresh) == (A, True)


async def test_names_that_lead_to_names(world: World, db: Database, shelf: Shelf, patient_clock: PatientClock) -> None:
    """A name may point to another one, with a path on each; a circle ends, and so does what is no content."""
    second = new_identity()
    route = Route(world)
    route.kept[routing_key(NAME)] = record(world, f"/ipns/{second.peer_id}/b", 0)
    route.kept[routing_key(peer_bytes(second.peer_id))] = record(world, A + "/a", 0, key=second)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    found = await names.resolve(TEXT, timeout=30)
    assert (found.path, found.names) == (A + "/a/b", (TEXT, second.peer_id))
    route.kept[routing_key(peer_bytes(second.peer_id))] = record(world, f"/ipns/{TEXT}", 1, key=second)
    with pytest.raises(InvalidName, match="from name to name"):
        await names.resolve(TEXT, timeout=30)
    route.kept[routing_key(NAME)] = record(world, "https://example.org", 1)
    with pytest.raises(InvalidName, match="no content"):
        await names.resolve(TEXT, timeout=30)
    route.kept[routing_key(NAME)] = make_record(KEY.seed, b"/ipfs/\xff", Terms(2, int((world.now() + 9) * NS)), 0)
    with pytest.raises(InvalidName, match="no text"):
        await names.resolve(TEXT, timeout=30)


async def test_names_of_the_dns(world: World, db: Database, shelf: Shelf, patient_clock: PatientClock) -> None:
    """DNSLink is followed where public services are on, and refused in a sentence where they are off."""
    route = Route(world)
    route.kept[routing_key(NAME)] = record(world, A, 0)
    asked: list[str] = []

    async def txt(name: str) -> list[str]:
        asked.append(name)
        if "nowhere" in name:
            raise DialError("no such name")
        return ["v=spf1 -all", f"dnslink=/ipns/{TEXT}/x"] if "data" in name else ["something else"]

    names = Names(shelf, SeenRecords(db), [route], txt=txt, wall=world.now)
    assert (await names.resolve("data.example.org", timeout=30)).path == A + "/x"
    assert asked == ["_dnslink.data.example.org"]
    for domain in ("nowhere.example.org", "plain.example.org"):
        with pytest.raises(ContentNotFound, match=domain):
            await names.resolve(domain, timeout=30)
    with pytest.raises(InvalidName, match="not the name of a key"):
        await names.resolve("word", timeout=30)
    with pytest.raises(InvalidName, match="public services are switched off"):
        await Names(shelf, SeenRecords(db), [route], wall=world.now).resolve("data.example.org", timeout=30)


def test_what_was_seen_is_bounded(db: Database) -> None:
    """Those not heard of for longest make room."""
    seen = SeenRecords(db, most=3)
    for number in range(5):
        seen.put(bytes([number]), b"record", float(number))
    assert [number for number in range(5) if seen.get(bytes([number])) is not None] == [2, 3, 4]


async def test_a_greatest_number(world: World, db: Database, shelf: Shelf, patient_clock: PatientClock) -> None:
    """A name whose number cannot go up is said to be at its end."""
    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], wall=world.now)
    sent = await names.publish("work", A, ttl=0, timeout=60)
    key = shelf.key("work", make=False)
    assert key is not None
    route.kept[routing_key(sent.name)] = record(world, B, 2**64 - 1, key=key)
    with pytest.raises(InvalidRecord, match="greatest sequence number"):
        await names.publish("work", C, ttl=0, timeout=60)


async def test_how_long_it_may_be_remembered(
    world: World, db: Database, shelf: Shelf, patient_clock: PatientClock
) -> None:
    """As the record says, counted from when it was heard, and never past its end; a minute where nobody confirms it
    now, and for names of the DNS; through several names the shortest of them. A record says it by itself, too."""

    async def txt(name: str) -> list[str]:
        return [f"dnslink=/ipns/{TEXT}"]

    route = Route(world)
    names = Names(shelf, SeenRecords(db), [route], txt=txt, wall=world.now)

    async def ttl(name: str = TEXT) -> float:
        return round((await names.resolve(name, timeout=30)).ttl)

    route.kept[routing_key(NAME)] = record(world, A, 1, ttl=300, lasts=1000)
    assert await ttl() == 300
    assert await ttl("data.example.org") == 60
    await trio.sleep(100)
    signed = await names.record(TEXT, timeout=30)
    assert (signed.raw, round(signed.ttl), signed.fresh) == (route.kept[routing_key(NAME)], 200, True)
    assert await ttl() == 200
    other = new_identity()
    own = name_text(peer_bytes(other.peer_id))
    route.kept[routing_key(peer_bytes(other.peer_id))] = record(world, f"/ipns/{TEXT}", 1, ttl=3000, key=other)
    assert await ttl(own) == 200
    await trio.sleep(750)
    assert await ttl() == 150  # it ends then
    route.kept.clear()
    world.ahead += 145
    assert (round((await names.record(TEXT, timeout=0)).ttl), (await names.resolve(TEXT, timeout=0)).fresh) == (5, True)
    route.kept[routing_key(NAME)] = record(world, A, 2, ttl=10)
    assert await ttl() == 5
    await trio.sleep(6)
    assert await ttl() == 10
    await trio.sleep(11)
    route.broken = True
    assert (await names.resolve(TEXT, timeout=30)).fresh is False
    assert await ttl() == 60
    for wrong in ("data.example.org", "nonsense"):
        with pytest.raises(InvalidName):
            await names.record(wrong, timeout=30)


async def test_what_may_not_be_told_any_more(world: World, db: Database, shelf: Shelf, nursery, patient_clock) -> None:
    """A name that points to what is not for everybody now is not renewed: its record runs out. If that changes, or it
    points to something else, it is."""
    route = Route(world)
    hidden = {A}

    async def may_tell(path: str) -> bool:
        return path not in hidden

    hidden.clear()
    names = Names(shelf, SeenRecords(db), [route], may_tell=may_tell, wall=world.now, times=SELDOM)
    sent = await names.publish("work", A, ttl=0, timeout=60)
    until = read_ipns(sent.name, route.kept[routing_key(sent.name)]).valid_until
    hidden.add(A)
    await nursery.start(names.run)
    await trio.sleep(3 * 24 * 3600)
    assert (len(route.puts), read_ipns(sent.name, route.puts[-1]).valid_until) == (1, until)
    assert until < world.now() * NS
    hidden.clear()
    names.look_again()
    await trio.sleep(4 * 3600)
    assert len(route.puts) >= 2
    hidden.add(A)
    await names.publish("work", B, ttl=0, timeout=60)
    assert says(route.puts[-1], sent.name)[0] == B
