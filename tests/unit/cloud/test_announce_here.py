"""Only what is here, and whole, is announced: what the repo says of it, and the node."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound
from kachery_p2p.node.messages import AnnounceRequest
from kachery_p2p.node.node import Node
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo

ABSENT = CID.parse("bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu")


def test_the_repo_knows_what_is_whole(tmp_path: Path) -> None:
    """Files and directories that were stored are; a block of one, a directory of which only the list is here, and what
    was removed are not."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a file in a folder")
    with Repo.open(tmp_path / "one") as repo, Repo.open(tmp_path / "two") as other:
        large = repo.store_bytes(bytes(3_000_000)).cid
        small = repo.store_bytes(b"small").cid
        top = repo.store_directory(folder).cid
        known = [large.multihash, small.multihash, top.multihash]
        leaf = next(each for each in repo.all_multihashes() if each not in set(repo.roots()))
        asked = [*known, leaf, ABSENT.multihash] * 150
        assert repo.roots_among(asked) == set(known)
        assert repo.roots_among([]) == set()
        repo.remove(small)
        assert repo.roots_among(known) == {large.multihash, top.multihash}

        block = repo.get_block(top.multihash)
        assert block is not None
        other.put_blocks([(top, block)])
        assert other.has_block(top.multihash) is not None
        assert other.roots_among([top.multihash]) == set()


async def test_the_node_announces_nothing_that_is_not_here(tmp_path: Path) -> None:
    """It says so, and what to do, where it was asked to; and drops it, where it was told that it had come."""
    identity = load_or_create_identity(tmp_path)
    with Repo.open(tmp_path) as repo:
        here = repo.store_bytes(b"something").cid
        node = Node(repo, identity, listen=["/ip4/127.0.0.1/tcp/0"])
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            with pytest.raises(ContentNotFound, match=r"not on this machine, or not all of it.*kachery-cloud-load"):
                await node.announce(AnnounceRequest(ABSENT, 5))
            assert (await node.announce(AnnounceRequest(here, 0.1))).copies == 0
            await node.notify_stored([ABSENT])
            nursery.cancel_scope.cancel()
