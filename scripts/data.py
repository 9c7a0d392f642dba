"""Input for tests and measurements: seeded, so that every run has the same bytes."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PIECE = 1 << 22


def write_random(path: Path, size: int, seed: int = 1) -> Path:
    """Writes `size` random bytes to `path`."""
    source = random.Random(seed)
    with open(path, "wb") as file:
        for start in range(0, size, _PIECE):
            file.write(source.randbytes(min(_PIECE, size - start)))
    return path


def write_many(folder: Path, count: int, size: int, seed: int = 1) -> Path:
    """Makes `folder` with `count` files of `size` random bytes each."""
    source = random.Random(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"trial-{number:05d}.dat").write_bytes(source.randbytes(size))
    return folder


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal. One thread, in pieces: memory does not grow with the file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_folder(folder: Path) -> str:
    """One sha256 over the names and contents of all files below `folder`, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def recording(channels: int, seconds: float, rate: int = 30_000, seed: int = 1) -> npt.NDArray[np.int16]:
    """A simulated extracellular recording: int16 of shape (samples, channels).

    Noise, a slow wave that all channels share, and spikes of a few units, each seen by its neighbouring channels.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    samples = int(seconds * rate)
    # Fresh noise for every sample would take longer than all the rest: it repeats, shifted from channel to channel.
    noise = (rng.standard_normal(samples + 64 * channels) * 12).astype(np.int16)
    wave = (60 * np.sin(2 * np.pi * 8 * np.arange(samples) / rate)).astype(np.int16)
    traces = np.empty((samples, channels), dtype=np.int16)
    for channel in range(channels):
        traces[:, channel] = noise[64 * channel : 64 * channel + samples] + wave
    shape = np.exp(-(((np.arange(60) - 20) / 6.0) ** 2))
    for _ in range(channels // 2):
        centre, height = int(rng.integers(channels)), -float(rng.uniform(150, 600))
        times = rng.integers(0, max(samples - 60, 1), size=int(seconds * rng.uniform(1, 8)))
        for channel in range(max(0, centre - 2), min(channels, centre + 3)):
            spike = (height * shape / (1 + abs(channel - centre))).astype(np.int16)
            for time in times:
                piece = traces[time : time + 60, channel]
                piece += spike[: len(piece)]
    return traces
