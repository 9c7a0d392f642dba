"""The bytes that text, JSON and numpy arrays become, and back. The same value gives the same bytes everywhere.

- Text: UTF-8, as it is: no byte order mark, line ends untouched.
- JSON: keys sorted, separators `,` and `:`, non-ASCII characters escaped, numbers as Python writes them.
- Arrays: what `numpy.save` writes, never a pickle.
"""

from __future__ import annotations

import json
import math
import os
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from kachery_cloud.errors import FormatError, InvalidArgument, NotSerializable
from kachery_cloud.formats.limits import MAX_DEPTH
from kachery_cloud.formats.npy_header import Header, read_header
from kachery_cloud.formats.pickle_numpy import MAX_EMPTY_ITEMS, array_pieces, dtype_problem, text_parts
from kachery_cloud.formats.places import describe_place
from kachery_p2p.text import shown

if TYPE_CHECKING:
    import numpy as np

_PLAIN = (str, int, float, bool, type(None))
#: Digits that numpy leaves room for in the header of an npy file.
_GROWTH = 21
#: Libraries whose arrays and tables have names for rows and columns.
_LABELLED = ("pandas", "polars", "pyarrow", "xarray", "geopandas", "dask_expr")


# --- text --------------------------------------------------------------------------------------------------------


def text_bytes(text: str) -> bytes:
    """Text as UTF-8.

    Raises:
        NotSerializable: it is no text, or has half surrogates, which UTF-8 does not have.
    """
    if not isinstance(text, str):
        advice = (
            "A file is stored by its path with store_file, bytes with store_pkl."
            if isinstance(text, (os.PathLike, bytes, bytearray))
            else "For numbers, lists and dicts there is store_json."
        )
        raise NotSerializable(f"store_text takes a str, not {_name(text)}. {advice}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotSerializable(
            f"The text has half a character (a lone surrogate, {text[error.start]!r}) at position {error.start}, "
            "which UTF-8 cannot hold."
        ) from None


def text_from_bytes(data: bytes, name: str) -> str:
    """The text of a file.

    Raises:
        FormatError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{name} is not text in UTF-8 (byte {error.start} is {data[error.start]:#04x}). "
            "Use load_file and read it in its own way."
        ) from None


# --- JSON --------------------------------------------------------------------------------------------------------


def json_bytes(value: Any) -> bytes:
    """The JSON of a value.

    Tuples become lists. Keys that are numbers, booleans or None become text, as the json module has it, and are then
    sorted as text, so that loading and storing again gives the same bytes.
    """
    value = _checked(value, [])
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:  # an int of more digits than Python writes
        raise NotSerializable(f"store_json cannot write the value: {error}.") from error
    return text.encode("ascii")


def check_json_style(separators: Any, indent: Any) -> None:
    """Check that JSON is to be written as it always is: older programs could ask for something else.

    Raises:
        InvalidArgument: it is to be written in another way.
    """
    given = tuple(separators) if type(separators) in (list, tuple) else ()
    plain = all(type(each) is str for each in given) and given == (",", ":")
    for name, value, same in (("separators", separators, plain), ("indent", indent, False)):
        if value is not None and not same:
            raise InvalidArgument(
                f"{name} is {shown(value)}, but store_json writes all JSON in one way, without blanks: so equal values "
                f"have one URI. To store a text that looks otherwise: store_text(json.dumps(value, {name}=...)), which "
                "load_json reads as well."
            )


def _checked(value: Any, trail: list[Any]) -> Any:
    """The value, made of what the json module writes without a choice of its own; copied only where it differs."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotSerializable(
                f"store_json cannot write {float(value)} {describe_place(trail)}: JSON has no such number. "
                "Use None, or store_npy / store_pkl, which keep it."
            )
        return value
    if len(trail) >= MAX_DEPTH and isinstance(value, (dict, list, tuple)):
        raise NotSerializable(
            f"The value is nested more than {MAX_DEPTH} deep (or contains itself); JSON cannot hold that."
        )
    if isinstance(value, dict):
        return _checked_dict(value, trail)
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            kind = type(item)
            if kind is str or kind is int or (kind is float and math.isfinite(item)):
                continue
            trail.append(index)
            other = _checked(item, trail)
            trail.pop()
            if other is not item:
                return [*value[:index], *(_checked(v, [*trail, index + i]) for i, v in enumerate(value[index:]))]
        return value
    if isinstance(value, (str, int)) and not kind.__module__.startswith("numpy"):
        return value
    raise NotSerializable(f"store_json cannot write the {_name(value)} {describe_place(trail)}: {_advice(value)}")


