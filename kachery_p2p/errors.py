"""Every error that a user of the node may meet.

All derive from `KacheryError`. The message is a sentence for a person: what was wrong, with what, and what to do about
it. A stack trace is for bugs, so command lines print the message of a `KacheryError` alone. `exit_code` is the status a
command ends with: 1 in general, 2 bad input, 3 not found, 4 the local data is damaged or changed, 5 no room or no
permission, 6 the network or a peer failed.

Where Python has an error for the same thing (FileNotFoundError, PermissionError ...) ours derives from it, too, and has
its `errno`. Every error can be pickled and copied: other processes send them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EACCES, EADDRINUSE, EEXIST, EISDIR, ENOENT, ENOSPC, ENOTDIR
from typing import Any

from kachery_p2p.text import printable, shortened

# Characters of an error's text. Enough for any of ours with a path in it; of what is longer, both ends are told.
_MOST = 4_000


class KacheryError(Exception):
    """Base class of all errors that are explained to the user.

    Its text may name what strangers wrote. It is shown by terminals, notebooks and logs of programs that are not ours,
    so control characters are taken out here, where all of them read it. `args` has it as it was given.
    """

    exit_code = 1

    def __str__(self) -> str:
        return shortened(printable(super().__str__()), _MOST)

    def __reduce__(self) -> tuple[Callable[..., KacheryError], tuple[Any, ...]]:
        # Not by calling the class again: one that makes its sentence itself would make it of the sentence.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[KacheryError], args: tuple[Any, ...], state: dict[str, Any]) -> KacheryError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# --- identifiers and DAGs ------------------------------------------------------------------------------------------


class InvalidCID(KacheryError, ValueError):
    """Text or bytes that are not a CID."""

    exit_code = 2


class UnsupportedCID(KacheryError, ValueError):
    """A well-formed CID of a hash function or codec that this node cannot check or read."""

    exit_code = 2


class InvalidProfile(KacheryError, ValueError):
    """Chunk size, width or leaf kind that cannot make a valid DAG."""

    exit_code = 2


class InvalidName(KacheryError, ValueError):
    """A name that cannot stand in a directory, or would leave the destination folder."""

    exit_code = 2


class MalformedDag(KacheryError):
    """A block that hashes right but does not make sense: undecodable, or with lengths that lie. Names the CID."""

    exit_code = 6


class BlockTooLarge(MalformedDag):
    """A block of more bytes than peers exchange. Names the CID, and says how to store the data again."""


class HashMismatch(KacheryError):
    """Bytes that do not have the hash they are said to have."""

    exit_code = 6


class IsADirectory(KacheryError, IsADirectoryError):
    """A directory where a file is meant."""

    errno: int | None = EISDIR
    strerror: str | None = os.strerror(EISDIR)
    exit_code = 2


class NotADirectory(KacheryError, NotADirectoryError):
    """A file where a directory is meant."""

    errno: int | None = ENOTDIR
    strerror: str | None = os.strerror(ENOTDIR)
    exit_code = 2


class PathNotFound(KacheryError):
    """A directory has no entry of that name."""

    exit_code = 3


# --- local data ----------------------------------------------------------------------------------------------------


class FileMissing(KacheryError, FileNotFoundError):
    """The file or folder the user named does not exist."""

    errno: int | None = ENOENT
    strerror: str | None = os.strerror(ENOENT)
    exit_code = 2


class FileExists(KacheryError, FileExistsError):
    """Something is where a file or folder is to be made, and it is not to be replaced."""

    errno: int | None = EEXIST
    strerror: str | None = os.strerror(EEXIST)
    exit_code = 2


class NotAFile(KacheryError):
    """Neither a regular file nor a directory (a socket, a device ...)."""

    exit_code = 2


class NoPermission(KacheryError, PermissionError):
    """The operating system does not allow it."""

    errno: int | None = EACCES
    strerror: str | None = os.strerror(EACCES)
    exit_code = 5


class DiskFull(KacheryError, OSError):
    """No room on the disk or in the quota."""

    errno: int | None = ENOSPC
    strerror: str | None = os.strerror(ENOSPC)
    exit_code = 5


class FileChanged(KacheryError):
    """A file changed while it was being stored or linked."""

    exit_code = 4


class DamagedFile(KacheryError):
    """A local copy, or a linked file, no longer has the bytes that its CID promises."""

    exit_code = 4


class RepoError(KacheryError):
    """The data directory cannot be opened or used."""

    exit_code = 5


class IdentityError(KacheryError):
    """The key files cannot be read or do not fit together."""

    exit_code = 5


# --- network -------------------------------------------------------------------------------------------------------


class InvalidAddress(KacheryError, ValueError):
    """Text that is not a multiaddr that can be dialled."""

    exit_code = 2


class AddressInUse(KacheryError, OSError):
    """Another process listens on that address already, or the machine does not have it."""

    errno: int | None = EADDRINUSE
    strerror: str | None = os.strerror(EADDRINUSE)
    exit_code = 6


class DialError(KacheryError):
    """No connection could be made; says why for each address tried."""

    exit_code = 6


class StreamError(KacheryError):
    """A stream to a peer failed: reset, cut short, or the peer does not speak the protocol."""

    exit_code = 6


class ContentNotFound(KacheryError):
    """Nobody who was asked has the block; says whom it asked and for how long."""

    exit_code = 3


class NodeError(KacheryError):
    """The node of this data directory cannot be started or reached."""

    exit_code = 6


class StreamEOF(StreamError):
    """The peer ended its side of a stream before all the bytes that were asked for had come."""


class StreamReset(StreamError):
    """A stream, or the connection under it, was torn down before it was done."""


class ProtocolNotSupported(StreamError):
    """The peer speaks none of the protocols that were asked for."""


class MalformedMessage(StreamError):
    """A peer sent bytes that are not a message of the protocol, or one beyond its limits."""


class DamagedRepo(RepoError):
    """The catalog, or the list of what is to be pinned, is lost or damaged; the message says how to bring it back."""

    exit_code = 4


class RepoBusy(RepoError):
    """Another process, or another thread, is loading the same file into this data directory."""


class SwarmKeyError(KacheryError):
    """The key of a private network (`swarm.key`) cannot be read, or would be overwritten."""

    exit_code = 5


class RoutingError(KacheryError):
    """A source of providers could not be asked, or did not answer sensibly."""

    exit_code = 6


class InvalidRecord(KacheryError, ValueError):
    """A value record of the DHT that fails its check: wrong key, bad signature, expired, or too large."""

    exit_code = 6


class RelayRefused(DialError):
    """A relay did not grant a reservation or a circuit; says why."""


class InvalidPinService(KacheryError, ValueError):
    """The settings of a pinning service make no sense, or there is no service of that name."""

    exit_code = 2


class PinningError(KacheryError):
    """A pinning service could not be used, or refused."""

    exit_code = 6


class PinTooLarge(PinningError):
    """More than the user allows to be sent to a pinning service; says what to do instead."""

    exit_code = 2


class GatewayError(KacheryError, ValueError):
    """The address or token of an HTTP gateway makes no sense."""

    exit_code = 2


def plain_words(error: BaseException) -> str:
    """What an error says, or the first of those behind it that says anything, without a full stop.

    HTTP libraries wrap the error of a socket in others that say nothing.
    """
    behind: BaseException | None = error
    for _ in range(8):
        if behind is None:
            break
        if str(behind):
            return str(behind).rstrip(".")
        behind = behind.__cause__ or behind.__context__
    return type(error).__name__
