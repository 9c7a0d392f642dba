"""Storing and loading on one machine: the public API without any network."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_cloud as kcl
from kachery_cloud.errors import (
    ContentNotFound,
    DamagedFile,
    DiskFull,
    FileExists,
    FileMissing,
    FormatError,
    InvalidProfile,
    InvalidRange,
    InvalidURI,
    IsADirectory,
    NoPermission,
    NotADirectory,
    PathNotFound,
    StoreTooLarge,
    UnsafePickle,
)
from kachery_cloud.local import close_repositories

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "seed_uris.json").read_text())
ARRAY = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A data directory for each test, and no node whatever happens."""
    from kachery_cloud.node import connection as background

    def no_network(*_: Any) -> Any:
        raise AssertionError("local work asked for the network")

    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(background, "get_connection", no_network)
    yield tmp_path / "data"
    close_repositories()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_five_seed_uris(tmp_path: Path) -> None:
    """The URIs that must hold for ever come out of the public API."""
    file = put(tmp_path / "test_content.txt", b"test-content\n")
    got = [
        kcl.store_file(str(file), local=True),
        kcl.store_text("example text", local=True),
        kcl.store_json({"example": "dict"}, local=True),
        kcl.store_npy(ARRAY, local=True),
        kcl.store_pkl({"example": ARRAY}, local=True),
    ]
    assert got == [uri for key, uri in VECTORS.items() if key != "note"]


def test_what_was_stored_is_loaded() -> None:
    """Each store function has its load function."""
    assert kcl.load_text(kcl.store_text("µ\r\n", local=True)) == "µ\r\n"
    assert kcl.load_json(kcl.store_json({"a": [1, None]}, local=True)) == {"a": [1, None]}
    assert np.array_equal(kcl.load_npy(kcl.store_npy(ARRAY.T, local=True)), ARRAY.T)
    back = kcl.load_pkl(kcl.store_pkl({"x": ARRAY, "y": (1, {2})}, local=True))
    assert np.array_equal(back["x"], ARRAY)
    assert back["y"] == (1, {2})


def test_large_values_go_through_a_file(data_directory: Path) -> None:
    """An array and a pickle beyond the size held in memory come back, and leave nothing in tmp/."""
    big = np.arange(3_000_000, dtype="<f8")
    assert np.array_equal(kcl.load_npy(kcl.store_npy(big, local=True)), big)
    assert np.array_equal(kcl.load_pkl(kcl.store_pkl([big], local=True))[0], big)
    assert list((data_directory / "tmp").iterdir()) == []


def test_a_store_that_fails_half_way_leaves_nothing(data_directory: Path) -> None:
    """A pickle that turns out to be unwritable after many bytes leaves no file."""
    with pytest.raises(kcl.NotSerializable):
        kcl.store_pkl([np.zeros(2_000_000), object()], local=True)
    assert list((data_directory / "tmp").iterdir()) == []
    assert not any(path.is_file() for path in (data_directory / "ipfs").rglob("*"))


def test_labels_are_kept_and_make_no_difference(tmp_path: Path) -> None:
    """?label= is appended percent-encoded and ignored when loading; older arguments are accepted."""
    file = put(tmp_path / "a.txt", b"abc")
    uri = kcl.store_file(file, label="my file.txt", cache_locally=True, local=True)
    assert uri.endswith("?label=my%20file.txt")
    assert Path(kcl.load_file(uri)).read_bytes() == b"abc"
    assert uri.split("?")[0] == kcl.store_file(file, local=True)


@pytest.mark.parametrize("form", ["{}", "ipfs://{}", "/ipfs/{}", "{}?label=x&provider=/ip4/127.0.0.1/tcp/4001"])
@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_every_form_of_a_uri_loads(form: str, profile: str, tmp_path: Path) -> None:
    """A bare CID, /ipfs/ and ipfs://, of CIDv1 and CIDv0."""
    uri = kcl.store_file(put(tmp_path / "a", b"hello"), profile=profile, local=True)
    cid = uri.removeprefix("ipfs://")
    assert cid.startswith("Qm") == (profile == "unixfs-v0-2015")
    assert Path(kcl.load_file(form.format(cid), local_only=True)).read_bytes() == b"hello"


