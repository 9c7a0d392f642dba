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


def missing() -> str | None:
    """Why neither can be had here; None where one can."""
    return old_missing() if places.missing_kubo_daemon() is not None else None


def new_kubo(folder: Path) -> AnyKubo:
    """Starts one with its repo in `folder`.

    Raises:
        PeerError: it cannot be started.
    """
    return Kubo(folder, disposable=True) if places.missing_kubo_daemon() is not None else KuboDaemon(folder)
