"""Every bound of finding providers, each with the reason for its value. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import KIB, MIB

# --- what strangers write -------------------------------------------------------------------------------------------

#: A relayed address with two peer IDs and a DNS name has about 200 characters; a longer one is not an address.
MAX_ADDRESS_LENGTH = 320
#: Addresses looked at of one provider: a machine with four interfaces, two IP versions, a mapped port and two relays.
MAX_ADDRS_PER_PROVIDER = 16
#: Addresses read of one provider before those that can be dialled are chosen: Kubo nodes tell 30 to 40.
MAX_ADDRS_READ = 128

# --- router ---------------------------------------------------------------------------------------------------------

#: Providers taken from one source for one find: a load is served well by ten, and the Kubo network gives 20 at most.
MAX_PROVIDERS_PER_SOURCE = 64
#: Seconds for which one source is listened to for one find, waiting for its turn included: a DHT lookup over a bad
#: line ends within one minute; a source that goes on for longer never ends.
ASK_SECONDS = 120.0
#: Finds under way in one source: each DHT lookup has ten streams open.
MAX_ASKS_PER_SOURCE = 32
#: Finds that wait for their turn in one source; a few kilobytes each.
MAX_WAITING_PER_SOURCE = 1024
#: What a source over the network said is said again for this long: loads that fail are tried again at once.
FOUND_SECONDS = 30.0
#: The same where nobody had it: short, since the other machine may just be starting.
NOTHING_SECONDS = 5.0
#: Answers remembered for that, of all sources.
MAX_REMEMBERED_ANSWERS = 512
#: Finds shown in the status.
MAX_RECENT_FINDS = 64
#: Characters of an error kept for the status.
MAX_ERROR_LENGTH = 400

# --- known peers ----------------------------------------------------------------------------------------------------

#: Peers that gave us blocks: more machines than any lab shares data with.
MAX_USEFUL_PEERS = 1024
#: Peers named by the user, or met on the local network.
MAX_LOCAL_PEERS = 512
#: Others that took blocks from us: colleagues, but anyone can take a public file.
MAX_SERVED_PEERS = 256
#: Others that answered when we dialled them: seeds for the routing table of the DHT, which asks for a few dozen.
MAX_MET_STRANGERS = 512
#: Others that dialled us, or that were only heard of; anyone can make us hear of thousands.
MAX_HEARD_STRANGERS = 256
#: Addresses kept of one peer: home, office, laboratory, and a relay, in both IP versions.
MAX_ADDRS_PER_PEER = 12
#: Of these, ones that never answered us: what others say must not crowd out what we know.
MAX_UNPROVEN_PER_PEER = 8
#: Characters kept of what a peer says it is.
MAX_AGENT_LENGTH = 128
#: A machine that gave us blocks, or that the user named, is remembered over a sabbatical.
USEFUL_DAYS = 270
#: A machine of the local network that never gave us anything, or one that took blocks from us.
LOCAL_DAYS = 60
#: Strangers: nodes of the public network are gone for good within days.
STRANGER_DAYS = 7
#: An address that failed since it last answered is dropped after this time, but not before MIN_FAILURES_TO_DROP.
FAILING_ADDRESS_DAYS = 30
#: The same for one that never answered.
UNPROVEN_ADDRESS_DAYS = 3
#: Dials that must fail before time counts: a laptop may have been closed for the month.
MIN_FAILURES_TO_DROP = 3
#: Seconds between writes to disk: what may be lost of everything but the first block of a peer.
FLUSH_SECONDS = 30.0
#: Writes for a first meeting come no closer together than this, so that a swarm does not make a write per peer.
FLUSH_PAUSE = 1.0
#: Peers written in one transaction: it holds the lock of the database for some milliseconds.
FLUSH_BATCH = 256
#: Seconds that real sources get before known peers are tried for a block of which nothing else is known.
KNOWN_HEAD_START = 1.0
#: Known peers tried for one block: a lab, not the world.
MAX_KNOWN_PROVIDERS = 16
#: A peer none of whose addresses answered is left alone for this long.
DEAD_PAUSE = 60.0
#: DHT seeds from one network (IPv4 /16, IPv6 /32): whoever fills our address book mostly has one.
MAX_SEEDS_PER_NETWORK = 2

# --- delegated routers ----------------------------------------------------------------------------------------------

#: Routers asked; each costs a request for every find.
MAX_ROUTERS = 8
#: Requests under way to one router.
MAX_REQUESTS_PER_ROUTER = 8
#: Connecting takes one or two round trips; five seconds is a very bad line.
ROUTER_CONNECT_SECONDS = 5.0
#: Redirects followed: one to a mirror and one to a path.
MAX_REDIRECTS = 3
#: Bytes read of one answer: the specification says at most 100 records, and 64 records with 100 addresses are 0.5 MiB.
MAX_ANSWER_SIZE = 1 * MIB
#: One line of a streamed answer.
MAX_LINE_SIZE = 64 * KIB
#: Records looked at in one answer, usable or not.
MAX_RECORDS = 256
#: Lines that are not records before the whole answer counts as garbage.
MAX_MALFORMED_RECORDS = 16
#: The longest pause that a router can ask for (Retry-After).
MAX_RETRY_AFTER = 3600.0
#: Pause when it says "too many requests" and not for how long.
DEFAULT_RETRY_AFTER = 60.0
#: Answers kept for as long as the router says (Cache-Control), and no longer than this: with providers, and without.
MAX_AGE_FOUND = 300.0
MAX_AGE_NOTHING = 15.0
#: Answers kept in this way.
MAX_CACHED_ANSWERS = 64


@dataclass(frozen=True)
class RouterPatience:
    """How long HTTP routers are waited for, and left alone after failures. Seconds all.

    Attributes:
        answer: a request in all: a router may walk the DHT for us and stream as it finds.
        rest_first, rest_last: pause after a failure, doubled with each further one from the first up to the last.
    """

    answer: float = 30.0
    rest_first: float = 5.0
    rest_last: float = 600.0
