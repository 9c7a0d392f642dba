"""Every bound of the block exchange, each with the reason for its value. Sizes in bytes, times in seconds."""

from __future__ import annotations

from kachery_p2p.dag.limits import MAX_BLOCK_SIZE as MAX_BLOCK_SIZE
from kachery_p2p.units import KIB, MIB

# --- messages ------------------------------------------------------------------------------------------------------

#: The Bitswap specification: "All protocol messages MUST be less than or equal to 4MiB in size".
MAX_MESSAGE_SIZE = 4 * MIB
#: Want entries read from one message: four full want tables, so that a 4 MiB list of wants costs no more than these.
MAX_ENTRIES_PER_MESSAGE = 4096
#: Block presences read from one message; we never have more wants than this at one peer.
MAX_PRESENCES_PER_MESSAGE = 4096
#: Blocks read from one message: 4 MiB of blocks of 256 bytes; more is a flood of crumbs.
MAX_BLOCKS_PER_MESSAGE = 16384
#: Fields of one message, nested ones included: each costs half a microsecond, and a message must not cost a second.
MAX_FIELDS_PER_MESSAGE = 131072
#: Four numbers of up to nine bytes and the longest digest that is accepted; longer CIDs are not looked at.
MAX_CID_SIZE = 164
#: CIDs that cannot be read, in one message, before the whole message counts as garbage.
MAX_MALFORMED_PER_MESSAGE = 64

#: What a peer's messages may make us do. The unit is a want or a presence, about 5 microseconds; a message by itself
#: costs as much as ten. Each peer may send so much a second, all that send more together so much: a seventh of a core.
MESSAGE_RATE = 30_000.0
MESSAGE_POOL = 30_000.0
#: What a peer may save up: two of the longest wantlists.
MESSAGE_BURST = 10_000.0
MESSAGE_COST = 10.0
#: So many bytes of blocks that were wanted pay for one unit.
BYTES_PER_UNIT = 1024

# --- streams -------------------------------------------------------------------------------------------------------

#: Helia drops a stream that is silent for 10 s, and bytes written after that are lost: close well before.
STREAM_IDLE_CLOSE = 5.0
#: Negotiating a stream takes one round trip; ten seconds is a very bad line.
OPEN_STREAM_TIMEOUT = 10.0
#: A want message is small; a peer that does not take it in this time does not read at all.
WANT_SEND_TIMEOUT = 30.0
#: A peer that takes no byte of our reply for this long is not reading; its queue is dropped.
REPLY_STALL_TIMEOUT = 60.0
#: When others wait for room, a reply that has been stuck this long makes way for them.
REPLY_STALL_CROWDED = 5.0
#: Replies are written in pieces so that progress can be seen: this size for a slow peer, whole messages for a fast one.
REPLY_WRITE_PIECE = 64 * KIB
#: Times a message is tried: a stream that broke while idle is noticed only now, and the next may fail to open.
STREAM_ATTEMPTS = 3
#: A peer whose streams failed so often is left alone for this long.
UNREACHABLE_PAUSE = 10.0
#: Peers whose sums stay in the statistics after they left.
MAX_STATS_PEERS = 256
#: A message whose body stops coming for this long is given up, so that its buffer can be freed.
BODY_STALL_TIMEOUT = 15.0
#: Reading in pieces of this size shows that a slow peer is alive.
BODY_READ_PIECE = 512 * KIB
#: Kubo opens a stream for every reply message, two dozen at a time were seen. More than these wait unread: their
#: blocks must not be thrown away, for the peer takes them as delivered.
MAX_INBOUND_STREAMS_PER_PEER = 32
#: Streams that wait in that way; beyond, they are reset.
MAX_WAITING_STREAMS_PER_PEER = 512
#: Message bodies of one peer in assembly: eight Kubo workers sending 1 MiB blocks.
MAX_INBOUND_BYTES_PER_PEER = 8 * MIB
#: Message bodies of all peers in assembly or verification.
MAX_INBOUND_BYTES = 32 * MIB
#: While others wait for room, looked at so often, a message that has been coming for so long, slower than this, makes
#: way: a few peers that send a byte now and then would hold all of it.
CROWDED_LOOK = 1.0
CROWDED_SECONDS = 5.0
CROWDED_RATE = 64 * KIB

# --- verification --------------------------------------------------------------------------------------------------

#: Below this size hashing takes less time than handing the block to a thread and back.
HASH_IN_THREAD = 32 * KIB
#: Blocks hashed in one trip to a thread: enough that the trip costs nothing beside it, few enough to go on soon.
HASH_TRIP = 4 * MIB
#: Threads that hash at once, where one does not keep up, or has been at it for so long: it may wait for a disk.
HASH_THREADS = 4
HASH_PATIENCE = 0.25
#: Messages from this size on are read into buffers that are used again, and so many bytes of these are kept: as much
#: as one fast peer has under way.
REUSED_MESSAGE = 256 * KIB
SPARE_BUFFERS = 8 * MIB

