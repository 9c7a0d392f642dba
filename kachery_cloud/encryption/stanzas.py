"""How the file key of an age file is wrapped for somebody, and unwrapped by those who have the key for that.

An identity is what unwraps: an X25519 key, an SSH key, or a passphrase.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from kachery_cloud.encryption import bech32
from kachery_cloud.encryption.header import Stanza, decode64, encode64
from kachery_cloud.encryption.stream import FILE_KEY, TAG, derived
from kachery_cloud.errors import EncryptionError, InvalidArgument

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

SECRET_PREFIX = "age-secret-key-"
_X25519 = b"age-encryption.org/v1/X25519"
_SSH_ED25519 = b"age-encryption.org/v1/ssh-ed25519"
_SSH_RSA = b"age-encryption.org/v1/ssh-rsa"
_SCRYPT = b"age-encryption.org/v1/scrypt"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
#: The work factor of scrypt as age writes it: 2**18 rounds, a second and 256 MiB.
SCRYPT_WRITTEN = 18
#: The most that is done for a file of a stranger, as age has it: 2**22 rounds, half a minute and 4 GiB.
SCRYPT_MOST = 22
_SALT = 16


class Identity(Protocol):
    """Something that may unwrap the file key of a file."""

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """The file key; None where the stanza is not for this identity.

        Raises:
            EncryptionError: the stanza is one of its kind, and cannot be.
        """
        ...


@dataclass(frozen=True)
class X25519Identity:
    """An age key: 32 secret bytes."""

    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> X25519Identity:
        """Read `AGE-SECRET-KEY-1...`.

        Raises:
            InvalidArgument: it is not one. The message does not repeat it.
        """
        try:
            prefix, secret = bech32.decode(text.strip())
        except ValueError as error:
            raise InvalidArgument(f"That is no age key (AGE-SECRET-KEY-1...): it {error}.") from None
        if prefix != SECRET_PREFIX or len(secret) != 32 or text.strip() != text.strip().upper():
            raise InvalidArgument("That is no age key: one begins with AGE-SECRET-KEY-1, in capitals.")
        return cls(secret)

    @classmethod
    def new(cls) -> X25519Identity:
        """A key that nobody has yet."""
        return cls(os.urandom(32))

    @cached_property
    def _key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.secret)

    @cached_property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def recipient(self) -> str:
        """Whom to encrypt to: `age1...`."""
        return bech32.encode("age", self.public)

    @property
    def text(self) -> str:
        """The key itself, to be kept secret: `AGE-SECRET-KEY-1...`."""
        return bech32.encode(SECRET_PREFIX, self.secret).upper()

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """See `Identity`."""
        if stanza.kind != "X25519":
            return None
        share = _bytes_of(stanza, 1, 0, 32)
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(share))
        except ValueError:  # a point of low order, by which every key would come out the same
            raise _damaged(stanza) from None
        return _opened(derived(shared, share + self.public, _X25519), stanza)


def wrap_x25519(file_key: bytes, public: bytes, ephemeral: X25519PrivateKey) -> Stanza:
    """A file key for an X25519 key; `ephemeral` is used for this once."""
    share = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    return Stanza("X25519", (encode64(share),), _sealed(derived(shared, share + public, _X25519), file_key))


@dataclass(frozen=True)
class SSHIdentity:
    """An SSH key, ed25519 or RSA."""

    wire: bytes
    seed: bytes | None = field(repr=False)
    rsa: RSAPrivateKey | None = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, name: str) -> SSHIdentity | None:
        """Read a private key as ssh-keygen writes it; None where it has a passphrase of its own.

        Raises:
            InvalidArgument: it is no such key, or of another kind.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

        try:
            key = load_ssh_private_key(data, password=None)
        except TypeError:
            return None
        except ValueError as error:
            if "password" in str(error).lower() or "encrypted" in str(error).lower():
                return None
            raise InvalidArgument(f"{name} is no SSH key that can be read here.") from None
        if not isinstance(key, (Ed25519PrivateKey, RSAPrivateKey)):
            raise InvalidArgument(f"{name} is an SSH key of a kind that age does not know; it takes ed25519 and RSA.")
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        wire = base64.b64decode(line.split(b" ")[1])
        if isinstance(key, RSAPrivateKey):
            return cls(wire, None, key)
        return cls(wire, key.private_bytes_raw(), None)

    @cached_property
    def tag(self) -> str:
        """What its stanzas begin with."""
        return encode64(hashlib.sha256(self.wire).digest()[:4])

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """See `Identity`."""
        if stanza.kind == "ssh-ed25519" and self.seed is not None:
            share = _bytes_of(stanza, 2, 1, 32)
            if stanza.arguments[0] != self.tag:
                return None
            key = X25519PrivateKey.from_private_bytes(hashlib.sha512(self.seed).digest()[:32])
            tweak = X25519PrivateKey.from_private_bytes(derived(b"", self.wire, _SSH_ED25519))
            try:
                shared = key.exchange(X25519PublicKey.from_public_bytes(share))
                shared = tweak.exchange(X25519PublicKey.from_public_bytes(shared))
            except ValueError:
                raise _damaged(stanza) from None
            return _opened(derived(shared, share + key.public_key().public_bytes_raw(), _SSH_ED25519), stanza)
        if stanza.kind == "ssh-rsa" and self.rsa is not None:
            from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
            from cryptography.hazmat.primitives.hashes import SHA256

            if len(stanza.arguments) != 1:
                raise _damaged(stanza)
            if stanza.arguments[0] != self.tag:
                return None
            try:
                found = self.rsa.decrypt(stanza.body, OAEP(MGF1(SHA256()), SHA256(), _SSH_RSA))
            except ValueError:
                return None
            return _checked(found, stanza)
        return None


