"""Invitations: one string that lets one machine join a group, once, before it expires.

`kachery-group:` and base64url of a protobuf message: where the inviter is, and a random token. The inviter keeps only
the hash of the token, with the role and the time at which it expires, by the inviter's clock. The token goes to nobody
but the peer whose ID is in the invitation, over a connection on which that peer has proved who it is. A token that was
used is worth nothing, but to the machine that used it, which may ask again what it was told.

    Invitation  1 group (16 bytes)  2 name  3 inviter (peer ID)  4 address (multiaddr), some  5 token (24 bytes)
                6 role  7 expires (seconds since 1970, by the inviter's clock)
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kachery_p2p import multiaddrs
from kachery_p2p.errors import InvalidAddress, InvalidInvitation
from kachery_p2p.membership import limits
from kachery_p2p.membership.ids import ID_BYTES, id_bytes, id_text
from kachery_p2p.membership.lists import Role, problem_of_name
from kachery_p2p.peer_ids import is_peer_id, peer_bytes, peer_text
from kachery_p2p.wire import BYTES, VARINT, Schema, WireError, bytes_field, fields, number_field

PREFIX = "kachery-group:"
TOKEN_BYTES = 24

_SCHEMA = Schema({1: BYTES, 2: BYTES, 3: BYTES, 4: BYTES, 5: BYTES, 6: VARINT, 7: VARINT})


@dataclass(frozen=True)
class Invitation:
    """What is in an invitation.

    Attributes:
        group: the ID.
        name: of the group.
        inviter: the peer ID of the owner to connect to.
        addresses: multiaddrs of it, without the peer ID.
        token: the secret of the invitation.
        role: that it gives.
        expires: seconds since 1970, by the inviter's clock; for people.
    """

    group: str
    name: str
    inviter: str
    addresses: tuple[str, ...]
    token: bytes
    role: Role
    expires: int

    def __str__(self) -> str:
        parts = [bytes_field(1, id_bytes(self.group)), bytes_field(2, self.name.encode())]
        parts.append(bytes_field(3, peer_bytes(self.inviter)))
        parts += [bytes_field(4, multiaddrs.to_binary(each)) for each in self.addresses]
        parts += [bytes_field(5, self.token), number_field(6, self.role), number_field(7, self.expires)]
        return PREFIX + base64.urlsafe_b64encode(b"".join(parts)).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"<Invitation to {self.name} ({self.group}) by {self.inviter}>"  # without the token


def token_hash(token: bytes) -> str:
    """What the inviter keeps of a token."""
    return hashlib.sha256(b"kachery group invitation 1\0" + token).hexdigest()


def parse_invitation(text: str) -> Invitation:
    """Read an invitation.

    Raises:
        InvalidInvitation: it is none, or not all of one.
    """
    text = "".join(text.split())  # mail programs break lines
    if not text.startswith(PREFIX):
        raise InvalidInvitation(f"That is not an invitation to a group: one begins with {PREFIX}")
    encoded = text[len(PREFIX) :]
    try:
        if len(text) > limits.MAX_INVITATION_TEXT:
            raise ValueError
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        return _read(raw)
    except (ValueError, InvalidAddress) as error:
        raise InvalidInvitation(
            "The invitation is not whole, or was changed on its way. Copy all of it, to the last character, or ask for "
            "a new one."
        ) from error


def _read(raw: bytes) -> Invitation:
    group = inviter = token = name = b""
    role = expires = 0
    addresses: list[str] = []
    for number, value, part in fields(raw, _SCHEMA):
        if number == 1:
            group = part
        elif number == 2:
            name = part
        elif number == 3:
            inviter = part
        elif number == 4:
            addresses.append(multiaddrs.to_text(part))
        elif number == 5:
            token = part
        elif number == 6:
            role = value
        else:
            expires = value
    if len(group) != ID_BYTES or len(token) != TOKEN_BYTES or not is_peer_id(inviter):
        raise WireError("a part of it is missing")
    if not Role.READER <= role <= Role.OWNER or problem_of_name(name.decode()):
        raise WireError("a part of it makes no sense")
    if expires > limits.MAX_NUMBER or len(addresses) > limits.MAX_INVITATION_ADDRESSES:
        raise WireError("a part of it is too large")
    return Invitation(id_text(group), name.decode(), peer_text(inviter), tuple(addresses), token, Role(role), expires)


def usable_addresses(addresses: Sequence[str], peer: str) -> tuple[str, ...]:
    """The addresses that an invitation can carry, without the inviter's peer ID at the end."""
    found: dict[str, None] = {}
    for each in addresses:
        plain = each.removesuffix(f"/p2p/{peer}")
        try:
            if multiaddrs.to_text(multiaddrs.to_binary(plain)) == plain:
                found[plain] = None
        except InvalidAddress:
            continue
    return tuple(found)[: limits.MAX_INVITATION_ADDRESSES]
