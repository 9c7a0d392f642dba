"""Signing in at a lab through a real OpenID provider, and what goes wrong with that, or is made to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import trio

from kachery_cloud.lab import limits
from kachery_cloud.ownership.archive import public_keys
from kachery_cloud.ownership.proofs import make_proof, new_nonce
from kachery_cloud.ownership.verifying import Issuer, verify
from tests.conftest import StartOpenID
from tests.helpers.lab import RunningLab, Wall, reason, running_lab
from tests.helpers.openid import OpenIDProvider, web_client


@pytest.fixture
def provider(start_openid: StartOpenID) -> OpenIDProvider:
    """A provider."""
    return start_openid()


@contextlib.asynccontextmanager
async def lab_at(provider: OpenIDProvider, folder: Path, *members: str) -> AsyncIterator[RunningLab]:
    """A lab whose members sign in at a provider; without others named, all of example.org are let in."""
    told: dict[str, Any] = {
        "openid_issuer": provider.issuer,
        "openid_client_id": "lab",
        "openid_client_secret": "lab-secret",
        "lab_members": members or ("@example.org",),
    }
    async with running_lab(folder, wall=Wall(time.time()), **told) as lab:
        await trio.to_thread.run_sync(provider.add_client, web_client(f"{lab.url}/sign-in/callback"))
        yield lab


async def test_answers_that_are_for_another_browser(tmp_path: Path, provider: OpenIDProvider) -> None:
    """Whoever is made to follow somebody else's answer is not signed in as him; nor twice; nor with a wrong state."""
    async with lab_at(provider, tmp_path) as lab:
        ada = await lab.person()
        back = await ada.go("/sign-in", "ada")
        victim = await lab.browser()
        assert reason(await victim.get(back)) == (400, "BAD_REQUEST")
        began = await lab.person()
        assert (await began.browser.get("/sign-in")).status_code == 303
        assert reason(await began.browser.get(back)) == (400, "BAD_REQUEST")
        parts = urlsplit(back)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        wrong = parts._replace(query=urlencode({**query, "state": "x"})).geturl()
        assert reason(await ada.browser.get(wrong)) == (400, "BAD_REQUEST")
        mixed = parts._replace(query=urlencode({**query, "iss": "https://evil.example"})).geturl()
        assert reason(await ada.browser.get(mixed)) == (502, "PROVIDER_FAILED")
        code = parts._replace(query=urlencode({**query, "code": "x"})).geturl()
        assert reason(await ada.browser.get(code)) == (502, "PROVIDER_FAILED")
        cookie = dict(ada.browser.http.cookies)
        assert (await ada.browser.get(back)).status_code == 303
        assert (await ada.browser.me())["email"] == "ada@example.org"
        again = await lab.http()
        again.cookies.update({name: value for name, value in cookie.items() if name == "kachery-sign-in"})
        assert reason(await again.get(back)) == (502, "PROVIDER_FAILED")  # a code is good once


async def test_an_answer_that_comes_too_late(tmp_path: Path, provider: OpenIDProvider) -> None:
    """After ten minutes one begins anew."""
    async with lab_at(provider, tmp_path) as lab:
        ada = await lab.person()
        back = await ada.go("/sign-in", "ada")
        lab.wall.now += limits.SIGN_IN_SECONDS
        assert reason(await ada.browser.get(back)) == (400, "BAD_REQUEST")


async def test_who_says_no(tmp_path: Path, provider: OpenIDProvider) -> None:
    """Nobody is signed in who did not want to be."""
    async with lab_at(provider, tmp_path) as lab:
        ada = await lab.person()
        answer = await ada.sign_in("/sign-in", "ada", allow=False)
        assert reason(answer) == (403, "FORBIDDEN")
        assert (await ada.browser.get("/api/v1/me")).status_code == 401


