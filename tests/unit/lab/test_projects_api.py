"""Projects and files of a lab, over HTTP, with its real node and real clients."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import trio

from kachery_p2p.dag.cid import CID
from tests.helpers.lab import LabBrowser, RunningLab, running_lab
from tests.helpers.pin_server import origin


async def project(browser: LabBrowser, name: str, **more: Any) -> dict[str, Any]:
    """A new project of whoever is signed in."""
    answer = await browser.call("POST", "/api/v1/projects", {"name": name, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def upload(browser: LabBrowser, data: bytes, name: str = "a.txt", **query: str) -> dict[str, Any]:
    """A file that was uploaded."""
    answer = await send(browser, data, name, **query)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def send(browser: LabBrowser, data: Any, name: str = "a.txt", **query: str) -> Any:
    """The answer to an upload."""
    headers = {"x-csrf-token": browser.csrf, "sec-fetch-site": "same-origin"}
    return await browser.http.post("/api/v1/files", params={"name": name, **query}, content=data, headers=headers)


async def gone(lab: RunningLab, cid: str) -> None:
    """Wait until a root is not on the node any more."""
    while lab.node.repo.inventory.get(CID.parse(cid)) is not None:
        with trio.move_on_after(0.1):
            await lab.server.queue.changes.wait(lab.server.queue.changes.count)


async def test_a_project_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """It is made, changed, has members and files, and goes with them."""
    async with running_lab(tmp_path / "lab") as lab:
        ann, bob = await lab.member("Ann"), await lab.member("Bob")
        hers, his = await lab.browser(ann), await lab.browser(bob)
        made = await project(hers, "hippocampus", description="All of it")
        assert made["role"] == "administrator"
        assert made["members"] == [{"id": ann.id, "name": "Ann", "role": "administrator"}]
        taken = await hers.call("POST", "/api/v1/projects", {"name": "Hippocampus"})
        assert (taken.status_code, taken.json()["error"]["reason"]) == (409, "NAME_TAKEN")
        url = f"/api/v1/projects/{made['id']}"
        assert (await his.call("PATCH", url, {"name": "his"})).status_code == 403
        assert (await hers.call("PUT", f"{url}/members/{bob.id}", {"role": "writer"})).status_code == 200
        data = random.Random(1).randbytes(300_000)
        stored = await upload(his, data, "spikes.dat", project="hippocampus")
        assert (stored["status"], stored["size"], stored["owner"]["name"]) == ("pinned", 300_000, "Bob")
        shown = (await hers.get("/api/v1/projects")).json()["items"]
        assert [(each["name"], each["bytes"], each["files"]) for each in shown] == [("hippocampus", 300_000, 1)]
        answer = await hers.get(f"/api/v1/files/{stored['id']}/content")
        assert answer.content == data
        refused = await hers.call("DELETE", url)
        assert (refused.status_code, refused.json()["error"]["reason"]) == (409, "NOT_EMPTY")
        assert (await hers.call("DELETE", f"{url}?files=delete")).status_code == 204
        assert (await hers.get(url)).status_code == 404
        await gone(lab, stored["cid"])


async def test_what_is_uploaded_goes_with_its_last_pin(tmp_path: Path) -> None:
    """It is on the disk while somebody has it; nothing of it is left then."""
    async with running_lab(tmp_path / "lab") as lab:
        hers, his = await lab.browser(await lab.member("Ann")), await lab.browser(await lab.member("Bob"))
        first, second = await upload(hers, b"the same" * 9000), await upload(his, b"the same" * 9000)
        assert first["cid"] == second["cid"]
        assert (await hers.call("DELETE", f"/api/v1/files/{first['id']}")).status_code == 204
        assert (await his.get(f"/api/v1/files/{second['id']}/content")).content == b"the same" * 9000
        assert (await his.call("DELETE", f"/api/v1/files/{second['id']}")).status_code == 204
        await gone(lab, first["cid"])
        assert not [path for path in (tmp_path / "lab" / "ipfs").rglob("*") if path.is_file()]


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """No file, no pin, no part of either."""
    async with running_lab(tmp_path / "lab") as lab:
        browser = await lab.browser(await lab.member("Ann"))
        host = lab.url.removeprefix("http://")
        cookies = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
        head = (
            f"POST /api/v1/files?name=x HTTP/1.1\r\nHost: {host}\r\nCookie: {cookies}\r\n"
            f"X-CSRF-Token: {browser.csrf}\r\nContent-Length: 9000000\r\n\r\n"
        )
        temporary = tmp_path / "lab" / "tmp"
        stream = await trio.open_tcp_stream("127.0.0.1", int(host.rpartition(":")[2]))
        await stream.send_all(head.encode() + b"x" * 3_000_000)
        # Nothing tells when a part of a request has come, nor when it was given up.
        while not any(path.stat().st_size for path in temporary.iterdir() if path.is_file()):  # noqa: ASYNC110
            await trio.sleep(0.01)
        await stream.aclose()
        while any(temporary.iterdir()):  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert (await browser.get("/api/v1/files")).json()["items"] == []


async def test_what_is_too_large_or_over_the_quota_is_refused(tmp_path: Path) -> None:
    """With the right status, before or while it comes; several at once do not cross the quota together."""
    async with running_lab(tmp_path / "lab", max_pin_bytes=1_000_000) as lab:
        browser = await lab.browser(await lab.member("Ann", quota=500_000))
        assert (await send(browser, b"x" * 1_000_001)).status_code == 413
        assert (await send(browser, b"x" * 500_001)).status_code == 409

        async def pieces() -> AsyncGenerator[bytes, None]:
            for _ in range(20):
                yield b"y" * 100_000

        async with contextlib.aclosing(pieces()) as coming:
            assert (await send(browser, coming)).status_code == 409
        found: list[int] = []

        async def one(seed: int) -> None:
            found.append((await send(browser, random.Random(seed).randbytes(200_000))).status_code)

        async with trio.open_nursery() as nursery:
            for seed in range(4):
                nursery.start_soon(one, seed)
        assert sorted(found) == [201, 201, 409, 409]
        assert (await browser.me())["used"] == 400_000
        assert len((await browser.get("/api/v1/files")).json()["items"]) == 2


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("page.html", b"<script>alert(1)</script>", "text/plain; charset=utf-8"),
        ("image.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "text/plain; charset=utf-8"),
        ("code.js", b"alert(1)", "text/plain; charset=utf-8"),
        ("data.json", b"{}", "application/json"),
        ("noname", b"<html><script>alert(1)</script>", "text/plain; charset=utf-8"),
        ("session.nwb", b"\x89HDF\r\n\x1a\n" + b"\0" * 600, "application/octet-stream"),
    ],
)
async def test_content_is_never_run(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    """Whatever it says it is, it is sent as something that a browser only shows, in a sandbox."""
    async with running_lab(tmp_path / "lab") as lab:
        browser = await lab.browser(await lab.member("Ann"))
        stored = await upload(browser, data, name)
        answer = await browser.get(f"/api/v1/files/{stored['id']}/content")
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, data, kind)
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_ranges_of_content(tmp_path: Path) -> None:
    """As RFC 9110 has them; what did not change is not sent again."""
    async with running_lab(tmp_path / "lab") as lab:
        browser = await lab.browser(await lab.member("Ann"))
        data = random.Random(2).randbytes(2_500_000)
        url = f"/api/v1/files/{(await upload(browser, data))['id']}/content"
        part = await browser.get(url, headers={"range": "bytes=1000000-2000009"})
        assert (part.status_code, part.content) == (206, data[1_000_000:2_000_010])
        assert part.headers["content-range"] == "bytes 1000000-2000009/2500000"
        assert (await browser.get(url, headers={"range": "bytes=-5"})).content == data[-5:]
        assert (await browser.get(url, headers={"range": "bytes=2500000-"})).status_code == 416
        again = await browser.get(url, headers={"if-none-match": part.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        whole = await browser.http.head(url)
        assert (whole.headers["content-length"], whole.content) == ("2500000", b"")


async def test_a_client_pins_into_a_project_if_it_may(tmp_path: Path) -> None:
    """With the token of a writer's client; others are refused, whatever their metadata say."""
    async with running_lab(tmp_path / "lab") as lab, origin(tmp_path / "origin") as theirs:
        ann, bob = await lab.member("Ann"), await lab.member("Bob")
        hers, his = await lab.browser(ann), await lab.browser(bob)
        made = await project(hers, "reef")
        laptop, other = await lab.register(hers, label="laptop"), await lab.register(his)
        cid = await theirs.store(b"of a client" * 1000)
        pin = {
            "cid": cid,
            "name": "reef.nwb",
            "origins": [theirs.addr],
            "meta": {"project": made["id"], "label": "reef.nwb"},
        }
        assert (await other.by_token("POST", "/pins", pin)).status_code == 403
        taken = await laptop.by_token("POST", "/pins", pin)
        assert taken.status_code == 202, taken.text
        while True:
            (row,) = (await hers.get("/api/v1/files?project=reef")).json()["items"]
            if row["status"] == "pinned":
                break
            with trio.move_on_after(0.1):
                await lab.server.queue.changes.wait(lab.server.queue.changes.count)
        assert (row["label"], row["client"], row["owner"]["id"]) == ("reef.nwb", laptop.key.peer_id, ann.id)
        assert (await laptop.by_token("GET", f"/api/v1/files/{row['id']}")).json() == row
        plain = {**pin, "meta": {"project": "nowhere"}}
        assert (await laptop.by_token("POST", "/pins", plain)).status_code == 403
        copies = (await hers.get(f"/api/v1/files/{row['id']}/copies")).json()
        assert [each["peer"] for each in copies["items"]] == [theirs.node.host.peer_id]


