"""Our workstations load what Kubo and Helia add, and both sides agree on the CIDs."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data import sha256_of, sha256_of_folder, write_random
from scripts.peers import Helia, Kubo
from scripts.workstation import Workstation
from tests.interop.common import V0, V1, cid_of

_LOAD = "say(kcl.load_file(args[0], providers=[args[1]], timeout=120))"
_LOAD_DIR = "say(kcl.load_dir(args[0], args[2], providers=[args[1]], timeout=120))"
_CID_HERE = "say(kcl.store_file(args[0], profile=args[1], local=True))"


def _profiles(peer: Kubo | Helia) -> list[str]:
    """The profiles that a peer can add under: Kubo 0.22 as a library has no choice."""
    return [V0] if isinstance(peer, Kubo) else [V0, V1]


def _add(peer: Kubo | Helia, path: Path, profile: str) -> str:
    return peer.add(path) if isinstance(peer, Kubo) else peer.add(path, profile=profile)


@pytest.mark.parametrize("size", [0, 1, 2**20 + 1])
def test_small_files(peer: Kubo | Helia, station: Workstation, tmp_path: Path, size: int) -> None:
    """We load what a peer added, under every profile that it has, byte for byte."""
    for profile in _profiles(peer):
        source = write_random(tmp_path / profile, size, seed=len(profile) * size)
        cid = _add(peer, source, profile)
        assert cid.startswith("Qm" if profile == V0 else "baf")
        path = station.call(_LOAD, f"ipfs://{cid}", peer.addrs[0])
        assert Path(path).read_bytes() == source.read_bytes()


@pytest.mark.slow
def test_large_file(peer: Kubo | Helia, station: Workstation, tmp_path: Path, large_file: Path) -> None:
    """We load 300 MB that a peer added, byte for byte, and give the same bytes the same CID."""
    profile = _profiles(peer)[-1]
    cid = _add(peer, large_file, profile)
    path = Path(station.call(_LOAD, f"ipfs://{cid}", peer.addrs[0]))
    assert sha256_of(path) == sha256_of(large_file)
    own = Workstation(tmp_path / "other")
    assert cid_of(own.call(_CID_HERE, large_file, profile)) == cid


@pytest.mark.slow
def test_directory_of_6000_files(
    peer: Kubo | Helia,
    station: Workstation,
    tmp_path: Path,
    many_files: Path,
    many_files_cids: dict[str, str],
) -> None:
    """We load a sharded directory that a peer added: every name and every byte."""
    profile = _profiles(peer)[-1]
    cid = _add(peer, many_files, profile)
    assert cid == many_files_cids[profile]
    station.call(_LOAD_DIR, f"ipfs://{cid}", peer.addrs[0], tmp_path / "copy")
    assert sha256_of_folder(tmp_path / "copy") == sha256_of_folder(many_files)


def test_one_file_of_a_directory(peer: Kubo | Helia, station: Workstation, many_files: Path) -> None:
    """We load a single file by its path in a peer's sharded directory."""
    cid = _add(peer, many_files, _profiles(peer)[-1])
    name = "file-with-a-rather-long-name-004711.dat"
    path = station.call(_LOAD, f"ipfs://{cid}/{name}", peer.addrs[0])
    assert Path(path).read_bytes() == b"4711"


def test_a_range_of_a_file(peer: Kubo | Helia, station: Workstation, tmp_path: Path) -> None:
    """We load a few bytes from the middle of a peer's file, and only the blocks that hold them travel."""
    source = write_random(tmp_path / "source.dat", 20_000_000, seed=77)
    cid = _add(peer, source, _profiles(peer)[-1])
    before = station.status()["bytes_received"]
    code = "say(list(kcl.load_bytes(args[0], 10_000_000, 10_000_100, providers=[args[1]], timeout=120)))"
    got = bytes(station.call(code, f"ipfs://{cid}", peer.addrs[0]))
    assert got == source.read_bytes()[10_000_000:10_000_100]
    assert station.status()["bytes_received"] - before < 3_000_000
