"""Looking at a figure in a browser."""

from __future__ import annotations

from tests.helpers.devtools import Page

DRAWN = "document.documentElement.dataset.state === 'drawn'"
FAILED = "document.documentElement.dataset.state === 'failed'"


def open_figure(page: Page, address: str) -> Page:
    """Open the page of a figure, and wait until it is drawn: the frame in which it is.

    Raises:
        AssertionError: it cannot be drawn; says why.
    """
    page.open(address)
    page.wait(f"{DRAWN} || {FAILED}")
    assert page.run(DRAWN), failure(page)
    return page.frame("frame.html")


def failure(page: Page) -> str:
    """Wait until the page says that there is no figure: what it says.

    Raises:
        AssertionError: there is one.
    """
    page.wait(f"{DRAWN} || {FAILED}")
    assert page.run(FAILED), "the figure is drawn"
    return page.text("#reason")
