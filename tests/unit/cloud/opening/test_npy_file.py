"""Slices of an array that is not loaded are those of numpy, whatever its order, its type and the slice."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kachery_cloud as kcl
from kachery_cloud.local import close_repositories
from kachery_cloud.node import connection
from kachery_cloud.opening import npy
from kachery_cloud.opening.npy import NpyFile
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.repo.repo import Repo
from tests.helpers.opened_files import StandInNode


class InMemory(io.BytesIO):
    """What `NpyFile` needs of a file. Notes the ranges that are read."""

    uri = "ipfs://x"

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.ranges: list[list[tuple[int, int]]] = []

    def cat_ranges(self, ranges: Any) -> list[bytes]:
        self.ranges.append(list(ranges))
        return [self.getvalue()[start:end] for start, end in ranges]


def saved(array: np.ndarray[Any, Any]) -> InMemory:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return InMemory(file.getvalue())


def opened(array: np.ndarray[Any, Any]) -> tuple[NpyFile, InMemory]:
    file = saved(array)
    return NpyFile(file), file  # type: ignore[arg-type]


SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple)
ENDS = st.one_of(st.none(), st.integers(-9, 9))
SLICES = st.builds(slice, ENDS, ENDS, st.one_of(st.none(), st.integers(-4, 4).filter(bool)))


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """An index that numpy takes for an array of that shape."""
    parts: list[Any] = []
    for length in shape[: draw(st.integers(0, len(shape)))]:
        whole = [st.integers(-length, length - 1)] if length else []
        parts.append(draw(st.one_of(SLICES, *whole)))
    for _ in range(draw(st.integers(0, 2))):
        parts.insert(draw(st.integers(0, len(parts))), None)
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), Ellipsis)
        # What stands behind it counts from the last axis, so it may not fit; numpy says the same.
    return tuple(parts) if len(parts) != 1 or draw(st.booleans()) else parts[0]


@settings(max_examples=300)
@given(data=st.data(), shape=SHAPES, order=st.sampled_from("CF"), gap=st.sampled_from([0, 8, 64, 1 << 16]))
def test_any_slice_is_that_of_numpy(
    data: st.DataObject, shape: tuple[int, ...], order: Any, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers, slices forwards and backwards, `...` and None; read in large and in small parts."""
    monkeypatch.setattr(npy, "ARRAY_GAP", gap)
    monkeypatch.setattr(npy, "ARRAY_PIECE", data.draw(st.sampled_from([16, 200, 1 << 20])))
    array = np.asarray(np.arange(np.prod(shape, dtype=int), dtype="<i4").reshape(shape), order=order)
    index = data.draw(indices(shape))
    file, _ = opened(array)
    try:
        wanted = array[index]
    except IndexError:
        with pytest.raises(IndexError):
            file[index]
        return
    found = file[index]
    assert type(found) is type(wanted)
    assert np.array_equal(found, wanted)
    assert (file.shape, file.dtype, file.ndim, file.size, file.nbytes) == (
        array.shape,
        array.dtype,
        array.ndim,
        array.size,
        array.nbytes,
    )


