"""Loads for somebody unknown: strangers are asked, and members only for what they have for everybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from kachery_p2p.access.audience import OWN, PUBLIC, Audience, group_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound
from kachery_p2p.load.public import PublicOrigin
from tests.helpers.bitswap_fakes import cid_of
from tests.helpers.group_fakes import G1, FakeMembers

ROOT, LEAF, SECRET = (cid_of(name) for name in (b"root", b"leaf", b"secret"))


@dataclass
class Came:
    """A block that came."""

    cid: CID
    peer: str
    data: bytes = b""
    placed: int = 0


class World:
    """Members that say for whom they have blocks; and how often it was told to look again whom to ask."""

    def __init__(self) -> None:
        self.members = FakeMembers()
        self.members.add(G1, "bob", "carl", "older")
        self.members.add(OWN, "laptop")
        self.said: dict[str, dict[bytes, Audience] | None] = {
            "bob": {ROOT.multihash: PUBLIC, LEAF.multihash: PUBLIC, SECRET.multihash: group_audience([G1])},
            "carl": {ROOT.multihash: group_audience([G1])},
            "laptop": {},
            "older": None,
        }
        self.asked: list[tuple[str, tuple[bytes, ...]]] = []
        self.looks = 0
        self.origin = PublicOrigin(ROOT, self.members, self._ask, self._look)

    async def _ask(self, peer: str, multihashes: Sequence[bytes]) -> Mapping[bytes, Audience] | None:
        self.asked.append((peer, tuple(multihashes)))
        await trio.lowlevel.checkpoint()
        return self.said[peer]

    def _look(self) -> None:
        self.looks += 1


async def test_who_is_asked(nursery: trio.Nursery) -> None:
    """A stranger at once. A member once it has said that it has the root for everybody; each is asked once."""
    world = World()
    nursery.start_soon(world.origin.run)
    peers = ["stranger", "bob", "carl", "laptop", "older"]
    assert [peer for peer in peers if world.origin.admits(peer)] == ["stranger"]
    assert [peer for peer in peers if world.origin.admits(peer)] == ["stranger"]
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(world.asked) == sorted((peer, (ROOT.multihash,)) for peer in peers[1:])
    assert [peer for peer in peers if world.origin.admits(peer)] == ["stranger", "bob"]
    assert world.looks == 1
    nursery.cancel_scope.cancel()


async def test_each_block_of_a_member_is_asked_about() -> None:
    """Before the load sees it. Those of strangers and gateways are public, whatever they are."""
    world = World()
    await world.origin.came([Came(SECRET, "stranger"), Came(LEAF, "gateway:example.org")])
    assert world.asked == []
    await world.origin.came([Came(ROOT, "bob"), Came(LEAF, "bob"), Came(LEAF, "stranger")])
    assert world.asked == [("bob", (ROOT.multihash, LEAF.multihash))]


@pytest.mark.parametrize("peer", ["bob", "laptop", "older"])
async def test_a_member_that_sends_what_is_not_for_everybody(nursery: trio.Nursery, peer: str) -> None:
    """The load ends as one that finds nothing, and the member is not asked again. Who does not say is not believed."""
    world = World()
    nursery.start_soon(world.origin.run)
    world.origin.admits(peer)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(ContentNotFound, match=str(ROOT)):
        await world.origin.came([Came(LEAF, "stranger"), Came(SECRET, peer)])
    assert not world.origin.admits(peer)
    nursery.cancel_scope.cancel()


async def test_who_becomes_a_member_meanwhile() -> None:
    """Is asked like one."""
    world = World()
    assert world.origin.admits("stranger")
    world.said["stranger"] = {}
    world.members.add(G1, "stranger")
    assert not world.origin.admits("stranger")
    with pytest.raises(ContentNotFound):
        await world.origin.came([Came(ROOT, "stranger")])
