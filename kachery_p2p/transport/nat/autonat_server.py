"""The AutoNAT server, versions 1 and 2: dials back whoever asks, and says whether that worked.

What keeps it from being a weapon (the specifications' rules, and go-libp2p's habits):

- Version 1 dials only the IP address that the request came from, whatever addresses the request names.
- Version 2 dials another one only after the requester has sent more bytes than the dial will cost, and then not at
  once.
- Requests over relays are refused, because nobody knows where they come from; so are those from private addresses,
  from our own address (whoever shares our NAT learns nothing from us), and those above the limits in `limits.py`,
  which count peers, IP addresses and the sum.
- A version 1 failure is told after the same time whatever its cause.

A dial back uses a socket of its own, never the listening port: a requester behind a NAT may have opened a hole for
that one by dialling us. It also uses an identity of its own, made anew for each process, as go-libp2p does, since the
requester's connection with our real one must not be taken for the answer.
"""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import KacheryError, MalformedMessage
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.transport import compat, multistream
from kachery_p2p.transport.addresses import interface_addresses
from kachery_p2p.transport.connection import Connection, Shared
from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.autonat_messages import (
    V1,
    V2_BACK,
    V2_DIAL,
    DialData,
    DialDataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    V1Dial,
    V1Response,
    V1Status,
    V2Status,
    decode_v1,
    decode_v2,
    encode_dial_back,
    encode_v1,
    encode_v2,
)
from kachery_p2p.transport.nat.endpoints import IP, TcpEndpoint, from_binary, from_text, is_public
from kachery_p2p.transport.nat.limits import NatLimits
from kachery_p2p.transport.pnet import PrivateIO
from kachery_p2p.transport.sockets import ByteIO, SocketIO, connect_tcp
from kachery_p2p.transport.stream import Stream
from kachery_p2p.transport.upgrade import Secured, upgrade
from kachery_p2p.wire import delimited, read_delimited

if TYPE_CHECKING:
    from kachery_p2p.transport.host import Host

log = logging.getLogger("kachery_p2p.transport")

_FAILURES = (KacheryError, OSError, trio.ClosedResourceError, trio.BrokenResourceError, trio.TooSlowError)


async def read_message(stream: Stream) -> bytes:
    """One message with its length.

    Raises:
        StreamError: it is too long or cut short.
    """
    return await read_delimited(stream, limits.MAX_MESSAGE, f"The peer {stream.peer} sent an AutoNAT message")


class RateLimit:
    """How much is served within a window: in all, for one peer, and for one IP address. Sans-IO."""

    def __init__(self) -> None:
        self._served: deque[tuple[float, str, IP]] = deque()

    def accept(self, peer: str, ip: IP, now: float) -> bool:
        """Whether a request may be served; if so it is counted."""
        while self._served and now - self._served[0][0] >= limits.SERVER_WINDOW:
            self._served.popleft()
        if (
            len(self._served) >= limits.SERVER_REQUESTS
            or sum(each[1] == peer for each in self._served) >= limits.SERVER_REQUESTS_PER_PEER
            or sum(each[2] == ip for each in self._served) >= limits.SERVER_REQUESTS_PER_IP
        ):
            return False
        self._served.append((now, peer, ip))
        return True


