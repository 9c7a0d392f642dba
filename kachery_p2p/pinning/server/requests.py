"""What requests to the pinning service say. No input or output.

All of it was written by strangers; what the specification does not allow is refused with a sentence that says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidCID, UnsupportedCID
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.pinning.server import limits
from kachery_p2p.text import shown

STATUSES = ("queued", "pinning", "pinned", "failed")
MATCHES = ("exact", "iexact", "partial", "ipartial")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: RFC 3339, section 5.6. A leap second is taken, as the one before it.
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,30}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)


class Refusal(Exception):
    """A request that is not carried out, as the specification has its answers.

    Attributes:
        status: of HTTP.
        reason: for machines, such as "BAD_REQUEST".
        details: a sentence for people.
    """

    def __init__(self, status: int, reason: str, details: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(details)
        self.status = status
        self.reason = reason
        self.details = details
        self.headers = dict(headers or {})


def bad_request(details: str) -> Refusal:
    """What the specification does not allow."""
    return Refusal(400, "BAD_REQUEST", details)


def no_funds(details: str) -> Refusal:
    """A quota is used up, or a pin is too large."""
    return Refusal(409, "INSUFFICIENT_FUNDS", details)


@dataclass(frozen=True)
class PinObject:
    """A pin object of the specification.

    Attributes:
        cid: the root.
        text: of it, as it was written.
    """

    cid: CID
    text: str
    name: str = ""
    origins: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Filters:
    """Which pins are to be listed. Times are in microseconds since 1970.

    Attributes:
        keys: binary CIDv1 of the roots; empty for all.
        name: None for any.
        match: how it is compared.
        statuses: those that are listed.
        before, after: created earlier, or later, than that.
        limit: at most so many.
        meta: what their metadata must have.
    """

    keys: tuple[bytes, ...] = ()
    name: str | None = None
    match: str = "exact"
    statuses: tuple[str, ...] = ("pinned",)
    before: int | None = None
    after: int | None = None
    limit: int = limits.DEFAULT_LISTED
    meta: Mapping[str, str] = field(default_factory=dict[str, str])


# --- pin objects ----------------------------------------------------------------------------------------------------


def read_pin(body: bytes) -> PinObject:
    """Read a pin object.

    Raises:
        Refusal: it is none.
    """
    try:
        value = read_json(body)
    except InvalidJSON as error:
        raise bad_request(f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise bad_request('The body must be a pin object, such as {"cid": "bafy..."}.')
    text = value.get("cid")
    if not isinstance(text, str):
        raise bad_request("cid is missing, or is no text.")
    name = _optional(value, "name", "")
    if not isinstance(name, str) or len(name) > limits.MAX_NAME:
        raise bad_request(f"name must be text of at most {limits.MAX_NAME} characters.")
    origins = _optional(value, "origins", [])
    meta = _optional(value, "meta", {})
    return PinObject(_cid(text), text, _storable(name, "name"), _origins(origins), _meta(meta))


def _optional(value: Mapping[str, Any], name: str, default: Any) -> Any:
    """A member that may be left out; clients write null in the place of what they have not."""
    found = value.get(name)
    return default if found is None else found


def _cid(text: str) -> CID:
    try:
        if len(text) > limits.MAX_CID_LENGTH:
            raise InvalidCID("it is too long")
        return CID.parse(text)
    except (InvalidCID, UnsupportedCID) as error:
        raise bad_request(f"cid is {shown(text)}, which cannot be pinned: {error}") from None


def _origins(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > limits.MAX_ADDRESSES:
        raise bad_request(f"origins must be a list of at most {limits.MAX_ADDRESSES} multiaddrs.")
    for each in value:
        if (
            not isinstance(each, str)
            or not each.startswith("/")
            or len(each) > limits.MAX_ADDRESS_LENGTH
            or not each.isprintable()
        ):
            raise bad_request(f"origins has {shown(each)}, which is no multiaddr.")
    return tuple(dict.fromkeys(value))


def _meta(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > limits.MAX_META:
        raise bad_request(f"meta must be an object of at most {limits.MAX_META} texts.")
    for key, text in value.items():
        if not isinstance(text, str):
            raise bad_request(f"meta has {shown(key)}, which is no text.")
        if max(len(key), len(text)) > limits.MAX_META_LENGTH:
            raise bad_request(f"meta has {shown(key)}, which is too long: {limits.MAX_META_LENGTH} characters at most.")
    return {_storable(key, "meta"): _storable(text, "meta") for key, text in value.items()}


def _storable(text: str, what: str) -> str:
    """Text that a database takes: JSON can have halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise bad_request(f"{what} has half a character (a surrogate).") from None
    return text


