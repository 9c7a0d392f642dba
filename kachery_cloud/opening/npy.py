"""`open_npy`: an array whose parts are read as they are asked for.

A slice of an array is a nest of strides. What lies close together is read together and picked from memory; what lies
far apart is read by itself, many parts at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kachery_cloud.arguments import whole_number
from kachery_cloud.errors import FormatError, InvalidArgument
from kachery_cloud.formats.values import check_characters, not_npy, open_npy_header
from kachery_cloud.opening.file import KacheryFile
from kachery_cloud.opening.limits import ARRAY_GAP, ARRAY_PARTS, ARRAY_PIECE, READ_AHEAD
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from typing_extensions import Self


class _Axis(NamedTuple):
    """What is taken of one axis: so many items, and the bytes from one to the next."""

    items: int
    stride: int


class _Part(NamedTuple):
    """A part of a selection: its first byte in the file, its axes, and where it goes in the result."""

    start: int
    axes: tuple[_Axis, ...]
    place: tuple[slice, ...]


class NpyFile:
    """An array in an npy file that is not loaded. Made by `open_npy`.

    `array[10:20, ::2]` fetches what it needs and gives an array of numpy. Indices are whole numbers, slices, `...` and
    None, as numpy has them; `numpy.asarray(array)` is all of it. It can be pickled, and used from several threads.

    Attributes:
        shape: its lengths.
        dtype: the type of its items.
        ndim: how many axes it has.
        size: how many items.
        nbytes: how many bytes they take.
        fortran_order: whether the first axis is the one whose items lie side by side.
    """

    def __init__(self, file: KacheryFile) -> None:
        try:
            header = open_npy_header(file)
        except OSError:
            raise
        except Exception as error:
            raise not_npy(file.uri, error) from error
        self._file = file
        self._start = file.tell()
        self.shape = header.shape
        self.dtype = header.dtype
        self.fortran_order = header.fortran_order
        self.ndim = len(self.shape)
        self.size = math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    def __getitem__(self, index: Any) -> Any:
        """The items of an index, as an array of numpy, or one item.

        Raises:
            IndexError: it is outside of the array.
            InvalidArgument: it is no index of whole numbers and slices.
            ContentNotFound: nobody has them now; and what `load_file` raises.
        """
        import numpy as np

        slices, last = _normal(index, self.shape)
        strides = self._strides()
        counts = [len(range(*each)) for each in slices]
        start = self._start + sum(
            (each[0] if each[2] > 0 else each[0] + (count - 1) * each[2]) * stride
            for each, count, stride in zip(slices, counts, strides, strict=True)
            if count
        )
        axes = tuple(
            _Axis(count, abs(each[2]) * stride) for each, count, stride in zip(slices, counts, strides, strict=True)
        )
        order: Any = "F" if self.fortran_order else "C"
        result = np.empty([each.items for each in axes], self.dtype, order=order)
        if result.nbytes:
            self._fill(result, _Part(start, axes, tuple(slice(0, each.items) for each in axes)))
            try:
                flat = (result.T if self.fortran_order else result).reshape(-1)
                check_characters(flat.view("u1"), self.dtype)
            except FormatError as error:
                raise not_npy(self._file.uri, error) from error
        # Backwards, what was asked for so; then without the axes of which one item was asked for.
        return result[tuple(slice(None, None, -1 if each[2] < 0 else 1) for each in slices)][last]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("An array in a file cannot be had without a copy.")
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("An array without axes has no length.")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<NpyFile {self._file.uri!r}: {self.shape} of {self.dtype}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. What was fetched stays in the data directory."""
        self._file.close()

    def __reduce__(self) -> tuple[Callable[[KacheryFile], NpyFile], tuple[KacheryFile]]:
        return NpyFile, (self._file,)

    # --- inside

    def _strides(self) -> list[int]:
        strides: list[int] = []
        step = self.dtype.itemsize
        for length in self.shape if self.fortran_order else reversed(self.shape):
            strides.append(step)
            step *= length
        return strides if self.fortran_order else strides[::-1]

    def _fill(self, result: np.ndarray[Any, Any], selection: _Part) -> None:
        """Read the parts of a selection into the result, many at a time."""
        together: list[_Part] = []
        size = 0
        for part in self._parts(selection):
            length = self._length(part.axes)
            if together and (size + length > ARRAY_PIECE or len(together) >= ARRAY_PARTS):
                self._read(result, together)
                together, size = [], 0
            together.append(part)
            size += length
        self._read(result, together)

    def _read(self, result: np.ndarray[Any, Any], parts: Sequence[_Part]) -> None:
        import numpy as np

        ranges = [(part.start, part.start + self._length(part.axes)) for part in parts]
        for part, data in zip(parts, self._file.cat_ranges(ranges), strict=True):
            counts, strides = [each.items for each in part.axes], [each.stride for each in part.axes]
            result[part.place] = np.ndarray(counts, self.dtype, data, strides=strides)

    def _length(self, axes: Sequence[_Axis]) -> int:
        """From the first byte of a part to its last."""
        return sum((each.items - 1) * each.stride for each in axes) + self.dtype.itemsize

    def _parts(self, whole: _Part) -> Iterator[_Part]:
        """Cut a selection into parts without large gaps, and not larger than what may be held in memory."""
        waiting = [whole]
        while waiting:
            part = waiting.pop()
            # The axis along which its items lie farthest apart.
            axis = max(
                (i for i, each in enumerate(part.axes) if each.items > 1),
                key=lambda i: part.axes[i].stride,
                default=None,
            )
            if axis is None:
                yield part
                continue
            count, stride = part.axes[axis]
            inner = self._length([_Axis(1, 0) if i == axis else each for i, each in enumerate(part.axes)])
            apart = stride - inner > ARRAY_GAP
            if not apart and self._length(part.axes) <= ARRAY_PIECE and not self._has_gaps(part.axes):
                yield part
                continue
            half = _largest_below(count) if apart or self._length(part.axes) > ARRAY_PIECE else 1
            # The later part waits: parts come in the order of the file.
            waiting += [_cut(part, axis, half, count), _cut(part, axis, 0, half)]

    def _has_gaps(self, axes: Sequence[_Axis]) -> bool:
        """Whether items lie far apart along some axis."""
        inner = self.dtype.itemsize
        for each in sorted((each for each in axes if each.items > 1), key=lambda each: each.stride):
            if each.stride - inner > ARRAY_GAP:
                return True
            inner += (each.items - 1) * each.stride
        return False


