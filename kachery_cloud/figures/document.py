"""`figure.json`, the format `kachery-figure` version 1: what is in it, written and read.

    {"format": "kachery-figure", "version": 1, "kind": "vega-lite", "title": "...", "spec": {...},
     "arrays": {NAME: {"uri": ..., "dtype": "<f8", "shape": [300, 1000]}},
     "data": {NAME: {"uri": ..., "type": "csv"} | {"columns": {COLUMN: [...] | {"$array": NAME}}}
                    | {"array": {"$array": NAME}}}}

A `uri` is `ipfs://<cid>[/<path>]`, or a path relative to `figure.json`. In `spec`, and as a column, `{"$array": NAME}`
stands for an array; with `"rows": [START, STOP]` for some of its rows, with `"column": N` for one of its columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from kachery_cloud.errors import FormatError, InvalidURI
from kachery_cloud.figures import limits
from kachery_cloud.formats.values import json_bytes
from kachery_cloud.uri import parse_uri
from kachery_p2p.json_reader import InvalidJSON, read_json

FORMAT = "kachery-figure"
VERSION = 1
#: The name of the document in the folder of a figure.
DOCUMENT = "figure.json"

Kind: TypeAlias = Literal["vega-lite", "vega", "plotly"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TableType: TypeAlias = Literal["json", "csv", "tsv", "topojson"]
TABLE_TYPES: tuple[TableType, ...] = get_args(TableType)

#: The key of an object that stands for an array.
ARRAY = "$array"
#: Names of arrays and tables; they are names of files, too.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class ArrayEntry:
    """An array that a figure draws: where it is, and what it is where that is known."""

    uri: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TableFile:
    """A table that is a file: where it is, and its type."""

    uri: str
    type: TableType


@dataclass(frozen=True)
class Columns:
    """A table by its columns: lists of JSON, or objects that stand for arrays."""

    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Cells:
    """A table of the cells of an array: `row` and `column` where it has two dimensions, `index` else; and `value`."""

    array: Mapping[str, Any]


Table: TypeAlias = TableFile | Columns | Cells


@dataclass(frozen=True)
class Document:
    """What `figure.json` says."""

    kind: Kind
    spec: Mapping[str, Any]
    title: str = ""
    arrays: Mapping[str, ArrayEntry] = field(default_factory=dict)
    data: Mapping[str, Table] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The bytes of the document: the same for the same figure.

        Raises:
            FormatError: it is too large.
        """
        value: dict[str, Any] = {"format": FORMAT, "version": VERSION, "kind": self.kind, "spec": self.spec}
        if self.title:
            value["title"] = self.title
        if self.arrays:
            value["arrays"] = {name: _array_value(entry) for name, entry in self.arrays.items()}
        if self.data:
            value["data"] = {name: _table_value(table) for name, table in self.data.items()}
        data = json_bytes(value)
        if len(data) > limits.MAX_DOCUMENT:
            raise FormatError(
                f"The specification of the figure has {len(data):,} bytes as JSON; {limits.MAX_DOCUMENT:,} are the "
                "most there can be. Give large values as arrays of numpy, or as tables with data=."
            )
        return data


def _array_value(entry: ArrayEntry) -> dict[str, Any]:
    value: dict[str, Any] = {"uri": entry.uri}
    if entry.dtype is not None:
        value["dtype"] = entry.dtype
    if entry.shape is not None:
        value["shape"] = list(entry.shape)
    return value


def _table_value(table: Table) -> dict[str, Any]:
    if isinstance(table, TableFile):
        return {"uri": table.uri, "type": table.type}
    if isinstance(table, Columns):
        return {"columns": dict(table.columns)}
    return {"array": dict(table.array)}


# --- reading ---------------------------------------------------------------------------------------------------------


def read_document(data: bytes, name: str) -> Document:
    """What a `figure.json` says. Keys that are not known are left out: a later version 1 may have more.

    Args:
        data: its bytes, of which nothing is believed.
        name: what it is called in errors.

    Raises:
        FormatError: it is no figure of this format, or of a later version.
    """
    if len(data) > limits.MAX_DOCUMENT:
        raise FormatError(f"{name} has {len(data):,} bytes; a figure has {limits.MAX_DOCUMENT:,} at most.")
    try:
        value = read_json(data.decode("utf-8"))
    except (InvalidJSON, UnicodeDecodeError) as error:
        raise FormatError(f"{name} is no figure: it is not JSON ({error}).") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise FormatError(f'{name} is no figure: it does not say "format": "{FORMAT}".')
    if value.get("version") != VERSION:
        raise FormatError(
            f"{name} is a figure of version {str(value.get('version'))[:20]}, and this program reads version {VERSION}."
        )
    try:
        return _document(value)
    except ValueError as error:
        raise FormatError(f"{name} is no figure that can be shown: {error}.") from None


