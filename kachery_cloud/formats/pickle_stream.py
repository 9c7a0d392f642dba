"""The bytes of a pickle of protocol 4: opcodes, frames and the memo. Which values are written is said in `pickling`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import pack
from typing import Any

#: CPython's numbers (Lib/pickle.py), which decide the bytes. In bytes, but for the last, which counts items.
FRAME_TARGET = 64 * 1024
_FRAME_MIN = 4
BATCH = 1000


class Global:
    """A class or function named in the pickle."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class PickleStream:
    """Pickle opcodes into a sink: frames, the memo, and the values that hold no others.

    Args:
        sink: takes the bytes, in order.

    Attributes:
        frame: what has not gone to the sink.
        size: bytes that have gone there.
        memo_size: how many values have a number in the memo.
        values: the memo of what is shared by value: (kind, value) to its number.
    """

    def __init__(self, sink: Callable[[Any], Any]) -> None:
        self.sink = sink
        self.frame = bytearray()
        self.size = 0
        self.memo_size = 0
        self.values: dict[Any, int] = {}

    # --- frames and memo -----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Give the frame to the sink."""
        if len(self.frame) >= _FRAME_MIN:
            self.sink(b"\x95" + pack("<Q", len(self.frame)))
        if self.frame:
            self.sink(self.frame)
            self.size += len(self.frame)
            self.frame = bytearray()

    def boundary(self) -> None:
        """Before a value: close a frame that is large enough."""
        if len(self.frame) >= FRAME_TARGET:
            self.flush()

    def large(self, header: bytes, payload: Iterable[Any]) -> None:
        """Give what is too large for a frame to the sink by itself."""
        self.flush()
        self.sink(header)
        for piece in payload:
            self.sink(piece)
            self.size += memoryview(piece).nbytes

    def memoize(self) -> int:
        """Number the value that was just written in the memo."""
        self.frame += b"\x94"
        self.memo_size += 1
        return self.memo_size - 1

    def get(self, index: int) -> None:
        """Refer to a value in the memo."""
        self.frame += b"h" + bytes((index,)) if index < 256 else b"j" + pack("<I", index)

    # --- values that hold no others ------------------------------------------------------------------------------

    def save_none(self, _: None) -> None:
        self.frame += b"N"

    def save_bool(self, value: bool) -> None:
        self.frame += b"\x88" if value else b"\x89"

    def save_int(self, value: int) -> None:
        if 0 <= value < 0x100:
            self.frame += b"K" + bytes((value,))
        elif 0 <= value < 0x10000:
            self.frame += b"M" + pack("<H", value)
        elif -0x80000000 <= value < 0x80000000:
            self.frame += b"J" + pack("<i", value)
        else:
            size = (value.bit_length() >> 3) + 1
            data = value.to_bytes(size, "little", signed=True)
            if value < 0 and data[-1] == 0xFF and data[-2] & 0x80:
                data = data[:-1]
            self.frame += b"\x8a" + bytes((len(data),)) if len(data) < 256 else b"\x8b" + pack("<i", len(data))
            self.frame += data

    def save_float(self, value: float) -> None:
        self.frame += b"G" + pack(">d", value)

    def save_str(self, value: str) -> None:
        known = self.values.get(("str", value))
        if known is not None:
            return self.get(known)
        data = value.encode("utf-8", "surrogatepass")
        size = len(data)
        if size < 0x100:
            self.frame += b"\x8c" + bytes((size,)) + data
        elif size < FRAME_TARGET:
            self.frame += b"X" + pack("<I", size) + data
        else:
            self.large(b"X" + pack("<I", size) if size <= 0xFFFFFFFF else b"\x8d" + pack("<Q", size), (data,))
        self.values["str", value] = self.memoize()

    def save_bytes(self, value: bytes) -> None:
        known = self.values.get(("bytes", value))
        if known is not None:
            return self.get(known)
        self.write_bytes(len(value), (value,))
        self.values["bytes", value] = self.memoize()

    def write_bytes(self, size: int, pieces: Iterable[Any]) -> None:
        """`size` bytes in pieces, without a place in the memo."""
        if size >= FRAME_TARGET:
            self.large(b"B" + pack("<I", size) if size <= 0xFFFFFFFF else b"\x8e" + pack("<Q", size), pieces)
            return
        self.frame += b"C" + bytes((size,)) if size < 0x100 else b"B" + pack("<I", size)
        for piece in pieces:
            self.frame += piece

    def save_global(self, target: Global) -> None:
        """A class or function, by its name."""
        known = self.values.get((target.module, target.name))
        if known is not None:
            return self.get(known)
        for text in (target.module, target.name):
            self.boundary()
            self.save_str(text)
        self.frame += b"\x93"
        self.values[target.module, target.name] = self.memoize()
