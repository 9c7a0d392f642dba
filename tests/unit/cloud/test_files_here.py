"""Files of this machine where a URI is expected: paths, and `sha1://` URIs of the older kachery-cloud."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import kachery_cloud as kcl
from kachery_cloud.commands.main import cli, find_command
from kachery_cloud.local import close_outboxes, close_repositories

SEED = "bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5ga"
BYTES = b"some bytes\n"
SHA1 = hashlib.sha1(BYTES).hexdigest()


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, and a data directory."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("work", "home", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"
    close_repositories()
    close_outboxes()


def put(path: Path, data: bytes = BYTES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- paths -----------------------------------------------------------------------------------------------------------


def test_a_path_is_given_back(work: Path) -> None:
    """Absolute, relative, of the home, as a Path, with whatever is in its name: as it was given."""
    home = put(work.parent / "home" / "y.csv")
    for name in ("x.csv", "data/x.csv", "50%.csv", "a b#c.csv", "hello", "ipfs/x"):
        path = put(work / name)
        assert kcl.load_file(name) == name
        assert kcl.load_file(f"./{name}") == f"./{name}"
        assert kcl.load_file(str(path)) == str(path)
        assert kcl.load_file(path) == str(path)
    assert kcl.load_file("~/y.csv") == str(home)
    assert kcl.load_file("x.csv", local_only=True, timeout=3) == "x.csv"


def test_every_loader_takes_a_path(work: Path) -> None:
    """Text, JSON, arrays, pickles, bytes, streams, open files; nothing is stored for it."""
    put(work / "x.txt", b"text")
    put(work / "x.json", b'{"a": 1}')
    np.save("x.npy", np.arange(6))
    put(work / "x.pkl", pickle.dumps((1, 2)))
    out = io.BytesIO()
    kcl.cat_file("x.txt", out, start=1)
    with kcl.open("x.txt") as file, kcl.open(Path("x.txt"), "r") as text, kcl.open_npy("x.npy") as array:
        assert (file.read(), file.read_at(1, 2), text.read(), array[2:4].tolist()) == (b"text", b"ex", "text", [2, 3])
        again = pickle.loads(pickle.dumps(file))
        assert (again.uri, again.tell()) == (str(work / "x.txt"), 4)
        again.close()
    assert kcl.load_text("x.txt") == "text"
    assert kcl.load_json("x.json") == {"a": 1}
    assert kcl.load_npy("x.npy").tolist() == [0, 1, 2, 3, 4, 5]
    assert kcl.load_npy("x.npy", mmap_mode="r")[1] == 1
    assert kcl.load_pkl("x.pkl") == (1, 2)
    assert kcl.load_bytes("x.txt", -2) == b"xt"
    assert out.getvalue() == b"ext"
    assert kcl.load_file_info("x.txt") == {
        "uri": str(work / "x.txt"), "cid": None, "kind": "file", "size": 4, "label": None, "sources": {}, "local": True,
        "path": "x.txt", "shared": None, "dag_size": None, "destination": None,
    }  # fmt: skip
    assert not [each for each in (work.parent / "data").rglob("*") if each.is_file() and "ipfs" in each.parts]


def test_a_copy_of_a_path(work: Path) -> None:
    """`dest` is as for a URI; the file's own name, which no stranger chose, names a copy in a folder."""
    put(work / ".hidden")
    (work / "folder").mkdir()
    assert kcl.load_file(".hidden", dest="folder/") == str(work / "folder" / ".hidden")
    assert (work / "folder" / ".hidden").read_bytes() == BYTES
    put(work / "other", b"other")
    assert kcl.load_file("other", dest=".hidden") == str(work / ".hidden")
    assert (work / ".hidden").read_bytes() == b"other"
    with pytest.raises(kcl.FileExists):
        kcl.load_file("other", dest="folder/.hidden", overwrite=False)


@pytest.mark.parametrize("missing", ["data/x.csv", "x.csv", "/no/such/file", "~/x", "./x", "x" * 300 + "/y"])
def test_a_missing_file_is_told_with_both_readings(missing: str) -> None:
    """As a FileNotFoundError that says what a URI looks like."""
    for load in (kcl.load_file, kcl.load_text, kcl.load_bytes, kcl.open):
        with pytest.raises(kcl.FileMissing, match=r"neither a file on this machine nor a URI.*ipfs://<cid>.*path of"):
            load(missing)
    with pytest.raises(kcl.FileMissing, match="There is no file"):
        kcl.load_file(Path(missing))


@pytest.mark.parametrize("text", ["hello", SEED[:-1], "Qm123"])
def test_what_may_be_a_cid_is_told_with_both_readings(text: str, work: Path) -> None:
    """A mistyped CID is one, and also no file."""
    with pytest.raises(kcl.InvalidCID, match=f"Nor is there a file of that name in {work}"):
        kcl.load_file(text)


