"""Times as they stand in JSON and files: ISO 8601, in UTC, to the second."""

from __future__ import annotations

from datetime import datetime, timezone


def time_text(seconds: float) -> str:
    """Seconds since 1970 as `2026-11-30T12:00:00Z`."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
