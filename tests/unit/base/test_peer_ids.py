"""Peer IDs in binary, in base58, and as the CIDs that others write."""

from __future__ import annotations

import multibase
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from kachery_p2p.errors import InvalidAddress
from kachery_p2p.peer_ids import (
    any_peer_id,
    is_peer_id,
    parse_peer_id,
    peer_bytes,
    peer_cid,
    peer_id_of_key,
    peer_text,
)

HASHED = b"\x12\x20" + bytes(range(32))
INLINED = b"\x00\x24\x08\x01\x12\x20" + bytes(range(32))

binary = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda digest: b"\x12\x20" + digest),
    st.binary(min_size=1, max_size=42).map(lambda key: bytes((0, len(key))) + key),
)


@given(binary)
def test_there_and_back(raw: bytes) -> None:
    """Base58 and the CID form give the ID that they were made of, as py-libp2p writes it."""
    text = peer_text(raw)
    assert is_peer_id(raw)
    assert text == ID(raw).to_base58()
    assert peer_bytes(text) == raw
    assert any_peer_id(peer_cid(text)) == text


@pytest.mark.parametrize("raw", [HASHED, INLINED])
@pytest.mark.parametrize(
    "base", ["base16", "base16upper", "base32", "base32upper", "base36", "base36upper", "base58btc", "base64url"]
)
def test_cids_in_any_base(raw: bytes, base: str) -> None:
    """A peer ID may come as a CID in whatever multibase."""
    assert parse_peer_id(multibase.encode(base, b"\x01\x72" + raw).decode()) == peer_text(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x12\x20" + bytes(31),
        b"\x12\x20" + bytes(33),
        b"\x13\x20" + bytes(32),
        b"\x00\x05abc",
        b"\x00\x00",
        b"\x00\x2b" + bytes(43),
        b"\x00\xff" + bytes(255),
        bytes(34),
    ],
)
def test_other_bytes_are_no_peer_ids(raw: bytes) -> None:
    """Multihashes of other things, cut or too long ones, in binary and in text."""
    assert not is_peer_id(raw)
    for text in (peer_text(raw), multibase.encode("base32", b"\x01\x72" + raw).decode()):
        assert any_peer_id(text) is None
    with pytest.raises(InvalidAddress):
        peer_bytes(peer_text(raw))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "Qm",
        "12D3KooW",
        "0OIl" * 12,
        "é" * 20,
        "k" * 200,
        "b" * 40,
        "/ip4/1.2.3.4/tcp/4",
        peer_text(HASHED)[:-1],
    ],
)
def test_other_text_is_refused(text: str) -> None:
    """With the text in the error, but not all of a long one."""
    assert any_peer_id(text) is None
    with pytest.raises(InvalidAddress, match="not a peer ID") as caught:
        parse_peer_id(text)
    assert len(str(caught.value)) < 200
    with pytest.raises(InvalidAddress):
        peer_bytes(text)


def test_a_cid_of_content_is_no_peer_id() -> None:
    """The codec must be libp2p-key."""
    assert any_peer_id(multibase.encode("base32", b"\x01\x55" + HASHED).decode()) is None


@given(st.text(max_size=140))
def test_any_text_is_a_peer_id_or_not(text: str) -> None:
    """No text raises anything else, and a peer ID that comes out is in its usual form."""
    for each in (text, "Qm" + text, "1" + text, "b" + text, "k" + text, "z" + text, "f" + text):
        found = any_peer_id(each)
        assert found is None or any_peer_id(found) == found


def test_the_id_of_a_key() -> None:
    """A small key is its own ID, a large one is hashed, as py-libp2p does it."""
    key = create_new_key_pair().public_key
    assert peer_id_of_key(key.serialize()) == ID.from_pubkey(key).to_bytes()
    assert peer_id_of_key(bytes(42)) == b"\x00\x2a" + bytes(42)
    assert peer_id_of_key(bytes(43))[:2] == b"\x12\x20"