def _checked_dict(value: dict[Any, Any], trail: list[Any]) -> dict[str, Any]:
    changed: dict[str, Any] | None = None
    for key, item in value.items():
        text = key if type(key) is str else _key_text(key, trail)
        kind = type(item)
        if kind is str or kind is int or (kind is float and math.isfinite(item)):
            other = item
        else:
            trail.append(key)
            other = _checked(item, trail)
            trail.pop()
        if changed is None and (other is not item or text is not key):
            changed = {}
            for k in value:
                if k is key:
                    break
                changed[k] = value[k]
        if changed is not None:
            if text in changed:
                raise NotSerializable(
                    f"store_json cannot write the dict {describe_place(trail)}: "
                    f"two of its keys become the same text {text!r}."
                )
            changed[text] = other
    return value if changed is None else changed


def _key_text(key: Any, trail: list[Any]) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, _PLAIN) and not type(key).__module__.startswith("numpy"):
        if isinstance(key, float) and not math.isfinite(key):
            raise NotSerializable(f"store_json cannot write the key {key} of the dict {describe_place(trail)}.")
        return json.dumps(key)
    raise NotSerializable(
        f"store_json cannot write the dict {describe_place(trail)}: its key {_short(key)} is a {_name(key)}, "
        "and the keys of JSON are text. Use str(key), or store_pkl, which keeps such keys."
    )


def _advice(value: Any) -> str:
    module = type(value).__module__
    if module.startswith("numpy"):
        if hasattr(value, "ndim") and getattr(value, "ndim", 0) > 0:
            return "JSON has no arrays of numpy. Use .tolist() for a list, or store_npy / store_pkl."
        return "JSON has no numbers of numpy. Use .item(), or int(x) / float(x)."
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "JSON has no bytes. Use store_pkl, or base64 text."
    if isinstance(value, (set, frozenset)):
        return "JSON has no sets. Use sorted(x) for a list."
    if module in ("datetime", "uuid", "decimal", "pathlib") or isinstance(value, Path):
        return "Use str(x)."
    return "JSON holds dicts, lists, text, numbers, booleans and None. store_pkl takes more types."


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def json_from_bytes(data: bytes, name: str) -> Any:
    """The value of a JSON file, as Python's json module reads it.

    NaN and infinities are read, because many programs write them; of a key that occurs twice in one object, the last
    value counts (RFC 8259, section 4, leaves both open).

    Raises:
        FormatError: it is not JSON, has numbers of more digits than Python reads (`sys.set_int_max_str_digits`), or is
            nested deeper than its stack allows.
    """
    text = text_from_bytes(data, name)
    try:
        return json.loads(text)
    except ValueError as error:
        raise FormatError(f"{name} is not JSON: {error}.") from None
    except RecursionError:
        raise FormatError(f"{name} is JSON that is nested too deeply to be read.") from None
    except MemoryError:
        raise FormatError(f"{name} is JSON whose value does not fit into memory.") from None


# --- numpy arrays ------------------------------------------------------------------------------------------------


