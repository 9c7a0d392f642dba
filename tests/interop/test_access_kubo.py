"""A real Kubo that is in no group of ours: it gets what is public, and of the rest nothing, however it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data import write_many, write_random
from scripts.peers import Kubo, PeerError
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE
from tests.interop.common import cid_of, connect

_STORE = "say(kcl.store_file(args[0]))"
#: For the user's own machines alone.
_STORE_PRIVATE = """
import os
from pathlib import Path
from kachery_p2p.access.audience import PRIVATE
from kachery_p2p.repo.repo import Repo
with Repo.open(os.environ["KACHERY_CLOUD_DIR"]) as repo:
    store = repo.store_directory if Path(args[0]).is_dir() else repo.store_file
    say(str(store(Path(args[0]), audience=PRIVATE).cid))
"""
#: Seconds that Kubo is given to ask for what it does not get.
_IN_VAIN = 4


@pytest.fixture(scope="module")
def peer(kubo: Kubo) -> Kubo:
    """Kubo alone."""
    return kubo


def test_what_an_outsider_gets(peer: Kubo, station: Workstation, tmp_path: Path) -> None:
    """Public files come byte for byte, beside private files and folders of which no byte is sent."""
    assert isinstance(peer, Kubo)
    public = write_random(tmp_path / "public.dat", 2_500_000, seed=1)
    secret = write_random(tmp_path / "secret.dat", 2_500_000, seed=2)
    folder = write_many(tmp_path / "folder", 5, 500)
    private = [station.call(_STORE_PRIVATE, path) for path in (secret, folder)]
    shared = cid_of(station.call(_STORE, public))
    connect(peer, station)
    # While Kubo waits for what is hidden, it gets what is not.
    waiting = [peer.begin("get", cid=cid, dest=str(tmp_path / cid), timeout=_IN_VAIN) for cid in private]
    peer.get(shared, tmp_path / "copy.dat", timeout=PATIENCE)
    assert (tmp_path / "copy.dat").read_bytes() == public.read_bytes()
    sent = station.status()["bytes_sent"]
    for each, cid in zip(waiting, private, strict=True):
        with pytest.raises(PeerError):
            each.result(timeout=PATIENCE)
        with pytest.raises(PeerError):
            peer.get(cid, tmp_path / f"again-{cid}", timeout=_IN_VAIN)
        with pytest.raises(PeerError):
            peer.pin(cid, timeout=_IN_VAIN)
    traffic = station.status()
    assert traffic["bytes_sent"] == sent
    assert 2_500_000 <= sent < 2_600_000
