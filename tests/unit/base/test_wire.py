"""Protobuf and varints, against the protobuf library both ways and against bytes that are neither."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.errors import MalformedMessage
from kachery_p2p.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Budget,
    Schema,
    WireError,
    bytes_field,
    delimited,
    encode_varint,
    fields,
    fixed64_field,
    int32,
    length_at,
    naming,
    number_field,
    read_delimited,
    read_field,
    read_length,
    read_number,
    read_varint,
    scan,
    varint_size,
)

#: The fields of the reference message: number, type of the protobuf library, wire type.
UINT64, INT32, FIX64, FIX32, DATA = 4, 5, 6, 7, 12
LAYOUT = {
    1: (UINT64, VARINT),
    2: (DATA, BYTES),
    3: (FIX64, FIXED64),
    4: (FIX32, FIXED32),
    5: (INT32, VARINT),
    15: (DATA, BYTES),
    16: (UINT64, VARINT),
    2000: (DATA, BYTES),
}
SCHEMA = Schema({number: wire for number, (_, wire) in LAYOUT.items()})


def _reference() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="wire.proto", package="wire", syntax="proto3")
    message = file.message_type.add(name="All")
    for number, (kind, _) in LAYOUT.items():
        message.field.add(name=f"f{number}", number=number, type=kind, label=3)
        if kind != DATA:
            message.field[-1].options.packed = False
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("wire.All"))


Reference = _reference()

uint64 = st.integers(0, 2**64 - 1)
VALUES = {UINT64: uint64, INT32: st.integers(-(2**31), 2**31 - 1), FIX64: uint64, FIX32: st.integers(0, 2**32 - 1)}
contents = st.lists(
    st.sampled_from(sorted(LAYOUT)).flatmap(
        lambda number: st.tuples(st.just(number), VALUES.get(LAYOUT[number][0], st.binary(max_size=300)))
    ),
    max_size=12,
)


def by_number(pairs: Any) -> dict[int, list[Any]]:
    """The values of each field in their order, as the protobuf library keeps them."""
    found: dict[int, list[Any]] = {number: [] for number in LAYOUT}
    for number, value in pairs:
        found[number].append(value)
    return found


def read(data: bytes) -> dict[int, list[Any]]:
    """What `fields` finds in a message."""
    kinds = {number: kind for number, (kind, _) in LAYOUT.items()}
    return by_number(
        (number, part if kinds[number] == DATA else int32(value) if kinds[number] == INT32 else value)
        for number, value, part in fields(data, SCHEMA)
    )


@given(contents)
def test_what_we_write_the_protobuf_library_reads(pairs: list[tuple[int, Any]]) -> None:
    """Numbers, bytes and fixed numbers of any size, under small and large field numbers."""
    raw = b""
    for number, value in pairs:
        kind = LAYOUT[number][0]
        if kind == DATA:
            raw += bytes_field(number, value)
        elif kind == FIX64:
            raw += fixed64_field(number, value)
        elif kind == FIX32:
            raw += encode_varint(number << 3 | FIXED32) + value.to_bytes(4, "little")
        else:
            raw += number_field(number, value % 2**64)
    message = Reference.FromString(raw)
    assert {number: list(getattr(message, f"f{number}")) for number in LAYOUT} == by_number(pairs)
    assert read(raw) == by_number(pairs)


@given(contents)
def test_what_the_protobuf_library_writes_we_read(pairs: list[tuple[int, Any]]) -> None:
    """Each value, negative numbers too; `scan` and `read_field` find the same places."""
    message = Reference()
    for number, value in pairs:
        getattr(message, f"f{number}").append(value)
    raw = message.SerializeToString()
    assert read(raw) == by_number(pairs)
    one_by_one = []
    pos = 0
    while pos < len(raw):
        number, wire, value, pos = read_field(raw, pos, len(raw))
        one_by_one.append((number, value, 0 if wire == VARINT else pos))
    assert list(scan(raw, 0, len(raw), SCHEMA, Budget(1000))) == one_by_one
    assert list(scan(memoryview(b"ab" + raw), 2, len(raw) + 2, SCHEMA, Budget(1000))) == [
        (number, value + 2, stop + 2) if stop else (number, value, 0) for number, value, stop in one_by_one
    ]


@given(st.binary(max_size=60))
def test_bytes_mean_the_same_to_the_protobuf_library(data: bytes) -> None:
    """What we read without an error, it reads as we do."""
    try:
        found = read(data)
    except WireError:
        return
    try:
        message = Reference.FromString(data)
    except DecodeError:
        # It refuses numbers of fields over 2**29 - 1, and tags and lengths of more than 32 bits. Here they are numbers
        # like others: an unknown field is stepped over, and no message is long enough for such a length.
        return
    assert {number: list(getattr(message, f"f{number}")) for number in LAYOUT} == found


@given(contents, st.data())
def test_damage_is_named(pairs: list[tuple[int, Any]], data: st.DataObject) -> None:
    """A message with one byte changed, or cut anywhere, gives values or `WireError`; `scan` never leaves its bounds."""
    raw = bytearray(
        b"".join(bytes_field(n, v) if LAYOUT[n][0] == DATA else number_field(1, v % 2**64) for n, v in pairs)
    )
    if raw:
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(raw)))
    try:
        for _, value, stop in scan(raw, 0, end, SCHEMA, Budget(1000)):
            assert not stop or value <= stop <= end
    except WireError:
        pass


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x08", "ends within a number"),
        (b"\x08\x80", "ends within a number"),
        (b"\x08" + b"\x80" * 10 + b"\x00", "longer than 10 bytes"),
        (b"\x12", "ends within a number"),
        (b"\x12\x03ab", "ends within its field 2"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "ends within its field 2"),
        (b"\x19" + bytes(7), "ends within its field 3"),
        (b"\x25" + bytes(3), "ends within its field 4"),
        (b"\x0a\x01a", "field 1 is of the wrong type"),
        (b"\x10\x01", "field 2 is of the wrong type"),
        (b"\x8a\x00\x01a", "field 1 is of the wrong type"),
        (b"\x00\x00", "number 0"),
        (b"\x02\x00", "number 0"),
        (b"\x0b\x0c", "unknown type 3"),
        (b"\x0f", "unknown type 7"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, words: str) -> None:
    """Cut off numbers and fields, overlong numbers, wrong wire types, groups and field 0 are refused."""
    with pytest.raises(WireError, match=words):
        list(fields(data, SCHEMA))
    with (
        pytest.raises(MalformedMessage, match=f"^A test message is malformed: .*{words}.*\\.$"),
        naming("A test message"),
    ):
        list(scan(memoryview(data), 0, len(data), SCHEMA, Budget(9)))


def test_unknown_fields_are_stepped_over() -> None:
    """Of whatever wire type."""
    extra = number_field(9, 300) + bytes_field(10, b"x") + fixed64_field(11, 1) + b"\x65abcd" + bytes_field(999, b"y")
    assert list(fields(extra + number_field(1, 7) + extra, SCHEMA)) == [(1, 7, b"")]


def test_numbers_of_protobuf_need_not_be_short() -> None:
    """Up to ten bytes, cut to 64 bits, in tags and lengths too, as every protobuf reader takes them."""
    assert read_number(b"\x81\x80\x00", 0, 3) == (1, 3)
    assert read_number(b"\xff" * 9 + b"\x7f", 0, 10) == (2**64 - 1, 10)
    assert list(fields(b"\x88\x00\x81\x00\x92\x80\x00\x81\x00a", SCHEMA)) == [(1, 1, b""), (2, 0, b"a")]


def test_the_budget_is_for_all_fields() -> None:
    """Unknown fields count, and messages within share what is left."""
    budget = Budget(3)
    assert len(list(scan(b"\x08\x01\x48\x01", 0, 4, SCHEMA, budget))) == 1
    with pytest.raises(WireError, match="more than 3 fields"):
        list(scan(b"\x08\x01\x08\x01", 0, 4, SCHEMA, budget))


@given(uint64, st.binary(max_size=3))
def test_varints_there_and_back(value: int, before: bytes) -> None:
    """Every number of 64 bits, in both readings; its size is known without writing it."""
    raw = encode_varint(value)
    assert len(raw) == varint_size(value)
    assert read_varint(before + raw, len(before), 10) == (value, len(before) + len(raw))
    assert read_number(before + raw, len(before), len(before) + len(raw)) == (value, len(before) + len(raw))


@given(st.binary(max_size=12))
def test_multiformats_varints_are_strict(data: bytes) -> None:
    """What is read is the only way to write it, and nine bytes at most."""
    try:
        value, end = read_varint(data, 0)
    except WireError:
        return
    assert encode_varint(value) == data[:end]
    assert end <= 9


@pytest.mark.parametrize("bad", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x01", b"\x81\x80\x80\x00"])
def test_bad_varints(bad: bytes) -> None:
    """Cut short, padded, or too long."""
    with pytest.raises(WireError):
        read_varint(bad, 0)


def test_only_numbers_of_64_bits_are_written() -> None:
    """Negative and larger ones are a mistake of the caller."""
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match="64 bits"):
            encode_varint(value)
        with pytest.raises(ValueError, match="64 bits"):
            number_field(1, value)


class Piecewise:
    """Bytes that are read, and how many were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read_exactly(self, count: int, /) -> bytes:
        got, self.data = self.data[:count], self.data[count:]
        assert len(got) == count, "it read more than there is"
        return got


