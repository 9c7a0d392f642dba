"""Identify: each side of a new connection asks the other who it is, what it speaks and where it listens.

(libp2p identify specification.) The messages and signed peer records are py-libp2p's. An answer may come in
several messages, which are merged: go-libp2p sends the signed record apart. Nothing waits for identify but
those who ask for its result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio
from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.envelope import seal_record
from libp2p.peer.peer_record import PeerRecord
from multiaddr import Multiaddr

from kachery_p2p.errors import StreamError
from kachery_p2p.peer_ids import any_peer_id
from kachery_p2p.protocols import CIRCUIT
from kachery_p2p.transport import limits, multistream
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.connection import Connection
from kachery_p2p.transport.interfaces import IdentifyHost
from kachery_p2p.transport.peers import PeerInfo
from kachery_p2p.transport.stream import Stream
from kachery_p2p.waking import Flag
from kachery_p2p.wire import delimited, read_length

log = logging.getLogger("kachery_p2p.transport")

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
PROTOCOL_VERSION = "ipfs/0.1.0"


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
        parsed = [Multiaddr(text) for text in texts]
        if texts != self._signed_for:
            record = PeerRecord(self._keys.peer_id, parsed)
            self._record = seal_record(record, self._keys.identity.private_key).marshal_envelope()
            self._signed_for = texts
        message = Identify(
            protocol_version=PROTOCOL_VERSION,
            agent_version=self._agent,
            public_key=self._keys.identity.public_key.serialize(),
            listen_addrs=[each.to_bytes() for each in parsed],
            # A zone means nothing to the peer, and multiaddr 0.2.0 cannot write one.
            # Nor does the address of a relay that carries the connection say where the peer is.
            observed_addr=(
                b"" if not observed or "ip6zone" in observed or CIRCUIT in observed else Multiaddr(observed).to_bytes()
            ),
            protocols=list(protocols),
            signedPeerRecord=self._record,
        ).SerializeToString()
        return delimited(message)


async def read_identify(stream: Stream, local: str) -> PeerInfo:
    """Read a peer's messages up to the end of the stream.

    Args:
        stream: the stream of the exchange.
        local: our own peer ID.

    Raises:
        StreamError: the answer is malformed or too long.
    """
    merged = Identify()
    total = 0
    while True:
        first = await stream.read(1)
        if not first:
            break
        sender = f"The peer {stream.peer} sent an identify message"
        length = await read_length(stream, limits.MAX_IDENTIFY - total, sender, first)
        total += length + 1  # so that empty messages come to an end too
        try:
            merged.MergeFromString(bytes(await stream.read_exactly(length)))
        except DecodeError as error:
            raise StreamError(f"The peer {stream.peer} sent an identify message that does not parse.") from error
    if not total:
        raise StreamError(f"The peer {stream.peer} sent an empty identify answer.")
    addresses: dict[str, None] = {}
    for raw in list(merged.listen_addrs)[: limits.MAX_PEER_ADDRESSES]:
        text = _multiaddr_text(raw, stream.peer)
        if 0 < len(text) <= limits.MAX_PEER_TEXT:
            addresses[text] = None
    return PeerInfo(
        protocols=frozenset(
            name for name in list(merged.protocols)[: limits.MAX_PEER_PROTOCOLS] if len(name) <= limits.MAX_PEER_TEXT
        ),
        agent=merged.agent_version[: limits.MAX_PEER_TEXT],
        addresses=tuple(addresses),
        observed=_multiaddr_text(merged.observed_addr, local) if merged.observed_addr else "",
        identified=True,
    )


def _multiaddr_text(raw: bytes, peer: str) -> str:
    """The text of a binary multiaddr without its `/p2p`; empty when it is nonsense, or another peer's."""
    try:
        text = str(Multiaddr(raw))
    except Exception:  # noqa: BLE001 - multiaddr and the codecs under it raise dozens of types
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
