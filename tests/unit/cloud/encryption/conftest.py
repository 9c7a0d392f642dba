"""What these tests share: a data directory of their own, and passphrases that cost little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kachery_cloud.encryption import stanzas
from kachery_cloud.local import close_outboxes, close_repositories

Go = Callable[[str], Path]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Go]:
    """Goes to a data directory; the first is `here`. Keys and passphrases of the user play no part."""
    for name in ("IDENTITY", "PASSPHRASE", "PASSPHRASE_FILE"):
        monkeypatch.delenv(f"KACHERY_CLOUD_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(stanzas, "SCRYPT_WRITTEN", 10)

    def go(name: str) -> Path:
        close_repositories()
        close_outboxes()
        monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / name))
        return tmp_path / name

    go("here")
    yield go
    close_repositories()
    close_outboxes()
