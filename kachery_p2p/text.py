"""Text for people that may have words of strangers in it: names, addresses, messages of services.

A terminal takes control characters for commands: they could rewrite what was printed, retitle the window, or type for
the user. Bidirectional controls show a name in another order than it has. So each of them is shown as an escape.
"""

from __future__ import annotations

from unicodedata import category

# Joiners and soft hyphens: format characters that whole scripts need, and that cannot hide or reorder anything.
_HARMLESS = "\u00ad\u200c\u200d"


def is_control(char: str) -> bool:
    """Whether a character does something to a screen instead of being shown: C0 and C1 controls, DEL, bidirectional and
    other format controls, line and paragraph separators, half surrogates, and what this Python's Unicode does not know.
    """
    kind = category(char)
    return kind in ("Cc", "Cn", "Cs", "Zl", "Zp") or (kind == "Cf" and char not in _HARMLESS)


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with each control character as an escape such as `\x1b`, apart from those in `keep`.

    Doing so twice changes nothing more.
    """
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if c not in keep and is_control(c) else c for c in text)
