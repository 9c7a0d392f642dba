"""A group as it is kept and used on this machine, and what is asked of all groups together."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from kachery_p2p.access.audience import OWN
from kachery_p2p.errors import InvalidGroupList
from kachery_p2p.membership import limits, notices
from kachery_p2p.membership.ids import commitment, wire_tag
from kachery_p2p.membership.lists import Role
from kachery_p2p.membership.state import GroupState
from kachery_p2p.membership.store import KeptGroup, KeptInvitation, KeptSecret

log = logging.getLogger("kachery_p2p.membership")


class Heard(Enum):
    """What came of what another member has sent."""

    #: Nothing new.
    NOTHING = 0
    #: Something new.
    NEWS = 1
    #: Something that this machine, as an owner, has answered by a change of its own.
    ANSWERED = 2


@dataclass(frozen=True)
class HeldGroup:
    """A group of which this machine is or was a member. Immutable.

    Attributes:
        state: the lists.
        secrets: 32 bytes by commitment, with the number of the epoch: what is known here.
        kept: as it is in the file.
        me: the peer ID of this machine.
        removed: an owner has said that this machine is no longer a member, or the lists say so.
    """

    state: GroupState
    secrets: Mapping[bytes, tuple[int, bytes]] = field(repr=False)
    kept: KeptGroup = field(repr=False)
    me: str
    removed: bool = False

    @property
    def group(self) -> str:
        """The ID."""
        return self.state.group

    @property
    def name(self) -> str:
        """Of the group."""
        return self.state.name

    def ordered_secrets(self) -> tuple[bytes, ...]:
        """Today's first, where it is known here, then the others, the newest first."""
        found: dict[bytes, None] = {}
        for epoch in self.state.view.epochs:
            if epoch.commitment in self.secrets:
                found[self.secrets[epoch.commitment][1]] = None
        for _, secret in sorted(self.secrets.values(), key=lambda each: -each[0]):
            found[secret] = None
        return tuple(found)

    def tag(self, nonce: bytes, sender: str, receiver: str) -> bytes:
        """How one peer names the group to another, see `ids.wire_tag`."""
        return wire_tag(self.state.seed, self.group, nonce, sender, receiver)

    @property
    def has_today(self) -> bool:
        """Whether today's secret is known here."""
        today = self.state.view.today
        return today is not None and today.commitment in self.secrets


@dataclass(frozen=True)
class Snapshot:
    """What is asked often.

    Attributes:
        held: all groups, by ID.
        by_peer: the groups of each peer.
        active: the groups that this machine is in.
        members: of each of those, without this machine.
        secrets: of each of those.
        invitations: the group of each, by the hash of the token.
        former: the groups from which a peer was removed.
    """

    held: Mapping[str, HeldGroup]
    by_peer: Mapping[str, frozenset[str]]
    active: frozenset[str]
    members: Mapping[str, frozenset[str]]
    secrets: Mapping[str, tuple[bytes, ...]]
    invitations: Mapping[str, str]
    former: Mapping[str, frozenset[str]]


def parse_group(group: str, kept: KeptGroup, me: str) -> HeldGroup:
    """A group as it is in its file.

    Raises:
        InvalidGroupList: what is in it does not fit together.
    """
    try:
        state = GroupState.read([base64.b64decode(each) for each in kept.lists])
    except ValueError as error:
        raise InvalidGroupList(f"The file of the group {group} is damaged: {error}") from error
    if state.group != group:
        raise InvalidGroupList(f"The file of the group {group} is that of another group.")
    return held_group(state, kept, me)


def held_group(state: GroupState, kept: KeptGroup, me: str) -> HeldGroup:
    """A group whose lists have been read.

    Raises:
        InvalidGroupList: the rest of the file does not make sense.
    """
    try:
        found: dict[bytes, tuple[int, bytes]] = {}
        for each in kept.secrets:
            secret = bytes.fromhex(each.secret)
            found[commitment(state.group, each.number, secret)] = each.number, secret
        notice = base64.b64decode(kept.notice)
    except (ValueError, OverflowError) as error:
        raise InvalidGroupList(f"The file of the group {state.group} is damaged: {error}") from error
    removed = state.view.role_of(me) is Role.REMOVED
    if notice and not removed:
        try:
            removed = notices.applies(notice, state, me)
        except InvalidGroupList as error:  # who signed it is no owner any more
            log.info("a notice of removal counts no more: %s", error)
    return HeldGroup(state, found, kept, me, removed)


def snapshot_of(held: Mapping[str, HeldGroup], me: str, own_peers: frozenset[str]) -> Snapshot:
    """What is asked often, of these groups."""
    by_peer: dict[str, set[str]] = {peer: {OWN} for peer in own_peers}
    members: dict[str, frozenset[str]] = {}
    active = frozenset(group for group, each in held.items() if not each.removed)
    for group in active:
        members[group] = frozenset(held[group].state.view.members) - {me}
        for peer in members[group]:
            by_peer.setdefault(peer, set()).add(group)
    shared: dict[frozenset[str], frozenset[str]] = {}
    peers: dict[str, frozenset[str]] = {}
    for peer, groups in by_peer.items():
        each = frozenset(groups)
        peers[peer] = shared.setdefault(each, each)
    known = {group: held[group].ordered_secrets() for group in active}
    invitations = {each.token: group for group in active for each in held[group].kept.invitations}
    former: dict[str, frozenset[str]] = {}
    for group in active:
        for peer in held[group].state.view.floors.keys() - members[group] - {me}:
            former[peer] = former.get(peer, frozenset()) | {group}
    return Snapshot(held, peers, active, members, known, invitations, former)


def kept_secrets(
    state: GroupState, kept: KeptGroup, new: Iterable[tuple[int, bytes]], now: float
) -> tuple[KeptSecret, ...]:
    """The secrets to keep: today's, and those of not too long ago; at least two, whatever the clock says.

    Args:
        state: the lists. A secret that none of those names which count is not taken.
        kept: what was kept before.
        new: more secrets, each with the number of its epoch.
        now: seconds since 1970.
    """
    view = state.view
    named = {epoch.commitment for epoch in view.epochs}
    found = {commitment(state.group, each.number, bytes.fromhex(each.secret)): each for each in kept.secrets}
    for number, secret in new:
        committed = commitment(state.group, number, secret)
        if committed in named and committed not in found:
            found[committed] = KeptSecret(number, secret.hex())
    today = view.today.commitment if view.today is not None else b""
    result: list[KeptSecret] = []
    for committed, each in sorted(found.items(), key=lambda pair: (pair[0] != today, -pair[1].number)):
        if committed == today:
            result.append(replace(each, retired=0.0))
        elif not 0 < each.retired <= now:
            result.append(replace(each, retired=now))
        elif now - each.retired < limits.KEEP_SECRETS or len(result) < 2:
            result.append(each)
    return tuple(result[: limits.MAX_SECRETS])


def waiting_invitations(kept: KeptGroup, now: float) -> list[KeptInvitation]:
    """The invitations that are still to be known."""
    return [each for each in kept.invitations if now < each.expires + limits.KEEP_INVITATIONS]
