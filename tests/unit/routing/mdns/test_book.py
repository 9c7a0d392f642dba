"""Which addresses are announced and believed, what is remembered of whom, and when to speak."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.peer_ids import any_peer_id
from kachery_p2p.routing.mdns import limits
from kachery_p2p.routing.mdns.addresses import announced_on, believable
from kachery_p2p.routing.mdns.book import Book, Report
from kachery_p2p.routing.mdns.pace import SenderPace
from kachery_p2p.routing.mdns.packets import Heard
from kachery_p2p.routing.mdns.schedule import InterfaceSchedule
from tests.helpers.mdns_fakes import interface, peer_id

ETH0 = interface("10.1.0.1/24", "fd00::1/64")
WIFI = interface("10.2.0.1/24", name="wlan0", index=3)
OWN, ANNA, BEN = peer_id(1), peer_id(2), peer_id(3)
A1, A2 = "/ip4/10.1.0.2/tcp/4001", "/ip4/10.1.0.22/tcp/4001"


# --- addresses -----------------------------------------------------------------------------------------------------


def test_only_the_interfaces_own_addresses_are_announced() -> None:
    """Announced on an interface are our TCP addresses on it; no loopback, no link-local IPv6, no relay, no other's."""
    own = [
        "/ip6/fd00::1/tcp/4001",
        "/ip4/10.1.0.1/tcp/4001",
        "/ip4/10.1.0.1/tcp/4002",
        "/ip4/10.2.0.1/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip6/fe80::1/tcp/4001",
        "/ip6zone/eth0/ip6/fe80::1/tcp/4001",
        "/ip4/10.1.0.1/udp/4001/quic-v1",
        f"/ip4/10.1.0.1/tcp/4001/p2p/{ANNA}/p2p-circuit",
        "/dns4/lab.example/tcp/4001",
        "/ip4/10.1.0.1/tcp/0",
        "nonsense",
    ]
    expected = ["/ip4/10.1.0.1/tcp/4001", "/ip4/10.1.0.1/tcp/4002", "/ip6/fd00::1/tcp/4001"]
    assert announced_on(ETH0.networks, own) == expected


def test_believable_addresses() -> None:
    """Addresses of the link and private ones are believed; link-local IPv6 gets the zone it was heard in."""

    def read(addr: str, peer: str = ANNA) -> tuple[str, bool] | None:
        found = believable(f"{addr}/p2p/{peer}", ETH0)
        assert found is None or found.peer == ANNA
        return None if found is None else (found.addr, found.near)

    assert read(A1) == (A1, True)
    assert read("/ip4/192.168.3.4/tcp/1") == ("/ip4/192.168.3.4/tcp/1", False)
    assert read("/ip6/FD00:0::2/tcp/1") == ("/ip6/fd00::2/tcp/1", True)
    assert read("/ip6/fe80::2/tcp/1") == ("/ip6zone/eth0/ip6/fe80::2/tcp/1", True)
    assert read("/ip4/8.8.8.8/tcp/4001") is None, "nobody may send us dialling strangers"
    public = interface("8.8.8.1/24")
    assert believable(f"/ip4/8.8.8.8/tcp/4001/p2p/{ANNA}", public) is not None, "a campus with public addresses"
    for addr in [
        "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/tcp/1", "/ip6/ff02::1/tcp/1",
        "/ip6/::ffff:10.1.0.2/tcp/1", "/ip4/10.1.0.2/udp/1", "/ip4/10.1.0.2/tcp/0", "/ip4/10.1.0.2/tcp/99999",
        "/ip4/10.1.0.2/tcp/²", "/ip4/fd00::1/tcp/1", "/ip6/fe80::2%eth0/tcp/1", "/ip4/10.1.0.2/tcp/1/ws", "",
        f"/ip4/10.1.0.2/tcp/1/p2p/{BEN}/p2p-circuit", "/dns4/x.local/tcp/1",
    ]:  # fmt: skip
        assert read(addr) is None, addr
    assert read(A1, "12D3KooWnotApeer") is None
    assert read(A1, "") is None
    assert believable(A1, ETH0) is None, "no peer ID"


