"""What differs from run to run, and what the documentation shows in its place. CIDs stay, for they never differ."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Peer IDs as they are shown, in the order in which they are first met. They are as long as real ones, so that tables
#: stay in line, and have only the characters of one.
_PEERS = (
    "12D3KooWQYV9dGMFoRzNStwpXztXaBUjtPqi6aU76ZgUriHhKust",
    "12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3",
)
_PORTS = ("40121", "40277", "40391", "40417", "40533", "40659", "40721", "40863")
_PEER = re.compile(r"\b12D3KooW[1-9A-HJ-NP-Za-km-z]{44}\b")
_PORT = re.compile(r"(?<=\btcp[/:])\d{5}\b")
#: What is shown of the rest, which nobody types.
_VARYING = (
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b"), "2026-03-02 09:14"),
    (re.compile(r"\b20\d\d-\d\d-\d\d\b"), "2026-03-02"),
    # Who has something is found in several ways at once, and any of them may be the first.
    (re.compile(r"(?m)^.*: also found by .*\n"), ""),
    (re.compile(r"\bfound by [^;\n]*; (not )?connected\b"), "found by the known peers after 0.2 s; connected"),
    (re.compile(r"(?m)( {2}yes +)\d+\.\d ms .*$"), r"\g<1>0.4 ms     known"),
    (re.compile(r"\b\d+(\.\d+)? ms away"), "0.4 ms away"),
    (re.compile(r"\bin \d+\.\d s\b"), "in 10.0 s"),
    # A bar, at a moment at which it was seen.
    (re.compile(r" +\d+%\|[^|\n]*\| \S+/(\S+) \[.*?\]"), r" 58%|█████▊    | 38.8M/\1 [00:00<00:00, 110MB/s, 1 peer]"),
    # What the catalog takes depends on what SQLite has written back by now.
    (re.compile(r"(?m)^(catalog +)\d+( +)\d+( kB)$"), r"\g<1>7\g<2>300\g<3>"),
    (re.compile(r"(?m)^\d+(\.\d+)? MB( in the data directory\.)"), r"2.4 MB\2"),
)


class Names:
    """The names of one session, both ways.

    Args:
        places: folders of this machine, and what is shown of them.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._shown = dict(places)

    def show(self, text: str) -> str:
        """A text of the session as the documentation has it.

        Raises:
            IndexError: more peers or ports are met than there are names.
        """
        for pattern, names in ((_PEER, _PEERS), (_PORT, _PORTS)):
            for real in dict.fromkeys(pattern.findall(text)):
                if real not in self._shown and real not in self._shown.values():
                    self._shown[real] = names[sum(each in names for each in self._shown.values())]
        for real, shown in self._shown.items():
            text = text.replace(real, shown)
        for pattern, shown in _VARYING:
            text = pattern.sub(shown, text)
        return text

    def real(self, text: str) -> str:
        """What is typed for a text of the documentation."""
        for real, shown in self._shown.items():
            text = text.replace(shown, real)
        return text
