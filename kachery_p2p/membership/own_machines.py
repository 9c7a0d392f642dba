"""The user's own machines name each other, before one gives the other what is private.

A machine that takes another for its own gives it private data. The other must know what it gets, or it would take it
for public and pass it on. So two machines are each other's own only where both are told so by their user's settings,
and each has heard it from the other over a connection that proves who it is (`/kachery/own/1.0.0`):

    asker       opens a stream: "you are one of mine"
    answerer    one byte: 1 where the asker is one of its own, too; else 0

Whoever named the asker takes it for its own from the question on, the asker the answerer from the answer on, and both
until the connection ends. A stranger that asks gets a 0 from every machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from kachery_p2p.errors import KacheryError, StreamError
from kachery_p2p.membership import limits

if TYPE_CHECKING:
    from kachery_p2p.membership.groups import Groups
    from kachery_p2p.transport.host import Host
    from kachery_p2p.transport.stream import Stream

log = logging.getLogger("kachery_p2p.membership")

PROTOCOL = "/kachery/own/1.0.0"
_YES, _NO = b"\x01", b"\x00"


class OwnMachines:
    """Finds out which of the user's other machines take this one for theirs, too.

    Args:
        host: of the node.
        groups: of the node; they are told.
    """

    def __init__(self, host: Host, groups: Groups) -> None:
        self._host = host
        self._groups = groups
        self._asking: dict[str, trio.Event] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask and answer until cancelled. The host must be running."""
        # Always, whether the user has other machines or not: that it is served tells nothing.
        self._host.set_handler(PROTOCOL, self._serve)
        ends: list[Callable[[], None]] = [
            self._host.on_identified(self._on_identified),
            self._host.on_disconnected(lambda peer: self._note(peer, False)),
        ]
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for peer in self._host.connected():
                    self._on_identified(peer)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._host.remove_handler(PROTOCOL)
            for end in ends:
                end()

    async def settled(self, peer: str) -> None:
        """Wait until a connected machine has been asked. Returns at once for one that is not the user's."""
        if peer in self._groups.own_peers and peer not in self._groups.mutual:
            self._on_identified(peer)
            asking = self._asking.get(peer)
            if asking is not None:
                await asking.wait()

    def _on_identified(self, peer: str) -> None:
        if self._nursery is None or peer not in self._groups.own_peers or peer in self._groups.mutual:
            return
        if peer not in self._asking:
            self._asking[peer] = trio.Event()
            self._nursery.start_soon(self._ask, peer)

    async def _ask(self, peer: str) -> None:
        answer = b""
        try:
            with trio.move_on_after(limits.MESSAGE_TIMEOUT):
                stream = await self._host.open_stream(peer, [PROTOCOL], timeout=limits.MESSAGE_TIMEOUT)
                try:
                    answer = await stream.read(1)
                    await stream.close()
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await stream.reset()
                    raise
        except KacheryError as error:
            log.debug("%s cannot be asked whether it is one of the user's machines: %s", peer, error)
        finally:
            if answer == _YES:
                self._note(peer, True)
            self._asking.pop(peer).set()

    async def _serve(self, stream: Stream) -> None:
        try:
            is_own = stream.peer in self._groups.own_peers
            if is_own:
                self._note(stream.peer, True)
            await stream.write(_YES if is_own else _NO)
            await stream.close()
        except StreamError as error:
            log.debug("%s asked, and went: %s", stream.peer, error)
            await stream.reset()

    def _note(self, peer: str, mutual: bool) -> None:
        if mutual and peer not in self._host.connected():
            return
        if self._groups.set_mutual(peer, mutual):
            self._groups.emit()
