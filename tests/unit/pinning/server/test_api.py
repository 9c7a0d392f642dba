"""Every operation and error of the Pinning Service API 1.0.0, from its text, against the real service over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kachery_p2p.pinning.server import limits
from tests.helpers.pin_server import NOWHERE, Served, origin, pinning

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
#: Blocks that are nowhere, so that pins of them are never done.
OTHERS = [
    "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4",
    "bafkreiaxnnnb7qz2focittuqq3ya25q7rcv3bqynnczfzako47346wosmu",
]


def check_status(value: dict[str, Any]) -> None:
    """It is a PinStatus object: what must be there is, and is what it must be."""
    assert isinstance(value["requestid"], str)
    assert value["requestid"]
    assert value["status"] in ("queued", "pinning", "pinned", "failed")
    assert TIME.fullmatch(value["created"])
    assert isinstance(value["pin"]["cid"], str)
    assert 1 <= len(value["delegates"]) <= 20
    assert all(each.startswith("/") for each in value["delegates"])
    assert all(isinstance(each, str) for each in value.get("info", {}).values())


def check_failure(answer: httpx.Response, status: int, reason: str) -> None:
    """It is a Failure object, with that status and reason, and words for people."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["reason"] == reason
    assert error["details"]


# --- adding -----------------------------------------------------------------------------------------------------------


async def test_a_pin_is_fetched_from_its_origins_and_kept(tmp_path: Path) -> None:
    """POST answers at once with a PinStatus; the data comes from the origins, and stays when these are gone."""
    data = bytes(range(256)) * 20_000
    async with pinning(tmp_path / "service") as served:
        async with origin(tmp_path / "origin") as theirs:
            cid = await theirs.store(data)
            answer = await served.post(cid, name="session.nwb", origins=[theirs.addr], meta={"app": "test"})
            assert answer.status_code == 202
            check_status(answer.json())
            assert answer.json()["status"] in ("queued", "pinning")
            assert answer.json()["pin"] == {
                "cid": cid,
                "name": "session.nwb",
                "origins": [theirs.addr],
                "meta": {"app": "test"},
            }
            done = await served.become(answer.json()["requestid"], "pinned", "failed")
            check_status(done)
            assert (done["status"], done["info"]["raw_size"]) == ("pinned", str(len(data)))
            assert done["created"] == answer.json()["created"]
        (kept,) = served.node.repo.inventory.roots()
        assert (str(kept.cid), kept.whole, kept.how) == (cid, True, 8)
        assert kept.path is not None
        assert kept.path.read_bytes() == data


async def test_a_directory_is_pinned_with_all_that_is_in_it(tmp_path: Path) -> None:
    """Pins are recursive."""
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "small.txt").write_text("small")
    (folder / "deep" / "large.dat").write_bytes(b"large" * 300_000)
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        cid = await theirs.store_directory(folder)
        done = await served.become(await served.pin(cid, origins=[theirs.addr]), "pinned", "failed")
        assert done["status"] == "pinned"
        (kept,) = served.node.repo.inventory.roots()
        assert (str(kept.cid), kept.whole, kept.directory) == (cid, True, True)
        assert len(served.node.repo.inventory.members(kept.cid).files) == 2


