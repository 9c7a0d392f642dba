"""A lab over real HTTP: people come in, register their computers, and these use the pinning service."""

from __future__ import annotations

import time
from pathlib import Path

import trio

from tests.helpers.lab import Wall, running_lab
from tests.helpers.openid import OpenIDProvider, web_client


async def test_from_an_invitation_to_a_pin(tmp_path: Path) -> None:
    """Somebody who was invited signs in, registers a computer, and that pins with its token."""
    async with running_lab(tmp_path) as lab:
        alice = await lab.member("Alice", quota=1000)
        browser = await lab.browser(alice)
        me = await browser.me()
        assert (me["id"], me["name"], me["role"], me["quota"], me["used"]) == (alice.id, "Alice", "member", 1000, 0)
        client = await lab.register(browser, label="laptop")
        assert [(each["peer"], each["label"]) for each in (await browser.me())["clients"]] == [
            (client.key.peer_id, "laptop")
        ]
        answer = await client.by_token("GET", "/pins")
        assert (answer.status_code, answer.json()["count"]) == (200, 0)
        for answer in (await client.by_token("GET", "/api/v1/me"), await client.signed("GET", "/api/v1/me")):
            assert answer.status_code == 200, answer.text
            assert (answer.json()["id"], answer.json()["client"]) == (alice.id, client.key.peer_id)


async def test_signing_in_at_a_provider(tmp_path: Path) -> None:
    """Whoever the settings let in signs in at a real provider, and is the same member the next time."""
    with await trio.to_thread.run_sync(OpenIDProvider) as provider:
        wall = Wall(time.time())
        async with running_lab(
            tmp_path,
            wall=wall,
            lab_members=("ada@example.org",),
            openid_issuer=provider.issuer,
            openid_client_id="lab",
            openid_client_secret="lab-secret",
        ) as lab:
            await trio.to_thread.run_sync(provider.add_client, web_client(f"{lab.url}/sign-in/callback"))
            ids = set()
            for _ in range(2):
                person = await lab.person()
                landed = await person.sign_in("/sign-in?next=/files", "ada")
                assert (landed.status_code, landed.headers["location"]) == (303, "/files")
                me = await person.browser.me()
                assert (me["name"], me["email"], me["role"]) == ("Ada Lovelace", "ada@example.org", "member")
                ids.add(me["id"])
            assert len(ids) == 1
            refused = await (await lab.person()).sign_in("/sign-in", "grace")
            assert refused.status_code == 403
            assert "Ask those who run kachery-cloud-node" in refused.json()["error"]["details"]
