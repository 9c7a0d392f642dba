"""How lists of several owners become one state, and who is in the group then."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.errors import GroupError, InvalidGroupList
from kachery_p2p.membership import edits, limits
from kachery_p2p.membership.lists import Entry, MemberList, Role, sign_list
from kachery_p2p.membership.state import GroupState
from kachery_p2p.transport.compat import Keys
from tests.helpers.group_helpers import new_keys

PEOPLE = [Keys.from_seed(bytes([number]) * 32) for number in range(1, 6)]
A, B, C, D, E = PEOPLE


def founded(*owners: Keys, readers: tuple[Keys, ...] = ()) -> GroupState:
    """A group by the first, which has made the others owners, one after the other."""
    state, _ = edits.found(owners[0], "lab")
    for each in owners[1:]:
        state = edits.add(state, owners[0], each.peer_id, Role.OWNER)
    for each in readers:
        state = edits.add(state, owners[0], each.peer_id, Role.READER)
    return state


def roles(state: GroupState) -> dict[str, Role]:
    return {peer: entry.role for peer, entry in state.view.members.items()}


def forged(state: GroupState, keys: Keys, *entries: Entry, version: int | None = None, term: int = 1) -> MemberList:
    """A list that somebody signs who keeps to no rule but the form."""
    newest = max([state.view.version + 1, *(entry.version for entry in entries)]) if version is None else version
    return sign_list(keys, state.group, version=newest, term=term, entries=entries, epochs=())


# --- merging -------------------------------------------------------------------------------------------------------

numbers = st.integers(0, len(PEOPLE) - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), numbers, numbers, st.sampled_from([Role.READER, Role.WRITER, Role.OWNER])),
        st.tuples(st.just("role"), numbers, numbers, st.sampled_from([Role.READER, Role.WRITER, Role.OWNER])),
        st.tuples(st.just("remove"), numbers, numbers, st.none()),
        st.tuples(st.just("leave"), numbers, numbers, st.none()),
        st.tuples(st.just("tidy"), numbers, numbers, st.none()),
        st.tuples(st.just("forge"), numbers, numbers, st.sampled_from(list(Role))),
        st.tuples(st.just("meet"), numbers, numbers, st.none()),
    ),
    max_size=14,
)


def step(state: GroupState, keys: Keys, kind: str, target: Keys, role: Role | None) -> GroupState:
    """One thing that somebody does, where it may."""
    peer = target.peer_id
    try:
        if kind == "add" and role is not None:
            return edits.add(state, keys, peer, role)
        if kind == "role" and role is not None:
            return edits.set_role(state, keys, peer, role)
        if kind == "remove":
            return edits.remove(state, keys, peer)[0]
        if kind == "leave":
            return edits.resign(state, keys)
        if kind == "tidy":
            return edits.tidy(state, keys)[0]
        if kind == "forge" and role is not None and keys is not A:
            entry = Entry(peer, 1 + state.view.floors.get(peer, 0), role, state.view.version + 3)
            return state.admit([forged(state, keys, entry)])
    except GroupError:
        pass
    return state


def histories(each: list[tuple[str, int, int, Role | None]]) -> list[GroupState]:
    """What each machine knows after it: every one changes what itself knows, and hears of others now and then."""
    base = founded(A, B)
    states = [base] * len(PEOPLE)
    for kind, one, other, role in each:
        if kind == "meet":
            states[one] = states[one].merge(states[other])
        else:
            states[one] = step(states[one], PEOPLE[one], kind, PEOPLE[other], role)
    return states


@settings(max_examples=60)
@given(steps)
def test_merging(each: list[tuple[str, int, int, Role | None]]) -> None:
    """The order, the number of times and the ways by which lists come make no difference, hostile ones among them."""
    states = histories(each)
    for one, other in itertools.pairwise(states):
        assert one.merge(other) == other.merge(one)
        assert one.merge(one) is one
        assert one.merge(other).merge(one) == one.merge(other)
    x, y, z = states[:3]
    assert x.merge(y).merge(z) == x.merge(y.merge(z)) == z.merge(y).merge(x)
    ways = (all_of(states), all_of(states[::-1]), all_of([*states[2:], *states]))
    assert len({tuple(sorted(way.digests)) for way in ways}) == 1
    assert all_of(states).view == all_of(states[::-1]).view


def all_of(states: list[GroupState]) -> GroupState:
    found = states[0]
    for each in states[1:]:
        found = found.merge(each)
    return found


@settings(max_examples=60)
@given(steps)
def test_what_holds_always(each: list[tuple[str, int, int, Role | None]]) -> None:
    """Owners are members, the founder is removed by itself alone, and what is passed on says the same as all of it."""
    for state in histories(each):
        view = state.view
        assert set(view.owners) == {peer for peer, entry in view.members.items() if entry.role is Role.OWNER}
        assert list(view.seniority.values()) == sorted(view.seniority.values())
        own = state.lists[A.peer_id].entries[A.peer_id]
        assert (A.peer_id in view.owners) or own.role is not Role.OWNER
        passed_on = GroupState.of(state.spread.values())
        assert passed_on.view == replace(view, version=passed_on.view.version)
        tidied, _ = edits.tidy(state, A)
        assert tidied is state or tidied.view.is_clean


# --- removing ------------------------------------------------------------------------------------------------------


def test_removal_wins_over_concurrent_adding() -> None:
    """One owner removes a member; another, which has not heard of it, has just given it another role, with a higher
    version. It is gone; who adds it knowingly brings it back."""
    base = founded(A, B, readers=(C,))
    removed, _ = edits.remove(base, A, C.peer_id)
    raised = base
    for role in (Role.WRITER, Role.READER, Role.WRITER, Role.READER, Role.WRITER):
        raised = edits.set_role(raised, B, C.peer_id, role)
    assert raised.view.version > removed.view.version
    both = removed.merge(raised)
    assert C.peer_id not in both.view.members
    again = edits.add(both, B, C.peer_id, Role.READER)
    assert again.view.members[C.peer_id].generation == 2
    assert C.peer_id in again.merge(raised).merge(removed).view.members


def test_a_removed_owner_counts_for_nothing() -> None:
    """Whatever it signs afterwards, with any version, term and generation: nobody comes in, nobody goes, no epoch is
    taken. Whom it had taken in before, and the remover knew, stays."""
    base = edits.add(founded(A, B), B, C.peer_id, Role.READER)
    after, _ = edits.remove(base, A, B.peer_id)
    assert roles(after) == {A.peer_id: Role.OWNER, C.peer_id: Role.READER}
    stranger = new_keys()
    for version, term in itertools.product((1, 2, 3, 50, limits.MAX_NUMBER), (1, 2, 9)):
        entries = [
            Entry(stranger.peer_id, 1, Role.OWNER, min(version, 2)),
            Entry(B.peer_id, 7, Role.OWNER, min(version, 2)),
            Entry(A.peer_id, 9, Role.REMOVED, min(version, 2)),
            Entry(C.peer_id, 9, Role.REMOVED, min(version, 2)),
        ]
        hostile = after.admit([forged(after, B, *entries, version=version, term=term)])
        assert hostile.view.members == after.view.members
        assert hostile.view.today == after.view.today
        assert hostile.admit([forged(after, stranger, *entries, version=version)]).view.members == after.view.members


def test_two_owners_remove_each_other() -> None:
    """The one that was an owner before stays; in which order it is heard makes no difference."""
    base = founded(A, B, C, readers=(D,))
    b_out, _ = edits.remove(base, B, C.peer_id)
    assert C.peer_id not in b_out.view.members
    c_says = forged(base, C, Entry(B.peer_id, 1, Role.REMOVED, base.view.version + 1))
    for state in (b_out.admit([c_says]), base.admit([c_says]).merge(b_out)):
        assert state.view.owners == (A.peer_id, B.peer_id)
    with pytest.raises(GroupError, match="was an owner of the group lab before this machine"):
        edits.remove(base, C, B.peer_id)


def test_two_owners_remove_at_once() -> None:
    """Each removes another member, so each new secret is known to whom the other has removed. Both epochs count, the
    one of the senior owner is today's until an owner sees both; then there is a third, known to neither."""
    base = founded(A, B, readers=(C, D))
    without_c, _ = edits.remove(base, A, C.peer_id)
    without_d, _ = edits.remove(base, B, D.peer_id)
    both = without_c.merge(without_d)
    assert roles(both) == {A.peer_id: Role.OWNER, B.peer_id: Role.OWNER}
    assert both.view.today == without_c.view.today
    assert without_d.view.today in both.view.epochs
    assert not both.view.is_clean
    by_a, secret = edits.tidy(both, A)
    by_b, other = edits.tidy(both, B)
    assert secret is not None
    assert other is not None
    end = by_a.merge(by_b)
    assert end.view.is_clean
    assert end.view.today is not None
    assert end.view.today.number == 3
    assert end.view.today == by_a.view.today
    assert edits.tidy(end, A) == (end, None)
    assert edits.tidy(both, C) == (both, None)