async def test_the_same_cid_pinned_again_is_another_request(tmp_path: Path) -> None:
    """A different requestid is returned to differentiate between those pin requests, and `created` is unique."""
    async with pinning(tmp_path) as served:
        first, second = [(await served.post(NOWHERE)).json() for _ in range(2)]
        assert first["requestid"] != second["requestid"]
        assert first["created"] < second["created"]
        assert first["pin"] == second["pin"] == {"cid": NOWHERE}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b'"bafy"',
        b"{}",
        b'{"cid": 3}',
        b'{"cid": ""}',
        b'{"cid": "no-cid"}',
        b'{"cid": "' + b"b" * 10_000 + b'"}',
        json.dumps({"cid": NOWHERE, "name": "n" * 256}).encode(),
        json.dumps({"cid": NOWHERE, "name": 3}).encode(),
        json.dumps({"cid": NOWHERE, "name": "\ud800"}).encode(),
        json.dumps({"cid": NOWHERE, "origins": "/ip4/127.0.0.1/tcp/1"}).encode(),
        json.dumps({"cid": NOWHERE, "origins": [1]}).encode(),
        json.dumps({"cid": NOWHERE, "origins": ["http://example.org"]}).encode(),
        json.dumps({"cid": NOWHERE, "origins": [f"/ip4/127.0.0.1/tcp/{port}" for port in range(1, 22)]}).encode(),
        json.dumps({"cid": NOWHERE, "meta": []}).encode(),
        json.dumps({"cid": NOWHERE, "meta": {"a": 1}}).encode(),
        json.dumps({"cid": NOWHERE, "meta": {str(number): "" for number in range(1001)}}).encode(),
        b'{"cid": ' + b"[" * 5000,
    ],
    ids=lambda body: repr(body[:60]),
)
async def test_what_is_no_pin_object_is_refused(tmp_path: Path, body: bytes) -> None:
    """400 with BAD_REQUEST, for adding and for replacing, and nothing is queued."""
    async with pinning(tmp_path) as served:
        known = await served.pin(NOWHERE)
        for path in ("/pins", f"/pins/{known}"):
            check_failure(await served.clients["alice"].post(path, content=body), 400, "BAD_REQUEST")
        assert await served.listed(status="queued,pinning,pinned,failed") == [known]


