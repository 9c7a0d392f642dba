"""The lab's pages in a real browser, with example data behind them: each shows what the API says, to everybody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.page_pictures import settle
from tests.helpers.devtools import Browser, Page, axe_core
from tests.web import lab_examples
from tests.web.lab_fake import PEERS, FakeLab, served

pytestmark = pytest.mark.slow

#: path -> what is to be read there.
PATHS = {
    "/": ["Lab of Neural Circuits", "412 GB of 500 GB used", "hippocampus-2026", "3 computers registered", "day-14"],
    "/files": ["day-14/session.nwb", "42 GB", "being fetched", "failed", "Choose files"],
    "/projects": ["atlas", "Anyone with the URI", "Members alone", "214", "Make a project"],
    "/projects/p1": ["Tetrodes, CA1", "Grace Hopper", "kachery-cloud-store FILE --project hippocampus-2026"],
    "/clients": ["ada-workstation", "not yet", "kachery-cloud-init --node http"],
    "/usage": ["Served to others", "By member", "hippocampus-2026", "93 000"],
    "/node": ["34 days", "nearest 0.9 ms", "187 ms", "3.4 TB free", "rig-2", PEERS[0], "17 files and folders, 4.2 GB"],
    "/members": ["509 GB are stored in all", "Emmy Noether", "no limit", "Invite somebody"],
    "/register/r1": ["K7PM-2QXW", "laptop of Ada", PEERS[2], "Ada Lovelace (ada@example.org)", "Register client"],
}


@pytest.fixture(scope="module")
def lab() -> FakeLab:
    """Somebody who is an administrator, with much stored."""
    return FakeLab()


@pytest.fixture(scope="module")
def address(lab: FakeLab) -> Iterator[str]:
    """Where that is served."""
    with served(lab) as url:
        yield url


def opened(page: Page, address: str) -> Page:
    """A page, drawn."""
    page.open(address)
    settle(page)
    return page


@pytest.mark.parametrize("path", PATHS)
def test_each_page_shows_what_the_api_says(page: Page, address: str, path: str) -> None:
    """Every page shows its part of the API's answers; nothing goes wrong in it, and nothing is asked of others."""
    text = opened(page, address + path).text()
    for each in PATHS[path]:
        assert each in text.replace("\u202f", " "), text
    assert "[object" not in text
    assert "undefined" not in text
    assert "NaN" not in text
    assert {each for each in page.requests if not each.startswith((address, "blob:", "data:"))} == set()


@pytest.mark.parametrize("narrow", [False, True])
def test_nothing_that_axe_finds(browser: Browser, lab: FakeLab, address: str, narrow: bool) -> None:
    """axe-core has no findings on any page: light on a wide screen, dark on a narrow one; nor is any page too wide."""
    axe, found = axe_core(), {}
    files = [f"/files/{id}" for id in lab_examples.put_all(lab).values()]
    page = browser.page(360 if narrow else 1280, dark=narrow)
    for path in [*PATHS, *files]:
        opened(page, address + path)
        found[path] = page.accessibility(axe)
        if page.run("document.documentElement.scrollWidth > innerWidth"):
            found[path].append("it is wider than the screen")
    for state in (FakeLab(signed_in=False), FakeLab(empty=True)):
        with served(state) as other:
            for path in ("/", "/files", "/projects", "/clients", "/usage", "/node"):
                opened(page, other + path)
                found[f"{path} {state.signed_in}"] = page.accessibility(axe)
    assert page.complaints == []
    page.close()
    assert {path: each for path, each in found.items() if each} == {}


def test_without_a_sign_in_nothing_is_shown_but_the_way_in(page: Page) -> None:
    """Who is not signed in sees at every address how to sign in, and is led back there; no data is asked for."""
    with served(FakeLab(signed_in=False)) as address:
        opened(page, f"{address}/projects/p1?x=1")
        assert "Sign in with Google" in page.text()
        href = page.run("document.querySelector('main a.button').getAttribute('href')")
        assert href == "/sign-in?next=%2Fprojects%2Fp1%3Fx%3D1"
        assert {each.removeprefix(address) for each in page.requests if "/api/" in each} == {"/api/v1", "/api/v1/me"}


@pytest.mark.parametrize("verb", ["register", "refuse"])
def test_a_client_is_registered_or_refused(page: Page, verb: str) -> None:
    """One press decides, by a request that shows that these pages made it, and the page says what became of it."""
    lab = FakeLab()
    with served(lab) as address:
        opened(page, f"{address}/register/r1")
        page.click("main button.quiet" if verb == "refuse" else "main button:not(.quiet)")
        page.wait("document.querySelector('main .notice')")
        assert ("Registered" if verb == "register" else "Refused") in page.text("main h1")
        assert lab.asked == [("POST", f"/api/v1/registrations/r1/{verb}", b"")]
        opened(page, f"{address}/register/r1")
        assert page.run("document.querySelectorAll('main button').length") == 0


