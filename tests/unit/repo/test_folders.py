"""Storing folders: each file a root of its own, nothing followed out of them."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.nodes import drive, read_node
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import FileMissing, InvalidName, NotADirectory, NotAFile, RepoError
from kachery_p2p.repo import Repo
from kachery_p2p.repo.scanning import FolderOptions

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "unixfs_cids.json").read_text())["directories"]
PROFILES = ["unixfs-v1-2025", "unixfs-v0-2015"]


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small folder of the test vectors."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a")
    (folder / "b.txt").write_bytes(b"b")
    (folder / "sub" / "c.txt").write_bytes(b"c")
    return folder


def names_in(repo: Repo, cid: CID) -> dict[str, CID]:
    def fetch(cids: list[CID]) -> list[bytes]:
        blocks = [repo.get_block(cid.multihash) for cid in cids]
        assert None not in blocks
        return [block for block in blocks if block is not None]

    return {entry.name: entry.cid for entry in drive(list_directory(cid), fetch)}


@pytest.mark.parametrize("link", [False, True], ids=["store", "link"])
@pytest.mark.parametrize("profile", PROFILES)
def test_folder_has_the_cid_of_other_implementations(repo: Repo, folder: Path, profile: str, link: bool) -> None:
    """A folder gets the CID that Kubo and Helia give it, copied or linked, and its files are found by theirs."""
    stored = repo.store_directory(folder, profile=profile, link=link)
    assert str(stored.cid) == VECTORS[0][profile]
    assert (stored.size, stored.path) == (3, folder)
    files = names_in(repo, stored.cid)
    assert sorted(files) == ["a.txt", "b.txt", "sub"]
    path = repo.find_file(files["a.txt"])
    assert path == (folder / "a.txt" if link else repo.path_for(files["a.txt"]))
    assert sorted(names_in(repo, files["sub"])) == ["c.txt"]


@pytest.mark.parametrize("profile", PROFILES)
def test_large_folder_is_sharded_as_others_do(repo: Repo, tmp_path: Path, profile: str) -> None:
    """Six thousand files give the CID of the test vectors, in seconds, and each file can be read."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(6000):
        (folder / f"file-with-a-rather-long-name-{i:06d}.dat").write_bytes(str(i).encode())
    seen: list[tuple[int, int]] = []
    stored = repo.store_directory(
        folder, profile=profile, link=True, progress=lambda done, total: seen.append((done, total))
    )
    assert str(stored.cid) == VECTORS[1][profile]
    total = sum(len(str(i)) for i in range(6000))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    files = names_in(repo, stored.cid)
    assert len(files) == 6000
    for i in (0, 17, 5999):
        path = repo.find_file(files[f"file-with-a-rather-long-name-{i:06d}.dat"])
        assert path is not None
        assert path.read_bytes() == str(i).encode()


def test_many_small_files_are_copied_in_batches(repo: Repo, tmp_path: Path) -> None:
    """Small and large files, equal and different ones, in several folders, are all there after one call."""
    folder = tmp_path / "mixed"
    expected: dict[str, bytes] = {}
    for i in range(300):
        path = folder / f"d{i % 7}" / f"{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = bytes([i % 50]) * (3_000_000 if i == 5 else i % 60)
        path.write_bytes(data)
        expected[f"d{i % 7}/{i}"] = data
    stored = repo.store_directory(folder)
    assert stored.size == sum(len(data) for data in expected.values())
    found: dict[str, bytes] = {}
    for name, below in names_in(repo, stored.cid).items():
        for file, cid in names_in(repo, below).items():
            path = repo.find_file(cid)
            assert path is not None
            found[f"{name}/{file}"] = path.read_bytes()
    assert found == expected
    assert repo.store_directory(folder) == stored
    assert not list((repo.directory / "tmp").iterdir())


