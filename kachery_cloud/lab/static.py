"""The files of the lab's pages, as the node serves them: HTML, styles, scripts, and the libraries beside them.

All pages are one document, `web/index.html`; its script looks at the address and shows what belongs there. What the
document names lies at `/static/<version>/`, where the version is a hash of all files: a browser keeps them for good
(RFC 8246), and asks for others when the node is a newer one. The document itself is asked for each time, by its ETag.

Nothing of it depends on who asks, so nothing of it needs a sign-in; what is shown comes from the API.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kachery_cloud.lab.answers import not_found
from kachery_cloud.lab.page_headers import PAGE, WORKER

#: Pages, as their addresses are matched. Which of them there is something to see on, the API decides.
PAGES = (
    "/",
    "/clients",
    "/files",
    "/files/{file}",
    "/members",
    "/node",
    "/projects",
    "/projects/{project}",
    "/register/{registration}",
    "/sign-in",
    "/usage",
)
#: A script that runs WebAssembly (libhdf5): in a worker, whose own answer says what it may do.
WORKERS = frozenset({"preview/hdf5_worker.js"})

_FOLDER = Path(__file__).resolve().parents[1] / "web"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOR_GOOD = "public, max-age=31536000, immutable"
_ASK_EACH_TIME = "no-cache"
#: Where index.html names the version.
_VERSION_MARK = b"{{version}}"
_VERSION_CHARACTERS = 16
#: What is smaller goes out as it is: the packet is sent anyway.
_WORTH_PACKING = 512


@dataclass
class StaticFile:
    """One file, ready to be served.

    Attributes:
        name: from the folder of pages, with slashes.
        data: the bytes.
        kind: its media type.
        etag: strong, of the bytes (RFC 9110, section 8.8.3).
    """

    name: str
    data: bytes
    kind: str
    etag: str = field(init=False)
    _packed: bytes | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.etag = hashlib.sha256(self.data).hexdigest()[:32]

    @property
    def packed(self) -> bytes:
        """The bytes, compressed; done when somebody first asks for them."""
        if self._packed is None:
            self._packed = gzip.compress(self.data, 6, mtime=0)
        return self._packed


@dataclass(frozen=True)
class Site:
    """All files of the pages.

    Attributes:
        version: a hash of them all, in their addresses.
        files: by name; `index.html` names the version already.
    """

    version: str
    files: dict[str, StaticFile]


@lru_cache(maxsize=1)
def site() -> Site:
    """The files of the pages as they were installed; read once."""
    found = dict(sorted(_walk(_FOLDER, "")))
    whole = hashlib.sha256()
    for name, data in found.items():
        whole.update(f"{name}\0{len(data)}\0".encode() + data)
    version = whole.hexdigest()[:_VERSION_CHARACTERS]
    found["index.html"] = found["index.html"].replace(_VERSION_MARK, version.encode("ascii"))
    return Site(version, {name: StaticFile(name, data, _kind(name)) for name, data in found.items()})


def routes(lab: object) -> list[Route]:
    """What serves the pages. They are the same for all, whatever the `lab`."""
    # Functions that are not async are run in threads: compressing the largest file takes a while, once.
    return [
        *(Route(path, _page, methods=["GET"]) for path in PAGES),
        Route("/favicon.ico", _icon, methods=["GET"]),
        Route("/robots.txt", _robots, methods=["GET"]),
        Route("/static/{version}/{name:path}", _file, methods=["GET"]),
    ]


def _walk(folder: Path, before: str) -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _walk(each, f"{before}{each.name}/")
        elif _kind(each.name):
            yield before + each.name, each.read_bytes()


def _kind(name: str) -> str:
    """The media type of a file; empty for what is none of the pages' files (what an editor left, say).

    A licence has no ending.
    """
    return "text/plain; charset=utf-8" if name.endswith("LICENSE") else _TYPES.get(f".{name.rpartition('.')[2]}", "")


def _page(request: Request) -> Response:
    return _answer(request, site().files["index.html"], _ASK_EACH_TIME, PAGE)


def _icon(request: Request) -> Response:
    return _answer(request, site().files["logo.svg"], _ASK_EACH_TIME, PAGE)


def _robots(request: Request) -> Response:
    headers = {"content-security-policy": PAGE, "cache-control": _ASK_EACH_TIME}
    return Response("User-agent: *\nDisallow: /\n", headers=headers, media_type="text/plain")


def _file(request: Request) -> Response:
    """A file by its version and name.

    A page that was opened before the node was renewed still asks with the old version: it gets the file as it is now,
    and keeps it for no longer than that.
    """
    found = site().files.get(request.path_params["name"])
    if found is None or found.name == "index.html":
        raise not_found("There is no such file.")
    current = request.path_params["version"] == site().version
    policy = WORKER if found.name in WORKERS else PAGE
    return _answer(request, found, _FOR_GOOD if current else _ASK_EACH_TIME, policy)


def _answer(request: Request, found: StaticFile, caching: str, policy: str) -> Response:
    pack = len(found.data) >= _WORTH_PACKING and _takes_gzip(request.headers.get("accept-encoding", ""))
    # Each encoding is another sequence of bytes, and so has another strong ETag.
    etag = f'"{found.etag}{"-gzip" if pack else ""}"'
    headers = {
        "cache-control": caching,
        "content-security-policy": policy,
        "etag": etag,
        "vary": "Accept-Encoding",
    }
    if _known(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    if pack:
        headers["content-encoding"] = "gzip"
    return Response(found.packed if pack else found.data, headers={**headers, "content-type": found.kind})


def _known(asked: str, etag: str) -> bool:
    """Whether If-None-Match names this entity; compared weakly (RFC 9110, section 13.1.2)."""
    return asked.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in asked.split(","))


def _takes_gzip(accepted: str) -> bool:
    """Whether Accept-Encoding allows gzip (RFC 9110, section 12.5.3)."""
    weights: dict[str, float] = {}
    for each in accepted.lower().split(","):
        coding, *parameters = (part.strip() for part in each.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[coding] = float(weight)
        except ValueError:
            weights[coding] = 0.0
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