# --- filters --------------------------------------------------------------------------------------------------------


def read_filters(fields: Sequence[tuple[str, str]]) -> Filters:
    """Read the fields behind a question mark; those that the specification does not know are passed over.

    Lists are written as `cid=a,b`, or as `cid=a&cid=b`.

    Raises:
        Refusal: one of them cannot be read.
    """
    found: dict[str, list[str]] = {}
    for name, text in fields:
        found.setdefault(name, []).append(text)
    cids = _listed(found, "cid")
    if len(cids) > limits.MAX_CIDS:
        raise bad_request(f"cid has {len(cids)} CIDs; {limits.MAX_CIDS} are the most there can be.")
    statuses = _listed(found, "status")
    for status in statuses:
        if status not in STATUSES:
            raise bad_request(f"status is {shown(status)}; it must be of {', '.join(STATUSES)}.")
    name, match = _single(found, "name"), _single(found, "match") or "exact"
    if name is not None and len(name) > limits.MAX_NAME:
        raise bad_request(f"name must have at most {limits.MAX_NAME} characters.")
    if match not in MATCHES:
        raise bad_request(f"match is {shown(match)}; it must be one of {', '.join(MATCHES)}.")
    before, after, meta = _single(found, "before"), _single(found, "after"), _single(found, "meta")
    return Filters(
        keys=tuple(dict.fromkeys(bytes(_cid(text).to_v1()) for text in cids)),
        name=None if name is None else _storable(name, "name"),
        match=match,
        statuses=tuple(dict.fromkeys(statuses)) or ("pinned",),
        before=None if before is None else read_time(before, "before"),
        after=None if after is None else read_time(after, "after"),
        limit=_limit(_single(found, "limit")),
        meta={} if meta is None else _meta_filter(meta),
    )


def _listed(found: Mapping[str, Sequence[str]], name: str) -> list[str]:
    texts = [part for text in found.get(name, ()) for part in text.split(",")]
    if name in found and not all(texts):
        raise bad_request(f"{name} has nothing in one of its places.")
    return list(dict.fromkeys(texts))


def _single(found: Mapping[str, Sequence[str]], name: str) -> str | None:
    texts = found.get(name, ())
    if len(texts) > 1:
        raise bad_request(f"{name} is there {len(texts)} times; once is enough.")
    return texts[0] if texts else None


def _limit(text: str | None) -> int:
    if text is None:
        return limits.DEFAULT_LISTED
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= limits.MAX_LISTED:
        raise bad_request(f"limit is {shown(text)}; it must be a number from 1 to {limits.MAX_LISTED}.")
    return int(text)


def _meta_filter(text: str) -> dict[str, str]:
    try:
        return _meta(read_json(text))
    except InvalidJSON as error:
        raise bad_request(f"meta is not JSON: {error}.") from None


# --- times ----------------------------------------------------------------------------------------------------------


def read_time(text: str, name: str) -> int:
    """Microseconds since 1970 of a time as RFC 3339 has it; finer ones are cut off.

    Raises:
        Refusal: it is none.
    """
    # A plus in an address is a blank, unless it was written as %2B.
    match = _TIME.fullmatch(re.sub(r" (?=\d\d:\d\d$)", "+", text))
    wrong = bad_request(f"{name} is {shown(text)}; it must be a time such as 2026-07-27T17:32:28Z.")
    if match is None:
        raise wrong
    *day, fraction, sign, hours, minutes = match.groups()
    year, month, date, hour, minute, second = map(int, day)
    try:
        moment = datetime(year, month, date, hour, minute, min(second, 59), tzinfo=timezone.utc)
    except ValueError:
        raise wrong from None
    if second > 60 or (hours and (int(hours) > 23 or int(minutes) > 59)):
        raise wrong
    shift = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
    micros = int(((fraction or "") + "000000")[:6])
    return (moment - _EPOCH - shift) // timedelta(microseconds=1) + micros


def time_text(micros: int) -> str:
    """A time as RFC 3339 has it, of microseconds since 1970."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds").replace("+00:00", "Z")
