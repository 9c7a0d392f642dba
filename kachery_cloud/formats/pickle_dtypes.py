"""Types of numpy out of files of strangers.

They are made anew by numpy's public constructor from what a file says; numpy's own reading of a state checks neither
offsets nor sizes. How deep a type is nested and how many fields it has in all is carried along with it, because numpy
walks it as a tree, however often a part is shared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from kachery_cloud.errors import UnsafePickle
from kachery_cloud.formats.pickle_budget import PickleBudget
from kachery_cloud.formats.pickle_numpy import MAX_DTYPE_DEPTH, text_parts

if TYPE_CHECKING:
    import numpy as np

#: Units of memory for a type, for each of its fields, and for each plain type at the end of the tree.
_TYPE = 256
_LEAF = 64

_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")


class DtypeShape(NamedTuple):
    """What numpy does not say at once of a type."""

    depth: int
    leaves: int
    has_text: bool


_PLAIN, _TEXT = DtypeShape(1, 1, False), DtypeShape(1, 1, True)


class Types:
    """The types that one load has made."""

    def __init__(self, budget: PickleBudget) -> None:
        self._budget = budget
        self._shapes: dict[int, tuple[np.dtype[Any], DtypeShape]] = {}  # by id, which the type itself keeps its own

    def shape(self, dtype: np.dtype[Any]) -> DtypeShape:
        """How deep and wide a type is that was made here, or is a plain one."""
        known = self._shapes.get(id(dtype))
        return known[1] if known is not None else _TEXT if dtype.kind == "U" else _PLAIN

    def build(self, spec: str, state: Any) -> np.dtype[Any]:
        """The type of `numpy.dtype(spec)` with the state of its pickle."""
        import numpy as np

        if type(state) is not tuple or not 8 <= len(state) <= 9:
            raise bad("numpy.dtype (its state)")
        version, order, subarray, names, fields, size, alignment, flags = state[:8]
        if not all(type(number) is int for number in (version, size, alignment, flags)) or type(order) is not str:
            raise bad("numpy.dtype (its state)")
        if version not in (3, 4) or order not in ("<", ">", "|", "="):
            raise bad("numpy.dtype (its state)")
        self._budget.spend(_TYPE)
        kind = spec[0]
        if subarray is not None:
            dtype = self._subarray(subarray)
        elif names is not None:
            dtype = self._structured(names, fields, size, alignment, bool(flags & 0x80))
        elif kind in "mM":
            dtype = np.dtype(kind + "8" + _time_unit(state)).newbyteorder(cast(Any, order))
        elif kind in "SUV":
            count = size // 4 if kind == "U" else size
            if count < 0 or (spec[1:] and int(spec[1:]) != count):
                raise bad("numpy.dtype (its size)")
            dtype = np.dtype(f"{kind}{count}").newbyteorder(cast(Any, order))
        else:
            dtype = np.dtype(spec).newbyteorder(cast(Any, order))
        if size not in (-1, dtype.itemsize) or dtype.hasobject:
            raise bad("numpy.dtype (its size)")
        return dtype

    def _made(self, dtype: np.dtype[Any], parts: list[np.dtype[Any]]) -> np.dtype[Any]:
        shapes = [self.shape(part) for part in parts]
        shape = DtypeShape(
            1 + max((s.depth for s in shapes), default=0),
            1 + sum(s.leaves for s in shapes),
            any(s.has_text for s in shapes),
        )
        if shape.depth > MAX_DTYPE_DEPTH:
            raise bad("numpy.dtype (its depth)")
        self._budget.spend(_LEAF * shape.leaves)
        if all(dtype is not part for part in parts):
            self._budget.remember(dtype, shape.leaves)
            self._shapes[id(dtype)] = (dtype, shape)
        return dtype

    def _subarray(self, subarray: Any) -> np.dtype[Any]:
        import numpy as np

        base, shape = subarray if type(subarray) is tuple and len(subarray) == 2 else (None, None)
        if not isinstance(base, np.dtype) or type(shape) is not tuple:
            raise bad("numpy.dtype (its subarray)")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise bad("numpy.dtype (its subarray)")
        return self._made(np.dtype((base, shape)), [base])

    def _structured(self, names: Any, fields: Any, size: int, alignment: int, aligned: bool) -> np.dtype[Any]:
        import numpy as np

        if type(names) is not tuple or type(fields) is not dict or size < 0 or len(names) > len(fields):
            raise bad("numpy.dtype (its fields)")
        self._budget.spend(_TYPE * len(names))
        formats: list[np.dtype[Any]] = []
        offsets: list[int] = []
        titles: list[Any] = []
        for name in names:
            field = fields.get(name) if type(name) is str else None
            if type(field) is not tuple or len(field) not in (2, 3):
                raise bad("numpy.dtype (its fields)")
            kind, offset = field[:2]
            if not isinstance(kind, np.dtype) or type(offset) is not int or not 0 <= offset <= size - kind.itemsize:
                raise bad("numpy.dtype (its fields)")
            title = field[2] if len(field) == 3 else None
            if title is not None and type(title) is not str:
                raise bad("numpy.dtype (its titles)")
            formats.append(kind)
            offsets.append(offset)
            titles.append(title)
        description: dict[str, Any] = {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}
        if any(title is not None for title in titles):
            description["titles"] = titles
        dtype = np.dtype(cast(Any, description), align=aligned)
        if aligned and alignment == 1 and dtype.alignment != 1:
            # What `array[["a", "b"]]` makes of an aligned type. Only this way of making it leaves it so.
            dtype = np.ndarray((0,), dtype, np.empty(0, "u1"))[list(names)].dtype
        return self._made(dtype, formats)


def checked_spec(spec: Any) -> str:
    """The text that `numpy.dtype` may be called with."""
    if type(spec) is not str:
        raise bad("numpy.dtype")
    if spec.startswith("O"):
        raise UnsafePickle("The pickle holds a numpy array of Python objects, which load_pkl does not read.")
    if not re.fullmatch(r"b1|[iu](1|2|4|8)|f(2|4|8|10|12|16)|c(8|16|20|24|32)|[mM]8|[SUV]\d{0,9}", spec, re.ASCII):
        raise bad("numpy.dtype")
    return spec


def check_text(data: Any, dtype: np.dtype[Any], types: Types, spend: Callable[[int], None]) -> None:
    """Refuse text that Python does not have: numpy would fail on each look at it."""
    if dtype.kind in "UV" and types.shape(dtype).has_text:
        for points in text_parts(data, dtype):
            spend(points.size // 16)
            if points.max(initial=0) > 0x10FFFF:
                raise bad("numpy.ndarray (text with characters that do not exist)")


def bad(name: str) -> UnsafePickle:
    """The refusal of arguments."""
    return UnsafePickle(f"The pickle gives {name} something that data never does. It was not loaded.")


def _time_unit(state: tuple[Any, ...]) -> str:
    """The unit of a datetime64 or timedelta64, "[25us]"; its last item is (metadata, (unit, count, 1, 1))."""
    try:
        (_, (unit, count, _, _)) = state[8]
    except (IndexError, TypeError, ValueError):
        raise bad("numpy.dtype (its time unit)") from None
    unit = unit.decode("ascii", "replace") if type(unit) is bytes else unit
    if type(unit) is not str or type(count) is not int or not 0 < count < 2**31:
        raise bad("numpy.dtype (its time unit)")
    if unit == "generic":
        return ""
    if unit not in _UNITS:
        raise bad("numpy.dtype (its time unit)")
    return f"[{count}{unit}]"
