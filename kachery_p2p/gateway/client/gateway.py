"""One gateway as the client asks it. How it does, and how much is asked of it, is the business of the caller."""

from __future__ import annotations

from dataclasses import dataclass, field

from kachery_p2p.gateway.client import limits
from kachery_p2p.gateway.client.answers import source_name


@dataclass(eq=False)
class Gateway:
    """One gateway. `http2` says whether it spoke HTTP/2 when it answered last."""

    base: str
    token: str | None = field(default=None, repr=False)
    http2: bool = False

    @property
    def name(self) -> str:
        """For counts, messages and status; the token is no part of it."""
        return source_name(self.base)

    @property
    def most_requests(self) -> int:
        """Requests that may be under way to it at once."""
        return limits.MAX_REQUESTS_HTTP2 if self.http2 else limits.MAX_REQUESTS
