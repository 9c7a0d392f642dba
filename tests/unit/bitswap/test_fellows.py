"""Loading the same as others at the same time: what the source sends, and who may not be relied on. In virtual time."""

from __future__ import annotations

import pytest

from kachery_p2p.bitswap import limits
from kachery_p2p.bitswap.client import WantManager
from kachery_p2p.bitswap.session import PeerState
from tests.helpers.bitswap_sim import made_cid
from tests.helpers.bitswap_swarm import MIB, Swarm, SwarmNode

COUNT = 191
ONE_COPY = COUNT * MIB


def swarm(
    loaders: int, *, rate: float = 10e6, up: float = 10e6, delay: float = 0.01, stagger: float = 0.0, size: int = MIB
) -> tuple[Swarm, SwarmNode, list[SwarmNode]]:
    """A source that sends `rate` bytes a second and loaders that send `up`, all connected, begun in turn."""
    made = Swarm(delay, size)
    source = made.node("source", rate)
    source.blocks = {made_cid(n).multihash for n in range(COUNT)}
    nodes = [made.node(f"loader-{n}", up) for n in range(loaders)]
    for n, node in enumerate(nodes):
        made.connect(node, source)
        for other in nodes[:n]:
            made.connect(node, other)
        made.at(n * stagger, lambda node=node: made.load(node, COUNT, source))
    return made, source, nodes


def finish(made: Swarm, nodes: list[SwarmNode]) -> None:
    assert made.run(lambda: all(node.done_at is not None for node in nodes if not node.useless))
    for node in nodes:
        assert len(node.got) == len(set(node.got))


@pytest.mark.parametrize("loaders", [2, 8])
def test_a_source_sends_little_more_than_one_copy(loaders: int) -> None:
    """However many load 191 MiB at once, the source sends it once, and all have it soon after it has."""
    made, source, nodes = swarm(loaders)
    finish(made, nodes)
    assert source.sent_blocks < 1.3 * COUNT
    assert made.now < 2 * ONE_COPY / source.rate
    assert sum(node.duplicates for node in nodes) <= loaders


def test_over_a_long_line() -> None:
    """100 ms there and back: still hardly more than one copy, and no slower than one loader by itself by half."""
    made, source, nodes = swarm(8, rate=100e6, up=100e6, delay=0.05)
    finish(made, nodes)
    assert source.sent_blocks < 1.5 * COUNT
    assert made.now < 2 * ONE_COPY / source.rate


def test_those_who_come_late_are_served_by_those_who_came_first() -> None:
    """Loaders that begin five seconds after each other: the source sends no copy for each."""
    made, source, nodes = swarm(6, up=50e6, stagger=5.0)
    finish(made, nodes)
    assert source.sent_blocks < 1.5 * COUNT
    assert all(node.done_at is not None and node.done_at < 5.0 * 6 + 10 for node in nodes)


def test_who_loads_alone_asks_as_before() -> None:
    """Without fellows the source is asked for everything, in order."""
    made, source, (alone,) = swarm(1)
    finish(made, [alone])
    assert alone.got == [made_cid(n).multihash for n in range(COUNT)]
    assert source.sent_blocks == COUNT


def test_slow_fellows_do_not_hold_up_the_load() -> None:
    """Fellows that can send next to nothing: the rest comes from the source, in about the time without them."""
    made, source, nodes = swarm(4, up=100e3)
    finish(made, nodes)
    assert made.now < 1.3 * 4 * ONE_COPY / source.rate + 10


def test_fellows_that_give_nothing_cost_a_second_or_two() -> None:
    """Peers that want the same and never have any of it are waited for once, and not again."""
    made, source, nodes = swarm(6)
    for node in nodes[1:]:
        node.useless = True
        node.rate = 1e9
    honest = nodes[0]
    made.run(lambda: bool(honest.session and honest.session.fellows))
    for node in nodes[1:]:
        assert node.session is not None
        for link in node.session.members:
            if link.peer == "source":  # it sends them nothing, so that its speed is not what counts
                link.stalled, link.retry_at = True, float("inf")
    finish(made, nodes)
    assert honest.done_at is not None
    assert honest.session is not None
    assert not honest.session.fellows
    assert honest.done_at < ONE_COPY / source.rate + 2 * limits.FELLOW_SECONDS + 2.0
    assert honest.sources == {"source": COUNT}


def test_a_fellow_that_leaves_leaves_its_part_to_the_others() -> None:
    """What it was to fetch is fetched by somebody else at once."""
    made, source, nodes = swarm(4)
    leaver, *others = nodes

    def leave() -> None:
        for node in (source, *others):
            node.client.disconnected(leaver.name, made.now)
            node.engine.cancel_all(leaver.name)
        leaver.useless = True
        leaver.client.close_session(leaver.session, made.now)  # type: ignore[arg-type]

    made.at(3.0, leave)
    finish(made, nodes)
    assert source.sent_blocks < 1.5 * COUNT
    assert made.now < 1.6 * ONE_COPY / source.rate


def test_small_blocks_are_not_divided() -> None:
    """Questions to many about each block of some KiB would cost more than the block: the source is asked for it."""
    made, _, nodes = swarm(4, size=limits.LEAST_DIVIDED - 1)
    finish(made, nodes)
    assert not any(node.session and node.session.fellows for node in nodes)


def test_one_behind_the_other() -> None:
    """Who is connected only with somebody who is still loading gets all of it from there, nodes and leaves."""
    made = Swarm()
    source = made.node("source", 10e6)
    source.blocks = {made_cid(n).multihash for n in range(COUNT)}
    first, second = made.node("first", 10e6), made.node("second", 10e6)
    made.connect(first, source)
    made.connect(second, first)
    made.load(first, COUNT, source, unclaimed=5)
    made.at(1.0, lambda: made.load(second, COUNT, first, unclaimed=5))
    finish(made, [first, second])
    assert second.sources == {"first": COUNT}
    assert made.now < 1.3 * ONE_COPY / source.rate


def test_a_reader_of_a_few_bytes_does_not_wait_for_others() -> None:
    """A session that wants a few blocks asks the source for them, though others load them, too."""
    made, _, nodes = swarm(4, rate=100e6)
    reader = made.node("reader", 10e6)
    for node in (made.nodes["source"], *nodes):
        made.connect(reader, node)
    made.at(0.05, lambda: made.load(reader, limits.LEAST_SHARED - 1, made.nodes["source"]))
    assert made.run(lambda: reader.done_at is not None)
    assert reader.session is not None
    assert not reader.session.fellows


def test_only_who_wants_the_same_is_a_fellow() -> None:
    """Who wants other blocks, or is not connected, or takes no part in the session, is none."""
    client = WantManager("me")
    session = client.new_session(discover=True)
    client.connected("a", 0.0)
    wanted, other = made_cid(1), made_cid(2)
    client.want(session, [wanted, *(made_cid(100 + n) for n in range(20))], 0.0, {wanted.multihash: MIB})
    client.loads_too("a", [other.multihash])
    client.loads_too("stranger", [wanted.multihash])
    assert not session.fellows
    client.loads_too("a", [wanted.multihash])
    (link,) = session.fellows.links
    assert (link.peer, session.members[link].state) == ("a", PeerState.SOME)
    client.disconnected("a", 0.0)
    assert not session.fellows
