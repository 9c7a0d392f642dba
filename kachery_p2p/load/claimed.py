"""A claim (`kachery_p2p.repo.access`) while a load lasts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from kachery_p2p.repo.access import Claim


class Claimed:
    """A claim while it lasts. Its beginning and its end write to the disk, also where the load is cancelled."""

    def __init__(self, claim: AbstractContextManager[Claim]) -> None:
        self._claim = claim

    async def __aenter__(self) -> Claim:
        return await trio.to_thread.run_sync(self._claim.__enter__)

    async def __aexit__(self, *error: Any) -> bool | None:
        with trio.CancelScope(shield=True):
            return await trio.to_thread.run_sync(self._claim.__exit__, *error)