def test_linked_files_are_served_from_where_they_lie(tmp_path: Path, data_directory: Path) -> None:
    """A link has the URI of a copy, takes no room, and loads as the original path."""
    file = put(tmp_path / "big.bin", os.urandom(3_000_000))
    uri = kcl.link_file(file, local=True)
    assert Path(kcl.load_file(uri)).samefile(file)
    assert not any(path.is_file() for path in (data_directory / "ipfs").rglob("*"))
    assert kcl.store_file(file, local=True) == uri


# --- destinations --------------------------------------------------------------------------------------------------


def test_dest_gets_a_copy_of_its_own(tmp_path: Path) -> None:
    """The copy replaces a file there in one step, is writable, and leaves no temporary file beside it."""
    uri = kcl.store_text("content", local=True)
    folder = tmp_path / "out"
    target = put(folder / "x.txt", b"old")
    assert kcl.load_file(uri, dest=target) == str(target)
    assert target.read_text() == "content"
    target.write_text("mine")
    assert kcl.load_text(uri) == "content"
    assert [p.name for p in folder.iterdir()] == ["x.txt"]


@pytest.mark.parametrize(("query", "name"), [("?label=a%20b.txt", "a b.txt"), ("", None), ("?label=", None)])
def test_a_folder_as_dest_takes_the_file_under_its_name(query: str, name: str | None, tmp_path: Path) -> None:
    """The label's name, or the CID."""
    uri = kcl.store_text("content", local=True)
    folder = tmp_path / "out"
    folder.mkdir()
    expected = folder / (name or uri.removeprefix("ipfs://"))
    assert kcl.load_file(uri + query, dest=folder) == str(expected)
    assert [*folder.iterdir()] == [expected]


def test_dest_in_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """No folder is made by surprise, and it is said before anything is loaded."""
    uri = kcl.store_text("content", local=True)
    for dest in (tmp_path / "no" / "x", str(tmp_path / "no") + "/"):
        with pytest.raises(FileMissing, match="There is no folder"):
            kcl.load_file(uri, dest=dest)


