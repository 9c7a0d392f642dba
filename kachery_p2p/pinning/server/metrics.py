"""Figures for Prometheus, in its text format. No name, CID or peer is among them: whoever can reach the port reads it.

The registry is our own. The library's global one belongs to the program that we may be a part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from kachery_p2p.pinning.server.keeper import Figures, ServiceFigures
from kachery_p2p.pinning.server.requests import STATUSES

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
#: Upper ends of the latency histogram, in seconds: a request is one or two looks into a database.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Snapshot(Collector):
    """What was found out for one answer. `collect` of the library cannot wait for it."""

    def __init__(self) -> None:
        self.node: Figures | None = None
        self.pins: Mapping[str, int] = {}
        self.running = 0

    def collect(self) -> Iterable[Metric]:
        node = self.node
        if node is None:
            return
        yield GaugeMetricFamily("kachery_peers", "Peers that the node is connected to.", value=node.peers)
        blocks = CounterMetricFamily("kachery_bitswap_blocks", "Blocks over Bitswap.", labels=["direction"])
        size = CounterMetricFamily("kachery_bitswap_bytes", "Bytes of blocks over Bitswap.", labels=["direction"])
        blocks.add_metric(["in"], node.blocks_received)
        blocks.add_metric(["out"], node.blocks_sent)
        size.add_metric(["in"], node.bytes_received)
        size.add_metric(["out"], node.bytes_sent)
        yield blocks
        yield size
        table = GaugeMetricFamily("kachery_dht_table_peers", "Peers in the routing table of a DHT.", labels=["dht"])
        for name, count in node.dht_peers.items():
            table.add_metric([name], count)
        yield table
        pins = GaugeMetricFamily("kachery_pins", "Pins of the pinning service, by state.", labels=["status"])
        for status in STATUSES:
            pins.add_metric([status], self.pins.get(status, 0))
        yield pins
        queue = self.pins.get("queued", 0) + self.pins.get("pinning", 0)
        yield GaugeMetricFamily("kachery_pin_queue_length", "Pins that are not done yet.", value=queue)
        yield GaugeMetricFamily("kachery_pins_fetching", "Pins that are fetched now.", value=self.running)
        if node.disk_used is not None:
            yield GaugeMetricFamily("kachery_disk_used_bytes", "Bytes of the data directory.", value=node.disk_used)
        yield GaugeMetricFamily("kachery_disk_free_bytes", "Bytes that the file system has left.", value=node.disk_free)
        if node.service is not None:
            yield from _service(node.service)


def _service(service: ServiceFigures) -> Iterable[Metric]:
    """How the program is doing."""
    yield GaugeMetricFamily("kachery_uptime_seconds", "Seconds since the program was started.", value=service.uptime)
    if service.storage_limit is not None:
        help_text = "Bytes that the data directory may take."
        yield GaugeMetricFamily("kachery_storage_limit_bytes", help_text, value=service.storage_limit)
    if service.storage_used is not None:
        help_text = "Bytes that it took at the last look."
        yield GaugeMetricFamily("kachery_storage_used_bytes", help_text, value=service.storage_used)
    yield GaugeMetricFamily(
        "kachery_cache_bytes", "Bytes of what was only loaded, and may go.", value=service.cache_bytes
    )
    for name, text, value in (
        ("kachery_evicted_bytes", "Bytes that went to make room.", service.evicted_bytes),
        ("kachery_evicted_roots", "Files and folders that went to make room.", service.evicted_roots),
        ("kachery_scrubbed_bytes", "Bytes that were read and compared with their hashes.", service.scrubbed_bytes),
        ("kachery_mended", "Damaged things that were brought back from others.", service.mended),
    ):
        yield CounterMetricFamily(name, text, value=value)
    yield GaugeMetricFamily("kachery_damaged", "Things that are damaged now.", value=service.damaged)
    yield GaugeMetricFamily(
        "kachery_scrubbed_timestamp_seconds", "When all was last read through.", value=service.scrubbed_at
    )
    connections = GaugeMetricFamily("kachery_connections", "Open connections.", labels=["kind"])
    for kind, count in service.connections.items():
        connections.add_metric([kind], count)
    yield connections
    counted = list(accumulate(service.lag_counts))
    ends = [*map(floatToGoString, service.lag_buckets), "+Inf"]
    yield HistogramMetricFamily(
        "kachery_event_loop_lag_seconds",
        "How late the event loop was.",
        buckets=list(zip(ends, counted, strict=True)),
        sum_value=service.lag_seconds,
    )


class Metrics:
    """The figures of one pinning service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._snapshot = _Snapshot()
        self._registry.register(self._snapshot)
        self._seconds = Histogram(
            "kachery_http_request_seconds",
            "Seconds from a request to the end of its answer.",
            ["method", "route", "status"],
            registry=self._registry,
            buckets=_BUCKETS,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. `method` and `route` are of few: each makes rows of its own."""
        self._seconds.labels(method, route, str(status)).observe(seconds)

    def text(self, node: Figures, pins: Mapping[str, int], running: int) -> bytes:
        """All of it."""
        self._snapshot.node, self._snapshot.pins, self._snapshot.running = node, pins, running
        return generate_latest(self._registry)
