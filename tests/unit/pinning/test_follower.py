"""Two services that follow each other over real HTTP, in one process: pins, deletions, and those that are away."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from kachery_p2p.pinning.follow.follower import Follower, FollowPace
from kachery_p2p.pinning.server.store import hash_of
from tests.helpers.patience import until
from tests.helpers.pin_server import Served, origin, pinning

FAST = FollowPace(look=0.02, whole=0.05, grace=0.5, first=0.02, last=0.05)
#: What is gone there is kept here for as long as a test lasts.
KEEPING = FollowPace(look=0.02, whole=0.05, grace=3600.0, first=0.02, last=0.05)


def _follow_token(served: Served, *, tokens: bool = False) -> str:
    made = served.store.add_token("the other node")
    assert made is not None
    number = next(each.id for each in served.store.tokens() if each.name == "the other node")
    served.store.following.allow(number, tokens=tokens)
    return made[0]


@contextlib.asynccontextmanager
async def both(folder: Path, pace: FollowPace) -> AsyncIterator[tuple[Served, Served, list[Follower]]]:
    """Two services that follow each other as long as this lasts."""
    async with pinning(folder / "a") as a, pinning(folder / "b") as b, trio.open_nursery() as nursery:
        tokens = [_follow_token(each) for each in (a, b)]
        followers = [
            Follower(b.store, b.server.queue, {a.server.url: tokens[0]}, pace),
            Follower(a.store, a.server.queue, {b.server.url: tokens[1]}, pace),
        ]
        for each in followers:
            await nursery.start(each.run)
        yield a, b, followers
        nursery.cancel_scope.cancel()


def _has(served: Served, *cids: str) -> Callable[[], bool]:
    """Whether alice has these pinned there, and no others."""

    def look() -> bool:
        rows = served.store.listing.page(1000)
        return sorted(row.pin.cid for row in rows if row.pin.status == "pinned" and row.owner == "alice") == sorted(
            cids
        )

    return look


async def test_what_is_pinned_and_unpinned_at_either(tmp_path: Path) -> None:
    """It comes to both, with its name and metadata; and goes from both, wherever it is deleted. The data goes, too."""
    async with both(tmp_path, FAST) as (a, b, _), origin(tmp_path / "origin") as theirs:
        first, second = await theirs.store(b"first" * 5000), await theirs.store(b"second" * 5000)
        made = await a.pin(first, name="one", meta={"app": "test"}, origins=[theirs.addr])
        other = await b.pin(second, origins=[theirs.addr])
        for each in (a, b):
            await until(_has(each, first, second))
        (copy,) = [row for row in b.store.listing.page(10) if row.pin.cid == first]
        assert (copy.pin.name, dict(copy.pin.meta)) == ("one", {"app": "test"})
        assert copy.pin.request_id != made
        # Deleted where it was followed, and where it was made.
        assert (await b.clients["alice"].delete(f"/pins/{copy.pin.request_id}")).status_code == 202
        for each in (a, b):
            await until(_has(each, second))
        assert (await b.clients["alice"].delete(f"/pins/{other}")).status_code == 202
        for each in (a, b):
            await until(_has(each))
            await until(lambda each=each: not each.node.repo.inventory.pinned_keys())


async def test_it_stays_during_the_time_of_grace(tmp_path: Path) -> None:
    """What is gone there is known to be missing, and is kept."""
    async with both(tmp_path, KEEPING) as (a, b, followers), origin(tmp_path / "origin") as theirs:
        cid = await theirs.store(b"first" * 5000)
        made = await a.pin(cid, origins=[theirs.addr])
        await until(_has(b, cid))
        assert (await a.clients["alice"].delete(f"/pins/{made}")).status_code == 202
        state = followers[0].states[a.server.url]
        await until(lambda: state.missing == 1)
        assert _has(b, cid)()
        # Pinned again meanwhile, it is another pin; the old one still goes by itself.
        await a.pin(cid, origins=[theirs.addr])
        await until(_has(b, cid, cid))


async def test_one_that_is_away_or_refuses(tmp_path: Path) -> None:
    """It is said why, once; and following goes on when it is back."""
    async with pinning(tmp_path / "b") as b, trio.open_nursery() as nursery:
        async with pinning(tmp_path / "a") as a:
            token, url = _follow_token(a), a.server.url
            wrong = Follower(b.store, b.server.queue, {url: "wrong", b.server.url: _follow_token(b)}, FAST)
            await nursery.start(wrong.run)
            await until(lambda: "401" in wrong.states[url].problem)
            await until(lambda: "this node itself" in wrong.states[b.server.url].problem)
            right = Follower(b.store, b.server.queue, {url: token}, FAST)
            await nursery.start(right.run)
            await until(lambda: right.states[url].looked and not right.states[url].problem)
        await until(lambda: right.states[url].problem)
        nursery.cancel_scope.cancel()


async def test_members_have_one_quota_over_there(tmp_path: Path) -> None:
    """A node that is given the tokens is told whose they are, too."""
    async with pinning(tmp_path / "a") as a, pinning(tmp_path / "b") as b, trio.open_nursery() as nursery:
        for name in ("client:rig", "client:laptop"):
            a.store.grant(name, hash_of(name), "member:ada", 100)
        token = _follow_token(a, tokens=True)
        await nursery.start(Follower(b.store, b.server.queue, {a.server.url: token}, FAST).run)
        await until(lambda: b.store.token("client:laptop") is not None)
        found = [b.store.token(name) for name in ("client:rig", "client:laptop")]
        assert [each.account for each in found if each] == [f"list {a.store.following.list_id} member:ada"] * 2
        nursery.cancel_scope.cancel()
