"""When gateways take part in a session, what they are asked for, and what their answers cost them. Virtual time."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.client import WantManager
from kachery_p2p.bitswap.interfaces import GatewayAnswer, NoBlock
from kachery_p2p.bitswap.link import GatewayLink
from kachery_p2p.bitswap.session import Session
from tests.helpers.bitswap_sim import Sim, SimGateway, SimPeer, made_cid

KIB, MIB = 1 << 10, 1 << 20


def swarm(gateway: SimGateway, *peers: SimPeer, size: int = 64 * KIB) -> tuple[Sim, Session]:
    """A session with one gateway, and these peers from the start."""
    sim = Sim(lambda _: size)
    sim.add_gateway(gateway)
    session = sim.session()
    for peer in peers:
        sim.add(peer, session)
    return sim, session


def want(sim: Sim, session: Session, count: int, start: int = 0) -> list[bytes]:
    """Want so many blocks at once; their multihashes, in order."""
    cids = [made_cid(n) for n in range(start, start + count)]
    sim.client.want(session, cids, sim.now)
    return [cid.multihash for cid in cids]


def all_came(sim: Sim, session: Session, count: int, limit: float = 600.0) -> bool:
    return sim.run(lambda: len(sim.got[session]) >= count, limit)


# --- when they take part ------------------------------------------------------------------------------------------


def test_peers_have_a_head_start() -> None:
    """A gateway is asked two seconds after a peer that is there and says nothing."""
    gateway = SimGateway("gateway:a")
    sim, session = swarm(gateway, SimPeer("silent", silent=True))
    want(sim, session, 3)
    assert all_came(sim, session, 3)
    assert limits.HEAD_START <= gateway.asked[0][0] <= limits.HEAD_START + 0.2


def test_where_no_peer_is_known_gateways_begin_at_once() -> None:
    """No peer, and none being dialled: the head start is a tenth of a second, once."""
    sim, session = swarm(SimGateway("gateway:a"))
    for n in range(4):  # one after the other, as in a directory
        want(sim, session, 1, start=n)
        assert all_came(sim, session, n + 1)
    assert sim.now < 0.5


def test_while_a_peer_is_dialled_it_has_its_head_start() -> None:
    """The user named a peer: it is not overtaken while the connection is being made, but not waited for long."""
    gateway = SimGateway("gateway:a")
    sim, session = swarm(gateway)
    assert session.standby is not None
    session.standby.dialling += 1
    want(sim, session, 1)
    assert all_came(sim, session, 1)
    assert limits.HEAD_START <= gateway.asked[0][0] <= limits.HEAD_START + 0.2


def test_peers_that_deliver_well_are_left_alone() -> None:
    """A load of twenty seconds at 2 MiB per second goes by without any gateway."""
    gateway = SimGateway("gateway:a")
    sim, session = swarm(gateway, SimPeer("peer", rate=2 * MIB), size=256 * KIB)
    want(sim, session, 160)
    assert all_came(sim, session, 160)
    assert sim.now > 19
    assert gateway.asked == []


def test_slow_peers_are_helped_from_the_back() -> None:
    """A peer at 128 KiB per second and a gateway share the work, and meet in the middle; the counts add up."""
    gateway = SimGateway("gateway:a", seconds=0.2)
    sim, session = swarm(gateway, SimPeer("peer", rate=128 * KIB))
    order = want(sim, session, 100)
    assert all_came(sim, session, 100)
    assert [multihash for _, multihash in gateway.asked[:3]] == order[:-4:-1]
    assert sim.got[session][0] == order[0]
    assert session.sources["gateway:a"][1] > 70 * 64 * KIB
    assert set(session.sources) == {"peer", "gateway:a"}
    assert sum(size for _, size in session.sources.values()) == 100 * 64 * KIB
    assert sim.duplicates <= 4


def test_gateways_stand_back_when_a_peer_delivers_well() -> None:
    """It began with a gateway; a peer that comes and is half as good takes over within seconds."""
    gateway = SimGateway("gateway:a", seconds=0.4)
    sim, session = swarm(gateway)
    sim.add(SimPeer("peer", rate=50 * 64 * KIB), session, at=10.0)
    wanted = 0

    def feed() -> bool:  # as a load asks: some ahead of what has come
        nonlocal wanted
        while wanted < 1500 and wanted - len(sim.got[session]) < 384:
            want(sim, session, 50, start=wanted)
            wanted += 50
        return len(sim.got[session]) == 1500

    assert sim.run(feed)
    assert gateway.asked[-1][0] < sim.now - 5
    assert session.sources["peer"][0] > 500


def test_peers_are_not_to_blame_for_a_load_that_is_slow() -> None:
    """Where blocks came and wait to be taken, as for a slow disk, no gateway is asked for more."""
    gateway = SimGateway("gateway:a")
    sim, session = swarm(gateway, SimPeer("peer", rate=2 * MIB), size=512 * KIB)
    want(sim, session, 80)
    assert all_came(sim, session, 5)
    sim.reading = False
    sim.run(lambda: False, sim.now + 30)
    assert len(sim.got[session]) < 80
    sim.reading = True
    for owner, size in sim.unread:
        sim.client.consumed(owner, size)
    assert all_came(sim, session, 80)
    assert gateway.asked == []


def test_gateways_take_over_from_peers_that_vanish() -> None:
    """When nobody else can supply a block, the gateway is asked at once."""
    gateway = SimGateway("gateway:a")
    sim, session = swarm(gateway, peer := SimPeer("peer", rate=2 * MIB), size=256 * KIB)
    sim.leave(peer, at=4.0)
    want(sim, session, 50)
    assert all_came(sim, session, 50)
    assert 4.0 <= gateway.asked[0][0] <= 4.2


def test_what_peers_lack_comes_from_a_gateway_and_nothing_else() -> None:
    """A peer that delivers well, but has not all of it: gateways bring the rest, and stand by otherwise."""
    blocks = [made_cid(n).multihash for n in range(160)]
    lacking = set(blocks[::20])
    gateway = SimGateway("gateway:a")
    sim, session = swarm(gateway, SimPeer("peer", rate=5 * MIB, holds=set(blocks) - lacking), size=256 * KIB)
    for first in range(0, 160, 40):  # in parts, as a load asks
        want(sim, session, 40, start=first)
        assert all_came(sim, session, first + 40)
    assert {multihash for _, multihash in gateway.asked} == lacking


def test_what_a_peer_is_sending_is_not_asked_for() -> None:
    """Unless nothing came from any peer for a second: then it is taken over, too."""
    gateway = SimGateway("gateway:a")
    sim, session = swarm(gateway, SimPeer("peer", rate=MIB / 1.8, dies_after=1), size=MIB)
    order = want(sim, session, 6)
    assert all_came(sim, session, 6)
    asked = [multihash for _, multihash in gateway.asked]
    assert sim.got[session][0] == order[0]
    assert asked[:3] == [order[5], order[4], order[3]], "the peer was asked for the second and the third"
    assert set(asked[3:]) == {order[1], order[2]}
    assert gateway.asked[2][0] < 2.4
    assert 2.8 <= gateway.asked[3][0] < 3.1


def test_peers_do_not_wait_for_a_gateway() -> None:
    """A block that a gateway has under way and does not bring is asked of a peer as soon as one comes."""
    gateway = SimGateway("gateway:a", silent=True)
    sim, session = swarm(gateway)
    sim.add(SimPeer("peer"), session, at=1.0)
    want(sim, session, 1)
    assert all_came(sim, session, 1)
    assert len(gateway.asked) == 1
    assert sim.now < 1.5
    assert session.outstanding == 0


def test_the_endgame_is_between_peers() -> None:
    """A gateway's request is not taken for the peer that owes a block: no peer is asked twice for the same."""
    sim = Sim(lambda _: 2000)
    sim.add_gateway(SimGateway("gateway:part", 0.01, holds={made_cid(n).multihash for n in range(1, 60, 2)}))
    sim.add_gateway(SimGateway("gateway:slow", 0.3))
    session = sim.session()
    peer = sim.add(SimPeer("peer", rate=100e3), session, at=0.5)
    want(sim, session, 60)
    assert all_came(sim, session, 60)
    sim.run(lambda: False, sim.now + 1)
    assert peer.sent_blocks > 0
    assert session.outstanding == 0


