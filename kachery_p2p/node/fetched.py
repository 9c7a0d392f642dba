"""Who fetched what: counted message by message, summed up, and written to the log of the node once a minute.

A busy node writes no more lines than a quiet one with a few peers: those who got most are named, with what they got,
and the rest is one line. From the same count it is known what others used last, for making room (`repo.eviction`).

What goes out is counted by the first block of each message. Which file that is in is looked up once a minute, in a
thread. Of inner nodes that is not known; they count for what the peer got last. Whoever loads a file or a folder is
given its root first, and with that the folder counts as used. Who reads through the gateway is `http:` and an address.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError

if TYPE_CHECKING:
    from kachery_p2p.bitswap.interfaces import Counted
    from kachery_p2p.repo.repo import Repo

log = logging.getLogger("kachery_p2p.node.fetched")

#: Seconds between two looks.
INTERVAL = 60.0
#: Lines of one look that name a peer and what it got; one more has the rest.
MAX_LINES = 10
#: Pairs of peer and first block that are counted apart between two looks; what is beyond counts without its block.
MAX_PENDING = 8_192
#: Peers of which it is remembered what they got last.
MAX_LAST = 1_024


@dataclass(frozen=True)
class Fetch:
    """What one peer got of one root (None where that is not known) since the last look."""

    peer: str
    root: CID | None
    blocks: int
    bytes: int


class Counters(list["Counted"]):
    """Several who count what goes out."""

    def sent(self, peer: str, first: bytes, blocks: int, size: int) -> None:
        """Tell all of them."""
        for each in self:
            each.sent(peer, first, blocks, size)


class Fetched:
    """Counts what peers and readers of the gateway are given.

    Args:
        repo: what is served.
        wall: seconds since 1970.

    Attributes:
        bytes, blocks: given in all, since the start.

    `await nursery.start(fetched.run)` looks once a minute, until it is cancelled, and then once more.
    """

    def __init__(self, repo: Repo, *, wall: Callable[[], float] = time.time) -> None:
        self._repo = repo
        self._wall = wall
        self._pending: dict[tuple[str, bytes], list[int]] = {}
        self._last: OrderedDict[str, CID] = OrderedDict()
        self.bytes = 0
        self.blocks = 0

    def sent(self, peer: str, first: bytes, blocks: int, size: int) -> None:
        """A message went to a peer; see `kachery_p2p.bitswap.interfaces.Counted`. Cheap."""
        key = peer, first
        known = self._pending.get(key)
        if known is None:
            if len(self._pending) >= MAX_PENDING:
                key = (peer if len(self._pending) < 2 * MAX_PENDING else ""), b""
            known = self._pending.setdefault(key, [0, 0])
        known[0] += blocks
        known[1] += size
        self.blocks += blocks
        self.bytes += size

    def answered(self, scope: Mapping[str, Any], size: int) -> None:
        """A gateway has answered a request (the scope of ASGI) with so many bytes. Cheap, and raises nothing."""
        client = (scope.get("client") or ("",))[0]
        parts = scope.get("path", "").split("/", 3)
        first = b""
        if parts[1:2] == ["ipfs"] and len(parts) > 2:
            with suppress(KacheryError):
                first = CID.parse(parts[2]).multihash
        if first or parts[1:2] == ["ipns"]:
            self.sent(f"http:{client}", first, 1, size)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look once a minute until cancelled."""
        task_status.started()
        try:
            while True:
                await trio.sleep(INTERVAL)
                await self.look()
        finally:
            with trio.CancelScope(shield=True):
                await self.look()

    async def look(self) -> list[Fetch]:
        """Say what was fetched since the last look, and note what was used; by bytes, the most first."""
        pending, self._pending = self._pending, {}
        if not pending:
            return []
        try:
            found = await trio.to_thread.run_sync(self._sum, pending)
        except KacheryError as error:
            log.warning("what was fetched cannot be looked up: %s", error)
            return []
        for line in lines_of(found):
            log.info("%s", line[0], extra={"fields": line[1]})
        return found

    def _sum(self, pending: Mapping[tuple[str, bytes], list[int]]) -> list[Fetch]:
        """In a thread: by peer and root. What was used is noted."""
        roots = self._roots({first for _, first in pending if first})
        sums: dict[tuple[str, CID | None], list[int]] = {}
        for (peer, first), (blocks, size) in pending.items():
            root = roots.get(first) or self._last.get(peer)
            if root is not None:
                self._last[peer] = root
                self._last.move_to_end(peer)
                if len(self._last) > MAX_LAST:
                    self._last.popitem(last=False)
            each = sums.setdefault((peer, root), [0, 0])
            each[0] += blocks
            each[1] += size
        used = {bytes(root.to_v1()) for _, root in sums if root is not None}
        if used:
            self._repo.inventory.served(used, self._wall())
        fetches = [Fetch(peer, root, blocks, size) for (peer, root), (blocks, size) in sums.items()]
        return sorted(fetches, key=lambda each: each.bytes, reverse=True)

    def _roots(self, multihashes: set[bytes]) -> dict[bytes, CID]:
        """What some blocks are the roots of, or else a file that they are in."""
        found: dict[bytes, CID] = {}
        for multihash, files in self._repo.files_with(list(multihashes)).items():
            key, _ = max(files, key=lambda file: file[1])
            found[multihash] = CID.from_bytes(key)
        for multihash, key in self._repo.root_keys(list(multihashes)).items():
            found[multihash] = CID.from_bytes(key)
        return found


def lines_of(found: list[Fetch]) -> list[tuple[str, dict[str, object]]]:
    """A bounded number of lines for the log: text, and the same as fields."""
    lines: list[tuple[str, dict[str, object]]] = []
    for each in found[:MAX_LINES]:
        what = "blocks of no known root" if each.root is None else f"ipfs://{each.root}"
        fields: dict[str, object] = {
            "event": "fetched",
            "peer": each.peer or None,
            "root": None if each.root is None else str(each.root),
            "blocks": each.blocks,
            "bytes": each.bytes,
        }
        lines.append((f"{each.peer or 'others'} fetched {each.bytes} bytes of {what}", fields))
    rest = found[MAX_LINES:]
    if rest:
        size, peers = sum(each.bytes for each in rest), len({each.peer for each in rest})
        lines.append(
            (
                f"{peers} more peers fetched {size} bytes",
                {"event": "fetched", "peers": peers, "blocks": sum(each.blocks for each in rest), "bytes": size},
            )
        )
    return lines
