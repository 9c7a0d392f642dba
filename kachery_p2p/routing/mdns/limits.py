"""Every bound of finding peers on the local network, each with the reason for its value. Bytes and seconds."""

from __future__ import annotations

# --- packets -------------------------------------------------------------------------------------------------------

#: RFC 6762, 17: no packet of Multicast DNS is longer, fragments put together and headers counted.
MAX_RECEIVED = 9000
#: What we send fits into the smallest packet that IPv6 must carry (1280), its own and UDP's headers taken off.
MAX_SENT = 1232
#: A string of a TXT record has one byte for its length.
MAX_STRING = 255
#: A name on the wire (RFC 1035).
MAX_NAME = 255
#: Labels of a name, and links that one may follow: names of services have four or five, and a link or two.
MAX_LABELS = 16
MAX_LINKS = 16
#: Questions and records read from one packet: what an honest one has, and at most a millisecond to read.
MAX_QUESTIONS = 32
MAX_RECORDS = 128
#: Peers read from one packet: each node speaks for itself, a proxy for a few.
MAX_PEERS_PER_PACKET = 8
#: Strings of one peer looked at in one packet: what fits into 9000 bytes.
MAX_STRINGS_PER_PEER = 128

# --- timing --------------------------------------------------------------------------------------------------------

#: Our records are kept by others for this long. A node that crashed is forgotten so much later.
TTL = 360
#: A one-shot resolver may keep what it is told for this long (RFC 6762, 6.7).
LEGACY_TTL = 10
#: Others' records are kept at least and at most so long: shorter ones would make us ask all the time, longer ones
#: would outlive their truth.
MIN_TTL, MAX_TTL = 60, 4500
#: A goodbye takes effect after this time, so that one followed by a new announcement is no parting (RFC 6762, 10.1).
GOODBYE_GRACE = 1.0
#: All nodes of a network hear a question at once; each waits a random time before it speaks (RFC 6762, 6).
ANSWER_DELAY = (0.02, 0.12)
#: The same record is sent once a second at most on one interface (RFC 6762, 6).
ANSWER_PAUSE = 1.0
#: Announcements without being asked, a second apart, when an interface comes into use (RFC 6762, 8.3 wants two).
ANNOUNCEMENTS = 2
#: The second question comes a second after the first, each pause is so many times the last, up to some minutes.
QUERY_FIRST, QUERY_GROWTH, QUERY_MOST = 1.0, 3.0, 300.0
#: Regular questions come this much earlier or later, so that the nodes of a network do not ask in step.
QUERY_JITTER = 0.1
#: A record is asked for again when this part of its time has passed (RFC 6762, 5.2), and not more often than this.
REFRESH_AT, REFRESH_PAUSE = 0.8, 20.0
#: Answers to one address alone (one-shot resolvers), a second on one interface: their sender may be forged.
UNICAST_RATE = 5
#: What was heard is looked through after this pause: many packets at once cost no more than one.
ROUND_PAUSE = 0.05
#: How often the network interfaces are looked at, and those that failed tried again.
LOOK_INTERVAL = 30.0
#: Whoever asks for peers right after the start is given those that answer within this time.
SETTLE_SECONDS = 3.0

# --- what is kept --------------------------------------------------------------------------------------------------

#: Interfaces in use; a machine with more than these has virtual ones by the hundred.
MAX_INTERFACES = 16
#: Addresses that we announce on one interface: four packets.
MAX_ANNOUNCED = 32
#: Nodes remembered in all: a big institute on one network, and some hundred kilobytes.
MAX_NODES = 1024
#: Nodes of one sender: a machine that runs many for a test, but not a liar that fills the table alone.
MAX_NODES_PER_SENDER = 64
#: Addresses remembered of one node.
MAX_ADDRESSES = 32
#: Peers handed out for one load.
MAX_PROVIDERS = 64
#: The same peer is reported once in this time, whatever it sends.
REPORT_PAUSE = 2.0
#: Packets about libp2p read from one sender: at first, and then each second.
SENDER_BURST, SENDER_RATE = 60, 20
#: The same from all senders: a busy network stays below, a flood costs a few percent of a core.
TOTAL_BURST, TOTAL_RATE = 300, 100
#: Senders whose packets are counted one by one.
MAX_SENDERS = 1024
#: Packets read from one socket before other tasks have their turn.
RECEIVE_BATCH = 32