# --- several gateways ---------------------------------------------------------------------------------------------


def test_a_block_that_does_not_come_is_asked_of_another_gateway() -> None:
    """One that is silent costs a moment, is overtaken, and after three times is left alone."""
    sim = Sim(lambda _: 64 * KIB)
    silent = sim.add_gateway(SimGateway("gateway:silent", silent=True))
    sim.add_gateway(SimGateway("gateway:good"))
    session = sim.session()
    for n in range(20):
        want(sim, session, 1, start=n)
        assert all_came(sim, session, n + 1)
    assert len(silent.asked) <= limits.MAX_OVERTAKEN
    assert sim.now < limits.NOBODY_START + 3 * limits.COPY_UNTRIED + 2


def test_the_fastest_gateway_gets_the_most() -> None:
    """Each is given as much as it delivers, and the last blocks do not wait for the slow one."""
    sim = Sim(lambda _: 256 * KIB)
    fast, slow = sim.add_gateway(SimGateway("gateway:fast", 0.1)), sim.add_gateway(SimGateway("gateway:slow", 2.0))
    session = sim.session()
    want(sim, session, 200)
    assert all_came(sim, session, 200)
    assert len(fast.asked) > 5 * len(slow.asked)
    assert sim.now < 12


def test_a_gateway_that_has_nothing_is_soon_asked_no_more() -> None:
    """A hundred blocks do not cost a hundred requests to a gateway that had none of the first."""
    gateway = SimGateway("gateway:a", holds=set())
    sim, session = swarm(gateway)
    want(sim, session, 100)
    sim.run(lambda: False, 10)
    assert len(gateway.asked) == limits.MAX_ABSENT
    assert len(session.hopeless) == 100


