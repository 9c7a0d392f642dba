"""A peer is asked who stands behind it: who is handed the proof, and answers that make no sense."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kachery_p2p.errors import KacheryError, ProtocolNotSupported
from kachery_p2p.ownership import MAX_SERVED, PROTOCOL, OwnerServer, ask_owner
from kachery_p2p.ownership_file import MAX_PROOF, PROOF_NAME
from kachery_p2p.transport.host import Host
from kachery_p2p.wire import delimited
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import started

PROOF = b'{"version": 1}'


@asynccontextmanager
async def connected(
    directory: Path, show: str = "members", is_member: Callable[[str], bool] = lambda peer: True
) -> AsyncIterator[tuple[Host, Host]]:
    """A server and an asker, over a real connection."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            server, asker = await started(nursery), await started(nursery)
            server.set_handler(PROTOCOL, OwnerServer(directory, show, is_member).handle)
            await asker.connect(server.addresses()[0])
            yield server, asker
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("show", "member", "told"),
    [
        ("members", True, PROOF),
        ("members", False, b""),
        ("everyone", False, PROOF),
        ("off", True, b""),
        ("anything else", True, b""),
    ],
)
async def test_who_is_handed_it(show: str, member: bool, told: bytes, tmp_path: Path) -> None:
    """Members of common groups by default; others get the same answer as where there is none."""
    (tmp_path / PROOF_NAME).write_bytes(PROOF)
    async with connected(tmp_path, show, lambda peer: member) as (server, asker):
        assert await ask_owner(asker, server.peer_id) == told


async def test_membership_is_that_of_who_asks(tmp_path: Path) -> None:
    """As the connection has proved it, and as it is at that moment."""
    (tmp_path / PROOF_NAME).write_bytes(PROOF)
    members: set[str] = set()
    async with connected(tmp_path, is_member=members.__contains__) as (server, asker):
        assert await ask_owner(asker, server.peer_id) == b""
        members.add(asker.peer_id)
        assert await ask_owner(asker, server.peer_id) == PROOF
        members.clear()
        assert await ask_owner(asker, server.peer_id) == b""


async def test_the_file_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    """Who signs in while a node runs is told of at once; a file that is none, or too long, is as none."""
    async with connected(tmp_path) as (server, asker):
        assert await ask_owner(asker, server.peer_id) == b""
        (tmp_path / PROOF_NAME).write_bytes(PROOF)
        assert await ask_owner(asker, server.peer_id) == PROOF
        (tmp_path / PROOF_NAME).write_bytes(b"x" * MAX_PROOF)
        assert len(await ask_owner(asker, server.peer_id)) == MAX_PROOF
        (tmp_path / PROOF_NAME).write_bytes(b"x" * (MAX_PROOF + 1))
        assert await ask_owner(asker, server.peer_id) == b""
        (tmp_path / PROOF_NAME).unlink()
        (tmp_path / PROOF_NAME).mkdir()
        assert await ask_owner(asker, server.peer_id) == b""


async def test_a_peer_that_does_not_know_the_question(tmp_path: Path) -> None:
    """Another program, or an older version."""
    async with connected(tmp_path) as (server, asker):
        server.remove_handler(PROTOCOL)
        with pytest.raises(ProtocolNotSupported):
            await ask_owner(asker, server.peer_id)


@pytest.mark.parametrize("answer", [b"\xff\xff\xff\xff\x7f", delimited(b"x" * (MAX_PROOF + 1))[:100], b"\x05ab", b""])
async def test_answers_that_make_no_sense(answer: bytes, tmp_path: Path) -> None:
    """Too long, cut off, or none: an error in a sentence, and nothing of it is kept."""
    async with connected(tmp_path) as (server, asker):

        async def say(stream: object) -> None:
            await stream.write(answer)  # type: ignore[attr-defined]
            await stream.close_write()  # type: ignore[attr-defined]

        server.set_handler(PROTOCOL, say)  # type: ignore[arg-type]
        with pytest.raises(KacheryError):
            await ask_owner(asker, server.peer_id)


async def test_many_ask_at_once(tmp_path: Path) -> None:
    """More than so many are refused, and the next one is answered when the others are."""
    (tmp_path / PROOF_NAME).write_bytes(PROOF)
    served = OwnerServer(tmp_path, "everyone", lambda peer: False)
    waiting, going_on = [], trio.Event()

    class Slow:
        peer = "12D3KooWJRSrypvnpHgc6ZAgyCni4KcSmbV7uGRaMw5LgMKT18fq"

        def __init__(self) -> None:
            self.written = b""
            self.refused = False

        async def read_exactly(self, count: int, /) -> bytearray:
            raise AssertionError("nothing is read")

        async def write(self, data: bytes, /) -> None:
            waiting.append(self)
            await going_on.wait()
            self.written = data

        async def close(self) -> None: ...

        async def reset(self) -> None:
            self.refused = True

    streams = [Slow() for _ in range(MAX_SERVED)]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(served.handle, stream)
            while len(waiting) < MAX_SERVED:
                await trio.lowlevel.checkpoint()
            late = Slow()
            await served.handle(late)
            assert late.refused
            going_on.set()
    assert [each.written for each in streams] == [delimited(PROOF)] * MAX_SERVED
    again = Slow()
    await served.handle(again)
    assert again.written == delimited(PROOF)
