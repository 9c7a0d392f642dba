"""Loading what is encrypted: whole files as plain copies, copies of the user's, folders, and parts."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kachery_cloud.arguments import range_in
from kachery_cloud.encryption.identities import Keyring, keyring
from kachery_cloud.encryption.plain import PlainCopies
from kachery_cloud.encryption.reading import AgeReader, decrypted, layout_of, open_file, plain_size, read_header
from kachery_cloud.encryption.records import EncryptedRoots
from kachery_cloud.errors import DamagedFile, DiskFull, EncryptionError, InvalidName, NoPermission
from kachery_cloud.local import BlockNotLocal, repository, resolve_local
from kachery_cloud.opening.asking import run
from kachery_cloud.opening.content import Content
from kachery_cloud.opening.decrypting import open_content
from kachery_cloud.placing import copy_into_place, make_in_place
from kachery_cloud.progress import progress_bar
from kachery_cloud.request import Request
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.names import outside_name

if TYPE_CHECKING:
    from kachery_p2p.repo.repo import Repo

#: Plain bytes that are kept in memory rather than in a plain copy, where a program only wants to read them.
_IN_MEMORY = 64 << 20
#: Bytes that are asked for at a time by whoever reads a file to its end: little at first.
_FIRST_WINDOW = 1 << 20
_LARGEST_WINDOW = 64 << 20
_PIECE = 1 << 20


class EncryptedRequest(Request):
    """A call that loads what is encrypted, where its URI says so: what it gives are plain bytes."""

    @property
    def _keys(self) -> Keyring:
        return keyring(self.config, self.uri.key)

    @property
    def _is_encrypted(self) -> bool:
        return self.uri.encryption is not None

    def file(self) -> Path:
        """The path of the plain copy, which is made where there is none.

        Raises:
            NoDecryptionKey: no key that opens it is here.
            EncryptionError: it is damaged, or no age file; and what loading it raises.
        """
        if not self._is_encrypted:
            return super().file()
        found = self._plain_here()
        if found is not None:
            return found
        repo = repository(self.config)
        with open(super().file(), "rb") as file:
            reader = open_file(file, self._keys, self.uri.locator)
            cid = resolve_local(repo, self.uri)
            return PlainCopies(repo).make(cid, lambda out: self._decrypt(reader, out))

    def _plain_here(self) -> Path | None:
        repo = repository(self.config)
        try:
            return PlainCopies(repo).find(resolve_local(repo, self.uri))
        except (BlockNotLocal, DamagedFile):
            return None  # a folder on the way to it is not here

    def named(self, path: Path) -> str:
        """A path of the plain copy which ends in the name that the URI gives it; `path` where that is no plain name."""
        if not self._is_encrypted:
            return super().named(path)
        try:
            name = outside_name(self.uri.name)
        except InvalidName:
            return str(path)
        return str(PlainCopies(repository(self.config)).name(path, name))

    def copy_to(self, target: Path, *, replace: bool) -> None:
        """Put the plain bytes at `target`, and nowhere else; as `kachery_cloud.placing.copy_into_place`."""
        found = self._plain_here() if self._is_encrypted else None
        if not self._is_encrypted or found is not None:
            copy_into_place(found or super().file(), target, replace=replace)
            return
        with open(super().file(), "rb") as file:
            reader = open_file(file, self._keys, self.uri.locator)

            def make(part: Path) -> None:
                with open(part, "xb") as out:
                    self._decrypt(reader, out)

            make_in_place(target, make, replace=replace)

    def _decrypt(self, reader: AgeReader, out: BinaryIO) -> None:
        name = self.uri.name or self.uri.cid
        done = 0
        with progress_bar(f"Decrypting {name[:40]}") as update:
            for piece in decrypted(reader, self.uri.locator):
                out.write(piece)
                done += len(piece)
                update(done, reader.size)

    def open(self) -> BufferedIOBase:
        """The plain bytes of the whole file, open for reading; from memory where they are few."""
        found = self._plain_here() if self._is_encrypted else None
        if found is not None:
            return open(found, "rb")
        file = super().open()
        if not self._is_encrypted:
            return file
        with file:
            reader = open_file(cast(BinaryIO, file), self._keys, self.uri.locator)
            if reader.size <= _IN_MEMORY:
                return io.BytesIO(b"".join(decrypted(reader, self.uri.locator)))
        return open(self.file(), "rb")

    def pieces(self, start: int | None, end: int | None, *, stream: bool = False) -> Iterator[bytes]:
        """The plain bytes of a slice, in order, in pieces."""
        if not self._is_encrypted:
            yield from super().pieces(start, end, stream=stream)
            return
        content = run(open_content(self, 0))
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

    def info(self) -> dict[str, Any]:
        """See `kachery_cloud.load.load_file_info`; with "encryption", and the bytes of the cipher text as "stored"."""
        found = super().info()
        if not self._is_encrypted:
            return found
        found["encryption"] = self.uri.encryption
        if found["kind"] == "file":
            cipher = found["path"]
            copy = PlainCopies(repository(self.config)).find(CID.parse(found["cid"]))
            found["stored"], found["size"] = found["size"], self._plain_size(cipher)
            found["path"] = None if copy is None else str(copy)
        else:
            found["size"] = None  # what is here are cipher texts
        return found

    def _plain_size(self, path: str | None) -> int:
        """How many plain bytes it says that it has, for whoever has no key, too: nothing is authenticated.

        Args:
            path: of the cipher text, where all of that is here.
        """
        if path is not None:
            with open(path, "rb") as file:
                return plain_size(file)
        content = run(Content(self, 0).open())
        try:
            return layout_of(run(read_header(content.read, content.size)), content.size).size
        finally:
            content.close()

    def _named(self, repo: Repo, cid: CID, name: str | None) -> None:
        if self._is_encrypted and cid == self.uri.root:
            with contextlib.suppress(NoPermission, DiskFull):
                EncryptedRoots(repo).note(cid)
        super()._named(repo, cid, name)


class Decryption:
    """Decrypts the files of a directory; as `kachery_cloud.placing.Decoding`.

    Args:
        request: that names the directory.
    """

    def __init__(self, request: Request) -> None:
        self._keys = keyring(request.config, request.uri.key)
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
