"""What pages of others, proxies and strangers may try with a lab through HTTP and a browser: each is refused."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import trio

from kachery_cloud.lab import limits
from kachery_cloud.lab.sessions import COOKIE
from tests.helpers.lab import reason, running_lab


async def test_requests_that_a_page_of_another_origin_makes(tmp_path: Path) -> None:
    """Without the token of our page, or from elsewhere by what the browser says, nothing changes."""
    async with running_lab(tmp_path) as lab:
        alice = await lab.browser(await lab.member("Alice", role="administrator"))
        csrf = alice.csrf
        body = {"name": "Eve", "role": "administrator"}
        path = "/api/v1/members"
        http = alice.http
        assert reason(await http.post(path, json=body)) == (403, "CSRF")
        assert reason(await http.post(path, headers={"x-csrf-token": "0" * 64}, json=body)) == (403, "CSRF")
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "null", "sec-fetch-site": "cross-site"},
            {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"origin": lab.url.replace("127.0.0.1", "localhost")},
        ):
            assert reason(await http.post(path, headers={"x-csrf-token": csrf, **headers}, json=body)) == (
                403,
                "OTHER_ORIGIN",
            )
        # What a form can send is of another type.
        form = {"x-csrf-token": csrf, "content-type": "text/plain"}
        answer = await http.post(path, content=json.dumps(body).encode(), headers=form)
        assert reason(answer) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert reason(await http.post("/sign-out")) == (403, "CSRF")
        secret, _ = await trio.to_thread.run_sync(lab.server.lab.invitations.make, (await alice.me())["id"])
        elsewhere = {"origin": "https://evil.example"}
        assert reason(await http.post(f"/invitation/{secret}", headers=elsewhere)) == (403, "OTHER_ORIGIN")
        assert len((await http.get(path)).json()["items"]) == 1
        # No other origin may read, either.
        answer = await http.get("/api/v1/me", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
        assert reason(await http.request("OPTIONS", path, headers=elsewhere)) == (405, "METHOD_NOT_ALLOWED")


async def test_session_fixation(tmp_path: Path) -> None:
    """Signing in makes a new session: what was in the cookie before is none, and a session before ends."""
    async with running_lab(tmp_path) as lab:
        alice, mallory = await lab.member("Alice"), await lab.member("Mallory")
        hers = await lab.browser(mallory)
        planted = hers.http.cookies[COOKIE]
        victim = await lab.browser()
        victim.http.cookies.set(COOKIE, planted, domain="127.0.0.1", path="/")
        secret, _ = await trio.to_thread.run_sync(lab.server.lab.invitations.make, alice.id)
        assert (await victim.http.post(f"/invitation/{secret}")).status_code == 200
        assert victim.http.cookies[COOKIE] != planted
        assert (await victim.me())["name"] == "Alice"
        assert reason(await hers.get("/api/v1/me")) == (401, "UNAUTHORIZED")
        for chosen in ("", "x", "%00", "a" * 5000):
            browser = await lab.browser()
            answer = await browser.get("/api/v1/me", headers={"cookie": f"{COOKIE}={chosen}"})
            assert reason(answer) == (401, "UNAUTHORIZED")


async def test_sessions_end(tmp_path: Path) -> None:
    """By signing out, when nothing was asked for half a day, and after a week in any case."""
    async with running_lab(tmp_path) as lab:
        member = await lab.member("Alice")
        alice = await lab.browser(member)
        cookie = dict(alice.http.cookies)
        assert (await alice.call("POST", "/sign-out")).status_code == 200
        assert COOKIE not in alice.http.cookies
        again = await lab.http()
        again.cookies.update(cookie)
        assert reason(await again.get("/api/v1/me")) == (401, "UNAUTHORIZED")
        idle = await lab.browser(member)
        lab.wall.now += limits.SESSION_IDLE - 1
        assert (await idle.get("/api/v1/me")).status_code == 200
        lab.wall.now += limits.SESSION_IDLE
        assert (await idle.get("/api/v1/me")).status_code == 401
        busy, begin = await lab.browser(member), lab.wall.now
        while lab.wall.now + limits.SESSION_IDLE / 2 < begin + limits.SESSION_LIFE:
            lab.wall.now += limits.SESSION_IDLE / 2
            assert (await busy.get("/api/v1/me")).status_code == 200
        lab.wall.now = begin + limits.SESSION_LIFE
        assert (await busy.get("/api/v1/me")).status_code == 401


async def test_the_cookie(tmp_path: Path) -> None:
    """No script reads it, no other site sends it; over HTTPS it is of this host alone, and HTTPS stays."""
    async with running_lab(tmp_path / "plain") as lab:
        member = await lab.member("Alice")
        secret, _ = await trio.to_thread.run_sync(lab.server.lab.invitations.make, member.id)
        answer = await (await lab.http()).post(f"/invitation/{secret}")
        assert answer.headers["set-cookie"].startswith(f"{COOKIE}=")
        assert "; HttpOnly" in answer.headers["set-cookie"]
        assert "; SameSite=lax" in answer.headers["set-cookie"]
        assert "strict-transport-security" not in answer.headers
    async with running_lab(tmp_path / "proxied", lab_url="https://lab.example.org") as lab:
        member = await lab.member("Alice")
        secret, _ = await trio.to_thread.run_sync(lab.server.lab.invitations.make, member.id)
        http = await lab.http()
        told = {"host": "lab.example.org", "origin": "https://lab.example.org", "sec-fetch-site": "same-origin"}
        answer = await http.post(f"/invitation/{secret}", headers=told)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"__Host-{COOKIE}=")
        assert "; Secure" in cookie
        assert "; Path=/" in cookie
        assert "Domain" not in cookie
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        value = cookie.partition(";")[0]
        shown = await http.get("/api/v1/me", headers={**told, "cookie": value})
        assert shown.json()["name"] == "Alice"
        plain = await http.get("/api/v1/me", headers={**told, "cookie": value.removeprefix("__Host-")})
        assert plain.status_code == 401  # another name under the domain could set that one


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8095", "127.0.0.1.evil.example", "a@127.0.0.1", "", "["]
)
async def test_names_that_are_not_ours(tmp_path: Path, host: str) -> None:
    """A page whose own name leads here (DNS rebinding) is told nothing, and no answer names what it was called."""
    async with running_lab(tmp_path) as lab:
        http = await lab.http()
        for path in ("/api/v1", "/api/v1/me", "/metrics", "/"):
            answer = await http.get(path, headers={"host": host})
            assert answer.status_code in (400, 421), answer.text
            assert "evil" not in answer.text
        if host:
            assert (await http.get("/healthz", headers={"host": host})).status_code == 200


async def test_a_forwarded_host_counts_for_nothing(tmp_path: Path) -> None:
    """Links name the host that was asked, not one of a header that anybody may send."""
    async with running_lab(tmp_path) as lab:
        http = await lab.http()
        told = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example", "x-host": "evil.example"}
        answer = await http.get("/api/v1", headers=told)
        assert answer.json()["pins"] == f"{lab.url}/pins"


async def test_headers_of_every_answer(tmp_path: Path) -> None:
    """Of the API, of refusals, of the pinning service: no framing, no sniffing, no scripts from elsewhere."""
    async with running_lab(tmp_path) as lab:
        http = await lab.http()
        for path in ("/api/v1", "/api/v1/me", "/nothing", "/pins", "/healthz", "/metrics", "/invitation/x"):
            for more in ({}, {"accept": "text/html"}, {"host": "evil.example"}):
                headers = (await http.get(path, headers=more)).headers
                policy = headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "frame-ancestors 'none'" in policy
                assert "unsafe" not in policy
                assert headers["x-content-type-options"] == "nosniff"
                page = headers.get("content-type", "").startswith("text/html")
                assert headers["referrer-policy"] == ("same-origin" if page else "no-referrer")
                assert headers["cache-control"] == "no-store"
                assert "server" not in headers


async def test_paths_that_are_none(tmp_path: Path) -> None:
    """No spelling of a path reaches what another one would, and no redirect is made of it."""
    async with running_lab(tmp_path) as lab:
        port = int(lab.url.rpartition(":")[2])
        for path in (
            "//api/v1/me", "/api/v1/me/", "/api//v1/me", "/api/v1/../v1/me", "/api/v1/%2e%2e/v1/me", "/api/v1/me%00",
            "/pins/../api/v1/me", "//evil.example/", "/%70ins", "/api/v1/me;x", "/\\evil.example", "/API/V1/ME",
        ):  # fmt: skip
            head = await raw(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")
            assert head.split(" ")[1] in ("400", "404", "401"), head
            assert "location:" not in head.lower()


async def test_requests_that_can_be_read_in_two_ways(tmp_path: Path) -> None:
    """Two lengths, two hosts, a head without end: refused."""
    async with running_lab(tmp_path) as lab:
        port = int(lab.url.rpartition(":")[2])
        host = f"Host: 127.0.0.1:{port}\r\n"
        both = f"POST /api/v1/registrations HTTP/1.1\r\n{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert (await raw(port, f"{both}0\r\n\r\n")).split(" ")[1] == "400"
        twice = f"GET /api/v1 HTTP/1.1\r\n{host}Host: evil.example\r\n\r\n"
        assert (await raw(port, twice)).split(" ")[1] in ("400", "421")
        long = f"GET /api/v1 HTTP/1.1\r\n{host}X: {'x' * 20_000}\r\n\r\n"
        assert (await raw(port, long)).split(" ")[1] in ("400", "431")


async def raw(port: int, text: str) -> str:
    """Head of the answer to some bytes."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(text.encode("latin-1"))
        data = b""
        while b"\r\n\r\n" not in data:
            piece = await stream.receive_some(65536)
            if not piece:
                break
            data += piece
        return data.partition(b"\r\n\r\n")[0].decode("latin-1")


