"""A web page of another origin reads data through the gateway of one of our nodes: headless Chromium, loopback only."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.browser import browse_with

_STORE = """
import numpy as np
array = np.arange(300_000, dtype="<f8").reshape(300, 1000)
np.save("trial.npy", array)
import os
os.makedirs("session", exist_ok=True)
os.replace("trial.npy", "session/trial.npy")
say([kcl.store_npy(array), kcl.store_dir("session"), float(array.sum()), float(array[-1].sum())])
"""

#: What figurl and other pages do: the head of the file first, then the array, then a part of it by a range. What it
#: finds is written into the page.
_PAGE = """<!doctype html><meta charset="utf-8"><title>waiting</title><pre id="out"></pre>
<script>
const sum = bytes => new Float64Array(bytes).reduce((a, b) => a + b, 0)
async function main () {
  const found = { origin: location.origin }
  const whole = await fetch(ARRAY)
  found.etag = whole.headers.get('ETag')
  const bytes = await whole.arrayBuffer()
  const start = 10 + new DataView(bytes).getUint16(8, true)
  found.sum = sum(bytes.slice(start))
  const named = await fetch(NAMED, { headers: { 'X-Requested-With': 'page' } })  // asks for permission first
  found.named = sum((await named.arrayBuffer()).slice(start))
  const range = `bytes=${start + 299 * 8000}-${start + 300 * 8000 - 1}`
  const row = await fetch(ARRAY, { headers: { Range: range }, cache: 'no-store' })
  found.status = row.status
  found.contentRange = row.headers.get('Content-Range')
  found.row = sum(await row.arrayBuffer())
  found.missing = (await fetch(ARRAY.replace(/.{4}$/, 'aaaa'))).status
  try {
    await fetch(ARRAY, { method: 'PUT', body: 'x' })
    found.written = true
  } catch (error) {
    found.written = false
  }
  return found
}
main().catch(error => ({ error: String(error) })).then(found => {
  document.getElementById('out').textContent = JSON.stringify(found)
})
</script>
"""


@contextmanager
def site(pages: dict[str, str]) -> Iterator[str]:
    """Web pages of another origin on loopback: path -> text. The address."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = pages.get(self.path)
            self.send_response(200 if text is not None else 404)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], str]:
    """Opens an address in a browser and gives what the page has become."""
    return browse_with(tmp_path / "profile")


@pytest.fixture
def station(workstation: StartWorkstation) -> Workstation:
    """A workstation whose node serves a gateway."""
    return workstation().start("--gateway", "127.0.0.1:0")


@pytest.mark.slow
def test_a_page_of_another_origin_reads_an_array(station: Workstation, browse: Callable[[str], str]) -> None:
    """A page that a browser got elsewhere fetches a numpy array through the gateway, whole and in part, and sums it; it
    cannot write."""
    array, folder, total, last_row = station.call(_STORE)
    gateway = station.status()["gateway"]["url"]
    address = f"{gateway}/ipfs/{array.removeprefix('ipfs://')}"
    named = f"{gateway}/ipfs/{folder.removeprefix('ipfs://')}/trial.npy"
    page = _PAGE.replace("<script>", f"<script>const ARRAY = {json.dumps(address)}, NAMED = {json.dumps(named)}\n")
    with site({"/figure": page}) as origin:
        text = browse(f"{origin}/figure")
    match = re.search(r'<pre id="out">(.*?)</pre>', text, re.DOTALL)
    assert match is not None, text[:2000]
    found: dict[str, Any] = json.loads(html.unescape(match[1]) or "{}")
    head = 128
    assert found == {
        "origin": origin,
        "etag": f'"{array.removeprefix("ipfs://")}"',
        "sum": total,
        "named": total,
        "status": 206,
        "contentRange": f"bytes {head + 299 * 8000}-{head + 300 * 8000 - 1}/{head + 300 * 8000}",
        "row": last_row,
        "missing": 404,
        "written": False,
    }


@pytest.mark.slow
def test_the_page_of_a_directory_in_a_browser(station: Workstation, browse: Callable[[str], str]) -> None:
    """A browser shows a directory, having been sent on to its slash."""
    _, folder, _, _ = station.call(_STORE)
    text = browse(f"{station.status()['gateway']['url']}/ipfs/{folder.removeprefix('ipfs://')}")
    assert '<a href="./trial.npy">trial.npy</a>' in text
