"""Every error that `kachery_cloud` raises on purpose.

Those of the node come from `kachery_p2p.errors` and are given here too, so that one import serves. All derive from
`KacheryError`, whose message is a sentence for a person and whose `exit_code` is the status a command ends with.
"""

from __future__ import annotations

from kachery_p2p import errors
from kachery_p2p.errors import *  # noqa: F403
from kachery_p2p.errors import KacheryError

__all__ = [
    "ConfigError",
    "EncryptionError",
    "FormatError",
    "InvalidArgument",
    "InvalidRange",
    "InvalidURI",
    "NoDecryptionKey",
    "NotSerializable",
    "ProjectNotFound",
    "ProofRefused",
    "SignInError",
    "StoreTooLarge",
    "UnsafePickle",
]
__all__ += errors.__all__


class InvalidArgument(KacheryError, TypeError):
    """Raised for an argument of a type that a function does not take. Says what it takes."""

    exit_code = 2


class InvalidURI(KacheryError, ValueError):
    """Raised for text that is not an `ipfs://` URI, an `/ipfs/` path or a CID."""

    exit_code = 2


class ConfigError(KacheryError, ValueError):
    """Raised when a setting, from the environment or from `config.json`, makes no sense."""

    exit_code = 2


class EncryptionError(KacheryError, ValueError):
    """Raised for an encrypted file that is damaged, cut off, or not what was encrypted. Nothing of it is given out."""

    exit_code = 4


class NoDecryptionKey(KacheryError, ValueError):
    """Raised for an encrypted file for which no key is here. Says which kinds of key would open it."""

    exit_code = 5


class SignInError(KacheryError, ConnectionError):
    """Raised when signing in, or registering at a lab's node, did not come to its end. Says what to do next."""

    errno: int | None = None
    exit_code = 6


class ProjectNotFound(KacheryError):
    """Raised when a lab has no such project, or none that you may see."""

    exit_code = 3


class ProofRefused(KacheryError, ValueError):
    """Raised for a proof of ownership that does not prove who stands behind a machine. Its `reason` is a word for why.

    These words are MALFORMED, ALGORITHM, ISSUER, UNKNOWN_KEY, SIGNATURE, PEER, AUDIENCE, NONCE, TIME and TOO_OLD.
    """

    exit_code = 1

    def __init__(self, message: str, reason: str = "MALFORMED") -> None:
        super().__init__(message)
        self.reason = reason


class InvalidRange(KacheryError, ValueError):
    """Raised for a range of bytes that does not lie within the file."""

    exit_code = 2


class NotSerializable(KacheryError, TypeError):
    """Raised for a value that text, JSON, npy or pickle, as chosen, cannot hold. Says where in the value it lies."""

    exit_code = 2


class FormatError(KacheryError, ValueError):
    """Raised when a file was loaded, but is not the text, JSON, npy or pickle that it was taken for."""

    exit_code = 2


class UnsafePickle(FormatError):
    """Raised for a pickle that asks for something outside the allowlist. Nothing of it was run."""

    exit_code = 2


class StoreTooLarge(KacheryError, ValueError):
    """Raised for more bytes than the user allows a single store to take (`max_store_bytes`)."""

    exit_code = 2
