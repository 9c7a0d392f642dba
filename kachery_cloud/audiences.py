"""For whom something is that is stored here: what `to` says, and the sentences about it.

Everybody, the members of some groups, or the user's own machines. A name that people type is that of a group; what the
catalog and URIs have is its ID, which nobody else can take.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kachery_cloud.arguments import text_list
from kachery_cloud.errors import ConfigError, GroupError, GroupNotFound, InvalidArgument, KacheryError, NoPermission
from kachery_cloud.local import listed_label, repository
from kachery_cloud.uri import ContentURI, format_uri
from kachery_cloud.uri_said import MAX_GROUPS
from kachery_p2p.access.audience import GROUP_ID, OWN, PRIVATE, PUBLIC, Audience, group_audience
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.lab_places import Place
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.membership.held import HeldGroup
    from kachery_p2p.repo.repo import Repo

#: For whom something is: the name or ID of a group, "private", "public", or several of these.
To: TypeAlias = str | Sequence[str]

#: Names of groups that an error lists.
_MOST_NAMED = 10
#: Groups as they were shown last, by ID.
_groups: dict[str, tuple[HeldGroup, GroupHere]] = {}
#: What was said already in this process: of which data directory, and for whom.
_said: set[tuple[Path, Audience]] = set()


@dataclass(frozen=True)
class MemberHere:
    """A member of a group: its peer ID, what the group calls it (perhaps nothing), and its role in one word."""

    peer: str
    name: str
    role: str


@dataclass(frozen=True)
class GroupHere:
    """A group that this machine is in.

    Attributes:
        id: of it.
        name: what it is called here.
        role: of this machine: "owner", "writer" or "reader".
        members: all of them, this machine among them.
    """

    id: str
    name: str
    role: str
    members: tuple[MemberHere, ...]


def groups_here(config: Config) -> tuple[GroupHere, ...]:
    """The groups that this machine is in, by name."""
    if not (config.directory / "groups").is_dir():
        return ()
    from kachery_p2p.membership import groups_of_directory

    held = groups_of_directory(config.directory).held()
    return tuple(_group_here(each) for each in held if not each.removed)


def _group_here(held: HeldGroup) -> GroupHere:
    """A group in words; made once of each state of it, for there may be thousands of members."""
    known = _groups.get(held.group)
    if known is None or known[0] is not held:
        view = held.state.view
        members = sorted(view.members.values(), key=lambda each: each.peer)
        shown = tuple(MemberHere(each.peer, each.label, each.role.word) for each in members)
        known = _groups[held.group] = held, GroupHere(held.group, held.name, view.role_of(held.me).word, shown)
    return known[1]


def other_machines(config: Config) -> tuple[str, ...]:
    """The peer IDs of the user's other machines. The setting may have this one, too, so that it is the same on all."""
    if not config.own_peers:
        return ()
    from kachery_p2p.repo.keys import kept_identity

    identity = kept_identity(config.directory)
    return tuple(peer for peer in config.own_peers if identity is None or peer != identity.peer_id)


# --- from words to an audience ---------------------------------------------------------------------------------------


def audience_for(config: Config, to: To | None) -> Audience | None:
    """For whom something is to be stored.

    Args:
        config: the settings, which say it where `to` does not.
        to: what a call says.

    Returns:
        None where nobody said anything: what is new is then public, and what is known stays as it was.

    Raises:
        GroupNotFound: there is no such group; or ConfigError, where the settings name it.
        InvalidArgument: what is public is to be for somebody else as well.
        NoPermission: this machine may only read in that group.
    """
    if to is not None:
        return audience_of_words(config, text_list(to, "to"))
    return audience_of_words(config, config.to, "to") if config.to else None


def audience_in(config: Config, to: To | None, place: Place | None) -> Audience | None:
    """The same, where it may go into a project.

    Args:
        config: the settings.
        to: what a call says.
        place: where it goes; None for no project.

    Raises:
        InvalidArgument: the project is for its members alone, and `to` says something else.
        GroupNotFound: this machine is not in the group of the project.
    """
    if place is None or place.group is None:
        return audience_for(config, to)
    project = place.project.name
    if place.group not in [each.id for each in groups_here(config)]:
        raise GroupNotFound(
            f"The project {project} is for its members alone, and this machine is not in the group of their machines. "
            f"Let it in: kachery-cloud-projects join {project}"
        )
    found = audience_of_words(config, [place.group])
    if to is not None and audience_of_words(config, text_list(to, "to")) != found:
        raise InvalidArgument(
            f"The project {project} is for its members alone, and `to` says something else. Leave one of them out."
        )
    return found


