"""Where blocks lie in their files, as a load says: those that lie side by side can be asked for together. Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from kachery_p2p.bitswap import limits
from kachery_p2p.dag.cid import CID


class Place(NamedTuple):
    """Where the bytes of a block are: in the file `root`, from `offset` on."""

    root: CID
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Places:
    """Where the blocks are that one session wants."""

    def __init__(self) -> None:
        self._places: dict[bytes, Place] = {}
        self._at: dict[tuple[CID, int], bytes] = {}
        self._until: dict[tuple[CID, int], bytes] = {}

    def of(self, multihash: bytes) -> Place | None:
        """Where this block is; None where that was not said."""
        return self._places.get(multihash)

    def add(self, root: CID, blocks: Iterable[tuple[bytes, int, int]], wanted: Container[bytes]) -> None:
        """Note where blocks are.

        Args:
            root: the file.
            blocks: (multihash, offset, length) of each.
            wanted: what is still wanted; in time, all else is forgotten.
        """
        if len(self._places) >= limits.MAX_PLACES:
            kept = {multihash: place for multihash, place in self._places.items() if multihash in wanted}
            self.__init__()
            for multihash, place in kept.items():
                self._add(multihash, place)
        for multihash, offset, length in blocks:
            self._add(multihash, Place(root, offset, length))

    def _add(self, multihash: bytes, place: Place) -> None:
        self._places[multihash] = place
        self._at[place.root, place.offset] = multihash
        self._until[place.root, place.end] = multihash

    def row(self, first: bytes, most: int, fits: Callable[[bytes], bool], *, backwards: bool) -> list[bytes]:
        """A block, and those that lie beside it in the file.

        Args:
            first: the block to begin with.
            most: bytes of all of them together.
            fits: whether a block may be asked for together with the first.
            backwards: whether those in front of it are meant, not those behind it.

        Returns:
            Their multihashes, in the order of the file.
        """
        row = [first]
        place = self._places.get(first)
        left = 0 if place is None else most - place.length
        while place is not None:
            edge = place.offset if backwards else place.end
            beside = (self._until if backwards else self._at).get((place.root, edge))
            if beside is None or not fits(beside):
                break
            root, place = place.root, self._places[beside]
            if place.root != root or (place.end if backwards else place.offset) != edge or place.length > left:
                break  # the block is in the file more than once, or there is no more room
            left -= place.length
            row.append(beside)
        return row[::-1] if backwards else row

    def bytes_of(self, row: list[bytes]) -> int:
        """How many bytes of the file a row has."""
        return self._places[row[-1]].end - self._places[row[0]].offset

    def span(self, row: list[bytes]) -> tuple[CID, int, int]:
        """Of a row: the file, its first byte and its last."""
        first = self._places[row[0]]
        return first.root, first.offset, self._places[row[-1]].end - 1