def test_files_are_uploaded_by_button_and_by_dropping(page: Page, tmp_path: Path) -> None:
    """What is chosen or dropped is sent as it is, and stands in the list afterwards; what is refused says why."""
    lab = FakeLab(empty=True)
    data = {"trial 1.bin": bytes(range(256)) * 5000, "ąę.txt": b"text", "too-large.bin": b"x"}
    for name, each in data.items():
        (tmp_path / name).write_bytes(each)
    with served(lab) as address:
        opened(page, f"{address}/files")
        assert "kachery-cloud-init --node" in page.text()
        page.choose_files("input[type=file]", [tmp_path / "trial 1.bin", tmp_path / "too-large.bin"])
        page.wait(
            "[...document.querySelectorAll('.uploads li')].filter(each => /stored/.test(each.innerText)).length === 2"
        )
        assert "not stored. Your quota of 500 GB is used up." in page.text(".uploads")
        page.drop_files(".drop", [tmp_path / "ąę.txt"])
        page.wait("[...document.querySelectorAll('.uploads a')].length === 2")
        page.wait("document.querySelector('main table')?.innerText.includes('ąę.txt')")
        assert [name for name, _ in lab.contents.values()] == ["trial 1.bin", "ąę.txt"]
        assert [each for _, each in lab.contents.values()] == [data["trial 1.bin"], data["ąę.txt"]]


def test_an_upload_is_cancelled(page: Page, tmp_path: Path) -> None:
    """Cancelling ends the request, and those that follow are sent all the same."""
    lab = FakeLab(empty=True)
    (tmp_path / "large.bin").write_bytes(bytes(3_000_000))
    (tmp_path / "small.bin").write_bytes(b"small")
    with served(lab) as address:
        opened(page, f"{address}/files")
        # So slow that it lasts until it is cancelled.
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100}
        page.send("Network.emulateNetworkConditions", **slow)
        page.choose_files("input[type=file]", [tmp_path / "large.bin", tmp_path / "small.bin"])
        page.click(".uploads li:first-child button")
        page.wait("document.querySelector('.uploads li').innerText.includes('cancelled')")
        page.send("Network.emulateNetworkConditions", **{**slow, "uploadThroughput": -1})
        page.wait("document.querySelectorAll('.uploads a').length === 1")
        assert [name for name, _ in lab.contents.values()] == ["small.bin"]


def test_the_filter_asks_the_node(page: Page, address: str) -> None:
    """What is typed into the filter is asked of the node, also where nothing fits."""
    opened(page, f"{address}/files")
    page.type("input[type=search]", "spikes")
    page.wait("document.querySelectorAll('main tbody tr').length === 1")
    page.type("input[type=search]", " of nobody")
    page.wait("document.querySelector('main').innerText.includes('No label has “spikes of nobody” in it.')")


def test_deleting_asks_first(page: Page) -> None:
    """Escape deletes nothing; the focus is where it was. Pressing the button deletes."""
    lab = FakeLab()
    with served(lab) as address:
        opened(page, f"{address}/files")
        page.click("main tbody button.danger")
        page.wait("document.querySelector('dialog[open]')")
        assert page.run("document.activeElement.textContent") == "Cancel"
        page.press("Escape")
        page.wait("!document.querySelector('dialog')")
        assert page.run("document.activeElement.textContent") == "Delete"
        assert lab.asked == []
        page.press("Enter")
        page.wait("document.querySelector('dialog[open]')")
        page.click("dialog button.danger")
        page.wait("document.querySelector('[role=status].visually-hidden')?.textContent.includes('was deleted')")
        assert lab.asked == [("DELETE", "/api/v1/files/f1", b"")]


def test_administrators_change_quotas_and_invite(page: Page) -> None:
    """A quota is typed as people write sizes; what is none is refused with a sentence. An invitation shows its link."""
    lab = FakeLab()
    with served(lab) as address:
        opened(page, f"{address}/members")
        page.click("button[aria-label^='Quota of Grace Hopper']")
        page.wait("document.activeElement.tagName === 'INPUT'")
        page.send("Input.insertText", text="1.5 TB")
        page.press("Enter")
        page.wait("document.querySelector('button[aria-label^=\"Quota of Grace Hopper\"]')")
        assert [(method, path, json.loads(body)) for method, path, body in lab.asked] == [
            ("PATCH", "/api/v1/members/m2", {"quota": 1_500_000_000_000})
        ]
        page.type("input[name=name]", "Ida")
        page.type("input[name=quota]", "plenty")
        page.click("form.card button[type=submit]")
        page.wait("document.querySelector('form.card .notice.bad')?.innerText.includes('“plenty” is no size.')")
        page.run("document.querySelector('input[name=quota]').value = '2 GB'")
        page.click("form.card button[type=submit]")
        page.wait("document.querySelector('form.card .notice.good')")
        assert "/invitation/" in page.text("form.card .notice.good")
        assert json.loads(lab.asked[-1][2]) == {"name": "Ida", "role": "member", "quota": 2_000_000_000}


