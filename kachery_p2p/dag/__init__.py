"""Files and directories as blocks and links.

This package turns bytes into blocks that link to each other, and such blocks back into bytes. It is pure: it opens no
file and no socket, knows no clock and keeps no global state but small caches, so everything above it can be tested
without a disk or a network. It imports neither trio nor libp2p, and heavy packages only inside the functions that need
them.

A block is up to 2 MiB of bytes with a hash. A *CID* (`cid`) names one: a version, a codec that says how to read the
block, and a multihash that says what its bytes must hash to (`hashes`). Two codecs matter here. A *raw* block is bytes
of a file, nothing else. A *dag-pb* block (`pb`) is a list of links and some data, and the data is *UnixFS* (`unixfs`):
what the node is, how many bytes of file lie below each link.

**Making a file.** A `Profile` (`profiles`) says how large the chunks are, how many links a node may have, whether the
leaves are raw. The same bytes under the same profile have the same CID in every implementation, for ever, which is the
point of it all. Whoever has the file reads it, cuts it into chunks and hashes them in as many threads as it likes; the
`FileBuilder` (`builder`) takes the hashes in file order and makes the inner nodes, bottom up. It never sees the data,
and keeps one unfinished node for each level.

**Reading a file.** A `FileWalk` (`walk`) starts from a root CID and says which blocks to fetch next, for the whole file
or a range of it; fed with a block, it answers with the data and where it belongs. It also finds that a block lies: a
hash proves that a block is the one that was asked for, not that the sizes in it are true. So every size is checked
against what arrives, and depth, width and number of references are bounded. A file that comes out of a walk is whole
and exactly as its root says, or there was an error that names the CID.

**Directories** (`directory`, `paths`, `hamt`) are one block of named links, or, when that would be too large, a trie of
such blocks over the hashes of the names. They are built by a `DirectoryBuilder` and read by generators that yield the
CIDs they need and are sent the blocks (`nodes.drive`), so that a catalog on disk and a network drive them alike. Names
in a stranger's directory may be any text: `safe_name` must pass each one before it becomes a file name.

**CAR files** (`car`) are blocks one after the other, written and read as a stream.

In all of this the input is hostile until checked. What a user may meet is a `KacheryError` with a sentence in it; a
ValueError from here is a mistake of the calling code. Limits, with their reasons, are in `limits`.
"""

from __future__ import annotations

from kachery_p2p.dag.builder import BuiltFile, FileBuilder, leaf_block, leaf_wrap
from kachery_p2p.dag.cid import (
    CID,
    DAG_PB,
    IDENTITY,
    RAW,
    SHA2_256,
    hash_block,
    inline_block,
    known_block,
    read_cid,
    sha256_multihash,
    verify_block,
)
from kachery_p2p.dag.directory import BuiltDirectory, DirectoryBuilder, HamtEntry, list_directory, symlink_block
from kachery_p2p.dag.names import safe_name
from kachery_p2p.dag.nodes import drive, node_kind, symlink_target
from kachery_p2p.dag.paths import Resolved, resolve_path
from kachery_p2p.dag.profiles import UNIXFS_V0_2015, UNIXFS_V1_2025, Profile, profile
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.dag.walk import FileWalk, Piece, Ref, WalkLimits

__all__ = [
    "CID",
    "DAG_PB",
    "IDENTITY",
    "RAW",
    "SHA2_256",
    "UNIXFS_V0_2015",
    "UNIXFS_V1_2025",
    "BuiltDirectory",
    "BuiltFile",
    "DataType",
    "DirectoryBuilder",
    "FileBuilder",
    "FileWalk",
    "HamtEntry",
    "Piece",
    "Profile",
    "Ref",
    "Resolved",
    "WalkLimits",
    "drive",
    "hash_block",
    "inline_block",
    "known_block",
    "leaf_block",
    "leaf_wrap",
    "list_directory",
    "node_kind",
    "profile",
    "read_cid",
    "resolve_path",
    "safe_name",
    "sha256_multihash",
    "symlink_block",
    "symlink_target",
    "verify_block",
]
