"""Lists as they are signed: their form, their bounds, and what is altered in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.errors import GroupError, InvalidGroupList
from kachery_p2p.membership import edits, limits, notices
from kachery_p2p.membership.ids import commitment, derived_key, group_id, id_bytes, id_text, is_group_id, wire_tag
from kachery_p2p.membership.lists import DOMAIN, PAYLOAD_TYPE, Entry, Epoch, Founding, Role, read_list, sign_list
from kachery_p2p.membership.state import GroupState
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.transport.compat import Keys
from kachery_p2p.transport.envelopes import seal
from kachery_p2p.wire import bytes_field, number_field
from tests.helpers.group_helpers import new_keys

A, B = Keys.from_seed(bytes(32)), Keys.from_seed(b"b" * 32)
STATE, SECRET = edits.found(A, "lab", "a machine")
SEALED = STATE.lists[A.peer_id].sealed


def test_as_it_was_signed() -> None:
    """Everything comes back, and the bytes are kept."""
    found = read_list(SEALED)
    assert found == STATE.lists[A.peer_id]
    assert found.sealed is SEALED
    assert (found.signer, found.group) == (A.peer_id, STATE.group)
    assert found.entries == {A.peer_id: Entry(A.peer_id, 1, Role.OWNER, 1, "a machine")}
    assert found.founding == Founding(STATE.seed, "lab")
    assert found.epochs == (Epoch(1, commitment(STATE.group, 1, SECRET), STATE.view.removed_hash),)
    assert SECRET not in SEALED


def test_every_bit_counts() -> None:
    """A list altered by one bit, wherever, is refused; so is one that is cut or longer."""
    for place in range(len(SEALED) * 8):
        altered = bytearray(SEALED)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(InvalidGroupList):
            read_list(bytes(altered))
    for end in range(0, len(SEALED), 7):
        with pytest.raises(InvalidGroupList):
            read_list(SEALED[:end])
    with pytest.raises(InvalidGroupList, match="proper form"):
        read_list(SEALED + bytes_field(9, b"more"))
    with pytest.raises(InvalidGroupList, match="the most is"):
        read_list(bytes(limits.MAX_LIST + 1))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Are refused by name, signed or not."""
    for sealed in (data, seal(A, DOMAIN, PAYLOAD_TYPE, data)):
        try:
            read_list(sealed)
        except InvalidGroupList:
            continue
        pytest.fail("bytes without a group were taken for a list")


def test_signed_for_something_else() -> None:
    """The same bytes with the signature of another purpose or type are no list."""
    payload = bytes_field(1, id_bytes(STATE.group)) + number_field(2, 1) + number_field(3, 1)
    assert read_list(seal(B, DOMAIN, PAYLOAD_TYPE, payload)).signer == B.peer_id
    for domain, kind in ((b"libp2p-peer-record", PAYLOAD_TYPE), (DOMAIN, b"\x03\x01"), (notices.DOMAIN, PAYLOAD_TYPE)):
        with pytest.raises(InvalidGroupList):
            read_list(seal(B, domain, kind, payload))


def test_the_founder_proves_itself() -> None:
    """Nobody else's key gives the ID, with any seed or name; the ID does not depend on the name."""
    for keys, seed in ((B, STATE.seed), (A, bytes(32))):
        with pytest.raises(InvalidGroupList, match="founder"):
            sign_list(keys, STATE.group, version=1, term=1, entries=[], epochs=[], founding=Founding(seed, "lab"))
    assert group_id(A.public_key, STATE.seed) == STATE.group
    assert is_group_id(STATE.group)
    assert len(STATE.group) == 26
    assert edits.found(A, "lab")[0].group != STATE.group


def entry(*parts: bytes) -> bytes:
    return bytes_field(6, b"".join(parts))


