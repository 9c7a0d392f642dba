"""Whole nodes of one network on loopback, some of them in a group, and an outsider that serves the DHT of all."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import trio

from kachery_p2p.access.audience import PUBLIC, Audience
from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.membership.invitations import parse_invitation
from kachery_p2p.membership.lists import Role
from kachery_p2p.node.node import Node
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from kachery_p2p.routing.dht.dht import DHT
from tests.helpers.patience import PATIENCE, until
from tests.helpers.transport_helpers import LOOPBACK


def lan_dht(node: Node) -> DHT:
    """The DHT of the local network that a node takes part in."""
    assert node.finding.lan_dht is not None
    return node.finding.lan_dht


class Lab:
    """Nodes of one network, each with the outsider as its way in."""

    def __init__(self, folder: Path, nursery: trio.Nursery, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._nursery = nursery
        self._stack = stack
        self.group = ""

    async def node(self, name: str, **options: Any) -> Node:
        repo = self._stack.enter_context(Repo.open(self.folder / name))
        options = {"lan_dht": True, "known_peers": True, "provide": "roots", **options}
        node = Node(repo, load_or_create_identity(self.folder / name), listen=LOOPBACK, options=NodeOptions(**options))
        await self._nursery.start(node.run)
        return node

    async def met(self, *nodes: Node) -> None:
        """Wait until these know each other."""
        first = nodes[0]
        for other in nodes[1:]:
            await other.connect(first.host.addresses()[0])
        for node in nodes:
            for other in nodes:
                if node is not other:
                    await node.connect(other.host.addresses()[0])
        await until(lambda: all(len(lan_dht(node).peers()) == len(nodes) - 1 for node in nodes))

    async def join(self, owner: Node, *others: Node) -> str:
        """Make a group of these; its ID."""
        group = owner.groups.create("hippocampus").group
        for other in others:
            invitation = owner.groups.invite(group, Role.READER, owner.host.addresses())
            await other.membership.join(parse_invitation(str(invitation)), "", PATIENCE)
        everybody = {owner.host.peer_id, *(other.host.peer_id for other in others)}
        await until(
            lambda: all(
                set(node.groups.members_of(group)) == everybody - {node.host.peer_id} for node in (owner, *others)
            )
        )
        return group


class Three:
    """The members alice and bob, and the outsider."""

    def __init__(self, alice: Node, bob: Node, outsider: Node, group: str) -> None:
        self.alice, self.bob, self.outsider, self.group = alice, bob, outsider, group


async def stored(node: Node, data: bytes, audience: Audience = PUBLIC) -> CID:
    """Store some bytes, and let the node know, as the functions for users do it."""
    done = await trio.to_thread.run_sync(lambda: node.repo.store_bytes(data, audience=audience))
    await node.notify_stored([done.cid])
    return done.cid


def blocks_of(node: Node) -> set[bytes]:
    """The multihashes of all that is here."""
    return set(node.repo.all_multihashes())


def audiences(node: Node, multihashes: set[bytes]) -> set[str]:
    """For whom some blocks are."""
    found = node.repo.access.audiences(multihashes)
    return {str(found.get(multihash, PUBLIC)) for multihash in multihashes}


def assert_unheard(heard: bytearray, multihashes: set[bytes]) -> None:
    """No multihash is in a record, in whatever form a protocol may write one."""
    record = bytes(heard)
    assert record, "something was said to it"
    for multihash in multihashes:
        for form in (multihash[2:], str(CID(1, RAW, multihash)).encode(), multihash.hex().encode()):
            assert form not in record
