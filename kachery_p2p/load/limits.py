"""The bounds of one load, each with the reason for its value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoadLimits:
    """The bounds of one load.

    Attributes:
        step_bytes: bytes of directory nodes held for one step of a reader. A step is of many blocks only where the last
            ones were small, but whoever made the directory knows that, too.
        wants_ahead: small blocks wanted and not arrived: twice what one peer is asked for at once. Each costs about a
            KiB.
        batch_files, batch_bytes: files and nodes of a directory that gather while those before them are stored, in one
            transaction. As many again are being stored.
        exhausted_grace: seconds that a load goes on when everybody said no. A provider that is just connecting may
            still speak up.
    """

    step_bytes: int = 512 << 20
    wants_ahead: int = 2048
    batch_files: int = 1024
    batch_bytes: int = 8 << 20
    exhausted_grace: float = 1.0


#: Leaves of partial files that others can be served from: 64 GiB in leaves of 1 MiB. Each costs some 200 bytes.
SHARED_LEAVES = 65_536

DEFAULT_LIMITS = LoadLimits()

# --- CAR files -------------------------------------------------------------------------------------------------------

#: Bytes read where only what stands in front of a block is looked for: some small blocks at once, and of a large one
#: little that is read for nothing.
CAR_HEAD_BYTES = 16 << 10
#: Bytes read from a pipe at a time.
CAR_PIPE_BYTES = 1 << 20
#: Bytes of blocks that are taken from a CAR file in one turn, in which it cannot be interrupted: some milliseconds.
CAR_TURN_BYTES = 4 << 20
#: Blocks looked at in one turn without finding one that is wanted, for the same reason.
CAR_TURN_BLOCKS = 4096
#: Bytes of blocks from a pipe that are remembered, for they may be asked for again at once: the root of a file is.
CAR_RECENT_BYTES = 8 << 20
#: KiB of the list of blocks that are held in memory before it goes to the disk.
INDEX_CACHE_KIB = 16 << 10
#: Links that wait on the path from the root of what is exported to where it is, about 200 bytes each: a directory of a
#: million entries that is not sharded, in another one.
EXPORT_MOST_PENDING = 4 << 20
