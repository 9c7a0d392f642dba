"""Files as scientists store them, for previews."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np

from tests.web.lab_fake import FakeLab


def npy(array: Any) -> bytes:
    """An array as a .npy file."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def png(width: int, height: int, claimed: tuple[int, int] | None = None) -> bytes:
    """A picture with a gradient; its header may claim another size."""
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (x * 255 // width, y * 255 // height, 120))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", *(claimed or (width, height)), 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def hdf5(trials: int = 50) -> bytes:
    """A file as NWB has them: groups, attributes, arrays, links."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        file["session_description"] = "CA1, tetrode 3"
        series = file.create_group("acquisition/ElectricalSeries")
        series.attrs["neurodata_type"] = "ElectricalSeries"
        wave = np.sin(np.arange(trials * 1000)[:, None] / [40.0, 55.0, 70.0, 95.0]) * [1, 2, 3, 4]
        series.create_dataset("data", data=wave.astype("<f4"), chunks=(1000, 4), compression="gzip")
        file.create_dataset("units/spike_times", data=np.sort(np.random.default_rng(1).random(2000) * 600))
        file["units/also"] = h5py.SoftLink("/units/spike_times")
        file["units/nowhere"] = h5py.SoftLink("/units/gone")
        file["units/other"] = h5py.ExternalLink("other.h5", "/x")
        file.create_dataset("labels", data=np.array(["left", "right"], dtype=h5py.string_dtype()))
    return out.getvalue()


def zarr() -> dict[str, bytes]:
    """A zarr store of version 2: a group, and an array in it."""
    array = {"chunks": [64, 64], "dtype": "<u2", "shape": [128, 128], "zarr_format": 2, "order": "C", "filters": None}
    chunks = {f"annotation/{y}.{x}": b"\0" * 8192 for y in range(2) for x in range(2)}
    return {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": b'{"species": "mouse", "resolution": [25, 25, 25]}',
        "annotation/.zarray": json.dumps(array).encode(),
        "README.txt": b"Annotation of 2026.",
        **chunks,
    }


def put_all(lab: FakeLab) -> dict[str, str]:
    """Have one of each; their IDs by kind."""
    rng = np.random.default_rng(7)
    walk = np.cumsum(rng.normal(size=200_000)).astype("<f4")
    grid = np.hypot(*np.meshgrid(np.linspace(-3, 3, 300), np.linspace(-2, 2, 200)))
    spec = {
        "$schema": "vega-lite",
        "mark": "line",
        "data": {"values": [{"x": 1, "y": 2.5}] * 3},
        "title": None,
        "ok": True,
    }
    return {
        "text": lab.put("notes.md", b"# Day 14\n\nThe animal ran well.\n" * 30),
        "json": lab.put("figure.json", json.dumps(spec).encode()),
        "picture": lab.put("map.png", png(320, 200)),
        "line": lab.put("lfp.npy", npy(walk)),
        "heat": lab.put("rate_map.npy", npy(np.sin(grid * 3))),
        "hdf5": lab.put("session.nwb", hdf5()),
        "zarr": lab.put_folder("annotation_25.zarr", zarr()),
        "binary": lab.put("unknown.bin", bytes(range(256)) * 4),
    }
