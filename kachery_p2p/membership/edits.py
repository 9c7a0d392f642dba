"""What owners do to a group: each function gives the state afterwards, with a new list of this machine's in it.

Nothing is kept or sent here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace

from kachery_p2p.errors import GroupError
from kachery_p2p.membership import limits
from kachery_p2p.membership.ids import SECRET_BYTES, commitment, group_id
from kachery_p2p.membership.lists import Entry, Epoch, Founding, MemberList, Role, problem_of_name, sign_list
from kachery_p2p.membership.state import GroupState, View
from kachery_p2p.text import printable, shown
from kachery_p2p.transport.compat import Keys


def check_name(name: str) -> None:
    """Check the name of a group.

    Raises:
        GroupError: it cannot be called that.
    """
    if problem := problem_of_name(name):
        raise GroupError(f"A group cannot be called {shown(name)}: {problem}.")


def check_label(label: str) -> None:
    """Check what a member is to be called.

    Raises:
        GroupError: it is too long, or has characters that cannot be shown.
    """
    if len(label.encode("utf-8", "surrogatepass")) > limits.MAX_LABEL or printable(label) != label:
        raise GroupError(
            f"A member cannot be called {shown(label)}: that is a line of text of at most {limits.MAX_LABEL} bytes."
        )


def found(keys: Keys, name: str, label: str = "") -> tuple[GroupState, bytes]:
    """A new group, of which this machine is the only member, and its first secret.

    Raises:
        GroupError: it cannot be called that.
    """
    check_name(name)
    check_label(label)
    seed = secrets.token_bytes(SECRET_BYTES)
    group = group_id(keys.public_key, seed)
    own = sign_list(
        keys,
        group,
        version=1,
        term=1,
        entries=[Entry(keys.peer_id, 1, Role.OWNER, 1, label)],
        epochs=[],
        founding=Founding(seed, name),
    )
    return rotate(GroupState.of([own]), keys)


def rotate(state: GroupState, keys: Keys) -> tuple[GroupState, bytes]:
    """A new epoch, and its secret, which those that are members now are to get.

    Raises:
        GroupError: this machine is not an owner.
    """
    check_owner(state, keys)
    secret = secrets.token_bytes(SECRET_BYTES)
    view = state.view
    number = 1 + (view.today.number if view.today is not None else 0)
    return _with_epoch(state, keys, Epoch(number, commitment(state.group, number, secret), view.removed_hash)), secret


def add(state: GroupState, keys: Keys, peer: str, role: Role, label: str = "") -> GroupState:
    """Make a peer a member; one that was removed, anew.

    Raises:
        GroupError: this machine is not an owner, or the group has as many members as any can have.
    """
    view = check_owner(state, keys)
    present = view.members.get(peer)
    if present is not None:
        return set_role(state, keys, peer, max(role, present.role))
    if len(view.members) >= limits.MAX_MEMBERS:
        raise GroupError(f"The group {state.name} has {limits.MAX_MEMBERS:,} members; no group has more.")
    if role is Role.OWNER:
        _check_room_for_owner(state)
    generation = view.floors.get(peer, 0) + 1
    return _sign(state, keys, [Entry(peer, generation, role, view.version + 1, label)])


def set_role(state: GroupState, keys: Keys, peer: str, role: Role) -> GroupState:
    """Let a member have another role.

    Raises:
        GroupError: this machine is not an owner, the peer is not a member, or it is an owner that was one before this
            machine; or it would leave the group without owners.
    """
    view = check_owner(state, keys)
    present = _check_member(state, peer)
    if present.role is role:
        return state
    _check_may_judge(state, keys, peer)
    if present.role is Role.OWNER:
        _check_others_own(state, peer)
    elif role is Role.OWNER:
        _check_room_for_owner(state)
    changed = replace(present, role=role, version=view.version + 1)
    return _sign(state, keys, [changed], ending=peer if present.role is Role.OWNER else None)


def remove(state: GroupState, keys: Keys, peer: str) -> tuple[GroupState, bytes]:
    """Remove a member, and begin an epoch of which it does not know the secret, which is given back.

    Raises:
        GroupError: as for `set_role`.
    """
    view = check_owner(state, keys)
    present = _check_member(state, peer)
    _check_may_judge(state, keys, peer)
    if present.role is Role.OWNER:
        _check_others_own(state, peer)
    gone = Entry(peer, present.generation, Role.REMOVED, view.version + 1, present.label)
    return rotate(_sign(state, keys, [gone], ending=peer), keys)


def resign(state: GroupState, keys: Keys) -> GroupState:
    """Leave, as an owner. The other owners make a new secret when they hear of it.

    Raises:
        GroupError: it is the last owner, and there are other members.
    """
    view = check_owner(state, keys)
    if len(view.members) > 1:
        _check_others_own(state, keys.peer_id)
    present = view.members[keys.peer_id]
    gone = Entry(keys.peer_id, present.generation, Role.REMOVED, view.version + 1, present.label)
    return _sign(state, keys, [gone])


def tidy(state: GroupState, keys: Keys) -> tuple[GroupState, bytes | None]:
    """What an owner does when it has heard something new.

    It ends the lists of owners that have left, and makes a new secret where somebody who was removed may know today's.

    Returns:
        The state afterwards, and the new secret where there is one. The same state where nothing is to be done, or this
        machine is not an owner.
    """
    view = state.view
    if view.role_of(keys.peer_id) is not Role.OWNER:
        return state, None
    order = list(view.seniority)
    for peer in order[order.index(keys.peer_id) + 1 :]:
        if peer not in view.owners and peer in state.lists:
            present = view.members.get(peer)
            generation = present.generation - 1 if present is not None else view.floors.get(peer, 0)
            if generation:
                gone = Entry(peer, generation, Role.REMOVED, view.version + 1, view.former.get(peer, ""))
                state = _sign(state, keys, [present or gone], ending=peer)
    if state.view.is_clean:
        return state, None
    return rotate(state, keys)


# --- one list --------------------------------------------------------------------------------------------------------


def check_owner(state: GroupState, keys: Keys) -> View:
    """Who is in the group, for its owners.

    Raises:
        GroupError: this machine is not one.
    """
    view = state.view
    if view.role_of(keys.peer_id) is not Role.OWNER:
        owners = ", ".join(_called(view, peer) for peer in view.owners[:4]) or "nobody any more"
        raise GroupError(
            f"Only an owner of the group {state.name} can do that, and this machine is not one. Its owners: {owners}."
        )
    return view


def _check_member(state: GroupState, peer: str) -> Entry:
    entry = state.view.members.get(peer)
    if entry is None:
        raise GroupError(
            f"{peer} is not a member of the group {state.name}. Who is: kachery-cloud-group members {state.name}"
        )
    return entry


def _check_room_for_owner(state: GroupState) -> None:
    if len(state.view.owners) >= limits.MAX_OWNERS:
        raise GroupError(f"The group {state.name} has {limits.MAX_OWNERS} owners; no group has more.")


def _check_may_judge(state: GroupState, keys: Keys, peer: str) -> None:
    view = state.view
    if view.may_judge(keys.peer_id, peer):
        return
    able = view.owners[: view.owners.index(peer)]
    who = ", ".join(_called(view, each) for each in (*able, peer))
    raise GroupError(
        f"{_called(view, peer)} was an owner of the group {state.name} before this machine, so this machine cannot "
        f"change that. Those who can: {who}."
    )


def _check_others_own(state: GroupState, peer: str) -> None:
    if state.view.owners == (peer,):
        raise GroupError(
            f"{_called(state.view, peer)} is the last owner of the group {state.name}, which has other members. Make "
            f"one of them an owner first: kachery-cloud-group role {state.name} PEER owner"
        )


def _called(view: View, peer: str) -> str:
    entry = view.members.get(peer)
    return f"{entry.label} ({peer})" if entry is not None and entry.label else peer


def _sign(state: GroupState, keys: Keys, changed: Iterable[Entry], *, ending: str | None = None) -> GroupState:
    """This machine's next list, with some entries changed; what the owner `ending` said is taken over into it."""
    view = state.view
    own = state.lists.get(keys.peer_id)
    entries = dict(own.entries) if own is not None and _counts(state, own) else {}
    theirs = state.lists.get(ending) if ending is not None else None
    if theirs is not None and ending != keys.peer_id:
        _take_over(entries, theirs, view)
    entries.update((entry.peer, entry) for entry in changed)
    return _signed(state, keys, entries.values(), own.epochs if own is not None and _counts(state, own) else ())