def test_members_do_not_see_the_page_of_administrators(page: Page) -> None:
    """It is not in their menu, and says whom it is for."""
    with served(FakeLab(administrator=False)) as address:
        opened(page, f"{address}/members")
        assert "This page is for administrators" in page.text("main")
        assert "Members" not in page.text("nav")


def test_the_keyboard_reaches_everything_in_order(page: Page, address: str) -> None:
    """The first key leads past the menu; each element that has the focus is seen to have it."""
    opened(page, f"{address}/projects")
    page.press("Tab")
    assert page.run("document.activeElement.textContent") == "To the content"
    page.press("Enter")
    page.press("Tab")
    seen = []
    while page.run("document.activeElement !== document.body") and len(seen) < 40:
        seen.append(page.run("document.activeElement.name || document.activeElement.innerText"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") in ("solid", "auto"), seen
        page.press("Tab")
    assert [each for each in seen if each in ("hippocampus-2026", "name", "visibility", "Make project")] == [
        "hippocampus-2026", "name", "visibility", "Make project",
    ]  # fmt: skip


def test_a_label_is_text(page: Page) -> None:
    """Whatever a label, a name or a description has in it, it is shown as it is and does nothing."""
    lab = FakeLab()
    evil = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>\'\u202e"&amp;'
    lab.put(evil, b"x")
    with served(lab) as address:
        opened(page, f"{address}/files")
        assert "<img src=x onerror=" in page.text("main")
        opened(page, f"{address}/files/f100")
        assert page.text("main h1").startswith("<img src=x")
        assert page.run("window.ran") is None


_ATTEMPTS = """(async () => {
  const violations = []
  document.addEventListener('securitypolicyviolation', event => violations.push(event.effectiveDirective))
  const tried = (name, work) => { try { work(); return [name, 'done'] } catch { return [name, 'refused'] } }
  const script = document.createElement('script')
  const outcomes = [
    tried('html', () => { document.createElement('div').innerHTML = '<b>x</b>' }),
    tried('script', () => { script.textContent = 'window.ran = 1' }),
    tried('worker', () => new Worker('/static/x/main.js')),
    tried('policy', () => trustedTypes.createPolicy('mine', {}))
  ]
  const styled = document.body.appendChild(document.createElement('p'))
  styled.setAttribute('style', 'color: rgb(1, 2, 3)')
  const frame = document.body.appendChild(document.createElement('iframe'))
  frame.src = 'data:text/html,x'
  const image = document.body.appendChild(new Image())
  image.src = 'http://localhost:1/x.png'
  await fetch('http://localhost:1/').catch(() => outcomes.push(['fetch', 'refused']))
  for (let turn = 0; turn < 500 && !['frame-src', 'img-src'].every(each => violations.includes(each)); turn++) {
    await new Promise(done => setTimeout(done, 10))
  }
  return { outcomes: Object.fromEntries(outcomes), styled: getComputedStyle(styled).color === 'rgb(1, 2, 3)',
           ran: window.ran ?? null, violations: [...new Set(violations)].sort() }
})()"""


def test_what_a_script_in_a_page_could_not_do(browser: Browser, address: str) -> None:
    """Even if something of a file came to be in a page: it makes no HTML, script or style, starts no worker, frames
    nothing and speaks to nobody else."""
    page = opened(browser.page(), address)
    found = page.run(_ATTEMPTS)
    page.close()
    assert found == {
        "outcomes": dict.fromkeys(["html", "script", "worker", "policy", "fetch"], "refused"),
        "styled": False,
        "ran": None,
        "violations": [
            "connect-src", "frame-src", "img-src", "require-trusted-types-for", "style-src-attr", "trusted-types",
        ],
    }  # fmt: skip


def test_a_session_that_ends(page: Page) -> None:
    """Who is signed out meanwhile is asked to sign in, and is led back to where they were."""
    lab = FakeLab()
    with served(lab) as address:
        opened(page, f"{address}/usage")
        lab.ends_after_me = True
        opened(page, f"{address}/usage")
        assert "Sign in with Google" in page.text("main")
        assert page.run("document.querySelector('main a.button').getAttribute('href')") == "/sign-in?next=%2Fusage"


def test_a_node_that_stops_is_told_of(page: Page) -> None:
    """When the node goes away, what is pressed says so in a sentence."""
    with served(FakeLab()) as address:
        opened(page, f"{address}/projects")
    page.type("input[name=name]", "new")
    page.click("form.card button[type=submit]")
    page.wait("document.querySelector('form.card .notice.bad')?.innerText.includes('The node does not answer.')")
