"""Asking a peer for whom a root is: who is told what, and questions and answers that make no sense."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.access import limits
from kachery_p2p.access.asking import PROTOCOL, AudienceServer, ask_audience, decode, encode
from kachery_p2p.access.audience import OWN, PRIVATE, PUBLIC, Audience
from kachery_p2p.access.gate import Gate
from kachery_p2p.dag.cid import sha256_multihash
from kachery_p2p.errors import MalformedMessage, StreamError
from kachery_p2p.transport.host import Host
from kachery_p2p.wire import bytes_field, delimited
from tests.helpers.access_fakes import MEN, MICE, CountingStore, Members, SaidAudiences
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import started

BLOCKS = [bytes([n]) * 100 for n in range(6)]
PUBLIC_ONE, FOR_MICE, FOR_BOTH, OWN_ONE, ABSENT, FOR_MEN = (sha256_multihash(block) for block in BLOCKS)


class Answering:
    """A server that has all but ABSENT."""

    def __init__(self) -> None:
        self.store = CountingStore([block for block in BLOCKS if sha256_multihash(block) != ABSENT])
        self.audiences = SaidAudiences()
        mice, men = Audience(groups=frozenset({MICE})), Audience(groups=frozenset({MEN}))
        self.audiences.said = {FOR_MICE: mice, FOR_MEN: men, FOR_BOTH: mice | men | PRIVATE, OWN_ONE: PRIVATE}
        self.members = Members({"mouse": {MICE}, "man": {MEN}, "laptop": {OWN, MICE}})
        self.server = AudienceServer(Gate(self.members, self.audiences), self.store)


ALL = [PUBLIC_ONE, FOR_MICE, FOR_BOTH, OWN_ONE, ABSENT, FOR_MEN]


def test_who_is_told_what() -> None:
    """Groups that both are in; of others nothing, not even that there are any."""
    a = Answering()
    assert a.server.answer("mouse", ALL) == ["public", MICE, MICE, "", "", ""]
    assert a.server.answer("man", ALL) == ["public", "", MEN, "", "", MEN]
    assert a.server.answer("laptop", ALL) == ["public", MICE, f"{MICE},{OWN}", "private", "", ""]
    assert a.server.answer("stranger", ALL) == ["public", "", "", "", "", ""]
    assert a.server.answer("mouse", []) == []


def test_the_work_is_the_same() -> None:
    """Over 10 000 questions, what is hidden and what is not here cost the store the same, and are told alike."""
    a = Answering()
    rng = random.Random(3)
    hidden, absent = [FOR_MICE, FOR_BOTH, OWN_ONE, FOR_MEN], [sha256_multihash(bytes(n)) for n in range(4)]
    work = []
    for asked in (hidden, absent):
        for _ in range(1250):
            batch = rng.sample(asked, 4)
            a.store.asked.clear()
            before = a.audiences.questions
            assert a.server.answer("stranger", batch) == [""] * 4
            work.append((asked is hidden, list(a.store.asked), a.audiences.questions - before))
    assert {str(each[1:]) for each in work if each[0]} == {str(each[1:]) for each in work if not each[0]}


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Answering, Host, Host]]:
    """A server and an asker, which is a mouse, over real connections."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            server, asker = await started(nursery), await started(nursery)
            answering = Answering()
            server.set_handler(PROTOCOL, answering.server.handle)
            answering.members.groups[asker.peer_id] = frozenset({MICE})
            await asker.connect(server.addresses()[0])
            yield answering, server, asker
            nursery.cancel_scope.cancel()


async def test_over_a_connection() -> None:
    """The answers are for the peer that the connection has proved; more than MAX_ASKED go in several questions."""
    async with connected() as (_, server, asker):
        found = await ask_audience(asker, server.peer_id, ALL)
        mice = Audience(groups=frozenset({MICE}))
        assert found == {PUBLIC_ONE: PUBLIC, FOR_MICE: mice, FOR_BOTH: mice}
        many = [sha256_multihash(n.to_bytes(4, "big")) for n in range(2 * limits.MAX_ASKED)]
        assert await ask_audience(asker, server.peer_id, [*many, PUBLIC_ONE]) == {PUBLIC_ONE: PUBLIC}
        assert await ask_audience(asker, server.peer_id, []) == {}


