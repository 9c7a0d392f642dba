"""The parts of the gateway that do no I/O: addresses, paths, hosts, formats, ranges and types."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.errors import InvalidAddress
from kachery_p2p.gateway.server import limits
from kachery_p2p.gateway.server.pages import type_by_content, type_by_name
from kachery_p2p.gateway.server.paths import ContentPath, PathRefusal, check_host, parse_path, wanted_format
from kachery_p2p.gateway.server.ranges import entity_bytes, entity_range, matches, may_resume, requested_ranges
from kachery_p2p.gateway.server.server import parse_address

T = TypeVar("T")

CID_TEXT = str(CID(1, RAW, sha256_multihash(b"anything")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:99", ("127.0.0.1", 99)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:8", ("::1", 8)),
        (":8091", ("127.0.0.1", 8091)),
        ("8091", ("127.0.0.1", 8091)),
        ("127.0.0.2", ("127.0.0.2", 8090)),
    ],
)
def test_addresses_to_listen_on(text: str, expected: tuple[str, int]) -> None:
    """Whatever is left out is that of the default, which is loopback."""
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["example.org:80", "1.2.3.4:99999", "1.2.3.4:x", "[::1", "/ip4/127.0.0.1/tcp/1"])
def test_addresses_that_are_none(text: str) -> None:
    """A wrong address is an error that shows a right one."""
    with pytest.raises(InvalidAddress, match="8090"):
        parse_address(text)


def _or_refused(ask: Callable[[], T]) -> tuple[T | None, int | None]:
    try:
        return ask(), None
    except PathRefusal as refusal:
        return None, refusal.status


# --- parts -----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=40), st.integers(0, 1000))
def test_ranges_never_leave_the_file(text: str, size: int) -> None:
    """Whatever a Range header says, the answer is none, a refusal, or parts of the file that have bytes."""
    parts, status = _or_refused(lambda: requested_ranges("bytes=" + text, size))
    assert status in (None, 416)
    assert all(0 <= start < end <= size for start, end in parts or [])
    assert sum(end - start for start, end in parts or []) <= size


@given(st.lists(st.one_of(st.integers(0, 40), st.none()), min_size=2, max_size=80), st.integers(1, 40))
def test_several_ranges_are_bounded(numbers: list[int | None], size: int) -> None:
    """However many ranges are asked for, no more are sent than MAX_RANGES, nor more bytes than the file has."""
    pairs = zip(numbers[::2], numbers[1::2], strict=False)
    header = ",".join(f"{'' if a is None else a}-{'' if b is None else b}" for a, b in pairs)
    parts, status = _or_refused(lambda: requested_ranges("bytes=" + header, size))
    assert status in (None, 416)
    assert len(parts or []) <= limits.MAX_RANGES
    assert sum(end - start for start, end in parts or []) <= size


@pytest.mark.parametrize(
    ("header", "weak", "strong"),
    [
        ('"a"', True, True),
        ('W/"a"', True, False),
        ('"b", "c" ,W/"a"', True, False),
        ('"b","a"', True, False),
        ("*", True, False),
        (" * ", True, False),
        ('"b"', False, False),
        ("a", False, False),
        ('"a', False, False),
        ('"x,"', False, False),
        ('"aa", "ba"', False, False),
        ("", False, False),
        (None, False, True),
        ("Sat, 01 Jan 2022 00:00:00 GMT", False, False),
    ],
)
def test_validators(header: str | None, weak: bool, strong: bool) -> None:
    """If-None-Match compares weakly, in a list or with `*`; If-Range strongly, and one alone (RFC 9110, section 13)."""
    assert matches(header, '"a"') is weak
    assert matches(header, 'W/"a"') is weak
    assert may_resume(header, '"a"') is strong
    assert may_resume(header, 'W/"a"') is (header is None)


@given(st.integers(-50, 50), st.one_of(st.none(), st.integers(-50, 50)), st.integers(0, 40))
def test_entity_ranges_are_as_slices(first: int, last: int | None, size: int) -> None:
    """Negative numbers count from the end, both ends are inclusive, and nothing lies outside of the file."""
    start, end = entity_range((first, last), size)
    inside = [i for i in range(size) if i >= (first if first >= 0 else first + size)]
    if last is not None:
        inside = [i for i in inside if i <= (last if last >= 0 else last + size)]
    assert list(range(start, end)) == inside


def test_entity_bytes_are_read_as_written() -> None:
    assert entity_bytes("-1024:*") == (-1024, None)
    assert entity_bytes("499:-1000") == (499, -1000)


@given(st.text(alphabet="/%.abcf0\0\\ü:?#", max_size=30))
def test_paths_have_no_tricks_in_them(text: str) -> None:
    """Whatever a path is, each of its names is one that can stand in a directory."""
    path, status = _or_refused(lambda: parse_path(f"/ipfs/{CID_TEXT}/" + text))
    if path is None:
        assert status == 400
        return
    assert isinstance(path, ContentPath)
    assert str(path.root) == CID_TEXT
    assert not any(name in ("", ".", "..") or "/" in name or "\0" in name for name in path.names)
    assert parse_path(path.text) == type(path)(path.root, path.names, False)


@given(st.text(max_size=30))
def test_hosts_never_break(host: str) -> None:
    """Any Host is let in or refused."""
    assert _or_refused(lambda: check_host(host, ()))[1] in (None, 421)


@given(st.text(max_size=60))
def test_accept_never_breaks(accept: str) -> None:
    """Any Accept header is understood, passed over, or refused with 406."""
    assert _or_refused(lambda: wanted_format({}, accept))[1] in (None, 400, 406)


def test_accept_is_weighed() -> None:
    """The most wanted form that we have wins; what a browser sends is a file."""
    car = "application/vnd.ipld.car;q=0.9;dups=y"
    assert wanted_format({}, f"application/vnd.ipld.raw;q=0.5, {car}").format == "car"
    assert wanted_format({}, f"application/vnd.ipld.raw;q=0.5, {car}").dups
    assert wanted_format({}, "text/html,application/xhtml+xml,*/*;q=0.8").format is None
    assert wanted_format({"format": "raw"}, car).format == "raw"
    assert wanted_format({}, "application/vnd.ipld.dag-json").format == "dag-json"
    with pytest.raises(PathRefusal, match=r"not with application/vnd\.ipld\.other"):
        wanted_format({}, "application/vnd.ipld.other")


@pytest.mark.parametrize(
    ("query", "accept", "dups"),
    [
        ({}, "application/vnd.ipld.car; version=2, application/vnd.ipld.car; dups=y; q=0.5", True),
        ({}, "application/vnd.ipld.car; order=foo, application/vnd.ipld.car; order=dfs; dups=n; q=0.5", False),
        ({"car-dups": "n"}, "application/vnd.ipld.car; dups=y", False),
        ({"format": "car", "car-version": "1"}, "application/vnd.ipld.car; version=2; dups=y", True),
    ],
)
def test_the_first_car_that_we_write(query: dict[str, str], accept: str, dups: bool) -> None:
    """Of several variants in an Accept header the best that we have is taken; the query says more than the header."""
    wanted = wanted_format(query, accept)
    assert (wanted.format, wanted.dups) == ("car", dups)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.npy", "application/octet-stream"),
        ("a.csv", "text/csv; charset=utf-8"),
        ("a.csv.gz", "application/gzip"),
        ("a.json", "application/json"),
        ("A.PNG", "image/png"),
        ("a.nwb", "application/x-hdf5"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a", None),
        ("data:text/html,a", None),
        ("", None),
    ],
)
def test_types_by_name(name: str, expected: str | None) -> None:
    """The end of a name tells the type, the same on every machine."""
    assert type_by_name(name) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"<html><script>", "text/plain; charset=utf-8"),
        ("über".encode(), "text/plain; charset=utf-8"),
        (b"a" * 511 + "ü".encode()[:1], "text/plain; charset=utf-8"),
        (b"\x93NUMPY\1\0", "application/octet-stream"),
        (b"abc\0", "application/octet-stream"),
        (b"", "application/octet-stream"),
        (b' {"a": [1, 2]}', "application/json"),
        (b'{"a": [1, 2}', "text/plain; charset=utf-8"),
        (b"[" * 512, "text/plain; charset=utf-8"),
    ],
)
def test_types_by_content(head: bytes, expected: str) -> None:
    """A file without a name is never taken for something that runs."""
    assert type_by_content(head, len(head)) == expected


def test_long_json_is_believed_when_asked_for() -> None:
    """The beginning of a long file cannot be told for JSON; whoever asks for JSON gets it as that."""
    head = b'{"a": [' + b"1, " * 100
    assert type_by_content(head, 10**6) == "text/plain; charset=utf-8"
    assert type_by_content(head, 10**6, json=True) == "application/json"
    assert type_by_content(b"Dear all", 10**6, json=True) == "text/plain; charset=utf-8"
