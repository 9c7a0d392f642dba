"""A file on its way in: `partial/<cid>`.

The partial file is as long as the whole one and has holes where nothing has arrived. There is no journal of what has:
whoever goes on with it asks `has`, which hashes the bytes that are there. So nothing written by a process that was
killed is trusted, and nothing of it that is right is fetched again. The file is locked while a process works on it; it
becomes visible under `ipfs/` by one rename, when it is whole.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.nodes import read_node
from kachery_p2p.errors import DamagedFile, DiskFull, HashMismatch, MalformedDag, RepoBusy, RepoError
from kachery_p2p.oserrors import explained
from kachery_p2p.private import SHARED_FILE, open_to_group
from kachery_p2p.repo.access import Claim
from kachery_p2p.repo.catalog import WRAP_NONE
from kachery_p2p.repo.checking import Checker, WrapFinder
from kachery_p2p.repo.fileio import BINARY, CLOEXEC, WriteBack, read_at, read_bytes_at, sync_fd, sync_folder, write_at
from kachery_p2p.repo.filelocks import lock_fd
from kachery_p2p.repo.hashing import FileReader, in_order
from kachery_p2p.repo.layers import Layers
from kachery_p2p.repo.layout import make_folders
from kachery_p2p.repo.leaves import Leaf, MissingNode, find_wrap, unwrap, walk_leaves
from kachery_p2p.repo.likely import LikelyFile, is_hole
from kachery_p2p.repo.limits import HAS_BATCH, LOCK_POLL_SECONDS, SMALL_FILE, TASK_BYTES
from kachery_p2p.repo.locks import LockedFile
from kachery_p2p.repo.placing import Placer, same_bytes
from kachery_p2p.repo.storing import free_bytes
from kachery_p2p.wire import Buffer

if TYPE_CHECKING:
    from kachery_p2p.dag.walk import Piece, Ref

#: Hole finding is a hint that not all systems have.
_SEEK_DATA = getattr(os, "SEEK_DATA", None)
_SEEK_HOLE = getattr(os, "SEEK_HOLE", None)


class Download:
    """A file being loaded. Made by `Repo.download`; use it as a context manager.

    Leaving the context keeps the partial file for another time; `finish` makes it whole.
    `write`, `put`, `accept`, `read` and `has` may be called from several threads. `complete` is the path of the whole
    file once there is one, also when another process finished it before this one got the lock.
    """

    def __init__(
        self,
        placer: Placer,
        checker: Checker,
        cid: CID,
        timeout: float,
        layers: Layers,
        claim: Claim | None = None,
    ) -> None:
        """Lock the partial file. What is put into it belongs to `claim`, also before it is whole; None is public."""
        self.cid = cid
        placer = placer.under(claim)
        self.complete: Path | None = None
        self._placer = placer
        self._catalog = placer.catalog
        self._reader = placer.reader
        self.path = placer.layout.partial_for(cid)
        self._file = self._lock(timeout)
        self._guard = threading.Lock()
        self._noting = threading.Lock()
        self._writing = threading.Lock()
        #: Threads in `put`, and whether no more may come.
        self._putting = 0
        self._put_ended = threading.Condition(self._noting)
        self._no_more = False
        self._process = os.getpid()
        self._wraps: Counter[int] = Counter()
        self._nodes: list[bytes] = []
        self._wrote = False
        self._write_back = WriteBack(self._file.fd)
        self._read = FileReader(self._file.fd, SMALL_FILE)
        self._layers = layers
        self._likely: list[LikelyFile] = []
        try:
            self.complete = self._find_complete(checker)
            with explained("reading", self.path):
                self._fresh = os.fstat(self._file.fd).st_size == 0
            self._likely = [*self._open_set_aside(), *layers.likely_files(cid)]
            if claim is not None and self.complete is None:
                # What comes later has its claim with the node that links to it.
                claim.cover(cid)
        except BaseException:
            self._file.close()
            raise

    # --- while it comes in -------------------------------------------------------------------------------------------

    def allocate(self, size: int, start: int = 0, end: int | None = None) -> None:
        """Say how large the whole file is, in bytes, before anything is written to it.

        A load of the whole file gives it that size, as a hole. For a part of the bytes it only becomes as long as what
        is written to it, so that a part of a huge file can be loaded on a small disk, also on file systems without
        holes or with a smaller limit for one file.

        Args:
            size: of the whole file.
            start: the first byte that is loaded.
            end: the byte after the last that is loaded; None for the end of the file.

        Raises:
            DiskFull: the disk has no room for what is still missing of those bytes. At once, not in the middle.
        """
        whole = start == 0 and (end is None or end >= size)
        with explained("making room for", self.path):
            now = os.fstat(self._file.fd)
            if whole:
                missing = size - getattr(now, "st_blocks", 0) * 512
            else:
                missing = self._holes(start, size if end is None else min(end, size))
            room = free_bytes(self.path.parent)
            if room is not None and room < missing:
                full = DiskFull(
                    f"Loading {self.cid} needs {missing} bytes more, and the disk of {self.path.parent} has "
                    f"{room} left. Free some space, or use a data directory on a larger disk; what is loaded stays."
                )
                full.lacking = missing - room
                raise full
            if whole and now.st_size != size:
                os.ftruncate(self._file.fd, size)

    def has(self, refs: Sequence[Ref]) -> list[bool]:
        """Which of these leaf references' bytes are in the partial file and right.

        Bytes that lie elsewhere here (in another stored or linked file, in a copy that was set aside as damaged, in an
        identity CID, in a directory beneath this one) are checked, written to their place, and count as present. The
        reference of an inner node, or of a root of unknown length, is never present. Hashes on both cores.

        Raises:
            MalformedDag: a leaf that is here has another size than its reference says.
            DiskFull, NoPermission: the system does not allow it.
        """
        answers = [False] * len(refs)
        for start in range(0, len(refs), HAS_BATCH):
            batch = list(range(start, min(start + HAS_BATCH, len(refs))))
            for index in self._present(refs, batch):
                answers[index] = True
        return answers

    def write(self, offset: int, data: Buffer) -> None:
        """Write verified file bytes at their offset."""
        # One at a time, as the kernel has it anyhow for one file: there the second thread would spin on a core that
        # others could use.
        with explained("writing", self.path), self._writing:
            write_at(self._file.fd, data, offset)
        self._wrote = True
        self._write_back.wrote(len(data))

    def put(self, offset: int, data: Buffer) -> bool:
        """`write` for a thread of somebody who does not know whether this is still open; False when it is not."""
        with self._noting:
            if self._no_more:
                return False
            self._putting += 1
        try:
            self.write(offset, data)
        finally:
            with self._noting:
                self._putting -= 1
                if not self._putting:
                    self._put_ended.notify_all()
        return True

    def _end_puts(self) -> None:
        """Nobody is in `put` from here on. In a forked child nobody is: the threads are the parent's."""
        if os.getpid() == self._process:
            with self._noting:
                self._no_more = True
                while self._putting:
                    self._put_ended.wait()

    def accept(self, ref: Ref, block: Buffer, pieces: Sequence[Piece]) -> None:
        """Take a verified block whole: `pieces` is what FileWalk.feed gave for it.

        File bytes are written to their place, and inner nodes, or leaves wrapped in an unusual way, kept in the
        catalog: all that `finish` needs to know.
        """
        for piece in pieces:
            self.write(piece.offset, piece.data)
        if ref.cid.codec != DAG_PB:
            return
        if len(pieces) <= 1:
            length = len(pieces[0].data) if pieces else 0
            found = unwrap(DAG_PB, block, length)
            if found is not None:
                self._note_wrap(found[0])
                return
        self._placer.put_blocks([(ref.cid.multihash, bytes(block))])

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the partial file; zeros where nothing has arrived, fewer at its end. Not checked here."""
        with explained("reading", self.path):
            return read_bytes_at(self._file.fd, length, offset)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """The same, into a buffer. Returns how many bytes were there."""
        with explained("reading", self.path):
            return read_at(self._file.fd, buffer, offset)

    # --- the end -----------------------------------------------------------------------------------------------------

    def finish(self, size: int) -> Path:
        """Make it whole: `size` bytes, all written and verified by the caller, with its inner nodes in the catalog.

        It does nothing when the file is whole already. After an error the partial file stays.

        Returns:
            The path of the whole file.

        Raises:
            RepoError: the file is shorter, an inner node is missing, or the DAG is not that of a file of this size.
            HashMismatch: the bytes of a leaf are not right where they had to be looked at.
            DiskFull, NoPermission: the system does not allow it.
        """
        self._end_puts()
        with self._guard:
            if self.complete is not None:
                self._discard()
                return self.complete
            fd = self._file.fd
            with explained("finishing", self.path):
                there = os.fstat(fd).st_size
                if there < size:
                    raise RepoError(
                        f"The partial file {self.path} has {there} bytes of {size}; the rest must be loaded "
                        "before it is finished."
                    )
                if there > size:
                    os.ftruncate(fd, size)
                self._write_back.close()
            wrap = self._known_wraps(size)
            with explained("finishing", self.path):
                sync_fd(fd)
            if self._nodes:
                # The inner nodes were committed as they came; this puts them on the disk before the file is whole.
                self._placer.nodes.keep(self.cid, self._reader.each_node(self._nodes))
            with self._placer.lock.adding():
                path = self._place()
                self._placer.record(self.cid, size, path, linked=False, profile=None, wrap=wrap)
            self.complete = path
            self._close()
            return path

    def close(self) -> None:
        """Keep the partial file and let go of it. Closing twice does nothing."""
        self._end_puts()
        with self._guard:
            self._close()

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _lock(self, timeout: float) -> LockedFile:
        end = time.monotonic() + timeout
        while True:
            with explained("loading into", self.path):
                fd = os.open(self.path, os.O_CREAT | os.O_RDWR | CLOEXEC | BINARY, 0o644)
                locked = False
                try:
                    # Whoever had the lock may have renamed or removed the file; then this is no partial file any more.
                    locked = lock_fd(fd)
                    if locked and _is_at(fd, self.path):
                        open_to_group(fd, self.path.parent, SHARED_FILE)
                        held = LockedFile(fd)
                        fd = -1
                        return held
                finally:
                    if fd >= 0:
                        os.close(fd)
            if locked:
                continue
            if time.monotonic() >= end:
                raise RepoBusy(
                    f"Somebody else is loading {self.cid} into this data directory. Wait until that is done; the file "
                    "is here then."
                )
            time.sleep(LOCK_POLL_SECONDS)

    def _find_complete(self, checker: Checker) -> Path | None:
        """Our own copy, when there is one by now."""
        known = self._placer.own_copy(self.cid)
        if known is not None:
            return known[0]
        if not self._placer.layout.path_for(self.cid).is_file():
            return None
        # Somebody has renamed it just now and not committed its rows yet, or died in between: look into it.
        try:
            return checker.find(self.cid)
        except DamagedFile:
            return None

    def _open_set_aside(self) -> list[LikelyFile]:
        """A damaged copy of this file that was set aside last: most of its bytes are probably right."""
        layout = self._placer.layout
        newest: tuple[int, Path] | None = None
        for path in layout.damaged.glob(f"{layout.name_for(self.cid)}.*"):
            number = path.suffix[1:]
            if number.isdigit() and (newest is None or int(number) > newest[0]):
                newest = int(number), path
        file = None if newest is None else LikelyFile.open(newest[1])
        return [] if file is None else [file]

    def _present(self, refs: Sequence[Ref], batch: list[int]) -> Iterator[int]:
        """Those of the batch that are here, wherever here is."""
        leaves = [i for i in batch if refs[i].length is not None and refs[i].cid.codec in (RAW, DAG_PB)]
        missing: list[int] = []
        nothing_yet = self._fresh and not self._wrote
        for group, found in in_order(lambda g: (g, self._look(refs, g)), [] if nothing_yet else _split(refs, leaves)):
            for index, wrap in zip(group, found, strict=True):
                if wrap is None:
                    missing.append(index)
                else:
                    self._note_wrap_of(refs[index].cid, wrap)
                    yield index
        if nothing_yet:
            missing = leaves
        here = self._reader.sizes([refs[i].cid.multihash for i in missing])
        beneath = self._layers.sizes([refs[i].cid.multihash for i in missing if refs[i].cid.multihash not in here])
        for index in missing:
            ref = refs[index]
            length = ref.length
            assert length is not None
            if ref.cid.multihash in here or ref.cid.multihash in beneath:
                block = self._reader.get(ref.cid.multihash) if ref.cid.multihash in here else None
                block = self._layers.block(ref.cid.multihash) if block is None else block
                found_here = None if block is None else unwrap(ref.cid.codec, block, length)
                if found_here is not None:
                    self.write(ref.offset, found_here[1])
                    self._note_wrap_of(ref.cid, found_here[0])
                    yield index
                    continue
                if block is not None:
                    _refuse_lie(ref.cid, block, length)
            for file in self._likely:
                data = file.read(ref.offset, length)
                wrap = find_wrap(ref.cid.multihash, ref.cid.codec, data) if len(data) == length else None
                if wrap is not None:
                    self.write(ref.offset, data)
                    self._note_wrap_of(ref.cid, wrap)
                    yield index
                    break

    def _look(self, refs: Sequence[Ref], group: list[int]) -> list[int | None]:
        """The wrap of each reference whose bytes are right in the partial file, else None."""
        read = self._read
        found: list[int | None] = []
        for index in group:
            ref = refs[index]
            wrap = None
            if ref.length is not None and not is_hole(self._file.fd, ref.offset, ref.length):
                data = read(ref.offset, ref.length)
                if len(data) == ref.length:
                    wrap = find_wrap(ref.cid.multihash, ref.cid.codec, data)
            found.append(wrap)
        return found

    def _holes(self, start: int, end: int) -> int:
        """How many bytes between two offsets were never written; none where the file system does not tell."""
        if _SEEK_DATA is None or _SEEK_HOLE is None:
            return 0
        found = 0
        while start < end:
            try:
                data = min(os.lseek(self._file.fd, start, _SEEK_DATA), end)
                found += data - start
                start = end if data >= end else os.lseek(self._file.fd, data, _SEEK_HOLE)
            except OSError as error:
                # No data from there to the end; any other answer means that it cannot tell.
                return found + (end - start if error.errno == errno.ENXIO else 0)
        return found

    def _note_wrap_of(self, cid: CID, wrap: int) -> None:
        if cid.codec == DAG_PB:
            self._note_wrap(wrap)

    def _note_wrap(self, wrap: int) -> None:
        with self._noting:
            self._wraps[wrap] += 1

    def _known_wraps(self, size: int) -> Callable[[Leaf], int]:
        """Check that the DAG in the catalog is that of this file, and say how its leaves are wrapped.

        When all dag-pb leaves were seen coming, in one and the same wrap, that is it. Otherwise the bytes decide.
        """
        if self.cid.codec != DAG_PB:
            return lambda leaf: WRAP_NONE
        with self._noting:
            seen = self._wraps.copy()
        self._nodes.clear()
        try:
            leaves = sum(1 for _ in self._dag_pb_leaves(size, self._nodes))
            if len(seen) != 1 or seen.total() < leaves:
                look = WrapFinder(self._file.fd)
                seen = Counter(look(leaf) for leaf in self._dag_pb_leaves(size))
                if len(seen) > 1:
                    return look
        except MissingNode as error:
            raise RepoError(
                f"The inner node {error.cid} of {self.cid} is missing here. Load it again; what has arrived is kept."
            ) from None
        except MalformedDag as error:
            raise RepoError(f"The blocks of {self.cid} are not those of a file of {size} bytes: {error}") from error
        except DamagedFile as error:
            raise HashMismatch(str(error)) from error
        wrap = next(iter(seen), WRAP_NONE)
        return lambda leaf: wrap if leaf.cid.codec == DAG_PB else WRAP_NONE

    def _dag_pb_leaves(self, size: int, nodes: list[bytes] | None = None) -> Iterator[Leaf]:
        for leaf in walk_leaves(self.cid, size, self._reader.node, nodes):
            if leaf.inline is None and leaf.cid.codec == DAG_PB:
                yield leaf

    def _place(self) -> Path:
        """Rename the partial file into `ipfs/`."""
        layout = self._placer.layout
        path = layout.path_for(self.cid)
        with explained("storing", path):
            if os.path.lexists(path):
                if same_bytes(self._file.fd, path):
                    os.unlink(self.path)
                    return path
                self._placer.set_aside(path)
            if os.name != "posix":
                self._file.close()
            make_folders(path.parent)
            os.replace(self.path, path)
            if os.name == "posix":
                # Not before: a partial file must stay writable for whoever goes on with it after a crash.
                with suppress(PermissionError):  # another member of the group began it
                    os.fchmod(self._file.fd, os.fstat(self._file.fd).st_mode & 0o444)
            sync_folder(path.parent)
        return path

    def _discard(self) -> None:
        if self._file.fd >= 0:
            with explained("removing", self.path):
                if os.name != "posix":
                    self._file.close()
                try:
                    os.unlink(self.path)
                except FileNotFoundError:
                    pass
            self._close()

    def _close(self) -> None:
        try:
            self._write_back.close()
        except OSError:
            # The last fsync is what counts, and there was none: what is on the disk is hashed before it is used.
            pass
        while self._likely:
            self._likely.pop().close()
        self._file.close()


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file still has that path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _refuse_lie(cid: CID, block: bytes, length: int) -> None:
    """Refuse a leaf that is here and does not have the size that the node above it says.

    No peer can have a block that fits, so asking others for it is in vain.

    Raises:
        MalformedDag: the size is another one.
    """
    data = read_node(cid, block)[1]
    size = len(block) if data is None else data.filesize or 0
    if size != length:
        raise MalformedDag(f"The block {cid} has {size} bytes, but the node above it says {length}.")


def _split(refs: Sequence[Ref], indices: list[int]) -> Iterator[list[int]]:
    """Indices in groups of about one hashing task."""
    group: list[int] = []
    size = 0
    for index in indices:
        group.append(index)
        size += refs[index].length or 0
        if size >= TASK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
