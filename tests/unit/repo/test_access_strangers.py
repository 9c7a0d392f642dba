"""What a stranger makes of CIDs that he has heard of opens nothing to him."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.access.audience import PRIVATE, PUBLIC
from kachery_p2p.dag.cid import CID
from kachery_p2p.repo import Repo
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=3)
SECRET, OTHER = random.Random(1).randbytes(9_500), random.Random(2).randbytes(3_000)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def strangers_folder(tmp_path: Path) -> tuple[CID, dict[bytes, bytes], set[bytes]]:
    """A folder that links to a file that its maker need not have; its nodes, and the blocks of that file."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "bait").write_bytes(OTHER)
    with Repo.open(tmp_path / "there") as there:
        theirs = set(there.all_multihashes())
        there.store_bytes(SECRET, profile=TINY)
        secret = set(there.all_multihashes()) - theirs
        (folder / "secret").write_bytes(SECRET)
        root = there.store_directory(folder, profile=TINY).cid
        return root, there.get_blocks(sorted(set(there.all_multihashes()) - secret)), secret


@pytest.mark.parametrize("claimed", [False, True])
def test_a_loaded_folder_gives_nobody_what_was_restricted(repo: Repo, tmp_path: Path, claimed: bool) -> None:
    """It is whole here, for the file was here already. That file stays for whom it is; the rest is for everyone."""
    root, theirs, secret = strangers_folder(tmp_path)
    repo.store_bytes(SECRET, profile=TINY, audience=PRIVATE)
    bait = repo.store_bytes(OTHER, profile=TINY)
    nodes = [(CID(1, 0x70, multihash), block) for multihash, block in theirs.items() if not repo.has_block(multihash)]
    if claimed:
        with repo.access.claim(PUBLIC) as claim:
            repo.put_blocks(nodes, claim)
            repo.keep_directory(root, None, claim)
            claim.keep(root)
    else:
        repo.put_blocks(nodes)
        repo.keep_directory(root)
    assert repo.inventory.get(root) is not None
    assert set(repo.access.audiences(secret)) == secret
    everyones = {bait.cid.multihash, *(cid.multihash for cid, _ in nodes)}
    assert not set(repo.access.audiences(everyones)) & everyones


def test_it_stays_so_over_a_lost_catalog(repo: Repo, tmp_path: Path) -> None:
    """What was loaded is told from what was stored when everything is brought back, too."""
    root, theirs, secret = strangers_folder(tmp_path)
    repo.store_bytes(SECRET, profile=TINY, audience=PRIVATE)
    repo.store_bytes(OTHER, profile=TINY)
    repo.put_blocks([(CID(1, 0x70, each), block) for each, block in theirs.items() if not repo.has_block(each)])
    repo.keep_directory(root)
    directory = repo.directory
    repo.close()
    for each in directory.glob("catalog.sqlite*"):
        each.unlink()
    Repo.rebuild(directory)
    with Repo.open(directory) as again:
        assert again.inventory.get(root) is not None
        assert set(again.access.audiences(secret)) == secret


def test_what_the_user_stores_is_for_everyone(repo: Repo, tmp_path: Path) -> None:
    """He may give away what is his: the same folder, stored by himself, opens the file."""
    _, _, secret = strangers_folder(tmp_path)
    repo.store_bytes(SECRET, profile=TINY, audience=PRIVATE)
    repo.store_directory(tmp_path / "folder", profile=TINY)
    assert not repo.access.audiences(secret)
