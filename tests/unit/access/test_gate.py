"""The gate: who may see what, what the store is asked for in place of the rest, and when that is decided anew."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.access.audience import NOBODY, OWN, PRIVATE, PUBLIC, Audience
from kachery_p2p.access.gate import Gate
from kachery_p2p.dag.cid import sha256_multihash
from tests.helpers.access_fakes import MEN, MICE, Members, SaidAudiences

BLOCKS = [sha256_multihash(bytes([n])) for n in range(6)]


def made() -> tuple[Gate, Members, SaidAudiences]:
    """Blocks 1 to 4 are for the mice, the men, both, the user's machines, and nobody; 0 is for everyone."""
    audiences = SaidAudiences()
    mice, men = Audience(groups=frozenset({MICE})), Audience(groups=frozenset({MEN}))
    audiences.said = dict(zip(BLOCKS[1:], (mice, men, mice | men, PRIVATE, NOBODY), strict=True))
    members = Members({"mouse": {MICE}, "man": {MEN}, "both": {MICE, MEN}, "laptop": {OWN}})
    return Gate(members, audiences), members, audiences


def test_who_may_see_what() -> None:
    """Members of one of a block's groups, the user's machines, and everyone else what has no audience."""
    gate, _, _ = made()
    seen = {
        peer: [BLOCKS.index(each) for each in gate.visible(peer, BLOCKS)]
        for peer in ("mouse", "man", "both", "laptop", "stranger", "")
    }
    assert seen == {
        "mouse": [0, 1, 3],
        "man": [0, 2, 3],
        "both": [0, 1, 2, 3],
        "laptop": [0, 4],
        "stranger": [0],
        "": [0],
    }
    assert gate.hidden(None, BLOCKS) == set(BLOCKS[1:])


def test_a_question_costs_one_call_where_nothing_is_restricted() -> None:
    """No block is looked up then, and what was asked for comes back as it is."""
    gate, _, audiences = made()
    audiences.said.clear()
    assert gate.visible("stranger", BLOCKS) is BLOCKS
    assert gate.look([("stranger", each) for each in BLOCKS], lambda asked: dict.fromkeys(asked, 1)) == [1] * 6
    assert not audiences.questions
    assert not Gate().any_restricted()
    assert Gate().visible("anybody", BLOCKS) is BLOCKS


def test_the_store_is_asked_for_nothing_in_place_of_what_is_hidden() -> None:
    """For as many blocks, in the same order; for each hidden one always the same that nobody else can know."""
    gate, _, _ = made()
    asked: list[Sequence[bytes]] = []

    def find(multihashes: Sequence[bytes]) -> dict[bytes, int]:
        asked.append(multihashes)
        return {each: BLOCKS.index(each) for each in multihashes if each in BLOCKS}

    asks = [(peer, block) for peer in ("mouse", "stranger") for block in BLOCKS]
    assert gate.look(asks, find) == [0, 1, None, 3, None, None, 0, None, None, None, None, None]
    assert len(asked[0]) == len(asks)
    decoys = [each for each in asked[0] if each not in BLOCKS]
    assert all(len(each) == len(BLOCKS[0]) and each[:2] == b"\x12\x20" for each in decoys)
    gate.look(asks, find)
    assert asked[0] == asked[1]
    assert set(decoys).isdisjoint(Gate().stand_in(each) for each in BLOCKS)


def test_what_comes_while_it_is_looked_for_is_hidden_as_well() -> None:
    """It had no audience when the gate was asked first, and has one when the store has found it."""
    gate, _, audiences = made()
    late = sha256_multihash(b"late")

    def find(multihashes: Sequence[bytes]) -> dict[bytes, int]:
        audiences.said[late] = PRIVATE
        return dict.fromkeys(multihashes, 7)

    assert gate.look([("stranger", late), ("laptop", late)], find) == [None, 7]


def test_nothing_is_remembered() -> None:
    """What is taken away counts from the next question on, without a word."""
    gate, members, audiences = made()
    assert not gate.hidden("mouse", [BLOCKS[1]])
    members.groups.clear()
    assert gate.hidden("mouse", [BLOCKS[1]])
    members.groups["mouse"] = frozenset({MICE})
    audiences.said[BLOCKS[1]] = PRIVATE
    assert gate.hidden("mouse", [BLOCKS[1]])


def test_who_is_told_of_changes() -> None:
    """Callbacks hear of members and of audiences until they end it; then the members know nothing of the gate."""
    gate, members, _ = made()
    heard: list[str] = []
    ends = [gate.on_changed(lambda name=name: heard.append(name)) for name in "ab"]
    members.change({})
    gate.changed()
    assert heard == ["a", "b", "a", "b"]
    assert gate.generation == 2
    ends[0]()
    ends[0]()
    members.change({})
    assert heard[4:] == ["b"]
    ends[1]()
    assert not members.callbacks
    gate.on_changed(lambda: heard.append("c"))
    members.change({})
    assert heard[5:] == ["c"]


audiences = st.one_of(
    st.just(PUBLIC),
    st.sets(st.sampled_from([MICE, MEN, OWN])).map(lambda groups: Audience(groups=frozenset(groups))),
)


@given(
    st.lists(audiences, min_size=6, max_size=6),
    st.dictionaries(st.sampled_from("abcd"), st.sets(st.sampled_from([MICE, MEN, OWN]))),
    st.lists(st.tuples(st.sampled_from([*"abcde", None]), st.integers(0, 5))),
)
def test_all_ways_of_asking_agree(
    whose: list[Audience], groups: dict[str, set[str]], questions: list[tuple[str | None, int]]
) -> None:
    """`visible`, `hidden`, `hidden_of` and `look` say what the audiences say, for all peers and blocks."""
    said = SaidAudiences()
    said.said = {block: each for block, each in zip(BLOCKS, whose, strict=True) if not each.everyone}
    gate = Gate(Members(groups), said)
    asks = [(peer, BLOCKS[number]) for peer, number in questions]
    allowed = [
        whose[number].admits(frozenset() if peer is None else frozenset(groups.get(peer, ())))
        for peer, number in questions
    ]
    here = dict.fromkeys(BLOCKS, 1)
    found = gate.look(asks, lambda asked: {each: here[each] for each in asked if each in here})
    assert [each is not None for each in found] == allowed
    assert [ask not in gate.hidden_of(asks) for ask in asks] == allowed
    for (peer, block), may in zip(asks, allowed, strict=True):
        assert (block not in gate.hidden(peer, [block])) == may
        if peer is not None:
            assert list(gate.visible(peer, [block])) == ([block] if may else [])
