"""All sources as one: side by side, shared, bounded, and none in the way of another. In virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

import base58
import pytest
import trio
import trio.testing

from kachery_p2p.errors import DialError, RoutingError
from kachery_p2p.peer_ids import any_peer_id, peer_cid
from kachery_p2p.routing import limits, text
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.routing.router import Router, Sighting

KEY = b"\x12\x20" + bytes(32)
OTHER = b"\x12\x20" + bytes(31) + b"\x01"


def peer(number: int) -> str:
    """A peer ID of its own for each number."""
    return base58.b58encode(b"\x12\x20" + number.to_bytes(32, "big")).decode()


def addr(number: int) -> str:
    return f"/ip4/192.0.2.1/tcp/{number}"


class ScriptedSource:
    """Names what it is told to: (seconds to wait, peer, addresses), then ends, fails or hangs."""

    def __init__(
        self,
        name: str,
        script: Sequence[tuple[float, str, Sequence[str]]] = (),
        *,
        end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.script = script
        self.end = end
        self.asked = 0
        self.closed = 0

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        self.asked += 1
        try:
            for pause, name, addrs in self.script:
                await trio.sleep(pause)
                yield Provider(name, tuple(addrs), self.name)
            if self.end is not None:
                await self.end()
        finally:
            self.closed += 1


async def fail() -> None:
    raise DialError("Nobody answers at the other end.")


async def crash() -> None:
    raise ZeroDivisionError("oh")


@contextlib.asynccontextmanager
async def running(*sources: ScriptedSource, local: str = "") -> AsyncIterator[Router]:
    router = Router(sources, local=local, wall=lambda: 1e9)
    async with trio.open_nursery() as nursery:
        await nursery.start(router.run)
        yield router
        nursery.cancel_scope.cancel()


async def all_of(router: Router, key: bytes = KEY) -> list[Provider]:
    async with contextlib.aclosing(router.find_providers(key)) as found:
        return [each async for each in found]


async def first_of(router: Router, count: int, key: bytes = KEY) -> list[Provider]:
    got: list[Provider] = []
    async with contextlib.aclosing(router.find_providers(key)) as found:
        async for each in found:
            got.append(each)
            if len(got) == count:
                break
    return got


async def test_sources_are_asked_side_by_side(autojump_clock: trio.testing.MockClock) -> None:
    """Providers come in the order in which they are found, whichever source finds them."""
    fast = ScriptedSource("lan-dht", [(1, peer(1), [addr(1)]), (4, peer(3), [addr(3)])])
    slow = ScriptedSource("dht", [(2, peer(2), [addr(2)])])
    async with running(slow, fast) as router:
        begun = trio.current_time()
        found = await all_of(router)
        assert [each.peer for each in found] == [peer(1), peer(2), peer(3)]
        assert [each.source for each in found] == ["lan-dht", "dht", "lan-dht"]
        assert trio.current_time() - begun == pytest.approx(5)


@pytest.mark.parametrize("end", [trio.sleep_forever, fail, crash], ids=["hangs", "fails", "crashes"])
async def test_a_bad_source_holds_up_nobody(
    autojump_clock: trio.testing.MockClock, end: Callable[[], Awaitable[None]]
) -> None:
    """A source that hangs or fails costs neither the others' providers nor their time, and the find ends."""
    bad = ScriptedSource("dht", end=end)
    good = ScriptedSource("lan-dht", [(0.5, peer(1), [addr(1)])])
    async with running(bad, good) as router:
        begun = trio.current_time()
        assert await first_of(router, 1) == [Provider(peer(1), (addr(1),), "lan-dht")]
        assert trio.current_time() - begun == pytest.approx(0.5)
        assert len(await all_of(router)) == 1
        assert trio.current_time() - begun < 2 * limits.ASK_SECONDS


