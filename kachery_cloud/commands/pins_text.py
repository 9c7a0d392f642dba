"""Pins in words for people: the table of `kachery-cloud-pins`, and what is said while somebody waits.

Names, errors and CIDs may come from strangers: no control character gets to the terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kachery_p2p.text import printable

if TYPE_CHECKING:
    from kachery_p2p.pinning import PinEntry

#: States as they are shown; the others are called what they are.
_WORDS = {
    "pinned": "claimed",
    "uploading": "sending",
    "failed": "trying again",
}
#: The order in which a summary names them: what wants the user first.
_ORDER = (
    "refused", "failed", "waiting", "uploading", "queued", "pinning", "removing", "pinned", "verified",
)  # fmt: skip


def pin_lines(rows: Sequence[PinEntry]) -> list[str]:
    """The table of `kachery-cloud-pins`: a line for each root and service, and under it why it is not done yet."""
    cells = [(_word(row), row.service, _size(row.size)) for row in rows]
    widths = [max((len(cell[column]) for cell in cells), default=0) for column in range(3)]
    lines = []
    for row, (state, service, size) in zip(rows, cells, strict=True):
        line = f"{state:<{widths[0]}}  {service:<{widths[1]}}  {size:>{widths[2]}}  ipfs://{row.cid}  {row.name}"
        lines.append(printable(line.rstrip()))
        if row.last_error:
            lines.append(printable(f"    {row.last_error}{_next_try(row)}"))
    return lines


def status_phrase(rows: Sequence[PinEntry]) -> str:
    """How far each service is, as in `filebase: queued, lab: verified`."""
    return printable(", ".join(f"{row.service}: {_word(row)}" for row in rows))


def summary_phrase(counts: Mapping[str, int]) -> str:
    """`1 refused, 2 queued, 40 verified`, what wants the user first; empty where there is nothing."""
    known = [state for state in _ORDER if counts.get(state)]
    return printable(", ".join(f"{counts[state]:,} {_WORDS.get(state, state)}" for state in known))


def service_lines(services: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of `kachery-cloud-pins service list`."""
    lines = []
    for service in services:
        words = [str(service["kind"])]
        if service.get("default"):
            words.append("default")
        limit = service.get("max_bytes")
        words.append("no limit" if limit is None else f"up to {_size(limit)} each")
        origin = service.get("token")
        words.append(f"token in {origin}" if origin else "no token")
        lines.append(printable(f"{service['name']}  {service['url']}  ({', '.join(words)})"))
        if service.get("idle"):
            lines.append(printable(f"    {service['idle']}"))
    return lines


def _word(row: PinEntry) -> str:
    """The state of a row, in a word."""
    if row.problem == "gone" and row.state in ("waiting", "refused"):
        return "gone"
    return _WORDS.get(row.state, row.state)


def _next_try(row: PinEntry) -> str:
    seconds = row.next_try - time.time()
    if row.problem == "idle" or not 1 <= seconds < math.inf:
        return ""
    return f" Next try in {seconds:.0f} s." if seconds < 100 else f" Next try in {seconds / 60:.0f} min."


def _size(size: float | None) -> str:
    if size is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
