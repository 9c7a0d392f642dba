"""Asking a lab's node that this machine is registered with, and where something goes that is stored into a project."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kachery_cloud.errors import (
    ConfigError,
    InvalidArgument,
    KacheryError,
    NoPermission,
    ProjectNotFound,
    SignInError,
)
from kachery_cloud.lab_places import VISIBILITIES, Place, Project, ProjectMember
from kachery_p2p.text import printable, shortened, shown

if TYPE_CHECKING:
    from kachery_cloud.ownership.labs import Lab
    from kachery_cloud.settings.config import Config

#: In the data directory: the projects that were seen last, by the URL of the node, for when it cannot be asked.
CACHE_NAME = "projects.json"
#: Seconds for which a project is not asked about again.
FRESH = 60.0
#: Bytes of the file, and of projects of one node in it.
_MOST_BYTES = 4 << 20

#: What was asked lately: by directory, URL and name.
_fresh: dict[tuple[Path, str, str], tuple[float, Project]] = {}


# --- the lab's node --------------------------------------------------------------------------------------------------


class LabClient:
    """Asks a lab's node that this machine is registered with.

    Args:
        config: the settings.
        node: its URL; None for the only one.

    Attributes:
        url: of the node.
        lab: what this machine knows of it.

    Raises:
        SignInError: this machine is registered with none.
        ConfigError: with several, and nobody said which is meant.
    """

    def __init__(self, config: Config, node: str | None = None) -> None:
        self.url, self.lab = _chosen(config, node)
        self._config = config

    def ask(self, method: str, path: str, value: Any = None) -> dict[str, Any]:
        """A request; its answer.

        Raises:
            SignInError: the node does not answer, or refuses.
        """
        from kachery_cloud.ownership.lab_api import LabAPI, Refused
        from kachery_p2p.repo.keys import load_or_create_identity

        try:
            return LabAPI(self.url, load_or_create_identity(self._config.directory)).signed(method, path, value)
        except Refused as refusal:
            if refusal.reason in ("NOT_REGISTERED", "UNAUTHORIZED", "INVALID_TOKEN"):
                raise SignInError(
                    f"{self.url} does not know this machine any more. Register it: kachery-cloud-init --node {self.url}"
                ) from None
            raise

    def items(self, path: str) -> list[dict[str, Any]]:
        """All entries of a list, page by page."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            joint = "&" if "?" in path else "?"
            answer = self.ask("GET", f"{path}{joint}after={quote(after, safe='')}" if after else path)
            items = answer.get("items")
            if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
                raise self._nonsense()
            found += items
            if not isinstance(answer.get("next"), str) or not items:
                return found
            after = answer["next"]

    def person(self, text: str) -> str:
        """The ID of a member of the lab."""
        for each in self.items("/people"):
            if text in (each.get("id"), each.get("name"), each.get("email")):
                return str(each["id"])
        raise InvalidArgument(f"The lab has no member {shown(text)}.")

    def read(self, value: Mapping[str, Any]) -> Project:
        """A project as the node has it.

        Raises:
            SignInError: it is none.
        """
        try:
            members = tuple(
                ProjectMember(_line(each["id"]), _line(each["name"]), _line(each["role"])) for each in value["members"]
            )
            visibility, group = value["visibility"], value["group"]
            if visibility not in VISIBILITIES or not (group is None or isinstance(group, str)):
                raise ValueError("it makes no sense")
            return Project(
                id=_line(value["id"]),
                name=_line(value["name"]),
                description=printable(str(value["description"]), keep="\n")[:10_000],
                visibility=visibility,
                role=None if value["role"] is None else _line(value["role"]),
                group=group,
                members=members,
                bytes=int(value["bytes"]),
                files=int(value["files"]),
                node=self.url,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._nonsense() from None

    def _nonsense(self) -> SignInError:
        return SignInError(f"{self.url} does not answer as a lab's node does. It may be of another version.")


def _line(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it is no text")
    return shortened(printable(value), 300)


def checked_text(value: Any, name: str) -> str:
    """A value that must be text, and such as can be sent.

    Raises:
        InvalidArgument: it is none.
    """
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidArgument(f"{name} is {shown(value)}; it must be text.")
    return value


def named_path(text: str) -> str:
    """A name or an ID as a part of a path.

    Raises:
        InvalidArgument: it is none.
    """
    if not checked_text(text, "The name of a project").strip():
        raise InvalidArgument("An empty text names no project.")
    return quote(text, safe="")


def registered_labs(config: Config) -> dict[str, Lab]:
    """The labs' nodes that this machine is registered with, by URL."""
    from kachery_cloud.ownership.labs import known_labs

    return {url: lab for url, lab in known_labs(config.directory).items() if lab.state == "registered"}


def _chosen(config: Config, node: str | None) -> tuple[str, Lab]:
    from kachery_cloud.ownership.lab_api import node_url

    known = registered_labs(config)
    if node is not None:
        if not isinstance(node, str):
            raise InvalidArgument(f"node is {shown(node)}; it must be the URL of a lab's node.")
        url = node_url(node)
        if url not in known:
            raise SignInError(
                f"This machine is not registered with {url}. Register it: kachery-cloud-init --node {url}"
            )
        return url, known[url]
    if not known:
        raise SignInError(
            "This machine is registered with no lab's node. Register it with yours: kachery-cloud-init --node URL"
        )
    if len(known) > 1:
        raise ConfigError(f"Which lab's node is meant? Say it with --node (node=...): {' or '.join(sorted(known))}")
    return next(iter(known.items()))


# --- storing into one ------------------------------------------------------------------------------------------------


def place_for(config: Config, project: str | None, *, local: bool = False) -> Place | None:
    """Where something goes that is stored.

    Args:
        config: the settings, which say it where `project` does not.
        project: the name or ID of a project; empty for none.
        local: ask nobody.

    Raises:
        SignInError: this machine is registered with no lab's node, or there is no such project.
        NoPermission: you may not store into it.
    """
    text = checked_text(config.project if project is None else project, "project").strip()
    if not text:
        return None
    lab, found = _where(config, text, local)
    if found.role not in ("writer", "administrator"):
        raise NoPermission(
            f"You may not store into the project {found.name}: "
            + ("you only read there." if found.role else "you are not in it.")
            + " Its administrators can change that: kachery-cloud-projects add"
        )
    if not lab.lab.service:
        raise SignInError(f"{lab.url} is no pinning service here. Register again: kachery-cloud-init --node {lab.url}")
    return Place(found, lab.lab.service, lab.lab.peer_id)


def _where(config: Config, text: str, local: bool) -> tuple[LabClient, Project]:
    """The lab that has a project, of those that this machine is registered with, and that project."""
    urls = registered_labs(config)
    if len(urls) < 2:
        lab = LabClient(config)
        return lab, _known(config, lab, text, local)
    found: list[tuple[LabClient, Project]] = []
    failure: KacheryError | None = None
    for url in urls:
        lab = LabClient(config, url)
        try:
            found.append((lab, _known(config, lab, text, local)))
        except (SignInError, ProjectNotFound) as error:
            failure = error
    if len(found) > 1:
        places = " or ".join(f"{project.id} ({lab.url})" for lab, project in found)
        raise ConfigError(f"Several labs have a project {shown(text)}. Say which by its ID: {places}")
    if not found:
        assert failure is not None, "there is a lab, and it does not have it"
        raise failure
    return found[0]


def _known(config: Config, lab: LabClient, text: str, local: bool) -> Project:
    """A project, asked for now, or as it was when it was seen last."""
    from kachery_cloud.ownership.lab_api import Refused, Unreachable

    key = config.directory, lab.url, text
    at, found = _fresh.get(key, (0.0, None))
    if found is not None and time.monotonic() - at < FRESH:
        return found
    cached = next((each for each in _cached(config, lab) if text in (each.id, each.name)), None)
    if not local:
        try:
            found = lab.read(lab.ask("GET", f"/projects/{named_path(text)}"))
        except Refused as refusal:
            if refusal.status == 404:
                raise ProjectNotFound(
                    f"{lab.url} has no project {shown(text)} that you may see. To see those that there are: "
                    "kachery-cloud-projects list; to make one: kachery-cloud-projects create NAME"
                ) from None
            raise
        except Unreachable:
            if cached is None:
                raise
        else:
            keep_known(config, lab.url, [found])
            _fresh[key] = time.monotonic(), found
            return found
    if cached is None:
        raise SignInError(
            f"Nothing is known here of a project {shown(text)}, and the lab's node was not to be asked. Ask it once: "
            "kachery-cloud-projects list"
        )
    return cached


def forget_asked() -> None:
    """Projects have changed: ask again."""
    _fresh.clear()


def known_projects(config: Config) -> list[Project]:
    """The projects that were seen last, of all labs that this machine is registered with. Asks nobody."""
    return [project for url in registered_labs(config) for project in _cached(config, LabClient(config, url))]


def _cached(config: Config, lab: LabClient) -> list[Project]:
    from kachery_p2p.json_reader import InvalidJSON, read_json
    from kachery_p2p.ownfiles import read_own_file

    try:
        stored = read_json(read_own_file(config.directory / CACHE_NAME, _MOST_BYTES))
        return [lab.read(each) for each in stored[lab.url].values()]
    except (OSError, InvalidJSON, KacheryError, KeyError, TypeError, AttributeError):
        return []  # what is not known is asked for


def keep_known(config: Config, url: str, found: Sequence[Project]) -> None:
    """Remember projects for when the node cannot be asked; members' names are not among that."""
    from kachery_p2p.json_reader import InvalidJSON, read_json
    from kachery_p2p.ownfiles import read_own_file
    from kachery_p2p.repo.wholefile import write_whole

    path = config.directory / CACHE_NAME
    try:
        stored = read_json(read_own_file(path, _MOST_BYTES))
        stored = stored if isinstance(stored, dict) else {}
    except (OSError, InvalidJSON, KacheryError):
        stored = {}
    of_node = stored.get(url)
    known = dict(of_node) if isinstance(of_node, dict) else {}
    for project in found:
        known[project.id] = {
            "id": project.id,
            "name": project.name,
            "description": "",
            "visibility": project.visibility,
            "role": project.role,
            "group": project.group,
            "members": [],
            "bytes": 0,
            "files": 0,
        }
    if known != of_node:
        try:
            write_whole(path, json.dumps({**stored, url: known}).encode(), secret=True)
        except (OSError, KacheryError):
            return  # a directory that can only be read; it is asked again
