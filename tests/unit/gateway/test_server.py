"""The gateway that we serve: files, parts of files, pages, blocks and CARs, over real HTTP on loopback."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urljoin

import httpx
import pytest
import trio

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash, verify_block
from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.dag.pb import PBLink, decode_node, encode_node
from kachery_p2p.dag.profiles import profile
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from kachery_p2p.errors import AddressInUse
from kachery_p2p.gateway.server.server import GatewayServer
from tests.helpers.gateway_served import SIZE, Served, car_blocks, gateway, served

ABSENT = CID(1, RAW, sha256_multihash(b"nobody has stored this"))
FOR_EVER = "public, max-age=29030400, immutable"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


# --- files -----------------------------------------------------------------------------------------------------------


async def test_a_file_with_its_headers(here: Served) -> None:
    """A file comes whole, with headers that let every cache keep it for ever."""
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{here.directory}/data.bin")
        assert answer.status_code == 200
        assert answer.content == here.data
        expected = {
            "content-type": "application/octet-stream",
            "content-length": str(SIZE),
            "content-disposition": 'inline; filename="data.bin"',
            "accept-ranges": "bytes",
            "etag": f'"{here.file}"',
            "cache-control": FOR_EVER,
            "x-ipfs-path": f"/ipfs/{here.directory}/data.bin",
            "x-ipfs-roots": f"{here.directory},{here.file}",
            "x-content-type-options": "nosniff",
            "access-control-allow-origin": "*",
        }
        assert {name: answer.headers.get(name) for name in expected} == expected
        head = await client.head(f"/ipfs/{here.directory}/data.bin")
        assert (head.status_code, head.content) == (200, b"")
        assert {name: head.headers.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1048570-1048590", 1048570, 1048591),
        (f"bytes={SIZE - 5}-", SIZE - 5, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes=5-{SIZE * 9}", 5, SIZE),
    ],
)
async def test_a_range_is_served_exactly(here: Served, wanted: str, start: int, end: int) -> None:
    """A byte range is answered with exactly these bytes, wherever it lies to the leaves."""
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{here.file}", headers={"range": wanted})
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
        assert answer.content == here.data[start:end]


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", "bytes=-0", f"bytes={SIZE}-,{SIZE + 5}-{SIZE + 6}"])
async def test_ranges_that_cannot_be_served(here: Served, wanted: str) -> None:
    """A range without bytes, or several that all are, is refused, and the size is told."""
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{here.file}", headers={"range": wanted})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize("wanted", ["lines=1-2", "bytes=a-b", "bytes=9-3", "bytes", "bytes=-"])
async def test_ranges_that_are_not_understood_are_passed_over(here: Served, wanted: str) -> None:
    """RFC 9110: a Range header that makes no sense is as good as none."""
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{here.file}", headers={"range": wanted})
        assert (answer.status_code, answer.content) == (200, here.data)


async def test_if_range(here: Served) -> None:
    """A range is served when If-Range has the ETag, and the whole file when it has another."""
    async with gateway(here.repo) as client:
        for etag, status in ((f'"{here.file}"', 206), ('"another"', 200)):
            answer = await client.get(f"/ipfs/{here.file}", headers={"range": "bytes=0-1", "if-range": etag})
            assert answer.status_code == status


@pytest.mark.parametrize("query", ["", "?format=raw", "?format=car"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_the_asker_has_is_not_sent_again(here: Served, query: str, method: str) -> None:
    """If-None-Match with the ETag of an answer is answered with 304; each form of an answer has an ETag of its own."""
    async with gateway(here.repo) as client:
        url = f"/ipfs/{here.file}{query}"
        etag = (await client.head(url)).headers["etag"]
        for known in (etag, f'"x", W/{etag}', "*"):
            answer = await client.request(method, url, headers={"if-none-match": known})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
        other = f"/ipfs/{here.file}{'?format=raw' if query != '?format=raw' else ''}"
        assert (await client.get(other, headers={"if-none-match": etag})).status_code == 200


async def test_empty_file(here: Served) -> None:
    """An empty file is an answer without bytes, not an error."""
    cid = here.store(b"")
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{cid}")
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
        assert (await client.get(f"/ipfs/{cid}", headers={"range": "bytes=0-"})).status_code == 416


@pytest.mark.parametrize("which", ["unixfs-v0-2015", "unixfs-v1-2025"])
async def test_both_profiles(here: Served, which: str) -> None:
    """Files of old and new CIDs are the same to a reader."""
    cid = here.repo.store_bytes(here.data, profile=which).cid
    async with gateway(here.repo) as client:
        assert (await client.get(f"/ipfs/{cid}")).content == here.data


async def test_names_of_all_kinds(here: Served, tmp_path: Path) -> None:
    """Names with blanks, letters of other languages and signs of addresses are found, and told as file names."""
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{here.directory}/" + quote("a name ü#?.json"))
        assert (answer.status_code, answer.content) == (200, b"{}")
        expected = "inline; filename=\"a name _#?.json\"; filename*=UTF-8''a%20name%20%C3%BC%23%3F.json"
        assert answer.headers["content-disposition"] == expected
        answer = await client.get(f"/ipfs/{here.file}?filename=a.npy&download=true")
        assert answer.headers["content-disposition"] == 'attachment; filename="a.npy"'


async def test_html_has_an_origin_of_its_own(here: Served) -> None:
    """A page that somebody stored may run, but not as a part of the gateway; without a name it is plain text."""
    async with gateway(here.repo) as client:
        page = await client.get(f"/ipfs/{here.directory}/page.html")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert policy.startswith("sandbox ")
        assert "allow-same-origin" not in policy
        nameless = await client.get(f"/ipfs/{page.headers['x-ipfs-roots'].split(',')[-1]}")
        assert nameless.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_linked_file_that_changed_is_not_served(here: Served, tmp_path: Path) -> None:
    """The bytes of a linked file that was overwritten are never given out under its old CID."""
    path = tmp_path / "linked.dat"
    path.write_bytes(os.urandom(2 * 2**20))
    cid = here.repo.link_file(path).cid
    async with gateway(here.repo) as client:
        assert (await client.get(f"/ipfs/{cid}")).content == path.read_bytes()
        path.write_bytes(os.urandom(2 * 2**20))
        answer = await client.get(f"/ipfs/{cid}")
        assert answer.status_code == 404
        assert "is missing on this machine" in answer.text
        assert str(tmp_path) not in answer.text


# --- directories -----------------------------------------------------------------------------------------------------


async def test_the_page_of_a_directory(here: Served) -> None:
    """A directory is a page with a relative link to each entry, and each link leads to it."""
    async with gateway(here.repo) as client:
        bare = await client.get(f"/ipfs/{here.directory}?a=b")
        assert (bare.status_code, bare.headers["location"]) == (301, f"/ipfs/{here.directory}/?a=b")
        page = await client.get(f"/ipfs/{here.directory}/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["etag"].startswith('"DirIndex-')
        links = re.findall(r'href="([^"]+)"', page.text.partition("<main>")[2])
        assert links[:2] == ["?format=tar", "?format=car"]
        del links[:2]
        assert sorted(unquote(link) for link in links) == sorted(f"./{name}" for name in os.listdir(here.folder))
        for link in links:
            found = await client.get(urljoin(str(page.url), link), follow_redirects=True)
            assert found.status_code == 200
        below = await client.get(f"/ipfs/{here.directory}/deep/")
        assert 'href="../"' in below.text
        again = await client.get(f"/ipfs/{here.directory}/", headers={"if-none-match": page.headers["etag"]})
        assert again.status_code == 304


async def test_names_cannot_write_into_the_page(here: Served) -> None:
    """Names of entries are shown as text, whatever they are, and links never leave the directory."""
    names = ["<script>alert(1)", '"onload="x', "javascript:alert(1)", "&lt;"]
    hostile = ["..", ".", "../../etc", "</table><script>"]
    links = [PBLink(name, here.file, SIZE) for name in sorted(names + hostile)]
    block = encode_node(links, encode(UnixFSData(DataType.DIRECTORY)))
    cid = CID(1, DAG_PB, sha256_multihash(block))
    here.repo.put_blocks([(cid, block)])
    async with gateway(here.repo) as client:
        whole = (await client.get(f"/ipfs/{cid}/")).text
        assert "<script" not in whole
        page = whole.partition("<main>")[2]
        assert page.count("<tr>") == 1 + len(names) + len(hostile)
        links = [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("?format=")]
        assert sorted(unquote(link) for link in links) == sorted(f"./{name}" for name in names)
        assert page.count("<a ") == len(names) + 2


async def test_index_html_stands_for_its_directory(here: Served, tmp_path: Path) -> None:
    """A directory with an index.html is that page."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<h1>Welcome</h1>", encoding="utf-8")
    cid = here.repo.store_directory(site).cid
    async with gateway(here.repo) as client:
        page = await client.get(f"/ipfs/{cid}/")
        assert (page.text, page.headers["content-type"]) == ("<h1>Welcome</h1>", "text/html; charset=utf-8")


