"""Units in which limits are written."""

from __future__ import annotations

#: Bytes.
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
#: Seconds.
HOUR = 3600.0
DAY = 24 * HOUR
