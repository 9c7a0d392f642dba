"""UPnP Internet Gateway Devices, through miniupnpc, in threads.

miniupnpc looks for devices by SSDP multicast on the one interface it is told, then speaks SOAP over HTTP with the
device it found. It raises plain `Exception` with the text of the error.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import trio

from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.natpmp import Granted, MappingError

_CONFLICT = ("ConflictInMappingEntry", "Conflict")
_PERMANENT_ONLY = "OnlyPermanentLeasesSupported"


class Device:
    """The gateway that was found; its methods run in threads and raise `MappingError`."""

    def __init__(self, upnp: Any) -> None:
        self._upnp = upnp

    async def external_address(self) -> str:
        """Its external IPv4 address."""
        text = await _in_thread(self._upnp.externalipaddress)
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError as error:
            raise MappingError("The router has no external address itself.") from error

    async def map_port(self, internal: int, external: int, lifetime: int) -> Granted:
        """Ask for a mapping, or renew it; another external port is taken when that one belongs to somebody else."""
        local = self._upnp.lanaddr

        def add(port: int, seconds: int) -> object:
            return self._upnp.addportmapping(port, "TCP", local, internal, "kachery-cloud", "", seconds)

        for attempt in range(limits.MAP_PORT_TRIES):
            port = external + attempt if external + attempt < 65536 else external - attempt
            try:
                try:
                    await _in_thread(add, port, lifetime)
                except MappingError as error:
                    if _PERMANENT_ONLY not in str(error):
                        raise
                    await _in_thread(add, port, 0)
                return Granted(port, lifetime)
            except MappingError as error:
                if not any(word in str(error) for word in _CONFLICT):
                    raise
        raise MappingError(f"The router has given the ports from {external} on to others.")

    async def unmap_port(self, external: int) -> None:
        """Give the mapping back."""
        await _in_thread(self._upnp.deleteportmapping, external, "TCP")


async def discover(local: str, wait_ms: int) -> Device:
    """Look for a gateway on the interface that has this address of ours.

    Args:
        local: the address.
        wait_ms: how long answers are waited for, milliseconds.

    Raises:
        MappingError: none was found, or it is not the one of our network.
    """
    try:
        import miniupnpc
    except ImportError as error:
        raise MappingError("UPnP needs the package miniupnpc.") from error

    def look() -> Any:
        upnp = miniupnpc.UPnP(multicastif=local, discoverdelay=wait_ms)
        try:
            found = upnp.discover()
        except Exception as error:  # with the text "Success" when there is simply nobody
            raise MappingError("No UPnP device answered.") from error
        if not found:
            raise MappingError("No UPnP device answered.")
        upnp.selectigd()
        return upnp

    upnp = await _in_thread(look)
    if upnp.lanaddr != local:
        raise MappingError("The UPnP gateway that answered is not the one of our network.")
    return Device(upnp)


async def _in_thread(work: Any, *args: object) -> Any:
    """Run a call of miniupnpc in a thread.

    Raises:
        MappingError: the call failed, or did not end in time.
    """

    def call() -> Any:
        try:
            return work(*args)
        except MappingError:
            raise
        except Exception as error:
            raise MappingError(f"UPnP: {error}.") from error

    with trio.move_on_after(limits.UPNP_TIMEOUT):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)
    raise MappingError("The UPnP gateway did not answer in time.")
