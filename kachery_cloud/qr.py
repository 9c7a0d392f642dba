"""A QR code as text: two rows of it in each line, for a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from kachery_cloud.errors import InvalidArgument
from kachery_cloud.terminal import unfiltered

#: The quiet zone around it, in modules. The standard has four; cameras are content with two.
_BORDER = 2
#: White blocks on black, whatever the colours of the terminal are, and back.
_COLOURS = ("\x1b[0;97;40m", "\x1b[0m")
#: What shows an upper and a lower module; a light one is drawn.
_BLOCKS = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}


def qr_lines(text: str) -> list[str]:
    """The lines of the code of a text of ASCII characters.

    Raises:
        InvalidArgument: it has more than fit into a QR code.
    """
    import segno

    try:
        code = segno.make(text, error="l", micro=False, boost_error=False)
    except segno.DataOverflowError:
        raise InvalidArgument(f"{len(text):,} characters are too many for a QR code.") from None
    rows = [bytes(row) for row in code.matrix_iter(border=_BORDER)]
    if len(rows) % 2:
        rows.append(bytes(len(rows[0])))
    return ["".join(_pairs(upper, lower)) for upper, lower in zip(rows[::2], rows[1::2], strict=True)]


def print_qr(text: str, stream: Any) -> None:
    """Show the code on a stream, in colours where that is a terminal.

    Raises:
        InvalidArgument: it has too many characters, or the window is too narrow for it.
    """
    lines = qr_lines(text)
    if not stream.isatty():
        stream.write("\n".join([*lines, ""]))
        return
    columns = shutil.get_terminal_size().columns
    if columns < len(lines[0]):
        raise InvalidArgument(
            f"The QR code needs a window of {len(lines[0])} columns, and this one has {columns}. Make it wider, or the "
            "letters smaller."
        )
    begin, end = _COLOURS
    unfiltered(stream).write("".join(f"{begin}{line}{end}\n" for line in lines))


def _pairs(upper: bytes, lower: bytes) -> Iterator[str]:
    return (_BLOCKS[above, below] for above, below in zip(upper, lower, strict=True))