def check_array(array: Any) -> np.ndarray[Any, Any]:
    """The value as an array that an npy file holds without pickles.

    Raises:
        NotSerializable: it is no array, or one of Python objects.
    """
    import numpy as np

    if isinstance(array, np.ma.MaskedArray):
        raise NotSerializable(
            "store_npy cannot write a masked array: the mask would be lost. Store array.filled(...), "
            "or .data and .mask with store_pkl."
        )
    advice = _no_array(array)
    if advice:
        raise NotSerializable(f"store_npy takes an array of numpy, not a {_name(array)}. {advice}")
    try:
        result = np.asarray(array)
    except (ValueError, TypeError, OverflowError) as error:
        raise NotSerializable(f"store_npy cannot make an array of that: {error}.") from None
    if result.dtype.hasobject:
        raise NotSerializable(
            f"store_npy cannot write an array of Python objects (dtype {result.dtype}, shape {result.shape}): "
            "that would take a pickle. Give it a dtype of numbers or text, such as array.astype(float) or "
            "array.astype(str); ragged lists can be stored with store_json or store_pkl."
        )
    if result.dtype.kind not in "biufcSUVmM":
        raise NotSerializable(
            f"store_npy cannot write the dtype {result.dtype}. Convert it, such as array.astype('U')."
        )
    if result.dtype.kind in "SU" and isinstance(array, (list, tuple)) and not _all_text(array):
        raise NotSerializable(
            "store_npy was given text and numbers in one list, which numpy makes text of. "
            "Use store_json or store_pkl, which keep each as it is."
        )
    problem = dtype_problem(result.dtype)
    if not result.itemsize and result.size > MAX_EMPTY_ITEMS:
        problem = f"has more than {MAX_EMPTY_ITEMS:,} items without bytes"
    if problem:
        raise NotSerializable(f"store_npy cannot write the array: it {problem}.")
    if result.dtype.metadata is not None:
        # numpy.save warns that it leaves metadata out; here that is expected: it plays no part in the values.
        result = result.view(_without_metadata(result.dtype))
    _npy_header(result)
    return result


def _no_array(value: Any) -> str:
    """What to do with a value that is no array, but that numpy would make one of; empty for all others."""
    if isinstance(value, (str, bytes, bytearray)) and not type(value).__module__.startswith("numpy"):
        return (
            "A file is stored by its path with store_file, text with store_text, bytes with store_pkl; "
            "an array of text is numpy.array([...])."
        )
    if isinstance(value, os.PathLike):
        return "A file is stored by its path with store_file."
    if isinstance(value, (dict, set, frozenset)) or value is None:
        return "Use store_json or store_pkl for it."
    for kind in type(value).__mro__:
        if kind.__module__.split(".")[0] in _LABELLED:
            return (
                "Its labels would be lost. Store its values with .to_numpy(), or the whole as a file "
                "(such as to_parquet or to_netcdf) with store_file."
            )
    return ""


def _all_text(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_all_text, value))
    return isinstance(value, (str, bytes)) or getattr(getattr(value, "dtype", None), "kind", "") in tuple("SU")


def _without_metadata(dtype: np.dtype[Any]) -> np.dtype[Any]:
    import numpy as np

    return np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype)) if dtype.names else np.dtype(dtype.str)


def _npy_header(array: np.ndarray[Any, Any]) -> bytes:
    """All that comes before the bytes of the array, as `numpy.save` writes it.

    Raises:
        NotSerializable: the format has no words for its type.
    """
    import numpy as np

    fortran = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
    shape = tuple(int(length) for length in array.shape)
    try:
        descr = np.lib.format.dtype_to_descr(array.dtype)
        text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}"
        # Room for the array to grow along its slowest axis.
        text += " " * (_GROWTH - len(repr(shape[-1 if fortran else 0]))) if shape else ""
        # Later versions of the format only where they are needed: for long headers, and for names in all scripts.
        for version, encoding, width in ((b"\1\0", "latin-1", 2), (b"\2\0", "latin-1", 4), (b"\3\0", "utf-8", 4)):
            try:
                data = text.encode(encoding)
            except UnicodeEncodeError:
                if encoding == "utf-8":
                    raise
                continue
            data += b" " * (64 - (8 + width + len(data) + 1) % 64) + b"\n"
            if len(data) < 1 << (8 * width):
                return b"\x93NUMPY" + version + len(data).to_bytes(width, "little") + data
    except ValueError as error:  # overlapping fields; half surrogates in a name
        raise NotSerializable(f"store_npy cannot write the dtype {array.dtype}: {error}. store_pkl can.") from None
    raise NotSerializable("store_npy cannot write a dtype whose description takes 4 GiB.")


