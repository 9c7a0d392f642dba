"""What is believed of our own addresses, and which are told: observed addresses, votes, and the rules. No sockets."""

from __future__ import annotations

import ipaddress

from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.autonat import DialBackAnswer
from kachery_p2p.transport.nat.endpoints import IP, TcpEndpoint, from_text
from kachery_p2p.transport.nat.known import PRIVATE, PUBLIC, UNKNOWN, AddressState, Known
from kachery_p2p.transport.nat.observed import Observed
from kachery_p2p.transport.nat.votes import Ballot, Vote

VICTIM = "/ip4/66.66.66.66/tcp/80"
OURS = "/ip4/11.1.1.1/tcp/4001"


def ip(text: str) -> IP:
    return ipaddress.ip_address(text)


def at(text: str) -> TcpEndpoint:
    endpoint = from_text(text)
    assert endpoint is not None
    return endpoint


def told(known: Known, state: str = UNKNOWN, needed: int = 3, relayed: tuple[str, ...] = ()) -> list[str]:
    return [each.address for each in known.told(state, needed, 0.0, relayed) if each.told]


def entry(known: Known, address: str, state: str = UNKNOWN, needed: int = 3) -> AddressState:
    return next(each for each in known.told(state, needed, 0.0) if each.address == address)


def vote(known: Known, address: str, *answers: bool, first: int = 20) -> None:
    """One answer of each of several networks about one address."""
    for number, yes in enumerate(answers):
        known.record(f"{first + number}.1.0.0/16", f"peer{number}", DialBackAnswer({at(address): yes}, yes), 0.0)


# --- observed addresses ----------------------------------------------------------------------------------------------


def test_three_networks_are_believed() -> None:
    """An address that three networks see is believed; two are not enough."""
    seen = Observed()
    for number in range(3):
        assert not seen.confirmed()
        seen.saw(f"p{number}", ip(f"2{number}.1.1.1"), at(OURS), 0)
    assert seen.confirmed() == {at(OURS): 3}


def test_many_peers_of_one_network_are_one_voice() -> None:
    """Identities cost nothing: a thousand peers of two networks cannot make us believe a victim's address."""
    seen = Observed()
    for number in range(1000):
        seen.saw(f"p{number}", ip(f"2{number % 2}.1.{number // 250}.{number % 250}"), at(VICTIM), 0)
    assert not seen.confirmed()
    assert not seen.confirmed_ips()
    assert len(seen._views) <= limits.MAX_OBSERVATIONS


def test_one_liar_among_many() -> None:
    """What one peer says is not believed, however often it says it, and a later word replaces the earlier."""
    seen = Observed()
    for number in range(4):
        seen.saw(f"p{number}", ip(f"2{number}.1.1.1"), at(OURS), 0)
    for number in range(10):
        seen.saw("liar", ip("66.1.1.1"), at(f"/ip4/66.66.66.66/tcp/{80 + number}"), 0)
    assert seen.confirmed() == {at(OURS): 4}
    for number in range(2):
        seen.saw(f"p{number}", ip(f"2{number}.1.1.1"), at(VICTIM), 0)
    assert not seen.confirmed()


def test_symmetric_nat_gives_the_ip_only() -> None:
    """Where each connection has another port outside, no port is believed, but the IP address is."""
    seen = Observed()
    for number in range(3):
        seen.saw(f"p{number}", ip(f"2{number}.1.1.1"), at(f"/ip4/11.1.1.1/tcp/{5000 + number}"), 0)
    assert not seen.confirmed()
    assert seen.confirmed_ips() == [ip("11.1.1.1")]


def test_private_views_do_not_count() -> None:
    """Neither peers of our LAN nor private addresses say anything about the outside."""
    seen = Observed()
    for number in range(5):
        seen.saw(f"a{number}", ip(f"10.{number}.1.1"), at(OURS), 0)
        seen.saw(f"b{number}", ip(f"2{number}.1.1.1"), at("/ip4/192.168.1.5/tcp/4001"), 0)
    assert not seen.confirmed_ips()


def test_old_views_are_forgotten() -> None:
    """Peers that left half an hour ago count no more; connected ones do."""
    seen = Observed()
    for number in range(3):
        seen.saw(f"p{number}", ip(f"2{number}.1.1.1"), at(OURS), 0)
    seen.purge(["p0", "p1", "p2"], limits.OBSERVATION_LIFETIME + 1)
    assert seen.confirmed()
    seen.purge(["p0", "p1"], limits.OBSERVATION_LIFETIME + 1)
    assert not seen.confirmed()


# --- votes -----------------------------------------------------------------------------------------------------------


def ballot(*answers: bool) -> Ballot:
    made = Ballot()
    for number, yes in enumerate(answers):
        made.add(f"n{number}", Vote(yes, "p", float(number)))
    return made


def test_one_liar_among_three_changes_nothing() -> None:
    """The majority of three decides, whichever way the third lies."""
    assert ballot(True, False, True).tally(3, 10).result is True
    assert ballot(False, True, False).tally(3, 10).result is False


def test_too_few_votes_decide_nothing() -> None:
    """With three networks to be had, two answers are none; where there is only one, its answer counts."""
    assert ballot(True, True).tally(3, 10).result is None
    assert ballot(True, False).tally(2, 10).result is None
    assert ballot(False).tally(1, 10).result is False


def test_a_network_has_one_vote() -> None:
    """Its last one."""
    made = ballot(True, True, True)
    for _ in range(5):
        made.add("n0", Vote(False, "p", 20))
    assert made.tally(3, 20).result is True


