"""Identify: each side of a new connection asks the other who it is, what it speaks and where it listens.

(libp2p identify specification, and RFC 3 for the signed peer record.) An answer may come in several messages, which
are merged: go-libp2p sends the signed record apart. Nothing waits for identify but those who ask for its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from kachery_p2p import multiaddrs
from kachery_p2p.errors import InvalidAddress, StreamError
from kachery_p2p.peer_ids import any_peer_id, peer_bytes
from kachery_p2p.protocols import CIRCUIT
from kachery_p2p.transport import limits, multistream
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.connection import Connection
from kachery_p2p.transport.envelopes import seal
from kachery_p2p.transport.interfaces import IdentifyHost
from kachery_p2p.transport.peers import PeerInfo
from kachery_p2p.transport.stream import Stream
from kachery_p2p.waking import Flag
from kachery_p2p.wire import BYTES, Budget, Schema, WireError, bytes_field, delimited, number_field, read_length, scan

log = logging.getLogger("kachery_p2p.transport")

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
PROTOCOL_VERSION = b"ipfs/0.1.0"

#: The fields of a message (libp2p identify specification).
_PUBLIC_KEY, _LISTEN, _PROTOCOLS, _OBSERVED, _VERSION, _AGENT, _SIGNED_RECORD = 1, 2, 3, 4, 5, 6, 8
_SCHEMA = Schema(dict.fromkeys((_LISTEN, _PROTOCOLS, _OBSERVED, _AGENT), BYTES))
#: Signed envelopes of peer records: what the signature is for, and the multicodec of the payload.
_RECORD_DOMAIN = b"libp2p-peer-record"
_RECORD_TYPE = b"\x03\x01"


class IdentifyAnswers:
    """Makes our own answers. The signature is made anew only when our addresses have changed."""

    def __init__(self, keys: Keys, agent: str) -> None:
        self._keys = keys
        self._agent = agent
        self._signed_for: tuple[str, ...] | None = None
        self._record = b""

    def message(self, addresses: Iterable[str], protocols: Iterable[str], observed: str) -> bytes:
        """One length-prefixed identify message.

        Args:
            addresses: ours, without the peer ID.
            protocols: those that we serve.
            observed: the address at which we see the peer; empty when it means nothing.
        """
        texts = tuple(addresses)
        listen = [multiaddrs.to_binary(text) for text in texts]
        if texts != self._signed_for:
            self._record = self._signed_record(listen)
            self._signed_for = texts
        # A zone means nothing to the peer. Nor does the address of a relay that carries the connection say where it is.
        seen = b"" if not observed or "ip6zone" in observed or CIRCUIT in observed else multiaddrs.to_binary(observed)
        fields = (
            (_PUBLIC_KEY, self._keys.public_key),
            *((_LISTEN, each) for each in listen),
            *((_PROTOCOLS, each.encode()) for each in protocols),
            (_OBSERVED, seen),
            (_VERSION, PROTOCOL_VERSION),
            (_AGENT, self._agent.encode()),
            (_SIGNED_RECORD, self._record),
        )
        return delimited(b"".join(bytes_field(number, value) for number, value in fields))

    def _signed_record(self, listen: Iterable[bytes]) -> bytes:
        """Our addresses in an envelope; of two of them, the later one has the larger number."""
        record = bytes_field(1, peer_bytes(self._keys.peer_id)) + number_field(2, time.time_ns())
        record += b"".join(bytes_field(3, bytes_field(1, each)) for each in listen)
        return seal(self._keys, _RECORD_DOMAIN, _RECORD_TYPE, record)


async def read_identify(stream: Stream, local: str) -> PeerInfo:
    """Read a peer's messages up to the end of the stream.

    Args:
        stream: the stream of the exchange.
        local: our own peer ID.

    Raises:
        StreamError: the answer is malformed or too long.
    """
    said = _Said()
    budget = Budget(limits.MAX_IDENTIFY_FIELDS)
    total = 0
    while True:
        first = await stream.read(1)
        if not first:
            break
        sender = f"The peer {stream.peer} sent an identify message"
        length = await read_length(stream, limits.MAX_IDENTIFY - total, sender, first)
        total += length + 1  # so that empty messages come to an end too
        try:
            said.merge(bytes(await stream.read_exactly(length)), budget)
        except (WireError, UnicodeDecodeError) as error:
            raise StreamError(f"{sender} that does not parse: {error}.") from error
    if not total:
        raise StreamError(f"The peer {stream.peer} sent an empty identify answer.")
    addresses: dict[str, None] = {}
    for raw in said.listen[: limits.MAX_PEER_ADDRESSES]:
        text = _multiaddr_text(raw, stream.peer)
        if 0 < len(text) <= limits.MAX_PEER_TEXT:
            addresses[text] = None
    return PeerInfo(
        protocols=frozenset(
            name for name in said.protocols[: limits.MAX_PEER_PROTOCOLS] if len(name) <= limits.MAX_PEER_TEXT
        ),
        agent=said.agent[: limits.MAX_PEER_TEXT],
        addresses=tuple(addresses),
        observed=_multiaddr_text(said.observed, local) if said.observed else "",
        identified=True,
    )


@dataclass
class _Said:
    """What the messages of an answer say so far: lists go on, of single values the last one counts."""

    listen: list[bytes] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    observed: bytes = b""
    agent: str = ""

    def merge(self, message: bytes, budget: Budget) -> None:
        """One more message.

        Raises:
            WireError, UnicodeDecodeError: it does not parse.
        """
        for number, start, stop in scan(message, 0, len(message), _SCHEMA, budget):
            value = message[start:stop]
            if number == _LISTEN:
                self.listen.append(value)
            elif number == _PROTOCOLS:
                self.protocols.append(value.decode())
            elif number == _OBSERVED:
                self.observed = value
            else:
                self.agent = value.decode()


def _multiaddr_text(raw: bytes, peer: str) -> str:
    """The text of a binary multiaddr without its `/p2p`; empty when it is nonsense, or another peer's."""
    try:
        text = multiaddrs.to_text(raw)
    except InvalidAddress:
        return ""
    head, _, tail = text.rpartition("/p2p/")
    if not head or "/" in tail:
        return text
    return head if any_peer_id(tail) == peer else ""


