"""What one owner says about the members of a group: the list, its bytes and its signature.

A list is a protobuf message in a libp2p signed envelope, with a domain of its own. Every owner has one, with all that
it has ever said; a newer version takes its place. One signature covers all of it, and the exact bytes are kept and
passed on, so whoever gets them from anybody can check them.

    List      1 group (16 bytes)   2 version   3 term
              4 seed (32 bytes)    5 name                      only in the founder's
              6 Entry, many        7 Epoch, some
    Entry     1 kind (0: a peer)   2 member (peer ID)   3 generation   4 role   5 version   6 label
    Epoch     1 number             2 commitment         3 hash of who was removed by then

What the numbers mean is told in `state`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from kachery_p2p.errors import InvalidGroupList
from kachery_p2p.membership import limits
from kachery_p2p.membership.ids import HASH_BYTES, ID_BYTES, SECRET_BYTES, group_id, id_bytes, id_text
from kachery_p2p.peer_ids import is_peer_id, peer_bytes, peer_text
from kachery_p2p.text import printable
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.envelopes import seal, unseal
from kachery_p2p.wire import BYTES, VARINT, Schema, WireError, bytes_field, fields, number_field

#: What the signature is for, and the type of the payload (in the range for private use).
DOMAIN = b"kachery-group-list"
PAYLOAD_TYPE = b"\x30\x01\x01"

_LIST = Schema({1: BYTES, 2: VARINT, 3: VARINT, 4: BYTES, 5: BYTES, 6: BYTES, 7: BYTES})
_ENTRY = Schema({1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: BYTES})
_EPOCH = Schema({1: VARINT, 2: BYTES, 3: BYTES})


class Role(IntEnum):
    """What a member may do; each may what those below it may. `REMOVED` is what a list says of a former member."""

    REMOVED = 0
    READER = 1
    WRITER = 2
    OWNER = 3

    @property
    def word(self) -> str:
        """As it is written: "owner"."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Entry:
    """What a list says about one peer.

    Attributes:
        peer: its peer ID, base58.
        generation: the how manieth time it is a member, from 1. Removal is said of a generation, and all before it.
        role: what it may do; or that this generation is removed.
        version: that of the list when this was said.
        label: what it is called, for people.
    """

    peer: str
    generation: int
    role: Role
    version: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """That there is a secret.

    Attributes:
        number: epochs count from 1.
        commitment: see `ids.commitment`.
        after: the hash of who was removed when it was made: those never got it.
    """

    number: int
    commitment: bytes
    after: bytes


@dataclass(frozen=True)
class Founding:
    """What the founder's list says of the group.

    Attributes:
        seed: the ID is the hash of it and of the founder's key.
        name: of the group.
    """

    seed: bytes
    name: str


@dataclass(frozen=True)
class MemberList:
    """A list as it was signed.

    Attributes:
        group: the ID of the group.
        signer: the peer ID of the owner that signed it.
        version: counts the changes of the group that the signer knew.
        term: the generation in which the signer was an owner when it signed.
        founding: in the founder's list alone.
        entries: by peer ID.
        epochs: with growing numbers.
        foreign: entries of a kind that this version does not know, as they came.
        sealed: the envelope.
        digest: SHA-256 of the envelope.
    """

    group: str
    signer: str
    version: int
    term: int
    founding: Founding | None
    entries: Mapping[str, Entry]
    epochs: tuple[Epoch, ...]
    foreign: tuple[bytes, ...]
    sealed: bytes
    digest: bytes

    @property
    def rank(self) -> tuple[int, int, bytes]:
        """Of two lists of one signer, the one of the higher rank counts."""
        return self.term, self.version, self.digest


def sign_list(
    keys: Keys,
    group: str,
    *,
    version: int,
    term: int,
    entries: Iterable[Entry],
    epochs: Iterable[Epoch],
    founding: Founding | None = None,
    foreign: Iterable[bytes] = (),
) -> MemberList:
    """A new list of this machine.

    Raises:
        InvalidGroupList: it would be too large.
    """
    parts = [bytes_field(1, id_bytes(group)), number_field(2, version), number_field(3, term)]
    if founding is not None:
        parts += [bytes_field(4, founding.seed), bytes_field(5, founding.name.encode())]
    parts += [bytes_field(6, raw) for raw in foreign]
    for entry in sorted(entries, key=lambda each: each.peer):
        raw = bytes_field(2, peer_bytes(entry.peer)) + number_field(3, entry.generation)
        raw += number_field(4, entry.role) + number_field(5, entry.version)
        parts.append(bytes_field(6, raw + bytes_field(6, entry.label.encode()) if entry.label else raw))
    for epoch in epochs:
        raw = number_field(1, epoch.number) + bytes_field(2, epoch.commitment) + bytes_field(3, epoch.after)
        parts.append(bytes_field(7, raw))
    return read_list(seal(keys, DOMAIN, PAYLOAD_TYPE, b"".join(parts)))


