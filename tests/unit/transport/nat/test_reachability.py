"""When servers are asked and what is made of it, in virtual time; no sockets."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from kachery_p2p.errors import InvalidAddress
from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.autonat_messages import V1, V2_DIAL
from tests.helpers.nat_helpers import FakeHost, FakeReachability, fake_reachability, running

OURS = "/ip4/11.1.1.1/tcp/4001"
LAN = "/ip4/192.168.1.5/tcp/4001"
RELAY = "/ip4/11.3.3.3/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit"


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


async def test_nobody_to_ask(clock: trio.testing.MockClock) -> None:
    """A public interface and nobody to ask: unknown, and the address is told. A private one: a relay is wanted."""
    for own, relay in ((OURS, False), (LAN, True)):
        host = FakeHost(own)
        async with running(fake_reachability(host)) as reach:
            await trio.sleep(3600)
            assert (reach.state, reach.wants_relay) == ("unknown", relay)
            assert reach.advertise(host.listening) == [own]
            assert "could be asked" in reach.why()
            assert host.pushes == 0


async def test_loopback_only_is_quiet(clock: trio.testing.MockClock) -> None:
    """A node on loopback asks nobody, wants no relay, and serves no requests of others."""
    host = FakeHost("/ip4/127.0.0.1/tcp/4001")
    async with running(fake_reachability(host)) as reach:
        host.meet("p", "127.0.0.1", True, sees="/ip4/127.0.0.1/tcp/5000")
        host.meet("q", "192.168.1.9", True, sees=LAN)
        await trio.sleep(24 * 3600)
        assert (reach.state, reach.wants_relay) == ("unknown", False)
        assert host.asked == []
        assert not host.handlers & {V1, V2_DIAL}
        assert reach.advertise(host.listening) == host.listening


async def test_public_by_three(clock: trio.testing.MockClock) -> None:
    """Three networks that could dial back make us public; the fourth is not asked."""
    host = FakeHost(OURS)
    changes: list[str] = []
    async with running(fake_reachability(host)) as reach:
        reach.on_change(changes.append)
        for number in range(4):
            host.meet(f"p{number}", f"2{number}.1.1.1", True, sees=OURS)
        await trio.sleep(limits.DEFAULTS.settle + 1)
        assert reach.state == "public"
        assert changes == ["public"]
        assert reach.why() == f"3 of 3 peers could dial back {OURS}"
        assert len(host.asked) == 3


async def test_private_behind_a_nat(clock: trio.testing.MockClock) -> None:
    """Nobody could dial back: private, with relay addresses told, and what the relay gives later as well."""
    host = FakeHost(LAN)
    relays: list[str] = []
    async with running(fake_reachability(host, extra=lambda: list(relays))) as reach:
        for number in range(3):
            host.meet(f"p{number}", f"2{number}.1.1.1", False, sees=f"/ip4/11.1.1.1/tcp/{5000 + number}")
        await trio.sleep(limits.DEFAULTS.settle + 1)
        assert (reach.state, reach.wants_relay) == ("private", True)
        assert reach.why() == "behind a NAT or a firewall: 3 of 3 peers could not dial back; no relay in use"
        before = host.pushes
        relays.append(RELAY)
        reach.refresh()
        assert host.pushes == before + 1
        assert reach.advertise([LAN]) == [RELAY, LAN]
        assert "through 1 relay" in reach.why()
        # the guesses were asked of the one who saw us there, and of nobody else
        for _, peer, addresses in host.asked:
            assert {each.port for each in addresses} == {4001, 5000 + int(peer[1:])}


async def test_one_server_is_enough_where_there_is_one(clock: trio.testing.MockClock) -> None:
    """In a small network its only server decides; when more come, they are asked as well."""
    host = FakeHost(OURS)
    async with running(fake_reachability(host)) as reach:
        host.meet("liar", "20.1.1.1", False, sees=OURS)
        await trio.sleep(limits.DEFAULTS.settle + 1)
        assert reach.state == "private"
        assert OURS not in reach.advertise(host.listening)
        host.meet("p1", "21.1.1.1", True, sees=OURS)
        host.meet("p2", "22.1.1.1", True, sees=OURS)
        await trio.sleep(limits.DEFAULTS.settle + 1)
        assert reach.state == "public"
        assert [peer for _, peer, _ in host.asked] == ["liar", "p1", "p2"] or len(host.asked) == 3


async def test_a_network_is_asked_once(clock: trio.testing.MockClock) -> None:
    """A hundred peers of one network are one voice: one of them is asked."""
    host = FakeHost(OURS)
    async with running(fake_reachability(host)):
        for number in range(100):
            host.meet(f"p{number}", f"20.1.1.{number + 1}", True, sees=OURS)
        await trio.sleep(30)
        assert len(host.asked) == 1


async def test_a_liar_cannot_announce_a_victim(clock: trio.testing.MockClock) -> None:
    """A server that sees us at a victim's address and says that it reached us there: nothing is announced."""
    victim = "/ip4/66.66.66.66/tcp/80"
    host = FakeHost(LAN)
    async with running(fake_reachability(host)) as reach:
        host.meet("liar", "20.1.1.1", True, sees=victim)
        await trio.sleep(1000)
        assert host.asked
        assert "66.66.66.66" not in " ".join(reach.advertise(host.listening))
        assert reach.state != "public"


