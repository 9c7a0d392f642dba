"""The sizes and counts that bound this package, each with its reason."""

from __future__ import annotations

from kachery_p2p.units import KIB as KIB
from kachery_p2p.units import MIB

#: Bytes that one hashing task covers: long enough that handing it over costs nothing, short enough for even shares.
TASK_BYTES = 8 * MIB

#: Threads that read and hash: sha256 is bound by the processor, and more than these only fight over the GIL.
HASH_THREADS = 2

#: Tasks handed out but not yet collected: four per thread keep both busy while the results are put in order, also
#: when the machine has other work; a task under way holds one buffer, a waiting or finished one next to nothing.
TASKS_AHEAD = 8

#: Bytes written to a new file before the system is told to begin writing them out, so the last fsync is short.
WRITE_BACK_BYTES = 16 * MIB

#: A file up to this size is read whole and stored without threads or temporary spools.
SMALL_FILE = 1 * MIB

#: A file up to this size, of which nobody has asked for the path, goes into a pack: below it, inodes, folders and the
#: rest of the last block cost as much as the bytes.
PACKED_BYTES = 32 * KIB

#: Bytes after which a pack is full: few enough to copy or to read through in a second, many enough that there are few.
PACK_BYTES = 64 * MIB

#: Small files of a directory that are written, synced and catalogued together, by count and by bytes in memory.
BATCH_FILES = 512
BATCH_BYTES = 32 * MIB
#: Bytes of linked files after which what was hashed of them is written down: less than a second's work is lost when
#: that is interrupted, and the commit is a small part of it.
BATCH_LINKED = 512 * MIB

#: Threads that wait for fsync in a batch: the file system joins their commits, so more waiters mean fewer commits.
SYNC_THREADS = 16

#: Inner nodes kept in memory while a file is hashed; a larger DAG's nodes go to an unnamed temporary file.
NODE_SPOOL = 2 * MIB

#: Open files kept for serving blocks; far below the usual limit of 1024 descriptors per process.
OPEN_FILES = 64

#: Decoded nodes of files: those of some 270 GiB in chunks of 1 MiB, or of 4 GiB in chunks of 16 KiB.
NODE_CACHE = 16 * MIB
#: Decoded nodes of folders: of some 40 000 entries, as a store has whose chunks are read here and there.
FOLDER_CACHE = 16 * MIB

#: Keys in one SQL `IN (...)`; SQLite guarantees 999 variables.
SQL_KEYS = 400

#: Leaf rows inserted with one call, so the rows of a huge file are never all in memory.
ROW_BATCH = 2000

#: Nodes put into the catalog with one call: some MB in memory.
NODE_BATCH = 64

#: References taken from a file's DAG at once while it is walked in the catalog.
WALK_BATCH = 256

#: Files under links/ before they are joined into one: reading them all stays quick, and joining rare.
RECORD_FILES = 64

#: Entries of a folder whose blocks are looked at together, to tell files from folders: some MB in memory.
TREE_BATCH = 1024

#: Seconds to wait for another process that is writing the catalog; its transactions take milliseconds.
BUSY_SECONDS = 60.0

#: The same for the catalog of a directory that is only read, and may be in use on another machine, which changes it
#: whenever it is looked at: it can be done without.
APART_SECONDS = 5.0

#: Pages after which SQLite folds its log into the catalog, and the size the log file is cut back to.
WAL_PAGES = 2000
WAL_BYTES = 32 * MIB

#: Files of one size whose profiles are looked up, to hash the first block of a new file of that size by them.
PROFILE_SAMPLE = 64

#: Files with the same first block, stored under another profile, that are compared byte by byte to share their bytes.
TWIN_CANDIDATES = 8

#: A file changed this short before it was hashed could change again without its time moving: clock ticks are coarse.
RACY_NS = 20_000_000

#: The same where a clock ticks in steps of whole milliseconds or more: those of FAT are two seconds.
COARSE_CLOCK_NS = 1_000_000
COARSE_RACY_NS = 2_500_000_000

