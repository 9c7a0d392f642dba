"""From what a call gives to a figure: kinds, arrays, tables, and what is refused."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from kachery_cloud.errors import FormatError, InvalidArgument, KacheryError, NotSerializable
from kachery_cloud.figures import limits, making
from kachery_cloud.figures.document import ARRAY, Cells, Columns, TableFile, read_document
from kachery_cloud.figures.making import Figure, kind_of, make_figure

CID = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"
LITE = {"mark": "point", "data": {"name": "t"}}


def heatmap(z: Any) -> dict[str, Any]:
    """A figure of Plotly that draws an array."""
    return {"data": [{"type": "heatmap", "z": z}]}


def array_of(figure: Figure) -> np.ndarray[Any, Any]:
    """The one array that a figure has."""
    ((_, found),) = figure.files.items()
    assert isinstance(found, np.ndarray)
    return found


# --- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({"$schema": "https://vega.github.io/schema/vega-lite/v5.20.1.json", "marks": []}, "vega-lite"),
        ({"$schema": "https://vega.github.io/schema/vega/v5.json", "mark": "point"}, "vega"),
        ({"mark": "point"}, "vega-lite"),
        ({"layer": [], "data": []}, "vega-lite"),
        ({"hconcat": []}, "vega-lite"),
        ({"marks": [], "data": []}, "vega"),
        ({"data": [{"y": [1]}]}, "plotly"),
        ({"data": [{"y": [1]}], "layout": {}}, "plotly"),
    ],
)
def test_kinds(spec: dict[str, Any], kind: str) -> None:
    """A specification says what it is, or it is told by what is in it; as a dict and as text alike."""
    assert kind_of(spec) == kind
    assert make_figure(spec).document == make_figure(json.dumps(spec)).document


def test_charts_of_libraries() -> None:
    """Charts of Altair and figures of Plotly are taken as they are; of the latter with their arrays."""

    class Chart:
        def to_dict(self) -> dict[str, Any]:
            return {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", **LITE}

    class PlotlyFigure:
        def to_plotly_json(self) -> dict[str, Any]:
            return heatmap(np.eye(2))

        def to_dict(self) -> dict[str, Any]:
            raise AssertionError("this one has its arrays as text")

    assert make_figure(Chart()).document.kind == "vega-lite"
    assert array_of(make_figure(PlotlyFigure())).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "spec", [None, 7, [], "chart.json", "[]", b"\xff", {}, {"$schema": "https://example.org/schema"}, object()]
)
def test_what_is_no_figure(spec: object) -> None:
    """What is no figure is refused, with what would be one."""
    with pytest.raises(InvalidArgument, match=r"Vega|JSON"):
        make_figure(spec)


def test_a_file_of_json(tmp_path: Path) -> None:
    """A path is read; one that has no JSON, or too much, is named."""
    path = tmp_path / "chart.json"
    path.write_text('{"data": [{"y": [1, NaN, Infinity]}]}', encoding="utf-8")
    assert make_figure(path).document.spec == {"data": [{"y": [1, None, None]}]}
    path.write_text("nonsense", encoding="utf-8")
    with pytest.raises(InvalidArgument, match=r"chart\.json"):
        make_figure(path)
    with pytest.raises(KacheryError, match="other"):
        make_figure(tmp_path / "other.json")


# --- values ----------------------------------------------------------------------------------------------------------


@given(
    nps.arrays(
        st.sampled_from(["f2", "f4", "f8", ">f8", "i1", "<i4", ">i8", "u8", "?", ">u2"]),
        nps.array_shapes(min_dims=1, max_dims=3, max_side=4),
        elements={"allow_subnormal": False},
    ),
    st.booleans(),
)
def test_arrays_are_stored_in_one_form(array: np.ndarray[Any, Any], turned: bool) -> None:
    """Any array of numbers becomes one of the same values in the one form that the viewer reads."""
    given_array = np.asfortranarray(array) if turned else array
    figure = make_figure(heatmap(given_array))
    found = array_of(figure)
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")
    assert found.flags.c_contiguous
    assert found.dtype == found.dtype.newbyteorder("<")
    assert found.dtype.kind != "f" or found.dtype.itemsize >= 4
    ((name, entry),) = figure.document.arrays.items()
    assert (entry.dtype, entry.shape) == (found.dtype.str, found.shape)
    assert figure.document.spec == heatmap({ARRAY: name})
    assert make_figure(heatmap(array.copy())).document == figure.document


@given(st.lists(st.floats() | st.integers(-9, 9) | st.none() | st.text(max_size=3).filter(str.isascii), max_size=5))
def test_lists_keep_their_values(values: list[Any]) -> None:
    """Lists stay lists; what JSON has no number for is null."""
    spec = make_figure({"data": [{"y": values}]}).document.spec
    expected = [None if isinstance(each, float) and not math.isfinite(each) else each for each in values]
    assert spec == {"data": [{"y": expected}]}


class Colour(str, enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 3


class Missing:
    """What pandas calls a value that is not there."""


Missing.__name__ = "NAType"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(7.0), 7.0),
        (np.datetime64("2026-01-02T03:04"), "2026-01-02T03:04"),
        (np.datetime64("NaT"), None),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone.utc), "2026-01-02T03:00:00+00:00"),
        (decimal.Decimal("0.5"), 0.5),
        (Missing(), None),
        (Colour.RED, "red"),
        (Size.SMALL, 3),
        ((1, 2), [1, 2]),
        (np.array(["a", "bc"]), ["a", "bc"]),
        (np.array(["2026-01-02", "NaT"], "M8[D]"), ["2026-01-02", None]),
        (np.array(["x", None, 1.5, math.nan], object), ["x", None, 1.5, None]),
        ({7: {0.5: "x"}}, {"7": {"0.5": "x"}}),
    ],
)
def test_values_that_json_does_not_have(value: object, expected: object) -> None:
    """Numbers of numpy, dates, enums and missing values are written as JSON has them."""
    found = make_figure({"data": [{"y": value}]}).document.spec
    assert found == {"data": [{"y": expected}]}
    assert type(found["data"][0]["y"]) is type(expected)


def test_masked_values_are_gaps() -> None:
    """What is masked is NaN in the array that is stored."""
    found = array_of(make_figure(heatmap(np.ma.masked_equal(np.array([1, 2, 3]), 2))))
    assert found.dtype == np.float64
    assert np.array_equal(found, [1, math.nan, 3], equal_nan=True)


def test_arrays_as_plotly_writes_them() -> None:
    """`bdata` becomes the same array as it was made of."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    written = {"dtype": "f4", "bdata": base64.b64encode(array.tobytes()).decode(), "shape": "2, 3"}
    assert make_figure(heatmap(written)).document == make_figure(heatmap(array)).document
    for wrong in ({"bdata": "?"}, {"shape": "7, 7"}, {"dtype": "O"}, {"dtype": "nonsense"}, {"dtype": "U1"}):
        with pytest.raises(NotSerializable, match=r"\['z'\]"):
            make_figure(heatmap({**written, **wrong}))


