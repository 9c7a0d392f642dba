"""The node's identity: an Ed25519 key in `private.pem` and `public.pem`.

`private.pem` is PKCS#8 and `public.pem` SubjectPublicKeyInfo, both PEM (RFC 8410), both mode 0600, in the data
directory, whoever else may use that. The same key is the libp2p identity. The peer ID is the identity multihash of the
key's protobuf, in base58 (https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md). They are made when first
asked for, and never replaced: a key that does not read, or does not fit, is an error that says which file and what to
do.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from kachery_p2p import private
from kachery_p2p.errors import IdentityError, KacheryError
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.peer_ids import peer_id_of_key, peer_text
from kachery_p2p.repo.wholefile import write_new, write_whole

log = logging.getLogger("kachery_p2p.repo")

PRIVATE_NAME = "private.pem"
PUBLIC_NAME = "public.pem"
#: Bytes of a key file; a key of this kind takes 119.
_MAX_FILE = 65_536

#: The protobuf PublicKey{type: Ed25519, data: 32 bytes}, but for the data.
_ENCODED_KEY = bytes((0x08, 0x01, 0x12, 0x20))


class NodeKey(NamedTuple):
    """`seed` is the private key (32 bytes, keep it secret), `public` the public key (32 bytes), `peer_id` base58."""

    seed: bytes
    public: bytes
    peer_id: str

    def __repr__(self) -> str:
        return f"Identity(peer_id={self.peer_id!r})"


def load_or_create_identity(directory: Path) -> NodeKey:
    """The identity kept in `directory`, made there on first need (the directory too, mode 0700).

    Two processes that do this at once get the same key. Key files that others may read are made private. In a directory
    of another user, which a group shares, the identity is a new one each time and is not kept: the key there is that of
    its owner, who alone may make and read it.

    Raises:
        IdentityError: a key file is damaged, of another kind, or does not fit the other one.
        NoPermission, DiskFull: the system does not allow it.
    """
    directory = Path(directory)
    private_path = directory / PRIVATE_NAME
    public_path = directory / PUBLIC_NAME
    with explained("making the key files in", directory):
        private.make_directory(directory)
        if not may_keep_identity(directory):
            identity = new_identity()
            log.info(
                "%s belongs to another user. This node is %s, for as long as it runs.", directory, identity.peer_id
            )
            return identity
    if not private_path.exists():
        # A key is always made with the private file first, so a public one alone is what is left of a lost key.
        if public_path.exists() and not private_path.exists():
            raise IdentityError(
                f"There is {public_path} but no {private_path}. Put the private key back, or move the public one "
                "away to begin with a new identity."
            )
        _create_private(private_path)
    seed, public = _read_private(private_path)
    if public_path.exists():
        if _read_public(public_path) != public:
            raise IdentityError(
                f"{public_path} is not the public key of {private_path}: the two come from different identities. "
                "Put back the file that belongs, or move the public one away and it is made anew."
            )
        _make_private(public_path)
    else:
        _write_public(public_path, public)
    return NodeKey(seed, public, peer_id_of(public))


def may_keep_identity(directory: Path) -> bool:
    """Whether the identity of a data directory is this user's to make and use.

    Raises:
        OSError: the directory cannot be looked at.
    """
    return private.is_ours(directory) or (os.name == "posix" and os.geteuid() == 0)


def kept_identity(directory: Path) -> NodeKey | None:
    """The identity kept in `directory`; None where there is none yet, or where it is another user's. Makes nothing.

    Raises:
        IdentityError: as for `load_or_create_identity`.
    """
    with explained("reading the key files in", directory):
        if not (directory / PRIVATE_NAME).exists() or not may_keep_identity(directory):
            return None
    return load_or_create_identity(directory)


def check_identity(directory: Path) -> NodeKey | None:
    """The identity kept in `directory`, whoever's it is; None where there is none yet. Changes nothing, not even modes.

    Raises:
        IdentityError: as for `load_or_create_identity`; or it may not be read.
    """
    path, public_path = directory / PRIVATE_NAME, directory / PUBLIC_NAME
    if not os.path.lexists(path):
        if os.path.lexists(public_path):
            raise IdentityError(f"There is {public_path} but no {path}.")
        return None
    seed, public = _parse_private(path, _read(path))
    if public_path.exists() and _read_public(public_path) != public:
        raise IdentityError(f"{public_path} is not the public key of {path}: the two come from different identities.")
    return NodeKey(seed, public, peer_id_of(public))


def new_identity() -> NodeKey:
    """A new identity that is kept nowhere."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    return NodeKey(key.private_bytes_raw(), public, peer_id_of(public))


def peer_id_of(public: bytes) -> str:
    """The libp2p peer ID, in base58, of an Ed25519 public key of 32 bytes."""
    return peer_text(peer_id_of_key(_ENCODED_KEY + public))


def _create_private(path: Path) -> None:
    """Write a new private key, unless another process does so first; theirs then stands."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with explained("making the key file", path):
        write_new(path, pem, secret=True)


def _write_public(path: Path, public: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = Ed25519PublicKey.from_public_bytes(public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with explained("making the key file", path):
        # Whoever writes it writes the same bytes, so the last rename may win.
        write_whole(path, pem, secret=True)


def _read_private(path: Path) -> tuple[bytes, bytes]:
    _make_private(path)
    return _parse_private(path, _read(path))


def _parse_private(path: Path, pem: bytes) -> tuple[bytes, bytes]:
    """The private and the public key in what the file `path` has."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise IdentityError(
            f"The key in {path} is protected by a password; a node needs one without. Decrypt it with "
            f"`openssl pkey -in {path}`, or move it away to begin with a new identity."
        ) from None
    except Exception as error:
        # The library names no single error for a key that does not parse.
        raise IdentityError(
            f"{path} is not a private key in PKCS#8 PEM form: it is damaged or something else. Put back a copy, or "
            "move it away to begin with a new identity."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"The key in {path} is not an Ed25519 key. Move it away to begin with a new identity.")
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return seed, key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _read_public(path: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    pem = _read(path)
    try:
        key = load_pem_public_key(pem)
    except Exception as error:
        raise IdentityError(
            f"{path} is not a public key in PEM form: it is damaged or something else. Move it away and it is made "
            "anew from the private key."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError(f"The key in {path} is not an Ed25519 key. Move it away and it is made anew.")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _read(path: Path) -> bytes:
    try:
        with explained("reading the key file", path):
            return read_own_file(path, _MAX_FILE)
    except KacheryError as error:
        raise IdentityError(str(error)) from error


def _make_private(path: Path) -> None:
    """Take away what others may do with a key file."""
    try:
        private.make_private(path)
    except OSError as error:
        raise IdentityError(
            f"Others may read the key file {path} and this process may not change that ({error.strerror}). Run "
            f"`chmod 600 {path}` as its owner."
        ) from error
