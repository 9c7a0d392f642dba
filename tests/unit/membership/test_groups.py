"""The groups of one machine: what is asked often, invitations, secrets, clocks, and what other processes change."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kachery_p2p.access.audience import OWN
from kachery_p2p.errors import (
    GroupError,
    GroupNotFound,
    InvalidGroupList,
    InvalidInvitation,
    InvitationRefused,
)
from kachery_p2p.membership import groups_of_directory, limits
from kachery_p2p.membership.groups import Groups
from kachery_p2p.membership.held import Heard, HeldGroup
from kachery_p2p.membership.invitations import PREFIX, Invitation, parse_invitation
from kachery_p2p.membership.lists import Role
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.transport.compat import Keys
from kachery_p2p.units import DAY
from tests.helpers.group_helpers import new_keys

HERE = "/ip4/192.0.2.7/tcp/4001"


class Clock:
    """Of one machine; it may be years off."""

    def __init__(self, now: float = 1.8e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Member(Groups):
    """A machine without a network: what members tell each other is handed over."""

    def __init__(self, folder: Path, now: float = 1.8e9) -> None:
        self.clock = Clock(now)
        super().__init__(folder, new_keys(), wall=self.clock)

    @property
    def peer(self) -> str:
        return self.keys.peer_id

    def hears(self, other: Groups, group: str) -> Heard:
        held = other.get(group)
        assert held is not None
        return self.absorb(group, [each.sealed for each in held.state.spread.values()], held.secrets.values())

    def joins(self, other: Groups, invitation: Invitation) -> HeldGroup:
        held = other.redeem(invitation.token, self.peer, "")
        assert held is not None
        return self.joined(invitation, [each.sealed for each in held.state.lists.values()], held.secrets.values())


@pytest.fixture
def two(tmp_path: Path) -> tuple[Member, Member, str]:
    """Two machines in a group, the first its owner."""
    a, b = Member(tmp_path / "a"), Member(tmp_path / "b")
    group = a.create("lab").group
    b.joins(a, a.invite(group, Role.READER, [HERE]))
    return a, b, group


def test_what_is_asked_often(two: tuple[Member, Member, str], tmp_path: Path) -> None:
    """Which groups a peer is in, who is in a group, the secrets; nothing of groups that this machine is not in."""
    a, b, group = two
    other = a.create("other").group
    assert a.own_groups() == {group, other}
    assert a.groups_of(b.peer) == {group}
    assert a.groups_of(new_keys().peer_id) == frozenset()
    assert a.members_of(group) == {b.peer}
    assert a.members_of(other) == a.members_of("a" * 26) == frozenset()
    assert b.members_of(group) == {a.peer}
    assert [len(secret) for secret in a.secrets_of(group)] == [32]
    assert a.secrets_of(group) == b.secrets_of(group) != a.secrets_of(other)
    assert b.secrets_of(other) == ()
    mine = Groups(tmp_path / "c", new_keys(), own_peers=[b.peer])
    assert mine.groups_of(b.peer) == {OWN}
    assert mine.members_of(OWN) == {b.peer}
    assert mine.own_groups() == frozenset()


def test_names_and_ids(two: tuple[Member, Member, str]) -> None:
    """A name is enough where one group has it; the error lists the IDs."""
    a, _, group = two
    assert a.find("lab").group == a.find(group).group == group
    other = a.create("lab").group
    with pytest.raises(GroupError, match=f"{min(group, other)}.*{max(group, other)}|{group}.*{other}|{other}.*{group}"):
        a.find("lab")
    assert a.find(other).group == other
    for name in ("none", "b" * 25 + "a"):
        with pytest.raises(GroupNotFound, match="kachery-cloud-group join INVITATION"):
            a.find(name)


# --- invitations ---------------------------------------------------------------------------------------------------


def test_an_invitation_as_text(two: tuple[Member, Member, str]) -> None:
    """All of it comes back, also through a mail program; what is kept of it is of no use to who reads it."""
    a, _, group = two
    made = a.invite(group, Role.WRITER, [HERE, f"{HERE}/p2p/{a.peer}", "/dns4/lab.example.org/tcp/4001", "nonsense"])
    text = str(made)
    assert re.fullmatch(r"kachery-group:[\w-]+", text)
    assert parse_invitation(text) == made
    assert parse_invitation(f" {text[:40]}\n   {text[40:]}\r\n") == made
    assert made.addresses == (HERE, "/dns4/lab.example.org/tcp/4001")
    assert (made.group, made.name, made.inviter, made.role) == (group, "lab", a.peer, Role.WRITER)
    kept = (a.store.folder / f"{group}.json").read_text()
    assert made.token.hex() not in kept
    assert made.token.hex() not in repr(made)
    for wrong in (
        "",
        "lab",
        "kachery-group:",
        text[:-5],
        text[:30],
        text + "AAAA",
        text.replace(":", ":!"),
        f"{PREFIX}{'A' * 9000}",
    ):
        with pytest.raises(InvalidInvitation):
            parse_invitation(wrong)


def test_an_invitation_is_used_once(two: tuple[Member, Member, str], tmp_path: Path) -> None:
    """By whoever comes first, who may ask again what it was told; after a removal not even that."""
    a, _, group = two
    c, d = Member(tmp_path / "c"), Member(tmp_path / "d")
    made = a.invite(group, Role.WRITER, [HERE])
    c.joins(a, made)
    assert c.joins(a, made).state.view.role_of(c.peer) is Role.WRITER
    with pytest.raises(InvitationRefused, match="used"):
        a.redeem(made.token, d.peer, "")
    a.remove(group, c.peer)
    with pytest.raises(InvitationRefused, match="used"):
        a.redeem(made.token, c.peer, "")
    assert a.redeem(os.urandom(24), d.peer, "") is None
    assert not a.knows_invitation(os.urandom(24))
    assert d.peer not in a.members_of(group)


def test_an_invitation_expires(two: tuple[Member, Member, str], tmp_path: Path) -> None:
    """By the clock of who made it. It is known for a while that it has; then it was never there."""
    a, _, group = two
    c = Member(tmp_path / "c", now=0.0)
    good, late = (a.invite(group, Role.READER, [], seconds) for seconds in (60.0, 30.0))
    a.clock.now += 45.0
    with pytest.raises(InvitationRefused, match="expired"):
        a.redeem(late.token, c.peer, "")
    c.joins(a, good)
    assert c.members_of(group) == a.members_of(group) - {c.peer} | {a.peer}
    a.clock.now += limits.KEEP_INVITATIONS + 60.0
    a.invite(group, Role.READER, [])
    assert a.redeem(late.token, c.peer, "") is None


def test_who_may_invite(two: tuple[Member, Member, str], tmp_path: Path) -> None:
    """Owners. An invitation of one that is no owner any more is worth nothing."""
    a, b, group = two
    with pytest.raises(GroupError, match="Only an owner"):
        b.invite(group, Role.READER, [])
    a.set_role(group, b.peer, Role.OWNER)
    b.hears(a, group)
    made = b.invite(group, Role.READER, [])
    a.set_role(group, b.peer, Role.WRITER)
    b.hears(a, group)
    with pytest.raises(InvitationRefused, match="refused"):
        b.redeem(made.token, Member(tmp_path / "c").peer, "")


def test_what_the_inviter_gives_is_checked(two: tuple[Member, Member, str], tmp_path: Path) -> None:
    """A list of another group, one without this machine, an altered one: nothing of it is kept."""
    a, _, group = two
    c = Member(tmp_path / "c")
    made = a.invite(group, Role.READER, [HERE])
    lists = [each.sealed for each in a.find(group).state.lists.values()]
    other = [each.sealed for each in a.create("other").state.lists.values()]
    for given in ([], lists, other, [*lists, *other], [lists[0][:-1]]):
        with pytest.raises(InvitationRefused):
            c.joined(made, given, [])
    assert c.held() == []
    held = a.redeem(made.token, c.peer, "")
    assert held is not None
    c.joined(made, [each.sealed for each in held.state.lists.values()], [(1, bytes(32)), *held.secrets.values()])
    assert c.secrets_of(group) == a.secrets_of(group)


def test_too_many_invitations(two: tuple[Member, Member, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """That wait, or were used lately; expired ones make room in the end."""
    a, _, group = two
    monkeypatch.setattr(limits, "MAX_INVITATIONS", 3)
    for _ in range(2):
        a.invite(group, Role.READER, [], 60.0)
    with pytest.raises(GroupError, match="3 invitations"):
        a.invite(group, Role.READER, [])
    a.clock.now += 60.0 + limits.KEEP_INVITATIONS + 1
    a.invite(group, Role.READER, [])


# --- removing ------------------------------------------------------------------------------------------------------


def test_removal(two: tuple[Member, Member, str], tmp_path: Path) -> None:
    """Takes effect at once, and the new secret is for those that are left. The earlier one is kept for a time."""
    a, b, group = two
    c = Member(tmp_path / "c")
    c.joins(a, a.invite(group, Role.READER, [HERE]))
    assert b.hears(a, group) is Heard.NEWS
    old = a.secrets_of(group)
    a.remove(group, c.peer)
    assert a.groups_of(c.peer) == frozenset()
    assert a.former_groups_of(c.peer) == {group}
    new = a.secrets_of(group)
    assert (len(new), new[1:]) == (2, old)
    assert b.hears(a, group) is Heard.NEWS
    assert b.hears(a, group) is Heard.NOTHING
    assert b.secrets_of(group) == new
    assert b.groups_of(c.peer) == frozenset()
    notice = a.notice_for(group, c.peer)
    assert notice is not None
    assert b.notice_for(group, c.peer) is None
    assert c.noticed(group, notice)
    assert not c.noticed(group, notice)
    assert c.own_groups() == c.groups_of(a.peer) == frozenset()
    assert c.secrets_of(group) == ()
    assert c.find("lab").removed
    assert Groups(tmp_path / "c", c.keys).own_groups() == frozenset()
    c.joins(a, a.invite(group, Role.READER, [HERE]))
    assert c.own_groups() == {group}
    assert c.secrets_of(group) == new


def test_two_owners_remove_at_once(two: tuple[Member, Member, str], tmp_path: Path) -> None:
    """Each machine that hears of both ends with the same members and the same secret, which neither of the removed
    ones was ever given; the two secrets in between are kept."""
    a, b, group = two
    a.set_role(group, b.peer, Role.OWNER)
    c, d = Member(tmp_path / "c"), Member(tmp_path / "d")
    for each in (c, d):
        each.joins(a, a.invite(group, Role.READER, [HERE]))
    b.hears(a, group)
    a.remove(group, c.peer)
    b.remove(group, d.peer)
    between = {a.secrets_of(group)[0], b.secrets_of(group)[0]}
    assert b.hears(a, group) is Heard.ANSWERED
    for _ in range(2):
        a.hears(b, group)
        b.hears(a, group)
    assert a.secrets_of(group) == b.secrets_of(group)
    assert a.members_of(group) == {b.peer}
    assert b.members_of(group) == {a.peer}
    assert a.secrets_of(group)[0] not in between
    assert between < set(a.secrets_of(group))
    assert a.hears(b, group) is b.hears(a, group) is Heard.NOTHING


def test_what_is_altered_is_not_taken(two: tuple[Member, Member, str]) -> None:
    """An altered list, one that nobody signed who may, a secret that no list names: all stays as it was."""
    a, b, group = two
    before = b.find(group)
    a.set_role(group, b.peer, Role.WRITER)
    sealed = next(iter(a.find(group).state.lists.values())).sealed
    with pytest.raises(InvalidGroupList):
        b.absorb(group, [sealed[:-1] + bytes([sealed[-1] ^ 1])], [])
    assert b.absorb(group, [], [(1, bytes(32)), (2, bytes(32))]) is Heard.NOTHING
    assert b.find(group) == before
    assert b.absorb(group, [sealed], []) is Heard.NEWS
    with pytest.raises(GroupNotFound):
        b.absorb("a" * 26, [sealed], [])


def test_old_secrets_go(two: tuple[Member, Member, str], tmp_path: Path) -> None:
    """After their time, and when there are too many; today's and the one before stay."""
    a, b, group = two
    for number in range(limits.MAX_SECRETS + 3):
        c = Member(tmp_path / f"c{number}")
        c.joins(a, a.invite(group, Role.READER, [HERE]))
        a.remove(group, c.peer)
    assert len(a.secrets_of(group)) == limits.MAX_SECRETS
    newest = a.secrets_of(group)[:2]
    a.clock.now += limits.KEEP_SECRETS + DAY
    a.set_role(group, b.peer, Role.WRITER)
    assert a.secrets_of(group) == newest


