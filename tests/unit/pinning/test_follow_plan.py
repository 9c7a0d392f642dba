"""Going through the list of another node, while that changes: histories."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.pinning.follow.plan import Cursor, advance, bounds
from kachery_p2p.pinning.follow.remote import NotFollowed, read_facts, read_page
from kachery_p2p.pinning.server.following import RemotePin, RemoteToken
from kachery_p2p.pinning.server.requests import Filters, PinObject, Refusal
from kachery_p2p.pinning.server.rows import Token
from kachery_p2p.pinning.server.store import PinStore, hash_of
from tests.helpers.pin_server import nowhere

PAGE = 3


@dataclass
class Model:
    """A list as another node has it: numbers that grow."""

    there: set[int] = field(default_factory=set[int])
    made: int = 0

    def add(self) -> None:
        self.made += 1
        self.there.add(self.made)

    def page(self, cursor: Cursor) -> tuple[list[int], bool]:
        asked = bounds(cursor)
        fit = sorted(
            (each for each in self.there if asked.get("after", 0) < each < asked.get("before", 1 << 60)), reverse=True
        )
        return fit[:PAGE], len(fit) > PAGE


@given(st.lists(st.one_of(st.just("add"), st.just("page"), st.integers(0, 30)), max_size=80))
def test_every_pin_is_met(steps: list[str | int]) -> None:
    """Whatever is pinned and deleted between two pages: what stays is met, each once by all looks at what is new."""
    model, cursor, met = Model(), Cursor(), list[int]()
    for step in steps:
        if step == "add":
            model.add()
        elif step == "page":
            page, more = model.page(cursor)
            met += page
            cursor = advance(cursor, page, more)
        elif isinstance(step, int):
            model.there.discard(step)
    for _ in range(2):  # the look that is under way, and one more
        while True:
            page, more = model.page(cursor)
            met += page
            cursor = advance(cursor, page, more)
            if cursor.before is None:
                break
    assert model.there <= set(met)
    assert len(met) == len(set(met))


# --- two lists that follow each other --------------------------------------------------------------------------------


@dataclass
class Side:
    """One of two nodes: its list, and whose pins are on it."""

    name: str
    store: PinStore
    token: Token
    url: str


class Pair:
    """Two nodes that follow each other, without a network between them; time is counted by hand."""

    GRACE = 100.0

    def __init__(self, folder: Path) -> None:
        self.now = 1_000_000.0
        self.folder = folder
        self.sides = [self.open(name) for name in ("a", "b")]
        self.count = 0

    def open(self, name: str) -> Side:
        store = PinStore(self.folder / f"{name}.sqlite", wall=lambda: self.now)
        made = store.add_token("alice")
        if made is None:  # opened again
            token = next(each for each in store.tokens() if each.name == "alice")
        else:
            found = store.token(made[0])
            assert found is not None
            token = found
        return Side(name, store, token, f"http://{name}")

    def pin(self, at: int, number: int) -> None:
        cid = CID(1, RAW, b"\x12\x20" + bytes([number]) * 32)
        self.sides[at].store.add(self.sides[at].token, PinObject(cid, str(cid)), 10)

    def unpin(self, at: int, which: int) -> None:
        """Delete one of those that are seen there, wherever it was pinned first."""
        side = self.sides[at]
        pins = side.store.list(side.token, Filters(statuses=("queued", "pinning", "pinned"), limit=1000))[1]
        if pins:
            side.store.delete(side.token, pins[which % len(pins)].request_id)

    def follow(self, at: int) -> None:
        """One look at everything of the other one, and what is deleted there."""
        us, them = self.sides[at], self.sides[1 - at]
        ours, theirs = us.store.following, them.store.following
        known = ours.known(them.url)
        deleted = theirs.deleted(ours.list_id, known, 1000)
        noted = ours.begin(them.url, theirs.list_id)
        ours.deleted_there(them.url, deleted, self.GRACE)
        for cursor, kept in ((Cursor(*noted[:3]), True), (Cursor(), False)):
            if not kept:
                ours.begin_whole(them.url)
            while True:
                asked = bounds(cursor)
                before, after = asked.get("before"), asked.get("after")
                wanted = ("queued", "pinning", "pinned")
                filters = Filters(statuses=wanted, limit=PAGE, before=before, after=after)
                count, found = them.store.list(None, filters)
                cursor = advance(cursor, [pin.created for pin in found], count > len(found))
                pins = [RemotePin(pin.request_id, "alice", PinObject(pin.root, pin.cid), pin.created) for pin in found]
                ours.take(them.url, theirs.list_id, pins, (cursor.after, cursor.top, cursor.before) if kept else None)
                if cursor.before is None:
                    break
        ours.end_whole(them.url)
        ours.sweep(self.GRACE)

    def settle(self) -> None:
        """Until nothing changes any more, over the time of grace."""
        for _ in range(3):
            self.follow(0)
            self.follow(1)
            self.now += 2 * self.GRACE
        self.follow(0)
        self.follow(1)

    def roots(self, at: int) -> list[str]:
        side = self.sides[at]
        return sorted(pin.cid for pin in side.store.list(side.token, Filters(statuses=("queued",), limit=1000))[1])

    def own(self, at: int) -> int:
        return len(self.sides[at].store.list(None, Filters(statuses=("queued",), limit=1000))[1])

    def restart(self, at: int) -> None:
        self.sides[at].store.close()
        self.sides[at] = self.open(self.sides[at].name)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pin"), st.integers(0, 1), st.integers(0, 9)),
        st.tuples(st.just("unpin"), st.integers(0, 1), st.integers(0, 9)),
        st.tuples(st.sampled_from(["follow", "restart"]), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 1), st.integers(1, 60)),
    ),
    max_size=20,
)


@settings(max_examples=30)
@given(STEPS)
def test_two_nodes_come_to_agree(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is pinned and unpinned at either, and whenever they look: in the end both have the same pins, each as
    often as it was pinned and not unpinned, and nothing comes back."""
    with TemporaryDirectory() as folder:
        pair = Pair(Path(folder))
        for what, at, number in steps:
            if what == "pin":
                pair.pin(at, number)
            elif what == "unpin":
                pair.unpin(at, number)
            elif what == "follow":
                pair.follow(at)
            elif what == "restart":
                pair.restart(at)
            else:
                pair.now += number
        pair.settle()
        assert pair.roots(0) == pair.roots(1)
        # Each pin is one's own at one of the two, and followed at the other: no echo.
        assert pair.own(0) + pair.own(1) == len(pair.roots(0))
        settled = pair.roots(0)
        pair.settle()
        assert pair.roots(0) == pair.roots(1) == settled
        for side in pair.sides:
            side.store.close()


