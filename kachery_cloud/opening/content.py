"""The bytes of one file, here or elsewhere, for reads from any thread.

A read asks the node for what is missing of the blocks that it touches, waits, and then reads the (partial) file, where
the node has put and checked them. What is asked for ahead is not waited for; the reads that follow find it. All that
may wait is written as steps (`asking`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.errors import DamagedFile
from kachery_cloud.local import repository
from kachery_cloud.node.endpoint import NodeGone
from kachery_cloud.opening.asking import Steps, ask
from kachery_cloud.opening.extents import Range
from kachery_cloud.opening.limits import READ_AHEAD, REQUESTS_AT_ONCE, WHOLE_AT_EXIT
from kachery_cloud.opening.plan import Plan
from kachery_cloud.request import Request
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.fileio import read_bytes_at

if TYPE_CHECKING:
    from kachery_cloud.node.connection import Begun
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.filenode import FileNode
    from kachery_p2p.node.messages import LoadResult

_opened: weakref.WeakSet[Content] = weakref.WeakSet()
#: What the node is about to make whole, for the end of the process, which ends a node that runs in it.
_finishing: set[Future[LoadResult]] = set()
_waits_at_exit = False


class _Held:
    """An open file; closed when the last thread that reads from it lets go of it."""

    def __init__(self, path: str | Path, *, whole: bool) -> None:
        self.path = str(path)
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        #: What a whole file has to be like as long as it is read; a partial one changes.
        self.stamp = _stamp(self.fd) if whole else None

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def is_at(self, path: str) -> bool:
        """Whether that path leads to this file."""
        return os.path.samestat(os.fstat(self.fd), os.stat(path))


def _stamp(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns


@dataclass(eq=False)
class _Asked:
    """A part of the file that the node was asked for; the whole of it where `start` is `end`."""

    start: int
    end: int
    begun: Begun[LoadResult]
    failure: BaseException | None = None


class Content:
    """The bytes of the file that a request names.

    Args:
        request: what is opened, and how it is loaded.
        read_ahead: bytes that are fetched ahead at most.

    Attributes:
        size: of the file, in bytes, once it is open.
        moving: for whoever has a position in it: held while one is read from and set.
    """

    def __init__(self, request: Request, read_ahead: int = READ_AHEAD) -> None:
        self._request = request
        self._read_ahead = read_ahead
        self._lock = threading.Lock()
        self.moving = threading.RLock()
        self._closed = False
        self._held: _Held | None = None
        self._data: bytes | None = None
        self._asked: list[_Asked] = []
        self._finishing = False
        self._blocks: _Blocks | None = None
        self.size = 0
        self._plan = self._new_plan()

    def open(self) -> Steps[Content]:
        """Find it, here or elsewhere; to be done first.

        Raises:
            ContentNotFound: it is not here, and none of those who were asked has it.
            KacheryError: see `kachery_cloud.load.load_file`.
        """
        found = self._request.local()
        if found is None:
            yield from self._begin()
        else:
            if found.path is None:
                self._data = found.data
            else:
                self._hold(found.path, whole=True)
            self.size = found.size
        self._plan = self._new_plan()
        _opened.add(self)
        return self

    def _begin(self) -> Steps[None]:
        """Have the node look for the file."""
        from kachery_p2p.dag.cid import RAW

        request = self._request
        if not request.uri.path and request.uri.root.codec == RAW:  # it is one block
            result = yield from ask(request, "file")
        else:
            result = yield from ask(request, "bytes", start=0, end=0)
            if result.cid.codec == RAW:
                result = yield from ask(request, "file")
        self._point(result)
        assert result.size is not None, "what is opened is a file"
        self.size = result.size
        self._blocks = _Blocks(request, result.cid, result.size)

    def _new_plan(self) -> Plan:
        return Plan(self.size, self._blocks or _no_blocks, self._read_ahead)

    # --- reading

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here."""
        return self._data is not None or (self._held is not None and self._held.stamp is not None)

    def read(self, start: int, end: int) -> Steps[bytes]:
        """The bytes of a range, as far as the file goes.

        Raises:
            ValueError: it is closed.
            ContentNotFound: nobody has them now.
            DamagedFile: the file changed meanwhile.
        """
        end = min(end, self.size)
        if self._closed:
            raise ValueError("The file is closed.")
        if start >= end:
            return b""
        if self._data is not None:
            return self._data[start:end]
        return self._read((yield from self._bring([(start, end)])), start, end)

    def fetch(self, start: int, end: int) -> Steps[None]:
        """Have the bytes of a range here, so that reading them waits for nothing.

        Raises:
            KacheryError: as for `read`.
        """
        end = min(end, self.size)
        if self._data is None and start < end:
            yield from self._bring([(start, end)])

    def read_some(self, start: int, most: int) -> Steps[bytes]:
        """Up to `most` bytes: what is here already, or else what comes with the first of them."""
        if self._data is None and not self.is_whole:
            yield from self._bring([(start, min(start + 1, self.size))])
            with self._lock:
                if not self.is_whole:
                    most = min(most, max(1, self._plan.have.end_from(start) - start))
        return (yield from self.read(start, start + most))

    def read_many(self, ranges: Sequence[Range]) -> Steps[list[bytes]]:
        """The bytes of many ranges, in their order; what is missing of them is fetched at once.

        Raises:
            KacheryError: as for `read`.
        """
        cut = [(start, max(start, min(end, self.size))) for start, end in ranges]
        if self._closed:
            raise ValueError("The file is closed.")
        if self._data is not None:
            return [self._data[start:end] for start, end in cut]
        held = yield from self._bring([each for each in cut if each[0] < each[1]])
        return [self._read(held, start, end) if start < end else b"" for start, end in cut]

    def _read(self, held: _Held, start: int, end: int) -> bytes:
        with explained("reading", held.path):
            data = read_bytes_at(held.fd, end - start, start)
            # Only now: what was read before the stamp was taken is what the stamp speaks of.
            changed = held.stamp is not None and _stamp(held.fd) != held.stamp
        if changed or len(data) != end - start:
            raise DamagedFile(
                f"The local copy of {self._request.uri.locator} changed while it was open. Open it again."
            )
        return data

    def close(self) -> None:
        """Let go of it. What was fetched stays."""
        with self._lock:
            self._closed = True
            for asked in self._asked:
                if asked.start < asked.end:  # making it whole goes on
                    asked.begun.cancel()
            self._asked = []
            self._held = None

    # --- fetching

    def _bring(self, ranges: Sequence[Range]) -> Steps[_Held]:
        """Have these ranges here. Returns the file that they can be read from."""
        own: list[_Asked] = []
        noted = False
        try:
            while True:
                with self._lock:
                    self._take_what_came()
                    if self._closed:
                        raise ValueError("The file is closed.")
                    for asked in own:
                        if asked.failure is not None:
                            raise asked.failure
                    held = self._held
                    if held is not None and held.stamp is not None:
                        return held
                    missing = [part for start, end in ranges for part in self._plan.missing(start, end)]
                    if missing:
                        own += self._ask_for(missing)
                    if not noted:
                        noted = True
                        self._ask_ahead(ranges)
                    if not missing:
                        assert held is not None, "what is here is in a file"
                        self._make_whole()
                        return held
                    waited_for = [each.begun.future for each in self._asked if _overlaps(each, missing)]
                    waited_for = waited_for or [each.begun.future for each in self._asked]
                    assert waited_for, "what is missing is on its way"
                yield waited_for
        except BaseException:
            for asked in own:
                if not asked.begun.future.done():
                    asked.begun.cancel()
            raise

    def _ask_for(self, missing: Sequence[Range]) -> list[_Asked]:
        """Ask for what is not on its way, as far as there is room. What has none waits until something has come."""
        asked: list[_Asked] = []
        for part in missing:
            if len(self._asked) >= REQUESTS_AT_ONCE:
                break
            for start, end in self._plan.to_ask([part]):
                asked.append(self._ask(start, end))
        return asked

    def _ask(self, start: int, end: int) -> _Asked:
        from kachery_cloud.node.connection import get_connection
        from kachery_cloud.node.messages import load_call

        request = self._request
        try:
            everything = start == 0 and end >= self.size
            wanted = request.wanted("file", part=True) if everything else request.wanted("bytes", start=start, end=end)
            asked = _Asked(start, end, get_connection(request.config).begin(load_call(wanted), wanted))
        except BaseException:
            self._plan.failed(start, end)
            raise
        self._asked.append(asked)
        return asked

    def _ask_ahead(self, ranges: Sequence[Range]) -> None:
        for start, end in ranges:
            for part in self._plan.read(start, end):
                if len(self._asked) < REQUESTS_AT_ONCE:
                    self._ask(*part)
                else:
                    self._plan.failed(*part)

    def _make_whole(self) -> None:
        """Once all of it is here, let the node give it its place, as a load does."""
        from kachery_cloud.node.connection import get_connection
        from kachery_cloud.node.messages import load_call

        if self._plan.whole and not self._finishing:
            self._finishing = True
            wanted = self._request.wanted("file", part=True)
            begun = get_connection(self._request.config).begin(load_call(wanted), wanted)
            self._asked.append(_Asked(0, 0, begun))
            _wait_at_exit(begun.future)

    def _take_what_came(self) -> None:
        for asked in [each for each in self._asked if each.begun.future.done()]:
            self._asked.remove(asked)
            try:
                self._point(asked.begun.future.result())
            except NodeGone:
                asked.begun.forget()
                self._plan.failed(asked.start, asked.end)  # the next one is asked
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                asked.failure = error
                self._plan.failed(asked.start, asked.end)
            else:
                self._plan.came(asked.start, asked.end)

    def _point(self, result: LoadResult) -> None:
        """Hold the file that the node has named."""
        assert result.path is not None, "bytes that were loaded are in a file"
        with contextlib.suppress(FileNotFoundError):  # another load finished it, or it was removed
            if self._held is not None and self._held.path == result.path and self._held.is_at(result.path):
                return
        whole = repository(self._request.config).find_file(result.cid)
        self._hold(result.path if whole is None else whole, whole=whole is not None)

    def _hold(self, path: str | Path, *, whole: bool) -> None:
        before = self._held
        with explained("opening", path):
            self._held = _Held(path, whole=whole)
            if before is not None and not before.is_at(str(path)):
                # Somebody removed the partial file, and what was in it.
                self._plan.lost()

    # --- forks

    def _after_fork(self) -> None:
        """In the child: what the parent had under way comes to the parent, and its threads are not here."""
        self._lock = threading.Lock()
        self.moving = threading.RLock()
        self._asked = []
        self._finishing = False
        self._plan = self._new_plan()


