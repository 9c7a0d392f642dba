"""Signed envelopes: what a node says in a form that others can pass on and still believe.

(https://github.com/libp2p/specs/blob/master/RFC/0002-signed-envelopes.md)
"""

from __future__ import annotations

from kachery_p2p.peer_keys import PublicKey, UnusableKey, read_public_key
from kachery_p2p.transport.compat import Keys
from kachery_p2p.wire import BYTES, Schema, WireError, bytes_field, delimited, fields

_KEY, _TYPE, _PAYLOAD, _SIGNATURE = 1, 2, 3, 5
_SCHEMA = Schema(dict.fromkeys((_KEY, _TYPE, _PAYLOAD, _SIGNATURE), BYTES))


def seal(keys: Keys, domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """The envelope of a payload.

    Args:
        keys: whose signature is on it.
        domain: what the signature is for, so that it can be used for nothing else.
        payload_type: multicodec of the payload.
        payload: the message in it.
    """
    signature = keys.sign(b"".join(map(delimited, (domain, payload_type, payload))))
    return _envelope(keys.public_key, payload_type, payload, signature)


def unseal(domain: bytes, payload_type: bytes, envelope: bytes) -> tuple[PublicKey, bytes]:
    """Whose signature is on an envelope, and the payload.

    Only the form that `seal` makes is taken: a signed message then has one form, and so one hash.

    Args:
        domain: what the signature must be for.
        payload_type: multicodec that the payload must have.
        envelope: as it came.

    Raises:
        WireError: it is not such an envelope, or the signature is wrong.
    """
    parts = {number: value for number, _, value in fields(envelope, _SCHEMA)}
    payload, signature = parts.get(_PAYLOAD, b""), parts.get(_SIGNATURE, b"")
    try:
        key = read_public_key(parts.get(_KEY, b""))
    except UnusableKey as error:
        raise WireError(f"its key cannot be used: {error}") from error
    if parts.get(_TYPE) != payload_type:
        raise WireError("it is of another type")
    if _envelope(key.encoded, payload_type, payload, signature) != envelope:
        raise WireError("it is not in its proper form")
    if not key.has_signed(b"".join(map(delimited, (domain, payload_type, payload))), signature):
        raise WireError("its signature is wrong")
    return key, payload


def _envelope(key: bytes, payload_type: bytes, payload: bytes, signature: bytes) -> bytes:
    parts = ((_KEY, key), (_TYPE, payload_type), (_PAYLOAD, payload), (_SIGNATURE, signature))
    return b"".join(bytes_field(number, value) for number, value in parts)
