"""Loading what is encrypted: whole files as plain copies, copies of the user's, folders, and parts."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kachery_cloud.arguments import range_in
from kachery_cloud.encryption.identities import Keyring, keyring
from kachery_cloud.encryption.plain import PlainCopies
from kachery_cloud.encryption.reading import AgeReader, decrypted, layout_of, open_file, plain_size, read_header
from kachery_cloud.errors import DamagedFile, EncryptionError
from kachery_cloud.local import BlockNotLocal, repository, resolve_local
from kachery_cloud.opening.asking import run
from kachery_cloud.progress import progress_bar

if TYPE_CHECKING:
    from kachery_cloud.request import Request

#: Plain bytes that are kept in memory rather than in a plain copy, where a program only wants to read them.
_IN_MEMORY = 64 << 20
#: Bytes that are asked for at a time by whoever reads a file to its end: little at first.
_FIRST_WINDOW = 1 << 20
_LARGEST_WINDOW = 64 << 20
_PIECE = 1 << 20


def _keys(request: Request) -> Keyring:
    return keyring(request.config, request.uri.key)


def plain_file(request: Request) -> Path:
    """The path of the plain copy of a file, which is made where there is none.

    Raises:
        NoDecryptionKey: no key that opens it is here.
        EncryptionError: it is damaged, or no age file; and what loading it raises.
    """
    found = _plain_here(request)
    if found is not None:
        return found
    path = request.stored_file()
    repo = repository(request.config)
    with open(path, "rb") as file:
        reader = open_file(file, _keys(request), request.uri.locator)
        return PlainCopies(repo).make(resolve_local(repo, request.uri), lambda out: _decrypt(request, reader, out))


def _plain_here(request: Request) -> Path | None:
    repo = repository(request.config)
    try:
        return PlainCopies(repo).find(resolve_local(repo, request.uri))
    except (BlockNotLocal, DamagedFile):
        return None  # a folder on the way to it is not here


def decrypt_into_place(request: Request, target: Path, *, replace: bool) -> None:
    """Put the plain bytes of a file at `target`, and nowhere else.

    Raises:
        FileExists, NotAFile: see `kachery_cloud.placing.copy_into_place`; and what `plain_file` raises.
    """
    from kachery_cloud.placing import copy_into_place, make_in_place

    found = _plain_here(request)
    if found is not None:
        copy_into_place(found, target, replace=replace)
        return
    path = request.stored_file()
    with open(path, "rb") as file:
        reader = open_file(file, _keys(request), request.uri.locator)

        def make(part: Path) -> None:
            with open(part, "xb") as out:
                _decrypt(request, reader, out)

        make_in_place(target, make, replace=replace)


def _decrypt(request: Request, reader: AgeReader, out: BinaryIO) -> None:
    name = request.uri.name or request.uri.cid
    done = 0
    with progress_bar(f"Decrypting {name[:40]}") as update:
        for piece in decrypted(reader, request.uri.locator):
            out.write(piece)
            done += len(piece)
            update(done, reader.size)


def open_plain(request: Request) -> BufferedIOBase:
    """The plain bytes of a whole file, open for reading; from memory where they are few."""
    found = _plain_here(request)
    if found is not None:
        return open(found, "rb")
    file = request.open_stored()
    with file:
        reader = open_file(file, _keys(request), request.uri.locator)  # type: ignore[arg-type]
        if reader.size <= _IN_MEMORY:
            return io.BytesIO(b"".join(decrypted(reader, request.uri.locator)))
    return open(plain_file(request), "rb")


def plain_pieces(request: Request, start: int | None, end: int | None, *, stream: bool) -> Iterator[bytes]:
    """The plain bytes of a slice, in order, in pieces; as `Request.pieces`."""
    from kachery_cloud.opening.decrypting import open_content

    content = run(open_content(request, 0))
    try:
        at, last = range_in(start, end, content.size)
        window = _FIRST_WINDOW if stream else max(last - at, 1)
        while at < last:
            stop = min(at + window, last)
            run(content.fetch(at, stop))
            while at < stop:
                piece = run(content.read(at, min(at + _PIECE, stop)))
                at += len(piece)
                yield piece
            window = max(window, min(2 * window, _LARGEST_WINDOW))
    finally:
        content.close()


def plain_size_of(request: Request, path: str | None) -> int:
    """How many plain bytes a file says that it has, for whoever has no key; as `plain_size`.

    Args:
        request: that names it.
        path: of its cipher text, where all of that is here.
    """
    if path is not None:
        with open(path, "rb") as file:
            return plain_size(file)
    from kachery_cloud.opening.content import Content

    content = run(Content(request, 0).open())
    try:
        return layout_of(run(read_header(content.read, content.size)), content.size).size
    finally:
        content.close()


class Decryption:
    """Decrypts the files of a directory; as `kachery_cloud.placing.Decoding`.

    Args:
        request: that names the directory.
    """

    def __init__(self, request: Request) -> None:
        self._keys = _keys(request)
        self._top = request.uri.locator

    def _name(self, name: str) -> str:
        return f"{self._top}/{name}"

    def data(self, data: bytes, name: str) -> bytes:
        reader = open_file(io.BytesIO(data), self._keys, self._name(name))
        return b"".join(decrypted(reader, self._name(name)))

    def copy(self, source: Path, fd: int, name: str) -> int:
        with open(source, "rb") as file, open(fd, "wb", closefd=False) as out:
            reader = open_file(file, self._keys, self._name(name))
            for piece in decrypted(reader, self._name(name)):
                out.write(piece)
            return file.seek(0, os.SEEK_END)

    def is_same(self, fd: int, source: Path, name: str) -> bool:
        with open(source, "rb") as file, open(fd, "rb", closefd=False) as there:
            try:
                if plain_size(file) != os.fstat(fd).st_size:
                    return False
            except EncryptionError as error:
                raise EncryptionError(f"{self._name(name)}: {error}") from None
            reader = open_file(file, self._keys, self._name(name))
            return all(there.read(len(piece)) == piece for piece in decrypted(reader, self._name(name)))
