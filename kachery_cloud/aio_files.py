"""Files and arrays that are opened without being loaded, for programs with an event loop: what `aio.open` gives."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kachery_cloud.awaiting import in_thread
from kachery_cloud.opening.file import KacheryFile
from kachery_cloud.opening.npy import NpyFile

if TYPE_CHECKING:
    from typing_extensions import Self

    from kachery_cloud.opening.extents import Range

Read = TypeVar("Read", bytes, str)


class _Closing(ABC):
    """What is closed at the end of an `async with`."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it. What was fetched stays in the data directory. Closing twice does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncFile(_Closing, Generic[Read]):
    """A file that was stored with kachery-cloud, open for reading. Made by `open`.

    What is missing is fetched when it is read. Lines come in an `async for`. `read_at` and `cat_ranges` have no
    position, so several tasks may await them at once.

    Attributes:
        file: the file that blocks: a `KacheryFile`, or what gives its text.
        uri: what was opened.
        name: the last name of the path, the label, or the CID.
        size: in bytes.

    Example:
        >>> async with await kcl.aio.open(uri) as file:
        ...     header = await file.read(8)
    """

    def __init__(self, file: KacheryFile | io.TextIOWrapper) -> None:
        self.file: Any = file
        self._bytes: KacheryFile = file if isinstance(file, KacheryFile) else file.buffer  # type: ignore[assignment]
        self.uri = self._bytes.uri
        self.name = self._bytes.name
        self.size = self._bytes.size

    async def read(self, size: int | None = -1) -> Read:
        """Up to `size` bytes, or characters, from the position on; all that are left where it is negative or None."""
        return await in_thread(self.file.read, size)

    async def readline(self, size: int = -1) -> Read:
        """The rest of a line, with its end."""
        return await in_thread(self.file.readline, size)

    async def readlines(self) -> list[Read]:
        """All lines that are left."""
        return await in_thread(self.file.readlines)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, counted from the beginning (0), the position (1) or the end (2), and return it."""
        return await in_thread(self.file.seek, offset, whence)

    async def tell(self) -> int:
        """The position."""
        return await in_thread(self.file.tell)

    async def read_at(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start` on. The position plays no part."""
        return await in_thread(self._bytes.read_at, start, size)

    async def cat_ranges(self, ranges: Iterable[Range]) -> list[bytes]:
        """The bytes of many ranges (start, end), fetched side by side. As in slices, ends may lie past the file."""
        return await in_thread(self._bytes.cat_ranges, ranges)

    async def close(self) -> None:
        """Let go of it. What was fetched stays in the data directory. Closing twice does nothing."""
        await in_thread(self.file.close)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Read:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def __repr__(self) -> str:
        return f"<AsyncFile {self.uri!r}{' (closed)' if self.file.closed else ''}>"


class AsyncNpyFile(_Closing):
    """A numpy array in a file, of which parts are read. Made by `open_npy`.

    Attributes:
        array: the array that blocks, a `NpyFile`.
        shape: as of an array of numpy; so are `dtype`, `ndim`, `size` and `nbytes`.

    Example:
        >>> async with await kcl.aio.open_npy(uri) as array:
        ...     part = await array[500:510, ::2]
    """

    def __init__(self, array: NpyFile) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.ndim = array.ndim
        self.size = array.size
        self.nbytes = array.nbytes

    def __getitem__(self, index: Any) -> Coroutine[Any, Any, Any]:
        return in_thread(self.array.__getitem__, index)

    def __len__(self) -> int:
        return len(self.array)

    async def close(self) -> None:
        """Let go of the file. What was fetched stays in the data directory."""
        await in_thread(self.array.close)

    def __repr__(self) -> str:
        return repr(self.array).replace("<NpyFile", "<AsyncNpyFile")
