"""The one reader of JSON that comes from a file of the user, from another process, or from a stranger.

It is stricter than Python's own: UTF-8 alone, no NaN or Infinity, no key twice, no nesting and no number without end.
Whatever is wrong, there is one error.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

#: Levels of arrays and objects. What we read has five at most; code that walks what was read may go as deep.
MAX_DEPTH = 64
#: Characters of an integer: 64 bits have 20. Python takes time with the square of a long one's length.
MAX_DIGITS = 40


class InvalidJSON(ValueError):
    """Text that is not JSON, or goes beyond what is read here. Its message says why, without a word of the text."""


def read_json(data: bytes | bytearray | str, *, numbers_as_text: bool = False) -> Any:
    """The value of a JSON text (RFC 8259), which may begin with a byte order mark.

    Args:
        data: the text, as UTF-8 where it is bytes.
        numbers_as_text: give numbers as they are written, as `str`: for answers in which no number is of interest.

    Raises:
        InvalidJSON: it is anything else.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"byte {error.start} is not UTF-8") from None
    try:
        value = json.loads(
            text.removeprefix("\ufeff"),
            parse_int=str if numbers_as_text else _integer,
            parse_float=str if numbers_as_text else _fraction,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise InvalidJSON(_TOO_DEEP) from None
    # Most texts have fewer brackets than the levels that are allowed, and need no second look.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    return value


def json_or_none(data: bytes | bytearray) -> Any:
    """The value of an answer of a stranger; None when it is not JSON, as for `null`.

    Numbers stay text: none is of interest, and a long one takes seconds to convert.
    """
    try:
        return read_json(data, numbers_as_text=True)
    except InvalidJSON:
        return None


_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise InvalidJSON(f"a number has {len(text)} digits")
    return int(text)


def _fraction(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidJSON("a number is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise InvalidJSON(f"{name} is not a JSON value")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidJSON("an object has one of its keys twice")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise InvalidJSON(_TOO_DEEP)