def chosen(config: Config, to: To) -> Audience:
    """What a list is to show: what is for any of these. A group need not be one that this machine is in.

    Raises:
        GroupNotFound: there is no such group.
    """
    found = Audience()
    for word in text_list(to, "to"):
        if word in ("public", "private"):
            found |= PUBLIC if word == "public" else PRIVATE
        elif GROUP_ID.fullmatch(word):
            found |= group_audience([word])
        else:
            found |= group_audience([_named(config, word, "to", InvalidArgument).id])
    return found


def audience_of_words(config: Config, words: Sequence[str], setting: str | None = None) -> Audience:
    """The audience that some words name.

    Args:
        config: of the data directory whose groups are meant.
        words: names or IDs of groups, "private", "public".
        setting: of where they come from; None for a call.
    """
    origin, error = ("to", InvalidArgument) if setting is None else _said_by(config, setting)
    found = PUBLIC if "public" in words else Audience()
    if not words or (found.everyone and len(set(words)) > 1):
        why = "what is public is for everybody, so nothing can stand beside it" if words else "it names nobody"
        raise error(
            f"{origin} is {shown(list(words))}: {why}. It takes names of groups, or 'private' for your own machines, "
            "or 'public'."
        )
    for word in words:
        if word == "private":
            found |= PRIVATE
        elif word != "public":
            found |= group_audience([_group(config, word, origin, error).id])
    if len(found.groups) > MAX_GROUPS:
        raise error(f"{origin} names {len(found.groups)} groups; one thing can be for {MAX_GROUPS} at most.")
    return found


def _said_by(config: Config, setting: str) -> tuple[str, type[KacheryError]]:
    from kachery_cloud.settings.config import SETTINGS, read_settings

    named = SETTINGS[setting]
    _, origins = read_settings()
    where = origins.get(setting, named.variable)
    return (where if where == named.variable else f"{setting!r} in {where}"), ConfigError


def _group(config: Config, word: str, origin: str, error: type[KacheryError]) -> GroupHere:
    """The group that is meant, if this machine may store for its members.

    Raises:
        GroupNotFound, GroupError, ConfigError: there is none, or there are several.
        NoPermission: this machine may only read.
    """
    found = _named(config, word, origin, error)
    if found.role == "reader":
        raise NoPermission(
            f"This machine is a reader of {shown(found.name)}: it may load what is there, and store nothing for it. "
            f"An owner of the group can change that: kachery-cloud-group role {found.name} MEMBER writer"
        )
    return found


def _named(config: Config, word: str, origin: str, error: type[KacheryError]) -> GroupHere:
    """The group that is meant.

    Raises:
        GroupNotFound, GroupError, ConfigError: there is none, or there are several.
    """
    here = groups_here(config)
    found = [group for group in here if group.id == word] or [group for group in here if group.name == word]
    if not found:
        raise (GroupNotFound if error is InvalidArgument else error)(_no_group(word, origin, here))
    if len(found) > 1:
        ids = " or ".join(group.id for group in found)
        raise (GroupError if error is InvalidArgument else error)(
            f"There are {len(found)} groups called {shown(word)} here ({origin}). Say which by its ID: {ids}."
        )
    return found[0]