def test_peer_ids_in_all_forms() -> None:
    """A peer ID may be base58 or a CID; it comes out as base58."""
    assert any_peer_id(ANNA) == ANNA
    assert any_peer_id("k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8") is not None
    assert any_peer_id("QmNPubsDWATVngE3d5WDSNe7eVrFLuk38qb9t6vdLnu2aK") is not None
    for text in ["", "1", "Qm", "b", "12D3", "bafkqaaa", "é", "k" * 200]:
        assert any_peer_id(text) is None, text


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_not(text: str) -> None:
    """No text raises anything."""
    believable(text, ETH0)
    believable(f"/ip4/10.1.0.2/tcp/1/p2p/{text}", ETH0)
    announced_on(ETH0.networks, [text])


# --- book ----------------------------------------------------------------------------------------------------------


class Listener:
    """A book, and what it says."""

    def __init__(self) -> None:
        self.book = Book(OWN)
        self.now = 0.0

    def hear(
        self,
        peer: str,
        *addrs: str,
        name: str = "anna",
        ttl: int = 120,
        flush: bool = False,
        where: object = ETH0,
        sender: str = "10.1.0.2",
    ) -> list[Report]:
        link = WIFI if where is WIFI else ETH0
        said = Heard(name.encode(), ttl, flush, [f"{addr}/p2p/{peer}" for addr in addrs])
        self.book.hear(said, link, sender, self.now)
        return self.reports()

    def bye(self, name: str = "anna") -> list[Report]:
        self.book.hear(Heard(name.encode(), 0), ETH0, "10.1.0.2", self.now)
        return self.reports()

    def reports(self) -> list[Report]:
        return self.book.take_reports(self.now)

    def wait(self, seconds: float) -> list[Report]:
        self.now += seconds
        return self.reports()


def test_found_once_and_again_when_changed() -> None:
    """A peer is reported when it appears and when its addresses change; not when it says the same again."""
    listener = Listener()
    assert listener.hear(ANNA, A1) == [Report(ANNA, (A1,))]
    assert listener.wait(10) == []
    assert listener.hear(ANNA, A1) == []
    assert listener.hear(ANNA, A2) == [Report(ANNA, (A1, A2))]
    assert listener.book.peers() == {ANNA: (A1, A2)}


def test_flush_replaces_addresses() -> None:
    """Addresses not announced any more go a second after an announcement that claims to be complete; parts of one
    announcement, sent in the same second, add up."""
    listener = Listener()
    listener.hear(ANNA, A1, flush=True)
    listener.wait(0.5)
    listener.hear(ANNA, A2, flush=True)
    assert listener.wait(5) == [Report(ANNA, (A1, A2))]
    listener.wait(5)
    listener.hear(ANNA, A2, flush=True)
    assert listener.wait(0.9) == []
    assert listener.wait(0.2) == [Report(ANNA, (A2,))]


def test_goodbye() -> None:
    """A goodbye is reported after a second's grace; a new announcement within it makes it void."""
    listener = Listener()
    listener.hear(ANNA, A1)
    assert listener.wait(10) == []
    assert listener.bye() == []
    assert math.isinf(listener.book.refresh_at(ETH0.index)), "nobody asks after one who left"
    assert listener.wait(0.9) == []
    assert listener.hear(ANNA, A1) == []
    assert listener.wait(5) == []
    listener.bye()
    assert listener.wait(1.1) == [Report(ANNA, ())]
    assert listener.book.peers() == {}
    assert listener.wait(3) == []
    assert listener.hear(ANNA, A1) == [Report(ANNA, (A1,))], "it came back"


