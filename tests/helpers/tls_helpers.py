"""Certificates of every kind, good and forged, and OpenSSL as a peer that does what a test tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL

from kachery_p2p.peer_ids import peer_id_of_key, peer_text
from kachery_p2p.transport import multistream
from kachery_p2p.transport.sockets import ByteIO
from kachery_p2p.transport.tls_certificate import signed_key
from kachery_p2p.transport.tls_records import TLS
from kachery_p2p.transport.upgrade import HandshakeChannel
from kachery_p2p.wire import bytes_field, number_field

PREFIX = b"libp2p-tls-handshake:"
NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)


@dataclass
class Identity:
    """A peer's key, of any type: as others write it, and how it signs."""

    public_key: bytes
    sign: Callable[[bytes], bytes]

    @property
    def peer(self) -> str:
        return peer_text(peer_id_of_key(self.public_key))


def encoded(kind: int, raw: bytes) -> bytes:
    """The protobuf `PublicKey`."""
    return number_field(1, kind) + bytes_field(2, raw)


def der(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ed25519_identity() -> Identity:
    key = ed25519.Ed25519PrivateKey.generate()
    return Identity(encoded(1, key.public_key().public_bytes_raw()), key.sign)


def rsa_identity(bits: int = 2048) -> Identity:
    key = rsa.generate_private_key(65537, bits)
    return Identity(encoded(0, der(key.public_key())), lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256()))


def secp256k1_identity() -> Identity:
    key = ec.generate_private_key(ec.SECP256K1())
    raw = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return Identity(encoded(2, raw), lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())))


def ecdsa_identity(curve: ec.EllipticCurve | None = None) -> Identity:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return Identity(encoded(3, der(key.public_key())), lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())))


@dataclass
class Forged:
    """A certificate and its private key."""

    key: Any
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def forge(
    identity: Identity | None = None,
    *,
    key: Any = None,
    signer: Any = None,
    shown_key: Any = None,
    issuer: str = "",
    since: datetime = NOW - DAY,
    until: datetime = NOW + DAY,
    signature: bytes | None = None,
    signed: bytes | None = None,
    public_key: bytes | None = None,
    value: bytes | None = None,
    extension: bool = True,
    more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    digest: Any = hashes.SHA256(),  # noqa: B008
) -> Forged:
    """A certificate as the specification wants it, but for what is said otherwise.

    Args:
        identity: whose it is.
        key: its private key.
        signer: what signs it, when that is not its own key.
        shown_key: the public key in it, when that is not of its private key.
        issuer: who signed it, by its own words; itself when empty.
        since: from when it is valid.
        until: to when.
        signature: in the extension.
        signed: what the signature in the extension is of.
        public_key: in the extension.
        value: of the whole extension.
        extension: whether it has the extension that says whose it is.
        more: other extensions, and whether each is critical.
        digest: the hash function of its own signature.
    """
    identity = identity or ed25519_identity()
    key = key or ec.generate_private_key(ec.SECP256R1())
    shown = shown_key or key.public_key()
    subject = x509.Name([])
    name = [x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)] if issuer else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name(name))
        .public_key(shown)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )
    if extension:
        signature = signature or identity.sign(signed or PREFIX + der(shown))
        content = signed_key(public_key or identity.public_key, signature)
        if value is not None:
            content = x509.UnrecognizedExtension(content.oid, value)
        builder = builder.add_extension(content, critical=True)
    for each, critical in more:
        builder = builder.add_extension(each, critical)
    return Forged(key, builder.sign(signer or key, digest))


def context(
    client: bool,
    shown: Forged | None,
    *,
    alpn: tuple[str, ...] = ("/yamux/1.0.0", "libp2p"),
    chain: tuple[Forged, ...] = (),
    newest: int = SSL.TLS1_3_VERSION,
) -> SSL.Context:
    """OpenSSL's settings for a peer that takes any certificate, and shows the given one or none."""
    made = SSL.Context(SSL.TLS_CLIENT_METHOD if client else SSL.TLS_SERVER_METHOD)
    made.set_max_proto_version(newest)
    if shown is not None:
        made.use_certificate(shown.certificate)
        made.use_privatekey(shown.key)
    for each in chain:
        made.add_extra_chain_cert(each.certificate)
    made.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    names = [each.encode() for each in alpn]
    if client:
        if names:
            made.set_alpn_protos(names)
    else:
        made.set_alpn_select_callback(
            lambda _, offered: next((name for name in names if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)
        )
    return made


async def openssl_peer(io: ByteIO, settings: SSL.Context, *, client: bool) -> SSL.Connection:
    """Run a handshake over a channel, after multistream-select, as OpenSSL does it.

    Raises:
        SSL.Error: it fails on this side.
        StreamEOF: the other side ended it.
    """
    channel = HandshakeChannel(io)
    await (multistream.select if client else multistream.negotiate)(channel, [TLS])
    peer = SSL.Connection(settings, None)
    if client:
        peer.set_connect_state()
    else:
        peer.set_accept_state()
    done = False
    while not done:
        try:
            peer.do_handshake()
            done = True
        except SSL.WantReadError:
            pass
        finally:
            await channel.write(pending(peer))
        if not done:
            peer.bio_write(await channel.read(65536))
    return peer


def pending(peer: SSL.Connection) -> bytes:
    """What OpenSSL wants to send."""
    try:
        return peer.bio_read(1 << 20)
    except SSL.WantReadError:
        return b""
