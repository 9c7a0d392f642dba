"""The files of the lab's pages over HTTP: types, ETags, compression, caching, policies."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest
from starlette.requests import Request
from starlette.routing import Router

from kachery_cloud.lab import static
from kachery_cloud.lab.app import PARTS
from kachery_cloud.lab.static import PAGES, WORKERS, StaticFile, site
from kachery_p2p.pinning.server.requests import Refusal

VERSION = site().version
STYLE = f"/static/{VERSION}/style.css"


@pytest.fixture
def http() -> Iterator[httpx.AsyncClient]:
    """Asks the routes without a socket."""
    transport = httpx.ASGITransport(app=Router(static.routes(None)))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8095")


def test_the_lab_serves_its_pages() -> None:
    """What is tested here is part of the lab."""
    assert static.routes in PARTS


@pytest.mark.parametrize("path", PAGES)
async def test_each_page_is_the_document(http: httpx.AsyncClient, path: str) -> None:
    """Each address of a page gives the one document, which is asked for each time and names files by their version."""
    answer = await http.get(re.sub(r"\{\w+\}", "x", path))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["cache-control"] == "no-cache"
    assert f'src="/static/{VERSION}/main.js"' in answer.text
    assert "{{" not in answer.text


async def test_files_are_kept_for_good_by_their_version(http: httpx.AsyncClient) -> None:
    """A file at the version that is now is never asked for again; one at an older version is given, and not kept."""
    now, old = await http.get(STYLE), await http.get(STYLE.replace(VERSION, "0" * 16))
    assert now.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert old.headers["cache-control"] == "no-cache"
    assert now.content == old.content == site().files["style.css"].data


async def test_what_a_browser_has_is_not_sent_again(http: httpx.AsyncClient) -> None:
    """If-None-Match with the ETag, weak or strong and among others, or a star, gives 304; another one the file."""
    etag = (await http.get(STYLE)).headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}-gzip"', etag)
    for asked in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = await http.get(STYLE, headers={"if-none-match": asked})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    for asked in ('"x"', "", etag.replace("-gzip", "")):
        assert (await http.get(STYLE, headers={"if-none-match": asked})).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip, deflate, br", True),
        ("GZIP", True),
        ("*", True),
        ("*;q=0, gzip", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=words", False),
        ("identity", False),
        ("", False),
    ],
)
async def test_files_are_compressed_for_those_who_take_it(accepted: str, packed: bool) -> None:
    """Accept-Encoding decides, with its weights; each encoding has an ETag of its own, and caches are told."""
    assert static._takes_gzip(accepted) is packed
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=Router(static.routes(None))), base_url="http://127.0.0.1"
    ) as http:
        answer = await http.get(STYLE, headers={"accept-encoding": accepted})
    assert (answer.headers.get("content-encoding") == "gzip") is packed
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["etag"].endswith('-gzip"') is packed
    assert answer.content == site().files["style.css"].data


def test_a_file_is_compressed_once() -> None:
    """The same bytes each time, which unpack to the file."""
    found = StaticFile("x.js", b"let x = 1\n" * 1000, "text/javascript")
    assert gzip.decompress(found.packed) == found.data
    assert found.packed is found.packed


async def test_a_page_may_do_what_it_needs(http: httpx.AsyncClient) -> None:
    """Nothing inline, nothing evaluated, nothing from elsewhere; only the worker for HDF5 compiles WebAssembly."""
    for name in site().files:
        if name == "index.html":
            continue
        answer = await http.get(f"/static/{VERSION}/{name}")
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert answer.status_code == 200
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == ("'self' 'wasm-unsafe-eval'" if name in WORKERS else "'self'")
        assert policy["frame-ancestors"] == "'none'"
        assert "unsafe-inline" not in str(policy)
        assert "http" not in str(policy)
    assert {name for name in site().files if name in WORKERS} == WORKERS


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "index.html", "../lab/static.py", "%2e%2e/lab/static.py", "vendor/../style.css", "", "vendor"],
)
async def test_there_are_no_other_files(name: str) -> None:
    """What is none of the pages' files is not there, however it is asked for."""
    scope = {"type": "http", "method": "GET", "headers": [], "path_params": {"version": VERSION, "name": name}}
    with pytest.raises(Refusal) as caught:
        static._file(Request(scope))
    assert caught.value.status == 404


def test_libraries_of_others_are_as_they_were_published() -> None:
    """Each vendored file is in the list with its hash, and has not been changed since; licences lie beside."""
    listed = dict(
        re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", site().files["vendor/VENDORED.md"].data.decode(), re.M)
    )
    found = {
        name.removeprefix("vendor/"): hashlib.sha256(each.data).hexdigest()
        for name, each in site().files.items()
        if name.startswith("vendor/") and not name.endswith("VENDORED.md")
    }
    assert found == listed
    assert {name.split("/")[0] for name in found if "LICENSE" in name} == {name.split("/")[0] for name in found}


def test_pages_load_nothing_from_elsewhere() -> None:
    """No file of ours names a script, style or picture of another host, and none makes HTML of text."""
    for name, each in site().files.items():
        if name.startswith("vendor/") or name.endswith((".md", ".svg")):
            continue
        text = each.data.decode()
        assert not re.search(r"""(?:src|href|from|import|url)\s*[=(]?\s*['"(]?https?://""", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text) or name.endswith(".js"), name
