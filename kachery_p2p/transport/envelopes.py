"""Signed envelopes: what a node says in a form that others can pass on and still believe.

(https://github.com/libp2p/specs/blob/master/RFC/0002-signed-envelopes.md)
"""

from __future__ import annotations

from kachery_p2p.transport.compat import Keys
from kachery_p2p.wire import bytes_field, delimited


def seal(keys: Keys, domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """The envelope of a payload.

    Args:
        keys: whose signature is on it.
        domain: what the signature is for, so that it can be used for nothing else.
        payload_type: multicodec of the payload.
        payload: the message in it.
    """
    signature = keys.sign(b"".join(map(delimited, (domain, payload_type, payload))))
    return b"".join(
        bytes_field(number, value)
        for number, value in ((1, keys.public_key), (2, payload_type), (3, payload), (5, signature))
    )
