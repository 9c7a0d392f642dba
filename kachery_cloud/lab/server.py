"""The lab put together: the listener (`kachery_p2p.http_server`), the queue of pins, and what is done beside."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_cloud.lab import limits
from kachery_cloud.lab.app import LabApp
from kachery_cloud.lab.lab import Lab
from kachery_cloud.settings.values import DEFAULT_LAB
from kachery_p2p.errors import KacheryError
from kachery_p2p.http_server import HttpServer
from kachery_p2p.http_server_limits import HttpLimits
from kachery_p2p.pinning.server.app import PinApp
from kachery_p2p.pinning.server.keeper import Keeper
from kachery_p2p.pinning.server.limits import DEFAULT_UPLOAD, QueuePace
from kachery_p2p.pinning.server.queue import PinQueue
from kachery_p2p.pinning.server.store import PinStore

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.node.node import Node
    from kachery_p2p.pinning.server.rows import Pin

log = logging.getLogger("kachery_cloud.lab")

#: Seconds between two times of tidying up: what is over is not used before it is taken away.
_TIDY_SECONDS = 600.0


class LabServer(HttpServer):
    """The lab on one node.

    Args:
        config: the settings; `config.lab` is the address to listen on.
        node: of this process.
        store: of pins and tokens; it is not closed here.
        keeper: of the node, for pins.
        tls: certificate and key, where it speaks HTTPS itself.
        pace: when the queue of pins does things next.
        bounds: of the listener.
        wall: seconds since 1970.

    Attributes:
        lab: what its parts get.
        queue: works off what is to be pinned.

    Raises:
        InvalidAddress: the address is none.
    """

    def __init__(
        self,
        config: Config,
        node: Node,
        store: PinStore,
        keeper: Keeper,
        *,
        tls: ssl.SSLContext | None = None,
        pace: QueuePace | None = None,
        bounds: HttpLimits = limits.HTTP,
        wall: Callable[[], float] = time.time,
    ) -> None:
        most = DEFAULT_UPLOAD if config.max_pin_bytes is None else config.max_pin_bytes
        self.queue = PinQueue(store, keeper, most_bytes=most, pace=pace, groups_of=self._groups_of)
        self.lab = Lab(config, node, store, tls=tls is not None, wall=wall, queue=self.queue, keeper=keeper)
        app = LabApp(
            self.lab, PinApp(store, self.queue, keeper, bounds, admit=self.lab.projects.admit, most_bytes=most), bounds
        )
        address = config.lab or DEFAULT_LAB
        super().__init__(app, address, what="The lab", option="--lab", bounds=bounds, tls=tls)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled.

        Raises:
            AddressInUse: somebody else listens there, or this machine does not have the address.
            KacheryError: the database, or the list of pins, cannot be used.
        """
        await self.lab.begin()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tidy)
                await nursery.start(self.queue.run)
                await nursery.start(self.lab.projects.run)
                await nursery.start(self.lab.usage.run)
                await super().run(task_status=task_status)
        finally:
            with trio.CancelScope(shield=True):
                await self.lab.close()

    def _groups_of(self, pin: Pin) -> Sequence[str]:
        return self.lab.projects.groups_of(pin)

    def _listening(self) -> None:
        self.lab.url = self.url
        public = self.lab.config.lab_url
        if self.open_to_others and self._tls is None and (public is None or public.startswith("http:")):
            log.warning(
                "The lab at %s speaks HTTP, so that others on the way can take part as its members. Give it --tls-cert "
                "and --tls-key, or put a proxy that speaks HTTPS before it and say so with the setting lab_url.",
                self.url,
            )

    async def _tidy(self) -> None:
        while True:
            await trio.sleep(_TIDY_SECONDS)
            try:
                await self.lab.tidy()
            except KacheryError as error:
                log.warning("what is over could not be taken away: %s", error)
