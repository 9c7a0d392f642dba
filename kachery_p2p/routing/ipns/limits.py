"""The bounds of publishing and resolving names, each with the reason for its value. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import HOUR

#: How long a record that we sign is valid. The DHT forgets records after 48 hours, whatever they say.
LIFETIME = 48 * HOUR
#: How long others may cache a record of ours, where nothing else is said (the specification's).
DEFAULT_TTL = 300.0
#: Where nothing tells how long: names of the DNS, and a record of before, where nobody answers now (the least that the
#: specification of gateways lets caches have).
UNSURE_TTL = 60.0
#: The longest that a record is cached by us, whatever it says: one that says a year would never be followed.
MAX_TTL = HOUR
#: Between two rounds in which a name is signed anew and sent again (Kubo's): nodes that took it leave the network.
REPUBLISH = 4 * HOUR
#: Between two tries to send a record that nobody has taken yet: first, and at most.
RETRY_FIRST, RETRY_MOST = 10.0, 600.0
#: Looks at the clock of the wall: a laptop that slept did not notice how long.
LOOK_INTERVAL = 60.0
#: For one question of the keeping-alive to all routes.
KEEP_SECONDS = 120.0
#: Seconds for which other routes are waited for once one has a record: theirs may be newer.
LINGER = 5.0
#: Names that lead to names that lead to names.
MAX_DEPTH = 8
#: Names of ours: each is looked up and sent every four hours, a minute of network work.
MAX_OWN_NAMES = 256
#: Characters of the name of a key.
MAX_KEY_NAME = 64
#: Names of which the newest record is remembered, some 500 bytes each.
MAX_SEEN = 4_096


@dataclass(frozen=True)
class IpnsTimes:
    """How long things take; tests shorten them."""

    republish: float = REPUBLISH
    retry_first: float = RETRY_FIRST
    retry_most: float = RETRY_MOST
    look: float = LOOK_INTERVAL
    keep: float = KEEP_SECONDS
    linger: float = LINGER


TIMES = IpnsTimes()
