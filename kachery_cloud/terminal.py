"""What is printed for people. All of it passes one filter, `kachery_p2p.text.printable`.

The commands print through `program_streams`, whatever prints: results, errors, usage, warnings, logs, stack traces.
Two things go past the filter on purpose: a progress bar, which moves the cursor and whose words are filtered before,
and bytes that were asked for as bytes (`kachery-cloud-cat`, a path for the next command of a pipeline).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kachery_cloud.errors import InvalidArgument
from kachery_p2p.errors import KacheryError
from kachery_p2p.text import printable


class OutputError(KacheryError, OSError):
    """Raised when the output cannot be written: the disk behind it is full, say."""

    errno: int | None = None
    exit_code = 5


class ReaderGone(KacheryError, OSError):
    """Raised when the reader of the output went away (`... | head`)."""

    errno: int | None = None  # click takes EPIPE for its own
    exit_code = 141


def tell(text: str) -> None:
    """Say something to the user on stderr."""
    if sys.stderr is not None:  # pythonw has none
        print(printable(text), file=sys.stderr)


@contextmanager
def _writing_to(what: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone(f"The reader of {what} went away.") from None
    except OSError as error:
        told = OutputError(f"Writing to {what} failed: {error.strerror or error}.")
        told.errno = error.errno
        raise told from error


class FilteredStream:
    """A text stream that shows control characters, and what its encoding does not have, as escapes."""

    #: Whatever is written can be written: click would else go past this to the bytes of an ASCII stream.
    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, stream: Any, what: str) -> None:
        self.unfiltered = stream
        self._what = what

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        shown = printable(text, keep="\n\t")
        encoding = getattr(self.unfiltered, "encoding", None) or "utf-8"
        with _writing_to(self._what):
            self.unfiltered.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with _writing_to(self._what):
            self.unfiltered.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


class BinaryOutput:
    """Standard output for bytes.

    Raises:
        InvalidArgument: it takes none here.
    """

    def __init__(self) -> None:
        buffer = getattr(unfiltered(sys.stdout), "buffer", None)
        if buffer is None:
            raise InvalidArgument("Standard output takes no bytes here (a notebook?). Give `out`, or use load_bytes.")
        sys.stdout.flush()
        self._buffer = buffer

    def write(self, data: Any) -> int:
        with _writing_to("standard output"):
            return self._buffer.write(data)

    def flush(self) -> None:
        with _writing_to("standard output"):
            self._buffer.flush()


def unfiltered(stream: Any) -> Any:
    """The stream behind the filter: for a progress bar, which moves the cursor."""
    return stream.unfiltered if isinstance(stream, FilteredStream) else stream


def silence(*streams: Any) -> None:
    """Let what these still hold go nowhere: the interpreter's last flush would fail as the one before did."""
    for stream in streams:
        with suppress(OSError, ValueError, AttributeError):  # it is no file, as in tests
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def program_streams() -> Iterator[None]:
    """Filter what this program prints. For programs only: a library leaves the streams of its host alone."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_closed_streams()
    before = sys.stdout, sys.stderr
    sys.stdout = FilteredStream(unfiltered(sys.stdout), "standard output")
    sys.stderr = FilteredStream(unfiltered(sys.stderr), "standard error")
    try:
        yield
    except Exception:
        raise  # a mistake of ours: the interpreter prints the stack trace after this, and through the filter
    except BaseException:
        sys.stdout, sys.stderr = before
        raise
    else:
        sys.stdout, sys.stderr = before


def _open_closed_streams() -> None:
    """Where the program was started with closed streams (`>&-`): a file that is opened later must not become one."""
    while os.open(os.devnull, os.O_RDWR) < 2:
        pass
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it lives as long as the program
