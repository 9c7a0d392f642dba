"""`/kachery/owner/1.0.0`: a peer asks who stands behind this machine, and is handed the proof, where it may have it.

What the proof says is for whoever asks to check; here it is bytes from a file. It names a person, so by default only
members of common groups and the user's own machines get it. Others get the same answer as where there is none.

The asker opens a stream and writes nothing; the answer is one message with its length in front (a varint), empty where
there is nothing to tell. Then the stream ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import trio

from kachery_p2p.errors import KacheryError, NotAFile
from kachery_p2p.ownership_file import MAX_PROOF, PROOF_NAME
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.streams import HostLike, StreamLike
from kachery_p2p.wire import delimited, read_delimited

log = logging.getLogger("kachery_p2p.ownership")

PROTOCOL = "/kachery/owner/1.0.0"
#: Answers that are given at once; each is one small file.
MAX_SERVED = 16
#: Seconds that a peer has to take its answer, and that one is waited for.
SECONDS = 10.0


class OwnerServer:
    """Hands out the proof of this machine. `host.set_handler(PROTOCOL, server.handle)` is all that it needs.

    Args:
        directory: the data directory.
        show: to whom: `members`, `everyone`, or `off`.
        is_member: whether a peer is in a common group, or one of the user's own machines.
    """

    def __init__(self, directory: Path, show: str, is_member: Callable[[str], bool]) -> None:
        self._path = directory / PROOF_NAME
        self._show = show
        self._is_member = is_member
        self._serving = 0
        self._threads = trio.CapacityLimiter(1)

    async def handle(self, stream: StreamLike) -> None:
        """One answer.

        Raises:
            StreamError: the stream breaks.
        """
        if self._serving >= MAX_SERVED:
            await stream.reset()
            return
        self._serving += 1
        try:
            with trio.move_on_after(SECONDS) as patience:
                # Whoever may not have it waits as long: the file is read in any case.
                proof = await trio.to_thread.run_sync(self._read, limiter=self._threads)
                await stream.write(delimited(proof if self._may_have_it(stream.peer) else b""))
            if patience.cancelled_caught:
                await stream.reset()
        finally:
            self._serving -= 1

    def _may_have_it(self, peer: str) -> bool:
        return self._show == "everyone" or (self._show == "members" and self._is_member(peer))

    def _read(self) -> bytes:
        try:
            return read_own_file(self._path, MAX_PROOF)
        except FileNotFoundError:
            return b""
        except (OSError, NotAFile) as error:
            log.warning("the proof of ownership cannot be read: %s", error)
            return b""


async def ask_owner(host: HostLike, peer: str) -> bytes:
    """The proof that a connected peer hands over; empty where it has none, or none for us.

    Raises:
        ProtocolNotSupported: it does not know the question: another program, or an older version.
        StreamError: it does not answer, or with more than it may.
    """
    stream = await host.open_stream(peer, (PROTOCOL,), timeout=SECONDS)
    try:
        with trio.fail_after(SECONDS):
            proof = await read_delimited(stream, MAX_PROOF, f"The peer {peer} sent a proof of ownership")
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await stream.reset()
        if isinstance(error, trio.TooSlowError):
            raise KacheryError(f"The peer {peer} does not say who stands behind it.") from None
        raise
    await stream.close()
    return bytes(proof)
