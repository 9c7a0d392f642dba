"""What the parts of `RootAccess` need of each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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
