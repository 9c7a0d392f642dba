"""Every bound of the DHT's shell (streams, dials, timers), each with the reason for its value. Bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import KIB, MIB

# --- streams -------------------------------------------------------------------------------------------------------

#: A request holds one key, one record of 10 KiB or one peer's addresses; whoever sends more is not asking.
MAX_REQUEST_SIZE = 64 * KIB
#: Kubo names all providers it knows, thousands for popular content; its own limit for a message.
MAX_ANSWER_SIZE = 4 * MIB
#: A message is read in pieces, so that a length that lies costs no memory.
READ_PIECE = 64 * KIB
#: Our streams to one peer: a lookup, a check and a delivery side by side.
MAX_STREAMS_PER_PEER = 3
#: Questions open at all peers together; those of a few lookups and a sweep, more would crowd out the data.
MAX_REQUESTS = 128
#: Streams that one peer may have open at us. One more closes the one that was silent for longest.
MAX_INBOUND_PER_PEER = 8

#: What a peer may save up of `ask_rate`: 100 questions, or the records of a delivery of ours.
ASK_BURST = 1000.0
#: What a question, and a record, take of `ask_rate`.
QUESTION_COST, RECORD_COST = 10.0, 3.0
#: Peers whose questions are counted; those that have not asked for the longest time are forgotten.
MAX_ASKERS = 1024

# --- dials ---------------------------------------------------------------------------------------------------------

#: A peer that takes longer to connect than this slows a lookup more than it helps.
LOOKUP_DIAL_TIMEOUT = 5.0
#: Dials at a time: a lookup's worth, and a few for its neighbours.
MAX_DIALS = 24
#: Unreachable peers remembered.
MAX_UNREACHABLE = 2048
#: Peers nearest to us whose connections are protected: they keep our place in the network known.
MAX_PROTECTED = 4

# --- addresses remembered ------------------------------------------------------------------------------------------

#: Peers whose addresses one lookup remembers (the core's own bound of peers).
MAX_LOOKUP_ADDRS = 2048
#: Providers a search returns before the caller is asked for more by going on reading.
MAX_PROVIDERS = 256
#: Enough providers to end the search for more: a load that has so many gains nothing from others.
ENOUGH_PROVIDERS = 20
#: Providers named without an address whose addresses are looked for, in one search.
MAX_ADDRESS_LOOKUPS = 8

#: Answers that name a peer's addresses before the search for it ends.
ENOUGH_WITNESSES = 3
#: Provider records sent in one go, about 40 KiB, before the peer confirms that it took them.
MAX_KEYS_PER_DELIVERY = 256

# --- timers --------------------------------------------------------------------------------------------------------

#: The table is looked over so often: liveness checks, refreshes, connections to let go.
MAINTENANCE_INTERVAL = 30.0
#: Somebody who waits to announce looks so often whether there is an address to announce.
READY_INTERVAL = 5.0
#: The longest pause between tries to enter the network.
BOOTSTRAP_MOST = 300.0
#: Remembered peers tried in one go when there is no bootstrap node.
MAX_SEEDS = 32
#: Checks of one maintenance that run at a time.
MAX_CHECKS_AT_ONCE = 5
#: Peers that connected to us and wait to be checked; more are forgotten, they come again.
MAX_TO_CHECK = 256
#: Records wait for so long before they are written to the database together: those of `ask_pool` are below
#: `limits.MAX_UNFLUSHED` then.
FLUSH_INTERVAL = 2.0
#: Old records are removed so often.
PURGE_INTERVAL = 3600.0
#: With so many peers in the table bootstrap nodes are left alone (Kubo: 4).
ENOUGH_PEERS = 4
#: Lookups that run at a time, of those that somebody waits for: each holds ten questions open.
MAX_LOOKUPS = 16
#: The same for refreshes and announcements.
MAX_BACKGROUND_LOOKUPS = 8
#: A lookup that could end waits so long for those who are still being dialled or asked: they may know more.
LINGER = 4.0
#: The last errors that `status` shows, and their length.
MAX_ERRORS = 8
MAX_ERROR_LENGTH = 400


@dataclass(frozen=True)
class ShellLimits:
    """What one DHT allows itself and its peers. Seconds and counts."""

    #: A question is answered within this, as in Kubo; opening the stream counts.
    request_timeout: float = 10.0
    #: A stream of ours that was not used for so long is closed: the next lookup is minutes away.
    stream_idle: float = 20.0
    #: Kubo keeps its stream to us open for as long as it lives; a minute without a question (as in go-libp2p) is
    #: enough.
    serve_idle: float = 60.0
    #: From its first byte to its last, a question takes no longer than this; it is a few hundred bytes.
    message_timeout: float = 10.0
    #: Streams that all peers together may have open at us: each costs a task and some 10 KiB. The one silent for
    #: longest makes way.
    max_inbound: int = 512
    #: A peer that does not take our answer for so long does not read.
    answer_timeout: float = 15.0
    #: What each peer may ask in a second. The unit is 70 microseconds: an ADD_PROVIDER takes three, a question that
    #: looks for the nearest peers ten. So these are 100 questions, or 300 records, far more than a lookup or a crawler
    #: needs of one server.
    ask_rate: float = 1000.0
    #: The same for all peers together that ask for more than that: a seventh of a core.
    ask_pool: float = 2000.0
    #: The first pause between tries to enter the network; it doubles.
    bootstrap_first: float = 1.0
    #: A peer that could not be reached is not dialled again for so long.
    dial_pause: float = 60.0
    #: Connections that lookups opened and that are kept for the next ones; Kubo keeps 32 to 96 in all.
    max_dialled: int = 64
    #: A new server is worth a look at our own place in the network, but not more often than this.
    self_lookup_interval: float = 10.0
    #: How long a self lookup waits after a newcomer, so that newcomers who arrive together cost one lookup.
    self_lookup_delay: float = 1.0


DEFAULTS = ShellLimits()
