"""A day of a lab: workstations and the node crash, and what was said to be pinned is there at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lab_day import run

pytestmark = pytest.mark.slow


def test_what_was_pinned_is_there_at_the_end(tmp_path: Path) -> None:
    """Whoever crashed meanwhile: it is on the node's list, right on its disk, and a newcomer loads it."""
    day = run(tmp_path, workstations=3, seconds=600, seed=7, stores=8)
    assert day.lost == []
    assert len(day.pinned) >= 8, (day.counts, day.reasons)
    assert day.counts["crashes of the node"] >= 1