def write_npy(file: BinaryIO, array: np.ndarray[Any, Any]) -> None:
    """Write an npy file. Streams: a large array is not copied in memory as a whole."""
    file.write(_npy_header(array))
    for piece in array_pieces(array.T if array.flags.f_contiguous and not array.flags.c_contiguous else array):
        file.write(piece)


def read_npy(source: str | os.PathLike[str] | BufferedIOBase, name: str) -> np.ndarray[Any, Any]:
    """The array of an npy file. Never unpickles.

    Raises:
        FormatError: it cannot be read. A header that promises more than the file holds is found before memory is set
            aside for it.
    """
    import numpy as np

    try:
        with source if isinstance(source, BufferedIOBase) else open(source, "rb") as file:
            header = open_npy_header(file)
            order: Any = "F" if header.fortran_order else "C"
            if not header.size:
                return np.ndarray(header.shape, header.dtype, np.empty(0, "u1"), order=order)
            array = np.empty(header.shape, header.dtype, order=order)
            content = (array.T if header.fortran_order else array).reshape(-1).view("u1")
            if file.readinto(content.data) != header.size:
                raise FormatError("it ended while it was read")
        check_characters(content, header.dtype)
        return array
    except MemoryError:
        raise FormatError(
            f"{name} is an array that does not fit into memory. Use load_npy(..., mmap_mode='r'), or open_npy."
        ) from None
    except OSError:
        raise
    except Exception as error:
        raise not_npy(name, error) from error


def check_characters(content: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    """Check the text in the bytes of an array.

    Raises:
        FormatError: it has characters that do not exist; the message is a reason to put after "because".
    """
    for points in text_parts(content, dtype):
        if points.max(initial=0) > 0x10FFFF:
            raise FormatError("it has text with characters that do not exist")


def map_npy(path: Path, mode: Literal["r", "c"], name: str) -> np.ndarray[Any, Any]:
    """The array of an npy file, read from the file as it is used.

    Args:
        path: of the file.
        mode: "r" for one that cannot be changed, "c" for one whose changes stay in memory.
        name: of the file, for errors.

    Raises:
        FormatError: it cannot be read.
    """
    import numpy as np

    try:
        with open(path, "rb") as file:
            header = open_npy_header(file)
            order: Any = "F" if header.fortran_order else "C"
            if not header.size:
                return np.ndarray(header.shape, header.dtype, np.empty(0, "u1"), order=order)
            return np.memmap(file, header.dtype, mode, offset=file.tell(), shape=header.shape, order=order)
    except OSError:
        raise
    except Exception as error:
        raise not_npy(name, error) from error


def open_npy_header(file: BufferedIOBase) -> Header:
    """The header of an npy file. Afterwards the file is at the first byte of the array.

    Raises:
        FormatError: it has none; the message is a reason to put after "because".
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(2) == b"PK":
        raise FormatError("it is an npz archive; use load_file and numpy.load")
    file.seek(0)
    return read_header(file, size)


def not_npy(name: str, error: Exception) -> FormatError:
    """That a file is no npy file. numpy refuses types and shapes with errors of many kinds."""
    reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
    return FormatError(f"{name} is not an npy file that can be read: {reason}.")