@pytest.mark.parametrize(
    "value",
    [
        np.array([1j]),
        np.zeros(2, "m8[s]"),
        np.zeros(2, [("a", "f8")]),
        np.complex64(1),
        np.zeros((1,) * 5),
        {1, 2},
        b"bytes",
        object(),
        np.array([object()], object),
        {(1, 2): 3},
        np.ma.masked_equal(np.array(["a"]), "a"),
    ],
)
def test_values_that_no_figure_can_hold(value: object) -> None:
    """They are refused, and the error says where they are."""
    with pytest.raises(NotSerializable, match=r"\['data'\]\[0\]\['y'\]"):
        make_figure({"data": [{"y": value}]})


def test_a_figure_that_has_itself_in_it() -> None:
    """There is an end to it."""
    spec: dict[str, Any] = {"data": []}
    spec["data"].append(spec)
    with pytest.raises(NotSerializable, match="deep"):
        make_figure(spec)


# --- arrays and tables by their names --------------------------------------------------------------------------------


def test_named_arrays(tmp_path: Path) -> None:
    """An array is given as one of numpy, as an npy file, or as a URI; the specification says what is drawn of it."""
    np.save(tmp_path / "b.npy", np.ones((3, 2), "f4"))
    spec = {"data": [{"x": {ARRAY: "a"}, "y": {ARRAY: "b", "rows": [0, 2], "column": 1}, "z": {ARRAY: "c"}}]}
    uri = f"ipfs://label=old@{CID}"
    figure = make_figure(spec, {"a": np.arange(3), "b": tmp_path / "b.npy", "c": uri})
    assert {name: entry.uri for name, entry in figure.document.arrays.items()} == {
        "a": "arrays/a.npy",
        "b": "arrays/b.npy",
        "c": f"ipfs://{CID}",
    }
    assert figure.document.arrays["b"].shape == (3, 2)
    assert figure.files["arrays/b.npy"] == tmp_path / "b.npy"
    assert read_document(figure.document.encode(), "it") == figure.document


