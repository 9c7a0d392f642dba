"""The AutoNAT client, versions 1 and 2: asks one server whether it can dial us, and gives what it learned.

Whom to ask, how often, and what to make of several answers is `reachability.py`'s business.

A version 2 answer is checked: "I reached you there" counts only when the nonce of the request has come in on a
connection that somebody else opened to us. A server can still claim to have used another of our addresses than it
did, so even that needs several servers. A version 1 answer is a bare claim.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import StreamError
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.autonat_messages import (
    DIAL_BACK_RESPONSE,
    V1,
    V2_BACK,
    V2_DIAL,
    DialDataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    V1Dial,
    V1Response,
    V1Status,
    V2Status,
    decode_dial_back,
    decode_v1,
    decode_v2,
    encode_dial_data,
    encode_v1,
    encode_v2,
)
from kachery_p2p.transport.nat.autonat_server import read_message
from kachery_p2p.transport.nat.endpoints import TcpEndpoint, from_binary
from kachery_p2p.transport.nat.limits import NatLimits
from kachery_p2p.transport.stream import ConnectionLike, Stream
from kachery_p2p.wire import delimited

if TYPE_CHECKING:
    from kachery_p2p.transport.host import Host

_DIAL_DATA = bytes(4000)


@dataclass
class DialBackAnswer:
    """What one server says.

    Attributes:
        reached: the addresses it dialled, and whether we answered there.
        overall: whether it could reach us at all. Version 1 says only this when it could not.
    """

    reached: dict[TcpEndpoint, bool] = field(default_factory=dict)
    overall: bool = False


@dataclass
class _Expected:
    """A nonce on its way to us."""

    asked_on: ConnectionLike
    came_at: str = ""
    event: trio.Event = field(default_factory=trio.Event)


class AutonatClient:
    """Asks servers. `start` must have been called, so that version 2 servers can hand over their nonces."""

    def __init__(self, host: Host, *, bounds: NatLimits = limits.DEFAULTS) -> None:
        self._limits = bounds
        self._host = host
        # A nonce that can be guessed would let a server without any dial claim one.
        self._rng = random.SystemRandom()
        self._expected: dict[int, _Expected] = {}

    def start(self) -> None:
        """Take nonces."""
        self._host.set_handler(V2_BACK, self._take_nonce)

    def stop(self) -> None:
        """Take no more."""
        self._host.remove_handler(V2_BACK)

    def speaks(self, peer: str) -> str:
        """The version to use with a peer, the newer one where it speaks both; empty when it is no server."""
        spoken = self._host.protocols_of(peer)
        return V2_DIAL if V2_DIAL in spoken else V1 if V1 in spoken else ""

    async def ask(
        self, peer: str, addresses: Sequence[TcpEndpoint], listening: Sequence[TcpEndpoint]
    ) -> DialBackAnswer:
        """Have a server dial us.

        Args:
            peer: a connected server.
            addresses: what it should dial, the most interesting first.
            listening: where we listen, private addresses too: a version 1 server puts the IP address it sees us at
                in their place.

        Raises:
            StreamError: it refused, made no sense, or did not answer within `limits.ASK_TIMEOUT` seconds.
        """
        with trio.move_on_after(limits.ASK_TIMEOUT):
            # Version 2 dials only what it is given. Where we have no idea, version 1 knows where to look.
            if self.speaks(peer) == V2_DIAL and (addresses or V1 not in self._host.protocols_of(peer)):
                return await self._ask_v2(peer, addresses)
            return await self._ask_v1(peer, [*addresses, *listening])
        raise StreamError(f"The peer {peer} did not answer an AutoNAT request within {limits.ASK_TIMEOUT:g} seconds.")

    # --- version 1 -------------------------------------------------------------------------------------------------

    async def _ask_v1(self, peer: str, addresses: Sequence[TcpEndpoint]) -> DialBackAnswer:
        request = V1Dial(peer_bytes(self._host.peer_id), tuple(dict.fromkeys(each.binary for each in addresses)))
        async with await self._host.open_stream(peer, (V1,)) as stream:
            await stream.write(delimited(encode_v1(request)))
            response = decode_v1(await read_message(stream))
        if not isinstance(response, V1Response):
            raise StreamError(f"The peer {peer} answered an AutoNAT request with a request.")
        if response.status == V1Status.OK:
            dialled = from_binary(response.address)
            return DialBackAnswer({} if dialled is None else {dialled: True}, overall=True)
        if response.status == V1Status.DIAL_ERROR:
            return DialBackAnswer()
        raise StreamError(f"The peer {peer} did not dial back: {response.text or f'status {response.status}'}.")

    # --- version 2 -------------------------------------------------------------------------------------------------

    async def _ask_v2(self, peer: str, addresses: Sequence[TcpEndpoint]) -> DialBackAnswer:
        """One request for each address, until the server wants no more of them."""
        left = list(dict.fromkeys(addresses))[: limits.MAX_ASKED_ADDRESSES]
        answer = DialBackAnswer()
        paid = False
        while left:
            try:
                index, reached, paid = await self._one_request(peer, left, paid)
            except StreamError:
                if answer.reached:
                    break  # what it said before is worth something
                raise
            answer.reached[left.pop(index)] = reached
        answer.overall = any(answer.reached.values())
        if not answer.reached:
            raise StreamError(f"There is no address that the peer {peer} could be asked to dial.")
        return answer

    async def _one_request(self, peer: str, addresses: Sequence[TcpEndpoint], paid: bool) -> tuple[int, bool, bool]:
        """Which address was dialled, whether we were reached there, and whether dial data was sent, now or before."""
        nonce = self._rng.getrandbits(64)
        async with await self._host.open_stream(peer, (V2_DIAL,)) as stream:
            expected = self._expected[nonce] = _Expected(stream.connection)
            try:
                await stream.write(delimited(encode_v2(DialRequest(tuple(each.binary for each in addresses), nonce))))
                reply = decode_v2(await read_message(stream))
                if isinstance(reply, DialDataRequest):
                    if paid or reply.size > limits.MAX_DIAL_DATA or reply.index >= len(addresses):
                        raise StreamError(f"The peer {peer} asks for more dial data than a dial is worth.")
                    paid = True
                    await _send_dial_data(stream, reply.size)
                    reply = decode_v2(await read_message(stream))
                if not isinstance(reply, DialResponse):
                    raise StreamError(f"The peer {peer} answered a dial request with something else.")
                return *(await self._judge(peer, reply, addresses, expected)), paid
            finally:
                del self._expected[nonce]

    async def _judge(
        self, peer: str, reply: DialResponse, addresses: Sequence[TcpEndpoint], expected: _Expected
    ) -> tuple[int, bool]:
        if reply.status != V2Status.OK:
            raise StreamError(f"The peer {peer} did not dial back: status {reply.status}.")
        if reply.index >= len(addresses):
            raise StreamError(f"The peer {peer} says that it dialled an address it was not given.")
        if reply.dial == DialStatus.DIAL_ERROR:
            return reply.index, False
        if reply.dial not in (DialStatus.OK, DialStatus.DIAL_BACK_ERROR):
            raise StreamError(f"The peer {peer} gave a dial status that means nothing: {reply.dial}.")
        with trio.move_on_after(self._limits.nonce_timeout if reply.dial == DialStatus.OK else 0):
            await expected.event.wait()
        version = addresses[reply.index].ip.version
        if not expected.came_at.startswith(f"/ip{version}/"):
            raise StreamError(f"The peer {peer} says that it dialled {addresses[reply.index].text}, but nothing came.")
        return reply.index, True

    async def _take_nonce(self, stream: Stream) -> None:
        """Handler of the dial-back protocol."""
        with trio.move_on_after(self._limits.nonce_timeout):
            expected = self._expected.get(decode_dial_back(await read_message(stream)))
            # On a connection that we opened, or the very one we asked on, it proves nothing.
            if expected is None or stream.connection.initiator or stream.connection is expected.asked_on:
                stream.abort("no such nonce is expected")
                return
            expected.came_at = stream.connection.address
            expected.event.set()
            await stream.write(delimited(DIAL_BACK_RESPONSE))


async def _send_dial_data(stream: Stream, size: int) -> None:
    while size > 0:
        await stream.write(delimited(encode_dial_data(_DIAL_DATA[:size])))
        size -= len(_DIAL_DATA)
