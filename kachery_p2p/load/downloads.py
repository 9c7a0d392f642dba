"""The partial files that are open: one for all loads of one CID."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.load.arriving import Arriving
from kachery_p2p.waking import Signal

if TYPE_CHECKING:
    from kachery_p2p.repo.download import Download
    from kachery_p2p.repo.repo import Repo


@dataclass
class _OpenDownload:
    download: Download
    users: int = 0
    finishing: bool = False
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
    async def use(self, cid: CID) -> AsyncIterator[_OpenDownload | None]:
        """The open partial file of ``cid``; None when it was just finished and is an ordinary file now."""
        async with self._opening:
            entry = self._open.get(cid)
            if entry is None:
                download = await trio.to_thread.run_sync(self._repo.download, cid)
                entry = self._open[cid] = _OpenDownload(download)
            finishing = entry.finishing
            entry.users += not finishing
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
                        await trio.to_thread.run_sync(entry.download.close)
            entry.changed.notify()

    async def finish(self, entry: _OpenDownload, size: int) -> Path:
        """Put a whole file into place, when no range load writes to it any more."""
        entry.finishing = True
        try:
            while entry.users > 1:
                await entry.changed.wait()
            # A thread is not interrupted by a cancellation: this always runs to its end.
            return await trio.to_thread.run_sync(entry.download.finish, size)
        finally:
            entry.finishing = False
