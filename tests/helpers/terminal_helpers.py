"""What must never get to a terminal, written down once more and on its own: C0 but for line ends and tabs, DEL, C1,
bidirectional controls, line and paragraph separators, half surrogates."""

from __future__ import annotations

import re

DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)
#: Clears the screen, sets the title of the window, turns text round, begins a new line with a lie.
ATTACK = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202etxt.exe\u2028\x7f\rError: all is well"


def harmless(text: str) -> bool:
    return DANGEROUS.search(text) is None
