"""Directories: building, listing and looking up, plain and sharded; names; hostile shards."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.dag import (
    CID,
    DAG_PB,
    RAW,
    DataType,
    DirectoryBuilder,
    FileBuilder,
    HamtEntry,
    Profile,
    drive,
    hash_block,
    list_directory,
    node_kind,
    profile,
    resolve_path,
    safe_name,
    sha256_multihash,
    symlink_block,
    symlink_target,
    unixfs,
)
from kachery_p2p.dag.directory import ListLimits
from kachery_p2p.dag.hamt import encode_shard, hash_name, index_at
from kachery_p2p.dag.limits import LARGEST_LIST_BATCH, LIST_BATCH, SMALL_SHARD
from kachery_p2p.dag.pb import PBLink, encode_node
from kachery_p2p.dag.unixfs import MURMUR3_X64_64, UnixFSData
from kachery_p2p.errors import InvalidName, MalformedDag, NotADirectory, PathNotFound, UnsupportedCID

FILE = CID(1, RAW, sha256_multihash(b"x"))
SHARD = UnixFSData(DataType.HAMT_SHARD)


class Store:
    """Blocks by multihash; counts what is asked for."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.batches: list[int] = []

    def keep(self, cid: CID, block: bytes) -> None:
        self.blocks[cid.multihash] = block

    def put(self, block: bytes) -> CID:
        cid = CID(1, DAG_PB, sha256_multihash(block))
        self.keep(cid, block)
        return cid

    def plain(self, links: list[PBLink], kind: DataType = DataType.DIRECTORY, data: bytes | None = None) -> CID:
        return self.put(encode_node(links, unixfs.encode(UnixFSData(kind, data))))

    def __call__(self, cids: list[CID]) -> list[bytes]:
        self.batches.append(len(cids))
        return [self.blocks[cid.multihash] for cid in cids]


def always_sharded(fanout: int = 256, cid_version: int = 1) -> Profile:
    return Profile("test", shard_threshold=0, hamt_fanout=fanout, cid_version=cid_version)


good_names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
good_names = good_names.filter(lambda name: name not in (".", ".."))


@settings(max_examples=60)
@given(
    st.sets(good_names, max_size=60),
    st.sampled_from([profile(), profile("unixfs-v0-2015"), *map(always_sharded, (8, 16, 64, 256, 1024))]),
    st.randoms(),
)
def test_round_trip(names: set[str], which: Profile, rnd) -> None:
    """Whatever the names, order of adding and fanout: the listing has each entry once, sorted by the bytes of the
    names, and every name resolves to its CID while others do not."""
    store = Store()
    entries = {name: (CID(1, RAW, sha256_multihash(name.encode())), len(name)) for name in names}
    order = sorted(names)
    rnd.shuffle(order)
    cids = set()
    for turn in (order, order[::-1]):
        builder = DirectoryBuilder(which, store.keep)
        for name in turn:
            builder.add(name, *entries[name])
        cids.add(builder.finish().cid)
    (cid,) = cids
    expected = [HamtEntry(name, *entries[name]) for name in sorted(names, key=lambda name: name.encode())]
    assert drive(list_directory(cid), store) == expected
    for name in order[:10]:
        assert drive(resolve_path(cid, ["", name, ""]), store) == (entries[name][0], name, len(name), None)
        if name + "?" not in names:
            with pytest.raises(PathNotFound, match="no '"):
                drive(resolve_path(cid, [name + "?"]), store)


def test_dag_size_is_the_sum_of_all_blocks() -> None:
    """The size of a sharded directory counts each of its blocks and each entry."""
    store = Store()
    builder = DirectoryBuilder(always_sharded(), store.keep)
    for i in range(500):
        builder.add(f"n{i}", FILE, 10)
    assert builder.finish().dag_size == sum(map(len, store.blocks.values())) + 5000