@pytest.mark.parametrize("off", [-30 * 365 * DAY, 30 * 365 * DAY, -1.8e9])
def test_a_clock_years_off(two: tuple[Member, Member, str], tmp_path: Path, off: float) -> None:
    """Of any machine, and one that jumps: lists, removal and secrets go by versions."""
    a, b, group = two
    b.clock.now += off
    a.set_role(group, b.peer, Role.OWNER)
    b.hears(a, group)
    c = Member(tmp_path / "c", now=max(0.0, 1.8e9 - off))
    c.joins(b, b.invite(group, Role.READER, [HERE]))
    a.hears(b, group)
    assert a.members_of(group) == {b.peer, c.peer}
    b.clock.now = 1.8e9
    b.remove(group, c.peer)
    a.hears(b, group)
    assert a.members_of(group) == {b.peer}
    assert a.secrets_of(group) == b.secrets_of(group)
    assert len(a.secrets_of(group)) == 2


def test_leaving(two: tuple[Member, Member, str]) -> None:
    """A member that goes is removed by who hears of it and may; nothing of the group stays with it."""
    a, b, group = two
    with pytest.raises(GroupError, match="last owner"):
        a.resign(group)
    b.resign(group)
    assert b.own_groups() == {group}
    b.forget(group)
    assert b.held() == []
    assert not list(b.store.folder.glob("[a-z]*.json"))
    assert a.left(group, b.peer)
    assert not a.left(group, b.peer)
    assert a.members_of(group) == frozenset()
    a.resign(group)
    a.forget(group)
    assert a.own_groups() == frozenset()


