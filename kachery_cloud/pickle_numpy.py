"""How numpy's arrays and types are written in a pickle, the same under every version of numpy.

`dtype.__reduce__` differs between numpy 1 and 2 in details that mean nothing (signed flags, an empty dict or None), and
carries metadata. The states made here are those of numpy 1, which all versions read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np

# Arrays are copied out in pieces of this size, so that memory does not grow with them.
_PIECE = 4 << 20


def array_pieces(array: np.ndarray[Any, Any]) -> Iterator[Any]:
    """The array's bytes in C order, without a copy of the whole."""
    if not array.nbytes:
        return
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view("u1")
        for start in range(0, flat.nbytes, _PIECE):
            yield flat[start : start + _PIECE].data
        return
    row_size = array.nbytes // len(array)
    if array.ndim > 1 and row_size > _PIECE:
        for row in array:
            yield from array_pieces(row)
        return
    step = max(1, _PIECE // row_size)
    for start in range(0, len(array), step):
        yield array[start : start + step].tobytes()


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
    # numpy 1 has the flags in a signed byte.
    flags = dtype.flags - 256 if dtype.flags > 127 else dtype.flags
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        subarray = (base, tuple(int(n) for n in shape))
        return f"V{dtype.itemsize}", (3, "|", subarray, None, None, dtype.itemsize, dtype.alignment, flags)
    if dtype.names is not None:
        fields: dict[str, Any] = {}
        for name, field in _fields(dtype):
            fields[name] = field
            if len(field) > 2:  # a title, which numpy has as a second name
                fields[field[2]] = field
        return f"V{dtype.itemsize}", (3, "|", None, dtype.names, fields, dtype.itemsize, dtype.alignment, flags)
    if dtype.kind in "mM":
        import numpy as np

        unit, count = np.datetime_data(dtype)
        state = (4, order, None, None, None, -1, -1, flags, ({}, (unit.encode(), int(count), 1, 1)))
        return f"{dtype.kind}8", state
    if dtype.kind in "SUV":
        count = dtype.itemsize // 4 if dtype.kind == "U" else dtype.itemsize
        return f"{dtype.kind}{count}", (3, order, None, None, None, dtype.itemsize, dtype.alignment, flags)
    return f"{dtype.kind}{dtype.itemsize}", (3, order, None, None, None, -1, -1, flags)


def dtype_key(dtype: np.dtype[Any]) -> Any:
    """A value that is equal for equal descriptions; numpy's own equality overlooks titles and alignment."""
    if dtype.subdtype is not None:
        return ("array", dtype_key(dtype.subdtype[0]), tuple(dtype.subdtype[1]))
    if dtype.names is not None:
        fields = tuple((name, dtype_key(field[0]), *field[1:]) for name, field in _fields(dtype))
        return ("struct", fields, dtype.itemsize, dtype.alignment, dtype.flags)
    return (dtype.str, dtype.itemsize)


def _fields(dtype: np.dtype[Any]) -> list[tuple[str, tuple[Any, ...]]]:
    """(name, (type, offset) or (type, offset, title)) of a structured type, in the order of its names."""
    names, fields = cast(Any, dtype.names), cast(Any, dtype.fields)
    return [(name, tuple(fields[name])) for name in names]