async def test_a_large_sharded_directory(here: Served) -> None:
    """A sharded directory is listed, its entries are found by name, and its CAR of scope `entity` has all its parts."""
    builder = DirectoryBuilder(profile("unixfs-v1-2025"), lambda cid, block: here.repo.put_blocks([(cid, block)]))
    names = [f"file-with-a-rather-long-name-so-that-shards-are-needed-{number:06}" for number in range(4000)]
    for name in names:
        builder.add(name, here.file, SIZE)
    assert builder.sharded
    cid = builder.finish().cid
    async with gateway(here.repo) as client:
        page = await client.get(f"/ipfs/{cid}/")
        assert page.text.partition("<main>")[2].count("<a ") == len(names) + 2
        part = await client.get(f"/ipfs/{cid}/{names[77]}", headers={"range": "bytes=0-9"})
        assert part.content == here.data[:10]
        blocks = car_blocks((await client.get(f"/ipfs/{cid}?format=car&dag-scope=entity")).content)
        found = {link.name[2:] for block in blocks for link in decode_node(block[1], block[0]).links if link.name}
        assert found - {""} == set(names)
        assert here.file not in dict(blocks)


# --- blocks and CARs -------------------------------------------------------------------------------------------------


async def test_raw_blocks(here: Served) -> None:
    """A block is given as it is, by `format` or by Accept, never to be shown, and it has its hash."""
    async with gateway(here.repo) as client:
        for cid in (here.file, here.directory):
            by_name = await client.get(f"/ipfs/{cid}?format=raw")
            by_header = await client.get(f"/ipfs/{cid}", headers={"accept": "text/html;q=0, application/vnd.ipld.raw"})
            for answer in (by_name, by_header):
                assert answer.status_code == 200
                assert verify_block(cid.multihash, answer.content)
                assert answer.headers["content-type"] == "application/vnd.ipld.raw"
                assert answer.headers["content-disposition"] == f'attachment; filename="{cid}.bin"'
                assert answer.headers["x-content-type-options"] == "nosniff"
            assert by_header.headers["content-location"] == f"/ipfs/{cid}?format=raw"


