"""Previews in a real browser: of what scientists store, and of files that are made to do harm."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import pytest

from tests.helpers.devtools import Page
from tests.web.lab_examples import hdf5, npy, png, zarr
from tests.web.lab_fake import FakeLab, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab() -> FakeLab:
    """Whose files are looked at."""
    return FakeLab()


@pytest.fixture(scope="module")
def address(lab: FakeLab) -> Iterator[str]:
    """Where that is served."""
    with served(lab) as url:
        yield url


@pytest.fixture
def shown(page: Page, lab: FakeLab, address: str) -> Any:
    """Puts a file there, opens its page, and gives what the preview says."""

    def show(name: str, data: bytes) -> str:
        page.open(f"{address}/files/{lab.put(name, data)}")
        return settled(page)

    return show


def settled(page: Page) -> str:
    """The preview, once nothing in it is being read."""
    page.wait(
        "document.querySelector('.preview') && document.querySelector('.preview').children.length"
        " && ![...document.querySelectorAll('.preview [role=status]')].some(each => /…$/.test(each.textContent))"
    )
    assert page.run("window.ran") is None
    assert page.run("document.querySelectorAll('main script, iframe, object, embed, .preview svg').length") == 0
    return page.text(".preview").replace("\u202f", " ")


def unfold(page: Page, name: str) -> str:
    """Open a branch of the tree by its name; the preview afterwards."""
    found = f"[...document.querySelectorAll('summary')].find(each => each.textContent.trim() === {json.dumps(name)})"
    page.wait(found)
    page.run(f"{found}.click()")
    return settled(page)


# --- what scientists store ------------------------------------------------------------------------------------------


def test_text_is_read_piece_by_piece(page: Page, lab: FakeLab, shown: Any) -> None:
    """The first part of a long text is there; one asks for more; a letter on the edge of a part is whole."""
    text = "ż" * 300_000
    lab.read.clear()
    assert "ż" * 1000 in shown("long.txt", text.encode())
    assert len(page.text(".preview pre")) < 80_000
    page.click(".preview button")
    page.wait("document.querySelector('.preview pre').textContent.length > 100000")
    assert set(page.run("document.querySelector('.preview pre').textContent")) == {"ż"}
    assert all(asked is not None for _, asked in lab.read)


def test_json_is_a_tree(page: Page, shown: Any) -> None:
    """Keys and values are there; branches open where they are opened."""
    text = shown(
        "a.json", json.dumps({"list": [1, {"deep": "value"}], "text": "x", "null": None, "__proto__x": 1}).encode()
    )
    assert "list list of 2 values" in text
    assert 'text: "x"' in text
    unfold(page, "list list of 2 values")
    assert 'deep: "value"' in unfold(page, "1 1 key")


def test_a_picture_is_shown(page: Page, shown: Any) -> None:
    """It is drawn from memory, by an address that only this page knows and that is dropped again."""
    assert "320 × 200 pixels, PNG" in shown("map.png", png(320, 200))
    assert page.run("[document.querySelector('.preview img').naturalWidth, document.querySelector('img').alt]") == [
        320,
        "",
    ]
    assert page.run("document.querySelector('.preview img').src").startswith("blob:")


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (np.arange(1000, dtype="<i4"), ["Shape\n1 000", "<i4", "from 0 to 999, mean 499.5"]),
        (np.linspace(-1, 1, 101).astype(">f8"), [">f8", "from -1 to 1"]),
        (np.array([0.5, np.nan, np.inf, -2], dtype="<f2"), ["from -2 to 0.5", "2 are not finite"]),
        (np.arange(60_000, dtype="<u2").reshape(200, 300), ["200 × 300", "from 0 to 59 999"]),
        (np.asfortranarray(np.arange(12.0).reshape(3, 4)), ["4 × 3", "in the order of Fortran", "from 0 to 11"]),
        (np.arange(24, dtype="i1").reshape(2, 3, 4), ["2 × 3 × 4", "Index of axis 0", "from 0 to 11"]),
        (np.array([True, False]), ["|b1", "from 0 to 1"]),
        (np.array([3 + 4j]), ["<c16", "from 5 to 5"]),
        (np.array(7.25), ["one number", "from 7.25 to 7.25"]),
        (np.array(["left", "żaba"]), ["left\nżaba"]),
        (np.array([b"a", b"bc"]), ["a\nbc"]),
        (np.zeros((0, 4)), ["It has no values."]),
        (np.zeros(2, dtype=[("x", "<f4"), ("y", "<i2")]), ["x: <f4", "y: <i2"]),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_arrays_are_what_numpy_says(shown: Any, array: Any, texts: list[str]) -> None:
    """Type, shape, least, greatest and mean of an array are those that numpy has for it."""
    text = shown("array.npy", npy(array))
    for each in texts:
        assert each in text.replace("59999", "59 999"), text


def test_of_a_large_array_a_part_is_read(page: Page, lab: FakeLab, shown: Any) -> None:
    """Of 24 MB, 4 MB are read at a time; the next part is read when it is asked for."""
    array = np.arange(3_000_000, dtype="<f8")
    lab.read.clear()
    assert "Values 0 to 499 999 of 3 000 000: from 0 to 499999" in shown("large.npy", npy(array)).replace("\u202f", " ")
    ranges = [tuple(int(each) for each in asked.removeprefix("bytes=").split("-")) for _, asked in lab.read if asked]
    assert sum(last + 1 - first for first, last in ranges) < 4_200_000
    page.run("[...document.querySelectorAll('.preview button')].find(each => each.textContent === 'Later').click()")
    page.wait("document.querySelector('.preview').innerText.includes('from 500000 to 999999')")


def test_hdf5_is_read_by_ranges(page: Page, lab: FakeLab, shown: Any) -> None:
    """Groups, attributes, links and values of an HDF5 file; a compressed array is drawn; most of it is never read."""
    data = hdf5(2000)
    lab.read.clear()
    text = shown("session.nwb", data)
    assert "acquisition/" in text
    assert 'nwb_version: "2.7.0"' in unfold(page, "1 attribute")
    unfold(page, "acquisition/")
    unfold(page, "ElectricalSeries/")
    text = unfold(page, "data")
    assert "2 000 000 × 4" in text
    assert "1 000 × 4" in text
    page.click("[aria-label='Plot /acquisition/ElectricalSeries/data']")
    page.wait("document.querySelector('.preview canvas')")
    assert "Rows 0 to 124 999 of 2 000 000: from -4 to 4" in page.text(".preview").replace("\u202f", " ")
    text = unfold(page, "units/")
    assert "broken link to /units/gone" in text
    assert "link to another file to other.h5, /x" in text
    assert '"left"' in unfold(page, "labels")
    assert all(asked is not None for _, asked in lab.read)
    ranges = [tuple(int(each) for each in asked.removeprefix("bytes=").split("-")) for _, asked in lab.read if asked]
    assert sum(last + 1 - first for first, last in ranges) < len(data) / 2


def test_the_tree_of_a_zarr_store(page: Page, lab: FakeLab, address: str) -> None:
    """Groups and arrays with their metadata; other files can be looked at."""
    page.open(f"{address}/files/{lab.put_folder('annotation.zarr', zarr())}")
    text = settled(page)
    assert 'species: "mouse"' in text
    text = unfold(page, "annotation 33 KB")
    assert "Array of zarr" in text
    assert "128 × 128" in text
    assert "4 parts" in text
    assert "Annotation of 2026." in unfold(page, "README.txt 19 bytes")


# --- what is made to do harm ----------------------------------------------------------------------------------------

_SCRIPT = b"<script>window.ran=1</script><img src=x onerror=window.ran=1><svg onload=window.ran=1>"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("page.html", b"<!doctype html><title>x</title>" + _SCRIPT),
        ("page.svg", b'<svg xmlns="http://www.w3.org/2000/svg" onload="window.ran=1">' + _SCRIPT + b"</svg>"),
        ("page.xml", b'<?xml version="1.0"?><?xml-stylesheet href="javascript:window.ran=1"?>' + _SCRIPT),
        ("page.json", json.dumps({"__proto__": {"x": _SCRIPT.decode()}, _SCRIPT.decode(): 1}).encode()),
        ("notes.md", b"[x](javascript:window.ran=1) " + _SCRIPT),
    ],
)
def test_what_could_run_is_text(shown: Any, name: str, data: bytes) -> None:
    """HTML, SVG and whatever else has scripts in it is read as text, and nothing of it runs."""
    assert "window.ran=1" in shown(name, data)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("huge.png", png(2, 2, (60_000, 60_000)), "would have 60 000 × 60 000 pixels"),
        ("wide.png", png(2, 2, (2**31 - 1, 1)), "would have 2 147 483 647 × 1 pixels"),
        ("none.png", png(2, 2, (0, 2)), "would have 0 × 2 pixels"),
        ("short.png", png(2, 2)[:20], "does not say how large it is"),
        (
            "frame.gif",
            b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0" + struct.pack("<HH", 65_000, 65_000) + b"\0",
            "would have 65 000 × 65 000",
        ),
        ("endless.gif", b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\1x\0" * 1000, "does not say how large it is"),
        ("html.gif", b"GIF89a=1;/*" + _SCRIPT, "does not say how large it is"),
        ("big.jpg", b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 60_000, 60_000) + bytes(20), "60 000 × 60 000"),
        ("loop.jpg", b"\xff\xd8\xff\xe0\0\0" * 10, "does not say how large it is"),
        ("broken.jpg", b"\xff\xd8\xff\xc0\0\x11\x08\0\x10\0\x10" + bytes(20), "cannot read this picture"),
        (
            "big.webp",
            b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
            "would have 16 777 216 × 16 777 216",
        ),
        ("long.png", png(2, 2) + bytes(33 * 2**20), "are the most that is shown"),
        ("empty.txt", b"", "The file is empty."),
        ("binary.html", b"<html>\0" + _SCRIPT, "no preview of this kind"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_pictures_that_lie_get_a_sentence(page: Page, shown: Any, name: str, data: bytes, says: str) -> None:
    """Pictures that would fill the memory, and those that are none, are not unpacked; a sentence says why."""
    assert says in shown(name, data)
    assert page.run("document.querySelectorAll('.preview img').length") == 0


def _header(text: str, body: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin-1") + body


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"), "by its header"),
        (_header("{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000, 2000000000, 3), }"), "should have"),
        (_header("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", bytes(15)), "should have"),
        (_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"), "its shape is none"),
        (_header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 65 + "), }"), "its shape is none"),
        (_header("{'descr': '<f8', 'fortran_order': 0, 'shape': (1,), }"), "does not say what is in it"),
        (_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\4"), "could run anything"),
        (_header("{'descr': '<q9', 'fortran_order': False, 'shape': (1,), }"), "a type that is not known here"),
        (_header("__import__('os').system('x')"), "cannot be read"),
        (_header("{" * 5000), "cannot be read"),
        (_header("(" * 9000), "cannot be read"),
        (b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{}" * 40, "its header would have 4.3 GB"),
        (b"\x93NUMPY\x09\0" + bytes(40), "a version that is not known"),
        (b"\x93NUMPY\1", "its header is cut off"),
    ],
)  # fmt: skip
def test_arrays_that_lie_get_a_sentence(shown: Any, data: bytes, says: str) -> None:
    """What the header of an array claims is compared with the file before anything is counted or read by it."""
    assert says in shown("x.npy", data)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_json_that_is_deep(page: Page, shown: Any, depth: int) -> None:
    """Depth costs nothing before it is opened."""
    text = shown("deep.json", b'[{"x":' * depth + b"1" + b"}]" * depth)
    assert "0 1 key" in text or text.startswith('[{"x":')


def test_json_that_is_long(page: Page, lab: FakeLab, shown: Any) -> None:
    """JSON of 200 MB is not made into a tree, and hardly any of it is read; a long list shows its first values."""
    lab.read.clear()
    assert "This JSON has 200 MB, too much for a tree" in shown("long.json", b"[" + b"1," * 100_000_000 + b"1]")
    assert len(lab.read) <= 3
    assert "Show more (99 800 others)" in shown("list.json", json.dumps(list(range(100_000))).encode())


def _bomb(**dataset: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.create_dataset("x", **dataset)
    return out.getvalue()


def test_hdf5_that_would_unpack_to_much(page: Page, shown: Any) -> None:
    """Chunks that unpack to more than a preview may take are told of, and not unpacked."""
    data = _bomb(shape=(100_000_000,), dtype="f8", chunks=(25_000_000,), compression="gzip", fillvalue=0)
    with h5py.File(io.BytesIO(data), "r") as file:
        assert file["x"].chunks == (25_000_000,)  # type: ignore[union-attr]
    shown("bomb.h5", data)
    text = unfold(page, "x")
    assert "200000000 bytes each, too much to unpack here" in text
    assert page.run("document.querySelectorAll('[aria-label=\"Plot /x\"]').length") == 0


def test_hdf5_that_claims_to_be_endless(page: Page, shown: Any) -> None:
    """An array of a million million values of which none was written is drawn as what it is: its first part, zeros."""
    shown("endless.h5", _bomb(shape=(10**12,), dtype="f8", chunks=(1000,)))
    unfold(page, "x")
    page.click("[aria-label='Plot /x']")
    page.wait("document.querySelector('.preview').innerText.includes('from 0 to 0')")


def test_hdf5_that_goes_in_circles(page: Page, shown: Any) -> None:
    """A group within itself opens as deep as a path may be, and then says so."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        group = file.create_group("a")
        group["a"] = group
        file["loop"] = h5py.SoftLink("/loop")
    text = shown("circle.h5", out.getvalue())
    assert "loop" in text
    for _ in range(64):
        page.run(
            "[...document.querySelectorAll('.preview summary')]"
            ".filter(each => each.textContent === 'a/').at(-1).click()"
        )
        page.wait("!document.querySelector('.preview .muted[role=status]')")
        if "and no deeper" in page.text(".preview"):
            break
    assert "Groups are opened 64 deep, and no deeper." in page.text(".preview")


def test_hdf5_that_is_damaged(page: Page, shown: Any) -> None:
    """However the bytes of a file are changed, the page goes on, and says what it can."""
    whole = hdf5(4)
    assert "damaged, or cut off" in shown("cut.h5", whole[: len(whole) // 8])
    chance = random.Random(5)
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(200):
            data[chance.randrange(8, 8000)] = chance.randrange(256)
        shown("damaged.h5", bytes(data))
        page.run("document.querySelectorAll('.preview details').forEach(each => { each.open = true })")
        settled(page)
        assert page.run("1 + 1") == 2


def test_a_file_that_ends_early(page: Page, lab: FakeLab, address: str) -> None:
    """Where the node gives fewer bytes than it said there are, a sentence says so."""
    id = lab.put("short.txt", b"x" * 10)
    lab.claimed[id] = 1000
    page.open(f"{address}/files/{id}")
    assert "The file ends early: 10 of 1000 bytes came." in settled(page)
