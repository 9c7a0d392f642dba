"""The route of the node's health, for the page.

    GET   /api/v1/node     peers by latency, traffic, disk, what waits, since when

Addresses of peers are told to administrators alone, as they say where somebody is; so is what becomes of the disk.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kachery_cloud.lab.answers import Json, query_of
from kachery_cloud.lab.lab import Lab
from kachery_cloud.utc import time_text
from kachery_p2p.pinning.server.keeper import ServiceFigures

#: Peers of one answer: those that answer fastest.
MAX_PEERS = 500


def routes(lab: Lab) -> list[BaseRoute]:
    """Of the node."""
    begun, begun_at = time.monotonic(), lab.wall()

    async def health(request: Request) -> Response:
        caller = await lab.require(request)
        query_of(request, ())
        status = lab.node.status()
        figures = await lab.keeper.figures()
        why = await lab.keeper.check()
        counts = await lab.do(lab.pins.counts)
        labels = {each.peer: each.label for each in await lab.do(lab.accounts.clients)}
        sent = lab.node.exchange.stats().peers
        peers: dict[str, dict[str, Any]] = {}
        for each in lab.node.host.connections():
            trip = None if not each.round_trip else round(1000 * each.round_trip, 3)
            known = peers.get(each.peer)
            if known is not None and (trip is None or (known["round_trip_ms"] or trip) < trip):
                continue
            moved = sent.get(each.peer)
            peers[each.peer] = {
                "peer": each.peer,
                "label": labels.get(each.peer, ""),
                "direction": each.direction,
                "round_trip_ms": trip,
                "bytes_sent": 0 if moved is None else moved.bytes_sent,
                "bytes_received": 0 if moved is None else moved.bytes_received,
                **({"address": each.addr} if caller.member.is_administrator else {}),
            }
        fastest = sorted(peers.values(), key=lambda each: (each["round_trip_ms"] is None, each["round_trip_ms"] or 0))
        traffic = status.traffic
        return Json(
            {
                "peer_id": status.peer_id,
                "addresses": list(status.addresses),
                "ready": not why,
                "why": why,
                "started": time_text(begun_at),
                "uptime": round(time.monotonic() - begun),
                "peers": fastest[:MAX_PEERS],
                "peers_count": len(peers),
                "traffic": {
                    "bytes_sent": traffic.bytes_sent,
                    "bytes_received": traffic.bytes_received,
                    "blocks_sent": traffic.blocks_sent,
                    "blocks_received": traffic.blocks_received,
                },
                "disk": {"used": figures.disk_used, "free": figures.disk_free},
                "queue": {name: counts.get(name, 0) for name in ("queued", "pinning", "pinned", "failed")},
                "dht": dict(figures.dht_peers),
                "storage": _storage(figures.service) if caller.member.is_administrator else None,
            }
        )

    return [Route("/api/v1/node", health, methods=["GET"])]


def _storage(service: ServiceFigures | None) -> dict[str, Any] | None:
    """What becomes of the disk: what may go, what went to make room, and whether all is sound."""
    if service is None:
        return None
    return {
        "limit": service.storage_limit,
        "cache": service.cache_bytes,
        "evicted_bytes": service.evicted_bytes,
        "evicted_roots": service.evicted_roots,
        "scrubbed": time_text(service.scrubbed_at) if service.scrubbed_at else None,
        "damaged": service.damaged,
        "mended": service.mended,
    }