async def test_a_block_of_an_unknown_codec(here: Served) -> None:
    """A block that we cannot read is given raw, and refused as a file, with a word on what to do."""
    cid = CID(1, 0x85, sha256_multihash(b"\xa0"))  # dag-jose
    here.repo.put_blocks([(cid, b"\xa0")])
    async with gateway(here.repo) as client:
        assert (await client.get(f"/ipfs/{cid}?format=raw")).content == b"\xa0"
        answer = await client.get(f"/ipfs/{cid}")
        assert answer.status_code == 400
        assert "?format=raw" in answer.text
        car = await client.get(f"/ipfs/{cid}?format=car&dag-scope=block")
        assert car_blocks(car.content) == [(cid, b"\xa0")]


async def test_a_car_of_a_file_rebuilds_it(here: Served) -> None:
    """A CAR has each block of the DAG once, parents first, and says what it is."""
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{here.file}?format=car")
        assert answer.headers["content-type"] == "application/vnd.ipld.car; version=1; order=dfs; dups=n"
        assert answer.headers["content-disposition"] == f'attachment; filename="{here.file}.car"'
        blocks = car_blocks(answer.content)
        assert blocks[0][0] == here.file
        assert b"".join(block for cid, block in blocks if cid.codec == RAW) == here.data
        entity = await client.get(f"/ipfs/{here.file}?format=car&dag-scope=entity")
        assert car_blocks(entity.content) == blocks


