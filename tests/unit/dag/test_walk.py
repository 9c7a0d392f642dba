"""Reading a file's DAG: exactly the bytes asked for, only the blocks needed, and every lie found."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.dag import (
    CID,
    DAG_PB,
    RAW,
    BuiltFile,
    DataType,
    DirectoryBuilder,
    FileBuilder,
    FileWalk,
    Profile,
    Ref,
    WalkLimits,
    hash_block,
    inline_block,
    leaf_block,
    leaf_wrap,
    profile,
    sha256_multihash,
    symlink_block,
    unixfs,
)
from kachery_p2p.dag.limits import MAX_DEPTH, MAX_FILE_SIZE
from kachery_p2p.dag.pb import PBLink, encode_node, link_bytes, node_bytes
from kachery_p2p.dag.unixfs import UnixFSData
from kachery_p2p.errors import BlockTooLarge, InvalidProfile, IsADirectory, MalformedDag, NotAFile, UnsupportedCID
from tests.helpers.profiles import custom_profile

Blocks = dict[CID, bytes]


def build(data: bytes, which: Profile) -> tuple[BuiltFile, Blocks]:
    blocks: Blocks = {}
    builder = FileBuilder(which, blocks.__setitem__)
    for start in range(0, len(data) or 1, which.chunk_size):
        chunk = data[start : start + which.chunk_size]
        block = bytes(leaf_block(which, chunk))
        multihash = sha256_multihash(block)
        builder.add_leaf(multihash, len(chunk), len(block))
        blocks[CID(1, RAW, multihash) if which.raw_leaves else CID(which.cid_version, DAG_PB, multihash)] = block
    return builder.finish(), blocks


def node(
    blocks: Blocks, parts: list[tuple[CID, int]], data: bytes | None = None, filesize: int | None = None, **more
) -> CID:
    """Put a file node of any shape into `blocks`."""
    if filesize is None:
        filesize = len(data or b"") + sum(size for _, size in parts)
    inner = UnixFSData(more.pop("kind", DataType.FILE), data, filesize, [size for _, size in parts], **more)
    block = node_bytes([link_bytes(bytes(cid), b"", size) for cid, size in parts], unixfs.encode(inner))
    cid = CID(1, DAG_PB, sha256_multihash(block))
    blocks[cid] = block
    return cid


def raw(blocks: Blocks, data: bytes) -> CID:
    cid = CID(1, RAW, sha256_multihash(data))
    blocks[cid] = data
    return cid


def read(walk: FileWalk, blocks: Blocks, batch: int = 7) -> bytes:
    """Feed a walk in file order and put its pieces together; they must fit without gap or overlap."""
    pieces = {}
    while not walk.finished:
        refs = walk.take(batch)
        assert refs, "a walk that waits for nothing must have something to take"
        for ref in refs:
            for piece in walk.feed(ref, blocks[ref.cid]):
                pieces[piece.offset] = bytes(piece.data)
    out = b""
    for offset in sorted(pieces):
        assert offset == walk.start + len(out)
        out += pieces[offset]
    return out


profiles = st.builds(
    custom_profile,
    st.sampled_from(["unixfs-v1-2025", "unixfs-v0-2015"]),
    chunk_size=st.integers(1, 40),
    width=st.integers(2, 6),
)
bounds = st.builds(WalkLimits, nodes_ahead=st.integers(1, 5), low_water=st.sampled_from([0, 3, 512]))


@settings(max_examples=150)
@given(profiles, st.integers(0, 1500), st.data(), bounds, st.integers(0, 2**32))
def test_any_range_in_any_order(which: Profile, size: int, draw: st.DataObject, limits: WalkLimits, seed: int) -> None:
    """Whatever the layout, range, order of arrival and references given back: exactly data[start:end] comes out, each
    block is fed once, and no block outside the range is ever asked for."""
    rnd = random.Random(seed)
    data = rnd.randbytes(size)
    built, blocks = build(data, which)
    start = draw.draw(st.integers(0, size + 5))
    end = draw.draw(st.none() | st.integers(start, size + 20))
    stop = size if end is None else min(end, size)
    walk = FileWalk(built.cid, start, end, limits)
    assert walk.size is None
    out: list[Ref] = []
    got: dict[int, bytes] = {}
    fed: set[tuple[int, int]] = set()
    while not walk.finished:
        out += walk.take(rnd.randint(0, 9))
        if not out:
            continue
        ref = out.pop(rnd.randrange(len(out)))
        if rnd.random() < 0.2:
            walk.untake(ref)
            continue
        if ref.length is not None:
            assert ref.offset < stop
            assert ref.offset + ref.length > start
        assert (ref.offset, ref.depth) not in fed
        fed.add((ref.offset, ref.depth))
        if ref.depth and rnd.random() < 0.2 and data_of(ref, blocks) is not None:
            walk.skip(ref)
            part = data_of(ref, blocks) or b""
            low, high = max(start, ref.offset), min(stop, ref.offset + len(part))
            got[low] = part[low - ref.offset : high - ref.offset]
            continue
        for piece in walk.feed(ref, blocks[ref.cid]):
            assert piece.offset not in got
            got[piece.offset] = bytes(piece.data)
    assert (walk.size, walk.pending) == (size, 0)
    assert b"".join(got[offset] for offset in sorted(got)) == data[start:stop]
    assert walk.take(5) == []


def data_of(ref: Ref, blocks: Blocks) -> bytes | None:
    """The data of a reference if it is a leaf."""
    block = blocks[ref.cid]
    if ref.cid.codec == RAW:
        return block
    head, tail = leaf_wrap(DataType.FILE, ref.length or 0)
    if block.startswith(head) and len(block) == len(head) + (ref.length or 0) + len(tail):
        return block[len(head) : len(block) - len(tail)]
    return None


@pytest.mark.parametrize("base", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_strict_order(base: str) -> None:
    """With one node ahead and no low water, leaves come out in strict file order, also one at a time."""
    data = bytes(range(256)) * 4
    built, blocks = build(data, custom_profile(base, chunk_size=5, width=3))
    walk = FileWalk(built.cid, limits=WalkLimits(nodes_ahead=1, low_water=0))
    offsets = []
    while not walk.finished:
        (ref,) = walk.take(1)
        if walk.feed(ref, blocks[ref.cid]):
            offsets.append(ref.offset)
    assert offsets == list(range(0, len(data), 5))


def test_goes_deep_before_wide() -> None:
    """Leaves of the first node are given out before the second level is opened wide; few inner nodes are ahead."""
    data = bytes(200_000)
    built, blocks = build(data, custom_profile(chunk_size=10, width=20))
    walk = FileWalk(built.cid, limits=WalkLimits(nodes_ahead=4, low_water=10))
    out = walk.take(1)
    most_pending = most_nodes = 0
    while not walk.finished:
        for ref in out:
            walk.feed(ref, blocks[ref.cid])
        out = walk.take(50)
        most_nodes = max(most_nodes, sum(ref.cid.codec == DAG_PB for ref in out))
        most_pending = max(most_pending, walk.pending)
    # A level has 20 children, there are four levels, and four nodes may come in at once.
    assert most_nodes <= 4
    assert most_pending <= 4 * 20 + 4 * 20


def test_wrapped_leaves_are_not_held_back() -> None:
    """Once one dag-pb leaf has been seen, others of that size are given out as freely as raw ones."""
    built, blocks = build(bytes(1000), custom_profile("unixfs-v0-2015", chunk_size=10, width=150))
    walk = FileWalk(built.cid, limits=WalkLimits(nodes_ahead=3))
    (root,) = walk.take(9)
    walk.feed(root, blocks[root.cid])
    first = walk.take(99)
    assert len(first) == 3
    walk.feed(first[0], blocks[first[0].cid])
    assert len(walk.take(200)) == 97


def test_single_blocks() -> None:
    """A raw root, an empty one, and a dag-pb leaf as the root are files too, ranges included."""
    blocks: Blocks = {}
    assert read(FileWalk(raw(blocks, b"hello")), blocks) == b"hello"
    assert read(FileWalk(raw(blocks, b"hello"), 1, 3), blocks) == b"el"
    assert read(FileWalk(raw(blocks, b"")), blocks) == b""
    for kind in (DataType.FILE, DataType.RAW):
        assert read(FileWalk(node(blocks, [], b"hello", kind=kind), 2), blocks) == b"llo"
    assert read(FileWalk(node(blocks, [])), blocks) == b""
    walk = FileWalk(raw(blocks, b"hello"), 9, 12)
    assert read(walk, blocks) == b""
    assert walk.size == 5


def test_inline_data_before_links() -> None:
    """Data in a node that also has links comes before them (trickle DAGs are so), at every level."""
    blocks: Blocks = {}
    low = node(blocks, [(raw(blocks, b"33"), 2), (raw(blocks, b"4"), 1)], b"22")
    root = node(blocks, [(low, 5), (raw(blocks, b"55"), 2)], b"1")
    whole = b"12233455"
    for start in range(9):
        for end in range(start, 10):
            assert read(FileWalk(root, start, end), blocks) == whole[start:end]


def test_order_of_mixed_nodes() -> None:
    """Where leaves and nodes stand side by side, leaves still come out in file order once all nodes are read."""
    blocks: Blocks = {}
    inner = [node(blocks, [(raw(blocks, bytes([i, j])), 2) for j in range(3)]) for i in range(3)]
    parts = []
    for i, cid in enumerate(inner):
        parts += [(raw(blocks, bytes([9, i])), 2), (cid, 6)]
    walk = FileWalk(node(blocks, parts))
    (root,) = walk.take(1)
    walk.feed(root, blocks[root.cid])
    for ref in walk.take(3):
        walk.feed(ref, blocks[ref.cid])
    for batch in (5, 9):
        refs = walk.take(batch)
        assert [ref.offset for ref in refs] == sorted(ref.offset for ref in refs)
        for ref in reversed(refs):
            walk.untake(ref)
    refs = walk.take(99)
    assert [ref.offset for ref in refs] == list(range(0, 24, 2))


def test_identity_leaves() -> None:
    """A leaf may be an identity CID: its reference carries the block."""
    blocks: Blocks = {}
    root = node(blocks, [(CID(1, RAW, hash_block(0, b"abc")), 3), (raw(blocks, b"d"), 1)])
    walk = FileWalk(root)
    out = b""
    while not walk.finished:
        for ref in walk.take(9):
            block = inline_block(ref.cid)
            for piece in walk.feed(ref, blocks[ref.cid] if block is None else block):
                out += piece.data
    assert out == b"abcd"


def test_pieces_are_views() -> None:
    """Data is not copied on its way through."""
    blocks: Blocks = {}
    walk = FileWalk(raw(blocks, b"hello"))
    (ref,) = walk.take(1)
    (piece,) = walk.feed(ref, blocks[ref.cid])
    assert piece.data.obj is blocks[ref.cid]


@pytest.mark.parametrize("base", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_whole_blocks(base: str) -> None:
    """On demand the pieces of a range come uncut: the same blocks, with all the data they carry."""
    data = bytes(range(100))
    built, blocks = build(data, custom_profile(base, chunk_size=10, width=4))
    walk = FileWalk(built.cid, 25, 47, whole_blocks=True)
    got = {}
    while not walk.finished:
        for ref in walk.take(9):
            got.update((piece.offset, bytes(piece.data)) for piece in walk.feed(ref, blocks[ref.cid]))
    assert got == {offset: data[offset : offset + 10] for offset in (20, 30, 40)}


def test_misuse() -> None:
    """Feeding, skipping or giving back what is not out is a mistake of the caller, said at once."""
    built, blocks = build(bytes(30), custom_profile(chunk_size=10))
    walk = FileWalk(built.cid)
    (root,) = walk.take(5)
    with pytest.raises(ValueError, match="size is known"):
        walk.skip(root)
    walk.feed(root, blocks[root.cid])
    leaves = walk.take(5)
    walk.skip(leaves[0])
    for action in (walk.skip, walk.untake, lambda ref: walk.feed(ref, bytes(10))):
        with pytest.raises(ValueError, match="settled already"):
            action(leaves[0])
    for start, end in ((-1, None), (5, 4)):
        with pytest.raises(ValueError, match="range"):
            FileWalk(built.cid, start, end)


# --- lies ------------------------------------------------------------------------------------------------------------


def lying(blocks: Blocks) -> list[tuple[str, CID, str]]:
    leaf = raw(blocks, b"12345")
    wrapped = node(blocks, [], b"12345")
    odd = CID(1, 0x71, sha256_multihash(b""))
    named = node_bytes([link_bytes(bytes(leaf), b"name", 5)], unixfs.encode(UnixFSData(DataType.FILE, None, 5, [5])))
    naked = node_bytes([link_bytes(bytes(leaf), b"", 5)], None)
    folder = node(blocks, [], None, kind=DataType.DIRECTORY)
    garbage = b"\xff\xff"
    for block in (named, naked, garbage):
        blocks[CID(1, DAG_PB, sha256_multihash(block))] = block
    cid_of = {b: CID(1, DAG_PB, sha256_multihash(b)) for b in (named, naked, garbage)}
    missing = node_bytes([link_bytes(bytes(leaf), b"", 5)], unixfs.encode(UnixFSData(DataType.FILE, None, 5, [5, 5])))
    blocks[CID(1, DAG_PB, sha256_multihash(missing))] = missing
    return [
        ("leaf shorter than said", node(blocks, [(leaf, 6)]), "says 6"),
        ("leaf longer than said", node(blocks, [(leaf, 4)]), "says 4"),
        ("wrapped leaf shorter than said", node(blocks, [(wrapped, 6)]), "says 6"),
        ("filesize too small", node(blocks, [(leaf, 5)], filesize=4), "claims 4 bytes"),
        ("filesize too large", node(blocks, [(leaf, 5)], filesize=2**63), "claims 9223372036854775808"),
        ("no filesize", node(blocks, [], b"abc", filesize=0), "claims 0 bytes"),
        ("huge size", node(blocks, [(leaf, 2**64 - 1)], filesize=1), "more than any file"),
        ("sum too huge", node(blocks, [(leaf, 2**62)] * 2, filesize=2**63), "more than any file"),
        ("empty part", node(blocks, [(leaf, 5), (raw(blocks, b""), 0)]), "without any bytes"),
        ("a size too many", CID(1, DAG_PB, sha256_multihash(missing)), "1 links, but states the sizes of 2"),
        ("named part", cid_of[named], "a name"),
        ("no UnixFS", cid_of[naked], "has no data"),
        ("garbage", cid_of[garbage], "not valid dag-pb"),
        ("other codec", node(blocks, [(odd, 5)]), "codec 0x71"),
        ("a directory in a file", node(blocks, [(folder, 5)]), "directory node"),
        ("metadata", node(blocks, [], None, kind=DataType.METADATA), "metadata node"),
    ]


@pytest.mark.parametrize("which", range(16))
def test_lies(which: int) -> None:
    """A DAG whose claims do not fit each other is refused when the lie is seen, and the message names a CID."""
    blocks: Blocks = {}
    _name, root, says = lying(blocks)[which]
    with pytest.raises(MalformedDag) as caught:
        read(FileWalk(root), blocks)
    assert says in str(caught.value)
    assert any(str(cid) in str(caught.value) for cid in blocks)


def test_not_a_file() -> None:
    """A directory, a symbolic link and another codec are refused by name."""
    blocks: Blocks = {}
    directory = DirectoryBuilder(profile(), blocks.__setitem__)
    with pytest.raises(IsADirectory, match="is a directory"):
        read(FileWalk(directory.finish().cid), blocks)
    link, block = symlink_block(profile(), "../elsewhere")
    with pytest.raises(NotAFile, match="symbolic link"):
        read(FileWalk(link), {link: block})
    with pytest.raises(UnsupportedCID, match="0x71"):
        FileWalk(CID(1, 0x71, sha256_multihash(b"")))


def test_hashes_nobody_can_check() -> None:
    """A file whose parts have an unknown hash function is unsupported, and the node is named."""
    part = b"\x01\x55\xd5\x01\x20" + bytes(32)
    block = node_bytes([link_bytes(part, b"", 5)], unixfs.encode(UnixFSData(DataType.FILE, None, 5, [5])))
    root = CID(1, DAG_PB, sha256_multihash(block))
    with pytest.raises(UnsupportedCID, match=str(root)):
        read(FileWalk(root), {root: block})


def test_too_deep() -> None:
    """A chain of nodes with one child each ends at the depth limit, not at the bottom."""
    blocks: Blocks = {}
    top = raw(blocks, b"x")
    for _ in range(MAX_DEPTH + 10):
        top = node(blocks, [(top, 1)])
    walk = FileWalk(top)
    with pytest.raises(MalformedDag, match="levels deep"):
        read(walk, blocks)
    top = raw(blocks, b"x")
    for _ in range(MAX_DEPTH):
        top = node(blocks, [(top, 1)])
    assert read(FileWalk(top), blocks) == b"x"


def test_self_nesting_bomb() -> None:
    """A few small blocks that link to each other many times claim more than 2**63 bytes: refused when they do, and
    when they claim a little less, memory stays bounded however long one goes on."""
    blocks: Blocks = {}
    size, top = 1, raw(blocks, b"x")
    while size * 100 <= MAX_FILE_SIZE:
        top, size = node(blocks, [(top, size)] * 100), size * 100
    with pytest.raises(MalformedDag, match="more than any file"):
        read(FileWalk(node(blocks, [(top, size)] * 100, filesize=1)), blocks)
    walk = FileWalk(top)
    worst = 0
    for _ in range(2000):
        for ref in walk.take(16):
            walk.feed(ref, blocks[ref.cid])
        worst = max(worst, walk.pending)
    assert walk.size == size >= 10**18
    # Nine levels, eight nodes side by side on each, and the leaves kept ready.
    assert worst < 9 * 8 * 100 + 1000


def test_wide_nodes_that_nest() -> None:
    """Very wide nodes on every level do not fill the memory; a bound that is passed is an error."""
    blocks: Blocks = {}
    width = 12_000
    leaf = CID(1, RAW, sha256_multihash(b"x"))
    size, top = 1, leaf
    for _ in range(4):
        inner = UnixFSData(DataType.FILE, None, size * width, [size] * width)
        block = link_bytes(bytes(top), None, None) * width + node_bytes([], unixfs.encode(inner))
        top, size = CID(1, DAG_PB, sha256_multihash(block)), size * width
        blocks[top] = block
    assert all(len(block) < 2**21 for block in blocks.values())

    def read_on(walk: FileWalk, rounds: int) -> int:
        most = 0
        for _ in range(rounds):
            # Only inner nodes are read, so that what waits can only grow.
            for ref in walk.take(8):
                if ref.cid in blocks:
                    walk.feed(ref, blocks[ref.cid])
            most = max(most, walk.pending)
        return most

    assert 3 * width < read_on(FileWalk(top), 5) <= 5 * width
    # A node deeper on every level, in front of very many leaves.
    size, top = 1, leaf
    for _ in range(5):
        inner = UnixFSData(DataType.FILE, None, size + width, [size] + [1] * width)
        block = link_bytes(bytes(top), None, None) + link_bytes(bytes(leaf), None, None) * width
        block += node_bytes([], unixfs.encode(inner))
        top, size = CID(1, DAG_PB, sha256_multihash(block)), size + width
        blocks[top] = block
    with pytest.raises(MalformedDag, match="no sane file"):
        read_on(FileWalk(top, limits=WalkLimits(max_pending=40_000)), 6)


def test_empty_leaves_by_the_million() -> None:
    """A node full of empty parts is refused as soon as it is read."""
    blocks: Blocks = {}
    root = node(blocks, [(raw(blocks, b""), 0)] * 30_000)
    walk = FileWalk(root)
    (ref,) = walk.take(1)
    with pytest.raises(MalformedDag, match="without any bytes"):
        walk.feed(ref, blocks[root])
    assert walk.pending == 0


def test_memory_does_not_grow_with_the_file() -> None:
    """What a walk remembers of a file of fifty thousand leaves is a few nodes' children."""
    which = custom_profile(chunk_size=1, width=100)
    inner: Blocks = {}
    builder = FileBuilder(which, inner.__setitem__)
    leaf = sha256_multihash(b"x")
    for _ in range(50_000):
        builder.add_leaf(leaf, 1, 1)
    walk = FileWalk(builder.finish().cid)
    count = most = 0
    while not walk.finished:
        for ref in walk.take(64):
            if ref.cid.codec == RAW:
                walk.skip(ref)
                count += 1
            else:
                walk.feed(ref, inner[ref.cid])
        most = max(most, walk.pending)
    assert count == 50_000
    assert most < 3000


