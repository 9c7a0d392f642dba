"""What tests of who may load what share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import kachery_cloud as kcl
from kachery_cloud import audiences
from kachery_cloud.local import close_repositories


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory of the test's own."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    audiences._said.clear()
    yield tmp_path / "data"
    close_repositories()


@pytest.fixture
def hippocampus() -> str:
    """The ID of a group that this machine owns."""
    return kcl.create_group("hippocampus").id
