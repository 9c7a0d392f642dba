"""A newcomer's first ten minutes, played on pseudo-terminals.

The page has blocks of what two people type and see. A line that begins with `ada$ ` or `ben$ ` is typed into the shell
of that person, and one with `>>> ` into the Python that runs there. A node runs in a window of its own until the end.
What stands below such a line is what was shown. Ada and Ben have a home each; nothing leaves this machine.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scripts.tour.names import Names
from scripts.workstation import KEEP_TO_ITSELF
from tests.helpers.shells import PROMPT, Shell

PAGE = Path(__file__).resolve().parents[2] / "docs" / "first-ten-minutes.md"
PEOPLE = ("ada", "ben")
#: Columns of the windows. Longer sentences are broken between words, for the page.
COLUMNS = 100
_BLOCK = re.compile(r"^```text\n(?=(?:ada|ben)\$ |>>> )(?P<session>.*?)^```$", re.MULTILINE | re.DOTALL)
_TYPED = re.compile(r"^(?:(?P<who>ada|ben)\$|>>>) (?P<line>.*)$")
_STAYS = re.compile(r"kachery-cloud[ -]node\b")
#: In what a node says when it serves: its address.
_SERVES = "/p2p/"
#: The prompts of Python are those of the shell, so that one can wait for either. Without the editing of lines, which
#: writes again what was typed.
_STARTUP = """\
import sys
sys.ps1 = sys.ps2 = {prompt!r}
if hasattr(sys, "__interactivehook__"):
    del sys.__interactivehook__
"""


def play(page: str, folder: Path) -> str:
    """Type what a page has, and give the page with what was shown.

    Args:
        page: its text.
        folder: an empty one, for the homes.
    """
    with ExitStack() as stack:
        stage = _Stage(folder.resolve(), stack)
        blocks = [_Block(found["session"]) for found in _BLOCK.finditer(page)]
        for block in blocks:
            block.play(stage)
        stage.stop_all()
        parts = iter(blocks)
        # Only now is all known: what a node says is complete when it has ended.
        return _BLOCK.sub(lambda _: f"```text\n{next(parts).text(stage.names)}```", page)


def make_home(home: Path) -> None:
    """What somebody has who wants to give something away."""
    (home / "mouse12" / "notes").mkdir(parents=True)
    (home / "mouse12" / "notes" / "readme.txt").write_text("Asleep from minute 3 on.\n", encoding="utf-8")
    (home / "mouse12" / "spikes.csv").write_text("seconds,unit\n0.25,3\n0.75,1\n", encoding="utf-8")
    samples, channels = np.arange(65_536, dtype="float32"), np.arange(8, dtype="float32")
    np.save(home / "session.npy", samples[:, None] / 8 + channels)


@dataclass
class _Step:
    """Something that is typed, and what is shown then."""

    typed: str
    shown: str = ""


@dataclass
class _Window:
    """A window in which a node runs, and the step that shows what it says."""

    shell: Shell
    step: _Step


class _Stage:
    """The shells of both, and the windows in which their nodes run."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.names = Names({str(folder / who): f"/home/{who}" for who in PEOPLE})
        self._folder = folder
        self._stack = stack
        for who in PEOPLE:
            (folder / who).mkdir()
        make_home(folder / "ada")
        (folder / "startup.py").write_text(_STARTUP.format(prompt=PROMPT), encoding="utf-8")
        self._shells = {who: self._open(who) for who in PEOPLE}
        self._windows: list[_Window] = []
        self._last = self._shells["ada"]

    def type(self, step: _Step) -> None:
        """Type one line of the page."""
        found = _TYPED.match(step.typed)
        assert found is not None
        line = self.names.real(found["line"])
        if found["who"] and _STAYS.match(line):
            shell = self._open(found["who"])
            shell.send(line)
            said = shell.wait_for(_SERVES, keep=True)
            self._windows.append(_Window(shell, step))
        else:
            self._last = self._shells[found["who"]] if found["who"] else self._last
            said = step.shown = self._last.ask(line)
        self.names.show(said)  # peers and ports get their names in the order in which a reader meets them

    def stop_all(self) -> None:
        """End the nodes. What each has said is complete then."""
        for window in self._windows:
            window.step.shown = window.shell.interrupt()

    def _open(self, who: str) -> Shell:
        home = self._folder / who
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("KACHERY_CLOUD_")},
            **KEEP_TO_ITSELF,
            "HOME": str(home),
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONSTARTUP": str(self._folder / "startup.py"),
            # Newer Pythons colour what they show, and edit lines by themselves.
            "PYTHON_BASIC_REPL": "1",
            "PYTHON_COLORS": "0",
            "LC_ALL": "C.UTF-8",
        }
        return self._stack.enter_context(Shell("bash", home, env, columns=COLUMNS, quiet=True))


@dataclass
class _Block:
    """A block of the page."""

    session: str
    steps: list[_Step] = field(default_factory=list)

    def play(self, stage: _Stage) -> None:
        for line in self.session.splitlines():
            if _TYPED.match(line):
                self.steps.append(_Step(line))
                stage.type(self.steps[-1])

    def text(self, names: Names) -> str:
        lines: list[str] = []
        for step in self.steps:
            lines.append(step.typed)
            lines += [part for line in names.show(step.shown).splitlines() for part in _folded(line)]
        return "".join(f"{line}\n" for line in lines)


def _folded(line: str) -> list[str]:
    """A long sentence in several lines; a row of a table as it is."""
    if len(line) <= COLUMNS or "  " in line.strip():
        return [line]
    return textwrap.wrap(line, COLUMNS, break_long_words=False, break_on_hyphens=False)
