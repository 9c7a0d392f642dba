"""From what a call gives to a figure: which kind it is, its document, and the files beside that."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from kachery_cloud.errors import FormatError, InvalidArgument, InvalidURI
from kachery_cloud.figures import limits
from kachery_cloud.figures.document import (
    ARRAY,
    NAME,
    ArrayEntry,
    Cells,
    Columns,
    Document,
    Kind,
    Table,
    TableFile,
    TableType,
    check_references,
    checked_uri,
    is_reference,
)
from kachery_cloud.figures.values import ARRAYS, Arrays, plain, storable
from kachery_cloud.formats.values import json_bytes
from kachery_cloud.uri import format_uri, parse_uri
from kachery_p2p.text import shown

if TYPE_CHECKING:
    import numpy as np

#: The folder of a figure in which its tables are.
DATA = "data"
#: What is stored beside the document: an array of numpy, bytes, or a file of the user.
Content: TypeAlias = "np.ndarray[Any, Any] | bytes | Path"

_TYPES: dict[str, TableType] = {".json": "json", ".csv": "csv", ".tsv": "tsv", ".topojson": "topojson"}
#: Keys of which a specification of Vega-Lite has one, and Plotly and Vega none.
_COMPOSED = ("mark", "layer", "hconcat", "vconcat", "concat", "facet", "repeat", "spec")
#: Where specifications name files, and where Plotly does.
_ADDRESSES = {"vega-lite": ("url",), "vega": ("url",), "plotly": ("source",)}


@dataclass(frozen=True)
class Figure:
    """A figure that is to be stored: its document, and the files beside it by their paths."""

    document: Document
    files: Mapping[str, Content] = field(default_factory=dict)


def make_figure(
    spec: Any,
    arrays: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> Figure:
    """A figure of what `store_figure` was given. Reads files that are named, and asks no network.

    Raises:
        InvalidArgument: what was given is no figure, or not complete; or it loads something from elsewhere.
        NotSerializable: it holds a value that no figure can hold; says where.
        FormatError: it is too large.
        FileMissing, NoPermission: a file that was named cannot be read.
    """
    value = _spec_value(spec)
    kind = kind_of(value)
    made = Arrays()
    files: dict[str, Content] = {}
    for name, array in _named(arrays, "arrays").items():
        _add_array(made, files, name, array)
    value = plain(value, [], made)
    if kind == "plotly" and data:
        raise InvalidArgument(
            "A figure of Plotly has no named tables. Give its columns as arrays of numpy, in the figure."
        )
    tables = {name: _table(made, files, name, table) for name, table in _named(data, "data").items()}
    try:
        check_references(value, made.entries)
    except ValueError as error:
        raise InvalidArgument(f"The figure cannot be stored: {error}.") from None
    files.update(made.files)
    _check_size(made, files)
    _check_addresses(kind, value, files)
    document = Document(kind, value, _title(title, kind, value), made.entries, tables)
    return Figure(document, files)


# --- the specification -----------------------------------------------------------------------------------------------


def _spec_value(spec: Any) -> dict[Any, Any]:
    """A specification as a dict: a dict, text of JSON, the path of such a file, or a chart that can say it."""
    if isinstance(spec, Mapping):
        return dict(spec)
    if isinstance(spec, os.PathLike):
        from kachery_cloud.putting import checked_path
        from kachery_p2p.oserrors import explained

        path = checked_path(spec)
        with explained("reading", path), open(path, "rb") as file:
            content = file.read(limits.MAX_DOCUMENT + 1)
        if len(content) > limits.MAX_DOCUMENT:
            raise FormatError(f"{path} has more than {limits.MAX_DOCUMENT:,} bytes, so it is no specification.")
        return _from_text(content, str(path))
    if isinstance(spec, (str, bytes)):
        return _from_text(spec, "The text")
    # `to_plotly_json` keeps arrays of numpy; `to_dict` of Plotly does not. Altair has the latter alone.
    for method in ("to_plotly_json", "to_dict"):
        if callable(give := getattr(spec, method, None)):
            found = give()
            if isinstance(found, Mapping):
                return dict(found)
    raise InvalidArgument(
        f"A figure is a chart of Altair, a figure of Plotly, or a specification of Vega-Lite, Vega or Plotly as a dict "
        f"or as JSON; not {type(spec).__module__}.{type(spec).__qualname__}. What matplotlib draws is stored as a "
        "picture (savefig, store_file)."
    )


def _from_text(text: str | bytes, name: str) -> dict[Any, Any]:
    try:
        # As Python's json reads it: Plotly and others write NaN.
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = " A file is given as a path: pathlib.Path(...)." if isinstance(text, str) and len(text) < 300 else ""
        raise InvalidArgument(f"{name} is not the JSON of a figure: {error}.{hint}") from None
    if not isinstance(found, dict):
        raise InvalidArgument(f"{name} is not the JSON of a figure: it is no object.")
    return found


def kind_of(spec: Mapping[Any, Any]) -> Kind:
    """Which kind of specification it is: what it says itself, or else by what is in it.

    Raises:
        InvalidArgument: none that is known.
    """
    schema = spec.get("$schema")
    if isinstance(schema, str):
        match = re.search(r"/schema/(vega-lite|vega)/", schema)
        if match is None:
            raise InvalidArgument(f"The figure says that it is {shown(schema)}; known are Vega-Lite, Vega and Plotly.")
        return cast(Kind, match[1])
    if any(key in spec for key in _COMPOSED):
        return "vega-lite"
    if isinstance(spec.get("marks"), (list, tuple)):
        return "vega"
    if isinstance(spec.get("data"), (list, tuple)):
        return "plotly"
    raise InvalidArgument(
        "That is no specification of Vega-Lite (which has a mark, or layers), Vega (marks) or Plotly (a list of data)."
    )


def _title(title: str | None, kind: Kind, spec: Mapping[str, Any]) -> str:
    """What a figure is called: as the call says, or as it says itself."""
    if title is not None and not isinstance(title, str):
        raise InvalidArgument(f"The title is text, not {type(title).__qualname__}.")
    if title is not None and len(title) > limits.MAX_TITLE:
        raise InvalidArgument(f"The title has {len(title)} characters; {limits.MAX_TITLE} are the most there can be.")
    if title is not None:
        return title
    layout = spec.get("layout")
    found = (layout if isinstance(layout, Mapping) else {}).get("title") if kind == "plotly" else spec.get("title")
    if isinstance(found, Mapping):
        found = found.get("text")
    if isinstance(found, (list, tuple)) and all(isinstance(line, str) for line in found):
        found = " ".join(found)
    # Plotly has marks of HTML in its texts; as a title they are of no use.
    return " ".join(re.sub(r"<[^<>]*>", " ", found).split())[: limits.MAX_TITLE] if isinstance(found, str) else ""


def _check_addresses(kind: Kind, spec: Mapping[str, Any], files: Mapping[str, Content]) -> None:
    """See that a specification loads nothing from elsewhere: the viewer would not, and nobody would see why.

    Raises:
        InvalidArgument: it does.
    """
    keys = _ADDRESSES[kind]
    waiting: list[Any] = [spec]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            for key in keys:
                if isinstance(each.get(key), str):
                    _check_address(each[key], files)
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(inner for inner in each if isinstance(inner, (Mapping, list)))


def _check_address(address: str, files: Mapping[str, Content]) -> None:
    if address.startswith("data:image/"):
        return
    try:
        found = checked_uri(address)
    except ValueError:
        found = None
    if found is None or not (found.startswith("ipfs://") or found in files):
        raise InvalidArgument(
            f"The figure loads {shown(address)}, which is not a part of it; a figure loads nothing from elsewhere. "
            "Load it yourself and give it as a table, data={'NAME': ...}, for which the figure says {'data': {'name': "
            "'NAME'}}; or store it, and name its ipfs:// URI."
        )


# --- arrays and tables -----------------------------------------------------------------------------------------------


def _named(given: Mapping[str, Any] | None, what: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"{what} is a dict, from names to what they name; not {type(given).__qualname__}.")
    if len(given) > limits.MAX_ENTRIES:
        raise InvalidArgument(f"{what} names {len(given):,} things; {limits.MAX_ENTRIES:,} are the most there can be.")
    for name in given:
        if not isinstance(name, str) or not NAME.fullmatch(name) or name.startswith("array-"):
            raise InvalidArgument(
                f"{shown(name)} cannot be a name in {what}: letters, digits, '_', '.' and '-' can be in one, of 100 "
                "characters at most, and it does not begin with 'array-'."
            )
    return given


def _add_array(made: Arrays, files: dict[str, Content], name: str, value: Any) -> dict[str, Any]:
    """An array by its name: an array of numpy, an npy file, or the URI of one."""
    import numpy as np

    if isinstance(value, str):
        made.entries[name] = ArrayEntry(_data_uri(value, name))
    elif isinstance(value, os.PathLike):
        path, entry = _npy_file(value)
        uri = f"{ARRAYS}/{name}.npy"
        made.entries[name], files[uri] = ArrayEntry(uri, *entry), path
    else:
        found = storable(value, [name])
        if not isinstance(found, np.ndarray):
            raise InvalidArgument(f"The array {name} holds no numbers. Text and dates are a column of a table: data=.")
        made.add(found, name)
    return {ARRAY: name}


def _npy_file(value: os.PathLike[str]) -> tuple[Path, tuple[str, tuple[int, ...]]]:
    from kachery_cloud.formats.values import not_npy, open_npy_header
    from kachery_cloud.putting import checked_path
    from kachery_p2p.oserrors import explained

    path = checked_path(value)
    with explained("reading", path), open(path, "rb") as file:
        try:
            header = open_npy_header(file)
        except FormatError as error:
            raise not_npy(str(path), error) from None
    if header.dtype.kind not in "biufMSU":
        raise InvalidArgument(f"{path} is an array of {header.dtype}, which no figure can draw.")
    return path, (header.dtype.str, tuple(header.shape))


def _data_uri(text: str, name: str) -> str:
    """The URI of an array or table, as the document has it: a CID and a path, without what is for people."""
    try:
        uri = parse_uri(text)
    except InvalidURI as error:
        raise InvalidArgument(
            f"{name} is given as text, so it is to be an ipfs:// URI. {error} A file is given as a path: "
            "pathlib.Path(...)."
        ) from None
    if uri.encryption or uri.groups:
        raise InvalidArgument(
            f"{name} is encrypted or not for everybody, so no browser can load it by its URI. Load it, and give what "
            "is in it; who may see the figure is said by to=."
        )
    return format_uri(uri.cid, uri.path)


def _table(made: Arrays, files: dict[str, Content], name: str, value: Any) -> Table:
    """A table: a DataFrame, a dict of columns, a list of rows, an array, a file, or the URI of one."""
    if isinstance(value, str):
        uri = _data_uri(value, name)
        if uri.endswith(".npy"):
            return Cells(_add_array(made, files, name, value))
        return TableFile(uri, _TYPES.get(os.path.splitext(uri)[1].lower(), "json"))
    if isinstance(value, os.PathLike):
        ending = os.path.splitext(os.fspath(value))[1].lower()
        if ending == ".npy":
            return Cells(_add_array(made, files, name, value))
        return _table_file(files, name, value, ending)
    dtype = getattr(value, "dtype", None)
    if dtype is not None and getattr(value, "ndim", 0) and not hasattr(value, "columns"):
        fields = getattr(dtype, "names", None)
        if fields is None:
            return _cells(made, name, value)
        return _columns(made, name, {each: value[each] for each in fields})
    if isinstance(value, Mapping):
        return _columns(made, name, value)
    if isinstance(value, (list, tuple)):
        return _rows(files, name, value)
    labels = getattr(value, "columns", None)
    if labels is not None and callable(getattr(value, "__getitem__", None)):  # pandas, polars
        return _columns(made, name, {str(label): _column(value[label]) for label in labels})
    labels = getattr(value, "column_names", None)
    if labels is not None and callable(getattr(value, "column", None)):  # pyarrow
        return _columns(made, name, {str(label): _column(value.column(label)) for label in labels})
    raise InvalidArgument(
        f"The table {name} is a {type(value).__module__}.{type(value).__qualname__}. Give a DataFrame, a dict of "
        "columns, a list of rows, an array, the path of a csv, tsv or json file, or a URI."
    )


def _column(series: Any) -> Any:
    return series.to_numpy() if callable(getattr(series, "to_numpy", None)) else series


def _cells(made: Arrays, name: str, value: Any) -> Table:
    import numpy as np

    found = storable(value, [name])
    if not isinstance(found, np.ndarray):
        return _columns(made, name, {"value": found})
    if found.ndim > 2:
        raise InvalidArgument(f"The table {name} is an array of {found.ndim} dimensions; a table has one or two.")
    _check_rows(name, found.size)
    return Cells(made.add(found, name if name not in made.entries else None))


def _columns(made: Arrays, name: str, value: Mapping[Any, Any]) -> Table:
    columns: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for label, each in value.items():
        column = plain(each, [name, label], made)
        if is_reference(column) and isinstance(column, Mapping):
            shape = made.entries[column[ARRAY]].shape if column[ARRAY] in made.entries else None
            if shape is not None and len(shape) != 1:
                raise InvalidArgument(
                    f"The column {shown(str(label))} of the table {name} has {len(shape)} dimensions."
                )
            if shape is not None and len(column) == 1:
                lengths[str(label)] = shape[0]
        elif isinstance(column, list):
            lengths[str(label)] = len(column)
        else:
            raise InvalidArgument(f"The column {shown(str(label))} of the table {name} is neither a list nor an array.")
        columns[str(label)] = column
    if len(set(lengths.values())) > 1:
        raise InvalidArgument(
            f"The columns of the table {name} have different lengths: "
            f"{', '.join(f'{shown(label)} {length:,}' for label, length in list(lengths.items())[:10])}."
        )
    _check_rows(name, max(lengths.values(), default=0))
    return Columns(columns)


def _rows(files: dict[str, Content], name: str, value: Sequence[Any]) -> Table:
    rows = plain(value, [name])
    _check_rows(name, len(rows))
    path = f"{DATA}/{name}.json"
    files[path] = json_bytes(rows)
    return TableFile(path, "json")


def _table_file(files: dict[str, Content], name: str, value: os.PathLike[str], ending: str) -> Table:
    from kachery_cloud.putting import checked_path
    from kachery_p2p.oserrors import explained

    kind = _TYPES.get(ending)
    if kind is None:
        raise InvalidArgument(f"{os.fspath(value)} is no table by its name: {', '.join(_TYPES)} and .npy are known.")
    path = checked_path(value)
    with explained("reading", path), open(path, "rb"):
        pass
    uri = f"{DATA}/{name}{ending}"
    files[uri] = path
    return TableFile(uri, kind)


def _check_rows(name: str, count: int) -> None:
    if count > limits.MAX_ROWS:
        raise InvalidArgument(
            f"The table {name} has {count:,} rows; {limits.MAX_ROWS:,} are the most that a figure can draw. Give "
            "fewer, such as the bins of a histogram."
        )


def _check_size(made: Arrays, files: Mapping[str, Content]) -> None:
    if len(made.entries) > limits.MAX_ENTRIES:
        raise InvalidArgument(
            f"The figure has {len(made.entries):,} arrays; {limits.MAX_ENTRIES:,} are the most there can be."
        )
    size = sum(
        content.stat().st_size if isinstance(content, Path) else _bytes_of(content) for content in files.values()
    )
    if size > limits.MAX_DATA:
        raise FormatError(
            f"The figure has {size:,} bytes of arrays and tables; {limits.MAX_DATA:,} are the most that a browser is "
            "given. Draw a part of it, or fewer points."
        )


def _bytes_of(content: Any) -> int:
    return len(content) if isinstance(content, bytes) else content.nbytes