def test_a_copy_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while copying to dest is DiskFull; the old file stays and no temporary one."""
    from kachery_cloud import placing

    uri = kcl.store_text("content", local=True)
    target = put(tmp_path / "out" / "x", b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(placing, "clone_file", lambda *_: False)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(DiskFull):
        kcl.load_file(uri, dest=target)
    assert target.read_bytes() == b"old"
    assert len(list(target.parent.iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_dest_without_permission_is_named(tmp_path: Path) -> None:
    """NoPermission, not PermissionError from within."""
    folder = tmp_path / "out"
    folder.mkdir(mode=0o500)
    with pytest.raises(NoPermission):
        kcl.load_file(kcl.store_text("x", local=True), dest=folder / "x")


# --- ranges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end"),
    [
        *((0, 5), (3, 3), (None, None), (999_999, None), (2_499_990, 2_500_000), (None, 0)),
        *((-5, None), (-5, -2), (None, -2_499_999), (-9_999_999, 4), (2_499_999, 10**30), (10**30, None), (9, 3)),
    ],
)
def test_ranges_of_bytes(start: int | None, end: int | None, tmp_path: Path) -> None:
    """start and end are those of a slice: None is the beginning and the end, negative counts from there."""
    data = os.urandom(2_500_000)
    uri = kcl.store_file(put(tmp_path / "a", data), local=True)
    assert kcl.load_bytes(uri, start, end) == data[start:end]
    with open(tmp_path / "out", "wb") as file:
        kcl.cat_file(uri, file, start=start, end=end)
    assert (tmp_path / "out").read_bytes() == data[start:end]


@pytest.mark.parametrize(("start", "end", "says"), [(1.5, 2, "1.5"), (True, 2, "True"), (0, "x", "'x'")])
def test_ranges_that_are_none(start: Any, end: Any, says: str) -> None:
    """What is no whole number: InvalidRange, which is also a ValueError."""
    uri = kcl.store_text("content", local=True)
    with pytest.raises(InvalidRange, match=says) as caught:
        kcl.load_bytes(uri, start, end)
    assert isinstance(caught.value, ValueError)


# --- directories ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base = tmp_path / "experiment"
    put(base / "a.txt", b"a")
    put(base / "sub" / "b c.txt", b"b")
    put(base / "sub" / "large.bin", bytes(range(256)) * 10_000)
    (base / "empty").mkdir()
    (base / "link").symlink_to("sub/b c.txt")
    return base


def test_a_directory_goes_in_and_comes_out(folder: Path, tmp_path: Path) -> None:
    """Files, folders, empty ones too, and symbolic links that stay inside."""
    uri = kcl.store_dir(folder, local=True)
    assert kcl.load_dir(uri, tmp_path / "out") == str(tmp_path / "out")
    for path in folder.rglob("*"):
        copy = tmp_path / "out" / path.relative_to(folder)
        assert copy.is_symlink() == path.is_symlink()
        assert copy.is_dir() == path.is_dir()
        assert path.is_dir() or copy.read_bytes() == path.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"out", "experiment", "data"}


def test_files_of_a_directory_load_by_path(folder: Path, tmp_path: Path) -> None:
    """`<uri>/<path>`, percent-encoded, names one file; list_dir gives such URIs."""
    uri = kcl.store_dir(folder, local=True)
    assert kcl.load_text(uri + "/sub/b%20c.txt") == "b"
    assert [entry["name"] for entry in kcl.list_dir(uri)] == ["a.txt", "empty", "link", "sub"]
    entry = kcl.list_dir(uri + "/sub")[0]
    assert entry["uri"] == uri + "/sub/b%20c.txt"
    assert os.path.samefile(kcl.load_file(entry["uri"]), kcl.load_file(entry["cid"]))
    assert kcl.load_file(entry["uri"]).endswith("/b c.txt")
    out = tmp_path / "here"
    out.mkdir()
    assert kcl.load_file(uri + "/sub/b%20c.txt?label=other", dest=out) == str(out / "b c.txt")


def test_mistakes_with_directories_are_named(folder: Path, tmp_path: Path) -> None:
    """A directory where a file is meant and the other way, a name that is not there, a dest that is in use."""
    uri = kcl.store_dir(folder, local=True)
    with pytest.raises(IsADirectory, match="load_dir"):
        kcl.load_file(uri)
    with pytest.raises(IsADirectory, match="store_dir"):
        kcl.store_file(folder, local=True)
    with pytest.raises(NotADirectory):
        kcl.store_dir(folder / "a.txt", local=True)
    with pytest.raises(NotADirectory):
        kcl.load_dir(uri + "/a.txt", tmp_path / "out")
    with pytest.raises(NotADirectory):
        kcl.list_dir(uri + "/a.txt")
    with pytest.raises(PathNotFound, match=r"missing\.txt"):
        kcl.load_file(uri + "/sub/missing.txt")
    with pytest.raises(FileExists, match="exists already"):
        kcl.load_dir(uri, folder / "a.txt")


def test_info_says_what_is_here(folder: Path, tmp_path: Path) -> None:
    """Kind, size, and whether it is here, for files and directories."""
    uri = kcl.store_dir(folder, local=True)
    info = kcl.load_file_info(uri + "/sub/large.bin?label=L")
    assert (info["kind"], info["size"], info["local"], info["label"]) == ("file", 2_560_000, True, "L")
    assert Path(info["path"]).stat().st_size == 2_560_000
    info = kcl.load_file_info(uri)
    assert (info["kind"], info["size"], info["local"], info["path"]) == ("directory", 2_560_002, True, None)


# --- what goes wrong -----------------------------------------------------------------------------------------------

NO_FOLDER = "QmSWRWFxmGk7ZRpTuXsTp6TM5pThpuW4mrJMnXikPX6sek"
ELSEWHERE = "ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@pytest.mark.parametrize(
    "call",
    [
        lambda: kcl.load_file(ELSEWHERE, local_only=True),
        lambda: kcl.load_text(ELSEWHERE, local_only=True),
        lambda: kcl.load_npy(ELSEWHERE, local_only=True),
        lambda: kcl.load_bytes(ELSEWHERE, 0, 1, local_only=True),
        lambda: kcl.cat_file(ELSEWHERE, local_only=True),
        lambda: kcl.load_dir(NO_FOLDER, "out", local_only=True),
        lambda: kcl.load_file_info(ELSEWHERE, local_only=True),
        lambda: kcl.load_file(NO_FOLDER + "/a", local_only=True),
        lambda: kcl.list_dir(NO_FOLDER, local_only=True),
    ],
)
def test_local_only_never_asks_the_network(call: Any) -> None:
    """What is not here is ContentNotFound, which says that only this machine was asked."""
    with pytest.raises(ContentNotFound, match="only local data was asked for"):
        call()


def test_a_damaged_copy_is_not_given_out(tmp_path: Path) -> None:
    """A local copy whose bytes changed is DamagedFile when only local data is wanted, for every way of reading."""
    uri = kcl.store_file(put(tmp_path / "a", b"content"), local=True)
    path = Path(kcl.load_file(uri))
    path.chmod(0o600)
    path.write_text("CONTENT")
    for call in (kcl.load_file, kcl.load_text, kcl.load_bytes):
        with pytest.raises(DamagedFile):
            call(uri, local_only=True)
    assert [problem.what for problem in kcl.verify()] == ["damaged"]


def test_a_changed_linked_file_is_said(tmp_path: Path) -> None:
    """A linked file that was edited is not given out under its old URI."""
    file = put(tmp_path / "a", b"one" * 1000)
    uri = kcl.link_file(file, local=True)
    file.write_bytes(b"two" * 1000)
    with pytest.raises(DamagedFile, match=str(file)):
        kcl.load_file(uri, local_only=True)
    assert [problem.what for problem in kcl.verify([uri])] == ["changed"]


def test_wrong_formats_name_the_uri() -> None:
    """Loading text as an array, a pickle as JSON and so on is a FormatError with the URI in it."""
    text = kcl.store_text("hello", local=True)
    binary = kcl.store_pkl({"a": "\x80"}, local=True)
    for load, uri in ((kcl.load_npy, text), (kcl.load_json, text), (kcl.load_pkl, text), (kcl.load_text, binary)):
        with pytest.raises(FormatError, match=uri):
            load(uri)
    evil = kcl.store_file(put(Path(os.environ["KACHERY_CLOUD_DIR"]) / "evil", b"\x80\x04cos\nsystem\n."), local=True)
    with pytest.raises(UnsafePickle, match=r"os\.system"):
        kcl.load_pkl(evil)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: kcl.store_file("/no/such/file", local=True), FileMissing),
        (lambda: kcl.store_dir("/no/such/folder", local=True), FileMissing),
        (lambda: kcl.link_file("/no/such/file", local=True), FileMissing),
        (lambda: kcl.store_file(None, local=True), kcl.InvalidArgument),  # type: ignore[arg-type]
        (lambda: kcl.store_file(__file__, profile="none", local=True), InvalidProfile),
        (lambda: kcl.load_dir("sha1://" + "0" * 40, "copy"), InvalidURI),
        (lambda: kcl.load_file(ELSEWHERE, timeout=-1), kcl.ConfigError),
        (lambda: kcl.load_file(ELSEWHERE, providers=["nonsense"]), kcl.InvalidAddress),
    ],
)
def test_bad_arguments_are_named(call: Any, error: type[Exception]) -> None:
    """Each mistake has its error, before anything is done."""
    with pytest.raises(error):
        call()


def test_the_limit_that_the_user_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """max_store_bytes holds for every kind of store, before anything is written; links take no room and pass."""
    monkeypatch.setenv("KACHERY_CLOUD_MAX_STORE_BYTES", "1000")
    file = put(tmp_path / "f", bytes(1001))
    for call in (
        lambda: kcl.store_file(file, local=True),
        lambda: kcl.store_text("x" * 1001, local=True),
        lambda: kcl.store_npy(np.zeros(200), local=True),
        lambda: kcl.store_pkl(np.zeros(200), local=True),
        lambda: kcl.store_dir(folder, local=True),
    ):
        with pytest.raises(StoreTooLarge, match="1,000 bytes"):
            call()
    assert kcl.link_file(file, local=True)
    assert kcl.store_text("x" * 1000, local=True)


# --- weight --------------------------------------------------------------------------------------------------------


def test_importing_and_local_work_are_light(tmp_path: Path) -> None:
    """The import brings no libp2p, trio, click, tqdm or numpy; local stores and loads no libp2p, trio or thread."""
    code = """
