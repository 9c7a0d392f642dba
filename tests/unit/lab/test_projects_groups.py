"""Projects for their members alone: who is let into their groups, and who is taken out, with a real node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kachery_p2p.access.audience import PUBLIC, group_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvitationRefused
from kachery_p2p.node.node import Node
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from tests.helpers.lab import LabBrowser, LabClient, RunningLab, running_lab
from tests.helpers.pin_server import LISTEN
from tests.unit.lab.test_projects_api import project, upload


class _Machine:
    """A machine with a node, and its client of a lab."""

    def __init__(self, node: Node, client: LabClient) -> None:
        self.node = node
        self.client = client

    async def invitation(self, id: str) -> Any:
        """The answer to asking for one."""
        return await self.client.by_token("POST", f"/api/v1/projects/{id}/invitation")

    async def join(self, id: str) -> str:
        """Join the group of a project; its ID."""
        answer = await self.invitation(id)
        assert answer.status_code == 200, answer.text
        return await self.node.membership.join_by(answer.json()["invitation"], "", 20.0)


@contextlib.asynccontextmanager
async def machine(folder: Path, lab: RunningLab, browser: LabBrowser) -> AsyncIterator[_Machine]:
    """A machine that somebody has registered, and whose node runs as long as this does."""
    with Repo.open(folder) as repo:
        key = load_or_create_identity(folder)
        client = await lab.register(browser, await lab.client(key), label=folder.name)
        node = Node(repo, key, listen=[LISTEN])
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            yield _Machine(node, client)
            nursery.cancel_scope.cancel()


def members(lab: RunningLab, group: str) -> set[str]:
    """Who is in a group beside the lab's node."""
    return set(lab.node.groups.members_of(group)) - {lab.node.host.peer_id}


async def test_who_is_in_its_group(tmp_path: Path) -> None:
    """Clients of its members, who ask for it; with a member all of theirs go, and with a client that one."""
    async with running_lab(tmp_path / "lab") as lab:
        ann, bob = await lab.member("Ann"), await lab.member("Bob")
        hers, his = await lab.browser(ann), await lab.browser(bob)
        made = await project(hers, "cortex", visibility="members")
        url, group = f"/api/v1/projects/{made['id']}", made["group"]
        async with (
            machine(tmp_path / "a", lab, hers) as a,
            machine(tmp_path / "b", lab, his) as b,
            machine(tmp_path / "c", lab, his) as c,
        ):
            # What is for its members alone is not even known to others.
            assert (await b.invitation(made["id"])).status_code == 404
            assert (await hers.call("PUT", f"{url}/members/{bob.id}", {"role": "reader"})).status_code == 200
            for each in (a, b, c):
                assert await each.join(made["id"]) == group
            assert members(lab, group) == {each.node.host.peer_id for each in (a, b, c)}
            held = a.node.groups.get(group)
            assert held is not None
            roles = {peer: entry.role.word for peer, entry in held.state.view.members.items()}
            assert roles[a.node.host.peer_id] == "writer"
            assert (await hers.call("PUT", f"{url}/members/{bob.id}", {"role": "writer"})).status_code == 200
            before = lab.node.groups.secrets_of(group)[0]
            assert (await his.call("DELETE", f"/api/v1/clients/{c.node.host.peer_id}")).status_code == 204
            assert members(lab, group) == {each.node.host.peer_id for each in (a, b)}
            assert lab.node.groups.secrets_of(group)[0] != before
            # An invitation that was asked for before does not let back in who has left.
            kept = (await b.invitation(made["id"])).json()["invitation"]
            assert (await his.call("DELETE", f"{url}/members/{bob.id}")).status_code == 204  # he leaves by himself
            assert members(lab, group) == {a.node.host.peer_id}
            with pytest.raises(InvitationRefused):
                await b.node.membership.join_by(kept, "", 20.0)
            # Nor does it somebody who has got hold of it.
            leaked = (await a.invitation(made["id"])).json()["invitation"]
            with pytest.raises(InvitationRefused):
                await c.node.membership.join_by(leaked, "", 20.0)
            assert members(lab, group) == {a.node.host.peer_id}


