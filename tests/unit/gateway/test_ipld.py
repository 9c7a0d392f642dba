"""dag-cbor and dag-json as the gateway reads them: what is a value, what is refused, and how it is shown."""

from __future__ import annotations

import html
import re
from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.errors import KacheryError, MalformedDag, PathNotFound, UnsupportedCID
from kachery_p2p.gateway.server import ipld, limits
from kachery_p2p.gateway.server.pages import node_page
from kachery_p2p.gateway.server.paths import ContentPath
from tests.helpers.gateway_served import gateway
from tests.helpers.gateway_site import Site

LEAF = CID(1, RAW, sha256_multihash(b"leaf"))
LINK = b"\xd8\x2a\x58\x25\x00" + bytes(LEAF)
JSON_LINK = b'{"/":"%s"}' % str(LEAF).encode()


def cid_of(block: bytes, codec: int) -> CID:
    return CID(1, codec, sha256_multihash(block))


def decoded(block: bytes, codec: int = ipld.DAG_CBOR) -> object:
    return ipld.decode(cid_of(block, codec), block)


@pytest.mark.parametrize(
    ("codec", "block", "value"),
    [
        (ipld.DAG_CBOR, b"\xf6", None),
        (ipld.DAG_CBOR, b"\xf5", True),
        (ipld.DAG_CBOR, b"\x1b" + b"\xff" * 8, 2**64 - 1),
        (ipld.DAG_CBOR, b"\x3b" + b"\xff" * 8, -(2**64)),
        (ipld.DAG_CBOR, b"\xfb\x3f\xf8" + bytes(6), 1.5),
        (ipld.DAG_CBOR, b"\x42\x01\x02", b"\1\2"),
        (ipld.DAG_CBOR, b"\xa1\x61a\x81" + LINK, {"a": [ipld.Link(bytes(LEAF))]}),
        (ipld.DAG_JSON, b"[null, true, 1, 1.5]", [None, True, 1, 1.5]),
        (ipld.DAG_JSON, b'{"a":[%s]}' % JSON_LINK, {"a": [ipld.Link(bytes(LEAF))]}),
        (ipld.DAG_JSON, b'{"a":{"/":{"bytes":"AQI"}}}', {"a": b"\1\2"}),
        (ipld.DAG_JSON, '"ü"'.encode(), "ü"),
    ],
)
def test_values(codec: int, block: bytes, value: object) -> None:
    """All kinds of the data model, and links told from bytes and text."""
    assert decoded(block, codec) == value


@pytest.mark.parametrize(
    ("codec", "block"),
    [
        (ipld.DAG_CBOR, b""),
        (ipld.DAG_CBOR, b"\x00\x00"),
        (ipld.DAG_CBOR, b"\xf7"),
        (ipld.DAG_CBOR, b"\xe1"),
        (ipld.DAG_CBOR, b"\xf9\x7e\x00"),
        (ipld.DAG_CBOR, b"\xf9\x7c\x00"),
        (ipld.DAG_CBOR, b"\x61\xff"),
        (ipld.DAG_CBOR, b"\x9f\x01\xff"),
        (ipld.DAG_CBOR, b"\xa2\x61a\x01\x61a\x02"),
        (ipld.DAG_CBOR, b"\xa1\x01\x02"),
        (ipld.DAG_CBOR, b"\xa1\x41a\x02"),
        (ipld.DAG_CBOR, b"\x9b" + b"\xff" * 8),
        (ipld.DAG_CBOR, b"\x9a\x7f\xff\xff\xff"),
        (ipld.DAG_CBOR, b"\x5b" + b"\x7f" * 8),
        (ipld.DAG_CBOR, b"\xba\xff\xff\xff\xff"),
        (ipld.DAG_CBOR, b"\xd8\x2a\x45" + b"\x01\x55\x12\x20\x00"),  # a link without the zero in front
        (ipld.DAG_CBOR, b"\xd8\x2a\x00"),
        (ipld.DAG_CBOR, b"\xd8\x2a\x40"),
        *((ipld.DAG_CBOR, cbor2.dumps(cbor2.CBORTag(tag, content))) for tag, content in [
            (0, "2013-03-21T20:04:00Z"), (1, 1), (2, b"\1"), (3, b"\1"), (4, [2**62, 1]), (5, [2**62, 1]), (25, 0),
            (28, [1]), (29, 0), (30, [1, 2]), (35, "("), (36, "x"), (37, bytes(16)), (52, b"1234"), (54, bytes(16)),
            (100, 1), (256, []), (258, []), (260, b"1234"), (261, {}), (1004, "2013-01-01"), (43000, []), (55799, 0),
            (65535, 0),
        ]),
        (ipld.DAG_CBOR, b"\x81" * 401 + b"\x00"),
        (ipld.DAG_CBOR, b"\x81" * 1_000_000 + b"\x00"),
        (ipld.DAG_CBOR, b"\x81\xd8\x1c" * 300_000 + b"\x00"),
        (ipld.DAG_CBOR, b"\x58" + bytes(limits.MAX_DECODED_BLOCK)),
        (ipld.DAG_JSON, b""),
        (ipld.DAG_JSON, b"{} {}"),
        (ipld.DAG_JSON, b"NaN"),
        (ipld.DAG_JSON, b"-Infinity"),
        (ipld.DAG_JSON, b'{"a":1,"a":2}'),
        (ipld.DAG_JSON, b"\xff"),
        (ipld.DAG_JSON, b'{"/":1}'),
        (ipld.DAG_JSON, b'{"/":"no CID"}'),
        (ipld.DAG_JSON, b'{"/":"bafkqaaa","more":1}'),
        (ipld.DAG_JSON, b'{"/":{"bytes":"?"}}'),
        (ipld.DAG_JSON, b'{"/":{"bytes":"AQI","more":1}}'),
        (ipld.DAG_JSON, b"1" * 10_000),
        (ipld.DAG_JSON, b"[" * 401 + b"]" * 401),
        (ipld.DAG_JSON, b"[" * 500_000 + b"]" * 500_000),
        (ipld.DAG_JSON, b'{"a":' * 150_000),
    ],
)  # fmt: skip
def test_what_is_no_value(codec: int, block: bytes) -> None:
    """What the specifications rule out, and what is made to cost much, is refused with one kind of error."""
    with pytest.raises(MalformedDag):
        decoded(block, codec)


