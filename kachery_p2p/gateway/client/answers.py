"""What an address, a redirect and the head of an answer mean. Pure: no sockets, no clock.

A gateway is asked for bytes whose hash is known, so only two answers matter: the bytes, or anything else. The anything
else is sorted by what it says of the next request: this block is not there, come back later, or do not come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from urllib.parse import urlsplit

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import GatewayError, InvalidCID
from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.media_types import CAR_TYPE, RAW_TYPE
from kachery_p2p.http import http_date, media_type, packing, retry_after
from kachery_p2p.http_redirects import NotFollowed, check_redirect, same_port
from kachery_p2p.urls import BadURL, URLFault, base_url

#: What plain file servers call any bytes; they are hashed like all others.
_PLAIN_TYPE = "application/octet-stream"


class FailureKind(Enum):
    """What a request that brought no block says of its gateway."""

    #: It does not have this block, or not now.
    ABSENT = "absent"
    #: It asks for a pause.
    BUSY = "busy"
    #: It could not be reached, stalled, or broke off.
    FAILED = "failed"
    #: It does not answer programs: pages for browsers, a token refused, a service that has ended.
    USELESS = "useless"
    #: It sent other bytes than the hash promises.
    LIED = "lied"
    #: It does not give CARs; blocks perhaps.
    NO_CAR = "no car"


class GatewayRefusal(Exception):
    """A request brought no block; says why, of which kind that is, and for how many seconds to stay away."""

    def __init__(self, kind: FailureKind, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.kind = kind
        self.pause = pause


def parse_url(url: str) -> str:
    """The base URL of a gateway, without `/ipfs` at its end.

    Raises:
        GatewayError: it is not an http or https URL, or has a password in it.
    """
    try:
        return base_url(url, ("/ipfs",))
    except BadURL as error:
        if error.fault is URLFault.UNREADABLE:
            raise GatewayError("The address of a gateway is not a URL.") from None
        if error.fault in (URLFault.USER, URLFault.QUERY):
            # Not repeated: what stands there may be a password.
            raise GatewayError(
                f"The address of the gateway {error.host} has a user, a query or a fragment in it. Give the URL alone, "
                "and what it takes to be let in as its token."
            ) from None
        raise GatewayError(
            f"{url!r} is not the address of a gateway. One looks like https://trustless-gateway.net or "
            "http://192.168.1.7:8080."
        ) from None


def source_name(base: str) -> str:
    """By which the bytes of a gateway are counted: `gateway:<host>`, with the port where one is given."""
    return f"gateway:{urlsplit(base).netloc}"


def may_follow(before: str, after: str, cid: CID) -> bool:
    """Whether a redirect leads to the same block: on the same host, or to the subdomain of its CID.

    A gateway must not send us about: to hosts or ports of its choice, to our own network, or off an encrypted
    connection.
    """
    try:
        check_redirect(before, after)
    except NotFollowed:
        return False
    old, new = urlsplit(before), urlsplit(after)
    if not same_port(before, after):
        return False
    name, dot, parent = (new.hostname or "").partition(".ipfs.")
    if dot and _names(name, cid):
        return _related(old.hostname or "", parent)
    if not _related(old.hostname or "", new.hostname or ""):
        return False
    _, ipfs, rest = new.path.partition("/ipfs/")
    return bool(ipfs) and _names(rest.strip("/"), cid)


def _names(text: str, cid: CID) -> bool:
    try:
        return CID.parse(text).multihash == cid.multihash
    except InvalidCID:
        return False


def _related(old: str, new: str) -> bool:
    """The same host, one below it, or one that differs by a `www.` or `ipfs.` in front."""
    return old == new or new.endswith("." + old) or old in ("www." + new, "ipfs." + new)


def check_head(status: int, headers: Mapping[str, str], *, car: bool, wall: float) -> None:
    """Make sure that the body of this answer may be the block or CAR that was asked for.

    Args:
        status: of the answer.
        headers: of the answer, their names in lower case.
        car: whether a CAR was asked for.
        wall: seconds since the epoch.

    Raises:
        GatewayRefusal: it is something else, or the gateway does not give it.
    """
    if status == 200:
        _check_type(headers, car=car)
        return
    if (ended := _sunset(headers, wall)) is not None:
        raise GatewayRefusal(FailureKind.USELESS, ended, limits.MAX_RETRY_AFTER)
    pause = retry_after(headers, wall, longest=limits.MAX_RETRY_AFTER)
    if status == 429:
        raise GatewayRefusal(
            FailureKind.BUSY, "It says that we ask too often.", limits.BUSY_SECONDS if pause is None else pause
        )
    if status == 503 or (status >= 500 and pause is not None):
        raise GatewayRefusal(FailureKind.BUSY, f"It says that it is not available now (status {status}).", pause)
    if car and status in (400, 405, 406, 415, 501):
        raise GatewayRefusal(FailureKind.NO_CAR, f"It gives no CAR (status {status}).")
    if status == 401:
        raise GatewayRefusal(
            FailureKind.USELESS, "It wants a token, or another one (status 401).", limits.USELESS_SECONDS
        )
    if 300 <= status < 400:
        raise GatewayRefusal(FailureKind.USELESS, "It sends us on to a page for browsers.", limits.USELESS_SECONDS)
    raise GatewayRefusal(FailureKind.ABSENT, f"It does not have the block (status {status}).")


def _check_type(headers: Mapping[str, str], *, car: bool) -> None:
    kind = media_type(headers)
    if kind in ("text/html", "application/xhtml+xml"):
        raise GatewayRefusal(FailureKind.USELESS, "It answers with a page for browsers.", limits.USELESS_SECONDS)
    if encoding := packing(headers):
        raise GatewayRefusal(
            FailureKind.USELESS, f"It answers in the encoding {encoding[:20]!r}.", limits.USELESS_SECONDS
        )
    if car and kind != CAR_TYPE:
        raise GatewayRefusal(FailureKind.NO_CAR, f"It answers with {kind[:60] or 'an unknown type'}, not with a CAR.")
    if not car and kind not in (RAW_TYPE, _PLAIN_TYPE):
        why = f"It answers with {kind[:60] or 'an unknown type'}, not with a block."
        raise GatewayRefusal(FailureKind.USELESS, why, limits.USELESS_SECONDS)


def _sunset(headers: Mapping[str, str], wall: float) -> str | None:
    """What to say of a gateway that announced its end (RFC 8594) and is past it."""
    date = http_date(headers.get("sunset", ""))
    return "Its service has ended (Sunset)." if date is not None and date <= wall else None