async def test_a_failing_source_is_recorded_and_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    """The status says in plain words what went wrong and when; the next find asks that source again."""
    bad = ScriptedSource("dht", end=fail)
    async with running(bad) as router:
        assert await all_of(router) == []
        status = router.status()["sources"]["dht"]
        assert status["failed"] == 1
        assert status["last_error"] == {"text": "Nobody answers at the other end.", "at": 1e9}
        bad.end, bad.script = None, [(0, peer(1), [addr(1)])]
        assert len(await all_of(router)) == 1
        assert router.status()["sources"]["dht"]["answered"] == 1


async def test_a_source_without_end_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """A search that never ends is ended, with what it found until then."""
    bad = ScriptedSource("dht", [(1, peer(1), [addr(1)])], end=trio.sleep_forever)
    async with running(bad) as router:
        begun = trio.current_time()
        assert len(await all_of(router)) == 1
        assert trio.current_time() - begun == pytest.approx(limits.ASK_SECONDS)
        assert "came to no end" in router.status()["sources"]["dht"]["last_error"]["text"]
        assert bad.closed == 1


async def test_duplicates_are_merged(autojump_clock: trio.testing.MockClock) -> None:
    """A peer comes once; again only when there are new addresses, and then with these alone."""
    one = ScriptedSource("lan-dht", [(1, peer(1), [addr(1)]), (2, peer(1), [addr(1)])])
    two = ScriptedSource("dht", [(2, peer(1), [addr(1), addr(2)]), (2, peer(1), []), (1, peer(2), [])])
    async with running(one, two) as router:
        assert await all_of(router) == [
            Provider(peer(1), (addr(1),), "lan-dht"),
            Provider(peer(1), (addr(2),), "dht"),
            Provider(peer(2), (), "dht"),
        ]


async def test_whereis_hears_every_source(autojump_clock: trio.testing.MockClock) -> None:
    """`search` gives a peer once per source, with the seconds that this source took."""
    one = ScriptedSource("lan-dht", [(1, peer(1), [addr(1)])])
    two = ScriptedSource("dht", [(3, peer(1), [addr(1)])])
    async with running(one, two) as router:
        async with contextlib.aclosing(router.search(KEY)) as found:
            seen = [each async for each in found]
        assert [each.provider.source for each in seen] == ["lan-dht", "dht"]
        assert [each.seconds for each in seen] == pytest.approx([1, 3])


async def test_our_own_peer_id_is_no_provider(autojump_clock: trio.testing.MockClock) -> None:
    """We are never told to dial ourselves, under any spelling of our ID."""
    me = peer(7)
    as_cid = "z" + base58.b58encode(b"\x01\x72" + base58.b58decode(me)).decode()
    source = ScriptedSource("dht", [(0, me, [addr(1)]), (0, as_cid, [addr(1)]), (0, peer(1), [addr(1)])])
    async with running(source, local=me) as router:
        assert [each.peer for each in await all_of(router)] == [peer(1)]


async def test_loads_of_one_block_share_one_search(autojump_clock: trio.testing.MockClock) -> None:
    """Callers of the same multihash cause one question per source, and late ones hear what was said before."""
    source = ScriptedSource("dht", [(1, peer(n), [addr(n)]) for n in range(1, 5)])
    results: list[list[Provider]] = []
    async with running(source) as router:

        async def caller(delay: float) -> None:
            await trio.sleep(delay)
            results.append(await all_of(router))

        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(caller, n * 0.35)
        assert source.asked == 1
        assert all([each.peer for each in result] == [peer(n) for n in range(1, 5)] for result in results)
        assert len(results) == 10


async def test_a_slow_caller_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """One caller that takes a provider and dawdles does not delay another."""
    source = ScriptedSource("dht", [(1, peer(n), [addr(n)]) for n in range(1, 5)])
    async with running(source) as router, contextlib.aclosing(router.find_providers(KEY)) as slow:
        await anext(slow)
        begun = trio.current_time()
        assert len(await all_of(router)) == 4
        assert trio.current_time() - begun == pytest.approx(3)
        assert len([each async for each in slow]) == 3


