"""Usage of a lab over HTTP: what was stored and served, and who sees it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.node.messages import LoadRequest
from tests.helpers.lab import LabBrowser, running_lab
from tests.helpers.pin_server import origin
from tests.unit.lab.test_projects_api import project, upload
from tests.unit.lab.test_projects_groups import machine


async def usage(browser: LabBrowser, query: str = "") -> list[dict[str, Any]]:
    """The rows."""
    answer = await browser.get(f"/api/v1/usage?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def test_what_was_stored_and_served(tmp_path: Path) -> None:
    """By project, member, client and day: the figures are those of what was moved; each sees what is theirs to see."""
    async with running_lab(tmp_path / "lab") as lab, origin(tmp_path / "stranger") as stranger:
        ann, bob = await lab.member("Ann"), await lab.member("Bob")
        hers, his = await lab.browser(ann), await lab.browser(bob)
        eve = await lab.member("Eve", role="administrator")
        admin = await lab.browser(eve)
        made = await project(hers, "reef")
        in_reef = await upload(hers, random.Random(1).randbytes(2_000_000), "reef.dat", project="reef")
        loose = await upload(his, random.Random(2).randbytes(100_000), "loose.dat")
        assert [(row["project"], row["bytes_stored"], row["pins"]) for row in await usage(admin)] == [
            (made["id"], 2_000_000, 1),
            (None, 100_000, 1),
        ]
        async with machine(tmp_path / "b", lab, his) as b:
            for cid in (in_reef["cid"], loose["cid"]):
                request = LoadRequest(CID.parse(cid), providers=(lab.node.host.addresses()[0],))
                await b.node.load(request)
            await stranger.node.load(LoadRequest(CID.parse(in_reef["cid"]), providers=(lab.node.host.addresses()[0],)))
            traffic = lab.node.exchange.stats()
            mine = traffic.peers[b.node.host.peer_id]
            theirs = traffic.peers[stranger.node.host.peer_id]
            rows = {row["client"]: row for row in await usage(admin, "by=client")}
            assert rows[b.node.host.peer_id]["bytes_served"] == mine.bytes_sent
            assert rows[b.node.host.peer_id]["blocks_served"] == mine.blocks_sent
            assert rows[b.node.host.peer_id]["names"] == {"client": "b"}
            assert rows[stranger.node.host.peer_id]["bytes_served"] == theirs.bytes_sent
            # What Bob has loaded is his, and the project's; what he keeps for himself is not Ann's.
            by_project = {row["project"]: row for row in await usage(admin)}
            assert by_project[made["id"]]["bytes_served"] == mine.bytes_sent + theirs.bytes_sent - 100_000
            assert by_project[None]["bytes_served"] == 100_000
            assert {row["project"] for row in await usage(hers)} == {made["id"]}
            assert {row["client"] for row in await usage(hers, "by=client")} == {
                None,
                "others",
                b.node.host.peer_id,
            }
            seen = {(row["member"], row["project"]) for row in await usage(his, "by=member,project")}
            assert seen == {(bob.id, made["id"]), (bob.id, None)}
            days = await usage(admin, "by=day&from=2025-12-30&to=2026-01-01")
            assert [row["day"] for row in days if row["bytes_served"]] == ["2026-01-01"]
            lab.wall.now += 86_400
            admin = await lab.browser(eve)  # nobody stays signed in so long
            (yesterday,) = [row for row in await usage(admin, "by=day") if row["day"] == "2026-01-01"]
            assert yesterday["bytes_served"] == mine.bytes_sent + theirs.bytes_sent
            (today,) = [row for row in await usage(admin, "by=day") if row["day"] == "2026-01-02"]
            assert (today["bytes_served"], today["bytes_stored"]) == (0, 2_100_000)


async def test_questions_that_cannot_be(tmp_path: Path) -> None:
    """Each with a sentence; nobody without a sign-in."""
    async with running_lab(tmp_path / "lab") as lab:
        browser = await lab.browser(await lab.member("Ann"))
        for query in ("by=colour", "from=yesterday", "from=2026-02-01&to=2026-01-01", "from=1970-01-01", "what=1"):
            answer = await browser.get(f"/api/v1/usage?{query}")
            assert answer.status_code == 400, query
            assert answer.json()["error"]["details"]
        assert (await browser.get("/api/v1/usage?project=none")).status_code == 404
        nobody = await lab.browser()
        for path in ("usage", "projects", "files", "node", "people"):
            assert (await nobody.get(f"/api/v1/{path}")).status_code == 401


async def test_the_health_of_the_node(tmp_path: Path) -> None:
    """Peers by latency, traffic, disk, queue; addresses for administrators alone."""
    async with running_lab(tmp_path / "lab") as lab, origin(tmp_path / "peer") as peer:
        browser = await lab.browser(await lab.member("Ann"))
        admin = await lab.browser(await lab.member("Eve", role="administrator"))
        await peer.node.connect(lab.node.host.addresses()[0])
        while not (await browser.get("/api/v1/node")).json()["peers"]:  # noqa: ASYNC110 - the other side tells nobody
            await trio.sleep(0.01)
        found = (await browser.get("/api/v1/node")).json()
        assert found["ready"] is True
        assert found["disk"]["free"] > 0
        assert found["queue"] == {"queued": 0, "pinning": 0, "pinned": 0, "failed": 0}
        (row,) = found["peers"]
        assert (row["peer"], "address" in row) == (peer.node.host.peer_id, False)
        assert (await admin.get("/api/v1/node")).json()["peers"][0]["address"]