# --- server (engine) -----------------------------------------------------------------------------------------------

#: As in Kubo: wants remembered for one peer.
MAX_WANTS_PER_PEER = 1024
#: HAVE is answered with the block itself up to this size, as Kubo and Helia do.
HAVE_REPLACE_SIZE = 1024
#: HAVE and DONT_HAVE waiting to be sent to one peer; its reader pauses above this.
MAX_QUEUED_PRESENCES = 4096
#: Presences in one message: about 40 KiB.
MAX_PRESENCES_PER_REPLY = 1024
#: Blocks are gathered into one message up to this many bytes at first, and for a peer that takes them slowly.
REPLY_TARGET_SIZE = 1 * MIB
#: The same for a peer that takes them quickly: what a message costs by itself, both sides pay a third as often. It
#: leaves room in MAX_MESSAGE_SIZE for what stands in front of MAX_WANTS_PER_PEER blocks, and for presences.
REPLY_LARGEST_SIZE = 15 * MIB // 4
#: Blocks from this size on fill their messages. A peer that loads them asks for one as one has come, so only a few are
#: waiting here at any time; were it given half of them at once, it would get nearly all by themselves. Of smaller ones,
#: all that it may ask for at once fits into a message or two, and it can ask for more only when one is there.
FILLING_BLOCK = 256 * KIB
#: A message that is taken within so many seconds may be followed by a larger one; after one that took longer than
#: REPLY_SLOW they are small again, so that nobody waits long behind them.
REPLY_QUICK = 0.05
REPLY_SLOW = 0.25
#: Bytes of one peer being read from disk or written to its stream, before one more message is begun.
MAX_OUTSTANDING_PER_PEER = 4 * MIB
#: Replies of one peer in work: one being written while the next is read from disk.
MAX_REPLIES_PER_PEER = 2
#: Bytes of all peers being read or written: what serving may cost in memory.
MAX_OUTSTANDING = 32 * MIB
#: Multihashes asked of the store in one go: some milliseconds of work in a thread.
LOOKUP_BATCH = 512
#: Threads that read blocks for replies: the disk and the page cache gain nothing from more.
STORE_THREADS = 4

# --- client (wants) ------------------------------------------------------------------------------------------------

#: Bytes asked for by all sessions together and not yet taken by their receivers: the memory a load may cost.
MAX_IN_FLIGHT = 32 * MIB
#: However many sessions are open, each may have this much under way.
MIN_SESSION_IN_FLIGHT = 4 * MIB
#: What a receiver takes at once, and so holds in memory, at the most.
RECEIVED_AT_ONCE = 4 * MIB
#: Wants (block and have) that we let one peer hold for us, those that it declined included; Kubo drops what goes beyond
#: 1024. On a long line it bounds the speed of small blocks: so many in each round trip.
MAX_ASKS_PER_PEER = 1000
#: Want-have questions at one peer without an answer.
MAX_PROBES_PER_PEER = 64
#: A peer of which nothing is known is asked about this many blocks at first; it doubles with each HAVE.
FIRST_PROBES = 4
#: Blocks that a peer said it does not have stay asked for (it may get them), but not more than this: as many as the
#: load of a file wants ahead, for a peer that is loading the same.
MAX_STANDING_ASKS = 384
#: First window of a peer, and never less than two blocks. In it are hundreds of small ones.
INITIAL_WINDOW = 1 * MIB
#: Least and greatest window of a peer.
MIN_WINDOW = 256 * KIB
MAX_WINDOW = 32 * MIB
#: A peer is asked for what it delivers in this time: long enough to hide the round trip, short enough to shift work.
WINDOW_SECONDS = 0.5
#: Size taken for a block of which the DAG says nothing, before the first of its codec has arrived: the leaf of the
#: default profile.
FIRST_BLOCK_ESTIMATE = 1 * MIB
#: The same for blocks that are not raw: leaves of the old profile, and inner nodes.
FIRST_NODE_ESTIMATE = 256 * KIB
#: A peer with open wants that sends nothing for this long (or four times what it should take) loses them.
STALL_SECONDS = 3.0
#: So many bytes of an unfinished message count as a sign of life.
LIFE_SIGN_BYTES = 32 * KIB
#: A stalled peer that is the only one left is asked again after this long, then twice this, up to the limit.
RETRY_FIRST = 2.0
RETRY_LAST = 60.0
#: A peer that delivers other blocks but never answers one want: that want goes elsewhere after this long.
SKIPPED_WANT_SECONDS = 10.0
#: Peers of Bitswap 1.0 and 1.1 cannot say DONT_HAVE: silence of this length says it for them (as Kubo does).
LEGACY_DONT_HAVE_SECONDS = 5.0
#: At the end a block is asked of a second, faster peer; never of a third.
MAX_COPIES = 2
#: A second copy must be expected to come so many times, and so many seconds, sooner than the first.
ENDGAME_GAIN = 2.0
ENDGAME_MARGIN = 0.1
#: Copies that a session may ask for at first, and the most that it may save up. One that comes first gives its place to
#: another; one that comes second does not, for then nobody was slow: the machine was busy, and made all look late.
ENDGAME_COPIES = 4
MAX_ENDGAME_COPIES = 8
#: ... and one more for so many blocks that came.
BLOCKS_PER_COPY = 128
#: A peer of unknown speed is left alone for this long before its last wants are asked of another.
ENDGAME_UNKNOWN_SECONDS = 0.5
#: A peer that skipped a want is not asked for it again for this long.
FORGIVE_SECONDS = 30.0
#: How often stalls, skipped wants and the endgame are looked at while blocks are under way.
TICK = 0.1
#: Cancels that nothing waits for are sent with the next wants, or after this time.
LAZY_SEND = 0.25
#: Blocks wanted lately, by which a late duplicate is told from a lie.
REMEMBERED_WANTS = 16384
#: Connected peers that a session asks without having been told to.
MAX_DISCOVERY_PEERS = 64
#: Offences (garbage, oversized messages, truncations) within OFFENCE_WINDOW seconds after which a peer is reported.
MAX_OFFENCES = 4
OFFENCE_WINDOW = 60.0
#: Peers remembered as liars.
MAX_BAD_PEERS = 1024

