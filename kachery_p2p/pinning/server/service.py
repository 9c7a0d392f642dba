"""The pinning service put together: the queue, the API, and the listener (`kachery_p2p.http_server`)."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import trio

from kachery_p2p.errors import InvalidPinService
from kachery_p2p.http_server import HttpServer
from kachery_p2p.http_server_limits import HttpLimits
from kachery_p2p.pinning.server import limits
from kachery_p2p.pinning.server.app import PinApp
from kachery_p2p.pinning.server.keeper import Keeper
from kachery_p2p.pinning.server.limits import DEFAULT_ADDRESS, QueuePace
from kachery_p2p.pinning.server.queue import PinQueue
from kachery_p2p.pinning.server.store import PinStore

log = logging.getLogger("kachery_p2p.pinning.server")


class PinServer(HttpServer):
    """A pinning service over a node.

    Args:
        store: of pins and tokens; it is not closed here.
        keeper: of the node.
        address: see `kachery_p2p.http_address.parse_address`.
        most_bytes: that one pin may take.
        tls: certificate and key, where it speaks HTTPS itself.
        pace: when the queue does things next.
        bounds: of the listener.

    Attributes:
        queue: works off what is to be pinned.

    Raises:
        InvalidAddress: `address` is none.
    """

    def __init__(
        self,
        store: PinStore,
        keeper: Keeper,
        address: str = DEFAULT_ADDRESS,
        *,
        most_bytes: int = limits.DEFAULT_UPLOAD,
        tls: ssl.SSLContext | None = None,
        pace: QueuePace | None = None,
        bounds: HttpLimits = limits.HTTP,
    ) -> None:
        self.queue = PinQueue(store, keeper, most_bytes=most_bytes, pace=pace)
        app = PinApp(store, self.queue, keeper, bounds, most_bytes=most_bytes)
        what, option = "The pinning service", "--pinning-service"
        super().__init__(app, address, what=what, option=option, bounds=bounds, tls=tls)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled.

        Raises:
            AddressInUse: somebody else listens there, or this machine does not have the address.
            KacheryError: the list of pins cannot be used.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self.queue.run)
            await super().run(task_status=task_status)

    def _listening(self) -> None:
        if self.open_to_others and self._tls is None:
            log.warning(
                "The pinning service at %s speaks HTTP, so that others on the way can read its tokens. Give it "
                "--tls-cert and --tls-key, or put a proxy that speaks HTTPS before it.",
                self.url,
            )


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """HTTPS by files in PEM; the key may be in that of the certificate.

    Raises:
        InvalidPinService: they cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])

    def no_password() -> str:
        raise ValueError("the key has a password")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except (OSError, ValueError, ssl.SSLError) as error:
        raise InvalidPinService(
            f"HTTPS cannot be spoken with the certificate {certificate} and the key {key or certificate}: {error}. "
            "Both must be PEM files, the key without a password, and of that certificate."
        ) from error
    return context
