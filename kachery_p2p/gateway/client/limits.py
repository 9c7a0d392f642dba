"""Every bound of fetching from gateways, each with the reason for its value. Sizes in bytes, times in seconds."""

from __future__ import annotations

from kachery_p2p.dag.limits import MAX_BLOCK_SIZE as MAX_BLOCK_SIZE
from kachery_p2p.units import KIB, MIB

# --- which, and how many at once ------------------------------------------------------------------------------------

#: Gateways used; a list of more is a mistake.
MAX_GATEWAYS = 8
#: Requests under way to a gateway of which nothing is known yet.
FIRST_WINDOW = 2
#: Requests under way to one gateway over HTTP/1.1, each on a connection of its own: browsers open six.
MAX_WINDOW = 8
#: The same over HTTP/2, where they share one connection: some are always waiting for the gateway's disk.
MAX_WINDOW_HTTP2 = 16
#: Requests under way for one load: with blocks of 2 MiB, the memory it may cost.
MAX_REQUESTS = 16
#: Bytes of one load that have arrived and that nobody took: no more are asked for meanwhile.
MAX_BUFFERED = 8 * MIB
#: A block is asked of one more gateway after this time where the first has never shown how fast it is.
COPY_UNTRIED = 0.25
#: ... and otherwise after this time, or so many times what this gateway takes for a block.
COPY_AFTER = 1.0
COPY_TIMES = 4.0
#: Times that one gateway is asked for one block: it may have been busy.
MAX_TRIES = 3
#: A gateway that had none of the first blocks it was asked for does not have the others, either.
MAX_ABSENT = 3

# --- one request ----------------------------------------------------------------------------------------------------

#: Connecting takes two or three round trips with TLS; five seconds is a very bad line.
CONNECT_SECONDS = 5.0
#: Until the answer begins: a gateway may have to find the block in the network first. Others are asked long before.
ANSWER_SECONDS = 30.0
#: Without a byte in the middle of a block.
STALL_SECONDS = 8.0
#: A request in all: 2 MiB over a line of 35 kB/s.
REQUEST_SECONDS = 60.0
#: Redirects followed: to the subdomain of the CID, and before that perhaps to a host's proper name.
MAX_REDIRECTS = 2
#: Bytes read of an answer that is no block, so that its connection can be used again.
MAX_DRAIN = 16 * KIB
#: Below this size hashing takes less time than handing the block to a thread and back.
HASH_IN_THREAD = 32 * KIB
#: Threads that hash what comes: more than the machine has cores gain nothing.
HASH_THREADS = 2

# --- CAR ------------------------------------------------------------------------------------------------------------

#: Bytes of a file that are asked for together with its root: two leaves of the default profile, and a whole small file.
CAR_FILE_BYTES = 2 * MIB
#: A CAR in all: those, up to a leaf more at each end, the nodes above them; or all blocks of a large directory.
MAX_CAR_SIZE = 8 * MIB
#: Blocks of CARs that nobody has asked for yet: verified and kept for a moment. Beyond, the CAR is left.
MAX_AHEAD = 8 * MIB
#: Where more blocks than this are wanted at once, asking for each by itself saves as many round trips.
CAR_WANTS = 8
#: While a CAR brings blocks, what else is wanted waits for so long whether it comes along.
CAR_PAUSE = 0.5

# --- gateways that fail ---------------------------------------------------------------------------------------------

#: Pause after a failure, doubled with each further one up to the limit.
REST_FIRST = 2.0
REST_LAST = 300.0
#: Pause when it says "too many requests" and not for how long.
BUSY_SECONDS = 30.0
#: The longest pause that a gateway can ask for (Retry-After).
MAX_RETRY_AFTER = 3600.0
#: Pause after an answer that only a browser can use, or that refuses the token: it will do so again.
USELESS_SECONDS = 600.0
#: A gateway that was overtaken so often in a row rests like one that fails.
MAX_OVERTAKEN = 3
#: Errors are cut to this many characters.
MAX_ERROR_LENGTH = 300

# --- beside peers ---------------------------------------------------------------------------------------------------

#: Seconds that peers have for themselves: to be dialled, to be found, to say what they have, to send a first block.
HEAD_START = 2.0
#: The same where no peer is known, nor being dialled: what the address book and the local network take to answer.
NOBODY_START = 0.1
#: Over how long it is measured who delivers how much.
RATE_SECONDS = 2.0
#: Peers that deliver so many bytes per second need no help: a gateway on the internet is hardly faster.
GREAT_RATE = 8 * MIB
#: ... nor do those that deliver this, while it is not known that gateways are faster.
GOOD_RATE = 1 * MIB
#: Blocks per second that are as good, where blocks are small.
GOOD_BLOCKS = 10
#: For how long it is remembered what gateways delivered; afterwards they are tried again.
REMEMBERED_RATE = 30.0
#: A block that a peer was asked for is taken from it after so many seconds without any block of any peer.
TAKE_OVER_SECONDS = 1.0
#: How often it is looked at who delivers, and whom to ask.
TICK = 0.05
#: A gateway that rests no longer than this is waited for before a load is given up.
WORTH_WAITING = 10.0
