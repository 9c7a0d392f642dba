"""What all checks are given."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.doctor.reading import ReadSettings, read_all
from kachery_cloud.node.control_client import ControlClient
from kachery_cloud.node.endpoint import ControlEndpoint, node_elsewhere, silent_holder
from kachery_cloud.node.messages import Nothing
from kachery_cloud.node.status_messages import STATUS
from kachery_p2p.errors import KacheryError, NodeError
from kachery_p2p.repo.locks import NodeLock

if TYPE_CHECKING:
    from kachery_cloud.node.status_messages import RunningNode
    from kachery_cloud.settings.config import Config

#: Seconds for a node to say how it is.
_STATUS_SECONDS = 10.0


@dataclass(frozen=True)
class FoundNode:
    """The node of the data directory.

    Attributes:
        running: what it says of itself; None where it says nothing, or there is none.
        problem: why it cannot be asked, though there is one: a sentence; empty where there is none, or it answers.
        elsewhere: whether it runs on another machine.
    """

    running: RunningNode | None = None
    problem: str = ""
    elsewhere: bool = False


@dataclass(frozen=True)
class Options:
    """What is said on the command line beside the settings: as for `kachery-cloud-node`."""

    listen: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    gateway: str | None = None


@dataclass(frozen=True)
class Facts:
    """What all checks are given.

    Attributes:
        settings: as far as they can be read, and what cannot.
        node: the one that runs, if one does.
        options: of the command line.
        environ: environment variables.
        wall: seconds since 1970.
        monotonic: seconds of a clock that nobody sets.
    """

    settings: ReadSettings
    node: FoundNode = field(default_factory=FoundNode)
    options: Options = field(default_factory=Options)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    @property
    def config(self) -> Config:
        """The settings; the default in place of what cannot be read."""
        return self.settings.config

    @property
    def directory(self) -> Path:
        """The data directory, which may be missing."""
        return self.config.directory

    @property
    def in_private_network(self) -> bool:
        """Whether there is a swarm key, good or not."""
        return os.path.lexists(self.directory / "swarm.key")

    @property
    def listen(self) -> Sequence[str]:
        """Multiaddrs that a node would listen on."""
        return self.options.listen or self.config.listen


def gather(environ: Mapping[str, str] | None = None, options: Options | None = None) -> Facts:
    """Find out what all checks need. Blocks for a few seconds where a node does not answer. Changes nothing."""
    environ = dict(os.environ if environ is None else environ)
    settings = read_all(environ)
    return Facts(settings, look_for_node(settings.config.directory), options or Options(), environ)


def look_for_node(directory: Path) -> FoundNode:
    """The node of a data directory, as its lock and its socket tell. Makes nothing."""
    try:
        if not NodeLock(directory).is_held():
            return FoundNode()
        elsewhere = node_elsewhere(directory)
        if elsewhere is not None:
            return FoundNode(problem=str(elsewhere), elsewhere=True)
    except KacheryError as error:  # the lock cannot be looked at
        return FoundNode(problem=str(error))
    try:
        client = ControlClient(ControlEndpoint.read(directory), on_gone=lambda client: None)
        try:
            return FoundNode(client.start(STATUS, Nothing())[1].result(_STATUS_SECONDS))
        finally:
            client.close()
    except (NodeError, concurrent.futures.TimeoutError):
        return FoundNode(problem=silent_holder(directory))
