"""Reading age files: here and there, or from one end to the other.

What is given out was authenticated: the header by its MAC, each chunk by its tag. The last chunk is looked at first, so
the size is known to be right before anybody is told of it. A range takes the chunks that it touches, and no others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO, Protocol, TypeVar

from kachery_cloud.encryption.header import MAX_HEADER, Header, parse_header
from kachery_cloud.encryption.stream import CHUNK, NONCE, ChunkKey, Layout
from kachery_cloud.errors import EncryptionError, KacheryError

T = TypeVar("T")
Steps = Generator[Any, None, T]
#: What reads a range of the cipher text, in steps (`kachery_cloud.opening.asking`).
ReadRange = Callable[[int, int], Steps[bytes]]

#: Bytes in which a header is looked for first.
_FIRST = 4096
#: Chunks that are decrypted at a time, from one end to the other: some MiB.
_AT_ONCE = 64


class Keys(Protocol):
    """What opens headers: `kachery_cloud.encryption.identities.Keyring`."""

    def file_key(self, header: Header, name: str) -> bytes:
        """The file key of a file with that header, whose MAC was checked."""
        ...


class AgeReader:
    """The plain bytes of an age file. Made by `open_age`. Safe to use from many threads.

    Attributes:
        size: plain bytes.
        chunk: plain bytes that are decrypted together.
    """

    chunk = CHUNK

    def __init__(self, read: ReadRange, layout: Layout, key: ChunkKey) -> None:
        self._read = read
        self._layout = layout
        self._key = key
        self.size = layout.size
        #: The chunk that was decrypted last: reads of some KiB that follow each other lie in one.
        self._last: tuple[int, bytes] = (-1, b"")

    def check_end(self) -> Steps[None]:
        """See that the last chunk is the last one, and so that the size is right.

        Raises:
            EncryptionError: it is not.
        """
        yield from self._chunks(self._layout.chunks - 1, self._layout.chunks)

    def needs(self, start: int, end: int) -> tuple[int, int]:
        """The range of the cipher text that a range of plain bytes takes."""
        return self._layout.place_of(*self._layout.chunks_of(start, min(end, self.size)))

    def read(self, start: int, end: int) -> Steps[bytes]:
        """Plain bytes of a range, as far as the file goes.

        Raises:
            EncryptionError: they are not what was encrypted there.
        """
        end = min(end, self.size)
        if start >= end:
            return b""
        first, stop = self._layout.chunks_of(start, end)
        number, data = self._last
        if not (stop - first == 1 and number == first):
            data = yield from self._chunks(first, stop)
        return data[start - first * CHUNK : end - first * CHUNK]

    def _chunks(self, first: int, stop: int) -> Steps[bytes]:
        data = yield from self._read(*self._layout.place_of(first, stop))
        opened = self._layout.open(self._key, first, data)
        if opened:
            self._last = stop - 1, opened[-1]
        return b"".join(opened) if len(opened) > 1 else opened[0]


def read_header(read: ReadRange, size: int) -> Steps[Header]:
    """The header of an age file of so many bytes.

    Raises:
        EncryptionError: it has none.
    """
    wanted = _FIRST
    while True:
        data = yield from read(0, min(wanted, size))
        header = parse_header(data, is_all=len(data) >= size)
        if header is not None:
            return header
        if wanted >= MAX_HEADER:
            raise EncryptionError(f"The header of the age file is longer than {MAX_HEADER:,} bytes.")
        wanted = min(wanted * 16, MAX_HEADER)


def layout_of(header: Header, size: int) -> Layout:
    """Where the chunks lie in a file of so many bytes; its plain size is not to be believed yet.

    Raises:
        EncryptionError: the file is cut off.
    """
    return Layout(header.size + NONCE, size)


def open_age(read: ReadRange, size: int, keys: Keys, name: str) -> Steps[AgeReader]:
    """Open an age file.

    Args:
        read: reads ranges of it.
        size: of it, in bytes.
        keys: what is tried on its header.
        name: what it is called in errors.

    Raises:
        NoDecryptionKey: none of the keys opens it.
        EncryptionError: it is damaged, cut off, or no age file.
    """
    try:
        header = yield from read_header(read, size)
        layout = layout_of(header, size)
        file_key = keys.file_key(header, name)
        nonce = yield from read(header.size, header.size + NONCE)
        reader = AgeReader(read, layout, ChunkKey(file_key, nonce))
        yield from reader.check_end()
    except EncryptionError as error:
        raise named(error, name) from None
    return reader


def named(error: KacheryError, name: str) -> KacheryError:
    """An error that says of which file it is."""
    return type(error)(f"{name}: {error}")


# --- files that are here ---------------------------------------------------------------------------------------------


def at_once(steps: Steps[T]) -> T:
    """Do steps that wait for nothing, because all is here."""
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("what is here needs no waiting")


def range_reader(file: BinaryIO) -> tuple[ReadRange, int]:
    """What reads ranges of an open file, and the size of that."""
    size = file.seek(0, os.SEEK_END)

    def read(start: int, end: int) -> Steps[bytes]:
        file.seek(start)
        return file.read(end - start)
        yield  # it is a generator as those that wait are

    return read, size


def open_file(file: BinaryIO, keys: Keys, name: str) -> AgeReader:
    """Open an age file that is here; as `open_age`."""
    read, size = range_reader(file)
    return at_once(open_age(read, size, keys, name))


def decrypted(reader: AgeReader, name: str, start: int = 0) -> Iterator[bytes]:
    """The plain bytes of a file that is here, from `start` on, in pieces of some MiB.

    Raises:
        EncryptionError: a chunk is not what was encrypted there.
    """
    piece = _AT_ONCE * CHUNK
    while start < reader.size:
        end = min(start // piece * piece + piece, reader.size)
        try:
            yield at_once(reader.read(start, end))
        except EncryptionError as error:
            raise named(error, name) from None
        start = end


def plain_size(file: BinaryIO) -> int:
    """How many plain bytes an open age file says that it has. No key is needed, and nothing is authenticated.

    Raises:
        EncryptionError: it is no age file, or is cut off.
    """
    read, size = range_reader(file)
    return layout_of(at_once(read_header(read, size)), size).size
