"""The Noise XX handshake: byte for byte that of the test vectors, and nothing that was tampered with gets through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.transport.noise_xx import HandshakeFailed, NoiseXX

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "noise_xx.json").read_text(encoding="utf-8"))


def pair(vector: dict[str, Any]) -> tuple[NoiseXX, NoiseXX]:
    """Initiator and responder of a vector."""

    def side(name: str) -> NoiseXX:
        static, ephemeral = (
            X25519PrivateKey.from_private_bytes(bytes.fromhex(vector[f"{name}_{key}"]))
            for key in ("static", "ephemeral")
        )
        prologue = bytes.fromhex(vector["prologue"])
        return NoiseXX(static, initiator=name == "init", ephemeral=ephemeral, prologue=prologue)

    return side("init"), side("resp")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"].split("/")[4].rstrip(","))
def test_vectors(vector: dict[str, Any]) -> None:
    """Each message of the handshake, and of the records after it, has exactly the bytes of the published vectors."""
    sides = pair(vector)
    messages = [(bytes.fromhex(each["payload"]), bytes.fromhex(each["ciphertext"])) for each in vector["messages"]]
    for turn, (payload, ciphertext) in enumerate(messages[:3]):
        assert sides[turn % 2].write(payload) == ciphertext
        assert sides[1 - turn % 2].read(ciphertext) == payload
    assert all(side.finished for side in sides)
    if "handshake_hash" in vector:
        assert {side.hash.hex() for side in sides} == {vector["handshake_hash"]}
    keys = [side.split() for side in sides]
    assert keys[0] == keys[1][::-1]
    for turn, (payload, ciphertext) in enumerate(messages[3:], start=3):
        nonce = bytes(4) + ((turn - 3) // 2).to_bytes(8, "little")
        assert ChaCha20Poly1305(keys[turn % 2][0]).encrypt(nonce, payload, None) == ciphertext


def test_both_sides_know_each_other() -> None:
    """After the handshake each side has the other's static key, and new keys that are the same on both."""
    statics = [X25519PrivateKey.generate() for _ in range(2)]
    left, right = (NoiseXX(key, initiator=first) for key, first in zip(statics, (True, False), strict=True))
    right.read(left.write())
    assert right.remote is None
    assert left.read(right.write(b"responder")) == b"responder"
    assert right.read(left.write(b"initiator")) == b"initiator"
    for side, static in ((left, statics[1]), (right, statics[0])):
        assert side.remote is not None
        assert side.remote.public_bytes_raw() == static.public_key().public_bytes_raw()
    assert left.hash == right.hash
    assert left.split() == right.split()[::-1]
    assert len({*left.split()}) == 2


@given(st.integers(min_value=0, max_value=2), st.data())
def test_no_changed_message_gets_through(which: int, data: st.DataObject) -> None:
    """A message with one bit changed, cut short or made longer ends the handshake: there, or with the next message."""
    left, right = (NoiseXX(X25519PrivateKey.generate(), initiator=first) for first in (True, False))
    turns = ((left, right), (right, left), (left, right))

    def play() -> None:
        for turn, (sender, receiver) in enumerate(turns):
            message = sender.write(b"who I am" if turn else b"")
            if turn == which:
                how = data.draw(st.sampled_from(["change", "cut", "add"]))
                if how == "change":
                    bit = data.draw(st.integers(min_value=0, max_value=8 * len(message) - 1))
                    # The highest bit of a Curve25519 key is ignored where it is used, but not where it is hashed.
                    message = bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(message))
                elif how == "cut":
                    message = message[: data.draw(st.integers(min_value=0, max_value=len(message) - 1))]
                else:
                    message += b"\0"
            receiver.read(message)

    with pytest.raises(HandshakeFailed):
        play()


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)], ids=["zero", "one"])
def test_keys_that_fix_the_secret_are_refused(point: bytes) -> None:
    """A key whose product with every other one is the same lets anybody know the secret: there it ends."""
    responder = NoiseXX(X25519PrivateKey.generate(), initiator=False)
    responder.read(point)
    with pytest.raises(HandshakeFailed):
        responder.write(b"who I am")


def test_another_prologue_fails() -> None:
    """What both sides must agree on besides is part of the handshake."""
    left = NoiseXX(X25519PrivateKey.generate(), initiator=True, prologue=b"a")
    right = NoiseXX(X25519PrivateKey.generate(), initiator=False, prologue=b"b")
    right.read(left.write())
    with pytest.raises(HandshakeFailed):
        left.read(right.write())