def _largest_below(count: int) -> int:
    """The largest power of two below a count: cut so, parts of equal size come out."""
    return 1 << (count - 1).bit_length() - 1


def _cut(part: _Part, axis: int, first: int, last: int) -> _Part:
    count, stride = last - first, part.axes[axis].stride
    place = part.place[axis]
    return _Part(
        part.start + first * stride,
        (*part.axes[:axis], _Axis(count, stride), *part.axes[axis + 1 :]),
        (*part.place[:axis], slice(place.start + first, place.start + last), *part.place[axis + 1 :]),
    )


def _normal(index: Any, shape: tuple[int, ...]) -> tuple[list[tuple[int, int, int]], tuple[Any, ...]]:
    """An index as a (start, stop, step) for each axis, and what is then to be done with the result."""
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    axes = sum(1 for each in items if each is not None and each is not Ellipsis)
    dots = [i for i, each in enumerate(items) if each is Ellipsis]
    if len(dots) > 1:
        raise IndexError("An index has one '...' at most.")
    if axes > len(shape):
        raise IndexError(f"That is an index of {axes} axes, and the array has {len(shape)}.")
    at = dots[0] if dots else len(items)
    items[at : at + 1] = [slice(None)] * (len(shape) - axes)
    slices: list[tuple[int, int, int]] = []
    last: list[Any] = []
    for each in items:
        if each is None:
            last.append(None)
            continue
        length = shape[len(slices)]
        if isinstance(each, slice):
            slices.append(each.indices(length))
            last.append(slice(None))
            continue
        number = whole_number(each)
        if number is None:
            raise InvalidArgument(
                f"{shown(each)} is no index of an array that is not loaded: it must be a whole number, a slice, '...' "
                "or None. Take a slice, and choose from that."
            )
        if not -length <= number < length:
            raise IndexError(f"{number} is outside of an axis of {length}.")
        number %= length
        slices.append((number, number + 1, 1))
        last.append(0)
    if dots:
        last.append(Ellipsis)  # then the result is an array, also one without axes
    return slices, tuple(last)


def open_npy(
    uri: str | os.PathLike[str],
    *,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
    read_ahead: int = READ_AHEAD,
) -> NpyFile:
    """Open an array of numpy without loading it. Slices of it fetch the blocks that they touch. Never unpickles.

    Args:
        uri: as for `load_file`, of an npy file, such as `store_npy` makes.
        local_only: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`, for each slice.
        read_ahead: as for `open`.

    Raises:
        FormatError: it is no npy file; and what `load_file` raises.

    Example:
        >>> with kcl.open_npy(uri) as array:
        ...     array.shape, array[100:103].tolist()
        ((200000,), [0.0, 0.0, 0.0])
    """
    file = KacheryFile(uri, local_only=local_only, providers=providers, timeout=timeout, read_ahead=read_ahead)
    try:
        return NpyFile(file)
    except BaseException:
        file.close()
        raise