def test_a_block_that_no_gateway_has_is_asked_of_each_once() -> None:
    """DONT_HAVE is the answer to a 404: the want goes on to the next, and then nobody can supply it."""
    sim = Sim()
    gateways = [sim.add_gateway(SimGateway(f"gateway:{n}", holds=set())) for n in range(3)]
    session = sim.session()
    want(sim, session, 1)
    assert not session.exhausted
    assert sim.run(lambda: session.exhausted, 5)
    sim.run(lambda: False, 10)
    assert [len(gateway.asked) for gateway in gateways] == [1, 1, 1]


def test_a_gateway_that_restarts_is_asked_again() -> None:
    """One that delivered and cannot be reached for half a minute is tried again until it is back; what is missing
    meanwhile is said to be missing, and the gateway is said to be away."""
    gateway = SimGateway("gateway:a", down_until=25.0, spared={made_cid(0).multihash})
    sim, session = swarm(gateway)
    (member,) = session.gateways.values()
    want(sim, session, 1)
    assert all_came(sim, session, 1)
    assert not member.away
    want(sim, session, 1, start=1)
    assert sim.run(lambda: session.exhausted, 60)
    assert member.away
    assert all_came(sim, session, 2, limit=60)
    assert sim.now > 25
    assert not member.away


def test_a_gateway_that_never_delivered_is_not_missed() -> None:
    """Where a gateway cannot be reached from the beginning, a block is asked for a few times, and then given up."""
    gateway = SimGateway("gateway:a", down_until=1e9)
    sim, session = swarm(gateway)
    (member,) = session.gateways.values()
    want(sim, session, 1)
    assert sim.run(lambda: session.exhausted, 60)
    sim.run(lambda: False, 60)
    assert len(gateway.asked) == limits.MAX_TRIES
    assert not member.away


