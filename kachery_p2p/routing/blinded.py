"""Keys under which the members of a group announce what is for them alone, and find it. Pure: the clock is an argument.

A root for a group is announced in the DHTs as any other, but under a key that only its members can compute:

    period = floor(seconds since 1970 / PERIOD)                     as 8 bytes, most significant first
    secret = HKDF-SHA256(secret of the group, no salt, info = "kachery announce" + period, 32 bytes)   (RFC 5869)
    key    = SHA2-256 multihash of (secret + multihash of the root)

Whoever keeps the record, or sees it asked for, learns that a peer has something, and when it is looked for. Neither the
root nor the group can be told from the key, not even by who guesses both: the secret is missing. Keys of two periods,
or of two groups, have nothing in common that others could see. The multihash stands last and says how long it is, so
that no other text gives the same key.

A member that looks for a root asks for the keys of this period and of those beside it, so that a clock may be days
off. An announcer tells the next ones some hours ahead; those of the last period expire where they are.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache

from kachery_p2p.units import DAY, HOUR

#: Seconds for which a key is used. What is announced is announced again every 22 hours, and kept by others for two
#: days at the most: a few days change the keys often, and cost few announcements more than keys that never change.
PERIOD = 3 * DAY
#: Seconds before a period at which its keys are announced: more than an announcement of many keys takes, and more than
#: clocks are off.
AHEAD = 12 * HOUR
#: Earlier secrets of a group with which is searched. Members that were away when somebody was removed announce with the
#: one that they have; they get today's when they meet another member.
MAX_SECRETS = 3
_INFO = b"kachery announce"
#: What a multihash of SHA2-256 begins with: the code of the function, and 32 bytes.
_PREFIX = b"\x12\x20"


def period_of(wall: float) -> int:
    """The number of the period of a time, in seconds since 1970."""
    return int(wall // PERIOD)


def periods_to_announce(wall: float) -> tuple[int, ...]:
    """The period of a time; and the next one, where that begins soon."""
    now, soon = period_of(wall), period_of(wall + AHEAD)
    return (now,) if now == soon else (now, soon)


def periods_to_ask(wall: float) -> tuple[int, ...]:
    """The periods in which others may have announced something: this one first, then the last and the next."""
    now = period_of(wall)
    return now, now - 1, now + 1


@lru_cache(maxsize=1024)
def period_secret(secret: bytes, period: int) -> bytes:
    """The 32 bytes from which the keys of a period are made.

    Args:
        secret: of the group, 32 bytes.
        period: its number, from 0 on.
    """
    # HKDF of RFC 5869: without a salt, and for as many bytes as the hash has.
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, _INFO + period.to_bytes(8, "big") + b"\x01", "sha256")


def blinded_key(secret: bytes, period: int, multihash: bytes) -> bytes:
    """The key of a root in a period: a multihash like any other.

    Args:
        secret: of the group, 32 bytes.
        period: its number.
        multihash: of the root.
    """
    return _PREFIX + hashlib.sha256(period_secret(secret, period) + multihash).digest()


def keys_to_announce(secret: bytes, multihash: bytes, wall: float) -> list[bytes]:
    """The keys under which a root is to be found now.

    Args:
        secret: today's of the group.
        multihash: of the root.
        wall: seconds since 1970.
    """
    return [blinded_key(secret, period, multihash) for period in periods_to_announce(wall)]


def keys_to_ask(secrets: Sequence[bytes], multihash: bytes, wall: float) -> list[bytes]:
    """The keys under which members may have announced a root, the likeliest first.

    Args:
        secrets: of the group, today's first; more than `MAX_SECRETS` are left out.
        multihash: of the root.
        wall: seconds since 1970.
    """
    return [
        blinded_key(secret, period, multihash) for period in periods_to_ask(wall) for secret in secrets[:MAX_SECRETS]
    ]
