"""The path gateway, clause by clause of https://specs.ipfs.tech/http-gateways/path-gateway/ as of March 2026, with
IPIP-0523, 0524 and 0548. Each row names the clause that it is taken from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.helpers.gateway_served import gateway
from tests.helpers.gateway_site import BIG, Case, Site, case

FOR_EVER = "public, max-age=29030400, immutable"
RAW, CAR, TAR = "application/vnd.ipld.raw", "application/vnd.ipld.car", "application/x-tar"
DAG_JSON, DAG_CBOR = "application/vnd.ipld.dag-json", "application/vnd.ipld.dag-cbor"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
LETTERS = quote("ąę/ź ł.txt")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(Path(tmp_path_factory.mktemp("site")))
    yield made
    made.repo.close()


async def check(site: Site, row: Case) -> None:
    """Ask, and compare."""
    names = site.names()

    def fill(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: names[found[1]], text)

    asked = {name: fill(value) for name, value in row.asked.items()}
    async with gateway(site.repo) as client:
        answer = await client.request(row.method, fill(row.url), headers={"accept": "*/*", **asked})
    assert answer.status_code == row.status, answer.text[:300]
    for name, expected in row.headers.items():
        found = answer.headers.get(name)
        if expected is None:
            assert found is None, name
        elif expected.startswith("~"):
            assert re.fullmatch(fill(expected[1:]), found or ""), (name, found)
        else:
            assert found == fill(expected), name
    if row.body is not None:
        assert answer.content == row.body
    if row.method == "HEAD" or row.status in (301, 304, 412):
        assert row.status == 301 or answer.content == b""


REQUESTS = [
    case("GET /ipfs/{cid}[/{path}]", "/ipfs/{hello}", body=b"Hello, all.\n"),
    case("GET /ipfs/{cid}[/{path}]", "/ipfs/{docs}/hello.txt", body=b"Hello, all.\n"),
    case("GET /ipfs/{cid}[/{path}]", f"/ipfs/{{docs}}/{LETTERS}", body=b"letters"),
    case("HEAD /ipfs/{cid}[/{path}]", "/ipfs/{docs}/hello.txt", 200, {"content-length": "12"}, method="HEAD"),
    case("HEAD /ipfs/{cid}[/{path}]", "/ipfs/{docs}/", 200, {"etag": '~"DirIndex-.*'}, method="HEAD"),
    case("HEAD /ipfs/{cid}[/{path}]", "/ipfs/{docs}?format=car", 200, {"content-type": f"~{CAR};.*"}, method="HEAD"),
    case("HEAD /ipfs/{cid}[/{path}]", "/ipfs/{docs}?format=tar", 200, {"content-type": TAR}, method="HEAD"),
    case("HEAD /ipfs/{cid}[/{path}]", "/ipfs/{docs}?format=raw", 200, {"content-type": RAW}, method="HEAD"),
    case("HEAD /ipfs/{cid}[/{path}]", "/ipfs/{dagcbor}", 200, {"content-type": DAG_CBOR}, method="HEAD"),
    case("HEAD /ipfs/{cid}[/{path}]", "/ipfs/{absent}", 404, method="HEAD"),
    case("GET /ipns/{name}", "/ipns/example.org", 501),
    case(
        "only-if-cached HEAD behavior", "/ipfs/{absent}", 412, asked={"cache-control": "only-if-cached"}, method="HEAD"
    ),
    case(
        "only-if-cached HEAD behavior", "/ipfs/{hello}", 200, asked={"cache-control": "only-if-cached"}, method="HEAD"
    ),
    case("only-if-cached", "/ipfs/{absent}", 412, asked={"cache-control": "max-age=0, only-if-cached"}),
    case("only-if-cached", "/ipfs/{docs}/hello.txt", 200, asked={"cache-control": "only-if-cached"}),
    case("Service-Worker", "/ipfs/{docs}", 400, asked={"service-worker": "script"}),
    case("Service-Worker", "/ipfs/{hello}?filename=sw.js", 400, asked={"service-worker": "script"}),
    case("Service-Worker", "/ipfs/{docs}/hello.txt", 200, asked={"service-worker": "script"}),
]

IF_NONE_MATCH = [
    case("If-None-Match", url, 304, {"etag": etag}, asked={"if-none-match": given.replace("ETAG", etag)}, method=method)
    for url, etag in [
        ("/ipfs/{docs}/hello.txt", '"{hello}"'),
        ("/ipfs/{docs}/web/", '"{web}"'),
        ("/ipfs/{docs}/to-hello", '"{symlink}"'),
        ("/ipfs/{hello}?format=raw", '"{hello}.raw"'),
        ("/ipfs/{docs}?format=raw", '"{docs}.raw"'),
        ("/ipfs/{docs}?format=tar", 'W/"{docs}.x-tar"'),
        ("/ipfs/{dagcbor}", '"{dagcbor}.dag-cbor"'),
        ("/ipfs/{dagjson}?format=dag-json", '"{dagjson}.dag-json"'),
        ("/ipfs/{cbor}", '"{cbor}.cbor"'),
        ("/ipfs/{json}", '"{json}.json"'),
    ]
    for given in ("ETAG", 'W/"x", "y", ETAG', "*")
    for method in ("GET", "HEAD")
] + [
    case("If-None-Match", "/ipfs/{hello}", 200, asked={"if-none-match": '"{hello}.raw"'}),
    case("If-None-Match", "/ipfs/{hello}?format=raw", 200, asked={"if-none-match": '"{hello}"'}),
    case("If-None-Match", "/ipfs/{hello}", 304, asked={"if-none-match": 'W/"{hello}"'}),
    case("If-None-Match", "/ipfs/{docs}/", 200, asked={"if-none-match": '"{docs}"'}),
]

FORMATS = [
    *(
        case("format", f"/ipfs/{{{what}}}?format={form}", 200, {"content-type": kind, "content-location": None})
        for what, form, kind in [
            ("docs", "raw", RAW),
            ("docs", "car", f"~{CAR}; version=1; order=dfs; dups=n"),
            ("docs", "tar", TAR),
            ("hello", "tar", TAR),
            ("dagjson", "dag-json", DAG_JSON),
            ("dagcbor", "dag-cbor", DAG_CBOR),
            ("json", "json", "application/json"),
            ("cbor", "cbor", "application/cbor"),
        ]
    ),
    *(
        case(
            "Accept; Content-Location",
            f"/ipfs/{{{what}}}?a=b",
            200,
            {"content-type": f"~{kind}.*", "content-location": f"/ipfs/{{{what}}}?a=b&format={form}", "vary": "Accept"},
            asked={"accept": f"foo, {kind}, bar"},
        )
        for what, form, kind in [
            ("docs", "raw", RAW),
            ("docs", "car", CAR),
            ("docs", "tar", TAR),
            ("dagjson", "dag-json", DAG_JSON),
            ("dagcbor", "dag-cbor", DAG_CBOR),
            ("json", "json", "application/json"),
            ("cbor", "cbor", "application/cbor"),
        ]
    ),
    case(
        "format: takes precedence over Accept; Content-Location when they differ",
        "/ipfs/{docs}?format=raw",
        200,
        {"content-type": RAW, "content-location": "/ipfs/{docs}?format=raw"},
        asked={"accept": CAR},
    ),
    case("format: takes precedence over Accept", "/ipfs/{docs}?format=raw", asked={"accept": BROWSER}),
    case("Content-Location", "/ipfs/{docs}/", 200, {"content-location": None}, asked={"accept": BROWSER}),
    case(
        "Content-Location",
        "/ipfs/{docs}/",
        200,
        {"content-location": "/ipfs/{docs}/?format=raw"},
        asked={"accept": RAW},
    ),
    *(
        case("406: the format does not match the codec (IPIP-0524)", f"/ipfs/{{{what}}}?format={form}", 406)
        for what, form in [
            ("hello", "dag-json"),
            ("docs", "dag-cbor"),
            ("docs", "cbor"),
            ("dagcbor", "dag-json"),
            ("dagcbor", "cbor"),
            ("dagjson", "dag-cbor"),
            ("dagjson", "json"),
            ("json", "dag-json"),
            ("cbor", "dag-cbor"),
            ("dagcbor", "tar"),
            ("json", "tar"),
            ("notunixfs", "tar"),
        ]
    ),
    case("406: a hint what to do", "/ipfs/{dagjson}", 406, asked={"accept": "application/cbor"}),
    case("406: nothing else is accepted", "/ipfs/{hello}", 406, asked={"accept": "application/vnd.ipld.other"}),
    case(
        "RFC 9110 12.5.1: another form is welcome, too",
        "/ipfs/{hello}",
        200,
        asked={"accept": f"{DAG_JSON}, */*;q=0.1"},
    ),
    case("application/json: UnixFS files", "/ipfs/{datajson}", 200, {"content-type": "application/json"}),
    case("application/json: UnixFS files", "/ipfs/{datajson}?format=json", 200, {"content-type": "application/json"}),
    case("application/json: UnixFS files", "/ipfs/{docs}/data.json", asked={"accept": "application/json"}),
    case("application/json: UnixFS files", "/ipfs/{hello}", asked={"accept": "application/json, text/plain, */*"}),
    case("ipns-record: 400 outside of /ipns/", "/ipfs/{docs}?format=ipns-record", 400),
    case("IPIP-0524: 400 for a format that is none", "/ipfs/{docs}?format=zip", 400),
]

CODECS = [
    case("DAG-CBOR: as raw", "/ipfs/{dagcbor}", 200, {"content-type": DAG_CBOR, "etag": '"{dagcbor}.dag-cbor"'}),
    case("DAG-JSON: as raw", "/ipfs/{dagjson}", 200, {"content-type": DAG_JSON, "etag": '"{dagjson}.dag-json"'}),
    case("JSON: as raw", "/ipfs/{json}", 200, {"content-type": "application/json"}, body=b'{"x":[1,2]}'),
    case("CBOR: as raw", "/ipfs/{cbor}", 200, {"content-type": "application/cbor"}),
    case(
        "JSON: as raw",
        "/ipfs/{json}",
        206,
        {"content-range": "bytes 0-3/11"},
        asked={"range": "bytes=0-3"},
        body=b'{"x"',
    ),
    case("JSON", "/ipfs/{json}", 200, {"content-disposition": 'inline; filename="{json}.json"'}),
    case("CBOR", "/ipfs/{cbor}", 200, {"content-disposition": 'attachment; filename="{cbor}.cbor"'}),
    case("DAG-CBOR", "/ipfs/{dagcbor}?filename=a.x", 200, {"content-disposition": 'attachment; filename="a.x"'}),
    *(
        case(
            "DAG-CBOR, DAG-JSON: HTML where Accept has text/html",
            f"/ipfs/{{{what}}}",
            200,
            {"content-type": "text/html; charset=utf-8", "etag": f'~"DagIndex-[0-9a-f]+_CID-{{{what}}}"'},
            asked={"accept": BROWSER},
        )
        for what in ("dagcbor", "dagjson")
    ),
    case(
        "DAG-CBOR: HTML only without format",
        "/ipfs/{dagcbor}?format=dag-cbor",
        200,
        {"content-type": DAG_CBOR},
        asked={"accept": BROWSER},
    ),
    case("download", "/ipfs/{dagcbor}?download=true", 200, {"content-type": DAG_CBOR}, asked={"accept": BROWSER}),
    case(
        "JSON, CBOR: never HTML", "/ipfs/{cbor}", 200, {"content-type": "application/cbor"}, asked={"accept": BROWSER}
    ),
    case("Traversing through DAG-CBOR", "/ipfs/{dagcbor}/a/b/docs/hello.txt", body=b"Hello, all.\n"),
    case("Traversing through DAG-CBOR", "/ipfs/{dagcbor}/list/1", 200, {"content-type": DAG_JSON}),
    case("Traversing through DAG-JSON", "/ipfs/{dagjson}/dir/hello.txt", body=b"Hello, all.\n"),
    case(
        "X-Ipfs-Roots: one per logical root",
        "/ipfs/{dagcbor}/list/1/dir/hello.txt",
        200,
        {"x-ipfs-roots": "{dagcbor},{dagjson},{docs},{hello}"},
    ),
    case("Traversing: 501 where a remainder is left", "/ipfs/{dagcbor}/a/text", 501),
    case("Traversing: 501 where a remainder is left", "/ipfs/{dagcbor}/a", 501),
    case("Traversing: 501 where a remainder is left", "/ipfs/{dagjson}/n?format=dag-json", 501),
    case("Handling traversal errors: 404", "/ipfs/{dagcbor}/a/nope", 404),
    case("Handling traversal errors: 404", "/ipfs/{dagcbor}/list/2", 404),
    case("Handling traversal errors: 404", "/ipfs/{dagcbor}/a/text/more", 404),
    case("Traversing: 501 where a remainder is left", "/ipfs/{json}/x", 501),
]

RANGES = [
    case(
        "Range; 206; Content-Range",
        "/ipfs/{ten}",
        206,
        {"content-range": "bytes 2-4/10", "content-length": "3"},
        asked={"range": "bytes=2-4"},
        body=b"234",
    ),
    case(
        "Range: raw blocks",
        "/ipfs/{ten}?format=raw",
        206,
        {"content-range": "bytes 8-9/10"},
        asked={"range": "bytes=-2"},
        body=b"89",
    ),
    case("Accept-Ranges", "/ipfs/{ten}", 200, {"accept-ranges": "bytes"}),
    case("Accept-Ranges", "/ipfs/{ten}?format=raw", 200, {"accept-ranges": "bytes"}),
    case("Accept-Ranges: none for CAR", "/ipfs/{ten}?format=car", 200, {"accept-ranges": "none"}),
    case(
        "RFC 9110 14.4: 416 and the size",
        "/ipfs/{ten}",
        416,
        {"content-range": "bytes */10"},
        asked={"range": "bytes=10-"},
    ),
    case(
        "RFC 9110 14.4: 416 and the size",
        "/ipfs/{ten}?format=raw",
        416,
        {"content-range": "bytes */10"},
        asked={"range": "bytes=10-"},
    ),
    case(
        "RFC 9110 14.2: HEAD has no ranges",
        "/ipfs/{ten}",
        200,
        {"content-length": "10"},
        asked={"range": "bytes=2-4"},
        method="HEAD",
    ),
    case(
        "RFC 9110 13.1.5: If-Range", "/ipfs/{ten}", 206, asked={"range": "bytes=0-1", "if-range": '"{ten}"'}, body=b"01"
    ),
    case(
        "RFC 9110 13.1.5: If-Range is strong", "/ipfs/{ten}", 200, asked={"range": "bytes=0-1", "if-range": 'W/"{ten}"'}
    ),
    case(
        "RFC 9110 13.1.5: If-Range", "/ipfs/{ten}?format=raw", 200, asked={"range": "bytes=0-1", "if-range": '"{ten}"'}
    ),
    case(
        "RFC 9110 15.3.7: the ETag of the whole", "/ipfs/{ten}", 206, {"etag": '"{ten}"'}, asked={"range": "bytes=0-1"}
    ),
    case(
        "RFC 9110 14.6: one that is left of several",
        "/ipfs/{ten}",
        206,
        {"content-range": "bytes 1-2/10"},
        asked={"range": "bytes=1-2,50-"},
        body=b"12",
    ),
    case("RFC 9110 14.2: too many bytes", "/ipfs/{ten}", 200, asked={"range": "bytes=0-,0-,0-"}, body=b"0123456789"),
    case(
        "RFC 9110 14.2: too many ranges",
        "/ipfs/{big}",
        200,
        {"content-length": str(BIG)},
        asked={"range": "bytes=" + ",".join(f"{i}-{i}" for i in range(0, 66, 2))},
    ),
    case(
        "RFC 9110 13.2.2: If-None-Match comes first",
        "/ipfs/{ten}",
        304,
        asked={"range": "bytes=0-1", "if-none-match": '"{ten}"'},
    ),
]

HEADERS = [
    case("Etag: by the CID", "/ipfs/{docs}/hello.txt", 200, {"etag": '"{hello}"'}),
    case("Etag: by CID and format", "/ipfs/{docs}/hello.txt?format=raw", 200, {"etag": '"{hello}.raw"'}),
    case("Etag: a generated index", "/ipfs/{docs}/", 200, {"etag": '~"DirIndex-[0-9a-f]+_CID-{docs}"'}),
    case("Etag: index.html, by the requested CID", "/ipfs/{docs}/web/", 200, {"etag": '"{web}"'}),
    case("Etag: weak for CAR", "/ipfs/{docs}?format=car", 200, {"etag": r'~W/".*{docs}.*\.car"'}),
    case("Etag: weak for TAR", "/ipfs/{docs}?format=tar", 200, {"etag": 'W/"{docs}.x-tar"'}),
    *(
        case("Cache-Control: immutable", url, 200, {"cache-control": FOR_EVER})
        for url in (
            "/ipfs/{hello}",
            "/ipfs/{docs}/web/",
            "/ipfs/{docs}?format=raw",
            "/ipfs/{docs}?format=car",
            "/ipfs/{docs}?format=tar",
            "/ipfs/{dagcbor}",
            "/ipfs/{json}",
        )
    ),
    case(
        "Cache-Control: not for a generated page",
        "/ipfs/{docs}/",
        200,
        {"cache-control": "~public, max-age=604800, .*"},
    ),
    case("Last-Modified: not under /ipfs/", "/ipfs/{hello}", 200, {"last-modified": None}),
    case("Content-Type: by the name", "/ipfs/{docs}/hello.txt", 200, {"content-type": "text/plain; charset=utf-8"}),
    case("Content-Type: by magic bytes", "/ipfs/{hello}", 200, {"content-type": "text/plain; charset=utf-8"}),
    case("Content-Type: by `filename`", "/ipfs/{ten}?filename=a.csv", 200, {"content-type": "text/csv; charset=utf-8"}),
    case(
        "Content-Disposition: inline",
        "/ipfs/{hello}?filename=a.txt",
        200,
        {"content-disposition": 'inline; filename="a.txt"'},
    ),
    case(
        "download",
        "/ipfs/{hello}?filename=a.txt&download=true",
        200,
        {"content-disposition": 'attachment; filename="a.txt"'},
    ),
    case(
        "download",
        "/ipfs/{docs}/hello.txt?download=true",
        200,
        {"content-disposition": 'attachment; filename="hello.txt"'},
    ),
    case("download", "/ipfs/{hello}?download=true", 200, {"content-disposition": "~attachment; .*"}),
    case("download", "/ipfs/{docs}/?download=true", 200, {"content-disposition": "~attachment; .*"}),
    case("download", "/ipfs/{hello}?download=false&filename=a", 200, {"content-disposition": "~inline; .*"}),
    case(
        "Content-Disposition: formats",
        "/ipfs/{docs}?format=raw",
        200,
        {"content-disposition": 'attachment; filename="{docs}.bin"'},
    ),
    case(
        "Content-Disposition: formats",
        "/ipfs/{docs}?format=car",
        200,
        {"content-disposition": 'attachment; filename="{docs}.car"'},
    ),
    case(
        "Content-Disposition: formats",
        "/ipfs/{docs}?format=tar",
        200,
        {"content-disposition": 'attachment; filename="{docs}.tar"'},
    ),
    case(
        "Content-Disposition: formats",
        "/ipfs/{docs}?format=tar&filename=a.tar",
        200,
        {"content-disposition": 'attachment; filename="a.tar"'},
    ),
    case(
        "Content-Disposition: other letters than ASCII",
        "/ipfs/{hello}?filename=" + quote("testтест.jpg"),
        200,
        {"content-disposition": "inline; filename=\"test____.jpg\"; filename*=UTF-8''test%D1%82%D0%B5%D1%81%D1%82.jpg"},
    ),
    case("Location: directory URL normalization", "/ipfs/{docs}", 301, {"location": "/ipfs/{docs}/"}),
    case("Location: directory URL normalization", "/ipfs/{docs}?a=b%2Fc", 301, {"location": "/ipfs/{docs}/?a=b%2Fc"}),
    case(
        "Location: directory URL normalization",
        f"/ipfs/{{docs}}/{quote('ąę')}",
        301,
        {"location": f"/ipfs/{{docs}}/{quote('ąę')}/"},
    ),
    case("Location: directory URL normalization", "/ipfs/{docs}/web", 301, {"location": "/ipfs/{docs}/web/"}),
    case("X-Ipfs-Path", "/ipfs/{docs}/hello.txt", 200, {"x-ipfs-path": "/ipfs/{docs}/hello.txt"}),
    case("X-Ipfs-Path", "/ipfs/{docs}/web/", 200, {"x-ipfs-path": "/ipfs/{docs}/web/"}),
    case("X-Ipfs-Path", "/ipfs/{docs}/", 200, {"x-ipfs-path": "/ipfs/{docs}/"}),
    case("X-Ipfs-Path", "/ipfs/{docs}/sub", 301, {"x-ipfs-path": "/ipfs/{docs}/sub"}),
    case(
        "IPIP-0548: X-Ipfs-Path is left out where a header cannot carry it",
        f"/ipfs/{{docs}}/{LETTERS}",
        200,
        {"x-ipfs-path": None},
    ),
    case(
        "IPIP-0548: Ipfs-Uri",
        f"/ipfs/{{docs}}/{LETTERS}",
        200,
        {"ipfs-uri": f"ipfs://{{docs}}/{quote('ąę')}/{quote('ź ł.txt')}"},
    ),
    case("IPIP-0548: Ipfs-Uri", "/ipfs/{docs}/", 200, {"ipfs-uri": "ipfs://{docs}/"}),
    case(
        "IPIP-0548: an encoded slash parts names",
        "/ipfs/{docs}/sub%2Fx.txt",
        200,
        {"ipfs-uri": "ipfs://{docs}/sub/x.txt"},
        body=b"x",
    ),
    case("X-Ipfs-Roots", f"/ipfs/{{docs}}/{LETTERS}", 200, {"x-ipfs-roots": "{docs},{letters},{zl}"}),
    case("X-Ipfs-Roots", "/ipfs/{docs}/", 200, {"x-ipfs-roots": "{docs}"}),
    case("X-Ipfs-Roots", "/ipfs/{docs}/web/", 200, {"x-ipfs-roots": "{docs},{web}"}),
    case("X-Content-Type-Options", "/ipfs/{docs}?format=raw", 200, {"x-content-type-options": "nosniff"}),
    case("X-Content-Type-Options", "/ipfs/{docs}?format=car", 200, {"x-content-type-options": "nosniff"}),
    case("Symbolic links: the target", "/ipfs/{docs}/to-hello", 200, {"etag": '"{symlink}"'}, body=b"hello.txt"),
    case("404: missing root blocks", "/ipfs/{absent}", 404),
    case("404: missing root blocks", "/ipfs/{absent}?format=car", 404),
    case("404: missing root blocks", "/ipfs/{absent}?format=raw", 404),
    case("404: which part is missing", "/ipfs/{docs}/web/nope", 404),
    case("400: the CID is malformed", "/ipfs/QmInvalid", 400),
    case("400: the CID is malformed", "/ipfs/QmInvalid/hello.txt", 400),
]

CORS = [
    case(
        "CORS (IPIP-0423)",
        url,
        status,
        {
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "GET, HEAD, OPTIONS",
            "access-control-allow-headers": "~.*Content-Type.*Range.*User-Agent.*X-Requested-With.*",
            "access-control-expose-headers": "~.*Content-Length.*Content-Range.*X-Ipfs-Path.*X-Ipfs-Roots.*",
        },
        method=method,
    )
    for method, url, status in [
        ("GET", "/ipfs/{hello}", 200),
        ("HEAD", "/ipfs/{hello}", 200),
        ("GET", "/ipfs/{docs}/", 200),
        ("GET", "/ipfs/{docs}", 301),
        ("GET", "/ipfs/{absent}", 404),
        ("OPTIONS", "/ipfs/{hello}", 204),
        ("OPTIONS", "/", 204),
    ]
]


@pytest.mark.parametrize("row", [*REQUESTS, *FORMATS, *CODECS, *RANGES, *HEADERS, *CORS], ids=str)
async def test_a_clause_of_the_specification(site: Site, row: Case) -> None:
    """What the path gateway specification says in the clause that the row names."""
    await check(site, row)


@pytest.mark.parametrize("row", IF_NONE_MATCH, ids=str)
async def test_what_the_asker_has_is_not_sent(site: Site, row: Case) -> None:
    """A match is answered with 304 and no payload: strong, weak, in a list, or any."""
    await check(site, row)
