"""A request for content: what it asks for, the headers that all answers have, and what an error means."""

from __future__ import annotations

import logging
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import (
    ContentNotFound,
    DiskFull,
    InvalidCID,
    InvalidName,
    KacheryError,
    MalformedDag,
    NotADirectory,
    PathNotFound,
    UnsupportedCID,
)
from kachery_p2p.gateway.server import limits
from kachery_p2p.gateway.server.cars import CarRequest
from kachery_p2p.gateway.server.content import BlockUnavailable, ResolvedPath
from kachery_p2p.gateway.server.ipld import NotALink
from kachery_p2p.gateway.server.pages import disposition
from kachery_p2p.gateway.server.paths import ContentPath, NamePath, PathRefusal, Wanted, wanted_format
from kachery_p2p.gateway.server.ranges import entity_bytes, matches, may_resume, requested_ranges
from kachery_p2p.gateway.server.replies import FOR_EVER, HttpReply

log = logging.getLogger("kachery_p2p.gateway")


class Request:
    """A request for content.

    Raises:
        PathRefusal: it makes no sense, or asks for what must not be.
    """

    def __init__(self, path: ContentPath | NamePath, query: str, headers: Headers, *, head: bool = False) -> None:
        self.path = path
        #: Where the path begins, once that is known: a root, and the way from there.
        self.target: tuple[CID, tuple[str, ...]] | None = None
        if isinstance(path, ContentPath):
            self.target = path.root, path.names
        self._ttl: float | None = None
        self.query_text = query
        try:
            self.query = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=limits.MAX_QUERY_FIELDS))
        except ValueError:
            raise PathRefusal(400, "The part of the address behind the question mark has too many parts.") from None
        self.headers = headers
        self.wanted: Wanted = wanted_format(self.query, ", ".join(headers.getlist("accept")), path)
        self.head = head
        self.download = self.query.get("download") == "true"
        self.filename = self.query.get("filename", "")
        directives = (each.strip().lower() for each in headers.get("cache-control", "").split(","))
        self.only_if_cached = "only-if-cached" in directives
        self.headers_found: dict[str, str] = {"ipfs-uri": path.uri}
        shown = path.shown + "/" * path.slash
        if shown.isascii() and shown.isprintable():  # else a header cannot carry it as it is (IPIP-0548)
            self.headers_found["x-ipfs-path"] = shown
        if headers.get("service-worker") == "script" and not path.names and not path.slash:
            # Its scope would be all of /ipfs/: it would stand between this gateway and everything that is read from it.
            raise PathRefusal(
                400, "A service worker cannot be registered for all of /ipfs/ or /ipns/, only below one CID or name."
            )

    def leads_to(self, root: CID, names: tuple[str, ...], ttl: float) -> None:
        """Where the name of the path points now, and for how many seconds caches may believe it."""
        self.target = root, (*names, *self.path.names)
        self._ttl = ttl

    def caching(self, how: str) -> str:
        """What is said of an answer that caches may keep as `how` says, unless its name may point elsewhere soon."""
        return how if self._ttl is None else f"public, max-age={int(self._ttl)}"

    def found(self, found: ResolvedPath) -> None:
        """Where the path led, for the headers."""
        self.headers_found["x-ipfs-roots"] = ",".join(map(str, found.roots))

    def has(self, etag: str) -> bool:
        """Whether the asker has it already."""
        return matches(self.headers.get("if-none-match"), etag)

    def ranges(self, size: int, etag: str) -> list[tuple[int, int]]:
        """The parts of a body of `size` bytes that are asked for; empty for all of it.

        Raises:
            PathRefusal: 416 when all of them lie behind its end.
        """
        if self.head or not may_resume(self.headers.get("if-range"), etag):
            return []  # only GET has ranges (RFC 9110, section 14.2)
        try:
            return requested_ranges(self.headers.get("range"), size)
        except PathRefusal as refusal:
            refusal.headers.update(self.headers_found)
            raise

    def cached(self, etag: str, how: str = FOR_EVER) -> dict[str, str]:
        """The headers of an answer that caches may keep."""
        headers = {"etag": etag, "cache-control": self.caching(how), "vary": "Accept", **self.headers_found}
        if self.wanted.format is not None and self.wanted.located is not None:
            others = [(name, value) for name, value in self.query.items() if name != "format"]
            query = urlencode([*others, ("format", self.wanted.format), *self.wanted.located.items()], quote_via=quote)
            headers["content-location"] = f"{self.path.as_asked}?{query}"
        return headers

    def not_modified(self, etag: str, how: str = FOR_EVER) -> HttpReply:
        """What the asker has is right."""
        return HttpReply(304, self.cached(etag, how))

    def attached(self, name: str) -> dict[str, str]:
        """The header of what is to be saved and not shown: as the asker calls it, or else as `name`."""
        return {"content-disposition": disposition("attachment", self.filename or name)}

    def car(self) -> CarRequest:
        """Which blocks are asked for.

        Raises:
            PathRefusal: 400 for parameters that make no sense.
        """
        part = self.query.get("entity-bytes")
        scope = self.query.get("dag-scope", "all" if part is None else "entity")
        if scope == "block":
            return CarRequest("block", None, self.wanted.dups)
        if scope == "entity" or (scope == "all" and part is not None):
            return CarRequest("entity", None if part is None else entity_bytes(part), self.wanted.dups)
        if scope == "all":
            return CarRequest("all", None, self.wanted.dups)
        raise PathRefusal(400, f"dag-scope is {scope[:40]!a}; it can be block, entity or all.")


def refusal_for(error: KacheryError, request: Request) -> PathRefusal:
    """What an error means to whoever asked. Never names a file or a folder of this machine."""
    path = request.path.shown
    headers = request.headers_found
    again = {"retry-after": str(limits.RETRY_AFTER), **headers}
    if isinstance(error, BlockUnavailable):
        if request.only_if_cached:
            return PathRefusal(412, "", headers)
        # Where a name leads is not for this sentence to say: perhaps whoever asks may not know.
        missing = f"the block {error.cid}" if isinstance(request.path, ContentPath) else "a block of it"
        return PathRefusal(404, f"{path} is not here: {missing} is missing on this machine.", headers)
    if isinstance(error, (PathNotFound, NotADirectory)):
        return PathRefusal(404, str(error), headers)
    if isinstance(error, NotALink):
        return PathRefusal(501, str(error), headers)
    if isinstance(error, ContentNotFound):
        return PathRefusal(504, f"Nobody who was asked in time has all of {path}.", again)
    if isinstance(error, (InvalidName, InvalidCID)):
        return PathRefusal(400, str(error))
    if isinstance(error, UnsupportedCID):
        return PathRefusal(400, f"{error} Ask for the block itself with ?format=raw.", headers)
    if isinstance(error, MalformedDag):
        return PathRefusal(422, str(error), headers)
    if isinstance(error, DiskFull):
        return PathRefusal(507, f"There is no room on this machine for {path}.")
    log.warning("could not answer for %s: %s", request.path.text, error)
    return PathRefusal(500, "This gateway cannot read what was asked for; its log says why.")