class Service:
    """Asks new peers, answers them, and tells all when what we serve has changed (identify push)."""

    def __init__(self, host: IdentifyHost, agent: str) -> None:
        self._host = host
        self._identity = IdentifyAnswers(host.keys, agent)
        self._changed = Flag()

    def changed(self) -> None:
        """Handlers were added or taken away."""
        self._changed.set()

    def _message(self, stream: Stream) -> bytes:
        host = self._host
        return self._identity.message(host.transport_addresses(), host.protocols(), stream.connection.address)

    async def serve(self, stream: Stream) -> None:
        """Handler of `IDENTIFY`."""
        await stream.write(self._message(stream))

    async def serve_push(self, stream: Stream) -> None:
        """Handler of `IDENTIFY_PUSH`."""
        with trio.move_on_after(limits.IDENTIFY_TIMEOUT):
            await self._learn(stream)

    async def ask(self, connection: Connection) -> None:
        """Ask a new peer who it is. Whatever goes wrong, the connection is good without it."""
        try:
            with trio.move_on_after(limits.IDENTIFY_TIMEOUT):
                async with await connection.open_stream() as stream:
                    stream.protocol = IDENTIFY
                    await multistream.select(stream, (IDENTIFY,))
                    await stream.close_write()
                    await self._learn(stream)
        except StreamError as error:
            log.debug("identify of %s failed: %s", connection.peer, error)

    async def _learn(self, stream: Stream) -> None:
        stream.connection.allowance.spend(limits.IDENTIFY_WORK)
        said = await read_identify(stream, self._host.peer_id)
        info = self._host.table.info(stream.peer)
        info.protocols, info.agent, info.identified = said.protocols, said.agent, True
        info.addresses = said.addresses or info.addresses
        if CIRCUIT not in said.observed and not stream.connection.is_relayed:
            info.observed = said.observed or info.observed
        self._host.on_identified.emit(stream.peer)

    async def push_changes(self) -> None:
        """Runs as long as the host."""
        while True:
            await self._changed.take()
            await trio.sleep(limits.IDENTIFY_PUSH_DELAY)
            self._changed.clear()
            async with trio.open_nursery() as nursery:
                for peer in self._host.connected():
                    if IDENTIFY_PUSH in self._host.protocols_of(peer):
                        nursery.start_soon(self._push_to, peer)

    async def _push_to(self, peer: str) -> None:
        try:
            with trio.move_on_after(limits.IDENTIFY_TIMEOUT):
                async with await self._host.open_stream(peer, (IDENTIFY_PUSH,)) as stream:
                    await stream.write(self._message(stream))
        except StreamError as error:
            log.debug("identify push to %s failed: %s", peer, error)
