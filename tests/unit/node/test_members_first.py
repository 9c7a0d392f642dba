"""Who may hear of a root is found out before anything is asked: from the catalog, the URI, or fellow members."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kachery_p2p.access.audience import NOBODY, OWN, PRIVATE, PUBLIC, Audience, group_audience
from kachery_p2p.access.limits import MAX_ASKING_EACH
from kachery_p2p.errors import NotAMember
from kachery_p2p.node import members as module
from kachery_p2p.node.members import ANSWER_SECONDS, AWAY_SECONDS, NOBODY_SECONDS, REACH_SECONDS, MembersFirst, Plan
from kachery_p2p.routing.members import MemberSearch
from tests.helpers.bitswap_fakes import cid_of
from tests.helpers.group_fakes import G1, G2, FakeAudiences, FakeMembers

ROOT = cid_of(b"root")


class Net:
    """Members that answer as they are told to, and who was dialled and asked when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.members = FakeMembers()
        self.audiences = FakeAudiences()
        self.up: list[str] = []
        #: For whom each has the root, and after how many seconds it says so; without an entry it does not answer.
        self.says: dict[str, tuple[float, Audience | None]] = {}
        self.reachable: set[str] = set()
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.dialled: list[str] = []
        finding: Any = type("Finding", (), {"members": MemberSearch(None, self.members)})()  # type: ignore[arg-type]
        #: For whom roots were that were removed here.
        self.formerly: dict[bytes, Audience] = {}
        self.first = MembersFirst(
            self,  # type: ignore[arg-type]
            finding,
            self.members,
            self.audiences,
            formerly=self.formerly.get,
            ever_restricted=lambda: bool(self.formerly),
        )
        monkeypatch.setattr(module, "ask_audience", self._ask)

    def connected(self) -> Collection[str]:
        return self.up

    async def connect(self, peer: str, addrs: Sequence[str], *, timeout: float) -> str:
        self.dialled.append(peer)
        if peer not in self.reachable:
            await trio.sleep_forever()
        return peer

    async def _ask(
        self, host: object, peer: str, multihashes: Collection[bytes], *, timeout: float
    ) -> dict[bytes, Audience] | None:
        self.asked.append(peer)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(peer, timeout)
        finally:
            self.at_once -= 1

    async def _answer(self, peer: str, timeout: float) -> dict[bytes, Audience] | None:
        if peer not in self.says:
            await trio.sleep(timeout)
            return None
        pause, audience = self.says[peer]
        await trio.sleep(pause)
        return {} if audience is None else {ROOT.multihash: audience}


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    async def in_place(work: Any, *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)
    return Net(monkeypatch)


@pytest.fixture
def mock_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_a_machine_in_no_group_asks_nobody(net: Net, mock_clock: MockClock) -> None:
    """It takes no time, and nothing that comes is looked at."""
    net.up = ["stranger"]
    plan = await net.first.plan(ROOT)
    assert (plan.groups, plan.watched) == (None, False)
    assert (trio.current_time(), net.asked, net.dialled) == (0, [], [])


async def test_the_hint_says_who_may_hear(net: Net, mock_clock: MockClock) -> None:
    """The groups of it that this machine is in; nobody has to be asked first."""
    net.members.add(G1, "bob")
    plan = await net.first.plan(ROOT, [G1, G2])
    assert (plan.groups, plan.watched) == ({G1}, True)
    assert net.asked == []


async def test_who_is_in_none_of_them_is_told(net: Net) -> None:
    """With the group, and the command that helps."""
    net.members.add(G1, "bob")
    with pytest.raises(NotAMember, match=f"{G2}.*not in it on this machine.*kachery-cloud-group join"):
        await net.first.plan(ROOT, [G2])


async def test_what_is_here_says_for_whom_it_is(net: Net, mock_clock: MockClock) -> None:
    """What goes on with a part that is for a group, or private, asks nobody else; also of a group that was left."""
    net.members.add(G1, "bob")
    net.audiences.table[ROOT.multihash] = group_audience([G1])
    assert (await net.first.plan(ROOT)).groups == {G1}
    net.audiences.table[ROOT.multihash] = PRIVATE
    assert (await net.first.plan(ROOT)).groups == frozenset()
    net.members.members.clear()
    net.audiences.table[ROOT.multihash] = group_audience([G1])
    plan = await net.first.plan(ROOT)
    assert (plan.groups, plan.known) == ({G1}, group_audience([G1]))
    assert net.asked == []


