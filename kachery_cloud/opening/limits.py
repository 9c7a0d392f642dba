"""How much is read ahead and asked for at once, each with the reason for its value."""

from __future__ import annotations

from kachery_p2p.units import KIB, MIB

#: Bytes read ahead and not used yet, of one file. On a path of 50 ms it lets 300 MB/s through.
READ_AHEAD = 16 * MIB
#: One part in so many of what was read may have been fetched in vain: a file that is read here and there moves at most
#: a fifth more than the blocks that were touched.
READ_AHEAD_SHARE = 5
#: Bytes between two reads that are still one after the other: formats align their parts.
READ_GAP = 4 * KIB
#: Readers of one file that are told apart: a format reads its index, its headers and its data in turn.
READ_STREAMS = 8
#: Reads at one distance from each other before the next ones are foreseen. Two are chance.
STRIDE_READS = 4
#: Reads at one distance that are foreseen at most; each may be a request.
STRIDE_AHEAD = 16
#: Requests of one file under way. A node takes 64 of one process, which may have several files open.
REQUESTS_AT_ONCE = 24
#: What lies that close together in an array is read together: less than a block of any profile that files have by
#: default, and more than a read costs.
ARRAY_GAP = 64 * KIB
#: Bytes of an array that are held beside the result while it is put together.
ARRAY_PIECE = 16 * MIB
#: Parts of an array that are read together at most.
ARRAY_PARTS = 1024
#: Paths of a file system whose kind and size are remembered. Each costs some 500 bytes; what they name never changes.
KNOWN_PATHS = 20_000
#: Files of a file system that are kept open for the next range that is read from them.
OPEN_FILES = 32
#: CIDs whose providers are remembered, because they stood in a URI.
KNOWN_PROVIDERS = 1024
#: CIDs whose groups are remembered for the same reason. Many more: where one is forgotten, strangers may hear of it.
KNOWN_GROUPS = 65_536
#: Entries of a folder that are looked at side by side, where their kind is not known.
ENTRIES_AT_ONCE = 32
#: Seconds that the end of a process waits for files of which all was read to get their place: a GiB is hashed and
#: synced in some five. What takes longer is done by whoever asks for the file next.
WHOLE_AT_EXIT = 10.0
