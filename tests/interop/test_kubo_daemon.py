"""The newest Kubo, unmodified and driven by its own commands, and one of our workstations: both ways, every kind.

What Kubo adds under any profile, chunker, hash function and layout we load byte for byte; what we store under any
profile Kubo pins and writes out byte for byte. The same content has the same CID on both sides.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.data import sha256_of, write_random
from scripts.peers import KuboDaemon, missing_kubo_daemon
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE
from tests.interop.common import V0, V1, cid_of, contents

#: Every way of cutting files that `ipfs add` has.
CHUNKERS = ["size-1024", "size-262144", "size-1048576", "size-2096128", "rabin", "rabin-16384-32768-65536", "buzhash"]
#: Every hash function that `ipfs add` takes, and of each family with many lengths the shortest and the longest.
HASHES = [
    "sha1",
    "sha2-256",
    "sha2-512",
    "sha3-224",
    "sha3-256",
    "sha3-384",
    "sha3-512",
    "keccak-256",
    "keccak-512",
    "dbl-sha2-256",
    "blake2b-160",
    "blake2b-256",
    "blake2b-384",
    "blake2b-512",
    "blake2s-256",
    "blake3",
]
#: Further options of `ipfs add` that change the DAG.
LAYOUTS = {
    "trickle": ["--trickle"],
    "narrow": ["--max-file-links=3", "--chunker=size-65536"],
    "version 0": ["--cid-version=0"],
    "version 0, raw leaves": ["--cid-version=0", "--raw-leaves=true"],
    "version 1, dag-pb leaves": ["--cid-version=1", "--raw-leaves=false"],
    "inline": ["--inline", "--inline-limit=64"],
    "mode and time": ["--preserve-mode", "--preserve-mtime", "--raw-leaves=false"],
    "sharded": ["--max-directory-links=2", "--max-hamt-fanout=8"],
}

_LOAD_DIR = "say(str(kcl.load_dir(args[0], args[2], providers=[args[1]], timeout=120)))"
_LOAD = "say(str(kcl.load_file(args[0], providers=[args[1]], timeout=120)))"
_BYTES = "say(list(kcl.load_bytes(args[0], args[2], args[3], providers=[args[1]], timeout=120)))"
_STORE = "say(kcl.store_file(args[0], profile=args[1]))"
_LINK = "say(kcl.link_file(args[0], profile=args[1]))"
_STORE_DIR = "say(kcl.store_dir(args[0], profile=args[1]))"


@pytest.fixture(scope="module", autouse=True)
def _present() -> None:
    """Where there is no Go compiler the newest Kubo cannot be built, and its tests are skipped."""
    reason = missing_kubo_daemon()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def daemon(_present: None) -> Iterator[KuboDaemon]:
    """One daemon for the tests of the module; it keeps what they brought."""
    with KuboDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def ours(module_workstation, daemon: KuboDaemon) -> Workstation:
    """One of our workstations, its node running and connected to the daemon."""
    started = module_workstation().start()
    daemon.connect(started.addr)
    return started


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything: empty files and folders, one block and many, links, names of all alphabets."""
    top = tmp_path_factory.mktemp("input") / "tree"
    (top / "deep" / "deeper").mkdir(parents=True)
    (top / "no files").mkdir()
    (top / "empty.dat").write_bytes(b"")
    (top / "deep" / "empty too.dat").write_bytes(b"")
    (top / "deep" / "deeper" / "one byte.dat").write_bytes(b"1")
    (top / "hello.txt").write_text("hello\n", encoding="utf-8")
    (top / ".zgroup").write_text('{"zarr_format": 2}', encoding="utf-8")
    (top / "Zürich 北京 🐭.txt").write_text("names are UTF-8", encoding="utf-8")
    write_random(top / "just a block.dat", 2**20, seed=3)
    write_random(top / "deep" / "a byte more.dat", 2**20 + 1, seed=4)
    write_random(top / "some blocks.dat", 3_000_000, seed=5)
    (top / "zeros.dat").write_bytes(bytes(1_500_000))
    (top / "a link").symlink_to("deep/deeper/one byte.dat")
    return top


# --- what Kubo adds, we load ----------------------------------------------------------------------------------------


