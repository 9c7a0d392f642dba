"""What a request asks for: its path, its format, and whether it may be answered at all.

Follows https://specs.ipfs.tech/http-gateways/path-gateway/ and .../trustless-gateway/. Nothing here does I/O. A request
that is refused raises `PathRefusal`, which is the answer.
"""

from __future__ import annotations

import ipaddress
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidCID, UnsupportedCID
from kachery_p2p.gateway.media_types import CAR_TYPE, RAW_TYPE
from kachery_p2p.gateway.server import limits
from kachery_p2p.peer_ids import any_peer_id

Format = Literal["raw", "car", "tar", "dag-json", "dag-cbor", "json", "cbor", "ipns-record"]

TAR_TYPE = "application/x-tar"
#: What `format=` says, and the media type that means the same.
TYPES: dict[Format, str] = {
    "raw": RAW_TYPE,
    "car": CAR_TYPE,
    "tar": TAR_TYPE,
    "dag-json": "application/vnd.ipld.dag-json",
    "dag-cbor": "application/vnd.ipld.dag-cbor",
    "json": "application/json",
    "cbor": "application/cbor",
    "ipns-record": "application/vnd.ipfs.ipns-record",
}
_FORMATS: dict[str, Format] = {kind: name for name, kind in TYPES.items()}
_NAMED: dict[str, Format] = {name: name for name in TYPES}
#: Answers that other gateways may give and this one does not; asked for by name they are refused, not replaced.
_OTHER_FORMATS = ("application/vnd.ipld.", "application/vnd.ipfs.")
_WILDCARDS = ("*/*", "application/*")

_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
#: Parameters of a CAR, in the Accept header; in the query `car-` stands before them.
_CAR = ("version", "order", "dups")
#: A name of the DNS, as far as it can be told without asking; it goes into headers, so it is ASCII.
_DOMAIN = re.compile(r"(?=.{3,253}\Z)[A-Za-z0-9_\-]{1,63}(\.[A-Za-z0-9_\-]{1,63})+\.?")
_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class PathRefusal(Exception):
    """A request is not served: the HTTP status, and a sentence for whoever asked."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class _Path(ABC):
    """What the two kinds of paths have in common. `slash`: it ends with a slash, as directories do."""

    names: tuple[str, ...]
    slash: bool

    @property
    @abstractmethod
    def _start(self) -> str:
        """What stands before the names in a path."""

    @property
    @abstractmethod
    def _authority(self) -> str:
        """The same in a URI."""

    @property
    def text(self) -> str:
        """The path, percent-encoded, without the slash at its end."""
        return "/".join([self._start, *(quote(name, safe="") for name in self.names)])

    @property
    def as_asked(self) -> str:
        """The path, percent-encoded, with the slash at its end where it has one."""
        return self.text + "/" * self.slash

    @property
    def shown(self) -> str:
        """The path for people."""
        return "/".join([self._start, *self.names])

    @property
    def uri(self) -> str:
        """The path as a URI, with all but the unreserved characters of RFC 3986 percent-encoded."""
        names = "".join(f"/{quote(name, safe='')}" for name in self.names)
        return f"{self._authority}{names}{'/' * self.slash}"


@dataclass(frozen=True)
class ContentPath(_Path):
    """`/ipfs/<cid>[/<name>...][/]`."""

    root: CID
    names: tuple[str, ...]
    slash: bool

    @property
    def _start(self) -> str:
        return f"/ipfs/{self.root}"

    @property
    def _authority(self) -> str:
        return f"ipfs://{self.root.to_v1()}"


@dataclass(frozen=True)
class NamePath(_Path):
    """`/ipns/<name>[/<name of an entry>...][/]`. `name` is that of a key, in any form, or of the DNS."""

    name: str
    names: tuple[str, ...]
    slash: bool

    @property
    def _start(self) -> str:
        return f"/ipns/{self.name}"

    @property
    def _authority(self) -> str:
        return f"ipns://{self.name}"

    @property
    def is_key(self) -> bool:
        """Whether it is the name of a key."""
        return any_peer_id(self.name) is not None


def parse_path(raw: str) -> ContentPath | NamePath:
    """Read the path of a request, as it stands in the request (percent-encoded, ASCII).

    An encoded slash parts names like any other: no path leads to an entry that has one in its name.

    Raises:
        PathRefusal: 404 for what is neither `/ipfs/...` nor `/ipns/...`, 400 for a broken CID, what is no name, names
            that lead elsewhere (`..`, a NUL), bytes that are not UTF-8; 414 when it is too long.
    """
    if len(raw) > limits.MAX_PATH_LENGTH:
        raise PathRefusal(
            414, f"The path has {len(raw)} characters; {limits.MAX_PATH_LENGTH} are the most there can be."
        )
    parts = _ENCODED_SLASH.sub("/", raw).split("/")
    if parts[0] or len(parts) < 2:
        raise PathRefusal(400, "The request does not begin with a path. Ask for /ipfs/<cid>.")
    if parts[1] not in ("ipfs", "ipns"):
        raise PathRefusal(404, "There is nothing here. Content is at /ipfs/<cid>.")
    rest = parts[2:]
    slash = len(rest) > 1 and not rest[-1]
    if slash:
        rest.pop()
    of_name = parts[1] == "ipns"
    if not rest or not rest[0]:
        what, how = ("IPNS name", "/ipns/<name>") if of_name else ("CID", "/ipfs/<cid>")
        raise PathRefusal(400, f"The path names no {what}. Ask for {how}.")
    if len(rest) - 1 > limits.MAX_PATH_NAMES:
        raise PathRefusal(
            414, f"The path has {len(rest) - 1} names; {limits.MAX_PATH_NAMES} are the most there can be."
        )
    names = tuple(_name(part) for part in rest[1:])
    head = _decoded(rest[0])
    if of_name:
        if any_peer_id(head) is None and not _DOMAIN.fullmatch(head):
            raise PathRefusal(
                400, f"{head[:100]!a} is no name. One looks like k51qzi5uqu5d..., or like example.org in the DNS."
            )
        return NamePath(head, names, slash)
    try:
        root = CID.parse(head)
    except (InvalidCID, UnsupportedCID) as error:
        raise PathRefusal(400, str(error)) from None
    return ContentPath(root, names, slash)


def _name(part: str) -> str:
    name = _decoded(part)
    if name in ("", ".", ".."):
        raise PathRefusal(400, "The path has an empty name, '.' or '..' in it; no directory has an entry of that name.")
    if "\0" in name:
        raise PathRefusal(400, "The path has a name with an encoded NUL in it, which no directory can hold.")
    return name


def _decoded(part: str) -> str:
    if _BROKEN_PERCENT.search(part):
        raise PathRefusal(400, "The path has a '%' that is not followed by two hexadecimal digits.")
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise PathRefusal(400, "The path has percent-encoded bytes that are not UTF-8.") from None


def check_host(host: str | None, names: Iterable[str]) -> None:
    """Refuse a request that a browser was led here with under another name.

    A web page whose own name was pointed at 127.0.0.1 (DNS rebinding) would count as the same origin. An address, or
    `localhost`, cannot be taken by anybody; any other name must be one of `names`.

    Raises:
        PathRefusal: 421 for any other name.
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
            raise PathRefusal(
                421,
                f"This gateway does not go by the name {host[:80]!a}. Use its address, or localhost; or name "
                "it in the setting gateway_names.",
            ) from None


