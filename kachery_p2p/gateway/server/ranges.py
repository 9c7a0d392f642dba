"""Parts of files, and answers that need not be sent again.

Range, If-Range and If-None-Match are those of RFC 9110; `entity-bytes` is the trustless gateway's.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from kachery_p2p.gateway.server import limits
from kachery_p2p.gateway.server.paths import PathRefusal

_ONE_RANGE = re.compile(r"(\d{0,19})-(\d{0,19})")
_ETAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_ENTITY_BYTES = re.compile(r"(-?\d{1,19}):(-?\d{1,19}|\*)")


def requested_ranges(header: str | None, size: int) -> list[tuple[int, int]]:
    """The parts of a file that a Range header asks for, as (start, end), end exclusive; empty for all of it.

    A header that is malformed, or counts in other units than bytes, is passed over (RFC 9110, section 14.2). So is one
    with more than MAX_RANGES, or that asks for more bytes than the file has: ranges that overlap a lot are not meant
    honestly. Those of several ranges that lie behind the end of the file are left out.

    Raises:
        PathRefusal: 416 when all of them lie behind the end of the file.
    """
    unit, equals, rest = (header or "").partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return []
    asked = [part.strip() for part in rest.split(",") if part.strip()]
    if not asked or len(asked) > limits.MAX_RANGES:
        return []
    found: list[tuple[int, int]] = []
    for part in asked:
        match = _ONE_RANGE.fullmatch(part)
        if match is None or part == "-":
            return []
        first, last = match.groups()
        if first and last and int(last) < int(first):
            return []
        start, end = (int(first), size) if first else (max(0, size - int(last)), size)
        if first and last:
            end = min(size, int(last) + 1)
        if start < end:
            found.append((start, end))
    if not found:
        what = f"The range {asked[0]} has" if len(asked) == 1 else "The ranges have"
        raise PathRefusal(416, f"{what} no bytes of the file in it; the file has {size}.", _whole(size))
    return found if sum(end - start for start, end in found) <= size else []


def _whole(size: int) -> dict[str, str]:
    return {"content-range": f"bytes */{size}"}


def entity_bytes(text: str) -> tuple[int, int | None]:
    """`from:to` as numbers, both inclusive, negative ones counted from the end; None for `*`.

    Raises:
        PathRefusal: 400 for anything else.
    """
    match = _ENTITY_BYTES.fullmatch(text)
    if match is None:
        raise PathRefusal(400, f"entity-bytes is {text[:60]!a}; it must be FROM:TO, two numbers, TO perhaps '*'.")
    start, end = int(match[1]), None if match[2] == "*" else int(match[2])
    if end is not None and (start < 0) == (end < 0) and end < start:
        raise PathRefusal(400, f"entity-bytes is {text[:60]!a}, which ends before it begins.")
    return start, end


def entity_range(wanted: tuple[int, int | None], size: int) -> tuple[int, int]:
    """The same as (start, end) in a file of `size` bytes, end exclusive; empty where none are in it."""
    first, last = wanted
    start = first if first >= 0 else max(0, size + first)
    end = size if last is None else last + 1 if last >= 0 else size + last + 1
    return start, max(0, min(end, size))


def matches(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names that ETag, by weak comparison (RFC 9110, section 13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or etag.removeprefix("W/") in _ETAG.findall(header)


def may_resume(header: str | None, etag: str) -> bool:
    """Whether a Range counts beside this If-Range header: there is none, or it names that ETag.

    The comparison is a strong one (RFC 9110, section 13.1.5). Dates never match, for no answer has one.
    """
    return header is None or (header.strip() == etag and not etag.startswith("W/"))


class Multipart:
    """The frame of an answer with several ranges (multipart/byteranges; RFC 9110, section 14.6).

    Args:
        kind: the media type of the whole; size: its bytes.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], kind: str, size: int) -> None:
        self._boundary = secrets.token_hex(16)
        self.heads = [
            (
                f"\r\n--{self._boundary}\r\nContent-Type: {kind}\r\n"
                f"Content-Range: bytes {start}-{end - 1}/{size}\r\n\r\n"
            ).encode("latin-1", "replace")
            for start, end in ranges
        ]
        self.tail = f"\r\n--{self._boundary}--\r\n".encode("ascii")
        self.length = sum(map(len, self.heads)) + len(self.tail) + sum(end - start for start, end in ranges)

    @property
    def content_type(self) -> str:
        """Of the whole answer."""
        return f"multipart/byteranges; boundary={self._boundary}"
