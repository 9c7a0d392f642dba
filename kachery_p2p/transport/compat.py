"""Every use of py-libp2p 0.8.1 in the data path, and what is wrong with the rest.

What is used: key types and peer IDs, the Noise XX handshake (`PatternXX`), the messages and signed records of
identify. Ping, AutoNAT, circuit relay and hole punching are our own, for theirs need its swarm.

What is not used, and why. File names are relative to the installed `libp2p` package;
`tests/faults/test_transport_defects.py` says where the test of each is:

 1. A multistream line that is not UTF-8 ends the host: `protocol_muxer/multiselect_communicator.py:58`. Our
    `multistream.py` raises an error of that stream.
 2. An exception in a stream handler ends the host: `network/connection/swarm_connection.py:271,309`,
    `network/swarm.py:2640`. `Host` contains it.
 3. After 250 inbound connections in all every further one is refused, and each leaks a task:
    `network/swarm.py:1982,2060`. `Host` keeps its own table.
 4. `new_host()` without `sec_opt` accepts `/plaintext/2.0.0` with any peer ID. Ours offers TLS and Noise.
 5. QUIC ignores the private network's key. Ours has no QUIC.
 6. Leaving `host.run()` leaves the sockets open. `Host.run` closes them.
 7. A failed dial blocks the peer for 60 s, a good one takes 0.25 s, a silent one 121 s:
    `network/swarm.py:752,936,950,1254`. Our dialler has none of these.
 8. Listening on 0.0.0.0 advertises 0.0.0.0. `addresses.py` expands it.
 9. SO_REUSEPORT lets two nodes share a port silently: `transport/tcp/tcp.py:59`. `sockets.listen_tcp` refuses.
10. `/dns4` does not dial, and one host cannot run twice. Ours resolves names; a `Host` runs once by contract, and says
    so.
11. `read_exactly` gives up after 100 partial reads: `io/utils.py:12,49`. It is what the handshake reads with, so
    `_HandshakeConn.read` always returns all that was asked for.
12. `muxer_opt` is ignored for Yamux: `stream_muxer/muxer_multistream.py:137`. Ours does not go through it.
13. The SQLite peer store writes the private key into its file: `peer/persistent/`. Ours keeps peers in memory.
14. It logs through the root logger, and `logging.debug` on a root logger without handlers installs one:
    `network/connection/swarm_connection.py` throughout. Ours does not run that code, and `quieten` silences the rest.

The stock Noise records and Yamux: see `noise.py` and `yamux.py`. The private network: see `pnet.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair, PrivateKey
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.messages import NoiseExtensions, NoiseHandshakePayload
from libp2p.security.noise.patterns import PatternXX
from noise.connection import NoiseConnection

from kachery_p2p.errors import StreamError


def quieten() -> None:
    """Keep py-libp2p's log messages from users who did not ask for them (defect 14).

    Importing it cuts its logger off from the root, so that the logging module's last resort prints to the screen.
    A handler that does nothing prevents that. Levels, and handlers that somebody set, stay: they are the program's.
    """
    for name in ("libp2p", "multiaddr", "noise"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())


class UnexpectedPeer(Exception):
    """The handshake showed another peer than expected."""

    def __init__(self, actual: str) -> None:
        super().__init__(actual)
        self.actual = actual


@dataclass(frozen=True)
class Keys:
    """A node's identity, and the key its handshakes use."""

    identity: KeyPair
    noise_key: PrivateKey
    peer_id: ID

    @property
    def public_key(self) -> bytes:
        """That of the identity, encoded as the protobuf `PublicKey`."""
        return self.identity.public_key.serialize()

    def sign(self, data: bytes) -> bytes:
        """The signature of the identity."""
        return self.identity.private_key.sign(data)

    @classmethod
    def from_seed(cls, seed: bytes) -> Keys:
        """From the 32 bytes of an Ed25519 private key. The Noise key is new in each process."""
        if len(seed) != 32:
            raise ValueError("an Ed25519 seed has 32 bytes")
        identity = create_new_key_pair(seed)
        return cls(identity, create_x25519_key_pair().private_key, ID.from_pubkey(identity.public_key))


