"""Blocks and CARs, clause by clause of https://specs.ipfs.tech/http-gateways/trustless-gateway/ as of March 2026. Each
test names the clause that it is taken from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cbor2
import httpx
import pytest

from kachery_p2p.dag.car import CarReader
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, inline_block
from kachery_p2p.dag.pb import decode_node, encode_node
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from tests.helpers.gateway_served import car_blocks, gateway
from tests.helpers.gateway_site import DAG_CBOR, DAG_JSON, Site, link
from tests.helpers.patience import PATIENCE

CAR = "application/vnd.ipld.car"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(Path(tmp_path_factory.mktemp("site")))
    yield made
    made.repo.close()


async def ask(site: Site, url: str, **headers: str) -> httpx.Response:
    async with gateway(site.repo) as client:
        return await client.get(url, headers=headers)


async def cids(site: Site, url: str) -> list[CID]:
    """The CIDs of a CAR's blocks; each block is checked against its hash on the way."""
    answer = await ask(site, url)
    assert answer.status_code == 200, answer.text
    return [cid for cid, _ in car_blocks(answer.content)]


def below(site: Site, root: CID) -> list[CID]:
    """All blocks of a DAG, depth first, each once."""
    found: dict[CID, None] = {}

    def walk(cid: CID) -> None:
        if cid in found or inline_block(cid) is not None:
            return
        found[cid] = None
        for each in links(site, cid):
            walk(each)

    walk(root)
    return list(found)


def links(site: Site, cid: CID) -> list[CID]:
    block = site.block(cid)
    if cid.codec == DAG_PB:
        return [each.cid for each in decode_node(block, cid).links]
    if cid.codec == DAG_CBOR:
        return list(_tagged(cbor2.loads(block)))
    return [site.docs] if cid == site.dag_json else []


def _tagged(value: object) -> Iterator[CID]:
    if isinstance(value, cbor2.CBORTag):
        yield CID.from_bytes(value.value[1:])
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tagged(each)
    elif isinstance(value, list):
        for each in value:
            yield from _tagged(each)


async def test_block_responses(site: Site) -> None:
    """Block Responses: "the body hash MUST match the multihash from the requested CID", for every codec."""
    for cid in (site.docs, site.cid("ten.bin"), site.dag_cbor, site.dag_json, site.json, site.cbor, site.not_unixfs):
        for headers in ({}, {"accept": "application/vnd.ipld.raw"}):
            answer = await ask(site, f"/ipfs/{cid}" + ("" if headers else "?format=raw"), **headers)
            assert answer.content == site.block(cid)
            assert answer.headers["content-disposition"] == f'attachment; filename="{cid}.bin"'


@pytest.mark.parametrize("root", ["docs", "dag_cbor", "dag_json", "not_unixfs", "json", "cbor"])
async def test_dag_scope_all(site: Site, root: str) -> None:
    """`dag-scope`: the default is `all`, "the entire contiguous DAG", whatever codecs it is made of; depth first."""
    cid = getattr(site, root)
    expected = below(site, cid)
    assert await cids(site, f"/ipfs/{cid}?format=car") == expected
    assert await cids(site, f"/ipfs/{cid}?format=car&dag-scope=all") == expected


@pytest.mark.parametrize("root", ["dag_cbor", "dag_json", "not_unixfs", "json", "cbor"])
async def test_dag_scope_of_what_is_no_unixfs(site: Site, root: str) -> None:
    """`dag-scope`: "for all queries that reference non-UnixFS data, `entity` is equivalent to `block`"; `entity-bytes`
    "MUST be ignored" there."""
    cid = getattr(site, root)
    for more in ("dag-scope=block", "dag-scope=entity", "entity-bytes=5:9", "dag-scope=entity&entity-bytes=0:*"):
        assert await cids(site, f"/ipfs/{cid}?format=car&{more}") == [cid]


