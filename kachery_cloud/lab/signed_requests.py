"""Requests that a client signs with the key of its peer ID: HTTP message signatures (RFC 9421), Ed25519.

What is signed is method, host, path, query, and where there is a body its digest (RFC 9530). With it go the time, a
nonce and the peer ID, of which the public key is part::

    Signature-Input: kachery=("@method" "@authority" "@path" "@query" "content-digest");created=1767225600;
        nonce="0mBl..";keyid="12D3KooW...";alg="ed25519"
    Signature: kachery=:MEUCIQ...=:
    Content-Digest: sha-256=:X48E9q...=:

So a request that was overheard is of no use for another one, at another lab, later, or a second time: who checks it
also remembers the nonces of as long as a request is taken (`limits.CLOCK_SECONDS`). No input or output here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kachery_cloud.lab import limits
from kachery_cloud.lab.origins import normal
from kachery_p2p.text import span_text

if TYPE_CHECKING:
    from kachery_p2p.repo.keys import NodeKey

#: The name of our signature among those of a request.
LABEL = "kachery"
_ALWAYS = ("@method", "@authority", "@path", "@query")
_DIGEST = "content-digest"
#: Characters of the headers that are looked at.
_MAX_HEADER = 4096


@dataclass(frozen=True)
class Signed:
    """Who signed a request: the peer ID; and what makes the request different from all others of that peer."""

    peer: str
    nonce: str
    created: int


class BadSignature(ValueError):
    """A request is not signed as it should be.

    Attributes:
        reason: for machines: "BAD_SIGNATURE", or "CLOCK" where the two clocks are too far apart.
    """

    def __init__(self, details: str, reason: str = "BAD_SIGNATURE") -> None:
        super().__init__(details)
        self.reason = reason


# --- signing --------------------------------------------------------------------------------------------------------


def sign(
    key: NodeKey, method: str, url: str, body: bytes = b"", *, now: float, nonce: str | None = None
) -> dict[str, str]:
    """The headers that make a request a signed one.

    Args:
        key: of the peer.
        method: such as "POST".
        url: exactly as it is asked for, query included.
        body: that is sent with it.
        now: seconds since 1970.
        nonce: used once; a random one where it is None.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    parts = urlsplit(url)
    headers = {_DIGEST: digest(body)} if body else {}
    values = _values(method, normal(parts.scheme, parts.netloc), parts.path or "/", parts.query)
    values.update(headers)
    nonce = secrets.token_urlsafe(24) if nonce is None else nonce
    names = " ".join(f'"{name}"' for name in values)
    parameters = f'({names});created={int(now)};nonce="{nonce}";keyid="{key.peer_id}";alg="ed25519"'
    signature = Ed25519PrivateKey.from_private_bytes(key.seed).sign(_base(values, parameters))
    return {
        **headers,
        "signature-input": f"{LABEL}={parameters}",
        "signature": f"{LABEL}=:{base64.b64encode(signature).decode('ascii')}:",
    }


