"""CARs that are cut, shuffled, doubled, padded, false, refused or slow: whole nodes against real servers on loopback.

What is right is kept, nothing false is, and a gateway that cannot give CARs is asked block by block.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from kachery_p2p.bitswap import limits
from kachery_p2p.dag.car import car_header, car_section
from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.errors import ContentNotFound
from kachery_p2p.node.messages import LoadRequest
from scripts.data import sha256_of
from tests.faults.test_gateway_faults import MIB, SIZE, Stored, node_with
from tests.helpers import gateway_fakes as fakes
from tests.helpers.gateway_fakes import Answer, Asked
from tests.helpers.patience import PATIENCE


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return Stored(tmp_path_factory.mktemp("stored"))


#: What a gateway does with the blocks of a CAR before it sends them.
Change = Callable[[list[tuple[CID, bytes]]], list[tuple[CID, bytes]]]


def sections(blocks: list[tuple[CID, bytes]]) -> bytes:
    return b"".join(car_section(cid, len(data)) + data for cid, data in blocks)


def sends(repo_of: Stored, change: Change) -> fakes.Behave:
    """Honest with blocks, and with CARs that were changed."""
    honest = fakes.honest(repo_of.repo)

    def behave(answer: Answer, asked: Asked) -> None:
        if not asked.car or asked.cid is None:
            honest(answer, asked)
            return
        blocks = change(list(fakes.car_blocks(repo_of.repo, asked.cid, asked.span).items()))
        answer.send(200, car_header([asked.cid]) + sections(blocks), fakes.CAR)

    return behave


def says(repo_of: Stored, status: int, **headers: str) -> fakes.Behave:
    """Honest with blocks; to a CAR it has another answer."""
    honest = fakes.honest(repo_of.repo)

    def behave(answer: Answer, asked: Asked) -> None:
        if asked.car:
            answer.send(status, b"no", "text/plain", **headers)
        else:
            honest(answer, asked)

    return behave


def cut(repo_of: Stored) -> fakes.Behave:
    """Each CAR ends in the middle of its fifth block, and the connection with it."""
    honest = fakes.honest(repo_of.repo)

    def behave(answer: Answer, asked: Asked) -> None:
        if not asked.car or asked.cid is None:
            honest(answer, asked)
            return
        blocks = list(fakes.car_blocks(repo_of.repo, asked.cid, asked.span).items())
        whole = car_header([asked.cid]) + sections(blocks)
        part = car_header([asked.cid]) + sections(blocks[:5])
        answer.send_response(200)
        answer.send_header("content-type", fakes.CAR)
        answer.send_header("content-length", str(len(whole)))
        answer.end_headers()
        answer.wfile.write(part[: len(part) - 100] if len(blocks) > 5 else whole)
        answer.close_connection = len(blocks) > 5

    return behave


def sent_on(repo_of: Stored) -> fakes.Behave:
    """CARs are at another path of the same host."""
    honest = fakes.honest(repo_of.repo)

    def behave(answer: Answer, asked: Asked) -> None:
        if asked.car and not asked.path.startswith("/cars/"):
            answer.send(302, location=f"/cars{answer.path}")
        else:
            honest(answer, asked)

    return behave


def foreign(blocks: list[tuple[CID, bytes]]) -> list[tuple[CID, bytes]]:
    """Blocks that nobody asked for stand between the others."""
    others = [os.urandom(1000) for _ in blocks]
    between = [(CID(1, RAW, sha256_multihash(data)), data) for data in others]
    return [each for pair in zip(blocks, between, strict=True) for each in pair]


CHANGES: dict[str, Change] = {
    "backwards": lambda blocks: blocks[::-1],
    "twice": lambda blocks: [each for each in blocks for _ in range(2)],
    "foreign": foreign,
    "root alone": lambda blocks: blocks[:1],
    "without its root": lambda blocks: blocks[1:],
    "without its third": lambda blocks: blocks[:3] + blocks[4:],
}
ANSWERS: dict[str, Callable[[Stored], fakes.Behave]] = {
    **{name: lambda theirs, change=change: sends(theirs, change) for name, change in CHANGES.items()},
    "cut": cut,
    "404": lambda theirs: says(theirs, 404),
    "410": lambda theirs: says(theirs, 410),
    "406": lambda theirs: says(theirs, 406),
    "500": lambda theirs: says(theirs, 500),
    "sent on": sent_on,
}


@pytest.mark.parametrize("fault", ANSWERS)
async def test_a_file_from_a_gateway_with_odd_cars(stored: Stored, tmp_path: Path, fault: str) -> None:
    """The file arrives whole from this gateway alone; no block is counted twice, and no more is asked than block by
    block, and a little."""
    with fakes.serving(ANSWERS[fault](stored)) as gateway:
        async with node_with(tmp_path / "ours", gateway.url) as node:
            with trio.fail_after(PATIENCE):
                result = await node.load(LoadRequest(CID.parse(stored.cid)))
            status = node.status().gateways[gateway.name]
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert SIZE <= result.sources[gateway.name] <= SIZE + 64 * 1024
    assert not status.dropped
    assert len(gateway.requests) <= 31 + 20


async def test_a_gateway_that_limits_cars_is_waited_for(stored: Stored, tmp_path: Path) -> None:
    """429 is a pause for CARs as for blocks."""
    honest = fakes.honest(stored.repo)

    def behave(answer: Answer, asked: Asked) -> None:
        if len(answer.gateway.requests) == 2:
            answer.send(429, b"slow down", "text/plain", retry_after="1")
        else:
            honest(answer, asked)

    with fakes.serving(behave) as gateway:
        async with node_with(tmp_path / "ours", gateway.url) as node:
            with trio.fail_after(PATIENCE):
                result = await node.load(LoadRequest(CID.parse(stored.cid)))
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert result.seconds >= 1.0
    assert len(gateway.requests) <= 20


async def test_a_gateway_that_ignores_entity_bytes(stored: Stored, tmp_path: Path) -> None:
    """It sends all of the file each time. It is found out while little has come in vain, and is no liar."""
    honest = fakes.honest(stored.repo)

    def behave(answer: Answer, asked: Asked) -> None:
        asked.query.pop("entity-bytes", None)
        honest(answer, asked)

    root = stored.repo.get_block(CID.parse(stored.cid).multihash)
    assert root is not None
    with fakes.serving(behave) as gateway:
        async with node_with(tmp_path / "ours", gateway.url) as node:
            with trio.fail_after(PATIENCE):
                result = await node.load(LoadRequest(CID.parse(stored.cid)))
            assert not node.status().gateways[gateway.name].dropped
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert result.sources[gateway.name] == SIZE + len(root)


async def test_a_wrong_byte_in_the_middle_of_a_car(stored: Stored, tmp_path: Path) -> None:
    """What came before it is kept, nothing from it on, and the gateway is not asked again."""

    def change(blocks: list[tuple[CID, bytes]]) -> list[tuple[CID, bytes]]:
        if len(blocks) < 6:
            return blocks
        cid, data = blocks[4]
        return [*blocks[:4], (cid, data[:-1] + bytes([data[-1] ^ 1])), *blocks[5:]]

    with fakes.serving(sends(stored, change)) as gateway:
        async with node_with(tmp_path / "ours", gateway.url) as node:
            with trio.fail_after(PATIENCE), pytest.raises(ContentNotFound, match="than its hash promises"):
                await node.load(LoadRequest(CID.parse(stored.cid), timeout=PATIENCE))
            assert node.status().gateways[gateway.name].dropped
            asked = len(gateway.requests)
            with fakes.serving(fakes.honest(stored.repo)) as honest:
                async with node_with(tmp_path / "ours again", honest.url) as other:
                    result = await other.load(LoadRequest(CID.parse(stored.cid)))
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert asked == len(gateway.requests)
    truth = stored.source.read_bytes()
    (partial,) = (tmp_path / "ours" / "partial").iterdir()
    there = partial.read_bytes()
    came = [at for at in range(0, len(there), MIB) if there[at : at + MIB].strip(b"\0")]
    assert len(came) >= 3
    assert all(there[at : at + MIB] == truth[at : at + MIB] for at in came)


async def test_a_file_takes_few_requests(stored: Stored, tmp_path: Path) -> None:
    """30 MiB in a few CARs, each leaf once."""
    with fakes.serving(fakes.honest(stored.repo)) as gateway:
        async with node_with(tmp_path / "ours", gateway.url) as node:
            result = await node.load(LoadRequest(CID.parse(stored.cid)))
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert len(gateway.requests) <= 16
    root = stored.repo.get_block(CID.parse(stored.cid).multihash)
    assert root is not None
    assert result.sources == {gateway.name: SIZE + len(root)}
    spans = sorted(tuple(map(int, asked.span.split(":"))) for asked in gateway.requests if asked.span)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))
    assert max(last + 1 - first for first, last in spans) <= limits.CAR_BYTES