async def test_what_came_from_a_member_that_said_nothing_stays_among_members(net: Net, mock_clock: MockClock) -> None:
    """A part is here, and for nobody else so far: strangers do not hear of it."""
    net.members.add(G1, "bob")
    net.members.add(G2, "eve")
    net.audiences.table[ROOT.multihash] = NOBODY
    plan = await net.first.plan(ROOT)
    assert (plan.groups, plan.known) == ({G1, G2}, NOBODY)


async def test_the_first_that_says_for_which_group_decides(net: Net, mock_clock: MockClock) -> None:
    """The others are not waited for; one that says that it is for everybody may know no more than the CID."""
    net.members.add(G1, "bob", "liar", "silent")
    net.up = ["bob", "liar", "silent", "stranger"]
    net.says = {"liar": (0.0, PUBLIC), "bob": (0.5, group_audience([G1]))}
    plan = await net.first.plan(ROOT)
    assert plan.groups == {G1}
    assert plan.told["bob"] == group_audience([G1])
    assert trio.current_time() == 0.5
    assert "stranger" not in net.asked


async def test_only_groups_that_both_are_in_count(net: Net, mock_clock: MockClock) -> None:
    """A member of one group says nothing of another one."""
    net.members.add(G1, "bob")
    net.members.add(G2, "eve")
    net.up = ["eve"]
    net.says = {"eve": (0.1, group_audience([G1]))}
    assert (await net.first.plan(ROOT)).groups is None


async def test_if_all_say_no_it_is_looked_for_as_everything(net: Net, mock_clock: MockClock) -> None:
    """What comes is looked at all the same. A moment later nobody is asked again."""
    net.members.add(G1, "bob", "ann")
    net.up = ["bob", "ann"]
    net.says = {"bob": (0.1, None), "ann": (0.2, None)}
    plan = await net.first.plan(ROOT)
    assert (plan.groups, plan.watched) == (None, True)
    assert trio.current_time() == pytest.approx(0.2)
    await net.first.plan(ROOT)
    assert sorted(net.asked) == ["ann", "bob"]
    await trio.sleep(NOBODY_SECONDS)
    await net.first.plan(ROOT)
    assert len(net.asked) == 4


async def test_what_members_have_for_everybody_is_public(net: Net, mock_clock: MockClock) -> None:
    """Nobody said that it is for a group."""
    net.members.add(G1, "bob")
    net.up = ["bob"]
    net.says = {"bob": (0.1, PUBLIC)}
    plan = await net.first.plan(ROOT)
    assert (plan.groups, plan.told) == (None, {"bob": PUBLIC})


async def test_members_that_are_not_connected_are_tried_for_a_second(net: Net, mock_clock: MockClock) -> None:
    """One that is away costs a load that second once a minute."""
    net.members.add(G1, "away", "near")
    net.members.addresses = {"away": ("/ip4/192.0.2.1/tcp/1",), "near": ("/ip4/192.0.2.2/tcp/1",)}
    net.reachable = {"near"}
    net.says = {"near": (0.1, None)}
    await net.first.plan(ROOT)
    assert trio.current_time() == pytest.approx(REACH_SECONDS)
    assert sorted(net.dialled) == ["away", "near"]
    assert net.asked == ["near"]
    await net.first.plan(cid_of(b"another"))
    assert trio.current_time() == pytest.approx(REACH_SECONDS + 0.1)
    assert net.dialled.count("away") == 1
    await trio.sleep(AWAY_SECONDS)
    net.reachable.add("away")
    net.says["away"] = (0.1, group_audience([G1]))
    assert (await net.first.plan(ROOT)).groups == {G1}


async def test_a_member_that_is_named_as_a_provider_is_asked_there(net: Net, mock_clock: MockClock) -> None:
    """Where no address of it is known, or it was looked for elsewhere just now, too. Others that are named are not."""
    net.members.add(G1, "bob")
    net.says = {"bob": (0.0, group_audience([G1]))}
    net.reachable = {"bob"}
    assert (await net.first.plan(ROOT)).groups is None
    there = ["/ip4/11.0.0.8/tcp/4001/p2p/relay/p2p-circuit/p2p/bob", "/ip4/11.0.0.9/tcp/4001/p2p/stranger"]
    assert (await net.first.plan(ROOT, providers=there)).groups == {G1}
    assert net.dialled == ["bob"]


async def test_many_loads_at_once_ask_a_member_in_turns(net: Net, mock_clock: MockClock) -> None:
    """It would refuse what is more than it answers at once, and who is refused would ask everybody."""
    net.members.add(G1, "bob")
    net.up = ["bob"]
    net.says = {"bob": (0.1, group_audience([G1]))}
    plans: list[Plan] = []

    async def plan() -> None:
        plans.append(await net.first.plan(ROOT))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(plan)
    assert [each.groups for each in plans] == [{G1}] * 20
    assert net.most_at_once <= MAX_ASKING_EACH // 2


