"""Every error that `kachery_cloud` raises on purpose.

Those of the node come from `kachery_p2p.errors` and are given here too, so that one import serves. All derive from
`KacheryError`, whose message is a sentence for a person and whose `exit_code` is the status a command ends with.
"""

from __future__ import annotations

from kachery_p2p.errors import (
    AddressInUse,
    BlockTooLarge,
    ContentNotFound,
    DamagedFile,
    DialError,
    DiskFull,
    FileChanged,
    FileExists,
    FileMissing,
    HashMismatch,
    IdentityError,
    InvalidAddress,
    InvalidCID,
    InvalidName,
    InvalidPinService,
    InvalidProfile,
    IsADirectory,
    KacheryError,
    MalformedDag,
    NodeError,
    NoPermission,
    NotADirectory,
    NotAFile,
    PathNotFound,
    PinningError,
    PinTooLarge,
    RepoError,
    StreamError,
    SwarmKeyError,
    UnsupportedCID,
)


class InvalidArgument(KacheryError, TypeError):
    """An argument of a kind that a function does not take; says what it takes."""

    exit_code = 2


class InvalidURI(KacheryError, ValueError):
    """Text that is not an `ipfs://` URI, an `/ipfs/` path or a CID."""

    exit_code = 2


class ConfigError(KacheryError, ValueError):
    """A setting, from the environment or from `config.json`, that makes no sense."""

    exit_code = 2


class InvalidRange(KacheryError, ValueError):
    """A range of bytes that does not lie within the file."""

    exit_code = 2


class NotSerializable(KacheryError, TypeError):
    """A value that the chosen format (text, JSON, npy, pickle) cannot hold; says where in the value it lies."""

    exit_code = 2


class FormatError(KacheryError, ValueError):
    """A file that was loaded, but is not the text, JSON, npy or pickle it was taken for."""

    exit_code = 2


class UnsafePickle(FormatError):
    """A pickle that asks for something outside the allowlist. Nothing of it was run."""

    exit_code = 2


class StoreTooLarge(KacheryError, ValueError):
    """More bytes than the limit that the user has set for a single store (`max_store_bytes`)."""

    exit_code = 2


__all__ = [
    "AddressInUse",
    "BlockTooLarge",
    "ConfigError",
    "ContentNotFound",
    "DamagedFile",
    "DialError",
    "DiskFull",
    "FileChanged",
    "FileExists",
    "FileMissing",
    "FormatError",
    "HashMismatch",
    "IdentityError",
    "InvalidAddress",
    "InvalidArgument",
    "InvalidCID",
    "InvalidName",
    "InvalidPinService",
    "InvalidProfile",
    "InvalidRange",
    "InvalidURI",
    "IsADirectory",
    "KacheryError",
    "MalformedDag",
    "NoPermission",
    "NodeError",
    "NotADirectory",
    "NotAFile",
    "NotSerializable",
    "PathNotFound",
    "PinTooLarge",
    "PinningError",
    "RepoError",
    "StoreTooLarge",
    "StreamError",
    "SwarmKeyError",
    "UnsafePickle",
    "UnsupportedCID",
]
