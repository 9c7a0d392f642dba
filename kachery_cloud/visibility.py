"""For whom something is that is stored here: what `to` says, the sentence about it, and how to change it later.

Everybody, the members of some groups, or the user's own machines. A name that people type is that of a group; what the
catalog and URIs have is its ID, which nobody else can take.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kachery_cloud.arguments import text_list
from kachery_cloud.errors import ConfigError, ContentNotFound, InvalidArgument, KacheryError, NoPermission
from kachery_cloud.local import BlockNotLocal, repository, resolve_local
from kachery_cloud.settings.config import load_config
from kachery_cloud.terminal import tell
from kachery_cloud.uri import ContentURI, format_uri, parse_uri
from kachery_p2p.access.audience import GROUP_ID, OWN, PRIVATE, PUBLIC, Audience, group_audience
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

#: For whom something is: the name or ID of a group, "private", "public", or several of these.
To: TypeAlias = str | Sequence[str]

#: Groups for which one thing can be at once: their IDs stand in its URI.
MAX_GROUPS = 16
#: Names of groups that an error lists.
_MOST_NAMED = 10
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
    """The groups that this machine is in."""
    raise NotImplementedError


# --- from words to an audience ---------------------------------------------------------------------------------------


def audience_for(config: Config, to: To | None) -> Audience | None:
    """For whom something is to be stored.

    Args:
        config: the settings, which say it where `to` does not.
        to: what a call says.

    Returns:
        None where nobody said anything: what is new is then public, and what is known stays as it was.

    Raises:
        InvalidArgument, ConfigError: there is no such group; or what is public is to be for somebody else as well.
        NoPermission: this machine may only read in that group.
    """
    if to is not None:
        return _audience(config, text_list(to, "to"), None)
    return _audience(config, config.to, "to") if config.to else None


def chosen(config: Config, to: To) -> Audience:
    """What a list is to show: what is for any of these. A group need not be one that this machine is in.

    Raises:
        InvalidArgument: there is no such group.
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


