"""Machines that are in groups, on loopback, and lists of members to make and to forge."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from kachery_p2p.membership.groups import Groups
from kachery_p2p.membership.held import HeldGroup
from kachery_p2p.membership.invitations import parse_invitation
from kachery_p2p.membership.lists import Role
from kachery_p2p.membership.service import GroupService
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.host import Host
from tests.helpers.patience import until
from tests.helpers.transport_helpers import LOOPBACK


class Machine:
    """A host with groups, and what speaks for them.

    Args:
        folder: its data directory.
        seed: of its key.
        wall: its clock.
    """

    def __init__(self, folder: Path, *, seed: bytes | None = None, wall: Callable[[], float] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.seed = seed or os.urandom(32)
        self.host = Host(self.seed, LOOPBACK)
        self.groups = Groups(folder, self.host.keys, wall=wall or time.time)
        self.service = GroupService(self.host, self.groups, self.dial)
        self.dialled: list[str] = []

    @property
    def peer(self) -> str:
        return self.host.peer_id

    @property
    def keys(self) -> Keys:
        return self.host.keys

    async def dial(self, peer: str, addresses: Sequence[str], timeout: float) -> str:
        self.dialled.append(peer)
        return await self.host.connect(peer, addresses, timeout=timeout)

    async def start(self, nursery: trio.Nursery) -> Machine:
        await nursery.start(self.host.run)
        await nursery.start(self.service.run)
        return self

    def invite(self, group: str, role: Role = Role.READER, seconds: float = 3600.0) -> str:
        return str(self.groups.invite(group, role, self.host.addresses(), seconds))

    async def join(self, invitation: str, label: str = "") -> HeldGroup:
        return await self.service.join(parse_invitation(invitation), label, 20.0)

    def roles(self, group: str) -> dict[str, Role]:
        """Who is in the group as this machine sees it; nobody where it is not in it any more."""
        held = self.groups.get(group)
        if held is None or held.removed:
            return {}
        return {peer: entry.role for peer, entry in held.state.view.members.items()}

    async def sees(self, group: str, *members: Machine) -> None:
        """Wait until these are the members, and their connections count as such."""
        wanted = {each.peer for each in members}
        await until(lambda: self.roles(group).keys() == wanted)
        assert self.groups.members_of(group) == wanted - {self.peer}


def new_keys() -> Keys:
    """Of some machine."""
    return Keys.from_seed(os.urandom(32))
