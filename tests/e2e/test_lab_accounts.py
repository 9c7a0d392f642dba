"""A lab over real HTTP: people come in, register their computers, and these use the pinning service."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.lab import running_lab


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
