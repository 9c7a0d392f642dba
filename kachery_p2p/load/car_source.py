"""A CAR file as the source of a load: its blocks are found by their hash, in whatever order they lie.

A regular file is read once, from the front. A block that is wanted when it is met is taken then; where the others lie
is noted, and they are read there when they are wanted. So a file that was exported depth first, as all programs do, is
read in one go, and a directory with large files costs a second look at these alone.

Of a pipe there is no second look. What comes before it is wanted is kept in a temporary file of the data directory,
unless it is here already; files alone, depth first, need none of that.

A block is hashed before it is given out. Those that nobody wants are not looked at.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import stat
import tempfile
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import trio

from kachery_p2p.dag.car import CarReader, first_wrong, wrong_block
from kachery_p2p.dag.cid import CID, known_block
from kachery_p2p.errors import ContentNotFound, MalformedDag, UnsupportedCID
from kachery_p2p.load.car_index import BlockIndex
from kachery_p2p.load.limits import (
    CAR_HEAD_BYTES,
    CAR_PIPE_BYTES,
    CAR_RECENT_BYTES,
    CAR_TURN_BLOCKS,
    CAR_TURN_BYTES,
)
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.fileio import read_bytes_at

if TYPE_CHECKING:
    from kachery_p2p.bitswap.session import WantAnswer
    from kachery_p2p.load.interfaces import Place

#: In the list of blocks: it came through a pipe and was used, or what it holds was in its place already.
_USED = -1


@dataclass(frozen=True, slots=True)
class CarBlock:
    """A verified block."""

    cid: CID
    data: bytes
    placed: int = 0
    peer: str = ""


class BlocksHere(Protocol):
    """The blocks of this machine, as `kachery_p2p.load.arriving.Arriving` has them."""

    def has_block(self, multihash: bytes) -> int | None: ...
    def get_block(self, multihash: bytes) -> bytes | None: ...


class CarSource:
    """The blocks of one CAR file. For one thread at a time.

    Args:
        file: the CAR file, open for reading; what comes of it is of binary kind.
        folder: where what comes too early through a pipe is kept meanwhile.
        here: the blocks that this machine has, of files that are whole or arriving.

    Attributes:
        seekable: whether it is a regular file; else it is a pipe.
        ended: whether all of it was read.
        blocks: how many blocks were passed.
        size: bytes of these.
    """

    def __init__(self, file: BinaryIO, folder: Path, here: BlocksHere) -> None:
        self._file = file
        self._folder = folder
        self._here = here
        self._reader = CarReader(check=False)
        self._index = BlockIndex()
        found = _regular(file)
        self.seekable = found is not None
        self._fd, self._base = found or (-1, 0)
        self._spool: BinaryIO | None = None
        self._spooled = 0
        self._data = b""
        #: Wanted blocks of which it is known where they lie, by that.
        self._known: list[tuple[int, int, bytes, CID]] = []
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._recent_size = 0
        self.ended = False
        self.blocks = 0
        self.size = 0
        self._leaving = False
        self._failure: MalformedDag | UnsupportedCID | None = None

    @property
    def roots(self) -> list[CID] | None:
        """The roots that the CAR file names; None before its header was read."""
        return self._reader.roots

    def read(self) -> None:
        """Read on, of a pipe. It may block for as long as nothing comes."""
        if not self.seekable and not self._data and not self.ended:
            with explained("reading", "the CAR file"):
                # What is there, and not as much as was asked for, where the file can tell.
                read = getattr(self._file, "read1", self._file.read)
                while (data := read(CAR_PIPE_BYTES)) is None:  # of a pipe that does not block
                    select.select([self._file], [], [])
            self._data = data
            if not self._data:
                self._end()

    def begin(self) -> None:
        """Read on until the header is there.

        Raises:
            MalformedDag: this is no CAR file.
        """
        while self.roots is None and not self.ended and (self.seekable or self._data):
            self._step({}, [])
        if self.roots is None and self._failure is not None:
            raise self._failure

    def forget_wants(self) -> None:
        """Nothing of what was asked for so far is wanted any more."""
        self._known.clear()

    def used(self, multihashes: Iterable[bytes]) -> None:
        """These are in their places here: of a pipe they need not be kept."""
        if not self.seekable:
            for multihash in multihashes:
                self._index.add(multihash, _USED)

    def take(self, new: Sequence[CID], wanted: Mapping[bytes, CID]) -> list[CarBlock]:
        """Some of the blocks that are wanted. None at all where the file has ended, or after long enough a turn.

        Args:
            new: those that are wanted since the last turn.
            wanted: all of them.

        Raises:
            MalformedDag: the file is cut short, or is no CAR file from here on.
            HashMismatch: a block has other bytes than its CID says.
            UnsupportedCID: a block has a hash that cannot be checked.
        """
        for cid in new:
            place = self._index.find(cid.multihash)
            if place is not None:
                heapq.heappush(self._known, (*place, cid.multihash, cid))
        found = self._take_known(wanted)
        first = self.blocks
        while not self.ended and (self.seekable or self._data) and self.blocks - first < CAR_TURN_BLOCKS:
            if found and not (self._goes_on(wanted) and sum(len(each.data) for each in found) < CAR_TURN_BYTES):
                break
            self._step(wanted, found)
        self._check(found)
        if not found and self._failure is not None:
            raise self._failure
        return found

    def pass_on(self) -> None:
        """A turn in which nothing is wanted, to see whether the rest of the file is what it should be.

        Raises:
            MalformedDag, UnsupportedCID: it is not.
        """
        self._leaving = True
        first = self.blocks
        while not self.ended and (self.seekable or self._data) and self.blocks - first < CAR_TURN_BLOCKS:
            self._step({}, [])
        if self._failure is not None:
            raise self._failure

    def _goes_on(self, wanted: Mapping[bytes, CID]) -> bool:
        """Whether the next block of a regular file is wanted, too."""
        coming = self._reader.coming
        return self.seekable and coming is not None and coming[0].multihash in wanted

    def close(self) -> None:
        """Let go of what was kept. The CAR file itself is its user's."""
        self._index.close()
        if self._spool is not None:
            self._spool.close()

    # --- inside

    def _take_known(self, wanted: Mapping[bytes, CID]) -> list[CarBlock]:
        found: list[CarBlock] = []
        size = 0
        while self._known and size < CAR_TURN_BYTES:
            at, length, multihash, cid = heapq.heappop(self._known)
            block = self._recent.get(multihash) if at == _USED else self._stored(at, length)
            if block is None:
                block = self._here.get_block(multihash)
            if multihash in wanted and block is not None:
                found.append(CarBlock(cid, block))
                size += len(block)
        return found

    def _stored(self, at: int, length: int) -> bytes:
        if self.seekable:
            with explained("reading", "the CAR file"):
                return read_bytes_at(self._fd, length, self._base + at)
        assert self._spool is not None
        with explained("reading in", self._folder):
            self._spool.seek(at)
            return self._spool.read(length)

    def _step(self, wanted: Mapping[bytes, CID], found: list[CarBlock]) -> None:
        """Read on a little."""
        try:
            data = self._next_part(wanted)
            if not data:
                self._end()
                return
            taken = {each.cid.multihash for each in found}
            for cid, block in self._reader.feed(data):
                self._pass(cid, block, wanted, found, taken)
        except (MalformedDag, UnsupportedCID) as error:
            # What came before is good; the rest is not.
            self._failure, self.ended = error, True

    def _next_part(self, wanted: Mapping[bytes, CID]) -> bytes:
        reader = self._reader
        if not self.seekable:
            data, self._data = self._data, b""
            return data
        if reader.at_end:
            return b""
        size = CAR_HEAD_BYTES
        coming = reader.coming
        if coming is not None:
            cid, at, length = coming
            if cid.multihash in wanted:
                size += at + length - reader.position
            elif self._base + at + length > os.fstat(self._fd).st_size:
                return b""  # it is cut short
            else:
                self._index.add(cid.multihash, at, length)
                self.blocks += 1
                self.size += length
                reader.skip()
        with explained("reading", "the CAR file"):
            return read_bytes_at(self._fd, size, self._base + reader.position)

    def _pass(
        self, cid: CID, block: bytes, wanted: Mapping[bytes, CID], found: list[CarBlock], taken: set[bytes]
    ) -> None:
        """A block that is whole."""
        multihash = cid.multihash
        self.blocks += 1
        self.size += len(block)
        if self.seekable:
            self._index.add(multihash, self._reader.block_end - len(block), len(block))
        if multihash in wanted and multihash not in taken:
            taken.add(multihash)
            found.append(CarBlock(wanted[multihash], block))
            if not self.seekable:
                self._index.add(multihash, _USED)
                self._remember(multihash, block)
        elif not (self.seekable or self._leaving or self._index.find(multihash) or self._here.has_block(multihash)):
            self._keep(multihash, block)

    def _remember(self, multihash: bytes, block: bytes) -> None:
        if multihash in self._recent:
            return
        self._recent[multihash] = block
        self._recent_size += len(block)
        while self._recent_size > CAR_RECENT_BYTES:
            self._recent_size -= len(self._recent.popitem(last=False)[1])

    def _keep(self, multihash: bytes, block: bytes) -> None:
        with explained("keeping blocks for later in", self._folder):
            if self._spool is None:
                self._spool = tempfile.TemporaryFile(dir=str(self._folder))  # noqa: SIM115
            self._spool.seek(self._spooled)
            self._spool.write(block)
        self._index.add(multihash, self._spooled, len(block))
        self._spooled += len(block)

    def _check(self, found: list[CarBlock]) -> None:
        """Let out what is right. A wrong one is told once those before it are used."""
        wrong = first_wrong([(each.cid, each.data) for each in found])
        if wrong is not None:
            cid = found[wrong].cid
            del found[wrong:]
            if not found:
                raise wrong_block(cid)
            # The next turn begins with it.
            place = self._index.find(cid.multihash)
            if place is not None:
                heapq.heappush(self._known, (*place, cid.multihash, cid))

    def _end(self) -> None:
        self.ended = True
        try:
            self._reader.close()
        except MalformedDag as error:
            self._failure = error