def test_what_is_unpinned_at_either_goes_at_both(tmp_path: Path) -> None:
    """After the time of grace, and not before it: where it was pinned, and where it was followed."""
    for at in (0, 1):
        pair = Pair(tmp_path / str(at))
        pair.pin(0, 1)
        pair.pin(0, 2)
        pair.follow(1)
        assert len(pair.roots(1)) == 2
        pair.unpin(at, 0)
        pair.follow(1)
        pair.follow(0)
        assert sorted((len(pair.roots(0)), len(pair.roots(1)))) == [1, 2]
        pair.now += pair.GRACE / 2
        pair.follow(1)
        pair.follow(0)
        assert sorted((len(pair.roots(0)), len(pair.roots(1)))) == [1, 2]
        pair.settle()
        assert len(pair.roots(0)) == len(pair.roots(1)) == 1
        assert pair.roots(0) == pair.roots(1)


def test_a_node_that_lost_its_list_gets_it_back(tmp_path: Path) -> None:
    """A list that is new has another ID: nothing is deleted at the other one, which gives back what it followed."""
    pair = Pair(tmp_path)
    for number in range(5):
        pair.pin(0, number)
    pair.settle()
    pair.sides[0].store.close()
    for path in tmp_path.glob("a.sqlite*"):
        path.unlink()
    pair.sides[0] = pair.open("a")
    pair.settle()
    assert len(pair.roots(0)) == len(pair.roots(1)) == 5


def test_tokens_that_are_handed_on(tmp_path: Path) -> None:
    """They are good at both, unless there is one of that name; they end where they were made; and do not come back."""
    pair = Pair(tmp_path)
    a, b = (side.store for side in pair.sides)
    made = a.add_token("bob", 5000)
    follower = a.add_token("b-node")
    assert made is not None
    assert follower is not None
    number = next(each.id for each in a.tokens() if each.name == "b-node")
    a.following.allow(number, tokens=True)
    assert {each.name for each in a.following.tokens()} == {"alice", "bob"}
    b.following.begin("http://a", a.following.list_id)
    b.following.take_tokens(a.following.list_id, a.following.tokens(), a.following.accounts())
    found = b.token(made[0])
    assert found is not None
    assert (found.name, found.quota) == ("bob", 5000)
    assert {each.name for each in b.following.tokens()} == {"alice"}
    assert b.token(follower[0]) is None
    a.remove_token("bob")
    b.following.take_tokens(a.following.list_id, a.following.tokens(), a.following.accounts())
    assert b.token(made[0]) is None
    # The number of a token that was taken away is another one's later, who may no more than pin.
    a.remove_token("b-node")
    again = a.add_token("carol")
    assert again is not None
    carol = a.token(again[0])
    assert carol is not None
    assert a.following.rights(carol.id) is None