def test_expiry_and_refresh() -> None:
    """A peer not heard of for its time to live is gone; before that, it is time to ask for it."""
    listener = Listener()
    listener.hear(ANNA, A1, ttl=100)
    assert listener.book.refresh_at(ETH0.index) == 80
    assert math.isinf(listener.book.refresh_at(WIFI.index))
    assert [name for name, _ in listener.book.known(ETH0.index, 49)] == [b"anna"]
    assert not list(listener.book.known(ETH0.index, 51)), "half its time is over: it should answer"
    listener.wait(60)
    listener.hear(ANNA, A1, ttl=100)
    assert listener.wait(99) == []
    assert listener.book.next_at() == 160
    assert listener.wait(1) == [Report(ANNA, ())]
    listener.hear(BEN, A2, ttl=1)
    assert listener.wait(limits.MIN_TTL - 1) == [], "short times are stretched"
    listener.hear(ANNA, A1, name="long", ttl=10**9)
    assert Report(ANNA, ()) in listener.wait(limits.MAX_TTL)


def test_several_names_and_interfaces() -> None:
    """A peer's addresses are those of all its records; it is gone with the last of them."""
    listener = Listener()
    listener.hear(ANNA, A1)
    listener.wait(5)
    wifi = "/ip4/10.2.0.2/tcp/4001"
    assert listener.hear(ANNA, wifi, where=WIFI) == [Report(ANNA, (wifi, A1))]
    listener.wait(5)
    listener.book.leave(WIFI.index, listener.now)
    assert listener.reports() == [Report(ANNA, (A1,))]
    listener.wait(5)
    assert listener.hear(ANNA, A2, name="anna-again") == [Report(ANNA, (A2, A1))]
    listener.wait(5)
    listener.bye()
    assert listener.wait(1.1) == [Report(ANNA, (A2,))]


def test_near_addresses_come_first() -> None:
    """Of the addresses of a node, those of the network on which it was heard come first."""
    far = "/ip4/172.17.0.1/tcp/4001"
    assert Listener().hear(ANNA, far, A1) == [Report(ANNA, (A1, far))]


def test_one_name_speaks_for_one_peer() -> None:
    """Addresses of other peers in an announcement are not believed, nor is anything about ourselves."""
    listener = Listener()
    said = Heard(b"anna", 120, False, [f"{A1}/p2p/{ANNA}", f"{A2}/p2p/{BEN}"])
    listener.book.hear(said, ETH0, "10.1.0.2", 0)
    assert listener.reports() == [Report(ANNA, (A1,))]
    assert listener.hear(BEN, A2) == []
    assert listener.hear(OWN, A2, name="other") == []
    assert listener.book.peers() == {ANNA: (A1,)}
    assert listener.book.counters.own_peer_id == 1


def test_comings_and_goings_are_paced() -> None:
    """Whatever a peer says, it is reported once in two seconds, and its last state is not missed."""
    listener = Listener()
    reports = []
    for number in range(100):
        reports += listener.hear(ANNA, f"/ip4/10.1.0.2/tcp/{5000 + number}", flush=True)
        listener.bye()
        reports += listener.wait(0.1)
    assert 2 <= len(reports) <= 10 / limits.REPORT_PAUSE + 2
    reports += listener.wait(1)
    reports += listener.wait(limits.REPORT_PAUSE)
    assert reports[-1] == Report(ANNA, ())


def test_bounds() -> None:
    """Thousands of names, peers and addresses: what is kept does not grow, and is all given back in time."""
    listener = Listener()
    for number in range(3 * limits.MAX_NODES):
        listener.hear(peer_id(number + 10), A1, name=f"n{number}", sender=f"10.1.{number // 50 % 250}.2")
    assert len(listener.book.peers()) == limits.MAX_NODES
    one = Listener()
    for number in range(1000):
        one.hear(peer_id(number + 10), A1, name=f"n{number}")
    assert len(one.book.peers()) == limits.MAX_NODES_PER_SENDER
    assert one.book.counters.refused == 1000 - limits.MAX_NODES_PER_SENDER
    for number in range(0, 5000, 10):
        listener.hear(peer_id(10), *(f"/ip4/10.1.9.9/tcp/{1000 + number + i}" for i in range(10)), name="n0")
    assert len(listener.book.peers()[peer_id(10)]) == limits.MAX_ADDRESSES
    for each in (listener, one):
        each.wait(1000)
        each.wait(10)
        assert not each.book._nodes
        assert not each.book._peers
        assert not each.book._senders
        assert not each.book._dirty
        assert math.isinf(each.book.next_at())


