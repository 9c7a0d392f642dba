"""All lists of a group, how two machines' lists become one, and who is in the group then.

**Merging.** A machine keeps of each signer the list of the highest rank: (term, version, hash). Merging takes for each
signer the higher of two. That is the maximum of a total order, point by point, so it is commutative, associative and
idempotent: the order in which lists come, how often, and by way of whom makes no difference. An old list that comes
again loses against the newer one, so nothing rolls back. An altered one has no valid signature, and is refused before
(`lists.read_list`). No clock plays a part.

**Who is in the group** is computed from the lists that are kept, the same everywhere:

1. The founder is an owner. Its list proves that, for the ID of the group is the hash of its key and seed.
2. Owners are taken by *seniority*: the version at which an owner was made one, at least one more than the seniority of
   who made it one; the founder's is 0. Of equal ones the smaller peer ID comes first. An owner's list counts if, by all
   lists that were taken before, it is an owner, and the list is of its present term (the generation in which it is
   one). So what a removed owner signed counts for nothing, before and after; what of it was known to who removed it
   is in the remover's own list then.
3. What a list says about an owner that is senior to its signer is ignored. So an owner can be removed by those that
   were owners before it, and by itself; the founder by itself alone. Two owners that remove each other at the same time
   end with the senior one. Nobody who was removed can undo that, whatever dates and versions it writes.
4. A peer is in its *generation*: 1 when it joins, one more each time it joins again after a removal. Removal of a
   generation wins over everything said about it and those before, even if somebody who has not heard of it says so
   later: removal wins over concurrent adding. Whoever adds the peer knowingly says the next generation. Of several
   roles said of one generation the one with the highest version counts; of equal versions the lowest role.

**Secrets.** A list names epochs: a number, a commitment to the secret, and the hash of who had been removed by then.
Of all epochs in lists that count, today's is the one with the highest number; of equal ones that of the most senior
signer. The others are kept as earlier ones. When the hash is not that of all removals (two owners have removed
somebody at the same time, so each secret is known to whom the other has removed), an owner that sees it makes the next
epoch, by itself.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from kachery_p2p.errors import InvalidGroupList
from kachery_p2p.membership import limits
from kachery_p2p.membership.lists import Entry, Epoch, MemberList, Role, read_list
from kachery_p2p.peer_ids import peer_bytes


@dataclass(frozen=True)
class View:
    """What follows from the lists of a group.

    Attributes:
        members: what counts of each member, by peer ID.
        owners: those of them that are owners, the most senior one first.
        seniority: of each signer whose list counts.
        floors: the highest generation of a peer that was removed, where one was.
        former: what each of those is called that is no member now, where that is known.
        removed_hash: of those.
        today: the epoch whose secret is today's, where there is one.
        epochs: all that count, today's first, then by falling numbers.
        version: the highest in any list, but for absurd ones.
    """

    members: Mapping[str, Entry]
    owners: tuple[str, ...]
    seniority: Mapping[str, int]
    floors: Mapping[str, int]
    former: Mapping[str, str]
    removed_hash: bytes
    today: Epoch | None
    epochs: tuple[Epoch, ...]
    version: int

    @property
    def is_clean(self) -> bool:
        """Whether nobody who was removed was ever given today's secret by who made it."""
        return self.today is not None and self.today.after == self.removed_hash

    def role_of(self, peer: str) -> Role:
        """What a peer may do; `REMOVED` also where it never was a member."""
        entry = self.members.get(peer)
        return Role.REMOVED if entry is None else entry.role

    def may_judge(self, owner: str, peer: str) -> bool:
        """Whether what one owner says about a peer counts: it does, but about owners that are senior to it."""
        if owner not in self.owners:
            return False
        if owner == peer or peer not in self.owners:
            return True
        return self.owners.index(owner) < self.owners.index(peer)


