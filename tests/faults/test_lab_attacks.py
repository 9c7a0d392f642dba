"""What somebody may try against a lab, over real HTTP with a real node: each is refused with the right status."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kachery_cloud.lab import limits
from kachery_cloud.lab.registrations import token_of
from kachery_cloud.lab.signed_requests import sign
from kachery_p2p.repo.keys import new_identity
from tests.helpers.lab import LabClient, Wall, begun, reason, running_lab
from tests.helpers.pin_server import nowhere, origin

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
            seen = lab.server.queue.changes.count
            counts = await trio.to_thread.run_sync(lab.store.counts)
            if set(counts) <= set(settled):
                break
            await lab.server.queue.changes.wait(seen)
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