# --- format ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """The form of the answer.

    Attributes:
        format: None for files and pages.
        located: what the address of this very answer has behind its question mark besides `format`, where the request
            says some of it in headers only (Content-Location); None where the address says all.
        dups: a block that occurs twice is to be sent twice (CAR).
        html: pages are welcome.
        lenient: where there is no such form, the usual one will do.
    """

    format: Format | None
    located: Mapping[str, str] | None = None
    dups: bool = False
    html: bool = False
    lenient: bool = False


def wanted_format(query: Mapping[str, str], accept: str, path: ContentPath | NamePath | None = None) -> Wanted:
    """What `?format=` says, or else the Accept header (IPIP-0523), of what is at that path.

    Raises:
        PathRefusal: 406 for formats that this gateway does not write; 400 for unknown ones, and for parameters that
            make no sense.
    """
    kinds = _accepted(accept)
    html = any(kind == "text/html" for kind, _ in kinds)
    known: list[tuple[Format, dict[str, str]]] = [(_FORMATS[kind], about) for kind, about in kinds if kind in _FORMATS]
    asked = query.get("format")
    if asked is not None:
        found = _NAMED.get(asked)
        if found is None:
            raise PathRefusal(400, f"There is no format {asked[:40]!a}; those known are {', '.join(TYPES)}.")
        choices = [about for name, about in known if name == found] or [{}]
    elif known:
        found = known[0][0]
        choices = [about for name, about in known if name == found]
    elif kinds and all(kind.startswith(_OTHER_FORMATS) for kind, _ in kinds):
        raise PathRefusal(
            406, f"This gateway answers with files, or {', '.join(TYPES.values())}; not with {kinds[0][0]}."
        )
    else:
        return Wanted(None, html=html)
    if found == "ipns-record":
        if not isinstance(path, NamePath):
            raise PathRefusal(400, "There are no IPNS records under /ipfs/.")
        if path.names or not path.is_key:
            raise PathRefusal(400, "An IPNS record is that of the name of a key, without a path: /ipns/k51qzi5uqu5d...")
    said_otherwise = asked is None or bool(known and known[0][0] != found)
    if found != "car":
        lenient = asked is None and any(kind in _WILDCARDS for kind, _ in kinds)
        return Wanted(found, {} if said_otherwise else None, html=html, lenient=lenient)
    return _wanted_car(query, choices, said_otherwise)


def _wanted_car(query: Mapping[str, str], choices: Sequence[Mapping[str, str]], said_otherwise: bool) -> Wanted:
    """The first of the variants in the Accept header that we write; the query says more than they (IPIP-0412)."""
    refusal: PathRefusal | None = None
    for about in choices:
        try:
            dups = _car_dups({**about, **{name: query[f"car-{name}"] for name in _CAR if f"car-{name}" in query}})
        except PathRefusal as error:
            refusal = refusal or error
            continue
        located = {f"car-{name}": about[name] for name in _CAR if about.get(name) and f"car-{name}" not in query}
        overruled = any(name in about and about[name] != query.get(f"car-{name}", about[name]) for name in _CAR)
        return Wanted("car", located if said_otherwise or located or overruled else None, dups)
    assert refusal is not None
    raise refusal


def _car_dups(about: Mapping[str, str]) -> bool:
    version, order, dups = about.get("version") or "1", about.get("order", ""), about.get("dups", "")
    if version != "1":
        raise PathRefusal(406, "This gateway writes CAR files of version 1 only.")
    if order not in ("dfs", "unk", ""):
        raise PathRefusal(406, f"This gateway writes CAR files in the order dfs, not {order[:40]!a}.")
    if dups not in ("y", "n", ""):
        raise PathRefusal(400, f"dups is {dups[:40]!a}; it can be y or n.")
    return dups == "y"


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