def read_list(sealed: bytes) -> MemberList:
    """Read a list and check all that can be checked of it alone: form, bounds, signature, and the founder's ID.

    Raises:
        InvalidGroupList: it is not one, or was altered.
    """
    if len(sealed) > limits.MAX_LIST:
        raise InvalidGroupList(f"A list of members has {len(sealed):,} bytes; the most is {limits.MAX_LIST:,}.")
    try:
        key, payload = unseal(DOMAIN, PAYLOAD_TYPE, sealed)
        return _read_payload(key.peer, key.encoded, payload, sealed)
    except (WireError, UnicodeDecodeError) as error:
        raise InvalidGroupList(f"A list of members is malformed: {error}.") from error


def _read_payload(signer: str, key: bytes, payload: bytes, sealed: bytes) -> MemberList:
    group = seed = name = b""
    version = term = 0
    entries: dict[str, Entry] = {}
    epochs: list[Epoch] = []
    foreign: list[bytes] = []
    for number, value, raw in fields(payload, _LIST):
        if number == 1:
            group = raw
        elif number == 2:
            version = _number(value)
        elif number == 3:
            term = _number(value)
        elif number == 4:
            seed = raw
        elif number == 5:
            name = raw
        elif number == 6:
            entry = _read_entry(raw)
            if entry is None:
                foreign.append(raw)
            elif entry.peer in entries:
                raise WireError("it names a member twice")
            else:
                entries[entry.peer] = entry
            if len(entries) + len(foreign) > limits.MAX_ENTRIES:
                raise WireError(f"it has more than {limits.MAX_ENTRIES} entries")
        else:
            epochs.append(_read_epoch(raw))
            if len(epochs) > limits.MAX_EPOCHS or (len(epochs) > 1 and epochs[-2].number >= epochs[-1].number):
                raise WireError("its epochs are too many, or do not grow")
    if len(group) != ID_BYTES:
        raise WireError("it does not name its group")
    founding = None
    if seed:
        text = name.decode()
        if len(seed) != SECRET_BYTES or group_id(key, seed) != id_text(group):
            raise WireError("it is not by the founder of its group")
        if problem_of_name(text):
            raise WireError("the name of its group is none")
        founding = Founding(seed, text)
    if any(entry.version > version for entry in entries.values()):
        raise WireError("one of its entries is newer than itself")
    return MemberList(
        group=id_text(group),
        signer=signer,
        version=version,
        term=term,
        founding=founding,
        entries=entries,
        epochs=tuple(epochs),
        foreign=tuple(foreign),
        sealed=sealed,
        digest=hashlib.sha256(sealed).digest(),
    )


def _read_entry(raw: bytes) -> Entry | None:
    """One entry; None where it is about something that is not a peer."""
    kind = generation = role = version = 0
    member = label = b""
    for number, value, part in fields(raw, _ENTRY):
        if number == 1:
            kind = value
        elif number == 2:
            member = part
        elif number == 3:
            generation = _number(value)
        elif number == 4:
            role = value
        elif number == 5:
            version = _number(value)
        else:
            label = part
    if kind != 0:
        return None
    if not is_peer_id(member) or not generation or not 0 <= role <= Role.OWNER:
        raise WireError("it has an entry that makes no sense")
    if len(label) > limits.MAX_LABEL:
        raise WireError("a member has too long a label")
    return Entry(peer_text(member), generation, Role(role), version, printable(label.decode()))


def _read_epoch(raw: bytes) -> Epoch:
    number, commitment, after = 0, b"", b""
    for which, value, part in fields(raw, _EPOCH):
        if which == 1:
            number = _number(value)
        elif which == 2:
            commitment = part
        else:
            after = part
    if not number or len(commitment) != HASH_BYTES or len(after) != HASH_BYTES:
        raise WireError("it has an epoch that makes no sense")
    return Epoch(number, commitment, after)


def _number(value: int) -> int:
    if value > limits.MAX_NUMBER:
        raise WireError("a number in it is too large")
    return value


_NOT_IN_NAMES = frozenset(" ,:/\\#?&=%\"'<>|*")
_RESERVED = ("public", "private", "own", "nobody", "everyone")


def problem_of_name(name: str) -> str:
    """Why a group cannot be called that, as the end of a sentence; empty where it can."""
    from kachery_p2p.membership.ids import is_group_id

    if not 1 <= len(name) <= limits.MAX_NAME:
        return f"a name has 1 to {limits.MAX_NAME} characters"
    if printable(name) != name or any(char.isspace() or char in _NOT_IN_NAMES for char in name):
        return "a name has no spaces, and none of , : / \\ # ? & = % \" ' < > | *"
    if name[0] in "-.":
        return "a name does not begin with - or ."
    if name.lower() in _RESERVED:
        return "that word means something else where a group is named"
    if is_group_id(name):
        return "it looks like the ID of a group"
    return ""
