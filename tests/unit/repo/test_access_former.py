"""What was removed, and was not for everybody, is known to have been so: its CID is not asked for in public."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.access.audience import PRIVATE, PUBLIC, group_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.repo import Repo
from kachery_p2p.repo import access_leaving as module

A = group_audience(["a" * 26])


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def remove(repo: Repo, cid: CID) -> None:
    root = repo.inventory.get(cid)
    assert root is not None
    repo.removal.remove(root)


def test_for_whom_it_was(repo: Repo) -> None:
    """Of what was for some; a store without a word makes it public, as everything that is new, and then it is that."""
    some = repo.store_value(b"some", audience=A).cid
    mine = repo.store_value(b"mine", audience=PRIVATE).cid
    public = repo.store_value(b"public").cid
    assert repo.access.leaving.formerly(some.multihash) is None
    for cid in (some, mine, public):
        remove(repo, cid)
    former = [repo.access.leaving.formerly(cid.multihash) for cid in (some, mine, public)]
    assert former == [A, PRIVATE, None]
    assert repo.store_value(b"some").cid == some
    assert repo.access.leaving.formerly(some.multihash) is None
    remove(repo, some)
    assert repo.access.leaving.formerly(some.multihash) is None


def test_what_was_made_public_before(repo: Repo) -> None:
    """What the user said last counts."""
    cid = repo.store_value(b"some", audience=A).cid
    repo.access.set_audience(cid, PUBLIC)
    remove(repo, cid)
    assert repo.access.leaving.formerly(cid.multihash) is None


def test_it_is_forgotten(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some time, and the oldest first where there are too many."""
    cids = [repo.store_value(text, audience=A).cid for text in (b"one", b"two", b"three")]
    for cid in cids:
        remove(repo, cid)
    monkeypatch.setattr(module, "MAX_FORMER", 2)
    repo.access.leaving.tidy(())
    assert [repo.access.leaving.formerly(cid.multihash) for cid in cids] == [None, A, A]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + module.FORMER_SECONDS + 1)
    assert repo.access.leaving.formerly(cids[2].multihash) is None