def _no_group(word: str, origin: str, here: Sequence[GroupHere]) -> str:
    names = [group.name for group in here]
    where = "" if origin == "to" else f" ({origin})"
    if not names:
        return (
            f"There is no group {shown(word)}{where} here: this machine is in none. To make one: kachery-cloud-group "
            "create NAME; to enter one: kachery-cloud-group join INVITATION. Without a group there are 'private' and "
            "'public'."
        )
    import difflib

    near = difflib.get_close_matches(word, [*names, "private", "public"], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    listed = ", ".join(sorted(names)[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED:,} more (kachery-cloud-group list)" if len(names) > _MOST_NAMED else ""
    return f"There is no group {shown(word)}{where} here.{hint} There are: {listed}{more}."


# --- from an audience to words ---------------------------------------------------------------------------------------


def uri_groups(audience: Audience) -> tuple[str, ...]:
    """The groups that stand in the URI of what is for them: their IDs, and `OWN` for one's own machines.

    None for what is public. Whoever has such a URI learns that much. Without it, whoever loads by it would have to ask
    everybody, and so tell them the CID.
    """
    return tuple(sorted(audience.groups))


def words_here(config: Config, audience: Audience) -> tuple[str, ...]:
    """As `words_of`, with the groups of this machine."""
    return words_of(audience, () if audience.everyone else groups_here(config))


def words_of(audience: Audience, groups: Iterable[GroupHere]) -> tuple[str, ...]:
    """An audience as `to` takes it: names of groups, or their IDs where a name alone does not say which is meant."""
    if audience.everyone:
        return ("public",)
    names: dict[str, list[str]] = {}
    for group in groups:
        names.setdefault(group.name, []).append(group.id)
    by_id = {ids[0]: name for name, ids in names.items() if len(ids) == 1}
    words = sorted(by_id.get(group, group) for group in audience.groups if group != OWN)
    return tuple([*words, "private"] if OWN in audience.groups else words)


def whom(config: Config, audience: Audience, groups: Collection[GroupHere] | None = None) -> str:
    """An audience in a sentence: "everybody", "members of hippocampus (4)", "your own machines", "nobody else"."""
    if audience.everyone:
        return "everybody"
    here = {group.id: group for group in (groups_here(config) if groups is None else groups)}
    named = [
        f"{here[each].name} ({len(here[each].members):,})" if each in here else each for each in audience.groups - {OWN}
    ]
    parts = [f"members of {_joined(sorted(named))}"] if named else []
    if OWN in audience.groups:
        parts.append("your own machines")
    return " and ".join(parts) or "nobody else"


def sentence(config: Config, audience: Audience) -> str:
    """Who can load what is for these: said where it is stored."""
    if audience.everyone:
        return "Anybody can load this."
    if not audience.groups:
        return "Nobody else can load this."
    text = f"Only {whom(config, audience)} can load this."
    if audience == PRIVATE and not other_machines(config):
        text += (
            " No other machine is one of yours so far, so nobody else can: name them in KACHERY_CLOUD_OWN_PEERS, by "
            "their peer IDs."
        )
    return text


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


# --- said when something is stored -----------------------------------------------------------------------------------


def stored_uri(repo: Repo, cid: CID, label: str | None, encryption: str | None = None) -> str:
    """The URI of something that was stored, with the groups whose members may load it."""
    groups = uri_groups(audience_here(repo, cid))
    return format_uri(str(cid), label=label, groups=groups, encryption=encryption)


def audience_of_uri(config: Config, uri: ContentURI) -> Audience:
    """For whom the root of a URI is, as far as this machine knows."""
    return audience_here(repository(config), uri.root) if config.directory.is_dir() else PUBLIC


def audience_here(repo: Repo, cid: CID) -> Audience:
    """For whom a root is; of a part of something, for whom that is. Costs nothing where all is public."""
    if not repo.access.any_restricted():
        return PUBLIC
    own = repo.access.audience_of(cid)
    return repo.access.audiences([cid.multihash]).get(cid.multihash, PUBLIC) if own.everyone else own


def news(config: Config, cid: CID, wanted: Audience | None) -> str:
    """What is to be known of something that was stored for somebody; empty where that was said in this process.

    Args:
        config: the settings.
        cid: of it.
        wanted: for whom it was meant to be; None where nobody said that.
    """
    repo = repository(config)
    own = audience_here(repo, cid)
    if wanted is not None and not wanted.everyone:
        wider = wider_already(config, cid, own)
        if wider:
            return wider
    return sentence_once(config, own)


def sentence_once(config: Config, audience: Audience) -> str:
    """Who can load what is for some; empty where it is for everybody, or that was said in this process."""
    if audience.everyone or (config.directory, audience) in _said:
        return ""
    _said.add((config.directory, audience))
    return sentence(config, audience)


def wider_already(config: Config, cid: CID, own: Audience) -> str:
    """A sentence where more people can load something than it was stored for; empty where that is not so.

    Args:
        config: the settings.
        cid: of it.
        own: for whom it is by itself.
    """
    if own.everyone:
        return "This is public already: it was stored so before. To change that: kachery-cloud visibility URI --to NAME"
    repo = repository(config)
    if not repo.access.is_wider(cid, own):
        return ""
    whole = repo.access.audiences([cid.multihash]).get(cid.multihash, PUBLIC)
    this = "This" if not whole <= own else "A part of this"
    # Looking through all that is here takes long, and is done only where there is something to be found.
    found = [(root, audience) for root, audience in repo.access.why(cid) if not audience <= own]
    found.sort(key=lambda each: not each[1].everyone)
    if found:
        root, audience = found[0]
        if audience.everyone:
            return f"{this} is public already: {named_root(repo, root)} has it."
        return f"{this} is for {whom(config, audience)} as well: {named_root(repo, root)} has it."
    return f"{this} is public already: it is here from something that was public."


def named_root(repo: Repo, cid: CID) -> str:
    """Something on this machine, as people know it."""
    label = listed_label(repo, cid)
    return ContentURI(str(cid), label=label or None, groups=uri_groups(audience_here(repo, cid))).pasteable
