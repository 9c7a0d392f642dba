"""Blocks that are read many at a time, into a buffer: the right bytes, or the slower way."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import sha256_multihash
from kachery_p2p.repo import Repo, serving
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=4)
DATA = random.Random(1).randbytes(9_500)
LEAVES = [sha256_multihash(DATA[i : i + 1000]) for i in range(0, len(DATA), 1000)]


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def read(repo: Repo, multihashes: list[bytes], room: int = 20_000) -> list[bytes | None]:
    return [
        None if each is None else bytes(each) for each in repo.read_leaves(multihashes, memoryview(bytearray(room)))
    ]


def test_leaves_in_a_row_are_one_read(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that follow each other in a file are, wherever in the list they stand; all lie side by side."""
    repo.store_bytes(DATA, profile=TINY)
    reads: list[tuple[int, int]] = []
    real = serving.read_at

    def counted(fd: int, buffer: memoryview, offset: int) -> int:
        reads.append((offset, len(buffer)))
        return real(fd, buffer, offset)

    monkeypatch.setattr(serving, "read_at", counted)
    asked = [LEAVES[n] for n in (2, 3, 4, 9, 0, 1)]
    assert read(repo, asked) == [DATA[n * 1000 : n * 1000 + 1000] for n in (2, 3, 4, 9, 0, 1)]
    assert reads == [(2000, 3000), (9000, 500), (0, 2000)]


def test_what_has_no_room_is_left_out(repo: Repo) -> None:
    """And what has room behind it is read all the same."""
    repo.store_bytes(DATA, profile=TINY)
    assert read(repo, [LEAVES[0], LEAVES[5], LEAVES[9]], 1_600) == [DATA[:1000], None, DATA[9000:]]
    assert read(repo, LEAVES, 0) == [None] * 10


def test_what_is_no_plain_leaf_is_left_to_the_slower_way(repo: Repo) -> None:
    """Inner nodes, leaves in a wrap, identity CIDs and blocks that are not here."""
    plain = repo.store_bytes(DATA, profile=TINY)
    wrapped = repo.store_bytes(DATA[:900], profile=custom_profile("unixfs-v0-2015", chunk_size=1000, width=4))
    others = [plain.cid.multihash, wrapped.cid.multihash, b"\x00\x05hello", sha256_multihash(b"unknown")]
    assert read(repo, [LEAVES[0], *others, LEAVES[1]]) == [DATA[:1000], None, None, None, None, DATA[1000:2000]]
    assert repo.get_block(plain.cid.multihash) is not None


@pytest.mark.parametrize("harm", ["changed", "shorter", "gone", "replaced"])
def test_a_file_that_changed_gives_no_wrong_bytes(repo: Repo, tmp_path: Path, harm: str) -> None:
    """Changed, cut, removed or replaced under an open descriptor: none of its leaves is given out unchecked."""
    path = tmp_path / "data"
    path.write_bytes(DATA)
    repo.link_file(path, profile=TINY)
    assert read(repo, LEAVES[:2]) == [DATA[:1000], DATA[1000:2000]]
    if harm == "changed":
        path.write_bytes(b"x" * 1000 + DATA[1000:])
    elif harm == "shorter":
        os.truncate(path, 1500)
    elif harm == "gone":
        path.unlink()
    else:
        (tmp_path / "new").write_bytes(b"y" * len(DATA))
        os.replace(tmp_path / "new", path)
    assert read(repo, LEAVES[:2]) == [None, None]
    # The slower way hashes what is there.
    assert repo.get_block(LEAVES[0]) == (DATA[:1000] if harm == "shorter" else None)