def _take_over(entries: dict[str, Entry], theirs: MemberList, view: View) -> None:
    """Say what another owner's list says, as far as it counts."""
    for peer in theirs.entries:
        present = view.members.get(peer)
        if present is not None and present.generation <= limits.PLAUSIBLE:
            entries[peer] = replace(present, version=min(present.version, view.version))
        elif 0 < view.floors.get(peer, 0) <= limits.PLAUSIBLE:
            version = min(view.version, theirs.version)
            entries[peer] = Entry(peer, view.floors[peer], Role.REMOVED, version, view.former.get(peer, ""))


def _counts(state: GroupState, own: MemberList) -> bool:
    if own.signer == state.founder:
        return True
    entry = state.view.members.get(own.signer)
    return entry is not None and entry.generation == own.term


def _with_epoch(state: GroupState, keys: Keys, epoch: Epoch) -> GroupState:
    own = state.lists.get(keys.peer_id)
    counts = own is not None and _counts(state, own)
    epochs = [*(own.epochs if own is not None and counts else ()), epoch][-limits.MAX_EPOCHS :]
    return _signed(state, keys, own.entries.values() if own is not None and counts else (), epochs)


def _signed(state: GroupState, keys: Keys, entries: Iterable[Entry], epochs: Iterable[Epoch]) -> GroupState:
    own = state.lists.get(keys.peer_id)
    present = state.view.members.get(keys.peer_id)
    version = max(state.view.version, own.version if own is not None else 0) + 1
    if version > limits.MAX_NUMBER:
        raise GroupError(f"The lists of the group {state.name} have been changed as often as they can be.")
    term = present.generation if present is not None else own.term if own is not None else 1
    if keys.peer_id == state.founder and own is not None:
        term = max(term, own.term)
    new = sign_list(
        keys,
        state.group,
        version=version,
        term=term,
        entries=entries,
        epochs=epochs,
        founding=own.founding if own is not None else None,
        foreign=own.foreign if own is not None else (),
    )
    return state.merge(GroupState.of([*state.lists.values(), new]))
