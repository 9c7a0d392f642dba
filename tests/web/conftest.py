"""What the tests of pages share: one browser, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.devtools import Browser, Page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser without a screen."""
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page with nothing from before. At the end, nothing in it may have gone wrong."""
    found = browser.page()
    yield found
    complaints = found.complaints
    found.close()
    assert complaints == []