async def test_peers_that_do_not_know_the_question() -> None:
    """Another program, or an older version: nothing is known then. So it is of one that is not connected."""
    async with connected() as (_, server, asker):
        server.remove_handler(PROTOCOL)
        assert await ask_audience(asker, server.peer_id, ALL) is None
        assert await ask_audience(asker, "12D3KooWJRSrypvnpHgc6ZAgyCni4KcSmbV7uGRaMw5LgMKT18fq", ALL) is None


async def test_a_store_or_catalog_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is told then, and the peer goes on."""
    from kachery_p2p.errors import RepoError

    async with connected() as (answering, server, asker):

        def fails(multihashes: Sequence[bytes]) -> dict[bytes, int]:
            raise RepoError("the disk is gone")

        real, answering.store.block_sizes = answering.store.block_sizes, fails  # type: ignore[method-assign]
        assert await ask_audience(asker, server.peer_id, ALL) == {}
        answering.store.block_sizes = real  # type: ignore[method-assign]
        found = await ask_audience(asker, server.peer_id, ALL)
        assert found is not None
        assert len(found) == 3


@pytest.mark.parametrize(
    "question",
    [
        encode([b"x"] * (limits.MAX_ASKED + 1)),
        encode([b"x" * (limits.MAX_MULTIHASH + 1)]),
        delimited(b"\x08\x01"),
        delimited(b"\x0a\xff"),
        b"\xff\xff\xff\xff\x7f",
        b"\x05abc",
    ],
)
async def test_questions_that_make_no_sense(question: bytes) -> None:
    """The stream ends without an answer; the next question is answered."""
    async with connected() as (answering, server, asker):
        stream = await asker.open_stream(server.peer_id, (PROTOCOL,))
        await stream.write(question)
        await stream.close_write()
        with pytest.raises(StreamError):
            await stream.read_exactly(1)
        assert not answering.store.asked
        assert await ask_audience(asker, server.peer_id, [PUBLIC_ONE]) == {PUBLIC_ONE: PUBLIC}


@pytest.mark.parametrize(
    "answer",
    [
        encode([b"public"]),
        encode([b"public"] * 7),
        encode([b"everyone", b"", b"", b"", b"", b""]),
        encode([b"\xff", b"", b"", b"", b"", b""]),
        encode([",".join([chr(97 + n // 26) + chr(97 + n % 26) + "a" * 24 for n in range(65)]).encode(), *[b""] * 5]),
        delimited(b"\x0a\xff"),
        b"",
        b"\xff\xff\xff\xff\x7f",
    ],
)
async def test_answers_that_make_no_sense(answer: bytes) -> None:
    """They are as none."""
    async with connected() as (_, server, asker):

        async def say(stream: object) -> None:
            await stream.write(answer)  # type: ignore[attr-defined]
            await stream.close_write()  # type: ignore[attr-defined]

        server.set_handler(PROTOCOL, say)  # type: ignore[arg-type]
        assert await ask_audience(asker, server.peer_id, ALL) is None


async def test_one_peer_asks_too_much_at_once() -> None:
    """Its further streams are refused, until one of the others ends."""
    async with connected() as (_, server, asker):
        streams = [await asker.open_stream(server.peer_id, (PROTOCOL,)) for _ in range(limits.MAX_ASKING_EACH)]
        assert await ask_audience(asker, server.peer_id, [PUBLIC_ONE]) is None
        for stream in streams:
            await stream.reset()
        while await ask_audience(asker, server.peer_id, [PUBLIC_ONE]) is None:
            await trio.lowlevel.checkpoint()


@given(st.lists(st.binary(max_size=limits.MAX_MULTIHASH), max_size=limits.MAX_ASKED))
def test_messages_come_back(items: list[bytes]) -> None:
    """What is written is read again."""
    message = encode(items)
    assert len(message) <= limits.MAX_QUESTION
    body = b"".join(bytes_field(1, item) for item in items)
    assert message.endswith(body)
    assert decode(body) == items


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """They are a message or a MalformedMessage."""
    try:
        items = decode(data)
    except MalformedMessage:
        return
    assert sum(map(len, items)) <= len(data)
