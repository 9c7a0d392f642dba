"""A shell on a pseudo-terminal, typed into as a person does."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

#: Only what would else hang is ended by it.
PATIENCE = 300.0
#: As they begin for somebody who set up nothing, without the files of this machine's user.
SHELLS = {"bash": ("bash", "--noprofile", "--norc", "-i"), "zsh": ("zsh", "-f", "-i")}
#: What a shell says when it waits for a line.
PROMPT = "ready> "
#: Only for `complete`: it writes its prompt anew at each key, so that what `type` waits for is told too often.
_FISH = (
    "fish",
    "--no-config",
    "-i",
    "-C",
    f"function fish_greeting; end; function fish_prompt; echo -n '{PROMPT}'; end",
)
COMPLETING = {**SHELLS, "fish": _FISH}


def shell_missing(name: str) -> pytest.MarkDecorator:
    """Skips a test where there is no such shell."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name} here (Debian: apt-get install {name})")


class Shell:
    """A shell that is typed into. A context manager: it ends with it.

    Args:
        name: of `SHELLS`.
        folder: where it begins.
        env: its environment.
        columns: the width of its window.
        quiet: do not show what is typed, only what is answered. Of bash only.
    """

    def __init__(
        self, name: str, folder: Path, env: Mapping[str, str], columns: int = 200, *, quiet: bool = False
    ) -> None:
        line: Sequence[str] = ("bash", "--noediting", *SHELLS["bash"][1:]) if quiet else COMPLETING[name]
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            try:
                os.chdir(folder)
                # Programs ask for the width; the prompt tells when one has ended, and how.
                size = {"COLUMNS": str(columns), "LINES": "60", "TERM": "xterm"}
                if quiet:
                    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
                    modes: Any = termios.tcgetattr(0)
                    modes[3] &= ~(termios.ECHO | termios.ECHOCTL)
                    termios.tcsetattr(0, termios.TCSANOW, modes)
                os.execvpe(line[0], list(line), {**env, **size, "PS1": PROMPT, "PROMPT": PROMPT, "HISTFILE": ""})
            finally:
                os._exit(127)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character
        self._seen = ""
        self.wait_for(PROMPT)

    def type(self, line: str) -> tuple[str, int]:
        """Type a line and Enter, and wait for the next prompt: what was shown, and the exit code.

        What the shell echoes of the line is left out as far as it can be told.
        """
        self.send(line)
        shown = self.wait_for(PROMPT)
        self.send("echo code=$?.")
        code = re.search(r"code=(\d+)\.", self.wait_for(PROMPT).partition("$?.")[2])
        assert code, "the shell tells no exit code"
        return _plain(shown), int(code[1])

    def ask(self, line: str) -> str:
        """Type a line into a quiet shell, or into a program in it that has its prompt: what is on the screen then."""
        self.send(line)
        return on_screen(self.wait_for(PROMPT))

    def interrupt(self) -> str:
        """Type Ctrl-C, and wait for the next prompt: all that was shown and not taken before."""
        os.write(self._fd, b"\x03")
        return on_screen(self.wait_for(PROMPT))

    def complete(self, line: str) -> tuple[str, str]:
        """Type a line and TAB: what the line is then, and all that was shown meanwhile. Nothing of it is run.

        It is made the words of an `echo`, from its beginning (Ctrl-A) and its end (Ctrl-E).
        """
        self._seen = ""
        self.send(f"{line}\t\x01echo LI''NE: \x05 :E''ND")
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"LINE: (.*?) ?:END", _plain(self._seen))):
            self._read(end)
        shown = _plain(self._seen)
        return found[1].rstrip(), shown

    def source(self, line: str) -> None:
        """Type a line, and wait until it has run."""
        self._seen = ""
        self.send(f"{line}; echo DO''NE")
        end = time.monotonic() + PATIENCE
        while "DONE" not in self._seen:
            self._read(end)

    def send(self, line: str) -> None:
        """Type a line and Enter."""
        data = (line + "\n").encode()
        while data:  # a terminal takes some kilobytes at a time
            data = data[os.write(self._fd, data[:512]) :]

    def wait_for(self, text: str, *, keep: bool = False) -> str:
        """Wait until this is shown. What was shown before it, which is taken, unless it is kept for later."""
        end = time.monotonic() + PATIENCE
        while text not in self._seen:
            self._read(end)
        before, _, after = self._seen.rpartition(text)
        self._seen = self._seen if keep else after
        return before

    def _read(self, end: float) -> None:
        """Take what is shown next; until `end` there must be something."""
        assert select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0], f"no answer: {self._seen!r}"
        self._seen += self._decoder.decode(os.read(self._fd, 65536))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._fd)


def _plain(text: str) -> str:
    """Without what moves the cursor and colours."""
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", text).replace("\r", "")


def on_screen(text: str) -> str:
    """What a screen shows of a text: what is written over is gone, as is a bar that has gone away."""
    lines: list[str] = []
    for line in re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", text).split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return "\n".join(lines)
