"""Every bound of the DHT's core, each with the reason for its value. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import HOUR, KIB, MIB

# --- the network's own parameters (those of the public IPFS DHT) ------------------------------------------------------

#: Replication: a record goes to so many peers, an answer names so many, a bucket holds so many.
K = 20
#: Questions of one lookup that are open at a time.
ALPHA = 10
#: A lookup's path has arrived when so many of the nearest peers it knows have answered.
BETA = 3

# --- messages ------------------------------------------------------------------------------------------------------

#: What go-libp2p takes as the most for one message.
MAX_MESSAGE_SIZE = 4 * MIB
#: Peers read from one list of a message: answers name 20, go-libp2p adds the target; a flood is cut off here.
MAX_PEERS_PER_MESSAGE = 64
#: Providers read from one message: Kubo sends all it knows, popular content has hundreds.
MAX_PROVIDERS_PER_MESSAGE = 256
#: Addresses read for one peer; a host with many interfaces and transports has a dozen or two.
MAX_ADDRS_PER_PEER = 32
#: An address with two peer IDs and certificate hashes, the longest kind in use, stays under this.
MAX_ADDR_SIZE = 256
#: Keys of providers are multihashes: go-libp2p refuses longer ones than this.
MAX_KEY_SIZE = 80
#: Keys of values have a name space in front (`/ipns/`, `/pk/`).
MAX_VALUE_KEY_SIZE = 128
#: The IPNS specification's limit of a record; public keys are smaller.
MAX_RECORD_SIZE = 10 * KIB
#: Protobuf fields of one message, nested ones included; the longest honest message has about 2 000.
MAX_FIELDS_PER_MESSAGE = 16384

# --- routing table -------------------------------------------------------------------------------------------------

#: Peers of a full bucket's waiting list: enough to fill it again when half of it dies.
MAX_WAITING_PER_BUCKET = 10
#: Peers of one IP group (IPv4 /16, IPv6 /32) in one bucket of the public table, as Kubo has it: nobody rents a bucket.
MAX_PER_GROUP_IN_BUCKET = 2
#: The same for the whole table.
MAX_PER_GROUP_IN_TABLE = 3
#: Groups looked at for one peer; go-libp2p asks for all of its addresses, a dozen at the most make sense.
MAX_GROUPS_PER_PEER = 8
#: A peer not heard of for so long is asked whether it lives (Kubo: a refresh interval).
CHECK_AFTER = 600.0
#: The same when others wait for its place.
CHECK_CROWDED_AFTER = 60.0
#: Peers handed out by one `to_check`: a check is a round trip, and a thousand at once would be a storm.
MAX_CHECKS = 20
#: A bucket is refreshed by a lookup into it so often (Kubo: 10 min).
REFRESH_INTERVAL = 600.0
#: Prefixes longer than this are not refreshed one by one (a key for one is found by trial, 2**n of them); the lookup
#: of our own ID covers all that lies deeper.
MAX_REFRESH_PREFIX = 13

# --- lookups -------------------------------------------------------------------------------------------------------

#: Disjoint paths of a lookup: with four of them, a fifth of the network lying rarely stops all.
PATHS = 4
#: A question open for so long gives its place to another; its answer still counts when it comes.
SLOW_AFTER = 2.0
#: Questions open in all, slow ones included.
MAX_IN_FLIGHT = 30
#: Questions of one lookup; an honest network of a million needs about 50.
MAX_MESSAGES = 120
#: Questions of one path, in a lookup that is led around: what remains is for the other paths.
MAX_MESSAGES_PER_PATH = 30
#: Questions a path asks nearest first; after that every other one goes to the most independent source.
NEAREST_FIRST = 8
#: Peers a lookup remembers: every question may bring 20 new ones.
MAX_PEERS_PER_LOOKUP = 2048
#: A lookup that takes longer than this ends with what it has.
LOOKUP_TIMEOUT = 60.0

# --- provider records ----------------------------------------------------------------------------------------------

#: How long a provider record counts (libp2p: 48 h; it is announced anew every 22 h).
PROVIDER_TTL = 48 * HOUR
#: How long its addresses count: they change more often than the peer (go-libp2p: 24 h).
PROVIDER_ADDRS_TTL = 24 * HOUR
#: Records waiting to be written, a few MiB; the shell flushes every few seconds, in a thread. What is more than this is
#: written at once.
MAX_UNFLUSHED = 10_000

# --- value records -------------------------------------------------------------------------------------------------

#: How long a value counts (libp2p: 48 h).
VALUE_TTL = 48 * HOUR


@dataclass(frozen=True)
class StoreLimits:
    """What a DHT keeps for others."""

    #: Providers kept for one key; an answer holds no more. What has a thousand of them is found elsewhere, too.
    max_providers_per_key: int = 128
    #: Records of one provider: a sweep by a lab with ten million CIDs leaves fewer at each server.
    max_records_per_provider: int = 20_000
    #: Records in all: about 60 MB on disk.
    max_provider_records: int = 500_000
    #: Providers whose addresses are kept.
    max_provider_peers: int = 50_000
    #: Value records (IPNS, public keys) in all: 10 MiB at the most for a thousand of the greatest.
    max_values: int = 4_096
    #: Values stored for one sender: no one owns more than a part of the store.
    max_values_per_sender: int = 256


DEFAULTS = StoreLimits()
