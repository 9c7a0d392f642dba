"""Our commands, Kubo and Helia on one network, each on a machine of its own: the CID alone is enough, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.data import write_random
from scripts.lab import Lab, unavailable
from scripts.peers import Helia, Kubo
from tests.helpers.patience import PATIENCE

SIZE = 2_000_000


@pytest.fixture
def lab() -> Iterator[Lab]:
    if reason := unavailable():
        pytest.skip(f"these tests need several machines: {reason}")
    with Lab() as made:
        yield made


@pytest.mark.parametrize("kind", ["kubo", "helia"])
def test_on_one_lan_by_multicast(
    lab: Lab,
    tmp_path: Path,
    kind: str,
    start_kubo: Callable[..., Kubo],
    start_helia: Callable[..., Helia],
) -> None:
    """A peer that knows nothing of us fetches what we stored, and we load what it added, by multicast DNS."""
    lan = lab.network("10.1.0.0/24")
    there = lab.host(kind, lan)
    with there.entered():
        peer = (start_kubo if kind == "kubo" else start_helia)(host=there.address, mdns=True)
    ours = lab.host("ours", lan).workstation(
        tmp_path / "ours", env={"KACHERY_CLOUD_LAN_DHT": "off", "KACHERY_CLOUD_PORT_MAP": "off"}
    )
    ours.start()
    mine = write_random(tmp_path / "mine.dat", SIZE, seed=21)
    uri = ours.run("kachery-cloud-store", mine).stdout.strip()
    got = tmp_path / "got.dat"
    peer.get(uri.removeprefix("ipfs://"), got, timeout=PATIENCE)
    assert got.read_bytes() == mine.read_bytes()
    theirs = write_random(tmp_path / "theirs.dat", SIZE, seed=22)
    cid = peer.add(theirs)
    path = Path(ours.run("kachery-cloud-load", cid, timeout=PATIENCE).stdout.strip())
    assert path.read_bytes() == theirs.read_bytes()
