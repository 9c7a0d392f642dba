"""Members are found by their list and by the keys of their group; whoever else is found there does not count."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio

from kachery_p2p.access.audience import OWN
from kachery_p2p.routing.blinded import PERIOD, blinded_key
from kachery_p2p.routing.interfaces import Provider
from kachery_p2p.routing.members import MAX_KEYS, MAX_LISTED, MemberSearch
from kachery_p2p.routing.router import Router
from tests.helpers.group_fakes import G1, G2, FakeMembers
from tests.unit.routing.test_router import addr, peer

ROOT = b"\x12\x20" + bytes(range(32))
NOW = 6900 * PERIOD + 1.0
BOB, EVE, OUTSIDER, OUR_LAPTOP = (peer(number) for number in range(1, 5))


class Recorder:
    """A DHT that is asked for keys, and has records."""

    name = "dht"

    def __init__(self) -> None:
        self.records: dict[bytes, list[Provider]] = {}
        self.asked: list[bytes] = []

    def put(self, key: bytes, who: str) -> None:
        self.records.setdefault(key, []).append(Provider(who, (addr(4001),), "dht"))

    async def find_providers(self, multihash: bytes) -> AsyncGenerator[Provider, None]:
        self.asked.append(multihash)
        await trio.lowlevel.checkpoint()
        for each in self.records.get(multihash, ()):
            yield each


@pytest.fixture
def members() -> FakeMembers:
    members = FakeMembers()
    members.add(G1, BOB)
    members.add(G2, EVE)
    return members


async def find(members: FakeMembers, dht: Recorder, groups: list[str], **options: Any) -> list[Provider]:
    async with trio.open_nursery() as nursery:
        router = Router([dht], local=peer(99))
        await nursery.start(router.run)
        search = MemberSearch(router, members, wall=lambda: NOW, **options)
        found = [each async for each in search.find_providers(groups, ROOT)]
        nursery.cancel_scope.cancel()
    return found


async def test_members_are_found_under_the_keys_of_their_group(members: FakeMembers) -> None:
    """Whether a member's clock is in this period or beside it; and the DHT hears nothing of the root."""
    for period in (6899, 6900, 6901):
        dht = Recorder()
        dht.put(blinded_key(members.secrets_of(G1)[0], period, ROOT), BOB)
        assert [each.peer for each in await find(members, dht, [G1])] == [BOB]
        assert ROOT not in dht.asked
        assert len(dht.asked) == 3


async def test_a_record_of_a_stranger_does_not_count(members: FakeMembers) -> None:
    """Anybody who saw the key may put himself there. Nor does a member of another group count."""
    dht = Recorder()
    key = blinded_key(members.secrets_of(G1)[0], 6900, ROOT)
    for who in (OUTSIDER, EVE, BOB):
        dht.put(key, who)
    dht.put(ROOT, OUTSIDER)
    assert [each.peer for each in await find(members, dht, [G1])] == [BOB]


async def test_a_member_that_was_away_announces_with_the_old_secret(members: FakeMembers) -> None:
    """It is found all the same."""
    dht = Recorder()
    dht.put(blinded_key(members.secrets_of(G1)[0], 6900, ROOT), BOB)
    members.secrets[G1] = (bytes(32), *members.secrets_of(G1))
    assert [each.peer for each in await find(members, dht, [G1])] == [BOB]


async def test_listed_members_come_first(members: FakeMembers) -> None:
    """At the addresses that they told, with those of the user's own machines; this machine itself is none of them."""
    members.add(OWN, OUR_LAPTOP)
    members.add(G1, peer(99))
    members.addresses = {
        BOB: (f"/ip4/192.0.2.1/tcp/1/p2p/{BOB}", f"/ip4/192.0.2.2/tcp/2/p2p/{EVE}/p2p-circuit/p2p/{BOB}"),
        EVE: (addr(2),),
        OUR_LAPTOP: (addr(3),),
        peer(99): (addr(4),),
    }
    found = await find(members, Recorder(), [G1], local=peer(99))
    assert {each.peer: each.addrs for each in found} == {
        OUR_LAPTOP: (addr(3),),
        BOB: ("/ip4/192.0.2.1/tcp/1", f"/ip4/192.0.2.2/tcp/2/p2p/{EVE}/p2p-circuit"),
    }
    assert {each.source for each in found} == {"group"}
    assert found[0].peer == OUR_LAPTOP


async def test_members_are_tried_where_they_were_met_before(members: FakeMembers) -> None:
    """The user's other machine is on no list that says where it is; the address book does."""
    members.add(OWN, OUR_LAPTOP)
    members.addresses[BOB] = (addr(1),)
    book = {OUR_LAPTOP: (addr(7),), BOB: (addr(2), addr(1)), OUTSIDER: (addr(3),)}
    found = await find(members, Recorder(), [G1], known=lambda peer: book.get(peer, ()))
    assert [(each.peer, each.addrs) for each in found] == [(OUR_LAPTOP, (addr(7),)), (BOB, (addr(1), addr(2)))]


async def test_an_empty_list_of_members_finds_nobody(members: FakeMembers) -> None:
    """And without a secret nothing is asked for at all."""
    members.members[G1].clear()
    members.secrets[G1] = ()
    dht = Recorder()
    dht.put(ROOT, OUTSIDER)
    assert await find(members, dht, [G1]) == []
    assert dht.asked == []


async def test_the_search_is_bounded(members: FakeMembers) -> None:
    """However many groups, secrets and members there are; each group has its likeliest key asked for."""
    groups = ["".join(("a" * 25, chr(97 + number))) for number in range(16)]
    for group in groups:
        members.add(group, *(peer(number) for number in range(1000, 1300)))
        members.secrets[group] = tuple(bytes([number]) * 32 for number in range(9))
    members.addresses = {peer(number): (addr(1),) for number in range(1000, 1300)}
    dht = Recorder()
    assert len(await find(members, dht, groups)) == MAX_LISTED
    assert len(dht.asked) <= MAX_KEYS
