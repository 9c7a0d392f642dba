"""Parts of files, and answers that need not be sent again: Range, If-Range and If-None-Match (RFC 9110), and
`entity-bytes` of the trustless gateway."""

from __future__ import annotations

import re

from .paths import Refusal

_ONE_RANGE = re.compile(r"(\d{0,19})-(\d{0,19})")
_ENTITY_BYTES = re.compile(r"(-?\d{1,19}):(-?\d{1,19}|\*)")


def requested_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The part of a file that a Range header asks for, as (start, end), end exclusive; None for all of it.

    A header that is malformed, or counts in other units than bytes, is passed over, as RFC 9110 demands.

    Raises:
        Refusal: 416 for a range behind the end of the file, and for several ranges at once: they would be an answer of
            another form, and nobody who reads arrays asks for that.
    """
    if header is None:
        return None
    unit, equals, rest = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    matches = [_ONE_RANGE.fullmatch(part) for part in parts]
    if not parts or not all(matches):
        return None
    if len(parts) > 1:
        raise Refusal(416, "This gateway gives one range at a time; ask for each by itself.", _whole(size))
    assert matches[0] is not None
    first, last = matches[0].groups()
    if not first:
        if not last:
            return None
        start, end = max(0, size - int(last)), size
        if start >= end:
            raise Refusal(416, f"The range {parts[0]} has no bytes; the file has {size}.", _whole(size))
        return start, end
    start = int(first)
    end = size if not last else min(size, int(last) + 1)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Refusal(
            416, f"The range {parts[0]} begins behind the end of the file, which has {size} bytes.", _whole(size)
        )
    return start, end


def _whole(size: int) -> dict[str, str]:
    return {"content-range": f"bytes */{size}"}


def entity_bytes(text: str) -> tuple[int, int | None]:
    """`from:to` as numbers, both inclusive, negative ones counted from the end; None for `*`.

    Raises:
        Refusal: 400.
    """
    match = _ENTITY_BYTES.fullmatch(text)
    if match is None:
        raise Refusal(400, f"entity-bytes is {text[:60]!a}; it must be FROM:TO, two numbers, TO perhaps '*'.")
    start, end = int(match[1]), None if match[2] == "*" else int(match[2])
    if end is not None and (start < 0) == (end < 0) and end < start:
        raise Refusal(400, f"entity-bytes is {text[:60]!a}, which ends before it begins.")
    return start, end


def entity_range(wanted: tuple[int, int | None], size: int) -> tuple[int, int]:
    """The same as (start, end) in a file of `size` bytes, end exclusive; empty where none are in it."""
    first, last = wanted
    start = first if first >= 0 else max(0, size + first)
    end = size if last is None else last + 1 if last >= 0 else size + last + 1
    return start, max(0, min(end, size))


def matches(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names that ETag: what the asker has is right, for a CID never changes."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return etag.removeprefix("W/") in (each.strip().removeprefix("W/") for each in header.split(","))
