"""Memory that the host of a virtual machine takes back (scripts.benchmark.memory)."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmark import memory


@pytest.fixture
def balloon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The features of a balloon device, as the kernel shows them: a digit for each bit, the lowest first."""
    features = tmp_path / "driver" / "virtio0" / "features"
    features.parent.mkdir(parents=True)
    monkeypatch.setattr(memory, "_DRIVER", tmp_path / "driver")
    return features


@pytest.mark.parametrize(("bits", "taken"), [("011001" + 58 * "0", True), ("011000" + 58 * "0", False)])
def test_a_balloon_says_whether_it_reports_free_pages(balloon: Path, bits: str, taken: bool) -> None:
    balloon.write_text(bits + "\n")
    assert memory.is_taken_back() is taken


def test_a_machine_without_a_balloon_keeps_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There nothing is filled, and no file made."""
    monkeypatch.setattr(memory, "_DRIVER", tmp_path / "none")
    assert not memory.is_taken_back()
    (tmp_path / "work").mkdir()
    memory.fill(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_memory_is_filled_until_little_is_free(balloon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads until a tenth is left, and what it read stays in the page cache, as its file stays."""
    balloon.write_text(64 * "1")
    total = 100 << 20
    free = iter([50 << 20, 30 << 20, 9 << 20])
    monkeypatch.setattr(memory, "_memory", lambda name: total if name == "MemTotal" else next(free))
    (tmp_path / "work").mkdir()
    memory.fill(tmp_path / "work")
    (made,) = (tmp_path / "work").iterdir()
    assert made.stat().st_size == total
    assert next(free, None) is None