async def test_keys_of_the_provider(tmp_path: Path, provider: OpenIDProvider) -> None:
    """Keys that change are found; tokens by a stranger, or of a wrong time, are not believed."""
    async with lab_at(provider, tmp_path) as lab:
        do = trio.to_thread.run_sync
        assert (await (await lab.person()).sign_in("/sign-in", "ada")).status_code == 303
        await do(provider.sign_as_stranger)
        answer = await (await lab.person()).sign_in("/sign-in", "ada")
        assert reason(answer) == (502, "PROVIDER_FAILED")
        await do(provider.sign_as_stranger, False)
        published = lab.server.lab.provider
        assert published is not None
        await do(provider.rotate)
        # At most once a minute newer keys are looked for.
        assert (await (await lab.person()).sign_in("/sign-in", "ada")).status_code == 502
        assert published._keys is not None
        published._keys = (published._keys[0] - 61, published._keys[1])
        assert (await (await lab.person()).sign_in("/sign-in", "ada")).status_code == 303
        for offset in (4000, -4000):
            lab.wall.now = time.time() + offset
            answer = await (await lab.person()).sign_in("/sign-in", "ada")
            assert reason(answer) == (502, "PROVIDER_FAILED"), offset
        lab.wall.now = time.time()
        person = await lab.person()
        back = await person.go("/sign-in", "ada")
        await do(provider.go_down)
        assert reason(await person.browser.get(back)) == (502, "PROVIDER_FAILED")


async def test_a_provider_that_cannot_be_reached(tmp_path: Path) -> None:
    """It is said, to browsers on a page; the lab goes on."""
    settings: dict[str, Any] = {"openid_issuer": "http://127.0.0.1:9", "openid_client_id": "lab"}
    async with running_lab(tmp_path, **settings) as lab:
        http = await lab.http()
        assert reason(await http.get("/sign-in")) == (502, "PROVIDER_FAILED")
        page = await http.get("/sign-in", headers={"accept": "text/html"})
        assert page.status_code == 502
        assert "could not be asked" in page.text
        assert (await http.get("/api/v1")).json()["sign_in"] == "openid"


@pytest.mark.parametrize(
    "next_", ["//evil.example", "https://evil.example/", "/\\evil.example", "\t//evil.example", "x"]
)
async def test_ways_that_lead_elsewhere(tmp_path: Path, provider: OpenIDProvider, next_: str) -> None:
    """Whoever signs in by a link of somebody else stays here."""
    async with lab_at(provider, tmp_path) as lab:
        answer = await (await lab.person()).sign_in(f"/sign-in?{urlencode({'next': next_})}", "ada")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_who_may_sign_in(tmp_path: Path, provider: OpenIDProvider) -> None:
    """Those of the settings, those who were named, those with an invitation; with a verified address alone."""
    async with lab_at(provider, tmp_path, "ada@example.org") as lab:
        do = trio.to_thread.run_sync
        admin = await do(lab.accounts.make_administrator, "grace@example.org")
        for user in (
            {"sub": "eve", "name": "Eve", "email": "ada@example.org", "email_verified": False},
            {"sub": "mal", "name": "Mal", "email": "grace@example.org", "email_verified": False},
            {"sub": "bob", "name": "Bob", "email": "bob@elsewhere.example"},
        ):
            await do(provider.add_user, user)
            answer = await (await lab.person()).sign_in("/sign-in", user["sub"])
            assert reason(answer) == (403, "FORBIDDEN")
            assert "Ask grace for an invitation" in answer.json()["error"]["details"]
        grace = await lab.person()
        assert (await grace.sign_in("/sign-in", "grace")).status_code == 303
        me = await grace.browser.me()
        assert (me["id"], me["role"]) == (admin.id, "administrator")
        # From now on she is known by what the provider calls her: the address of another account counts for nothing.
        await do(provider.add_user, {"sub": "thief", "name": "Thief", "email": "grace@example.org"})
        assert (await (await lab.person()).sign_in("/sign-in", "thief")).status_code == 403
        invited = await grace.browser.call("POST", "/api/v1/members", {"name": "Bobby"})
        path = urlsplit(invited.json()["invitation"]).path
        bob = await lab.person()
        assert (await bob.browser.http.post(path)).json() == {"next": "/sign-in"}
        assert (await bob.sign_in("/sign-in", "bob")).status_code == 303
        me = await bob.browser.me()
        assert (me["name"], me["email"]) == ("Bobby", "bob@elsewhere.example")
        assert (await (await lab.http()).get(path)).status_code == 404
        assert (await (await lab.person()).sign_in("/sign-in", "bob")).status_code == 303


