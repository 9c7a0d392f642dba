"""The groups of this machine: who is in them, their secrets, and everything that changes them here.

What is asked for each message (`groups_of`) is a look-up in a snapshot that is never changed, only replaced. Changes go
through the store's lock: read what is there now, compute, write, and show the new snapshot.
"""

from __future__ import annotations

import base64
import logging
import secrets as randomness
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kachery_p2p.access.audience import OWN
from kachery_p2p.errors import GroupError, GroupNotFound, InvalidGroupList, InvitationRefused, KacheryError
from kachery_p2p.membership import edits, limits, notices
from kachery_p2p.membership.addresses import Addresses
from kachery_p2p.membership.held import (
    Heard,
    HeldGroup,
    Snapshot,
    held_group,
    kept_secrets,
    parse_group,
    snapshot_of,
    waiting_invitations,
)
from kachery_p2p.membership.ids import commitment, is_group_id
from kachery_p2p.membership.invitations import TOKEN_BYTES, Invitation, token_hash, usable_addresses
from kachery_p2p.membership.lists import Role, read_list
from kachery_p2p.membership.state import GroupState
from kachery_p2p.membership.store import GroupStore, KeptGroup, KeptInvitation, Stamps
from kachery_p2p.transport.compat import Keys

log = logging.getLogger("kachery_p2p.membership")

_NONE: frozenset[str] = frozenset()


