"""`figure.json`: what is written is read as it was, the same figure has the same bytes; strangers cannot say more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import FormatError
from kachery_cloud.figures import limits
from kachery_cloud.figures.document import (
    ARRAY,
    KINDS,
    NAME,
    TABLE_TYPES,
    ArrayEntry,
    Cells,
    Columns,
    Document,
    TableFile,
    read_document,
)

CID = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"

NAMES = st.from_regex(NAME, fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXT.filter(lambda key: key != ARRAY), inner, max_size=4)
    ),
    max_leaves=15,
)
URIS = st.sampled_from([f"ipfs://{CID}", f"ipfs://{CID}/a%20b/c.npy", "arrays/x.npy", "data/a b/t.csv"])
ENTRIES = st.builds(
    ArrayEntry,
    URIS,
    st.none() | st.sampled_from(["<f8", "|b1"]),
    st.none() | st.lists(st.integers(0, 1000), max_size=3).map(tuple),
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Documents of all kinds, whose specifications and tables draw some of their arrays."""
    arrays = draw(st.dictionaries(NAMES, ENTRIES, max_size=4))
    references: st.SearchStrategy[Any] = st.nothing()
    if arrays:
        references = st.fixed_dictionaries(
            {ARRAY: st.sampled_from(sorted(arrays))},
            optional={
                "rows": st.tuples(st.integers(0, 9), st.integers(9, 20)).map(list),
                "column": st.integers(0, 5),
            },
        )
    column = st.lists(PLAIN, max_size=3) | references
    tables = (
        st.builds(TableFile, URIS, st.sampled_from(TABLE_TYPES))
        | st.builds(Columns, st.dictionaries(TEXT, column, max_size=3))
        | (st.builds(Cells, references) if arrays else st.nothing())
    )
    spec = draw(st.dictionaries(TEXT.filter(lambda key: key != ARRAY), PLAIN | references, max_size=4))
    title = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    return Document(draw(st.sampled_from(KINDS)), spec, title, arrays, draw(st.dictionaries(NAMES, tables, max_size=3)))


@given(documents())
def test_what_is_written_is_read(document: Document) -> None:
    """A document is read as it was written, and written again it has the same bytes."""
    data = document.encode()
    found = read_document(data, "it")
    assert found == document
    assert found.encode() == data


@given(documents(), st.randoms())
def test_the_order_of_keys_does_not_count(document: Document, random: Any) -> None:
    """The same figure, put together in another order, has the same bytes."""

    def mixed(value: Any) -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            random.shuffle(items)
            return {key: mixed(each) for key, each in items}
        return [mixed(each) for each in value] if isinstance(value, list) else value

    other = Document(document.kind, mixed(document.spec), document.title, mixed(document.arrays), mixed(document.data))
    assert other.encode() == document.encode()


def plain(**changes: Any) -> dict[str, Any]:
    """A document that is right, and what is changed in it."""
    return {
        "format": "kachery-figure",
        "version": 1,
        "kind": "plotly",
        "spec": {"data": [{"z": {ARRAY: "z"}}]},
        "arrays": {"z": {"uri": "arrays/z.npy"}},
        **changes,
    }


def deep(levels: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = {}
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "figure"}, '"format": "kachery-figure"'),
        ({"version": 2}, "version 2"),
        ({"version": "1"}, "version 1"),
        ({"kind": "matplotlib"}, "kind"),
        ({"kind": ["plotly"]}, "kind"),
        ({"spec": []}, "spec"),
        ({"title": 7}, "title"),
        ({"title": "x" * 501}, "title"),
        ({"arrays": []}, "arrays"),
        ({"arrays": {"../z": {"uri": "arrays/z.npy"}}}, "no name"),
        ({"arrays": {"z": "arrays/z.npy"}}, "array z"),
        ({"arrays": {"z": {"uri": "arrays/z.npy", "shape": [-1]}}}, "shape"),
        ({"arrays": {"z": {"uri": "arrays/z.npy", "shape": [True]}}}, "shape"),
        ({"arrays": {}}, "no array 'z'"),
        ({"spec": {"z": {ARRAY: "z", "rows": [2, 1]}}}, "rows"),
        ({"spec": {"z": {ARRAY: "z", "rows": [0, 1.5]}}}, "rows"),
        ({"spec": {"z": {ARRAY: "z", "column": -1}}}, "column"),
        ({"spec": {"z": {ARRAY: "z", "eval": "1"}}}, "not known"),
        ({"spec": {"z": {ARRAY: ["z"]}}}, "no array"),
        ({"spec": {"z": deep(limits.MAX_DEPTH + 1)}}, "deep"),
        ({"data": {"t": {"uri": "data/t.csv", "type": "html"}}}, "type"),
        ({"data": {"t": {"columns": {"a": 7}}}}, "column"),
        ({"data": {"t": {"array": "z"}}}, "neither"),
        ({"data": {f"t{number}": {"columns": {}} for number in range(limits.MAX_ENTRIES + 1)}}, "more than"),
    ],
)
def test_what_is_no_figure(changes: dict[str, Any], says: str) -> None:
    """Whatever is wrong in it, there is a sentence that says so."""
    with pytest.raises(FormatError, match=says):
        read_document(json.dumps(plain(**changes)).encode(), "it")


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/z.npy",
        "https://example.org/z.npy",
        "//example.org/z.npy",
        "file:///etc/passwd",
        "data:application/octet-stream,x",
        "javascript:alert(1)",
        "/ipfs/" + CID,
        "../z.npy",
        "arrays/../../z.npy",
        "arrays//z.npy",
        "arrays\\z.npy",
        "arrays/z.npy?x",
        "arrays/%2e%2e/z.npy",
        f"ipfs://{CID}?provider=/ip4/192.0.2.1/tcp/1",
        f"ipfs://{CID}#key=AGE-SECRET-KEY-1",
        f"ipfs://label=x@{CID}",
        "ipfs://nonsense",
        "ipns://example.org/z.npy",
        "",
        None,
        7,
    ],
)
def test_addresses_lead_nowhere_else(uri: object) -> None:
    """A figure names its own files, and what is in IPFS; nothing else, in no way of writing it."""
    with pytest.raises(FormatError):
        read_document(json.dumps(plain(arrays={"z": {"uri": uri}})).encode(), "it")
    with pytest.raises(FormatError):
        read_document(json.dumps(plain(data={"t": {"uri": uri, "type": "csv"}})).encode(), "it")


@given(st.binary(max_size=60) | PLAIN.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_no_figure(data: bytes) -> None:
    """Whatever comes, there is one error."""
    with pytest.raises(FormatError):
        read_document(data, "it")


def test_too_large() -> None:
    """A document beyond the bound is neither written nor read."""
    text = "x" * (limits.MAX_DOCUMENT + 1)
    with pytest.raises(FormatError, match="arrays of numpy"):
        Document("plotly", {"data": [], "x": text}).encode()
    with pytest.raises(FormatError, match="at most"):
        read_document(text.encode(), "it")
