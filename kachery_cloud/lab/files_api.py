"""The routes of files: see them, upload, read, and take them away.

    GET, POST     /api/v1/files                         list; upload (the body is the file)
    GET, DELETE   /api/v1/files/<id>
    GET           /api/v1/files/<id>/content?path=      bytes of it, or of a file in a folder; ranges as in RFC 9110
    GET           /api/v1/files/<id>/entries?path=      what is in a folder
    GET           /api/v1/files/<id>/copies             who else has it

What members have stored comes from this origin, which has sessions. So it is never sent as something that a browser
runs: its type is one of a few that only show, and a sandbox is around it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from kachery_cloud.lab.answers import (
    Json,
    bad_request,
    conflict,
    listed,
    not_found,
    query_of,
)
from kachery_cloud.lab.files import FileShown, Reader
from kachery_cloud.lab.lab import Lab
from kachery_cloud.lab.projects_rules import Operation
from kachery_cloud.uri import format_uri
from kachery_cloud.utc import time_text
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import KacheryError
from kachery_p2p.gateway.server.content import Content, ResolvedPath
from kachery_p2p.gateway.server.pages import disposition, type_by_content, type_by_name
from kachery_p2p.gateway.server.paths import PathRefusal
from kachery_p2p.gateway.server.ranges import matches, may_resume, requested_ranges
from kachery_p2p.node.messages import WhereisRequest
from kachery_p2p.pinning.server.limits import MAX_NAME
from kachery_p2p.pinning.server.requests import Refusal
from kachery_p2p.text import printable

#: Types that a browser shows and does not run. Everything else is text, or bytes.
_SHOWN = (
    "application/json",
    "application/pdf",
    "audio/",
    "image/avif",
    "image/bmp",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/tiff",
    "image/webp",
    "text/csv",
    "text/plain",
    "video/",
)
#: Types that are text, and would be run, or lead to something that is.
_ACTIVE = ("text/", "application/xml", "application/xhtml+xml", "image/svg+xml", "application/javascript")
_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private, no-cache",
    "accept-ranges": "bytes",
}
#: Characters of a path in a folder.
MAX_PATH = 4096
#: Seconds in which others are asked whether they have a file.
COPIES_SECONDS = 10.0


def routes(lab: Lab) -> list[BaseRoute]:
    """Of files."""
    files, projects = lab.files, lab.projects
    reader = Reader(lab.node)

    async def several(request: Request) -> Response:
        caller = await lab.require(request)
        if request.method == "POST":
            return await upload(request, caller.member)
        query = query_of(request, ("project", "mine", "label", "limit", "after"))
        limit, after = listed(query)
        mine = query.get("mine", "")
        if mine not in ("", "0", "1", "true", "false"):
            raise bad_request("mine is 1, or left out.")

        def page() -> tuple[list[FileShown], str | None]:
            return files.page(
                caller.member,
                limit,
                project=query.get("project", ""),
                mine=mine in ("1", "true"),
                label=query.get("label", ""),
                after=after,
            )

        found, more = await lab.do(page)
        return Json({"items": [file_json(each) for each in found], "next": more})

    async def upload(request: Request, member: Any) -> Response:
        query = query_of(request, ("name", "project"))
        name = query.get("name", "").strip()
        if len(name) > MAX_NAME or printable(name) != name or "/" in name:
            raise bad_request(f"name is that of a file: up to {MAX_NAME} characters that can be shown, and no slash.")
        project = None
        if query.get("project"):
            project = await lab.do(projects.named, query["project"])
            await lab.do(projects.check, Operation.WRITE, member, project)
        text = request.headers.get("content-length", "")
        length = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

        async def pieces() -> AsyncGenerator[bytes, None]:
            try:
                async with contextlib.aclosing(cast("AsyncGenerator[bytes, None]", request.stream())) as stream:
                    async for piece in stream:
                        yield piece
            except ClientDisconnect:
                raise Refusal(400, "BAD_REQUEST", "The file did not come whole; nothing of it is kept.") from None

        async with contextlib.aclosing(pieces()) as coming:
            pin = await lab.uploads.take(member, coming, length, name, project)
        projects.has_changed()
        shown = await lab.do(files.get, member, pin.request_id)
        return Json(file_json(shown), 201)

    async def one(request: Request) -> Response:
        caller = await lab.require(request)
        query_of(request, ())
        id = request.path_params["id"]
        if request.method == "DELETE":
            await lab.do(files.delete, caller.member, id)
            lab.wake_pins()
            return Response(status_code=204)
        return Json(file_json(await lab.do(files.get, caller.member, id)))

    async def found(request: Request, query: dict[str, str]) -> tuple[FileShown, Content, ResolvedPath, list[str]]:
        caller = await lab.require(request)
        shown = await lab.do(files.get, caller.member, request.path_params["id"], Operation.READ)
        names = [name for name in query.get("path", "").split("/") if name]
        if len(query.get("path", "")) > MAX_PATH or "." in names or ".." in names:
            raise bad_request("path has the names of folders and of a file, with slashes between them.")
        content = reader.content(shown.project)
        try:
            return shown, content, await content.find(shown.pin.pin.root, names), names
        except KacheryError:
            raise not_found("This is not here, or not yet.") from None

    async def content(request: Request) -> Response:
        query = query_of(request, ("path", "download"))
        shown, content, at, names = await found(request, query)
        try:
            size = at.size
        except KacheryError:
            raise conflict("NOT_A_FILE", "This is a folder; `entries` lists what is in it.") from None
        etag = f'"{at.cid}"'
        headers = {**_HEADERS, "etag": etag}
        if matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        name = names[-1] if names else shown.pin.label
        headers["content-type"] = await _type(content, at, name)
        headers["content-disposition"] = disposition("attachment" if "download" in query else "inline", name or "file")
        wanted = request.headers.get("range") if may_resume(request.headers.get("if-range"), etag) else None
        try:
            ranges = requested_ranges(wanted, size)
        except PathRefusal as refusal:
            raise Refusal(refusal.status, "RANGE_NOT_SATISFIABLE", str(refusal), refusal.headers) from None
        # Several ranges are asked for by nobody here, and the whole file is a right answer to them.
        start, end = ranges[0] if len(ranges) == 1 else (0, size)
        headers["content-length"] = str(end - start)
        if len(ranges) == 1:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        status = 206 if len(ranges) == 1 else 200
        if request.method == "HEAD" or start == end:
            return Response(status_code=status, headers=headers)
        pieces = content.pieces(at, start, end)
        try:
            first = await anext(pieces)
        except KacheryError:
            raise not_found("This is not all here, or not yet.") from None

        async def body() -> AsyncGenerator[bytes, None]:
            async with contextlib.aclosing(pieces):
                yield first
                async for piece in pieces:
                    yield piece

        return StreamingResponse(body(), status, headers)

    async def entries(request: Request) -> Response:
        query = query_of(request, ("path",))
        shown, content, at, names = await found(request, query)
        if at.unixfs_kind not in (DataType.DIRECTORY, DataType.HAMT_SHARD):
            raise conflict("NOT_A_FOLDER", "This is a file; `content` gives its bytes.")
        try:
            rows, count = await content.entries(at)
        except KacheryError:
            raise not_found("This is not all here, or not yet.") from None
        items = [
            {"name": each.name, "cid": str(each.cid), "bytes": each.tsize}
            for each in sorted(rows, key=lambda each: each.name)
        ]
        return Json(
            {"items": items, "next": None, "count": count, "path": "/".join(names), "id": shown.pin.pin.request_id}
        )

    async def copies(request: Request) -> Response:
        query_of(request, ())
        caller = await lab.require(request)
        shown = await lab.do(files.get, caller.member, request.path_params["id"], Operation.READ)
        groups = () if shown.project is None or shown.project.group is None else (shown.project.group,)
        if shown.project is not None and shown.project.visibility == "public":
            groups = ()
        asked = WhereisRequest(shown.pin.pin.root, COPIES_SECONDS, groups=groups)
        rows = await lab.node.whereis(asked, lambda row: None)
        labels = {each.peer: each.label for each in await lab.do(lab.accounts.clients)}
        items = [
            {
                "peer": row.peer,
                "label": labels.get(row.peer or "", ""),
                "connected": row.connected,
                "round_trip_ms": row.round_trip_ms,
                "found_by": list(row.found_by) or [row.source],
            }
            for row in rows
            if row.has
        ]
        return Json({"items": items, "next": None, "asked": len(rows)})

    return [
        Route("/api/v1/files", several, methods=["GET", "POST"]),
        Route("/api/v1/files/{id}", one, methods=["GET", "DELETE"]),
        Route("/api/v1/files/{id}/content", content, methods=["GET"]),
        Route("/api/v1/files/{id}/entries", entries, methods=["GET"]),
        Route("/api/v1/files/{id}/copies", copies, methods=["GET"]),
    ]


async def _type(content: Content, at: ResolvedPath, name: str) -> str:
    """The media type of a file: one of those that a browser only shows."""
    kind = type_by_name(name)
    if kind is None:
        try:
            kind = type_by_content(await content.head(at), at.size)
        except KacheryError:
            raise not_found("This is not all here, or not yet.") from None
    if kind.startswith(_SHOWN):
        return kind
    return "text/plain; charset=utf-8" if kind.startswith(_ACTIVE) else "application/octet-stream"


def file_json(shown: FileShown) -> dict[str, Any]:
    """A file in JSON."""
    owned, pin, project = shown.pin, shown.pin.pin, shown.project
    groups = () if project is None or project.group is None or project.visibility == "public" else (project.group,)
    return {
        "id": pin.request_id,
        "uri": format_uri(pin.cid, label=owned.label or None, groups=groups),
        "cid": pin.cid,
        "label": owned.label,
        "size": pin.size,
        "project": None if project is None else project.id,
        "client": shown.client,
        "owner": None if shown.owner is None else {"id": shown.owner.id, "name": shown.owner.name},
        "status": pin.status,
        "details": pin.details,
        "stored": time_text(pin.created / 1e6),
    }
