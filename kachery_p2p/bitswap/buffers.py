"""Memory for messages on their way, used again and again.

At full speed a new buffer for each message of some MiB costs a tenth of all: the system clears its pages and takes
them back. So what is done with goes here, for the next message of about that size.
"""

from __future__ import annotations

from kachery_p2p.units import KIB

#: Buffers are made in steps of this size, so that messages of the same blocks find each other's.
_STEP = 64 * KIB
#: A buffer may be so many times as large as what is put in it: what is kept stays within what is counted.
_SPARE = 2


class Buffers:
    """Buffers that nobody uses at the moment.

    Args:
        most: bytes of them that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._spare: list[bytearray] = []
        self.kept = 0

    def take(self, size: int) -> bytearray:
        """A buffer of at least `size` bytes, with anything in it."""
        for index, buffer in enumerate(self._spare):
            if size <= len(buffer) <= _SPARE * size + _STEP:
                self.kept -= len(buffer)
                return self._spare.pop(index)
        return bytearray(-(-size // _STEP) * _STEP)

    def give_back(self, buffer: bytearray) -> None:
        """Nobody looks at it any more, nor at a view of it."""
        self._spare.append(buffer)
        self.kept += len(buffer)
        while self.kept > self._most:
            self.kept -= len(self._spare.pop(0))
