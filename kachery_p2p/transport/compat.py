"""A node's keys and the handshake by which it proves them; and what of py-libp2p 0.8.1 serves here, and what does not.

A node runs no code of py-libp2p to start, to dial or to serve. Any import from it runs `libp2p/__init__.py`, which
imports the whole of it: QUIC, TLS, mDNS, gRPC, 0.65 s of CPU time and 45 MiB, where a load of a small file takes half
of both in all. What was used of it is small, and stands on the same libraries here: the Noise handshake
(`noise_xx.py`), the keys of peers (`peer_keys`), the messages and signed records of identify (`identify.py`,
`envelopes.py`). To import its modules past their `__init__` would take tricks in `sys.modules`, which belongs to the
program. The tests hold ours against py-libp2p's in both directions.

It is used still, and imported then: for secp256k1 keys of peers, where the OpenSSL of this system was built without
that curve (`peer_keys`). And multiaddr, which it brings, for the multiaddrs that `multiaddrs.py` does not know.

Ping, AutoNAT, circuit relay and hole punching are our own, for theirs need its swarm. What else is not used, and why.
File names are relative to the installed `libp2p` package; `tests/faults/test_transport_defects.py` says where the test
of each is:

 1. A multistream line that is not UTF-8 ends the host: `protocol_muxer/multiselect_communicator.py:58`. Our
    `multistream.py` raises an error of that stream.
 2. An exception in a stream handler ends the host: `network/connection/swarm_connection.py:271,309`,
    `network/swarm.py:2640`. `Host` contains it.
 3. After 250 inbound connections in all every further one is refused, and each leaks a task:
    `network/swarm.py:1982,2060`. `Host` keeps its own table.
 4. `new_host()` without `sec_opt` accepts `/plaintext/2.0.0` with any peer ID. Ours offers `/tls/1.0.0` and `/noise`.
 5. QUIC ignores the private network's key. Ours has no QUIC.
 6. Leaving `host.run()` leaves the sockets open. `Host.run` closes them.
 7. A failed dial blocks the peer for 60 s, a good one takes 0.25 s, a silent one 121 s:
    `network/swarm.py:752,936,950,1254`. Our dialler has none of these.
 8. Listening on 0.0.0.0 advertises 0.0.0.0. `addresses.py` expands it.
 9. SO_REUSEPORT lets two nodes share a port silently: `transport/tcp/tcp.py:59`. `sockets.listen_tcp` refuses.
10. `/dns4` does not dial, and one host cannot run twice. Ours resolves names; a `Host` runs once by contract, and says
    so.
11. `read_exactly` gives up after 100 partial reads: `io/utils.py:12,49`. Ours goes on until the peer has left.
12. `muxer_opt` is ignored for Yamux: `stream_muxer/muxer_multistream.py:137`. Ours does not go through it.
13. The SQLite peer store writes the private key into its file: `peer/persistent/`. Ours keeps peers in memory.
14. It logs through the root logger, and `logging.debug` on a root logger without handlers installs one:
    `network/connection/swarm_connection.py` throughout. Ours does not run that code, and `quieten` silences the rest.
15. A peer with an ECDSA key is refused, though the specification names that kind: `crypto/serialization.py:24`.

The stock Noise records and Yamux: see `noise.py` and `yamux.py`. The private network: see `pnet.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kachery_p2p.errors import StreamError
from kachery_p2p.peer_ids import peer_id_of_key, peer_text
from kachery_p2p.peer_keys import ED25519, UnusableKey, encode_key, read_public_key
from kachery_p2p.transport.noise_xx import HandshakeFailed, NoiseXX
from kachery_p2p.wire import BYTES, Schema, WireError, bytes_field, fields

#: What stands in front of a Noise key where a node signs it (libp2p noise specification).
_SIGNED_PREFIX = b"noise-libp2p-static-key:"
#: The fields of a payload: the key, the signature, and the extensions, of which we know the muxers.
_KEY, _SIGNATURE, _EXTENSIONS = 1, 2, 4
_PAYLOAD = Schema(dict.fromkeys((_KEY, _SIGNATURE, _EXTENSIONS), BYTES))
_MUXERS = 2
_EXTENSION = Schema({_MUXERS: BYTES})


def quieten() -> None:
    """Keep log messages of py-libp2p and multiaddr from users who did not ask for them (defect 14).

    Importing py-libp2p cuts its logger off from the root, so that the logging module's last resort prints to the
    screen. A handler that does nothing prevents that. Levels, and handlers that somebody set, stay: they are the
    program's.
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
    """A node's identity, and the key its handshakes use.

    Attributes:
        identity: the private key.
        noise_key: the private key of its Noise handshakes, new in each process.
        public_key: that of the identity, encoded as the protobuf `PublicKey`.
        peer_id: base58.
    """

    identity: Ed25519PrivateKey
    noise_key: X25519PrivateKey
    public_key: bytes
    peer_id: str

    @classmethod
    def from_seed(cls, seed: bytes) -> Keys:
        """From the 32 bytes of an Ed25519 private key."""
        if len(seed) != 32:
            raise ValueError("an Ed25519 seed has 32 bytes")
        identity = Ed25519PrivateKey.from_private_bytes(seed)
        public = encode_key(ED25519, identity.public_key().public_bytes_raw())
        return cls(identity, X25519PrivateKey.generate(), public, peer_text(peer_id_of_key(public)))

    def sign(self, data: bytes) -> bytes:
        """The signature of the identity."""
        return self.identity.sign(data)


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


