"""What the parts of `RootAccess` need of each other, and what it asks of whoever opens the repo."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from kachery_p2p.access.audience import Audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.access_records import AccessRecords


class Access(Protocol):
    """The part of `access.RootAccess` that its parts use; see there."""

    @property
    def records(self) -> AccessRecords: ...

    def begin(self) -> None: ...

    def any_restricted(self) -> bool: ...

    def audiences(self, multihashes: Collection[bytes]) -> dict[bytes, Audience]: ...

    def public_roots(self) -> Iterator[CID]: ...

    def rows_of_roots(self) -> list[tuple[int, CID]]: ...

    def cover(self, rows: Sequence[int], cid: CID) -> None: ...

    def widen(self, cid: CID) -> int: ...


class Widening(Protocol):
    """Is asked before a store lets more people see something that is here for some."""

    def stays(self) -> bool:
        """Whether anything may be here that this machine may not give to others."""
        ...

    def ask(self, cid: CID, said: Audience | None, found: Callable[[], Mapping[bytes, Audience]]) -> None:
        """Say no, or nothing.

        Args:
            cid: of what is stored.
            said: for whom it is to be; None where nothing was said.
            found: gives those blocks of it that are for fewer so far, and who may see each.

        Raises:
            KacheryError: it may not be so. Then nothing is listed, and nobody sees more than before.
        """
        ...
