"""Which processes may share a node when many want to: places at the control socket.

A process that was here once keeps its connection, and one that hangs keeps it, too. When all places are taken, the one
that has asked nothing for longest makes room, first those that never showed the secret: its process connects again when
it needs the node. Those that wait for an answer stay.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio


class ClientPlace:
    """One connection.

    Attributes:
        waits: tells whether it waits for an answer; None until it has shown the secret.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.waits: Callable[[], bool] | None = None


class Places:
    """All connections, the one that has asked nothing for longest first.

    Args:
        most: at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: OrderedDict[ClientPlace, None] = OrderedDict()

    @contextlib.contextmanager
    def taken(self) -> Generator[ClientPlace | None, None, None]:
        """A place while this lasts, or until it is needed for another; None when all others wait for answers."""
        import trio

        if len(self._places) >= self._most and not self._make_room():
            yield None
            return
        with trio.CancelScope() as scope:
            place = ClientPlace(scope)
            self._places[place] = None
            try:
                yield place
            finally:
                self._places.pop(place, None)

    def _make_room(self) -> bool:
        silent = [place for place in self._places if place.waits is None or not place.waits()]
        victim = min(silent, key=lambda place: place.waits is not None, default=None)
        if victim is None:
            return False
        del self._places[victim]
        victim.scope.cancel()
        return True

    def asked(self, place: ClientPlace) -> None:
        """It asks for something."""
        if place in self._places:
            self._places.move_to_end(place)
