"""What is printed for people. All of it passes one filter, `kachery_p2p.text.printable`.

The commands print through `filtered_streams`, whatever prints: results, errors, usage, warnings, logs, stack traces.
Two things go past it on purpose: a progress bar, which moves the cursor and whose words are filtered before, and bytes
that were asked for as bytes (`kachery-cloud-cat`, a path for the next command of a pipeline), which go to
`sys.stdout.buffer`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kachery_p2p.text import printable


def tell(text: str) -> None:
    """Say something to the user on stderr."""
    if sys.stderr is not None:  # pythonw has none
        print(printable(text), file=sys.stderr)


class FilteredStream:
    """A text stream that shows control characters, and what its encoding does not have, as escapes."""

    # Whatever is written can be written: click would else go past this to the bytes of an ASCII stream.
    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, stream: Any) -> None:
        self.unfiltered = stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        shown = printable(text, keep="\n\t")
        encoding = getattr(self.unfiltered, "encoding", None) or "utf-8"
        self.unfiltered.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


def unfiltered(stream: Any) -> Any:
    """The stream behind the filter: for a progress bar, which moves the cursor."""
    return stream.unfiltered if isinstance(stream, FilteredStream) else stream


@contextmanager
def filtered_streams() -> Iterator[None]:
    """Filter what this program prints. For programs only: a library leaves the streams of its host alone."""
    before = sys.stdout, sys.stderr
    if sys.stdout is not None:
        sys.stdout = FilteredStream(unfiltered(sys.stdout))
    if sys.stderr is not None:
        sys.stderr = FilteredStream(unfiltered(sys.stderr))
    try:
        yield
    except Exception:
        raise  # a mistake of ours: the interpreter prints the stack trace after this, and through the filter
    except BaseException:
        sys.stdout, sys.stderr = before
        raise
    else:
        sys.stdout, sys.stderr = before