# --- files, and other processes ------------------------------------------------------------------------------------


def test_another_process_changes_a_file(two: tuple[Member, Member, str]) -> None:
    """It is seen when it is looked for; what each does is done to what the other has written."""
    a, b, group = two
    again = Groups(a.store.folder.parent, a.keys)
    a.set_role(group, b.peer, Role.WRITER)
    again.create("other")
    again.set_role(group, b.peer, Role.OWNER)
    assert again.find(group).state.view.version > 3
    assert a.find(group).state.view.role_of(b.peer) is Role.WRITER
    assert a.reload()
    assert not a.reload()
    assert a.find(group).state.view.role_of(b.peer) is Role.OWNER
    assert [each.name for each in a.held()] == ["lab", "other"]
    again.forget(group)
    with pytest.raises(GroupNotFound):
        a.remove(group, b.peer)
    assert a.get(group) is None


def test_a_damaged_file(two: tuple[Member, Member, str]) -> None:
    """The other groups go on, and it is said what is wrong; a link, a pipe, a folder in its place the same."""
    a, _, group = two
    a.create("other")
    path = a.store.folder / f"{group}.json"
    whole = path.read_bytes()
    for broken in (
        b"",
        b"{}",
        whole[:100],
        whole.replace(b'"lists":["', b'"lists":["AA'),
        b"[" * 5000,
        b'{"lists":[]}',
    ):
        path.write_bytes(broken)
        again = Groups(a.store.folder.parent, a.keys)
        assert [each.name for each in again.held()] == ["other"]
        assert list(again.problems) == [group]
    path.unlink()
    os.mkfifo(path)
    assert list(Groups(a.store.folder.parent, a.keys).problems) == [group]
    path.unlink()
    path.write_bytes(whole)
    assert a.reload() is False


