"""Reading requests to the pinning service: times, filters, pin objects. No input or output."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.pinning.server.requests import Refusal, read_filters, read_pin, read_time, time_text

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


@given(st.integers(0, 253_402_300_799_999_999))
def test_a_time_that_we_wrote_is_read_as_it_was(micros: int) -> None:
    """Paging gives the very time back."""
    assert read_time(time_text(micros), "before") == micros


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), st.integers(-23 * 60, 23 * 60))
def test_times_of_any_offset(moment: datetime, minutes: int) -> None:
    """As Python's own library reads them, also where a plus has become a blank on its way."""
    text = moment.replace(tzinfo=timezone(timedelta(minutes=minutes))).isoformat()
    exact = (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
    assert read_time(text, "after") == read_time(text.replace("+", " "), "after") == exact


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1753637548",
        "2026-07-27",
        "2026-07-27T17:32",
        "2026-07-27T17:32:28",
        "2026-02-30T00:00:00Z",
        "2026-07-27T17:32:61Z",
        "2026-07-27T17:32:28+24:00",
        "2026-07-27T17:32:28.Z",
        "٢٠٢٦-07-27T17:32:28Z",
    ],
)
def test_what_is_no_time(text: str) -> None:
    """RFC 3339, and nothing that is only like it."""
    with pytest.raises(Refusal) as caught:
        read_time(text, "before")
    assert (caught.value.status, caught.value.reason) == (400, "BAD_REQUEST")


def _refusal(read: Callable[[], object]) -> Refusal | None:
    """Why something is refused; None where it is read."""
    try:
        read()
    except Refusal as refusal:
        return refusal
    return None


def test_filters_without_any() -> None:
    """The specification's defaults: ten, pinned, exact."""
    found = read_filters([])
    assert (found.limit, found.statuses, found.match, found.name, found.keys) == (10, ("pinned",), "exact", None, ())


def test_fields_that_are_not_known_are_passed_over() -> None:
    """Clients of later versions ask for more."""
    assert read_filters([("later", "1"), ("limit", "1000")]).limit == 1000


@given(st.lists(st.tuples(st.sampled_from(("cid", "name", "match", "status", "limit", "meta", "before")), st.text())))
def test_filters_of_strangers(fields: list[tuple[str, str]]) -> None:
    """They are read, or refused with a sentence; nothing else happens."""
    refusal = _refusal(lambda: read_filters(fields))
    assert refusal is None or (refusal.status == 400 and refusal.details)


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.sampled_from(("cid", "name", "origins", "meta")), _JSON), st.booleans())
def test_pin_objects_of_strangers(value: dict[str, Any], sound: bool) -> None:
    """The same; what is taken has been made of texts alone."""
    body = json.dumps({**value, **({"cid": CID} if sound else {})}).encode()
    refusal = _refusal(lambda: read_pin(body))
    if refusal is not None:
        assert (refusal.status, refusal.reason) == (400, "BAD_REQUEST")
        return
    found = read_pin(body)
    assert len(found.name) <= 255
    assert len(found.origins) <= 20
    assert all(isinstance(each, str) for each in (*found.origins, *found.meta, *found.meta.values()))


@given(st.binary(max_size=200))
def test_bytes_of_strangers(body: bytes) -> None:
    """What is no JSON is refused."""
    with pytest.raises(Refusal):
        read_pin(body)