async def test_refusals_are_passed_over(clock: trio.testing.MockClock) -> None:
    """A server that refuses is left alone for a while, others are asked instead, and the status says what it said."""
    host = FakeHost(OURS)
    async with running(fake_reachability(host)) as reach:
        for number in range(5):
            host.meet(f"p{number}", f"2{number}.1.1.1", None if number < 2 else True, sees=OURS)
        await trio.sleep(limits.DEFAULTS.settle + 2)
        assert reach.state == "public"
        assert len(host.asked) <= 5
        refused = [peer for _, peer, _ in host.asked if peer in ("p0", "p1")]
        assert len(refused) == len(set(refused)) == len(reach.status()["errors"])


async def test_cheap_when_settled(clock: trio.testing.MockClock) -> None:
    """In a network of fifty that comes and goes, a settled node asks some twenty times in half a day."""
    host = FakeHost(OURS)
    async with running(fake_reachability(host)):
        for round_ in range(12 * 4):
            for number in range(50):
                host.meet(f"p{round_}-{number}", f"{20 + number}.1.1.1", True, sees=OURS)
            await trio.sleep(15 * 60)
            for number in range(50):
                host.leave(f"p{round_}-{number}")
        hours = [at / 3600 for at, _, _ in host.asked]
        assert len(host.asked) <= 3 * 7
        assert max(later - earlier for earlier, later in pairwise(hours)) > 3.9
        assert host.pushes <= 2


async def test_the_truth_changes(clock: trio.testing.MockClock) -> None:
    """A firewall that comes up later is noticed at the next round, and when it goes, too."""
    host = FakeHost(OURS)
    async with running(fake_reachability(host)) as reach:
        for number in range(3):
            host.meet(f"p{number}", f"2{number}.1.1.1", True, sees=OURS)
        await trio.sleep(60)
        assert reach.state == "public"
        for number in range(3):
            host.answers[f"p{number}"] = False
        await trio.sleep(limits.RECHECK_FIRST + 60)
        assert reach.state == "private"
        for number in range(3):
            host.answers[f"p{number}"] = True
        await trio.sleep(limits.RECHECK_FIRST + 60)
        assert reach.state == "public"


async def test_new_addresses_are_asked_about_soon(clock: trio.testing.MockClock) -> None:
    """An interface that comes up is told at once, and servers are asked about it, but not more than once a minute."""
    other = "/ip4/11.5.5.5/tcp/4001"
    host = FakeHost(OURS)
    async with running(fake_reachability(host)) as reach:
        for number in range(3):
            host.meet(f"p{number}", f"2{number}.1.1.1", True, sees=OURS)
        await trio.sleep(300)
        before = len(host.asked)
        host.listening.append(other)
        await trio.sleep(limits.WATCH_INTERVAL + limits.DEFAULTS.settle + 1)
        assert other in reach.advertise(host.listening)
        assert {peer for _, peer, _ in host.asked[before:]} == {"p0", "p1", "p2"}
        before = len(host.asked)
        for number in range(20):
            host.listening[1:] = [f"/ip4/11.6.{number}.1/tcp/4001"]
            await trio.sleep(limits.WATCH_INTERVAL)
        assert len(host.asked) - before <= 3 * (1 + 20 * limits.WATCH_INTERVAL / limits.SPARSE_INTERVAL)


