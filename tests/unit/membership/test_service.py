"""Groups on the network, between hosts on loopback: join, compare, remove, leave, and what strangers get."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trio

from kachery_p2p.errors import DialError, GroupError, InvitationRefused, StreamError
from kachery_p2p.membership import limits, notices
from kachery_p2p.membership.groups import Groups
from kachery_p2p.membership.held import HeldGroup
from kachery_p2p.membership.invitations import parse_invitation
from kachery_p2p.membership.lists import Entry, Role, sign_list
from kachery_p2p.membership.protocol import PROTOCOL, Answer, Opening, Part, read_answer
from kachery_p2p.transport.stream import Stream
from kachery_p2p.wire import delimited, read_delimited
from tests.helpers.group_helpers import Machine
from tests.helpers.patience import PATIENCE, until

Pair = tuple[Machine, Machine, str]


async def test_three_machines(tmp_path: Path) -> None:
    """One makes a group and invites; a second joins, becomes an owner and invites a third; the first removes it. Each
    sees all of it, and the secret is another one then, which the third does not have."""
    async with trio.open_nursery() as nursery:
        a, b, c = [await Machine(tmp_path / name).start(nursery) for name in "abc"]
        group = a.groups.create("hippocampus", "a").group
        assert (await b.join(a.invite(group), "b")).name == "hippocampus"
        assert b.roles(group) == a.roles(group) == {a.peer: Role.OWNER, b.peer: Role.READER}
        assert a.groups.groups_of(b.peer) == b.groups.groups_of(a.peer) == {group}
        assert a.groups.secrets_of(group) == b.groups.secrets_of(group)
        a.groups.set_role(group, b.peer, Role.OWNER)
        a.service.changed()
        await until(lambda: b.roles(group)[b.peer] is Role.OWNER)
        await c.join(b.invite(group, Role.WRITER), "c")
        for each in (a, b, c):
            await each.sees(group, a, b, c)
        assert {each.groups.secrets_of(group) for each in (a, b, c)} == {a.groups.secrets_of(group)}
        before = c.groups.secrets_of(group)
        a.groups.remove(group, c.peer)
        a.service.changed()
        assert a.groups.groups_of(c.peer) == frozenset()
        for each in (a, b):
            await each.sees(group, a, b)
            await until(lambda each=each: len(each.groups.secrets_of(group)) == 2)
        await until(lambda: c.groups.own_groups() == frozenset())
        assert c.groups.secrets_of(group) == ()
        assert a.groups.secrets_of(group)[1:] == b.groups.secrets_of(group)[1:] == before
        assert a.groups.secrets_of(group)[0] == b.groups.secrets_of(group)[0]
        held = c.groups.get(group)
        assert held is not None
        assert held.removed
        assert a.groups.secrets_of(group)[0] not in held.ordered_secrets()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def pair(tmp_path: Path, nursery: trio.Nursery) -> Pair:
    """Two machines in a group, and the owner's answers to nobody else yet."""
    a, b = [await Machine(tmp_path / name).start(nursery) for name in "ab"]
    group = a.groups.create("lab").group
    await b.join(a.invite(group))
    await b.sees(group, a, b)
    return a, b, group


async def ask(machine: Machine, stranger: Machine, message: bytes, last: bytes | None = None) -> bytes:
    """What a peer is answered: all bytes, up to the end of the stream."""
    await stranger.host.connect(machine.host.addresses()[0])
    stream = await stranger.host.open_stream(machine.peer, (PROTOCOL,))
    async with stream:
        await stream.write(delimited(message))
        found = await read_delimited(stream, 1 << 24, "It sent a message")
        if last is not None:
            await stream.write(delimited(last))
        await stream.close_write()
        with trio.fail_after(PATIENCE):
            while more := await stream.read():
                found += more
    return bytes(found)


# --- strangers -----------------------------------------------------------------------------------------------------