def test_nested_path() -> None:
    """A path goes through plain and sharded directories down to a file, and reads only the directories on it."""
    store = Store()
    sub = DirectoryBuilder(always_sharded(), store.keep)
    for i in range(300):
        sub.add(f"file{i}", FILE, 1)
    top = DirectoryBuilder(profile(), store.keep)
    top.add("sub", *sub.finish())
    root = top.finish().cid
    assert drive(resolve_path(root, ["sub", "file7"]), store).cid == FILE
    assert set(store.batches) == {1}
    assert len(store.batches) <= 4
    assert drive(resolve_path(root, []), store) == (root, "", None, None)
    with pytest.raises(PathNotFound, match=f"no 'nothing' in {root}/sub"):
        drive(resolve_path(root, ["sub", "nothing", "more"]), store)
    with pytest.raises(NotADirectory, match="file7 is a file"):
        drive(resolve_path(root, ["sub", "file7", "more"]), store)
    for bad in ("..", ".", "a/b", "\udcff"):
        with pytest.raises(InvalidName):
            drive(resolve_path(root, [bad]), store)
    with pytest.raises(InvalidName, match="too long"):
        drive(resolve_path(root, ["x"] * 5000), store)


def test_path_through_a_wrapped_file() -> None:
    """A path does not go below files; listing them is refused too, and that of a symbolic link."""
    store = Store()
    link, block = symlink_block(profile(), "../other")
    store.keep(link, block)
    file = store.plain([], DataType.FILE)
    top = DirectoryBuilder(profile(), store.keep)
    top.add("link", link, 1)
    top.add("file", file, 1)
    root = top.finish().cid
    with pytest.raises(NotADirectory, match="is a file"):
        drive(resolve_path(root, ["file", "a"]), store)
    for cid in (link, file):
        with pytest.raises(NotADirectory):
            drive(list_directory(cid), store)
    store.keep(FILE, b"x")
    with pytest.raises(NotADirectory):
        drive(list_directory(FILE), store)
    with pytest.raises(UnsupportedCID, match="0x71"):
        drive(list_directory(CID(1, 0x71, FILE.multihash)), store)


def test_identity_directories_are_not_asked_for() -> None:
    """A directory that an identity CID carries in itself is read without asking anyone."""
    block = encode_node([PBLink("a", FILE, 1)], b"\x08\x01")
    cid = CID(1, DAG_PB, hash_block(0, block))
    assert drive(list_directory(cid), lambda cids: pytest.fail("asked")) == [HamtEntry("a", FILE, 1)]


def test_listing_asks_in_batches() -> None:
    """A sharded listing asks for many blocks at once: first for LIST_BATCH at most, and while they are small for twice
    as many each time, up to a bound. A large one among them ends that."""
    store = Store()
    builder = DirectoryBuilder(always_sharded(1024), store.keep)
    for i in range(8000):
        builder.add(f"n{i}", FILE, 1)
    cid = builder.finish().cid
    assert len(drive(list_directory(cid), store)) == 8000
    assert sum(store.batches) == len(store.blocks)
    assert all(size <= LIST_BATCH << i for i, size in enumerate(store.batches[1:]))
    assert max(store.batches) <= LARGEST_LIST_BATCH
    assert LARGEST_LIST_BATCH * SMALL_SHARD <= 32 << 20
    assert len(store.batches) <= 6

    store.batches.clear()
    assert len(drive(list_directory(cid, ListLimits(small_shard=10)), store)) == 8000
    assert max(store.batches) <= LIST_BATCH


def test_a_listing_has_an_end() -> None:
    """As many entries as are allowed are listed; of one more, nothing."""
    store = Store()
    builder = DirectoryBuilder(always_sharded(256), store.keep)
    for i in range(1000):
        builder.add(f"n{i}", FILE, 1)
    cid = builder.finish().cid
    assert len(drive(list_directory(cid, ListLimits(entries=1000)), store)) == 1000
    with pytest.raises(MalformedDag, match="more than 999 entries"):
        drive(list_directory(cid, ListLimits(entries=999)), store)


def test_foreign_names() -> None:
    """Whatever a stranger wrote as a name is listed as it is; what may become a file is for safe_name to say."""
    store = Store()
    names = ["..", "/etc/passwd", "", ".", "a\0b", "C:\\x", "x" * 3000]
    cid = store.plain([PBLink(name, FILE, None) for name in names])
    assert [entry.name for entry in drive(list_directory(cid), store)] == names
    for name in names[:5] + names[6:]:
        with pytest.raises(InvalidName):
            safe_name(name)


