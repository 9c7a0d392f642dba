"""For the tests of a lab: the real one over HTTP on loopback, with a real node, and browsers and clients of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trio

from kachery_cloud.lab.accounts_store import Member
from kachery_cloud.lab.server import LabServer
from kachery_cloud.lab.signed_requests import sign
from kachery_cloud.settings.config import Config
from kachery_p2p.node.node import Node
from kachery_p2p.node.pin_server import PinKeeper
from kachery_p2p.node.served_log import LOG_NAME, ServedLog
from kachery_p2p.pinning.server.store import STORE_NAME, PinStore
from kachery_p2p.repo.keys import NodeKey, load_or_create_identity, new_identity
from kachery_p2p.repo.repo import Repo
from tests.helpers.openid import Browser
from tests.helpers.patience import PATIENCE
from tests.helpers.pin_server import FAST, LISTEN


class Wall:
    """The wall clock of a lab, which the test moves."""

    def __init__(self, now: float = 1_767_225_600.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class LabBrowser:
    """A browser that may be signed in."""

    http: httpx.AsyncClient
    csrf: str = ""

    async def get(self, path: str, **more: Any) -> httpx.Response:
        """Ask for something."""
        return await self.http.get(path, **more)

    async def call(self, method: str, path: str, value: Any = None, **headers: str) -> httpx.Response:
        """Change something, as our pages do it."""
        if not self.csrf:
            answer = await self.http.get("/api/v1/me")
            self.csrf = answer.json().get("csrf", "") if answer.status_code == 200 else ""
        told = {"x-csrf-token": self.csrf, "sec-fetch-site": "same-origin", **headers}
        return await self.http.request(method, path, json=value, headers=told)

    async def me(self) -> dict[str, Any]:
        """Who is signed in."""
        answer = await self.http.get("/api/v1/me")
        assert answer.status_code == 200, answer.text
        return answer.json()


@dataclass
class Person:
    """Somebody at a browser, who signs in at a real provider: it follows redirects, and fills in the forms there."""

    at_provider: Browser
    browser: LabBrowser

    async def go(self, path: str, user: str, *, allow: bool = True) -> str:
        """Begin to sign in: the address that the provider sends the browser back to."""
        begun = await self.browser.get(path)
        assert begun.status_code == 303, begun.text

        def sign_in() -> str:
            return self.at_provider.sign_in(begun.headers["location"], user, allow=allow)

        return await trio.to_thread.run_sync(sign_in)

    async def sign_in(self, path: str, user: str, *, allow: bool = True) -> httpx.Response:
        """Sign in: what the lab says when the browser is back."""
        return await self.browser.get(await self.go(path, user, allow=allow))


@dataclass
class LabClient:
    """A computer with a key, which may be registered."""

    http: httpx.AsyncClient
    key: NodeKey
    wall: Callable[[], float]
    token: str = ""

    async def signed(
        self, method: str, path: str, value: Any = None, *, now: float | None = None, nonce: str | None = None
    ) -> httpx.Response:
        """A request that is signed with the key."""
        body = b"" if value is None else json.dumps(value).encode()
        url = f"{self.http.base_url}".rstrip("/") + path
        moment = self.wall() if now is None else now
        headers = sign(self.key, method, url, body, now=moment, nonce=nonce)
        if body:
            headers["content-type"] = "application/json"
        return await self.http.request(method, url, content=body, headers=headers)

    async def by_token(self, method: str, path: str, value: Any = None) -> httpx.Response:
        """A request that bears the token."""
        return await self.http.request(method, path, json=value, headers={"authorization": f"Bearer {self.token}"})


@dataclass
class RunningLab:
    """A lab that runs."""

    server: LabServer
    node: Node
    store: PinStore
    wall: Wall
    stack: AsyncExitStack = field(repr=False)

    @property
    def url(self) -> str:
        """Where it is."""
        return self.server.url

    @property
    def accounts(self) -> Any:
        """Its members and clients."""
        return self.server.lab.accounts

    async def http(self) -> httpx.AsyncClient:
        """A client with cookies of its own, which follows no redirect."""
        client = httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=PATIENCE)
        return await self.stack.enter_async_context(client)

    async def member(self, name: str, **more: Any) -> Member:
        """A new member."""

        def add() -> Member:
            return self.server.lab.accounts.add_member(name, **more)

        return await trio.to_thread.run_sync(add)

    async def browser(self, member: Member | None = None) -> LabBrowser:
        """A browser, signed in by an invitation where a member is given."""
        browser = LabBrowser(await self.http())
        if member is not None:
            secret, _ = await trio.to_thread.run_sync(self.server.lab.invitations.make, member.id)
            answer = await browser.http.post(f"/invitation/{secret}")
            assert answer.status_code == 200, answer.text
            browser.csrf = (await browser.me())["csrf"]
        return browser

    async def person(self) -> Person:
        """Somebody at a browser."""
        at_provider = self.stack.enter_context(Browser())
        return Person(at_provider, await self.browser())

    async def client(self, key: NodeKey | None = None) -> LabClient:
        """A computer that is not registered yet."""
        return LabClient(await self.http(), key or new_identity(), self.wall)

    async def register(self, browser: LabBrowser, client: LabClient | None = None, label: str = "laptop") -> LabClient:
        """A computer that is registered by whoever is signed in."""
        client = client or await self.client()
        begun = await client.signed("POST", "/api/v1/registrations", {"label": label})
        assert begun.status_code == 201, begun.text
        id, secret = begun.json()["id"], begun.json()["secret"]
        done = await browser.call("POST", f"/api/v1/registrations/{id}/register")
        assert done.status_code == 200, done.text
        told = await client.http.get(f"/api/v1/registrations/{id}", headers={"authorization": f"Bearer {secret}"})
        assert told.json()["state"] == "registered", told.text
        client.token = told.json()["token"]
        return client


@contextlib.asynccontextmanager
async def running_lab(folder: Path, *, wall: Wall | None = None, **settings: Any) -> AsyncIterator[RunningLab]:
    """A lab that runs as long as this does.

    Args:
        folder: its data directory.
        wall: its wall clock.
        settings: fields of `Config`.
    """
    clock = wall or Wall()
    async with AsyncExitStack() as stack:
        repo = stack.enter_context(Repo.open(folder))
        store = PinStore(folder / STORE_NAME)
        stack.callback(store.close)
        served_log = ServedLog(folder / LOG_NAME, wall=clock)
        node = Node(repo, load_or_create_identity(folder), listen=[LISTEN], served_log=served_log)
        config = Config(**{"directory": folder, "lab": "127.0.0.1:0", "public": False, **settings})
        server = LabServer(config, node, store, PinKeeper(node), pace=FAST, wall=clock)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run)
                await nursery.start(server.run)
                yield RunningLab(server, node, store, clock, stack)
                nursery.cancel_scope.cancel()


def reason(answer: httpx.Response) -> tuple[int, str]:
    """Status and reason of a refusal."""
    return answer.status_code, answer.json()["error"]["reason"]


async def begun(client: LabClient, label: str = "laptop") -> dict[str, Any]:
    """A registration that a computer has begun."""
    answer = await client.signed("POST", "/api/v1/registrations", {"label": label})
    assert answer.status_code == 201, answer.text
    return answer.json()
