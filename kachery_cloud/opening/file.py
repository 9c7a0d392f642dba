"""`open`: a file that can be read here and there without being loaded."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from kachery_cloud.arguments import whole_number
from kachery_cloud.errors import InvalidArgument, InvalidRange
from kachery_cloud.files_here import request_for
from kachery_cloud.opening.asking import run
from kachery_cloud.opening.decrypting import AnyContent, open_content
from kachery_cloud.opening.extents import Range
from kachery_cloud.opening.limits import READ_AHEAD
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Bytes that reading by lines takes at a time, and `read1` without a size.
_LINES = 8 * 1024
_SOME = 1 << 20

_BINARY = ("rb", "br")
_TEXT = ("r", "rt", "tr")


class KacheryFile(io.BufferedIOBase):
    """A file that was stored with kachery-cloud, open for reading. Made by `open`.

    It is what `open(path, "rb")` gives: `read`, `readinto`, `readline`, `seek`, `tell`, lines in a `for` loop, and a
    context manager. What is missing is fetched when it is read. It may be used from several threads, which share its
    position; `read_at` and `cat_ranges` have none. It can be pickled: the other process opens it again, through the
    node of its machine.

    Attributes:
        size: in bytes.
        uri: what was opened.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        local_only: bool = False,
        providers: Sequence[str] = (),
        timeout: float | None = None,
        read_ahead: int = READ_AHEAD,
    ) -> None:
        ahead = whole_number(read_ahead)
        if ahead is None or ahead < 0:
            raise InvalidArgument(f"read_ahead is {shown(read_ahead)}; it must be a number of bytes, or 0.")
        request = request_for(uri, local_only=local_only, providers=providers, timeout=timeout)
        self._how: dict[str, Any] = {
            "local_only": local_only,
            "providers": tuple(request.providers),
            "timeout": timeout,
            "read_ahead": ahead,
        }
        self.uri = str(request.uri)
        self._key = request.uri.key
        self._name = request.uri.name or request.uri.cid
        self._content = run(open_content(request, ahead))
        self._position = 0
        self.size = self._content.size

    # --- what it is

    @property
    def name(self) -> str:
        """The last name of the path, the label, or the CID."""
        return self._name

    @property
    def mode(self) -> str:
        """How it was opened: always "rb"."""
        return "rb"

    def __repr__(self) -> str:
        return f"<KacheryFile {self.uri!r}{' (closed)' if self.closed else ''}>"

    def readable(self) -> bool:
        """Whether it can be read: always."""
        self._check_open()
        return True

    def seekable(self) -> bool:
        """Whether its position can be set: always."""
        self._check_open()
        return True

    def writable(self) -> bool:
        """Whether it can be written to: never."""
        self._check_open()
        return False

    # --- at the position

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes from the position on; all that are left where it is negative or None.

        Raises:
            ValueError: it is closed.
            ContentNotFound: none of those who were asked has them now.
            KacheryError: as for `load_file`.
        """
        self._check_open()
        with self._content.moving:
            start = self._position
            end = self.size if size is None or size < 0 else start + size
            data = run(self._content.read(start, end))
            self._position = start + len(data)
            return data

    def read1(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, those that are here already or come together: at least one, but for the end."""
        self._check_open()
        with self._content.moving:
            start = self._position
            data = b""
            if start < self.size and size != 0:
                data = run(self._content.read_some(start, _SOME if size < 0 else size))
            self._position = start + len(data)
            return data

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill a buffer from the position on, as `read` would. Returns how many bytes there were."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readinto1(self, buffer: Buffer, /) -> int:
        """The same as `read1`, into a buffer."""
        view = memoryview(buffer).cast("B")
        data = self.read1(len(view))
        view[: len(data)] = data
        return len(data)

    def peek(self, size: int = 0, /) -> bytes:
        """Some bytes from the position on, without moving it."""
        self._check_open()
        with self._content.moving:
            return run(self._content.read_some(self._position, _LINES)) if self._position < self.size else b""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position, counted from the beginning (0), the position (1) or the end (2), and return it.

        Raises:
            ValueError: that would be before the beginning; or it is closed.
        """
        self._check_open()
        with self._content.moving:
            bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
            number = whole_number(offset)
            if whence not in bases or number is None:
                raise InvalidArgument(f"A position is a number of bytes from 0, 1 or 2, not {shown((offset, whence))}.")
            position = bases[whence] + number
            if position < 0:
                raise InvalidRange(f"The position {position:,} lies before the beginning of the file.")
            self._position = position
            return position

    def tell(self) -> int:
        """The position, in bytes from the beginning."""
        self._check_open()
        return self._position

    # --- anywhere

    def read_at(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start` on. The position plays no part, so threads need not take turns."""
        self._check_open()
        return run(self._content.read(start, start + size))

    def cat_ranges(self, ranges: Iterable[Range]) -> list[bytes]:
        """The bytes of many ranges (start, end), fetched side by side. As in slices, ends may lie past the file.

        Raises:
            InvalidRange: one is not two numbers of bytes.
            KacheryError: as for `read`.

        Example:
            >>> with kcl.open(uri) as file:
            ...     header, table = file.cat_ranges([(0, 8), (1_000_000, 1_000_256)])
        """
        self._check_open()
        return run(self._content.read_many([_slice(each, self.size) for each in ranges]))

    # --- the end

    def close(self) -> None:
        """Let go of it. What was fetched stays in the data directory. Closing twice does nothing."""
        if not self.closed:
            super().close()
            content: AnyContent | None = getattr(self, "_content", None)
            if content is not None:  # it was opened
                content.close()

    def __reduce__(self) -> tuple[Callable[..., KacheryFile], tuple[Any, ...]]:
        self._check_open()
        # The other process has no key of a link, so it goes with it.
        uri = self.uri if self._key is None else f"{self.uri}#key={self._key}"
        return _opened_again, (uri, self._how, self._position)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("The file is closed.")