def test_empty_folder(repo: Repo, tmp_path: Path) -> None:
    """An empty folder is the empty directory that everybody knows."""
    (tmp_path / "empty").mkdir()
    assert str(repo.store_directory(tmp_path / "empty").cid) == (
        "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    )


def links_in(repo: Repo, cid: CID) -> dict[str, str]:
    """The symbolic links in a folder, and their targets."""
    found: dict[str, str] = {}
    for name, below in names_in(repo, cid).items():
        block = repo.get_block(below.multihash)
        assert block is not None
        _, data = read_node(below, block)
        if data is not None and data.kind is DataType.SYMLINK:
            found[name] = bytes(data.data or b"").decode()
    return found


def test_symbolic_links_that_stay_in_the_folder_are_kept(repo: Repo, folder: Path) -> None:
    """To a file, a folder, another link, back to itself, or to what is not there: it is what its author wrote."""
    targets = {"file": "a.txt", "folder": "sub", "link": "file", "itself": "itself", "nowhere": "gone/too"}
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    (folder / "sub" / "up").symlink_to("../a.txt")
    stored = repo.store_directory(folder)
    assert links_in(repo, stored.cid) == targets
    assert links_in(repo, names_in(repo, stored.cid)["sub"]) == {"up": "../a.txt"}
    assert stored.size == 3


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname", "sub/../../secret", "..", "sub/../a.txt"])
def test_symbolic_links_that_lead_out_are_refused(repo: Repo, folder: Path, tmp_path: Path, target: str) -> None:
    """A folder that nobody could load is not stored: the link is named before anything is, with what can be done."""
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "sub" / "out").symlink_to(target if target.startswith(("/", "sub")) else f"../{target}")
    with pytest.raises(InvalidName, match=r"sub/out points to .*--follow.*--exclude"):
        repo.store_directory(folder)
    assert repo.list_files() == []
    stored = repo.store_directory(folder, options=FolderOptions(exclude=("out",)))
    assert str(stored.cid) == VECTORS[0]["unixfs-v1-2025"]


@pytest.mark.parametrize("link", [False, True], ids=["store", "link"])
def test_symbolic_links_are_followed_when_that_is_asked_for(
    repo: Repo, folder: Path, tmp_path: Path, link: bool
) -> None:
    """Files and folders come in their place, from wherever they are. Stored again it is the same."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "file").write_bytes(b"outside")
    (folder / "out").symlink_to(outside)
    (folder / "b").symlink_to("b.txt")
    (folder / "absolute").symlink_to(outside / "deep" / "file")
    options = FolderOptions(follow=True, link=link)
    stored = repo.store_directory(folder, options=options)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert repo.store_directory(copy).cid == stored.cid
    assert repo.store_directory(folder, options=options) == stored
    assert links_in(repo, stored.cid) == {}


def test_links_that_cannot_be_followed(repo: Repo, folder: Path) -> None:
    """One that leads to a folder it lies in, to itself, or nowhere is named, and what can be done."""
    follow = FolderOptions(follow=True)
    for target, said in (
        ("..", "leads back to .*folder, which it lies in"),
        ("x", "back to the link"),
        ("no", "where"),
    ):
        link = folder / "sub" / "x"
        link.symlink_to(target)
        with pytest.raises(InvalidName, match=f"sub/x (points to .*)?{said}.*exclude"):
            repo.store_directory(folder, options=follow)
        link.unlink()
    # The same folder twice is no circle.
    (folder / "again").symlink_to("sub")
    assert sorted(names_in(repo, repo.store_directory(folder, options=follow).cid)) == [
        "a.txt",
        "again",
        "b.txt",
        "sub",
    ]


def test_folder_itself_may_be_named_by_a_symbolic_link(repo: Repo, folder: Path, tmp_path: Path) -> None:
    """What the user names is followed; only what lies in the folder is not."""
    (tmp_path / "link").symlink_to(folder)
    assert str(repo.store_directory(tmp_path / "link").cid) == VECTORS[0]["unixfs-v1-2025"]


def test_what_cannot_be_stored_is_named(repo: Repo, folder: Path) -> None:
    """A socket or a pipe in the folder is named, before anything is stored; so is a name that is not UTF-8."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "sub" / "socket"))
        with pytest.raises(NotAFile, match="sub/socket"):
            repo.store_directory(folder)
    (folder / "sub" / "socket").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(NotAFile, match="pipe"):
        repo.store_directory(folder)
    (folder / "pipe").unlink()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(InvalidName):
        repo.store_directory(folder)
    assert repo.list_files() == []


def test_no_folder_and_a_file(repo: Repo, tmp_path: Path) -> None:
    """What is not there, and what is a file, are errors of their own."""
    with pytest.raises(FileMissing):
        repo.store_directory(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectory):
        repo.store_directory(tmp_path / "file")


def test_data_directory_is_not_stored_in_itself(repo: Repo, tmp_path: Path) -> None:
    """Storing a folder that the data directory lies in is refused."""
    with pytest.raises(RepoError, match="data directory"):
        repo.store_directory(tmp_path)
