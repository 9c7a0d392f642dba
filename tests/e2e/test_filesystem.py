"""`ipfs://` as a file system of fsspec: what is in folders elsewhere, reading parts of it, and what is refused."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.data import sha256_of_folder, write_random
from scripts.workstation import Workstation

fsspec = pytest.importorskip("fsspec")

MIB = 1 << 20


@pytest.fixture(scope="module")
def here(module_workstation: Callable[..., Workstation]) -> Workstation:
    """The workstation that has the files."""
    return module_workstation().start()


@pytest.fixture(scope="module")
def there(module_workstation: Callable[..., Workstation], here: Workstation) -> Workstation:
    """The workstation that reads them. It knows the other one, and its node runs."""
    return module_workstation(env={"KACHERY_CLOUD_PEERS": here.addr}).start()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("files") / "experiment"
    (base / "raw" / "day 1").mkdir(parents=True)
    (base / "empty").mkdir()
    write_random(base / "raw" / "day 1" / "traces.bin", 5_000_000, seed=1)
    (base / "raw" / "day 1" / "100% sure?.txt").write_text("yes", encoding="utf-8")
    (base / "notes.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (base / "link").symlink_to("notes.csv")
    return base


@pytest.fixture(scope="module")
def uri(here: Workstation, folder: Path) -> str:
    return here.call("say(kcl.store_dir(args[0]))", folder)


def read(where: Workstation, code: str, *args: object) -> Any:
    """Run what a user types; `fs` is the file system."""
    return where.call("import fsspec\nuri = args[0]\nfs = fsspec.filesystem('ipfs')\n" + textwrap.dedent(code), *args)


def test_folders(there: Workstation, uri: str) -> None:
    """Names, kinds and sizes of what is elsewhere; nothing but folders and the roots of files travels."""
    cid = uri.removeprefix("ipfs://")
    code = """
        say([
            [[e["name"], e["type"], e["size"]] for e in fs.ls(uri)],
            fs.ls(uri + "/raw", detail=False),
            fs.find(uri),
            fs.glob(uri + "/**/*.bin"),
            [[path, sorted(folders), sorted(files)] for path, folders, files in fs.walk(uri)],
            [fs.isdir(uri + "/raw"), fs.isfile(uri + "/raw"), fs.isfile(uri + "/notes.csv")],
            [fs.exists(uri + "/no.csv"), fs.exists(uri + "/notes.csv/below"), fs.size(uri + "/raw/day 1/traces.bin")],
            kcl.load_file_info(uri + "/raw/day%201/traces.bin")["local"],
        ])
    """
    listing, names, found, globbed, walked, kinds, more, local = read(there, code, uri)
    assert listing == [
        [f"{cid}/empty", "directory", None],
        [f"{cid}/link", "file", 8],
        [f"{cid}/notes.csv", "file", 8],
        [f"{cid}/raw", "directory", None],
    ]
    assert names == [f"{cid}/raw/day 1"]
    traces, sure = f"{cid}/raw/day 1/traces.bin", f"{cid}/raw/day 1/100% sure?.txt"
    assert found == sorted([f"{cid}/link", f"{cid}/notes.csv", traces, sure])
    assert globbed == [traces]
    assert [cid, ["empty", "raw"], ["link", "notes.csv"]] in walked
    assert kinds == [True, False, True]
    assert more == [False, False, 5_000_000]
    assert local is False


def test_links_of_a_folder_elsewhere(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """They are followed within the folder, by whoever reads by path; one that leads nowhere is listed as what it is.

    Sizes come with the first block of each entry; that of a folder of which nothing else is here is about what it
    states.
    """
    base = tmp_path / "linked"
    (base / "s").mkdir(parents=True)
    (base / "s" / "f").write_text("inner", encoding="utf-8")
    write_random(base / "large", 3_000_000, seed=7)
    (base / "w").mkdir()
    (base / "w" / "g").write_text("more", encoding="utf-8")
    for name, target in {"b": "large", "t": "s", "v": "w", "gone": "missing", "s/up": "../t/f"}.items():
        (base / name).symlink_to(target)
    uri = here.call("say(kcl.store_dir(args[0]))", base)
    code = """
        from kachery_cloud.inventory_tree import entries
        def failure(call):
            try:
                call()
            except kcl.BrokenLink as error:
                return str(error)
        added = kcl.diff(uri + "/v", uri + "/w").added
        listed = [[each.name, each.kind, each.size, each.destination] for each in entries(uri)]
        stated = {each.name: each.dag_size for each in entries(uri)}
        info = [kcl.load_file_info(uri)[key] for key in ("size", "dag_size", "kind")]
        some = fs.cat_file(uri + "/b", 0, 5).hex()
        kinds = {each["name"].rpartition("/")[2]: [each["type"], each["size"]] for each in fs.ls(uri)}
        say([listed, stated, info, some, kinds,
             [fs.info(uri + "/" + name)[key] for name in ("b", "t") for key in ("type", "destination")],
             [kcl.load_text(uri + "/t/f"), kcl.load_text(uri + "/s/up"), fs.cat(uri + "/t/up").decode()],
             [each["name"] for each in kcl.list_dir(uri + "/t")],
             failure(lambda: kcl.load_text(uri + "/gone")),
             failure(lambda: kcl.load_text("ipfs://" + fs.info(uri + "/s")["cid"] + "/up")),
             [each.size for each in entries(uri) if each.name == "s"], added])
    """
    listed, stated, info, some, kinds, followed, texts, names, gone, out, known, added = read(there, code, uri)
    assert listed == [
        ["b", "link", 0, "large"],
        ["gone", "link", 0, "missing"],
        ["large", "file", 3_000_000, None],
        ["s", "directory", None, None],
        ["t", "link", 0, "s"],
        ["v", "link", 0, "w"],
        ["w", "directory", 4, None],
    ]
    assert stated["s"] > 5
    assert info[0] is None
    assert info[1] > sum(stated.values()) > 3_000_000
    assert info[2] == "directory"
    assert bytes.fromhex(some) == (base / "large").read_bytes()[:5]
    assert kinds == {
        "b": ["file", 3_000_000],
        "gone": ["link", 0],
        "large": ["file", 3_000_000],
        "s": ["directory", None],
        "t": ["link", None],
        "v": ["link", None],
        "w": ["directory", None],
    }
    assert followed == ["file", "large", "directory", "s"]
    assert texts == ["inner"] * 3
    assert names == ["f", "up"]
    assert "symbolic link to 'missing', which leads nowhere" in gone
    assert "symbolic link to '../t/f', which is not within" in out
    assert known == [5]
    assert added == []


def test_bytes(here: Workstation, there: Workstation, uri: str, folder: Path) -> None:
    """Parts of files are read as slices, also many at once; what lies in one block travels once."""
    data = (folder / "raw" / "day 1" / "traces.bin").read_bytes()
    before = here.status()["bytes_sent"]
    code = """
        path = uri + "/raw/day%201/traces.bin"
        starts = list(range(1_100_000, 1_104_000, 100))
        parts = fs.cat_ranges([path] * 40, starts, [start + 10 for start in starts])
        with fs.open(path) as file:
            file.seek(-3, 2)
            some = [*parts, fs.cat_file(path, -5, None), fs.cat_file(path, 7, 3), file.read()]
            say([list(part) for part in some])
    """
    *parts, end, nothing, last = read(there, code, uri)
    assert [bytes(part) for part in parts] == [data[at : at + 10] for at in range(1_100_000, 1_104_000, 100)]
    assert (bytes(end), nothing, bytes(last)) == (data[-5:], [], data[-3:])
    assert here.status()["bytes_sent"] - before < 3 * MIB
    code = """
        whole = fs.cat([uri + "/notes.csv", fs.unstrip_protocol(fs.glob(uri + "/raw/*/100*")[0])])
        with fs.open(uri + "/notes.csv", "r") as file:
            say([sorted(v.decode() for v in whole.values()), file.read()])
    """
    assert read(there, code, uri) == [["a,b\n1,2\n", "yes"], "a,b\n1,2\n"]


def test_ranges_of_which_one_is_missing(there: Workstation, uri: str) -> None:
    """With `on_error="return"` each range has its bytes or its error; else the error is raised."""
    code = """
        paths = [uri + "/notes.csv", uri + "/no.csv"]
        data, error = fs.cat_ranges(paths, [0, 0], [3, 3], on_error="return")
        try:
            fs.cat_ranges(paths, 0, 3, on_error="raise")
        except FileNotFoundError as raised:
            say([data.decode(), type(error).__name__, str(raised)])
    """
    data, error, said = read(there, code, uri)
    assert (data, error) == ("a,b", "PathNotFound")
    assert "no.csv" in said


def test_get(there: Workstation, uri: str, folder: Path, tmp_path: Path) -> None:
    """A file and a whole folder come as copies of one's own, with the links that stay in them."""
    code = "fs.get(uri + '/notes.csv', args[1]); fs.get(uri, args[2], recursive=True)"
    read(there, code, uri, tmp_path / "n.csv", tmp_path / "all")
    assert (tmp_path / "n.csv").read_text(encoding="utf-8") == "a,b\n1,2\n"
    assert sha256_of_folder(tmp_path / "all") == sha256_of_folder(folder)
    assert (tmp_path / "all" / "link").is_symlink()


