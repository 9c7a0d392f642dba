"""Reading, hashing and copying on both cores, with results in order and memory that does not grow.

hashlib, reads and writes let go of the GIL, so two plain threads use two cores. Work is cut into tasks of a few MiB; at
most a handful are under way, and each thread reuses its buffer.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

from kachery_p2p.dag.builder import leaf_wrap
from kachery_p2p.dag.hashes import SHA2_256_PREFIX
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.errors import RepoError
from kachery_p2p.repo.fileio import Progress, WriteBack, read_at, write_at
from kachery_p2p.repo.limits import HASH_THREADS, TASK_BYTES, TASKS_AHEAD

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """Yield `work(task)` for each task, in order, done in `HASH_THREADS` threads with at most `TASKS_AHEAD` under way.

    One task alone is done by the caller. When the caller stops, or a task raises, no further task is begun and the
    threads have ended before this returns.
    """
    waiting = iter(tasks)
    first = list(islice(waiting, 2))
    if len(first) < 2:
        for task in first:
            yield work(task)
        return
    pool = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="kachery-hash")
    under_way: deque[Future[R]] = deque()
    process = os.getpid()

    def next_result() -> R:
        if os.getpid() != process:
            # Its caller forked, and the child came back here, where the threads are not.
            raise RepoError(
                "This process was forked in the middle of reading a file; only its parent can go on with that."
            )
        return under_way.popleft().result()

    try:
        for task in chain(first, waiting):
            under_way.append(pool.submit(work, task))
            if len(under_way) >= TASKS_AHEAD:
                yield next_result()
        while under_way:
            yield next_result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class FileReader:
    """Reads an open file in many threads, each into a buffer of its own that it uses again and again."""

    def __init__(self, fd: int, largest: int) -> None:
        self._fd = fd
        self._largest = largest
        self._local = threading.local()
        if hasattr(os, "posix_fadvise"):
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            except OSError:
                # Only a hint; pipes and some network file systems refuse it.
                pass

    def __call__(self, offset: int, length: int) -> memoryview:
        """`length` bytes at `offset`, fewer at the file's end; valid until the thread's next call."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < length:
            buffer = self._local.buffer = memoryview(bytearray(max(length, self._largest)))
        got = read_at(self._fd, buffer[:length], offset)
        return buffer[:got]


class TooShort(Exception):
    """The reader gave fewer bytes than there should be."""


def leaf_hashes(
    read: Callable[[int, int], memoryview],
    size: int,
    profile: Profile,
    *,
    copy_to: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[bytes, int]]:
    """The (multihash, length) of each leaf of `size` bytes, in file order; none when there are no bytes.

    Args:
        read: called with an offset and a length, in both threads.
        size: of the file.
        profile: what the file is cut by.
        copy_to: an open file that gets the very bytes that are hashed.
        progress: called with the bytes done and their total.

    Raises:
        TooShort: the reader runs out.
        OSError: the system does not allow it.
    """
    chunk = profile.chunk_size
    run = max(1, TASK_BYTES // chunk) * chunk
    write_back = WriteBack(copy_to) if copy_to is not None and size > run else None
    sha256 = hashlib.sha256

    def work(start: int) -> list[tuple[bytes, int]]:
        leaves: list[tuple[bytes, int]] = []
        stop = min(start + run, size)
        for offset in range(start, stop, chunk):
            length = min(chunk, size - offset)
            data = read(offset, length)
            if len(data) != length:
                raise TooShort
            head, tail = leaf_wrap(profile, length)
            if head:
                digest = sha256(head)
                digest.update(data)
                digest.update(tail)
            else:
                digest = sha256(data)
            leaves.append((SHA2_256_PREFIX + digest.digest(), length))
            if copy_to is not None:
                write_at(copy_to, data, offset)
        if write_back is not None:
            write_back.wrote(stop - start)
        return leaves

    done = 0
    try:
        for leaves in in_order(work, range(0, size, run)):
            for leaf in leaves:
                done += leaf[1]
                yield leaf
            if progress is not None:
                progress(done, size)
    finally:
        if write_back is not None:
            write_back.close()
