"""The Bitswap message codec, against the protobuf library and against broken input."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.messages import (
    CID_V0_PREFIX,
    PROTOCOL_1_0,
    PROTOCOL_1_1,
    PROTOCOL_1_2,
    Presence,
    WantlistEntry,
    WantType,
    decode,
    encode,
    read_length,
    read_prefix,
)
from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.errors import MalformedMessage
from kachery_p2p.wire import encode_varint


def _reference() -> Any:
    """The message class of the specification, made by the protobuf library."""
    number = {"int32": 5, "bool": 8, "bytes": 12, "message": 11, "enum": 14}
    file = descriptor_pb2.FileDescriptorProto(name="bitswap.proto", package="ref", syntax="proto3")

    def add(parent: Any, name: str, fields: list[tuple[str, int, str, bool]]) -> None:
        message = parent.add(name=name)
        for field, index, kind, repeated in fields:
            base, _, type_name = kind.partition(":")
            entry = message.field.add(name=field, number=index, type=number[base], label=3 if repeated else 1)
            if type_name:
                entry.type_name = f".ref.{type_name}"

    for enum, values in (("WantType", ("BLOCK", "HAVE")), ("Kind", ("HAS", "HAS_NOT"))):
        described = file.enum_type.add(name=enum)
        for index, value in enumerate(values):
            described.value.add(name=value, number=index)
    add(
        file.message_type,
        "Entry",
        [
            ("block", 1, "bytes", False),
            ("priority", 2, "int32", False),
            ("cancel", 3, "bool", False),
            ("wantType", 4, "enum:WantType", False),
            ("sendDontHave", 5, "bool", False),
        ],
    )
    add(file.message_type, "Wantlist", [("entries", 1, "message:Entry", True), ("full", 2, "bool", False)])
    add(file.message_type, "Block", [("prefix", 1, "bytes", False), ("data", 2, "bytes", False)])
    add(file.message_type, "Presence", [("cid", 1, "bytes", False), ("type", 2, "enum:Kind", False)])
    add(
        file.message_type,
        "Message",
        [
            ("wantlist", 1, "message:Wantlist", False),
            ("blocks", 2, "bytes", True),
            ("payload", 3, "message:Block", True),
            ("blockPresences", 4, "message:Presence", True),
            ("pendingBytes", 5, "int32", False),
        ],
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ref.Message"))


Reference = _reference()


def body_of(parts: list) -> bytes:
    """The body of an encoded message, its length checked."""
    whole = b"".join(bytes(part) for part in parts)
    found = read_length(whole, 0, len(whole))
    assert found is not None
    size, start = found
    assert size == len(whole) - start
    return whole[start:]


def raw_cid(data: bytes) -> CID:
    return CID(1, RAW, b"\x12\x20" + hashlib.sha256(data).digest())


cids = st.builds(
    lambda digest, v1, codec: CID(1, codec, b"\x12\x20" + digest) if v1 else CID(0, DAG_PB, b"\x12\x20" + digest),
    st.binary(min_size=32, max_size=32),
    st.booleans(),
    st.sampled_from([RAW, DAG_PB, 0x71, 0x0129]),
)
entries = st.builds(
    WantlistEntry,
    cids,
    st.integers(-(2**31), 2**31 - 1),
    st.booleans(),
    st.sampled_from(list(WantType)),
    st.booleans(),
)
presences = st.builds(Presence, cids, st.booleans())
blocks = st.lists(st.tuples(cids, st.binary(max_size=300)), max_size=5)


@given(st.lists(entries, max_size=8), st.booleans(), blocks, st.lists(presences, max_size=8), st.integers(0, 2**31 - 1))
def test_what_we_write_the_protobuf_library_reads(
    wants: list[WantlistEntry], full: bool, data: list[tuple[CID, bytes]], told: list[Presence], pending: int
) -> None:
    """Every field of an encoded 1.2.0 message has the meaning the specification gives it."""
    message = Reference()
    message.ParseFromString(
        body_of(encode(entries=wants, full=full, blocks=data, presences=told, pending_bytes=pending))
    )
    assert [e.block for e in message.wantlist.entries] == [bytes(e.cid) for e in wants]
    assert [e.priority for e in message.wantlist.entries] == [e.priority for e in wants]
    assert [e.cancel for e in message.wantlist.entries] == [e.cancel for e in wants]
    # A cancel says nothing but which want it cancels.
    assert [e.wantType for e in message.wantlist.entries if not e.cancel] == [
        int(e.want_type) for e in wants if not e.cancel
    ]
    assert [e.sendDontHave for e in message.wantlist.entries if not e.cancel] == [
        e.send_dont_have for e in wants if not e.cancel
    ]
    assert message.wantlist.full == full
    assert [b.data for b in message.payload] == [block for _, block in data]
    for block, (cid, _) in zip(message.payload, data, strict=True):
        prefix = read_prefix(block.prefix)
        assert prefix is not None
        assert (prefix.version, prefix.codec, prefix.hash_code, prefix.hash_length) == (
            cid.version,
            cid.codec,
            0x12,
            32,
        )
    assert [(p.cid, p.type) for p in message.blockPresences] == [(bytes(c), 0 if have else 1) for c, have in told]
    assert message.pendingBytes == pending


@given(st.lists(entries, max_size=8), st.booleans(), blocks, st.lists(presences, max_size=8), st.integers(0, 2**31 - 1))
def test_what_the_protobuf_library_writes_we_read(
    wants: list[WantlistEntry], full: bool, data: list[tuple[CID, bytes]], told: list[Presence], pending: int
) -> None:
    """Decoding gives back every field, negative priorities too."""
    message = Reference(pendingBytes=pending)
    for cid, priority, cancel, kind, dont_have in wants:
        message.wantlist.entries.add(
            block=bytes(cid), priority=priority, cancel=cancel, wantType=int(kind), sendDontHave=dont_have
        )
    message.wantlist.full = full
    for cid, block in data:
        message.payload.add(prefix=bytes(cid)[: -len(cid.digest)] if cid.version else b"\0\x70\x12\x20", data=block)
    for cid, have in told:
        message.blockPresences.add(cid=bytes(cid), type=0 if have else 1)
    decoded = decode(message.SerializeToString())
    assert decoded.entries == wants
    assert decoded.full == full
    assert decoded.presences == told
    assert decoded.pending_bytes == pending
    assert [bytes(block.data) for block in decoded.blocks] == [block for _, block in data]
    assert [block.prefix and block.prefix.codec for block in decoded.blocks] == [cid.codec for cid, _ in data]
    assert decoded.malformed == decoded.dropped == 0


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_named_error(junk: bytes) -> None:
    """No input raises anything but MalformedMessage."""
    try:
        decode(junk)
    except MalformedMessage:
        pass


@given(st.data(), st.lists(entries, min_size=1, max_size=4), blocks)
def test_damaged_messages_give_a_message_or_a_named_error(data: Any, wants: list[WantlistEntry], sent: list) -> None:
    """Nor does a good message with a few bytes changed or cut off."""
    body = bytearray(body_of(encode(entries=wants, blocks=sent)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(body[: data.draw(st.integers(0, len(body)))])
    except MalformedMessage:
        pass


def test_blocks_are_not_copied() -> None:
    """Encoding keeps each block as it is; decoding gives views of the body."""
    block = bytes(range(256)) * 4096
    parts = encode(blocks=[(raw_cid(block), block)])
    assert any(part is block for part in parts)
    assert sum(len(part) for part in parts if part is not block) < 64
    body = bytearray(body_of(parts))
    data = decode(body).blocks[0].data
    assert isinstance(data, memoryview)
    body[-1] ^= 0xFF
    assert data[-1] == body[-1]


def test_versions_differ_as_specified() -> None:
    """1.1.0 has payloads but no presences or want types; 1.0.0 has bare blocks in a field of their own."""
    cid = raw_cid(b"x")
    wants = [WantlistEntry(cid, 5, False, WantType.BLOCK, True)]
    for protocol, payloads, bare, dont_have in (
        (PROTOCOL_1_2, 1, 0, True),
        (PROTOCOL_1_1, 1, 0, False),
        (PROTOCOL_1_0, 0, 1, False),
    ):
        message = Reference()
        message.ParseFromString(
            body_of(
                encode(
                    protocol=protocol,
                    entries=wants,
                    blocks=[(cid, b"x")],
                    presences=[Presence(cid, True)],
                    pending_bytes=9,
                )
            )
        )
        assert (len(message.payload), len(message.blocks)) == (payloads, bare)
        assert message.wantlist.entries[0].sendDontHave == dont_have
        assert len(message.blockPresences) == (1 if protocol == PROTOCOL_1_2 else 0)
        assert decode(message.SerializeToString()).blocks[0].data == b"x"
    assert decode(message.SerializeToString()).blocks[0].prefix == CID_V0_PREFIX


def test_prefixes() -> None:
    """The prefix of a CIDv0 block is 0, dag-pb, sha2-256, 32; contradictory or broken ones are None."""
    assert read_prefix(b"\0\x70\x12\x20") == CID_V0_PREFIX
    for bad in (b"", b"\1", b"\1\x55\x12", b"\1\x55\x12\x20\x20", b"\2\x55\x12\x20", b"\0\x55\x12\x20", b"\xff" * 11):
        assert read_prefix(bad) is None


def test_lengths_are_strict() -> None:
    """The length in front of a message is minimal and at most 4 MiB; half a length is not there yet."""
    for size in (0, 1, 127, 128, 300, limits.MAX_MESSAGE_SIZE):
        raw = encode_varint(size)
        assert read_length(raw, 0, len(raw)) == (size, len(raw))
        for cut in range(len(raw)):
            assert read_length(raw[:cut], 0, cut) is None
    for bad in (b"\x80\x00", b"\xff\xff\xff\xff\xff", encode_varint(limits.MAX_MESSAGE_SIZE + 1)):
        with pytest.raises(MalformedMessage):
            read_length(bad, 0, len(bad))


def test_bad_entries_are_skipped_and_counted() -> None:
    """One unreadable CID or unknown want type costs only itself; a heap of them the whole message."""
    good = raw_cid(b"good")
    message = Reference()
    message.wantlist.entries.add(block=b"\x01\x55\x12\x20short")
    message.wantlist.entries.add(block=b"")
    message.wantlist.entries.add(block=bytes(good), wantType=0)
    # MD5: well-formed, but nothing that we check
    message.wantlist.entries.add(block=b"\x01\x55\xd5\x01\x10" + bytes(16))
    decoded = decode(message.SerializeToString() + b"\x0a\x0a\x0a\x08" + b"\x0a\x04abcd\x20\x07")
    assert [entry.cid for entry in decoded.entries] == [good]
    assert (decoded.malformed, decoded.dropped) == (3, 1)
    for _ in range(limits.MAX_MALFORMED_PER_MESSAGE):
        message.wantlist.entries.add(block=b"junk")
    with pytest.raises(MalformedMessage):
        decode(message.SerializeToString())


def test_unknown_enum_values_are_skipped() -> None:
    """A want type or presence of a later version is passed over."""
    cid = bytes(raw_cid(b"x"))
    entry = b"\x0a" + bytes([len(cid)]) + cid + b"\x20\x07"
    presence = b"\x0a" + bytes([len(cid)]) + cid + b"\x10\x09"
    wantlist = b"\x0a" + bytes([len(entry)]) + entry
    body = b"\x0a" + bytes([len(wantlist)]) + wantlist + b"\x22" + bytes([len(presence)]) + presence
    decoded = decode(body)
    assert (decoded.entries, decoded.presences, decoded.malformed, decoded.dropped) == ([], [], 0, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\x05abc",  # longer than the message
        b"\x08\x01",  # wantlist as a number
        b"\x2a\x01a",  # pending bytes as bytes
        b"\x0b",  # a group
        b"\x02\x00",  # field 0
        b"\x31\x00",  # half a fixed64
        b"\x0a\x80",  # half a number
        b"\x28" + b"\xff" * 10 + b"\x01",  # a number of eleven bytes
        b"\x1a\x03\x0a\x09a",  # a prefix longer than its block
    ],
)
def test_broken_protobuf_is_refused(body: bytes) -> None:
    """What is not protobuf, or has a known field of the wrong type, is malformed."""
    with pytest.raises(MalformedMessage):
        decode(body)


def test_unknown_fields_are_stepped_over() -> None:
    """Fields of later versions do no harm, whatever their type."""
    extra = b"\x30\x05" + b"\x3a\x02hi" + b"\x41" + bytes(8) + b"\x4d" + bytes(4) + b"\xfa\x7f\x01z"
    body = body_of(encode(entries=[WantlistEntry(raw_cid(b"x"))]))
    assert decode(extra + body + extra).entries == decode(body).entries


def test_floods_cost_little() -> None:
    """A message of 100 000 wants gives only as many as we would keep; one of a million fields is refused."""
    cid = raw_cid(b"x")
    body = body_of(encode(entries=[WantlistEntry(cid)] * 90_000))
    decoded = decode(body)
    assert len(decoded.entries) == limits.MAX_ENTRIES_PER_MESSAGE
    assert decoded.dropped == 90_000 - limits.MAX_ENTRIES_PER_MESSAGE
    with pytest.raises(MalformedMessage):
        decode(b"\x30\x01" * 1_000_000)
    with pytest.raises(MalformedMessage):
        decode(b"\x0a\x00" * 1_000_000)


def test_size_limits() -> None:
    """Blocks up to 2 MiB are read, a byte more is kept apart; a message over 4 MiB is not even written."""
    block = bytes(limits.MAX_BLOCK_SIZE)
    cid = raw_cid(b"x")
    assert len(decode(body_of(encode(blocks=[(cid, block)]))).blocks[0].data) == len(block)
    message = decode(body_of(encode(blocks=[(cid, block + b"x")])))
    assert message.blocks == []
    assert [len(data) for _, data in message.too_large] == [len(block) + 1]
    with pytest.raises(ValueError, match="cannot be sent"):
        encode(blocks=[(cid, block), (cid, block)])
