"""The partial files that are open: one for all loads of one CID."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.load.arriving import Arriving
from kachery_p2p.waking import Signal

if TYPE_CHECKING:
    from kachery_p2p.repo.access import Claim
    from kachery_p2p.repo.download import Download
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.wire import Buffer


@dataclass
class _OpenDownload:
    download: Download
    users: int = 0
    finishing: bool = False
    finished: bool = False
    changed: Signal = field(default_factory=Signal)


class Downloads:
    """The partial files that loads of this node have open; loads of one CID share one."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        #: What the block exchange serves from: what is in our own directory, and in these files already.
        self.arriving = Arriving(repo.own)
        self._open: dict[CID, _OpenDownload] = {}
        self._opening = trio.Lock()

    @contextlib.asynccontextmanager
    async def use(
        self, cid: CID, find: Callable[[], Path | None] = lambda: None, claim: Claim | None = None
    ) -> AsyncIterator[_OpenDownload | Path | None]:
        """The open partial file of ``cid``; None when it was just finished and is an ordinary file now.

        `find` looks for that file, in the thread that would open the partial one; where there is one, it is the answer.
        `claim` says for whom it is, where it is opened now.
        """

        def find_or_open() -> Download | Path:
            return find() or self._repo.download(cid, claim=claim)

        async with self._opening:
            entry = self._open.get(cid)
            found = await trio.to_thread.run_sync(find_or_open) if entry is None else None
            if found is not None and not isinstance(found, Path):
                entry = self._open[cid] = _OpenDownload(found)
            finishing = entry is not None and entry.finishing
            if entry is not None:
                entry.users += not finishing
        if entry is None:
            assert isinstance(found, Path), "there is one or the other"
            yield found
            return
        if finishing:
            while self._open.get(cid) is entry:
                await entry.changed.wait()
            yield None
            return
        try:
            yield entry
        finally:
            # Under the same lock: nobody may find the file here while it is being closed.
            with trio.CancelScope(shield=True):
                async with self._opening:
                    entry.users -= 1
                    if entry.users == 0:
                        del self._open[cid]
                        self.arriving.closed(entry.download)
                        if not entry.finished:  # which closes it
                            await trio.to_thread.run_sync(entry.download.close)
            entry.changed.notify()

    async def finish(self, entry: _OpenDownload, size: int, data: Buffer | None = None) -> Path | None:
        """Put a whole file into place, when nobody else writes to it any more.

        Args:
            entry: its partial file, in use by the caller.
            size: of it, in bytes.
            data: all of it, to be written; None where that is done.

        Returns:
            Its place; None where another load that has all of it does so, and waits until the caller has left.
        """

        def finish() -> Path:
            if data is not None:
                entry.download.allocate(size)
                entry.download.write(0, data)
            path = entry.download.finish(size)
            entry.finished = True
            return path

        if entry.finishing:
            return None
        entry.finishing = True
        try:
            while entry.users > 1:
                await entry.changed.wait()
            # A thread is not interrupted by a cancellation: this always runs to its end.
            return await trio.to_thread.run_sync(finish)
        finally:
            entry.finishing = False
