"""Pages of the program that runs a gateway, and the gateway's own: what they are sent with, and what they show."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.gateway.server.sites import Site
from tests.helpers.gateway_served import Served, gateway, served

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site of a page and a script."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>It</title>", encoding="utf-8")
    (folder / "main.js").write_text("let a = 1\n" * 1000, encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    files = {"index.html": folder / "index.html", "parts/main.js": folder / "main.js"}
    policies = {"index.html": "default-src 'none'; script-src {site}"}
    return Site("/it/", files, policies, title="It", opens="notes.txt", open_title="Show it")


async def test_the_files_of_a_site(here: Served, site: Site) -> None:
    """Each has its type and an ETag; long text is packed for those who take it so."""
    async with gateway(here.repo, sites=[site]) as http:
        page = await http.get("/it/?any=query")
        assert page.text == "<!doctype html><title>It</title>"
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert (
            page.headers["content-security-policy"]
            == f"default-src 'none'; script-src {http.base_url.netloc.decode()}/it/"
        )
        assert page.headers["x-content-type-options"] == "nosniff"
        script = await http.get("/it/parts/main.js", headers={"accept-encoding": "identity"})
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert "content-encoding" not in script.headers
        packed = await http.get("/it/parts/main.js", headers={"accept-encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < len(script.content)
        assert packed.content == script.content
        again = await http.get("/it/parts/main.js", headers={"if-none-match": packed.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = await http.head("/it/")
        assert (head.status_code, head.content) == (200, b"")
        bare = await http.get("/it")
        assert (bare.status_code, bare.headers["location"]) == (301, "/it/")


@pytest.mark.parametrize(
    "path",
    ["parts/", "parts", "other", "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "index.html/", "/etc/passwd"],
)
async def test_nothing_else_is_in_a_site(here: Served, site: Site, path: str) -> None:
    """Files have the names that were said, and there is no way to others."""
    async with gateway(here.repo, sites=[site]) as http:
        request = http.build_request("GET", "/it/")
        request.url = request.url.copy_with(raw_path=f"/it/{path}".encode())
        assert (await http.send(request)).status_code == 404
        assert (await http.post("/it/", content=b"x")).status_code == 405


async def test_without_a_site(here: Served) -> None:
    """Its path means nothing."""
    async with gateway(here.repo) as http:
        assert (await http.get("/it/")).status_code in (400, 404)
        assert "/it/" not in (await http.get("/")).text


async def test_links_to_a_site(here: Served, site: Site) -> None:
    """The page of the gateway has one, and that of a directory with the file that the site shows; no other has."""
    async with gateway(here.repo, sites=[site]) as http:
        assert '<a href="/it/">It</a>' in (await http.get("/")).text
        page = await http.get(f"/ipfs/{here.directory}/")
        assert f'href="/it/#ipfs://{here.directory}">Show it</a>' in page.text
        assert "Show it" not in (await http.get(f"/ipfs/{here.directory}/deep/")).text


async def test_a_directory_says_what_is_in_it(here: Served) -> None:
    """Kinds and sizes, for people: folders by looking at them, files by their names."""
    async with gateway(here.repo) as http:
        text = (await http.get(f"/ipfs/{here.directory}/")).text
        rows = dict(re.findall(r'<tr><td><a href="\./[^"]*">([^<]*)</a><td class="kind muted">(.*)', text))
        assert rows.keys() == {"deep/", "data.bin", "notes.txt", "page.html", "a name ü#?.json"}
        assert rows["deep/"].startswith("folder<")
        assert rows["data.bin"].startswith("file<")
        assert rows["notes.txt"] == 'text<td class="number">20 bytes'
        assert rows["page.html"].startswith("web page<")
        assert rows["a name ü#?.json"].startswith("JSON<")
        assert re.search(r'about <data value="\d+">3\.16 MB</data>', rows["data.bin"])
        below = (await http.get(f"/ipfs/{here.directory}/deep/er/")).text
        assert "NumPy array" in below


async def test_mistakes_are_pages_for_people_and_lines_for_programs(here: Served) -> None:
    """A browser is shown a page that says the same; what was asked for is text in it."""
    async with gateway(here.repo) as http:
        for path in (f"/ipfs/{here.file}/x", "/ipfs/<script>alert(1)</script>", f"/ipfs/{here.file}?format=<b>", "/x"):
            plain, page = await http.get(path), await http.get(path, headers=HTML)
            assert plain.status_code == page.status_code
            assert plain.headers["content-type"] == "text/plain; charset=utf-8"
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert page.headers["cache-control"] == "no-store"
            assert "Accept" in page.headers["vary"]
            assert "script-src" not in page.headers["content-security-policy"]
            assert not re.search(r"<(script|b)\b", page.text.partition("<main>")[2])
            assert f"HTTP status {page.status_code}" in page.text


async def test_only_its_own_style_is_in_a_page(here: Served) -> None:
    """The policy of each page names the hash of the one style in it, and allows nothing else."""
    async with gateway(here.repo) as http:
        for path in ("/", f"/ipfs/{here.directory}/", "/nothing"):
            page = await http.get(path, headers=HTML)
            (style,) = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
            policy = page.headers["content-security-policy"]
            assert policy == (f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'")
            assert "set-cookie" not in page.headers
