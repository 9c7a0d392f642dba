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
from errno import EACCES, EADDRINUSE, EEXIST, EISDIR, ENOENT, ENOSPC, ENOTDIR

from kachery_p2p.text import printable, shortened

TYPE_CHECKING = False  # That of `typing`, which would double what `import kachery_cloud` takes.
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AddressInUse",
    "BlockTooLarge",
    "BrokenLink",
    "ContentNotFound",
    "DamagedFile",
    "DamagedRepo",
    "DialError",
    "DiskFull",
    "FileChanged",
    "FileExists",
    "FileMissing",
    "GatewayError",
    "GroupError",
    "GroupNotFound",
    "HashMismatch",
    "IdentityError",
    "InvalidAddress",
    "InvalidCID",
    "InvalidGroupList",
    "InvalidInvitation",
    "InvalidName",
    "InvalidPinService",
    "InvalidProfile",
    "InvalidRecord",
    "InvitationRefused",
    "IsADirectory",
    "KacheryError",
    "LastCopy",
    "MalformedDag",
    "MalformedMessage",
    "NoPermission",
    "NodeError",
    "NotADirectory",
    "NotAFile",
    "NotAMember",
    "PathNotFound",
    "PinTooLarge",
    "PinningError",
    "ProtocolNotSupported",
    "RelayRefused",
    "RemovedMeanwhile",
    "RepoBusy",
    "RepoError",
    "RoutingError",
    "StreamEOF",
    "StreamError",
    "StreamReset",
    "SwarmKeyError",
    "UnsupportedCID",
]

#: Characters of an error's text. Enough for any of ours with a path in it; of what is longer, both ends are told.
_MOST = 4_000


class KacheryError(Exception):
    """Raised for whatever is explained to the user; the base of all errors here.

    Its text may name what strangers wrote. It is shown by terminals, notebooks and logs of programs that are not ours,
    so control characters are taken out here, where all of them read it. `args` has it as it was given.
    """

    exit_code = 1

    def __str__(self) -> str:
        return shortened(printable(super().__str__()), _MOST)

    def _render_traceback_(self, *_: object) -> list[str]:
        """What IPython and notebooks show, which ask for this: the sentence, and which line of the cell it is about.

        The rest of a stack trace is for bugs; `%debug` still has all of it.
        """
        lines = [f"{type(self).__name__}: {self}"]
        own = None
        step = self.__traceback__
        while step is not None:
            if step.tb_frame.f_globals.get("__name__") == "__main__":
                own = step
            step = step.tb_next
        if own is not None:
            import linecache

            text = printable(linecache.getline(own.tb_frame.f_code.co_filename, own.tb_lineno).strip())
            lines.append(f"(line {own.tb_lineno}{': ' * bool(text)}{text})")
        return lines

    def __reduce__(self) -> tuple[Callable[..., KacheryError], tuple[object, ...]]:
        # Not by calling the class again: one that makes its sentence itself would make it of the sentence.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[KacheryError], args: tuple[object, ...], state: dict[str, object]) -> KacheryError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# --- identifiers and DAGs ------------------------------------------------------------------------------------------


class InvalidCID(KacheryError, ValueError):
    """Raised when text or bytes are not a CID."""

    exit_code = 2


class UnsupportedCID(KacheryError, ValueError):
    """Raised for a well-formed CID whose hash function or codec this node cannot check or read."""

    exit_code = 2


class InvalidProfile(KacheryError, ValueError):
    """Raised for a profile that is not known, or whose chunk size, width or kind of leaf cannot make a valid DAG."""

    exit_code = 2


class InvalidName(KacheryError, ValueError):
    """Raised for a name that cannot stand in a directory, or must not be given to a file of the user.

    The second kind comes from strangers: it would leave the destination folder, or means something to a shell.
    """

    exit_code = 2


class MalformedDag(KacheryError):
    """Raised when a block hashes right but makes no sense: it cannot be decoded, or its lengths lie. Names the CID."""

    exit_code = 6


class BlockTooLarge(MalformedDag):
    """Raised for a block of more bytes than peers exchange. Names the CID, and says how to store the data again."""


class HashMismatch(KacheryError):
    """Raised when bytes do not have the hash that they are said to have."""

    exit_code = 6


class IsADirectory(KacheryError, IsADirectoryError):
    """Raised when a directory is named where a file is meant."""

    errno: int | None = EISDIR
    strerror: str | None = os.strerror(EISDIR)
    exit_code = 2


class NotADirectory(KacheryError, NotADirectoryError):
    """Raised when a file is named where a directory is meant."""

    errno: int | None = ENOTDIR
    strerror: str | None = os.strerror(ENOTDIR)
    exit_code = 2


class PathNotFound(KacheryError, FileNotFoundError):
    """Raised when a directory has no entry of the name that a path goes through."""

    errno: int | None = ENOENT
    strerror: str | None = os.strerror(ENOENT)
    exit_code = 3


class BrokenLink(PathNotFound):
    """Raised when a path goes through a symbolic link of a directory that leads out of it, nowhere, or in a circle.

    Says where the link points, and what can be done.
    """


# --- local data ----------------------------------------------------------------------------------------------------


class FileMissing(KacheryError, FileNotFoundError):
    """Raised when a file or folder that the user named does not exist."""

    errno: int | None = ENOENT
    strerror: str | None = os.strerror(ENOENT)
    exit_code = 2