def _no_blocks(start: int, end: int, here: bool = False) -> Range:
    return start, end


class _Blocks:
    """Which whole blocks have bytes of a range, as far as the nodes of the file are here."""

    def __init__(self, request: Request, cid: CID, size: int) -> None:
        self._request = request
        self._cid = cid
        self._size = size
        #: A guess for where they are not: most files have blocks of one size, and then this is it.
        self._step = 1

    def __call__(self, start: int, end: int, here: bool = False) -> Range:
        first = self._leaf(start, here)
        return first[0], first[1] if end <= first[1] else self._leaf(end - 1, here)[1]

    def _leaf(self, at: int, here: bool) -> Range:
        from kachery_p2p.dag.cid import DAG_PB

        start, length, cid = 0, self._size, self._cid
        while True:
            node = self._node(cid) if cid.codec == DAG_PB else None
            if node is None and cid.codec == DAG_PB and not here:
                # Perhaps a leaf. Else the node that divides it is not here.
                begin = max(start, at // self._step * self._step)
                return begin, min(begin + self._step, start + length)
            if node is None or not node.count:
                break
            if at - start < len(node.data):
                return start, start + len(node.data)
            (child,) = node.children(at - start, at - start + 1)
            cid, start, length = child.cid, start + child.offset, child.length
        if start + length < self._size and start % length == 0:
            self._step = length
        return start, start + length

    def _node(self, cid: CID) -> FileNode | None:
        repo = repository(self._request.config)
        node = repo.file_nodes.get(cid)
        if node is None:
            block = repo.get_node(cid.multihash)
            node = None if block is None else repo.file_nodes.decode(cid, block, file=self._cid)
        return node


def _overlaps(asked: _Asked, ranges: Sequence[Range]) -> bool:
    return any(asked.start < end and start < asked.end for start, end in ranges)


def _wait_at_exit(future: Future[LoadResult]) -> None:
    global _waits_at_exit
    _finishing.add(future)
    future.add_done_callback(_finishing.discard)
    if not _waits_at_exit:
        _waits_at_exit = True
        # The node needs threads for it, and when what `atexit` knows is called there are none to be had any more. What
        # is registered here is called before that, the last first. Where there is no such thing, nobody waits.
        register = getattr(threading, "_register_atexit", None)
        if register is not None:
            with contextlib.suppress(RuntimeError):  # the process is ending already
                register(wait_for_whole)


def wait_for_whole() -> None:
    """Wait a while for files of which all was read to get their place."""
    with contextlib.suppress(KeyboardInterrupt):  # whoever interrupts it wants the process to end
        wait(list(_finishing), timeout=WHOLE_AT_EXIT)


def _after_fork() -> None:
    _finishing.clear()  # they come to the parent
    for content in list(_opened):
        content._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