class Groups:
    """The groups of one data directory; implements `Memberships` and `GroupSecrets`.

    Every method may be called in any thread. Those that change something write to the disk, and take as long.

    Args:
        directory: the data directory.
        keys: the identity of this machine.
        own_peers: peer IDs of the user's other machines.
        wall: seconds since 1970.

    Attributes:
        store: the files.
        keys: the identity of this machine.
        own_peers: peer IDs of the user's other machines.
        mutual: those of them that take this one for theirs, too, as they have said over a connection that lasts.
        addresses: where members were met.
        changes: counts what has changed in the groups that are shown here, whoever has changed it.
        problems: what is wrong with files, by the ID of their groups; those groups are not here then.
        may_join: says of a group and a peer that has an invitation whether it may join all the same; None where the
            invitation is enough. Called in a thread.
    """

    def __init__(
        self,
        directory: Path,
        keys: Keys,
        *,
        own_peers: Collection[str] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.store = GroupStore(directory)
        self.keys = keys
        self.own_peers = frozenset(own_peers) - {keys.peer_id}
        self.mutual: frozenset[str] = frozenset()
        self.changes = 0
        self.problems: dict[str, str] = {}
        self.may_join: Callable[[str, str], bool] | None = None
        self._wall = wall
        self._listeners: dict[object, Callable[[], None]] = {}
        self._stamps: Stamps | None = None
        self._mutex = threading.Lock()
        self.addresses = Addresses(self.store)
        self._snapshot = self._look_at({})
        self.reload()

    # --- what is asked often

    def groups_of(self, peer: str) -> frozenset[str]:
        """See `Memberships`."""
        return self._snapshot.by_peer.get(peer, _NONE)

    def own_groups(self) -> frozenset[str]:
        """See `Memberships`."""
        return self._snapshot.active

    def members_of(self, group: str) -> frozenset[str]:
        """See `Memberships`; of `OWN` the user's other machines."""
        return self.own_peers if group == OWN else self._snapshot.members.get(group, _NONE)

    def addresses_of(self, peer: str) -> tuple[str, ...]:
        """See `Memberships`. Without the peer ID at the end."""
        return self.addresses.of(peer)

    def secrets_of(self, group: str) -> tuple[bytes, ...]:
        """See `GroupSecrets`; none where this machine is not in the group."""
        return self._snapshot.secrets.get(group, ())

    def on_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Memberships`."""
        token = object()
        self._listeners[token] = callback
        return lambda: self._listeners.pop(token, None) and None

    def emit(self) -> None:
        """Call those that want to know of changes; in the event loop."""
        for callback in list(self._listeners.values()):
            try:
                callback()
            except Exception:
                # The others must hear of it all the same: somebody may just have been removed.
                log.exception("a callback failed")

    def set_mutual(self, peer: str, mutual: bool) -> bool:
        """Note whether another machine takes this one for its user's, too; whether that is news.

        Only then is it in `OWN`: see `kachery_p2p.membership.own_machines`.
        """
        with self._mutex:
            known = self.mutual
            self.mutual = known | {peer} if mutual else known - {peer}
            if self.mutual == known:
                return False
            self._snapshot = self._look_at(self._snapshot.held)
        return True

    def former_groups_of(self, peer: str) -> frozenset[str]:
        """The groups from which a peer was removed."""
        return self._snapshot.former.get(peer, _NONE)

    # --- which groups there are

    def held(self) -> list[HeldGroup]:
        """All groups, those that this machine was removed from, too; by name."""
        return sorted(self._snapshot.held.values(), key=lambda each: (each.name, each.group))

    def get(self, group: str) -> HeldGroup | None:
        """The group of an ID; None where it is not here."""
        return self._snapshot.held.get(group)

    def find(self, name: str) -> HeldGroup:
        """The group of a name or an ID.

        Raises:
            GroupNotFound: this machine is in none.
            GroupError: there are several of that name.
        """
        held = self._snapshot.held
        if name in held:
            return held[name]
        found = [each for each in self.held() if each.name == name and not each.removed]
        found = found or [each for each in self.held() if each.name == name]
        if len(found) > 1:
            ids = ", ".join(each.group for each in found)
            raise GroupError(f"There are {len(found)} groups called {name} here. Say which by its ID: {ids}")
        if not found:
            what = "of the ID" if is_group_id(name) else "called"
            raise GroupNotFound(
                f"This machine is in no group {what} {name}. Those it is in: kachery-cloud-group list. To come into "
                "one, ask an owner for an invitation, and: kachery-cloud-group join INVITATION"
            )
        return found[0]

    def reload(self) -> bool:
        """Read the files again where another process has changed them; whether it has.

        A file that cannot be read is in `problems`, and its group not here.
        """
        with self._mutex:
            return self._reload()

    def _reload(self) -> bool:
        stamps = self.store.stamps()
        if stamps == self._stamps:
            return False
        first = self._stamps is None
        before = self._snapshot.held
        held: dict[str, HeldGroup] = {}
        problems: dict[str, str] = {}
        for group in self.store.names()[: limits.MAX_GROUPS]:
            try:
                kept = self.store.read(group)
                if kept is not None:
                    held[group] = self._parsed(group, kept)
            except KacheryError as error:
                log.warning("a group cannot be used: %s", error)
                problems[group] = str(error)
        self._stamps = stamps
        self.problems = problems
        if first:
            self.addresses.read()
        self._snapshot = self._look_at(held)
        if held == before:
            return False
        self.changes += 1
        return True

    # --- what owners do

    def create(self, name: str, label: str = "") -> HeldGroup:
        """Make a group with this machine as its only member and owner.

        Raises:
            GroupError: it cannot be called that, or this machine is in as many groups as any can be.
            NoPermission, DiskFull: it cannot be kept.
        """
        state, secret = edits.found(self.keys, name, label)
        with self._locked():
            if len(self.store.names()) >= limits.MAX_GROUPS:
                raise GroupError(f"This machine is in {limits.MAX_GROUPS:,} groups; it can be in no more.")
            return self._write(state, KeptGroup(()), _todays(state, secret))

    def invite(
        self, group: str, role: Role, addresses: Iterable[str], seconds: float = limits.INVITATION_SECONDS
    ) -> Invitation:
        """An invitation, to be used once.

        Args:
            group: the ID.
            role: that it gives.
            addresses: multiaddrs of this machine.
            seconds: for which it is good.

        Raises:
            GroupError: this machine is not an owner, or there are too many invitations.
        """
        token = randomness.token_bytes(TOKEN_BYTES)
        expires = int(self._wall() + seconds)
        with self._changing(group) as held:
            edits.check_owner(held.state, self.keys)
            waiting = waiting_invitations(held.kept, self._wall())
            if len(waiting) >= limits.MAX_INVITATIONS:
                raise GroupError(
                    f"{limits.MAX_INVITATIONS:,} invitations to the group {held.name} wait or were used lately; there "
                    "can be no more at a time."
                )
            made = KeptInvitation(token_hash(token), int(role), float(expires))
            self._write(held.state, replace(held.kept, invitations=(*waiting, made)))
        where = usable_addresses(list(addresses), self.keys.peer_id)
        return Invitation(group, held.name, self.keys.peer_id, where, token, role, expires)

    def knows_invitation(self, token: bytes) -> bool:
        """Whether an invitation has that token, used or not. A look-up: anybody may ask, any number of times."""
        return token_hash(token) in self._snapshot.invitations

    def redeem(self, token: bytes, peer: str, label: str) -> HeldGroup | None:
        """Take a peer that shows the token of an invitation into its group.

        Returns:
            The group; None where no invitation has that token.

        Raises:
            InvitationRefused: it has expired or was used by another peer, or this machine is no owner any more.
        """
        hashed = token_hash(token)
        group = self._snapshot.invitations.get(hashed)
        if group is None:
            return None
        with self._changing(group) as held:
            found = next((each for each in held.kept.invitations if each.token == hashed), None)
            if found is None:
                return None
            if found.used_by:
                # Who was cut off before it had written down the answer asks again.
                if found.used_by == peer and peer in held.state.view.members and not held.removed:
                    return held
                raise InvitationRefused("used")
            if self._wall() >= found.expires:
                raise InvitationRefused("expired")
            try:
                if held.removed:
                    raise GroupError("this machine was removed")
                if self.may_join is not None and not self.may_join(group, peer):
                    raise GroupError(f"{peer} is not among those that may be in it")
                edits.check_label(label)
                state = edits.add(held.state, self.keys, peer, Role(found.role), label)
            except GroupError as error:
                log.info("an invitation to the group %s could not be kept: %s", held.name, error)
                raise InvitationRefused("refused") from error
            used = replace(found, used_by=peer)
            others = [each for each in waiting_invitations(held.kept, self._wall()) if each.token != hashed]
            return self._write(state, replace(held.kept, invitations=(*others, used)))

    def set_role(self, group: str, peer: str, role: Role) -> HeldGroup:
        """Let a member have another role.

        Raises:
            GroupError: see `edits.set_role`.
        """
        with self._changing(group) as held:
            return self._write(edits.set_role(held.state, self.keys, peer, role), held.kept)

    def remove(self, group: str, peer: str) -> HeldGroup:
        """Remove a member; the group has a new secret then.

        Raises:
            GroupError: see `edits.remove`.
        """
        with self._changing(group) as held:
            state, secret = edits.remove(held.state, self.keys, peer)
            return self._write(state, held.kept, _todays(state, secret))

    # --- what members do

    def resign(self, group: str) -> HeldGroup:
        """What is to be told to others before this machine forgets a group in which it is an owner.

        Raises:
            GroupError: it is the last owner, and there are other members.
        """
        with self._changing(group) as held:
            if held.removed or held.state.view.role_of(self.keys.peer_id) is not Role.OWNER:
                return held
            return self._write(edits.resign(held.state, self.keys), held.kept)

    def forget(self, group: str) -> None:
        """Keep nothing of a group: its secrets, lists and invitations go."""
        with self._locked():
            self.store.remove(group)
            self._show(group, None)

    def joined(self, invitation: Invitation, lists: Iterable[bytes], secrets: Iterable[tuple[int, bytes]]) -> HeldGroup:
        """Keep what the inviter gave.

        Raises:
            InvitationRefused: it is not what the invitation promised.
        """
        try:
            state = GroupState.read(lists)
            state = GroupState.of(state.spread.values())
        except InvalidGroupList as error:
            raise InvitationRefused(f"The inviter gave no valid list of members: {error}") from error
        if state.group != invitation.group or state.view.role_of(self.keys.peer_id) is Role.REMOVED:
            raise InvitationRefused("The inviter gave a list of members that this machine is not on.")
        with self._locked():
            kept = self.store.read(state.group)
            if kept is None:
                if len(self.store.names()) >= limits.MAX_GROUPS:
                    raise GroupError(f"This machine is in {limits.MAX_GROUPS:,} groups; it can be in no more.")
                return self._write(state, KeptGroup(()), secrets)
            return self._write(self._parsed(state.group, kept).state.merge(state), replace(kept, notice=""), secrets)

    def absorb(self, group: str, lists: Iterable[bytes], secrets: Iterable[tuple[int, bytes]]) -> Heard:
        """Take what another member has sent.

        What an owner has to do after that is done, too: see `edits.tidy`.

        Raises:
            InvalidGroupList: a list was altered, or is none. Nothing of it is kept then.
            GroupNotFound: the group is not here any more.
        """
        before = self.get(group)
        known = {each.sealed for each in before.state.lists.values()} if before is not None else set()
        read = [read_list(each) for each in lists if each not in known]
        offered = list(secrets)
        with self._changing(group) as held:
            state = held.state.admit(read)
            made: bytes | None = None
            own = False
            # Only when something was heard: the owner that made a change has done what follows from it.
            if state is not held.state:
                tidied, made = edits.tidy(state, self.keys)
                own = tidied is not state
                state = tidied
            new = [pair for pair in offered if commitment(group, *pair) not in held.secrets]
            if state is held.state and not new:
                return Heard.NOTHING
            after = self._write(state, held.kept, [*_todays(state, made), *new])
            if own:
                return Heard.ANSWERED
            news = after.state is not held.state or after.secrets.keys() != held.secrets.keys()
            return Heard.NEWS if news else Heard.NOTHING

    def tidy(self, group: str) -> bool:
        """Do what an owner has to do, see `edits.tidy`; whether there was anything."""
        known = self.get(group)
        if known is None or known.state.view.is_clean:
            return False
        with self._changing(group) as held:
            if held.removed:
                return False
            state, secret = edits.tidy(held.state, self.keys)
            if state is held.state:
                return False
            self._write(state, held.kept, _todays(state, secret))
            return True

    def left(self, group: str, peer: str) -> bool:
        """A member says that it leaves: remove it, where this machine may; whether it did."""
        with self._changing(group) as held:
            if held.removed or peer not in held.state.view.members:
                return False
            try:
                state, secret = edits.remove(held.state, self.keys, peer)
            except GroupError as error:
                log.info("%s leaves the group %s: %s", peer, held.name, error)
                return False
            self._write(state, held.kept, _todays(state, secret))
            return True

    def noticed(self, group: str, notice: bytes) -> bool:
        """Another machine says that this one was removed; whether that is so, and news.

        Raises:
            InvalidGroupList: it is no notice, or not by who may say so.
        """
        with self._changing(group) as held:
            if held.removed or not notices.applies(notice, held.state, self.keys.peer_id):
                return False
            self._write(held.state, replace(held.kept, notice=base64.b64encode(notice).decode()))
            return True

    def notice_for(self, group: str, peer: str) -> bytes | None:
        """What tells a peer that it was removed; None where this machine is not one to say so."""
        held = self.get(group)
        if held is None or held.removed or peer not in held.state.view.floors or peer in held.state.view.members:
            return None
        if held.state.view.role_of(self.keys.peer_id) is not Role.OWNER:
            return None
        return notices.sign_notice(self.keys, held.state, peer)

    # --- where members are

    def places(self, group: str) -> list[tuple[str, tuple[str, ...]]]:
        """Where some members of a group were met, owners first."""
        held = self.get(group)
        if held is None:
            return []
        view = held.state.view
        peers = dict.fromkeys([*view.owners, *view.members])
        found = [(peer, where) for peer in peers if (where := self.addresses.of(peer))]
        return found[: limits.MAX_PLACES]

    def save_addresses(self) -> None:
        """Write down where members were seen; those of peers that are in no group with this machine are forgotten.

        Raises:
            NoPermission, DiskFull: the disk does not take it.
        """
        self.addresses.save(self._snapshot.by_peer)

    # --- changing one

    @contextmanager
    def _locked(self) -> Generator[None, None, None]:
        """Nobody else changes groups, in any process; and no thread of this one shows older ones."""
        with self._mutex, self.store.lock():
            yield

    @contextmanager
    def _changing(self, group: str) -> Generator[HeldGroup, None, None]:
        """Hold the lock while one group is changed, and give it as it is in its file now.

        Raises:
            GroupNotFound: it is not here any more.
        """
        with self._locked():
            kept = self.store.read(group)
            if kept is None:
                self._show(group, None)
                raise GroupNotFound(f"This machine is not in the group {group} any more.")
            held = self._parsed(group, kept)
            if held is not self._snapshot.held.get(group):
                self._show(group, held)  # another process has changed it, and that is news by itself
            yield held

    def _parsed(self, group: str, kept: KeptGroup) -> HeldGroup:
        known = self._snapshot.held.get(group)
        return known if known is not None and known.kept == kept else parse_group(group, kept, self.keys.peer_id)

    def _write(self, state: GroupState, kept: KeptGroup, secrets: Iterable[tuple[int, bytes]] = ()) -> HeldGroup:
        """Keep a group, and show it; the lock is held."""
        lists = tuple(base64.b64encode(each.sealed).decode() for each in state.lists.values())
        written = replace(kept, lists=lists, secrets=kept_secrets(state, kept, secrets, self._wall()))
        self.store.write(state.group, written)
        held = held_group(state, written, self.keys.peer_id)
        self._show(state.group, held)
        return held

    def _show(self, group: str, held: HeldGroup | None) -> None:
        if self._snapshot.held.get(group) != held:
            self.changes += 1
        every = {each: value for each, value in self._snapshot.held.items() if each != group}
        if held is not None:
            every[group] = held
        self._snapshot = self._look_at(every)

    def _look_at(self, held: Mapping[str, HeldGroup]) -> Snapshot:
        return snapshot_of(held, self.keys.peer_id, self.own_peers & self.mutual)


def _todays(state: GroupState, secret: bytes | None) -> list[tuple[int, bytes]]:
    """A new secret, which is today's, with its number."""
    today = state.view.today
    return [(today.number, secret)] if secret is not None and today is not None else []
