"""What is here, as whoever asks may see it. What is not for them is not here, in every way that there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from kachery_p2p.dag.cid import CID

if TYPE_CHECKING:
    from kachery_p2p.access.gate import Gate
    from kachery_p2p.dag.filenode import FileNode
    from kachery_p2p.repo.contents import Contents

T = TypeVar("T")


class View:
    """The contents of a repo, as everyone may see them. In threads, but for what says otherwise.

    Args:
        repo: what is here.
        gate: decides; None for the user of this machine, who sees everything.
        peer: who asks, where the gate knows them; None for somebody unknown.
        beside: what was fetched for everyone, and is looked into after that; see `kachery_p2p.node.public_loads`.
    """

    def __init__(
        self,
        repo: Contents,
        gate: Gate | None,
        peer: str | None = None,
        *,
        beside: Callable[[], Contents | None] = lambda: None,
    ) -> None:
        self._repo = repo
        self._gate = gate
        self._peer = peer
        self._beside = beside

    def of_user(self) -> View:
        """The same for the user of this machine."""
        return View(self._repo, None)

    @property
    def guards(self) -> bool:
        """Whether something that is here may be hidden. Cheap, not only in threads."""
        return self._gate is not None and self._gate.any_restricted()

    @property
    def fetches_apart(self) -> bool:
        """Whether what is fetched for whoever asks is to be fetched apart. Cheap, not only in threads.

        A node fetches with the rights of its user, and from the groups that it is in; and it takes what is here
        already, whoever it is for. So for strangers it fetches otherwise where anything is not for everyone.
        """
        return self._gate is not None and self._gate.guards()

    def hides(self, cid: CID) -> bool:
        """Whether a block may be seen by somebody, and not by whoever asks; it need not be here."""
        return self._gate is not None and bool(self._gate.hidden(self._peer, [cid.multihash]))

    def cached_node(self, cid: CID) -> FileNode | None:
        """The decoded node of a file that was looked into lately. Not only in threads: so only where nothing is hidden.

        None for one that was not, and where something may be hidden.
        """
        return None if self.guards else self._repo.file_nodes.get(cid)

    def file_node(self, cid: CID) -> FileNode | None:
        """The same, for those who may see it."""
        return self._look(cid, lambda repo, seen: repo.file_nodes.get(seen))

    def decode(self, cid: CID, block: bytes) -> FileNode:
        """See `FileNodes.decode`."""
        return self._repo.file_nodes.decode(cid, block)

    def get_block(self, cid: CID) -> bytes | None:
        """See `Contents.get_block`."""
        return self._look(cid, lambda repo, seen: repo.get_block(seen.multihash))

    def has_block(self, cid: CID) -> bool:
        """Whether it is here, as far as the catalog knows."""
        return self._look(cid, lambda repo, seen: repo.has_block(seen.multihash)) is not None

    def read_file(self, cid: CID, start: int, end: int) -> bytes | None:
        """See `Contents.read_file`. Who may see all of a file may be asked of its root: that is in no other file."""
        return self._look(cid, lambda repo, seen: repo.read_file(seen, start, end))

    def _look(self, cid: CID, find: Callable[[Contents, CID], T | None]) -> T | None:
        if self._gate is None:
            return find(self._repo, cid)

        def find_all(multihashes: Sequence[bytes]) -> dict[bytes, T]:
            (seen,) = multihashes
            found = find(self._repo, cid if seen == cid.multihash else CID(cid.version, cid.codec, seen))
            return {} if found is None else {seen: found}

        found = self._gate.look([(self._peer, cid.multihash)], find_all)[0]
        beside = self._beside() if found is None else None
        return found if beside is None else find(beside, cid)
