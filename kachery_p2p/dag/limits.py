"""Limits of the dag package. Each number has one sentence of reason."""

from __future__ import annotations

from kachery_p2p.units import KIB, MIB
from kachery_p2p.wire import MAX_VARINT_BYTES

#: The specification of Bitswap caps a block here, and every other peer refuses to carry a larger one.
MAX_BLOCK_SIZE = 2 * MIB

#: Sizes travel as uint64, but offsets of files are signed on every operating system.
MAX_FILE_SIZE = 2**63 - 1

#: Below 20 bytes a truncated digest can be forged with ordinary means; Kubo draws the line at the same place.
MIN_DIGEST_SIZE = 20

#: A digest, or the data inlined in an identity CID, may not be longer; Kubo draws the line at the same place.
MAX_DIGEST_SIZE = 128

#: Version, codec, hash code and length take at most nine bytes each in front of the digest.
MAX_CID_BYTES = 4 * MAX_VARINT_BYTES + MAX_DIGEST_SIZE

#: The longest CID fits in every base but base 2; base58 takes time quadratic in the length, so it is not more.
MAX_CID_TEXT = 512

#: The same in base 2: a digit for each bit, and the prefix.
MAX_CID_BASE2 = 1 + 8 * MAX_CID_BYTES

#: Smaller chunks make DAGs larger than their files and are of no use; tests use small ones, so it is not more.
MIN_CHUNK_SIZE = 1

#: With more links an inner node could outgrow MAX_BLOCK_SIZE (a link and its size take at most about 70 bytes).
MAX_WIDTH = 16384

#: A balanced DAG of width 2 over a petabyte in 256 KiB chunks has 32 levels; deeper nesting is hostile.
MAX_DEPTH = 40

#: References decoded but not yet handed out, about 300 bytes each: 75 MB at the very worst, 3 MB for honest files.
MAX_PENDING_REFS = 262_144

#: Inner nodes are asked for side by side only while their children, too, will fit within this many references.
SOFT_PENDING_REFS = 32_768

#: Inner nodes on their way at once: enough to hide the round trip, few enough that their children fit in memory.
NODES_AHEAD = 8

#: When fewer leaf references than this are ready, the next inner node is asked for ahead of its turn.
LEAVES_LOW_WATER = 512

#: The UnixFS specification caps the fanout of a HAMT here (CVE-2023-23625).
MAX_HAMT_FANOUT = 1024

#: murmur3-x64-64 gives 64 bits; a fanout of 8 uses them up in 21 levels, the usual 256 in 8.
HAMT_HASH_BITS = 64

#: Blocks asked for in one batch by list_directory: a level of a large HAMT has 256 to 65 536 nodes, and each batch is a
#: round trip. Batches double to the larger number while the blocks are small, so that a batch stays within 32 MiB.
LIST_BATCH = 256
LARGEST_LIST_BATCH = 2048
SMALL_SHARD = 16 * KIB

#: Entries of one directory listing kept in memory, about 400 bytes each.
MAX_DIRECTORY_ENTRIES = 2_000_000

#: A listing may read this many shards before it must have found one entry for every two of them: a real directory of
#: MAX_DIRECTORY_ENTRIES shows its first entries after some 500, and has about one shard for three entries.
SHARDS_ON_TRUST = 2048

#: Path segments resolved in one call; file systems stop at about the same depth (PATH_MAX 4096).
MAX_PATH_SEGMENTS = 2048

#: The longest file name that common file systems take, in UTF-8 bytes.
MAX_NAME_BYTES = 255

#: Roots named in the header of a CAR file.
MAX_CAR_ROOTS = 1024

#: Bytes of a CAR header: 1024 roots of at most 170 bytes fit.
MAX_CAR_HEADER = 256 * KIB

#: The longest symlink target that Linux takes (PATH_MAX).
MAX_SYMLINK_TARGET = 4096
#: The longest block of a symbolic link: its target, and what dag-pb and UnixFS write around it, with mode and time.
#: What a directory states to be larger is none, so it is not read to find that out.
MAX_SYMLINK_BLOCK = MAX_SYMLINK_TARGET + 64
#: Symbolic links followed in one path, as on Linux.
MAX_LINKS_FOLLOWED = 40

#: Entries of one directory tree, in all its folders: some 300 bytes of memory each while the tree is made.
MAX_TREE_ENTRIES = 5_000_000

#: Folders within folders. A DAG can claim any depth; a file system cannot hold it.
MAX_TREE_DEPTH = 256
