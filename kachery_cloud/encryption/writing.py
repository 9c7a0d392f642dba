"""Writing age files, piece by piece: a file of any size takes the memory of some chunks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from kachery_cloud.encryption.header import Stanza
from kachery_cloud.encryption.recipients import Recipients, parse_recipient
from kachery_cloud.encryption.stanzas import wrap_scrypt, wrap_x25519
from kachery_cloud.encryption.stream import CHUNK, FILE_KEY, NONCE, ChunkKey, encode_header
from kachery_cloud.errors import EncryptionError

if TYPE_CHECKING:
    from kachery_cloud.encryption.reading import Keys
    from kachery_p2p.wire import Buffer

#: What the numbers of a deterministic file are derived for.
_DETERMINISTIC = b"kachery age deterministic 1"
#: Bytes that are copied at a time.
_PIECE = 1 << 20


class Source(Protocol):
    """What is read: `open(path, "rb")`, `io.BytesIO`."""

    def read(self, size: int = -1, /) -> bytes: ...


class Sink(Protocol):
    """What is written to."""

    def write(self, data: Any, /) -> int: ...


def encrypt(source: Source, out: Sink, recipients: Recipients, read: Callable[[int], None] | None = None) -> None:
    """Encrypt what a source still has to give.

    Args:
        source: of the plain bytes. Where it is to be deterministic, it is read twice, so it has `seek`.
        out: gets the age file.
        recipients: who can decrypt it.
        read: called with the plain bytes that were read so far, each time that some were.

    Raises:
        EncryptionError: it cannot be encrypted for one of them; or it changed between two readings.
        BaseException: what `source`, `out` and `read` raise. What was written then is no whole age file.
    """
    if recipients.secret is not None:
        _encrypt_deterministic(source, out, recipients.secret, read)
        return
    counted = _Counted(source, read)
    if recipients.passphrase is not None:
        file_key = os.urandom(FILE_KEY)
        write_age(counted, out, file_key, [wrap_scrypt(file_key, recipients.passphrase.text)], os.urandom(NONCE))
        return
    pyrage: Any = import_module("pyrage")  # it has no types
    guarded = _Guarded(counted, out)
    try:
        pyrage.encrypt_io(guarded, guarded, [parse_recipient(key) for key in recipients.keys])
    except BaseException as error:
        if guarded.failure is not None:
            raise guarded.failure from None
        if isinstance(error, pyrage.EncryptError):
            raise EncryptionError(f"It cannot be encrypted: {error}.") from None
        raise


def _encrypt_deterministic(source: Any, out: Sink, secret: bytes, read: Callable[[int], None] | None) -> None:
    """Encrypt for a group; what is random otherwise follows from its secret and the bytes.

    Two files must never share key and nonce, so the bytes are compared with those that gave these, by their hash. Where
    they are others, this raises, and what was written goes nowhere.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from kachery_cloud.encryption.identities import group_identity
    from kachery_p2p.membership.ids import derived_key

    start = source.seek(0, os.SEEK_CUR)
    first = _Hashed(source)
    while first.read(_PIECE):
        pass
    digest = first.hash.digest()
    made = derived_key(secret, _DETERMINISTIC, digest, FILE_KEY + NONCE + 32)
    file_key, nonce = made[:FILE_KEY], made[FILE_KEY : FILE_KEY + NONCE]
    ephemeral = X25519PrivateKey.from_private_bytes(made[FILE_KEY + NONCE :])
    source.seek(start)
    again = _Hashed(_Counted(source, read))
    write_age(again, out, file_key, [wrap_x25519(file_key, group_identity(secret).public, ephemeral)], nonce)
    if again.hash.digest() != digest:
        raise EncryptionError("The data changed while it was encrypted. Nothing was stored: store it again.")


class _Hashed:
    """A source whose bytes are hashed as they are read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        return data


def write_age(source: Source, out: Sink, file_key: bytes, stanzas: list[Stanza], nonce: bytes) -> None:
    """Write an age file with this header, key and nonce."""
    out.write(encode_header(stanzas, file_key) + nonce)
    key, number = ChunkKey(file_key, nonce), 0
    chunk = _read_chunk(source)
    while True:
        # Only the one behind it tells whether a chunk is the last one.
        after = _read_chunk(source) if len(chunk) == CHUNK else b""
        out.write(key.seal(number, chunk, last=not after))
        if not after:
            return
        chunk, number = after, number + 1


def add_recipient(
    file: BinaryIO, out: Sink, keys: Keys, public: bytes, name: str, read: Callable[[int], None] | None = None
) -> None:
    """Write an age file anew for one more X25519 key. Its chunks stay what they are.

    A passphrase stays not: no other recipient may stand beside it.

    Args:
        file: the age file, open.
        out: gets the new one.
        keys: what opens it.
        public: the key that is added.
        name: what it is called in errors.
        read: as for `encrypt`.

    Raises:
        NoDecryptionKey: none of `keys` opens it.
        EncryptionError: it is damaged.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from kachery_cloud.encryption.reading import at_once, open_file, range_reader, read_header

    open_file(file, keys, name)  # nothing is passed on of which the end is missing
    source, size = range_reader(file)
    header = at_once(read_header(source, size))
    file_key = keys.file_key(header, name)
    kept = [stanza for stanza in header.stanzas if stanza.kind != "scrypt"]
    out.write(encode_header([wrap_x25519(file_key, public, X25519PrivateKey.generate()), *kept], file_key))
    file.seek(header.size)
    counted = _Counted(file, read)
    while data := counted.read(_PIECE):
        out.write(data)


def _read_chunk(source: Source) -> bytes:
    data = source.read(CHUNK)
    while 0 < len(data) < CHUNK and (more := source.read(CHUNK - len(data))):
        data += more
    return data


class _Counted:
    """A source that tells how much was read."""

    def __init__(self, source: Source, told: Callable[[int], None] | None) -> None:
        self._source = source
        self._told = told
        self._done = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._done += len(data)
        if self._told is not None:
            self._told(self._done)
        return data


class _Guarded:
    """Both ends as pyrage takes them. It makes errors of its own of what these raise, so that is kept."""

    def __init__(self, source: Source, out: Sink) -> None:
        self._source = source
        self._out = out
        self.failure: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._source.read(size)
        except BaseException as error:
            self.failure = error
            raise

    def write(self, data: Buffer, /) -> int:
        try:
            self._out.write(data)
        except BaseException as error:
            self.failure = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back here."""
