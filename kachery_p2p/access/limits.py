"""Every bound of the access package, each with the reason for its value. Sizes in bytes, times in seconds."""

from __future__ import annotations

from kachery_p2p.units import KIB

# --- the log -------------------------------------------------------------------------------------------------------

#: Seconds between two writes. That much is lost when the process is killed.
LOG_INTERVAL = 5.0
#: Blocks that wait to be written: what the fastest serving of small files sends in that time. Beyond it the first ones
#: are forgotten.
MAX_PENDING = 65_536
#: Rows that are kept: one for each peer, root and day, about 200 bytes. A group of fifty that loads forty roots every
#: day fills it in a month.
MAX_ROWS = 65_536
#: Days for which a row is kept: a year, and the time to write about it.
MAX_DAYS = 400
#: Seconds between two complaints of the log that it cannot be written.
COMPLAINT_INTERVAL = 3600.0

# --- asking for whom a root is -------------------------------------------------------------------------------------

#: Roots of one question: a load has one, a folder of links some hundred.
MAX_ASKED = 256
#: A multihash with the longest digest that is accepted anywhere here.
MAX_MULTIHASH = 160
MAX_QUESTION = MAX_ASKED * (MAX_MULTIHASH + 4) + KIB
#: Groups that an answer names of one root: more than anybody shares with anybody.
MAX_GROUPS = 64
MAX_ANSWER = MAX_ASKED * (MAX_GROUPS * 27 + 8)
#: Questions of one peer that are answered at once. A load asks one.
MAX_ASKING_EACH = 4
#: Seconds that a peer has to ask, and to take its answer.
ASK_SECONDS = 10.0
#: Seconds to wait for an answer. Whoever has it answers after one look into its catalog.
ANSWER_SECONDS = 10.0