@dataclass(frozen=True)
class Passphrase:
    """What somebody types."""

    text: str = field(repr=False)

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """See `Identity`."""
        if stanza.kind != "scrypt":
            return None
        salt = _bytes_of(stanza, 2, 0, _SALT)
        if not _NUMBER.fullmatch(stanza.arguments[1]):
            raise _damaged(stanza)
        factor = int(stanza.arguments[1])
        if factor > SCRYPT_MOST:
            raise EncryptionError(
                f"The age file asks for a work of 2**{factor} rounds of scrypt to try a passphrase. More than "
                f"2**{SCRYPT_MOST}, which take 4 GiB of memory, are not done."
            )
        return _opened(_stretched(self.text, salt, factor), stanza)


def wrap_scrypt(file_key: bytes, passphrase: str) -> Stanza:
    """A file key for those who know a passphrase."""
    salt, factor = os.urandom(_SALT), SCRYPT_WRITTEN
    return Stanza("scrypt", (encode64(salt), str(factor)), _sealed(_stretched(passphrase, salt, factor), file_key))


def _stretched(passphrase: str, salt: bytes, factor: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    try:
        return Scrypt(salt=_SCRYPT + salt, length=32, n=1 << factor, r=8, p=1).derive(passphrase.encode())
    except MemoryError:
        raise EncryptionError(
            f"To try a passphrase on the age file takes {(1 << factor) >> 10:,} MiB of memory, which are not free here."
        ) from None


def _sealed(key: bytes, file_key: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None)


def _opened(key: bytes, stanza: Stanza) -> bytes | None:
    # The length first: else a key could be made that more than one wrapping key opens.
    if len(stanza.body) != FILE_KEY + TAG:
        raise _damaged(stanza)
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), stanza.body, None)
    except InvalidTag:
        return None


def _checked(file_key: bytes, stanza: Stanza) -> bytes:
    if len(file_key) != FILE_KEY:
        raise _damaged(stanza)
    return file_key


def _bytes_of(stanza: Stanza, count: int, place: int, size: int) -> bytes:
    """An argument of a stanza that has `count` of them, as `size` bytes."""
    try:
        found = decode64(stanza.arguments[place]) if len(stanza.arguments) == count else b""
    except ValueError:
        found = b""
    if len(found) != size:
        raise _damaged(stanza)
    return found


def _damaged(stanza: Stanza) -> EncryptionError:
    return EncryptionError(f"The header of the age file is damaged, or was changed: a recipient of {stanza.kind}.")