async def test_what_is_in_it_is_for_its_members(tmp_path: Path) -> None:
    """Uploads are for the group, and pins are fetched as they are; others read nothing of it until it is public."""
    async with running_lab(tmp_path / "lab") as lab:
        ann = await lab.member("Ann")
        eve = await lab.member("Eve", role="administrator")
        hers, others = await lab.browser(ann), await lab.browser(eve)
        made = await project(hers, "cortex", visibility="members")
        audience = group_audience([made["group"]])
        uploaded = await upload(hers, b"uploaded" * 5000, "u.txt", project="cortex")
        assert lab.node.repo.access.audience_of(CID.parse(uploaded["cid"])) == audience
        assert made["group"] in uploaded["uri"]
        async with machine(tmp_path / "a", lab, hers) as a:
            await a.join(made["id"])

            def store() -> str:
                return str(a.node.repo.store_bytes(b"of a client" * 9000, audience=audience).cid)

            cid = await trio.to_thread.run_sync(store)
            pin = {
                "cid": cid,
                "name": "c.txt",
                "origins": [a.node.host.addresses()[0]],
                "meta": {"project": made["id"], "label": "c.txt"},
            }
            assert (await a.client.by_token("POST", "/pins", pin)).status_code == 202
            await pinned(lab, hers, "c.txt")
        assert lab.node.repo.access.audience_of(CID.parse(cid)) == audience
        files = (await hers.get("/api/v1/files?project=cortex")).json()["items"]
        for each in files:
            url = f"/api/v1/files/{each['id']}"
            assert (await hers.get(f"{url}/content")).status_code == 200
            # Whoever administers the lab sees what it takes, and not what it is.
            assert (await others.get(url)).json()["size"] == each["size"]
            assert (await others.get(f"{url}/content")).status_code == 403
        # Another pin of the same bytes, in no project, opens them to nobody.
        theirs = await lab.register(others, label="eve")
        await theirs.by_token("POST", "/pins", {"cid": cid})
        (own,) = (await others.get("/api/v1/files?mine=1")).json()["items"]
        assert own["status"] != "pinned"
        assert (await others.get(f"/api/v1/files/{own['id']}/content")).status_code == 404
        back = await hers.call("PATCH", f"/api/v1/projects/{made['id']}", {"visibility": "public"})
        assert back.json()["visibility"] == "public"
        assert lab.node.repo.access.audience_of(CID.parse(cid)) == PUBLIC
        assert (await others.get(f"/api/v1/files/{files[0]['id']}/content")).status_code == 200
        again = await hers.call("PATCH", f"/api/v1/projects/{made['id']}", {"visibility": "members"})
        assert (again.status_code, again.json()["error"]["reason"]) == (409, "WAS_PUBLIC")


async def pinned(lab: RunningLab, browser: LabBrowser, label: str) -> dict[str, Any]:
    """Wait until a file is pinned."""
    while True:
        seen = lab.server.queue.changes.count
        found = (await browser.get("/api/v1/files", params={"label": label})).json()["items"]
        assert all(each["status"] != "failed" for each in found), found
        if found and found[0]["status"] == "pinned":
            return found[0]
        with trio.move_on_after(0.1):
            await lab.server.queue.changes.wait(seen)


async def test_a_project_goes_with_its_group(tmp_path: Path) -> None:
    """Its machines are in no group any more, and the node has none."""
    async with running_lab(tmp_path / "lab") as lab:
        hers = await lab.browser(await lab.member("Ann"))
        made = await project(hers, "cortex", visibility="members")
        async with machine(tmp_path / "a", lab, hers) as a:
            await a.join(made["id"])
            assert (await hers.call("DELETE", f"/api/v1/projects/{made['id']}")).status_code == 204
            assert lab.node.groups.own_groups() == frozenset()
