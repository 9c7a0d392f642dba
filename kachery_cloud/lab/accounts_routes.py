"""The API of accounts: who one is, one's clients, and for administrators the members.

GET     /api/v1                            what the lab is; no sign-in
GET     /api/v1/me                         who one is
GET     /api/v1/clients                    one's computers; for administrators with ?member= those of others, or ?all=
DELETE  /api/v1/clients/{peer}
GET     /api/v1/members                    for administrators, as all that follow
POST    /api/v1/members                    {"name", "email", "role", "quota"} -> the member, and a link for him
PATCH   /api/v1/members/{id}               {"name", "role", "quota"}
DELETE  /api/v1/members/{id}
POST    /api/v1/members/{id}/invitation    another link
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kachery_cloud.lab import limits
from kachery_cloud.lab.accounts_store import ROLES, Client, Member
from kachery_cloud.lab.answers import (
    Json,
    bad_request,
    check_keys,
    email_of,
    forbidden,
    listed,
    not_found,
    query_of,
    quota_of,
    read_object,
    text_of,
)
from kachery_cloud.lab.lab import Lab
from kachery_cloud.utc import time_text
from kachery_p2p import __version__


def routes(lab: Lab) -> list[Route]:
    """What is answered here."""
    found = _Routes(lab)
    return [
        Route("/api/v1", found.about, methods=["GET"]),
        Route("/api/v1/me", found.me, methods=["GET"]),
        Route("/api/v1/clients", found.clients, methods=["GET"]),
        Route("/api/v1/clients/{peer}", found.remove_client, methods=["DELETE"]),
        Route("/api/v1/members", found.members, methods=["GET"]),
        Route("/api/v1/members", found.add_member, methods=["POST"]),
        Route("/api/v1/members/{id}", found.change_member, methods=["PATCH"]),
        Route("/api/v1/members/{id}", found.remove_member, methods=["DELETE"]),
        Route("/api/v1/members/{id}/invitation", found.invite_again, methods=["POST"]),
    ]


class _Routes:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def about(self, request: Request) -> Response:
        """What the lab is, for everybody: clients begin with it."""
        lab = self._lab
        base = lab.base(request)
        openid = bool(lab.config.openid_client_id)
        return Json(
            {
                "name": lab.config.lab_name,
                "version": __version__,
                "peer_id": str(lab.node.host.peer_id),
                "addresses": lab.node_addresses(),
                "sign_in": "openid" if openid else "invitation",
                "proofs": openid,
                "issuer": lab.config.openid_issuer if openid else None,
                "pins": f"{base}/pins",
                "gateway": lab.gateway(request),
                "url": base,
            }
        )

    async def me(self, request: Request) -> Response:
        caller = await self._lab.require(request)
        accounts = self._lab.accounts
        found = await self._lab.do(accounts.clients, caller.member.id)
        return Json(
            {
                **await self._lab.do(self._shown, caller.member),
                "csrf": None if caller.session is None else caller.session.csrf,
                "client": None if caller.client is None else caller.client.peer,
                "clients": [_client(each) for each in found],
            }
        )

    async def clients(self, request: Request) -> Response:
        caller = await self._lab.require(request)
        query = query_of(request, ("member", "all"))
        member: str | None = caller.member.id
        if query:
            if not caller.member.is_administrator:
                raise forbidden("The clients of others are for administrators of the lab.")
            member = query.get("member")
        found = await self._lab.do(self._lab.accounts.clients, member)
        return Json({"items": [_client(each) for each in found], "next": None})

    async def remove_client(self, request: Request) -> Response:
        caller = await self._lab.require(request)
        of = None if caller.member.is_administrator else caller.member.id
        if not await self._lab.do(self._lab.accounts.remove_client, request.path_params["peer"], of):
            raise not_found("There is no such client of yours.")
        await self._lab.projects.tidy()
        return Response(status_code=204)

    # --- for administrators -----------------------------------------------------------------------------------------

    async def members(self, request: Request) -> Response:
        await self._lab.require(request, "administrator")
        limit, after = listed(query_of(request, ("limit", "after")))

        def some() -> dict[str, Any]:
            found = self._lab.accounts.members(after=after, limit=limit + 1)
            items = [self._shown(each) for each in found[:limit]]
            return {"items": items, "next": found[limit - 1].id if len(found) > limit else None}

        return Json(await self._lab.do(some))

    async def add_member(self, request: Request) -> Response:
        await self._lab.require(request, "administrator")
        value = await read_object(request)
        check_keys(value, ("name", "email", "role", "quota"))
        name = text_of(value.get("name"), "The name", limits.MAX_NAME)
        email = None if value.get("email") is None else email_of(value["email"])
        role, quota = _role(value.get("role", "member")), quota_of(value.get("quota"))

        def add() -> Member:
            return self._lab.accounts.add_member(name, email=email, role=role, quota=quota)

        member = await self._lab.do(add)
        return Json({**await self._lab.do(self._shown, member), **await self._link(request, member)}, 201)

    async def change_member(self, request: Request) -> Response:
        await self._lab.require(request, "administrator")
        value = await read_object(request)
        check_keys(value, ("name", "role", "quota"))
        name = text_of(value["name"], "The name", limits.MAX_NAME) if "name" in value else None
        role = _role(value["role"]) if "role" in value else None
        quota = quota_of(value["quota"]) if "quota" in value else False

        def change() -> Member:
            return self._lab.accounts.change_member(request.path_params["id"], name=name, role=role, quota=quota)

        return Json(await self._lab.do(self._shown, await self._lab.do(change)))

    async def remove_member(self, request: Request) -> Response:
        await self._lab.require(request, "administrator")
        await self._lab.do(self._lab.accounts.remove_member, request.path_params["id"])
        await self._lab.projects.tidy()
        return Response(status_code=204)

    async def invite_again(self, request: Request) -> Response:
        await self._lab.require(request, "administrator")
        member = await self._lab.do(self._lab.accounts.member, request.path_params["id"])
        if member is None:
            raise not_found("There is no such member.")
        return Json(await self._link(request, member), 201)

    async def _link(self, request: Request, member: Member) -> dict[str, Any]:
        secret, made = await self._lab.do(self._lab.invitations.make, member.id)
        return {"invitation": f"{self._lab.base(request)}/invitation/{secret}", "expires": time_text(made.expires)}

    def _shown(self, member: Member) -> dict[str, Any]:
        return {
            "id": member.id,
            "name": member.name,
            "email": member.email,
            "role": member.role,
            "quota": member.quota,
            "used": self._lab.accounts.used(member.id),
            "added": time_text(member.added),
            "seen": None if member.seen is None else time_text(member.seen),
        }


def _role(value: object) -> Any:
    if value not in ROLES:
        raise bad_request(f"role is {' or '.join(ROLES)}.")
    return value


def _client(client: Client) -> dict[str, Any]:
    return {
        "peer": client.peer,
        "member": client.member,
        "label": client.label,
        "registered": time_text(client.registered),
        "seen": None if client.seen is None else time_text(client.seen),
    }
