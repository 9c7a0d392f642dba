"""Pictures of the lab's pages, to be looked at: `python -m scripts.page_pictures FOLDER`.

Each page at the width of a desktop and of a phone, in light and in dark, with example data (tests/web/lab_fake.py).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.helpers.devtools import Browser, Page
from tests.web import lab_examples
from tests.web.lab_fake import FakeLab, served

WIDTHS = (1280, 390)


def main() -> int:
    """Draws them all. Returns the exit code."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
    only = sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    lab, nobody, empty = FakeLab(), FakeLab(signed_in=False), FakeLab(empty=True)
    pages = {
        "sign-in": (nobody, "/"),
        "register": (lab, "/register/r1"),
        "overview": (lab, "/"),
        "files": (lab, "/files"),
        "projects": (lab, "/projects"),
        "project": (lab, "/projects/p1"),
        "clients": (lab, "/clients"),
        "usage": (lab, "/usage"),
        "node": (lab, "/node"),
        "members": (lab, "/members"),
        "empty-overview": (empty, "/"),
        "empty-clients": (empty, "/clients"),
    }
    for name, file in lab_examples.put_all(lab).items():
        pages[f"file-{name}"] = (lab, f"/files/{file}")
    with (
        tempfile.TemporaryDirectory() as profile,
        served(lab) as one,
        served(nobody) as two,
        served(empty) as three,
        Browser(Path(profile)) as browser,
    ):
        addresses = {id(lab): one, id(nobody): two, id(empty): three}
        for width in WIDTHS:
            for dark in (False, True):
                page = browser.page(width, dark=dark)
                for name, (which, path) in pages.items():
                    if only and name not in only:
                        continue
                    page.open(addresses[id(which)] + path)
                    settle(page)
                    path_of = folder / f"{name}-{width}-{'dark' if dark else 'light'}.png"
                    page.picture(path_of)
                    print(path_of, *page.complaints, sep="\n  ")
                    page.complaints.clear()
                page.close()
    return 0


def settle(page: Page) -> None:
    """Wait until a page is drawn: nothing says any more that it is reading, and plots have their width."""
    page.wait("document.querySelector('main h1') && !document.querySelector('main').hasAttribute('aria-busy')")
    page.wait("![...document.querySelectorAll('main [role=status]')].some(each => /…$/.test(each.textContent))")
    page.run(
        "(async () => { for (const each of document.querySelectorAll('.tree > li > details')) each.open = true;"
        " await new Promise(done => setTimeout(done, 300)) })()"
    )
    page.wait("![...document.querySelectorAll('main [role=status]')].some(each => /…$/.test(each.textContent))")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


if __name__ == "__main__":
    sys.exit(main())
