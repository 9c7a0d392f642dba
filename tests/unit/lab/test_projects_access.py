"""Who may do what, over HTTP: each cell of the table, as the routes have it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from kachery_cloud.lab.projects_rules import Operation, Standing, allowed
from kachery_cloud.lab_places import ROLES, VISIBILITIES, ProjectRole, Visibility
from tests.helpers.lab import LabBrowser, LabClient, RunningLab, running_lab
from tests.unit.lab.test_projects_api import project, send, upload

#: Who asks, beside the owner of the file: in the project, or not; and whoever administers the lab.
PEOPLE: dict[str, Standing] = {
    "nobody": Standing(),
    **{role: Standing(role) for role in ROLES},
    "lab": Standing(lab_administrator=True),
    "owner": Standing("writer", own=True),
    "former": Standing(own=True),
}


class _People:
    """A project with a file in it, and browsers and clients of all who may ask."""

    def __init__(self, lab: RunningLab, visibility: Visibility) -> None:
        self._lab = lab
        self.visibility = visibility
        self.browsers: dict[str, LabBrowser] = {}
        self.clients: dict[str, LabClient] = {}
        self.project = ""

    async def begin(self) -> None:
        founder = await self._lab.browser(await self._lab.member("Founder"))
        made = await project(founder, f"p-{self.visibility}", visibility=self.visibility)
        self.project = made["id"]
        for name, standing in PEOPLE.items():
            role = "administrator" if standing.lab_administrator else "member"
            person = await self._lab.member(f"{name} {self.visibility}", role=role)
            self.browsers[name] = await self._lab.browser(person)
            self.clients[name] = await self._lab.register(self.browsers[name])
            given: ProjectRole | None = "writer" if name == "former" else standing.role
            if given is not None:
                url = f"/api/v1/projects/{self.project}/members/{person.id}"
                assert (await founder.call("PUT", url, {"role": given})).status_code == 200

    async def file_of(self, name: str) -> str:
        """A file that is theirs where they are to be its owner, else somebody else's."""
        owner = name if PEOPLE[name].own else "writer" if name != "writer" else "owner"
        return (await upload(self.browsers[owner], b"content", project=self.project))["id"]

    async def ask(self, name: str, operation: Operation, file: str) -> int:
        """The status of an answer to somebody who does something."""
        browser, url = self.browsers[name], f"/api/v1/projects/{self.project}"
        if operation is Operation.SEE:
            return (await browser.get(f"/api/v1/files/{file}")).status_code
        if operation is Operation.READ:
            return (await browser.get(f"/api/v1/files/{file}/content")).status_code
        if operation is Operation.WRITE:
            return (await send(browser, b"more", project=self.project)).status_code
        if operation is Operation.ADMINISTER:
            return (await browser.call("PATCH", url, {"description": name})).status_code
        if operation is Operation.INVITE:
            return (await self.clients[name].by_token("POST", f"{url}/invitation")).status_code
        return (await browser.call("DELETE", f"/api/v1/files/{file}")).status_code


@pytest.mark.parametrize("visibility", VISIBILITIES)
async def test_each_route(tmp_path: Path, visibility: Visibility) -> None:
    """It is carried out for those who may, and for nobody else; to who may not see it, it is not there."""
    async with running_lab(tmp_path / "lab") as lab:
        people = _People(lab, visibility)
        await people.begin()
        files = {name: await people.file_of(name) for name in PEOPLE}
        # Who has left the project has lost the role, and not what they have stored.
        gone = await people.browsers["former"].me()
        url = f"/api/v1/projects/{people.project}/members/{gone['id']}"
        assert (await people.browsers["former"].call("DELETE", url)).status_code == 204
        for operation, (name, who) in itertools.product(Operation, PEOPLE.items()):
            status = await people.ask(name, operation, files[name])
            if allowed(operation, visibility, who):
                assert status in (200, 201, 204), (operation, name)
            elif allowed(Operation.SEE, visibility, who) and not (
                # Of a project that is for its members alone a former one sees their own file, and not the project.
                name == "former" and operation in (Operation.WRITE, Operation.ADMINISTER, Operation.INVITE)
            ):
                assert status in (403, 409), (operation, name)
            else:
                assert status in (403, 404, 409), (operation, name)


async def test_files_that_are_in_no_project(tmp_path: Path) -> None:
    """They are their owner's; whoever administers the lab sees what they take, and can take them away."""
    async with running_lab(tmp_path / "lab") as lab:
        owner = await lab.browser(await lab.member("Ann"))
        other = await lab.browser(await lab.member("Bob"))
        admin = await lab.browser(await lab.member("Eve", role="administrator"))
        file = (await upload(owner, b"hers"))["id"]
        url = f"/api/v1/files/{file}"
        assert [(await each.get(url)).status_code for each in (owner, other, admin)] == [200, 404, 200]
        statuses = [(await each.get(f"{url}/content")).status_code for each in (owner, other, admin)]
        assert statuses == [200, 404, 403]
        assert (await other.call("DELETE", url)).status_code == 404
        assert (await admin.call("DELETE", url)).status_code == 204
        assert (await owner.get(url)).status_code == 404
        # What changes something needs the token of the session.
        made = await project(owner, "reef")
        told = {"x-csrf-token": "wrong", "sec-fetch-site": "same-origin"}
        for method, path in (("DELETE", f"/api/v1/projects/{made['id']}"), ("POST", "/api/v1/files?name=a")):
            assert (await owner.http.request(method, path, headers=told)).status_code == 403