def test_of_a_directory(tmp_path: Path) -> None:
    """For processes that are not the node: nothing is made, and changes are seen."""
    tmp_path.joinpath("data").mkdir()
    assert groups_of_directory(tmp_path / "data").held() == []
    assert list(tmp_path.joinpath("data").iterdir()) == []
    identity = load_or_create_identity(tmp_path / "data")
    here = groups_of_directory(tmp_path / "data")
    assert here is groups_of_directory(tmp_path / "data")
    group = Groups(tmp_path / "data", Keys.from_seed(identity.seed)).create("lab").group
    assert groups_of_directory(tmp_path / "data").own_groups() == {group}
    assert here.own_groups() == {group}


def test_where_members_are(two: tuple[Member, Member, str]) -> None:
    """Where this machine met them comes first; it is kept over a restart, for members alone, and bounded."""
    a, b, group = two
    stranger = new_keys().peer_id
    a.addresses.heard(b.peer, ["/ip4/192.0.2.1/tcp/1"])
    a.addresses.seen(b.peer, [f"/ip4/192.0.2.2/tcp/2/p2p/{b.peer}", "nonsense"])
    a.addresses.seen(stranger, [HERE])
    assert a.addresses_of(b.peer) == ("/ip4/192.0.2.2/tcp/2", "/ip4/192.0.2.1/tcp/1")
    assert a.places(group) == [(b.peer, a.addresses_of(b.peer))]
    a.save_addresses()
    again = Groups(a.store.folder.parent, a.keys)
    assert again.addresses_of(b.peer) == a.addresses_of(b.peer)
    assert again.addresses_of(stranger) == ()
    a.addresses.heard(b.peer, [f"/ip4/192.0.2.3/tcp/{port}" for port in range(1, 100)])
    assert len(a.addresses_of(b.peer)) == limits.MAX_ADDRESSES
    (a.store.folder / "addresses.json").write_text("{")
    assert Groups(a.store.folder.parent, a.keys).addresses_of(b.peer) == ()