@pytest.mark.parametrize(
    "rest",
    [
        entry(bytes_field(2, b"no peer"), number_field(3, 1)),
        entry(bytes_field(2, peer_bytes(B.peer_id)), number_field(4, 1)),
        entry(bytes_field(2, peer_bytes(B.peer_id)), number_field(3, 1), number_field(4, 9)),
        entry(bytes_field(2, peer_bytes(B.peer_id)), number_field(3, 1), number_field(5, 2)),
        entry(bytes_field(2, peer_bytes(B.peer_id)), number_field(3, limits.MAX_NUMBER + 1)),
        entry(bytes_field(2, peer_bytes(B.peer_id)), number_field(3, 1), bytes_field(6, b"\xff")),
        entry(bytes_field(2, peer_bytes(B.peer_id)), number_field(3, 1), bytes_field(6, b"x" * 97)),
        entry(bytes_field(2, peer_bytes(B.peer_id)), number_field(3, 1)) * 2,
        bytes_field(7, number_field(1, 1) + bytes_field(2, bytes(31)) + bytes_field(3, bytes(32))),
        bytes_field(7, number_field(1, 1) + bytes_field(2, bytes(32)) + bytes_field(3, bytes(32))) * 2,
        number_field(2, limits.MAX_NUMBER + 1),
        bytes_field(4, bytes(32)),
        b"".join(
            bytes_field(7, number_field(1, n) + bytes_field(2, bytes(32)) + bytes_field(3, bytes(32)))
            for n in range(1, limits.MAX_EPOCHS + 2)
        ),
    ],
)
def test_what_makes_no_sense(rest: bytes) -> None:
    """Signed all the same, it is refused."""
    head = bytes_field(1, id_bytes(STATE.group)) + number_field(2, 1) + number_field(3, 1)
    read_list(seal(B, DOMAIN, PAYLOAD_TYPE, head))
    with pytest.raises(InvalidGroupList):
        read_list(seal(B, DOMAIN, PAYLOAD_TYPE, head + rest))


def test_members_of_kinds_that_come_later() -> None:
    """Are kept as they came when the list is signed anew, and count for nothing here."""
    own = STATE.lists[A.peer_id]
    later = number_field(1, 7) + bytes_field(2, b"a user") + number_field(3, 1)
    new = sign_list(
        A,
        STATE.group,
        version=5,
        term=1,
        entries=own.entries.values(),
        epochs=own.epochs,
        founding=own.founding,
        foreign=[later],
    )
    after = edits.add(STATE.admit([new]), A, B.peer_id, Role.READER)
    assert after.lists[A.peer_id].foreign == (later,)
    assert after.view.members.keys() == {A.peer_id, B.peer_id}


def test_too_many_entries() -> None:
    """Are neither signed nor read."""
    entries = [Entry(new_keys().peer_id, 1, Role.READER, 1) for _ in range(200)]
    raw = [number_field(1, 5) + bytes_field(2, bytes([n % 256])) for n in range(limits.MAX_ENTRIES)]
    with pytest.raises(InvalidGroupList, match="more than 20000 entries"):
        sign_list(B, STATE.group, version=1, term=1, entries=entries, epochs=[], foreign=raw)


@pytest.mark.parametrize(
    "name",
    ["", "x" * 65, "two words", "a,b", "public", "PRIVATE", "own", "-x", ".x", "a/b", "a\x1b", "a" * 26, "q\u202ep"],
)
def test_names_that_no_group_has(name: str) -> None:
    """The error says why, also where a stranger's list has it."""
    with pytest.raises(GroupError, match="cannot be called"):
        edits.found(A, name)


@pytest.mark.parametrize("name", ["lab", "hippocampus-2", "Köln_3", "x" * 64, "实验室"])
def test_names(name: str) -> None:
    assert edits.found(A, name)[0].name == name


def test_what_is_derived() -> None:
    """Depends on all that goes in, and names are other ones for each pair, direction and exchange."""
    seed, other = bytes(32), b"x" * 32
    tags = {
        wire_tag(key, group, nonce, *peers)
        for key in (seed, other)
        for group in (STATE.group, id_text(bytes(16)))
        for nonce in (bytes(16), b"n" * 16)
        for peers in ((A.peer_id, B.peer_id), (B.peer_id, A.peer_id))
    }
    assert len(tags) == 16
    keys = {
        derived_key(secret, purpose, context)
        for secret in (seed, other)
        for purpose, context in ((b"a", b"bc"), (b"ab", b"c"))
    }
    assert len(keys) == 4
    assert commitment(STATE.group, 1, seed) != commitment(STATE.group, 2, seed)


def test_notices() -> None:
    """Only an owner's notice counts, about that peer, that group and that generation."""
    member = new_keys()
    state = edits.add(edits.add(STATE, A, member.peer_id, Role.READER), A, B.peer_id, Role.READER)
    after, _ = edits.remove(state, A, member.peer_id)
    notice = notices.sign_notice(A, after, member.peer_id)
    assert notices.applies(notice, state, member.peer_id)
    again = edits.add(after, A, member.peer_id, Role.READER)
    assert not notices.applies(notice, again, member.peer_id)
    other, _ = edits.found(A, "other")
    for wrong, where, peer in (
        (notice, state, B.peer_id),
        (notice, other, member.peer_id),
        (notices.sign_notice(B, after, member.peer_id), state, member.peer_id),
        (notice[:-1], state, member.peer_id),
        (notice[:-1] + bytes([notice[-1] ^ 1]), state, member.peer_id),
        (bytes(5000), state, member.peer_id),
    ):
        with pytest.raises(InvalidGroupList):
            notices.applies(wrong, where, peer)
    assert isinstance(other, GroupState)
