"""Every bound of relaying, each with the reason for its size. Bytes, seconds and counts."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import KIB

#: A message of hop or stop; the specification's implementations refuse longer ones.
MAX_MESSAGE = 4 * KIB
#: Addresses read from one message.
MAX_ADDRESSES = 16

# --- service -------------------------------------------------------------------------------------------------------

#: A reservation lasts an hour, as everywhere; the peer renews it while it is connected.
RESERVATION_SECONDS = 3600.0
#: Peers that may hold a reservation at once: a large institute. Each costs one entry and a protected connection, so
#: half of the host's connections are the most. When they are taken, the address with most of them gives one to others.
MAX_RESERVATIONS = 512
#: Reservations from one IP address: the workstations of a lab share the one of their router.
MAX_RESERVATIONS_PER_IP = 64
#: Circuits that one peer may have, begun by it or ending at it. Sixteen initial windows are 4 MiB of queue.
MAX_CIRCUITS_PER_PEER = 16
#: Ending at a peer there may be so many times more: a storer is asked by a whole lab. 64 windows are 16 MiB.
TARGET_FACTOR = 4
#: Circuits of the whole relay; each is two streams and two tasks.
MAX_CIRCUITS = 1024
#: What a stranger's circuit may last and carry each way, as with Kubo: enough to punch a hole, useless for data.
STRANGER_SECONDS = 120.0
STRANGER_BYTES = 128 * KIB
#: The first message of a stream must come within this time; it takes one round trip.
MESSAGE_TIMEOUT = 10.0
#: The other side must accept a circuit within this time.
STOP_TIMEOUT = 10.0
#: So often a circuit is looked at for an end that left while the other one does not read.
WATCH_INTERVAL = 2.0
#: Bytes copied at once; more than the sender's batch of messages gains nothing.
COPY_BYTES = 512 * KIB
#: Lapsed reservations are swept out so often.
SWEEP_INTERVAL = 30.0

# --- client --------------------------------------------------------------------------------------------------------

#: Relays held at a time: one may go away.
RELAYS_WANTED = 2
#: Reserving takes two round trips.
RESERVE_TIMEOUT = 10.0
#: The most that is believed of an expiry date, whatever the relay's clock says.
LONGEST_RESERVATION = 24 * 3600.0
#: A relay that refused or failed is asked again after this long, then twice that, up to the limit.
RETRY_FIRST = 2.0
RETRY_MOST = 600.0
#: Relays whose failures are remembered.
MAX_REMEMBERED = 256
#: Addresses of one relay that are announced.
MAX_RELAY_ADDRESSES = 4
#: A relay must take this much of what we send within `WRITE_STALL_TIMEOUT`: 2 KiB/s, the worst line worth having.
SEND_PIECE = 64 * KIB
#: Reservations are renewed so long before they end: two tries and some.
RENEW_BEFORE = 300.0


@dataclass(frozen=True)
class RelayClientLimits:
    """What a node believes its relays, and takes from them. Seconds and counts."""

    #: The least that is believed of an expiry date, whatever the relay's clock says.
    shortest_reservation: float = 120.0
    #: Circuits that come in and whose handshake is not done.
    max_handshakes: int = 64


CLIENT_DEFAULTS = RelayClientLimits()
