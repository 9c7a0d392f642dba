"""What one load of a pickle may cost, whatever the file asks for.

Everything that a pickle has made, copied, unfolded, hashed or compared is charged here before it is done. One unit is
about a byte of memory; a step of hashing or comparing is a few. A file may spend a fixed sum, and more in proportion
to its size. The sums are such that whatever `store_pkl` wrote is loaded, and that a small file of a stranger costs
seconds and some MiB at most.

Keys of dicts and elements of sets need the most care, because Python hashes and compares them in C, where nothing can
stop it. Tuples are hashed as trees, however often a part is shared, and sets compare as trees. And who chooses numbers
whose hashes are equal makes each one be compared with all before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from kachery_cloud.errors import UnsafePickle
from kachery_cloud.formats.limits import FREE_COPIES, MAX_COPIES, MAX_DEPTH, PickleLimits

#: Of a list, dict or set without its items.
CONTAINER = 64
#: Of hashing a number, or comparing two.
_STEP = 4

#: Of text and bytes, so many characters are hashed or compared in one step.
_CHARACTERS = 64
#: Python hashes text and bytes with a secret of the process, so hashes cannot be made equal on purpose.
_TEXT = {str, bytes}
#: These are of one size.
_FIXED = {float, complex, bool, type(None), date, time, datetime, timedelta, timezone}
#: Whole numbers nearer to zero than this have hashes that are all different, but for -1 and -2.
_OWN_HASH = 1 << 60
#: And these take one step.
_ONE_STEP = 1 << 200
#: So few keys are compared with one another without being counted.
_FEW = 8
#: What weighs no more is weighed again rather than remembered.
_LIGHT = 16


class PickleBudget:
    """The units that are left for one load of `size` bytes."""

    def __init__(self, size: int, limits: PickleLimits) -> None:
        self._size = size
        self._left = limits.free + limits.per_byte * size
        self._copies = max(FREE_COPIES, MAX_COPIES * size)
        self._weights: dict[int, tuple[Any, int, int]] = {}  # id -> the value (so the id stays its own), weight, depth
        self._hashes: dict[int, tuple[Any, dict[int, int]]] = {}  # id -> the container, how often it has each hash

    def spend(self, units: int) -> None:
        """Take units away.

        Raises:
            UnsafePickle: it is more than is left.
        """
        self._left -= units
        if self._left < 0:
            raise self._refusal()

    def copy(self, units: int, count: int) -> None:
        """Spend the units for a value, and the bytes that are copied into it.

        Raises:
            UnsafePickle: it is more than is left.
        """
        self._left -= units + count
        self._copies -= count
        if self._left < 0 or self._copies < 0:
            raise self._refusal()

    def _refusal(self) -> UnsafePickle:
        return UnsafePickle(f"The pickle of {self._size:,} bytes unfolds to far more than its size. It was not loaded.")

    def use_keys(self, keys: Sequence[Any], target: Collection[Any] = ()) -> None:
        """Before `keys` become keys of the dict, or elements of the set, `target`.

        Raises:
            UnsafePickle: hashing and comparing them costs more than is left.
            TypeError: one of them has no hash.
        """
        kinds = set(map(type, keys))
        if kinds <= _TEXT:
            self.spend(_STEP * (len(keys) + sum(map(len, keys)) // _CHARACTERS))
            return
        counted = self._hashes.get(id(target)) if target else None
        if kinds == {int} and (least := min(keys)) > -_ONE_STEP and (most := max(keys)) < _ONE_STEP:
            self.spend(_STEP * len(keys))
            if counted is None and least > -_OWN_HASH and most < _OWN_HASH:
                return
        elif kinds <= _FIXED:
            self.spend(_STEP * 2 * len(keys))
        else:
            self.spend(_STEP * sum(map(self.weigh, keys)))
        if counted is None and len(target) + len(keys) <= _FEW:
            return
        self._count(keys, target, counted)

    def _count(self, keys: Sequence[Any], target: Collection[Any], counted: tuple[Any, dict[int, int]] | None) -> None:
        """Charges for the comparing among keys of equal hash."""
        if counted is None:
            counts = dict.fromkeys(map(hash, target), 1)
            if type(target) is not tuple:  # more may come
                self._hashes[id(target)] = (target, counts)
        else:
            counts = counted[1]
        hashes = list(map(hash, keys))
        fresh = dict.fromkeys(hashes, 1)
        if len(fresh) == len(hashes) and counts.keys().isdisjoint(fresh):
            counts.update(fresh)
            return
        for key, value in zip(keys, hashes, strict=True):
            before = counts.get(value, 0)
            if before:
                self.spend(_STEP * before * self.weigh(key))
            counts[value] = before + 1

    def weigh(self, value: Any) -> int:
        """How many steps it takes to hash `value` or to compare it with one like it.

        Raises:
            UnsafePickle: it is nested too deep. Python hashes and frees some values without a look at the stack.
        """
        return self._weigh(value, 0)[0]

    def remember(self, value: Any, steps: int) -> None:
        """What `weigh` is to say of a type of numpy."""
        self._weights[id(value)] = (value, steps, 0)

    def _weigh(self, value: Any, level: int) -> tuple[int, int]:
        """The steps, as `weigh` gives them, and how deep the value is nested."""
        kind = type(value)
        if kind is tuple or kind is frozenset:
            parts: Collection[Any] = value
        elif kind is slice:
            parts = (value.start, value.stop, value.step)
        else:
            measure = _MEASURES.get(kind)
            if measure is not None:
                return measure(value), 0
            if isinstance(value, (str, bytes)):  # those of numpy too
                return 1 + len(value) // _CHARACTERS, 0
            known = self._weights.get(id(value))
            return (2, 0) if known is None else known[1:]
        known = self._weights.get(id(value))
        if known is None:
            if level > MAX_DEPTH:
                raise _too_deep()
            weight, depth = 1, 0
            for part in parts:
                kind = type(part)
                if kind is str:
                    weight += 1 + len(part) // _CHARACTERS
                    continue
                if kind in _FIXED or (kind is int and -_OWN_HASH < part < _OWN_HASH):
                    weight += 2
                    continue
                steps, below = self._weigh(part, level + 1)
                weight += steps
                depth = max(depth, below)
            known = (value, weight, depth + 1)
            if weight > _LIGHT:
                self.spend(_STEP * len(parts))
                self._weights[id(value)] = known
        if known[2] > MAX_DEPTH:
            raise _too_deep()
        return known[1], known[2]


def number_steps(*numbers: int) -> int:
    """Steps to divide whole numbers, or to write them in another base: it grows with the square of their lengths."""
    digits = sum(number.bit_length() for number in numbers) // 30
    return 1 + digits * digits // 64


def _too_deep() -> UnsafePickle:
    return UnsafePickle(
        f"The pickle has a dict key, a slice or an element of a set that is nested more than {MAX_DEPTH} deep. "
        "It was not loaded."
    )


def _fraction_steps(value: Fraction) -> int:
    return 64 + number_steps(value.numerator, value.denominator)


_MEASURES: dict[type, Callable[[Any], int]] = {
    # Compared with a Decimal or a fraction, a whole number is written in another base.
    int: number_steps,
    range: lambda value: number_steps(value.start, value.stop, value.step),
    Decimal: lambda value: 8 + number_steps(8 * sys.getsizeof(value)),
    Fraction: _fraction_steps,
    UUID: lambda _: 8,
}
