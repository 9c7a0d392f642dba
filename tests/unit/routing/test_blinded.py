"""The keys under which members announce what is for them alone."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.routing.blinded import (
    AHEAD,
    MAX_SECRETS,
    PERIOD,
    blinded_key,
    keys_to_announce,
    keys_to_ask,
    period_of,
    period_secret,
)
from kachery_p2p.units import DAY, HOUR

SECRET = bytes(range(32))
OTHER = bytes(range(1, 33))
ROOT = CID.parse("bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5ga").multihash
#: The beginning of a period.
BEGIN = 6900 * PERIOD

secrets = st.binary(min_size=32, max_size=32)
times = st.floats(0, 4e9)


def test_the_keys_are_these() -> None:
    """Two versions of this program find each other: the keys of a secret, a period and a root never change."""
    assert blinded_key(SECRET, 0, ROOT).hex() == VECTORS[0]
    assert blinded_key(SECRET, 6900, ROOT).hex() == VECTORS[1]
    assert blinded_key(OTHER, 6900, ROOT).hex() == VECTORS[2]


@given(secrets, st.integers(0, 1 << 40), st.binary(min_size=3, max_size=66))
def test_another_library_derives_the_same(secret: bytes, period: int, multihash: bytes) -> None:
    """The derivation is HKDF of RFC 5869 and SHA2-256, as anybody's library has them."""
    info = b"kachery announce" + period.to_bytes(8, "big")
    assert HKDF(SHA256(), 32, None, info).derive(secret) == period_secret(secret, period)
    expected = b"\x12\x20" + hashlib.sha256(period_secret(secret, period) + multihash).digest()
    assert expected == blinded_key(secret, period, multihash)


def test_a_key_is_a_multihash() -> None:
    """A key looks like any other that is announced, and is neither the root nor the same tomorrow."""
    keys = {blinded_key(secret, period, ROOT) for secret in (SECRET, OTHER) for period in range(50)}
    assert len(keys) == 100
    assert ROOT not in keys
    assert all(str(CID(1, RAW, key)).startswith("bafkrei") for key in keys)


@given(secrets, times, st.floats(-(PERIOD - AHEAD), PERIOD - AHEAD))
def test_a_clock_may_be_days_off(secret: bytes, wall: float, off: float) -> None:
    """Whatever is announced at a time is asked for at that time by a member whose clock is up to 2.5 days off."""
    if wall + off < PERIOD:
        return
    asked = keys_to_ask([secret], ROOT, wall + off)
    assert set(keys_to_announce(secret, ROOT, wall)) & set(asked)


@given(times)
def test_a_change_of_period_loses_nobody(wall: float) -> None:
    """What is announced before the period changes is announced under the next one's key already, some hours ahead."""
    later = keys_to_announce(SECRET, ROOT, wall + AHEAD)
    assert later[0] in keys_to_announce(SECRET, ROOT, wall)


def test_keys_are_announced_twice_only_near_the_end() -> None:
    """One key most of the time, two in the last hours of a period."""
    assert [blinded_key(SECRET, 6900, ROOT)] == keys_to_announce(SECRET, ROOT, BEGIN)
    assert [blinded_key(SECRET, 6900, ROOT)] == keys_to_announce(SECRET, ROOT, BEGIN + PERIOD - AHEAD - HOUR)
    both = [blinded_key(SECRET, 6900, ROOT), blinded_key(SECRET, 6901, ROOT)]
    assert both == keys_to_announce(SECRET, ROOT, BEGIN + PERIOD - AHEAD)
    assert [period_of(BEGIN + 3 * DAY - 1), period_of(BEGIN + 3 * DAY)] == [6900, 6901]


def test_a_member_that_was_away_is_found() -> None:
    """What is announced with one of the last secrets is asked for; with those of long ago, it is not."""
    old = [bytes([number]) * 32 for number in range(6)]
    asked = keys_to_ask([SECRET, *old], ROOT, BEGIN)
    assert len(set(asked)) == 3 * MAX_SECRETS
    assert asked[0] == blinded_key(SECRET, 6900, ROOT)
    assert blinded_key(old[0], 6900, ROOT) in asked
    assert blinded_key(old[5], 6900, ROOT) not in asked


def test_a_former_member_computes_other_keys() -> None:
    """After a removal the secret is another one, and with it every key that is announced."""
    assert not set(keys_to_announce(OTHER, ROOT, BEGIN)) & set(keys_to_ask([SECRET], ROOT, BEGIN))


#: Written down once: `blinded_key` of `SECRET` in the periods 0 and 6900, and of `OTHER` in the period 6900.
VECTORS = (
    "12201b0a74ff10ab431e10a05319f317958b30089cd9956ea9564fd27711663b1055",
    "12202986388a64bbf9dd9661550586ff849cd7dba87990c83961a5cdd203d2a7ba21",
    "1220193923db7d6b55acf856b692d9779e5b1aa2cc2bc26521abb106f4184bc78b8d",
)
