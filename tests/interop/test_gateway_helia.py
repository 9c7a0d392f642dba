"""Helia's HTTP retrieval and curl fetch from the gateway of one of our nodes; their code checks what they get."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.data import sha256_of, sha256_of_folder, write_many, write_random
from scripts.peers import Helia, PeerError
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE
from tests.interop.common import V0, V1, cid_of

_STORE = "say(kcl.store_file(args[0], profile=args[1]))"
_STORE_DIR = "say(kcl.store_dir(args[0], profile=args[1]))"


@pytest.fixture(scope="module")
def station(module_workstation) -> Workstation:
    """A workstation whose node serves a gateway."""
    return module_workstation().start("--gateway", "127.0.0.1:0")


@pytest.fixture(scope="module")
def url(station: Workstation) -> str:
    return station.status()["gateway"]["url"]


def get_http(helia: Helia, url: str, cid: str, dest: Path, *, timeout: float = PATIENCE) -> int:
    """Fetch with a Helia that has nothing but HTTP. Returns the bytes of the files."""
    return helia.call("get_http", gateways=[url], cid=cid, dest=str(dest.resolve()), timeout=timeout)["bytes"]


@pytest.mark.parametrize("profile", [V0, V1])
@pytest.mark.parametrize("size", [0, 1, 5 * 2**20 + 77])
def test_helia_fetches_a_file(
    helia: Helia, station: Workstation, url: str, tmp_path: Path, size: int, profile: str
) -> None:
    """Helia fetches a file block by block from our gateway, byte for byte, with a CID of either version."""
    source = write_random(tmp_path / "source.dat", size, seed=len(profile) + size)
    cid = cid_of(station.call(_STORE, source, profile))
    assert get_http(helia, url, cid, tmp_path / "copy.dat") == size
    assert sha256_of(tmp_path / "copy.dat") == sha256_of(source)


def test_helia_fetches_a_directory(helia: Helia, station: Workstation, url: str, tmp_path: Path) -> None:
    """Helia fetches a directory with folders in it from our gateway: every name and every byte."""
    folder = write_many(tmp_path / "trials", 100, 3000)
    write_random(folder / "raw.dat", 3 * 2**20)
    write_many(folder / "deep", 3, 10)
    cid = cid_of(station.call(_STORE_DIR, folder, V1))
    get_http(helia, url, cid, tmp_path / "copy")
    assert sha256_of_folder(tmp_path / "copy") == sha256_of_folder(folder)


def test_what_is_not_here_fails_for_helia(helia: Helia, url: str, tmp_path: Path) -> None:
    """What our node does not have is an error in Helia, at once."""
    absent = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
    with pytest.raises(PeerError, match="from any gateway"):
        get_http(helia, url, absent, tmp_path / "copy", timeout=20)


def test_curl_fetches_a_range(station: Workstation, url: str, tmp_path: Path) -> None:
    """curl fetches a byte range, a whole file, and goes on with one that was cut off."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    source = write_random(tmp_path / "source.dat", 4_000_000)
    data = source.read_bytes()
    address = f"{url}/ipfs/{cid_of(station.call(_STORE, source, V1))}"

    def curl(*options: str) -> bytes:
        command = [
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--noproxy",
            "*",
            "--max-time",
            "30",
            *options,
            address,
        ]
        return subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE).stdout

    assert curl("--range", "1000000-1999999") == data[1_000_000:2_000_000]
    assert curl("--range", "-10") == data[-10:]
    assert hashlib.sha256(curl()).hexdigest() == sha256_of(source)
    part = tmp_path / "part.dat"
    part.write_bytes(data[:123_456])
    curl("--continue-at", "-", "--output", str(part))
    assert part.read_bytes() == data