@given(st.binary(max_size=200), st.sampled_from([ipld.DAG_CBOR, ipld.DAG_JSON]))
@settings(max_examples=300)
def test_any_bytes(block: bytes, codec: int) -> None:
    """Whatever a stranger writes into a block, it is a value, or an error that is explained; also as a page."""
    cid = cid_of(block, codec)
    try:
        ipld.links(cid, block)
        ipld.follow(cid, block, ["a", "0"])
    except KacheryError:
        pass
    assert node_page(ContentPath(cid, (), False), cid, block).startswith(b"<!doctype html>")


def test_paths() -> None:
    """Names of maps and numbers of lists lead to links; the rest of the path is left to whoever follows them."""
    block = cbor2.dumps({"a": [1, cbor2.CBORTag(42, b"\0" + bytes(LEAF))], "0": {"": 1}})
    cid = cid_of(block, ipld.DAG_CBOR)
    assert ipld.follow(cid, block, ["a", "1"]) == (LEAF, 2)
    assert ipld.follow(cid, block, ["a", "1", "more", "names"]) == (LEAF, 2)
    for names in (["b"], ["a", "2"], ["a", "-1"], ["a", "x"], ["a", "١"], ["a", "0", "x"], ["0", "x"]):
        with pytest.raises(PathNotFound):
            ipld.follow(cid, block, names)
    for names in (["a"], ["a", "0"], ["0"], ["0", ""]):
        with pytest.raises(ipld.NotALink):
            ipld.follow(cid, block, names)


def test_links_with_hash_functions_that_we_do_not_have() -> None:
    """Such a link is shown and does no harm; following it says what is wrong."""
    strange = b"\x01\x55\x91\x20\x04abcd"
    block = cbor2.dumps({"a": cbor2.CBORTag(42, b"\0" + strange), "b": cbor2.CBORTag(42, b"\0" + bytes(LEAF))})
    cid = cid_of(block, ipld.DAG_CBOR)
    assert ipld.follow(cid, block, ["b"]) == (LEAF, 1)
    with pytest.raises(UnsupportedCID):
        ipld.follow(cid, block, ["a"])
    page = node_page(ContentPath(cid, (), False), cid, block).decode()
    assert strange.hex() in page
    assert f'<a href="/ipfs/{LEAF}">' in page


def test_a_page_shows_what_is_in_a_block_as_text() -> None:
    """Keys and values of strangers are text on the page, whatever they are; long ones are cut."""
    value = {"<script>": '"><img src=x onerror=1>', "long": "x" * 10_000, "b": b"\xff" * 2000, "n": [1, {}, []]}
    block = cbor2.dumps(value)
    cid = cid_of(block, ipld.DAG_CBOR)
    page = node_page(ContentPath(cid, ("<b>",), False), cid, block).decode()
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    text = html.unescape(re.sub("<[^>]*>", "", page))
    assert '"<script>": "\\"><img src=x onerror=1>"' in text
    assert "(10,000 characters)" in text
    assert len(page) < 10_000


def test_a_page_is_bounded() -> None:
    """A block of a million numbers, or nested as deep as may be, is a page of some lines."""
    many = cbor2.dumps([1] * 900_000)
    page = node_page(ContentPath(LEAF, (), False), cid_of(many, ipld.DAG_CBOR), many)
    assert page.count(b"\n") < limits.MAX_LINES_SHOWN + 100
    assert b"... and more" in page
    deep = b"\x81" * 400 + b"\x00"
    assert len(node_page(ContentPath(LEAF, (), False), cid_of(deep, ipld.DAG_CBOR), deep)) < 100_000


async def test_a_block_that_cannot_be_read_is_still_given(tmp_path: Path) -> None:
    """Blocks are given out as they are without a look into them; a page says why it shows nothing, a path is 404."""
    site = Site(tmp_path)
    bad = site.put(ipld.DAG_CBOR, b"\xa1\x01")
    async with gateway(site.repo) as client:
        assert (await client.get(f"/ipfs/{bad}")).content == b"\xa1\x01"
        page = await client.get(f"/ipfs/{bad}", headers={"accept": "text/html"})
        assert (page.status_code, "It cannot be shown" in page.text) == (200, True)
        assert (await client.get(f"/ipfs/{bad}/a")).status_code == 404
        assert (await client.get(f"/ipfs/{bad}?format=car")).status_code == 422
        assert (await client.get(f"/ipfs/{bad}?format=car&dag-scope=block")).status_code == 200
        page = (await client.get(f"/ipfs/{site.dag_cbor}", headers={"accept": "text/html"})).text
        for link in re.findall(r'href="([^"]+)"', page):
            assert (await client.get(html.unescape(link), follow_redirects=True)).status_code == 200
        assert f'href="/ipfs/{site.dag_cbor}?format=dag-cbor"' in page
    site.repo.close()