def test_the_books_balance() -> None:
    """After a session with everything in it, nothing is charged that is not under way."""
    sim = Sim(lambda _: 64 * KIB)
    sim.add_gateway(SimGateway("gateway:silent", silent=True))
    sim.add_gateway(SimGateway("gateway:down", down_until=1e9))
    sim.add_gateway(SimGateway("gateway:part", 0.3, holds={made_cid(n).multihash for n in range(0, 200, 2)}))
    session = sim.session()
    sim.add(SimPeer("peer", rate=128 * KIB), session)
    want(sim, session, 200)
    sim.run(lambda: len(sim.got[session]) > 150, 100)
    sim.client.close_session(session, sim.now)
    sim.run(lambda: False, sim.now + 1)
    assert (session.outstanding, sim.client.wants) == (0, {})
    for link in sim.client.gateways.links.values():
        assert (link.block_asks, link.outstanding, len(link.asks), len(link.members)) == (0, 0, 0, 0), link.peer


def test_a_gateway_that_rests_costs_nothing_while_nothing_is_wanted() -> None:
    """The clock is not looked at for it, and its rest is over all the same when something is wanted of it."""
    gateway = SimGateway("gateway:a", down_until=1.0, spared={made_cid(0).multihash})
    sim, session = swarm(gateway)
    want(sim, session, 2)
    assert all_came(sim, session, 2)
    (link,) = sim.client.gateways.links.values()
    link.rest(sim.now, "It says that we ask too often.", 600.0)
    sim.client.close_session(session, sim.now)
    sim.run(lambda: False, sim.now + 1)
    assert sim.client.next_deadline(sim.now) is None
    sim.now += 1000
    session = sim.session()
    want(sim, session, 1, start=5)
    assert all_came(sim, session, 1, limit=sim.now + 1)


# --- one gateway --------------------------------------------------------------------------------------------------


def test_a_liar_is_asked_no_more() -> None:
    """By no session, the ones to come included; all that it has under way is over."""
    client = WantManager()
    link = client.gateways.add("gateway:liar")
    session = client.new_session()
    client.gateways.join(session, 0, None, 0.0)
    client.want(session, [made_cid(n) for n in range(10)], 0.0)
    client.poll(0.0)
    client.poll(1.0)
    (fetch,) = client.gateways.fetches(link)
    client.gateways.ended(fetch, NoBlock(GatewayAnswer.LIED, "It sent other bytes."), 1.1)
    assert (link.dropped, link.asks, session.gateways) == ("It sent other bytes.", {}, {})
    assert session.said == {"gateway:liar": "It sent other bytes."}
    assert len(session.hopeless) == 10
    assert session.outstanding == 0
    other = client.new_session()
    client.gateways.join(other, 0, None, 1.2)
    assert other.gateways == {}


def test_requests_are_bounded_by_what_it_takes_at_once() -> None:
    """One request to a gateway that is new; then up to its number of requests, more where it takes more."""
    sim = Sim(lambda _: 4 * KIB)
    sim.add_gateway(gateway := SimGateway("gateway:a", 1.0))
    session = sim.session()
    (link,) = sim.client.gateways.links.values()
    want(sim, session, 200)
    assert sim.run(lambda: len(gateway.asked) >= 1, 5)
    sim.run(lambda: False, sim.now + 0.5)
    assert len(gateway.asked) == 1
    assert all_came(sim, session, 2)
    assert link.block_asks <= link.most == limits.GATEWAY_REQUESTS
    link.most = 16
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, link.block_asks)
        return len(sim.got[session]) == 200

    assert sim.run(done)
    assert most == 16


def test_failures_make_growing_pauses_and_those_together_count_once() -> None:
    """A gateway that is down is asked less and less, however many requests failed at the same time."""
    link = GatewayLink("gateway:a")
    for now in (0.0, 0.1, 0.2):
        link.rest(now, "x", None)
    assert link.failures == 1
    assert not link.usable
    assert link.retry_at == 2.2
    for _ in range(30):
        link.resting = False  # as when its time has come
        link.rest(now := link.retry_at, "x", None)
    assert link.retry_at - now == limits.REST_LAST
    assert not link.connected, "nobody waits so long for it"
    link.delivered(1, now, now + 0.1)
    assert link.failures == 0


def test_a_pause_that_it_asks_for_is_kept() -> None:
    """Whatever it delivers meanwhile: requests that were under way may still be answered."""
    link = GatewayLink("gateway:a")
    link.rest(0.0, "It says that we ask too often.", 7.0)
    link.recovered()
    assert not link.usable
    assert link.retry_at == 7.0
    link.resting = False
    link.silent(10.0)
    link.recovered()
    assert link.usable, "it was silent, and is not any more"