async def test_dag_scope_of_unixfs(site: Site) -> None:
    """`dag-scope=entity`: all blocks to read a whole file, or to list a directory; `block`: the last one alone."""
    big = below(site, site.cid("big.bin"))
    assert len(big) == 4
    assert await cids(site, f"/ipfs/{site.docs}/big.bin?format=car&dag-scope=entity") == [site.docs, *big]
    assert await cids(site, f"/ipfs/{site.docs}/big.bin?format=car&dag-scope=block") == [site.docs, big[0]]
    assert await cids(site, f"/ipfs/{site.docs}?format=car&dag-scope=entity") == [site.docs]
    assert await cids(site, f"/ipfs/{site.docs}/to-hello?format=car&dag-scope=entity") == [
        site.docs,
        site.cid("to-hello"),
    ]


async def test_a_path_that_begins_at_dag_cbor(site: Site) -> None:
    """`GET /ipfs/{cid}/{path}` with CAR: the blocks of the path come first, through dag-cbor and dag-json."""
    way = [site.dag_cbor, site.dag_json, site.docs]
    url = f"/ipfs/{site.dag_cbor}/list/1/dir/hello.txt?format=car"
    assert await cids(site, url) == [*way, site.cid("hello.txt")]
    assert await cids(site, f"/ipfs/{site.dag_cbor}/a/b/docs/web?format=car") == [
        site.dag_cbor,
        site.docs,
        *below(site, site.cid("web")),
    ]
    assert await cids(site, f"/ipfs/{site.dag_cbor}/a/b/docs?format=car&dag-scope=block") == [site.dag_cbor, site.docs]


@pytest.mark.parametrize(
    ("part", "leaves"),
    [
        ("0:*", [0, 1, 2]),
        ("0:0", [0]),
        (f"{2**20 - 1}:{2**20}", [0, 1]),
        (f"{2**20}:*", [1, 2]),
        ("-1:*", [2]),
        ("-1000:-1000", [2]),
        ("5:-1048576", [0, 1]),
        ("1048577:99999999", [1, 2]),
        ("10:-2098150", []),
    ],
)
async def test_entity_bytes(site: Site, part: str, leaves: list[int]) -> None:
    """`entity-bytes`: "only the minimal set of blocks necessary"; outside of the file or without bytes, the root."""
    root, *parts = below(site, site.cid("big.bin"))
    expected = [root, *(parts[leaf] for leaf in leaves)]
    assert await cids(site, f"/ipfs/{root}?format=car&entity-bytes={part}") == expected
    assert await cids(site, f"/ipfs/{root}?format=car&dag-scope=entity&entity-bytes={part}") == expected


@pytest.mark.parametrize("part", ["99999999:*", "a:b", "1", "", "*:1", "3:2", "1:2:3"])
async def test_entity_bytes_that_cannot_be(site: Site, part: str) -> None:
    """`entity-bytes`: 400 "when the requested range is entirely outside", and for what is no range."""
    answer = await ask(site, f"/ipfs/{site.cid('big.bin')}?format=car&entity-bytes={part}")
    assert answer.status_code == 400


async def test_etags_of_cars(site: Site) -> None:
    """Etag: a prefix for the scope, and a part for the bytes; each combination of parameters has its own."""
    urls = [
        f"/ipfs/{site.docs}/big.bin?format=car&{more}"
        for more in ("", "dag-scope=block", "dag-scope=entity", "entity-bytes=0:9", "entity-bytes=0:10", "car-dups=y")
    ]
    etags = [(await ask(site, url)).headers["etag"] for url in [*urls, f"/ipfs/{site.cid('big.bin')}?format=car"]]
    assert len(set(etags)) == len(etags)
    scopes = [etag.removeprefix('W/"').partition(".")[0] for etag in etags]
    assert scopes == ["all", "block", "entity", "entity", "entity", "all", "all"]
    for url, etag in zip(urls, etags, strict=False):
        assert (await ask(site, url, **{"if-none-match": etag})).status_code == 304