async def test_a_body_without_end_is_refused(tmp_path: Path) -> None:
    """413 as soon as there is more than any pin object has, whether its length was told or not."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1 + limits.MAX_BODY // 4096):
            yield b" " * 4096

    async with pinning(tmp_path) as served:
        client = served.clients["alice"]
        answer = await client.post("/pins", content=b" " * (limits.MAX_BODY + 1))
        check_failure(answer, 413, "PAYLOAD_TOO_LARGE")
        check_failure(await client.post("/pins", content=pieces()), 413, "PAYLOAD_TOO_LARGE")


async def test_what_clients_leave_out_may_be_null(tmp_path: Path) -> None:
    """Kubo and others write null where they have nothing."""
    async with pinning(tmp_path) as served:
        answer = await served.post(NOWHERE, name=None, origins=None, meta=None)
        assert answer.status_code == 202
        assert answer.json()["pin"] == {"cid": NOWHERE}


# --- looking, replacing, deleting -------------------------------------------------------------------------------------


async def test_looking_at_a_pin(tmp_path: Path) -> None:
    """GET /pins/{requestid}: 200 with its PinStatus."""
    async with pinning(tmp_path) as served:
        made = (await served.post(NOWHERE, name="n")).json()
        answer = await served.clients["alice"].get(f"/pins/{made['requestid']}")
        assert answer.status_code == 200
        check_status(answer.json())
        assert (answer.json()["requestid"], answer.json()["pin"]) == (made["requestid"], made["pin"])


async def test_replacing_a_pin(tmp_path: Path) -> None:
    """POST /pins/{requestid}: 202 with a new requestid; the old one is gone, and what both have was never let go."""
    async with pinning(tmp_path / "service") as served:
        async with origin(tmp_path / "origin") as theirs:
            cid = await theirs.store(b"that which stays")
            old = await served.pin(cid, origins=[theirs.addr])
            await served.become(old, "pinned")
        # The origin is gone: were the root let go in between, it would not come back.
        answer = await served.clients["alice"].post(f"/pins/{old}", json={"cid": cid, "name": "other"})
        assert answer.status_code == 202
        check_status(answer.json())
        assert answer.json()["requestid"] != old
        check_failure(await served.clients["alice"].get(f"/pins/{old}"), 404, "NOT_FOUND")
        done = await served.become(answer.json()["requestid"], "pinned", "failed")
        assert (done["status"], done["pin"]["name"]) == ("pinned", "other")


async def test_deleting_a_pin(tmp_path: Path) -> None:
    """DELETE: 202 without a body; the root goes from the disk, as nobody else has it."""
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        made = await served.pin(await theirs.store(b"x" * 3_000_000), origins=[theirs.addr])
        await served.become(made, "pinned")
        answer = await served.clients["alice"].delete(f"/pins/{made}")
        assert (answer.status_code, answer.content) == (202, b"")
        check_failure(await served.clients["alice"].get(f"/pins/{made}"), 404, "NOT_FOUND")
        while served.node.repo.inventory.roots():
            await served.server.queue.changes.wait(served.server.queue.changes.count)


@pytest.mark.parametrize("request_id", ["no-such", "%00", "%ED%A0%80", "..%2Fpins", "a" * 4000, "1%20OR%201=1"])
async def test_requests_that_are_not_there(tmp_path: Path, request_id: str) -> None:
    """404 with NOT_FOUND for looking, replacing and deleting."""
    async with pinning(tmp_path) as served:
        client = served.clients["alice"]
        check_failure(await client.get(f"/pins/{request_id}"), 404, "NOT_FOUND")
        check_failure(await client.post(f"/pins/{request_id}", json={"cid": NOWHERE}), 404, "NOT_FOUND")
        check_failure(await client.delete(f"/pins/{request_id}"), 404, "NOT_FOUND")
        assert await served.listed(status="queued,pinning") == []


@pytest.mark.parametrize("path", ["/", "/pin", "/pins/a/b", "//pins", "/metrics/x"])
async def test_paths_that_are_not_there(tmp_path: Path, path: str) -> None:
    """404 with NOT_FOUND."""
    async with pinning(tmp_path) as served:
        check_failure(await served.clients["alice"].get(served.server.url + path), 404, "NOT_FOUND")


async def test_methods_that_are_not_there(tmp_path: Path) -> None:
    """405, and which there are."""
    async with pinning(tmp_path) as served:
        client = served.clients["alice"]
        for method, path in [("PUT", "/pins"), ("DELETE", "/pins"), ("PATCH", "/pins/x"), ("POST", "/metrics")]:
            answer = await client.request(method, path)
            check_failure(answer, 405, "METHOD_NOT_ALLOWED")
            assert "GET" in answer.headers["allow"]


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic YTpi", "bearer \xff\xfe", "Token x", "Bearer a b"]
)
async def test_without_a_token_nothing_is_told(tmp_path: Path, header: str | None) -> None:
    """401 with UNAUTHORIZED for each operation, before anything is read."""
    async with pinning(tmp_path) as served:
        known = await served.pin(NOWHERE)
        headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
        for method, path, body in [
            ("GET", "/pins", None),
            ("POST", "/pins", b"not JSON"),
            ("GET", f"/pins/{known}", None),
            ("POST", f"/pins/{known}", b"{}"),
            ("DELETE", f"/pins/{known}", None),
            ("GET", "/pins?limit=wrong", None),
        ]:
            answer = await served.anybody.request(method, path, content=body, headers=headers)
            check_failure(answer, 401, "UNAUTHORIZED")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert await served.listed(status="queued,pinning") == [known]


async def test_two_tokens_see_only_their_own_pins(tmp_path: Path) -> None:
    """What is another's is not there: not in lists, not to look at, to replace or to delete."""
    async with pinning(tmp_path) as served:
        hers, his = await served.pin(NOWHERE, "alice"), await served.pin(NOWHERE, "bob")
        assert await served.listed("alice", status="queued,pinning") == [hers]
        assert await served.listed("bob", status="queued,pinning", cid=NOWHERE) == [his]
        client = served.clients["bob"]
        check_failure(await client.get(f"/pins/{hers}"), 404, "NOT_FOUND")
        check_failure(await client.post(f"/pins/{hers}", json={"cid": NOWHERE}), 404, "NOT_FOUND")
        check_failure(await client.delete(f"/pins/{hers}"), 404, "NOT_FOUND")
        assert await served.listed("alice", status="queued,pinning") == [hers]


async def test_a_token_that_was_removed_is_refused_at_once(tmp_path: Path) -> None:
    """And its pins are there for the next token of that name."""
    async with pinning(tmp_path) as served:
        made = await served.pin(NOWHERE)
        assert served.store.remove_token("alice") == 1
        check_failure(await served.clients["alice"].get("/pins"), 401, "UNAUTHORIZED")
        again = served.store.add_token("alice")
        assert again is not None
        assert again[1]
        headers = {"authorization": f"Bearer {again[0]}"}
        assert (await served.anybody.get(f"/pins/{made}", headers=headers)).status_code == 200


async def test_only_hashes_are_kept(tmp_path: Path) -> None:
    """Nobody reads a token from the disk, and nobody else reads the file."""
    async with pinning(tmp_path) as served:
        token = served.clients["alice"].headers["authorization"].removeprefix("Bearer ")
        await served.pin(NOWHERE)
        for path in tmp_path.glob("pinning-service.sqlite*"):
            assert token.encode() not in path.read_bytes()
            assert path.stat().st_mode & 0o777 == 0o600


