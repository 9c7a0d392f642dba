"""The gateway of a whole node: what it has, what it fetches from others when it is told to, and how it is started."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from scripts.data import write_many, write_random
from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.gateway_served import car_blocks

_STORE = "say(kcl.store_file(args[0]))"
_STORE_DIR = "say(kcl.store_dir(args[0]))"
#: Two blocks of dag-cbor, each with links: to the other, and to a file and a folder.
_PUT_CBOR = """
import cbor2, json, os
from kachery_p2p.dag.cid import CID, sha256_multihash
from kachery_p2p.repo.repo import Repo
def link(text):
    return cbor2.CBORTag(42, b"\\0" + bytes(CID.parse(text)))
with Repo.open(os.environ["KACHERY_CLOUD_DIR"]) as repo:
    def put(value):
        block = cbor2.dumps(value)
        cid = CID(1, 0x71, sha256_multihash(block))
        repo.put_blocks([(cid, block)])
        return str(cid)
    inner = put({"file": link(args[0]), "folder": link(args[1]), "n": 1})
    say(json.dumps([put({"a": [link(inner)]}), inner]))
"""
_SECONDS = 60.0


@pytest.fixture(scope="module")
def source(module_workstation: StartWorkstation) -> Workstation:
    """A workstation that has the data."""
    return module_workstation().start()


@pytest.fixture
def fetching(workstation: StartWorkstation, source: Workstation) -> Workstation:
    """An empty one, connected to it, whose gateway fetches."""
    return workstation().start("--gateway", "127.0.0.1:0", "--gateway-fetch", "--peer", source.addr)


def client(station: Workstation) -> httpx.Client:
    return httpx.Client(base_url=station.status()["gateway"]["url"], trust_env=False, timeout=_SECONDS)


def stored(station: Workstation, path: Path) -> str:
    uri = station.call(_STORE_DIR if path.is_dir() else _STORE, path)
    return uri.replace("ipfs://", "/ipfs/").partition("?")[0]


def test_a_file_that_others_have(source: Workstation, fetching: Workstation, tmp_path: Path) -> None:
    """A file comes through the gateway while it is loaded from a peer: a part of it, and all of it."""
    path = write_random(tmp_path / "data.bin", 9_000_001)
    data = path.read_bytes()
    url = stored(source, path)
    with client(fetching) as http:
        only = http.get(url, headers={"cache-control": "only-if-cached"})
        assert only.status_code == 412
        part = http.get(url, headers={"range": "bytes=5000000-5000099"})
        assert (part.status_code, part.content) == (206, data[5_000_000:5_000_100])
        assert http.get(url).content == data
        assert http.head(url).headers["content-length"] == str(len(data))


def test_a_folder_that_others_have(source: Workstation, fetching: Workstation, tmp_path: Path) -> None:
    """A directory of a peer is shown, its files are found by name, and it can be had as a CAR."""
    folder = write_many(tmp_path / "trials", 20, 500)
    (folder / "more").mkdir()
    write_random(folder / "more" / "x.dat", 3_000_000)
    url = stored(source, folder)
    with client(fetching) as http:
        assert http.get(url, follow_redirects=True).text.partition("<main>")[2].count("<a ") == 21 + 2
        assert http.get(f"{url}/more/x.dat").content == (folder / "more" / "x.dat").read_bytes()
        assert http.get(f"{url}/nope").status_code == 404
        car = http.get(f"{url}?format=car")
        assert len(car_blocks(car.content)) == 1 + 20 + 1 + 1 + 3


@pytest.mark.parametrize("query", ["?format=raw", "?format=car", "?format=car&entity-bytes=0:10"])
def test_blocks_that_others_have(source: Workstation, fetching: Workstation, tmp_path: Path, query: str) -> None:
    """Blocks and CARs of what a peer has come through, the same as from that peer's own repo."""
    url = stored(source, write_random(tmp_path / "data.bin", 3_000_000, seed=len(query)))
    with client(fetching) as http:
        answer = http.get(url + query)
        assert answer.status_code == 200
        if "car" in query:
            assert len(car_blocks(answer.content)) == (2 if "bytes" in query else 4)


def test_dag_cbor_that_others_have(source: Workstation, fetching: Workstation, tmp_path: Path) -> None:
    """Paths through dag-cbor are followed to a peer, block after block, and a CAR has all that is below, files too."""
    file = write_random(tmp_path / "data.bin", 3_000_000, seed=5)
    url = stored(source, write_many(tmp_path / "trials", 3, 500))
    top, inner = json.loads(source.call(_PUT_CBOR, stored(source, file).rpartition("/")[2], url.rpartition("/")[2]))
    with client(fetching) as http:
        assert http.head(f"/ipfs/{top}").headers["content-type"] == "application/vnd.ipld.dag-cbor"
        page = http.get(f"/ipfs/{top}/a/0/folder/", headers={"accept": "text/html"}).text
        assert page.partition("<main>")[2].count("<a ") == 1 + 3 + 2
        assert http.get(f"/ipfs/{top}/a/0/n").status_code == 501
        assert http.get(f"/ipfs/{top}/a/0/file", headers={"range": "bytes=5-9"}).content == file.read_bytes()[5:10]
        blocks = car_blocks(http.get(f"/ipfs/{top}?format=car").content)
        assert [str(cid) for cid, _ in blocks[:2]] == [top, inner]
        assert len(blocks) == 2 + 4 + 4
        only = http.get(f"/ipfs/{top}/a/0/file?format=tar", headers={"cache-control": "only-if-cached"})
        assert only.status_code == 200  # the CAR has brought it here


def test_nothing_is_fetched_unasked(source: Workstation, workstation: StartWorkstation, tmp_path: Path) -> None:
    """Without --gateway-fetch the gateway asks nobody, however near the data is."""
    url = stored(source, write_random(tmp_path / "data.bin", 1000, seed=9))
    station = workstation().start("--gateway", "127.0.0.1:0", "--peer", source.addr)
    with client(station) as http:
        assert http.get(url).status_code == 404
    assert station.status()["gateway"]["fetch"] is False


def test_a_node_without_a_gateway_has_none(source: Workstation) -> None:
    """No port is opened unasked."""
    assert "gateway" not in source.status()


def test_options_that_make_no_sense(workstation: StartWorkstation) -> None:
    """Mistakes in the options end the command with 2 and a sentence."""
    for options, says in (
        (("--gateway-fetch",), "--gateway"),
        (("--gateway", "example.org:80"), "127.0.0.1:8090"),
    ):
        done = workstation().run("kachery-cloud-node", *options, check=False)
        assert done.returncode == 2
        assert says in done.stderr
