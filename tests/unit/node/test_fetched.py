"""Who fetched what: summed up, a bounded number of lines, and noted as used."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.node.fetched import MAX_LINES, Fetch, Fetched, lines_of
from kachery_p2p.repo import Repo
from kachery_p2p.repo.kept_rows import LOADED
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=4)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def used(repo: Repo) -> list[float]:
    return [row[0] for row in repo._catalog.all("SELECT used FROM kept ORDER BY added")]


async def test_what_peers_get_is_named_by_its_root(repo: Repo, caplog: pytest.LogCaptureFixture) -> None:
    """By the root itself, by any leaf, and inner nodes by what the peer got before; the most first."""
    file = repo.store_bytes(random.Random(1).randbytes(9_500), profile=TINY).cid
    value = repo.store_value(b"small").cid
    leaf = repo._catalog.one("SELECT multihash FROM leaves LIMIT 1")[0]
    fetched = Fetched(repo)
    fetched.sent("a", file.multihash, 1, 100)
    fetched.sent("a", leaf, 3, 3_000)
    fetched.sent("a", b"\x12\x20" + bytes(32), 1, 50)
    fetched.sent("b", value.multihash, 1, 5)
    with caplog.at_level(logging.INFO, logger="kachery_p2p"):
        found = await fetched.look()
    assert found == [Fetch("a", file, 5, 3_150), Fetch("b", value, 1, 5)]
    assert [record.__dict__["fields"]["root"] for record in caplog.records] == [str(file), str(value)]
    assert (fetched.blocks, fetched.bytes) == (6, 3_155)
    assert await fetched.look() == []


async def test_what_is_served_counts_as_used(repo: Repo) -> None:
    """A folder by its root; and no more than once in a quarter of an hour is written."""
    now = [time.time()]
    cid = repo.store_bytes(random.Random(1).randbytes(9_500), profile=TINY).cid
    with repo._catalog.write() as db:
        db.execute("UPDATE kept SET how = ?, used = 1000", (LOADED,))
    fetched = Fetched(repo, wall=lambda: now[0])
    fetched.sent("a", cid.multihash, 1, 100)
    await fetched.look()
    first = now[0]
    assert used(repo) == [first]
    now[0] += 600
    fetched.sent("a", cid.multihash, 1, 100)
    await fetched.look()
    assert used(repo) == [first]
    now[0] += 600
    fetched.sent("a", cid.multihash, 1, 100)
    await fetched.look()
    assert used(repo) == [now[0]]


async def test_a_crowd_is_counted_without_growing(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound blocks, and then peers, are not told apart; no byte is lost."""
    from kachery_p2p.node import fetched as module

    monkeypatch.setattr(module, "MAX_PENDING", 10)
    fetched = Fetched(repo)
    for number in range(100):
        fetched.sent(f"peer {number}", b"\x12\x20" + bytes([number]) * 32, 1, 7)
    assert len(fetched._pending) <= 21
    assert sum(each.bytes for each in await fetched.look()) == 700


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1 << 40)), max_size=200))
def test_the_lines_are_few_and_their_bytes_are_all(rows: list[tuple[int, int]]) -> None:
    """However many peers there are."""
    lines = lines_of([Fetch(f"p{peer}", None, 1, size) for peer, size in rows])
    assert len(lines) <= MAX_LINES + 1
    assert sum(int(str(fields["bytes"])) for _, fields in lines) == sum(size for _, size in rows)
