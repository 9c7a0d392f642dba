"""Serving the gateway: its application behind the HTTP server that it shares with others (`kachery_p2p.http_server`).

Listening anywhere but on loopback is for the user to choose, and is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from kachery_p2p.gateway.server import limits
from kachery_p2p.gateway.server.app import GatewayApp
from kachery_p2p.gateway.server.content import Content, Fetch
from kachery_p2p.gateway.server.limits import GatewayLimits
from kachery_p2p.gateway.server.names import NameSource
from kachery_p2p.gateway.server.sites import Site
from kachery_p2p.gateway.server.view import View
from kachery_p2p.http_address import DEFAULT_ADDRESS, parse_address
from kachery_p2p.http_server import HttpServer

if TYPE_CHECKING:
    from kachery_p2p.access.gate import Gate
    from kachery_p2p.repo.contents import Contents
    from kachery_p2p.repo.repo import Repo

__all__ = ["DEFAULT_ADDRESS", "GatewayServer", "parse_address"]

log = logging.getLogger("kachery_p2p.gateway")


class GatewayServer(HttpServer):
    """An HTTP gateway over a repo.

    Args:
        address: see `parse_address`; port 0 is a free one.
        fetch: how to get what is not in the repo; None where only what is here is to be served.
        fetch_apart: the same for strangers, where anything is not for everyone; see `Content`.
        fetched_apart: what that has brought; None where that is nothing yet.
        names: host names by which it may be called, besides addresses and localhost.
        agent: what it says it is.
        resolver: resolves `/ipns/` names; None where none are resolved.
        bounds: what it gives to those who read from it.
        gate: decides what everyone may see; None where that is all there is.
        token: reads the token with which the user sees the rest; see `token`.
        origins: of pages that may use the token.
        sites: what else is served, beside `/ipfs/` and `/ipns/`.

    Raises:
        InvalidAddress: `address` is none.

    Use::

        await nursery.start(server.run)
        print(server.url)
    """

    def __init__(
        self,
        repo: Repo,
        address: str = DEFAULT_ADDRESS,
        *,
        fetch: Fetch | None = None,
        fetch_apart: Fetch | None = None,
        fetched_apart: Callable[[], Contents | None] = lambda: None,
        names: Iterable[str] = (),
        agent: str = "kachery-cloud",
        resolver: NameSource | None = None,
        bounds: GatewayLimits = limits.DEFAULTS,
        gate: Gate | None = None,
        token: Callable[[], str | None] = lambda: None,
        origins: Iterable[str] = (),
        sites: Sequence[Site] = (),
    ) -> None:
        content = Content(View(repo.own, gate, beside=fetched_apart), fetch, bounds, fetch_apart=fetch_apart)
        self._app = GatewayApp(
            content, names=names, agent=agent, resolver=resolver, token=token, origins=origins, sites=sites
        )
        super().__init__(self._app, address, what="The gateway", option="--gateway", bounds=bounds)

    @property
    def fetches(self) -> bool:
        """Whether what is not here is fetched from the network."""
        return self._app.fetches

    def _listening(self) -> None:
        if self.open_to_others:
            log.warning("The gateway at %s can be used by other machines, for what is here for everyone.", self.url)