def test_the_best_is_asked_first_after_those_that_are_new() -> None:
    """New ones may show what they can; those that only failed come last."""
    for count, names in enumerate(
        (["new"], ["new", "fast"], ["new", "fast", "slow"], ["new", "fast", "slow", "failed"]), 1
    ):
        client = WantManager()
        failed, slow, fast, _ = (client.gateways.add(name) for name in ("failed", "slow", "fast", "new"))
        slow.rate, fast.rate, failed.failures = 1e6, 9e6, 1
        session = client.new_session()
        client.gateways.join(session, 0, None, 0.0)
        client.want(session, [made_cid(n) for n in range(count)], 0.0)
        client.poll(0.0)
        client.poll(0.2)
        assert {name for name, link in client.gateways.links.items() if link.asks} == set(names)


# --- any company --------------------------------------------------------------------------------------------------

BLOCKS = 60


@st.composite
def companies(draw: st.DrawFn) -> tuple[list[tuple[SimPeer, float, float | None]], list[SimGateway]]:
    """Peers with the time they come and, some, the time they leave; and gateways."""
    peers: list[tuple[SimPeer, float, float | None]] = []
    for n in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["all", "part", "none", "silent", "dies", "old"]))
        peer = SimPeer(f"{kind}{n}", draw(st.sampled_from([0.1e6, 2e6, 60e6])), 0.01, old=kind == "old")
        if kind == "part":
            peer.holds = {made_cid(k).multihash for k in range(n, BLOCKS, 2)}
        elif kind == "none":
            peer.holds = set()
        peer.silent = kind == "silent"
        peer.dies_after = draw(st.integers(0, 10)) if kind == "dies" else None
        leaves = draw(st.sampled_from([None, None, 1.0, 8.0]))
        peers.append((peer, draw(st.sampled_from([0.0, 0.5])), leaves))
    gateways: list[SimGateway] = []
    for n in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["all", "all", "part", "none", "silent", "down", "back"]))
        gateway = SimGateway(f"gateway:{kind}{n}", draw(st.sampled_from([0.01, 0.3, 3.0])), silent=kind == "silent")
        if kind == "part":
            gateway.holds = {made_cid(k).multihash for k in range(1 - n % 2, BLOCKS, 2)}
        elif kind == "none":
            gateway.holds = set()
        gateway.down_until = {"down": 1e9, "back": 3.0}.get(kind, 0.0)
        gateways.append(gateway)
    return peers, gateways


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(companies(), st.sampled_from([2_000, 64 * KIB, MIB]))
def test_any_company_delivers_what_it_has(
    company: tuple[list[tuple[SimPeer, float, float | None]], list[SimGateway]], size: int
) -> None:
    """Each block that a lasting peer or gateway has arrives, once, and the books balance."""
    peers, gateways = company
    sim = Sim(lambda _: size)
    for gateway in gateways:
        sim.add_gateway(gateway)
    session = sim.session()
    everything = {made_cid(n).multihash for n in range(BLOCKS)}
    available: set[bytes] = set()
    for peer, joins, leaves in peers:
        sim.add(peer, session, at=joins)
        if leaves is not None:
            sim.leave(peer, leaves)
        elif not peer.silent and peer.dies_after is None:
            available |= everything if peer.holds is None else peer.holds
    for gateway in gateways:
        if not gateway.silent and not gateway.down_until:
            available |= everything if gateway.holds is None else gateway.holds
    want(sim, session, BLOCKS)
    assert sim.run(lambda: available <= set(sim.got[session]), 2000)
    sim.client.close_session(session, sim.now)
    sim.run(lambda: False, sim.now + 1)
    assert (session.outstanding, sim.client.wants) == (0, {})
    for link in [*sim.client.links.values(), *sim.client.gateways.links.values()]:
        sums = (link.block_asks, link.outstanding, link.probes, link.standing, len(link.asks))
        assert sums == (0, 0, 0, 0, 0), link.peer
