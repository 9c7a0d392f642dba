"""Every bound of the package, each with the reason for its value. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import KIB, MIB

# --- what services write --------------------------------------------------------------------------------------------

#: Bytes read of one answer: a list of ten pins, each with twenty addresses and a hundred words of metadata.
MAX_ANSWER_SIZE = 1 * MIB
#: Bytes of one line that an RPC endpoint streams: a CID and an error.
MAX_LINE_SIZE = 64 * KIB
#: Characters of what a service says that are shown and kept.
MAX_WORDS = 300
#: Characters of an error kept in the outbox.
MAX_ERROR_LENGTH = 600
#: Characters of a request ID: a UUID has 36, a hash 64.
MAX_REQUEST_ID = 512
#: Delegates and origins: the maximum of the specification.
MAX_ADDRESSES = 20
#: Pins of one CID looked at when a service is asked what it has; there should be one.
MAX_LOOKED_UP = 100
#: Characters of a name: the maximum of the specification.
MAX_NAME = 255
#: Redirects followed, all of them within the same service.
MAX_REDIRECTS = 3

# --- what goes on at once -------------------------------------------------------------------------------------------

#: Services in the settings.
MAX_SERVICES = 32
#: Rows of one service that are worked on at once: small requests, most of the time is waiting.
MAX_STEPS_PER_SERVICE = 4
#: CAR files sent at once to one service: more would share the same line.
MAX_UPLOADS_PER_SERVICE = 1
#: Delegates dialled for one root; a service names one or two.
MAX_DIALS = 4

# --- patience -------------------------------------------------------------------------------------------------------

#: Connecting takes one or two round trips, and one more for TLS; ten seconds is a very bad line.
CONNECT_SECONDS = 10.0
#: A small request in all.
REQUEST_SECONDS = 60.0
#: An upload may take as long as it takes, but not this long without a byte going out.
STALL_SECONDS = 120.0
#: After the last byte an RPC endpoint checks and pins the whole DAG before it answers.
IMPORT_SECONDS = 1800.0
#: One block from a service, dialling included.
FETCH_BACK_SECONDS = 30.0
#: The longest pause that a service can ask for (Retry-After).
MAX_RETRY_AFTER = 86400.0
#: Rows that were removed are shown for this long.
REMOVED_DAYS = 7


@dataclass(frozen=True)
class WorkerPace:
    """When the worker does things next; seconds all. Tests use a faster one.

    Attributes:
        first, last: pause after a failure, doubled with each further one from the first up to the last.
        rate: pause when a service says "too many requests" and not for how long.
        refused: pause after a refusal that the user, or the service, can put right without telling us.
        poll_first, poll_last: between looks at a request that the service works on; grows by a half each time.
        stuck: a request that was only queued for this long is told to the user.
        poll_stuck: between looks at such a request.
        failed: pause before a request that the service gave up is made again, doubled like the others.
        settle: after a request whose answer was lost, a service gets this long to show it when it is asked.
        look: between looks at whether another process wrote to the outbox.
        longest: no pause is longer, so a time further away than this was written while the clock was wrong.
        request: a small request in all.
    """

    first: float = 5.0
    last: float = 900.0
    rate: float = 60.0
    refused: float = 6 * 3600.0
    poll_first: float = 2.0
    poll_last: float = 60.0
    stuck: float = 1800.0
    poll_stuck: float = 600.0
    failed: float = 60.0
    settle: float = 5.0
    look: float = 3.0
    longest: float = MAX_RETRY_AFTER
    request: float = REQUEST_SECONDS