async def test_messages_on_a_stream() -> None:
    """Messages of any length come back, and not a byte of the next is taken."""
    for size in (0, 1, 127, 128, 20_000):
        source = Piecewise(delimited(bytes(size)) + b"next")
        assert await read_delimited(source, 20_000, "A peer sent a test") == bytes(size)
        assert source.data == b"next"
    source = Piecewise(b"\x01rest")
    assert await read_length(source, 1000, "A peer sent a test", b"\x80") == 128
    assert source.data == b"rest"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode_varint(1001), "A peer sent a test of 1001 bytes; the most is 1000"),
        (b"\x80\x00", "A peer sent a test with a malformed length: it is not in its shortest form"),
        (b"\xff" * 5, "more than 5 bytes"),
        (b"\x80" * 5, "more than 5 bytes"),
    ],
)
async def test_lengths_are_strict(data: bytes, words: str) -> None:
    """A length beyond the limit, padded or absurdly long is refused, before anything that follows is read."""
    with pytest.raises(MalformedMessage, match=words):
        await read_delimited(Piecewise(data), 1000, "A peer sent a test")


def test_half_a_length_is_not_there_yet() -> None:
    """A length is read from a buffer once it is complete."""
    for size in (0, 127, 128, 2**35 - 1):
        raw = encode_varint(size)
        assert length_at(b"x" + raw, 1, 1 + len(raw)) == (size, 1 + len(raw))
        for cut in range(len(raw)):
            assert length_at(raw, 0, cut) is None
