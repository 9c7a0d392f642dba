"""Every bound of the gateway that this node serves, each with its reason. Sizes in bytes, times in seconds.

Those that one gateway may have otherwise than another are in `GatewayLimits`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p import http_server_limits
from kachery_p2p.http_server_limits import HttpLimits
from kachery_p2p.units import KIB, MIB

#: Of the HTTP server, and meant for its other requests, too.
MAX_REQUEST_HEAD = http_server_limits.MAX_REQUEST_HEAD
RETRY_AFTER = http_server_limits.RETRY_AFTER

# --- requests -------------------------------------------------------------------------------------------------------

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
#: Entries of a directory whose first block is read, to tell on its page which are folders: each takes some 50 us.
MAX_LOOKED_INTO = 1_000
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
class GatewayLimits(HttpLimits):
    """What one gateway gives to those who read from it. Sizes in bytes, times in seconds."""

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