class AutonatServer:
    """Answers AutoNAT requests while `enable`d.

    Args:
        host: whose streams it serves.
        swarm_key: of the private network, where there is one: dial backs need it, too.
        counts: which IP addresses may be dialled and may ask; the public ones.
    """

    def __init__(
        self,
        host: Host,
        *,
        swarm_key: bytes | None = None,
        counts: Callable[[IP], bool] = is_public,
        bounds: NatLimits = limits.DEFAULTS,
    ) -> None:
        self._limits = bounds
        self._host = host
        self._swarm_key = swarm_key
        self._counts = counts
        self._rng = random.Random()
        self._keys: compat.Keys | None = None
        self._shared: Shared | None = None
        self._rate = RateLimit()
        #: requests in work
        self.busy = 0
        self.enabled = False
        #: requests served since the start, and how many of them by a dial back that worked
        self.served = 0
        self.reached = 0

    def enable(self, wanted: bool) -> None:
        """Serve, or serve no longer; peers learn of it through identify."""
        if wanted == self.enabled:
            return
        self.enabled = wanted
        if wanted:
            self._host.set_handler(V1, partial(self._serve, self._answer_v1))
            self._host.set_handler(V2_DIAL, partial(self._serve, self._answer_v2))
        else:
            self._host.remove_handler(V1)
            self._host.remove_handler(V2_DIAL)

    async def _serve(self, answer: Callable[[Stream], Awaitable[bytes]], stream: Stream) -> None:
        """One stream, within its time and the limit of those at once."""
        if self.busy >= limits.SERVER_CONCURRENT:
            stream.abort("too many AutoNAT requests at once")
            return
        self.busy += 1
        try:
            with trio.move_on_after(self._limits.server_timeout) as scope:
                await stream.write(delimited(await answer(stream)))
            if scope.cancelled_caught:
                stream.abort("the AutoNAT request took too long")
        finally:
            self.busy -= 1

    def _requester(self, stream: Stream) -> TcpEndpoint | None:
        """Where a request comes from; `None` when it is not served from there."""
        origin = from_text(stream.connection.address)  # None for an address through a relay
        if origin is None or not self._counts(origin.ip) or origin.ip in self._own_ips():
            return None
        return origin if self._rate.accept(stream.peer, origin.ip, trio.current_time()) else None

    def _own_ips(self) -> set[IP]:
        own = (from_text(each) for each in self._host.transport_addresses())
        # On loopback, in tests, everybody has our address.
        return {each.ip for each in own if each is not None and not each.ip.is_loopback}

    # --- version 1 -------------------------------------------------------------------------------------------------

    async def _answer_v1(self, stream: Stream) -> bytes:
        begun = trio.current_time()
        request = decode_v1(await read_message(stream))
        if not isinstance(request, V1Dial):
            raise MalformedMessage(f"The peer {stream.peer} sent an AutoNAT answer where a request belongs.")
        if request.peer and request.peer != peer_bytes(stream.peer):
            return encode_v1(V1Response(V1Status.BAD_REQUEST, "peer id mismatch"))
        origin = self._requester(stream)
        if origin is None:
            return encode_v1(V1Response(V1Status.DIAL_REFUSED, "not served from here, or too often"))
        named = (from_binary(raw) for raw in request.addresses)
        targets = dict.fromkeys([*(TcpEndpoint(origin.ip, each.port) for each in named if each is not None), origin])
        self.served += 1
        reached = await self._first_reached(list(targets)[: limits.MAX_DIAL_BACKS], stream.peer)
        if reached is not None:
            self.reached += 1
            return encode_v1(V1Response(V1Status.OK, "", reached.binary))
        await trio.sleep_until(begun + self._limits.failure_delay)
        return encode_v1(V1Response(V1Status.DIAL_ERROR, "dial failed"))

    async def _first_reached(self, targets: list[TcpEndpoint], peer: str) -> TcpEndpoint | None:
        """The first of the addresses at which that peer answers."""
        reached: list[TcpEndpoint] = []

        async def attempt(target: TcpEndpoint) -> None:
            try:
                io, _ = await self._connect(target, peer)
            except _FAILURES as error:
                log.debug("dial back to %s failed: %s", target.text, error)
                return
            io.close()
            reached.append(target)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(attempt, target)
        return reached[0] if reached else None

    async def _connect(self, target: TcpEndpoint, peer: str) -> tuple[ByteIO, Secured]:
        """A secured channel to that peer, from a port of its own.

        Raises:
            KacheryError, OSError, trio.TooSlowError: it cannot be reached; see `_FAILURES`.
        """
        if self._keys is None:
            self._keys = compat.Keys.from_seed(os.urandom(32))
        with trio.fail_after(self._limits.dial_back_timeout):
            sock = SocketIO(await connect_tcp(str(target.ip), target.port))
            io: ByteIO = sock if self._swarm_key is None else PrivateIO(sock, self._swarm_key)
            try:
                return io, await upgrade(io, self._keys, initiator=True, expected=peer)
            except BaseException:
                io.close()
                raise

    # --- version 2 -------------------------------------------------------------------------------------------------

    async def _answer_v2(self, stream: Stream) -> bytes:
        origin = self._requester(stream)
        request = decode_v2(await read_message(stream))
        if not isinstance(request, DialRequest):
            raise MalformedMessage(f"The peer {stream.peer} sent something else where a dial request belongs.")
        if origin is None:
            return encode_v2(DialResponse(V2Status.REQUEST_REJECTED))
        named = ((index, from_binary(raw)) for index, raw in enumerate(request.addresses))
        chosen = next(((index, each) for index, each in named if each is not None and self._willing(each.ip)), None)
        if chosen is None:
            return encode_v2(DialResponse(V2Status.DIAL_REFUSED))
        index, target = chosen
        self.served += 1
        if target.ip != origin.ip:
            await self._take_dial_data(stream, index)
            await trio.sleep(self._rng.random() * self._limits.dial_data_pause)
        status = await self._dial_back(target, stream.peer, request.nonce)
        self.reached += status == DialStatus.OK
        return encode_v2(DialResponse(V2Status.OK, index, status))

    def _willing(self, ip: IP) -> bool:
        """Whether an address is one to dial: it counts, is not ours, and this machine has that IP version."""
        if not self._counts(ip) or ip in self._own_ips():
            return False
        own = [each.ip for each in map(_endpoint, interface_addresses(ip.version)) if each is not None]
        if ip.version == 6:
            return any(self._counts(each) for each in own)
        return any(not each.is_loopback or self._counts(each) for each in own)

    async def _take_dial_data(self, stream: Stream, index: int) -> None:
        left = self._rng.randrange(limits.MIN_DIAL_DATA, limits.MAX_DIAL_DATA)
        await stream.write(delimited(encode_v2(DialDataRequest(index, left))))
        while left > 0:
            part = decode_v2(await read_message(stream))
            if not isinstance(part, DialData):
                raise MalformedMessage(f"The peer {stream.peer} sent something else where dial data belongs.")
            left -= part.size
            if left > 0 and part.size < limits.MIN_DIAL_DATA_MESSAGE:
                raise MalformedMessage(f"The peer {stream.peer} sends its dial data in crumbs.")

    async def _dial_back(self, target: TcpEndpoint, peer: str, nonce: int) -> DialStatus:
        try:
            io, secured = await self._connect(target, peer)
        except _FAILURES as error:
            log.debug("dial back to %s failed: %s", target.text, error)
            return DialStatus.DIAL_ERROR
        if self._shared is None:
            self._shared = Shared()
        connection = Connection(
            io,
            secured.records,
            peer=peer,
            address=target.text,
            initiator=True,
            shared=self._shared,
            serve=_refuse,
            plaintext=secured.plaintext,
        )
        status = DialStatus.DIAL_BACK_ERROR
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                with trio.move_on_after(limits.DIAL_BACK_STREAM_TIMEOUT):
                    try:
                        await _hand_over(connection, nonce)
                        status = DialStatus.OK
                    except _FAILURES as error:
                        log.debug("the nonce did not get to %s: %s", target.text, error)
                await connection.close()
                nursery.cancel_scope.cancel()
        finally:
            connection.abort("the dial back is done")
        return status


def _endpoint(host: str) -> TcpEndpoint | None:
    return from_text(f"/ip{6 if ':' in host else 4}/{host}/tcp/1")


async def _refuse(stream: Stream) -> None:
    """What the dialled peer opens on a dial back, identify for one, is not served."""
    stream.abort("this connection is only for the dial back")
    await trio.lowlevel.checkpoint()


async def _hand_over(connection: Connection, nonce: int) -> None:
    """Send the nonce, and wait until the peer has confirmed it.

    Raises:
        StreamError: the peer does not take it, or the stream broke.
    """
    stream = await connection.open_stream()
    stream.protocol = await multistream.select(stream, (V2_BACK,))
    await stream.write(delimited(encode_dial_back(nonce)))
    await stream.close_write()
    await stream.read(16)  # whatever it says, it got the message
    await stream.close()
