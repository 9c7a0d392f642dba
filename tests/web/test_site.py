"""The documentation as a site, in a browser: nothing is fetched from elsewhere, and a recipe is copied as it stands."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.site import check
from tests.helpers.browser import browse_with

ROOT = Path(__file__).resolve().parents[2]

#: Opens each page in a frame, and writes down what it loaded, how wide it became, and what its recipe copies.
_PROBE = """<!doctype html><meta charset="utf-8"><title>probe</title><pre id="out"></pre>
<script>
const open = (page, width) => new Promise(done => {
  const frame = document.createElement('iframe')
  frame.style = `width:${width}px;height:800px`
  frame.onload = () => setTimeout(() => done(frame), 500)
  frame.src = page
  document.body.append(frame)
})
async function main () {
  const found = { loaded: [], wide: [], blocks: [] }
  for (const page of PAGES) {
    for (const width of [1280, 390]) {
      const frame = await open(page, width)
      const { performance, document: doc } = frame.contentWindow
      found.loaded.push(...performance.getEntriesByType('resource').map(each => each.name))
      if (doc.documentElement.scrollWidth > width) found.wide.push([page, width])
      if (page === 'getting-started.html' && width === 1280) {
        for (const button of doc.querySelectorAll('[data-clipboard-target]')) {
          found.blocks.push(doc.querySelector(button.dataset.clipboardTarget).innerText)
        }
      }
      frame.remove()
    }
  }
  // Even if a page came to name a picture of another host, the browser would refuse it.
  const frame = await open('index.html', 1280)
  const win = frame.contentWindow
  found.refused = await new Promise(done => {
    win.document.addEventListener('securitypolicyviolation', event => done(event.blockedURI))
    win.document.body.append(Object.assign(win.document.createElement('img'), { src: 'http://localhost:1/x.png' }))
    setTimeout(() => done('nothing'), 10000)
  })
  return found
}
main().catch(error => ({ error: String(error) })).then(found => {
  document.getElementById('out').textContent = JSON.stringify(found)
})
</script>
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed (pip install '.[docs]')")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], str]:
    """Opens an address in a browser and gives what the page has become."""
    return browse_with(tmp_path / "profile")


@pytest.fixture
def address(site: Path, tmp_path: Path) -> Iterator[str]:
    """Where the site, and a page that looks at it, are served."""
    folder = tmp_path / "served"
    shutil.copytree(site, folder)
    names = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path.name != "404.html")
    probe = _PROBE.replace("<script>", f"<script>const PAGES = {json.dumps(names)}\n", 1)
    (folder / "probe.html").write_text(probe, encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_no_page_names_what_is_elsewhere(site: Path) -> None:
    """Neither the pages nor the theme's style sheets and scripts name anything elsewhere that a browser would load."""
    assert check.check_site(site) == []


@pytest.mark.slow
def test_a_notebook_is_a_page(site: Path) -> None:
    """With its cells and what they showed; pages lead to it as to every other."""
    page = (site / "notebook.html").read_text(encoding="utf-8")
    assert '<table border="1" class="dataframe">' in page
    assert "ContentNotFound: " in page
    assert 'href="notebook.html"' in (site / "first-ten-minutes.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pages_in_a_browser(address: str, browse: Callable[[str], str]) -> None:
    """A browser loads all of every page from the site itself, and would refuse the rest. No page is wider than a wide
    screen or a phone's. The recipe is copied as it stands, without prompts."""
    text = browse(f"{address}/probe.html")
    match = re.search(r'<pre id="out">(.*?)</pre>', text, re.DOTALL)
    assert match is not None, text[:2000]
    found: dict[str, Any] = json.loads(html.unescape(match[1]) or "{}")
    assert "error" not in found, found
    assert len(found["loaded"]) > 20
    assert [each for each in found["loaded"] if not each.startswith(address)] == []
    assert found["wide"] == []
    assert found["refused"].startswith("http://localhost:1/")
    recipe = next(block for block in found["blocks"] if "kachery-trial" in block)
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    assert f"```bash\n{recipe.strip()}\n```" in page
    assert not any(line.lstrip().startswith("$ ") for block in found["blocks"] for line in block.splitlines())


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<script src="//cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example.org/css?family=Roboto">',
        '<link rel="preconnect" href="https://fonts.example.org">',
        '<img src="https://img.example.org/badge.svg">',
        '<img srcset="a.png 1x, https://img.example.org/b.png 2x">',
        '<iframe src="http://video.example.org/1"></iframe>',
        '<p style="background: url(https://img.example.org/x.png)">text</p>',
        '<style>@import "https://fonts.example.org/css";</style>',
        '<script>fetch("https://stats.example.org/hit")</script>',
        '<pre class="mermaid">graph LR</pre>',
    ],
)
def test_what_is_loaded_from_elsewhere_is_found(page: str) -> None:
    """Each way in which a page could make a browser ask another host."""
    assert check.check_html(f"<!doctype html><html><body>{page}</body></html>")


def test_links_that_a_reader_follows_are_no_matter() -> None:
    """A link leads where it likes, and a page may load its own files and what is written into it."""
    assert not check.check_html(
        '<a href="https://ipfs.tech">IPFS</a><link rel="canonical" href="https://docs.example.org/">'
        '<script src="assets/x.js"></script><img src="data:image/png;base64,AAAA"><style>p { color: red }</style>'
    )


def test_a_style_sheet_and_a_script() -> None:
    """The same in files of their own; comments are passed over."""
    assert check.check_css("@font-face { src: url('https://fonts.example.org/a.woff2') }")
    assert not check.check_css("p { background: url(data:image/png;base64,AAAA) }")
    assert check.check_script('import("https://cdn.example.org/x.js")')
    assert not check.check_script("/* https://cdn.example.org */ // see https://cdn.example.org\nlet x = 1")
