"""The server core: whose wants are answered with what, in which order, and within which bounds."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.engine import Engine, Reply
from kachery_p2p.bitswap.messages import WantlistEntry, WantType
from tests.helpers.bitswap_sim import made_cid

KIB, MIB = 1024, 1 << 20


def block(number: int, priority: int = 1, *, dont_have: bool = True) -> WantlistEntry:
    return WantlistEntry(made_cid(number), priority, False, WantType.BLOCK, dont_have)


def have(number: int, *, dont_have: bool = True) -> WantlistEntry:
    return WantlistEntry(made_cid(number), 1, False, WantType.HAVE, dont_have)


def cancel(number: int) -> WantlistEntry:
    return WantlistEntry(made_cid(number), cancel=True)


class Server:
    """An engine over a store that is a dictionary of sizes."""

    def __init__(self, sizes: dict[int, int]) -> None:
        self.sizes = {made_cid(number).multihash: size for number, size in sizes.items()}
        self.engine = Engine()

    def receive(self, peer: str, entries: Iterable[WantlistEntry], full: bool = False) -> None:
        self.engine.receive(peer, list(entries), full)
        self.look_up()

    def look_up(self) -> None:
        while batch := self.engine.take_lookups():
            assert len(batch) <= limits.LOOKUP_BATCH
            self.engine.looked_up(batch, [self.sizes.get(want.cid.multihash) for want in batch])

    def send(self, reply: Reply, seconds: float | None = None) -> tuple[list[int], list[tuple[int, bool]]]:
        """What goes out: numbers of blocks, and (number, have)."""
        blocks = [number_of(w.cid) for w in reply.wants if self.engine.still_wanted(w)]
        self.engine.written(reply)
        self.engine.finished(reply, len(blocks), reply.size, seconds)
        return blocks, [(number_of(cid), has) for cid, has in reply.presences]

    def drain(self) -> list[tuple[str, list[int], list[tuple[int, bool]]]]:
        """All replies, one after the other."""
        out = []
        while (reply := self.engine.next_reply()) is not None:
            out.append((reply.peer, *self.send(reply)))
        return out


def number_of(cid: object) -> int:
    return int.from_bytes(cid.multihash[2:], "big")  # type: ignore[attr-defined]


def test_who_takes_messages_quickly_gets_larger_ones_and_who_does_not_gets_small_ones() -> None:
    """Twice as large each time, to what a message may have; a mebibyte again after one that was taken slowly."""
    server = Server(dict.fromkeys(range(90), 300 * KIB))
    server.receive("a", [block(n) for n in range(90)])

    def send(seconds: float | None) -> int:
        reply = server.engine.next_reply()
        assert reply is not None
        assert reply.size <= limits.MAX_MESSAGE_SIZE
        return len(server.send(reply, seconds)[0])

    assert [send(limits.REPLY_QUICK) for _ in range(4)] == [3, 6, 12, 12]
    assert send(limits.REPLY_SLOW) == 12  # neither quick nor slow: it stays as it is
    assert send(2 * limits.REPLY_SLOW) == 12
    assert send(None) == 3  # nothing is known of how long it took
    assert send(None) == 3


def sizes_of_messages(count: int, size: int) -> list[int]:
    """Numbers of blocks in the messages to a peer that waits for so many, and takes them quickly."""
    server = Server(dict.fromkeys(range(count), size))
    server.receive("a", [block(n) for n in range(count)])
    server.engine.ledgers["a"].target = limits.REPLY_LARGEST_SIZE
    sent: list[int] = []
    while (reply := server.engine.next_reply()) is not None:
        sent.append(len(server.send(reply, limits.REPLY_QUICK)[0]))
    return sent


def test_the_last_small_blocks_come_in_small_messages() -> None:
    """However quickly a peer takes them, no message holds more than half of what it waits for, or a mebibyte."""
    assert sizes_of_messages(24 * 4, 75 * KIB) == [48, 24, 13, 11]


def test_large_blocks_fill_their_messages() -> None:
    """A peer that asks for one as one has come does not get each by itself."""
    assert sizes_of_messages(8, MIB) == [3, 3, 2]
    assert sizes_of_messages(2, MIB) == [2]
    assert sizes_of_messages(24, 300 * KIB) == [12, 12]


def test_blocks_come_by_priority_in_messages_of_a_mebibyte() -> None:
    """Higher priority first; small blocks share a message, one that is big has its own."""
    server = Server(dict.fromkeys(range(6), 300 * KIB) | {9: 2 * MIB})
    server.receive("a", [*(block(n, priority=n) for n in range(6)), block(9, priority=100)])
    assert [blocks for _, blocks, _ in server.drain()] == [[9], [5, 4, 3], [2, 1, 0]]
    assert server.engine.outstanding == 0
    assert not server.engine.ledgers["a"].wants


def test_have_and_dont_have() -> None:
    """HAVE for what is here, DONT_HAVE for what is not, if asked; small blocks come instead of HAVE."""
    server = Server({1: 5000, 2: limits.HAVE_REPLACE_SIZE, 3: limits.HAVE_REPLACE_SIZE + 1})
    server.receive(
        "a", [have(1), have(2), have(3), have(4), have(5, dont_have=False), block(6), block(7, dont_have=False)]
    )
    ((_, blocks, presences),) = server.drain()
    assert blocks == [2]
    assert sorted(presences) == [(1, True), (3, True), (4, False), (6, False)]
    assert server.drain() == []


def test_blocks_over_two_mebibytes_are_not_served() -> None:
    """A block that no peer may accept counts as absent."""
    server = Server({1: limits.MAX_BLOCK_SIZE + 1})
    server.receive("a", [block(1)])
    assert server.drain() == [("a", [], [(1, False)])]


def test_what_we_get_later_is_sent_then() -> None:
    """Wants we could not serve are answered when the block comes: block or HAVE, once."""
    server = Server({})
    server.receive("a", [block(1), have(2), block(3)])
    server.receive("b", [block(1, dont_have=False)])
    assert server.drain() == [("a", [], [(1, False), (2, False), (3, False)])]
    server.sizes |= {made_cid(1).multihash: 10_000, made_cid(2).multihash: 10_000}
    assert server.engine.notify([made_cid(1).multihash, made_cid(2).multihash, made_cid(9).multihash])
    server.look_up()
    assert sorted(server.drain()) == [("a", [1], [(2, True)]), ("b", [1], [])]
    assert not server.engine.notify([made_cid(1).multihash])


def test_what_comes_while_it_is_looked_up_is_sent() -> None:
    """A block that comes after the store was asked and before its answer is known is not overlooked."""
    server = Server({})
    server.engine.receive("a", [block(1), have(2), block(3)], False)
    batch = server.engine.take_lookups()
    answer = [server.sizes.get(want.cid.multihash) for want in batch]
    server.sizes |= {made_cid(1).multihash: 10_000, made_cid(2).multihash: 10_000}
    server.engine.notify([made_cid(1).multihash, made_cid(2).multihash])
    server.engine.looked_up(batch, answer)
    server.look_up()
    assert server.drain() == [("a", [1], [(3, False), (2, True)])]


def test_cancels_are_honoured_at_every_stage() -> None:
    """A cancelled want is not answered: not looked up yet, queued, waiting, or even read already."""
    server = Server(dict.fromkeys(range(4), 600 * KIB))
    server.engine.receive("a", [block(0), block(1), block(2), block(7)], False)
    server.engine.receive("a", [cancel(0)], False)
    server.look_up()
    server.receive("a", [cancel(7)])
    reply = server.engine.next_reply()
    assert reply is not None
    assert [number_of(w.cid) for w in reply.wants] == [1]
    server.receive("a", [cancel(1), cancel(2)])
    assert server.send(reply) == ([], [])
    assert server.drain() == []
    assert not server.engine.notify([made_cid(7).multihash])


def test_a_full_list_replaces_the_old_one() -> None:
    """What a full wantlist does not name is no longer wanted."""
    server = Server(dict.fromkeys(range(4), 600 * KIB))
    server.receive("a", [block(0), block(1), block(9)])
    server.receive("a", [block(1), block(2)], full=True)
    assert [blocks for _, blocks, _ in server.drain()] == [[1], [2]]
    server.receive("a", [block(9)])
    server.drain()
    server.receive("a", [], full=True)
    assert not server.engine.ledgers["a"].wants


def test_wanted_again_after_it_was_sent_it_is_sent_again() -> None:
    """We do not second-guess a peer that wants a block once more."""
    server = Server({1: 10_000})
    for _ in range(2):
        server.receive("a", [block(1)])
        assert server.drain() == [("a", [1], [])]


def test_a_have_becomes_a_block() -> None:
    """A peer that asked HAVE and then wants the block gets the block."""
    server = Server({1: 10_000})
    server.engine.receive("a", [have(1)], False)
    server.receive("a", [block(1)])
    assert server.drain() == [("a", [1], [])]


def test_peers_get_equal_shares() -> None:
    """A peer with a thousand wants and peers with a few are served in turns, by bytes."""
    server = Server(dict.fromkeys(range(2000), 100 * KIB))
    server.receive("greedy", (block(n) for n in range(1000)))
    server.receive("b", (block(n) for n in range(1000, 1400)))
    served: dict[str, int] = {"greedy": 0, "b": 0, "late": 0}
    order = []
    for turn in range(16):
        if turn == 4:
            server.receive("late", (block(n) for n in range(1500, 1520)))
        reply = server.engine.next_reply()
        assert reply is not None
        served[reply.peer] += reply.size
        order.append(reply.peer)
        server.send(reply)
    assert abs(served["greedy"] - served["b"]) <= 2 * MIB
    # One that comes late is not given the past of the others to catch up with, nor made to wait for it.
    assert "late" in order[4:7]
    assert served["late"] <= 4 * MIB


def test_bytes_in_work_are_bounded() -> None:
    """Each peer has at most two messages in work, all together at most 32 MiB; presences go out all the same."""
    server = Server(dict.fromkeys(range(1000), MIB))
    for peer in range(60):
        server.receive(f"p{peer}", [block(n) for n in range(peer * 10, peer * 10 + 10)])
    replies = []
    while (reply := server.engine.next_reply()) is not None:
        replies.append(reply)
    assert server.engine.outstanding <= limits.MAX_OUTSTANDING + 2 * MIB
    assert server.engine.crowded
    assert max(sum(1 for r in replies if r.peer == f"p{n}") for n in range(60)) <= limits.MAX_REPLIES_PER_PEER
    server.receive("q", [have(5000)])
    extra = server.engine.next_reply()
    assert extra is not None
    assert server.send(extra) == ([], [(5000, False)])
    for reply in replies:
        server.send(reply)
    assert server.engine.outstanding == 0
    assert len(server.drain()) == 600 - len(replies)


def test_too_many_wants_are_shed() -> None:
    """Over 1024 wants the least important and newest go, those we lack before all; DONT_HAVE is said of them."""
    server = Server(dict.fromkeys(range(200000), 1000))
    for first in range(0, 40_000, 4096):
        server.engine.receive(
            "a", [block(n, priority=100_000 - n) for n in range(first, min(first + 4096, 40_000))], False
        )
        assert len(server.engine.ledgers["a"].wants) <= limits.MAX_WANTS_PER_PEER
        assert len(server.engine.ledgers["a"].lookups) <= 4 * limits.MAX_WANTS_PER_PEER
    server.look_up()
    kept = {number_of(want.cid) for want in server.engine.ledgers["a"].wants.values()}
    assert kept == set(range(limits.MAX_WANTS_PER_PEER))
    assert server.engine.congested("a")
    sent = {n for _, blocks, _ in server.drain() for n in blocks}
    assert sent == kept
    # Wants that we lack make way for wants that we can serve.
    server.receive("a", [block(300_000 + n, priority=9) for n in range(limits.MAX_WANTS_PER_PEER)])
    server.drain()
    server.receive("a", [block(5, priority=1)])
    assert ("a", [5], []) in server.drain()


def test_disconnect_forgets_everything() -> None:
    """When a peer goes, nothing of it stays but what is in work, and that ends by itself."""
    server = Server(dict.fromkeys(range(10), MIB))
    server.receive("a", [block(n) for n in range(20)])
    reply = server.engine.next_reply()
    assert reply is not None
    server.engine.cancel_all("a")
    assert server.engine.next_reply() is None
    assert not server.engine.still_wanted(reply.wants[0])
    server.engine.finished(reply, 0, 0)
    assert server.engine.outstanding == 0
    assert not server.engine.notify([made_cid(15).multihash])
    assert not server.engine.ledgers


def test_a_block_that_vanished_is_declined_and_remembered() -> None:
    """If the store has lost a block by the time it is read, the peer hears DONT_HAVE and gets it when it is back."""
    server = Server({1: 10_000})
    server.receive("a", [block(1)])
    reply = server.engine.next_reply()
    assert reply is not None
    told = server.engine.vanished(reply.wants[0])
    assert told is not None
    assert not told.have
    server.send(reply)
    assert server.engine.notify([made_cid(1).multihash])
    server.look_up()
    assert server.drain() == [("a", [1], [])]


actions = st.lists(
    st.tuples(
        st.sampled_from(["block", "have", "cancel", "full", "reply", "finish", "vanish", "gone", "notify", "look"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 12),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(actions)
def test_any_history_keeps_the_books(history: list[tuple[str, str, int]]) -> None:
    """Whatever peers do in whatever order, sums stay right, and in the end each want is answered or waits."""
    server = Server({n: [500, 300 * KIB, 2 * MIB][n % 3] for n in range(8)})
    engine = server.engine
    open_replies: list[Reply] = []
    for what, peer, n in history:
        if what == "block":
            engine.receive(peer, [block(n, priority=n % 4)], False)
        elif what == "have":
            engine.receive(peer, [have(n)], False)
        elif what == "cancel":
            engine.receive(peer, [cancel(n)], False)
        elif what == "full":
            engine.receive(peer, [block(n), have(n + 1)], True)
        elif what == "reply":
            reply = engine.next_reply()
            if reply is not None:
                open_replies.append(reply)
        elif what == "finish" and open_replies:
            server.send(open_replies.pop(0))
        elif what == "vanish" and open_replies and open_replies[0].wants:
            engine.vanished(open_replies[0].wants[0])
        elif what == "gone":
            engine.cancel_all(peer)
        elif what == "notify":
            server.sizes[made_cid(n).multihash] = 700 * n
            engine.notify([made_cid(n).multihash])
        elif what == "look":
            server.look_up()
        assert engine.outstanding == sum(reply.size for reply in open_replies)
    for reply in open_replies:
        server.send(reply)
    server.look_up()
    server.drain()
    assert engine.outstanding == 0
    for ledger in engine.ledgers.values():
        assert (ledger.outstanding, ledger.replies, ledger.block_bytes) == (0, 0, 0)
        assert not ledger.presences
        for multihash in ledger.wants:
            # What is left is what we lack, or lost while it was being sent; all of it is waiting for news.
            assert ledger in engine._waiting[multihash]