def test_a_cid_is_never_taken_for_a_path(work: Path) -> None:
    """Though a file of that name lies in the working directory; with `./`, or as a Path, the file is meant."""
    uri = kcl.store_bytes(b"example bytes", local=True)
    cid = uri.removeprefix("ipfs://")
    for name in (cid, f"{cid}?label=x", f"{cid}.csv"):
        put(work / name, b"a file")
    (work / SEED).mkdir()
    put(work / SEED / "a", b"a file")
    assert kcl.load_bytes(cid) == kcl.load_bytes(f"{cid}?label=x") == b"example bytes"
    assert kcl.load_bytes(f"./{cid}") == kcl.load_bytes(Path(cid)) == kcl.load_bytes(f"{cid}.csv") == b"a file"
    with pytest.raises(kcl.NotADirectory):
        kcl.load_bytes(f"{SEED}/a", local_only=True)
    put(work / "ipfs:" / cid, b"a file")
    assert kcl.load_bytes(uri) == b"example bytes"


@pytest.mark.parametrize("uri", ["https://example.org/x", "ipfs://data/x.csv", "/ipfs/x.csv", "/ipns/", "S3://x/y"])
def test_what_begins_like_a_uri_is_one(uri: str, work: Path) -> None:
    """Whatever lies there."""
    if not uri.startswith("/"):
        put(work / uri.replace("//", "/"))
    with pytest.raises((kcl.InvalidURI, kcl.InvalidCID)):
        kcl.load_file(uri)


@pytest.mark.parametrize(
    ("text", "says"), [(f"ipfs:/{SEED}", "two slashes"), ("ipns/data.example.org", "write it as ipns://")]
)
def test_what_is_nearly_a_uri(text: str, says: str, work: Path) -> None:
    """It is told what is wrong with it; and it is a path, where there is such a file."""
    with pytest.raises(kcl.InvalidURI, match=f"{says}.*Nor is there a file"):
        kcl.load_file(text)
    put(work / text)
    assert kcl.load_file(text) == text


def test_what_is_no_file(work: Path) -> None:
    """A folder, a pipe, a device are not loaded; with what to do."""
    (work / "folder").mkdir()
    with pytest.raises(kcl.NotAFile, match=r"folder is a folder, not a file.*store_dir"):
        kcl.load_file("folder")
    for call in (lambda: kcl.load_bytes("/dev/zero"), lambda: kcl.open(Path("/dev/null"))):
        with pytest.raises(kcl.NotAFile, match="is a device"):
            call()


@pytest.mark.parametrize(
    "call", [kcl.parse_uri, kcl.share, kcl.get, kcl.list_dir, lambda uri: kcl.load_dir(uri, "copy")]
)
def test_only_loaders_of_files_take_paths(call: Callable[[Any], object], work: Path) -> None:
    """What needs content says that this is a path."""
    put(work / "x.csv")
    with pytest.raises(kcl.InvalidURI, match="It is here: open it as it is"):
        call("x.csv")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def test_commands_take_paths(work: Path) -> None:
    """load prints it, cat writes it, info describes it."""
    put(work / "x.csv")
    (work / "folder").mkdir()
    assert run("load", "x.csv").stdout == "x.csv\n"
    assert run("cat", "x.csv").stdout_bytes == BYTES
    assert f"uri:     {work / 'x.csv'}\n" in run("info", "x.csv").stdout
    for arguments in (["load", "y.csv"], ["load", "folder"], ["load", "folder", "--dest", "new"]):
        found = run(*arguments)
        assert (found.exit_code, found.stdout) == (2, "")


# --- sha1:// ---------------------------------------------------------------------------------------------------------


def kept(work: Path, data: bytes = BYTES, digest: str = SHA1, where: str = "sha1") -> Path:
    return put(work.parent / "data" / where / digest[:2] / digest[2:4] / digest[4:6] / digest, data)


def test_a_file_of_the_older_cache_is_loaded(work: Path) -> None:
    """By its hash, with or without a name; from where it lies."""
    path = kept(work)
    for uri in (f"sha1://{SHA1}", f"sha1://{SHA1}?label=a%20b.csv", f"sha1://{SHA1}/x.csv", f"SHA1://{SHA1.upper()}"):
        assert kcl.load_file(uri) == str(path)
        assert kcl.load_text(uri, local_only=True) == BYTES.decode()
    assert kcl.load_file_info(f"sha1://{SHA1}/x.csv")["label"] == "x.csv"
    with kcl.open(f"sha1://{SHA1}/x.csv") as file:
        assert file.name == "x.csv"
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read() == BYTES
    (work / "folder").mkdir()
    assert kcl.load_file(f"sha1://{SHA1}/x.csv", dest="folder") == str(work / "folder" / "x.csv")
    assert kcl.load_file(f"sha1://{SHA1}", dest="folder") == str(work / "folder" / SHA1)
    with pytest.raises(kcl.InvalidName):
        kcl.load_file(f"sha1://{SHA1}/.bashrc", dest="folder")


