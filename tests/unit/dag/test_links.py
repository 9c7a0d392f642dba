"""Paths through symbolic links: they are followed from the folder that they lie in, and never out of the root."""

from __future__ import annotations

import pytest

from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.dag.directory import DirectoryBuilder, symlink_block
from kachery_p2p.dag.filenode import FileNode
from kachery_p2p.dag.limits import MAX_SYMLINK_BLOCK, MAX_SYMLINK_TARGET
from kachery_p2p.dag.paths import FolderKey, FolderNode, Resolved, drive, resolve_path
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import BrokenLink, InvalidName, KacheryError, NotADirectory, NotAFile, PathNotFound
from kachery_p2p.repo.decoded import Decoded
from tests.unit.dag.test_directory import Store, always_sharded, profile

A = CID(1, RAW, sha256_multihash(b"a"))
F = CID(1, RAW, sha256_multihash(b"f"))


def link(store: Store, target: str) -> tuple[CID, int]:
    cid, block = symlink_block(profile(), target)
    store.keep(cid, block)
    return cid, len(block)


def folder(store: Store, entries: dict[str, tuple[CID, int]], *, sharded: bool = False) -> tuple[CID, int]:
    builder = DirectoryBuilder(always_sharded() if sharded else profile(), store.keep)
    for name, (cid, size) in entries.items():
        builder.add(name, cid, size)
    built = builder.finish()
    return built.cid, built.dag_size


def tree(store: Store, *, sharded: bool = False) -> tuple[CID, CID]:
    """The root of a folder with links of all kinds in it; and the folder `s` in it."""
    deep = folder(store, {"up": link(store, "../../a"), "here": link(store, "."), "top": link(store, "../..")})
    s = folder(store, {"f": (F, 5), "deep": deep, "back": link(store, "../t/f")}, sharded=sharded)
    links = {
        "b": "a",
        "c": "./b",
        "t": "s",
        "u": "t/deep/../f",
        "slash": "s//deep/",
        "me": "me",
        "one": "two",
        "two": "s/../one",
        "nowhere": "missing/x",
        "below": "a/x",
        "out": "../other",
        "out2": "s/deep/../../../a",
        "absolute": "/etc/passwd",
        "nul": "s/\u2028",
    }
    entries = {"a": (A, 5), "s": s, **{name: link(store, target) for name, target in links.items()}}
    return folder(store, entries, sharded=sharded)[0], s[0]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_links_are_followed(sharded: bool, known: bool) -> None:
    """At the end of a path and within it, one behind the other, with steps up; the same once they are known."""
    store = Store()
    root, s = tree(store, sharded=sharded)
    folders: Decoded[FolderKey, FolderNode] | None = Decoded(1 << 20) if known else None
    for _ in range(2):
        for path, cid, destination in [
            ("b", A, "a"),
            ("c", A, "./b"),
            ("t", s, "s"),
            ("t/f", F, None),
            ("u", F, "t/deep/../f"),
            ("slash/up", A, "../../a"),
            ("t/deep/here/here/top/t/back", F, "../t/f"),
            ("t/deep/top", root, "../.."),
            ("a", A, None),
        ]:
            found = drive(resolve_path(root, path.split("/"), folders), store)
            assert (found.cid, found.name, found.destination) == (cid, path.split("/")[-1], destination), path
    assert drive(resolve_path(root, ["t"], folders), store).tsize != drive(resolve_path(root, ["b"]), store).tsize


def test_the_last_one_is_not_followed_where_that_is_not_wanted() -> None:
    """As lstat does: those before it are. Its block is not read."""
    store = Store()
    root, _ = tree(store)
    cid, size = link(store, "../t/f")
    store.batches.clear()
    assert drive(resolve_path(root, ["t", "back"], follow=False), store) == Resolved(cid, "back", size)
    assert len(store.batches) == 3  # the root, the link t, the folder s
    assert drive(resolve_path(root, ["me"], follow=False), store).destination is None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("me", "/me is a symbolic link to 'me', and that leads in a circle"),
        ("one/x", "'s/../one', and that leads in a circle|'two', and that leads in a circle"),
        ("nowhere", "/nowhere is a symbolic link to 'missing/x', which leads nowhere: There is no 'missing' in baf"),
        ("below", "symbolic link to 'a/x', which leads nowhere: .*/a is a file, so there is no 'x' in it"),
        ("out", "/out is a symbolic link to '../other', which is not within baf.*URI of its own.*--follow"),
        ("out2/x", "symbolic link to 's/deep/../../../a', which is not within"),
        ("absolute", "symbolic link to '/etc/passwd', which is not within"),
        ("nul", "leads nowhere"),
    ],
)
def test_links_that_lead_nowhere(path: str, said: str) -> None:
    """Each says where it points, and why that is not followed. It is a path that does not exist."""
    store = Store()
    root, _ = tree(store)
    with pytest.raises(BrokenLink, match=said) as caught:
        drive(resolve_path(root, path.split("/")), store)
    assert isinstance(caught.value, PathNotFound)
    assert isinstance(caught.value, FileNotFoundError)


