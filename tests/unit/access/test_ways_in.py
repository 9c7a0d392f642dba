"""Over real connections: who a peer is, is what its connection has proved, whatever lies between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from kachery_p2p.access.audience import PRIVATE, Audience
from kachery_p2p.access.gate import Gate
from kachery_p2p.access.log import AccessLog
from kachery_p2p.bitswap.exchange import Exchange
from kachery_p2p.dag.cid import CID
from kachery_p2p.node.discovery import Finding
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.repo import Repo
from kachery_p2p.routing.database import Database
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.relay.client import RelayClient
from kachery_p2p.transport.relay.service import RelayService
from tests.helpers.access_fakes import MICE, Members
from tests.helpers.bitswap_fakes import MemoryStore, cid_of
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import started, until

FOR_MICE = Audience(groups=frozenset({MICE}))


class Server:
    """A node over a repo with something public and something for the mice."""

    def __init__(self, host: Host, repo: Repo) -> None:
        self.host = host
        self.members = Members({})
        self.log = AccessLog(None, Gate(self.members, repo.access).belongings)
        self.exchange = Exchange(host, repo.own, gate=Gate(self.members, repo.access), served=self.log)
        self.public = repo.store_bytes(os.urandom(100_000)).cid
        self.secret = repo.store_bytes(os.urandom(100_000), audience=FOR_MICE).cid


class Peer:
    """Somebody who asks a server."""

    def __init__(self, host: Host, server: Server) -> None:
        self.host = host
        self.server = server
        self.exchange = Exchange(host, MemoryStore())

    async def gets(self) -> tuple[bool | None, ...]:
        """Whether it is told that the server has the public and the secret root; what is there, it gets, too."""
        found: list[bool | None] = []
        for cid in (self.server.public, self.server.secret):
            has = await self.exchange.ask(self.server.host.peer_id, cid)
            if has:
                async with self.exchange.new_session() as session:
                    session.add_provider(self.server.host.peer_id)
                    session.want([cid])
                    assert cid_of(bytes((await session.receive()).data)) == cid
            found.append(has)
        return tuple(found)


@pytest.mark.parametrize("swarm_key", [None, bytes(range(32))])
@pytest.mark.parametrize("relayed", [False, True])
async def test_members_and_others(tmp_path: Path, swarm_key: bytes | None, relayed: bool) -> None:
    """A member gets what is for its group, directly and through a relay that is none; others do not.

    Nor does the relay itself, a peer that only shares the swarm key, or one that reaches the server through a member.
    """
    with Repo.open(tmp_path) as repo, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            relay = await started(nursery, swarm_key=swarm_key)
            await nursery.start(RelayService(relay, is_friend=lambda peer: True).run)
            hidden = {"listen": ()} if relayed else {}
            server = Server(await started(nursery, swarm_key=swarm_key, **hidden), repo)
            await nursery.start(server.exchange.run)
            if relayed:
                client = RelayClient(server.host, [relay.addresses()[0]])
                await nursery.start(client.run)
                client.enabled = True
                await until(client.addresses)
                address = f"{client.addresses()[0]}/p2p/{server.host.peer_id}"
            else:
                address = server.host.addresses()[0]
                await relay.connect(address)
            hosts = [await started(nursery, swarm_key=swarm_key) for _ in range(2)]
            for host in hosts:
                await host.connect(address)
                assert any("/p2p-circuit" in each.addr for each in host.connections()) == relayed
            mouse, outsider, between = (Peer(host, server) for host in (*hosts, relay))
            for peer in (mouse, outsider, between):
                await nursery.start(peer.exchange.run)
            server.members.groups[mouse.host.peer_id] = frozenset({MICE})
            assert await mouse.gets() == (True, True)
            assert await outsider.gets() == (True, False)
            assert await between.gets() == (True, False)
            # The relay is taken in, and the outsider still comes through it.
            server.members.change({relay.peer_id: {MICE}})
            assert await mouse.gets() == (True, False)
            assert await outsider.gets() == (True, False)
            assert await between.gets() == (True, True)
            server.log.flush()
            rows = {(each.peer, each.root, each.audience, each.bytes, each.blocks) for each in server.log.entries()}
            assert rows == {
                (peer.host.peer_id, server.secret.multihash, str(FOR_MICE), 100_000, 1) for peer in (mouse, between)
            }
            nursery.cancel_scope.cancel()


def test_a_dht_server_names_us_for_what_is_public_alone(tmp_path: Path) -> None:
    """Who asks a DHT for providers passes the answer on; so members hear no more than others."""
    with Repo.open(tmp_path) as repo:
        public = repo.store_bytes(b"public" * 100).cid
        secret = repo.store_bytes(b"secret" * 100, audience=PRIVATE).cid
        host = Host(os.urandom(32), ())
        db = Database(None)
        try:
            gate = Gate(Members({}), repo.access)
            finding = Finding(host, repo, db, NodeOptions(provide="roots"), gate=gate)
            silent = Finding(host, repo, db, NodeOptions(provide="off"), gate=gate)

            def told(cid: CID) -> tuple[bool, bool]:
                return finding._provides(cid.multihash), silent._provides(cid.multihash)

            assert told(public) == (True, False)
            assert told(secret) == told(cid_of(b"not here")) == (False, False)
        finally:
            db.close()