def test_put(here: Workstation, there: Workstation, folder: Path) -> None:
    """What is put at the root is stored, and its URI is the answer; nothing else can be written, and that is said."""
    code = """
        refused = []
        for write in (
            lambda: fs.put(args[1], uri + "/new.csv"),
            lambda: fs.pipe_file(uri + "/new.csv", b"x"),
            lambda: fs.open(uri + "/new.csv", "wb"),
            lambda: fs.rm(uri + "/notes.csv"),
            lambda: fs.mkdir(uri + "/new"),
            lambda: fs.cp(uri + "/notes.csv", uri + "/new.csv"),
        ):
            try:
                write()
            except PermissionError as error:
                refused.append("never changes" in str(error))
        stored = [fs.put(args[1], "ipfs://"), fs.put(args[2], "ipfs://", recursive=True)]
        say([refused, [*stored, fs.pipe_file("ipfs://", b"bytes")]])
    """
    uri = here.call("say(kcl.store_dir(args[0]))", folder)
    refused, (file, directory, value) = read(there, code, uri, folder / "notes.csv", folder)
    assert refused == [True] * 6
    assert directory == uri
    assert here.call("say(kcl.load_text(args[0], providers=[args[1]]))", value, there.addr) == "bytes"
    assert here.call("say(kcl.load_text(args[0], local_only=True))", file) == "a,b\n1,2\n"