# --- lists ------------------------------------------------------------------------------------------------------------


async def _pins(served: Served, *names: str, **more: Any) -> list[str]:
    return [await served.pin(NOWHERE, name=name, **more) for name in names]


async def test_without_filters_the_last_ten_that_are_pinned(tmp_path: Path) -> None:
    """Only what is pinned is listed where no status is given; ten at most, from the latest to the oldest."""
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        cid = await theirs.store(b"the same each time")
        made = [await served.pin(cid, origins=[theirs.addr]) for _ in range(12)]
        for each in made:
            await served.become(each, "pinned")
        await served.pin(NOWHERE)
        answer = (await served.clients["alice"].get("/pins")).json()
        assert answer["count"] == 12
        assert [each["requestid"] for each in answer["results"]] == made[:1:-1]
        for each in answer["results"]:
            check_status(each)


async def test_paging_by_before(tmp_path: Path) -> None:
    """`before` the oldest of a page gives the next one, and `count` says how many there are yet; none is missed."""
    async with pinning(tmp_path) as served:
        made = await _pins(served, *"abcdefg")
        found: list[str] = []
        query: dict[str, Any] = {"status": "queued,pinning", "limit": 3}
        counts: list[int] = []
        while True:
            page = (await served.clients["alice"].get("/pins", params=query)).json()
            counts.append(page["count"])
            found += [each["requestid"] for each in page["results"]]
            if page["count"] <= len(page["results"]):
                break
            query["before"] = page["results"][-1]["created"]
        assert found == made[::-1]
        assert counts == [7, 4, 1]


async def test_filter_by_time(tmp_path: Path) -> None:
    """`after` and `before` leave out what was created just then; times may have any offset."""
    async with pinning(tmp_path) as served:
        made = await _pins(served, "a", "b", "c")
        times = [(await served.clients["alice"].get(f"/pins/{each}")).json()["created"] for each in made]
        some = {"status": "queued,pinning"}
        assert await served.listed(after=times[0], **some) == made[:0:-1]
        assert await served.listed(before=times[2], **some) == made[1::-1]
        assert await served.listed(after=times[0], before=times[2], **some) == [made[1]]
        assert await served.listed(after="2000-01-01T00:00:00+02:00", **some) == made[::-1]
        assert await served.listed(before="2000-01-01t00:00:00.5z", **some) == []
        assert await served.listed(before="9999-12-31T23:59:60Z", **some) == made[::-1]


async def test_filter_by_cid(tmp_path: Path) -> None:
    """One or several, in one field or in many; the form in which a CID is written makes no difference."""
    v0 = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"
    v1 = "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    async with pinning(tmp_path) as served:
        made = [await served.pin(cid) for cid in (NOWHERE, *OTHERS, v0)]
        some = {"status": "queued,pinning,pinned,failed"}
        assert await served.listed(cid=NOWHERE, **some) == [made[0]]
        assert await served.listed(cid=f"{OTHERS[0]},{OTHERS[1]}", **some) == made[2:0:-1]
        assert await served.listed(cid=[NOWHERE, OTHERS[1]], **some) == [made[2], made[0]]
        assert await served.listed(cid=v1, **some) == [made[3]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"name": "Data"}, ["Data"]),
        ({"name": "Data", "match": "exact"}, ["Data"]),
        ({"name": "data", "match": "exact"}, []),
        ({"name": "DATA", "match": "iexact"}, ["Data"]),
        ({"name": "STRASSE", "match": "iexact"}, ["Straße"]),
        ({"name": "Dat", "match": "partial"}, ["My Data.csv", "Data"]),
        ({"name": "dat", "match": "partial"}, []),
        ({"name": "dat", "match": "ipartial"}, ["My Data.csv", "Data"]),
        ({"name": "%", "match": "ipartial"}, ["100%"]),
        ({"name": "_", "match": "partial"}, []),
        ({"name": "", "match": "exact"}, [""]),
    ],
)
async def test_filter_by_name(tmp_path: Path, query: dict[str, str], expected: list[str]) -> None:
    """The four ways to match text; nothing in a name means anything."""
    async with pinning(tmp_path) as served:
        await _pins(served, "Data", "100%", "Straße", "My Data.csv", "")
        answer = await served.clients["alice"].get("/pins", params={"status": "queued,pinning", **query})
        assert [each["pin"].get("name", "") for each in answer.json()["results"]] == expected


