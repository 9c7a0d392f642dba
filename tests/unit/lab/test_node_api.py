"""The health of the node as the page of the lab gets it: who sees what of it."""

from __future__ import annotations

from pathlib import Path

from kachery_p2p.pinning.server.keeper import ServiceFigures
from tests.helpers.lab import running_lab


def figures() -> ServiceFigures:
    """Those of a program that has made room, and found and mended something."""
    return ServiceFigures(
        uptime=100.0, storage_limit=2_000, storage_used=1_500, cache_bytes=700, evicted_bytes=300, evicted_roots=2,
        scrubbed_bytes=1_500, damaged=0, mended=1, scrubbed_at=1_767_225_600.0, connections={}, lag_buckets=(),
        lag_counts=(), lag_seconds=0.0,
    )  # fmt: skip


async def test_what_becomes_of_the_disk_is_for_administrators(tmp_path: Path) -> None:
    """They see the limit, what may go and what went; members see that the node is well, and nothing of that."""
    async with running_lab(tmp_path) as lab:
        admin = await lab.browser(await lab.member("Ada", role="administrator"))
        member = await lab.browser(await lab.member("Grace"))
        assert (await admin.get("/api/v1/node")).json()["storage"] is None
        lab.node.service_figures = figures
        assert (await admin.get("/api/v1/node")).json()["storage"] == {
            "limit": 2_000,
            "cache": 700,
            "evicted_bytes": 300,
            "evicted_roots": 2,
            "scrubbed": "2026-01-01T00:00:00Z",
            "damaged": 0,
            "mended": 1,
        }
        told = (await member.get("/api/v1/node")).json()
        assert (told["storage"], told["ready"]) == (None, True)
