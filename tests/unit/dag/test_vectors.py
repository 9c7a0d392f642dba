"""The CIDs that other implementations compute for the same input, and the seed URIs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kachery_p2p.dag import (
    CID,
    DAG_PB,
    UNIXFS_V0_2015,
    UNIXFS_V1_2025,
    BuiltFile,
    DirectoryBuilder,
    FileBuilder,
    Profile,
    drive,
    leaf_block,
    list_directory,
    profile,
    resolve_path,
    sha256_multihash,
    unixfs,
)
from kachery_p2p.dag.pb import decode_node, encode_node
from tests.helpers.profiles import custom_profile

VECTORS = Path(__file__).parents[2] / "vectors"
UNIXFS = json.loads((VECTORS / "unixfs_cids.json").read_text())
SEEDS = json.loads((VECTORS / "seed_uris.json").read_text())
RAW_256K_174 = custom_profile("unixfs-v1-2025", chunk_size=256 * 1024, width=174)
PROFILES = {"unixfs-v1-2025": UNIXFS_V1_2025, "unixfs-v0-2015": UNIXFS_V0_2015, "raw_256k_174": RAW_256K_174}


def build(data: bytes, which: Profile, store: dict[bytes, bytes] | None = None) -> BuiltFile:
    """Build a file; keep its blocks in `store`, by multihash."""

    def keep(cid: CID, block: bytes) -> None:
        if store is not None:
            store[cid.multihash] = block

    builder = FileBuilder(which, keep)
    view = memoryview(data)
    for start in range(0, len(data), which.chunk_size):
        chunk = view[start : start + which.chunk_size]
        block = leaf_block(which, chunk)
        multihash = sha256_multihash(block)
        if store is not None:
            store[multihash] = bytes(block)
        builder.add_leaf(multihash, len(chunk), len(block))
    return builder.finish()


def content(entry: dict) -> bytes:
    recipe = entry["input"]
    if recipe == "no bytes":
        return b""
    if recipe.endswith("zero bytes"):
        return bytes(entry["size"])
    return recipe[2:-1].encode().decode("unicode_escape").encode()


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("entry", UNIXFS["files"], ids=lambda e: e["input"])
def test_file_vectors(entry: dict, name: str) -> None:
    """Every file of the vectors has the CID that Helia and Kubo compute, under every profile."""
    data = content(entry)
    assert len(data) == entry["size"]
    built = build(data, PROFILES[name])
    assert str(built.cid) == entry[name]
    assert built.size == len(data)


def test_hello_world() -> None:
    """The example of IPIP-499."""
    (expected,) = UNIXFS["ipip_499"].values()
    assert str(build(b"hello world", UNIXFS_V1_2025).cid) == expected


def test_seeds() -> None:
    """The seed URIs whose bytes are text are one raw block of exactly those bytes."""
    for data, key in (
        (b"test-content\n", "store_file of 'test-content\\n'"),
        (b"example text", "store_text('example text')"),
        (b'{"example":"dict"}', "store_json({'example': 'dict'})"),
    ):
        assert f"ipfs://{build(data, profile()).cid}" == SEEDS[key]


@pytest.mark.parametrize("name", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_plain_directory_vector(name: str) -> None:
    """The nested directory of the vectors has the CID that others compute, whatever the order of adding."""
    which = profile(name)
    files = {text: build(text.encode(), which) for text in "abc"}
    sub = DirectoryBuilder(which)
    sub.add("c.txt", files["c"].cid, files["c"].dag_size)
    top = DirectoryBuilder(which)
    top.add("sub", *sub.finish())
    top.add("b.txt", files["b"].cid, files["b"].dag_size)
    top.add("a.txt", files["a"].cid, files["a"].dag_size)
    assert str(top.finish().cid) == UNIXFS["directories"][0][name]


@pytest.mark.parametrize("name", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_sharded_directory_vector(name: str) -> None:
    """The directory of 6000 files is a HAMT with the CID that others compute; it lists and resolves as it was made."""
    which = profile(name)
    blocks: dict[bytes, bytes] = {}
    builder = DirectoryBuilder(which, lambda cid, block: blocks.__setitem__(cid.multihash, block))
    names = [f"file-with-a-rather-long-name-{i:06d}.dat" for i in range(6000)]
    cids = []
    for i, file_name in enumerate(names):
        file = build(str(i).encode(), which)
        cids.append(file.cid)
        builder.add(file_name, file.cid, file.dag_size)
    built = builder.finish()
    assert str(built.cid) == UNIXFS["directories"][1][name]

    def fetch(wanted: list[CID]) -> list[bytes]:
        return [blocks[cid.multihash] for cid in wanted]

    listed = drive(list_directory(built.cid), fetch)
    assert [(entry.name, entry.cid) for entry in listed] == list(zip(names, cids, strict=True))
    for i in (0, 77, 5999):
        assert drive(resolve_path(built.cid, [names[i]], follow=False), fetch).cid == cids[i]


# Computed with ipfs-unixfs-importer 17 (Helia) on bytes (7 * i + i // 256) % 256: chunk size, width, raw leaves, size.
LAYOUTS = [
    (10, 2, True, 0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
    (10, 2, True, 31, "bafybeiff3bn2e67r3wuspx7g3m6suxdmyaqkggpvhukv5eeooc53bqdgcq"),
    (10, 2, True, 91, "bafybeidszmsirtcenle6v5e4aaxyviao6obxwdmhenw52oybfrz7takc7e"),
    (10, 2, True, 271, "bafybeiblllruhayaheso365ajslqgzq437kqoresnuk5vupmpiz4yejeb4"),
    (10, 2, True, 1000, "bafybeigmc2kk4zay4r3li6ielnmopzu6n2l3at5ynd3vxckc3uxplbcwme"),
    (10, 2, False, 0, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
    (10, 2, False, 31, "QmSTbp4M2RrrhPdzhZU2z5Myv7o2Rs7sQK7QoYDnV3Hpf7"),
    (10, 2, False, 91, "QmSUkDPwTf6a3Xa9jtFqs9qt3YgG9g6ATcPPqXKTVMHkh9"),
    (10, 2, False, 271, "QmeThbMJ3r5iBveWgkRUQwGZLBgSZ5LhTopyM1S3TeZFun"),
    (10, 2, False, 1000, "Qmc5s7zyys8gFfsJYFN8LcYTLesnUZBCJcny3ewrTRNxW6"),
    (10, 3, True, 31, "bafybeicdvtbrvpi4ekbyyewgap26ytt3aioseqvzujk7odb66dzlyi6pei"),
    (10, 3, True, 91, "bafybeigsn72zvlokphfejf5ok54ogpnqjzabe76n5k4cfxndfrnkthxyv4"),
    (10, 3, True, 271, "bafybeie6plb54c2grltn62pgyxrbtsnc7hhiakdy2qeis24m2t3mjmz7we"),
    (10, 3, True, 1000, "bafybeicn6bb3goc4u5q4nckd7qb23jwn2ad4azynuwaejvbhwokqwmdhre"),
    (10, 3, False, 31, "QmRoT4g5VyV4LkbXHLYhGGEZeHSQP48qvpznFEBSYjgo9W"),
    (10, 3, False, 91, "QmV6MTV3MGB1MrFSTfF2evWdPoYZUxTtxPPMoDAYpnN9KE"),
    (10, 3, False, 271, "QmZbujSKV21baNL2ptEofeWrGeYqpyqbdm36B4pbjyZ1gN"),
    (10, 3, False, 1000, "QmdjrexRpqZKiS2Y7GT31dPSBM9mLwGDakE6V9QGvv8RHQ"),
    (7, 5, True, 31, "bafybeigku3cylswqvl3sbn6sqdjqu64p5rza5ezxssq5v5ilwwcscb6lya"),
    (7, 5, True, 91, "bafybeidslommmwyw7cigrlxg27jhgohex7eit3rkmvgn2pjqkxyk4xkovu"),
    (7, 5, True, 271, "bafybeihhr2wcaj7uv3a6l6fjqkqjjsvon5kfrpwpyyiua2kfkenm42oup4"),
    (7, 5, True, 1000, "bafybeidkr4tojmfwnjhmtziqeiypdajcdaj656qbcqgieukggmcfbvjp7u"),
    (7, 5, False, 31, "QmYyYL7SFX7wBkBEAY37MTXHeBR6KZqBGCC32zzBpLhABT"),
    (7, 5, False, 91, "QmSKbL2dypTpL2NALQMXZu8jUAbCMKfQ3auWh93m7CBxaP"),
    (7, 5, False, 271, "QmasTTqiAjx2N8LXpnpSQHyHeM3fzSr2zFWYUWcZJ76pcG"),
    (7, 5, False, 1000, "QmTfuepUeigQ8wZKg6cWRJkPYeZ1NjtrGwYc65BhxCQvnF"),
]


@pytest.mark.parametrize(("chunk", "width", "raw", "size", "expected"), LAYOUTS)
def test_layouts(chunk: int, width: int, raw: bool, size: int, expected: str) -> None:
    """Narrow trees, full and ragged, are laid out as Helia does, with raw and with dag-pb leaves."""
    which = custom_profile(chunk_size=chunk, width=width, raw_leaves=raw, cid_version=int(raw))
    data = bytes((7 * i + (i >> 8)) & 255 for i in range(size))
    assert str(build(data, which).cid) == expected


def test_mode_and_mtime_vector() -> None:
    """Mode and mtime stand in the root as Helia writes them (ipfs-unixfs-importer 17, 25 bytes, chunk 10, width 3)."""
    data = bytes(7 * i & 255 for i in range(25))
    blocks: dict[bytes, bytes] = {}
    plain = decode_node(blocks[build(data, custom_profile(chunk_size=10, width=3), blocks).cid.multihash])
    assert plain.data is not None
    about = unixfs.decode(plain.data)._replace(mode=0o600, mtime_s=1_700_000_000, mtime_ns=5)
    root = CID(1, DAG_PB, sha256_multihash(encode_node(plain.links, unixfs.encode(about))))
    assert str(root) == "bafybeigqae2ztzkci2cyb52msqgtdqe7vrk4nz2kdxb46dcr44nr7lfklq"


@pytest.mark.parametrize(
    ("name", "entries", "last", "sharded", "expected"),
    [
        ("unixfs-v1-2025", 3797, 102, False, "bafybeigcngxce6tzzcdkqekkg2sy3rd65lgbwxgjnkegarhso7s7vavuhu"),
        ("unixfs-v1-2025", 3797, 103, True, "bafybeidgycfttm3ig7sehyd67cpgdhpg5eeqxsyiqulrkuddc4uxwmdysi"),
        ("unixfs-v0-2015", 4441, 91, False, "QmYyj9WjVg6Hob36UU9RytvHSJ6k7Ex8DUFK31rhoGjmyz"),
        ("unixfs-v0-2015", 4441, 92, True, "QmXh4CdwyCtWTxsK6XFkcAL2QH2j6FkaDR4DtChJ7bDfz1"),
    ],
)
def test_shard_threshold(name: str, entries: int, last: int, sharded: bool, expected: str) -> None:
    """At exactly 256 KiB a directory stays plain, and one byte more shards it, by each profile's own rule."""
    which = profile(name)
    empty = build(b"", which)
    builder = DirectoryBuilder(which)
    for i in range(entries):
        builder.add(f"entry-{i:019d}", empty.cid, empty.dag_size)
    builder.add("z" * last, empty.cid, empty.dag_size)
    assert builder.sharded is sharded
    assert str(builder.finish().cid) == expected


def test_hamt_place_of_a_name() -> None:
    """A name's place is the one that the UnixFS specification works out: '470.txt' is at 00, then 6E."""
    from kachery_p2p.dag.hamt import hash_name, index_at

    hashed = hash_name(b"470.txt")
    assert [index_at(hashed, level, 256) for level in (0, 1)] == [0x00, 0x6E]