async def test_scopes_of_a_car(here: Served) -> None:
    """`block` is the end of the path, `entity` what it is made of, `all` everything below; the way there is in each."""
    async with gateway(here.repo) as client:
        way = [here.directory]
        url = f"/ipfs/{here.directory}/deep"
        deep = CID.parse((await client.get(url)).headers["x-ipfs-roots"].split(",")[-1])
        for scope, more in (("block", 0), ("entity", 0), ("all", 2)):
            answer = await client.get(f"{url}?format=car&dag-scope={scope}")
            assert [cid for cid, _ in car_blocks(answer.content)][:2] == [*way, deep]
            assert len(car_blocks(answer.content)) == 2 + more
        everything = car_blocks((await client.get(f"/ipfs/{here.directory}?format=car")).content)
        assert {cid.codec for cid, _ in everything} == {RAW, DAG_PB}
        assert here.data == b"".join(b for c, b in everything if c.codec == RAW and len(b) >= 12_345)


@pytest.mark.parametrize(
    ("part", "leaves"),
    [
        ("0:*", [0, 1, 2, 3]),
        ("0:0", [0]),
        (f"{2**20 - 1}:{2**20}", [0, 1]),
        ("-1:*", [3]),
        (f"{2 * 2**20}:-20000", [2]),
        (f"0:{SIZE * 7}", [0, 1, 2, 3]),
        ("-5:-6", None),
    ],
)
async def test_entity_bytes(here: Served, part: str, leaves: list[int] | None) -> None:
    """`entity-bytes` gives the root and exactly the leaves that the range touches; nonsense is refused."""
    whole = [cid for cid, _ in decode_links(here)]
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{here.file}?format=car&entity-bytes={part}")
        if leaves is None:
            assert answer.status_code == 400
            return
        found = [cid for cid, _ in car_blocks(answer.content)]
        assert found == [here.file, *(whole[leaf] for leaf in leaves)]
        beyond = await client.get(f"/ipfs/{here.file}?format=car&entity-bytes={SIZE}:*")
        assert beyond.status_code == 400


def decode_links(here: Served) -> list[tuple[CID, int]]:
    block = here.repo.get_block(here.file.multihash)
    assert block is not None
    return [(link.cid, 0) for link in decode_node(block, here.file).links]


async def test_duplicates_as_asked_for(here: Served) -> None:
    """A block that occurs several times is sent once, or with dups=y each time."""
    cid = here.store(bytes(5 * 2**20))
    async with gateway(here.repo) as client:
        once = await client.get(f"/ipfs/{cid}?format=car")
        assert [len(block) for _, block in car_blocks(once.content)][1:] == [2**20]
        accept = {"accept": "application/vnd.ipld.car; version=1; order=dfs; dups=y"}
        for url in (f"/ipfs/{cid}?dag-scope=all", f"/ipfs/{cid}?dag-scope=entity"):
            each = await client.get(url, headers=accept)
            assert each.headers["content-type"].endswith("dups=y")
            assert [len(block) for _, block in car_blocks(each.content)][1:] == [2**20] * 5
        assert once.headers["etag"] != each.headers["etag"]


async def test_the_probe(here: Served) -> None:
    """The empty identity CID, by which others tell a trustless gateway, is answered as the specification says."""
    async with gateway(here.repo) as client:
        raw = await client.get("/ipfs/bafkqaaa?format=raw")
        assert (raw.status_code, raw.content) == (200, b"")
        assert (await client.head("/ipfs/bafkqaaa")).status_code == 200
        car = await client.get("/ipfs/bafkqaaa", headers={"accept": "application/vnd.ipld.car"})
        assert car_blocks(car.content) == []


