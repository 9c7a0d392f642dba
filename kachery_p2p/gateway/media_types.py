"""Media types of the trustless gateway specification that client and server know."""

from __future__ import annotations

RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"