def _audience(config: Config, words: Sequence[str], setting: str | None) -> Audience:
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
        InvalidArgument, ConfigError: there is none, or there are several.
        NoPermission: this machine may only read.
    """
    found = _named(config, word, origin, error)
    if found.role == "reader":
        raise NoPermission(
            f"This machine is a reader of {shown(found.name)}: it may load what is there, and store nothing for it. "
            "An owner of the group can invite it anew as a writer: kachery-cloud group invite --role writer"
        )
    return found


def _named(config: Config, word: str, origin: str, error: type[KacheryError]) -> GroupHere:
    """The group that is meant.

    Raises:
        InvalidArgument, ConfigError: there is none, or there are several.
    """
    here = groups_here(config)
    found = [group for group in here if group.id == word] or [group for group in here if group.name == word]
    if not found:
        raise error(_no_group(word, origin, here))
    if len(found) > 1:
        ids = " or ".join(group.id for group in found)
        raise error(f"{origin}: there are {len(found)} groups called {shown(word)} here. Say which by its ID: {ids}.")
    return found[0]


def _no_group(word: str, origin: str, here: Sequence[GroupHere]) -> str:
    names = [group.name for group in here]
    if not names:
        return (
            f"{origin} says {shown(word)}, and this machine is in no group. To make one: kachery-cloud group create "
            "NAME; to enter one: kachery-cloud group join INVITATION. Without a group there are 'private' and 'public'."
        )
    near = difflib.get_close_matches(word, [*names, "private", "public"], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    listed = ", ".join(sorted(names)[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED:,} more (kachery-cloud group list)" if len(names) > _MOST_NAMED else ""
    return f"{origin} says {shown(word)}, and there is no such group here.{hint} There are: {listed}{more}."


# --- from an audience to words ---------------------------------------------------------------------------------------


def uri_groups(audience: Audience) -> tuple[str, ...]:
    """The IDs of groups that stand in the URI of what is for them; none for what is public, or private."""
    return tuple(sorted(audience.groups - {OWN}))


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
        f"{here[each].name} ({len(here[each].members):,})" if each in here else each for each in uri_groups(audience)
    ]
    parts = [f"members of {_joined(sorted(named))}"] if named else []
    if OWN in audience.groups:
        parts.append("your own machines")
    return " and ".join(parts) or "nobody else"


def sentence(config: Config, audience: Audience) -> str:
    """Who can load what is for these: said where it is stored."""
    if audience.everyone:
        return "Anybody can load this."
    text = f"Only {whom(config, audience)} can load this."
    if audience == PRIVATE and not config.own_peers:
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
        wider = public_already(repo, cid, own)
        if wider:
            return wider
    return sentence_once(config, own)


def sentence_once(config: Config, audience: Audience) -> str:
    """Who can load what is for some; empty where it is for everybody, or that was said in this process."""
    if audience.everyone or (config.directory, audience) in _said:
        return ""
    _said.add((config.directory, audience))
    return sentence(config, audience)


def public_already(repo: Repo, cid: CID, own: Audience) -> str:
    """A sentence where everybody can load something although it was stored for somebody: empty where that is not so."""
    if own.everyone:
        return "This is public already: it was stored so before. To change that: kachery-cloud visibility URI --to NAME"
    for root, audience in repo.access.why(cid):
        if audience.everyone and root.to_v1() != cid.to_v1():
            return f"This is public already: {named_root(repo, root)} has it."
    return ""


def named_root(repo: Repo, cid: CID) -> str:
    """Something on this machine, as people know it."""
    from kachery_cloud.local import listed_label

    label = listed_label(repo, cid)
    return ContentURI(str(cid), label=label or None).pasteable


# --- later -----------------------------------------------------------------------------------------------------------


def set_visibility(uri: str, to: To) -> str:
    """Say anew who may load something that was stored, linked or loaded here.

    It holds from now on, for the node that runs, too. What others have loaded before stays theirs.

    Args:
        uri: of what `list` shows: a whole file or folder. What is in a folder is for those for whom the folder is.
        to: the name or ID of a group, or several; "private" for your own machines; "public" for everybody.

    Returns:
        The URI to give away from now on: that of something for groups says so.

    Raises:
        ContentNotFound: it is not here, or not listed by itself.
        InvalidArgument: there is no such group.
        NoPermission: it is from a group of which this machine is a reader, and would be for others as well.

    Example:
        >>> kcl.set_visibility(uri, "private")
        'ipfs://bafybeih...'
    """
    config = load_config()
    changed = change(config, parse_uri(uri), to)
    if changed.narrowed:
        tell(NARROWED)
    if changed.wider:
        tell(changed.wider)
    return changed.uri


@dataclass(frozen=True)
class Shown:
    """For whom something is now.

    Attributes:
        uri: to give away.
        cid: of it.
        listed: whether it is listed by itself, and not only a part of something.
        audience: for whom it is.
        wider: a sentence where more people can load it, because something else has it.
    """

    uri: str
    cid: CID
    listed: bool
    audience: Audience
    wider: str


def shown_now(config: Config, uri: ContentURI) -> Shown:
    """For whom something on this machine is; a part of a folder, too.

    Raises:
        ContentNotFound: it is not here.
    """
    repo = repository(config)
    try:
        cid = resolve_local(repo, uri)
    except BlockNotLocal:
        cid = None
    listed = cid is not None and repo.inventory.get(cid) is not None
    if cid is None or not (listed or repo.has_block(cid.multihash) is not None):
        raise ContentNotFound(f"{uri.locator} is not on this machine. What is here: kachery-cloud list")
    audience = audience_here(repo, cid)
    given = str(replace(uri, providers=(), groups=uri_groups(audience)))
    return Shown(given, cid, listed, audience, "" if audience.everyone else public_already(repo, cid, audience))


#: What narrowing cannot do.
NARROWED = (
    "What others have loaded of it stays theirs, and they may pass it on. From now on it is announced, and given from "
    "here, only as it says now."
)


@dataclass(frozen=True)
class Changed:
    """What `change` did.

    Attributes:
        uri: to give away from now on.
        before: for whom it was.
        after: for whom it is.
        told: whether a node runs here, which knows it now.
        wider: a sentence where more people can load it all the same, because something else has it.
    """

    uri: str
    before: Audience
    after: Audience
    told: bool
    wider: str = ""

    @property
    def narrowed(self) -> bool:
        """Whether somebody could load it before who may not now."""
        return not self.before <= self.after


def change(config: Config, uri: ContentURI, to: To) -> Changed:
    """As `set_visibility`."""
    from kachery_cloud.inventory_removal import writable
    from kachery_cloud.node.connection import tell_running_node

    repo = writable(config)
    cid = listed_root(repo, uri)
    after = _audience(config, text_list(to, "to"), None)
    before = audience_here(repo, cid)
    check_widening(config, before, after)
    if before != after:
        repo.access.set_audience(cid, after)
    told = tell_running_node(config, cid)
    given = str(ContentURI(str(cid), label=uri.label, groups=uri_groups(after), encryption=uri.encryption))
    wider = "" if after.everyone else public_already(repo, cid, after)
    return Changed(given, before, after, told, wider)


def listed_root(repo: Repo, uri: ContentURI) -> CID:
    """What a URI leads to, if it is listed by itself.

    Raises:
        ContentNotFound: it is not here, or only as a part of something else.
    """
    try:
        cid = resolve_local(repo, uri)
    except BlockNotLocal:
        cid = None
    if cid is None or repo.inventory.get(cid) is None:
        if cid is not None and uri.path:
            raise ContentNotFound(
                f"{uri.locator} is a part of a folder, and for whom that is. Say it of the whole folder: "
                f"{format_uri(uri.cid)}"
            )
        raise ContentNotFound(
            f"{uri.locator} is not on this machine, or not listed by itself. What is here: kachery-cloud list"
        )
    return cid


def check_widening(config: Config, before: Audience, after: Audience) -> None:
    """See that what was loaded from a group stays there, where this machine may only read in it.

    Raises:
        NoPermission: others would get it from here.
    """
    if after <= before:
        return
    for group in groups_here(config) if not before.everyone else ():
        if group.id in before.groups and group.role == "reader":
            raise NoPermission(
                f"This is from {shown(group.name)}, of which this machine is a reader: what is loaded from a group "
                "stays in it. A writer or an owner can give it to others."
            )
