"""Kubo and Helia load what one of our workstations stores: over their Bitswap, checked by their code."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data import sha256_of, sha256_of_folder, write_random
from scripts.peers import Helia, Kubo
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE
from tests.interop.common import V0, V1, cid_of, connect

_STORE = "say(kcl.store_file(args[0], profile=args[1]))"
_LINK = "say(kcl.link_file(args[0], profile=args[1]))"
_STORE_DIR = "say(kcl.store_dir(args[0], profile=args[1]))"


@pytest.mark.parametrize("profile", [V0, V1])
@pytest.mark.parametrize("size", [0, 1, 2**20 + 1])
def test_small_files(peer: Kubo | Helia, station: Workstation, tmp_path: Path, size: int, profile: str) -> None:
    """A peer loads a file of ours, with a CID of either version, byte for byte."""
    source = write_random(tmp_path / "source.dat", size, seed=len(profile) * size)
    cid = cid_of(station.call(_STORE, source, profile))
    assert cid.startswith("Qm" if profile == V0 else "baf")
    connect(peer, station)
    peer.get(cid, tmp_path / "copy.dat", timeout=PATIENCE)
    assert (tmp_path / "copy.dat").read_bytes() == source.read_bytes()


@pytest.mark.slow
def test_large_file(peer: Kubo | Helia, station: Workstation, tmp_path: Path, large_file: Path) -> None:
    """A peer loads a linked file of 300 MB, served from where it lies, byte for byte."""
    cid = cid_of(station.call(_LINK, large_file, V1))
    connect(peer, station)
    peer.pin(cid, timeout=120)
    peer.get(cid, tmp_path / "copy.dat", timeout=120)
    assert sha256_of(tmp_path / "copy.dat") == sha256_of(large_file)


@pytest.mark.slow
def test_directory_of_6000_files(
    peer: Kubo | Helia,
    station: Workstation,
    tmp_path: Path,
    many_files: Path,
    many_files_cids: dict[str, str],
) -> None:
    """A peer loads a sharded directory of ours: every name and every byte."""
    profile = V1 if isinstance(peer, Kubo) else V0
    cid = cid_of(station.call(_STORE_DIR, many_files, profile))
    assert cid == many_files_cids[profile]
    connect(peer, station)
    if isinstance(peer, Kubo):
        peer.pin(cid, timeout=120)  # its `get` asks for one block after the other
    peer.get(cid, tmp_path / "copy", timeout=120)
    assert sha256_of_folder(tmp_path / "copy") == sha256_of_folder(many_files)
