"""Putting what arrives of a directory into the repo, while more of it arrives.

One task stores whatever has gathered, in one transaction, in a thread; meanwhile the next gathers. So the wire is not
idle while the disk works, the disk not while the wire does, and the slower of the two sets the pace: where that is the
disk, what gathers is bounded, and nothing more is taken from the session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError
from kachery_p2p.load.limits import LoadLimits
from kachery_p2p.waking import Signal

if TYPE_CHECKING:
    from kachery_p2p.repo.access import Claim
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.wire import Buffer


class Keeper:
    """Stores the nodes and the small files of one directory.

    Args:
        repo: where they go.
        limits: how many gather.
        kept: called with the multihashes of blocks that are stored now, and the bytes of files among them.
        claim: for whom it all is; None for everybody.
    """

    def __init__(
        self,
        repo: Repo,
        limits: LoadLimits,
        kept: Callable[[Sequence[bytes], int], None],
        claim: Claim | None = None,
    ) -> None:
        self._repo = repo
        self._claim = claim
        self._limits = limits
        self._kept = kept
        self._nodes: list[tuple[CID, Buffer]] = []
        self._files: list[tuple[CID, Buffer]] = []
        self._size = 0
        self._storing = False
        self._closed = False
        self._changed = Signal()
        #: Why something could not be stored.
        self.failure: KacheryError | None = None

    async def run(self, scope: trio.CancelScope) -> None:
        """Store until it is closed and nothing is left, also when it is cancelled: what has come is not fetched again.

        Should it fail, `scope` is cancelled, and `failure` set.
        """
        with trio.CancelScope(shield=True):
            await self._run(scope)

    async def _run(self, scope: trio.CancelScope) -> None:
        while True:
            while not (self._nodes or self._files):
                if self._closed:
                    return
                await self._changed.wait()
            nodes, files, size = self._nodes, self._files, self._size
            self._nodes, self._files, self._size = [], [], 0
            self._storing = True
            self._changed.notify()
            try:
                await trio.to_thread.run_sync(self._store, nodes, files)
            except KacheryError as error:
                self.failure = error
                scope.cancel()
                return
            finally:
                self._storing = False
            stored = [cid.multihash for each in (nodes, files) for cid, _ in each]
            self._kept(stored, size - sum(len(block) for _, block in nodes))
            self._changed.notify()

    def _store(self, nodes: list[tuple[CID, Buffer]], files: list[tuple[CID, Buffer]]) -> None:
        if nodes:
            self._repo.put_blocks(nodes, self._claim)
        if files:
            self._repo.add_small_files(files, self._claim)

    async def node(self, cid: CID, block: Buffer) -> None:
        """Keep a node of a directory or file, or a symbolic link. Waits while too much has gathered."""
        await self._room()
        self._nodes.append((cid, block))
        self._added(block)

    async def file(self, cid: CID, data: Buffer) -> None:
        """Keep the bytes of a file that is one block. Waits while too much has gathered."""
        await self._room()
        self._files.append((cid, data))
        self._added(data)

    def _added(self, data: Buffer) -> None:
        self._size += len(data)
        if len(self._nodes) + len(self._files) == 1:
            self._changed.notify()

    async def _room(self) -> None:
        limits = self._limits
        while self._size >= limits.batch_bytes or len(self._nodes) + len(self._files) >= limits.batch_files:
            await self._changed.wait()

    async def flush(self) -> None:
        """Wait until everything is stored."""
        while self._nodes or self._files or self._storing:
            await self._changed.wait()

    def close(self) -> None:
        """Nothing more comes: `run` ends when everything is stored."""
        self._closed = True
        self._changed.notify()
