"""All of the lab as one ASGI application: the page, the API, and beside them the pinning service.

    /pins, /pins/{requestid}       the pinning service, with the tokens of clients
    /api/v0/..., /follow           its import of CAR files, and what nodes that follow this one read
    /healthz, /readyz, /metrics    how the node is; the last two words of the pinning service as well
    everything else                the routes of PARTS, in their order

What holds for every request is here: the name by which we are asked, how often one may ask, the headers of each answer,
and that a mistake of ours in one request is an answer and a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Router

from kachery_cloud.lab import (
    accounts_routes,
    files_api,
    limits,
    node_api,
    projects_api,
    registrations_routes,
    sign_in,
    static,
    usage_api,
)
from kachery_cloud.lab.answers import not_found, refused
from kachery_cloud.lab.lab import Lab
from kachery_cloud.lab.origins import HEADERS, STRICT_TRANSPORT, is_own
from kachery_cloud.lab.small_pages import refusal_page, wants_page
from kachery_p2p.errors import DiskFull, KacheryError
from kachery_p2p.http_server import AsgiApp, Send, Turns, framing_fault
from kachery_p2p.http_server_limits import RETRY_AFTER, HttpLimits
from kachery_p2p.pinning.server.requests import Refusal

if TYPE_CHECKING:
    Routes = Callable[[Lab], Sequence[BaseRoute]]

log = logging.getLogger("kachery_cloud.lab")

#: The routes of each part. The first that fits a request answers it.
PARTS: tuple[Routes, ...] = (
    accounts_routes.routes,
    registrations_routes.routes,
    sign_in.routes,
    projects_api.routes,
    files_api.routes,
    usage_api.routes,
    node_api.routes,
    static.routes,
)
#: What the pinning service answers. It knows nobody by a cookie, so any name and any page may ask it.
_PINS = ("pins", "healthz", "readyz", "follow")


class LabApp:
    """The ASGI application.

    Args:
        lab: who may do what.
        pins: the pinning service.
        bounds: of the listener.
        parts: whose routes there are.
    """

    def __init__(
        self, lab: Lab, pins: AsgiApp, bounds: HttpLimits = limits.HTTP, parts: Sequence[Routes] = PARTS
    ) -> None:
        self._lab = lab
        self._pins = pins
        self._turns = Turns(bounds)
        # No redirect to a path with or without a slash at its end: a name that somebody chose would be in it.
        self._router = Router([route for part in parts for route in part(lab)], redirect_slashes=False)

    @property
    def crowded(self) -> bool:
        """Whether requests wait for their turn."""
        return self._turns.waiting > 0 or self._pins.crowded

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Send) -> None:
        """Answer one request, when it is its turn. Other kinds than HTTP are not answered, which ends them."""
        if scope["type"] != "http":
            return
        # Starlette's router tells of what it does not find by an exception only within an application.
        request = Request({**scope, "app": self, "state": {}})
        send = self._with_headers(request, send)
        path = scope["raw_path"].decode("ascii", "replace").split("/")
        first = path[1:2]
        if (first and first[0] in _PINS) or path[1:3] == ["api", "v0"]:
            await self._pins(scope, receive, send)
            return
        guarded = _Guarded(request.scope, receive, send)
        try:
            await self._answer(request, first == ["metrics"], guarded)
        except Refusal as refusal:
            await guarded.refuse(refusal)
        except HTTPException as error:
            await guarded.refuse(_of_starlette(error))
        except DiskFull as error:
            log.warning("a request could not be noted: %s", error)
            details = "The disk of the lab's node is full. Try again later."
            await guarded.refuse(Refusal(507, "INSUFFICIENT_STORAGE", details, {"retry-after": "300"}))
        except KacheryError as error:
            log.warning("a request could not be carried out: %s", error)
            await guarded.refuse(Refusal(500, "INTERNAL_SERVER_ERROR", "The lab's node cannot do this now."))
        except Exception:
            # One request that goes wrong must not end the node; who asked hears of it in the form that he reads.
            log.exception("a request ended by a mistake of this program")
            details = "The lab's node made a mistake, which is in its log."
            await guarded.refuse(Refusal(500, "INTERNAL_SERVER_ERROR", details))

    async def _answer(self, request: Request, metrics: bool, guarded: _Guarded) -> None:
        fault = framing_fault(request.scope)
        if fault is not None:
            raise Refusal(fault[0], "BAD_REQUEST", fault[1])
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not is_own(hosts[0], self._lab.config.lab_url):
            raise Refusal(
                421,
                "UNKNOWN_HOST",
                "This lab does not go by that name. Those who run it can give it one with the setting lab_url.",
            )
        self._lab.count(request)
        if metrics:
            await self._lab.check_figures(request)
            await self._pins(request.scope, guarded.receive, guarded.send)
            return
        async with self._turns.take(self._lab.address(request)) as taken:
            if not taken:
                again = {"retry-after": str(RETRY_AFTER)}
                raise Refusal(503, "SERVICE_UNAVAILABLE", "There is too much to do. Try again.", again)
            await self._router(request.scope, guarded.receive, guarded.send)  # type: ignore[arg-type]

    def _with_headers(self, request: Request, send: Send) -> Send:
        more = dict(HEADERS)
        if self._lab.is_secure(request):
            more["strict-transport-security"] = STRICT_TRANSPORT

        async def sending(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                added = [
                    (name.encode("ascii"), value.encode("ascii"))
                    for name, value in more.items()
                    if name.encode("ascii") not in there
                ]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return sending


def _of_starlette(error: HTTPException) -> Refusal:
    """What the router says: no such path, or no such method there."""
    if error.status_code == 404:
        return not_found("There is nothing here.")
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return Refusal(405, "METHOD_NOT_ALLOWED", f"Here there are {allow}.", {"allow": allow})
    return Refusal(error.status_code, "BAD_REQUEST", error.detail)


class _Guarded:
    """One request: whether its body was read, and whether an answer has begun."""

    def __init__(self, scope: Mapping[str, Any], receive: Any, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self._read = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self._read = True
        return message

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            if not self._read and self._scope["http_version"].startswith("1"):
                # What was not read could be taken for another request, so nothing may follow on this connection.
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal; an answer that has begun already ends there, which whoever reads it notices."""
        if self._started:
            return
        request = Request(dict(self._scope))
        if wants_page(request):
            response = refusal_page(refusal.status, refusal.details, refusal.headers)
        else:
            response = refused(refusal)
        await response(dict(self._scope), self.receive, self.send)  # type: ignore[arg-type]