async def test_the_last_caller_to_leave_ends_the_search(autojump_clock: trio.testing.MockClock) -> None:
    """Closing a generator cancels a search that nobody else shares, and only such a one."""
    source = ScriptedSource("dht", [(1, peer(1), [])], end=trio.sleep_forever)
    async with running(source) as router:
        one, two = router.find_providers(KEY), router.find_providers(KEY)
        await anext(one)
        await anext(two)
        await one.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (source.closed, router.status()["finding"]) == (0, 1)
        await two.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (source.closed, router.status()["finding"]) == (1, 0)
        assert router.status()["sources"]["dht"]["running"] == 0


async def test_a_cancelled_caller_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    """A load that is cancelled while it waits ends its search."""
    source = ScriptedSource("dht", end=trio.sleep_forever)
    async with running(source) as router:
        with trio.move_on_after(1) as scope:
            await all_of(router)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert (source.closed, router.status()["finding"]) == (1, 0)


async def test_a_retry_storm_asks_once(autojump_clock: trio.testing.MockClock) -> None:
    """What a network source said is said again for some seconds, a "nobody" for a shorter time; `fresh` asks anew."""
    found = ScriptedSource("dht", [(1, peer(1), [addr(1)])])
    async with running(found) as router:
        for _ in range(20):
            assert len(await all_of(router)) == 1
        assert found.asked == 1
        async with contextlib.aclosing(router.search(KEY, fresh=True)) as again:
            assert len([each async for each in again]) == 1
        assert found.asked == 2
        await trio.sleep(limits.FOUND_SECONDS + 1)
        await all_of(router)
        assert found.asked == 3
        found.script = []
        for _ in range(20):
            await all_of(router, OTHER)
        assert found.asked == 4
        await trio.sleep(limits.NOTHING_SECONDS + 1)
        await all_of(router, OTHER)
        assert found.asked == 5