# --- schedule and pace ---------------------------------------------------------------------------------------------


def play(
    schedule: InterfaceSchedule, until: float, events: Iterable[tuple[float, str]] = ()
) -> tuple[list[float], list[float]]:
    """Times of questions and answers up to `until`, with things happening in between."""
    queries, answers = [], []
    waiting = sorted(events)
    now = 0.0
    while True:
        due = schedule.next_at(math.inf)
        if waiting and waiting[0][0] <= due:
            now, what = waiting.pop(0)
            schedule.asked(now) if what == "asked" else schedule.heard_question(now)
            continue
        now = due
        if now > until:
            return queries, answers
        if schedule.take_query(math.inf, now):
            queries.append(now)
        if schedule.take_answer(now):
            answers.append(now)


def test_questions_become_rare() -> None:
    """A handful of questions in the first minutes, then one in about five; two announcements, then silence."""
    queries, answers = play(InterfaceSchedule(0, random.Random(1)), 7200)
    pauses = [b - a for a, b in pairwise(queries)]
    assert [round(each) for each in pauses[:6]] == [1, 3, 9, 27, 81, 243]
    assert all(270 <= each <= 330 for each in pauses[6:])
    assert len(answers) == limits.ANNOUNCEMENTS
    assert answers[1] - answers[0] >= limits.ANSWER_PAUSE


def test_others_questions_count() -> None:
    """Where somebody asks all the time (Helia does, every ten seconds), we need not."""
    events = [(float(time), "question") for time in range(400, 7200, 10)]
    queries, _ = play(InterfaceSchedule(0, random.Random(1)), 7200, events)
    assert max(queries) < 400


@given(st.lists(st.floats(3, 100), max_size=300), st.integers())
@settings(max_examples=50)
def test_answers_once_a_second(times: list[float], seed: int) -> None:
    """Each question is answered within 1.2 seconds, and never are there two answers within one."""
    _, answers = play(InterfaceSchedule(0, random.Random(seed)), 110, [(time, "asked") for time in times])
    assert all(b - a >= limits.ANSWER_PAUSE - 1e-6 for a, b in pairwise(answers))
    for time in times:
        assert any(time <= answer <= time + 1.2 for answer in answers)


def test_refresh() -> None:
    """A record that will expire is asked for, but questions keep their distance."""
    schedule = InterfaceSchedule(0, random.Random(1))
    play(schedule, 1000)
    at = schedule.next_at(1001)
    assert at == 1001
    assert schedule.take_query(1001, at)
    assert not schedule.take_query(1001, at + 1)
    assert schedule.next_at(1001) == at + limits.REFRESH_PAUSE


def test_answers_to_one() -> None:
    """Answers to single addresses are bounded each second."""
    schedule = InterfaceSchedule(0, random.Random(1))
    assert sum(schedule.may_answer_one(time / 100) for time in range(1000)) <= 11 * limits.UNICAST_RATE


def test_pace() -> None:
    """One sender's flood is cut to its rate and others still get through; a flood of senders is cut, too."""
    pace = SenderPace(0)
    admitted = sum(pace.admit("10.1.0.2", number / 1000) for number in range(10_000))
    assert admitted <= limits.SENDER_BURST + 10 * limits.SENDER_RATE + 1
    assert pace.admit("10.1.0.3", 10)
    admitted = sum(pace.admit(f"s{number}", 10 + number / 10_000) for number in range(100_000))
    assert admitted <= limits.TOTAL_BURST + 10 * limits.TOTAL_RATE + 1
    assert len(pace._senders) <= limits.MAX_SENDERS
