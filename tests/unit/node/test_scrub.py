"""When a node reads what it has, what it does about damage, and what it remembers."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.node.node import Node
from kachery_p2p.node.scrub import Scrub, ScrubPace
from kachery_p2p.node.scrub_state import STATE_NAME, Damaged, ScrubState, read_state, write_state
from kachery_p2p.repo import Repo
from kachery_p2p.repo.keys import new_identity
from kachery_p2p.units import DAY
from tests.helpers.profiles import custom_profile
from tests.unit.repo.test_scrubbing import flip

TINY = custom_profile(chunk_size=1000, width=4)
DATA = random.Random(1).randbytes(45_500)


# --- when -----------------------------------------------------------------------------------------------------------


@given(
    total=st.integers(1, 1 << 45),
    days=st.floats(0.001, 3650),
    share=st.floats(0, 1),
    passed=st.floats(0, 2),
)
def test_all_is_read_within_the_days(total: int, days: float, share: float, passed: float) -> None:
    """Evenly: what is due by a time is the part of all that the time is of the days, to the end."""
    pace = ScrubPace(days)
    done, seconds = int(total * share), passed * days * DAY
    wait = pace.wait(total=total, done=done, passed=seconds)
    assert 0 <= wait <= days * DAY
    if passed >= 1:
        assert wait == 0
    if wait:
        after = min(1.0, (done + min(pace.most, total)) / total)
        assert wait + seconds == pytest.approx(after * days * DAY)


def test_nothing_to_read_is_due_at_once() -> None:
    assert ScrubPace(30).wait(total=0, done=0, passed=0) == 0
    assert not ScrubPace(30).behind(total=0, done=0, passed=1e9)


def test_far_behind_it_waits_for_no_quiet_hour() -> None:
    pace = ScrubPace(10)
    assert not pace.behind(total=100, done=30, passed=5 * DAY)
    assert pace.behind(total=100, done=20, passed=5 * DAY)


# --- what is remembered ---------------------------------------------------------------------------------------------


def test_the_state_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """And read again; what cannot be read is the beginning."""
    path = tmp_path / STATE_NAME
    assert read_state(path) == ScrubState()
    state = ScrubState("packs", 7, 3, 1.5, 10, 2.5, (Damaged("bafy", "/x", "damaged", "It is.", 3.0),))
    write_state(path, state)
    write_state(path, state)
    assert read_state(path) == state
    assert [each.name for each in tmp_path.iterdir()] == [STATE_NAME]
    for text in ("", "{", '{"row": "x"}', "[1]", '{"stage": 3}'):
        path.write_text(text)
        assert read_state(path) == ScrubState()


# --- what is done ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    with Repo.open(tmp_path / "repo") as repo:
        made = Node(repo, new_identity(), listen=["/ip4/127.0.0.1/tcp/0"])
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            yield made
            nursery.cancel_scope.cancel()


async def read_all(scrub: Scrub) -> None:
    """One round."""
    scrub.set_days(1e-9)
    finished = scrub.state.finished
    while scrub.state.finished == finished:
        await scrub._turn()


async def test_a_round_over_sound_things(node: Node) -> None:
    """Everything is read once, and the end is written down."""
    node.repo.store_bytes(DATA, profile=TINY)
    node.repo.store_value(b"small")
    scrub = Scrub(node, 30)
    await read_all(scrub)
    assert scrub.bytes == scrub.state.done == node.repo.scrubber.total()
    assert scrub.state.damaged == ()
    assert read_state(node.repo.directory / STATE_NAME) == scrub.state
    assert Scrub(node, 30).state == scrub.state


async def test_damage_is_mended_from_another_peer(node: Node, tmp_path: Path) -> None:
    """The damaged copy is set aside, what is right in it is not fetched, and then nothing is wrong any more."""
    cid = node.repo.store_bytes(DATA, profile=TINY).cid
    node.repo.store_value(b"a small value" * 10)
    with Repo.open(tmp_path / "other") as repo:
        other = Node(repo, new_identity(), listen=["/ip4/127.0.0.1/tcp/0"])
        repo.store_bytes(DATA, profile=TINY)
        repo.store_value(b"a small value" * 10)
        path = node.repo.find_file(cid)
        assert path is not None
        flip(path, 20_000)
        (pack,) = (node.repo.directory / "packs").iterdir()
        flip(pack, pack.stat().st_size - 3)
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            await node.connect(other.host.addresses()[0])
            scrub = Scrub(node, 30)
            await read_all(scrub)
            await scrub._mend()
            nursery.cancel_scope.cancel()
    assert scrub.state.damaged == ()
    assert scrub.mended == 2
    assert node.exchange.stats().total.bytes_received < 3_000
    assert node.repo.verify() == []
    assert path.read_bytes() == DATA
    assert len(list((node.repo.directory / "damaged").iterdir())) == 1


async def test_a_lost_block_is_had_from_a_peer(node: Node, tmp_path: Path) -> None:
    """An inner node of a folder, which nothing on this disk tells."""
    folder = tmp_path / "folder" / "sub"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"x")
    node.repo.store_directory(tmp_path / "folder")
    with Repo.open(tmp_path / "other") as repo:
        other = Node(repo, new_identity(), listen=["/ip4/127.0.0.1/tcp/0"])
        repo.store_directory(tmp_path / "folder")
        with node.repo._catalog.write() as db:
            db.execute("UPDATE blocks SET data = x'00'")
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            await node.connect(other.host.addresses()[0])
            scrub = Scrub(node, 30)
            await read_all(scrub)
            await scrub._mend()
            nursery.cancel_scope.cancel()
    assert scrub.state.damaged == ()
    assert scrub.mended == 2
    assert node.repo.verify() == []


async def test_what_nobody_has_is_named_and_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An hour later, not before; `verify` names it, too; and when it is removed it is forgotten."""
    from kachery_p2p.node import scrub as module

    monkeypatch.setattr(module, "MEND_SILENCE", 0.2)
    now = [time.time() + 1]
    cid = node.repo.store_bytes(DATA, profile=TINY).cid
    path = node.repo.find_file(cid)
    assert path is not None
    flip(path, 20_000)
    await read_all(Scrub(node, 30))
    scrub = Scrub(node, 30, wall=lambda: now[0])
    await scrub._mend()
    (left,) = scrub.state.damaged
    assert left.cid == str(cid)
    assert left.tried
    assert [problem.cid for problem in node.repo.verify()] == [cid]
    assert "nobody was found who has what is missing" in caplog.text
    now[0] += 100
    await scrub._mend()
    assert scrub.state.damaged == (left,)
    node.repo.remove(cid)
    now[0] += 3_600
    await scrub._mend()
    assert scrub.state.damaged == ()


async def test_a_linked_file_is_the_users(node: Node, tmp_path: Path) -> None:
    """That it has changed is said; it is neither set aside nor loaded. When it is as it was, that is noticed."""
    linked = tmp_path / "linked"
    linked.write_bytes(DATA)
    node.repo.link_file(linked, profile=TINY)
    linked.write_bytes(DATA[::-1])
    now = [time.time() + 1]
    await read_all(Scrub(node, 30))
    scrub = Scrub(node, 30, wall=lambda: now[0])
    await scrub._mend()
    assert [each.what for each in scrub.state.damaged] == ["changed"]
    assert linked.read_bytes() == DATA[::-1]
    assert list((node.repo.directory / "damaged").iterdir()) == []
    linked.write_bytes(DATA)
    now[0] += 3_600
    await scrub._mend()
    assert scrub.state.damaged == ()


async def test_it_can_be_switched_off_and_on(node: Node) -> None:
    """Without days nothing is read."""
    node.repo.store_bytes(DATA, profile=TINY)
    scrub = Scrub(node, None)
    await scrub._turn()
    assert (scrub.bytes, scrub.state) == (0, ScrubState())
    await read_all(scrub)
    assert scrub.bytes > 0
