"""Reading the header of an npy file, with bounds on all that it says.

numpy reads it with `ast.literal_eval`, which takes any Python literal, of any depth, and ends in a dozen kinds of
errors. What is read here is what `numpy.save` writes, of any version: a dict with the keys descr, fortran_order and
shape, made of text, numbers, True and False, lists and tuples (the npy format specification, versions 1.0 to 3.0).
"""

from __future__ import annotations

import math
import re
from io import BufferedIOBase
from typing import TYPE_CHECKING, Any, NamedTuple

from kachery_cloud.errors import FormatError
from kachery_cloud.formats.pickle_numpy import MAX_DTYPE_DEPTH, MAX_EMPTY_ITEMS

if TYPE_CHECKING:
    import numpy as np

_MAGIC = b"\x93NUMPY"
#: numpy's own limit.
_MAX_DIMENSIONS = 64
#: A type of 100 000 fields takes some MB.
_MAX_HEADER = 8 << 20
#: Brackets within one another: a dict, and two for each level of a structured type, and a shape.
_MAX_DEPTH = 2 * MAX_DTYPE_DEPTH + 4

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
        (?P<text>[uU]?(?:'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"))
      | (?P<number>[0-9]{1,20})[lL]?
      | (?P<word>True|False)
      | (?P<mark>[\[\](){}:,])
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_SIMPLE_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_CLOSING = {"[": "]", "(": ")"}
_PLAIN_TYPE = re.compile(
    r"[<>|=]?(?:b1|[iu][1248]|f(?:2|4|8|10|12|16)|c(?:8|16|20|24|32)|[SUV][0-9]{1,10}|"
    r"[mM]8(?:\[[0-9]{0,10}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)


class Header(NamedTuple):
    """What an npy file says of its array."""

    dtype: np.dtype[Any]
    fortran_order: bool
    shape: tuple[int, ...]
    size: int  # bytes of the array, all of which are in the file


def read_header(file: BufferedIOBase, file_size: int) -> Header:
    """The header of an npy file. Afterwards the file is at the first byte of the array.

    Raises:
        FormatError: it is not as `numpy.save` writes it, or the file is shorter than the array. The message is a reason
            to put after "because".
    """
    start = file.read(8)
    if start[:6] != _MAGIC or len(start) < 8:
        raise FormatError("it does not begin as one")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise FormatError(f"it has version {version[0]}.{version[1]} of the format, which is not known")
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(file.read(width), "little")
    left = file_size - 8 - width - length
    if length > _MAX_HEADER or left < 0:
        raise FormatError(f"its header of {length:,} bytes is longer than the file or than any real one")
    text = file.read(length).decode("utf-8" if version == (3, 0) else "latin-1", "strict")
    said = _Parser(text).parse()
    if type(said) is not dict or said.keys() != {"descr", "fortran_order", "shape"}:
        raise FormatError("its header does not have descr, fortran_order and shape alone")
    fortran, shape = said["fortran_order"], said["shape"]
    if type(fortran) is not bool:
        raise FormatError("its fortran_order is not True or False")
    dtype = _dtype(said["descr"], 1)
    count = math.prod(_shape(shape))
    size = dtype.itemsize * count
    if size > left:
        raise FormatError(f"its shape {_short(shape)} of {_short(dtype)} takes {size:,} bytes; the file has {left:,}")
    if not dtype.itemsize and count > MAX_EMPTY_ITEMS:
        raise FormatError(f"it has more than {MAX_EMPTY_ITEMS:,} items without bytes")
    return Header(dtype, fortran, shape, size)


class _Parser:
    """A value out of brackets, text, numbers, True and False."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._kind = ""
        self._value = ""
        self._next()

    def parse(self) -> Any:
        value = self._parse(0)
        if self._kind != "end":
            raise _odd()
        return value

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._place)
        if found is None:
            raise _odd()
        self._place = found.end()
        self._kind = found.lastgroup or ""
        self._value = found[self._kind]

    def _takes(self, mark: str) -> bool:
        if self._kind != "mark" or self._value != mark:
            return False
        self._next()
        return True

    def _parse(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise FormatError("its header is nested too deep")
        kind, value = self._kind, self._value
        if kind == "end" or (kind == "mark" and value not in "[({"):
            raise _odd()
        self._next()
        if kind == "text":
            return _unescaped(value)
        if kind == "number":
            return int(value)
        if kind == "word":
            return value == "True"
        return self._dict(depth) if value == "{" else self._items(value, depth)

    def _items(self, opened: str, depth: int) -> Any:
        items: list[Any] = []
        comma = True
        while not self._takes(_CLOSING[opened]):
            if not comma:
                raise _odd()
            items.append(self._parse(depth + 1))
            comma = self._takes(",")
        if opened == "[":
            return items
        return items[0] if len(items) == 1 and not comma else tuple(items)

    def _dict(self, depth: int) -> dict[str, Any]:
        said: dict[str, Any] = {}
        comma = True
        while not self._takes("}"):
            key = self._parse(depth + 1)
            if not comma or type(key) is not str or key in said or not self._takes(":"):
                raise _odd()
            said[key] = self._parse(depth + 1)
            comma = self._takes(",")
        return said


def _unescaped(literal: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1]
        if len(code) > 1:
            return chr(int(code[1:], 16))
        if code not in _SIMPLE_ESCAPES:
            raise _odd()
        return _SIMPLE_ESCAPES[code]

    text = literal[literal.index(literal[-1]) + 1 : -1]
    return _ESCAPE.sub(character, text) if "\\" in text else text


def _dtype(said: Any, depth: int) -> np.dtype[Any]:
    """The type that a descr means (`numpy.lib.format.descr_to_dtype`)."""
    import numpy as np

    if depth > MAX_DTYPE_DEPTH:
        raise FormatError(f"its type is nested more than {MAX_DTYPE_DEPTH} deep")
    if type(said) is str:
        if said.lstrip("<>|=").startswith("O"):
            raise FormatError("it holds Python objects")
        if not _PLAIN_TYPE.fullmatch(said):
            raise FormatError(f"its type {_short(said)} is not a plain one of numpy")
        dtype = np.dtype(said)
        if dtype.kind in "SUV" and dtype.itemsize != (4 if dtype.kind == "U" else 1) * int(said.lstrip("<>|=")[1:]):
            raise FormatError(f"its type {_short(said)} is too large")
        return dtype
    if type(said) is not list:
        raise FormatError("its type is neither a name nor a list of fields")
    names: list[str] = []
    titles: list[str | None] = []
    formats: list[np.dtype[Any]] = []
    offsets: list[int] = []
    size = 0
    for field in said:
        if type(field) is not tuple or len(field) not in (2, 3):
            raise FormatError("its type has a field that is no name and type")
        title, name = field[0] if type(field[0]) is tuple and len(field[0]) == 2 else (None, field[0])
        if type(name) is not str or type(title) not in (str, type(None)):
            raise FormatError("its type has a field whose name is not text")
        kind = _dtype(field[1], depth + 1)
        if len(field) == 3:
            kind = np.dtype((kind, _shape(field[2])))
        # Gaps are written as fields without a name.
        if not (name == "" and title is None and kind.type is np.void and kind.names is None):
            names.append(name)
            titles.append(title)
            formats.append(kind)
            offsets.append(size)
        size += kind.itemsize
    parts: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
    if any(title is not None for title in titles):
        parts["titles"] = titles
    dtype = np.dtype(parts)
    if dtype.itemsize != size:
        raise FormatError("its type is too large")
    return dtype


def _shape(said: Any) -> tuple[int, ...]:
    if type(said) is not tuple or not all(type(length) is int for length in said):
        raise FormatError(f"its shape {_short(said)} is not a tuple of whole numbers")
    if len(said) > _MAX_DIMENSIONS:
        raise FormatError(f"its shape has more than {_MAX_DIMENSIONS} dimensions")
    return said


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _odd() -> FormatError:
    return FormatError("its header is not written as numpy writes it")
