"""Every bound of this package, each with the reason for its value. Seconds, bytes and counts."""

from __future__ import annotations

from dataclasses import dataclass

# --- AutoNAT, both sides -------------------------------------------------------------------------------------------

#: A message of either version; go-libp2p reads 4096 (v1) and 8192 (v2), and 4096 bytes of dial data are the most.
MAX_MESSAGE = 8192
#: Addresses read from one request; go-libp2p dials 16 (v1) and looks at 50 (v2), an honest client has a handful.
MAX_REQUEST_ADDRESSES = 16

# --- AutoNAT server ------------------------------------------------------------------------------------------------

#: Requests served within a minute in all: each costs a handshake or two.
SERVER_REQUESTS = 30
#: The same for one peer, and for one IP address, since peer IDs cost nothing; go-libp2p allows 3 (v1).
SERVER_REQUESTS_PER_PEER = 6
SERVER_REQUESTS_PER_IP = 12
#: Window of these counts.
SERVER_WINDOW = 60.0
#: Requests in work at once; further ones are refused.
SERVER_CONCURRENT = 8
#: Handing over the nonce on a connection that stands.
DIAL_BACK_STREAM_TIMEOUT = 5.0
#: Addresses tried for one v1 request, side by side.
MAX_DIAL_BACKS = 4
#: Dial data asked for before an address is dialled that is not the requester's own; 30 to 100 kB in the specification.
MIN_DIAL_DATA = 30_000
MAX_DIAL_DATA = 100_000
#: Dial data in messages smaller than this costs us more than it costs the sender (as go-libp2p).
MIN_DIAL_DATA_MESSAGE = 100

# --- AutoNAT client ------------------------------------------------------------------------------------------------

#: Answers that settle a question, from servers in different networks; where there are fewer servers, all of them.
QUORUM = 3
#: One exchange with a server. Kubo answers a v1 request that fails after 15 s.
ASK_TIMEOUT = 30.0
#: Addresses asked about at one server in one round; v2 needs a request for each.
MAX_ASKED_ADDRESSES = 3
#: First pause between rounds when fewer than QUORUM answered; doubled up to the next line.
SPARSE_INTERVAL = 60.0
#: First pause between rounds once settled; doubled as long as the result stays the same, up to the next line.
RECHECK_FIRST = 15 * 60.0
RECHECK_LAST = 4 * 3600.0
#: An answer counts for this long: longer than the longest pause.
VOTE_LIFETIME = 6 * 3600.0
#: Networks whose last answer about one address is remembered; QUORUM of them decide.
MAX_VOTES = 16
#: Addresses about which answers are remembered.
MAX_VOTED_ADDRESSES = 64
#: A server that refused, failed or made no sense is left alone for this long.
REFUSAL_PAUSE = 10 * 60.0
#: Servers about which that is remembered.
MAX_REFUSALS = 256

# --- observed addresses --------------------------------------------------------------------------------------------

#: Networks (/16 of IPv4, /32 of IPv6) that must have seen the same address before it is believed; Kubo asks for 4.
OBSERVERS = 3
#: Peers whose view is remembered.
MAX_OBSERVATIONS = 512
#: The view of a peer that left counts for this long; NATs forget mappings sooner.
OBSERVATION_LIFETIME = 30 * 60.0
#: Addresses of one IP version that are believed: a second one while a line changes, a third for two lines.
MAX_CONFIRMED = 3

# --- port mapping --------------------------------------------------------------------------------------------------

#: No gateway answered: looked for again after this long, then twice this, up to the last.
MAP_RETRY_FIRST = 5 * 60.0
MAP_RETRY_LAST = 4 * 3600.0
#: NAT-PMP: first wait for an answer, doubled for each try (RFC 6886 section 3.1 allows nine, which take two minutes).
NATPMP_FIRST_WAIT = 0.25
NATPMP_TRIES = 4
#: UPnP in all; the HTTP requests of miniupnpc have time limits of their own.
UPNP_TIMEOUT = 30.0
#: Ports tried when the external one is taken by another machine.
MAP_PORT_TRIES = 4
#: Giving the mapping back when the node stops, which is to take less than a second. One that is not given back lapses.
UNMAP_TIMEOUT = 0.7

# --- what is told --------------------------------------------------------------------------------------------------

#: Addresses of private networks that peers are told: bridges of containers and virtual machines can be dozens.
MAX_LAN_ADDRESSES = 12
#: Public addresses that peers are told, whatever they come from.
MAX_PUBLIC_ADDRESSES = 12
#: Relay addresses that peers are told.
MAX_RELAY_ADDRESSES = 8
#: How often the addresses of the interfaces are compared with the last ones; a look costs a millisecond.
WATCH_INTERVAL = 20.0
#: How often the default gateway is looked up when nothing else has changed; on macOS that runs a program.
GATEWAY_INTERVAL = 300.0
#: Errors kept for the status page.
MAX_ERRORS = 8


@dataclass(frozen=True)
class NatLimits:
    """What one node waits for, in seconds where nothing else is said."""

    #: The longest an exchange may take, dial data and dial included; go-libp2p's v2 client gives up after 15.
    server_timeout: float = 14.0
    #: Connecting, and the handshake, on one dial back.
    dial_back_timeout: float = 5.0
    #: A v1 failure is told only this long after the request, whatever the reason, so that nobody scans ports with us.
    failure_delay: float = 6.0
    #: A random pause before an address is dialled that is not the requester's own, so that many servers cannot be aimed
    #: at one moment.
    dial_data_pause: float = 3.0
    #: How long the nonce may come after the answer.
    nonce_timeout: float = 5.0
    #: Wait after the first server was met, so that a first round has several to choose from.
    settle: float = 2.0
    #: Lifetime asked for a port mapping; RFC 6886 recommends two hours. Renewed at half of it.
    map_lifetime: int = 7200
    #: Shortest time between two renewals, whatever a gateway grants.
    min_renewal: float = 60.0
    #: UPnP: how long SSDP answers are waited for, in milliseconds.
    ssdp_wait_ms: int = 2000


DEFAULTS = NatLimits()