def test_an_owner_leaves() -> None:
    """By itself. What it had said stays, until another owner has heard of it, takes it over and ends the list: what the
    former owner signs then counts for nothing."""
    base = edits.add(founded(A, B), B, C.peer_id, Role.READER)
    left = edits.resign(base, B)
    assert roles(left) == {A.peer_id: Role.OWNER, C.peer_id: Role.READER}
    tidied, secret = edits.tidy(left, A)
    assert secret is not None
    assert roles(tidied) == roles(left)
    hostile = tidied.admit([forged(tidied, B, Entry(D.peer_id, 1, Role.OWNER, 99))])
    assert roles(hostile) == roles(tidied)
    back = edits.add(tidied, A, B.peer_id, Role.OWNER)
    assert D.peer_id not in back.admit([forged(back, B, Entry(D.peer_id, 1, Role.OWNER, 99))]).view.members
    assert E.peer_id in edits.add(back, B, E.peer_id, Role.READER).view.members


def test_the_founder_leaves() -> None:
    """Its list stays, for it proves the ID. Those it made owners go on, and can take it back in."""
    base = founded(A, B)
    left = edits.resign(base, A)
    assert left.view.owners == (B.peer_id,)
    assert A.peer_id in left.lists
    tidied, _ = edits.tidy(left, B)
    assert tidied.view.is_clean
    back = edits.add(tidied, B, A.peer_id, Role.READER)
    assert roles(back) == {B.peer_id: Role.OWNER, A.peer_id: Role.READER}