def test_the_newest_three_decide() -> None:
    """After one round the truth of today shows, however many voted yesterday; and votes grow old."""
    assert ballot(*[True] * 10, False, False, False).tally(3, 20).result is False
    assert ballot(True, True, True).tally(3, limits.VOTE_LIFETIME + 10).result is None
    assert len(ballot(*[True] * 100)._votes) == limits.MAX_VOTES


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_public_interface_is_told_until_proven_unreachable() -> None:
    """With nobody to ask it is told; after three failed dial backs it is not; after new ones that worked it is."""
    known = Known(listening=[OURS, "/ip4/192.168.1.5/tcp/4001", "/ip4/127.0.0.1/tcp/4001"])
    assert told(known) == known.listening
    vote(known, OURS, False, False, False)
    assert known.state(3, 0) == PRIVATE
    assert told(known, PRIVATE) == known.listening[1:]
    assert "0 of 3 peers could dial back" in entry(known, OURS, PRIVATE).reason
    vote(known, OURS, True, True)
    assert known.state(3, 0) == PUBLIC
    assert told(known, PUBLIC)[0] == OURS
    assert entry(known, OURS, PUBLIC).reachable is True


def test_announced_addresses_are_always_told_first() -> None:
    """The user knows better than servers."""
    known = Known(["/ip4/11.9.9.9/tcp/1", "/dns4/lab.example.org/tcp/2"], listening=[OURS])
    vote(known, "/ip4/11.9.9.9/tcp/1", False, False, False)
    assert told(known, PRIVATE)[:2] == ["/ip4/11.9.9.9/tcp/1", "/dns4/lab.example.org/tcp/2"]


def test_mapped_and_observed_addresses_are_told() -> None:
    """The router's word and three networks' are good until servers prove them wrong."""
    known = Known(listening=["/ip4/192.168.1.5/tcp/4001"], mapped=at("/ip4/11.2.2.2/tcp/7"), observed={at(OURS): 3})
    assert told(known) == ["/ip4/11.2.2.2/tcp/7", OURS, "/ip4/192.168.1.5/tcp/4001"]
    vote(known, OURS, False, False, False)
    assert OURS not in told(known)


def test_a_victims_address_is_not_told_on_the_word_of_two() -> None:
    """Servers that say they reached us at an address nobody else knows as ours are three networks, or ignored."""
    known = Known(listening=["/ip4/192.168.1.5/tcp/4001"])
    vote(known, VICTIM, True, True)
    assert known.state(1, 0) == UNKNOWN
    assert VICTIM not in told(known, needed=1)
    vote(known, VICTIM, True, first=30)
    assert VICTIM in told(known, PUBLIC, needed=1)


def test_a_forwarded_port_on_a_known_ip_needs_no_more_than_the_quorum() -> None:
    """When three networks know our IP address, a dial back to another port of it is believed as any other."""
    known = Known(listening=["/ip4/192.168.1.5/tcp/4001"], observed_ips=[ip("11.1.1.1")])
    vote(known, OURS, True)
    assert known.state(1, 0) == PUBLIC
    assert OURS in told(known, PUBLIC, needed=1)


def test_a_guess_is_the_business_of_the_server_it_came_from() -> None:
    """A server is asked about the place it sees us at; others never are."""
    known = Known(listening=["/ip4/192.168.1.5/tcp/4001"], mapped=at("/ip4/11.2.2.2/tcp/7"))
    assert known.questions(at("/ip4/11.1.1.1/tcp/5000")) == [
        at("/ip4/11.2.2.2/tcp/7"),
        at(OURS),
        at("/ip4/11.1.1.1/tcp/5000"),
    ]
    assert known.questions(None) == [at("/ip4/11.2.2.2/tcp/7")]
    assert known.questions(at("/ip4/10.0.0.1/tcp/5000")) == [at("/ip4/11.2.2.2/tcp/7")]


def test_relays_are_told_unless_public() -> None:
    """A relay address is of use to whoever cannot be reached otherwise."""
    relay = "/ip4/11.3.3.3/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit"
    known = Known(listening=[OURS])
    assert relay in told(known, PRIVATE, relayed=(relay,))
    assert relay in told(known, UNKNOWN, relayed=(relay,))
    assert relay not in told(known, PUBLIC, relayed=(relay,))


def test_forced_private_hides_public_addresses() -> None:
    """When the user says that nobody can reach us, only LAN, relay and announced addresses are told."""
    known = Known(listening=[OURS, "/ip4/192.168.1.5/tcp/4001"])
    states = known.told(PRIVATE, 3, 0, ("/relay",), forced=True)
    assert [each.address for each in states if each.told] == ["/relay", "/ip4/192.168.1.5/tcp/4001"]


def test_dozens_of_bridges_are_bounded() -> None:
    """Containers bring many addresses; the one of the default route comes first, and the rest has an end."""
    bridges = [f"/ip4/172.{number}.0.1/tcp/4001" for number in range(17, 31)] * 1
    bridges += [f"/ip4/10.{number}.0.1/tcp/4001" for number in range(50)]
    known = Known(listening=[*bridges, "/ip4/192.168.1.5/tcp/4001"], preferred="192.168.1.5")
    assert told(known)[0] == "/ip4/192.168.1.5/tcp/4001"
    assert len(told(known)) == limits.MAX_LAN_ADDRESSES


def test_votes_are_bounded() -> None:
    """Servers cannot fill our memory with addresses they claim to have dialled."""
    known = Known()
    for number in range(1000):
        known.record("n", "p", DialBackAnswer({at(f"/ip4/11.1.1.1/tcp/{number + 1}"): True}, True), 0.0)
    assert len(known._ballots) == limits.MAX_VOTED_ADDRESSES