def digest(body: bytes) -> str:
    """The header `Content-Digest` of a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode('ascii')}:"


def _values(method: str, authority: str, path: str, query: str) -> dict[str, str]:
    return {"@method": method, "@authority": authority, "@path": path, "@query": f"?{query}"}


def _base(values: Mapping[str, str], parameters: str) -> bytes:
    """What is signed (RFC 9421, section 2.5)."""
    lines = [f'"{name}": {value}' for name, value in values.items()]
    return "\n".join([*lines, f'"@signature-params": {parameters}']).encode("ascii", "backslashreplace")


# --- checking -------------------------------------------------------------------------------------------------------


def check(
    method: str, authority: str, path: str, query: str, headers: Mapping[str, str], body: bytes, *, now: float
) -> Signed:
    """Who signed a request.

    That the nonce is new is for the caller to see to, and that the authority is a name of ours.

    Args:
        method: as it came.
        authority: of the Host header, in its normal form (`origins.normal`).
        path: as it came, with its escapes.
        query: behind the question mark, as it came.
        headers: by names in small letters; those that came several times are joined by ", ".
        body: all of it.
        now: seconds since 1970.

    Raises:
        BadSignature: nobody did.
    """
    names, parameters, written = _read_input(headers.get("signature-input", ""))
    signature = _read_signature(headers.get("signature", ""))
    peer, nonce, created = _read_parameters(parameters)
    _check_time(created, parameters.get("expires"), now)
    known = _values(method, authority, path, query)
    missing = [name for name in (*_ALWAYS, *([_DIGEST] if body else ())) if name not in names]
    if missing:
        raise BadSignature(f"The signature does not cover {', '.join(missing)}.")
    values: dict[str, str] = {}
    for name in names:
        value = known.get(name, headers.get(name))
        if value is None or (name.startswith("@") and name not in known):
            raise BadSignature(f"The signature covers {name[:50]!a}, which this request does not have.")
        values[name] = value.strip()
    if _DIGEST in values and not _has_digest(values[_DIGEST], body):
        raise BadSignature("The body is not the one that was signed: Content-Digest names another.")
    if not _has_signed(peer, _base(values, written), signature):
        raise BadSignature(f"The signature is not one of {peer} for this request.")
    return Signed(peer, nonce, created)


def _read_input(header: str) -> tuple[Sequence[str], Mapping[str, Any], str]:
    """The names that are covered, the parameters, and both as they are signed."""
    import http_sf

    members = _dictionary(header, "Signature-Input")
    member = members.get(LABEL)
    if not isinstance(member, tuple) or not isinstance(member[0], list):
        raise BadSignature(f"There is no signature with the label {LABEL} in Signature-Input.")
    items, parameters = member
    names = [name for name, more in items if isinstance(name, str) and not more]
    if len(names) != len(items) or len(set(names)) != len(names) or any(name != name.lower() for name in names):
        raise BadSignature("Signature-Input names what is covered in a way that is not used here.")
    return names, parameters, http_sf.ser([member])


def _read_signature(header: str) -> bytes:
    member = _dictionary(header, "Signature").get(LABEL)
    value = member[0] if isinstance(member, tuple) else None
    if not isinstance(value, bytes):
        raise BadSignature(f"There is no signature with the label {LABEL} in Signature.")
    return value


def _dictionary(header: str, name: str) -> Mapping[str, Any]:
    import http_sf

    if not header or len(header) > _MAX_HEADER:
        raise BadSignature(f"The header {name} is missing, or too long.")
    try:
        found = http_sf.parse(header.encode("latin-1", "replace"), tltype="dictionary")
    except (http_sf.StructuredFieldError, ValueError):
        raise BadSignature(f"The header {name} cannot be read.") from None
    assert isinstance(found, dict)
    return found


def _read_parameters(parameters: Mapping[str, Any]) -> tuple[str, str, int]:
    peer, nonce, created = parameters.get("keyid"), parameters.get("nonce"), parameters.get("created")
    if type(created) is not int:
        raise BadSignature("The signature does not say when it was made (created).")
    if not isinstance(nonce, str) or len(nonce) not in limits.NONCE_LENGTH:
        least, most = limits.NONCE_LENGTH[0], limits.NONCE_LENGTH[-1]
        raise BadSignature(f"The signature has no nonce of {least} to {most} characters.")
    if parameters.get("alg", "ed25519") != "ed25519":
        raise BadSignature("Requests are signed with Ed25519 here.")
    if not isinstance(peer, str) or not 0 < len(peer) <= 100:
        raise BadSignature("The signature does not say who made it: keyid is a peer ID.")
    return peer, nonce, created


def _check_time(created: int, expires: object, now: float) -> None:
    off = created - now
    if abs(off) > limits.CLOCK_SECONDS:
        raise BadSignature(
            f"The clock of this computer is {span_text(off)} {'ahead of' if off > 0 else 'behind'} that of the lab's "
            f"node, or the request is that old; {span_text(limits.CLOCK_SECONDS)} are the most. Set the clock.",
            "CLOCK",
        )
    if expires is not None and (type(expires) is not int or expires < now):
        raise BadSignature("The signature has expired.", "CLOCK")


def _has_digest(header: str, body: bytes) -> bool:
    member = _dictionary(header, "Content-Digest").get("sha-256")
    value = member[0] if isinstance(member, tuple) else None
    return isinstance(value, bytes) and hmac.compare_digest(value, hashlib.sha256(body).digest())


def _has_signed(peer: str, data: bytes, signature: bytes) -> bool:
    """Whether the key in a peer ID made a signature. Only small keys are in their ID; ours, Ed25519, is one."""
    from kachery_p2p.errors import InvalidAddress
    from kachery_p2p.peer_ids import peer_bytes
    from kachery_p2p.peer_keys import UnusableKey, read_public_key

    try:
        raw = peer_bytes(peer)
        if raw[:2] != b"\x00\x24":
            raise BadSignature(f"{peer} has no Ed25519 key, which is what requests are signed with here.")
        key = read_public_key(raw[2:])
    except (InvalidAddress, UnusableKey):
        raise BadSignature("The signature does not say who made it: keyid is a peer ID.") from None
    return key.peer == peer and key.has_signed(data, signature)
