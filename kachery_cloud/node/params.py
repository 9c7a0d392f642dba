"""What another process asks of the node: the parameters of one request, each of its kind or a clear error.

They come over the control socket, from a process that may be of another version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from kachery_cloud.settings.values import MAX_TIMEOUT
from kachery_p2p.errors import NodeError

#: Offsets are kept in 63 bits, as file systems do.
_MAX_OFFSET = (1 << 63) - 1


class Params:
    """The parameters of one request. Every method raises `NodeError` for what is not of its kind."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def text(self, key: str) -> str:
        """Text that must be there."""
        value = self._values.get(key)
        return value if isinstance(value, str) else self._wrong(key, "text")

    def texts(self, key: str) -> list[str]:
        """A list of text; empty where there is none."""
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
            self._wrong(key, "a list of text")
        return list(value)

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of several words; the first where there is none."""
        value = self._values.get(key) or choices[0]
        return value if value in choices else self._wrong(key, f"one of {', '.join(choices)}")

    def offset(self, key: str) -> int | None:
        """A number of bytes, or None."""
        value = self._values.get(key)
        if value is None or (type(value) is int and 0 <= value <= _MAX_OFFSET):
            return value
        self._wrong(key, "a number of bytes")

    def seconds(self, key: str) -> float | None:
        """A time in seconds, above 0, or None."""
        value = self._values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 < value <= MAX_TIMEOUT:
            self._wrong(key, f"a number of seconds up to {MAX_TIMEOUT:.0f}")
        return float(value)

    def switch(self, key: str) -> bool:
        """True or false; it must be there."""
        value = self._values.get(key)
        return value if isinstance(value, bool) else self._wrong(key, "true or false")

    def _wrong(self, key: str, kind: str) -> NoReturn:
        raise NodeError(f"The node cannot take the request: its {key!r} must be {kind}.")
