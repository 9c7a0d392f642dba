"""CAR files both ways with real peers: Kubo's `dag export` and `dag import`, and Helia's @helia/car."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.data import sha256_of, write_random
from scripts.peers import Helia, KuboDaemon, missing_kubo_daemon
from scripts.workstation import Workstation
from tests.interop.common import V0, V1, cid_of, contents

_IMPORT = "say(kcl.import_car(args[0], local=True).uris)"
_EXPORT = "say(kcl.export_car(args[0], args[1], local_only=True).blocks)"
_STORE_DIR = "say(kcl.store_dir(args[0], local=True, profile=args[1]))"
_LOAD_DIR = "say(str(kcl.load_dir(args[0], args[1], local_only=True)))"
_LOAD = "say(str(kcl.load_file(args[0], local_only=True)))"


@pytest.fixture(scope="module")
def daemon() -> Iterator[KuboDaemon]:
    """The newest Kubo; it keeps what the tests bring."""
    reason = missing_kubo_daemon()
    if reason is not None:
        pytest.skip(reason)
    with KuboDaemon() as running:
        yield running


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Workstation]:
    """A workstation without a node: nothing here needs the network."""
    with Workstation(tmp_path / "ours") as station:
        yield station


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with empty, small and large files, one of them twice, a link, and folders in folders."""
    top = tmp_path_factory.mktemp("input") / "tree"
    (top / "deep" / "deeper").mkdir(parents=True)
    (top / "empty.dat").write_bytes(b"")
    (top / "hello.txt").write_text("hello\n", encoding="utf-8")
    write_random(top / "large.dat", 5_000_001, seed=1)
    write_random(top / "deep" / "other.dat", 2**20 + 1, seed=2)
    (top / "deep" / "deeper" / "zeros.dat").write_bytes(bytes(3_000_000))
    (top / "deep" / "again.dat").write_bytes((top / "large.dat").read_bytes())
    (top / "a link").symlink_to("deep/deeper/zeros.dat")
    return top


# --- Kubo ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [[], ["--cid-version=0"], ["--trickle"], ["--max-directory-links=2", "--max-hamt-fanout=8"]]
)
def test_we_import_what_kubo_exports(
    daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path, options: list[str]
) -> None:
    """Whatever shape Kubo's DAG has, its CAR file brings every name and byte here, and what we export of it is the
    same CAR file again."""
    cid = daemon.add(tree, *options)
    theirs = daemon.run_bytes("dag", "export", "--progress=false", cid)
    (tmp_path / "kubo.car").write_bytes(theirs)
    assert ours.call(_IMPORT, tmp_path / "kubo.car") == [f"ipfs://{cid}"]
    ours.call(_LOAD_DIR, f"ipfs://{cid}", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(tree)
    ours.call(_EXPORT, f"ipfs://{cid}", tmp_path / "ours.car")
    assert (tmp_path / "ours.car").read_bytes() == theirs


def test_we_import_a_pipe_of_kubo(daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path) -> None:
    """`ipfs dag export CID | kachery-cloud import -`"""
    cid = daemon.add(tree)
    theirs = daemon.run_bytes("dag", "export", "--progress=false", cid)
    command = Path(ours.python).with_name("kachery-cloud")
    done = subprocess.run([command, "import", "-"], input=theirs, env=ours.env, capture_output=True, check=True)
    assert done.stdout.decode() == f"ipfs://{cid}\n"
    ours.call(_LOAD_DIR, f"ipfs://{cid}", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(tree)


@pytest.mark.parametrize("profile", [V0, V1])
def test_kubo_imports_what_we_export(
    daemon: KuboDaemon, ours: Workstation, tree: Path, tmp_path: Path, profile: str
) -> None:
    """Kubo takes our CAR file with several roots, pins them, and writes every name and byte out, with no network."""
    uri = ours.call(_STORE_DIR, tree, profile)
    file = f"{uri}/deep/other.dat"
    assert ours.call(_EXPORT, [uri, file], tmp_path / "ours.car") > 10
    with KuboDaemon() as other:
        told = [json.loads(line) for line in other.run("--enc=json", "dag", "import", tmp_path / "ours.car").split()]
        roots = [each["Root"] for each in told if "Root" in each]
        assert cid_of(uri) in [each["Cid"]["/"] for each in roots]  # it tells them in any order
        assert len(roots) == 2
        assert not any(each["PinErrorMsg"] for each in roots)
        other.get(cid_of(uri), tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(tree)


# --- Helia -----------------------------------------------------------------------------------------------------------


def test_we_import_what_helia_exports(helia: Helia, ours: Workstation, tmp_path: Path) -> None:
    """A file that Helia added and exported with @helia/car is here, byte for byte."""
    source = write_random(tmp_path / "source.dat", 3_000_000, seed=11)
    cid = helia.add(source)
    helia.call("export_car", cid=cid, dest=str(tmp_path / "helia.car"))
    assert ours.call(_IMPORT, tmp_path / "helia.car") == [f"ipfs://{cid}"]
    assert sha256_of(Path(ours.call(_LOAD, f"ipfs://{cid}"))) == sha256_of(source)


def test_helia_imports_what_we_export(helia: Helia, ours: Workstation, tree: Path, tmp_path: Path) -> None:
    """Helia takes our CAR file, and gives every byte of it out."""
    uri = ours.call(_STORE_DIR, tree, V1)
    ours.call(_EXPORT, uri, tmp_path / "ours.car")
    assert helia.call("import_car", path=str(tmp_path / "ours.car"))["roots"] == [cid_of(uri)]
    helia.get(cid_of(uri), tmp_path / "copy")
    found, wanted = contents(tmp_path / "copy"), contents(tree)
    del found["a link"], wanted["a link"]  # this exporter of ours writes no links
    assert found == wanted
