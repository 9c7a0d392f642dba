"""A lab as people have it: its node as a process, two computers with our commands, an OpenID provider, a browser."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.page_pictures import settle
from tests.conftest import StartWorkstation
from tests.e2e.test_ownership import INIT, ended, terminal
from tests.e2e.test_registering import Lab, begin
from tests.helpers.devtools import Page
from tests.helpers.openid import OpenIDProvider, web_client
from tests.web.test_lab_flow import sign_in

pytestmark = pytest.mark.slow

STORE = "say(kcl.store_file(args[0], project=args[1]))"
LOAD = "say(str(kcl.load_file(args[0])))"
SIZE = 3_000_000


def test_two_computers_and_a_page(
    workstation: StartWorkstation,
    start_openid: Callable[..., OpenIDProvider],
    free_port: Callable[[], int],
    page: Page,
    tmp_path: Path,
) -> None:
    """`kachery-cloud-init --node` on two computers shows links, which a browser follows; one stores into a project and
    sleeps, the other loads; the pages show the clients, the file, who has it, and what was served."""
    port = free_port()
    provider = start_openid(clients=[web_client(f"http://127.0.0.1:{port}/sign-in/callback")])
    settings = {
        "KACHERY_CLOUD_OPENID_ISSUER": provider.issuer,
        "KACHERY_CLOUD_OPENID_CLIENT_ID": "lab",
        "KACHERY_CLOUD_OPENID_CLIENT_SECRET": "lab-secret",
        "KACHERY_CLOUD_LAB_NAME": "Hippocampus Lab",
        "KACHERY_CLOUD_LAB_MEMBERS": "@example.org",
    }
    lab = Lab(workstation(env=settings), port)
    rig, laptop = workstation(), workstation()
    for station, label in ((rig, "rig-2"), (laptop, "laptop")):
        with terminal(station) as shell:
            link, code = begin(shell, f"{INIT} --node {lab.url} --label {label}")
            page.open(link)
            settle(page)
            if "Sign in" in page.text("main h1"):
                sign_in(page, "ada")
            assert code in page.text("main")
            assert label in page.text("main")
            page.click("main button:not(.quiet)")
            page.wait("document.querySelector('main .notice.good')")
            shown, status = ended(shell)
            assert status == 0, shown
            assert "Ada Lovelace" in shown

    path = tmp_path / "session.dat"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    rig.run("kachery-cloud-projects", "create", "atlas")
    rig.start()
    uri = rig.call(STORE, str(path), "atlas")
    rig.run("kachery-cloud-pins", "wait", uri)
    rig.stop()
    assert Path(laptop.call(LOAD, uri)).read_bytes() == path.read_bytes()

    page.open(f"{lab.url}/projects")
    settle(page)
    page.click("main th a")
    page.wait("document.querySelector('main h1')?.textContent === 'atlas'")
    settle(page)
    text = page.text("main")
    assert "3.0 MB in 1 file" in text
    for each in ("session.dat", "Ada Lovelace", "kept"):
        assert each in page.text("main table")
    page.click("main th a")
    page.wait("document.querySelector('main h1')?.textContent === 'session.dat'")
    settle(page)
    assert "There is no preview of this kind of file (3.0 MB)" in page.text(".preview")
    page.open(f"{lab.url}/clients")
    settle(page)
    text = page.text("main")
    assert "rig-2" in text
    assert "laptop" in text
    page.open(f"{lab.url}/usage")
    settle(page)
    # The project with what is stored in it and was served of it, and who loaded it.
    rows = page.run("[...document.querySelectorAll('main tbody tr')].map(each => each.innerText.split(/\\s*\\t\\s*/))")
    found = {row[0]: row[1:] for row in rows}
    assert found["laptop"] == ["0 bytes", "0", "3.0 MB", "4"]
    # Whoever has stored may have asked for a block, too, to see that it is there.
    assert (found["atlas"][:2], found["atlas"][3] in ("4", "5")) == (["3.0 MB", "1"], True)