async def test_pages_of_files(tmp_path: Path) -> None:
    """Each file is on one page, whatever the list is of; a label is found by a part of it."""
    async with running_lab(tmp_path / "lab") as lab:
        ann = await lab.member("Ann", role="administrator")
        hers, his = await lab.browser(ann), await lab.browser(await lab.member("Bob"))
        await project(hers, "reef")
        for number in range(7):
            await upload(
                hers, f"{number}".encode(), f"Reef {number}.txt", **({"project": "reef"} if number % 2 else {})
            )
        await upload(his, b"his", "his.txt")

        async def labels(who: LabBrowser, query: str) -> list[str]:
            found: list[str] = []
            after = ""
            while True:
                answer = (await who.get(f"/api/v1/files?limit=2{query}{after}")).json()
                assert len(answer["items"]) <= 2
                found += [each["label"] for each in answer["items"]]
                if answer["next"] is None:
                    return found
                after = f"&after={answer['next']}"

        reef = [f"Reef {number}.txt" for number in (5, 3, 1)]
        assert await labels(hers, "&project=reef") == reef
        assert await labels(hers, "&mine=1") == [f"Reef {number}.txt" for number in range(6, -1, -1)]
        assert await labels(hers, "") == ["his.txt", *(f"Reef {number}.txt" for number in range(6, -1, -1))]
        assert await labels(his, "") == ["his.txt", *reef]
        assert await labels(hers, "&label=rEEF 3") == ["Reef 3.txt"]
        assert (await hers.get("/api/v1/files?after=x")).status_code == 400
        assert (await hers.get("/api/v1/files?project=none")).status_code == 404