@dataclass(frozen=True)
class GroupState:
    """The lists of a group, of each signer the one of the highest rank. Immutable.

    Attributes:
        group: the ID.
        founder: the peer ID of the founder, whose list is always there.
        lists: by peer ID of the signer.
    """

    group: str
    founder: str
    lists: Mapping[str, MemberList] = field(repr=False)

    @classmethod
    def of(cls, lists: Iterable[MemberList]) -> GroupState:
        """The state of some lists of one group, the founder's among them.

        Raises:
            InvalidGroupList: they are of several groups, too many, or the founder's is not there.
        """
        best: dict[str, MemberList] = {}
        founder = group = ""
        for each in lists:
            if group and each.group != group:
                raise InvalidGroupList("Lists of several groups are mixed.")
            group = each.group
            if each.founding is not None:
                founder = each.signer
            known = best.get(each.signer)
            if known is None or _outranks(each, known):
                best[each.signer] = each
        if not founder or best[founder].founding is None:
            raise InvalidGroupList("Lists of a group have come without that of its founder.")
        if not _fits(best.values()):
            raise InvalidGroupList("There are more lists of a group than any has.")
        return cls(group, founder, best)

    @classmethod
    def read(cls, sealed: Iterable[bytes]) -> GroupState:
        """The same of lists as they came.

        Raises:
            InvalidGroupList: one of them is none, or was altered; or as for `of`.
        """
        return cls.of([read_list(each) for each in sealed])

    def merge(self, other: GroupState) -> GroupState:
        """What is known where both are.

        Raises:
            InvalidGroupList: they are of two groups, or too much together.
        """
        if other.group != self.group:
            raise InvalidGroupList("Lists of several groups are mixed.")
        if other.lists.keys() <= self.lists.keys() and all(
            not _outranks(each, self.lists[signer]) for signer, each in other.lists.items()
        ):
            return self
        return GroupState.of([*self.lists.values(), *other.lists.values()])

    def admit(self, lists: Iterable[MemberList]) -> GroupState:
        """Merge what came from another machine, without lists of signers that no owner has ever named as one.

        Those count for nothing, and there could be any number of them.

        Raises:
            InvalidGroupList: as for `merge`.
        """
        merged: dict[str, MemberList] = {}
        # Not by `of`, which refuses too many: what is too much goes before.
        for each in (*self.lists.values(), *lists):
            if each.group != self.group:
                raise InvalidGroupList("Lists of several groups are mixed.")
            known = merged.get(each.signer)
            if known is None or _outranks(each, known):
                merged[each.signer] = each
        every = GroupState(self.group, self.founder, merged)
        if _fits(merged.values()):
            return self.merge(GroupState.of(every.spread.values()))
        # Somebody wants to leave no room for others. Who is senior has room, and who was removed has none: the news of
        # that may be what has just come.
        order = [*every.view.seniority, *every.spread]
        kept: dict[str, MemberList] = {}
        for signer in dict.fromkeys(order):
            if signer in merged and _fits([*kept.values(), merged[signer]]):
                kept[signer] = merged[signer]
        return GroupState.of(kept.values())

    @cached_property
    def spread(self) -> Mapping[str, MemberList]:
        """The lists that are passed on: those of the founder, and of whoever a list among them names as an owner."""
        named = {self.founder}
        waiting = [self.founder]
        while waiting:
            found = self.lists.get(waiting.pop())
            for entry in found.entries.values() if found is not None else ():
                if entry.role is Role.OWNER and entry.peer in self.lists and entry.peer not in named:
                    named.add(entry.peer)
                    waiting.append(entry.peer)
        return {signer: self.lists[signer] for signer in named}

    @property
    def name(self) -> str:
        """Of the group."""
        founding = self.lists[self.founder].founding
        assert founding is not None, "the founder's list has it"
        return founding.name

    @property
    def seed(self) -> bytes:
        """32 bytes that only members were ever given."""
        founding = self.lists[self.founder].founding
        assert founding is not None, "the founder's list has it"
        return founding.seed

    @property
    def digests(self) -> frozenset[bytes]:
        """The hashes of the lists that are passed on."""
        return frozenset(each.digest for each in self.spread.values())

    @cached_property
    def view(self) -> View:
        """Who is in the group."""
        return _evaluate(self)


