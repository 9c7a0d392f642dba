"""The whole way on the lab's pages: a real lab, a real node, a real OpenID provider and a real browser."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from scripts.page_pictures import settle
from tests.helpers.devtools import Browser, Page, axe_core
from tests.helpers.lab import LabClient, RunningLab, Wall, running_lab
from tests.helpers.openid import OpenIDProvider, web_client
from tests.web.lab_examples import hdf5, npy, png

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def lab_at_provider(folder: Path) -> AsyncIterator[RunningLab]:
    """A lab whose members sign in at an OpenID provider: Ada and Grace, both without an invitation."""
    provider = await trio.to_thread.run_sync(OpenIDProvider)
    try:
        told: dict[str, Any] = {
            "openid_issuer": provider.issuer, "openid_client_id": "lab", "openid_client_secret": "lab-secret",
            "lab_members": ("@example.org",), "lab_name": "Lab of Ada",
        }  # fmt: skip
        async with running_lab(folder, wall=Wall(time.time()), **told) as lab:
            await trio.to_thread.run_sync(provider.add_client, web_client(f"{lab.url}/sign-in/callback"))
            yield lab
    finally:
        await trio.to_thread.run_sync(provider.stop)


def sign_in(page: Page, name: str) -> None:
    """From our page to the provider, which asks who one is and whether we may know, and back."""
    page.click("main a.button")
    page.click(f"button[name=login][value={name}]")
    page.click("button[name=allow]")
    page.wait("document.querySelector('#who button')")
    settle(page)


async def asks(client: LabClient, label: str) -> dict[str, Any]:
    """A computer asks to be registered."""
    answer = await client.signed("POST", "/api/v1/registrations", {"label": label})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_from_a_link_to_a_project(tmp_path: Path, browser: Browser) -> None:
    """Somebody follows the link of a computer, signs in, registers it, makes a project, stores in it, looks at what is
    there, and takes it away again; another member sees what is for all, and may not take it away."""
    (tmp_path / "up").mkdir()
    files = {"lfp.npy": npy(np.arange(1000.0)), "session.nwb": hdf5(2), "map.png": png(20, 10), "empty.txt": b""}
    files["page.html"] = b"<script>window.ran=1</script>"
    for name, data in files.items():
        (tmp_path / "up" / name).write_bytes(data)
    async with lab_at_provider(tmp_path / "lab") as lab:
        client = await lab.client()
        asked = await asks(client, "rig-2")
        page = browser.page()

        def registers() -> None:
            page.open(asked["url"])
            settle(page)
            sign_in(page, "ada")
            text = page.text("main")
            for each in (asked["code"], "rig-2", client.key.peer_id, "Ada Lovelace (ada@example.org)"):
                assert each in text
            page.click("main button:not(.quiet)")
            page.wait("document.querySelector('main .notice.good')")

        def stores() -> None:
            page.open(f"{lab.url}/projects")
            settle(page)
            page.type("input[name=name]", "hippocampus")
            page.click("form.card button[type=submit]")
            page.wait("location.pathname.startsWith('/projects/') && document.querySelector('.drop')")
            page.choose_files("input[type=file]", sorted((tmp_path / "up").iterdir()))
            page.wait(f"document.querySelectorAll('.uploads a').length === {len(files)}")
            page.wait(f"document.querySelectorAll('table')[0]?.tBodies[0].rows.length === {len(files)}")
            assert page.text(".uploads").count("stored") == len(files)

        await trio.to_thread.run_sync(registers)
        told = await client.http.get(
            f"/api/v1/registrations/{asked['id']}", headers={"authorization": f"Bearer {asked['secret']}"}
        )
        assert (told.json()["state"], told.json()["owner"]["email"]) == ("registered", "ada@example.org")
        await trio.to_thread.run_sync(stores)
        await trio.to_thread.run_sync(looks_at_all, page, lab.url)
        other = browser.page()
        await trio.to_thread.run_sync(another_member_looks, other, lab.url)
        await trio.to_thread.run_sync(takes_away, page, lab.url, len(files))
        assert page.complaints == other.complaints == []
        page.close()
        other.close()


def looks_at_all(page: Page, url: str) -> None:
    """What was uploaded is shown as what it is, and each page of a real lab is whole and has nothing that axe finds."""
    says = {
        "lfp.npy": "from 0 to 999, mean 499.5",
        "session.nwb": "acquisition/",
        "map.png": "20 × 10 pixels, PNG",
        "page.html": "<script>window.ran=1</script>",
        "empty.txt": "The file is empty.",
    }
    for name, text in says.items():
        page.open(f"{url}/files")
        settle(page)
        page.run(f"[...document.querySelectorAll('main th a')].find(each => each.textContent === '{name}').click()")
        page.wait(f"document.querySelector('main h1')?.textContent === '{name}'")
        settle(page)
        assert text in page.text(".preview").replace("\u202f", " ")
        assert page.run("window.ran") is None
        assert "hippocampus" in page.text(".facts")
    for path, text in {
        "/": "page.html", "/clients": "rig-2", "/usage": "hippocampus", "/node": "Up for", "/projects": "hippocampus",
    }.items():  # fmt: skip
        page.open(url + path)
        settle(page)
        shown = page.text("main")
        assert text in shown
        assert not [each for each in ("[object", "undefined", "NaN", "cannot be shown") if each in shown], shown
        assert page.accessibility(axe_core()) == []


def another_member_looks(page: Page, url: str) -> None:
    """Who is in no project sees those for all, and no way to store in them or to delete what is there."""
    page.open(f"{url}/projects")
    settle(page)
    sign_in(page, "grace")
    assert "hippocampus" in page.text("main")
    page.click("main th a")
    page.wait("location.pathname.startsWith('/projects/') && document.querySelector('main h1')")
    settle(page)
    assert "page.html" in page.text("main")
    assert page.run("document.querySelectorAll('.drop, button.danger').length") == 0
    page.open(f"{url}/members")
    settle(page)
    assert "This page is for administrators" in page.text("main")


def takes_away(page: Page, url: str, count: int) -> None:
    """A file that is deleted is gone; signing out leads to the page that asks to sign in."""
    page.open(f"{url}/files")
    settle(page)
    page.click("button[aria-label='Delete page.html']")
    page.click("dialog button.danger")
    page.wait(f"document.querySelectorAll('main tbody tr').length === {count - 1}")
    page.click("#who button")
    page.wait("document.querySelector('main a.button')?.textContent.startsWith('Sign in')")


async def test_an_administrator_by_invitation(tmp_path: Path, browser: Browser) -> None:
    """Without a provider an invitation signs in. An administrator invites somebody on the page, changes what they may
    store, and who fills the disk stands first."""
    async with running_lab(tmp_path, wall=Wall(time.time())) as lab:
        ada = await lab.member("Ada", role="administrator")
        secret, _ = await trio.to_thread.run_sync(lab.server.lab.invitations.make, ada.id)
        page = browser.page(390, dark=True)
        invited = browser.page()

        def works() -> None:
            page.open(lab.url)
            settle(page)
            assert "kachery-cloud-node members invite" in page.text("main")
            page.open(f"{lab.url}/invitation/{secret}")
            page.click("main button")
            page.wait("document.querySelector('#who button')")
            page.open(f"{lab.url}/members")
            settle(page)
            page.type("input[name=name]", "Grace")
            page.type("input[name=quota]", "2 GB")
            page.click("form.card button[type=submit]")
            page.wait("document.querySelector('form.card .notice.good code')")
            link = page.text("form.card .notice.good code")
            page.wait("document.querySelector('table').innerText.includes('2.0 GB')")
            assert page.accessibility(axe_core()) == []
            invited.open(link)
            invited.click("main button")
            invited.wait("document.querySelector('#who')?.innerText.includes('Grace')")
            settle(invited)
            assert "0 bytes of 2.0 GB used" in invited.text("main")

        await trio.to_thread.run_sync(works)
        assert page.complaints == invited.complaints == []
        page.close()
        invited.close()
