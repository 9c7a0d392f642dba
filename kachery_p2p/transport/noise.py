"""The Noise record layer: after the handshake, everything travels in messages of a 2-byte length and a ciphertext.

(libp2p noise specification, "Wire Format"; Noise specification section 3.) `seal` writes messages into a buffer
that is handed to the kernel as one piece, `RecordReader` cuts the received bytes back into messages. Both work
on buffers that exist already: `encrypt_into` and `decrypt_into` of `cryptography` spare a copy and an
allocation for each message, and where they are missing (older than version 47) the plain calls do.

This replaces py-libp2p's record layer (`security/noise/io.py`, `security/secure_session.py`), which copies each
byte about eight times: 115 to 174 MB/s against some 900 here. The handshake itself is py-libp2p's, see
`upgrade.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from kachery_p2p.errors import StreamError
from kachery_p2p.transport import limits

_nonce = struct.Struct("<4xQ")
_length = struct.Struct("!H")
_TAG = 16
_HAS_INTO = hasattr(ChaCha20Poly1305, "encrypt_into") and hasattr(ChaCha20Poly1305, "decrypt_into")


class RecordError(StreamError):
    """Bytes that are not a Noise message of this connection: garbage, damage, or a missing piece."""


class Cipher:
    """Both directions of one connection's encryption."""

    __slots__ = ("_decrypt", "_decrypt_nonce", "_encrypt", "_encrypt_nonce")

    def __init__(self, encrypt_key: bytes, decrypt_key: bytes) -> None:
        self._encrypt = ChaCha20Poly1305(encrypt_key)
        self._decrypt = ChaCha20Poly1305(decrypt_key)
        self._encrypt_nonce = 0
        self._decrypt_nonce = 0

    def seal(self, plaintext: memoryview | bytes, out: memoryview) -> int:
        """Write one message (length and ciphertext) at the start of `out`; the number of bytes written.

        `plaintext` is at most `limits.NOISE_PLAINTEXT` long, `out` at least 18 bytes longer, and they do not overlap.
        """
        size = len(plaintext) + _TAG
        _length.pack_into(out, 0, size)
        nonce = _nonce.pack(self._encrypt_nonce)
        self._encrypt_nonce += 1
        if _HAS_INTO:
            self._encrypt.encrypt_into(nonce, plaintext, None, out[2 : 2 + size])
        else:
            out[2 : 2 + size] = self._encrypt.encrypt(nonce, bytes(plaintext), None)
        return 2 + size

    def open(self, ciphertext: memoryview) -> bytearray:
        """Decrypt one message (without its length) into a buffer of its own.

        Raises:
            RecordError: it was not made with our key, or not in this place.
        """
        nonce = _nonce.pack(self._decrypt_nonce)
        try:
            if _HAS_INTO:
                plaintext = bytearray(len(ciphertext) - _TAG)
                self._decrypt.decrypt_into(nonce, ciphertext, None, plaintext)
            else:
                plaintext = bytearray(self._decrypt.decrypt(nonce, bytes(ciphertext), None))
        except (InvalidTag, ValueError) as error:
            raise RecordError("The peer sent bytes that do not decrypt.") from error
        self._decrypt_nonce += 1
        return plaintext


class RecordReader:
    """Cuts received bytes into messages and decrypts them.

    The caller receives into a buffer that many connections share, so what is left over after the last whole message
    is kept here: `prepare` puts it back to the front of the buffer, `read` takes everything up to `end`.
    """

    __slots__ = ("_buffer", "_cipher", "_end", "_position", "_rest")

    def __init__(self, cipher: Cipher, rest: bytes = b"") -> None:
        self._cipher = cipher
        self._rest = rest
        self._buffer = memoryview(b"")
        self._position = self._end = 0

    @property
    def waiting(self) -> int:
        """Bytes of an incomplete message."""
        return len(self._rest)

    def prepare(self, buffer: memoryview) -> int:
        """Copy the incomplete message to the front of `buffer`; where new bytes go."""
        size = len(self._rest)
        if size:
            buffer[:size] = self._rest
        return size

    def read(self, buffer: memoryview, end: int) -> Iterator[bytearray]:
        """Decrypt the whole messages in `buffer[:end]`.

        The iterator must be run to its end, and `detach` be called before others may use the buffer.

        Raises:
            RecordError: a message is too short, or does not decrypt.
        """
        self._buffer, self._position, self._end = buffer, 0, end
        open_message = self._cipher.open
        while self._end - self._position >= 2:
            position = self._position
            (size,) = _length.unpack_from(self._buffer, position)
            if size < _TAG:
                raise RecordError(f"The peer sent a Noise message of {size} bytes, shorter than its tag.")
            stop = position + 2 + size
            if stop > self._end:
                break
            plaintext = open_message(self._buffer[position + 2 : stop])
            self._position = stop
            yield plaintext
        self._rest = bytes(self._buffer[self._position : self._end])
        self._buffer = memoryview(b"")

    def detach(self) -> None:
        """Within `read`: go on with a copy of what is left in the buffer, which is about to be used by others."""
        if self._position:
            self._buffer = memoryview(bytes(self._buffer[self._position : self._end]))
            self._end -= self._position
            self._position = 0


#: Room that one full message needs in a send buffer.
SEALED_MESSAGE = 2 + limits.NOISE_MESSAGE