# --- building --------------------------------------------------------------------------------------------------------


@given(profiles, st.integers(0, 500))
def test_sizes_add_up(which: Profile, size: int) -> None:
    """size is the bytes of the file, leaves the number of chunks, dag_size the bytes of all blocks by their links."""
    data = bytes(i & 255 for i in range(size))
    built, blocks = build(data, which)
    total, todo = 0, [built.cid]
    while todo:
        cid = todo.pop()
        total += len(blocks[cid])
        if cid.codec == DAG_PB:
            from kachery_p2p.dag.pb import decode_node

            todo.extend(link.cid for link in decode_node(blocks[cid]).links)
    assert built == (built.cid, size, total, max(1, -(-size // which.chunk_size)))


@given(st.integers(0, 300), st.sampled_from([DataType.FILE, DataType.RAW]))
def test_leaf_wrap(size: int, kind: DataType) -> None:
    """A wrapped leaf can be hashed in three parts, and is the UnixFS node it should be."""
    data = bytes(size)
    head, tail = leaf_wrap(kind, size)
    expected = node_bytes([], unixfs.encode(UnixFSData(kind, data or None, size)))
    assert head + data + tail == expected
    v0 = profile("unixfs-v0-2015")
    if kind is DataType.FILE:
        assert leaf_block(v0, data) == expected
    assert leaf_wrap(profile(), size) == (b"", b"")


def test_builder_refuses_nonsense() -> None:
    """Leaves too large, after a short one, or after the end are mistakes of the caller; finishing twice is not."""
    mh = sha256_multihash(b"")
    which = custom_profile(chunk_size=10)
    for first, second in ((None, 11), (None, -1), (5, 10), (10, 0)):
        builder = FileBuilder(which)
        if first is not None:
            builder.add_leaf(mh, first, first)
        with pytest.raises(ValueError):
            builder.add_leaf(mh, second, second)
    builder = FileBuilder(which)
    builder.add_leaf(mh, 10, 10)
    assert builder.finish() == builder.finish()
    with pytest.raises(ValueError, match="finished"):
        builder.add_leaf(mh, 10, 10)


@pytest.mark.parametrize(
    "bad",
    [
        {"chunk_size": 0},
        {"chunk_size": 2**21 + 1},
        {"chunk_size": 2**21, "raw_leaves": False},
        {"width": 1},
        {"width": 10**6},
        {"cid_version": 2},
    ],
)
def test_bad_profiles(bad: dict) -> None:
    """Parameters that cannot make a valid DAG are refused with a sentence."""
    with pytest.raises(InvalidProfile, match=r"\.$"):
        custom_profile(**bad)


def test_profiles() -> None:
    """Profiles go by name; an unknown name is answered with the known ones; the widest leaf still fits a block."""
    assert profile("unixfs-v0-2015").chunk_size == 262144
    assert profile() is profile("unixfs-v1-2025")
    assert profile(profile()) is profile()
    for name in ("kubo", ""):
        with pytest.raises(InvalidProfile, match="unixfs-v1-2025, unixfs-v0-2015 and random-16k"):
            profile(name)
    largest = custom_profile(chunk_size=2**21 - 16, raw_leaves=False)
    assert len(leaf_block(largest, bytes(largest.chunk_size))) <= 2**21


def test_widest_node_fits_a_block() -> None:
    """With the greatest width allowed, an inner node is still no larger than a block may be."""
    which = custom_profile(width=16384)
    blocks: Blocks = {}
    builder = FileBuilder(which, blocks.__setitem__)
    for i in range(16384):
        builder.add_leaf(sha256_multihash(i.to_bytes(4, "big")), 1 << 20, 1 << 20)
    assert len(blocks[builder.finish().cid]) <= 2**21


def test_building_and_walking_are_fast() -> None:
    """Per leaf, building costs under 20 us and walking under 30 us, on a machine that is busy with other things."""
    inner: Blocks = {}
    leaves = [sha256_multihash(i.to_bytes(4, "big")) for i in range(20_000)]
    start = time.process_time()
    builder = FileBuilder(profile(), inner.__setitem__)
    for leaf in leaves:
        builder.add_leaf(leaf, 1 << 20, 1 << 20)
    built = builder.finish()
    building = time.process_time() - start
    walk = FileWalk(built.cid)
    start = time.process_time()
    while not walk.finished:
        for ref in walk.take(256):
            if ref.cid.codec == RAW:
                walk.skip(ref)
            else:
                walk.feed(ref, inner[ref.cid])
    walking = time.process_time() - start
    assert building / len(leaves) < 20e-6
    assert walking / len(leaves) < 30e-6


def test_a_leaf_that_nobody_carries_is_named() -> None:
    """A file that says it has a block of more than 2 MiB is refused before that block is asked for."""
    largest, leaf = 2 * 1024 * 1024, CID(1, RAW, hash_block(0x12, b"whatever"))
    for size in (largest, largest + 1):
        about = UnixFSData(DataType.FILE, None, 2 * size, [size, size])
        block = encode_node([PBLink("", leaf, size)] * 2, unixfs.encode(about))
        walk = FileWalk(CID(1, DAG_PB, sha256_multihash(block)))
        (root,) = walk.take(1)
        if size == largest:
            walk.feed(root, block)
            continue
        with pytest.raises(BlockTooLarge, match=f"2,097,153 bytes, {leaf}.*smaller blocks"):
            walk.feed(root, block)
