"""What one load wants: its wants in order, its peers and gateways, and what it has room for. Sans-IO.

A `Want` is shared by all sessions that want the same multihash, so that a block is asked for once. A `Session` keeps
the order in which it wants them; the order is a list with a cursor for each peer. A cursor only moves forward, past
wants that are done, under way or lacking at that peer, and is set back when a want returns to the list: finding the
next want for a peer costs constant time however many wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.fellows import Fellows
from kachery_p2p.bitswap.standby import Standby
from kachery_p2p.dag.cid import CID, RAW

if TYPE_CHECKING:
    from kachery_p2p.bitswap.link import GatewayLink, PeerLink

#: Weight of a new block in the running mean of block sizes: it rises fast and falls slowly, because too low an estimate
#: lets too much into memory and too high a one only costs a little speed.
_SIZE_RISE = 0.5
_SIZE_FALL = 0.15
#: Bytes that any block counts for: about what asking for it takes.
_LEAST_SIZE = 128
#: Answers in a row that turn a peer's state around.
_RUN_TO_DEMOTE = 8
_RUN_TO_PROMOTE = 8
#: Finished entries at the front of the order that are dropped together.
_COMPACT = 512
#: Orphans looked at in one go.
_LOOK_AT = 256


class PeerState(Enum):
    """What a peer is for a session."""

    #: Nothing is known yet.
    UNKNOWN = "unknown"
    #: It delivered, or has the first block wanted: it is asked for blocks directly.
    PROBABLE = "probable"
    #: It has some: it is asked what it has, and for that only.
    SOME = "some"


class WantAnswer(Enum):
    """What a peer said about a block."""

    #: That it does not have it.
    LACKS = "lacks"
    #: That it has it.
    HAS = "has"
    #: Nothing.
    SILENT = "silent"
    #: Nothing that is known, and it is not connected any more.
    GONE = "gone"
    #: It broke the rules, and is not listened to.
    BAD = "bad"
    #: It sent a message that is larger than there may be.
    TOO_LARGE = "too large"
    #: It was asked for other blocks only.
    NOT_ASKED = "not asked"


class Ask:
    """A question open at a peer."""

    __slots__ = (
        "again",
        "ahead",
        "ahead_bytes",
        "at",
        "block",
        "charge",
        "copy",
        "declined",
        "link",
        "sent",
        "session",
        "want",
    )

    def __init__(self, want: Want, link: PeerLink, session: Session, block: bool, now: float) -> None:
        self.want = want
        self.link = link
        self.session = session
        #: True: the block was asked for; False: only whether the peer has it.
        self.block = block
        self.at = now
        #: Bytes charged to the peer's window and the session's budget.
        self.charge = 0
        #: Blocks that the peer had to deliver when this was asked, this one included, and the bytes of them as far as
        #: was known then.
        self.ahead = 0
        self.ahead_bytes = 0
        #: Whether the remote may know of it.
        self.sent = False
        #: It was asked for, in the endgame, while another peer had it under way.
        self.copy = False
        #: The peer may have answered the same lately, or the first time was lost.
        self.again = False
        #: DONT_HAVE was the answer; the remote keeps the want and tells us when it gets the block.
        self.declined = False

    @property
    def live(self) -> bool:
        """Whether a block is on its way because of this."""
        return self.block and not self.declined

    def expected(self) -> float:
        """Seconds from the asking until the answer, by what is known now of the peer's speed and the blocks' size."""
        link = self.link
        if link.rate <= 0:
            return 0.0
        want, session = self.want, self.session
        told = bool(want.claimed) and session.believes
        size = self.ahead_bytes if told else self.ahead * session.expected_size(want)
        return size / link.rate + link.latency * 0.5


class PeerQuestion:
    """Whether one peer has one block: asked of that peer alone, and no matter of any session."""

    __slots__ = ("again", "answer", "cid", "on_answer", "sent")

    def __init__(self, cid: CID, on_answer: Callable[[], None]) -> None:
        self.cid = cid
        #: Called once, when `answer` is known, or never will be.
        self.on_answer = on_answer
        self.answer: bool | None = None
        #: The remote may know of it.
        self.sent = False
        #: The remote may have the same on its list, as something else.
        self.again = False


class Want:
    """A block that at least one session wants."""

    __slots__ = (
        "asks",
        "cid",
        "claimed",
        "having",
        "in_flight",
        "lacking",
        "multihash",
        "requests",
        "sessions",
        "skipped",
        "too_large",
    )

    def __init__(self, cid: CID) -> None:
        self.cid = cid
        self.multihash = cid.multihash
        #: Bytes that it has at the most, as the DAG says; 0 where that says nothing.
        self.claimed = 0
        #: Position in the order of each session, and the CID by which that session calls it.
        self.sessions: dict[Session, tuple[int, CID]] = {}
        self.asks: dict[PeerLink, Ask] = {}
        #: Peers, and gateways, that are delivering it. Peers do not wait for what a gateway has under way.
        self.in_flight = 0
        self.requests = 0
        #: Peers and gateways that are not asked for it: they said that they do not have it, or passed it over
        #: (`skipped`), or sent something too large instead (`too_large`).
        self.lacking: set[PeerLink] = set()
        self.skipped: set[PeerLink] = set()
        self.too_large: set[PeerLink] = set()
        self.having: set[PeerLink] = set()

    def unknown_to(self, link: PeerLink) -> bool:
        """Whether this peer was not asked about it, nor said anything."""
        return link not in self.asks and link not in self.lacking and link not in self.having


class Member:
    """A peer in a session."""

    __slots__ = (
        "cursor",
        "has",
        "is_fellow",
        "link",
        "own_cursor",
        "probe_cursor",
        "probe_limit",
        "provider",
        "run",
        "session",
        "state",
    )

    def __init__(self, session: Session, link: PeerLink, provider: bool) -> None:
        self.session = session
        self.link = link
        #: Somebody named it as a provider; others are asked because they are connected.
        self.provider = provider
        self.state = PeerState.UNKNOWN
        self.cursor = session.base
        #: The same among the wants that are not left to fellows.
        self.own_cursor = session.base
        self.probe_cursor = session.base
        self.probe_limit = limits.FIRST_PROBES
        #: It wants the same blocks itself. It has what it says that it has, and will soon have more.
        self.is_fellow = False
        #: Answers of one kind in a row: above zero it had them, below zero it had not.
        self.run = 0
        #: Wants that it said it has and that no peer is delivering.
        self.has: dict[bytes, Want] = {}

    @property
    def is_likely(self) -> bool:
        """Whether it likely has what is wanted: somebody named it, or it delivered other things, and it denied nothing.

        A node has many connections that are there for other reasons.
        """
        return self.state is PeerState.UNKNOWN and self.run == 0 and (self.provider or self.link.blocks > 0)

    def positive(self, want: Want, delivered: bool) -> None:
        """It has a block: it delivered it, or said so."""
        if self.is_fellow:
            return
        self.run = max(self.run, 0) + 1
        self.probe_limit = min(2 * self.probe_limit, limits.MAX_PROBES_PER_PEER)
        root = want.sessions.get(self.session, (-1,))[0] == 0
        if self.state is PeerState.UNKNOWN:
            self.state = PeerState.PROBABLE if delivered or root else PeerState.SOME
        elif self.state is PeerState.SOME and self.run >= _RUN_TO_PROMOTE:
            self.state = PeerState.PROBABLE
            self.cursor = self.session.base

    def negative(self) -> None:
        """It does not have a block."""
        if self.is_fellow:
            return
        self.run = min(self.run, 0) - 1
        self.probe_limit = max(self.probe_limit // 2, 1)
        if self.state is PeerState.PROBABLE and self.run <= -_RUN_TO_DEMOTE:
            self.state = PeerState.SOME
            self.probe_cursor = self.session.base


class GatewayMember(Member):
    """A gateway in a session."""

    __slots__ = ("away", "tries")

    def __init__(self, session: Session, link: GatewayLink) -> None:
        super().__init__(session, link, provider=True)
        #: How often it was asked in vain for a want, by multihash.
        self.tries: dict[bytes, int] = {}
        #: It delivered, and cannot be reached now.
        self.away = False

    def positive(self, want: Want, delivered: bool) -> None:
        super().positive(want, delivered)
        self.away = False


class Session:
    """The wants of one load, in order. Compared and hashed by identity."""

    def __init__(self, number: int, discover: bool, admits: Callable[[str], bool] | None = None) -> None:
        self.number = number
        #: Whether connected peers are asked without having been named.
        self.discover = discover
        #: Which peers may hear of what is wanted, by ID; None where all may.
        self.admits = admits
        #: Whether gateways may hear of what is wanted.
        self.admits_gateways = admits is None
        self.members: dict[PeerLink, Member] = {}
        #: The gateways that take part, and when they do; None where none may.
        self.gateways: dict[PeerLink, GatewayMember] = {}
        self.standby: Standby | None = None
        #: Wants that have not arrived. They stand in the order, and nowhere else in the session.
        self.wanted = 0
        self._order: list[Want | None] = []
        #: How many entries at its front are done.
        self._front = 0
        #: Position of the first entry of the list; everything before it is done.
        self.base = 0
        #: Bytes asked for and not arrived, and arrived but not taken by the receiver.
        self.outstanding = 0
        self.buffered = 0
        self._sizes: dict[int, float] = {}
        #: Whether the DAG told the truth so far of how large its blocks are.
        self.believes = True
        #: Wants that nobody of this session can supply.
        self.hopeless: set[Want] = set()
        #: Wants that no peer of it can supply, but perhaps a gateway. Kept where gateways take part.
        self.peerless: dict[Want, None] = {}
        #: Wants that a peer declined: every other peer is asked about them without delay.
        self.orphans: dict[bytes, Want] = {}
        #: Who loads the same, and what they are left to fetch; see `fellows`.
        self.fellows: Fellows[PeerLink, Want] = Fellows()
        self.closed = False
        #: The budget kept a peer from being asked: when the receiver takes a block, more may be asked.
        self.limited = False
        self.duplicates = 0
        #: Copies that it may ask for in the endgame.
        self.copies: float = limits.ENDGAME_COPIES
        #: Peers and gateways that were asked anything, and what each delivered: blocks and bytes.
        self.asked: set[str] = set()
        self.sources: dict[str, list[int]] = {}
        #: What each gateway said instead of sending a block.
        self.said: dict[str, str] = {}
        #: When a part of a block came last from somebody who owes one.
        self.last_sign = 0.0
        #: Wanted blocks that came with more bytes than there may be: they cannot be had from anybody.
        self.too_large: dict[CID, int] = {}

    def may_ask(self, peer: str) -> bool:
        """Whether a peer may hear of what is wanted."""
        return self.admits is None or self.admits(peer)

    def member(self, link: PeerLink) -> Member | None:
        """A peer or gateway as a member of this session."""
        return self.members.get(link) or self.gateways.get(link)

    def earn(self, copies: float) -> None:
        """It may ask for so many copies more; for fewer, where the number is negative."""
        self.copies = min(max(self.copies + copies, 0.0), limits.MAX_ENDGAME_COPIES)

    def credit(self, peer: str, size: int) -> None:
        """A peer or gateway delivered a block to this session."""
        self.earn(1 / limits.BLOCKS_PER_COPY)
        account = self.sources.setdefault(peer, [0, 0])
        account[0] += 1
        account[1] += size

    # --- the order -------------------------------------------------------------------------------------------------

    def add(self, want: Want, cid: CID) -> None:
        """Put a want at the end of the order."""
        want.sessions[self] = (self.base + len(self._order), cid)
        self._order.append(want)
        self.wanted += 1
        if self.fellows:
            self.fellows.divide(want)

    @property
    def is_long(self) -> bool:
        """Whether it wanted so much that it can wait for a part of it: not where somebody reads a few bytes."""
        return self.base + len(self._order) >= limits.LEAST_SHARED

    def drop(self, want: Want) -> None:
        """Take a want out: it arrived, or is no longer wanted."""
        index, _ = want.sessions.pop(self)
        self._order[index - self.base] = None
        self.wanted -= 1
        self.hopeless.discard(want)
        self.orphans.pop(want.multihash, None)
        self.fellows.left.discard(want)
        if self.standby is not None:
            self.peerless.pop(want, None)
            for gateway in self.gateways.values():
                gateway.tries.pop(want.multihash, None)
        for link in want.having:
            member = self.members.get(link)
            if member is not None:
                member.has.pop(want.multihash, None)
        if self._order[self._front] is None:
            self._compact()

    def _compact(self) -> None:
        """Forget the finished front of the order, in strokes of some hundreds or when nothing is left."""
        order = self._order
        if not self.wanted:
            self._front = len(order)
        else:
            while order[self._front] is None:
                self._front += 1
            if self._front < _COMPACT:
                return
        del order[: self._front]
        self.base += self._front
        self._front = 0

    def in_order(self, *, backwards: bool = False) -> Iterator[Want]:
        """The wants, first to last, or last to first."""
        return (want for want in (reversed(self._order) if backwards else self._order) if want is not None)

    def order_from(self, position: int) -> Iterator[tuple[int, Want]]:
        """The wants from a position of the order on, with their positions."""
        start = max(position, self.base)
        for index, want in enumerate(islice(self._order, start - self.base, None), start):
            if want is not None:
                yield index, want

    @property
    def after_order(self) -> int:
        """The position of the next want that is added."""
        return self.base + len(self._order)

    def next_for(self, member: Member) -> Want | None:
        """The first want in order that no peer is delivering and that this one is not known to lack."""
        order, base, link = self._order, self.base, member.link
        index = max(member.cursor - base, 0)
        end = len(order)
        while index < end:
            want = order[index]
            if want is not None and want.in_flight == 0 and link not in want.lacking:
                member.cursor = base + index
                return want
            index += 1
        member.cursor = base + end
        return None

    def next_own(self, member: Member) -> Want | None:
        """The same among the wants that no fellow has or is to fetch."""
        order, base, link, fellows = self._order, self.base, member.link, self.fellows
        index = max(member.own_cursor - base, 0)
        end = len(order)
        while index < end:
            want = order[index]
            if (
                want is not None
                and want.in_flight == 0
                and link not in want.lacking
                and want not in fellows.left
                and not fellows.have(want)
            ):
                member.own_cursor = base + index
                return want
            index += 1
        member.own_cursor = base + end
        return None

    def next_had(self, member: Member) -> Want | None:
        """A want that this peer said it has and that no peer is delivering."""
        while member.has:
            multihash, want = next(iter(member.has.items()))
            if want.in_flight == 0 and member.link not in want.lacking:
                return want
            del member.has[multihash]
        return None

    def next_probes(self, member: Member, count: int) -> list[Want]:
        """Up to `count` wants about which this peer has not been asked yet; orphans first."""
        link = member.link
        found: dict[bytes, Want] = {}
        # A short cut, so it need not be complete: the cursor below comes to every want in time.
        for want in islice(self.orphans.values(), _LOOK_AT):
            if len(found) < count and want.unknown_to(link):
                found[want.multihash] = want
        index = max(member.probe_cursor - self.base, 0)
        while index < len(self._order) and len(found) < count:
            want = self._order[index]
            index += 1
            if want is not None and want.unknown_to(link):
                found[want.multihash] = want
        member.probe_cursor = self.base + index
        return list(found.values())

    def returned(self, want: Want) -> None:
        """A want that was under way is to be had again."""
        index = want.sessions[self][0]
        for link, member in self.members.items():
            if link in want.lacking:
                continue
            if member.cursor > index:
                member.cursor = index
            if member.own_cursor > index:
                member.own_cursor = index
            if link in want.having:
                member.has[want.multihash] = want
        self.check(want)

    # --- who loads the same ----------------------------------------------------------------------------------------

    def divide_anew(self) -> None:
        """Fellows came or went: say again who fetches what."""
        self.fellows.left.clear()
        if self.fellows:
            for want in self.in_order():
                self.fellows.divide(want)
        for member in self.members.values():
            member.own_cursor = self.base

    # --- who can supply it -----------------------------------------------------------------------------------------

    def able(self, want: Want) -> bool:
        """Whether a peer of this session may still supply the want."""
        return any(link.connected and link not in want.lacking for link in self.members)

    def able_gateway(self, want: Want) -> bool:
        """The same of its gateways."""
        return any(link.connected and link not in want.lacking for link in self.gateways)

    def check(self, want: Want) -> None:
        """Bring `hopeless` and `peerless` up to date for one want."""
        if want.in_flight or self.able(want):
            self.hopeless.discard(want)
            if self.standby is not None:
                self.peerless.pop(want, None)
            return
        if self.standby is not None:
            self.peerless[want] = None
            if want.requests or self.able_gateway(want):
                self.hopeless.discard(want)
                return
        self.hopeless.add(want)

    def check_all(self) -> None:
        """The same for all wants: somebody came or went."""
        for want in self.in_order():
            self.check(want)

    @property
    def exhausted(self) -> bool:
        """Whether at least one want has nobody left who could supply it."""
        return bool(self.hopeless)

    def learned_size(self, want: Want, size: int) -> None:
        """A block came, of this size."""
        if want.claimed and size > want.claimed:
            self.believes = False
        codec = want.cid.codec
        mean = self._sizes.get(codec, _first_estimate(codec))
        self._sizes[codec] = mean + (_SIZE_RISE if size > mean else _SIZE_FALL) * (size - mean)

    def expected_size(self, want: Want) -> int:
        """Bytes that a block is expected to have.

        The DAG says it of leaves. Of other nodes it says how much they have with all below them: what such blocks had
        so far tells more, and leaves and inner nodes differ much. Where it lied once, the greater of both counts.
        """
        codec, claimed = want.cid.codec, want.claimed
        if claimed and codec == RAW and self.believes:
            return max(claimed, _LEAST_SIZE)
        usual = int(self._sizes.get(codec, _first_estimate(codec)))
        if claimed:
            usual = min(usual, claimed) if self.believes else max(usual, claimed)
        return max(usual, _LEAST_SIZE)


def _first_estimate(codec: int) -> int:
    return limits.FIRST_BLOCK_ESTIMATE if codec == RAW else limits.FIRST_NODE_ESTIMATE