import sys, threading
import kachery_cloud as kcl
heavy = {"libp2p", "trio", "click", "numpy", "tqdm", "multiformats", "sqlite3"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
uri = kcl.store_json({"a": 1}, local=True)
assert kcl.load_json(uri) == {"a": 1}
kcl.load_file(uri), kcl.load_bytes(uri, 0, 1), kcl.load_file_info(uri)
import numpy
kcl.load_npy(kcl.store_npy(numpy.zeros(3), local=True)), kcl.load_pkl(kcl.store_pkl([numpy.zeros(3)], local=True))
assert not {"libp2p", "trio", "kachery_cloud.node.connection"} & set(sys.modules)
assert threading.active_count() == 1
"""
    env = {**os.environ, "KACHERY_CLOUD_DIR": str(tmp_path / "light")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)


def test_every_public_name_is_there_and_documented() -> None:
    """What __all__ promises exists, functions have docstrings, and unknown names are AttributeErrors."""
    for name in kcl.__all__:
        value = getattr(kcl, name)
        assert name == "__version__" or (value.__doc__ or "").strip(), name
    assert set(kcl.__all__) <= set(dir(kcl))
    with pytest.raises(AttributeError):
        _ = kcl.store_fille  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_stores_and_loads(tmp_path: Path) -> None:
    """A child process made by fork works with the same directory, and the parent goes on."""
    uri = kcl.store_text("before", local=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if kcl.load_text(uri) == "before" and kcl.store_text("child", local=True):
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert kcl.load_text(kcl.store_text("child", local=True)) == "child"
    assert kcl.verify() == []


# --- directories from strangers ------------------------------------------------------------------------------------


def directory_of(entries: dict[str, str]) -> str:
    """A stored directory whose entries are symbolic links with these targets; names are taken as they are."""
    from kachery_cloud.local import repository
    from kachery_cloud.settings.config import load_config
    from kachery_p2p.dag.cid import CID, DAG_PB, sha256_multihash
    from kachery_p2p.dag.pb import PBLink, encode_node
    from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode

    repo = repository(load_config())

    def keep(block: bytes) -> CID:
        cid = CID(1, DAG_PB, sha256_multihash(block))
        repo.put_blocks([(cid, block)])
        return cid

    def link_to(target: str) -> CID:
        return keep(encode_node([], encode(UnixFSData(DataType.SYMLINK, target.encode()))))

    links = [PBLink(name, link_to(target), 1) for name, target in sorted(entries.items())]
    sub = keep(encode_node(links, encode(UnixFSData(DataType.DIRECTORY))))
    return f"ipfs://{keep(encode_node([PBLink('sub', sub, 1)], encode(UnixFSData(DataType.DIRECTORY))))}"


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\0b", "x" * 300])
def test_names_never_leave_the_destination(name: str, tmp_path: Path) -> None:
    """A name that would lead out is InvalidName, and nothing at all is made."""
    uri = directory_of({name: "y"})
    before = set(tmp_path.iterdir())
    with pytest.raises(kcl.InvalidName):
        kcl.load_dir(uri, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../outside", ".././../outside", "a/../../../outside", "in/..", "y/../..", "a\0b"]
)
def test_links_that_may_lead_out_are_left_out(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a warning that names them; the rest comes, and the result says what did not."""
    uri = directory_of({"in": "..", "x": target})
    for _ in range(2):  # made, and brought up to date
        out = kcl.load_dir(uri, tmp_path / "out")
        assert out == str(tmp_path / "out")
        assert out.skipped == ("sub/x",)
        assert [path.name for path in Path(out, "sub").iterdir()] == ["in"]
        said = capsys.readouterr().err
        assert "sub/x" in said
        assert "left out" in said


def test_links_that_stay_inside_are_made(tmp_path: Path) -> None:
    """Within the directory links may go up and down, and lead through each other."""
    uri = directory_of({"up": "..", "here": ".", "down": "up/sub/here", "gone": "../missing"})
    out = Path(kcl.load_dir(uri, tmp_path / "out"))
    assert {p.name: os.readlink(p) for p in (out / "sub").iterdir()}["down"] == "up/sub/here"
    assert (out / "sub" / "down").resolve() == (out / "sub").resolve()