# --- loading the same as others --------------------------------------------------------------------------------------

#: Peers that load the same, among which a session divides what is to be fetched from the source. More would not make
#: the source's part of each much smaller, and each is told of all that we want.
MAX_FELLOWS = 32
#: Smaller blocks are not divided: the questions to many fellows would cost as much as the block.
LEAST_DIVIDED = 64 * KIB
#: A session that wanted fewer blocks than this asks the source for them: a reader waits, and there is little to save.
LEAST_SHARED = 16
#: When nothing has been under way for so long, and for twice the time that the source takes for a block, fellows that
#: have nothing are waited for no longer.
FELLOW_SECONDS = 2.0

# --- gateways -------------------------------------------------------------------------------------------------------

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
#: A block that a peer was asked for is asked of a gateway, too, after so many seconds without a block of any peer.
TAKE_OVER_SECONDS = 1.0
#: Bytes that came and were not taken: with more, the load is what is slow, and nothing is held against the peers.
BACKLOG = 8 * MIB
#: Requests under way to a gateway of which it is not known how many it takes: over HTTP/1.1 each has a connection.
GATEWAY_REQUESTS = 8
#: A gateway that sends no byte for so long, though it owes blocks, is stalled. It may have to find them first.
GATEWAY_STALL_SECONDS = 8.0
#: A block is asked of one more gateway after this time where the first has never shown how fast it is.
COPY_UNTRIED = 0.25
#: ... and otherwise after this time, or so many times what the block should take.
COPY_AFTER = 1.0
COPY_TIMES = 4.0
#: A gateway that was overtaken so often in a row rests like one that fails.
MAX_OVERTAKEN = 3
#: Times that a session asks one gateway for one block: it may have been busy.
MAX_TRIES = 3
#: A gateway that had none of the first blocks it was asked for, one after the other, does not have the others, either.
#: Of a part of a file, every second block even, it would have had one among so many. It is asked again from the start
#: when somebody sends the first block.
MAX_ABSENT = 16
#: Pause after a failure, doubled with each further one up to the limit.
REST_FIRST = 2.0
REST_LAST = 300.0
#: A gateway that rests no longer than this is waited for before a block counts as one that cannot be had.
WORTH_WAITING = 10.0
#: What a gateway said is cut to this many characters.
MAX_WORDS = 300
#: Bytes of a file that are asked for together with its root: a whole file, or enough until the next are asked for.
HEAD_BYTES = 8 * MIB
#: The same of a gateway that has not shown yet what it is: two leaves of the default profile.
FIRST_HEAD_BYTES = 2 * MIB
#: Where more roots than this are wanted at once, asking for each by itself saves as many round trips.
CAR_WANTS = 8
#: Bytes of a file in one CAR, at the most: half of what may be in flight, so that the next is on its way meanwhile.
CAR_BYTES = MAX_IN_FLIGHT // 2
#: The same of a gateway that cuts them short: two leaves of the default profile.
LEAST_CAR = 2 * MIB
#: A gateway that gave no CAR so often in a row gives none.
MAX_CAR_REFUSALS = 3
#: Bytes of a CAR that were not asked for: a leaf at each end. With more it is left.
MAX_STRAY = 4 * MIB
#: For the end of a CAR that has brought everything: some bytes.
CAR_END_SECONDS = 1.0
#: How often a directory of which the CAR was cut short is asked for as a whole again.
MAX_TREE_TRIES = 3
#: Bytes that all sessions keep of what CARs bring before it is wanted, and the least that each may keep. While there is
#: no room for more, a CAR is not read on.
MAX_AHEAD = 16 * MIB
MIN_AHEAD = 2 * MIB
#: Blocks of one session of which is remembered where they are in their files, some 400 bytes each.
MAX_PLACES = 8192
