"""What is opened of a URI: the bytes of the file, or, where that says `encryption=age`, what they decrypt to.

A read of plain bytes takes the chunks of 64 KiB that it touches, and so the blocks in which these lie. To open it takes
the header and the last chunk as well, which tells how large it is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from kachery_cloud.errors import EncryptionError
from kachery_cloud.opening.asking import Steps
from kachery_cloud.opening.content import Content
from kachery_cloud.opening.extents import Range
from kachery_cloud.opening.limits import READ_AHEAD

if TYPE_CHECKING:
    from kachery_cloud.encryption.reading import AgeReader
    from kachery_cloud.request import Request


class PlainContent:
    """The plain bytes of an encrypted file; as `Content`.

    Args:
        content: its cipher text, open.
        reader: decrypts that.
        name: what it is called in errors.
    """

    def __init__(self, content: Content, reader: AgeReader, name: str) -> None:
        self._content = content
        self._reader = reader
        self._name = name
        self.size = reader.size

    @property
    def moving(self) -> threading.RLock:
        """See `Content`."""
        return self._content.moving

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here."""
        return self._content.is_whole

    def read(self, start: int, end: int) -> Steps[bytes]:
        """The bytes of a range, as far as the file goes.

        Raises:
            EncryptionError: they are not what was encrypted there; and what `Content.read` raises.
        """
        from kachery_cloud.encryption.reading import named

        try:
            return (yield from self._reader.read(start, end))
        except EncryptionError as error:
            raise named(error, self._name) from None

    def fetch(self, start: int, end: int) -> Steps[None]:
        """Have the cipher text of a range here."""
        if start < min(end, self.size):
            yield from self._content.fetch(*self._reader.needs(start, end))

    def read_some(self, start: int, most: int) -> Steps[bytes]:
        """Up to `most` bytes: those of one chunk."""
        chunk = self._reader.chunk
        return (yield from self.read(start, min(start + most, (start // chunk + 1) * chunk)))

    def read_many(self, ranges: Sequence[Range]) -> Steps[list[bytes]]:
        """The bytes of many ranges, in their order; what is missing of them is fetched at once.

        Raises:
            KacheryError: as for `read`.
        """
        yield from self._content.read_many(
            [self._reader.needs(start, end) for start, end in ranges if start < min(end, self.size)]
        )
        found: list[bytes] = []
        for start, end in ranges:
            found.append((yield from self.read(start, end)))
        return found

    def close(self) -> None:
        """Let go of it."""
        self._content.close()


AnyContent: TypeAlias = Content | PlainContent


def open_content(request: Request, read_ahead: int = READ_AHEAD) -> Steps[AnyContent]:
    """Open the file that a request names; to be done before anything is read.

    Raises:
        ContentNotFound: it is not here, and none of those who were asked has it.
        NoDecryptionKey: it is encrypted, and no key that opens it is here.
        EncryptionError: it is damaged, or no age file.
        KacheryError: see `kachery_cloud.load.load_file`.
    """
    content = yield from Content(request, read_ahead).open()
    if request.uri.encryption is None:
        return content
    from kachery_cloud.encryption.identities import keyring
    from kachery_cloud.encryption.reading import open_age

    name = request.uri.locator
    try:
        keys = keyring(request.config, request.uri.key)
        reader = yield from open_age(content.read, content.size, keys, name)
    except BaseException:
        content.close()
        raise
    return PlainContent(content, reader, name)
