"""The certificates of libp2p's TLS: each node signs one for itself, and a private extension says whose it is.

(https://github.com/libp2p/specs/blob/master/tls/tls.md, "Peer Authentication".) The key of the certificate is made for
it and thrown away with it. The extension has the public key of the node, and the node's signature of the certificate's
key: who shows the certificate and proves in the handshake that it has that key is the node.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kachery_p2p.errors import StreamError
from kachery_p2p.peer_keys import UnusableKey, read_public_key
from kachery_p2p.transport import limits

EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_PREFIX = b"libp2p-tls-handshake:"
#: Machines whose clock is wrong take part, so a certificate says nothing of the time when it was made.
_VALID_FROM = datetime(1975, 1, 1, tzinfo=timezone.utc)
_VALID_TO = datetime(4096, 1, 1, tzinfo=timezone.utc)
#: Those of the hash functions that the specification forbids are not here.
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

#: Tags of ASN.1.
_SEQUENCE, _OCTET_STRING = 0x30, 0x04

CertificateKey = ec.EllipticCurvePrivateKey


class BadCertificate(StreamError):
    """A certificate that does not show who the peer is."""


def make_certificate(
    public_key: bytes, sign: Callable[[bytes], bytes], key: CertificateKey | None = None
) -> tuple[CertificateKey, x509.Certificate]:
    """A certificate for a node, and its private key.

    Args:
        public_key: of the node, as the protobuf `PublicKey`.
        sign: makes the node's signature.
        key: the private key of the certificate; a new one when not given.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_TO)
        # Critical, as it says everything. js-libp2p takes the first extension for this one.
        .add_extension(signed_key(public_key, sign(_PREFIX + spki)), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def signed_key(public_key: bytes, signature: bytes) -> x509.UnrecognizedExtension:
    """The extension that says whose the certificate is."""
    value = _der(_SEQUENCE, _der(_OCTET_STRING, public_key) + _der(_OCTET_STRING, signature))
    return x509.UnrecognizedExtension(EXTENSION, value)


def peer_of(certificate: bytes, now: datetime | None = None) -> str:
    """The peer ID, base58, that a certificate is for.

    That the peer has the private key of the certificate is for the handshake to prove.

    Args:
        certificate: as a stranger sent it, in DER.
        now: the time at which it must be valid; the present when not given.

    Raises:
        BadCertificate: it breaks a rule of the specification, or a signature is wrong.
    """
    try:
        return _peer_of(x509.load_der_x509_certificate(certificate), now or datetime.now(timezone.utc))
    except BadCertificate:
        raise
    except InvalidSignature as error:
        raise BadCertificate("The peer's certificate has a wrong signature.") from error
    except Exception as error:  # whatever the parsers and the ciphers make of a stranger's bytes
        raise BadCertificate(f"The peer's certificate is malformed: {error or type(error).__name__}.") from error


def _peer_of(certificate: x509.Certificate, now: datetime) -> str:
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not since <= now <= until:
        raise BadCertificate(
            f"The peer's certificate is valid from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC, "
            f"and here it is {now:%Y-%m-%d %H:%M}. Is the clock right?"
        )
    value = None
    for extension in certificate.extensions:  # one that is there twice is an error of the parser
        if extension.oid == EXTENSION and isinstance(extension.value, x509.UnrecognizedExtension):
            value = extension.value.value
        elif extension.critical:
            raise BadCertificate(
                f"The peer's certificate has the critical extension {extension.oid.dotted_string}, which is not known."
            )
    if value is None:
        raise BadCertificate("The peer's certificate does not say which peer it is for.")
    _check_self_signed(certificate)
    public_key, signature = _read_signed_key(value)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _signer(public_key, signature, _PREFIX + spki)


def _check_self_signed(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        _check_size(key)
    algorithm = certificate.signature_hash_algorithm  # None for Ed25519, which has its own
    if algorithm is not None and not isinstance(algorithm, _HASHES):
        raise BadCertificate(f"The peer's certificate is signed with {algorithm.name}, which is too weak.")
    if certificate.issuer != certificate.subject:
        raise BadCertificate("The peer's certificate is not signed by itself.")
    certificate.verify_directly_issued_by(certificate)


def _signer(encoded: bytes, signature: bytes, data: bytes) -> str:
    """The peer whose key an encoded `PublicKey` is, after a look at what it has signed."""
    try:
        key = read_public_key(encoded)
    except UnusableKey as error:
        raise BadCertificate(f"The peer's certificate has a key that cannot be used: {error}.") from error
    if not key.has_signed(data, signature):
        raise BadCertificate("The peer's certificate has a wrong signature.")
    return key.peer


def _check_size(key: rsa.RSAPublicKey) -> None:
    if not limits.MIN_RSA_BITS <= key.key_size <= limits.MAX_RSA_BITS:
        raise BadCertificate(
            f"The peer's certificate has an RSA key of {key.key_size} bits; "
            f"{limits.MIN_RSA_BITS} to {limits.MAX_RSA_BITS} are taken."
        )


# --- ASN.1 -----------------------------------------------------------------------------------------------------------


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 128 | len(length))) + length + content


def _read_signed_key(value: bytes) -> tuple[bytes, bytes]:
    """The public key and the signature in the extension: a sequence of two octet strings, and nothing behind it."""
    content, rest = _read_der(_SEQUENCE, value)
    public_key, behind = _read_der(_OCTET_STRING, content)
    signature, more = _read_der(_OCTET_STRING, behind)
    if rest or more:
        raise BadCertificate("The peer's certificate has something behind its key.")
    return public_key, signature


def _read_der(tag: int, data: bytes) -> tuple[bytes, bytes]:
    """The content of the first element, and what is behind it."""
    if len(data) < 2 or data[0] != tag:
        raise BadCertificate("The peer's certificate has no key where it should be.")
    start, size = 2, data[1]
    if size >= 128:
        start += size & 127
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size or _der(tag, data[start : start + size]) != data[: start + size]:
        raise BadCertificate("The key in the peer's certificate is cut short, or not written as it must be.")
    return data[start : start + size], data[start + size :]