def test_a_linked_file_of_the_older_cache_is_loaded(work: Path) -> None:
    """From where it lies, as its record says; and one whose place is in the URI."""
    file = put(work / "linked.csv")
    kept(
        work, json.dumps({"path": str(file), "size": 1, "mtime": 2.5, "sha1": SHA1}).encode(), where="linked_files/sha1"
    )
    assert kcl.load_file(f"sha1://{SHA1}?label=x") == str(file)
    other = put(work / "other", b"other")
    digest = hashlib.sha1(b"other").hexdigest()
    assert kcl.load_file(f"sha1://{digest}?location={other}") == str(other)


@pytest.mark.parametrize(
    "record", [b"", b"[]", b'{"path": 1}', b'{"path": "x"}', b'{"path": "/no/such"}', bytes(10**6)]
)
def test_a_strange_record_is_no_link(record: bytes, work: Path) -> None:
    """It counts for nothing."""
    kept(work, record, where="linked_files/sha1")
    with pytest.raises(kcl.ContentNotFound):
        kcl.load_file(f"sha1://{SHA1}")


def test_a_file_with_another_hash_is_not_given_out(work: Path) -> None:
    """Also when it changes after it was right once."""
    path = kept(work)
    kcl.load_file(f"sha1://{SHA1}")
    path.write_bytes(b"other")
    with pytest.raises(kcl.DamagedFile, match=f"{path} is no longer sha1://{SHA1}"):
        kcl.load_file(f"sha1://{SHA1}")
    path.unlink()
    path.mkdir()
    with pytest.raises(kcl.ContentNotFound):
        kcl.load_file(f"sha1://{SHA1}")


def test_what_is_not_here_cannot_be_asked_for() -> None:
    """A sentence that says why, and what to do; nobody is asked."""
    with pytest.raises(kcl.ContentNotFound, match=r"is not on this machine.*no peer can be asked.*ipfs:// URI"):
        kcl.load_file(f"sha1://{SHA1}?label=x")
    with pytest.raises(kcl.InvalidURI, match="can be loaded with load_file"):
        kcl.parse_uri(f"sha1://{SHA1}")


@pytest.mark.parametrize(
    "uri", ["sha1://", "sha1://abc", f"sha1://{SHA1}0", f"sha1://{SHA1}/a/b", f"sha1://{SHA1}?x=1"]
)
def test_what_is_no_such_uri(uri: str) -> None:
    """Nothing in it is passed over."""
    with pytest.raises(kcl.InvalidURI):
        kcl.load_file(uri)


# --- commands of the older kachery-cloud -----------------------------------------------------------------------------


def test_store_local_stores_and_tells_nobody(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints the URI; a node is neither started nor told."""

    def no_node(*_: object, **__: object) -> None:
        raise AssertionError("a node was asked")

    for name in ("tell_running_node", "announce_in_background", "get_connection"):
        monkeypatch.setattr(f"kachery_cloud.node.connection.{name}", no_node)
    put(work / "x.csv")
    result = CliRunner().invoke(find_command("store-local"), ["x.csv"])
    assert result.exit_code == 0, result.output
    assert kcl.load_bytes(result.stdout.strip(), local_only=True) == BYTES
    linked = CliRunner().invoke(find_command("store-local"), ["x.csv", "--reference", "--label", "a b", "--json"])
    uri = json.loads(linked.stdout)["uri"]
    assert kcl.parse_uri(uri).label == "a b"
    assert [item.label for item in kcl.list()] != []


def test_load_info_prints_json(work: Path) -> None:
    """What `load_file_info` gives."""
    uri = kcl.store_bytes(BYTES, local=True)
    for each in (uri, str(put(work / "x.csv"))):
        result = CliRunner().invoke(find_command("load-info"), [each])
        assert json.loads(result.stdout)["size"] == len(BYTES)


def test_older_commands_are_installed_and_not_offered() -> None:
    """They have their names, and --help does not list them."""
    text = Path(__file__).parents[3].joinpath("pyproject.toml").read_text()
    for name in ("store-local", "load-info"):
        assert f'kachery-cloud-{name} = "kachery_cloud.commands.entry:{name.replace("-", "_")}_main"' in text
        assert find_command(name).hidden
        assert name not in run("--help").output.split()
        assert run(name, "--help").exit_code == 0
