"""For the tests of the pinning service: the real one over HTTP on loopback, with a real node behind it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trio

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.node.node import Node
from kachery_p2p.node.pin_server import PinKeeper
from kachery_p2p.pinning.server.limits import DEFAULT_UPLOAD, QueuePace
from kachery_p2p.pinning.server.service import PinServer
from kachery_p2p.pinning.server.store import STORE_NAME, PinStore
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from tests.helpers.patience import PATIENCE

LISTEN = "/ip4/127.0.0.1/tcp/0"
#: What nobody is asked for in vain takes no time; what nobody has is waited for as long as a test lasts.
FAST = QueuePace(first=0.01, factor=1.0, tries=2, silence=PATIENCE, full=0.05, look=0.05, progress=0.01)
#: The same, where what nobody has is given up.
HASTY = QueuePace(first=0.01, factor=1.0, tries=2, silence=0.2, full=0.05, look=0.05, progress=0.01)
#: A block that is nowhere.
NOWHERE = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


def nowhere(number: int) -> str:
    """The CID of a block that nobody has."""
    return str(CID(1, RAW, b"\x12\x20" + hashlib.sha256(f"nowhere {number}".encode()).digest()))


@dataclass
class Served:
    """A pinning service that runs: its parts, and a client for each token."""

    server: PinServer
    node: Node
    store: PinStore
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict[str, httpx.AsyncClient])
    anybody: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)

    async def post(self, cid: str, who: str = "alice", **more: Any) -> httpx.Response:
        """Ask for a pin."""
        return await self.clients[who].post("/pins", json={"cid": cid, **more})

    async def pin(self, cid: str, who: str = "alice", **more: Any) -> str:
        """Ask for a pin, which is taken; its request ID."""
        answer = await self.post(cid, who, **more)
        assert answer.status_code == 202, answer.text
        return answer.json()["requestid"]

    async def become(self, request_id: str, *statuses: str, who: str = "alice") -> dict[str, Any]:
        """Wait until a pin is in one of some states; what the service says of it then."""
        while True:
            seen = self.server.queue.changes.count
            answer = await self.clients[who].get(f"/pins/{request_id}")
            assert answer.status_code == 200, answer.text
            if answer.json()["status"] in statuses:
                return answer.json()
            with trio.move_on_after(0.1):
                await self.server.queue.changes.wait(seen)

    async def listed(self, who: str = "alice", **query: Any) -> list[str]:
        """The request IDs of a list."""
        answer = await self.clients[who].get("/pins", params=query)
        assert answer.status_code == 200, answer.text
        return [each["requestid"] for each in answer.json()["results"]]


@contextlib.asynccontextmanager
async def pinning(
    folder: Path,
    quotas: Mapping[str, int | None] | None = None,
    *,
    tokens: Mapping[str, str] | None = None,
    most_bytes: int = DEFAULT_UPLOAD,
    pace: QueuePace = FAST,
    **more: Any,
) -> AsyncIterator[Served]:
    """A pinning service that runs as long as this does.

    Args:
        folder: its data directory.
        quotas: who may pin, and how much; by default alice and bob, whatever they like.
        tokens: those of an earlier service in that folder, which makes no new ones.
        most_bytes: that one pin may take.
        pace: of its queue.
        more: further arguments of `PinServer`.
    """
    async with AsyncExitStack() as stack:
        repo = stack.enter_context(Repo.open(folder))
        store = PinStore(folder / STORE_NAME)
        stack.callback(store.close)
        known = dict(tokens or {})
        if tokens is None:
            for name, quota in ({"alice": None, "bob": None} if quotas is None else quotas).items():
                made = await trio.to_thread.run_sync(store.add_token, name, quota)
                assert made is not None
                known[name] = made[0]
        node = Node(repo, load_or_create_identity(folder), listen=[LISTEN])
        server = PinServer(store, PinKeeper(node), "127.0.0.1:0", most_bytes=most_bytes, pace=pace, **more)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run)
                await nursery.start(server.run)
                served = Served(server, node, store)
                for name, token in known.items():
                    headers = {"authorization": f"Bearer {token}"}
                    client = httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE, headers=headers)
                    served.clients[name] = await stack.enter_async_context(client)
                anybody = httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE)
                served.anybody = await stack.enter_async_context(anybody)
                yield served
                nursery.cancel_scope.cancel()


@dataclass
class Origin:
    """A node that has what others pin."""

    node: Node

    @property
    def addr(self) -> str:
        """Where it is."""
        return self.node.host.addresses()[0]

    async def store(self, data: bytes) -> str:
        """The CID of some bytes, which it has from now on."""
        return str((await trio.to_thread.run_sync(self.node.repo.store_bytes, data)).cid)

    async def store_directory(self, folder: Path) -> str:
        """The same of a folder."""
        return str((await trio.to_thread.run_sync(self.node.repo.store_directory, folder)).cid)


@contextlib.asynccontextmanager
async def origin(folder: Path) -> AsyncIterator[Origin]:
    """A node that runs as long as this does."""
    with Repo.open(folder) as repo:
        node = Node(repo, load_or_create_identity(folder), listen=[LISTEN])
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            yield Origin(node)
            nursery.cancel_scope.cancel()
