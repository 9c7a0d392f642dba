"""Every bound of the pinning service that this node is. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.http_server_limits import HttpLimits
from kachery_p2p.units import GIB, KIB, MIB

#: Where it listens when nothing else is said.
DEFAULT_ADDRESS = "127.0.0.1:8095"

# --- requests -------------------------------------------------------------------------------------------------------

#: Bytes of a pin object: twenty addresses, a name, and a thousand short words of metadata.
MAX_BODY = 256 * KIB
#: To read one that comes in pieces.
BODY_SECONDS = 30.0
#: Characters behind the question mark: ten CIDs of the longest hash functions, a name, and metadata.
MAX_QUERY_LENGTH = 12 * KIB
#: Characters of a name, addresses of origins and of delegates, CIDs of one filter: figures of the specification.
MAX_NAME = 255
MAX_ADDRESSES = 20
MAX_CIDS = 10
#: Pins of one answer, and those where no limit is given: figures of the specification.
MAX_LISTED = 1000
DEFAULT_LISTED = 10
#: Entries of metadata: the figure of the specification; and characters of one of their names and values.
MAX_META = 1000
MAX_META_LENGTH = 4 * KIB
#: Characters of an address.
MAX_ADDRESS_LENGTH = 512
#: Characters of a CID.
MAX_CID_LENGTH = 512

# --- pins -----------------------------------------------------------------------------------------------------------

#: The most that one pin may take, where the settings do not say.
DEFAULT_UPLOAD = 5 * GIB
#: Pins of one token that wait: someone who pins a hundred thousand files may do so in a few parts.
MAX_WAITING = 100_000
#: Pins of one token in all, so that names and metadata do not fill the disk beside the quota.
MAX_PINS = 1_000_000
#: Fetched at once. Each is a search, and a load that takes what the line has.
MAX_FETCHES = 4
#: Characters of a reason that is told.
MAX_DETAILS = 500
#: Characters of the name of a token.
MAX_TOKEN_NAME = 64
#: Random bytes of a token: nobody guesses 256 bits.
TOKEN_BYTES = 32


# --- CAR files that are sent ------------------------------------------------------------------------------------------

#: CAR files on their way at once, in all and for one token: each takes what the line has, and may fill the disk.
MAX_UPLOADS, MAX_UPLOADS_EACH = 8, 2
#: Files of one form.
MAX_PARTS = 64
#: Bytes in the head of a part: a long file name.
MAX_PART_HEAD = 8 * KIB
#: Pieces of a file that wait for the disk; the server gives some 64 KiB at a time.
UPLOAD_CHUNKS = 4
#: Bytes by which a CAR file may be larger than what it holds, beside an eighth: its header.
CAR_OVERHEAD = 256 * KIB
#: For each so many bytes of a body: 1 kB/s is slower than any line over which files are sent.
UPLOAD_SECONDS, UPLOAD_STEP = 60.0, 64 * KIB
#: Bytes and seconds of a refused one that are still taken, so that its client reads why.
MAX_DRAIN, DRAIN_SECONDS = 64 * MIB, 5.0
#: Between looks at whether a root that came is pinned.
PIN_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class QueuePace:
    """When the queue does things next; seconds all. Tests use a faster one.

    Attributes:
        first: pause after a first failure to fetch; each further one takes `factor` times as long.
        factor: see `first`.
        tries: failures after which a pin is failed.
        silence: a fetch that gets nothing for so long has failed.
        full: pause while the disk has no room.
        look: between looks at whether another process has changed something: a token was removed.
        progress: between two notes of how far a fetch is.
    """

    first: float = 60.0
    factor: float = 10.0
    tries: int = 3
    silence: float = 120.0
    full: float = 300.0
    look: float = 5.0
    progress: float = 2.0


#: What the listener gives. Answers are small; clients that watch a pin ask now and then.
HTTP = HttpLimits(max_connections=256, max_running=64, max_running_each=32)
