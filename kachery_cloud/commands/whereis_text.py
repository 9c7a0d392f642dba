"""Who has something, in words for people, row by row.

Addresses, names and messages come from strangers: no control character gets to the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kachery_cloud.answers import Here
from kachery_cloud.commands.status_text import seconds_text, source_text
from kachery_p2p.node.messages import Whereabouts
from kachery_p2p.text import printable

#: What named a peer, in a column.
_SHORT = {"hint": "URI", "mdns": "mDNS", "lan-dht": "LAN DHT", "dht": "DHT", "delegated": "router", "group": "group"}
#: Sources that name peers to ask; the others name peers that are said to have it.
_TO_ASK = ("connected", "known", "mdns", "hint")
#: Columns on a terminal, and their widths, which cannot wait for the rows: a peer ID has 52 letters.
_COLUMNS = (("PEER", 52), ("HAS IT", 7), ("AWAY", 9), ("FOUND BY", 0))


def may_have_it(row: Whereabouts) -> bool:
    """Whether a peer answered that it has it, or could not be asked and others say so."""
    return row.has is True or (row.has is None and any(way not in _TO_ASK for way in _ways(row)))


def heading() -> str:
    """The names of the columns."""
    return _in_columns([name for name, _ in _COLUMNS])


def row_lines(row: Whereabouts, *, columns: bool) -> list[str]:
    """The lines for one peer, with its addresses; none where it is not said to have it, by itself or by others.

    Args:
        row: of the peer.
        columns: for a terminal, under `heading`; else a sentence.
    """
    if isinstance(row, Here):
        return [printable(f"here: {row.path}" if row.path else "here")]
    if not may_have_it(row):
        return []
    peer = row.peer or "a peer without a name"
    why = f"could not be asked: {row.error}" if row.error and not row.has else ""
    if columns:
        trip = f"{row.round_trip_ms:.1f} ms" if row.round_trip_ms is not None else ""
        ways = ", ".join(_SHORT.get(way, way) for way in _ways(row))
        lines = [_in_columns([peer, "yes" if row.has else "said to", trip, ways])]
        lines += [f"    {why}"] if why else []
    else:
        far = "connected" if row.connected else "not connected"
        if row.round_trip_ms is not None:
            far += f", {row.round_trip_ms:.1f} ms away"
        words = ["has it" if row.has else "is said to have it", f"found by {_when(_ways(row).items())}", far]
        lines = [f"{peer}: {'; '.join([*words, why] if why else words)}"]
    return [printable(line) for line in [*lines, *(f"    {addr}" for addr in row.addrs)]]


def later_line(before: Whereabouts, row: Whereabouts) -> str:
    """What else named a peer after its row was printed."""
    new = [(way, seconds) for way, seconds in row.found_by.items() if way not in before.found_by]
    return printable(f"{row.peer or 'a peer without a name'}: also found by {_when(new)}")


def so_far(rows: Iterable[Whereabouts]) -> str:
    """How many were found before the search was interrupted, in a sentence."""
    count = sum(row.has is True and not isinstance(row, Here) for row in rows)
    if not count:
        return "Nobody else was found to have it until then."
    return f"{count} {'peer was' if count == 1 else 'peers were'} found to have it until then."


def _ways(row: Whereabouts) -> dict[str, float]:
    return dict(row.found_by or {row.source: row.seconds})


def _when(ways: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{source_text(way)} after {seconds_text(seconds)}" for way, seconds in ways)


def _in_columns(cells: Sequence[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True)).rstrip()
