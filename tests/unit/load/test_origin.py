"""For whom it is what is loaded: what counts is what the peer said that gave the root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from kachery_p2p.access.audience import NOBODY, OWN, PRIVATE, PUBLIC, Audience, group_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.load.origin import Origin
from tests.helpers.bitswap_fakes import cid_of
from tests.helpers.group_fakes import G1, G2, FakeMembers

ROOT = cid_of(b"root")
LEAF = cid_of(b"leaf")


@dataclass
class Came:
    """A block that came."""

    cid: CID
    peer: str
    data: bytes = b""
    placed: int = 0


class Load:
    """An origin, whom it asked, and the groups that it was restricted to."""

    def __init__(self, said: dict[str, Audience] | None = None, **options: Any) -> None:
        self.members = FakeMembers()
        self.members.add(G1, "bob", "mallory", "silent")
        self.members.add(G2, "eve", "mallory")
        self.members.add(OWN, "laptop")
        self.said = said or {}
        self.asked: list[str] = []
        self.restricted: list[frozenset[str]] = []
        self.sources: dict[str, int] = {}
        self.origin = Origin(ROOT, self, self.members, self._ask, restricted=self.restricted.append, **options)

    def put_back(self, block: object) -> None:
        raise AssertionError("the origin takes nothing back itself")

    def stats(self) -> Load:
        return self

    async def _ask(self, peer: str) -> Audience | None:
        self.asked.append(peer)
        return self.said.get(peer)

    async def came(self, *blocks: tuple[CID, str]) -> Audience:
        await self.origin.came([Came(*block) for block in blocks])
        return self.origin.audience


async def test_what_a_member_says_who_gave_the_root_counts() -> None:
    """It is asked, if it was not before, and the load goes on among members."""
    load = Load({"bob": group_audience([G1])})
    assert await load.came((ROOT, "bob")) == group_audience([G1])
    assert (load.asked, load.restricted) == (["bob"], [frozenset({G1})])


async def test_what_was_said_before_is_not_asked_again() -> None:
    """Members that were asked before the load began have answered."""
    load = Load(told={"bob": group_audience([G1])}, groups=frozenset({G1}))
    assert await load.came((ROOT, "bob")) == group_audience([G1])
    assert (load.asked, load.restricted) == ([], [])


async def test_who_only_knows_the_cid_does_not_count() -> None:
    """Mallory was asked, and says that it is for everybody, or for a group of his. He has not given it: no word of his
    lets anybody else have it."""
    for lie in (PUBLIC, group_audience([G2]), group_audience([G1, G2])):
        load = Load(told={"mallory": lie, "bob": group_audience([G1])}, groups=frozenset({G1, G2}))
        assert await load.came((LEAF, "mallory"), (ROOT, "bob")) == group_audience([G1])


async def test_only_groups_count_that_both_are_in() -> None:
    """What a member says of other groups, and of machines of its own, lets nobody in here."""
    load = Load({"bob": group_audience([G1, G2])})
    assert await load.came((ROOT, "bob")) == group_audience([G1])
    load = Load({"bob": PRIVATE})
    assert await load.came((ROOT, "bob")) == NOBODY
    load = Load({"laptop": PRIVATE})
    assert await load.came((ROOT, "laptop")) == PRIVATE


@pytest.mark.parametrize("peer", ["stranger", "gateway:ipfs.example.org", ""])
async def test_what_strangers_have_is_for_everybody(peer: str) -> None:
    """Nobody is asked for that."""
    load = Load()
    assert await load.came((ROOT, peer)) == PUBLIC
    assert load.asked == []


async def test_a_member_may_have_it_for_everybody() -> None:
    """Then it is for everybody here, and the load goes on as it was."""
    load = Load({"bob": PUBLIC})
    assert await load.came((ROOT, "bob")) == PUBLIC
    assert load.restricted == []


async def test_where_nobody_says_it_is_for_nobody_else() -> None:
    """Who has given most of it is asked once more at the end."""
    load = Load()
    assert await load.came((ROOT, "silent"), (LEAF, "bob")) == NOBODY
    load.said = {"bob": group_audience([G1])}
    load.sources = {"silent": 10, "bob": 1000}
    await load.origin.finish()
    assert load.origin.audience == group_audience([G1])


async def test_a_removed_member_says_nothing_that_counts() -> None:
    """It was removed while the load went on."""
    load = Load(told={"bob": group_audience([G1])}, groups=frozenset({G1}))
    load.members.remove(G1, "bob")
    load.members.add(G2, "bob")
    assert await load.came((ROOT, "bob")) == NOBODY


async def test_what_is_known_here_stays() -> None:
    """A load that goes on with what is here for a group makes it for nobody else, whoever sends the rest."""
    load = Load(known=group_audience([G1]), groups=frozenset({G1}))
    assert await load.came((ROOT, "stranger"), (LEAF, "stranger")) == group_audience([G1])
    load.sources = {"stranger": 5}
    await load.origin.finish()
    assert load.origin.audience == group_audience([G1])
