"""The second place: what the catalog knows and the files under `ipfs/` do not tell, in plain files beside them.

    nodes/<yz>/<cid>.car    a CARv1 of one root: its inner nodes, or all nodes of its directory tree. <cid> is the
                            CIDv1, yz its last two characters; the root in the header has the version it was asked by
    nodes/<yz>/<24 hex digits>.car    the same without a root: nodes that no root was known for when an older catalog
                            was taken over
    links/<24 hex digits>   lines of text, each for one linked file

Both are written whole, synced, and renamed into place like every other file of the package, before the catalog's rows
are committed. They are read only when the catalog has lost something. All check themselves: a block by its hash, a line
by the CRC-32 in front of it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kachery_p2p.dag.car import CarReader, write_car
from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.errors import InvalidCID, KacheryError, UnsupportedCID
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import open_own_file, read_own_file
from kachery_p2p.repo.fileio import sync_fd
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.limits import MIB, RECORD_FILES
from kachery_p2p.repo.newfile import NewFile

Node = tuple[bytes, bytes]


class NodeRecord(NamedTuple):
    """What a file under `nodes/` gave.

    Attributes:
        root: what it was written for; None where it names no root.
        nodes: those whose hash is right.
        whole: whether that is all of it.
    """

    root: CID | None
    nodes: list[Node]
    whole: bool


class NodeRecords:
    """The nodes of each root, a file for each."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.folder = layout.nodes

    def path_for(self, root: CID) -> Path:
        name = self._layout.name_for(root.to_v1())
        return self.folder / name[-2:] / f"{name}.car"

    def has(self, root: CID) -> bool:
        """Whether there is a record of that root."""
        return os.path.exists(self.path_for(root))

    def keep(self, root: CID, nodes: Iterable[Node], *, sync: bool = True) -> Path:
        """Write down the nodes (multihash, block) of a root.

        They are on the disk when this returns, unless `sync` is false.

        Raises:
            DiskFull, NoPermission: the system does not allow it.
        """
        return self._write(self.path_for(root), [root], nodes, sync)

    def keep_loose(self, nodes: Iterable[Node]) -> Path:
        """The same for nodes of no known root; not synced."""
        name = secrets.token_hex(12)
        return self._write(self.folder / name[-2:] / f"{name}.car", [], nodes, sync=False)

    def forget(self, root: CID) -> None:
        """Remove the record of a root, if there is one."""
        path = self.path_for(root)
        with explained("removing", path):
            path.unlink(missing_ok=True)

    def paths(self) -> Iterator[Path]:
        """All records."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if name.endswith(".car"):
                    yield Path(folder, name)

    def read(self, path: Path) -> NodeRecord:
        """Read a record, as far as it is right."""
        reader = CarReader()
        nodes: list[Node] = []
        whole = True
        try:
            with explained("reading", path), os.fdopen(open_own_file(path, os.O_RDONLY), "rb") as file:
                while piece := file.read(MIB):
                    nodes += [(cid.multihash, block) for cid, block in reader.feed(piece)]
            reader.close()
        except KacheryError:
            # Damaged, or not to be read at all: what came before that is right by its hash.
            whole = False
        named = _cid_of_name(path)
        root = reader.roots[0] if reader.roots else None
        if root is not None and root.to_v1() != named:
            root, whole = None, False
        return NodeRecord(root or named, nodes, whole)

    def nodes_of(self, root: CID) -> list[Node]:
        """The nodes of a root, as far as its record is right; none without a record."""
        path = self.path_for(root)
        return self.read(path).nodes if path.exists() else []

    def _write(self, path: Path, roots: Sequence[CID], nodes: Iterable[Node], sync: bool) -> Path:
        with NewFile(self._layout.temporary) as new, explained("writing", path):
            with os.fdopen(os.dup(new.fd), "wb") as out:
                write_car(out.write, roots, ((CID(1, DAG_PB, multihash), block) for multihash, block in nodes))
            if sync:
                sync_fd(new.fd)
            new.move_to(path, sync=sync)
        return path


class LinkRecord(NamedTuple):
    """A linked file: its root, its path, and the profile it was hashed by (JSON of its parameters) if that is known."""

    cid: CID
    path: str
    profile: str | None


class LinkRecords:
    """The linked files. Each call writes one file; when there are many they are joined into one."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.folder = layout.links

    def keep(self, links: Sequence[LinkRecord]) -> None:
        """Write links down; on the disk when this returns."""
        if not links:
            return
        self._write(links)
        if sum(1 for _ in self._paths()) > RECORD_FILES:
            self._join(lambda link: True)

    def forget(self, cids: Sequence[CID]) -> set[bytes]:
        """Take all links of some roots out.

        Returns:
            The keys, as the catalog has them, of those that had any.
        """
        keys = {bytes(cid.to_v1()) for cid in cids}
        found = {key for link in self.read()[0] if (key := bytes(link.cid.to_v1())) in keys}
        if found:
            self._join(lambda link: bytes(link.cid.to_v1()) not in found)
        return found

    def forget_damaged(self) -> None:
        """Write anew what can be read, and set the damaged files aside."""
        self._join(lambda link: True)

    def read(self) -> tuple[list[LinkRecord], int]:
        """All links, each once, in the order in which they were written; and how many lines could not be read."""
        links, files = self._read()
        return list(links), sum(files.values())

    def _read(self) -> tuple[dict[LinkRecord, None], dict[Path, int]]:
        """The links, and for each file how many of its lines are damaged."""
        links: dict[LinkRecord, None] = {}
        files: dict[Path, int] = {}
        for path in self._paths():
            with explained("reading", path):
                try:
                    lines = read_own_file(path).splitlines()
                except FileNotFoundError:
                    # Joined with others meanwhile; the file that it went into was there before this one went.
                    return self._read()
            found = [_parse(line) for line in lines]
            links.update((link, None) for link in found if link is not None)
            files[path] = found.count(None)
        return links, files

    def _paths(self) -> Iterator[Path]:
        """The files, oldest first."""
        with explained("reading", self.folder), os.scandir(self.folder) as entries:
            found = [(entry.stat().st_mtime_ns, entry.name) for entry in entries if len(entry.name) == 24]
        for _, name in sorted(found):
            yield self.folder / name

    def _join(self, wanted: Callable[[LinkRecord], bool]) -> None:
        """Put the wanted links of all files into one. Files written meanwhile are left alone."""
        with self._locked():
            links, files = self._read()
            left = [link for link in links if wanted(link)]
            if left:
                self._write(left)
            with explained("removing", self.folder):
                for path, damaged in files.items():
                    if damaged:
                        os.replace(path, self._layout.damaged / f"links.{path.name}")
                    else:
                        path.unlink(missing_ok=True)

    def _write(self, links: Sequence[LinkRecord]) -> None:
        path = self.folder / secrets.token_hex(12)
        with NewFile(self._layout.temporary) as new, explained("writing", path):
            with os.fdopen(os.dup(new.fd), "wb") as out:
                out.writelines(_line(link) for link in links)
            sync_fd(new.fd)
            new.move_to(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time joins files: two would each bring back what the other leaves out."""
        if os.name != "posix":
            yield
            return
        import fcntl

        with explained("locking", self.folder):
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                # Some network file systems lock no folders; then a link that was removed may be listed once more.
                if error.errno not in (errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                    raise
            yield
        finally:
            os.close(fd)


def _cid_of_name(path: Path) -> CID | None:
    try:
        return CID.parse(path.stem)
    except (InvalidCID, UnsupportedCID):
        return None


def checked_line(values: dict[str, Any]) -> bytes:
    """A line of text that checks itself: the CRC-32 of a JSON object, and the object."""
    # ASCII, so that names of files that are no text come back too: what stands for their bytes is escaped.
    text = json.dumps(values).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_line(line: bytes) -> Any:
    """The object of such a line, without its line feed; None for one that is damaged."""
    text = line[9:]
    if line[:9] != b"%08x " % zlib.crc32(text):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _line(link: LinkRecord) -> bytes:
    return checked_line({"cid": str(link.cid), "path": link.path, "profile": link.profile})


def _parse(line: bytes) -> LinkRecord | None:
    try:
        values = read_line(line)
        return LinkRecord(CID.parse(values["cid"]), values["path"], values["profile"])
    except (ValueError, TypeError, KeyError, InvalidCID, UnsupportedCID):
        return None
