"""What a request asks for: its path, its format, and whether it may be answered at all.

Follows https://specs.ipfs.tech/http-gateways/path-gateway/ and .../trustless-gateway/. Nothing here does I/O. A request
that is refused raises `Refusal`, which is the answer.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from ..dag.cid import CID
from ..errors import InvalidCID, UnsupportedCID
from . import server_limits as limits

Format = Literal["raw", "car"]

RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"
_FORMATS: dict[str, Format] = {RAW_TYPE: "raw", CAR_TYPE: "car"}
#: Answers that other gateways give and this one does not; asked for by name they are refused, not replaced.
_OTHER_FORMATS = ("application/vnd.ipld.", "application/vnd.ipfs.ipns-record", "application/x-tar")

_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Refusal(Exception):
    """A request is not served: the HTTP status, and a sentence for whoever asked."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class ContentPath:
    """`/ipfs/<cid>[/<name>...][/]`. `slash`: it ends with a slash, as directories do."""

    root: CID
    names: tuple[str, ...]
    slash: bool

    @property
    def text(self) -> str:
        """The path, percent-encoded, without the slash at its end."""
        return "/".join(["/ipfs", str(self.root), *(quote(name, safe="") for name in self.names)])

    @property
    def shown(self) -> str:
        """The path for people."""
        return "/".join(["/ipfs", str(self.root), *self.names])


def parse_path(raw: str) -> ContentPath:
    """Read the path of a request, as it stands in the request (percent-encoded, ASCII).

    Raises:
        Refusal: 404 for what is not `/ipfs/...`, 501 for `/ipns/...`, 400 for a broken CID, names that lead elsewhere
            (`..`, an encoded slash, a NUL), bytes that are not UTF-8; 414 when it is too long.
    """
    if len(raw) > limits.MAX_PATH_LENGTH:
        raise Refusal(414, f"The path has {len(raw)} characters; {limits.MAX_PATH_LENGTH} are the most there can be.")
    parts = raw.split("/")
    if parts[0] or len(parts) < 2:
        raise Refusal(400, "The request does not begin with a path. Ask for /ipfs/<cid>.")
    if parts[1] == "ipns":
        raise Refusal(501, "This gateway does not resolve names (/ipns/). Ask for /ipfs/<cid>.")
    if parts[1] != "ipfs":
        raise Refusal(404, "There is nothing here. Content is at /ipfs/<cid>.")
    rest = parts[2:]
    slash = len(rest) > 1 and not rest[-1]
    if slash:
        rest.pop()
    if not rest or not rest[0]:
        raise Refusal(400, "The path names no CID. Ask for /ipfs/<cid>.")
    if len(rest) - 1 > limits.MAX_PATH_NAMES:
        raise Refusal(414, f"The path has {len(rest) - 1} names; {limits.MAX_PATH_NAMES} are the most there can be.")
    try:
        root = CID.parse(_decoded(rest[0]))
    except (InvalidCID, UnsupportedCID) as why:
        raise Refusal(400, str(why)) from None
    return ContentPath(root, tuple(_name(part) for part in rest[1:]), slash)


def _name(part: str) -> str:
    name = _decoded(part)
    if name in ("", ".", ".."):
        raise Refusal(400, "The path has an empty name, '.' or '..' in it; no directory has an entry of that name.")
    if "/" in name or "\0" in name:
        raise Refusal(400, "The path has a name with an encoded '/' or NUL in it, which no directory can hold.")
    return name


def _decoded(part: str) -> str:
    if _BROKEN_PERCENT.search(part):
        raise Refusal(400, "The path has a '%' that is not followed by two hexadecimal digits.")
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "The path has percent-encoded bytes that are not UTF-8.") from None


def check_host(host: str | None, names: Iterable[str]) -> None:
    """Refuse a request that a browser was led here with under another name.

    A web page whose own name was pointed at 127.0.0.1 (DNS rebinding) would count as the same origin. An address, or
    `localhost`, cannot be taken by anybody; any other name must be one of `names`.

    Raises:
        Refusal: 421.
    """
    if host is None:
        return  # HTTP/1.0: no browser asks like that
    name = host.strip().lower()
    match = re.fullmatch(r"\[([0-9a-f:.%]+)\](:\d+)?|([^:]*)(:\d+)?", name)
    bare = "" if match is None else (match[1] or match[3] or "").rstrip(".")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not (bare == "localhost" or bare.endswith(".localhost") or bare in {n.lower() for n in names}):
            raise Refusal(
                421,
                f"This gateway does not go by the name {host[:80]!a}. Use its address, or localhost.",
            ) from None


# --- format ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """The form of the answer. `format` is None for files and pages. `named`: the address of the request says it, not
    only a header. `dups`: a block that occurs twice is to be sent twice (CAR)."""

    format: Format | None
    named: bool = False
    dups: bool = False


def wanted_format(query: Mapping[str, str], accept: str) -> Wanted:
    """What `?format=` says, or else the Accept header.

    Raises:
        Refusal: 406 for formats that this gateway does not write; 400 for parameters that make no sense.
    """
    asked = query.get("format")
    kinds = _accepted(accept)
    found: Format | None = None
    parameters: dict[str, str] = {}
    if asked is None:
        for kind, about in kinds:
            if kind in _FORMATS:
                found, parameters = _FORMATS[kind], about
                break
        if found is None and kinds and all(kind.startswith(_OTHER_FORMATS) for kind, _ in kinds):
            raise Refusal(406, f"This gateway answers with files, {RAW_TYPE} or {CAR_TYPE}, not with {kinds[0][0]}.")
    elif asked in ("raw", "car"):
        found = asked
        parameters = next((about for kind, about in kinds if _FORMATS.get(kind) == found), {})
    else:
        raise Refusal(406, f"This gateway knows the formats raw and car, not {asked[:40]!a}.")
    if found != "car":
        return Wanted(found, asked is not None)
    version = query.get("car-version", parameters.get("version", "1"))
    order = query.get("car-order", parameters.get("order", "dfs"))
    dups = query.get("car-dups", parameters.get("dups", "n"))
    if version != "1":
        raise Refusal(406, "This gateway writes CAR files of version 1 only.")
    if order not in ("dfs", "unk", ""):
        raise Refusal(406, f"This gateway writes CAR files in the order dfs, not {order[:40]!a}.")
    if dups not in ("y", "n", ""):
        raise Refusal(400, f"dups is {dups[:40]!a}; it can be y or n.")
    return Wanted("car", asked is not None, dups == "y")


def _accepted(header: str) -> list[tuple[str, dict[str, str]]]:
    """The media types of an Accept header with their parameters, the most wanted first."""
    found: list[tuple[float, str, dict[str, str]]] = []
    for item in header.split(","):
        kind, *rest = (part.strip().lower() for part in item.split(";"))
        parameters = {
            name.strip(): value.strip().strip('"') for name, _, value in (part.partition("=") for part in rest)
        }
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        if kind and weight > 0:
            found.append((weight, kind, parameters))
    found.sort(key=lambda each: -each[0])
    return [(kind, parameters) for _, kind, parameters in found]