@pytest.mark.parametrize(
    ("query", "accept", "status", "content_type", "location"),
    [
        ("format=car", "*/*", 200, "version=1; order=dfs; dups=n", None),
        ("format=car&car-dups=y", "*/*", 200, "version=1; order=dfs; dups=y", None),
        ("format=car&car-order=dfs&car-version=1&car-dups=n", "*/*", 200, "version=1; order=dfs; dups=n", None),
        ("format=car&car-order=unk", "*/*", 200, "version=1; order=dfs; dups=n", None),
        ("format=car&car-order=", "*/*", 200, "version=1; order=dfs; dups=n", None),
        ("", f"{CAR}; version=1; order=dfs; dups=y", 200, "version=1; order=dfs; dups=y", "?format=car&car-version=1"),
        ("", f"{CAR};version=1;order=foo, {CAR};dups=y;q=0.5", 200, "version=1; order=dfs; dups=y", "?format=car&"),
        ("car-dups=n", f"{CAR}; dups=y", 200, "version=1; order=dfs; dups=n", "?car-dups=n&format=car"),
        ("format=car&car-dups=n", f"{CAR}; dups=y", 200, "version=1; order=dfs; dups=n", "?car-dups=n&format=car"),
        ("format=car&car-version=2", "*/*", 406, "", None),
        ("format=car&car-order=bfs", "*/*", 406, "", None),
        ("format=car&car-dups=maybe", "*/*", 400, "", None),
        ("", f"{CAR}; version=2", 406, "", None),
        ("format=car&dag-scope=most", "*/*", 400, "", None),
    ],
)
async def test_signaling(
    site: Site, query: str, accept: str, status: int, content_type: str, location: str | None
) -> None:
    """CAR format signaling: what is asked for in query or Accept header is given and said, or refused; the query takes
    precedence, and then "a matching Content-Location SHOULD be returned"."""
    answer = await ask(site, f"/ipfs/{site.docs}?{query}", accept=accept)
    assert answer.status_code == status
    if status != 200:
        return
    assert answer.headers["content-type"] == f"{CAR}; {content_type}"
    found = answer.headers.get("content-location")
    assert found is None if location is None else (found or "").startswith(f"/ipfs/{site.docs}{location}")


async def test_duplicates(site: Site) -> None:
    """CAR `dups`: with `y` "duplicate blocks MUST be sent every time they occur", with `n` only once."""
    hello = site.cid("hello.txt")
    twice = site.directory({"a": hello, "b": hello})
    assert await cids(site, f"/ipfs/{twice}?format=car") == [twice, hello]
    assert await cids(site, f"/ipfs/{twice}?format=car&car-dups=y") == [twice, hello, hello]
    linked = site.put(DAG_CBOR, cbor2.dumps([link(twice), link(hello)]))
    assert await cids(site, f"/ipfs/{linked}?format=car") == [linked, twice, hello]
    assert await cids(site, f"/ipfs/{linked}?format=car&car-dups=y") == [linked, twice, hello, hello, hello]


async def test_identity_blocks_are_not_in_a_car(site: Site) -> None:
    """CAR `dups`: "a Gateway MUST NOT include virtual blocks identified by identity CIDs", in any codec."""
    inside = CID(1, RAW, b"\0\x03abc")
    nested = CID(1, DAG_CBOR, b"\0" + bytes((len(b := cbor2.dumps([link(site.cid("ten.bin"))])),)) + b)
    folder = site.directory({"a": inside})
    assert await cids(site, f"/ipfs/{folder}?format=car") == [folder]
    assert await cids(site, f"/ipfs/{folder}?format=car&car-dups=y") == [folder]
    assert (await ask(site, f"/ipfs/{folder}/a")).content == b"abc"
    top = site.put(DAG_CBOR, cbor2.dumps({"n": link(nested)}))
    assert await cids(site, f"/ipfs/{top}?format=car") == [top, site.cid("ten.bin")]
    assert await cids(site, f"/ipfs/{top}/n/0?format=car") == [top, site.cid("ten.bin")]


