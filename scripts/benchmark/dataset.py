"""What is stored and loaded: one big file, a folder of many small ones, and others, each for rows of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scripts.data import sha256_of, sha256_of_folder, write_many, write_random

#: The kinds: one big file, a folder of small files, a file for many loaders at once, a small file, small values.
FILE, FOLDER, SWARM, START, VALUES = "file", "folder", "swarm", "start", "values"
START_BYTES = 1024
_PIECE = 1 << 22


@dataclass(frozen=True)
class Dataset:
    """A file or folder to work with. `bytes` is the sum of its files; of values there are `files`, and no bytes."""

    kind: str
    name: str
    path: Path
    bytes: int
    files: int
    sha256: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files."""
        return self.path.is_dir()

    def warm(self) -> None:
        """Reads it all, so that it is in the page cache, and lets earlier writes reach the disk."""
        for path in [self.path] if not self.is_folder else self.path.iterdir():
            with open(path, "rb") as file:
                while file.read(_PIECE):
                    pass
        os.sync()

    def check(self, copy: Path) -> None:
        """See that a copy has the very same bytes.

        Raises:
            AssertionError: it has others.
        """
        digest = sha256_of_folder(copy) if self.is_folder else sha256_of(copy)
        assert digest == self.sha256, f"{copy} differs from {self.path}"


def big_file(folder: Path, size: int) -> Dataset:
    """One file of `size` random bytes."""
    return _one_file(FILE, f"one file of {size / 1e6:,.0f} MB", folder / "recording.dat", size)


def swarm_file(folder: Path, size: int) -> Dataset:
    """One file of `size` random bytes that many load at once."""
    return _one_file(SWARM, f"one file of {size / 1e6:,.0f} MB for many", folder / "shared.dat", size)


def start_file(folder: Path) -> Dataset:
    """One file of a KiB: what takes time is everything but its bytes."""
    return _one_file(START, "one file of 1 KiB", folder / "note.dat", START_BYTES)


def _one_file(kind: str, name: str, path: Path, size: int) -> Dataset:
    path.parent.mkdir(exist_ok=True)
    write_random(path, size)
    return Dataset(kind, name, path, size, 1, sha256_of(path))


def small_files(folder: Path, count: int, size: int) -> Dataset:
    """A folder of `count` files of `size` bytes each."""
    path = write_many(folder / f"trials-{count}", count, size)
    shown = f"{size // 1024} KiB" if size % 1024 == 0 else f"{size / 1000:g} kB"
    return Dataset(FOLDER, f"{count:,} files of {shown} in a folder", path, count * size, count, sha256_of_folder(path))


def values(folder: Path, count: int) -> Dataset:
    """`count` small values, which the rows make themselves."""
    path = folder / "values"
    path.mkdir()
    return Dataset(VALUES, f"{count:,} small values", path, 0, count, sha256_of_folder(path))
