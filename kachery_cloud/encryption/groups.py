"""The secrets of the groups of a data directory, read from its files: a program that stores or loads has no node."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.errors import KacheryError

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.membership.store import GroupStore, Stamps

log = logging.getLogger("kachery_cloud.encryption")


@dataclass(frozen=True)
class Secrets:
    """`GroupSecrets`: those of groups that this machine is or was in.

    Attributes:
        known: by the ID of the group, today's first. One that this machine was removed from keeps those it had.
        today: the groups that it is in, and whose secret of today it has.
    """

    known: Mapping[str, tuple[bytes, ...]] = field(repr=False)
    today: frozenset[str] = frozenset()

    def secrets_of(self, group: str) -> tuple[bytes, ...]:
        """See `GroupSecrets`."""
        return self.known.get(group, ())


_NONE = Secrets({})
#: Those of a data directory, and what tells whether its files were changed since.
_read: dict[Path, tuple[Stamps, Secrets]] = {}


def group_secrets(config: Config) -> Secrets:
    """The secrets of the groups of a data directory."""
    if not (config.directory / "groups").is_dir():
        return _NONE
    from kachery_p2p.membership.store import GroupStore

    store = GroupStore(config.directory)
    stamps = store.stamps()
    found = _read.get(config.directory)
    if found is None or found[0] != stamps:
        found = _read[config.directory] = stamps, _look(config.directory, store)
    return found[1]


def _look(directory: Path, store: GroupStore) -> Secrets:
    from kachery_p2p.membership.held import parse_group
    from kachery_p2p.repo.keys import kept_identity

    identity = kept_identity(directory)
    known: dict[str, tuple[bytes, ...]] = {}
    today: set[str] = set()
    if identity is None:
        return _NONE
    for group in store.names():
        try:
            kept = store.read(group)
            held = None if kept is None else parse_group(group, kept, identity.peer_id)
        except KacheryError as error:
            log.warning("a group cannot be used: %s", error)
            continue
        if held is not None:
            known[group] = held.ordered_secrets()
            if held.has_today and not held.removed:
                today.add(group)
    return Secrets(known, frozenset(today))
