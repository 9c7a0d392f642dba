"""Who may load what from here, and why; and who did: of one thing, and of all that this machine has."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kachery_cloud.answers import GroupFacts, Visible
from kachery_cloud.audiences import (
    GroupHere,
    audience_for,
    groups_here,
    other_machines,
    sentence,
    uri_groups,
    whom,
    words_of,
)
from kachery_cloud.errors import InvalidArgument, KacheryError
from kachery_cloud.inventory import item_of
from kachery_cloud.local import listed_label, repository
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import format_uri, parse_listed
from kachery_cloud.visibility import shown_now
from kachery_p2p.access.audience import OWN, PUBLIC, group_audience
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

Loads: TypeAlias = "tuple[LoadedBy, ...]"

_DAY = 86_400.0
#: Days of an audit: a hundred years. The log keeps less.
_MOST_DAYS = 36_500.0


@dataclass(frozen=True)
class Member:
    """A machine that may load something because it is in a group, or is the user's own.

    Attributes:
        peer: its ID.
        name: what the group calls it; empty where it has no name.
        role: "owner", "writer" or "reader"; "own" for the user's own machines.
    """

    peer: str
    name: str
    role: str


@dataclass(frozen=True)
class Reason:
    """Why somebody may load something.

    Attributes:
        to: the group's name, "private" or "public".
        group: its ID; None for the two words, and for a group that this machine is not in any more.
        members: who that is; none for "public".
    """

    to: str
    group: str | None
    members: tuple[Member, ...]


@dataclass(frozen=True)
class WiderRoot:
    """Something else on this machine that has blocks of it, and is for others as well.

    Attributes:
        uri: of it.
        label: what it is called.
        visibility: who may load it, and so these blocks.
    """

    uri: str
    label: str | None
    visibility: tuple[str, ...]


@dataclass(frozen=True)
class LoadedBy:
    """What somebody has loaded from here of something that is not for everybody.

    Attributes:
        peer: the ID of the machine.
        name: what a group calls it; empty where none does.
        uri: of what it loaded; None where that is not here any more, or blocks are in several things.
        label: what that is called here.
        bytes: how many, of blocks.
        first: when that began, in seconds since 1970.
        last: when the last of it went.
    """

    peer: str
    name: str
    uri: str | None
    label: str | None
    bytes: int
    first: float
    last: float


@dataclass(frozen=True)
class Access:
    """Who may load something from here, and why; and who did.

    Attributes:
        uri: of it, as it is to be given away.
        visibility: who may load it, as `to` of `store_file` takes it.
        sentence: the same in words.
        reasons: for each of these, who that is.
        wider: what else on this machine has blocks of it and is for others as well: they may load these blocks, too.
        loads: who loaded of it, the last first; of what is public, nothing is written down.
    """

    uri: str
    visibility: tuple[str, ...]
    sentence: str
    reasons: tuple[Reason, ...]
    wider: tuple[WiderRoot, ...]
    loads: Loads


@dataclass(frozen=True)
class Given:
    """What this machine gives to some.

    Attributes:
        to: to whom: a group's name, "private" or "public".
        group: its ID; None for the two words.
        role: of this machine in the group; None where it is not in it any more.
        members: how many machines that is, this one among them; None for "public".
        roots: how many files and folders are for them, by themselves.
        bytes: of these that are here. What is in two of them counts twice.
    """

    to: str
    group: str | None
    role: str | None
    members: int | None
    roots: int
    bytes: int


@dataclass(frozen=True)
class Audit:
    """What this machine gives to whom.

    Attributes:
        given: for everybody, for the user's own machines, and for each group.
        loads: who loaded what of what is not for everybody, the last first.
        days: how far back these go.
    """

    given: tuple[Given, ...]
    loads: Loads
    days: float


def access(uri: str) -> Access:
    """Who may load a file or folder from here, and why; and who did. Uses no network.

    Args:
        uri: of something on this machine; a part of a folder, too.

    Raises:
        ContentNotFound: it is not here.

    Example:
        >>> kcl.access(uri).visibility
        ('public',)
    """
    config = load_config()
    now = shown_now(config, parse_listed(uri))
    repo = repository(config)
    groups = groups_here(config)
    own = now.audience
    givers = [] if own.everyone else repo.access.why(now.cid)
    wider = tuple(
        WiderRoot(
            format_uri(str(root), label=(label := listed_label(repo, root) or None), groups=uri_groups(audience)),
            label,
            words_of(audience, groups),
        )
        for root, audience in givers
        if root.to_v1() != now.cid.to_v1() and not audience <= own
    )
    return Access(
        now.uri,
        words_of(own, groups),
        _in_words(config, own, now.wider),
        _reasons(config, own, groups),
        wider,
        () if own.everyone else _loads(config, groups, 0.0, [now.cid] if now.listed else [cid for cid, _ in givers]),
    )


def audit(*, since: float = 30.0) -> Audit:
    """What this machine gives to whom: what is public, what is for whom, and who loaded of it. Uses no network.

    Args:
        since: days; who loaded something in these. The log is bounded, and may not reach so far back.

    Raises:
        InvalidArgument: it is no number of days.

    Example:
        >>> kcl.audit().given[0].to
        'public'
    """
    if isinstance(since, bool) or not isinstance(since, (int, float)) or not 0 < since <= _MOST_DAYS:
        raise InvalidArgument(f"since is {shown(since)}; it must be a number of days, up to {_MOST_DAYS:,.0f}.")
    config = load_config()
    repo = repository(config)
    groups = groups_here(config)
    counts = _counts(repo)
    by_id = {group.id: group for group in groups}
    given = [Given("public", None, None, None, *counts.pop("public", (0, 0)))]
    mine = counts.pop(OWN, None)
    others = other_machines(config)
    if mine is not None or others:
        given.append(Given("private", None, None, 1 + len(others), *(mine or (0, 0))))
    rows: list[Given] = []
    for group in {**by_id, **dict.fromkeys(counts)}:
        known = by_id.get(group)
        (word,) = words_of(group_audience([group]), groups)
        role, members = (None, None) if known is None else (known.role, len(known.members))
        rows.append(Given(word, group, role, members, *counts.get(group, (0, 0))))
    given += sorted(rows, key=lambda row: (row.to.casefold(), row.group or ""))
    return Audit(tuple(given), _loads(config, groups, time.time() - since * _DAY, None), float(since))


def visible_now(config: Config) -> tuple[Visible | None, tuple[str, ...]]:
    """What `status` says of it: nothing where all is for everybody and there are no groups; and what is wrong."""
    from kachery_p2p.repo.catalog import CATALOG_NAME

    groups: tuple[GroupHere, ...] = ()
    counts: dict[str, tuple[int, int]] = {}
    restricted = 0
    problems: list[str] = []
    try:
        audience_for(config, None)
    except KacheryError as error:
        problems.append(str(error))
    try:
        groups = groups_here(config)
        if (config.directory / CATALOG_NAME).exists() and (repo := repository(config)).access.any_restricted():
            counts, restricted = _counts(repo), len(repo.access.roots())
    except KacheryError as error:  # the rest is to be said all the same
        problems.append(str(error))
    others = other_machines(config)
    if not (groups or restricted or others):
        return None, tuple(problems)
    facts = (
        GroupFacts(each.id, each.name, each.role, len(each.members), counts.get(each.id, (0, 0))[0]) for each in groups
    )
    return Visible(groups=tuple(facts), restricted=restricted, own_peers=others), tuple(problems)


# --- parts -----------------------------------------------------------------------------------------------------------


def _counts(repo: Repo) -> dict[str, tuple[int, int]]:
    """How many roots are for whom, and how many bytes of them are here; by the IDs of groups, and "public"."""
    restricted = repo.access.roots() if repo.access.any_restricted() else ()
    audiences = {bytes(cid.to_v1()): audience for cid, audience in restricted}
    found: dict[str, tuple[int, int]] = {}
    for root in repo.inventory.roots():
        audience = audiences.get(root.key, PUBLIC)
        for word in ("public",) if audience.everyone else audience.groups:
            roots, size = found.get(word, (0, 0))
            found[word] = roots + 1, size + root.here
    return found


def _in_words(config: Config, own: Audience, wider: str) -> str:
    """Who can load it: what comes first is what holds, whoever it was stored for."""
    if not wider:
        return sentence(config, own)
    return f"{wider} By itself it is for {whom(config, own)} alone."


def _reasons(config: Config, audience: Audience, groups: Sequence[GroupHere]) -> tuple[Reason, ...]:
    if audience.everyone:
        return (Reason("public", None, ()),)
    by_id = {group.id: group for group in groups}
    found: list[Reason] = []
    for group in sorted(audience.groups - {OWN}):
        (word,) = words_of(group_audience([group]), groups)
        members = by_id[group].members if group in by_id else ()
        found.append(Reason(word, group, tuple(Member(each.peer, each.name, each.role) for each in members)))
    found.sort(key=lambda reason: (reason.to.casefold(), reason.group or ""))
    if OWN in audience.groups:
        found.append(Reason("private", None, tuple(Member(peer, "", "own") for peer in other_machines(config))))
    return tuple(found)


def _loads(config: Config, groups: Sequence[GroupHere], since: float, roots: Iterable[CID] | None) -> Loads:
    """Who loaded what of what is not for everybody, the last first; only of some roots where these are given."""
    from kachery_p2p.access.log import read_entries

    wanted = None if roots is None else {cid.multihash for cid in roots}
    sums: dict[tuple[str, bytes], tuple[int, float, float]] = {}
    for entry in read_entries(config.directory, since):
        if entry.last >= since and (wanted is None or entry.root in wanted):
            size, first, last = sums.get((entry.peer, entry.root), (0, entry.first, entry.last))
            sums[entry.peer, entry.root] = size + entry.bytes, min(first, entry.first), max(last, entry.last)
    if not sums:
        return ()
    kept = {root.cid.multihash: item_of(root, {}) for root in repository(config).inventory.roots()}
    names = {member.peer: member.name for group in groups for member in group.members if member.name}
    found = [
        LoadedBy(
            peer,
            names.get(peer, ""),
            None if (item := kept.get(root)) is None else item.uri,
            None if item is None else item.label,
            size,
            first,
            last,
        )
        for (peer, root), (size, first, last) in sums.items()
    ]
    return tuple(sorted(found, key=lambda each: (-each.last, each.peer)))
