"""Words for what cannot be written: where in a value it lies, what it is, and what to store instead."""

from __future__ import annotations

from typing import Any

#: Stands in a trail for "some element of this set".
ELEMENT = object()


def describe_place(trail: list[Any]) -> str:
    """Where in a nested value something lies, by the keys that lead there: "at ['trials'][3]"."""
    if not trail:
        return "given"
    steps: list[str] = []
    for key in trail[:12]:
        text = repr(key) if isinstance(key, (str, int, float, bytes, bool, type(None))) else f"<{type(key).__name__}>"
        steps.append("{...}" if key is ELEMENT else f"[{text[:60]}]")
    return "at " + "".join(steps) + ("..." if len(trail) > 12 else "")


def type_name(value: Any) -> str:
    """The type of a value, with its module where it is not one of Python's own."""
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__ if not callable(value) or isinstance(value, type) else f"{kind.__qualname__} {value!r}"
    return f"{kind.__module__}.{kind.__qualname__}"


def advice(value: Any) -> str:
    """What to store instead, after a blank; empty where nothing is known."""
    for base, instead in (
        ("pandas.", "A pandas table can be stored as a file (to_csv, to_parquet) with store_file."),
        ("numpy.ma.", "A masked array can be stored as a dict of its .data and .mask."),
        ("torch.", "A tensor can be stored as an array: tensor.numpy()."),
    ):
        if type_name(value).startswith(base):
            return " " + instead
    for kind in (tuple, dict, list, set, str, int, float):
        if isinstance(value, kind):
            return f" It is a kind of {kind.__name__}: store {kind.__name__}(value) instead."
    return ""