def test_members_have_one_quota_at_a_node_that_follows(tmp_path: Path) -> None:
    """It is for all their computers, as where they registered them; accounts of two nodes are never taken for one."""
    there, here = (PinStore(tmp_path / f"{name}.sqlite") for name in ("there", "here"))
    for name in ("client:rig", "client:laptop"):
        there.grant(name, hash_of(name), "member:ada", 100)
    there.owner("member:ada", "member:ada", 100)
    here.grant("client:other", hash_of("client:other"), "member:ada", 100)
    here.following.begin("http://there", there.following.list_id)

    def take() -> None:
        here.following.take_tokens(there.following.list_id, there.following.tokens(), there.following.accounts())

    def adds(token: str, number: int, size: int) -> bool:
        owner = here.token(token)
        assert owner is not None
        with contextlib.suppress(Refusal):
            return here.add(owner, PinObject(CID.parse(nowhere(number)), nowhere(number)), size) is not None
        return False

    take()
    assert adds("client:other", 1, 100)
    assert adds("client:rig", 2, 60)
    assert not adds("client:laptop", 3, 60)
    assert adds("client:laptop", 3, 40)
    # What they have put onto the page there counts for them here.
    here.following.take(
        "http://there",
        there.following.list_id,
        [RemotePin("r", "member:ada", PinObject(CID.parse(nowhere(4)), nowhere(4)), 1)],
        None,
    )
    take()
    accounts = {each.name: each.account for each in here.tokens()}
    assert accounts["member:ada"] == accounts["client:rig"] == accounts["client:laptop"]
    assert accounts["client:other"] == "member:ada"
    # They are not handed on, and nothing changes where nothing has changed there; a quota that has, does.
    assert here.following.accounts() == {"client:other": "member:ada"}
    there.set_quota("member:ada", 200)
    take()
    assert adds("client:rig", 5, 60)


# --- what another node may answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"count": "1", "results": []}',
        b'{"count": 1, "results": [1]}',
        b'{"count": 1, "results": [{"requestid": "r", "pin": {}, "info": {}, "delegates": [], "created": "never"}]}',
        b'{"count": 1, "results": [{"requestid": 5, "pin": {}, "info": {}, "delegates": [], "created": '
        b'"2026-01-01T00:00:00Z"}]}',
        b'{"count": 1, "results": [' + b"{}," * 60 + b"{}]}",
    ],
)
def test_pages_that_are_none(body: bytes) -> None:
    """Whatever stands in the place of a page is an error in words."""
    with pytest.raises(NotFollowed):
        read_page(body)


def test_pins_that_cannot_be_pinned_are_passed_over() -> None:
    """A CID that is not known here: the others of the page are taken, and origins that are none are left out."""
    rest = '"info": {"owner": "alice"}, "delegates": ["/ip4/127.0.0.1/tcp/1"], "created": "2026-01-01T00:00:00Z"'
    page = read_page(
        (
            '{"count": 3, "results": ['
            f'{{"requestid": "1", "pin": {{"cid": "nonsense"}}, {rest}}},'
            f'{{"requestid": "2", "pin": {{"cid": "bafkqaaa", "origins": 5}}, {rest}}},'
            f'{{"requestid": "3", "pin": {{"cid": "bafkqaaa"}}, {rest}}}]}}'
        ).encode()
    )
    assert [pin.request_id for pin in page.pins] == ["2", "3"]
    assert page.pins[1].wanted.origins == ("/ip4/127.0.0.1/tcp/1",)
    assert len(page.created) == 3


@pytest.mark.parametrize(
    "body",
    [
        b'{"list": "", "deleted": []}',
        b'{"list": "x", "deleted": [[0, "r"]]}',
        b'{"list": "x", "deleted": [], "tokens": [{"name": "n", "hash": "zz", "quota": null}]}',
        b'{"list": "x", "deleted": [], "tokens": [], "accounts": ["n"]}',
        b'{"list": "x", "deleted": [], "tokens": [], "accounts": {"n": 5}}',
        b'{"list": "x", "deleted": [], "tokens": [], "accounts": {"n": ""}}',
        b'{"list": "x", "deleted": [], "tokens": [{"name": "", "hash": "' + b"0" * 64 + b'", "quota": 1}]}',
    ],
)
def test_facts_that_are_none(body: bytes) -> None:
    """The same of what it says of itself."""
    with pytest.raises(NotFollowed):
        read_facts(body)


def test_facts() -> None:
    """The ID of its list, what was deleted there, tokens."""
    digits = hash_of("secret").hex()
    facts = read_facts(
        f'{{"list": "x", "deleted": [[3, "r"]], "tokens": [{{"name": "n", "hash": "{digits}", "quota": 7}}], '
        '"accounts": {"n": "member:ada"}}'.encode()
    )
    assert facts.accounts == {"n": "member:ada"}
    assert read_facts(b'{"list": "x", "deleted": [], "tokens": []}').accounts == {}
    assert facts.deleted == ((3, "r"),)
    assert facts.tokens == (RemoteToken("n", hash_of("secret"), 7),)
