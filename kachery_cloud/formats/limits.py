"""Bounds of what is written and read."""

from __future__ import annotations

from dataclasses import dataclass

#: Levels of values within one another, in JSON and in pickles. Deeper ones are a mistake, or an attack on the recursion
#: limit. Python's own limit differs from one program to the next; this one does not, so a value that can be stored
#: anywhere can be stored everywhere.
MAX_DEPTH = 200
#: Decimals and fractions longer than this take quadratic time to read back.
MAX_NUMBER_DIGITS = 65_536
#: Bytes that a reader may copy out of a file into arrays and the like: so many times the file's size, or so many for a
#: small one. A file that has one buffer copied over and over again is not written, and not read.
MAX_COPIES = 4
FREE_COPIES = 64 << 20


@dataclass(frozen=True)
class PickleLimits:
    """Units (see `pickle_budget`) that reading one pickle may cost.

    Attributes:
        free: what any file may spend.
        per_byte: and this for each of its bytes. The densest honest values are empty lists and sets: two bytes each.
    """

    free: int = 64 << 20
    per_byte: int = 32


PICKLE_LIMITS = PickleLimits()
