"""Every bound of the transport, each with the reason for its size. Bytes, seconds and counts."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import KIB, MIB

# --- record layer --------------------------------------------------------------------------------------------------

#: A Noise message is at most 65535 bytes of ciphertext, 16 of them the tag (Noise specification, section 3).
NOISE_MESSAGE = 65535
NOISE_PLAINTEXT = NOISE_MESSAGE - 16
#: The content of a TLS record, and a whole encrypted one without its header (RFC 8446, sections 5.1 and 5.2).
TLS_RECORD = 16 * KIB
TLS_CIPHERTEXT = TLS_RECORD + 256
#: What is sealed at once, and so the longest frame of the muxer. With four records, what each frame costs is felt, as
#: the receiver copies where one begins within a piece: 6 % more CPU time on both sides. With 16 it is 2 % less, and
#: others wait longer.
TLS_MESSAGE = 8 * TLS_RECORD
#: The same of a large record, between nodes that have agreed on them (`tls_records.py`): as long as the 16 bits in its
#: header tell, in whole KiB. Of a GiB that takes 0.2 CPU seconds less of both sides.
TLS_LARGE_RECORD = 63 * KIB
#: What is sealed at once of these.
TLS_LARGE_MESSAGE = 2 * TLS_LARGE_RECORD
#: Records that are decrypted in a row, into one buffer: as long as a message of Noise. There are no more of short ones,
#: so that they take no longer than a message is expected to.
TLS_GATHER = 4
#: AES-GCM is safe for 24 million full records under one key (RFC 8446, section 5.5).
TLS_RECORDS_PER_KEY = 1 << 24
#: It is the blocks of the cipher that count, of which a large record has four times as many.
TLS_LARGE_RECORDS_PER_KEY = 1 << 22
#: A handshake of TLS: all it receives. Ours takes some 3 KiB in six records; RSA keys and chopped records need more.
TLS_HANDSHAKE = 64 * KIB
TLS_HANDSHAKE_RECORDS = 64
#: A session ticket, the longest message that may come after the handshake, has 1 to 2 KiB.
TLS_LATE_MESSAGE = 16 * KIB
#: What may come in until the muxer is agreed on within the secured channel: MAX_PROPOSALS long ones, and more.
MUXER_NEGOTIATION = 256 * KIB
#: RSA keys of certificates that are taken, in bits: shorter ones prove nothing, longer ones take long.
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
#: Plaintext of a message that is to be sealed, of either kind, with a byte behind it (`security.py`).
PLAINTEXT_BUFFER = TLS_MESSAGE + 1
#: Room that one full message needs in a send buffer: records with 22 bytes around each, and a change of the key.
SEALED_MESSAGE = TLS_MESSAGE + TLS_MESSAGE // TLS_RECORD * 22 + 27
#: Where a received message is decrypted: its records, and the type of the last one.
MESSAGE_BUFFER = TLS_GATHER * TLS_RECORD + 1
#: Such buffers that are kept for reuse, 2 MiB: a reader has not read yet what came with the last receive or two.
SPARE_MESSAGES = 32
#: Room for the last message.
GOODBYE = 64
#: Half a MiB goes to the kernel at once: more gains nothing measurable, less costs system calls.
SEND_BATCH = 4 * SEALED_MESSAGE
#: What a new connection sends is gathered so many times: a kernel lets ten packets go until the first are confirmed
#: (RFC 6928), however small they are, and without this the answers to identify, the DHT and Bitswap are eleven.
EARLY_FLUSHES = 32
#: One receive buffer of this size serves all connections of a host, since it is emptied before the next await.
RECEIVE_BUFFER = 1 * MIB
#: Idle send buffers kept for reuse; each is SEND_BATCH bytes long, and few connections send at the same moment.
SPARE_SEND_BUFFERS = 4

# --- yamux ---------------------------------------------------------------------------------------------------------

#: The window every stream starts with, fixed by the Yamux specification.
INITIAL_WINDOW = 256 * KIB
#: 32 MiB fill 200 ms of round trip, another continent, at 1 Gbit/s.
MAX_WINDOW = 32 * MIB
#: The most that a peer gets by being fast alone, without being far away: 100 ms of round trip at 160 MB/s, as much as
#: go-yamux gives.
NEAR_WINDOW = 16 * MIB
#: What all streams of one connection may have been granted above INITIAL_WINDOW.
CONNECTION_WINDOW = 40 * MIB
#: The same for the whole host, so that many fast peers at once do not add up to gigabytes.
HOST_WINDOW = 96 * MIB
#: Received and unread bytes of one connection. Streams that nobody reads hit it; the stream that exceeds it is reset.
CONNECTION_QUEUE = 48 * MIB
#: The same for the whole host.
HOST_QUEUE = 192 * MIB
#: Credit goes back in quarters of a window: with halves a peer far away waits for it while TCP is still speeding up.
GRANTS_PER_WINDOW = 4
#: And never more than this at once: what was read and not granted again is missing from the window.
MAX_GRANT = 2 * MIB
#: What a stream of the peer may have at once where another of the connection has got that much: a block of Bitswap and
#: what is around it. Kubo opens a stream for each message, and it should not begin anew with each.
START_WINDOW = 2 * MIB
#: A window of which the part for one grant is used up within this many round trips is doubled; one below NEAR_WINDOW
#: within WINDOW_BUSY seconds, too.
WINDOW_ROUND_TRIPS = 4
WINDOW_BUSY = 0.05
#: Open streams of one connection, each direction: far above what Bitswap and a DHT use, low enough to hold in memory.
MAX_STREAMS = 1024
#: Streams we opened that the peer has not acknowledged; go-yamux refuses the 257th.
MAX_UNACKNOWLEDGED = 256
#: Control frames waiting to be sent (12 bytes each). Only a peer that does not read lets so many pile up.
MAX_CONTROL_BYTES = 12 * 8192
#: Frames that do no work (pings, resets, empty data, refused streams) that a connection may save up.
IDLE_FRAMES_BURST = 4000.0
#: Frames read from one message before it is looked at whether others should have their turn: a tenth of a millisecond.
FRAMES_IN_A_ROW = 32
#: Space left in a message below which a data frame that does not fit starts in the next message.
MIN_SPLIT = 4096
#: Received pieces below this size are gathered, so that one-byte frames do not cost an object each.
GATHER_BELOW = 16 * KIB
#: How much gathered data one object holds.
GATHER_SIZE = 64 * KIB

# --- what a peer may make us do ------------------------------------------------------------------------------------

# The unit is a frame without payload, some 4 microseconds.

#: What one connection may save up: 40 ms.
WORK_BURST = 10_000.0
#: Receiving from the socket, decrypting a message, reading and writing a small piece, taking a stream and agreeing on
#: its protocol, learning what a peer says of itself; in units, as measured where system calls are slow.
RECEIVE_WORK = 25
MESSAGE_WORK = 4
READ_WORK = 2
WRITE_WORK = 25
STREAM_WORK = 80
IDENTIFY_WORK = 500
#: What is given back for a stream that brought what was asked for: about what taking it, agreeing on its protocol,
#: reading a message and closing it cost. Kubo opens one for each message, hundreds a second where blocks are small.
USEFUL_STREAM = STREAM_WORK + RECEIVE_WORK + MESSAGE_WORK + 3 * READ_WORK + 2 * WRITE_WORK + 5
#: So many bytes, either way, pay for one unit: bulk data pays for itself, and little for anything else. To decrypt them
#: takes about one unit, too, and bytes that nobody reads, of streams that were reset, cost that instead.
BYTES_PER_UNIT = 4096
#: First receives of a connection, and those of one whose bytes took more than a turn; doubled up to RECEIVE_BUFFER
#: while they do not.
FIRST_RECEIVE = 64 * KIB

# --- liveness ------------------------------------------------------------------------------------------------------

#: A stream we closed and the peer did not is reset after this.
HALF_CLOSED_TIMEOUT = 60.0
#: Handlers get this long to notice that their connection is gone before they are cancelled.
HANDLER_GRACE = 5.0
#: Saying goodbye on the way out may take this long in all. Ctrl-C is to end a command within a second, and is pressed
#: where a source says nothing; half a second is a round trip to anywhere.
GOODBYE_TIMEOUT = 0.5

# --- connections ---------------------------------------------------------------------------------------------------

#: Inbound connections whose handshake is not done; when one more comes, the oldest of the address that has most is
#: dropped. This, `max_connections` and MAX_DIALS are lower where the process may open few files (`descriptors.py`).
MAX_HANDSHAKES = 128
#: Of a host's connections, those that came from one address (IPv6: one /64) while others want in: a quarter. A whole
#: lab may be behind one address, so nothing is refused for it while there is room.
ADDRESS_SHARE = 0.25
#: Connections of one peer: two for a simultaneous dial, and spare ones for a peer that lost the old ones unnoticed.
MAX_CONNECTIONS_PER_PEER = 4
#: Backlog of a listening socket.
LISTEN_BACKLOG = 256
#: The same warning is not repeated within so many seconds.
WARN_INTERVAL = 60.0
#: Pause after the process ran out of file descriptors, seconds.
ACCEPT_PAUSE = 0.1
#: The addresses of the network interfaces are looked up again after so many seconds; it costs a millisecond.
INTERFACES_REFRESH = 5.0

# --- dialling ------------------------------------------------------------------------------------------------------

#: The next address is tried after this many seconds without an answer (RFC 8305 section 5).
DIAL_STAGGER = 0.25
#: Whole dial, when the caller does not say.
DIAL_TIMEOUT = 10.0
#: Addresses of one peer that are tried; the rest is ignored.
MAX_DIAL_ADDRESSES = 32
#: TCP connects and handshakes in progress at once.
MAX_DIALS = 256
#: A name server that is asked for a /dnsaddr gets so many seconds, then the next one is asked; all of them twice, for a
#: packet may be lost. A system has three at most.
DNS_TRY = 2.0
DNS_ROUNDS = 2
MAX_NAME_SERVERS = 3
#: Bytes of an answer over UDP that no network cuts in pieces (DNS flag day 2020); longer ones come over TCP.
DNS_PAYLOAD = 1232
#: IP addresses taken from one DNS answer, and levels of /dnsaddr that point at each other.
MAX_DNS_ANSWERS = 16
MAX_DNSADDR_DEPTH = 3

#: Addresses dialled at the same instant in one attempt to punch a hole.
MAX_PUNCH_ADDRESSES = 8
#: A hole punching message; the specification says so.
MAX_PUNCH_MESSAGE = 4 * KIB
#: Attempts with one peer.
PUNCH_ATTEMPTS = 3
#: The exchange of messages before an attempt takes two round trips through the relay.
PUNCH_TALK_TIMEOUT = 10.0
#: When all our dials of an attempt have failed, the peer's may still succeed; a round trip or two are enough.
PUNCH_GRACE = 1.0
#: Attempts of a peer that follow each other within this time belong together.
PUNCH_ROUND = 20.0
#: Peers with which it is tried at the same time, and results that are remembered.
MAX_PUNCHES = 32
MAX_PUNCH_RESULTS = 64
#: Pause before an address that refused in such an attempt is dialled again: its NAT may open a moment later.
PUNCH_RETRY_PAUSE = 0.1

# --- multistream, identify -----------------------------------------------------------------------------------------

#: A protocol name with its newline; go-multistream allows 64 KiB, the longest name in use has 60 bytes.
MAX_PROTOCOL_NAME = 1024
#: Proposals a peer may make on one stream.
MAX_PROPOSALS = 64
#: The identify exchange, seconds; it runs beside everything else.
IDENTIFY_TIMEOUT = 10.0
#: A ping stream on which nothing comes for so long is closed, seconds, as py-libp2p and go-libp2p do.
PING_IDLE_TIMEOUT = 60.0
#: All messages of one identify answer together.
MAX_IDENTIFY = 64 * KIB
#: Fields in them: an address, a protocol or a few other things each, and each is work, however short it is.
MAX_IDENTIFY_FIELDS = 1024
#: Addresses and protocols remembered of one peer.
MAX_PEER_ADDRESSES = 64
MAX_PEER_PROTOCOLS = 128
#: Characters of one address, protocol name or agent that a peer tells of; longer ones are not kept.
MAX_PEER_TEXT = 256
#: Wait before telling peers about new handlers or addresses, so that several changes make one message.
IDENTIFY_PUSH_DELAY = 0.5


@dataclass(frozen=True)
class TransportLimits:
    """What one host allows itself and its peers. Seconds and counts."""

    #: Streams that peers have open at this host, all connections together. With its task each takes some 10 KiB.
    host_streams: int = 8192
    #: Frames that do no work that a connection may send each second.
    idle_frames_rate: float = 500.0
    #: What the connections that are in debt may cause each second, whatever their number: a sixth of a core. One that
    #: is alone with that has it all, enough for seven hundred small questions and answers a second.
    work_rate: float = 40_000.0
    #: A connection that was quiet for so long is pinged, seconds; NAT mappings last longer.
    keepalive_interval: float = 30.0
    #: A connection on which nothing moved for so long, either way, is gone. That is seen at a ping, half an interval
    #: later at most: a load, which waits for 60 seconds, has still time to dial its source again.
    keepalive_timeout: float = 35.0
    #: A peer whose kernel takes no byte for so long is gone.
    write_stall_timeout: float = 30.0
    #: Security handshake and muxer negotiation, seconds. Five round trips of a bad line take two.
    handshake_timeout: float = 8.0
    #: Connections kept when nothing else is said; above it the least useful one is closed.
    max_connections: int = 256
    #: A second connection of the same peer without streams is closed after this many seconds.
    duplicate_grace: float = 10.0
    #: Seconds between rounds of housekeeping.
    housekeeping_interval: float = 5.0
    #: Peers that may be banned at once; the one that would be free first makes room.
    max_bans: int = 10_000
    #: Addresses through a relay wait so long for the direct ones, or until these have failed; go-libp2p waits as long.
    relay_head_start: float = 0.5
    #: Through a relay: finding it, asking it, and its asking the other side, before the handshake begins.
    circuit_timeout: float = 8.0
    #: Dialling in each attempt to punch a hole: the kernel repeats a lost SYN after one second and after three.
    punch_timeout: float = 5.0
    #: A relayed connection is closed, used or not, when there has been a direct one for so long; streams are made anew
    #: then.
    relayed_grace: float = 15.0
    #: Negotiating the protocol of a stream, seconds.
    negotiate_timeout: float = 10.0


DEFAULTS = TransportLimits()
