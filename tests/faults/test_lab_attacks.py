"""What somebody may try against a lab, over real HTTP with a real node: each is refused with the right status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kachery_cloud.lab import limits
from kachery_cloud.lab.registrations import token_of
from kachery_cloud.lab.sessions import COOKIE
from kachery_cloud.lab.signed_requests import sign
from kachery_p2p.repo.keys import new_identity
from tests.helpers.lab import LabClient, Wall, running_lab
from tests.helpers.pin_server import nowhere, origin


def reason(answer: httpx.Response) -> tuple[int, str]:
    """Status and reason of a refusal."""
    return answer.status_code, answer.json()["error"]["reason"]


async def begun(client: LabClient, label: str = "laptop") -> dict[str, Any]:
    """A registration that a computer has begun."""
    answer = await client.signed("POST", "/api/v1/registrations", {"label": label})
    assert answer.status_code == 201, answer.text
    return answer.json()


# --- signatures -----------------------------------------------------------------------------------------------------


async def test_forged_signatures(tmp_path: Path) -> None:
    """What was signed for something else, or by somebody else, is refused: body, path, query, method, host, key."""
    async with running_lab(tmp_path) as lab:
        client = await lab.client()
        url, body = f"{lab.url}/api/v1/registrations", b'{"label": "a"}'
        now = lab.wall()

        async def tried(
            told: Mapping[str, str] | None = None, method: str = "POST", where: str = url, data: bytes = body
        ) -> Any:
            genuine = sign(client.key, "POST", url, body, now=now)
            headers = {**genuine, "content-type": "application/json", **(told or {})}
            return reason(await client.http.request(method, where, content=data, headers=headers))

        wrong = (401, "BAD_SIGNATURE")
        assert await tried(data=b'{"label": "b"}') == wrong
        assert await tried(where=f"{url}?x=1") == wrong
        assert await tried(where=f"{lab.url}/api/v1/registrations/x/register") == wrong
        elsewhere = sign(client.key, "POST", "http://192.0.2.1:8095/api/v1/registrations", body, now=now)
        assert await tried(elsewhere) == wrong
        stranger = sign(new_identity(), "POST", url, body, now=now)
        assert await tried({"signature": stranger["signature"]}) == wrong
        without = sign(client.key, "POST", url, now=now)
        assert await tried(without) == wrong  # the digest of the body is not covered
        assert await tried({"content-digest": "sha-256=:AAAA:"}) == wrong
        assert await tried({"signature": "kachery=:AAAA:"}) == wrong
        for rubbish in ("", "kachery", 'kachery=("@method")', "kachery=(((", "x" * 5000):
            assert await tried({"signature-input": rubbish}) == wrong


async def test_a_request_for_another_lab(tmp_path: Path) -> None:
    """What a client signed for somebody at another address is not taken here, though it is sent with that name."""
    async with running_lab(tmp_path) as lab:
        client = await lab.client()
        headers = sign(client.key, "GET", "http://198.51.100.7:8095/api/v1/me", now=lab.wall())
        answer = await client.http.get("/api/v1/me", headers={**headers, "host": "198.51.100.7:8095"})
        assert reason(answer) == (401, "UNKNOWN_HOST")
        assert "lab_url" in answer.json()["error"]["details"]


async def test_replayed_requests(tmp_path: Path) -> None:
    """A signed request is taken once, also by a node that was started anew meanwhile, and never after its time."""
    wall, key = Wall(), new_identity()
    port = 0
    async with running_lab(tmp_path, wall=wall) as lab:
        alice = await lab.browser(await lab.member("Alice"))
        client = await lab.register(alice, await lab.client(key))
        headers = sign(key, "GET", f"{lab.url}/api/v1/me", now=wall())
        assert (await client.http.get("/api/v1/me", headers=headers)).status_code == 200
        assert reason(await client.http.get("/api/v1/me", headers=headers)) == (401, "REPLAYED")
        port = int(lab.url.rpartition(":")[2])
    async with running_lab(tmp_path, wall=wall, lab=f"127.0.0.1:{port}") as lab:
        client = await lab.client(key)
        assert reason(await client.http.get("/api/v1/me", headers=headers)) == (401, "REPLAYED")
        wall.now += limits.CLOCK_SECONDS + 2
        assert reason(await client.http.get("/api/v1/me", headers=headers)) == (401, "CLOCK")


@pytest.mark.parametrize(("off", "said"), [(-3600, "60 minutes behind"), (86400 * 3, "3 days ahead of")])
async def test_a_clock_that_is_off(tmp_path: Path, off: float, said: str) -> None:
    """The error says by how much."""
    async with running_lab(tmp_path) as lab:
        client = await lab.client()
        answer = await client.signed("POST", "/api/v1/registrations", {"label": "a"}, now=lab.wall() + off)
        assert reason(answer) == (401, "CLOCK")
        assert said in answer.json()["error"]["details"]


async def test_more_nonces_than_can_be_remembered(tmp_path: Path) -> None:
    """Signed requests wait then; none is taken of which it could not be told whether it is new."""
    async with running_lab(tmp_path) as lab:
        lab.server.lab.nonces._most = 64
        client = await lab.client()
        answer = await client.signed("POST", "/api/v1/registrations", {"label": "a"})
        assert answer.status_code == 201
        lab.server.lab.nonces._added = 0
        answer = await client.signed("POST", "/api/v1/registrations", {"label": "a"})
        assert reason(answer) == (503, "TOO_MANY_REQUESTS")
        lab.wall.now += limits.CLOCK_SECONDS + 2
        assert (await client.signed("POST", "/api/v1/registrations", {"label": "a"})).status_code == 201


# --- whose is what --------------------------------------------------------------------------------------------------


async def test_another_members_pins_and_clients(tmp_path: Path) -> None:
    """A member sees and touches neither the pins nor the computers of another one."""
    async with running_lab(tmp_path) as lab:
        alice, bob = [await lab.browser(await lab.member(name)) for name in ("Alice", "Bob")]
        hers, his = await lab.register(alice), await lab.register(bob)
        made = await hers.by_token("POST", "/pins", {"cid": nowhere(1)})
        assert made.status_code == 202, made.text
        pin = made.json()["requestid"]
        for method, value in (("GET", None), ("DELETE", None), ("POST", {"cid": nowhere(2)})):
            assert (await his.by_token(method, f"/pins/{pin}", value)).status_code == 404
        assert (await his.by_token("GET", "/pins")).json()["count"] == 0
        assert (await hers.by_token("GET", f"/pins/{pin}")).status_code == 200
        assert reason(await bob.call("DELETE", f"/api/v1/clients/{hers.key.peer_id}")) == (404, "NOT_FOUND")
        assert reason(await bob.get("/api/v1/clients?all=1")) == (403, "FORBIDDEN")
        assert (await hers.by_token("GET", "/pins")).status_code == 200


async def test_what_is_for_administrators(tmp_path: Path) -> None:
    """A member lists, invites, changes and removes nobody, nor do his clients."""
    async with running_lab(tmp_path) as lab:
        member = await lab.member("Alice")
        alice = await lab.browser(member)
        client = await lab.register(alice)
        for method, path, value in (
            ("GET", "/api/v1/members", None),
            ("POST", "/api/v1/members", {"name": "Eve", "role": "administrator"}),
            ("PATCH", f"/api/v1/members/{member.id}", {"role": "administrator"}),
            ("PATCH", f"/api/v1/members/{member.id}", {"quota": None}),
            ("DELETE", f"/api/v1/members/{member.id}", None),
            ("POST", f"/api/v1/members/{member.id}/invitation", None),
        ):
            assert reason(await alice.call(method, path, value)) == (403, "FORBIDDEN")
            assert reason(await client.by_token(method, path, value)) == (403, "FORBIDDEN")
        assert (await alice.me())["role"] == "member"


async def test_figures_of_the_node(tmp_path: Path) -> None:
    """For this machine, for administrators, and by a token that the operator made; not for who comes by a proxy."""
    async with running_lab(tmp_path, lab_url="http://127.0.0.1") as lab:
        admin = await lab.browser(await lab.member("Ada", role="administrator"))
        alice = await lab.browser(await lab.member("Alice"))
        client = await lab.register(alice)
        made = await trio.to_thread.run_sync(lab.store.add_token, "prometheus")
        assert made is not None
        far = {"x-forwarded-for": "198.51.100.7"}
        http = await lab.http()
        assert (await http.get("/metrics")).status_code == 200
        assert reason(await http.get("/metrics", headers=far)) == (401, "UNAUTHORIZED")
        assert reason(await alice.get("/metrics", headers=far)) == (403, "FORBIDDEN")
        bearer = {"authorization": f"Bearer {client.token}"}
        assert reason(await http.get("/metrics", headers={**far, **bearer})) == (403, "FORBIDDEN")
        assert (await admin.get("/metrics", headers=far)).status_code == 200
        bearer = {"authorization": f"Bearer {made[0]}"}
        assert (await http.get("/metrics", headers={**far, **bearer})).status_code == 200


async def test_a_client_registers_no_other(tmp_path: Path) -> None:
    """Neither a token nor a signature registers a computer: that takes somebody at a browser."""
    async with running_lab(tmp_path) as lab:
        client = await lab.register(await lab.browser(await lab.member("Alice")))
        other = await begun(await lab.client())
        path = f"/api/v1/registrations/{other['id']}/register"
        assert reason(await client.by_token("POST", path)) == (403, "FORBIDDEN")
        assert reason(await client.signed("POST", path)) == (403, "FORBIDDEN")


async def test_a_quota_crossed_in_parallel(tmp_path: Path) -> None:
    """All computers of a member share one quota, however many of them pin at the same time."""
    async with running_lab(tmp_path / "lab") as lab, origin(tmp_path / "origin") as there:
        alice = await lab.browser(await lab.member("Alice", quota=1000))
        clients = [await lab.register(alice) for _ in range(4)]
        cids = [await there.store(bytes([number]) * 300) for number in range(8)]
        answers: list[httpx.Response] = []

        async def pin(client: LabClient, cid: str) -> None:
            answers.append(await client.by_token("POST", "/pins", {"cid": cid, "origins": [there.addr]}))

        async with trio.open_nursery() as nursery:
            for number, cid in enumerate(cids):
                nursery.start_soon(pin, clients[number % 4], cid)
        settled = ("pinned", "failed")
        while True:
            seen = lab.server.queue.changes
            counts = await trio.to_thread.run_sync(lab.store.counts)
            if set(counts) <= set(settled):
                break
            await lab.server.queue.wait_changed(seen)
        assert counts == {"pinned": 3, "failed": 5}
        assert (await alice.me())["used"] == 900
        # What is here already has a known size, and is refused at once; what somebody of hers has, takes nothing more.
        kept, *_ = [cid for cid in cids if await is_pinned(clients, cid)]
        assert (await clients[0].by_token("POST", "/pins", {"cid": kept})).status_code == 202
        assert (await clients[1].by_token("POST", "/pins", {"cid": kept})).status_code == 202
        assert (await alice.me())["used"] == 900


async def is_pinned(clients: list[LabClient], cid: str) -> bool:
    """Whether one of some computers has something pinned."""
    found = [await each.by_token("GET", f"/pins?cid={cid}&status=pinned") for each in clients]
    return any(each.json()["count"] for each in found)


# --- browsers -------------------------------------------------------------------------------------------------------


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
                assert headers["referrer-policy"] == "no-referrer"
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
        for _ in range(limits.ENTRY_RATE[0] + 1):
            last = await http.get("/api/v1/invitations/guess")
        assert reason(last) == (429, "TOO_MANY_REQUESTS")
        assert 1 <= int(last.headers["retry-after"]) <= 10
        assert (await http.get("/api/v1")).status_code == 200


# --- coming in ------------------------------------------------------------------------------------------------------


async def test_invitations_are_used_once_and_expire(tmp_path: Path) -> None:
    """Looking uses nothing up; of two who use one at the same time one comes in; an old one is none."""
    async with running_lab(tmp_path) as lab:
        make = lab.server.lab.invitations.make
        member = await lab.member("Alice")
        secret, _ = await trio.to_thread.run_sync(make, member.id)
        http = await lab.http()
        for _ in range(2):
            assert (await http.get(f"/api/v1/invitations/{secret}")).json()["name"] == "Alice"
            assert "Alice" in (await http.get(f"/invitation/{secret}")).text
        statuses: list[int] = []

        async def use() -> None:
            statuses.append((await (await lab.http()).post(f"/invitation/{secret}")).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(use)
        assert sorted(statuses) == [200, 404, 404, 404]
        late, _ = await trio.to_thread.run_sync(make, member.id)
        lab.wall.now += limits.INVITATION_LIFE
        assert reason(await http.post(f"/invitation/{late}")) == (404, "NOT_FOUND")
        of_nobody, _ = await trio.to_thread.run_sync(make, member.id)
        await trio.to_thread.run_sync(lab.accounts.remove_member, member.id)
        assert reason(await http.post(f"/invitation/{of_nobody}")) == (404, "NOT_FOUND")


async def test_registrations_are_used_once_and_expire(tmp_path: Path) -> None:
    """One decides once; a refused or expired one gives no token; nobody looks without its secret."""
    async with running_lab(tmp_path) as lab:
        alice = await lab.browser(await lab.member("Alice"))
        bob = await lab.browser(await lab.member("Bob"))
        client = await lab.client()
        one = await begun(client)
        path = f"/api/v1/registrations/{one['id']}"
        bearer = {"authorization": f"Bearer {one['secret']}"}
        waiting = {"state": "waiting", "owner": None, "token": None, "proof": None}
        assert (await client.http.get(path, headers=bearer)).json() == waiting
        shown = (await alice.get(path)).json()
        assert (shown["peer"], shown["label"], shown["code"]) == (client.key.peer_id, "laptop", one["code"])
        assert "secret" not in shown
        wrong = {"authorization": "Bearer guess"}
        assert reason(await client.http.get(path, headers=wrong)) == (404, "NOT_FOUND")
        assert reason(await (await lab.http()).get(path)) == (401, "UNAUTHORIZED")
        assert (await alice.call("POST", f"{path}/refuse")).status_code == 200
        assert reason(await bob.call("POST", f"{path}/register")) == (409, "USED")
        assert (await client.http.get(path, headers=bearer)).json() == {**waiting, "state": "refused"}
        guess = LabClient(client.http, client.key, lab.wall, token_of(one["secret"]))
        assert (await guess.by_token("GET", "/pins")).status_code == 401

        late = await begun(client)
        lab.wall.now += limits.REGISTRATION_LIFE
        path = f"/api/v1/registrations/{late['id']}"
        alice = await lab.browser((await trio.to_thread.run_sync(lab.accounts.find, "Alice"))[0])
        assert reason(await alice.call("POST", f"{path}/register")) == (410, "EXPIRED")
        told = await client.http.get(path, headers={"authorization": f"Bearer {late['secret']}"})
        assert told.json()["state"] == "expired"
        assert reason(await alice.call("POST", "/api/v1/registrations/none/register")) == (404, "NOT_FOUND")


async def test_two_registrations_with_the_same_key(tmp_path: Path) -> None:
    """The later one counts; and what is one member's becomes another's only when it was removed."""
    async with running_lab(tmp_path) as lab:
        alice = await lab.browser(await lab.member("Alice"))
        bob = await lab.browser(await lab.member("Bob"))
        client = await lab.client()
        first, second = await begun(client), await begun(client)
        assert reason(await alice.call("POST", f"/api/v1/registrations/{first['id']}/register")) == (410, "EXPIRED")
        assert (await alice.call("POST", f"/api/v1/registrations/{second['id']}/register")).status_code == 200
        third = await begun(client)
        path = f"/api/v1/registrations/{third['id']}"
        assert reason(await bob.call("POST", f"{path}/register")) == (409, "OTHER_MEMBER")
        client.token = token_of(second["secret"])
        assert (await client.by_token("GET", "/pins")).status_code == 200
        # That he was refused leaves it to her.
        assert (await alice.call("POST", f"{path}/register")).status_code == 200
        assert (await client.by_token("GET", "/pins")).status_code == 401  # a new token ends the one before
        client.token = token_of(third["secret"])
        assert (await client.by_token("GET", "/pins")).status_code == 200


async def test_one_client_too_many(tmp_path: Path) -> None:
    """A member has 25 at most, also where several are registered at the same time; one that goes makes room."""
    async with running_lab(tmp_path) as lab:
        alice = await lab.browser(await lab.member("Alice"))
        clients = [await lab.register(alice, label=f"machine {number}") for number in range(limits.MAX_CLIENTS - 1)]
        lab.server.lab._entries._full_at.clear()
        waiting = [await begun(await lab.client()) for _ in range(3)]
        statuses: list[int] = []

        async def register(id: str) -> None:
            statuses.append((await alice.call("POST", f"/api/v1/registrations/{id}/register")).status_code)

        async with trio.open_nursery() as nursery:
            for each in waiting:
                nursery.start_soon(register, each["id"])
        assert sorted(statuses) == [200, 409, 409]
        more = await begun(await lab.client())
        path = f"/api/v1/registrations/{more['id']}/register"
        assert reason(await alice.call("POST", path)) == (409, "TOO_MANY_CLIENTS")
        assert (await alice.call("DELETE", f"/api/v1/clients/{clients[0].key.peer_id}")).status_code == 204
        assert (await clients[0].by_token("GET", "/pins")).status_code == 401
        assert (await alice.call("POST", path)).status_code == 200


async def test_a_removed_member_loses_all_at_once(tmp_path: Path) -> None:
    """Sessions, tokens, signatures, the registration that waits: the next request of each is refused."""
    async with running_lab(tmp_path) as lab:
        admin = await lab.browser(await lab.member("Ada", role="administrator"))
        member = await lab.member("Alice")
        alice = await lab.browser(member)
        client = await lab.register(alice)
        waiting = await begun(await lab.client())
        assert (await admin.call("DELETE", f"/api/v1/members/{member.id}")).status_code == 204
        assert reason(await alice.get("/api/v1/me")) == (401, "UNAUTHORIZED")
        answer = await alice.call("POST", f"/api/v1/registrations/{waiting['id']}/register")
        assert reason(answer) == (401, "UNAUTHORIZED")
        assert (await client.by_token("GET", "/pins")).status_code == 401
        assert reason(await client.by_token("GET", "/api/v1/me")) == (401, "INVALID_TOKEN")
        assert reason(await client.signed("GET", "/api/v1/me")) == (401, "NOT_REGISTERED")
        assert reason(await admin.call("DELETE", f"/api/v1/members/{member.id}")) == (404, "NOT_FOUND")


async def test_the_last_administrator_stays(tmp_path: Path) -> None:
    """Nobody locks the lab: the last one neither goes nor steps down by the API."""
    async with running_lab(tmp_path) as lab:
        member = await lab.member("Ada", role="administrator")
        admin = await lab.browser(member)
        path = f"/api/v1/members/{member.id}"
        assert reason(await admin.call("DELETE", path)) == (409, "LAST_ADMINISTRATOR")
        assert reason(await admin.call("PATCH", path, {"role": "member"})) == (409, "LAST_ADMINISTRATOR")
        assert (await admin.call("PATCH", path, {"quota": 7})).json()["quota"] == 7