def check_we_load(daemon: KuboDaemon, ours: Workstation, tree: Path, dest: Path, *options: str) -> str:
    """Add the tree with these options, load it, and compare all of it. Returns its CID."""
    cid = daemon.add(tree, *options)
    ours.call(_LOAD_DIR, f"ipfs://{cid}", daemon.addrs[0], dest)
    assert contents(dest) == contents(tree)
    return cid


@pytest.mark.parametrize("chunker", CHUNKERS)
def test_we_load_every_chunker(daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path, chunker: str) -> None:
    """However Kubo cuts the files of a folder, we load them: every name, link, empty file and byte."""
    check_we_load(daemon, ours, tree, tmp_path / "copy", f"--chunker={chunker}")


@pytest.mark.parametrize("function", HASHES)
def test_we_load_every_hash(daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path, function: str) -> None:
    """Whatever hash function names the blocks, we check them by it."""
    check_we_load(daemon, ours, tree, tmp_path / "copy", f"--hash={function}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_we_load_every_layout(daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path, layout: str) -> None:
    """Whatever shape the DAG has, we read it."""
    check_we_load(daemon, ours, tree, tmp_path / "copy", *LAYOUTS[layout])


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 20_000_000])
@pytest.mark.parametrize("version", [0, 1])
def test_we_load_a_file(daemon: KuboDaemon, ours: Workstation, tmp_path: Path, size: int, version: int) -> None:
    """A file of any size, with a CID of either version; an empty one is known without asking anybody."""
    source = write_random(tmp_path / "source.dat", size, seed=10 * size + version)
    cid = daemon.add(source, f"--cid-version={version}")
    path = Path(ours.call(_LOAD, f"ipfs://{cid}", daemon.addrs[0]))
    assert sha256_of(path) == sha256_of(source)


def test_we_load_a_range(daemon: KuboDaemon, ours: Workstation, tmp_path: Path) -> None:
    """A few bytes of a file, for which only the blocks that hold them travel."""
    source = write_random(tmp_path / "source.dat", 20_000_000, seed=78)
    cid = daemon.add(source)
    before = ours.status()["bytes_received"]
    got = ours.call(_BYTES, f"ipfs://{cid}", daemon.addrs[0], 10_000_000, 10_000_100)
    assert bytes(got) == source.read_bytes()[10_000_000:10_000_100]
    assert ours.status()["bytes_received"] - before < 3_000_000


def test_we_load_a_path_in_a_folder(daemon: KuboDaemon, ours: Workstation, tree: Path) -> None:
    """One file of a folder, by its path."""
    cid = daemon.add(tree)
    path = ours.call(_LOAD, f"ipfs://{cid}/deep/deeper/one%20byte.dat", daemon.addrs[0])
    assert Path(path).read_bytes() == b"1"


