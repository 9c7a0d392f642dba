"""HTTP routers asked for the records of names, and given ours. Real HTTP on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from kachery_p2p.errors import RoutingError
from kachery_p2p.peer_ids import base36
from kachery_p2p.routing.dht import limits
from tests.helpers.dht_ipns import ipns, name_of
from tests.unit.routing.dht.test_records import KEY
from tests.unit.routing.test_delegated import HttpRouter, Request, asking, serving

RECORD = "application/vnd.ipfs.ipns-record"
NAME = name_of(KEY)
PATH = f"/routing/v1/ipns/{base36(NAME[6:])}"


class Naming(Request):
    """A router that takes records, too."""

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        router = self.server
        assert isinstance(router, HttpRouter)
        router.paths.append(self.path)
        router.requests.append({name.lower(): value for name, value in self.headers.items()})
        PUT.append(body)
        with contextlib.suppress(OSError):
            router.answer(self)


PUT: list[bytes] = []


@contextlib.contextmanager
def naming(answer: Callable[[Request], None]) -> Iterator[HttpRouter]:
    PUT.clear()
    with serving(answer) as router:
        router.RequestHandlerClass = Naming
        yield router


async def ask(*urls: str, refused: str = "") -> list[bytes]:
    """What the routers have; `refused` is what is wrong with the answers of all of them."""
    found: list[bytes] = []
    async with asking(*urls) as delegated:
        with pytest.raises(RoutingError, match=refused) if refused else contextlib.nullcontext():
            await delegated.get_value(NAME, found.append)
    return found


async def test_a_record_is_asked_for() -> None:
    """By the name as a CID, with the type that the specification wants; the record comes as it is."""
    value = ipns(KEY, Sequence=3)
    with naming(lambda request: request.send(value, kind=RECORD)) as router:
        assert await ask(router.url) == [value]
    assert router.paths == [PATH]
    assert router.requests[0]["accept"] == RECORD
    assert PATH.startswith("/routing/v1/ipns/k51")


async def test_a_record_is_given() -> None:
    """By PUT, whole and with its length; how many routers took it is told."""
    value = ipns(KEY)
    with naming(lambda request: request.send(b"")) as router, naming_refusing() as other:
        async with asking(router.url, other.url) as delegated:
            assert await delegated.put_value(NAME, value) == 1
    assert router.paths == [PATH]
    assert router.requests[0]["content-type"] == RECORD
    assert value in PUT


def naming_refusing() -> contextlib.AbstractContextManager[HttpRouter]:
    return naming(lambda request: request.send(b"", status=501))


async def test_nobody_has_it() -> None:
    """404 is an answer, and no failure."""
    with naming(lambda request: request.send(b"", status=404)) as router:
        assert await ask(router.url) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no signature"),
        (b"\xff" * 50, "not protobuf"),
        (ipns(KEY)[:-1], "protobuf|signature"),
        (ipns(KEY, Validity=b"2001-01-01T00:00:00Z"), "expired"),
        (ipns(KEY, Value=b"x" * limits.MAX_RECORD_SIZE), "more than 10,240 bytes"),
        (b"x" * 10**6, "more than 10,240 bytes"),
    ],
    ids=["empty", "noise", "cut", "expired", "large", "huge"],
)
async def test_what_is_no_valid_record(body: bytes, says: str) -> None:
    """A router that answers with anything else is not believed, and left alone for a while; another one is heard."""
    good = ipns(KEY)
    with (
        naming(lambda request: request.send(body, kind=RECORD)) as bad,
        naming(lambda request: request.send(good, kind=RECORD)) as other,
    ):
        assert await ask(bad.url, other.url) == [good]
        assert await ask(bad.url, refused=says) == []


async def test_a_record_of_another_name() -> None:
    """A record that is valid, but another key's, is refused."""
    other = ipns(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with naming(lambda request: request.send(other, kind=RECORD)) as router:
        assert await ask(router.url, refused="signature") == []


async def test_a_router_that_asks_for_rest() -> None:
    """429 is obeyed: the next question says so without asking."""
    with naming(lambda request: request.send(b"", status=429, retry_after="1000")) as router:
        async with asking(router.url) as delegated:
            for says in ("ask too often", "left alone for"):
                with pytest.raises(RoutingError, match=says):
                    await delegated.get_value(NAME, lambda value: None)
        assert len(router.paths) == 1
