"""Which services there are: plain values, so that reading settings imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kachery_p2p.errors import InvalidPinService, PinTooLarge
from kachery_p2p.urls import BadURL, URLFault, base_url

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KINDS = {"pinning": ("/pins",), "rpc": ("/api/v0",)}


@dataclass(frozen=True)
class PinService:
    """A service that keeps data for us.

    Attributes:
        name: what the user calls it: letters, digits, `_`, `.` and `-`.
        url: of a pinning service without `/pins`, of an RPC endpoint without `/api/v0` (either may be there).
        token: sent as `Authorization: Bearer`, or, written `basic:<user>:<password>`, as a password. Empty: none.
        kind: `pinning` (IPFS Pinning Service API 1.0.0) or `rpc` (`dag/import` of the IPFS RPC API).
        max_bytes: largest root that is sent there; None for no limit.
        gateway: URL of a trustless gateway of the same service, from which a block is fetched back where its peers
            cannot be asked. Empty: none.

    Raises:
        InvalidPinService: one of them makes no sense. The message does not have the token in it.
    """

    name: str
    url: str
    token: str = field(default="", repr=False)
    kind: str = "pinning"
    max_bytes: int | None = None
    gateway: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidPinService(
                f"{self.name[:80]!r} cannot be the name of a pinning service. Use letters, digits, '_', '.' and '-'."
            )
        if self.kind not in _KINDS:
            raise InvalidPinService(
                f"The pinning service {self.name} is of the kind {self.kind[:80]!r}. There are 'pinning' (IPFS Pinning "
                "Service API) and 'rpc' (dag/import of an IPFS node)."
            )
        object.__setattr__(self, "url", self._checked_url(self.url, _KINDS[self.kind]))
        if self.gateway:
            object.__setattr__(self, "gateway", self._checked_url(self.gateway, ("/ipfs",)))
        if not all(33 <= ord(letter) < 127 for letter in self.token):
            # An HTTP library would refuse it too, and show it in its message.
            raise InvalidPinService(
                f"The token of the pinning service {self.name} has a space, a line break or a letter that is not ASCII "
                "in it. Copy it again."
            )
        if self.token.startswith("basic:") and self.token.count(":") < 2:
            raise InvalidPinService(
                f"The token of the pinning service {self.name} begins with 'basic:', but does not go on with a user, "
                "a colon and a password."
            )
        if self.max_bytes is not None and self.max_bytes < 0:
            raise InvalidPinService(f"The limit of the pinning service {self.name} is negative.")

    def _checked_url(self, url: str, endings: tuple[str, ...]) -> str:
        example = "Use one like https://pins.example.org/api, and the token apart from it."
        try:
            return base_url(url, endings)
        except BadURL as error:
            fault = error.fault
        if fault is URLFault.USER:
            raise InvalidPinService(
                f"The URL of the pinning service {self.name} has a password in it, and URLs are shown. Give it as the "
                "token: basic:<user>:<password>."
            )
        if fault is URLFault.QUERY:
            raise InvalidPinService(f"The URL of the pinning service {self.name} has a '?' or '#' in it. {example}")
        if fault is URLFault.UNREADABLE:
            raise InvalidPinService(f"The URL of the pinning service {self.name} does not parse. {example}")
        raise InvalidPinService(f"{url[:200]!r} cannot be the URL of the pinning service {self.name}. {example}")

    def check_size(self, size: int | None, what: str = "This") -> None:
        """Whether something of that size may be sent there.

        Args:
            size: bytes; None where it is not known.
            what: how to call it in the message.

        Raises:
            PinTooLarge: it is over the limit; says what to do instead.
        """
        if self.max_bytes is not None and size is not None and size > self.max_bytes:
            raise PinTooLarge(
                f"{what} has {size:,} bytes, and at most {self.max_bytes:,} bytes are sent to the pinning service "
                f"{self.name}. Nothing was sent. Either raise the limit of this service in the settings, or use a "
                "service of your own, or keep it alive with kachery-cloud-node on a machine that stays on."
            )
