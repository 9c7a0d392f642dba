"""What all routes of the lab have in common: refusals, answers in JSON, bodies, lists, times.

A route raises `Refusal` where it does not carry a request out; `app` makes of it
`{"error": {"reason": "SHORT_NAME", "details": "A sentence."}}`, as the pinning service does.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from kachery_cloud.lab import limits
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.pinning.server.requests import Refusal, bad_request
from kachery_p2p.text import is_control, shown

#: Where `read_body` finds what was read already, because it was signed.
_BODY = "kachery.body"
_EMAIL = re.compile(r"[^@\s\x00-\x1f<>\"(),:;\\\[\]]+@[A-Za-z0-9.-]+")


def forbidden(details: str) -> Refusal:
    """Somebody who is known asks for what is not theirs to ask for."""
    return Refusal(403, "FORBIDDEN", details)


def not_found(details: str) -> Refusal:
    """There is no such thing, or it is not for who asks: the two look the same."""
    return Refusal(404, "NOT_FOUND", details)


def conflict(reason: str, details: str) -> Refusal:
    """What is there stands against it."""
    return Refusal(409, reason, details)


def unauthorized(details: str, reason: str = "UNAUTHORIZED") -> Refusal:
    """Nobody is known to ask."""
    return Refusal(401, reason, details, {"www-authenticate": 'Bearer realm="kachery-cloud"'})


class Json(Response):
    """An answer in JSON; what strangers wrote may be in it, half surrogates too."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def refused(refusal: Refusal) -> Response:
    """The answer to a request that is not carried out."""
    error = {"reason": refusal.reason, "details": refusal.details}
    return Json({"error": error}, refusal.status, dict(refusal.headers))


# --- bodies ---------------------------------------------------------------------------------------------------------


async def read_body(request: Request, most: int) -> bytes:
    """All of a body, also where it was read already to check its signature.

    Raises:
        Refusal: it is too large, or does not come.
    """
    found = request.scope.get(_BODY)
    if found is None:
        found = await _read(request, most)
        request.scope[_BODY] = found
    if len(found) > most:
        raise _too_large(most)
    return found


async def _read(request: Request, most: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise _too_large(most)
    data = bytearray()
    with trio.move_on_after(limits.BODY_SECONDS) as patience:
        try:
            async with contextlib.aclosing(cast("AsyncGenerator[bytes, None]", request.stream())) as pieces:
                async for piece in pieces:
                    data += piece
                    if len(data) > most:
                        raise _too_large(most)
        except ClientDisconnect:
            raise bad_request("The request was cut short.") from None
    if patience.cancelled_caught:
        raise Refusal(408, "REQUEST_TIMEOUT", "The body of the request did not come.")
    return bytes(data)


def _too_large(most: int) -> Refusal:
    return Refusal(413, "PAYLOAD_TOO_LARGE", f"The body of this request may have at most {most} bytes.")


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that a request brings; an empty one where there is no body.

    Raises:
        Refusal: it brings something else.
    """
    body = await read_body(request, limits.MAX_JSON)
    if not body:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # What a form of another page can send is of another type, so it cannot even be tried.
        raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", "The body must be JSON: Content-Type: application/json.")
    try:
        value = read_json(body)
    except InvalidJSON as error:
        raise bad_request(f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise bad_request("The body must be a JSON object.")
    return value


def check_keys(value: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse what is not known: a word that was mistyped is not to be passed over.

    Raises:
        Refusal: there is such a key.
    """
    for key in value:
        if key not in known:
            raise bad_request(f"{shown(key)} is not known here; known are {', '.join(known)}.")


def text_of(value: object, what: str, most: int) -> str:
    """A line of text that can be shown; blanks around it do not count.

    Raises:
        Refusal: it is none, empty, or has more than `most` characters.
    """
    text = value.strip() if isinstance(value, str) else ""
    if not 0 < len(text) <= most or any(map(is_control, text)):
        raise bad_request(f"{what} must be a text of 1 to {most} characters that can be shown.")
    return text


def email_of(value: object, what: str = "The e-mail address") -> str:
    """An e-mail address, in small letters.

    Raises:
        Refusal: it is none.
    """
    text = value.strip().casefold() if isinstance(value, str) else ""
    if len(text) > limits.MAX_EMAIL or not text.isprintable() or not _EMAIL.fullmatch(text):
        raise bad_request(f"{what} {shown(value)} is not one. It looks like alice@example.org.")
    return text


def quota_of(value: object) -> int | None:
    """Bytes; None for any number of them.

    Raises:
        Refusal: it is neither.
    """
    if value is None or (type(value) is int and 0 <= value < 1 << 62):
        return value
    raise bad_request("The quota must be a number of bytes, or null where there is none.")


def query_of(request: Request, known: Sequence[str]) -> dict[str, str]:
    """What stands behind the question mark, each once.

    Raises:
        Refusal: something is not known, or stands there twice.
    """
    found: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key in found:
            raise bad_request(f"{shown(key)} stands twice behind the question mark.")
        found[key] = value
    check_keys(found, known)
    return found


def listed(query: Mapping[str, str]) -> tuple[int, str]:
    """`limit` and `after` of a list.

    Raises:
        Refusal: the limit is none.
    """
    text = query.get("limit", str(limits.DEFAULT_LISTED))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= limit <= limits.MAX_LISTED:
        raise bad_request(f"limit must be a number from 1 to {limits.MAX_LISTED}.")
    return limit, query.get("after", "")