async def test_what_is_in_a_folder(tmp_path: Path) -> None:
    """Its entries, and the content of a file in it; a folder has no bytes, and a file no entries."""
    folder = tmp_path / "experiment"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.bin").write_bytes(random.Random(3).randbytes(300_000))
    async with running_lab(tmp_path / "lab") as lab, origin(tmp_path / "origin") as theirs:
        browser = await lab.browser(await lab.member("Ann"))
        await project(browser, "reef")
        laptop = await lab.register(browser)
        (reef,) = (await browser.get("/api/v1/projects")).json()["items"]
        pin = {
            "cid": await theirs.store_directory(folder),
            "name": "experiment",
            "origins": [theirs.addr],
            "meta": {"project": reef["id"]},
        }
        made = (await laptop.by_token("POST", "/pins", pin)).json()["requestid"]
        while (await browser.get(f"/api/v1/files/{made}")).json()["status"] != "pinned":
            with trio.move_on_after(0.1):
                await lab.server.queue.changes.wait(lab.server.queue.changes.count)
        url = f"/api/v1/files/{made}"
        listed = (await browser.get(f"{url}/entries")).json()
        assert ([each["name"] for each in listed["items"]], listed["count"]) == (["a.txt", "sub"], 2)
        assert [each["name"] for each in (await browser.get(f"{url}/entries?path=sub")).json()["items"]] == ["b.bin"]
        part = await browser.get(f"{url}/content?path=sub/b.bin", headers={"range": "bytes=10-19"})
        assert part.content == (folder / "sub" / "b.bin").read_bytes()[10:20]
        assert (await browser.get(f"{url}/content")).status_code == 409
        assert (await browser.get(f"{url}/entries?path=a.txt")).status_code == 409
        for path in ("none", "../a.txt", "a.txt/b", "sub/./b.bin", "%00", "x" * 5000):
            assert (await browser.get(f"{url}/content", params={"path": path})).status_code in (400, 404), path