async def noise_handshake(
    channel: _Channel, keys: Keys, *, initiator: bool, expected: str | None, muxers: Sequence[str] = ()
) -> Secrets:
    """Run the Noise XX handshake with libp2p's payloads, in which each side proves who it is.

    Args:
        channel: to the peer. Nothing is read beyond the handshake.
        keys: of this node.
        initiator: whether this side begins.
        expected: the peer ID that the initiator wants at the other end; None for any.
        muxers: those that are spoken here, the best first; empty to name none (connections/inlined-muxer-negotiation.md
            of the specifications).

    Raises:
        UnexpectedPeer: only as the initiator, and before our identity is sent.
        StreamError: the peer does not keep to the specification, proves nothing, or the channel broke.
    """
    handshake = NoiseXX(keys.noise_key, initiator=initiator)
    try:
        if initiator:
            await _send(channel, handshake.write())
            peer, theirs = _prove(handshake, handshake.read(await _receive(channel)))
            if expected is not None and peer != expected:
                raise UnexpectedPeer(peer)
            await _send(channel, handshake.write(_payload(keys, muxers)))
        else:
            handshake.read(await _receive(channel))
            await _send(channel, handshake.write(_payload(keys, muxers)))
            peer, theirs = _prove(handshake, handshake.read(await _receive(channel)))
    except (HandshakeFailed, WireError, UnusableKey) as error:
        raise StreamError(f"The security handshake failed: {error}.") from error
    encrypt_key, decrypt_key = handshake.split()
    first, second = (muxers, theirs) if initiator else (theirs, muxers)
    return Secrets(encrypt_key, decrypt_key, peer, next((name for name in first if name in second), ""))


async def _send(channel: _Channel, message: bytes) -> None:
    await channel.write(len(message).to_bytes(2, "big") + message)


async def _receive(channel: _Channel) -> bytes:
    return await channel.read_exactly(int.from_bytes(await channel.read_exactly(2), "big"))


def _payload(keys: Keys, muxers: Sequence[str]) -> bytes:
    """What we say in the handshake: our key, by its signature that the Noise key is ours, and our muxers."""
    signature = keys.sign(_SIGNED_PREFIX + keys.noise_key.public_key().public_bytes_raw())
    payload = bytes_field(_KEY, keys.public_key) + bytes_field(_SIGNATURE, signature)
    extensions = b"".join(bytes_field(_MUXERS, name.encode()) for name in muxers)
    return payload + bytes_field(_EXTENSIONS, extensions) if extensions else payload


def _prove(handshake: NoiseXX, payload: bytes) -> tuple[str, list[str]]:
    """The peer ID of the other side, and the muxers that it names.

    Raises:
        StreamError: it does not have the key that it shows.
        WireError, UnusableKey: the payload does not parse.
    """
    encoded = signature = b""
    muxers: list[str] = []
    for number, _, part in fields(payload, _PAYLOAD):
        if number == _KEY:
            encoded = part
        elif number == _SIGNATURE:
            signature = part
        else:
            muxers += [name.decode(errors="replace") for _, _, name in fields(part, _EXTENSION)]
    key = read_public_key(encoded)
    assert handshake.remote is not None, "it is in the message that was read"
    if not key.has_signed(_SIGNED_PREFIX + handshake.remote.public_bytes_raw(), signature):
        raise StreamError(f"The peer there does not have the private key of {key.peer}, which it claims to be.")
    return key.peer, muxers