def test_the_last_owner_stays() -> None:
    """While there are others; alone it may go."""
    base = founded(A, readers=(B,))
    for attempt in (
        lambda: edits.resign(base, A),
        lambda: edits.remove(base, A, A.peer_id),
        lambda: edits.set_role(base, A, A.peer_id, Role.READER),
    ):
        with pytest.raises(GroupError, match="kachery-cloud-group role lab PEER owner"):
            attempt()
    alone, _ = edits.remove(base, A, B.peer_id)
    assert edits.resign(alone, A).view.members == {}


def test_an_owner_made_by_a_removed_one_stays() -> None:
    """Where the remover knew of it, in its rank."""
    base = edits.add(founded(A, B), B, C.peer_id, Role.OWNER)
    after, _ = edits.remove(base, A, B.peer_id)
    assert after.view.owners == (A.peer_id, C.peer_id)
    lower = edits.set_role(base, A, B.peer_id, Role.READER)
    assert lower.view.owners == (A.peer_id, C.peer_id)
    assert roles(edits.add(after, C, D.peer_id, Role.READER))[D.peer_id] is Role.READER


# --- who may say something -----------------------------------------------------------------------------------------


def test_who_is_no_owner_says_nothing() -> None:
    """Readers, writers, and peers on no list sign what they like; it is not even kept."""
    base = edits.add(founded(A, readers=(B,)), A, C.peer_id, Role.WRITER)
    for keys in (B, C, E):
        hostile = forged(base, keys, Entry(keys.peer_id, 1, Role.OWNER, 5), Entry(A.peer_id, 1, Role.REMOVED, 5))
        after = base.admit([hostile])
        assert after.view == base.view
        assert keys.peer_id not in after.lists
        for edit in (
            lambda keys=keys: edits.add(base, keys, E.peer_id, Role.READER),
            lambda keys=keys: edits.remove(base, keys, A.peer_id),
            lambda keys=keys: edits.rotate(base, keys),
            lambda keys=keys: edits.resign(base, keys),
        ):
            with pytest.raises(GroupError, match="Only an owner"):
                edit()


def test_an_owner_makes_itself_no_more_senior() -> None:
    """By versions that it writes for whom it makes an owner: those come after itself."""
    base = founded(A, B, C)
    puppet = new_keys()
    after = base.admit([forged(base, C, Entry(puppet.peer_id, 1, Role.OWNER, 1))])
    assert after.view.owners == (A.peer_id, B.peer_id, C.peer_id, puppet.peer_id)
    end = after.admit([forged(after, puppet, Entry(B.peer_id, 1, Role.REMOVED, 2))])
    assert B.peer_id in end.view.owners


