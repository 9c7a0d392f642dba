"""A web page of another origin reads data through the gateway of one of our nodes: headless Chromium, loopback only."""

from __future__ import annotations

import html
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.browser import browse_with
from tests.helpers.devtools import Browser

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


_STORE_TWO = """
import os
from pathlib import Path
from kachery_p2p.gateway.server.token import gateway_token
say([kcl.store_json({"trials": [1, 2, 3]}), kcl.store_json("a secret", to="private"),
    gateway_token(Path(os.environ["KACHERY_CLOUD_DIR"]))])
"""

#: What a page of another origin may find out, and what it may do.
_TRY = """(async () => {
  const tried = async (address, options) => {
    try {
      const answer = await fetch(address, options)
      return answer.ok ? await answer.text() : answer.status
    } catch (error) {
      return 'refused'
    }
  }
  const head = await fetch(PUBLIC, { method: 'HEAD' })
  const part = await fetch(PUBLIC, { headers: { Range: 'bytes=0-8' } })
  const known = await fetch(PUBLIC, { headers: { 'If-None-Match': head.headers.get('ETag') }, cache: 'no-store' })
  const token = { headers: { Authorization: `Bearer ${TOKEN}` } }
  return {
    json: await (await fetch(PUBLIC)).json(),
    head: [head.status, head.headers.get('Content-Length'), head.headers.get('ETag')],
    part: [part.status, await part.text(), part.headers.get('Content-Range'), part.headers.get('Accept-Ranges')],
    known: known.status,
    private: await tried(PRIVATE),
    'private, with the token': await tried(PRIVATE, token),
    'private, with cookies': await tried(PRIVATE, { credentials: 'include' }),
    posted: await tried(PUBLIC, { method: 'POST', body: 'x' }),
    'posted without asking': (await fetch(PUBLIC, { method: 'POST', body: 'x', mode: 'no-cors' })).type,
    deleted: await tried(PUBLIC, { method: 'DELETE' }),
  }
})()"""


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [False, True])
def test_what_a_page_of_another_origin_may_do(workstation: StartWorkstation, tmp_path: Path, allowed: bool) -> None:
    """It reads what is public: whole, in part, its headers, and whether it is the same; and it writes nothing.

    The token is of use to it only where the user has named its origin.
    """
    with site({"/figure": "<!doctype html><title>Lab</title>"}) as origin:
        here = workstation(env={"KACHERY_CLOUD_GATEWAY_ORIGINS": origin} if allowed else {})
        here.start("--gateway", "127.0.0.1:0")
        public, private, token = here.call(_STORE_TWO)
        gateway = here.status()["gateway"]["url"]
        cid = public.removeprefix("ipfs://")
        script = (
            _TRY.replace("PUBLIC", json.dumps(f"{gateway}/ipfs/{cid}"))
            .replace("PRIVATE", json.dumps(f"{gateway}/ipfs/{private.removeprefix('ipfs://').partition('?')[0]}"))
            .replace("TOKEN", json.dumps(token))
        )
        with Browser(tmp_path / "browser") as browser:
            page = browser.page()
            page.open(f"{origin}/figure")
            found = page.run(script)
        assert found == {
            "json": {"trials": [1, 2, 3]},
            "head": [200, "18", f'"{cid}"'],
            "part": [206, '{"trials"', "bytes 0-8/18", "bytes"],
            "known": 304,
            "private": 404,
            "private, with the token": '"a secret"' if allowed else "refused",
            "private, with cookies": "refused",
            "posted": 405,
            "posted without asking": "opaque",
            "deleted": "refused",
        }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_page_reaches_the_control_socket(workstation: StartWorkstation) -> None:
    """It is a file, and no port: a browser has no address for it."""
    here = workstation().start("--gateway", "127.0.0.1:0")
    gateway = int(here.status()["gateway"]["url"].rpartition(":")[2])
    listens = {int(address.split("/")[4]) for address in here.addrs}
    with open(f"/proc/{here.node.pid}/net/tcp", encoding="ascii") as table:
        lines = [line.split() for line in table.readlines()[1:]]
    inodes: set[str] = set()
    for each in os.scandir(f"/proc/{here.node.pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(os.readlink(each.path))
    ports = {
        int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes
    }
    assert ports == {gateway, *listens}


@pytest.mark.slow
def test_the_page_of_a_directory_in_a_browser(station: Workstation, browse: Callable[[str], str]) -> None:
    """A browser shows a directory, having been sent on to its slash."""
    _, folder, _, _ = station.call(_STORE)
    text = browse(f"{station.status()['gateway']['url']}/ipfs/{folder.removeprefix('ipfs://')}")
    assert '<a href="./trial.npy">trial.npy</a>' in text
