"""The sessions in the documentation are what one sees: they are played again, and compared with the pages.

Where something is shown in another way now, and that is right, `python -m scripts.tour` writes the pages anew.
"""

from __future__ import annotations

import difflib
import importlib
import os
import shutil
from pathlib import Path

import pytest

from scripts.tour import terminal


def differences(page: str, again: str) -> str:
    """What is shown in another way now, for whoever reads that a test failed."""
    lines = difflib.unified_diff(page.splitlines(), again.splitlines(), "the page", "what one sees", lineterm="", n=2)
    return "\n".join(("Where the new text is right, write it: python -m scripts.tour", *lines))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_the_first_ten_minutes(tmp_path: Path) -> None:
    """Each line of the page is typed on a terminal, and shows what the page has below it."""
    page = terminal.PAGE.read_text(encoding="utf-8")
    again = terminal.play(page, tmp_path)
    assert again == page, differences(page, again)


@pytest.mark.slow
def test_the_notebook(tmp_path: Path) -> None:
    """Each cell of the notebook is run by a kernel, and shows what the file has as its output."""
    for name in ("h5py", "pandas"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            if os.environ.get("CI"):
                pytest.fail(f"CI must run the notebook, but: {error}")
            pytest.skip(f"{error}: pip install 'kachery-cloud[science]'")
    from scripts.tour import notebook

    page = notebook.PAGE.read_text(encoding="utf-8")
    again = notebook.play(page, tmp_path)
    assert again == page, differences(page, again)
