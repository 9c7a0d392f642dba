"""The answers of HTTP routers: records out of bytes, and how long they may be kept. No input or output.

Follows the Delegated Routing V1 HTTP API: a document `{"Providers": [...]}` or `{"Peers": [...]}`, or one record per
line (ndjson). Records of the schema `peer`, and of its forerunner `bitswap`, are read; other records, and fields that
are not known, are passed over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kachery_p2p.errors import RoutingError
from kachery_p2p.json_reader import json_or_none
from kachery_p2p.peer_ids import any_peer_id
from kachery_p2p.routing import limits, text

_BITSWAP = "transport-bitswap"


@dataclass(frozen=True)
class PeerRecord:
    """A peer and where it can be dialled."""

    peer: str
    addrs: tuple[str, ...]


class AnswerReader:
    """Reads one answer, piece by piece.

    Args:
        key: the member of the document that holds the records: `Providers` or `Peers`.
        streamed: one record per line, rather than one document.
        nearest: addresses nearer than this are not taken.
    """

    def __init__(self, key: str, *, streamed: bool, nearest: text.AddressScope) -> None:
        self._key = key
        self._streamed = streamed
        self._nearest = nearest
        self._buffer = bytearray()
        self._size = 0
        self._seen = 0
        self._malformed = 0
        #: Whether as many records as we look at were there: the rest of the answer is not read.
        self.full = False

    def feed(self, data: bytes) -> Iterator[PeerRecord]:
        """The records that end in this piece.

        Raises:
            RoutingError: the answer is too big, or is not made of records.
        """
        self._size += len(data)
        if self._size > limits.MAX_ANSWER_SIZE:
            raise RoutingError(f"Its answer is bigger than {limits.MAX_ANSWER_SIZE >> 10} KiB.")
        self._buffer += data
        if not self._streamed:
            return
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in filter(None, lines):
            yield from self._line(line)
        if len(self._buffer) > limits.MAX_LINE_SIZE:
            raise RoutingError(f"A line of its answer is longer than {limits.MAX_LINE_SIZE >> 10} KiB.")

    def end(self) -> Iterator[PeerRecord]:
        """The records that are left when the answer has ended.

        Raises:
            RoutingError: the answer is not made of records.
        """
        if self._streamed:
            yield from self._line(self._buffer)
            if self._malformed and self._malformed == self._seen:
                raise RoutingError("Its answer is not made of routing records.")
            return
        document = json_or_none(self._buffer)
        records = document.get(self._key) if isinstance(document, dict) else None
        if not isinstance(document, dict) or (records is not None and not isinstance(records, list)):
            raise RoutingError(f"Its answer is not a JSON document with a list of {self._key}.")
        yield from self._records(records or ())

    def _line(self, line: bytes | bytearray) -> Iterator[PeerRecord]:
        if line.strip() and not self.full:
            yield from self._records([json_or_none(line) if len(line) <= limits.MAX_LINE_SIZE else None])

    def _records(self, values: Iterable[object]) -> Iterator[PeerRecord]:
        for value in values:
            if self._seen >= limits.MAX_RECORDS:
                self.full = True
                return
            self._seen += 1
            if not isinstance(value, dict):
                self._malformed += 1
                if self._malformed > limits.MAX_MALFORMED_RECORDS:
                    raise RoutingError("Its answer is not made of routing records.")
                continue
            record = self._record(value)
            if record is not None:
                yield record

    def _record(self, value: dict[object, object]) -> PeerRecord | None:
        """The record as far as it is of use: a peer that speaks Bitswap, or may."""
        schema = value.get("Schema")
        if schema == "peer":
            protocols = value.get("Protocols")
        elif schema == "bitswap":
            protocols = [value.get("Protocol")]
        else:
            return None
        if self._key == "Providers" and isinstance(protocols, list) and protocols:
            names = [each.lower() for each in protocols if isinstance(each, str)]
            if names and _BITSWAP not in names:
                return None
        name, addrs = value.get("ID"), value.get("Addrs")
        peer = any_peer_id(name) if isinstance(name, str) else None
        if peer is None:
            return None
        good = text.dialable_addresses(addrs if isinstance(addrs, list) else (), peer)
        return PeerRecord(peer, tuple(each for each in good if text.scope(each) >= self._nearest))


# --- how long ------------------------------------------------------------------------------------------------------


def freshness(headers: Mapping[str, str], *, found: bool) -> float:
    """For how many seconds an answer may be kept (Cache-Control and Age, RFC 9111), within our own bounds."""
    directives: dict[str, str] = {}
    for part in headers.get("cache-control", "").lower().split(","):
        name, _, value = part.strip().partition("=")
        directives[name] = value.strip('" ')
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    age = directives.get("max-age", "")
    if not (age.isascii() and age.isdigit()):
        return 0.0
    passed = headers.get("age", "").strip()
    spent = float(passed[:12]) if passed.isascii() and passed.isdigit() else 0.0
    return max(0.0, min(float(age[:12]) - spent, limits.MAX_AGE_FOUND if found else limits.MAX_AGE_NOTHING))


class Cache:
    """Answers by URL, each until its time is over; the ones used least recently go first."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[float, tuple[PeerRecord, ...]]] = OrderedDict()

    def put(self, url: str, records: tuple[PeerRecord, ...], seconds: float, now: float) -> None:
        """Keep an answer for some seconds; 0 forgets what was kept for its URL."""
        self._answers.pop(url, None)
        if seconds > 0:
            self._answers[url] = (now + seconds, records)
            while len(self._answers) > limits.MAX_CACHED_ANSWERS:
                self._answers.popitem(last=False)

    def get(self, url: str, now: float) -> tuple[PeerRecord, ...] | None:
        """The answer kept for a URL, unless its time is over."""
        kept = self._answers.get(url)
        if kept is None:
            return None
        if now >= kept[0]:
            del self._answers[url]
            return None
        self._answers.move_to_end(url)
        return kept[1]