def test_what_the_user_writes_is_no_target() -> None:
    """Steps up in a path itself stay refused, and so does what is missing behind a link that is followed to its end."""
    store = Store()
    root, _ = tree(store)
    for path in (["t", ".."], ["t", "deep", ".", "up"]):
        with pytest.raises(InvalidName):
            drive(resolve_path(root, path), store)
    with pytest.raises(PathNotFound, match=r"There is no 'x' in .*/s\.$") as caught:
        drive(resolve_path(root, ["t", "x"]), store)
    assert type(caught.value) is PathNotFound
    with pytest.raises(NotADirectory, match="is a file"):
        drive(resolve_path(root, ["b", "x"]), store)


def test_a_link_by_itself() -> None:
    """Nobody knows in which folder it lies: it says where it points, and how it is named so that it can be followed."""
    store = Store()
    cid, _ = link(store, "../a")
    assert drive(resolve_path(cid, []), store).cid == cid
    with pytest.raises(NotADirectory, match=r"symbolic link to '\.\./a'.*begins with the folder it lies in"):
        drive(resolve_path(cid, ["x"]), store)
    with pytest.raises(NotAFile, match=r"symbolic link to '\.\./a', not a file.*ipfs://FOLDER/NAME"):
        FileNode(cid, store.blocks[cid.multihash])


def test_forty_links_and_no_more() -> None:
    """A chain of forty is followed, as on Linux; and however many names targets have, a path ends."""
    for count in (40, 41):
        store = Store()
        chain = {f"l{number}": link(store, f"l{number + 1}") for number in range(count)}
        root, _ = folder(store, {**chain, f"l{count}": (A, 1)})
        if count == 40:
            assert drive(resolve_path(root, ["l0"]), store).cid == A
        else:
            with pytest.raises(BrokenLink, match="more than 40 links"):
                drive(resolve_path(root, ["l0"]), store)
    store = Store()
    wide = {f"w{number}": link(store, "d/../" * 400 + f"w{number + 1}") for number in range(30)}
    root, _ = folder(store, {**wide, "d": folder(store, {}), "w30": (A, 1)})
    with pytest.raises(BrokenLink, match="too many parts"):
        drive(resolve_path(root, ["w0"]), store)


def test_hostile_targets() -> None:
    """Ones that no system takes: none at all, too long, not UTF-8."""
    store = Store()
    links: dict[str, tuple[CID, int]] = {}
    for name, target in (("none", b""), ("long", b"a/" * MAX_SYMLINK_TARGET), ("latin", b"\xff")):
        links[name] = (store.plain([], DataType.SYMLINK, data=target), 1)
    root, _ = folder(store, links)
    for name in links:
        for path in ([name], [name, "x"]):
            with pytest.raises(KacheryError):
                drive(resolve_path(root, path), store)


def test_what_cannot_be_a_link_is_not_read() -> None:
    """The root of a large file, and a raw block: their blocks are left to whoever wants the bytes."""
    store = Store()
    large = CID(1, 0x70, sha256_multihash(b"not here"))
    root, _ = folder(store, {"large": (large, MAX_SYMLINK_BLOCK + 1), "raw": (A, 3)})
    for name, cid in (("large", large), ("raw", A)):
        assert drive(resolve_path(root, [name]), store).cid == cid
    longest, block = symlink_block(profile(), "x" * MAX_SYMLINK_TARGET)
    assert len(block) <= MAX_SYMLINK_BLOCK
    assert longest.codec == 0x70