#: The same on a network file system, whose clock is another machine's and may be that far from ours.
NETWORK_RACY_NS = 60_000_000_000

#: Files that are remembered with their stamps (seen.py), some 200 bytes each; beyond it the oldest are hashed again.
SEEN_FILES = 4_000_000

#: Bytes of a `.kacheryignore`; the longest that people write have some KiB.
IGNORE_BYTES = 1 * MIB

#: Names of CIDs used as file names may not be longer: file systems take 255 bytes, and Kubo's identity CIDs fit in it.
MAX_NAME = 230

#: Seconds between two tries for the lock of a partial file that another process holds.
LOCK_POLL_SECONDS = 0.05

#: Files whose state is written with one transaction while all are checked; an interrupted check loses no more.
MARK_BATCH = 256

#: Seconds for which it is remembered for whom a root was that was removed, and the most of them. Earlier secrets of
#: groups are kept for as long.
FORMER_SECONDS = 60 * 24 * 3600
MAX_FORMER = 65_536

#: Seconds an inner node that no root reaches is kept: the store or load that put it there may still be going on.
ORPHAN_SECONDS = 7 * 24 * 3600

#: Leaves asked about at once while looking for what a partial file already has.
HAS_BATCH = 256

#: Tries to give a file a further name, while other processes give it and take it away.
NAME_TRIES = 8
#: Seconds that a store waits for a removal: one takes milliseconds, a folder of a million files a minute.
ADDING_SECONDS = 120.0

#: Seconds that a removal waits for stores: long enough for files of some GB, and nobody waits longer without a word.
REMOVING_SECONDS = 30.0

#: Seconds for which a note of the last use stays as it is: reading a file a thousand times writes one row.
USED_SECONDS = 3600.0

#: The same for what others were given: a root that is served all day costs a row each quarter of an hour.
SERVED_SECONDS = 900.0

#: Roots whose last use one process remembers, so that it need not even look into the catalog.
USED_NOTES = 4096

#: Labels kept of one root, the newest; the same bytes may be stored under very many names.
LABELS_OF_ROOT = 16

#: Bytes of label records after which they are written anew, if more than half of them are of no use.
LABEL_BYTES = MIB

#: The part of a pack that must be of no use before what is left in it is copied to another one.
PACK_WASTE = 0.25

#: Places of removed files that are written over before they are synced together.
WIPE_BATCH = 4096

#: Seconds after which a network file system that says nothing is taken to be away: a busy server answers within one.
LAYER_SILENCE_SECONDS = 5.0

#: Seconds for which a shared directory with which something is wrong is left alone: what was mounted again is used
#: soon, and a server that is down costs one wait a minute.
LAYER_REST_SECONDS = 60.0

#: Seconds for which a file system that has answered is taken to be there: a round trip a second costs nothing.
LAYER_PROBE_SECONDS = 1.0

#: Files of a directory that can only be read of which one process remembers that it has hashed them.
FOUND_RIGHT = 65536
#: Roots that a shell offers where a URI is typed. Those used last are what is meant; to look at more takes longer than
#: somebody who has pressed a key waits.
OFFERED_ROOTS = 5_000

#: Roots that are read from the catalog at once when room is made: some 100 KB in memory, and seldom more are needed.
CANDIDATES = 1_000
#: Seconds for which files that no list has are left alone: the load that brought them may go on.
LEFTOVER_SECONDS = 7 * 24 * 3600.0

#: Bytes that are read and compared in one go when what is here is gone through: a fraction of a second of one core.
SCRUB_BYTES = 8 * MIB
#: Rows of small things that are looked at in one go.
SCRUB_ROWS = 128

#: Partial files of which one process remembers that they have no holes, and are not whole all the same.
TRIED_PARTIALS = 1024

#: Files in folders that a list looks at, the newest: a few hundredths of a second on a disk of this machine, a second
#: or so on one of the network. Of more than these it says what was known when each was last used.
LOOKED_INSIDE = 4096
