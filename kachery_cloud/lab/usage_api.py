"""The route of usage: who has stored and loaded how much.

GET   /api/v1/usage?by=project|member|client|day&from=&to=&project=     several of `by` with commas between them
"""

from __future__ import annotations

from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kachery_cloud.lab.answers import Json, bad_request, query_of
from kachery_cloud.lab.lab import Lab
from kachery_cloud.lab.projects_rules import Operation
from kachery_cloud.lab.usage_store import UsageRow, day_text, days_of
from kachery_cloud.lab_places import BYS, By
from kachery_p2p.text import shown


def routes(lab: Lab) -> list[BaseRoute]:
    """Of usage."""
    usage, projects = lab.usage, lab.projects

    async def listed(request: Request) -> Response:
        caller = await lab.require(request)
        query = query_of(request, ("by", "from", "to", "project"))
        by = [word for word in query.get("by", "project").split(",") if word]
        for word in by:
            if word not in BYS:
                raise bad_request(f"by is {shown(word)}; it must be of {', '.join(BYS)}.")
        try:
            first, last = days_of((query.get("from"), query.get("to")), lab.wall())
        except ValueError as error:
            raise bad_request(f"from and to are days such as 2026-11-30: {error}.") from None
        project = None
        if query.get("project"):
            found = await lab.do(projects.named, query["project"])
            await lab.do(projects.check, Operation.SEE, caller.member, found)
            project = found.id
        await usage.flush()
        rows = await lab.do(usage.rows, caller.member, cast("list[By]", by), first, last, project)
        return Json(
            {"items": [row_json(row) for row in rows], "next": None, "from": day_text(first), "to": day_text(last)}
        )

    return [Route("/api/v1/usage", listed, methods=["GET"])]


def row_json(row: UsageRow) -> dict[str, Any]:
    """A row in JSON; what it does not tell apart is null."""
    key, sums = row.key, row.sums
    return {
        "day": None if key.day is None else day_text(key.day),
        "project": key.project,
        "member": key.member,
        "client": key.client,
        "names": dict(row.names),
        "bytes_stored": sums.bytes_stored,
        "bytes_served": sums.bytes_served,
        "blocks_served": sums.blocks_served,
        "pins": sums.pins,
    }
