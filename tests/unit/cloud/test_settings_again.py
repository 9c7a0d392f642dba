"""Settings are read once, and again as soon as anything that they come from has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kachery_cloud.errors import ConfigError
from kachery_cloud.settings import config as module
from kachery_cloud.settings.config import Config, load_config


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [each for each in os.environ if each.startswith("KACHERY_CLOUD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(module, "_last", None)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What was read from the variables and the file."""
    found: list[Config] = []
    read: Callable[..., tuple[Config, dict[str, str]]] = module.read_settings

    def counted(environ: Mapping[str, str] | None = None) -> tuple[Config, dict[str, str]]:
        answer = read(environ)
        found.append(answer[0])
        return answer

    monkeypatch.setattr(module, "read_settings", counted)
    return found


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now count as old."""
    monkeypatch.setattr(module, "_SETTLED_NS", -1_000_000_000_000)


def test_they_are_read_once(directory: Path, readings: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file and without one; each call of the API asks for them."""
    settle(monkeypatch)
    for text in (None, json.dumps({"timeout": 7})):
        if text is not None:
            (directory / "config.json").write_text(text)
        first = load_config()
        count = len(readings)
        assert all(load_config() == first for _ in range(10))
        assert len(readings) == count
    assert first.timeout == 7


def test_what_changes_counts_at_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, the directory, the file, its loss; and what makes no sense is an error each time."""
    settle(monkeypatch)
    path = directory / "config.json"
    assert load_config().timeout == 60
    path.write_text(json.dumps({"timeout": 7}))
    assert load_config().timeout == 7
    monkeypatch.setenv("KACHERY_CLOUD_TIMEOUT", "8")
    assert load_config().timeout == 8
    monkeypatch.delenv("KACHERY_CLOUD_TIMEOUT")
    assert load_config().timeout == 7
    path.write_text(json.dumps({"timeout": "seven"}))
    for _ in range(2):
        with pytest.raises(ConfigError):
            load_config()
    path.unlink()
    assert load_config().timeout == 60
    other = directory.with_name("other")
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(other))
    assert load_config().directory == other
    other.write_text("a file")
    with pytest.raises(ConfigError, match="is a file"):
        load_config()


def test_a_file_that_changed_just_now_is_read_again(directory: Path, readings: list[Config]) -> None:
    """Within a tick of the clock it may change twice, and its size and times stay the same."""
    path = directory / "config.json"
    for number in (3, 4, 5):
        path.write_text(json.dumps({"timeout": number}))
        times = path.stat().st_mtime_ns
        os.utime(path, ns=(times, times))
        assert load_config().timeout == number
    count = len(readings)
    load_config()
    assert len(readings) > count


def test_a_directory_named_from_the_working_directory_follows_it(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs' folders are two data directories."""
    settle(monkeypatch)
    monkeypatch.setenv("KACHERY_CLOUD_DIR", "here")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for _ in range(2):
            assert load_config().directory == tmp_path / name / "here"
