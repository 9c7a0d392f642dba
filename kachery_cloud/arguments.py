"""What callers give, checked before anything is done with it: a mistake is a sentence that names the argument.

In notebooks arguments come from everywhere: numpy numbers, columns of a table, `None`, paths as bytes.
"""

from __future__ import annotations

import operator
import os
from typing import Any

from kachery_p2p.text import shown

from .errors import InvalidArgument, InvalidName


def check_flags(**flags: Any) -> None:
    """Raise InvalidArgument unless each is True or False: the text "no" would else mean yes."""
    for name, value in flags.items():
        # numpy has a bool of its own.
        if value is not True and value is not False and type(value).__name__ not in ("bool", "bool_"):
            raise InvalidArgument(f"{name} is {shown(value)}; it must be True or False.")


def path_text(value: Any, name: str) -> str:
    """A path as text. Raises InvalidArgument for what is no path, InvalidName for text that cannot be one."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(text := os.fspath(value), str):
        hint = " Use os.fsdecode for a path in bytes." if isinstance(value, (bytes, bytearray)) else ""
        raise InvalidArgument(f"{name} is {shown(value)}; it must be a path: text, or a pathlib.Path.{hint}")
    if not text or "\0" in text:
        raise InvalidName(f"{name} is {shown(text)}, which cannot be a path.")
    return text


def text_list(value: Any, name: str) -> list[str]:
    """A list of texts; a single text is a list of one. Raises InvalidArgument."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise InvalidArgument(f"{name} is {shown(value)}; it must be text, or a list of texts.")
    return list(value)


def whole_number(value: Any) -> int | None:
    """The value as an int, if it is a whole number: of Python, or of numpy."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
