"""Pages of other origins: what is public is theirs to read; the token, and so what is not public, is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.access.audience import PRIVATE
from kachery_p2p.access.gate import Gate
from kachery_p2p.repo.repo import Repo
from tests.helpers.access_fakes import Members
from tests.helpers.gateway_served import gateway

TOKEN = "t" * 43
BEARER = f"Bearer {TOKEN}"
LAB, STRANGER = "https://lab.example.org", "https://stranger.example"
#: What a page must be let read, to load parts of files and to know what it has.
EXPOSED = ("Accept-Ranges", "Content-Length", "Content-Range", "ETag")


class Here:
    """Something public, and something private."""

    def __init__(self, path: Path) -> None:
        self.repo = Repo.open(path / "repo")
        self.gate = Gate(Members({}), self.repo.access)
        self.public = f"/ipfs/{self.repo.store_bytes(b'[1, 2, 3]').cid}"
        self.private = f"/ipfs/{self.repo.store_bytes(b'a secret', audience=PRIVATE).cid}"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(tmp_path)
    yield made
    made.repo.close()


@pytest.mark.parametrize("origin", [STRANGER, "null", LAB])
async def test_what_is_public_is_read_by_pages_of_any_origin(here: Here, origin: str) -> None:
    """Whole, in part, its headers alone, and not again where it is known: each answer says that the page may see it."""
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN) as http:
        etag = f'"{here.public.removeprefix("/ipfs/")}"'
        for method, more, status in (
            ("GET", {}, 200),
            ("HEAD", {}, 200),
            ("GET", {"range": "bytes=1-1"}, 206),
            ("GET", {"if-none-match": etag}, 304),
        ):
            answer = await http.request(method, here.public, headers={"origin": origin, **more})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
            shown = {each.strip() for each in answer.headers["access-control-expose-headers"].split(",")}
            assert shown >= set(EXPOSED)
            assert answer.headers["etag"] == etag
        hidden = await http.get(here.private, headers={"origin": origin})
        assert hidden.status_code == 404
        assert hidden.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", [STRANGER, "null", "http://localhost:1", "", LAB + ".example", LAB + ":8443"])
async def test_the_token_is_not_for_pages_of_other_origins(here: Here, origin: str) -> None:
    """Right or wrong, for public things and others: a page that was not named is refused, and learns nothing."""
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN, origins=[LAB]) as http:
        answers = [
            await http.get(path, headers={"origin": origin, "authorization": shown})
            for path in (here.public, here.private, here.private + "a")
            for shown in (BEARER, "Bearer wrong")
        ]
        assert {each.status_code for each in answers} == {403}
        assert {each.text for each in answers} == {answers[0].text}
        assert "gateway_origins" in answers[0].text
        asked = await http.options(
            here.private,
            headers={
                "origin": origin,
                "access-control-request-method": "GET",
                "access-control-request-headers": "authorization",
            },
        )
        assert asked.status_code == 204
        assert "authorization" not in asked.headers["access-control-allow-headers"].lower()
        assert "Origin" in asked.headers["vary"]


async def test_a_page_that_the_user_has_named_may_use_the_token(here: Here) -> None:
    """It is told that it may, in its own name; no cache gives the answer to others."""
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN, origins=[LAB]) as http:
        asked = await http.options(
            here.private,
            headers={"origin": LAB, "access-control-request-method": "GET", "access-control-request-headers": "x"},
        )
        assert asked.headers["access-control-allow-origin"] == LAB
        assert "Authorization" in asked.headers["access-control-allow-headers"]
        for more, status in (({}, 200), ({"range": "bytes=0-0"}, 206)):
            answer = await http.get(here.private, headers={"origin": LAB, "authorization": BEARER, **more})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == LAB
            assert "access-control-allow-credentials" not in answer.headers
            assert answer.headers["cache-control"].startswith("private")
            assert {"Authorization", "Origin"} <= {each.strip() for each in answer.headers["vary"].split(",")}
        wrong = await http.get(here.private, headers={"origin": LAB, "authorization": "Bearer wrong"})
        assert wrong.status_code == 401


async def test_the_gateways_own_pages_and_programs_use_the_token(here: Here) -> None:
    """A program sends no origin; a page of the gateway sends that of the gateway, by whichever scheme it is reached."""
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN) as http:
        host = f"{http.base_url.host}:{http.base_url.port}"
        for origin in (None, f"http://{host}", f"https://{host}"):
            headers = {"authorization": BEARER, **({} if origin is None else {"origin": origin})}
            assert (await http.get(here.private, headers=headers)).text == "a secret"
        # The name of a machine that is led to this one is no name of this gateway.
        answer = await http.get(
            here.private,
            headers={"host": "stranger.example", "origin": "http://stranger.example", "authorization": BEARER},
        )
        assert answer.status_code == 421


async def test_another_scheme_is_for_somebody_else(here: Here) -> None:
    """A password that a proxy asks for is none of the gateway's business, whoever sends it."""
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN) as http:
        answer = await http.get(here.public, headers={"origin": STRANGER, "authorization": "Basic abc"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


async def test_nothing_is_written_from_any_page(here: Here) -> None:
    """No other method is let through, by the preflight nor without it."""
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN, origins=[LAB]) as http:
        for origin in (STRANGER, LAB):
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                asked = await http.options("/", headers={"origin": origin, "access-control-request-method": method})
                assert method not in asked.headers["access-control-allow-methods"]
                headers = {"origin": origin, "authorization": BEARER}
                for sent in ({"origin": origin}, headers if origin == LAB else {"origin": origin}):
                    answer = await http.request(method, here.public, headers=sent, content=b"x")
                    assert answer.status_code == 405


async def test_local_networks(here: Here) -> None:
    """A browser that asks by a preflight whether a public page may ask this machine is told yes."""
    async with gateway(here.repo) as http:
        asked = {"origin": STRANGER, "access-control-request-method": "GET"}
        older = await http.options(here.public, headers={**asked, "access-control-request-private-network": "true"})
        assert older.headers["access-control-allow-private-network"] == "true"
        assert "access-control-allow-private-network" not in (await http.options(here.public, headers=asked)).headers
