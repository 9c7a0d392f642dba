"""Public gateways that a node loads from unless it is told otherwise. Constants only.

They belong to others, and any of them may be away for good by the time this is read: each is asked in vain a few times,
and loads go on without. What they send is checked like everything else; what they learn is which CIDs are asked for.
"""

from __future__ import annotations

#: The first is kept by the IPFS Foundation for programs, not browsers; the second by a pinning service.
GATEWAYS: tuple[str, ...] = ("https://trustless-gateway.net", "https://ipfs.filebase.io")
