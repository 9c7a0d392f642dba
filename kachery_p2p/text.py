"""Text for people that may have words of strangers in it: names, addresses, messages of services.

A terminal takes control characters for commands: they could rewrite what was printed, retitle the window, or type for
the user. Bidirectional controls show a name in another order than it has. So each of them is shown as an escape.
"""

from __future__ import annotations

from unicodedata import category

#: Joiners and soft hyphens: format characters that whole scripts need, and that cannot hide or reorder anything.
_HARMLESS = "\u00ad\u200c\u200d"


def is_control(char: str) -> bool:
    """Whether a character does something to a screen instead of being shown.

    These are C0 and C1 controls, DEL, bidirectional and other format controls, line and paragraph separators, half
    surrogates, and what this Python's Unicode does not know.
    """
    kind = category(char)
    return kind in ("Cc", "Cn", "Cs", "Zl", "Zp") or (kind == "Cf" and char not in _HARMLESS)


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun: `1 file`, `2,000 files`."""
    return f"{number:,} {one if number == 1 else many}"


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with each control character as an escape such as `\x1b`, apart from those in `keep`.

    Doing so twice changes nothing more.
    """
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if c not in keep and is_control(c) else c for c in text)


def redacted(text: str) -> str:
    """The text without the secret keys of age in it: whoever mistypes one, or pastes it, has it in an error."""
    if "AGE-SECRET-KEY-" not in text.upper():
        return text
    import re

    return re.sub(r"(AGE-SECRET-KEY-)[0-9A-Z-]+", r"\1...", text, flags=re.IGNORECASE)


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and end when it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-(most // 3) :]}"


def shown(value: object, most: int = 80) -> str:
    """A value that somebody gave, in an error: its `repr`, of bounded length, whatever that does."""
    try:
        plain = value is None or isinstance(value, (str, bytes, int, float, list, tuple, dict, set))
        text = repr(value) if plain else ""
    except Exception:  # noqa: BLE001 - that an element cannot be shown is not what the error is about
        text = ""
    return shortened(text or f"a value of the type {type(value).__name__}", most)


def span_text(seconds: float) -> str:
    """About how long a time is, whatever its sign: `2 hours`, `45 seconds`.

    What was measured is a moment late: 7 199.7 seconds are two hours, not 120 minutes.
    """
    seconds = abs(seconds)
    if seconds >= 119:
        seconds = 60 * round(seconds / 60)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
