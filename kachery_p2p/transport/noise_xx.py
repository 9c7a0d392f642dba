"""The Noise XX handshake, without input or output: bytes go in, bytes and keys come out.

(Noise specification revision 34, `Noise_XX_25519_ChaChaPoly_SHA256`: the only protocol that libp2p uses.) The three
messages are

    -> e
    <- e, ee, s, es
    -> s, se

each with a payload behind it. Both sides call `write` and `read` in turn, beginning with the initiator's `write`; after
three messages `split` gives the keys of the records. What the payloads are is libp2p's affair: see `compat.py`.

Curve and cipher are those of `cryptography`, hash and HMAC of the standard library. Names are those of the
specification's section 5.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
#: Bytes of a public key, and of the tag behind what is encrypted.
_KEY, _TAG = 32, 16
_MESSAGES = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
_nonce = struct.Struct("<4xQ")


class HandshakeFailed(ValueError):
    """A message is not the one that a peer sends who keeps to the specification and shares this handshake."""


class NoiseXX:
    """One side of a handshake.

    Args:
        static: the key that this side shows to the other one.
        initiator: whether this side begins.
        ephemeral: the key of this handshake alone; a new one where it is None, as it must be but for test vectors.
        prologue: what both sides must agree on besides; libp2p has nothing.

    Attributes:
        remote: the static key of the other side, once it is known.
        hash: of all that was said.
    """

    def __init__(
        self,
        static: X25519PrivateKey,
        *,
        initiator: bool,
        ephemeral: X25519PrivateKey | None = None,
        prologue: bytes = b"",
    ) -> None:
        self._static = static
        self._ephemeral = ephemeral or X25519PrivateKey.generate()
        self._initiator = initiator
        self._remote_ephemeral: X25519PublicKey | None = None
        self._sent = 0  # messages, of both sides
        self.remote: X25519PublicKey | None = None
        self._chaining_key = self.hash = _NAME  # it has the length of a hash, so it is not hashed
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0
        self._mix_hash(prologue)

    @property
    def finished(self) -> bool:
        """Whether all messages are said."""
        return self._sent == len(_MESSAGES)

    def write(self, payload: bytes = b"") -> bytes:
        """The next message, which is this side's.

        Raises:
            HandshakeFailed: the other side's key was chosen so that all would share the same secret.
        """
        out = bytearray()
        for token in self._tokens(ours=True):
            if token == "e":
                public = self._ephemeral.public_key().public_bytes_raw()
                out += public
                self._mix_hash(public)
            elif token == "s":
                out += self._encrypt(self._static.public_key().public_bytes_raw())
            else:
                self._mix_shared(token)
        return bytes(out + self._encrypt(payload))

    def read(self, message: bytes) -> bytes:
        """The payload of the next message, which is the other side's.

        Raises:
            HandshakeFailed: it is cut short, or was not made for this handshake. The handshake is of no use any more.
        """
        try:
            for token in self._tokens(ours=False):
                if token == "e":
                    public, message = _cut(message, _KEY)
                    self._remote_ephemeral = X25519PublicKey.from_public_bytes(public)
                    self._mix_hash(public)
                elif token == "s":
                    public, message = _cut(message, _KEY + _TAG)
                    self.remote = X25519PublicKey.from_public_bytes(self._decrypt(public))
                else:
                    self._mix_shared(token)
            return self._decrypt(message)
        except HandshakeFailed:
            raise
        except (InvalidTag, ValueError) as error:
            raise HandshakeFailed("the peer sent a handshake message that does not decrypt") from error

    def split(self) -> tuple[bytes, bytes]:
        """The keys for what this side sends, and for what it receives. Their nonces begin at 0."""
        assert self.finished, "a handshake has three messages"
        first, second = _hkdf(self._chaining_key, b"")
        return (first, second) if self._initiator else (second, first)

    def _tokens(self, *, ours: bool) -> tuple[str, ...]:
        assert not self.finished, "a handshake has three messages"
        assert ours == (self._initiator == (self._sent % 2 == 0)), "it is the other side's turn"
        self._sent += 1
        return _MESSAGES[self._sent - 1]

    def _mix_hash(self, data: bytes) -> None:
        self.hash = sha256(self.hash + data).digest()

    def _mix_shared(self, token: str) -> None:
        """Mix in what two keys have in common: the first letter is the initiator's key, the second the responder's."""
        mine, theirs = token if self._initiator else reversed(token)
        key = self._ephemeral if mine == "e" else self._static
        remote = self._remote_ephemeral if theirs == "e" else self.remote
        assert remote is not None, "the pattern names it before"
        try:
            shared = key.exchange(remote)
        except ValueError as error:
            raise HandshakeFailed("the peer sent a key that has nothing in common with any other") from error
        self._chaining_key, cipher_key = _hkdf(self._chaining_key, shared)
        self._cipher, self._nonce = ChaCha20Poly1305(cipher_key), 0

    def _encrypt(self, plaintext: bytes) -> bytes:
        """Encrypt, where there is a key yet, and mix in what goes out."""
        out = plaintext
        if self._cipher is not None:
            out = self._cipher.encrypt(_nonce.pack(self._nonce), plaintext, self.hash)
            self._nonce += 1
        self._mix_hash(out)
        return out

    def _decrypt(self, data: bytes) -> bytes:
        out = data
        if self._cipher is not None:
            out = self._cipher.decrypt(_nonce.pack(self._nonce), data, self.hash)
            self._nonce += 1
        self._mix_hash(data)
        return out


def _cut(message: bytes, size: int) -> tuple[bytes, bytes]:
    if len(message) < size:
        raise ValueError("cut short")
    return message[:size], message[size:]


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Two keys of 32 bytes (section 4.3)."""
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")
