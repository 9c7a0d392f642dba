"""Saying anew who may load something that is here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kachery_cloud.arguments import text_list
from kachery_cloud.audiences import (
    To,
    audience_here,
    audience_of_words,
    groups_here,
    uri_groups,
    wider_already,
)
from kachery_cloud.errors import ContentNotFound, NoPermission
from kachery_cloud.inventory_removal import writable
from kachery_cloud.local import BlockNotLocal, repository, resolve_local
from kachery_cloud.settings.config import load_config
from kachery_cloud.terminal import tell
from kachery_cloud.uri import ContentURI, format_uri, parse_listed, parse_uri
from kachery_p2p.access.audience import Audience
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

#: What narrowing cannot do.
NARROWED = (
    "What others have loaded of it stays theirs, and they may pass it on. From now on it is announced, and given from "
    "here, only as it says now."
)


def set_visibility(uri: str, to: To) -> str:
    """Say anew who may load something that was stored, linked or loaded here.

    It holds from now on, for the node that runs, too. What others have loaded before stays theirs.

    Args:
        uri: of what `list` shows: a whole file or folder. What is in a folder is for those for whom the folder is.
        to: the name or ID of a group, or several; "private" for your own machines; "public" for everybody.

    Returns:
        The URI to give away from now on: that of something for groups says so.

    Raises:
        ContentNotFound: it is not here, or not all of it, or not listed by itself.
        GroupNotFound: there is no such group.
        NoPermission: it is from a group of which this machine is a reader, and would be for others as well.

    Example:
        >>> kcl.set_visibility(uri, "private")
        'ipfs://bafybeih...'
    """
    config = load_config()
    changed = change(config, parse_listed(uri), to)
    for warning in changed.warnings:
        tell(warning)
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
    return Shown(given, cid, listed, audience, "" if audience.everyone else wider_already(config, cid, audience))


@dataclass(frozen=True)
class Changed:
    """What `change` did.

    Attributes:
        uri: to give away from now on.
        before: for whom it was.
        after: for whom it is.
        told: whether a node runs here, which knows it now.
        wider: a sentence where more people can load it all the same, because something else has it.
        named: a sentence where a name that was published tells everybody its CID.
    """

    uri: str
    before: Audience
    after: Audience
    told: bool
    wider: str = ""
    named: str = ""

    @property
    def warnings(self) -> list[str]:
        """What is to be said of it beside for whom it is."""
        return [text for text in (NARROWED if self.narrowed else "", self.wider, self.named) if text]

    @property
    def narrowed(self) -> bool:
        """Whether somebody could load it before who may not now."""
        return not self.before <= self.after


def change(config: Config, uri: ContentURI, to: To) -> Changed:
    """As `set_visibility`."""
    from kachery_cloud.node.connection import tell_access

    repo = writable(config)
    cid = listed_root(repo, uri)
    after = audience_of_words(config, text_list(to, "to"))
    before = audience_here(repo, cid)
    check_widening(config, before, after)
    if before != after:
        repo.access.set_audience(cid, after)
    told = tell_access(config)
    given = str(ContentURI(str(cid), label=uri.label, groups=uri_groups(after), encryption=uri.encryption))
    wider = "" if after.everyone else wider_already(config, cid, after)
    return Changed(given, before, after, told, wider, "" if after.everyone else _named_publicly(cid))


def _named_publicly(cid: CID) -> str:
    """A sentence where names of this machine point to a root."""
    from kachery_cloud.publishing import published

    names = [each.uri for each in published() if parse_uri(each.target).root.to_v1() == cid.to_v1()]
    if not names:
        return ""
    return (
        f"{' and '.join(names)} points to it, and has told everybody its CID. That is not said again from here, and "
        "what was said is forgotten by others within two days. To let the name point to something else at once: "
        "kachery-cloud publish"
    )


def listed_root(repo: Repo, uri: ContentURI) -> CID:
    """What a URI leads to, if it is listed by itself.

    Raises:
        ContentNotFound: it is not here, or only as a part of something else, or only a part of it.
    """
    try:
        cid = resolve_local(repo, uri)
    except BlockNotLocal:
        cid = None
    root = None if cid is None else repo.inventory.get(cid)
    if cid is None or root is None:
        if cid is not None and uri.path:
            raise ContentNotFound(
                f"{uri.locator} is a part of a folder, and for whom that is. Say it of the whole folder: "
                f"{format_uri(uri.cid)}"
            )
        raise ContentNotFound(
            f"{uri.locator} is not on this machine, or not listed by itself. What is here: kachery-cloud list"
        )
    if root.how == 0:
        # Said of what is here, it would not hold for what comes later.
        raise ContentNotFound(
            f"Only a part of {uri.locator} is here, and it stays for whom it is where it comes from. Load all of it "
            f"first, then say for whom it is: kachery-cloud-load {uri.pasteable}"
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