async def test_filter_by_status(tmp_path: Path) -> None:
    """One or several."""
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        done = await served.pin(await theirs.store(b"here"), origins=[theirs.addr])
        await served.become(done, "pinned")
        waits = await served.pin(NOWHERE)
        await served.become(waits, "pinning")
        assert await served.listed(status="pinned") == [done]
        assert await served.listed(status="pinning") == [waits]
        assert await served.listed(status=["pinning", "pinned"]) == [waits, done]
        assert await served.listed(status="queued,failed") == []


async def test_filter_by_meta(tmp_path: Path) -> None:
    """All entries that are asked for must be there as they are."""
    async with pinning(tmp_path) as served:
        await served.pin(NOWHERE, meta={"app": "one", "rat": "7"})
        second = await served.pin(NOWHERE, meta={"app": "two", "rat": "7"})
        both = await served.listed(status="queued,pinning", meta=json.dumps({"rat": "7"}))
        assert len(both) == 2
        assert await served.listed(status="queued,pinning", meta=json.dumps({"rat": "7", "app": "two"})) == [second]
        assert await served.listed(status="queued,pinning", meta=json.dumps({"rat": "8"})) == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=ten",
        "limit=1&limit=2",
        "status=unknown",
        "status=",
        "match=fuzzy",
        "cid=nothing",
        "cid=",
        "cid=" + ",".join([NOWHERE] + [f"bafkrei{'a' * 50}{each}" for each in "abcdefghij"]),
        "before=yesterday",
        "after=2026-13-01T00:00:00Z",
        "after=2026-07-27",
        "after=2026-07-27T25:00:00Z",
        "name=" + "n" * 256,
        "meta=no-json",
        "meta=[]",
        'meta={"a":1}',
    ],
)
async def test_filters_that_make_no_sense(tmp_path: Path, query: str) -> None:
    """400 with BAD_REQUEST and what is wrong."""
    async with pinning(tmp_path) as served:
        check_failure(await served.clients["alice"].get(f"/pins?{query}"), 400, "BAD_REQUEST")


# --- browsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/pins", "/pins/x"])
async def test_web_pages_of_any_origin_may_ask(tmp_path: Path, path: str) -> None:
    """The preflight of a browser is answered without a token, and each answer, errors too, lets the page read it."""
    async with pinning(tmp_path) as served:
        answer = await served.anybody.options(
            path,
            headers={
                "origin": "https://app.example.org",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type",
            },
        )
        assert answer.status_code == 204
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert "authorization" in allowed
        assert "content-type" in allowed
        for method in ("GET", "POST", "DELETE"):
            assert method in answer.headers["access-control-allow-methods"]
        for each in (answer, await served.anybody.get(path), await served.clients["alice"].get(path)):
            assert each.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in each.headers


# --- what is not HTTP as it should be --------------------------------------------------------------------------------


async def _raw(served: Served, data: bytes) -> bytes:
    """What the service answers to some bytes, until it closes the connection."""
    host, _, port = served.server.url.removeprefix("http://").rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(data)
        answer = b""
        while piece := await stream.receive_some(65536):
            answer += piece
        return answer


async def test_a_request_that_two_servers_could_read_otherwise(tmp_path: Path) -> None:
    """400, and what follows on the connection is no request: a proxy before us may have taken it for a body."""
    async with pinning(tmp_path) as served:
        token = served.clients["alice"].headers["authorization"].encode()
        body = json.dumps({"cid": NOWHERE}).encode()
        inner = b"POST /pins HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            token,
            len(body),
            body,
        )
        outer = b"POST /pins HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: 5\r\n" % token
        answer = await _raw(served, outer + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner)
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert await served.listed(status="queued,pinning") == []


async def test_a_body_that_is_not_read_is_no_request(tmp_path: Path) -> None:
    """What was refused before its body was read ends the connection."""
    async with pinning(tmp_path) as served:
        inner = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        outer = b"POST /pins HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner)
        answer = await _raw(served, outer + inner + inner)
        assert answer.startswith(b"HTTP/1.1 401")
        assert answer.count(b"HTTP/1.1 ") == 1