def _document(value: Mapping[str, Any]) -> Document:
    kind, spec, title = value.get("kind"), value.get("spec"), value.get("title", "")
    if kind not in KINDS:
        raise ValueError(f"its kind is {str(kind)[:40]!a}; known are {', '.join(KINDS)}")
    if not isinstance(spec, dict):
        raise ValueError("its spec is no object")
    if not isinstance(title, str) or len(title) > limits.MAX_TITLE:
        raise ValueError("its title is no text, or too long")
    arrays = {name: _array(entry, name) for name, entry in _entries(value, "arrays").items()}
    data = {name: _table(entry, name, arrays) for name, entry in _entries(value, "data").items()}
    check_references(spec, arrays)
    return Document(kind, spec, title, arrays, data)


def _entries(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key, {})
    if not isinstance(found, dict):
        raise ValueError(f"its {key} are no object")
    if len(found) > limits.MAX_ENTRIES:
        raise ValueError(f"it has more than {limits.MAX_ENTRIES:,} {key}")
    for name in found:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name[:40]!a} is no name for one of its {key}")
    return found


def _array(value: Any, name: str) -> ArrayEntry:
    if not isinstance(value, dict):
        raise ValueError(f"its array {name} is no object")
    dtype, shape = value.get("dtype"), value.get("shape")
    if dtype is not None and not isinstance(dtype, str):
        raise ValueError(f"the dtype of its array {name} is no text")
    if shape is not None:
        if not isinstance(shape, list) or not all(type(each) is int and each >= 0 for each in shape):
            raise ValueError(f"the shape of its array {name} is no list of lengths")
        shape = tuple(shape)
    return ArrayEntry(checked_uri(value.get("uri")), dtype, shape)


def _table(value: Any, name: str, arrays: Mapping[str, ArrayEntry]) -> Table:
    if isinstance(value, dict) and "uri" in value:
        kind = value.get("type")
        if kind not in TABLE_TYPES:
            raise ValueError(f"the type of its table {name} is none of {', '.join(TABLE_TYPES)}")
        return TableFile(checked_uri(value["uri"]), kind)
    if isinstance(value, dict) and isinstance(value.get("columns"), dict):
        for column in value["columns"].values():
            if not isinstance(column, list) and not is_reference(column):
                raise ValueError(f"a column of its table {name} is neither a list nor an array")
        check_references(value["columns"], arrays)
        return Columns(value["columns"])
    if isinstance(value, dict) and is_reference(value.get("array")):
        check_references(value, arrays)
        return Cells(value["array"])
    raise ValueError(f"its table {name} has neither a uri nor columns nor an array")


def checked_uri(uri: Any) -> str:
    """A URI of a figure: `ipfs://<cid>[/<path>]`, or a path that stays in the folder.

    Raises:
        ValueError: it is another one.
    """
    text = uri if isinstance(uri, str) else ""
    if text.startswith("ipfs://"):
        try:
            parse_uri(text)
        except InvalidURI as error:
            raise ValueError(str(error).rstrip(".")) from None
        if not re.fullmatch(r"ipfs://[A-Za-z0-9]+(/[^?#@]*)?", text):
            raise ValueError(f"{text[:100]!a} has more in it than a CID and a path")
        return text
    parts = text.split("/")
    if not text or any(part in ("", ".", "..") for part in parts) or not re.fullmatch(r"[\w./ -]+", text, re.ASCII):
        raise ValueError(f"{str(uri)[:100]!a} is neither an ipfs:// URI nor a path in the folder of the figure")
    return text


# --- objects that stand for arrays -----------------------------------------------------------------------------------


def is_reference(value: Any) -> bool:
    """Whether a value of JSON stands for an array."""
    return isinstance(value, Mapping) and ARRAY in value


def check_references(value: Any, arrays: Mapping[str, ArrayEntry]) -> None:
    """See that all that stands for arrays makes sense, wherever it is.

    Raises:
        ValueError: something does not, or the value is nested too deeply.
    """
    waiting = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        if depth > limits.MAX_DEPTH:
            raise ValueError(f"it is nested more than {limits.MAX_DEPTH} deep")
        if is_reference(each):
            _check_reference(each, arrays)
        elif isinstance(each, Mapping):
            waiting.extend((inner, depth + 1) for inner in each.values())
        elif isinstance(each, (list, tuple)):
            waiting.extend((inner, depth + 1) for inner in each if isinstance(inner, (Mapping, list, tuple)))


def _check_reference(value: Mapping[str, Any], arrays: Mapping[str, ArrayEntry]) -> None:
    name, rows, column = value[ARRAY], value.get("rows"), value.get("column")
    if not isinstance(name, str) or name not in arrays:
        raise ValueError(f"it has no array {str(name)[:40]!a}")
    if not value.keys() <= {ARRAY, "rows", "column"}:
        raise ValueError(f"what stands for the array {name} has keys that are not known")
    if rows is not None and not (
        isinstance(rows, (list, tuple))
        and len(rows) == 2
        and all(type(each) is int for each in rows)
        and 0 <= rows[0] <= rows[1]
    ):
        raise ValueError(f"the rows of the array {name} are not two numbers, the first and the one behind the last")
    if column is not None and (type(column) is not int or column < 0):
        raise ValueError(f"the column of the array {name} is no number")