def test_rolled_back_and_replayed() -> None:
    """Old lists that come again change nothing, whoever brings them, together or one by one."""
    states = [founded(A, B)]
    states.append(edits.add(states[-1], B, C.peer_id, Role.READER))
    states.append(edits.remove(states[-1], A, C.peer_id)[0])
    states.append(edits.add(states[-1], B, D.peer_id, Role.READER))
    newest = states[-1]
    for old in states:
        assert newest.merge(old) is newest
        assert newest.admit(old.lists.values()) is newest
        assert old.merge(newest) == newest
        for each in old.lists.values():
            assert newest.admit([each]) is newest


def test_a_machine_that_was_set_back_goes_on() -> None:
    """From an old copy of its files: it hears its own newer list from others, and its next one comes after that."""
    old = founded(A, B)
    newer = edits.add(edits.add(old, A, C.peer_id, Role.READER), A, D.peer_id, Role.READER)
    again = old.admit(newer.lists.values())
    assert again == newer
    after = edits.add(again, A, E.peer_id, Role.READER)
    assert roles(after).keys() == {each.peer_id for each in (A, B, C, D, E)}


def test_lists_of_another_group() -> None:
    """Are refused, also by the same owner; and without the founder's list nothing is believed."""
    one, other = founded(A, B), founded(A, B)
    assert one.group != other.group
    for state, strange in ((one, other), (other, one)):
        with pytest.raises(InvalidGroupList):
            state.merge(strange)
        with pytest.raises(InvalidGroupList):
            state.admit(strange.lists.values())
        with pytest.raises(InvalidGroupList, match="without that of its founder"):
            GroupState.of([edits.add(state, B, C.peer_id, Role.READER).lists[B.peer_id]])


def test_ten_thousand_members() -> None:
    """One list with one signature; the next is refused. Somebody comes and goes among them."""
    base = founded(A, B)
    own = base.lists[A.peer_id]
    crowd = [Entry(new_keys().peer_id, 1, Role.READER, 2) for _ in range(limits.MAX_MEMBERS - 2)]
    big = sign_list(
        A,
        base.group,
        version=9,
        term=1,
        entries=[*own.entries.values(), *crowd],
        epochs=own.epochs,
        founding=own.founding,
    )
    assert len(big.sealed) < limits.MAX_LIST // 2
    state = base.admit([big])
    assert len(state.view.members) == limits.MAX_MEMBERS
    with pytest.raises(GroupError, match="10,000 members"):
        edits.add(state, B, E.peer_id, Role.READER)
    less, _ = edits.remove(state, B, crowd[5].peer)
    assert len(less.view.members) == limits.MAX_MEMBERS - 1
    assert len(edits.add(less, B, E.peer_id, Role.READER).view.members) == limits.MAX_MEMBERS


# --- owners that leave no room -------------------------------------------------------------------------------------


def test_the_largest_numbers() -> None:
    """An owner that writes them, for versions and generations, keeps no other owner from changing anything, and is
    removed like any other. Members that it had thrown out for ever are back then."""
    base = founded(A, B, C, readers=(D, E))
    most = limits.MAX_NUMBER
    entries = Entry(D.peer_id, most, Role.REMOVED, most), Entry(E.peer_id, 1, Role.WRITER, most)
    hostile = base.admit([forged(base, C, *entries, version=most)])
    assert D.peer_id not in hostile.view.members
    stranger = new_keys()
    for keys in (A, B):
        later = edits.add(hostile, keys, stranger.peer_id, Role.READER)
        assert stranger.peer_id in later.view.members
        after, _ = edits.remove(later, keys, C.peer_id)
        assert C.peer_id not in after.view.members
        assert after.view.is_clean
        assert after.view.members[D.peer_id].role is Role.READER
        assert after.admit(hostile.lists.values()).view == after.view
        assert edits.set_role(after, keys, E.peer_id, Role.READER).view.members[E.peer_id].role is Role.READER


def test_more_lists_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner makes owners, who make owners, and each signs a list: senior ones have room, and the removal of who
    began is heard, by machines that are full of its lists as well."""
    monkeypatch.setattr(limits, "MAX_LISTS", 8)
    base = founded(A, B)
    removed, _ = edits.remove(base, A, B.peer_id)
    puppets = [new_keys() for _ in range(20)]
    entries = [Entry(each.peer_id, 1, Role.OWNER, 5) for each in puppets]
    flood = [forged(base, B, *entries), *(forged(base, each, entries[0]) for each in puppets)]
    full = base.admit(flood)
    assert len(full.lists) == limits.MAX_LISTS
    assert {A.peer_id, B.peer_id} <= full.lists.keys()
    heard = full.admit(removed.lists.values())
    assert heard.view.members.keys() == {A.peer_id}
    assert heard.admit(flood).view == heard.view
