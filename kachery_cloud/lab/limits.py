"""Every bound of the lab's API, each with its reason. Sizes in bytes, times in seconds."""

from __future__ import annotations

from kachery_p2p.http_server_limits import HttpLimits
from kachery_p2p.units import DAY, HOUR, KIB

#: What the listener gives: a page in a browser opens six connections and asks for some dozens of small files.
HTTP = HttpLimits(max_connections=512, max_running=64, max_running_each=32)

# --- requests -------------------------------------------------------------------------------------------------------

#: Bytes of a body that is JSON: no request of ours has more than some names.
MAX_JSON = 64 * KIB
#: Bytes of a body that is signed: it has to be read before the signature can be checked.
MAX_SIGNED = 1024 * KIB
#: To read a body that comes in pieces.
BODY_SECONDS = 30.0
#: Entries of a list in one answer, and those where no limit is given.
MAX_LISTED = 1000
DEFAULT_LISTED = 100

#: Requests of one address, of one account, and those of an address that try to come in (sign in, register): how many
#: may come at once, and how many more each second. A page that is opened asks for a few dozen things.
ADDRESS_RATE = (1200, 60.0)
ACCOUNT_RATE = (1200, 60.0)
ENTRY_RATE = (40, 0.5)
#: Addresses and accounts whose requests are counted at the same time; the one seen longest ago is forgotten.
MAX_COUNTED = 10_000

# --- people ---------------------------------------------------------------------------------------------------------

#: Characters of a name, of the label of a client, and of an e-mail address (RFC 5321: 254).
MAX_NAME = 100
MAX_LABEL = 100
MAX_EMAIL = 254
#: Members in all, so that nobody who may sign in by a rule fills the disk.
MAX_MEMBERS = 10_000
#: Clients of one member.
MAX_CLIENTS = 25
#: Sessions of one member at once: browsers on a few machines. One more ends the oldest.
MAX_SESSIONS = 20
#: A session ends when nothing is asked in it for so long, and in any case after so long.
SESSION_IDLE = 12 * HOUR
SESSION_LIFE = 7 * DAY
#: A session's last use is noted at most so often: each note is a write.
SESSION_NOTED = 300.0
#: Random bytes of sessions, tokens, secrets: nobody guesses 256 bits.
SECRET_BYTES = 32
#: Seconds in which one signs in at the provider.
SIGN_IN_SECONDS = 600.0
#: An invitation is of use for so long; and the longest that may be asked for.
INVITATION_LIFE = 7 * DAY
MAX_INVITATION_LIFE = 90 * DAY
#: Invitations of one member that wait.
MAX_INVITATIONS = 10

# --- clients --------------------------------------------------------------------------------------------------------

#: A registration waits for somebody to follow its link for so long, and is told of for so long afterwards.
REGISTRATION_LIFE = 1 * HOUR
#: Registrations that wait, of all clients together: anybody may ask for one.
MAX_REGISTRATIONS = 10_000
#: How far the clock of who signs a request may be off, each way.
CLOCK_SECONDS = 300.0
#: Characters of a nonce. With fewer than 16 it could be one by chance.
NONCE_LENGTH = range(16, 129)
#: Nonces that are remembered: those of ten minutes. Beyond, signed requests wait.
MAX_NONCES = 200_000