async def test_another_network(clock: trio.testing.MockClock) -> None:
    """A laptop that moved forgets what servers said of the old place."""
    host = FakeHost(LAN)
    async with running(fake_reachability(host)) as reach:
        assert isinstance(reach, FakeReachability)
        reach.gateway = "192.168.1.5"
        host.meet("p", "20.1.1.1", False, sees="/ip4/11.1.1.1/tcp/5000")
        await trio.sleep(60)
        assert reach.state == "private"
        host.leave("p")
        reach.gateway = "10.9.9.9"
        host.listening[:] = ["/ip4/10.9.9.9/tcp/4001"]
        await trio.sleep(2 * limits.WATCH_INTERVAL)
        assert reach.state == "unknown"
        assert "could be asked" in reach.why()


async def test_observed_addresses_are_told_when_three_agree(clock: trio.testing.MockClock) -> None:
    """What three networks see is told to peers, and asked about."""
    host = FakeHost(LAN)
    async with running(fake_reachability(host)) as reach:
        for number in range(3):
            host.meet(f"p{number}", f"2{number}.1.1.1", server=False, sees=OURS)
        assert reach.advertise(host.listening) == [OURS, LAN]
        assert host.pushes == 1
        assert reach.status()["observed"] == [{"address": OURS, "networks": 3}]


@pytest.mark.parametrize("forced", ["public", "private"])
async def test_forced(clock: trio.testing.MockClock, forced: str) -> None:
    """The user's word stands, and nobody is asked."""
    host = FakeHost(OURS, LAN)
    async with running(fake_reachability(host, forced=forced)) as reach:
        for number in range(3):
            host.meet(f"p{number}", f"2{number}.1.1.1", forced != "public", sees=OURS)
        await trio.sleep(3600)
        assert reach.state == forced
        assert host.asked == []
        assert (OURS in reach.advertise(host.listening)) is (forced == "public")
        assert ({V1, V2_DIAL} <= host.handlers) is (forced == "public")
        assert forced in reach.why()


async def test_lan_only(clock: trio.testing.MockClock) -> None:
    """A node that keeps to its LAN asks nobody, serves nobody, and wants no relay."""
    host = FakeHost(LAN)
    async with running(fake_reachability(host, lan_only=True)) as reach:
        host.meet("p", "20.1.1.1", True, sees=OURS)
        await trio.sleep(3600)
        assert (host.asked, host.handlers, reach.wants_relay) == ([], set(), False)


async def test_relayed_peers_are_not_asked(clock: trio.testing.MockClock) -> None:
    """A server behind a relay would dial the relay's idea of us."""
    host = FakeHost(OURS)
    async with running(fake_reachability(host)):
        host.meet("p", RELAY, True, sees=OURS)
        await trio.sleep(60)
        assert host.asked == []


async def test_servers_of_our_lan_are_not_asked(clock: trio.testing.MockClock) -> None:
    """A server in a private network cannot know what the world sees."""
    host = FakeHost(LAN)
    async with running(fake_reachability(host)) as reach:
        host.meet("lan", "192.168.1.9", True, sees=LAN)
        host.meet("p", "20.1.1.1", False, sees="/ip4/11.1.1.1/tcp/5000")
        await trio.sleep(60)
        assert [peer for _, peer, _ in host.asked] == ["p"]
        assert reach.state == "private"


async def test_handlers_end_with_it(clock: trio.testing.MockClock) -> None:
    """After the end nothing of it is left at the host."""
    host = FakeHost(OURS)
    async with running(fake_reachability(host)):
        assert {V1, V2_DIAL} <= host.handlers
    assert host.handlers == set()
    host.meet("p", "20.1.1.1", True)


def test_bad_settings() -> None:
    """A mistyped setting is told at once."""
    with pytest.raises(InvalidAddress):
        fake_reachability(FakeHost(), announce=["11.1.1.1:4001"])
    with pytest.raises(ValueError, match="forced"):
        fake_reachability(FakeHost(), forced="maybe")
