"""What is stored and loaded: one big file, or a folder of many small ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scripts.data import sha256_of, sha256_of_folder, write_many, write_random

SMALL_FILE_BYTES = 10_000
_PIECE = 1 << 22


@dataclass(frozen=True)
class Dataset:
    """A file or folder to work with. `bytes` is the sum of its files."""

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
    path = write_random(folder / "recording.dat", size)
    return Dataset(f"one file of {size / 1e6:,.0f} MB", path, size, 1, sha256_of(path))


def small_files(folder: Path, count: int) -> Dataset:
    """A folder of `count` files of `SMALL_FILE_BYTES` each."""
    path = write_many(folder / "trials", count, SMALL_FILE_BYTES)
    name = f"{count:,} files of {SMALL_FILE_BYTES / 1000:.0f} kB in a folder"
    return Dataset(name, path, count * SMALL_FILE_BYTES, count, sha256_of_folder(path))
