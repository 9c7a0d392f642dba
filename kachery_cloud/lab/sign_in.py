"""Coming in, and leaving: invitations, the OpenID provider, signing out.

    GET   /sign-in?next=PATH             to the provider, from there to /sign-in/callback, and on to PATH
    GET   /sign-in/callback              the provider sends the browser back here
    GET   /invitation/{secret}           a page with a button; looking at it uses nothing up
    POST  /invitation/{secret}           use an invitation; then there is a session. Where there is a provider, one
                                         signs in there first, and is known by that from then on
    GET   /api/v1/invitations/{secret}   what an invitation says
    POST  /sign-out                      end the session

Without a provider there is no /sign-in: one comes in by an invitation each time. All that leads on is a path of ours,
or the address of the provider. While somebody is at the provider, what belongs to that sign-in is in a cookie of his
browser, under a signature of this process: so an answer of the provider is taken from the browser that asked alone,
and whoever begins a million sign-ins takes no room here.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from kachery_cloud.lab import limits
from kachery_cloud.lab.accounts_store import Member
from kachery_cloud.lab.answers import Json, bad_request, forbidden, not_found
from kachery_cloud.lab.invitations import Invitation
from kachery_cloud.lab.lab import Lab
from kachery_cloud.lab.openid import Asking, ProviderClient, ProviderFailed
from kachery_cloud.lab.origins import host_of, own_path
from kachery_cloud.lab.sessions import COOKIE
from kachery_cloud.lab.small_pages import invitation_page, onward_page, wants_page
from kachery_cloud.settings.config import GOOGLE
from kachery_cloud.utc import time_text
from kachery_p2p.pinning.server.requests import Refusal

if TYPE_CHECKING:
    from kachery_cloud.lab.id_tokens import SignedIn
    from kachery_cloud.settings.config import Config

log = logging.getLogger("kachery_cloud.lab")

#: Cookies of a browser that is about to come in.
_ASKING = "kachery-sign-in"
_INVITED = "kachery-invitation"
_CALLBACK = "/sign-in/callback"
_REGISTER = re.compile(r"/register/([A-Za-z0-9_-]{1,64})")


def routes(lab: Lab) -> list[Route]:
    """What is answered here."""
    found = _Routes(lab)
    always = [
        Route("/invitation/{secret}", found.show_invitation, methods=["GET"]),
        Route("/invitation/{secret}", found.use_invitation, methods=["POST"]),
        Route("/api/v1/invitations/{secret}", found.invitation, methods=["GET"]),
        Route("/sign-out", found.sign_out, methods=["POST"]),
    ]
    if lab.provider is None:
        return always
    signing = _SigningIn(lab, lab.provider)
    return [
        *always,
        Route("/sign-in", signing.begin, methods=["GET"]),
        Route(_CALLBACK, signing.back, methods=["GET"]),
    ]


class _Routes:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def invitation(self, request: Request) -> Response:
        found, member = await self._find(request)
        shown = {"name": member.name, "role": member.role, "expires": time_text(found.expires)}
        return Json({**shown, "lab": self._lab.config.lab_name})

    async def show_invitation(self, request: Request) -> Response:
        _, member = await self._find(request)
        config = self._lab.config
        openid = None if self._lab.provider is None else host_of(urlsplit(config.openid_issuer).netloc)
        return invitation_page(config.lab_name, member.name, request.path_params["secret"], openid=openid)

    async def use_invitation(self, request: Request) -> Response:
        lab = self._lab
        lab.check_origin(request)
        _, found = await self._find(request)
        secret = request.path_params["secret"]
        onward = "/" if lab.provider is None else "/sign-in"
        response = onward_page(onward) if wants_page(request) else Json({"next": onward})
        if lab.provider is not None:
            # It is used up when he has signed in.
            lab.set_cookie(request, response, _INVITED, secret, limits.SIGN_IN_SECONDS)
            return response
        member = await lab.do(lab.invitations.use, secret)
        if member is None:
            raise no_invitation()
        await lab.begin_session(request, response, member)
        log.info("%s (%s) came in by an invitation", found.name, member)
        return response

    async def _find(self, request: Request) -> tuple[Invitation, Member]:
        lab = self._lab
        lab.count_entry(request)
        found = await lab.do(lab.invitations.find, request.path_params["secret"])
        member = None if found is None else await lab.do(lab.accounts.member, found.member)
        if found is None or member is None:
            raise no_invitation()
        return found, member

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


class _SigningIn:
    """Signing in at the provider."""

    def __init__(self, lab: Lab, provider: ProviderClient) -> None:
        self._lab = lab
        self._provider = provider
        self._key = secrets.token_bytes(32)

    async def begin(self, request: Request) -> Response:
        lab = self._lab
        lab.count_entry(request)
        onward = own_path(request.query_params.get("next"))
        base = lab.base(request)
        if host_of(urlsplit(base).netloc) != host_of(request.headers.get("host", "")):
            # The provider leads back to the one address that the settings name; the cookie has to be there as well.
            return RedirectResponse(f"{base}/sign-in?{urlencode({'next': onward})}", 303)
        nonce = await self._nonce_for(onward)
        try:
            url, asking = await self._provider.begin(f"{base}{_CALLBACK}", nonce)
        except ProviderFailed as error:
            raise _provider_failed(error) from None
        response = RedirectResponse(url, 303)
        lab.set_cookie(request, response, _ASKING, self._sealed(asking, onward), limits.SIGN_IN_SECONDS)
        return response

    async def _nonce_for(self, onward: str) -> str | None:
        """The nonce of a computer that is to be registered next, so that the sign-in proves who stands behind it."""
        match = _REGISTER.fullmatch(onward)
        if match is None:
            return None
        found = await self._lab.do(self._lab.registrations.find, match[1])
        return found.nonce if found is not None and found.state == "waiting" else None

    async def back(self, request: Request) -> Response:
        lab = self._lab
        lab.count_entry(request)
        query = request.query_params
        opened = self._opened(lab.cookie(request, _ASKING) or "")
        if opened is None or not hmac.compare_digest(query.get("state", "").encode(), opened[0].state.encode()):
            raise bad_request(
                "This answer of the provider is not for a sign-in that this browser has begun here in the last ten "
                "minutes. Sign in again."
            )
        asking, onward = opened
        if "error" in query:
            raise forbidden(
                "You did not sign in at the provider."
                if query["error"] == "access_denied"
                else "The provider did not sign you in."
            )
        try:
            signed_in, token = await self._provider.finish(
                asking, query.get("code", ""), f"{lab.base(request)}{_CALLBACK}", query.get("iss")
            )
        except ProviderFailed as error:
            raise _provider_failed(error) from None
        invitation = lab.cookie(request, _INVITED)
        member = await self._member(signed_in, invitation)
        match = _REGISTER.fullmatch(onward)
        if match is not None:
            proof = await self._provider.proof(token)
            await lab.do(lab.registrations.signed_in, match[1], member.id, proof, asking.nonce)
        response = RedirectResponse(onward, 303)
        await lab.begin_session(request, response, member.id)
        for name in (_ASKING, _INVITED):
            lab.set_cookie(request, response, name, "", 0)
        log.info("%s (%s) has signed in", member.name, member.id)
        return response

    async def _member(self, signed_in: SignedIn, invitation: str | None) -> Member:
        lab = self._lab

        def find() -> Member | None:
            return lab.accounts.signed_in(
                self._provider.issuer,
                signed_in.subject,
                name=signed_in.name,
                email=signed_in.email,
                invitation=invitation,
                admitted=is_admitted(lab.config, signed_in),
            )

        member = await lab.do(find)
        if member is None:
            who = signed_in.email or "This account"
            raise forbidden(f"{who} may not sign in here. {await lab.do(self._whom_to_ask)}")
        return member

    def _whom_to_ask(self) -> str:
        names = [each.name for each in self._lab.accounts.members() if each.is_administrator]
        who = " or ".join(names[:3]) or "those who run kachery-cloud-node"
        return f"Ask {who} for an invitation to {self._lab.config.lab_name}."

    # --- what is kept in the browser --------------------------------------------------------------------------------

    def _sealed(self, asking: Asking, onward: str) -> str:
        until = self._lab.wall() + limits.SIGN_IN_SECONDS
        value = json.dumps([asking.state, asking.nonce, asking.verifier, onward, until])
        text = base64.urlsafe_b64encode(value.encode("ascii")).decode("ascii")
        return f"{text}.{self._seal(text)}"

    def _opened(self, cookie: str) -> tuple[Asking, str] | None:
        text, _, seal = cookie.partition(".")
        if not hmac.compare_digest(seal.encode("latin-1", "replace"), self._seal(text).encode("ascii")):
            return None
        state, nonce, verifier, onward, until = json.loads(base64.urlsafe_b64decode(text))
        return (Asking(state, nonce, verifier), onward) if self._lab.wall() < until else None

    def _seal(self, text: str) -> str:
        return hmac.new(self._key, text.encode("latin-1", "replace"), "sha256").hexdigest()


def is_admitted(config: Config, signed_in: SignedIn) -> bool:
    """Whether the settings let somebody in without an invitation (`lab_members`).

    A whole domain is let in by the address; at Google, by the organisation that an account belongs to, since an address
    of a domain may once have been verified by somebody who does not have it any more.
    """
    if signed_in.email is None:
        return False
    domain = signed_in.email.rpartition("@")[2]
    if signed_in.email in config.lab_members:
        return True
    if f"@{domain}" not in config.lab_members:
        return False
    return signed_in.domain == domain or config.openid_issuer != GOOGLE or domain == "gmail.com"


def no_invitation() -> Refusal:
    """An invitation is none."""
    return not_found("There is no such invitation: it was used, or has expired. Ask for another one.")


def _provider_failed(error: ProviderFailed) -> Refusal:
    log.warning("somebody could not sign in: %s", error)
    return Refusal(502, "PROVIDER_FAILED", f"Signing in did not work. {error}")
