"""Every bound of groups, each with the reason for its size. Bytes, seconds and counts."""

from __future__ import annotations

from kachery_p2p.units import DAY, KIB, MIB

#: Members of a group: more than any collaboration has machines.
MAX_MEMBERS = 10_000
#: Entries of one list: all members, and as many that were removed.
MAX_ENTRIES = 20_000
#: Owners that have ever signed a list of a group. A list of each is kept.
MAX_LISTS = 256
#: Owners at one time.
MAX_OWNERS = 64
#: One list: 20,000 entries of some 52 bytes, and labels.
MAX_LIST = 2 * MIB
#: All lists of a group.
MAX_STATE = 6 * MIB
#: Epochs that one owner's list names: of older ones nobody has the secret any more.
MAX_EPOCHS = 64
#: Versions, generations and numbers of epochs: no honest list gets there, and sums stay in 63 bits.
MAX_NUMBER = 1 << 53
#: Numbers above this are not counted on from, nor taken over: an owner wrote them to leave no room for others.
PLAUSIBLE = 1 << 32
#: Characters of a name, and bytes of a label in UTF-8.
MAX_NAME = 64
MAX_LABEL = 96
#: Groups that a machine is in.
MAX_GROUPS = 1_000

#: Secrets that are kept of a group, and for how long those that are not of today any more. Members that were away for
#: a holiday still announce with theirs.
MAX_SECRETS = 16
KEEP_SECRETS = 60 * DAY

#: Invitations of a group that wait to be used.
MAX_INVITATIONS = 1_000
#: For how long an invitation is good, where nothing else is said, and at the most.
INVITATION_SECONDS = 7 * DAY
MAX_INVITATION_SECONDS = 366 * DAY
#: For how long it is known that an invitation was used or has expired, so that whoever comes with it is told that.
KEEP_INVITATIONS = 30 * DAY
#: Characters of an invitation: eight addresses, most of them short.
MAX_INVITATION_TEXT = 4_000
MAX_INVITATION_ADDRESSES = 8

#: A message: all lists of a group at once.
MAX_MESSAGE = 8 * MIB
#: The first message of somebody who has not shown to be a member: hashes of some lists, or a token.
MAX_OPENING = 256 * KIB
#: Of one exchange: groups, and fields of a message (each is looked at once).
MAX_EXCHANGED = 256
MAX_FIELDS = 16_384
#: Seconds for one message to come or to go, and for a whole exchange.
MESSAGE_TIMEOUT = 20.0
EXCHANGE_TIMEOUT = 120.0
#: Exchanges at a time that peers have begun, and those of one peer.
MAX_EXCHANGES = 64
MAX_EXCHANGES_OF_PEER = 2
#: Of peers that are on no list here, how many may send lists at a time. Each may be as long as a message.
MAX_UNKNOWN_SENDERS = 8
#: Exchanges at a time that this machine has begun: members that do not answer must not keep news from the others.
MAX_OWN_EXCHANGES = 32

#: Addresses that are remembered of a member.
MAX_ADDRESSES = 8
#: Characters of one.
MAX_ADDRESS = 512
#: Members of which another is told where they are.
MAX_PLACES = 64
#: Members that are dialled after a start and now and then, at once and in all: a lab, and of a large group some.
MAX_KEPT = 32
DIALS_AT_ONCE = 8
#: Seconds between tries to reach members that are not connected: first, and at the most.
RETRY_FIRST, RETRY_MOST = 2.0, 600.0
#: Seconds between looks at the files: another process that has changed them says so, unless it cannot.
LOOK_AGAIN = 10.0
#: Seconds between exchanges with a member that stays connected: whatever was missed comes then.
SYNC_AGAIN = 600.0
