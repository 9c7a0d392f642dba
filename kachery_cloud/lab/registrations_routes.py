"""The API of registrations.

    POST  /api/v1/registrations                 signed by the client's key; {"label", "nonce"} ->
                                                {"id", "url", "secret", "code", "expires"}
    GET   /api/v1/registrations/{id}            with the secret (Authorization: Bearer):
                                                {"state", "owner", "token", "proof"}
                                                in a session, for the page: {"state", "peer", "label", "code", ...}
    POST  /api/v1/registrations/{id}/register   in a session
    POST  /api/v1/registrations/{id}/refuse     in a session

`url` is the page `/register/{id}`. Where there is an OpenID provider, `nonce` commits to the computer's key
(`kachery_cloud.ownership.claims`): who signs in by `/sign-in?next=/register/{id}` does so with it, and when he then
registers the computer, `proof` is `{"id_token", "issuer", "client_id", "keys"}`, of which the computer makes its own.
Else it is null. `GET /api/v1` says with `proofs` whether there can be any.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kachery_cloud.lab import limits
from kachery_cloud.lab.answers import (
    Json,
    bad_request,
    check_keys,
    forbidden,
    not_found,
    read_object,
    text_of,
)
from kachery_cloud.lab.lab import Lab
from kachery_cloud.lab.registrations import token_of
from kachery_cloud.utc import time_text
from kachery_p2p.pinning.server.requests import Refusal

log = logging.getLogger("kachery_cloud.lab")

_NONCE = re.compile(r"[A-Za-z0-9_-]{43}")


def routes(lab: Lab) -> list[Route]:
    """What is answered here."""
    found = _Routes(lab)
    return [
        Route("/api/v1/registrations", found.begin, methods=["POST"]),
        Route("/api/v1/registrations/{id}", found.look, methods=["GET"]),
        Route("/api/v1/registrations/{id}/register", found.register, methods=["POST"]),
        Route("/api/v1/registrations/{id}/refuse", found.refuse, methods=["POST"]),
    ]


class _Routes:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._registrations = lab.registrations

    async def begin(self, request: Request) -> Response:
        self._lab.count_entry(request)
        peer = await self._lab.signer(request)
        value = await read_object(request)
        check_keys(value, ("label", "nonce"))
        label = text_of(value.get("label"), "The label", limits.MAX_LABEL)
        nonce = value.get("nonce")
        if nonce is not None and not (isinstance(nonce, str) and _NONCE.fullmatch(nonce)):
            raise bad_request("The nonce must be 43 characters of base64url: a hash of 256 bits.")
        secret, made = await self._lab.do(self._registrations.begin, peer, label, self._lab.address(request), nonce)
        shown = {
            "id": made.id,
            "url": f"{self._lab.base(request)}/register/{made.id}",
            "secret": secret,
            "code": made.code,
            "expires": time_text(made.expires),
        }
        return Json(shown, 201)

    async def look(self, request: Request) -> Response:
        scheme, _, secret = request.headers.get("authorization", "").strip().partition(" ")
        if scheme.lower() == "bearer":
            return await self._for_client(request, secret.strip())
        await self._in_session(request)
        found = await self._lab.do(self._registrations.find, request.path_params["id"])
        if found is None:
            raise _no_such()
        client = await self._lab.do(self._lab.accounts.client, found.peer)
        shown = {
            "id": found.id,
            "state": found.state,
            "peer": found.peer,
            "label": found.label,
            "code": found.code,
            "address": found.address,
            "made": time_text(found.made),
            "expires": time_text(found.expires),
            "registered": client is not None,
        }
        return Json(shown)

    async def _for_client(self, request: Request, secret: str) -> Response:
        lab = self._lab
        found = await lab.do(self._registrations.of_secret, request.path_params["id"], secret)
        if found is None:
            raise _no_such()
        shown: dict[str, Any] = {"state": found.state, "owner": None, "token": None, "proof": None}
        if found.state == "registered" and found.member is not None:
            member = await lab.do(lab.accounts.member, found.member)
            client = await lab.do(lab.accounts.client, found.peer)
            if member is None or client is None or client.member != member.id:
                return Json({**shown, "state": "refused"})
            proof = await lab.do(lab.accounts.proof, found.peer)
            shown["owner"] = {"name": member.name, "email": member.email}
            shown["token"] = token_of(secret)
            shown["proof"] = None if proof is None else json.loads(proof)
        return Json(shown)

    async def register(self, request: Request) -> Response:
        caller = await self._in_session(request)
        lab = self._lab
        id = request.path_params["id"]

        def register() -> str:
            found, token, proof = self._registrations.decide(id, "registered", caller.member.id)
            try:
                lab.accounts.register(caller.member.id, found.peer, found.label, token, proof)
            except Refusal:
                self._registrations.undo(id)
                raise
            return found.peer

        peer = await lab.do(register)
        log.info("%s (%s) has registered %s", caller.member.name, caller.member.id, peer)
        return Json({"state": "registered", "peer": peer})

    async def refuse(self, request: Request) -> Response:
        caller = await self._in_session(request)
        found, *_ = await self._lab.do(
            self._registrations.decide, request.path_params["id"], "refused", caller.member.id
        )
        return Json({"state": "refused", "peer": found.peer})

    async def _in_session(self, request: Request) -> Any:
        caller = await self._lab.require(request)
        if caller.session is None:
            raise forbidden("Registering is for people, in a browser: a client cannot register another one.")
        return caller


def _no_such() -> Refusal:
    return not_found("There is no such registration, or it was long ago.")