class FileExists(KacheryError, FileExistsError):
    """Raised when something is where a file or folder is to be made, and it is not to be replaced."""

    errno: int | None = EEXIST
    strerror: str | None = os.strerror(EEXIST)
    exit_code = 2


class NotAFile(KacheryError):
    """Raised for what is neither a regular file nor a directory (a socket, a device ...), or too large to be meant."""

    exit_code = 2


class NoPermission(KacheryError, PermissionError):
    """Raised when the operating system does not allow something."""

    errno: int | None = EACCES
    strerror: str | None = os.strerror(EACCES)
    exit_code = 5


class DiskFull(KacheryError, OSError):
    """Raised when there is no room on the disk or in the quota.

    Attributes:
        lacking: bytes that should be free for it to go on; 0 where that is not known.
    """

    lacking = 0
    errno: int | None = ENOSPC
    strerror: str | None = os.strerror(ENOSPC)
    exit_code = 5


class FileChanged(KacheryError):
    """Raised when a file changes while it is being stored or linked."""

    exit_code = 4


class DamagedFile(KacheryError):
    """Raised when a local copy, or a linked file, no longer has the bytes that its CID promises."""

    exit_code = 4


class RepoError(KacheryError):
    """Raised when the data directory cannot be opened or used."""

    exit_code = 5


class DamagedRepo(RepoError):
    """Raised when the catalog, or the list of what is to be pinned, is lost or damaged. Says how to bring it back."""

    exit_code = 4


class RepoBusy(RepoError):
    """Raised when another process, or another thread, is loading the same file into this data directory.

    Attributes:
        storing: whether it is because something is being stored, so that nothing at all can be removed meanwhile.
    """

    storing = False


class RemovedMeanwhile(RepoError):
    """Raised when something that a load relied on was removed before the load was done. It is loaded again then."""


class LastCopy(KacheryError):
    """Raised when something is not removed, because no other copy of it was seen and verified now."""


class IdentityError(KacheryError):
    """Raised when the key files of this machine cannot be read, or do not fit together."""

    exit_code = 5


class SwarmKeyError(KacheryError):
    """Raised when the key of a private network (`swarm.key`) cannot be read, or would be overwritten."""

    exit_code = 5


# --- network -------------------------------------------------------------------------------------------------------


class InvalidAddress(KacheryError, ValueError):
    """Raised for text that is not a multiaddr, or one that cannot be dialled or listened on."""

    exit_code = 2


class AddressInUse(KacheryError, OSError):
    """Raised when another process listens on an address already, or this machine does not have it."""

    errno: int | None = EADDRINUSE
    strerror: str | None = os.strerror(EADDRINUSE)
    exit_code = 6


class DialError(KacheryError):
    """Raised when no connection to a peer can be made. Says why for each address tried."""

    exit_code = 6


class RelayRefused(DialError):
    """Raised when a relay does not grant a reservation or a circuit. Says why."""


class StreamError(KacheryError):
    """Raised when a stream to a peer fails: it is reset, cut short, or has what the protocol does not allow."""

    exit_code = 6


class StreamEOF(StreamError):
    """Raised when a peer ends its side of a stream before all the bytes that were asked for have come."""


class StreamReset(StreamError):
    """Raised when a stream, or the connection under it, is torn down before it is done."""


class ProtocolNotSupported(StreamError):
    """Raised when a peer speaks none of the protocols that were asked for."""


class MalformedMessage(StreamError):
    """Raised when a peer sends bytes that are not a message of the protocol, or one beyond its limits."""


class ContentNotFound(KacheryError):
    """Raised when no peer or gateway that was asked has the data. Says which were asked, and for how long.

    It is no FileNotFoundError: libraries take that for a part which does not exist, and put zeros in its place.
    """

    exit_code = 3


class NotAMember(KacheryError):
    """Raised when something is for the members of a group, and this machine is not in that group."""

    exit_code = 5


class NodeError(KacheryError):
    """Raised when the node of this data directory cannot be started or reached."""

    exit_code = 6


class RoutingError(KacheryError):
    """Raised when a source of providers cannot be asked, or gives an answer that makes no sense."""

    exit_code = 6


class InvalidRecord(KacheryError, ValueError):
    """Raised for a value record of the DHT that fails its check: wrong key, bad signature, expired, or too large."""

    exit_code = 6


class InvalidPinService(KacheryError, ValueError):
    """Raised when the settings of a pinning service make no sense, or there is no service of that name."""

    exit_code = 2


class PinningError(KacheryError):
    """Raised when a pinning service cannot be used, or refuses."""

    exit_code = 6


class PinTooLarge(PinningError):
    """Raised for more bytes than the user allows to be sent to a pinning service. Says what to do instead."""

    exit_code = 2


class GroupError(KacheryError, ValueError):
    """Raised when something cannot be done with a group: its name is ambiguous, this machine is not an owner of it."""

    exit_code = 2


class GroupNotFound(GroupError):
    """Raised when this machine is in no group of that name or ID."""

    exit_code = 3


class InvalidInvitation(GroupError):
    """Raised for text that is not an invitation to a group, or not all of one."""


class InvitationRefused(GroupError):
    """Raised when an invitation is expired, was used, or is not known any more where it was made."""

    exit_code = 6


class InvalidGroupList(KacheryError, ValueError):
    """Raised for a list of members that is malformed, too large, or not signed by who it says."""

    exit_code = 6


class GatewayError(KacheryError, ValueError):
    """Raised when the address or token of an HTTP gateway makes no sense."""

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
