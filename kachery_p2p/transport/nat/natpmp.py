"""NAT-PMP (RFC 6886): asking the router for its external address and a forwarded TCP port, in twelve bytes of UDP."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.transport.nat import limits

PORT = 5351
_EXTERNAL, _MAP_TCP, _ANSWER = 0, 2, 128
_RESULTS = {
    1: "it speaks another version of NAT-PMP",
    2: "it does not allow port mappings",
    3: "it has no external address itself",
    4: "it has no room for more mappings",
    5: "it does not know that request",
}


class MappingError(KacheryError):
    """No port could be mapped; the message says why. Nothing depends on it: the node goes on without."""

    exit_code = 6


class Granted(NamedTuple):
    """A mapping: the port outside, and for how many seconds."""

    port: int
    lifetime: int


def map_request(internal: int, external: int, lifetime: int) -> bytes:
    """The request for a TCP mapping; a lifetime of 0 takes it back."""
    return struct.pack("!BBHHHL", 0, _MAP_TCP, 0, internal, external, lifetime)


def parse_answer(data: bytes, operation: int, size: int) -> bytes | None:
    """What follows the head (version, operation, result, seconds since the router started) of an answer.

    `None` when it is not the answer to that request.

    Raises:
        MappingError: the router refused.
    """
    if len(data) < 4 or data[1] != _ANSWER + operation:
        return None
    version, _, result = struct.unpack_from("!BBH", data)
    if result or version:
        raise MappingError(f"The router refused: {_RESULTS.get(result, f'result {result}')}.")
    return data[8:size] if len(data) >= size else None


async def _exchange(gateway: str, operation: int, request: bytes, size: int) -> bytes:
    """Send a request until it is answered; only datagrams of the gateway count.

    Raises:
        MappingError: the router refused, or did not answer.
    """
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            await sock.connect((gateway, PORT))
            wait = limits.NATPMP_FIRST_WAIT
            for _ in range(limits.NATPMP_TRIES):
                await sock.send(request)
                with trio.move_on_after(wait):
                    while True:
                        answer = parse_answer(await sock.recv(64), operation, size)
                        if answer is not None:
                            return answer
                wait *= 2
        except OSError as error:
            raise MappingError("The router does not speak NAT-PMP.") from error
    raise MappingError("The router did not answer to NAT-PMP.")


async def external_address(gateway: str) -> str:
    """The router's external IPv4 address.

    Raises:
        MappingError: the router refused, or did not answer.
    """
    raw = await _exchange(gateway, _EXTERNAL, struct.pack("!BB", 0, _EXTERNAL), 12)
    return str(ipaddress.IPv4Address(raw))


async def map_port(gateway: str, internal: int, external: int, lifetime: int) -> Granted:
    """Ask for a mapping, or renew it; the router may choose another external port.

    Raises:
        MappingError: the router refused, or did not answer.
    """
    raw = await _exchange(gateway, _MAP_TCP, map_request(internal, external, lifetime), 16)
    inside, outside, granted = struct.unpack("!HHL", raw)
    if inside != internal:
        raise MappingError("The router answered for another port.")
    return Granted(outside, granted)


async def unmap_port(gateway: str, internal: int) -> None:
    """Give the mapping back.

    Raises:
        MappingError: the router refused, or did not answer.
    """
    await _exchange(gateway, _MAP_TCP, map_request(internal, 0, 0), 16)