def test_duplicate_names() -> None:
    """Two entries of one name are refused, in listings and on paths; the builder refuses them too."""
    store = Store()
    cid = store.plain([PBLink("a", FILE, 1), PBLink("b", FILE, 1), PBLink("a", FILE, 2)])
    with pytest.raises(MalformedDag, match="same name"):
        drive(list_directory(cid), store)
    with pytest.raises(MalformedDag, match="two entries"):
        drive(resolve_path(cid, ["a"]), store)
    assert drive(resolve_path(cid, ["b"]), store).cid == FILE
    builder = DirectoryBuilder(profile())
    builder.add("a", FILE, 1)
    with pytest.raises(InvalidName, match="already"):
        builder.add("a", FILE, 1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0", "\udc80"])
def test_bad_names(name: str) -> None:
    """Names that cannot stand in a directory are refused by the builder and by safe_name, in a printable sentence."""
    with pytest.raises(InvalidName) as caught:
        DirectoryBuilder(profile()).add(name, FILE, 1)
    str(caught.value).encode("ascii")
    with pytest.raises(InvalidName):
        safe_name(name)


def test_safe_names() -> None:
    """255 bytes are the most; control characters are nowhere; Windows has more rules than others."""
    assert safe_name("ü" * 127 + "x", windows=False) == "ü" * 127 + "x"
    with pytest.raises(InvalidName, match="255"):
        safe_name("ü" * 128)
    assert safe_name("Icon\r", windows=False) == "Icon\r"  # of every folder that has an icon of its own on macOS
    for name in ("x\x1f", "icon\r", "\x7f", "\x9b2J", "a\u2028"):
        with pytest.raises(InvalidName, match="control character"):
            safe_name(name, windows=False)
    for name in ("con", "COM1.txt", "nul .x", "a:b", "a.", "a ", "a\\b", "LPT²", "aux"):
        assert safe_name(name, windows=False) == name
        with pytest.raises(InvalidName, match="Windows"):
            safe_name(name, windows=True)
    for name in ("console", ".hidden", "com10", "a b", "nullable"):
        assert safe_name(name, windows=True) == name


def test_node_kinds() -> None:
    """What a block is, is told from its codec and data."""
    store = Store()
    assert node_kind(b"anything", FILE) is DataType.RAW
    for kind in (DataType.FILE, DataType.DIRECTORY):
        cid = store.plain([], kind)
        assert node_kind(store.blocks[cid.multihash], cid) is kind
    with pytest.raises(MalformedDag):
        node_kind(b"", CID(1, DAG_PB, FILE.multihash))


def test_symlinks() -> None:
    """A symbolic link keeps its target; what is no link, or has a target that is not text, is refused."""
    cid, block = symlink_block(profile("unixfs-v0-2015"), "../dätä")
    assert cid.version == 0
    assert symlink_target(block, cid) == "../dätä"
    for target in ("", "a\0", "x" * 5000, "\udc80"):
        with pytest.raises(InvalidName):
            symlink_block(profile(), target)
    store = Store()
    for data in (UnixFSData(DataType.FILE, b"a"), UnixFSData(DataType.SYMLINK, b"\xff")):
        bad = store.put(encode_node([], unixfs.encode(data)))
        with pytest.raises(MalformedDag):
            symlink_target(store.blocks[bad.multihash], bad)


# --- hostile shards --------------------------------------------------------------------------------------------------


def place(name: str, level: int = 0) -> int:
    return index_at(hash_name(name.encode()), level, 256)


def shard(store: Store, links: list[tuple[int, PBLink]], **changes) -> CID:
    """A shard with anything about it changed."""
    used = 0
    for index, _ in links:
        used |= 1 << index
    bits = used.to_bytes((used.bit_length() + 7) // 8, "big")
    data = UnixFSData(DataType.HAMT_SHARD, bits, None, (), MURMUR3_X64_64, 256)._replace(**changes)
    named = [link._replace(name=f"{index:02X}{link.name}") for index, link in links]
    return store.put(encode_node(named, unixfs.encode(data)))


def hostile(store: Store) -> list[tuple[CID, str]]:
    a, b = PBLink("a", FILE, 1), PBLink("b", FILE, 1)
    at_a, at_b = place("a"), place("b")
    below = shard(store, [(place("a", 1), a)])
    bits = unixfs.encode(UnixFSData(DataType.HAMT_SHARD, b"\1", None, (), MURMUR3_X64_64, 256))
    no_index = store.put(encode_node([PBLink("zza", FILE, 1)], bits))
    small_index = store.put(encode_node([PBLink("aaa", FILE, 1)], bits))
    return [
        (shard(store, [(at_a, a)], fanout=None), "fanout is 0"),
        (shard(store, [(at_a, a)], fanout=255), "fanout is 255"),
        (shard(store, [(at_a, a)], fanout=2048), "fanout is 2048"),
        (shard(store, [(at_a, a)], hash_type=0x12), "hash type is 18"),
        (shard(store, [(at_a, a)], data=b"\x01"), "bit field"),
        (shard(store, [((at_a + 1) % 256, a)]), "wrong place"),
        (shard(store, [(at_a, a), (at_a, a)]), "two links"),
        (no_index, "no index"),
        (small_index, "no valid index"),
        (shard(store, [((at_a + 1) % 256, PBLink("", below, 1))]), "wrong place"),
        (shard(store, [(at_a, PBLink("", FILE, 1)), (at_b, b)]), "not dag-pb"),
        (shard(store, [(at_a, PBLink("", store.plain([]), 1))]), "no part of a sharded directory"),
        (shard(store, [(at_a, PBLink("", shard(store, []), 1))]), "empty"),
        (shard(store, [(at_a, PBLink("", shard(store, [], fanout=16), 1))]), "that of the directory is 256"),
    ]


@pytest.mark.parametrize("which", range(14))
def test_hostile_shards(which: int) -> None:
    """A shard that contradicts itself or its parent is refused, by listing and by looking up, and its CID is named."""
    store = Store()
    cid, says = hostile(store)[which]
    with pytest.raises(MalformedDag, match=says) as caught:
        drive(list_directory(cid), store)
    assert "bafybei" in str(caught.value)
    # A look-up may miss a lie that lies beside its way, but it never finds the entry.
    with pytest.raises((MalformedDag, PathNotFound)):
        drive(resolve_path(cid, ["a"]), store)


def test_shards_deeper_than_the_hash() -> None:
    """Shards nested past the 64 bits of a hash are refused, also when looked into."""
    store = Store()
    levels = 9
    hashed = hash_name(b"a")
    cid = shard(store, [(0, PBLink("a", FILE, 1))])
    for level in reversed(range(levels)):
        index = hashed >> (64 - 8 * (level + 1)) & 255 if level < 8 else 0
        cid = shard(store, [(index, PBLink("", cid, 1))])
    for reader in (list_directory(cid), resolve_path(cid, ["a"])):
        with pytest.raises(MalformedDag, match="deeper"):
            drive(reader, store)


def test_shard_bomb() -> None:
    """Shards that hold only shards claim 16**15 parts with sixteen blocks: refused after a few thousand of them."""
    store = Store()

    def of(below: CID) -> CID:
        links = [PBLink(f"{i:X}", below, 1) for i in range(16)]
        data = UnixFSData(DataType.HAMT_SHARD, b"\xff\xff", None, (), MURMUR3_X64_64, 16)
        return store.put(encode_node(links, unixfs.encode(data)))

    cid = of(CID(1, DAG_PB, FILE.multihash))
    for _ in range(14):
        cid = of(cid)
    with pytest.raises(MalformedDag, match="more parts than it has entries"):
        drive(list_directory(cid), store)
    assert sum(store.batches) < 4000


def test_shard_bytes() -> None:
    """encode_shard writes what the specification shows: index, bit field without leading zeros, hash type, fanout."""
    block = encode_shard([(2, PBLink("x", FILE, 1)), (9, PBLink("", FILE, 1))], 256, SHARD)
    assert bytes.fromhex("0805120202042822308002") in block
    assert b"02x" in block
    assert b"09" in block


def test_import_is_light() -> None:
    """Importing the room, building and walking a file load neither trio nor libp2p nor the slow codecs."""
    code = """
import sys
from kachery_p2p.dag import *
b = FileBuilder(Profile('tiny', chunk_size=1))
for _ in range(3):
    b.add_leaf(sha256_multihash(b"x"), 1)
root = b.finish().cid
assert CID.parse(str(root)) == root
FileWalk(root).take(1)
heavy = {"trio", "libp2p", "cid", "multibase", "multiformats", "ipld_dag_pb", "mmh3", "numpy", "blake3"}
print(sorted(heavy & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.strip() == "[]"


def test_empty_file_needs_no_leaf() -> None:
    """A builder to which nothing was added makes the empty file."""
    assert str(FileBuilder(profile()).finish().cid) == str(CID(1, RAW, sha256_multihash(b"")))
