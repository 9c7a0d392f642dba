"""TAR answers: the files and folders of a UnixFS tree (https://specs.ipfs.tech/ipips/ipip-0288/).

The tree begins with an entry that has its CID for a name. Whoever unpacks it must get nothing outside of that folder:
a name that leads out of it ends the archive, and so does one that stands for another entry, for the first could be a
symbolic link to somewhere else and the second be written through it. The links themselves are passed on as they are.
"""

from __future__ import annotations

import posixpath
import tarfile
import unicodedata
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from kachery_p2p.dag.directory import HamtEntry
from kachery_p2p.dag.nodes import read_node, symlink_target
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import MalformedDag
from kachery_p2p.gateway.server import limits
from kachery_p2p.gateway.server.content import Content, ResolvedPath

_FOLDERS = (DataType.DIRECTORY, DataType.HAMT_SHARD)


async def tar_pieces(content: Content, root: ResolvedPath) -> AsyncGenerator[bytes, None]:
    """The archive, a PIECE or less at a time.

    Raises:
        MalformedDag: a name leads out of the tree, or there is no end to it; and as `Content.find`.
    """
    writer = _Writer(content, str(root.cid))
    async with aclosing(writer.entry(writer.root, root, clashes=False)) as pieces:
        async for piece in pieces:
            yield piece
    levels = [await writer.folder(writer.root, root)] if root.kind in _FOLDERS else []
    while levels:
        following = next(levels[-1], None)
        if following is None:
            levels.pop()
            continue
        path, entry, clashes = following
        found = await content.find(entry.cid, [])
        async with aclosing(writer.entry(path, found, clashes=clashes)) as pieces:
            async for piece in pieces:
                yield piece
        if found.kind in _FOLDERS:
            if len(levels) >= limits.MAX_PATH_NAMES:
                raise MalformedDag(f"{root.cid} has folders nested too deep for a TAR.")
            levels.append(await writer.folder(path, found))
    yield writer.end()


class _Writer:
    """Writes headers and data, and gathers small ones into pieces."""

    def __init__(self, content: Content, root: str) -> None:
        self._content = content
        self.root = root
        self._waiting = bytearray()
        self._count = 0
        self._written = 0
        #: Paths from names that are no plain names, and whether there were symbolic links.
        self._odd: set[str] = set()
        self._links = False

    async def folder(self, path: str, found: ResolvedPath) -> Iterator[tuple[str, HamtEntry, bool]]:
        """The entries of a folder: path in the archive, entry, and whether another has a name much like it.

        Raises:
            MalformedDag: there are too many entries, or a name is bad. No entry has been given then.
        """
        entries = await self._content.all_entries(found)
        self._count += len(entries)
        most = self._content.limits.max_tar_entries
        if self._count > most:
            raise MalformedDag(f"{self.root} has more than {most:,} entries, too many for a TAR.")
        alike = Counter(_folded(entry.name) for entry in entries)
        taken: set[str] = set()
        placed: list[tuple[str, HamtEntry, bool]] = []
        for entry in entries:
            there = self._place(path, entry.name)
            if there in taken:
                raise MalformedDag(f"The folder {found.cid} has two entries for the name {entry.name[:100]!a}.")
            taken.add(there)
            placed.append((there, entry, alike[_folded(entry.name)] > 1))
        return iter(placed)

    def _place(self, folder: str, name: str) -> str:
        """Where an entry lies in the archive."""
        path = posixpath.normpath(f"{folder}/{name}")
        if not path.startswith(f"{self.root}/") or "\0" in name:
            raise MalformedDag(
                f"The name {name[:100]!a} leads out of its folder: relative UnixFS paths outside the root are not "
                "allowed, use CAR instead."
            )
        if path != f"{folder}/{name}" or "/" in name:
            folded = _folded(path)
            if folded in self._odd or path == folder:
                raise MalformedDag(f"Two entries would lie at {path[:200]!a}.")
            self._odd.add(folded)
        return path

    async def entry(self, path: str, found: ResolvedPath, *, clashes: bool) -> AsyncGenerator[bytes, None]:
        """One entry, and the data of a file."""
        info = tarfile.TarInfo(path)
        info.mtime = 0
        data = read_node(found.cid, found.block)[1]
        kind = DataType.RAW if data is None else data.kind
        info.mode = 0o755 if kind in _FOLDERS else 0o777 if kind is DataType.SYMLINK else 0o644
        if data is not None:
            info.mode = (data.mode or info.mode) & 0o777  # never set-user-ID and the like
            info.mtime = max(0, data.mtime_s or 0)
        if kind in _FOLDERS:
            info.type = tarfile.DIRTYPE
        elif kind is DataType.SYMLINK:
            info.type = tarfile.SYMTYPE
            info.linkname = symlink_target(found.block, found.cid)
            self._links = True
            if clashes or "\0" in info.linkname:
                raise MalformedDag(
                    f"The symbolic link {path[:200]!a} has the name of another entry, or no good target."
                )
        else:
            info.size = found.size
        if self._links and self._odd:
            raise MalformedDag(f"{self.root} has symbolic links, and names that are paths; together they are not safe.")
        self._add(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        if info.size:
            async with aclosing(self._content.pieces(found, 0, info.size)) as pieces:
                async for piece in pieces:
                    self._add(piece)
                    if len(self._waiting) >= limits.PIECE:
                        yield self._take()
        self._add(bytes(-info.size % tarfile.BLOCKSIZE))
        if len(self._waiting) >= limits.PIECE:
            yield self._take()

    def end(self) -> bytes:
        """The rest, and the two empty blocks at the end of an archive, filled up to a whole record."""
        self._add(bytes(2 * tarfile.BLOCKSIZE))
        self._add(bytes(-self._written % tarfile.RECORDSIZE))
        return self._take()

    def _add(self, data: bytes) -> None:
        self._waiting += data
        self._written += len(data)

    def _take(self) -> bytes:
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken


def _folded(name: str) -> str:
    """A name as file systems compare them that do not tell letters apart as ours do."""
    return unicodedata.normalize("NFC", name.casefold())