async def test_the_probe_paths(site: Site) -> None:
    """Dedicated Probe Paths: `bafkqaaa` is 200 and empty as a block, and a CAR whose root it is; HEAD the same."""
    async with gateway(site.repo) as client:
        for method in ("GET", "HEAD"):
            for headers in ({"accept": "application/vnd.ipld.raw"}, {"accept": CAR}, {}):
                answer = await client.request(method, "/ipfs/bafkqaaa", headers=headers)
                assert answer.status_code == 200
        assert (await client.get("/ipfs/bafkqaaa?format=raw")).content == b""
        reader = CarReader()
        assert list(reader.feed((await client.get("/ipfs/bafkqaaa?format=car")).content)) == []
        reader.close()
        assert reader.roots == [CID.parse("bafkqaaa")]


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("path", ["docs", "docs/big.bin", "dagcbor", "absent"])
async def test_how_long_a_head_says_it_is(site: Site, path: str, http2: bool) -> None:
    """RFC 9110, section 8.6: HEAD says the length that GET has, or none where GET says none, and ends with
    its head: the next request on the connection is answered. Blocks, CARs, archives, pages and refusals."""
    root, slash, rest = path.partition("/")
    url = f"/ipfs/{site.names()[root]}{slash}{rest}"
    async with (
        gateway(site.repo) as known,
        httpx.AsyncClient(
            base_url=known.base_url, trust_env=False, timeout=PATIENCE, http1=not http2, http2=http2
        ) as client,
    ):
        for query in ("", "?format=raw", "?format=car", "?format=car&dag-scope=block", "?format=tar"):
            head = await client.head(url + query)
            get = await client.get(url + query)
            assert head.status_code == get.status_code
            assert head.content == b""
            for name in ("content-length", "transfer-encoding", "content-type", "etag"):
                assert head.headers.get(name) == get.headers.get(name), (query, name)
            if get.headers.get("content-length") == "0":
                assert get.content == b""


async def test_a_missing_child_ends_the_stream(site: Site) -> None:
    """Streaming and Missing Child Blocks: after 200 "the gateway SHOULD terminate the stream", never a whole CAR."""
    absent = CID.parse(site.names()["absent"])
    folder = site.directory([*((f"{n:03}", site.cid("big.bin")) for n in range(2)), ("z", absent)])
    async with gateway(site.repo) as client:
        with pytest.raises(httpx.HTTPError):
            await client.get(f"/ipfs/{folder}?format=car&car-dups=y")


async def test_a_lie_about_a_leaf(site: Site) -> None:
    """A node that says another size of a block than it has is refused, with the reason, and not "missing"."""
    ten = site.cid("ten.bin")
    for claimed in (9, 11):
        node = encode(UnixFSData(DataType.FILE, filesize=claimed, blocksizes=(claimed,)))
        lie = site.put(DAG_PB, encode_node([(None, ten, claimed)], node))  # type: ignore[list-item]
        for query in ("", "?format=car&dag-scope=entity", "?format=tar"):
            answer = await ask(site, f"/ipfs/{lie}{query}")
            assert answer.status_code == 422, query
            assert f"has 10 bytes, but the node above it says {claimed}" in answer.text


async def test_what_dag_json_links_to(site: Site) -> None:
    """CARs of dag-json roots have what is linked in lists and maps, and nothing for what only looks like a link."""
    ten = site.cid("ten.bin")
    tricky = site.put(
        DAG_JSON,
        b'{"a":[{"/":"%s"}],"b":{"/":{"bytes":"AQI"}},"c":"%s"}' % (str(ten).encode(), str(site.docs).encode()),
    )
    assert await cids(site, f"/ipfs/{tricky}?format=car") == [tricky, ten]
