"""A shell on a pseudo-terminal, typed into as a person does."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

#: Only what would else hang is ended by it.
PATIENCE = 300.0
#: As they begin for somebody who set up nothing, without the files of this machine's user.
SHELLS = {"bash": ("bash", "--noprofile", "--norc", "-i"), "zsh": ("zsh", "-f", "-i")}
_PROMPT = "ready> "
#: Only for `complete`: it writes its prompt anew at each key, so that what `type` waits for is told too often.
_FISH = (
    "fish",
    "--no-config",
    "-i",
    "-C",
    f"function fish_greeting; end; function fish_prompt; echo -n '{_PROMPT}'; end",
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
    """

    def __init__(self, name: str, folder: Path, env: Mapping[str, str], columns: int = 200) -> None:
        line: Sequence[str] = COMPLETING[name]
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            try:
                os.chdir(folder)
                # Programs ask for the width; the prompt tells when one has ended, and how.
                size = {"COLUMNS": str(columns), "LINES": "60", "TERM": "xterm"}
                os.execvpe(line[0], list(line), {**env, **size, "PS1": _PROMPT, "PROMPT": _PROMPT, "HISTFILE": ""})
            finally:
                os._exit(127)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character
        self._seen = ""
        self._wait_for(_PROMPT)

    def type(self, line: str) -> tuple[str, int]:
        """Type a line and Enter, and wait for the next prompt: what was shown, and the exit code.

        What the shell echoes of the line is left out as far as it can be told.
        """
        self._send(line)
        shown = self._wait_for(_PROMPT)
        self._send("echo code=$?.")
        code = re.search(r"code=(\d+)\.", self._wait_for(_PROMPT).partition("$?.")[2])
        assert code, "the shell tells no exit code"
        return _plain(shown), int(code[1])

    def complete(self, line: str) -> tuple[str, str]:
        """Type a line and TAB: what the line is then, and all that was shown meanwhile. Nothing of it is run.

        It is made the words of an `echo`, from its beginning (Ctrl-A) and its end (Ctrl-E).
        """
        self._seen = ""
        self._send(f"{line}\t\x01echo LI''NE: \x05 :E''ND")
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"LINE: (.*?) ?:END", _plain(self._seen))):
            self._read(end)
        shown = _plain(self._seen)
        return found[1].rstrip(), shown

    def source(self, line: str) -> None:
        """Type a line, and wait until it has run."""
        self._seen = ""
        self._send(f"{line}; echo DO''NE")
        end = time.monotonic() + PATIENCE
        while "DONE" not in self._seen:
            self._read(end)

    def _send(self, line: str) -> None:
        data = (line + "\n").encode()
        while data:  # a terminal takes some kilobytes at a time
            data = data[os.write(self._fd, data[:512]) :]

    def _wait_for(self, text: str) -> str:
        end = time.monotonic() + PATIENCE
        while text not in self._seen:
            self._read(end)
        before, _, self._seen = self._seen.rpartition(text)
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
