"""A reader of `kachery_p2p.dag` under way in a load: what it waits for, and what of that is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.nodes import Asking

T = TypeVar("T")

#: Of some blocks those that the catalog of the repo has, and all that are here.
Found: TypeAlias = tuple[set[bytes], dict[bytes, bytes]]


@dataclass
class Reading(Generic[T]):
    """A reader of `kachery_p2p.dag` under way.

    Attributes:
        steps: the reader.
        wanted: the blocks that it waits for.
        keep: whether what is fetched for it must be kept.
        blocks: what it waits for, once that is here.
        new: what of it is to be kept.
        found: what is here of what it waits for.
        result: what it returned.
    """

    steps: Asking[T]
    wanted: Sequence[CID]
    keep: bool
    blocks: list[bytes] | None = None
    new: list[tuple[CID, bytes]] = field(default_factory=list)
    found: Found | None = None
    result: list[T] = field(default_factory=list)