def test_arrays_that_are_not_there() -> None:
    """What stands for an array that nobody gave is refused, and so is a name that could not be one."""
    with pytest.raises(InvalidArgument, match="no array 'z'"):
        make_figure(heatmap({ARRAY: "z"}))
    for name in ("", "../z", "a/b", "a b", "array-1", "ü", "x" * 101, 7):
        with pytest.raises(InvalidArgument, match="name"):
            make_figure(heatmap([]), {name: np.ones(1)})  # type: ignore[dict-item]
    for value in (np.array(["a"]), [["a"]], "z.npy", "https://example.org/z.npy", f"ipfs://{CID}?encryption=age"):
        with pytest.raises(KacheryError):
            make_figure(heatmap([]), {"z": value})


def table(value: Any) -> Any:
    """What a table becomes, and the files and arrays of its figure."""
    figure = make_figure(LITE, data={"t": value})
    assert read_document(figure.document.encode(), "it") == figure.document
    return figure.document.data["t"], figure


class Series:
    def __init__(self, values: Any) -> None:
        self.values = values

    def to_numpy(self) -> Any:
        return np.asarray(self.values)


class Frame:
    """As pandas and polars have it."""

    columns = ("x", "name")

    def __getitem__(self, name: str) -> Series:
        return Series([1.5, math.nan] if name == "x" else ["a", "b"])


class ArrowTable:
    """As pyarrow has it."""

    column_names = ("x", "name")
    column = Frame.__getitem__


def test_tables_of_columns() -> None:
    """DataFrames, tables of pyarrow, dicts and arrays with names become columns: numbers as arrays, text as lists."""
    structured = np.array([(1.5, "a"), (math.nan, "b")], [("x", "f8"), ("name", "U1")])
    whole = [
        table(each) for each in (Frame(), ArrowTable(), structured, {"x": np.array([1.5, math.nan]), "name": "ab"})[:3]
    ]
    for found, figure in whole:
        assert isinstance(found, Columns)
        assert found.columns["name"] == ["a", "b"]
        assert np.array_equal(array_of(figure), [1.5, math.nan], equal_nan=True)
        assert found.columns["x"] == {ARRAY: next(iter(figure.document.arrays))}
    assert len({figure.document.encode() for _, figure in whole}) == 1


def test_tables_of_cells_and_rows() -> None:
    """An array is a table of its cells; a list of dicts is one of its rows."""
    found, figure = table(np.eye(2))
    assert found == Cells({ARRAY: "t"})
    assert figure.files.keys() == {"arrays/t.npy"}
    found, figure = table([{"a": 1, "b": math.nan}, {"a": np.int8(2)}])
    assert found == TableFile("data/t.json", "json")
    assert figure.files == {"data/t.json": b'[{"a":1,"b":null},{"a":2}]'}


def test_tables_of_files(tmp_path: Path) -> None:
    """A file keeps its type, and a URI is told by its end."""
    path = tmp_path / "trials.CSV"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    found, figure = table(path)
    assert (found, figure.files) == (TableFile("data/t.csv", "csv"), {"data/t.csv": path})
    assert table(f"ipfs://{CID}/x.tsv")[0] == TableFile(f"ipfs://{CID}/x.tsv", "tsv")
    assert table(f"ipfs://{CID}/x.npy")[0] == Cells({ARRAY: "t"})
    np.save(tmp_path / "x.npy", np.ones(2))
    assert table(tmp_path / "x.npy")[0] == Cells({ARRAY: "t"})


