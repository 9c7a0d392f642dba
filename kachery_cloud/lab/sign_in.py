"""Coming in, and leaving: invitations, the OpenID provider, signing out. The pages around it are `static`'s.

    GET   /sign-in?next=PATH         to the provider, and from there to /sign-in/callback, and on to PATH; without a
                                     provider this is a page, which says that one needs a link
    GET   /sign-in/callback          the provider sends the browser back here
    POST  /invitation/{secret}       use an invitation -> {"next": PATH}, and a session; where there is a provider, PATH
                                     leads there first. GET of the same is a page with a button
    GET   /api/v1/invitations/{secret}   what an invitation says; it uses nothing up
    POST  /sign-out                  end the session

All that leads elsewhere is a path of ours, or the provider's own address.
"""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kachery_cloud.lab.answers import Json, not_found, time_text
from kachery_cloud.lab.invitations import Invitation
from kachery_cloud.lab.lab import Lab
from kachery_cloud.lab.sessions import COOKIE
from kachery_p2p.pinning.server.requests import Refusal

log = logging.getLogger("kachery_cloud.lab")


def routes(lab: Lab) -> list[Route]:
    """What is answered here."""
    found = _Routes(lab)
    return [
        Route("/invitation/{secret}", found.use_invitation, methods=["POST"]),
        Route("/api/v1/invitations/{secret}", found.invitation, methods=["GET"]),
        Route("/sign-out", found.sign_out, methods=["POST"]),
    ]


class _Routes:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def invitation(self, request: Request) -> Response:
        self._lab.count_entry(request)
        found = await self._find(request)
        member = await self._lab.do(self._lab.accounts.member, found.member)
        if member is None:
            raise _no_invitation()
        shown = {"name": member.name, "role": member.role, "expires": time_text(found.expires)}
        return Json({**shown, "lab": self._lab.config.lab_name})

    async def use_invitation(self, request: Request) -> Response:
        lab = self._lab
        lab.count_entry(request)
        lab.check_origin(request)
        await self._find(request)
        member = await lab.do(lab.invitations.use, request.path_params["secret"])
        if member is None or await lab.do(lab.accounts.member, member) is None:
            raise _no_invitation()
        response = Json({"next": "/"})
        await lab.begin_session(request, response, member)
        log.info("an invitation of member %s was used", member)
        return response

    async def _find(self, request: Request) -> Invitation:
        found = await self._lab.do(self._lab.invitations.find, request.path_params["secret"])
        if found is None:
            raise _no_invitation()
        return found

    async def sign_out(self, request: Request) -> Response:
        lab = self._lab
        await lab.who(request)  # a page of somebody else signs nobody out
        secret = lab.session_secret(request)
        if secret is not None:
            await lab.do(lab.sessions.end, secret)
        response = Json({"next": "/"})
        lab.set_cookie(request, response, COOKIE, "", 0)
        # What the browser keeps of the pages goes as well (https://www.w3.org/TR/clear-site-data/).
        response.headers["clear-site-data"] = '"cache", "storage"'
        return response


def _no_invitation() -> Refusal:
    return not_found("There is no such invitation: it was used, or has expired. Ask for another one.")
