"""How numpy's arrays and types are written in a pickle, the same under every version of numpy.

`dtype.__reduce__` differs between versions of numpy in details that mean nothing (signed flags, flags that only some
versions have, an empty dict or None), and carries metadata. The states made here are those of numpy 1, which all
versions read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np

#: Arrays are copied out in pieces of this size, so that memory does not grow with them.
_PIECE = 4 << 20
#: Types nested deeper than this are neither written nor read; they would only serve to exhaust the stack.
MAX_DTYPE_DEPTH = 20
#: Items that take no bytes cost nothing in a file, so their number is bounded by itself.
MAX_EMPTY_ITEMS = 1_000_000
#: Flags of numpy 1: memory must be zeroed first; the interpreter is needed; the fields are aligned as in C.
_NEEDS_INIT, _NEEDS_PYTHON, _ALIGNED = 0x08, 0x10, 0x80


def array_pieces(array: np.ndarray[Any, Any]) -> Iterator[Any]:
    """The array's bytes in C order, without a copy of the whole.

    What lies between the fields of structured types is zero: in memory it is what was there before, which is no part of
    the value, and may be private.
    """
    if not array.nbytes:
        return
    yield from _pieces(array, _gaps(array.dtype))


def _pieces(array: np.ndarray[Any, Any], gaps: np.ndarray[Any, Any] | None) -> Iterator[Any]:
    import numpy as np

    if array.flags.c_contiguous and gaps is None:
        flat = array.reshape(-1).view("u1")
        for start in range(0, flat.nbytes, _PIECE):
            yield flat[start : start + _PIECE].data
        return
    if not array.ndim:
        array = array.reshape(1)
    row_size = array.nbytes // len(array)
    if array.ndim > 1 and row_size > _PIECE:
        for row in array:
            yield from _pieces(row, gaps)
        return
    step = max(1, _PIECE // row_size)
    for start in range(0, len(array), step):
        data = array[start : start + step].tobytes()
        if gaps is not None:
            items = np.frombuffer(bytearray(data), "u1").reshape(-1, array.itemsize)
            items[:, gaps] = 0
            data = items.reshape(-1).data
        yield data


def scalar_bytes(value: np.generic) -> bytes:
    """The bytes of a scalar, those of an array of it."""
    import numpy as np

    if value.dtype.names is None:
        return value.tobytes() if value.dtype.itemsize else b""
    return b"".join(bytes(piece) for piece in array_pieces(np.asarray(value)))


def _gaps(dtype: np.dtype[Any]) -> np.ndarray[Any, Any] | None:
    """The places of an item's bytes that belong to no value; None where there are none."""
    import numpy as np

    if dtype.names is None and dtype.char not in "gG":
        return None
    used = np.zeros(dtype.itemsize, bool)
    _mark_used(dtype, used)
    return None if used.all() else np.flatnonzero(~used)


def _mark_used(dtype: np.dtype[Any], used: np.ndarray[Any, Any]) -> None:
    import numpy as np

    if dtype.subdtype is not None:
        base = dtype.subdtype[0]
        one = np.zeros(base.itemsize, bool)
        _mark_used(base, one)
        if base.itemsize:
            used.reshape(-1, base.itemsize)[:] |= one
    elif dtype.names is not None:
        for _, field in _fields(dtype):
            _mark_used(field[0], used[field[1] : field[1] + field[0].itemsize])
    elif dtype.char in "gG" and dtype.isnative and np.finfo(np.longdouble).nmant == 63:
        # Ten bytes of twelve or sixteen.
        used.reshape(-1, np.dtype(np.longdouble).itemsize)[:, :10] = True
    else:
        used[:] = True


def dtype_problem(dtype: np.dtype[Any]) -> str | None:
    """Why a type cannot be written so that it comes back, or None. To be put after "it"."""
    level, depth = [dtype], 0
    while level:
        depth += 1
        if depth > MAX_DTYPE_DEPTH:
            return f"has a type that is nested more than {MAX_DTYPE_DEPTH} deep"
        below: list[np.dtype[Any]] = []
        for part in level:
            if part.subdtype is not None:
                below.append(part.subdtype[0])
            elif part.names is not None:
                for _, field in _fields(part):
                    below.append(field[0])
                    if len(field) > 2 and type(field[2]) is not str:
                        return f"has a field whose title is {field[2]!r}, which is not text"
        level = below
    return None


