"""What of a figure becomes JSON, and which arrays become files of their own.

Charts hold numbers of numpy, dates, and NaN. JSON has none of these: numbers become those of JSON, dates text
(ISO 8601), and NaN and infinities null, which Vega and Plotly show as a gap. In an array that is a file they stay.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import decimal
import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kachery_cloud.errors import NotSerializable
from kachery_cloud.figures import limits
from kachery_cloud.figures.document import ARRAY, ArrayEntry
from kachery_cloud.formats.places import describe_place
from kachery_cloud.formats.values import check_array, write_npy

if TYPE_CHECKING:
    import numpy as np

#: The folder of a figure in which its arrays are.
ARRAYS = "arrays"


class Arrays:
    """The arrays of one figure: those with names, and those that are found in what it draws.

    Attributes:
        entries: what the document says of each, by name.
        files: those that are stored beside the document, by their paths in the folder.
    """

    def __init__(self) -> None:
        self.entries: dict[str, ArrayEntry] = {}
        self.files: dict[str, np.ndarray[Any, Any]] = {}

    def add(self, array: np.ndarray[Any, Any], name: str | None = None) -> dict[str, Any]:
        """Take in an array that `storable` made, and give what stands for it.

        One without a name is named by its content, so that the same figure is the same wherever it was found.
        """
        if name is None:
            name = f"array-{_digest(array)}"
        path = f"{ARRAYS}/{name}.npy"
        self.files[path] = array
        self.entries[name] = ArrayEntry(path, array.dtype.str, array.shape)
        return {ARRAY: name}


class _Hash:
    """What an array is written to that is only named."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> None:
        self.sha256.update(data)


def _digest(array: np.ndarray[Any, Any]) -> str:
    found: Any = _Hash()
    write_npy(found, array)
    return found.sha256.hexdigest()[:24]


def storable(value: Any, trail: list[Any]) -> Any:
    """An array in the one form that the viewer reads; or a list (of text, dates and objects), or a plain number.

    The form: C order, little-endian; booleans, integers of up to 64 bits, floats of 32 and 64.

    Raises:
        NotSerializable: a value of another type; says where.
    """
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        if value.dtype.kind not in "fiub":
            raise _refused(value, trail, "Fill it with .filled(...).")
        # What is masked is a gap, as NaN is.
        floats: Any = value.astype(np.float64 if value.dtype.kind != "f" else value.dtype)
        value = floats.filled(math.nan)
    array = np.asarray(value)
    kind = array.dtype.kind
    if array.ndim == 0:
        return plain(array[()], trail)
    if kind == "M":
        return _nested(np.datetime_as_string(array), np.isnat(array))
    if kind in "OSU":
        return plain(array.tolist(), trail)
    if kind not in "biuf":
        raise _refused(value, trail, "Give numbers, such as .real and .imag, or seconds as floats.")
    if array.ndim > limits.MAX_DIMENSIONS:
        raise _refused(
            value, trail, f"It has {array.ndim} dimensions; nothing draws more than {limits.MAX_DIMENSIONS}."
        )
    if kind == "f":
        array = array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64, copy=False)
    return check_array(np.ascontiguousarray(array, array.dtype.newbyteorder("<")))


def _nested(texts: Any, missing: Any) -> Any:
    return (
        [_nested(a, b) for a, b in zip(texts, missing, strict=True)] if texts.ndim else None if missing else str(texts)
    )


def plain(value: Any, trail: list[Any], arrays: Arrays | None = None) -> Any:
    """A value as JSON has it.

    Args:
        value: of what a chart or a call gives.
        trail: the keys that lead to it, for errors.
        arrays: where arrays go; None where they become lists.

    Raises:
        NotSerializable: a value of a type that JSON does not have; says where.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if len(trail) > limits.MAX_DEPTH:
        raise NotSerializable(f"The figure is nested more than {limits.MAX_DEPTH} deep {describe_place(trail[:3])}.")
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return _plain_object(value, trail, arrays)
    if isinstance(value, (list, tuple)):
        return [plain(each, [*trail, index], arrays) for index, each in enumerate(value)]
    if isinstance(value, (int, str)):  # numbers and texts that know more, such as those of an enum
        return str.__str__(value) if isinstance(value, str) else int(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat() if value == value else None  # NaT of pandas is a date that is no date
    if isinstance(value, decimal.Decimal):
        return plain(float(value), trail)
    if type(value).__name__ == "NAType":
        return None
    module = type(value).__module__.partition(".")[0]
    if module == "numpy" or hasattr(value, "__array__"):
        return _plain_array(value, trail, arrays)
    raise _refused(value, trail, "A figure holds numbers, text, dates, lists, dicts and arrays of numpy.")


def _plain_array(value: Any, trail: list[Any], arrays: Arrays | None) -> Any:
    import numpy as np

    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(np.datetime_as_string(value))
    if isinstance(value, np.generic) and not isinstance(value, (np.void, np.timedelta64, np.complexfloating)):
        return plain(value.item(), trail)
    found = storable(value, trail) if not isinstance(value, np.generic) else None
    if found is None:
        raise _refused(value, trail, "Give numbers or text.")
    if isinstance(found, np.ndarray):
        return found.tolist() if arrays is None else arrays.add(found)
    return found


def _plain_object(value: Mapping[Any, Any], trail: list[Any], arrays: Arrays | None) -> Any:
    if arrays is not None and "bdata" in value and "dtype" in value:
        return arrays.add(_binary(value, trail))
    found: dict[str, Any] = {}
    for key, each in value.items():
        if not isinstance(key, (str, int, float)) or key in found:
            raise NotSerializable(f"The figure has the key {str(key)[:60]!a} {describe_place(trail)}; keys are text.")
        found[str(key)] = plain(each, [*trail, key], arrays)
    return found


def _binary(value: Mapping[Any, Any], trail: list[Any]) -> np.ndarray[Any, Any]:
    """An array as Plotly writes it into JSON: `{"dtype": "f8", "bdata": BASE64, "shape": "300, 1000"}`."""
    import numpy as np

    try:
        dtype = np.dtype(str(value["dtype"])).newbyteorder("<")
        if dtype.kind not in "biuf":
            raise ValueError(f"{dtype} is no type of numbers")
        array = np.frombuffer(base64.b64decode(value["bdata"], validate=True), dtype)
        if shape := value.get("shape"):
            lengths = (
                shape.split(",") if isinstance(shape, str) else shape if isinstance(shape, (list, tuple)) else [shape]
            )
            array = array.reshape([int(length) for length in lengths])
    except (TypeError, ValueError, binascii.Error) as error:
        raise NotSerializable(
            f"The figure has an array {describe_place(trail)} that cannot be read: {error}."
        ) from None
    return storable(array if array.ndim else array.reshape(1), trail)


def _refused(value: Any, trail: list[Any], advice: str) -> NotSerializable:
    kind = type(value)
    what = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    dtype = getattr(value, "dtype", None)
    return NotSerializable(
        f"A figure cannot hold the {what}{f' of dtype {dtype}' if dtype is not None else ''} {describe_place(trail)}. "
        f"{advice}"
    )
