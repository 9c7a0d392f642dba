"""Keeping data alive elsewhere while this machine sleeps: pinning services and IPFS RPC endpoints.

What is to be kept is written to the *outbox* (`outbox`), one row for each root and service, before the call that asked
for it returns. The *worker* (`worker`) of the node carries the rows out, one small step at a time, and writes what came
of each step before it takes the next. So a crash, a reboot or a month without network costs time and nothing else.

There are two ways in. A *pinning service* (`service`, the IPFS Pinning Service API 1.0.0) is told a CID and fetches the
data from us by Bitswap: we tell it our addresses (`origins`), dial its peers (`delegates`), and serve until it has all.
An *RPC endpoint* (`upload`, the RPC API of Kubo and those who offer the same) is sent the blocks as a CAR file, which
works from networks that cannot be dialled into.

    waiting ──> queued ──> pinning ──> pinned ──> verified         a pinning service
       │  └───> uploading ───────────────┘                         an RPC endpoint
       ├─ refused   the service will not, and says why: the user must do something
       └─ failed    it could not this time; it is asked again
    removing ──> removed

No service is believed: `pinned` is what it claims, `verified` means that a block came back from it and had the right
hash. And nothing is asked for twice: before a request is made, the service is asked whether it has one for that CID. So
a request whose answer was lost (the process was killed, the line was cut) is found again.

Times of the wall clock are only ever used to put things off, and a time further off than any pause can be is a clock
that was wrong: nothing waits for it.
"""

from __future__ import annotations

from kachery_p2p.pinning.config import PinService
from kachery_p2p.pinning.outbox import OUTBOX_NAME, PinEntry, PinOutbox

__all__ = ["OUTBOX_NAME", "PinEntry", "PinOutbox", "PinService"]
