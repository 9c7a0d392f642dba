"""A forwarded port on the router, asked for and kept.

NAT-PMP comes first, because it is one datagram to the router alone; then UPnP, whose search is heard by the whole
network.

Nothing is sent unless we listen on a private IPv4 address of the interface that leads to the default gateway; a node
that listens on loopback only, or has a public address there, is quiet. A mapping is renewed at half of its lifetime,
made anew when the network changes, and given back when the node stops in good order.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from kachery_p2p.transport.nat import limits, natpmp, upnp
from kachery_p2p.transport.nat.endpoints import IP, TcpEndpoint, from_text, is_public
from kachery_p2p.transport.nat.home_router import HomeRouter, default_gateway
from kachery_p2p.transport.nat.limits import NatLimits
from kachery_p2p.transport.nat.natpmp import Granted, MappingError
from kachery_p2p.waking import Flag

log = logging.getLogger("kachery_p2p.transport")


@dataclass(frozen=True)
class Mapping:
    """A port that the router forwards.

    Attributes:
        protocol: `NAT-PMP` or `UPnP`.
        gateway: the router, and our address on the way to it.
        internal: our port.
        external: where it can be reached, as the router says.
        expires: trio clock.
    """

    protocol: str
    gateway: HomeRouter
    internal: int
    external: TcpEndpoint
    expires: float


class _PortMapper(Protocol):
    """One way to talk with the router."""

    async def external_address(self) -> str: ...

    async def map_port(self, internal: int, external: int) -> Granted: ...

    async def unmap_port(self, internal: int, external: int) -> None: ...


class _NatPmp:
    def __init__(self, gateway: HomeRouter, bounds: NatLimits) -> None:
        self._gateway = gateway.address
        self._limits = bounds

    async def external_address(self) -> str:
        return await natpmp.external_address(self._gateway)

    async def map_port(self, internal: int, external: int) -> Granted:
        return await natpmp.map_port(self._gateway, internal, external, self._limits.map_lifetime)

    async def unmap_port(self, internal: int, external: int) -> None:
        await natpmp.unmap_port(self._gateway, internal)


class _Upnp:
    def __init__(self, gateway: HomeRouter, bounds: NatLimits) -> None:
        self._local = gateway.local
        self._limits = bounds
        self._device: upnp.Device | None = None

    async def _found(self) -> upnp.Device:
        if self._device is None:
            self._device = await upnp.discover(self._local, self._limits.ssdp_wait_ms)
        return self._device

    async def external_address(self) -> str:
        return await (await self._found()).external_address()

    async def map_port(self, internal: int, external: int) -> Granted:
        return await (await self._found()).map_port(internal, external, self._limits.map_lifetime)

    async def unmap_port(self, internal: int, external: int) -> None:
        await (await self._found()).unmap_port(external)


class PortMapper:
    """Keeps one TCP port mapped.

    Args:
        listening: gives the multiaddrs that this machine listens on.
        changed: is called when there is another mapping, or none.
        counts: which external addresses are of use; the public ones.
        bounds: of this node.
    """

    def __init__(
        self,
        listening: Callable[[], list[str]],
        changed: Callable[[], None],
        *,
        counts: Callable[[IP], bool] = is_public,
        bounds: NatLimits = limits.DEFAULTS,
    ) -> None:
        self._limits = bounds
        self._listening = listening
        self._changed = changed
        self._counts = counts
        self._again = Flag()
        self._router: _PortMapper | None = None
        self.mapping: Mapping | None = None
        #: what is going on, in plain words
        self.state = "not started"

    def network_changed(self) -> None:
        """Our addresses are others than before: look again."""
        self._again.set()

    @property
    def external(self) -> TcpEndpoint | None:
        """Where others can reach us through the mapping; `None` without one, or behind a second NAT."""
        mapping = self.mapping
        return mapping.external if mapping and self._counts(mapping.external.ip) else None

    async def run(self) -> None:
        """Map and renew until cancelled; then give the mapping back."""
        pause = limits.MAP_RETRY_FIRST
        try:
            while True:
                self._again.clear()
                target = await trio.to_thread.run_sync(self._target)
                wait = await self._step(target)
                if wait is None:
                    wait, pause = pause, min(2 * pause, limits.MAP_RETRY_LAST)
                else:
                    pause = limits.MAP_RETRY_FIRST
                if await self._other_target(target, trio.current_time() + wait):
                    pause = limits.MAP_RETRY_FIRST
        finally:
            with trio.CancelScope(deadline=trio.current_time() + limits.UNMAP_TIMEOUT, shield=True):
                await self._give_back()
            self.state = "stopped"

    async def _other_target(self, target: tuple[HomeRouter, int] | None, until: float) -> bool:
        """Wait; whether there is another gateway or address now. Addresses of containers come and go unheeded."""
        with trio.move_on_at(until):
            while True:
                await self._again.take()
                if await trio.to_thread.run_sync(self._target) != target:
                    return True
        return False

    async def _step(self, target: tuple[HomeRouter, int] | None) -> float | None:
        """Map or renew. Seconds until the next time; `None` when it did not work, or there is nothing to do."""
        if target is None:
            self._set(None)
            return None
        gateway, port = target
        if self.mapping and (self.mapping.gateway, self.mapping.internal) != target:
            self._set(None)
        tried = (
            [self._router]
            if self.mapping and self._router
            else [_NatPmp(gateway, self._limits), _Upnp(gateway, self._limits)]
        )
        reasons: list[str] = []
        for router in tried:
            try:
                return await self._map(router, gateway, port)
            except MappingError as error:
                log.debug("port mapping: %s", error)
                reasons.append(str(error))
        self.state = "no router gave us a port: " + " ".join(reasons)
        self._set(None)
        return self._limits.min_renewal if len(tried) == 1 else None  # one that had it: soon again, both ways

    async def _map(self, router: _PortMapper, gateway: HomeRouter, port: int) -> float:
        wished = self.mapping.external.port if self.mapping else port
        granted = await router.map_port(port, wished)
        address = ipaddress.IPv4Address(await router.external_address())
        self._router = router
        name = "NAT-PMP" if isinstance(router, _NatPmp) else "UPnP"
        external = TcpEndpoint(address, granted.port)
        self.state = f"{name}: the router at {gateway.address} forwards {external.text} to us"
        if not self._counts(address):
            self.state += ", but that is not a public address: there is another NAT behind it"
        lifetime = max(granted.lifetime, 2 * self._limits.min_renewal)
        self._set(Mapping(name, gateway, port, external, trio.current_time() + lifetime))
        return lifetime / 2

    def _set(self, mapping: Mapping | None) -> None:
        before, self.mapping = self.mapping, mapping
        if mapping is None:
            self._router = None
        if (before and before.external) != (mapping and mapping.external):
            self._changed()

    def _target(self) -> tuple[HomeRouter, int] | None:
        """The gateway, and our port on the interface that leads to it. Runs in a thread: it may call a program."""
        own = [each for each in map(from_text, self._listening()) if each is not None and each.ip.version == 4]
        own = [each for each in own if not each.ip.is_loopback]
        if not own:
            self.state = "not needed: we listen on no address of a network"
            return None
        gateway = default_gateway()
        if gateway is None:
            self.state = "not possible: this machine has no default gateway"
            return None
        for each in own:
            if str(each.ip) == gateway.local:
                if self._counts(each.ip):
                    self.state = "not needed: this machine has a public address"
                    return None
                return gateway, each.port
        self.state = "not possible: we do not listen on the interface that leads to the gateway"
        return None

    async def _give_back(self) -> None:
        if self.mapping is None or self._router is None:
            return
        try:
            await self._router.unmap_port(self.mapping.internal, self.mapping.external.port)
        except MappingError as error:
            log.debug("the mapping could not be given back: %s", error)
        self.mapping = self._router = None
