"""Every bound of fetching from gateways, each with the reason for its value. Sizes in bytes, times in seconds."""

from __future__ import annotations

from kachery_p2p.dag.limits import MAX_BLOCK_SIZE as MAX_BLOCK_SIZE
from kachery_p2p.units import KIB, MIB

# --- which, and how many at once ------------------------------------------------------------------------------------

#: Gateways used; a list of more is a mistake.
MAX_GATEWAYS = 8
#: Requests under way to one gateway over HTTP/1.1, each on a connection of its own: browsers open six.
MAX_REQUESTS = 8
#: The same over HTTP/2, where they share one connection: some are always waiting for the gateway's disk.
MAX_REQUESTS_HTTP2 = 16

# --- one request ----------------------------------------------------------------------------------------------------

#: Connecting takes two or three round trips with TLS; five seconds is a very bad line.
CONNECT_SECONDS = 5.0
#: Until the answer begins: a gateway may have to find the block in the network first. Others are asked long before.
ANSWER_SECONDS = 30.0
#: Without a byte in the middle of a block.
STALL_SECONDS = 8.0
#: A request in all: 2 MiB over a line of 35 kB/s. A CAR, which may be longer, may take longer by what has come of it.
REQUEST_SECONDS = 60.0
LEAST_RATE = MAX_BLOCK_SIZE / REQUEST_SECONDS
#: Redirects followed: to the subdomain of the CID, and before that perhaps to a host's proper name.
MAX_REDIRECTS = 2
#: Bytes read of an answer that is no block, so that its connection can be used again.
MAX_DRAIN = 16 * KIB
#: Below this size hashing takes less time than handing the block to a thread and back.
HASH_IN_THREAD = 32 * KIB
#: Threads that hash what comes: more than the machine has cores gain nothing.
HASH_THREADS = 2

# --- CAR ------------------------------------------------------------------------------------------------------------

#: What a CAR of some bytes of a file may have beside them: up to a leaf more at each end, and the nodes above them. Or
#: the nodes of a large directory.
MAX_CAR_BESIDE = 8 * MIB

# --- gateways that refuse -------------------------------------------------------------------------------------------

#: Pause when it says "too many requests" and not for how long.
BUSY_SECONDS = 30.0
#: The longest pause that a gateway can ask for (Retry-After).
MAX_RETRY_AFTER = 3600.0
#: Pause after an answer that only a browser can use, or that refuses the token: it will do so again.
USELESS_SECONDS = 600.0