async def test_a_stranger_learns_nothing(pair: Pair, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Whatever it says, a machine in groups and one in none answer alike: with an empty message. It may know the ID of
    a group, even its seed and lists, as somebody does who was never a member but found a file."""
    a, _, group = pair
    held = a.groups.get(group)
    assert held is not None
    stranger, empty = [await Machine(tmp_path / name).start(nursery) for name in ("s", "e")]
    before = a.roles(group)
    for machine in (a, empty):
        nonce = bytes(16)
        tag = held.tag(nonce, stranger.peer, machine.peer)
        lists = tuple(each.sealed for each in held.state.lists.values())
        for opening, last in (
            (Opening(nonce, (Part(tag),)), Answer()),
            (Opening(nonce, (Part(tag, held.state.digests),)), Answer(parts=(Part(tag, lists=lists),))),
            (Opening(nonce, (Part(bytes(16)),)), Answer(parts=(Part(bytes(16), lists=lists),))),
            (Opening(nonce), Answer()),
            (Opening(nonce, token=bytes(24)), None),
            (Opening(nonce, leaving=tag), None),
            (Opening(nonce, removed=Part(tag, notice=b"notice")), None),
        ):
            said = None if last is None else last.encode()
            assert await ask(machine, stranger, opening.encode(), said) == b"", opening
    assert a.roles(group) == before
    assert a.groups.addresses_of(stranger.peer) == ()
    assert not stranger.groups.held()
    identified = {machine: machine.host.protocols() for machine in (a, empty)}
    assert identified[a] == identified[empty]


async def test_no_tag_is_looked_at_before_a_stranger_is_answered(
    pair: Pair, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So how long the answer takes does not depend on what it names: nothing is worked out for it."""
    a, _, group = pair
    held = a.groups.get(group)
    assert held is not None
    stranger = await Machine(tmp_path / "s").start(nursery)
    tags = [held.tag(bytes(16), stranger.peer, a.peer) for _ in range(100)]
    real = HeldGroup.tag

    def tag(self: HeldGroup, nonce: bytes, sender: str, receiver: str) -> bytes:
        if stranger.peer in (sender, receiver):  # the two members speak with each other meanwhile, and may
            pytest.fail("a tag was made")
        return real(self, nonce, sender, receiver)

    monkeypatch.setattr(HeldGroup, "tag", tag)
    for parts in ((), tuple(map(Part, tags)), (Part(b"x" * 16),)):
        assert await ask(a, stranger, Opening(bytes(16), parts).encode(), b"") == b""


async def test_a_removed_member_is_a_stranger(pair: Pair) -> None:
    """But for the news, which an owner gives it once more when it comes again. It gets no list and no secret, over the
    connection that it has."""
    a, b, group = pair
    held = b.groups.get(group)
    assert held is not None
    a.groups.remove(group, b.peer)
    nonce = b"n" * 16
    answer = read_answer(await ask(a, b, Opening(nonce, (Part(held.tag(nonce, b.peer, a.peer)),)).encode(), b""))
    (part,) = answer.parts
    assert part == Part(held.tag(nonce, a.peer, b.peer), notice=part.notice)
    assert notices.applies(part.notice, held.state, b.peer)
    assert await ask(a, b, Opening(nonce, (Part(bytes(16)),)).encode(), b"") == b""
    lists = tuple(each.sealed for each in held.state.lists.values())
    replayed = Answer(parts=(Part(held.tag(nonce, b.peer, a.peer), lists=lists),)).encode()
    await ask(a, b, Opening(nonce).encode(), replayed)
    assert a.roles(group) == {a.peer: Role.OWNER}


async def test_a_new_member_that_nobody_has_told_of(pair: Pair, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Meets one that has not heard of it: what it sends proves that it is a member, and from then on it is one."""
    a, b, group = pair
    a.groups.set_role(group, b.peer, Role.OWNER)
    a.service.changed()
    await until(lambda: b.roles(group).get(b.peer) is Role.OWNER)
    await a.host.disconnect(b.peer)
    b.host.ban(a.peer, 1e6)
    c = await Machine(tmp_path / "c").start(nursery)
    await c.join(b.invite(group))
    assert c.peer not in a.roles(group)
    await c.host.connect(a.host.addresses()[0])
    await a.sees(group, a, b, c)


# --- what breaks, and what is too much -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff\x7f",
        delimited(bytes(limits.MAX_OPENING + 1)),
        b"\x80\x80\x00",
        delimited(b"\xff" * 40),
        delimited(b""),
        b"\x05ab",
        b"",
    ],
)
async def test_broken_openings(pair: Pair, raw: bytes) -> None:
    """Cut short, too long, no message: that stream ends, and the next one is served."""
    a, b, group = pair
    stream = await b.host.open_stream(a.peer, (PROTOCOL,))

    async def ends() -> None:
        with trio.fail_after(PATIENCE):
            await stream.write(raw)
            await stream.close_write()
            await stream.read_exactly(1)

    with pytest.raises(StreamError):
        await ends()
    await b.service.exchange(a.peer)
    assert a.roles(group) == b.roles(group)


async def test_floods(pair: Pair, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Of one peer two exchanges are served at a time, and the others are reset. A member is served meanwhile."""
    a, b, group = pair
    stranger = await Machine(tmp_path / "s").start(nursery)
    await stranger.host.connect(a.host.addresses()[0])
    streams: list[Stream] = []
    ended = 0
    for _ in range(20):
        try:
            stream = await stranger.host.open_stream(a.peer, (PROTOCOL,))
            streams.append(stream)
            await stream.write(delimited(Opening(bytes(16)).encode()))
            await stream.read_exactly(1)
        except StreamError:
            ended += 1
    assert ended == 20 - limits.MAX_EXCHANGES_OF_PEER
    a.groups.set_role(group, b.peer, Role.WRITER)
    a.service.changed()
    await until(lambda: b.roles(group)[b.peer] is Role.WRITER)
    for stream in streams:
        stream.abort()
    await until(lambda: not a.service.doors.serving)


async def test_altered_lists_of_a_member(pair: Pair) -> None:
    """Are refused, by a member or to one, and nothing else is lost by it."""
    a, b, group = pair
    held = b.groups.get(group)
    assert held is not None
    (own,) = held.state.lists.values()
    nonce = b"n" * 16
    tag = held.tag(nonce, b.peer, a.peer)
    before = a.groups.get(group)
    hostile = sign_list(b.keys, group, version=99, term=1, entries=[Entry(b.peer, 1, Role.OWNER, 99)], epochs=[]).sealed
    for lists in ((own.sealed[:-1] + b"x",), (hostile,), (own.sealed, hostile), (b"",)):
        last = Answer(parts=(Part(tag, lists=lists, secrets=((7, bytes(32)),)),)).encode()
        await ask(a, b, Opening(nonce, (Part(tag),)).encode(), last)
        assert a.groups.get(group) == before


# --- coming and going ----------------------------------------------------------------------------------------------


async def test_refusals_say_what_to_do(pair: Pair, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Used, expired, not known, by one that is no owner any more, by nobody there."""
    a, b, group = pair
    c = await Machine(tmp_path / "c").start(nursery)
    used, expired, unknown = a.invite(group), a.invite(group, seconds=-1.0), a.invite(group)
    other = parse_invitation(unknown)
    await c.join(used)
    d = await Machine(tmp_path / "d").start(nursery)
    for text, says in (
        (used, "used already"),
        (expired, "has expired"),
        (str(dataclasses.replace(other, token=bytes(24))), "does not know"),
    ):
        with pytest.raises(InvitationRefused, match=says):
            await d.join(text)
    nowhere = dataclasses.replace(other, inviter=Machine(tmp_path / "n").peer)
    with pytest.raises(DialError, match="not used up"):
        await d.join(str(nowhere))
    with pytest.raises(GroupError, match="itself has made"):
        await a.service.join_by(unknown, "", 1.0)
    a.groups.set_role(group, b.peer, Role.OWNER)
    a.service.changed()
    await until(lambda: b.roles(group)[b.peer] is Role.OWNER)
    by_b = b.invite(group)
    a.groups.remove(group, b.peer)
    a.service.changed()
    await until(lambda: not b.roles(group))
    with pytest.raises(InvitationRefused, match="does not know"):
        await d.join(by_b)
    assert not d.groups.held()


async def test_leaving(pair: Pair) -> None:
    """The owner hears it, and the next secret is not known to who has left; the last owner alone just goes."""
    a, b, group = pair
    old = b.groups.secrets_of(group)
    with pytest.raises(GroupError, match="last owner"):
        await a.service.leave(group, 5.0)
    assert await b.service.leave(group, PATIENCE)
    assert b.groups.held() == []
    await a.sees(group, a)
    assert a.groups.secrets_of(group)[1:] == old
    assert await a.service.leave(group, 5.0)
    assert a.groups.held() == []


async def test_an_owner_leaves(pair: Pair, tmp_path: Path, nursery: trio.Nursery) -> None:
    """The other one hears it, and the group goes on."""
    a, b, group = pair
    a.groups.set_role(group, b.peer, Role.OWNER)
    a.service.changed()
    await until(lambda: b.roles(group)[b.peer] is Role.OWNER)
    assert await a.service.leave(group, PATIENCE)
    await b.sees(group, b)
    await until(lambda: len(b.groups.secrets_of(group)) == 2)
    c = await Machine(tmp_path / "c").start(nursery)
    await c.join(b.invite(group))
    await c.sees(group, b, c)


async def test_nobody_hears_who_leaves(pair: Pair) -> None:
    """It goes all the same, and says so."""
    a, b, group = pair
    a.host.ban(b.peer, 1e6)
    assert not await b.service.leave(group, 5.0)
    assert b.groups.held() == []
    assert b.peer in a.roles(group)


async def test_members_find_each_other(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Two that were let in by the same owner hear from it where the other is, and connect; again after a restart, with
    the owner gone."""
    a, b, c = [await Machine(tmp_path / name).start(nursery) for name in "abc"]
    group = a.groups.create("lab").group
    for each in (b, c):
        await each.join(a.invite(group))
    for each in (a, b, c):
        await each.sees(group, a, b, c)
    await until(lambda: b.peer in c.host.connected())
    c.groups.save_addresses()
    again = Machine(tmp_path / "c", seed=c.seed)
    a.host.ban(c.peer, 1e6)
    await c.host.disconnect(b.peer)
    assert set(again.groups.addresses_of(b.peer)) & {each.split("/p2p/")[0] for each in b.host.addresses()}
    await again.start(nursery)
    await until(lambda: b.peer in again.host.connected())


async def test_changes_of_another_process(pair: Pair) -> None:
    """It says that there are some, and the members hear of them; who watches groups is called."""
    a, b, group = pair
    calls: list[frozenset[str]] = []
    stop = a.groups.on_changed(lambda: calls.append(a.groups.groups_of(b.peer)))

    def fail() -> None:
        raise ValueError("a callback that fails")

    a.groups.on_changed(fail)
    Groups(a.folder, a.keys).remove(group, b.peer)
    assert a.groups.groups_of(b.peer) == {group}
    assert not a.groups.left(group, b.peer), (
        "it is seen by whatever looks at the file first, and then said all the same"
    )
    assert a.groups.groups_of(b.peer) == frozenset()
    await a.service.refresh()
    assert calls == [frozenset()]
    await until(lambda: not b.roles(group))
    stop()
    a.groups.emit()
    assert calls == [frozenset()]