def _opened_again(uri: str, how: dict[str, Any], position: int) -> KacheryFile:
    file = KacheryFile(uri, **how)
    file.seek(position)
    return file


def _slice(ends: Range, size: int) -> Range:
    try:
        start, end, _ = slice(*map(_index, ends)).indices(size)
    except (TypeError, ValueError):
        raise InvalidRange(f"A range is two numbers of bytes, its start and its end, not {shown(ends)}.") from None
    return start, max(start, end)


def _index(number: Any) -> int | None:
    found = whole_number(number)
    if found is None and number is not None:
        raise ValueError(number)
    return found


@overload
def open(
    uri: str | os.PathLike[str],
    mode: Literal["rb", "br"] = "rb",
    *,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
    read_ahead: int = READ_AHEAD,
) -> KacheryFile: ...


@overload
def open(
    uri: str | os.PathLike[str],
    mode: Literal["r", "rt", "tr"],
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
    read_ahead: int = READ_AHEAD,
) -> io.TextIOWrapper: ...


def open(
    uri: str | os.PathLike[str],
    mode: str = "rb",
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
    read_ahead: int = READ_AHEAD,
) -> KacheryFile | io.TextIOWrapper:
    """Open a file for reading, without loading it. A read fetches the blocks that it touches.

    A block is 1 MiB by default. What was fetched stays in the data directory, and a later `load_file` fetches the rest.
    Reads that follow each other, or lie at one distance from each other, are noticed, and the next ones fetched ahead:
    at most `read_ahead` bytes, and at most a fifth of what was read.

    Args:
        uri: as for `load_file`, of a file.
        mode: "rb" for bytes, "r" for text.
        encoding: of text; UTF-8 where None.
        errors: what is done with bytes that are no text, as for Python's `open`.
        newline: how lines of text end, as for Python's `open`.
        local_only: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`, for each read.
        read_ahead: bytes; 0 to fetch only what is read.

    Raises:
        InvalidArgument: another mode, or text arguments for bytes.
        ContentNotFound: it is not here (`local_only`), or none of those who were asked has it; names them.
        IsADirectory: the URI names a folder; and what `load_file` raises.

    Example:
        >>> with kcl.open(uri) as file:
        ...     _ = file.seek(1_000_000)
        ...     samples = np.frombuffer(file.read(16), dtype=np.int16)
    """
    if not isinstance(mode, str) or mode not in _BINARY + _TEXT:
        raise InvalidArgument(
            f"mode is {shown(mode)}; it must be 'rb' for bytes or 'r' for text. What has a URI never changes: write a "
            "file of your own, and store it."
        )
    if mode in _BINARY and not (encoding is errors is newline is None):
        raise InvalidArgument("encoding, errors and newline are for text: open it with mode='r'.")
    file = KacheryFile(uri, local_only=local_only, providers=providers, timeout=timeout, read_ahead=read_ahead)
    if mode in _BINARY:
        return file
    try:
        return io.TextIOWrapper(
            file, encoding="utf-8" if encoding is None else encoding, errors=errors, newline=newline
        )
    except (TypeError, ValueError, LookupError) as error:
        file.close()
        raise InvalidArgument(f"The text cannot be read so: {shown(str(error))}.") from None
