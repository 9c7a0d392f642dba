"""Telling a machine that it was removed: by an owner, signed, and without a word about the other members."""

from __future__ import annotations

from kachery_p2p.errors import InvalidGroupList
from kachery_p2p.membership.ids import id_bytes
from kachery_p2p.membership.lists import Role
from kachery_p2p.membership.state import GroupState
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.envelopes import seal, unseal
from kachery_p2p.wire import BYTES, VARINT, Schema, WireError, bytes_field, fields, number_field

DOMAIN = b"kachery-group-notice"
PAYLOAD_TYPE = b"\x30\x01\x02"
#: Bytes of a notice: two keys, a signature and some numbers.
MAX_NOTICE = 1024

_SCHEMA = Schema({1: BYTES, 2: BYTES, 3: VARINT})


def sign_notice(keys: Keys, state: GroupState, peer: str) -> bytes:
    """That a peer is no longer a member. Only an owner that may remove it says so."""
    payload = bytes_field(1, id_bytes(state.group)) + bytes_field(2, peer_bytes(peer))
    return seal(keys, DOMAIN, PAYLOAD_TYPE, payload + number_field(3, state.view.floors.get(peer, 0)))


def applies(notice: bytes, state: GroupState, peer: str) -> bool:
    """Whether a notice says, of the generation in which a peer thinks it is a member, that it is no more.

    Raises:
        InvalidGroupList: it is no notice, or not by an owner that may say so.
    """
    if len(notice) > MAX_NOTICE:
        raise InvalidGroupList("A notice of removal is too long.")
    group = member = b""
    generation = 0
    try:
        key, payload = unseal(DOMAIN, PAYLOAD_TYPE, notice)
        for number, value, part in fields(payload, _SCHEMA):
            if number == 1:
                group = part
            elif number == 2:
                member = part
            else:
                generation = value
    except WireError as error:
        raise InvalidGroupList(f"A notice of removal is malformed: {error}.") from error
    view = state.view
    if group != id_bytes(state.group) or member != peer_bytes(peer):
        raise InvalidGroupList("A notice of removal is about somebody else.")
    if view.role_of(key.peer) is not Role.OWNER or not view.may_judge(key.peer, peer):
        raise InvalidGroupList("A notice of removal is not by an owner that may say so.")
    entry = view.members.get(peer)
    return entry is not None and generation >= entry.generation
