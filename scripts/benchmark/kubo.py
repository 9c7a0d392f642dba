"""Which Kubo the benchmark measures: the newest, as its users run it, where it could be built; else an old one.

`scripts/peers/install` builds the newest where there is a Go compiler. Elsewhere an old release takes its place, which
comes as a library (`scripts.peers.Kubo`); a comparison with that says nothing about the newest.
"""

from __future__ import annotations

from pathlib import Path

from scripts.peers import Kubo, places
from scripts.peers import missing as old_missing
from scripts.peers.kubo_daemon import KuboDaemon

AnyKubo = Kubo | KuboDaemon


def missing(far: bool) -> str | None:
    """Why neither can be had here; None where one can. The old one listens on loopback only: `far` needs the newest."""
    reason = places.missing_kubo_daemon()
    return old_missing() if reason is not None and not far else reason


def new_kubo(folder: Path, address: str) -> AnyKubo:
    """Starts one with its repo in `folder` that listens at `address`.

    Raises:
        PeerError: it cannot be started.
    """
    if places.missing_kubo_daemon() is not None:
        return Kubo(folder, disposable=True)
    return KuboDaemon(folder, host=address)