# --- refusals, pages, other methods ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        (f"/ipfs/{ABSENT}", 404, str(ABSENT)),
        ("/ipfs/nonsense", 400, "nonsense"),
        ("/ipfs/", 400, "names no CID"),
        ("/ipfs", 400, "names no CID"),
        ("/ipns/example.org", 501, "does not resolve names"),
        ("/api/v0/id", 404, "nothing here"),
        ("/ipfs/{dir}/nope", 404, "'nope'"),
        ("/ipfs/{dir}/notes.txt/nope", 404, "is a file"),
        ("/ipfs/{dir}?format=zip", 400, "those known are raw, car, tar"),
        ("/ipfs/{dir}?format=ipns-record", 400, "no IPNS records"),
        ("/ipfs/{dir}?format=car&car-version=2", 406, "version 1"),
        ("/ipfs/{dir}?format=car&dag-scope=some", 400, "dag-scope"),
        ("/ipfs/{dir}?format=car&car-dups=x", 400, "dups"),
        ("/ipfs/{dir}?format=car&entity-bytes=a", 400, "entity-bytes"),
    ],
)
async def test_what_is_refused_and_why(here: Served, path: str, status: int, says: str) -> None:
    """Each mistake has its status, and a sentence that says what is wrong, as plain text that no cache keeps."""
    async with gateway(here.repo) as client:
        answer = await client.get(path.replace("{dir}", str(here.directory)))
        assert answer.status_code == status
        assert says in answer.text
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_other_methods(here: Served) -> None:
    """Nothing can be written; a preflight of any origin is answered yes, also for private networks."""
    async with gateway(here.repo) as client:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = await client.request(method, f"/ipfs/{here.file}", content=b"x")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        answer = await client.options(
            f"/ipfs/{here.file}",
            headers={
                "origin": "https://figurl.org",
                "access-control-request-method": "GET",
                "access-control-request-headers": "range",
                "access-control-request-private-network": "true",
            },
        )
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Range" in answer.headers["access-control-allow-headers"]
        assert answer.headers["access-control-allow-private-network"] == "true"


async def test_pages_of_the_gateway(here: Served) -> None:
    """The root says what this is; /health says that it works."""
    async with gateway(here.repo) as client:
        assert "nothing is fetched from the network" in (await client.get("/")).text
        assert (await client.get("/health")).json() == {"status": "ok", "agent": "kachery-cloud", "fetch": False}


async def test_http_2(here: Served) -> None:
    """Over HTTP/2 (in the clear, by prior knowledge) the answers are the same, many at once on one connection."""
    async with gateway(here.repo) as client:
        options = {"base_url": client.base_url, "trust_env": False, "timeout": 20}
        async with httpx.AsyncClient(http1=False, http2=True, **options) as newer, trio.open_nursery() as nursery:

            async def ask() -> None:
                answer = await newer.get(f"/ipfs/{here.file}")
                assert (answer.http_version, answer.content) == ("HTTP/2", here.data)

            for _ in range(8):
                nursery.start_soon(ask)


async def test_only_if_cached(here: Served) -> None:
    """Who asks only for what is here is told with 412 that it is not."""
    async with gateway(here.repo) as client:
        answer = await client.get(f"/ipfs/{ABSENT}", headers={"cache-control": "only-if-cached"})
        assert answer.status_code == 412


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8090", 200),
        ("abc.localhost:1", 200),
        ("127.0.0.1:8090", 200),
        ("[::1]:8090", 200),
        ("10.1.2.3", 200),
        ("lab.example.org:8090", 200),
        ("evil.example.org", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("localhost.evil.example.org", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
async def test_dns_rebinding(here: Served, host: str, status: int) -> None:
    """A request under a name that anybody could have pointed here is refused; a configured name is not."""
    async with gateway(here.repo, names=("lab.example.org",)) as client:
        answer = await client.get(f"/ipfs/{here.file}", headers={"host": host, "range": "bytes=0-1"})
        assert answer.status_code == (206 if status == 200 else status)


# --- listening -------------------------------------------------------------------------------------------------------


async def test_an_address_in_use(here: Served) -> None:
    """A port that somebody listens on is an error that says what to do."""
    async with gateway(here.repo) as client:
        other = GatewayServer(here.repo, f"127.0.0.1:{httpx.URL(client.base_url).port}")
        with pytest.raises(AddressInUse, match="--gateway"):
            await other.run()
