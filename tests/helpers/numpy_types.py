"""Types and arrays of numpy for tests of what is stored: all that an array without objects can have."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from hypothesis import strategies as st

# "m8" without a unit is left out: numpy deprecates it.
PLAIN = (
    *("b1", "i1", "u1", "<i2", ">i4", "<u8", ">u2", "<f2", ">f4", "<f8", "<c8", ">c16"),
    *("S1", "S5", "<U1", ">U3", "V1", "V7", "<M8[s]", ">M8[25us]", "<m8[ns]", ">m8[3D]", "M8[Y]"),
)
NAMES: tuple[str, ...] = ("a", "b", "x y", "é", "'", '"', "\\", "ł", "\U0001f600", "f0", "\n")


def _structured(inner: st.SearchStrategy[np.dtype[Any]], packed: bool) -> st.SearchStrategy[np.dtype[Any]]:
    @st.composite
    def build(draw: st.DrawFn) -> np.dtype[Any]:
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
        kinds = [draw(inner) for _ in names]
        titles = [draw(st.sampled_from([None, None, f"title {i}", f"Ü{i}"])) for i in range(len(names))]
        fields = [(name if t is None else (t, name), kind) for name, t, kind in zip(names, titles, kinds, strict=True)]
        dtype = np.dtype(fields, align=draw(st.booleans()))
        way = draw(st.sampled_from(["as it is", "some fields", "spread out", "backwards"]))
        if way == "some fields":
            chosen: list[str] = [name for name in names if draw(st.booleans())] or names[:1]
            return np.empty(0, dtype)[chosen].dtype
        if way == "spread out" or (way == "backwards" and not packed):
            offsets, end = [], 0
            for kind in kinds:
                end += draw(st.integers(0, 3))
                offsets.append(end)
                end += kind.itemsize
            parts: dict[str, Any] = {"names": names, "formats": kinds, "offsets": offsets, "itemsize": end + 1}
            if way == "backwards":
                parts["names"], parts["formats"], parts["offsets"] = names[::-1], kinds[::-1], offsets[::-1]
            return np.dtype(cast(Any, parts))
        return dtype

    return build()


def dtypes(packed: bool = False) -> st.SearchStrategy[np.dtype[Any]]:
    """Plain, structured (aligned, with gaps, titles, fields left out), nested, and with arrays as fields.

    Args:
        packed: only fields in the order of their places, which an npy file can say.
    """
    plain = st.sampled_from(PLAIN).map(np.dtype)

    def wider(inner: st.SearchStrategy[np.dtype[Any]]) -> st.SearchStrategy[np.dtype[Any]]:
        shapes = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
        return _structured(inner | st.tuples(inner, shapes).map(lambda pair: np.dtype(pair)), packed)

    return st.recursive(plain, wider, max_leaves=6)


@st.composite
def arrays(draw: st.DrawFn, packed: bool = False) -> np.ndarray[Any, Any]:
    """Arrays of such types: 0 to 3 dimensions, also empty, in C and Fortran order, and parts of larger ones."""
    dtype = draw(dtypes(packed))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = int(np.prod(shape, dtype=int))
    data = np.frombuffer(draw(st.binary(min_size=64, max_size=64)) * (1 + count * dtype.itemsize // 64), "u1")
    array = np.zeros(shape, dtype)
    _fill(array, data)
    way = draw(st.sampled_from(["C", "F", "part"]))
    if way == "F":
        return np.asfortranarray(array) if array.ndim else array
    return array[..., ::-1] if way == "part" and array.ndim else array


def _fill(array: np.ndarray[Any, Any], data: np.ndarray[Any, Any]) -> None:
    """Bytes for every field that its type can have."""
    if array.dtype.names is not None:
        for name in array.dtype.names:
            _fill(array[name], data)
    elif array.dtype.kind in "US":
        array[...] = "".join(chr(33 + int(n) % 80) for n in data[: array.dtype.itemsize])
    elif array.size:
        size = array.dtype.itemsize
        kind = "u1" if array.dtype.kind == "b" else f"V{size}"
        values = np.frombuffer(bytes(data[: array.size * size] & (1 if array.dtype.kind == "b" else 255)), kind)
        array[...] = values.view(array.dtype).reshape(array.shape)


def same_type(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    """Whether nothing differs, down to titles, gaps, alignment and byte order; `==` of numpy overlooks some."""
    if a.subdtype is not None or b.subdtype is not None:
        if a.subdtype is None or b.subdtype is None:
            return False
        return a.subdtype[1] == b.subdtype[1] and same_type(a.subdtype[0], b.subdtype[0])
    if a.names is None or b.names is None:
        return a.names is b.names and a.str == b.str
    if (a.names, a.itemsize, a.isalignedstruct, a.alignment) != (b.names, b.itemsize, b.isalignedstruct, b.alignment):
        return False
    assert a.fields is not None
    assert b.fields is not None
    fields: list[Any] = [(tuple(a.fields[name]), tuple(b.fields[name])) for name in a.names]
    return all(x[1:] == y[1:] and same_type(x[0], y[0]) for x, y in fields)


def contents(array: np.ndarray[Any, Any]) -> list[bytes]:
    """The bytes of each plain field, without those between the fields."""
    if array.dtype.names is None:
        return [array.tobytes()]
    return [part for name in array.dtype.names for part in contents(array[name])]