def test_a_folder_of_many_files(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """A folder so large that its names are spread over many blocks (HAMT) is listed, and one file of it found."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(6000):
        (many / f"a-name-of-a-file-that-takes-some-room-{number:05}.txt").write_text(str(number), encoding="utf-8")
    uri = here.call("say(kcl.store_dir(args[0]))", many)
    code = """
        name = "a-name-of-a-file-that-takes-some-room-04321.txt"
        one = fs.cat(f"{uri}/{name}").decode()
        say([one, fs.info(f"{uri}/{name}")["size"], len(fs.ls(uri)), len(fs.glob(uri + "/*0001?.txt"))])
    """
    assert read(there, code, uri) == ["4321", 4, 6000, 10]


def test_providers_of_a_uri(here: Workstation, workstation: Callable[..., Workstation], uri: str) -> None:
    """A URI may say whom to ask: as the plain URI that a library takes, and as a path of a file system."""
    alone = workstation()
    asked = f"{uri}?provider={here.addr}"
    code = """
        with fsspec.open(uri.replace("?", "/notes.csv?"), "r") as file:
            first = file.read()
        other, path = fsspec.url_to_fs(uri)
        say([first, list(other.providers) == [args[1]], other.cat(path + "/notes.csv").decode(), len(fs.ls(uri))])
    """
    assert read(alone, code, asked, here.addr) == ["a,b\n1,2\n", True, "a,b\n1,2\n", 4]


def test_paths() -> None:
    """A URI is percent-encoded, a path is not; a "?" is a pattern where it is no query; other schemes are refused."""
    fs = fsspec.filesystem("ipfs")
    cid = "bafybeiho6dzbrm6iwaexhlb7nbv55qsqcojln2wdsvfdprkkcydh4i353q"
    peer = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
    for given, path in (
        (f"ipfs://{cid}", cid),
        (f"IPFS://{cid}/", cid),
        (f"kachery://{cid}/a%20b/100%25.txt", f"{cid}/a b/100%.txt"),
        (f"/ipfs/{cid}/a", f"{cid}/a"),
        (f"{cid}/a%20b", f"{cid}/a%20b"),
        (f"ipfs://{cid}/a.txt?label=x&provider={peer}", f"{cid}/a.txt"),
        (f"ipfs://{cid}?name.json", cid),
        (f"ipfs://{cid}/day?.csv", f"{cid}/day?.csv"),
        (f"ipfs://{cid}/**/*.csv", f"{cid}/**/*.csv"),
        ("ipfs://QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n/x", "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n/x"),
        ("ipfs://", ""),
    ):
        assert fs._strip_protocol(given) == path
        assert fs._strip_protocol(fs.unstrip_protocol(path)) == path or "?" in path
    assert fs._parent(f"{cid}/a/b") == f"{cid}/a"
    for wrong in ("s3://bucket/key", "ipfs://nonsense/x", f"ipfs://{cid}/../x", "ipns://", "ipns://me@x/y"):
        with pytest.raises(ValueError):
            fs.info(wrong)


def test_inside_asyncio(there: Workstation, uri: str) -> None:
    """The asynchronous methods wait without a thread; a task that is cancelled leaves the others alone."""
    code = """
        import asyncio

        async def main():
            fs = fsspec.filesystem("ipfs", asynchronous=True)
            path = uri + "/raw/day%201/traces.bin"
            names = await fs._ls(uri, detail=False)
            cancelled = asyncio.create_task(fs._cat_file(path, 0, 100))
            await asyncio.sleep(0)
            cancelled.cancel()
            parts = await asyncio.gather(*(fs._cat_file(path, at, at + 100) for at in range(0, 5_000_000, 250_000)))
            return [len(names), [len(part) for part in parts]]

        say(asyncio.run(main()))
    """
    assert read(there, code, uri) == [4, [100] * 20]


def test_pickled(there: Workstation, uri: str) -> None:
    """A file system and what it opened go to other processes."""
    code = """
        import pickle
        again = pickle.loads(pickle.dumps(fs))
        with pickle.loads(pickle.dumps(fs.open(uri + "/notes.csv"))) as file:
            say([again == fs, file.read().decode()])
    """
    assert read(there, code, uri) == [True, "a,b\n1,2\n"]


def test_it_is_found_by_its_names() -> None:
    """fsspec finds it by its entry points, without an import of ours."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    table = text.split('[project.entry-points."fsspec.specs"]')[1].split("\n\n")[0]
    declared = {line.split(" = ")[0] for line in table.strip().splitlines()}
    assert declared == {"ipfs", "kachery", "ipns"}
    names = {each.name for each in importlib.metadata.entry_points(group="fsspec.specs") if "kachery" in each.value}
    assert {"ipfs", "kachery"} <= names <= declared
    code = "import fsspec; print(fsspec.get_filesystem_class('kachery').__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "KacheryFileSystem\n"


def test_another_package_of_that_name(tmp_path: Path) -> None:
    """Where another package registers `ipfs`, too, one line chooses ours; `kachery` is always ours."""
    other = tmp_path / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", encoding="utf-8")
    (other / "entry_points.txt").write_text("[fsspec.specs]\nipfs = other:Other\n", encoding="utf-8")
    (tmp_path / "other.py").write_text(
        "import fsspec\nclass Other(fsspec.AbstractFileSystem):\n    protocol = 'ipfs'\n", encoding="utf-8"
    )
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import fsspec
        from kachery_cloud.filesystem import KacheryFileSystem
        print(fsspec.get_filesystem_class("ipfs").__name__)
        fsspec.register_implementation("ipfs", KacheryFileSystem, clobber=True)
        print(fsspec.get_filesystem_class("ipfs").__name__, fsspec.get_filesystem_class("kachery").__name__)
    """
    line = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Other", "KacheryFileSystem", "KacheryFileSystem"]
