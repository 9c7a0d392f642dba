"""What callers give, checked before anything is done with it: a mistake is a sentence that names the argument.

In notebooks arguments come from everywhere: numpy numbers, columns of a table, `None`, paths as bytes.
"""

from __future__ import annotations

import io
import operator
import os
import select
from typing import Any, BinaryIO

from kachery_cloud.errors import InvalidArgument, InvalidName, InvalidRange
from kachery_cloud.terminal import BinaryOutput
from kachery_p2p.text import shown


def check_flags(**flags: Any) -> None:
    """Check that each is True or False: the text "no" would else mean yes.

    Raises:
        InvalidArgument: one is something else.
    """
    for name, value in flags.items():
        # numpy has a bool of its own.
        if value is not True and value is not False and type(value).__name__ not in ("bool", "bool_"):
            raise InvalidArgument(f"{name} is {shown(value)}; it must be True or False.")


def path_text(value: Any, name: str) -> str:
    """A path as text.

    Raises:
        InvalidArgument: it is no path.
        InvalidName: it is text that cannot be a path.
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(text := os.fspath(value), str):
        hint = " Use os.fsdecode for a path in bytes." if isinstance(value, (bytes, bytearray)) else ""
        raise InvalidArgument(f"{name} is {shown(value)}; it must be a path: text, or a pathlib.Path.{hint}")
    if not text or "\0" in text:
        raise InvalidName(f"{name} is {shown(text)}, which cannot be a path.")
    return text


def text_list(value: Any, name: str) -> list[str]:
    """A list of texts; a single text is a list of one.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise InvalidArgument(f"{name} is {shown(value)}; it must be text, or a list of texts.")
    return list(value)


def checked_bytes(value: Any) -> memoryview:
    """Bytes that are to be stored, without a copy where they lie in one piece.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(value, str):
        raise InvalidArgument("The data is text; store it with store_text, or as text.encode().")
    try:
        view = memoryview(value)
    except TypeError:
        raise InvalidArgument(
            f"The data is {shown(value)}; it must be bytes. Arrays are stored with store_npy, other values with "
            "store_json or store_pkl."
        ) from None
    return view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())


def read_piece(file: Any, size: int) -> bytes | memoryview:
    """The next bytes of an open file, at most so many; none at its end.

    Raises:
        InvalidArgument: it gives no bytes.
    """
    try:
        piece = file.read(size)
        while piece is None:  # a pipe that does not wait
            select.select([file], [], [])
            piece = file.read(size)
    except (ValueError, io.UnsupportedOperation) as error:  # closed; open for writing alone
        raise InvalidArgument(f"The open file ({type(file).__name__}) cannot be read: {error}.") from None
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise InvalidArgument(
            f"The open file ({type(file).__name__}) gives {type(piece).__name__}, not bytes. Open it for reading "
            "bytes: open(path, 'rb'); or store text with store_text."
        )
    return memoryview(piece) if isinstance(piece, bytearray) else piece


def whole_number(value: Any) -> int | None:
    """The value as an int, if it is a whole number: of Python, or of numpy."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def byte_range(start: Any, end: Any) -> tuple[int | None, int | None]:
    """Where a range begins and ends, as Python's slices say it: from the end where negative, None for all.

    Raises:
        InvalidRange: one of them is no number of bytes.
    """
    numbers: list[int | None] = []
    for name, value in (("start", start), ("end", end)):
        number = None if value is None else whole_number(value)
        if number is None and value is not None:
            raise InvalidRange(f"{name} is {shown(value)}; it must be a whole number of bytes.")
        numbers.append(number)
    return numbers[0], numbers[1]


def range_in(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """The range in a file of that size, as Python cuts a slice: what lies outside of the file is left out."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(first, last)


def binary_stream(out: BinaryIO | None) -> BinaryIO | BinaryOutput:
    """Where bytes are to be written.

    Raises:
        InvalidArgument: it takes none.
    """
    if out is None:
        return BinaryOutput()
    try:
        out.write(b"")
    except (AttributeError, TypeError, ValueError):  # no stream; one for text; a closed one
        raise InvalidArgument(
            f"out is {shown(out)}; it must be open for writing bytes: open(path, 'wb'), or io.BytesIO()."
        ) from None
    return out
