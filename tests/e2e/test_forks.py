"""Forks in every way that programs fork, out of a process whose threads are busy: nothing that was stored is lost.

`KACHERY_TEST_FORKS=200` forks as often as that in each way (or `python -m scripts.forks all 200`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from scripts.forks import KINDS, good

FORKS = int(os.environ.get("KACHERY_TEST_FORKS", "6"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(kind: str) -> None:
    """All that parent, children, grandchildren and another process stored can be read back; no child fails or hangs."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.forks", kind, str(FORKS)],
        capture_output=True,
        text=True,
        timeout=60 + 20 * FORKS,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert good(found), found
    assert found["stored"] > 2 * FORKS
