"""Identify: each side of a new connection asks the other who it is, what it speaks and where it listens.

(libp2p identify specification.) The messages and signed peer records are py-libp2p's. An answer may come in several
messages, which are merged: go-libp2p sends the signed record apart. Nothing waits for identify but those who ask for
its result.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.envelope import seal_record
from libp2p.peer.peer_record import PeerRecord
from multiaddr import Multiaddr

from kachery_p2p.errors import InvalidAddress, StreamError
from kachery_p2p.transport import limits
from kachery_p2p.transport.addresses import parse_peer_id
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.multistream import encode_varint, read_varint
from kachery_p2p.transport.peers import PeerInfo
from kachery_p2p.transport.stream import Stream

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
PROTOCOL_VERSION = "ipfs/0.1.0"


class Identity:
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
            observed_addr=Multiaddr(observed).to_bytes() if observed else b"",
            protocols=list(protocols),
            signedPeerRecord=self._record,
        ).SerializeToString()
        return encode_varint(len(message)) + message


async def read_identify(stream: Stream) -> tuple[PeerInfo, str]:
    """Read a peer's messages up to the end of the stream; what it says, and the address at which it sees us.

    Raises:
        StreamError: the answer is malformed or too long.
    """
    merged = Identify()
    total = 0
    while True:
        first = await stream.read(1)
        if not first:
            break
        length = await read_varint(_Pushback(first, stream), limits.MAX_IDENTIFY - total)
        total += length
        try:
            merged.MergeFromString(bytes(await stream.read_exactly(length)))
        except DecodeError as error:
            raise StreamError(f"The peer {stream.peer} sent an identify message that does not parse.") from error
    if not total:
        raise StreamError(f"The peer {stream.peer} sent an empty identify answer.")
    addresses: dict[str, None] = {}
    for raw in list(merged.listen_addrs)[: limits.MAX_PEER_ADDRESSES]:
        if text := _multiaddr_text(raw, stream.peer):
            addresses[text] = None
    return (
        PeerInfo(
            protocols=frozenset(
                name for name in list(merged.protocols)[: limits.MAX_PEER_PROTOCOLS] if len(name) <= 256
            ),
            agent=merged.agent_version[:128],
            addresses=tuple(addresses),
            identified=True,
        ),
        _multiaddr_text(merged.observed_addr, stream.peer) if merged.observed_addr else "",
    )


class _Pushback:
    """A stream with one byte put back in front."""

    def __init__(self, first: bytes, stream: Stream) -> None:
        self._first = first
        self._stream = stream

    async def read_exactly(self, count: int, /) -> bytes | bytearray:
        first, self._first = self._first[:count], self._first[count:]
        return first + await self._stream.read_exactly(count - len(first)) if len(first) < count else first

    async def write(self, data: bytes, /) -> None:
        await self._stream.write(data)


def _multiaddr_text(raw: bytes, peer: str) -> str:
    """The text of a binary multiaddr without its `/p2p`; empty when it is nonsense, or another peer's."""
    try:
        text = str(Multiaddr(raw))
    except Exception:  # noqa: BLE001 - multiaddr and the codecs under it raise dozens of types
        return ""
    head, _, tail = text.rpartition("/p2p/")
    if not head or "/" in tail:
        return text
    try:
        return head if parse_peer_id(tail) == peer else ""
    except InvalidAddress:
        return ""
