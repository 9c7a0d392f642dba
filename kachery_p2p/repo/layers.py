"""Data directories of others, which are read beneath one's own: opening them, and doing without them.

A layer is another user's, or lies on a disk that is mounted, so everything may be wrong with it: it is not there, may
not be read, is damaged, of a newer version, or on a server that does not answer. None of that ends a load, or holds it
up for long. It is said once, in the log, and by `kachery-cloud status`; then the layer rests for a minute.

Reads of a network file system whose server is gone do not return, and cannot be broken off. So where a layer is on one,
each look into it is made by a thread of its own. When that takes long, another thread asks the file system whether it
is there at all: hashing a large file may take as long as it likes, silence may not.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from kachery_p2p.access.audience import NOBODY, Audience
from kachery_p2p.dag.cid import CID, verify_block
from kachery_p2p.errors import DamagedFile, KacheryError, NoPermission, RepoError
from kachery_p2p.oserrors import explain
from kachery_p2p.repo.access import RootAccess
from kachery_p2p.repo.contents import Contents
from kachery_p2p.repo.hosts import network_file_system
from kachery_p2p.repo.inventory import Inventory
from kachery_p2p.repo.likely import LikelyFile
from kachery_p2p.repo.limits import LAYER_PROBE_SECONDS, LAYER_REST_SECONDS, LAYER_SILENCE_SECONDS
from kachery_p2p.repo.listing import RepoStats

log = logging.getLogger("kachery_p2p.repo")

T = TypeVar("T")


class Opened(Protocol):
    """A data directory that is open for reading: the part of `kachery_p2p.repo.repo.Repo` that is used of a layer."""

    own: Contents
    inventory: Inventory
    access: RootAccess

    @property
    def stats(self) -> RepoStats: ...

    def partial_for(self, cid: CID) -> Path: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class LayerState:
    """How one layer is.

    Attributes:
        directory: of it.
        problem: why it cannot be used now, a sentence; empty where it can.
        stats: what is in it; None where that cannot be told now.
    """

    directory: Path
    problem: str
    stats: RepoStats | None


class LayerIsOwn(Exception):
    """A layer that is the directory which it should lie beneath (internal; it is left out)."""


class Layer:
    """One data directory of others. Safe to use from many threads, and in a forked child.

    Args:
        directory: of it.
        open_to_read: opens it, so that nothing is written; raises LayerIsOwn.
        silence: seconds after which a network file system that does not answer is given up.
        rest: seconds for which a layer with which something is wrong is left alone.
        say: is given the sentence that says what is wrong.

    Attributes:
        problem: why it could not be used when it was last tried; empty where it could.
    """

    def __init__(
        self,
        directory: Path,
        open_to_read: Callable[[Path], Opened],
        *,
        silence: float = LAYER_SILENCE_SECONDS,
        rest: float = LAYER_REST_SECONDS,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self.directory = directory
        self.problem = ""
        self._open_to_read = open_to_read
        self._silence = silence
        self._rest = rest
        self._say = say
        self._opened: Opened | None = None
        self._is_own = False
        #: Whether it is on a disk of this machine, where no thread is needed.
        self._on_disk = False
        #: Until when it is left alone, and when its file system answered last (time.monotonic).
        self._rests_until = 0.0
        self._answered = 0.0
        self._said = ""

    def look(self, work: Callable[[Opened], T | None]) -> T | None:
        """What `work` finds in it; None where it finds nothing, and where the layer cannot be used now.

        Raises:
            KacheryError: what `work` raises because of the content: that something is not what it is asked for.
        """
        if self._is_own or time.monotonic() < self._rests_until:
            return None
        try:
            found = self._bounded(lambda: work(self._use()))
        except LayerIsOwn:
            self._is_own = True
            return None
        except (DamagedFile, FileNotFoundError) as error:
            # One file of it, which is damaged or was removed just now; the next layer, or a peer, may have it.
            log.info("in %s: %s", self.directory, error)
            return None
        except (RepoError, NoPermission) as error:
            self._fail(str(error))
            return None
        except KacheryError:
            raise
        except OSError as error:
            self._fail(str(explain(error, "reading", self.directory)))
            return None
        self.problem = ""
        return found

    def state(self) -> LayerState | None:
        """How it is now; None where it is one's own directory, which is no layer."""
        stats = self.look(lambda opened: opened.stats)
        return None if self._is_own else LayerState(self.directory, self.problem, stats)

    def close(self) -> None:
        """Close it; it is opened again when it is needed."""
        opened, self._opened = self._opened, None
        # What a thread that hangs has open cannot be closed: that would hang, too. It closes itself if it ever ends.
        if opened is not None and not self.problem:
            try:
                self._bounded(opened.close)
            except RepoError as error:
                log.info("%s was not closed: %s", self.directory, error)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _use(self) -> Opened:
        """The open directory. In the thread that may hang."""
        try:
            there = stat.S_ISDIR(os.stat(self.directory).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if not there:
            raise RepoError("It is not there. Perhaps it is not mounted.")
        if not self._on_disk and time.monotonic() > self._answered + LAYER_PROBE_SECONDS:
            # Rather here than within SQLite: a use of that which does not end is in the way of forks.
            self._probe()
        opened = self._opened
        if opened is None:
            opened = self._open_to_read(self.directory)
            # Of two threads that open it at once, one keeps its own: no lock, which a fork could copy while it is held.
            self._opened = opened
            self._on_disk = sys.platform.startswith("linux") and network_file_system(self.directory) is None
        return opened

    def _probe(self) -> None:
        """Ask the file system something that it cannot answer out of its memory."""
        if hasattr(os, "statvfs"):
            os.statvfs(self.directory)
        else:
            os.stat(self.directory)
        self._answered = time.monotonic()

    def _bounded(self, work: Callable[[], T]) -> T:
        """Do something, and give up where the file system does not answer.

        Raises:
            RepoError: it does not.
        """
        if self._on_disk:
            return work()
        call = _Call(work)
        while not call.wait(self._silence):
            if not _Call(self._probe).wait(self._silence):
                raise RepoError("Its file system does not answer: the server may be down, or the network.")
        return call.result()

    def _fail(self, why: str) -> None:
        self.problem = f"The shared directory {self.directory} cannot be used now, so loads go on without it: {why}"
        self._rests_until = time.monotonic() + self._rest
        self._opened = None
        if self._said != self.problem:
            self._said = self.problem
            self._say(self.problem)


class _Call(Generic[T]):
    """Something that is done in a thread of its own, which may never end."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name="kachery-layer", daemon=True).start()

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            self._error = error
        finally:
            self._done.set()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        return self._done.wait(seconds)

    def result(self) -> T:
        """What it has found, or raised."""
        if self._error is not None:
            raise self._error
        return self._found[0]


class Layers:
    """The layers beneath one data directory, in the order in which they are looked into."""

    def __init__(self, layers: Sequence[Layer] = ()) -> None:
        self._layers = tuple(layers)
        #: Their paths.
        self.directories = tuple(layer.directory for layer in self._layers)

    def __bool__(self) -> bool:
        return bool(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    def first(self, look: Callable[[Contents], T | None]) -> T | None:
        """What is found in the first layer that has it; see `Layer.look`."""
        for layer in self._layers:
            found = layer.look(lambda opened: look(opened.own))
            if found is not None:
                return found
        return None

    def holder(self, cid: CID) -> Path | None:
        """The directory of the layer that has a root or a block."""
        for layer in self._layers:
            if layer.look(lambda opened: opened.own.has_block(cid.multihash)) is not None:
                return layer.directory
        return None

    def sizes(self, multihashes: Sequence[bytes]) -> dict[bytes, int]:
        """The sizes of those of the blocks that one of them has."""
        found: dict[bytes, int] = {}
        for layer in self._layers if multihashes else ():
            left = [each for each in multihashes if each not in found]
            found.update(layer.look(lambda opened, left=left: opened.own.block_sizes(left)) or {})
        return found

    def block(self, multihash: bytes) -> bytes | None:
        """A block that one of them has. It is hashed here, whatever their catalogs say."""

        def look(contents: Contents, wanted: Sequence[bytes]) -> dict[bytes, bytes]:
            block = contents.get_block(multihash)
            return {} if block is None else {multihash: block}

        return self.blocks([multihash], look).get(multihash)

    def blocks(
        self, multihashes: Sequence[bytes], look: Callable[[Contents, Sequence[bytes]], dict[bytes, bytes]]
    ) -> dict[bytes, bytes]:
        """The same of many, as `look` finds them."""
        found: dict[bytes, bytes] = {}
        left = multihashes
        for layer in self._layers:
            if not left:
                break
            more = layer.look(lambda opened, left=left: look(opened.own, left)) or {}
            found.update((multihash, data) for multihash, data in more.items() if verify_block(multihash, data))
            left = [each for each in multihashes if each not in found]
        return found

    def audiences(self, multihashes: Sequence[bytes]) -> dict[bytes, Audience]:
        """Those of the blocks that not everyone may have who can ask one of them, and who may."""
        found: dict[bytes, Audience] = {}
        for layer in self._layers if multihashes else ():
            for multihash, audience in (
                layer.look(lambda opened: opened.access.audiences(multihashes) or None) or {}
            ).items():
                found[multihash] = found.get(multihash, NOBODY) | audience
        return found

    def likely_files(self, cid: CID) -> list[LikelyFile]:
        """Files in which bytes of that file probably lie at their place: what is loaded there only in part."""
        found: list[LikelyFile] = []
        for layer in self._layers:
            file = layer.look(lambda opened: LikelyFile.open(opened.partial_for(cid)))
            if file is not None:
                found.append(file.guarded(lambda work, layer=layer: layer.look(lambda _: work())))
        return found

    def states(self) -> list[LayerState]:
        """How each of them is."""
        return [state for layer in self._layers if (state := layer.state()) is not None]

    def close(self) -> None:
        """Close them; they are opened again when they are needed."""
        for layer in self._layers:
            layer.close()