def test_only_what_is_asked_for_is_read() -> None:
    """Rows that lie side by side are one read; columns far apart are one for each row, many at a time."""
    array = np.arange(40 * 50_000, dtype="<i8").reshape(40, 50_000)
    file, memory = opened(array)
    start = len(memory.getvalue()) - array.nbytes
    assert np.array_equal(file[3:5], array[3:5])
    assert memory.ranges == [[(start + 3 * 400_000, start + 5 * 400_000)]]
    memory.ranges.clear()
    assert np.array_equal(file[:, 7:9], array[:, 7:9])
    assert memory.ranges == [[(start + row * 400_000 + 56, start + row * 400_000 + 72) for row in range(40)]]
    memory.ranges.clear()
    assert np.array_equal(file[5, ::2], array[5, ::2])
    assert len(memory.ranges) == len(memory.ranges[0]) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A selection whose items lie close together, of an array of any size, is read in pieces."""
    monkeypatch.setattr(npy, "ARRAY_PIECE", 4096)
    array = np.arange(100_000, dtype="<i4").reshape(5_000, 20)
    file, memory = opened(array)
    assert np.array_equal(file[:, 3], array[:, 3])
    assert max(sum(end - start for start, end in ranges) for ranges in memory.ranges) <= 4096


def test_structured_text_and_empty_types() -> None:
    """Every type that an npy file has; text with characters that do not exist is refused, as by load_npy."""
    table = np.zeros(9, dtype=[("t", "<f8"), ("name", "<U4"), ("v", "<i2", (3,))])
    table["name"] = ["a", "bb", "µV", "", "e", "f", "g", "h", "i"]
    file, _ = opened(table)
    assert np.array_equal(file[2:8:3], table[2:8:3])
    assert file[2]["name"] == "µV"
    assert np.array_equal(opened(np.zeros((3, 0), "<f4"))[0][1:], np.zeros((2, 0), "<f4"))
    text = saved(np.array(["ab", "cd"]))
    broken = InMemory(text.getvalue()[:-4] + b"\xff\xff\xff\x7f")
    with pytest.raises(kcl.FormatError, match="characters that do not exist"):
        NpyFile(broken)[1]  # type: ignore[arg-type]


def test_mistakes_are_said() -> None:
    """An index that is no basic one, and a file that is none."""
    file, _ = opened(np.arange(12).reshape(3, 4))
    for index, error, says in (
        (True, kcl.InvalidArgument, "whole number, a slice"),
        ([0, 1], kcl.InvalidArgument, "choose from that"),
        (np.array([True, False, True]), kcl.InvalidArgument, "whole number, a slice"),
        (1.5, kcl.InvalidArgument, "1.5"),
        (3, IndexError, "3 is outside of an axis of 3"),
        ((0, 0, 0), IndexError, "3 axes, and the array has 2"),
        ((..., 0, ...), IndexError, "one '...' at most"),
    ):
        with pytest.raises(error, match=says):
            file[index]  # type: ignore[index]
    with pytest.raises(kcl.FormatError, match="not an npy file"):
        NpyFile(InMemory(b"no array at all"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no length"):
        len(opened(np.array(1.0))[0])


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInNode]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "here"))
    with Repo.open(tmp_path / "there") as peer:
        stand_in = StandInNode(peer)
        monkeypatch.setattr(connection, "get_connection", lambda config: stand_in)
        yield stand_in
        close_repositories()


def test_an_array_elsewhere(node: StandInNode) -> None:
    """A slice fetches its blocks; the array behaves as one, goes to other processes, and closes."""
    array = np.arange(200_000, dtype="<i4").reshape(1000, 200)
    uri = f"ipfs://{node.peer.store_bytes(saved(array).getvalue(), profile=Profile('small', chunk_size=1024)).cid}"
    with kcl.open_npy(uri) as there:
        assert np.array_equal(there[500:502], array[500:502])
        assert node.moved < 50_000  # its root alone has 40 KB
        assert len(there) == 1000
        assert np.array_equal(next(iter(there)), array[0])
        assert np.array_equal(pickle.loads(pickle.dumps(there))[-1], array[-1])
        assert np.array_equal(np.asarray(there), array)
        assert np.asarray(there, dtype="f8").dtype == np.float64
    with pytest.raises(ValueError, match="closed"):
        there[0]


def test_an_array_that_is_mapped(tmp_path: Path) -> None:
    """`mmap_mode` maps the file that is here: one that cannot be changed, or whose changes stay in memory."""
    for array in (np.arange(3000).reshape(30, 100), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3))):
        uri = kcl.store_npy(array, local=True)
        mapped = kcl.load_npy(uri, mmap_mode="r")
        assert np.array_equal(mapped, array)
        if array.size:
            assert isinstance(mapped, np.memmap)
            with pytest.raises(ValueError, match="read-only"):
                mapped[0, 0] = 1
            changed = kcl.load_npy(uri, mmap_mode="c")
            changed[0, 0] = 99
            assert kcl.load_npy(uri)[0, 0] == array[0, 0]
    with pytest.raises(kcl.FormatError, match="not an npy file"):
        kcl.load_npy(kcl.store_text("no array", local=True), mmap_mode="r")
    close_repositories()
