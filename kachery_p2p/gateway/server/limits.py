"""Every bound of the gateway that this node serves, each with its reason. Sizes in bytes, times in seconds.

Those that one gateway may have otherwise than another are in `GatewayLimits`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import KIB, MIB

# --- connections ----------------------------------------------------------------------------------------------------

#: Connections beyond `max_connections` that are told so at a time; more are closed without a word.
MAX_REFUSALS = 16
#: Line and headers of one request; what browsers send is below 4 KiB.
MAX_REQUEST_HEAD = 16 * KIB
#: Bytes that a reader must take within `send_seconds`.
SEND_STEP = 1 * MIB
#: Bytes that it must take within `crowded_seconds` while requests wait for their turn.
PROGRESS_STEP = 256 * KIB
#: What HTTP/2 may cost us. A frame that asks for nothing takes some 40 microseconds, and a request that is reset at
#: once takes as much as any other. So each byte received costs one unit, which is 2 microseconds in small frames. A
#: connection may save up H2_BURST units; those that have spent more are given H2_RATE units a second together.
H2_BURST = 32_000.0
H2_RATE = 80_000.0
#: Units that a request costs beside its bytes.
H2_REQUEST_COST = 150.0
#: Bytes sent that earn one unit back: a reader that takes what it asked for never waits.
H2_SENT_PER_UNIT = 8
#: Bytes of HTTP/2 dealt with at a time: 120 of the smallest frames.
H2_PIECE = 2 * KIB
#: To tell a connection beyond `max_connections` that it is one too many.
REFUSE_SECONDS = 1.0
#: Connections that the operating system keeps until we take them.
BACKLOG = 128

# --- requests -------------------------------------------------------------------------------------------------------

#: What Retry-After says to those who got no turn.
RETRY_AFTER = 5
#: Threads that read from the disk for the gateway: the node needs some of the process, too.
MAX_READERS = 4
#: Directories listed at once: each list may take 150 MB before it is cut to what is shown.
MAX_LISTERS = 1
#: Characters of a path, percent signs included: file systems take 4096, and a letter may take nine characters.
MAX_PATH_LENGTH = 8 * KIB
#: Characters of the part behind the question mark.
MAX_QUERY_LENGTH = 4 * KIB
#: Parameters in it: there are nine that mean anything, and caches are fooled with others.
MAX_QUERY_FIELDS = 32
#: Names in a path: each is at least one block to read. No honest folders are nested deeper.
MAX_PATH_NAMES = 256
#: Requests that make the node load from the network, at once: each is a search and a download.
MAX_FETCHES = 8

#: Names that are looked up at once: each asks some twenty servers of the DHT.
MAX_RESOLVES = 8
#: For looking up one: what a lookup in the public DHT takes at most, but for rare ones.
RESOLVE_SECONDS = 30.0

# --- answers --------------------------------------------------------------------------------------------------------

#: Bytes read, and sent, at a time.
PIECE = 1 * MIB
#: Blocks read for one piece, where they are tiny: the thread is needed by others, too.
MAX_BLOCKS_PER_PIECE = 256
#: Bytes looked at to tell the type of a file that has no name.
SNIFF_BYTES = 512
#: Files of which these bytes are kept: half a MiB in all.
MAX_HEADS = 1024
#: First and largest part asked of the network while a file is passed on: bytes begin to flow at once, then several
#: peers are kept busy. What was fetched lies on the disk.
FIRST_WINDOW = 1 * MIB
LARGEST_WINDOW = 32 * MIB
#: How often a partial file is asked for again, because it was finished and moved to its place while it was opened.
MAX_MOVED = 3
#: Byte ranges of one request that are answered as such; with more of them, or with more bytes than the file has, the
#: file is sent whole (RFC 9110, section 14.2).
MAX_RANGES = 32
#: Bytes of a dag-cbor or dag-json block that is looked into: as values of Python it takes up to sixty times as much.
MAX_DECODED_BLOCK = 1 * MIB
#: Maps and lists within each other in such a block; Kubo takes as many.
MAX_DECODED_DEPTH = 400
#: Lines, and characters of one value, on the page that shows such a block; steps to the right.
MAX_LINES_SHOWN = 5_000
MAX_VALUE_SHOWN = 1_000
MAX_INDENT_SHOWN = 40


@dataclass(frozen=True)
class GatewayLimits:
    """What one gateway gives to those who read from it. Sizes in bytes, times in seconds."""

    #: Connections at once: a browser opens six, Helia some dozens; each costs a task and two buffers. Fewer where the
    #: process may open few files. One more closes the one that was silent for longest; with none silent, it is refused.
    max_connections: int = 256
    #: From the opening of a connection, or the last answer, until a whole request is there.
    idle_seconds: float = 30.0
    #: For each SEND_STEP that a reader takes: 35 kB/s is slower than any line that is worth waiting for.
    send_seconds: float = 30.0
    #: While requests wait for their turn, an answer of which less than PROGRESS_STEP was taken for so long makes way.
    crowded_seconds: float = 5.0
    #: Answers that nobody takes are looked for so often.
    watch_interval: float = 1.0
    #: Requests answered at once: each holds two or three MiB, and two cores are busy with far fewer.
    max_running: int = 64
    #: Of these, requests of one address: slow readers on one machine leave room for all others.
    max_running_each: int = 32
    #: Requests that wait for their turn: Helia asks for all blocks of a directory at the same time.
    max_waiting: int = 256
    #: A request that got no turn for so long is told to come again.
    wait_seconds: float = 20.0
    #: Entries shown on the page of a directory; a page of 10 000 has about 2 MB.
    max_entries_shown: int = 10_000
    #: Bytes of blocks read to list a directory: an entry takes 50 to 100, so some 200 000 can be listed.
    max_listing_bytes: int = 16 * MIB
    #: Blocks remembered as sent in one CAR without duplicates, about 130 bytes each: 256 GiB in chunks of 1 MiB.
    max_car_remembered: int = 262_144
    #: Links that wait on the path from the root of a CAR to where it is, about 200 bytes each.
    max_car_pending: int = 262_144
    #: Entries of a TAR: a DAG of a few blocks can claim any number of folders.
    max_tar_entries: int = 1_000_000


DEFAULTS = GatewayLimits()