@dataclass(frozen=True)
class Secrets:
    """What a handshake gives.

    Attributes:
        encrypt_key: for what we send.
        decrypt_key: for what we receive.
        peer: the peer ID at the other end, base58.
        muxer: the one that both sides named; empty where that is still to be agreed on.
    """

    encrypt_key: bytes
    decrypt_key: bytes
    peer: str
    muxer: str = ""


class _Channel(Protocol):
    async def read_exactly(self, count: int, /) -> bytes: ...

    async def write(self, data: bytes, /) -> None: ...


class _HandshakeConn:
    """The part of `IRawConnection` that `PatternXX` uses."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    async def read(self, n: int | None = None) -> bytes:
        # All of it: `io/utils.py` counts partial reads and gives up at 100 (defect 11).
        return await self._channel.read_exactly(n or 0) if n else b""

    async def write(self, data: bytes) -> None:
        await self._channel.write(data)

    async def close(self) -> None: ...

    def get_remote_address(self) -> None:
        return None


class _MuxerPattern(PatternXX):
    """The same handshake, in which each side names its muxers (connections/inlined-muxer-negotiation.md).

    `PatternXX` can send them, but drops those of the peer together with the rest of its payload.
    """

    def __init__(self, keys: Keys, muxers: Sequence[str]) -> None:
        super().__init__(keys.peer_id, keys.identity.private_key, keys.noise_key)
        self._muxers = list(muxers)
        self._payload = b""

    def make_handshake_payload(self, extensions: NoiseExtensions | None = None) -> NoiseHandshakePayload:
        return super().make_handshake_payload(extensions or NoiseExtensions(stream_muxers=self._muxers))

    def create_noise_state(self, prologue: bytes | None = None) -> NoiseConnection:
        state = super().create_noise_state(prologue)
        read_message = state.read_message

        def keep(data: bytes) -> bytearray:
            payload = read_message(data)
            self._payload = bytes(payload)
            return payload

        state.read_message = keep
        return state

    def theirs(self) -> list[str]:
        """The muxers that the peer has named."""
        extensions = NoiseHandshakePayload.deserialize(self._payload).extensions
        return extensions.stream_muxers if extensions is not None else []


async def noise_handshake(
    channel: _Channel, keys: Keys, *, initiator: bool, expected: str | None, muxers: Sequence[str] = ()
) -> Secrets:
    """Run py-libp2p's Noise XX handshake, and take the keys out of it for our own record layer.

    Args:
        channel: to the peer. Nothing is read beyond the handshake.
        keys: of this node.
        initiator: whether this side begins.
        expected: the peer ID that the initiator wants at the other end; None for any.
        muxers: those that are spoken here, the best first; empty to name none.

    Raises:
        UnexpectedPeer: only as the initiator, and before our identity is sent.
        Exception: whatever `PatternXX` and the libraries under it raise on bad input.
    """
    pattern = _MuxerPattern(keys, muxers)
    conn = cast(Any, _HandshakeConn(channel))
    try:
        if initiator:
            session = await pattern.handshake_outbound(conn, ID.from_base58(expected) if expected else None)
        else:
            session = await pattern.handshake_inbound(conn)
    except PeerIDMismatchesPubkey as error:
        # The exception carries the ID in its text only (security/noise/patterns.py:350).
        raise UnexpectedPeer(str(error).rpartition("remote_peer_id_from_pubkey=")[2].strip()) from error
    protocol = cast(Any, session).conn.noise_state.noise_protocol
    encrypt, decrypt = protocol.cipher_state_encrypt, protocol.cipher_state_decrypt
    if encrypt.n or decrypt.n:
        raise StreamError("The handshake left its ciphers in an unknown state.")
    first, second = (muxers, pattern.theirs()) if initiator else (pattern.theirs(), muxers)
    muxer = next((name for name in first if name in second), "")
    return Secrets(bytes(encrypt.k), bytes(decrypt.k), session.get_remote_peer().to_base58(), muxer)