class CarSession:
    """What a load needs of a session, with one source: a CAR file. Nobody is dialled, and nobody else may come."""

    def __init__(self, source: CarSource) -> None:
        self._source = source
        self._wanted: dict[bytes, CID] = {}
        self._new: list[CID] = []
        self._ready: deque[CarBlock] = deque()
        source.forget_wants()

    def want(self, cids: Iterable[CID], sizes: Mapping[bytes, int] | None = None) -> None:
        """Want these blocks."""
        for cid in cids:
            block = known_block(cid)
            if block is not None:
                self._ready.append(CarBlock(cid, block))
            elif cid.multihash not in self._wanted:
                self._wanted[cid.multihash] = cid
                self._new.append(cid)

    async def receive(self) -> CarBlock:
        """One of them."""
        while not self._ready:
            await self._take()
        return self._ready.popleft()

    async def receive_all(self) -> Sequence[CarBlock]:
        """Some of them."""
        while not self._ready:
            await self._take()
        ready = list(self._ready)
        self._ready.clear()
        return ready

    async def _take(self) -> None:
        source = self._source
        # A thread that waits for a pipe is left behind; it touches nothing but the pipe.
        await trio.to_thread.run_sync(source.read, abandon_on_cancel=not source.seekable)
        new, self._new = self._new, []
        found = await trio.to_thread.run_sync(source.take, new, self._wanted)
        for each in found:
            del self._wanted[each.cid.multihash]
        self._ready += found
        if not found and source.ended:
            cid = next(iter(self._wanted.values()))
            raise ContentNotFound(f"The block {cid} is not in the CAR file.")

    def missing(self) -> list[CID]:
        """What was wanted and has not come."""
        return list(self._wanted.values())

    # --- a CAR file has no peers

    def expecting(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def add_provider(self, peer_id: str) -> None:
        """Nobody is asked."""

    def locate(self, root: CID, blocks: Iterable[tuple[bytes, int, int]]) -> None:
        """It is known from the CAR file where its blocks are."""

    def gather(self, root: CID) -> None:
        """All of it is at hand."""

    def place(self, multihashes: Iterable[bytes], place: Place) -> None:
        """Its blocks come as bytes."""

    async def wait_exhausted(self) -> None:
        await trio.sleep_forever()  # `receive` says it

    def peers(self) -> Mapping[str, object]:
        return {}

    def answers(self, cid: CID) -> Mapping[str, WantAnswer]:
        return {}

    def gateways_said(self) -> Mapping[str, str]:
        return {}

    def lost(self) -> list[str]:
        return []

    def may_return(self) -> bool:
        return False

    def too_large(self) -> Mapping[CID, int]:
        return {}

    def last_sign(self) -> float:
        return trio.current_time()


def _regular(file: BinaryIO) -> tuple[int, int] | None:
    """The descriptor of a regular file and where in it the CAR file begins; None for a pipe and the like."""
    try:
        fd = file.fileno()
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd, file.tell()
    except (OSError, AttributeError, ValueError):
        pass
    return None
