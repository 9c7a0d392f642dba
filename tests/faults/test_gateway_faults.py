"""Gateways that lie, stall, preach to browsers, limit or break off: whole nodes against real servers on loopback.

One honest gateway among them is enough for any load, and no byte that was not checked gets into a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound
from kachery_p2p.gateway.client import limits
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.node.node import Node
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from scripts.data import sha256_of, write_random
from scripts.workstation import LISTEN
from tests.helpers import gateway_fakes as fakes
from tests.helpers.gateway_fakes import Answer, Asked
from tests.helpers.patience import PATIENCE

MIB = 1 << 20
SIZE = 30 * MIB + 17
Behave = Callable[[Answer, Asked], None]


class Stored:
    def __init__(self, folder: Path) -> None:
        self.repo = Repo.open(folder / "theirs")
        self.source = write_random(folder / "source.dat", SIZE, seed=30)
        self.sha256 = sha256_of(self.source)
        self.cid = str(self.repo.store_file(self.source).cid)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return Stored(tmp_path_factory.mktemp("stored"))


@contextlib.asynccontextmanager
async def node_with(folder: Path, *urls: str) -> AsyncIterator[Node]:
    folder.mkdir(exist_ok=True)
    options = NodeOptions(gateways=urls)
    node = Node(Repo.open(folder), load_or_create_identity(folder), listen=[LISTEN], options=options)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        yield node
        nursery.cancel_scope.cancel()


# --- how they misbehave ---------------------------------------------------------------------------------------------


def says(status: int, kind: str = "text/plain", body: bytes = b"no", **headers: str) -> Callable[[Stored], Behave]:
    return lambda stored: lambda answer, asked: answer.send(status, body, kind, **headers)


def turns_liar(stored: Stored) -> Behave:
    """Good for three blocks, then one byte is wrong in each."""
    good, bad = fakes.honest(stored.repo, car=False), fakes.liar(stored.repo)
    served: list[None] = []

    def behave(answer: Answer, asked: Asked) -> None:
        served.append(None)
        (good if len(served) <= 4 else bad)(answer, asked)

    return behave


def page_called_block(stored: Stored) -> Behave:
    """HTML that says it is what was asked for."""
    return lambda answer, asked: answer.send(200, b"<html>welcome</html>", fakes.CAR if asked.car else fakes.RAW)


def endless(stored: Stored) -> Behave:
    """A body without a length and without an end."""

    def behave(answer: Answer, asked: Asked) -> None:
        answer.send_response(200)
        answer.send_header("content-type", fakes.RAW)
        answer.send_header("transfer-encoding", "chunked")
        answer.end_headers()
        while not answer.gateway.gone.is_set():
            answer.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    return behave


def breaks_off(stored: Stored) -> Behave:
    """Half of each block, and the connection is closed."""

    def behave(answer: Answer, asked: Asked) -> None:
        block = stored.repo.get_block(asked.cid.multihash) if asked.cid else None
        assert block is not None
        answer.send_response(200)
        answer.send_header("content-type", fakes.CAR if asked.car else fakes.RAW)
        answer.send_header("content-length", str(len(block)))
        answer.end_headers()
        answer.wfile.write(block[: len(block) // 2])
        answer.close_connection = True

    return behave


def drips(stored: Stored) -> Behave:
    """A byte now and then, so that the connection is never silent."""

    def behave(answer: Answer, asked: Asked) -> None:
        answer.send_response(200)
        answer.send_header("content-type", fakes.CAR if asked.car else fakes.RAW)
        answer.send_header("content-length", "1000000")
        answer.end_headers()
        while not answer.gateway.gone.wait(0.1):
            answer.wfile.write(b"\0")

    return behave


def not_http(stored: Stored) -> Behave:
    def behave(answer: Answer, asked: Asked) -> None:
        answer.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n" * 100)
        answer.close_connection = True

    return behave


def goes_round(stored: Stored) -> Behave:
    """Sends us from one path to the next, all of them to the same block."""
    return lambda answer, asked: answer.send(302, location=f"/x/{len(answer.gateway.requests)}/ipfs/{asked.cid}")


PAST = "Sat, 01 Aug 2026 00:00:00 GMT"
FAULTS: dict[str, Callable[[Stored], Behave]] = {
    "liar": lambda stored: fakes.liar(stored.repo),
    "turns liar": turns_liar,
    "page called block": page_called_block,
    "endless": endless,
    "staller": lambda stored: fakes.staller,
    "silent": lambda stored: fakes.silent,
    "drips": drips,
    "breaks off": breaks_off,
    "not HTTP": not_http,
    "page": lambda stored: fakes.page,
    "limiter": lambda stored: fakes.limiter,
    "404": says(404),
    "410": says(410),
    "451": says(451),
    "ended": says(410, sunset=PAST),
    "401": says(401),
    "403": says(403),
    "500": says(500),
    "502": says(502),
    "503": says(503),
    "504": says(504),
    "busy until": says(503, retry_after="Mon, 01 Jan 2125 00:00:00 GMT"),
    "sends on to a page": says(302, location="https://browser.invalid/ipfs/welcome.html"),
    "goes round": goes_round,
    "compressed": says(200, fakes.RAW, b"\x1f\x8b", content_encoding="gzip"),
    "another type": says(200, "application/json", b"{}"),
    "empty": says(200, fakes.RAW, b""),
    "too long": says(200, fakes.RAW, bytes(2 * MIB + 1)),
    "CAR of nothing": says(200, fakes.CAR, b""),
}
#: Those that are not asked a second time whatever happens: they sent something else than was asked for.
LIARS = ("liar", "turns liar", "endless", "empty", "page called block")


# --- one honest gateway -----------------------------------------------------------------------------------------------


async def test_one_honest_gateway_among_all_others(stored: Stored, tmp_path: Path) -> None:
    """The load succeeds beside liars, stallers, HTML-answerers and rate-limiters; the liar is dropped after one block
    for as long as the node runs, and of what it sent nothing is in the file."""
    others = (fakes.liar(stored.repo), fakes.staller, fakes.silent, fakes.page, fakes.limiter, turns_liar(stored))
    with contextlib.ExitStack() as stack:
        bad = [stack.enter_context(fakes.serving(behave)) for behave in others]
        honest = stack.enter_context(fakes.serving(fakes.honest(stored.repo)))
        async with node_with(tmp_path / "ours", *(gateway.url for gateway in bad), honest.url) as node:
            with trio.fail_after(PATIENCE):
                result = await node.load(LoadRequest(CID.parse(stored.cid)))
            liar, turned = bad[0], bad[5]
            status = node.status().gateways
            asked = len(liar.requests), len(turned.requests)
            other = stored.repo.store_file(write_random(tmp_path / "other.dat", 5 * MIB, seed=3)).cid
            again = await node.load(LoadRequest(other))
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert sha256_of(Path(again.path or "")) == sha256_of(tmp_path / "other.dat")
    assert status[liar.name].dropped
    assert (len(liar.requests), len(turned.requests)) == asked
    assert asked[0] == 1
    assert result.sources[honest.name] >= 0.8 * SIZE
    assert result.sources.keys() <= {honest.name, liar.name, turned.name}


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_honest_gateway_beside(stored: Stored, tmp_path: Path, fault: str) -> None:
    """Whatever is wrong with the other gateway costs a moment, and nothing of the file."""
    with (
        fakes.serving(FAULTS[fault](stored)) as bad,
        fakes.serving(fakes.honest(stored.repo, delay=0.02)) as honest,
    ):
        async with node_with(tmp_path / "ours", bad.url, honest.url) as node:
            with trio.fail_after(PATIENCE):
                result = await node.load(LoadRequest(CID.parse(stored.cid)))
            status = node.status().gateways[bad.name]
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert bool(status.dropped) == (fault in LIARS)
    assert len(bad.requests) <= 30


async def test_an_honest_gateway_beside_a_closed_port(
    stored: Stored, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """A gateway that is down costs a moment."""
    with fakes.serving(fakes.honest(stored.repo)) as honest:
        async with node_with(tmp_path / "ours", f"http://127.0.0.1:{free_port()}", honest.url) as node:
            with trio.fail_after(PATIENCE):
                result = await node.load(LoadRequest(CID.parse(stored.cid)))
    assert sha256_of(Path(result.path or "")) == stored.sha256


# --- none ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_honest_gateway(stored: Stored, tmp_path: Path, fault: str) -> None:
    """The load fails, says which gateway said what, and what was sent is in no file."""
    with fakes.serving(FAULTS[fault](stored)) as bad:
        async with node_with(tmp_path / "ours", bad.url) as node:
            with trio.fail_after(PATIENCE), pytest.raises(ContentNotFound) as error:
                await node.load(LoadRequest(CID.parse(stored.cid), timeout=2.0))
    assert bad.name.removeprefix("gateway:") in str(error.value)
    assert len(bad.requests) <= 40
    truth = stored.source.read_bytes()
    for path in (tmp_path / "ours" / "ipfs").rglob("*"):
        if path.is_file():
            there = path.read_bytes()
            wrong = [i for i in range(0, len(there), MIB) if there[i : i + MIB].strip(b"\0")]
            assert all(there[i : i + MIB] == truth[i : i + MIB] for i in wrong)


async def test_a_lie_of_one_byte_at_the_end_of_the_file_is_found(stored: Stored, tmp_path: Path) -> None:
    """Where the only gateway changes one byte of one block, everything else arrives and the load fails on that one."""
    last = list(stored.repo.all_multihashes())[-1]
    good, bad = fakes.honest(stored.repo, car=False), fakes.liar(stored.repo)

    def behave(answer: Answer, asked: Asked) -> None:
        (bad if asked.cid is not None and asked.cid.multihash == last else good)(answer, asked)

    with fakes.serving(behave) as gateway:
        async with node_with(tmp_path / "ours", gateway.url) as node:
            with trio.fail_after(PATIENCE), pytest.raises(ContentNotFound, match="than its hash promises"):
                await node.load(LoadRequest(CID.parse(stored.cid), timeout=PATIENCE))
            assert node.status().gateways[gateway.name].dropped


async def test_a_gateway_that_limits_is_waited_for_when_it_says_soon(stored: Stored, tmp_path: Path) -> None:
    """Retry-After of a second is waited for where nobody else has the data; it is not asked meanwhile."""
    good = fakes.honest(stored.repo)
    limited: list[float] = []

    def behave(answer: Answer, asked: Asked) -> None:
        if len(limited) < 2:
            limited.append(1)
            answer.send(429, b"slow down", "text/plain", retry_after="1")
        else:
            good(answer, asked)

    with fakes.serving(behave) as gateway:
        async with node_with(tmp_path / "ours", gateway.url) as node:
            with trio.fail_after(PATIENCE):
                result = await node.load(LoadRequest(CID.parse(stored.cid)))
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert result.seconds >= 1.0


async def test_a_stalled_block_is_fetched_from_another_gateway(stored: Stored, tmp_path: Path) -> None:
    """A gateway that stalls now and then loses those blocks to the others, and the load is not as slow as it is."""
    good = fakes.honest(stored.repo, delay=0.02)

    def behave(answer: Answer, asked: Asked) -> None:
        (fakes.silent if len(answer.gateway.requests) % 5 == 0 else good)(answer, asked)

    with fakes.serving(behave) as lame, fakes.serving(fakes.honest(stored.repo, delay=0.02)) as honest:
        async with node_with(tmp_path / "ours", lame.url, honest.url) as node:
            result = await node.load(LoadRequest(CID.parse(stored.cid)))
    assert sha256_of(Path(result.path or "")) == stored.sha256
    assert result.seconds < limits.STALL_SECONDS