async def test_a_member_that_keeps_silent_is_not_waited_for_for_long(net: Net, mock_clock: MockClock) -> None:
    """It may be of an older version, or busy."""
    net.members.add(G1, "silent")
    net.up = ["silent"]
    assert (await net.first.plan(ROOT)).groups is None
    assert trio.current_time() == pytest.approx(ANSWER_SECONDS)


async def test_own_machines_are_asked_without_any_group(net: Net, mock_clock: MockClock) -> None:
    """What is private on the laptop is looked for on own machines alone."""
    net.members.members[OWN] = {"laptop"}
    net.up = ["laptop", "stranger"]
    net.says = {"laptop": (0.1, PRIVATE)}
    plan = await net.first.plan(ROOT)
    assert (plan.groups, plan.told) == (frozenset(), {"laptop": PRIVATE})
    with contextlib.suppress(KeyError):
        del net.members.members[OWN]
    net.members.changed()
    assert (await net.first.plan(ROOT)).watched is False


async def test_the_hint_of_what_is_private(net: Net, mock_clock: MockClock) -> None:
    """Own machines alone hear of it. Where there are none, nobody does, and the error says what is missing."""
    with pytest.raises(NotAMember, match=r"private.*KACHERY_CLOUD_OWN_PEERS"):
        await net.first.plan(ROOT, [OWN])
    net.members.members[OWN] = {"laptop"}
    net.up = ["laptop", "stranger"]
    plan = await net.first.plan(ROOT, [OWN])
    assert (plan.groups, plan.watched, net.asked) == (frozenset(), True, [])
    net.members.add(G1, "bob")
    assert (await net.first.plan(ROOT, [OWN, G1])).groups == {G1}
    net.members.members.pop(OWN)
    with pytest.raises(NotAMember, match=f"of the group {G2};"):
        await net.first.plan(ROOT, [OWN, G2])


async def test_what_was_removed_here_is_not_looked_for_in_public(net: Net, mock_clock: MockClock) -> None:
    """It was for members when it was here. By its CID alone they are asked, and nobody else; also without any group."""
    net.formerly[ROOT.multihash] = group_audience([G1])
    plan = await net.first.plan(ROOT)
    assert (plan.groups, plan.watched) == (frozenset(), True)
    net.members.add(G1, "bob")
    assert (await net.first.plan(ROOT)).groups == {G1}
    assert (await net.first.plan(cid_of(b"another"))).groups is None
    net.members.add(G2, "carl")
    net.up = ["carl"]
    net.says = {"carl": (0.1, group_audience([G2]))}  # what a member says today goes first
    assert (await net.first.plan(ROOT)).groups == {G2}


async def test_what_a_member_said_once_stays_among_members(net: Net, mock_clock: MockClock) -> None:
    """The member goes away before anything came: nobody else is asked then. A change of members forgets it."""
    net.members.add(G1, "bob")
    net.up = ["bob"]
    net.says = {"bob": (0.1, group_audience([G1]))}
    assert (await net.first.plan(ROOT)).groups == {G1}
    net.up = []
    assert (await net.first.plan(ROOT)).groups == {G1}
    net.members.remove(G1, "bob")
    assert (await net.first.plan(ROOT)).groups is None


async def test_members_alone_where_the_user_says_so(net: Net, mock_clock: MockClock) -> None:
    """Whatever is known of it, strangers are not asked; without a group or own machines it is an error."""
    with pytest.raises(NotAMember, match="KACHERY_CLOUD_MEMBERS_ONLY"):
        await net.first.plan(ROOT, members_only=True)
    net.members.add(G1, "bob")
    net.members.add(G2, "eve")
    plan = await net.first.plan(ROOT, members_only=True)
    assert (plan.groups, plan.watched) == ({G1, G2}, True)
    assert "KACHERY_CLOUD_MEMBERS_ONLY" in plan.why
    assert (await net.first.plan(ROOT, [G1], members_only=True)).why == "as its URI says, or --group"
    net.up = ["bob"]
    net.says = {"bob": (0.0, PUBLIC)}
    assert (await net.first.plan(cid_of(b"public"), members_only=True)).groups == {G1, G2}
    net.members.members = {OWN: {"laptop"}}
    assert (await net.first.plan(cid_of(b"private"), members_only=True)).groups == frozenset()