async def test_bodies_that_are_none(tmp_path: Path) -> None:
    """Too large, not JSON, of unknown keys, of wrong types: each with its sentence."""
    async with running_lab(tmp_path) as lab:
        admin = await lab.browser(await lab.member("Alice", role="administrator"))
        told = {"x-csrf-token": admin.csrf, "content-type": "application/json"}

        async def tried(content: bytes) -> int:
            return (await admin.http.post("/api/v1/members", content=content, headers=told)).status_code

        assert await tried(b'{"name": "' + b"x" * limits.MAX_JSON + b'"}') == 413
        for body in (
            b"{", b"[]", b"\xff", b"null", b'{"name": 3}', b'{"name": ""}', b'{"name": "a\\u0000"}',
            b'{"name": "\\u202eabc"}', b'{"name": "a", "x": 1}', b'{"name": "a", "role": "owner"}',
            b'{"name": "a", "quota": -1}', b'{"name": "a", "quota": 1.5}',
            b'{"name": "a", "quota": 9999999999999999999}',
            b'{"name": "a", "email": "x"}', b'{"name": "a", "name": "b"}', b"[" * 5000,
        ):  # fmt: skip
            assert await tried(body) == 400, body
        assert await tried(b'{"name": "Bob", "quota": 5}') == 201


async def test_floods(tmp_path: Path) -> None:
    """Who tries to come in again and again is told to wait, and for how long; others are not."""
    async with running_lab(tmp_path) as lab:
        http = await lab.http()
        last = httpx.Response(200)
        lab.server.lab._entries._clock = lambda: 0.0  # however long it takes
        for _ in range(limits.ENTRY_RATE[0] + 1):
            last = await http.get("/api/v1/invitations/guess")
        assert reason(last) == (429, "TOO_MANY_REQUESTS")
        assert 1 <= int(last.headers["retry-after"]) <= 10
        assert (await http.get("/api/v1")).status_code == 200
