"""The routes of projects: see them, make and change them, and who is in them.

GET, POST                 /api/v1/projects
GET, PATCH, DELETE        /api/v1/projects/<id or name>
PUT, DELETE               /api/v1/projects/<id or name>/members/<member>
POST                      /api/v1/projects/<id or name>/invitation    for the client that asks
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kachery_cloud.lab.accounts_store import Member
from kachery_cloud.lab.answers import Json, bad_request, check_keys, conflict, not_found, query_of, read_object
from kachery_cloud.lab.answers import listed as page_of
from kachery_cloud.lab.lab import Lab
from kachery_cloud.lab.projects import ProjectShown
from kachery_cloud.lab.projects_rules import Operation
from kachery_cloud.lab.projects_store import check_description, check_name, check_role, check_visibility


def routes(lab: Lab) -> list[BaseRoute]:
    """Of projects."""
    projects = lab.projects

    async def listed(request: Request) -> Response:
        caller = await lab.require(request)
        if request.method == "POST":
            value = await read_object(request)
            check_keys(value, ("name", "description", "visibility"))
            name = check_name(value.get("name"))
            description = check_description(value.get("description", ""))
            visibility = check_visibility(value.get("visibility", "public"))
            made = await lab.do(projects.create, caller.member, name, description, visibility)
            await projects.settle()
            return Json(project_json(await lab.do(projects.shown, caller.member, made)), 201)
        query_of(request, ())
        found = await lab.do(projects.seen_by, caller.member)
        return Json({"items": [project_json(each) for each in found], "next": None})

    async def one(request: Request) -> Response:
        caller = await lab.require(request)
        project = await lab.do(projects.named, request.path_params["project"])
        changes = request.method in ("PATCH", "DELETE")
        await lab.do(projects.check, Operation.ADMINISTER if changes else Operation.SEE, caller.member, project)
        if request.method == "DELETE":
            files = query_of(request, ("files",)).get("files")
            if files not in (None, "delete"):
                raise bad_request("files can be 'delete', or is left out.")

            def delete() -> None:
                projects.delete(project, files=files == "delete")

            await lab.do(delete)
            lab.wake_pins()
            await projects.settle()
            return Response(status_code=204)
        if request.method == "PATCH":
            value = await read_object(request)
            check_keys(value, ("name", "description", "visibility"))
            name = check_name(value["name"]) if "name" in value else None
            description = check_description(value["description"]) if "description" in value else None
            visibility = check_visibility(value["visibility"]) if "visibility" in value else project.visibility
            if visibility != project.visibility:
                if visibility == "members":
                    raise conflict(
                        "WAS_PUBLIC",
                        "What was for everybody cannot be taken back: others may have it. Make another project.",
                    )
                await lab.do(projects.publish, project)
                await projects.settle()
            await lab.do(lambda: projects.store.change(project.id, name=name, description=description))
            project = await lab.do(projects.named, project.id)
        query_of(request, ())
        return Json(project_json(await lab.do(projects.shown, caller.member, project)))

    async def member(request: Request) -> Response:
        caller = await lab.require(request)
        project = await lab.do(projects.named, request.path_params["project"])
        id = request.path_params["member"]
        leaves = request.method == "DELETE" and id == caller.member.id
        who = await lab.do(projects.check, Operation.SEE if leaves else Operation.ADMINISTER, caller.member, project)
        keep_one = not who.lab_administrator
        if request.method == "DELETE":

            def remove() -> bool:
                return projects.remove_member(project, id, keep_one=keep_one)

            if not await lab.do(remove):
                raise not_found("There is no such member of the project.")
            await projects.settle()
            return Response(status_code=204)
        value = await read_object(request)
        check_keys(value, ("role",))
        role = check_role(value.get("role"))

        def change() -> None:
            projects.set_member(project, id, role, keep_one=keep_one)

        await lab.do(change)
        await projects.settle()
        return Json(project_json(await lab.do(projects.shown, caller.member, project)))

    async def invitation(request: Request) -> Response:
        caller = await lab.require(request)
        project = await lab.do(projects.named, request.path_params["project"])
        if caller.client is None:
            raise bad_request("An invitation is for a client: ask for it with one (kachery-cloud-projects join).")
        if project.group is None or project.visibility == "public":
            await lab.do(projects.check, Operation.SEE, caller.member, project)
            raise conflict("PUBLIC", f"The project {project.name} is for everybody, so there is nothing to join.")
        who = await lab.do(projects.check, Operation.INVITE, caller.member, project)
        text = await lab.do(projects.invitation, project, who.role, lab.node.host.addresses())
        await projects.settle()
        return Json({"invitation": text, "group": project.group})

    async def people(request: Request) -> Response:
        await lab.require(request)
        query = query_of(request, ("limit", "after"))
        limit, after = page_of(query)

        def find() -> list[Member]:
            return lab.accounts.members(after=after, limit=limit + 1)

        found = await lab.do(find)
        items = [{"id": each.id, "name": each.name, "email": each.email} for each in found[:limit]]
        return Json({"items": items, "next": found[limit - 1].id if len(found) > limit else None})

    return [
        Route("/api/v1/people", people, methods=["GET"]),
        Route("/api/v1/projects", listed, methods=["GET", "POST"]),
        Route("/api/v1/projects/{project}", one, methods=["GET", "PATCH", "DELETE"]),
        Route("/api/v1/projects/{project}/members/{member}", member, methods=["PUT", "DELETE"]),
        Route("/api/v1/projects/{project}/invitation", invitation, methods=["POST"]),
    ]


def project_json(shown: ProjectShown) -> dict[str, Any]:
    """A project in JSON."""
    project = shown.project
    return {
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "visibility": project.visibility,
        "group": project.group,
        "role": shown.role,
        "members": [{"id": each.id, "name": each.name, "role": each.role} for each in shown.members],
        "bytes": shown.sum.bytes,
        "files": shown.sum.pins,
    }
