"""Functions of the user that are told how far work is."""

from __future__ import annotations

import logging
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud import progress
from kachery_cloud.progress import Progress, progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one element is what time it is."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_function_is_told_now_and_then_and_of_the_end(clock: list[float]) -> None:
    """No more often than a screen shows; the end always, also where the last step was passed over."""
    steps: list[Progress] = []
    with kcl.progress_to(steps.append), progress_bar("Loading x") as update:
        update(1, 10)
        clock[0] += 0.05
        update(2, 10)
        clock[0] += 0.06
        update(3, 10)
        update(9, 10)
    assert [step.done for step in steps] == [1, 3, 10]
    assert steps[0] == Progress("Loading x", 1, 10, 0.0)


def test_work_that_fails_does_not_say_that_it_is_done(clock: list[float]) -> None:
    """The last that is told is how far it came."""
    steps: list[Progress] = []

    def work() -> None:
        with kcl.progress_to(steps.append), progress_bar("Storing x") as update:
            update(1, 10)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        work()
    assert [step.done for step in steps] == [1]


def test_nothing_is_said_of_work_that_said_nothing() -> None:
    """What was here already takes no time."""
    steps: list[Progress] = []
    with kcl.progress_to(steps.append), progress_bar("Loading x"):
        pass
    assert not steps


def test_a_function_that_fails_is_left_alone(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """The work goes on; the failure is logged once."""
    calls: list[int] = []

    def broken(step: Progress) -> None:
        calls.append(step.done)
        raise ValueError("no window")

    with caplog.at_level(logging.ERROR), kcl.progress_to(broken), progress_bar("Loading x") as update:
        for done in range(5):
            clock[0] += 1
            update(done, 10)
    assert calls == [0]
    assert caplog.text.count("ValueError: no window") == 1


def test_a_store_tells_it(tmp_path: Path) -> None:
    """By bytes, and up to the last."""
    source = tmp_path / "session.nwb"
    source.write_bytes(bytes(20_000_000))
    steps: list[Progress] = []
    with kcl.progress_to(steps.append):
        kcl.store_file(source, local=True)
    assert steps[-1].done == steps[-1].total == 20_000_000
    assert "session.nwb" in steps[-1].what


def test_silence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """False shows nothing, though somebody watches; after it, all is as before."""
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with kcl.progress_to(False), progress_bar("Loading x") as update:
        update(1, 10)
    assert capsys.readouterr().err == ""
    with progress_bar("Loading x") as update:
        update(1, 10)
    assert "Loading x" in capsys.readouterr().err


def test_what_was_here_is_no_speed(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    """A load that goes on: 9 GB were here, and are found while 1 MB a second comes. The bar shows that rate alone."""
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    shown: list[dict[str, Any]] = []
    bars = progress._bar_class()
    made: list[Any] = []

    class Bar(bars):
        """A bar that is looked at, with a clock of ours."""

        def __init__(self, *args: Any, **how: Any) -> None:
            super().__init__(*args, **{**how, "mininterval": 0, "miniters": 0})
            self._time, self.start_t, self.last_print_t = (lambda: clock[0]), clock[0], clock[0]
            made.append(self)

    monkeypatch.setattr(progress, "_bar_class", lambda: Bar)
    here, came = 0, 0
    with progress_bar("Loading x") as update:
        for found in (0, 1000, 0, 5000, 3000, 0, 0):
            here += found
            update(1_000_000 * (here + came), 10_000_000_000, 1, 1_000_000 * here)
            shown.append(dict(made[0].format_dict))
            clock[0] += 1
            came += 1
    assert [each["n"] for each in shown][-1] == 9_006_000_000
    rates = [each["rate"] or (each["n"] - each["initial"]) / each["elapsed"] for each in shown[2:]]
    assert all(abs(rate - 1_000_000) < 1000 for rate in rates), rates


def test_a_function_is_told_what_was_here(clock: list[float]) -> None:
    """Beside what is done, so that it can tell the speed; also at the end."""
    steps: list[Progress] = []
    with kcl.progress_to(steps.append), progress_bar("Loading x") as update:
        update(500, 1000, 2, 400)
    assert [(step.done, step.here) for step in steps] == [(500, 400), (1000, 400)]


def test_only_functions_are_told() -> None:
    """Anything else is refused when it is given, not when it is needed."""
    with pytest.raises(kcl.InvalidArgument, match="takes a function"), kcl.progress_to(True):  # type: ignore[arg-type]
        pass


def test_a_notebook_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is of text, and nothing is said of what is not installed."""
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    find = progress.importlib.util.find_spec
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None if name == "ipywidgets" else find(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from tqdm.std import tqdm

        assert progress._bar_class() is tqdm
