"""`/ipns/<name>`: clause by clause of https://specs.ipfs.tech/http-gateways/path-gateway/ and .../trustless-gateway/,
with real keys and records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kachery_p2p.errors import ContentNotFound, RoutingError
from kachery_p2p.gateway.server.content import Fetched
from kachery_p2p.peer_ids import any_peer_id, peer_bytes, peer_cid
from kachery_p2p.repo.keys import load_or_create_identity, new_identity
from kachery_p2p.routing.database import Database
from kachery_p2p.routing.ipns.names import name_text
from kachery_p2p.routing.ipns.seen import SeenRecords
from kachery_p2p.routing.ipns.service import Names
from kachery_p2p.routing.ipns.shelf import Shelf
from tests.helpers.gateway_served import car_blocks, gateway
from tests.helpers.gateway_site import Site

NOW = time.time()
TTL = "public, max-age=300"
RECORD = "application/vnd.ipfs.ipns-record"
UNKNOWN = name_text(peer_bytes(new_identity().peer_id))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(Path(tmp_path_factory.mktemp("site")))
    yield made
    made.repo.close()


class Here:
    """The names of a machine that knows nobody; a wall clock that stands still."""

    def __init__(self, folder: Path, db: Database) -> None:
        load_or_create_identity(folder)
        self.names = Names(Shelf(folder), SeenRecords(db), [], txt=self._txt, wall=lambda: NOW)
        self.links: dict[str, str] = {}

    async def _txt(self, name: str) -> list[str]:
        if name not in self.links:
            raise RoutingError("there is no such name")
        return [f"dnslink={self.links[name]}"]

    async def publish(self, path: str, *, key: str = "self", ttl: float = 300.0) -> str:
        return name_text((await self.names.publish(key, path, ttl=ttl, timeout=0)).name)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    db = Database(None)
    yield Here(tmp_path, db)
    db.close()


def told(answer: httpx.Response, *names: str) -> list[str | None]:
    return [answer.headers.get(name) for name in names]


async def test_a_file_by_name(site: Site, here: Here) -> None:
    """It is that of the content path, with its ETag; caches keep it for as long as the record says, and no longer; the
    headers say the path that was asked for, and what it led to."""
    name = await here.publish(f"/ipfs/{site.docs}")
    async with gateway(site.repo, resolver=here.names) as client:
        fixed = await client.get(f"/ipfs/{site.docs}/hello.txt")
        for method in ("GET", "HEAD"):
            answer = await client.request(method, f"/ipns/{name}/hello.txt")
            assert (answer.status_code, answer.content) == (200, fixed.content if method == "GET" else b"")
            for same in ("etag", "x-ipfs-roots", "content-type", "content-length", "content-disposition"):
                assert answer.headers[same] == fixed.headers[same], same
            assert told(answer, "cache-control", "x-ipfs-path", "ipfs-uri", "last-modified") == [
                TTL,
                f"/ipns/{name}/hello.txt",
                f"ipns://{name}/hello.txt",
                None,
            ]
        again = await client.get(f"/ipns/{name}/hello.txt", headers={"if-none-match": fixed.headers["etag"]})
        assert (again.status_code, *told(again, "cache-control")) == (304, TTL)
        part = await client.get(f"/ipns/{name}/ten.bin", headers={"range": "bytes=2-4"})
        assert (part.status_code, part.content, *told(part, "cache-control")) == (206, b"234", TTL)


async def test_every_form_of_a_name(site: Site, here: Here) -> None:
    """As a CID in base36 and base32, as base58, and in percent-encoding."""
    name = await here.publish(f"/ipfs/{site.docs}/sub")
    key = await here.publish(f"/ipns/{name}", key="other", ttl=120)
    raw = any_peer_id(name)
    assert raw is not None
    async with gateway(site.repo, resolver=here.names) as client:
        for form in (name, raw, peer_cid(raw), f"%{ord(name[0]):x}{name[1:]}"):
            answer = await client.get(f"/ipns/{form}/x.txt")
            assert (answer.status_code, answer.content) == (200, b"x"), form
        # A name that points to a name is believed for the shorter of the two times.
        answer = await client.get(f"/ipns/{key}/x.txt")
        assert (answer.content, *told(answer, "cache-control")) == (b"x", "public, max-age=120")


async def test_a_name_that_moves(site: Site, here: Here) -> None:
    """What it points to next is given out at once by the machine that has the key."""
    name = await here.publish(f"/ipfs/{site.docs}/hello.txt")
    async with gateway(site.repo, resolver=here.names) as client:
        first = await client.get(f"/ipns/{name}")
        await here.publish(f"/ipfs/{site.docs}/ten.bin", ttl=0)
        second = await client.get(f"/ipns/{name}", headers={"if-none-match": first.headers["etag"]})
    assert (first.content, second.status_code, second.content) == (b"Hello, all.\n", 200, b"0123456789")
    assert told(second, "cache-control") == ["public, max-age=0"]


async def test_folders_by_name(site: Site, here: Here) -> None:
    """Pages and redirections stay under the name, and are kept no longer than it may be believed."""
    name = await here.publish(f"/ipfs/{site.docs}")
    async with gateway(site.repo, resolver=here.names) as client:
        moved = await client.get(f"/ipns/{name}/sub?x=1", follow_redirects=False)
        assert (moved.status_code, *told(moved, "location", "cache-control")) == (301, f"/ipns/{name}/sub/?x=1", TTL)
        page = await client.get(f"/ipns/{name}/")
        assert page.headers["etag"].startswith('"DirIndex-')
        assert told(page, "cache-control") == [TTL]
        assert f"/ipns/{name}" in page.text
        index = await client.get(f"/ipns/{name}/web/")
        assert (index.text, *told(index, "cache-control")) == ("<!doctype html><h1>Web</h1>", TTL)


async def test_blocks_and_cars_by_name(site: Site, here: Here) -> None:
    """The trustless forms, too; the CAR has the CID as its root, for a name is none."""
    name = await here.publish(f"/ipfs/{site.docs}")
    async with gateway(site.repo, resolver=here.names) as client:
        raw = await client.get(f"/ipns/{name}/hello.txt?format=raw")
        assert (raw.content, *told(raw, "cache-control")) == (b"Hello, all.\n", TTL)
        car = await client.get(f"/ipns/{name}/sub/x.txt?format=car")
        assert car_blocks(car.content)[0][0] == site.docs
        assert told(car, "cache-control", "content-disposition") == [TTL, f'attachment; filename="{site.docs}.car"']


async def test_the_record_of_a_name(site: Site, here: Here) -> None:
    """As it was signed, by format= and by the Accept header; also where it points to nothing that is here."""
    name = await here.publish("/ipfs/bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
    record = await here.names.record(name, timeout=0)
    async with gateway(site.repo, resolver=here.names) as client:
        for answer in (
            await client.get(f"/ipns/{name}?format=ipns-record"),
            await client.get(f"/ipns/{name}", headers={"accept": RECORD}),
        ):
            assert (answer.status_code, answer.content) == (200, record.raw)
            assert told(answer, "content-type", "cache-control", "content-disposition") == [
                RECORD,
                TTL,
                f'attachment; filename="{name}.ipns-record"',
            ]
            assert answer.headers["x-ipfs-path"] == f"/ipns/{name}"
            assert "x-ipfs-roots" not in answer.headers
        etag = answer.headers["etag"]
        same = await client.get(f"/ipns/{name}?format=ipns-record", headers={"if-none-match": etag})
        assert (same.status_code, same.content) == (304, b"")
        await here.publish(f"/ipfs/{site.docs}")
        newer = await client.get(f"/ipns/{name}?format=ipns-record", headers={"if-none-match": etag})
        assert newer.status_code == 200
        for wrong in (f"/ipns/{name}/a?format=ipns-record", "/ipns/example.org?format=ipns-record"):
            assert (await client.get(wrong)).status_code == 400


async def test_names_of_the_dns(site: Site, here: Here) -> None:
    """Where a TXT record leads; for a minute, since nothing says for how long."""
    here.links["_dnslink.data.example.org"] = f"/ipfs/{site.docs}"
    async with gateway(site.repo, resolver=here.names) as client:
        answer = await client.get("/ipns/data.example.org/hello.txt")
        assert (answer.status_code, *told(answer, "cache-control")) == (200, "public, max-age=60")
        assert answer.headers["x-ipfs-path"] == "/ipns/data.example.org/hello.txt"
        assert (await client.get("/ipns/example.org")).status_code == 404


async def nobody(*_: object, **__: object) -> Fetched:
    raise ContentNotFound("Nobody has it.")


async def test_what_cannot_be_resolved(site: Site, here: Here) -> None:
    """504 where nobody has a record, 502 where it leads to nothing, 404 where the content has no such path, 400 for
    what is no name; none of it is cached, and a sentence says why."""
    circle = await here.publish("/ipfs/x", key="a")
    await here.publish(f"/ipns/{circle}", key="a")
    wrong = {
        "b": "/ipfs/nonsense",
        "c": f"/ipfs/{site.docs}/../x",
        "d": "/http/example.org",
        "e": "/ipfs/",
    }
    bad = [circle, *[await here.publish(path, key=key) for key, path in wrong.items()]]
    good = await here.publish(f"/ipfs/{site.docs}", key="good")
    async with gateway(site.repo, resolver=here.names, fetch=nobody) as client:
        for name in bad:
            answer = await client.get(f"/ipns/{name}/x")
            assert (answer.status_code, *told(answer, "cache-control")) == (502, "no-store"), (name, answer.text)
            assert "Traceback" not in answer.text
            assert len(answer.text) > 20
        answer = await client.get(f"/ipns/{UNKNOWN}/x")
        assert (answer.status_code, *told(answer, "cache-control", "retry-after")) == (504, "no-store", "5")
        assert f"where {UNKNOWN} points" in answer.text
        answer = await client.get(f"/ipns/{good}/no-such-file")
        assert (answer.status_code, *told(answer, "cache-control")) == (404, "no-store")
        for path in ("", "/", "/nonsense", "/%ff", "/a..b", "/.org", f"/{site.docs}", "/ex%20ample.org", "/%0d%0a.org"):
            answer = await client.get(f"/ipns{path}")
            assert answer.status_code == 400, (path, answer.text)


async def test_only_what_is_known(site: Site, here: Here) -> None:
    """With only-if-cached nobody is asked where a name points."""
    name = await here.publish(f"/ipfs/{site.docs}")
    async with gateway(site.repo, resolver=here.names) as client:
        headers = {"cache-control": "only-if-cached"}
        assert (await client.get(f"/ipns/{name}/hello.txt", headers=headers)).status_code == 200
        answer = await client.get(f"/ipns/{UNKNOWN}/hello.txt", headers=headers)
        assert (answer.status_code, answer.content) == (412, b"")


async def test_a_gateway_that_asks_nobody(site: Site, here: Here) -> None:
    """It resolves the names of its own machine, and says of others that they are not known."""
    async with gateway(site.repo, resolver=here.names) as client:
        for query in ("", "?format=ipns-record"):
            answer = await client.get(f"/ipns/{UNKNOWN}{query}")
            assert (answer.status_code, "is not known on this machine" in answer.text) == (404, True)


async def test_a_gateway_that_resolves_none(site: Site, here: Here) -> None:
    """It says so: also for a record."""
    name = await here.publish(f"/ipfs/{site.docs}")
    async with gateway(site.repo) as client:
        for query in ("", "?format=ipns-record"):
            answer = await client.get(f"/ipns/{name}{query}")
            assert (answer.status_code, "does not resolve names" in answer.text) == (501, True)