def _fits(lists: Collection[MemberList]) -> bool:
    return len(lists) <= limits.MAX_LISTS and sum(len(each.sealed) for each in lists) <= limits.MAX_STATE


def _outranks(one: MemberList, other: MemberList) -> bool:
    # The founder's has to say who the founder is, whatever else was signed with that key.
    return (one.founding is not None, *one.rank) > (other.founding is not None, *other.rank)


class _Table:
    """What the lists that were taken so far say about each peer."""

    def __init__(self) -> None:
        self.removed: dict[str, int] = {}
        self.best: dict[str, Entry] = {}
        #: The newest entry of each that has a label.
        self.called: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        peer, generation = entry.peer, entry.generation
        if entry.label and (peer not in self.called or _order(entry) > _order(self.called[peer])):
            self.called[peer] = entry
        if entry.role is Role.REMOVED:
            if generation > self.removed.get(peer, 0):
                self.removed[peer] = generation
            return
        known = self.best.get(peer)
        if known is None or _order(entry) > _order(known):
            self.best[peer] = entry

    def of(self, peer: str) -> Entry | None:
        entry = self.best.get(peer)
        return entry if entry is not None and entry.generation > self.removed.get(peer, 0) else None


def _order(entry: Entry) -> tuple[int, int, int, str]:
    return entry.generation, entry.version, -entry.role, entry.label


def _evaluate(state: GroupState) -> View:
    table = _Table()
    seniority: dict[str, int] = {}
    counted: list[MemberList] = []
    left: set[str] = set()
    waiting: list[tuple[int, str]] = [(0, state.founder)]
    while waiting:
        senior, signer = heapq.heappop(waiting)
        if signer in seniority or len(seniority) >= limits.MAX_LISTS:
            continue
        own = state.lists.get(signer)
        present = table.of(signer)
        if signer != state.founder and (present is None or present.role is not Role.OWNER):
            continue  # one that is senior to it has taken that back
        seniority[signer] = senior
        if own is None or (present is not None and signer != state.founder and own.term != present.generation):
            continue
        counted.append(own)
        for entry in own.entries.values():
            peer = entry.peer
            if peer in seniority and peer != signer and peer not in left:
                continue
            table.add(entry)
            if peer == signer:
                now = table.of(signer)
                if now is None or now.role is not Role.OWNER:
                    left.add(signer)
            elif entry.role is Role.OWNER:
                heapq.heappush(waiting, (max(entry.version, senior + 1), peer))
    members: dict[str, Entry] = {}
    floors: dict[str, int] = {}
    for peer in table.best.keys() | table.removed.keys():
        entry = table.of(peer)
        floor = table.removed.get(peer, 0)
        if entry is not None:
            members[peer] = entry
            floor = entry.generation - 1
        if floor:
            floors[peer] = floor
    owners = tuple(peer for peer in seniority if peer in members and members[peer].role is Role.OWNER)
    today, epochs = _epochs(counted)
    return View(
        members=members,
        owners=owners,
        seniority=seniority,
        floors=floors,
        former={peer: table.called[peer].label for peer in floors if peer not in members and peer in table.called},
        removed_hash=_removed_hash(floors),
        today=today,
        epochs=epochs,
        version=max((each.version for each in state.lists.values() if each.version <= limits.PLAUSIBLE), default=0),
    )


def _epochs(counted: Iterable[MemberList]) -> tuple[Epoch | None, tuple[Epoch, ...]]:
    """Today's epoch, and all; the lists come with the most senior signer's first."""
    found = [epoch for each in counted for epoch in each.epochs]
    found.sort(key=lambda epoch: -epoch.number)  # stable, so the most senior one's stay first
    return (found[0] if found else None), tuple(found)


def _removed_hash(floors: Mapping[str, int]) -> bytes:
    digest = hashlib.sha256(b"kachery group removed 1\0")
    for peer in sorted(floors):
        digest.update(peer_bytes(peer) + b"\0" + floors[peer].to_bytes(8, "big"))
    return digest.digest()