async def test_an_invitation_that_is_for_somebody_else(tmp_path: Path, provider: OpenIDProvider) -> None:
    """Who is a member already uses none up, and becomes nobody else; one member has one account."""
    async with lab_at(provider, tmp_path) as lab:
        do = trio.to_thread.run_sync
        assert (await (await lab.person()).sign_in("/sign-in", "ada")).status_code == 303
        member = await lab.member("Bob", role="administrator")
        secret, _made = await do(lab.server.lab.invitations.make, member.id)
        ada = await lab.person()
        await ada.browser.http.post(f"/invitation/{secret}")
        assert reason(await ada.sign_in("/sign-in", "ada")) == (409, "OTHER_MEMBER")
        grace = await lab.person()
        await grace.browser.http.post(f"/invitation/{secret}")
        assert (await grace.sign_in("/sign-in", "grace")).status_code == 303
        assert (await grace.browser.me())["id"] == member.id


async def test_who_was_removed_stays_out(tmp_path: Path, provider: OpenIDProvider) -> None:
    """Also where a rule lets his whole domain in; until he is invited again."""
    async with lab_at(provider, tmp_path) as lab:
        do = trio.to_thread.run_sync
        ada = await lab.person()
        await ada.sign_in("/sign-in", "ada")
        id = (await ada.browser.me())["id"]
        await do(lab.accounts.remove_member, id)  # as the command does it, in another process
        assert (await ada.browser.get("/api/v1/me")).status_code == 401
        assert reason(await (await lab.person()).sign_in("/sign-in", "ada")) == (403, "FORBIDDEN")
        await lab.member("Ada", email="ada@example.org")
        assert (await ada.browser.get("/api/v1/me")).status_code == 401  # her old session stays over
        again = await lab.person()
        assert (await again.sign_in("/sign-in", "ada")).status_code == 303
        assert (await again.browser.me())["id"] == id


async def test_a_sign_in_proves_who_owns_a_computer(tmp_path: Path, provider: OpenIDProvider) -> None:
    """The ID token's nonce commits to the key of the computer, which makes a proof of it that others can check."""
    async with lab_at(provider, tmp_path) as lab:
        client = await lab.client()
        claims, nonce = new_nonce(client.key, b"r" * 32)
        begun = await client.signed("POST", "/api/v1/registrations", {"label": "rig", "nonce": nonce})
        assert begun.status_code == 201, begun.text
        page = urlsplit(begun.json()["url"]).path
        bearer = {"authorization": f"Bearer {begun.json()['secret']}"}
        path = f"/api/v1/registrations/{begun.json()['id']}"
        mallory = await lab.person()
        await mallory.sign_in(f"/sign-in?next={page}", "grace")
        ada = await lab.person()
        assert (await ada.sign_in(f"/sign-in?next={page}", "ada")).headers["location"] == page
        # Before she has pressed the button nothing is given out.
        assert (await client.http.get(path, headers=bearer)).json()["proof"] is None
        assert (await ada.browser.call("POST", f"{path}/register")).status_code == 200
        told = (await client.http.get(path, headers=bearer)).json()
        assert told["owner"] == {"name": "Ada Lovelace", "email": "ada@example.org"}
        given = told["proof"]
        proof = make_proof(client.key, claims, given["id_token"], now=lab.wall())
        issuers = {given["issuer"]: Issuer(public_keys(given["keys"]), frozenset([given["client_id"]]))}
        owner = verify(proof, client.key.peer_id, issuers, lab.wall())
        assert (owner.issuer, owner.subject, owner.email) == (provider.issuer, "ada", "ada@example.org")


async def test_no_proof_of_somebody_elses_sign_in(tmp_path: Path, provider: OpenIDProvider) -> None:
    """Where somebody else signed in for a computer last, whoever registers it gives no proof of that."""
    async with lab_at(provider, tmp_path) as lab:
        client = await lab.client()
        _, nonce = new_nonce(client.key, b"r" * 32)
        begun = (await client.signed("POST", "/api/v1/registrations", {"label": "rig", "nonce": nonce})).json()
        page, path = urlsplit(begun["url"]).path, f"/api/v1/registrations/{begun['id']}"
        ada, grace = await lab.person(), await lab.person()
        await ada.sign_in(f"/sign-in?next={page}", "ada")
        await grace.sign_in(f"/sign-in?next={page}", "grace")
        assert (await ada.browser.call("POST", f"{path}/register")).status_code == 200
        told = await client.http.get(path, headers={"authorization": f"Bearer {begun['secret']}"})
        assert told.json()["proof"] is None
        for wrong in ("", "x" * 42, "x" * 44, "é" * 43, 5):
            answer = await client.signed("POST", "/api/v1/registrations", {"label": "rig", "nonce": wrong})
            assert reason(answer) == (400, "BAD_REQUEST")
