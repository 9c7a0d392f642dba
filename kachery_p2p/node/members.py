"""Before anything is asked of the network: for whom a root is, and so who may hear of it.

Where the URI names groups, or a part of the root is here and is for groups, that is known, and nobody but their members
hears of it. Nor where it was known: what was here for groups, and was removed, or of which a member said so. Where
nothing is known, a machine that is in a group asks its fellow members first: those that are
connected, and for about a second those whose addresses are known. A question to them puts the CID before nobody else.
One that has the root says for whom. Only if nobody says that it is for a group is it looked for as everything else,
and then the CID is told to everybody; whoever does not want that says that members alone are to be asked.

A machine that is in no group, and whose user has named no other machine of his own, asks nobody and waits for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

from kachery_p2p.access.asking import ask_audience
from kachery_p2p.access.audience import OWN, Audience
from kachery_p2p.access.limits import MAX_ASKING_EACH
from kachery_p2p.errors import KacheryError, NotAMember

if TYPE_CHECKING:
    from kachery_p2p.access.interfaces import Audiences
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.discovery import Finding
    from kachery_p2p.routing.provide.blinding import Members
    from kachery_p2p.transport.host import Host

#: Members asked at once, and in all: a load does not wait for more.
ASKED_AT_ONCE = 32
MOST_ASKED = 128
#: Questions to one member at once. It refuses what is more than it answers at once, and who is refused knows nothing;
#: half as many, for it may not have seen yet that we have an answer.
QUESTIONS_EACH = MAX_ASKING_EACH // 2
#: Seconds for a member that is not connected to be reached and to answer; and for one that is connected.
REACH_SECONDS = 1.0
ANSWER_SECONDS = 3.0
#: Seconds for which a member that could not be reached is not tried again before a load, which would wait for it.
AWAY_SECONDS = 60.0
#: Seconds for which "nobody knows it" is remembered: a file that is read in pieces is asked about once.
NOBODY_SECONDS = 20.0
MOST_REMEMBERED = 4096


@dataclass(frozen=True)
class Plan:
    """Who may hear of a root.

    Attributes:
        groups: the groups whose members, with the user's own machines, are all that may; None where everybody may.
        watched: whether what comes may be for groups all the same: then it is to be seen from whom it comes.
        known: for whom it is, where a part of it is here; None where that is for everybody, or nothing is here.
        told: what members said, by peer ID.
        why: how it is known that nobody else may hear of it, at the end of a sentence.
    """

    groups: frozenset[str] | None = None
    watched: bool = False
    known: Audience | None = None
    told: dict[str, Audience] = field(default_factory=dict[str, Audience])
    why: str = ""


_HERE = "for it is, or was, for them on this machine"


class MembersFirst:
    """Finds out who may hear of what.

    Args:
        host, finding: of the node.
        groups: the groups of this machine.
        audiences: for whom what is here is.
        settled: waits until it is known whether a connected machine is one of the user's own.
        formerly: for whom a root was that was removed here; None where that is not known. Runs in a thread, and only
            where something was ever restricted.
        ever_restricted: whether that is so. Cheap.
    """

    def __init__(
        self,
        host: Host,
        finding: Finding,
        groups: Members,
        audiences: Audiences,
        *,
        settled: Callable[[str], Awaitable[None]] | None = None,
        formerly: Callable[[bytes], Audience | None] = lambda multihash: None,
        ever_restricted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._host = host
        self._finding = finding
        self._groups = groups
        self._audiences = audiences
        self._settled = settled
        self._formerly = formerly
        self._ever_restricted = ever_restricted
        #: What members said of roots that nothing of is here, so that nobody else is asked when they are away.
        self._told: OrderedDict[bytes, frozenset[str]] = OrderedDict()
        #: Members that could not be reached, and roots of which nobody knew anything, until when (trio's clock).
        self._away: dict[str, float] = {}
        self._questions: WeakValueDictionary[str, trio.Semaphore] = WeakValueDictionary()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        groups.on_changed(self._changed)

    def _changed(self) -> None:
        self._away.clear()
        self._unknown.clear()
        self._told.clear()  # whoever said it may be no member any more

    def check(self, hint: Iterable[str]) -> frozenset[str]:
        """The groups of a hint in which this machine is.

        Raises:
            NotAMember: it names groups, and this machine is in none of them.
        """
        wanted = frozenset(hint)
        mine = wanted & self._groups.own_groups()
        if OWN in wanted and self._groups.members_of(OWN):
            mine |= {OWN}
        if wanted <= {OWN} and wanted and not mine:
            raise NotAMember(
                "This is private: for the machines of whoever made the URI, who are to name each other's peer IDs in "
                "KACHERY_CLOUD_OWN_PEERS. This machine names none, so nobody is asked. If it was made public since, "
                "ask for its new URI."
            )
        if wanted and not mine:
            named = " and ".join(sorted(wanted - {OWN}))
            raise NotAMember(
                f"This is for members of the group {named}; you are not in it on this machine. Ask one of its owners "
                "for an invitation, and join with it: kachery-cloud-group join INVITATION"
            )
        return mine

    async def plan(
        self, cid: CID, hint: Iterable[str] = (), providers: Iterable[str] = (), *, members_only: bool = False
    ) -> Plan:
        """Who may hear of a root.

        Args:
            cid: the root.
            hint: the groups that it is for, as its URI says.
            providers: multiaddrs of peers that may have it: members among them are asked there, too.
            members_only: whether nobody but members of the groups of this machine, and the user's own machines, is to
                hear of it, whatever is known of it.

        Raises:
            NotAMember: this machine is in none of these groups; or in none at all, and only members are to be asked.
            RepoError: the catalog cannot be read.
        """
        mine = self.check(hint)
        known: Audience | None = None
        if self._audiences.any_restricted():
            found = await trio.to_thread.run_sync(self._audiences.audiences, [cid.multihash])
            known = found.get(cid.multihash)
        if mine:
            return Plan(mine - {OWN}, watched=True, known=known, why="as its URI says, or --group")
        if known is not None and known.groups:
            return Plan(known.groups - {OWN}, watched=True, known=known, why=_HERE)
        alone = not self._groups.own_groups() and not self._groups.members_of(OWN)
        if members_only and alone:
            raise NotAMember(
                "Only members are to be asked (KACHERY_CLOUD_MEMBERS_ONLY), and this machine is in no group, nor does "
                "it name other machines of yours. Join one (kachery-cloud-group join), or switch that off."
            )
        before = None if known is not None else await self._before(cid.multihash)
        if alone:
            here = known is not None or before is not None
            return Plan(frozenset() if here else None, watched=here, known=known, why=_HERE if here else "")
        told = await self._ask_all(cid.multihash, providers)
        groups = frozenset[str]().union(*(each.groups for each in told.values()))
        why = "for members that have it say so" if groups else _HERE
        if groups and known is None:
            self._told[cid.multihash] = groups
            while len(self._told) > MOST_REMEMBERED:
                self._told.popitem(last=False)
        elif not groups and (known is not None or members_only):
            if known is None:
                why = "as the setting members_only says (KACHERY_CLOUD_MEMBERS_ONLY)"
            groups = self._groups.own_groups()  # what is here came from a member that did not say for whom it has it
        elif not groups and before is not None:
            groups = before
        elif not groups:
            return Plan(watched=True, told=told)
        return Plan(groups - {OWN}, watched=True, known=known, told=told, why=why)

    async def _before(self, multihash: bytes) -> frozenset[str] | None:
        """The groups that a root was for of which nothing is here now; None where nothing is known of it."""
        told = self._told.get(multihash)
        if told is not None or not self._ever_restricted():
            return told
        was = await trio.to_thread.run_sync(self._formerly, multihash)
        return None if was is None else was.groups

    async def ask(self, peer: str, multihash: bytes) -> Audience | None:
        """For whom a connected member has a root; None where it does not say, or does not have it."""
        questions = self._questions.get(peer)
        if questions is None:
            questions = self._questions[peer] = trio.Semaphore(QUESTIONS_EACH)
        async with questions:
            told = await ask_audience(self._host, peer, [multihash], timeout=ANSWER_SECONDS)
        return None if told is None else told.get(multihash)

    async def _ask_all(self, multihash: bytes, providers: Iterable[str]) -> dict[str, Audience]:
        """What members say of a root that have it. Ends with the first that says that it is for groups."""
        told: dict[str, Audience] = {}
        connected = set(self._host.connected())
        groups = [OWN, *sorted(self._groups.own_groups())]
        named = self._named(groups, providers, connected)
        if not named and self._unknown.get(multihash, 0.0) > trio.current_time():
            return {}
        peers = {peer: () for group in groups for peer in self._groups.members_of(group) if peer in connected}
        listed = {each.peer: each.addrs for each in self._finding.members.listed(groups) if each.peer not in connected}
        for peer, addrs in named.items():
            listed[peer] = (*addrs, *listed.get(peer, ()))
            self._away.pop(peer, None)  # it was looked for elsewhere
        slots = trio.Semaphore(ASKED_AT_ONCE)
        async with trio.open_nursery() as nursery:

            async def ask(peer: str, addrs: Collection[str]) -> None:
                async with slots:
                    if addrs and not await self._reach(peer, tuple(addrs)):
                        return
                    if self._settled is not None:
                        with trio.move_on_after(ANSWER_SECONDS):
                            await self._settled(peer)
                    audience = await self.ask(peer, multihash)
                shared = self._groups.groups_of(peer)
                if audience is None or not (audience.everyone or audience.groups & shared):
                    return
                told[peer] = audience if audience.everyone else Audience(groups=audience.groups & shared)
                if not audience.everyone:
                    nursery.cancel_scope.cancel()

            for peer, addrs in list({**peers, **listed}.items())[:MOST_ASKED]:
                nursery.start_soon(ask, peer, addrs)
        if not told:
            self._unknown[multihash] = trio.current_time() + NOBODY_SECONDS
            while len(self._unknown) > MOST_REMEMBERED:
                self._unknown.popitem(last=False)
        return told

    def _named(
        self, groups: Iterable[str], providers: Iterable[str], connected: Collection[str]
    ) -> dict[str, tuple[str, ...]]:
        """The members that are named as providers and are not connected, and where they are said to be."""
        found: dict[str, tuple[str, ...]] = {}
        for addr in providers:
            way, _, peer = addr.rpartition("/p2p/")
            if way and peer not in connected and any(peer in self._groups.members_of(group) for group in groups):
                found[peer] = (*found.get(peer, ()), way)
        return found

    async def _reach(self, peer: str, addrs: tuple[str, ...]) -> bool:
        """Connect to a member, if it answers soon."""
        if self._away.get(peer, 0.0) > trio.current_time():
            return False
        try:
            with trio.fail_after(REACH_SECONDS):
                await self._host.connect(peer, addrs, timeout=REACH_SECONDS)
        except (KacheryError, trio.TooSlowError):
            self._away[peer] = trio.current_time() + AWAY_SECONDS
            return False
        return True
