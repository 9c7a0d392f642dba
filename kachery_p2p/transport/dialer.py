"""Dialling several addresses of one peer side by side.

The addresses start one after the other, each as soon as the one before has failed or has not answered for 250 ms
(RFC 8305, "happy eyeballs"). The first that ends in a secured connection wins and the others are cancelled, so a dead
address costs a quarter of a second and not its timeout.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from kachery_p2p.errors import KacheryError
from kachery_p2p.transport import limits

Target = TypeVar("Target")
Result = TypeVar("Result")

_REASONS = {
    errno.ECONNREFUSED: "connection refused (nothing listens there)",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ENETUNREACH: "no route to that network",
    errno.ECONNRESET: "the peer closed the connection",
    errno.EPIPE: "the peer closed the connection",
    errno.EADDRNOTAVAIL: "no route to that host",
    errno.EAFNOSUPPORT: "this machine does not have that kind of address",
    errno.EACCES: "a firewall of this machine forbids it",
    errno.EPERM: "a firewall of this machine forbids it",
}


def explain(error: BaseException) -> str:
    """Why a dial failed, in plain words."""
    if isinstance(error, OSError) and not isinstance(error, KacheryError):
        reason = _REASONS.get(error.errno or 0)
        return reason or (error.strerror or str(error) or type(error).__name__)
    if isinstance(error, (trio.ClosedResourceError, trio.BrokenResourceError)):
        return "the peer closed the connection"
    return str(error).rstrip(".") or type(error).__name__


class Race(Generic[Target, Result]):
    """One race over a list of targets that may grow while it runs.

    Args:
        attempt: tries one target; raises when it fails.
        discard: disposes of a result that came second.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        attempt: Callable[[Target], Awaitable[Result]],
        discard: Callable[[Result], None],
    ) -> None:
        self.errors: dict[Target, str] = {}
        self.winner: Result | None = None
        self._attempt = attempt
        self._discard = discard
        self._known: dict[Target, None] = {}
        self._waiting: list[Target] = []
        self._running = 0
        self._step = trio.Event()
        for target in targets:
            self.add(target)

    def add(self, target: Target) -> None:
        """One more target, unless it is known."""
        if target not in self._known and len(self._known) < limits.MAX_DIAL_ADDRESSES:
            self._known[target] = None
            self._waiting.append(target)
            self._step.set()

    @property
    def targets(self) -> list[Target]:
        return list(self._known)

    async def run(self) -> Result | None:
        """The first result; `None` when all have failed, each with its reason in `errors`."""
        async with trio.open_nursery() as nursery:
            while self.winner is None and (self._waiting or self._running):
                if self._waiting:
                    self._running += 1
                    nursery.start_soon(self._try, self._waiting.pop(0))
                self._step = trio.Event()
                with trio.move_on_after(limits.DIAL_STAGGER if self._waiting else float("inf")):
                    await self._step.wait()
            nursery.cancel_scope.cancel()
        return self.winner

    async def _try(self, target: Target) -> None:
        try:
            result = await self._attempt(target)
        except (KacheryError, OSError, trio.ClosedResourceError, trio.BrokenResourceError) as error:
            self.errors[target] = explain(error)
        else:
            if self.winner is None:
                self.winner = result
            else:
                self._discard(result)
        finally:
            self._running -= 1
            self._step.set()