async def test_sources_in_memory_are_always_asked(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that has just been met is found at once: local sources are not answered from the past."""
    known = ScriptedSource("known")
    async with running(known) as router:
        assert await all_of(router) == []
        known.script = [(0, peer(1), [addr(1)])]
        assert len(await all_of(router)) == 1


async def test_recent_finds_are_in_the_status(autojump_clock: trio.testing.MockClock) -> None:
    """The status says what was found where and how fast, the latest first, and no more than so many."""
    source = ScriptedSource("dht", [(2, peer(1), []), (1, peer(2), [])])
    async with running(source) as router:
        async with contextlib.aclosing(router.find_providers(KEY, label="QmTheirs")) as found:
            assert len([each async for each in found]) == 2
        recent = router.status()["recent"]
        assert recent == [{"cid": "QmTheirs", "source": "dht", "peer": peer(1), "seconds": pytest.approx(2), "at": 1e9}]
        for n in range(2 * limits.MAX_RECENT_FINDS):
            await first_of(router, 1, b"\x12\x20" + n.to_bytes(32, "big"))
        assert len(router.status()["recent"]) == limits.MAX_RECENT_FINDS


async def test_a_busy_source_has_a_queue(autojump_clock: trio.testing.MockClock) -> None:
    """No more than so many finds are in one source at a time; the others wait for their turn, and all get it."""
    most = 0
    now = 0

    async def count() -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await trio.sleep(1)
        now -= 1

    source = ScriptedSource("dht", end=count)
    async with running(source) as router, trio.open_nursery() as nursery:
        for n in range(3 * limits.MAX_ASKS_PER_SOURCE):
            nursery.start_soon(all_of, router, b"\x12\x20" + n.to_bytes(32, "big"))
    assert most == limits.MAX_ASKS_PER_SOURCE
    assert source.asked == 3 * limits.MAX_ASKS_PER_SOURCE


async def test_a_router_that_does_not_run_says_so() -> None:
    """Before `run` and after it, a find raises an error with a sentence; finds under way end with the router."""
    router = Router([ScriptedSource("dht", end=trio.sleep_forever)])
    with pytest.raises(RoutingError, match="not running"):
        await all_of(router)
    got: list[Sighting] = []
    async with trio.open_nursery() as outer:

        async def caller() -> None:
            async with contextlib.aclosing(router.search(KEY)) as found:
                got.extend([each async for each in found])

        async with trio.open_nursery() as nursery:
            await nursery.start(router.run)
            outer.start_soon(caller)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert got == []
    with pytest.raises(RoutingError):
        await all_of(router)


def test_sources_have_names_of_their_own() -> None:
    """Two sources of one name are a mistake of whoever made them, and are told at once."""
    with pytest.raises(ValueError, match="dht"):
        Router([ScriptedSource("dht"), ScriptedSource("dht")])


def test_addresses_that_can_be_dialled() -> None:
    """IP or name with TCP, dnsaddr, and relays of these, each without the peer's own ID; other transports are not."""
    me, relay = peer(1), peer(2)
    for written, expected in {
        "/ip4/192.0.2.1/tcp/4001": "/ip4/192.0.2.1/tcp/4001",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{me}": "/ip4/192.0.2.1/tcp/4001",
        f"/ip6/2001:db8::1/tcp/4001/ipfs/{me}/": "/ip6/2001:db8::1/tcp/4001",
        "/ip6zone/eth0/ip6/fe80::1/tcp/4001": "/ip6zone/eth0/ip6/fe80::1/tcp/4001",
        f"/dnsaddr/a.example/p2p/{me}": "/dnsaddr/a.example",
        f"/dns4/a.example/tcp/4001/p2p/{relay}/p2p-circuit": f"/dns4/a.example/tcp/4001/p2p/{relay}/p2p-circuit",
        f"/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{me}": f"/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit",
        f"/p2p/{relay}/p2p-circuit": f"/p2p/{relay}/p2p-circuit",
        f"/p2p/{me}/p2p-circuit": None,
        f"/ip4/192.0.2.1/tcp/4001/p2p/{relay}": None,
        f"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{relay}/p2p-circuit": None,
        "/ip4/192.0.2.1/udp/4001/quic-v1": None,
        "/dns4/a.example/tcp/443/wss": None,
        "/ip4/0.0.0.0/tcp/4001": None,
        "/ip4/224.0.0.1/tcp/4001": None,
        "/ip4/192.0.2.1/tcp/0": None,
        "/ip4/192.0.2.1/tcp/70000": None,
        "/ip4/2001:db8::1/tcp/1": None,
        "/ip6zone/eth0/ip4/192.0.2.1/tcp/1": None,
        "/dns4/b\u00fccher.example/tcp/1": None,
        "/ip6/fe80::1%eth0/tcp/1": None,
        f"/p2p/{me}": None,
        "192.0.2.1:4001": None,
        "": None,
    }.items():
        assert text.dialable(written, me) == expected, written


@pytest.mark.parametrize("raw", [b"\x12\x20" + bytes(32), b"\x00\x24\x08\x01\x12\x20" + bytes(range(32))])
def test_peer_ids_in_all_their_forms(raw: bytes) -> None:
    """Base58, and a CIDv1 in base32, base36 and base58, are one peer; everything else is none."""
    plain = base58.b58encode(raw).decode()
    cid = b"\x01\x72" + raw
    number, base36 = int.from_bytes(cid, "big"), ""
    while number:
        number, digit = divmod(number, 36)
        base36 = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + base36
    forms = [plain, peer_cid(plain), "z" + base58.b58encode(cid).decode(), "k" + base36, "f" + cid.hex()]
    assert [any_peer_id(each) for each in forms] == [plain] * 5
    bad = [
        "",
        "Qm",
        plain[:-1],
        plain + "1",
        plain.replace(plain[5], "0"),
        "f" + raw.hex(),
        text.raw_cid(raw),
        "1" * 40,
    ]
    assert [any_peer_id(each) for each in bad] == [None] * len(bad)