def test_we_load_what_kubo_imported(daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path) -> None:
    """A DAG that came to Kubo as a CAR file, exported by itself, loads like any other."""
    cid = daemon.add(tree)
    (tmp_path / "tree.car").write_bytes(daemon.run_bytes("dag", "export", "--progress=false", cid))
    with KuboDaemon() as other:
        told = [json.loads(line) for line in other.run("--enc=json", "dag", "import", tmp_path / "tree.car").split()]
        assert told[0]["Root"]["Cid"]["/"] == cid
        fresh = Workstation(tmp_path / "fresh")
        with fresh.start():
            fresh.call(_LOAD_DIR, f"ipfs://{cid}", other.addrs[0], tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(tree)


# --- what we store, Kubo loads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [V0, V1])
def test_kubo_loads_a_folder(daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path, profile: str) -> None:
    """Kubo pins a folder of ours and writes it out, empty files among it; and it has the CID that Kubo computes."""
    cid = cid_of(ours.call(_STORE_DIR, tree, profile))
    daemon.pin(cid, timeout=PATIENCE)
    daemon.get(cid, tmp_path / "copy", timeout=PATIENCE)
    assert contents(tmp_path / "copy") == contents(tree)
    with KuboDaemon(profile=profile) as other:
        assert other.add(tree, "--only-hash") == cid


@pytest.mark.slow
@pytest.mark.parametrize("profile", [V0, V1])
def test_kubo_loads_a_sharded_folder(
    daemon: KuboDaemon,
    ours: Workstation,
    tmp_path: Path,
    many_files: Path,
    many_files_cids: dict[str, str],
    profile: str,
) -> None:
    """Kubo pins a sharded folder of 6 000 files, and all of it is there."""
    cid = cid_of(ours.call(_STORE_DIR, many_files, profile))
    assert cid == many_files_cids[profile]
    daemon.pin(cid, timeout=240)
    daemon.get(cid, tmp_path / "copy", timeout=120)
    assert contents(tmp_path / "copy") == contents(many_files)


@pytest.mark.slow
def test_we_load_a_sharded_folder(
    daemon: KuboDaemon, module_workstation, tmp_path: Path, many_files: Path, many_files_cids: dict[str, str]
) -> None:
    """We load a sharded folder of 6 000 files that Kubo added."""
    cid = daemon.add(many_files)
    assert cid == many_files_cids[V1]
    fresh = module_workstation().start()
    fresh.call(_LOAD_DIR, f"ipfs://{cid}", daemon.addrs[0], tmp_path / "copy", timeout=300)
    assert contents(tmp_path / "copy") == contents(many_files)


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 20_000_000])
@pytest.mark.parametrize("profile", [V0, V1])
def test_kubo_loads_a_file(daemon: KuboDaemon, ours: Workstation, tmp_path: Path, size: int, profile: str) -> None:
    """Kubo loads a file of any size under either profile, byte for byte."""
    source = write_random(tmp_path / "source.dat", size, seed=20 * size + len(profile))
    cid = cid_of(ours.call(_STORE, source, profile))
    daemon.get(cid, tmp_path / "copy.dat", timeout=PATIENCE)
    assert sha256_of(tmp_path / "copy.dat") == sha256_of(source)


@pytest.mark.slow
def test_kubo_loads_a_linked_file(daemon: KuboDaemon, ours: Workstation, tmp_path: Path, large_file: Path) -> None:
    """Kubo pins 300 MB that we serve from where they lie."""
    cid = cid_of(ours.call(_LINK, large_file, V1))
    daemon.pin(cid, timeout=120)
    daemon.get(cid, tmp_path / "copy.dat", timeout=120)
    assert sha256_of(tmp_path / "copy.dat") == sha256_of(large_file)


def test_kubo_loads_a_range(daemon: KuboDaemon, ours: Workstation, tmp_path: Path) -> None:
    """`ipfs cat` of a part fetches that part of a file of ours."""
    source = write_random(tmp_path / "source.dat", 5_000_000, seed=79)
    cid = cid_of(ours.call(_STORE, source, V1))
    got = daemon.run_bytes("cat", "--offset=2000000", "--length=1000", cid, timeout=PATIENCE)
    assert got == source.read_bytes()[2_000_000:2_001_000]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("say(kcl.store_text('example text'))", b"example text"),
        ("say(kcl.store_json({'b': 1, 'a': [2.5]}))", b'{"a":[2.5],"b":1}'),
        ("say(kcl.store_text(''))", b""),
    ],
)
def test_kubo_loads_values(daemon: KuboDaemon, ours: Workstation, code: str, expected: bytes) -> None:
    """Text and JSON are files to Kubo, an empty text an empty file."""
    assert daemon.run_bytes("cat", cid_of(ours.call(code)), timeout=120) == expected


def test_kubo_exports_what_we_store(daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path) -> None:
    """`ipfs dag export` of a folder of ours, and the import elsewhere, bring every block, the empty one included."""
    cid = cid_of(ours.call(_STORE_DIR, tree, V1))
    (tmp_path / "tree.car").write_bytes(daemon.run_bytes("dag", "export", "--progress=false", cid, timeout=PATIENCE))
    with KuboDaemon() as other:
        other.run("dag", "import", tmp_path / "tree.car")
        other.get(cid, tmp_path / "copy", timeout=PATIENCE)
    assert contents(tmp_path / "copy") == contents(tree)
    assert stat.S_ISDIR((tmp_path / "copy" / "no files").stat().st_mode)
