"""The messages of `/kachery/groups/1.0.0`: how members exchange lists and secrets, and how a machine joins.

Each message is protobuf with its length in front, as in other protocols of libp2p. One side opens a stream and says:

    Opening   1 nonce (16 bytes)  2 Part, for each group to compare  3 Join  4 Part of a group that the sender leaves
              5 Part with a notice of removal

The other side answers, and after an opening with parts to compare the first one sends a last message:

    Answer    1 refusal (of a join: 1 used, 2 expired, 3 cannot)  2 Part, some
    Part      1 tag (16 bytes)    2 hashes of lists that the sender has, 32 bytes each
              3 commitments to secrets that the sender has, 32 bytes each   4 list, some   5 Secret, some   6 notice
              7 Place, where some members were seen
    Place     1 member (peer ID)  2 address (multiaddr in binary), some
    Secret    1 number            2 secret (32 bytes)
    Join      1 token             2 label

A group is named by a tag (`ids.wire_tag`), which only who was ever given the group's seed can make or understand, and
which differs for each pair of peers, direction and exchange. What somebody gets depends on the lists of the side that
gives: a peer which is on none of them, and one which was removed, gets the empty answer, as it would from a machine in
no group, whatever it has named. That is decided by a look-up of its peer ID, before a tag is looked at. What such a
peer sends in the last message is looked at after the stream is closed: it may be a new member that this machine has
not heard of, and its lists prove it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from kachery_p2p.errors import InvalidAddress
from kachery_p2p.membership import limits
from kachery_p2p.membership.ids import HASH_BYTES, NONCE_BYTES, SECRET_BYTES, TAG_BYTES
from kachery_p2p.membership.invitations import TOKEN_BYTES
from kachery_p2p.membership.notices import MAX_NOTICE
from kachery_p2p.multiaddrs import to_binary, to_text
from kachery_p2p.peer_ids import is_peer_id, peer_bytes, peer_text
from kachery_p2p.wire import BYTES, VARINT, Budget, Schema, WireError, bytes_field, fields, number_field, scan

PROTOCOL = "/kachery/groups/1.0.0"

#: Why a machine is not let in, on the wire.
REFUSALS = {"used": 1, "expired": 2, "refused": 3}

_OPENING = Schema({1: BYTES, 2: BYTES, 3: BYTES, 4: BYTES, 5: BYTES})
_ANSWER = Schema({1: VARINT, 2: BYTES})
_PART = Schema(dict.fromkeys(range(1, 8), BYTES))
_PLACE = Schema({1: BYTES, 2: BYTES})
_SECRET = Schema({1: VARINT, 2: BYTES})
_JOIN = Schema({1: BYTES, 2: BYTES})


@dataclass(frozen=True)
class Part:
    """What a message says of one group.

    Attributes:
        tag: by which the group is named.
        hashes: of the lists that the sender has.
        commitments: to the secrets that the sender has.
        lists: some, as they were signed.
        secrets: some, each with the number of its epoch.
        notice: that the receiver was removed.
        places: peer IDs of members, each with multiaddrs at which the sender has met it.
    """

    tag: bytes
    hashes: frozenset[bytes] = frozenset()
    commitments: frozenset[bytes] = frozenset()
    lists: tuple[bytes, ...] = ()
    secrets: tuple[tuple[int, bytes], ...] = ()
    notice: bytes = b""
    places: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def encode(self) -> bytes:
        """Without a length in front."""
        parts = [bytes_field(1, self.tag)]
        if self.hashes:
            parts.append(bytes_field(2, b"".join(sorted(self.hashes))))
        if self.commitments:
            parts.append(bytes_field(3, b"".join(sorted(self.commitments))))
        parts += [bytes_field(4, each) for each in self.lists]
        parts += [bytes_field(5, number_field(1, number) + bytes_field(2, secret)) for number, secret in self.secrets]
        if self.notice:
            parts.append(bytes_field(6, self.notice))
        for peer, addresses in self.places:
            place = bytes_field(1, peer_bytes(peer))
            parts.append(bytes_field(7, place + b"".join(bytes_field(2, to_binary(each)) for each in addresses)))
        return b"".join(parts)


@dataclass(frozen=True)
class Opening:
    """The first message.

    Attributes:
        nonce: of this exchange.
        parts: of each group to compare.
        token: of an invitation; None where this is not about joining.
        label: what the joining machine is to be called.
        leaving: names the group that the sender leaves.
        removed: with a notice for the receiver.
    """

    nonce: bytes
    parts: tuple[Part, ...] = ()
    token: bytes | None = None
    label: str = ""
    leaving: bytes | None = None
    removed: Part | None = None

    def encode(self) -> bytes:
        """Without a length in front."""
        parts = [bytes_field(1, self.nonce), *(bytes_field(2, each.encode()) for each in self.parts)]
        if self.token is not None:
            parts.append(bytes_field(3, bytes_field(1, self.token) + bytes_field(2, self.label.encode())))
        if self.leaving is not None:
            parts.append(bytes_field(4, Part(self.leaving).encode()))
        if self.removed is not None:
            parts.append(bytes_field(5, self.removed.encode()))
        return b"".join(parts)


@dataclass(frozen=True)
class Answer:
    """The second message, and the third.

    Attributes:
        refusal: why the sender does not let the receiver in; empty where it does, or was not asked.
        parts: of groups.
    """

    refusal: str = ""
    parts: tuple[Part, ...] = ()

    def encode(self) -> bytes:
        """Without a length in front."""
        refused = number_field(1, REFUSALS[self.refusal]) if self.refusal else b""
        return refused + b"".join(bytes_field(2, each.encode()) for each in self.parts)


def read_opening(data: bytes) -> Opening:
    """Read a first message.

    Raises:
        WireError: it is none.
    """
    budget = Budget(limits.MAX_FIELDS)
    nonce = label = b""
    token: bytes | None = None
    leaving: bytes | None = None
    removed: Part | None = None
    parts: list[Part] = []
    for number, start, stop in scan(data, 0, len(data), _OPENING, budget):
        raw = data[start:stop]
        if number == 1:
            nonce = raw
        elif number == 2:
            parts.append(_read_part(raw, budget))
        elif number == 3:
            token = label = b""
            for which, _, value in fields(raw, _JOIN):
                if which == 1:
                    token = value
                else:
                    label = value
            if len(token) != TOKEN_BYTES or len(label) > limits.MAX_LABEL:
                raise WireError("its token or label makes no sense")
        elif number == 4:
            leaving = _read_part(raw, budget).tag
        else:
            removed = _read_part(raw, budget)
    if len(nonce) != NONCE_BYTES or len(parts) > limits.MAX_EXCHANGED:
        raise WireError("it lacks its nonce, or is about too many groups")
    try:
        return Opening(nonce, tuple(parts), token, label.decode(), leaving, removed)
    except UnicodeDecodeError as error:
        raise WireError("its label is not UTF-8") from error


def read_answer(data: bytes) -> Answer:
    """Read a second or third message.

    Raises:
        WireError: it is none.
    """
    budget = Budget(limits.MAX_FIELDS)
    refusal = ""
    parts: list[Part] = []
    for number, start, stop in scan(data, 0, len(data), _ANSWER, budget):
        if number == 1:
            refusal = next((word for word, code in REFUSALS.items() if code == start), "refused")
        else:
            parts.append(_read_part(data[start:stop], budget))
    if len(parts) > limits.MAX_EXCHANGED:
        raise WireError("it is about too many groups")
    return Answer(refusal, tuple(parts))


def _read_part(data: bytes, budget: Budget) -> Part:
    tag = hashes = commitments = notice = b""
    lists: list[bytes] = []
    secrets: list[tuple[int, bytes]] = []
    places: list[tuple[str, tuple[str, ...]]] = []
    for number, start, stop in scan(data, 0, len(data), _PART, budget):
        raw = data[start:stop]
        if number == 1:
            tag = raw
        elif number == 2:
            hashes = raw
        elif number == 3:
            commitments = raw
        elif number == 4:
            lists.append(raw)
        elif number == 5:
            secrets.append(_read_secret(raw))
        elif number == 6:
            notice = raw
        elif len(places) < limits.MAX_PLACES:
            places += _read_place(raw)
    if len(tag) != TAG_BYTES or len(notice) > MAX_NOTICE:
        raise WireError("a part of it is not named, or has too long a notice")
    if len(lists) > limits.MAX_LISTS or len(secrets) > limits.MAX_SECRETS:
        raise WireError("a part of it has too many lists or secrets")
    most = limits.MAX_LISTS * HASH_BYTES
    hashed, committed = _split(hashes, most), _split(commitments, most)
    return Part(tag, hashed, committed, tuple(lists), tuple(secrets), notice, tuple(places))


def _read_place(raw: bytes) -> list[tuple[str, tuple[str, ...]]]:
    """Where one member is; nothing where it makes no sense: newer versions may know other addresses."""
    peer = b""
    addresses: list[str] = []
    for number, _, part in fields(raw, _PLACE):
        if number == 1:
            peer = part
        elif len(addresses) < limits.MAX_ADDRESSES and len(part) <= limits.MAX_ADDRESS:
            with contextlib.suppress(InvalidAddress):
                addresses.append(to_text(part))
    return [(peer_text(peer), tuple(addresses))] if is_peer_id(peer) else []


def _read_secret(raw: bytes) -> tuple[int, bytes]:
    number, secret = 0, b""
    for which, value, part in fields(raw, _SECRET):
        if which == 1:
            number = value
        else:
            secret = part
    if not 0 < number <= limits.MAX_NUMBER or len(secret) != SECRET_BYTES:
        raise WireError("a secret in it makes no sense")
    return number, secret


def _split(raw: bytes, most: int) -> frozenset[bytes]:
    if len(raw) % HASH_BYTES or len(raw) > most:
        raise WireError("its hashes are cut short, or too many")
    return frozenset(raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES))


def fitting(parts: Iterable[Part], most: int = limits.MAX_MESSAGE) -> tuple[Part, ...]:
    """As many parts as go into one message. The others come with the next exchange."""
    found: list[Part] = []
    room = most - 64
    for each in parts:
        size = len(each.encode()) + 8
        if size <= room and len(found) < limits.MAX_EXCHANGED:
            room -= size
            found.append(each)
    return tuple(found)
