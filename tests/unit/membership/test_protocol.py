"""The messages of groups: written, read, cut, altered, and too large."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.membership import limits
from kachery_p2p.membership.protocol import Answer, Opening, Part, fitting, read_answer, read_opening
from kachery_p2p.wire import WireError, bytes_field, number_field
from tests.helpers.group_helpers import new_keys

TAG, NONCE = b"t" * 16, b"n" * 16
PEER = new_keys().peer_id
FULL = Part(
    TAG,
    frozenset({b"a" * 32, b"b" * 32}),
    frozenset({b"c" * 32}),
    (b"list", b"another"),
    ((1, b"s" * 32), (2, b"r" * 32)),
    b"notice",
    ((PEER, ("/ip4/192.0.2.1/tcp/4001", "/dns4/lab.example.org/tcp/1")),),
)


def test_as_it_was_written() -> None:
    """Everything comes back."""
    for opening in (
        Opening(NONCE),
        Opening(NONCE, (FULL, Part(TAG))),
        Opening(NONCE, token=b"x" * 24, label="Köln"),
        Opening(NONCE, leaving=TAG),
        Opening(NONCE, removed=FULL),
    ):
        assert read_opening(opening.encode()) == opening
    for answer in (Answer(), Answer("used"), Answer("expired"), Answer("refused"), Answer(parts=(FULL, Part(TAG)))):
        assert read_answer(answer.encode()) == answer
    assert Answer().encode() == b""


def test_what_later_versions_say() -> None:
    """Unknown fields are passed over; a refusal of an unknown kind is one."""
    assert read_answer(bytes_field(15, b"new") + Answer("used").encode()) == Answer("used")
    assert read_answer(number_field(1, 99)) == Answer("refused")
    strange = bytes_field(1, TAG) + bytes_field(7, bytes_field(1, b"no peer")) + bytes_field(9, b"new")
    assert read_answer(bytes_field(2, strange)) == Answer(parts=(Part(TAG),))


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Are a message, or refused by name."""
    for read in (read_opening, read_answer):
        try:
            read(data)
        except WireError:
            continue


@given(st.integers(0, 400), st.integers(0, 255))
def test_altered(place: int, value: int) -> None:
    """The same of messages in which one byte is another."""
    opening, answer = Opening(NONCE, (FULL,)).encode(), Answer(parts=(FULL,)).encode()
    for message, read in ((opening, read_opening), (answer, read_answer)):
        altered = bytearray(message)
        altered[place % len(altered)] = value
        for data in (bytes(altered), message[: place % len(message)]):
            try:
                read(data)
            except WireError:
                continue


def part(*fields: bytes) -> bytes:
    return bytes_field(2, bytes_field(1, TAG) + b"".join(fields))


@pytest.mark.parametrize(
    "message",
    [
        bytes_field(2, b""),
        bytes_field(2, bytes_field(1, TAG + b"x")),
        part(bytes_field(2, bytes(33))),
        part(bytes_field(2, bytes(32 * (limits.MAX_LISTS + 1)))),
        part(bytes_field(4, b"") * (limits.MAX_LISTS + 1)),
        part(bytes_field(5, number_field(1, 1) + bytes_field(2, bytes(31)))),
        part(bytes_field(5, bytes_field(2, bytes(32)))),
        part(bytes_field(5, number_field(1, limits.MAX_NUMBER + 1) + bytes_field(2, bytes(32)))),
        part(bytes_field(5, number_field(1, 1) + bytes_field(2, bytes(32))) * (limits.MAX_SECRETS + 1)),
        part(bytes_field(6, bytes(1025))),
        part() * (limits.MAX_EXCHANGED + 1),
        part(number_field(4, 1)),
        bytes_field(2, number_field(15, 1) * 4) * limits.MAX_FIELDS,
        number_field(1, 1) * (limits.MAX_FIELDS + 1),
    ],
)
def test_too_much_or_no_sense(message: bytes) -> None:
    """Is refused."""
    with pytest.raises(WireError):
        read_answer(message)
    with pytest.raises(WireError):
        read_opening(bytes_field(1, NONCE) + message)


@pytest.mark.parametrize(
    "opening",
    [
        b"",
        bytes_field(1, b"short"),
        bytes_field(1, NONCE) + bytes_field(3, b""),
        bytes_field(1, NONCE) + bytes_field(3, bytes_field(1, bytes(23))),
        bytes_field(1, NONCE) + bytes_field(3, bytes_field(1, bytes(24)) + bytes_field(2, b"x" * 97)),
        bytes_field(1, NONCE) + bytes_field(3, bytes_field(1, bytes(24)) + bytes_field(2, b"\xff")),
    ],
)
def test_openings_that_make_no_sense(opening: bytes) -> None:
    with pytest.raises(WireError):
        read_opening(opening)


def test_places_are_bounded() -> None:
    """More members, addresses and nonsense than are wanted are passed over."""
    many = Part(TAG, places=tuple((new_keys().peer_id, ("/ip4/192.0.2.1/tcp/1",) * 20) for _ in range(100)))
    (found,) = read_answer(Answer(parts=(many,)).encode()).parts
    assert len(found.places) == limits.MAX_PLACES
    assert {len(addresses) for _, addresses in found.places} == {limits.MAX_ADDRESSES}


def test_what_fits() -> None:
    """A message has as much as it may; the rest comes with the next exchange."""
    parts = [Part(TAG, lists=(bytes(3 << 20),)) for _ in range(4)]
    fits = fitting(parts)
    assert len(fits) == 2
    assert len(Answer(parts=fits).encode()) <= limits.MAX_MESSAGE
    assert len(fitting([Part(TAG)] * 1000)) == limits.MAX_EXCHANGED