def text_parts(data: Any, dtype: np.dtype[Any]) -> Iterator[np.ndarray[Any, Any]]:
    """The code points of all text in items of this type that lie one after the other in `data`, as views of it."""
    import numpy as np

    if dtype.kind == "U":  # nearly always
        yield np.frombuffer(data, dtype.str[0] + "u4")
    elif dtype.itemsize:
        yield from _text_parts(data, dtype, [len(data) // dtype.itemsize], [dtype.itemsize], 0)


def _text_parts(
    data: Any, dtype: np.dtype[Any], shape: list[int], strides: list[int], offset: int
) -> Iterator[np.ndarray[Any, Any]]:
    import numpy as np

    if dtype.subdtype is not None:
        base, inner = dtype.subdtype
        yield from _text_parts(data, base, [*shape, math.prod(inner)], [*strides, base.itemsize], offset)
    elif dtype.names is not None:
        for _, field in _fields(dtype):
            yield from _text_parts(data, field[0], shape, strides, offset + field[1])
    elif dtype.kind == "U" and math.prod(shape) and dtype.itemsize:
        points = np.dtype("u4").newbyteorder(cast(Any, dtype.str[0]))
        yield np.ndarray((*shape, dtype.itemsize // 4), points, data, offset, (*strides, 4))


def leaf_dtypes(dtype: np.dtype[Any]) -> Iterator[np.dtype[Any]]:
    """The plain types that a type is made of."""
    if dtype.subdtype is not None:
        yield from leaf_dtypes(dtype.subdtype[0])
    elif dtype.names is not None:
        for _, field in _fields(dtype):
            yield from leaf_dtypes(field[0])
    else:
        yield dtype


def dtype_state(dtype: np.dtype[Any]) -> tuple[str, tuple[Any, ...]]:
    """What numpy 1's `dtype.__reduce__` says: the text for the constructor, and the state."""
    order = dtype.str[0]
    flags, alignment = _flags(dtype), _alignment(dtype)
    flags = flags - 256 if flags > 127 else flags  # numpy 1 has them in a signed byte
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        subarray = (base, tuple(int(n) for n in shape))
        return f"V{dtype.itemsize}", (3, "|", subarray, None, None, dtype.itemsize, alignment, flags)
    if dtype.names is not None:
        fields: dict[str, Any] = {}
        for name, field in _fields(dtype):
            fields[name] = field
            if len(field) > 2:  # a title, which numpy has as a second name
                fields[field[2]] = field
        return f"V{dtype.itemsize}", (3, "|", None, dtype.names, fields, dtype.itemsize, alignment, flags)
    if dtype.kind in "mM":
        import numpy as np

        unit, count = np.datetime_data(dtype)
        state = (4, order, None, None, None, -1, -1, flags, ({}, (unit.encode(), int(count), 1, 1)))
        return f"{dtype.kind}8", state
    if dtype.kind in "SUV":
        count = dtype.itemsize // 4 if dtype.kind == "U" else dtype.itemsize
        return f"{dtype.kind}{count}", (3, order, None, None, None, dtype.itemsize, alignment, flags)
    return f"{dtype.kind}{dtype.itemsize}", (3, order, None, None, None, -1, -1, flags)


def _flags(dtype: np.dtype[Any]) -> int:
    """What `dtype.flags` is in numpy 1. Later versions have more of them."""
    if dtype.subdtype is not None:
        return _flags(dtype.subdtype[0])
    if dtype.names is not None:
        flags = _NEEDS_PYTHON | (_ALIGNED if dtype.isalignedstruct else 0)
        for _, field in _fields(dtype):
            flags |= _flags(field[0]) & _NEEDS_INIT
        return flags
    return _NEEDS_INIT if dtype.kind == "U" else 0


def _alignment(dtype: np.dtype[Any]) -> int:
    if dtype.subdtype is not None:
        return _alignment(dtype.subdtype[0])
    if dtype.names is not None and not dtype.isalignedstruct:
        return 1
    return dtype.alignment


def dtype_key(dtype: np.dtype[Any]) -> Any:
    """A value that is equal for equal descriptions; numpy's own equality overlooks titles and alignment."""
    if dtype.subdtype is not None:
        return ("array", dtype_key(dtype.subdtype[0]), tuple(dtype.subdtype[1]))
    if dtype.names is not None:
        fields = tuple((name, dtype_key(field[0]), *field[1:]) for name, field in _fields(dtype))
        return ("struct", fields, dtype.itemsize, _alignment(dtype), dtype.isalignedstruct)
    return (dtype.str, dtype.itemsize)


def _fields(dtype: np.dtype[Any]) -> list[tuple[str, tuple[Any, ...]]]:
    """(name, (type, offset) or (type, offset, title)) of a structured type, in the order of its names."""
    names, fields = cast(Any, dtype.names), cast(Any, dtype.fields)
    return [(name, tuple(fields[name])) for name in names]