@pytest.mark.parametrize(
    "value",
    [
        {"x": [1, 2], "y": [1]},
        {"x": np.ones(2), "y": [1]},
        {"x": np.ones((2, 2))},
        {"x": 7},
        {"x": "text"},
        np.ones((2, 2, 2)),
        7,
        None,
        Path("x.parquet"),
        "no uri",
        f"ipfs://{CID}?group={'a' * 52}",
    ],
)
def test_what_is_no_table(value: object) -> None:
    """It is refused."""
    with pytest.raises(KacheryError):
        table(value)


def test_plotly_has_no_tables() -> None:
    """Plotly would not look at them."""
    with pytest.raises(InvalidArgument, match="arrays"):
        make_figure(heatmap([]), data={"t": {"x": [1]}})


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a browser would not be given is refused where it is stored: rows, bytes, arrays."""
    monkeypatch.setattr(limits, "MAX_ROWS", 10)
    monkeypatch.setattr(limits, "MAX_DATA", 1000)
    monkeypatch.setattr(limits, "MAX_ENTRIES", 5)
    for value in (np.ones(11), np.ones((4, 3)), {"x": [1] * 11}, [{"x": 1}] * 11):
        with pytest.raises(InvalidArgument, match="rows"):
            table(value)
    with pytest.raises(FormatError, match="bytes"):
        make_figure(heatmap(np.ones(200)))
    with pytest.raises(InvalidArgument, match="arrays"):
        make_figure(heatmap([np.full(2, number) for number in range(6)]))


# --- what a figure loads, and what it is called ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        {"mark": "point", "data": {"url": "https://example.org/cars.json"}},
        {"mark": "point", "data": {"url": "cars.json"}},
        {"mark": "point", "data": {"url": "/etc/passwd"}},
        {"mark": "point", "data": {"url": "file:///etc/passwd"}},
        {"layer": [{"mark": "geoshape", "data": {"url": "//example.org/x.json"}}]},
        {"marks": [], "data": [{"name": "a", "url": "http://127.0.0.1:8095/api"}]},
        {"mark": {"type": "image", "url": "https://example.org/x.png"}},
        {"mark": {"type": "image", "url": "data:text/html,<script>"}},
        {"data": [], "layout": {"images": [{"source": "https://example.org/x.png"}]}},
    ],
)
def test_nothing_is_loaded_from_elsewhere(spec: dict[str, Any]) -> None:
    """A figure that names something elsewhere is refused when it is stored; the error says what to do instead."""
    with pytest.raises(InvalidArgument, match="nothing from elsewhere"):
        make_figure(spec)


def test_what_may_be_named(tmp_path: Path) -> None:
    """URIs, the figure's own files, and pictures inside it."""
    (tmp_path / "t.csv").write_text("a\n1\n", encoding="utf-8")
    for spec in (
        {"mark": "point", "data": {"url": f"ipfs://{CID}/t.csv"}},
        {"mark": "point", "data": {"url": "data/t.csv"}},
        {"mark": {"type": "image", "url": "data:image/png;base64,AAAA"}},
    ):
        assert make_figure(spec, data={"t": tmp_path / "t.csv"}).document.spec == spec


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        ({"mark": "point", "title": "Rates"}, "Rates"),
        ({"mark": "point", "title": {"text": ["Rates", "of cells"]}}, "Rates of cells"),
        ({"data": [], "layout": {"title": {"text": "<b>Rates</b><br>of <i>cells</i>"}}}, "Rates of cells"),
        ({"data": [], "layout": {"title": "Rates"}}, "Rates"),
        ({"data": [], "layout": {"title": {"text": 7}}}, ""),
        ({"data": []}, ""),
    ],
)
def test_titles(spec: dict[str, Any], title: str) -> None:
    """A figure is called as it says itself, or as the call says."""
    assert make_figure(spec).document.title == title
    assert make_figure(spec, title="Another").document.title == "Another"
    with pytest.raises(InvalidArgument, match="title"):
        make_figure(spec, title="x" * 501)


def test_nothing_heavy_is_imported() -> None:
    """Neither chart library is needed."""
    assert not {"altair", "plotly"} & {name.partition(".")[0] for name in vars(making)}
