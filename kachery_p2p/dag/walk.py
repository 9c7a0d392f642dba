"""Reading a file's DAG from its root: which blocks to fetch next, and what data each one carries.

The walk does no I/O and keeps no data. Its user takes references, fetches and hash-checks the blocks in whatever order
they come, and feeds them back:

    walk = FileWalk(root)
    while not walk.finished:
        for ref in walk.take(64):
            ...ask for ref.cid...
        for piece in walk.feed(ref, block):      # once the block of a reference has arrived
            write(piece.offset, piece.data)

Order. References come in file order, with one exception: an inner node is given out ahead of its turn when few leaves
are left, so that its round trip hides behind them. So the walk goes deep before it goes wide, and what it remembers
is the children of the nodes on one path, plus those of at most `nodes_ahead` inner nodes: independent of file size.
Whether a dag-pb reference is a leaf or an inner node is known for sure only from its block. A reference no larger than
the largest dag-pb leaf seen so far is taken for a leaf and given out without restraint; any other counts as a node.

Trust. Blocks are right by their hash, yet their author may lie. Every claim is checked when its block arrives: the
length that the parent states, `filesize`, and the sum of data and block sizes must be one number. Children without
bytes are refused, for they cost work and bring nothing; so are nesting deeper than `max_depth` and more than
`max_pending` references at once. A file may repeat a block, and so claim to be far larger than its blocks are
together: look at `size` before making room for it. Cycles cannot be: a block cannot contain its own hash.

An identity CID carries its block in itself, and the empty block is no secret: `cid.known_block` gives both, nothing
need be fetched.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

from kachery_p2p.dag import limits
from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.errors import MalformedDag, UnsupportedCID
from kachery_p2p.wire import Buffer


class Ref(NamedTuple):
    """A block to fetch.

    Attributes:
        cid: of the block.
        offset: where its data begins in the file.
        length: how many bytes of the file are in and below it; None only for the root, before it is known.
        depth: 0 for the root.
    """

    cid: CID
    offset: int
    length: int | None
    depth: int


class Piece(NamedTuple):
    """Some bytes of the file and where they belong. `data` is a view of the block that was fed."""

    offset: int
    data: memoryview


@dataclass(frozen=True)
class WalkLimits:
    """Bounds of a walk; see limits.py for the reason of each default.

    With `nodes_ahead` 1 and `low_water` 0 the references come in strict file order.
    """

    max_depth: int = limits.MAX_DEPTH
    max_pending: int = limits.MAX_PENDING_REFS
    soft_pending: int = limits.SOFT_PENDING_REFS
    nodes_ahead: int = limits.NODES_AHEAD
    low_water: int = limits.LEAVES_LOW_WATER


DEFAULT_LIMITS = WalkLimits()


class _Queue:
    """References in file order, kept as runs.

    The children of one node are one run, reversed so that the next is at its end. Runs are few (one for each open
    node), so finding the smallest offset is cheap however many references there are. No two references have the same
    offset and depth, so the comparison never looks further than those.
    """

    __slots__ = ("count", "runs")

    def __init__(self) -> None:
        self.runs: list[list] = []  # heap of [offset, depth, references reversed]
        self.count = 0

    def push(self, refs: list[Ref]) -> None:
        """Add references in file order; takes over the list."""
        if refs:
            self.count += len(refs)
            first = refs[0]
            refs.reverse()
            heapq.heappush(self.runs, [first.offset, first.depth, refs])

    def peek(self) -> Ref | None:
        return self.runs[0][2][-1] if self.runs else None

    def pop(self, n: int = 1, before: int = limits.MAX_FILE_SIZE) -> list[Ref]:
        """The next reference, and up to `n` if they come one after the other and begin in front of `before`."""
        runs = self.runs
        run = runs[0]
        refs = run[2]
        n = min(n, len(refs))
        # Nodes that mix leaves and nodes make runs that interleave: then one at a time. The second smallest of a heap
        # is one of the two entries behind the first.
        if n > 1 and refs[-n][1] >= min((before, *(other[0] for other in runs[1:3]))):
            n = 1
        popped = refs[-n:]
        popped.reverse()
        del refs[-n:]
        self.count -= n
        if not refs:
            heapq.heappop(runs)
        else:
            following = refs[-1]
            run[0] = following[1]
            run[1] = following[3]
            if len(runs) > 1:
                heapq.heapreplace(runs, run)
        return popped


class FileWalk:
    """Walks the DAG of one file, or a byte range of it. See the module's text for how it is used.

    After an error the walk is of no further use.

    Args:
        root: of the file.
        start, end: byte offsets in the file; `end` None is its end, and a range beyond that is cut there.
        limits: bounds of the walk.
        whole_blocks: do not cut the pieces to the range: what a block carries beside it is given too.

    Raises:
        UnsupportedCID: the root is neither raw nor dag-pb.
    """

    def __init__(
        self,
        root: CID,
        start: int = 0,
        end: int | None = None,
        limits: WalkLimits = DEFAULT_LIMITS,
        *,
        whole_blocks: bool = False,
    ) -> None:
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"no such range of bytes: {start} to {end}")
        if root.codec not in (RAW, DAG_PB):
            raise UnsupportedCID(
                f"{root} is not a file: it uses the codec 0x{root.codec:x}, and files are raw (0x55) or dag-pb (0x70)."
            )
        self.root = root
        self.start = start
        self.end = end
        self.size: int | None = None
        self._limits = limits
        self._whole_blocks = whole_blocks
        self._leaves = _Queue()
        self._nodes = _Queue()
        self._nodes.push([Ref(root, 0, None, 0)])
        # Taken and not yet fed: (offset, depth) -> whether it counts as an inner node.
        self._out: dict[tuple[int, int], bool] = {}
        self._nodes_out = 0
        self._largest_leaf = 0
        self._widest = 1

    @property
    def pending(self) -> int:
        """How many references are known and not taken."""
        return self._leaves.count + self._nodes.count

    @property
    def finished(self) -> bool:
        """True when every block of the range has been fed or skipped."""
        return not self._out and not self._leaves.count and not self._nodes.count

    def take(self, n: int) -> list[Ref]:
        """Up to `n` references to fetch next. Fewer, or none, when the rest waits for inner nodes on their way."""
        taken: list[Ref] = []
        leaves, nodes, bounds = self._leaves, self._nodes, self._limits
        while len(taken) < n:
            leaf, node = leaves.peek(), nodes.peek()
            many = n - len(taken)
            before = limits.MAX_FILE_SIZE
            if node is not None:
                before = node[1]
                in_turn = leaf is None or before < leaf[1]
                length = node[2]
                if in_turn and length is not None and length <= self._largest_leaf:
                    taken += self._hand_out(nodes.pop(), counts=False)
                    continue
                # Each node on its way may bring as many children as the widest one so far; the last one always may.
                room = (bounds.soft_pending - self.pending) // self._widest
                if self._nodes_out < max(1, min(bounds.nodes_ahead, room)):
                    if in_turn or leaves.count < bounds.low_water:
                        taken += self._hand_out(nodes.pop(), counts=True)
                        continue
                    many = min(many, leaves.count - bounds.low_water + 1)
            if leaf is None:
                break
            taken += self._hand_out(leaves.pop(many, before), counts=False)
        return taken

    def feed(self, ref: Ref, block: Buffer | FileNode) -> list[Piece]:
        """Give the block of a taken reference, whose hash has been checked.

        Args:
            ref: the reference.
            block: its bytes; or, of a dag-pb block, the node, where it is decoded already.

        Returns:
            The data that it carries.

        Raises:
            MalformedDag: the block is not what its parent promised. Names the CID.
            BlockTooLarge: it links to a block that is too large to be exchanged.
            IsADirectory, NotAFile: the root is something else than a file.
            UnsupportedCID: it has a link that cannot be checked.
        """
        self._settle(ref)
        if ref.cid.codec == RAW and not isinstance(block, FileNode):
            size = len(block)
            if ref.length is None:
                self.size = size
            elif size != ref.length:
                raise MalformedDag(f"The block {ref.cid} has {size} bytes, but the node above it says {ref.length}.")
            return self._clip(ref.offset, memoryview(block))
        return self._feed_node(ref, block)

    def skip(self, ref: Ref) -> None:
        """The user already has, and has checked, all bytes of this taken leaf: nothing is to be fed."""
        if ref.length is None:
            raise ValueError("the root cannot be skipped before its size is known")
        self._settle(ref)
        if ref.cid.codec == DAG_PB:
            self._note_leaf(ref.length)

    def untake(self, ref: Ref) -> None:
        """Give a taken reference back; a later `take` gives it out again, in its place in the file."""
        self._settle(ref)
        queue = self._leaves if ref.cid.codec == RAW else self._nodes
        queue.push([ref])

    def _hand_out(self, refs: list[Ref], *, counts: bool) -> list[Ref]:
        out = self._out
        for ref in refs:
            out[ref[1], ref[3]] = counts
        if counts:
            self._nodes_out += len(refs)
        return refs

    def _settle(self, ref: Ref) -> None:
        counted = self._out.pop((ref[1], ref[3]), None)
        if counted is None:
            raise ValueError(f"{ref.cid} at {ref.offset} is not out: it was never taken, or is settled already")
        if counted:
            self._nodes_out -= 1

    def _note_leaf(self, length: int) -> None:
        if self._largest_leaf < length <= limits.MAX_BLOCK_SIZE:
            self._largest_leaf = length

    def _clip(self, offset: int, data: memoryview) -> list[Piece]:
        """The part of the data that lies in the range, as no or one piece."""
        if self._whole_blocks:
            return [Piece(offset, data)] if len(data) else []
        stop = offset + len(data)
        if offset < self.start:
            data = data[self.start - offset :]
            offset = self.start
        if self.end is not None and stop > self.end:
            data = data[: max(0, self.end - offset)]
        return [Piece(offset, data)] if len(data) else []

    def _feed_node(self, ref: Ref, block: Buffer | FileNode) -> list[Piece]:
        cid = ref.cid
        if isinstance(block, FileNode):
            node = block
        else:
            node = FileNode(cid, block if type(block) is bytes else bytes(block), file=self.root)
        if ref.length is None:
            self.size = node.size
        elif node.size != ref.length:
            raise MalformedDag(f"The block {cid} claims {node.size} bytes, but the node above it says {ref.length}.")
        if not node.count:
            self._note_leaf(len(node.data))
        else:
            self._add_children(ref, node)
        return self._clip(ref.offset, node.data)

    def _add_children(self, ref: Ref, node: FileNode) -> None:
        depth = ref.depth + 1
        if depth > self._limits.max_depth:
            raise MalformedDag(f"The block {ref.cid} lies {ref.depth} levels deep and has links to still deeper ones.")
        self._widest = max(self._widest, node.count)
        base = ref.offset
        end = node.size if self.end is None else self.end - base
        if self.end is not None and self.start >= self.end:
            end = 0  # no bytes, and so no children: not even the one in which that place is
        largest_leaf = self._largest_leaf
        leaves: list[Ref] = []
        nodes: list[Ref] = []
        new_ref = tuple.__new__  # half the cost of Ref(...), once for each block of the file
        for cid, offset, length in node.children(self.start - base, end):
            child = new_ref(Ref, (cid, base + offset, length, depth))
            if cid.codec == RAW or length <= largest_leaf:
                leaves.append(child)
            else:
                nodes.append(child)
        if self.pending + len(leaves) + len(nodes) > self._limits.max_pending:
            raise MalformedDag(
                f"The file {self.root} has more than {self._limits.max_pending} parts on one path from its root to a "
                "leaf; no sane file is cut like that."
            )
        self._leaves.push(leaves)
        self._nodes.push(nodes)
