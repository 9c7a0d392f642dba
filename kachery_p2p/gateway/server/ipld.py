"""Blocks that are neither raw nor dag-pb: their media types, and the links and paths in dag-cbor and dag-json.

Follows https://ipld.io/specs/codecs/dag-cbor/spec/ and .../dag-json/spec/, as a reader: blocks are given out as they
are, and decoded only to follow a path, to find the links for a CAR, and to show what is in one. Strangers make these
blocks, so tags other than that of links, indefinite lengths, doubled keys and deep nesting are refused, and one block
at a time is decoded.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any, NamedTuple

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidCID, KacheryError, MalformedDag, PathNotFound
from kachery_p2p.gateway.server import limits

CBOR, DAG_CBOR, DAG_JSON, JSON = 0x51, 0x71, 0x0129, 0x0200

#: Media type, and the end of a file name, of what is served as it is.
TYPES = {
    CBOR: ("application/cbor", "cbor"),
    DAG_CBOR: ("application/vnd.ipld.dag-cbor", "cbor"),
    DAG_JSON: ("application/vnd.ipld.dag-json", "json"),
    JSON: ("application/json", "json"),
}
#: By the name that `format=` has for it.
CODECS = {"cbor": CBOR, "dag-cbor": DAG_CBOR, "dag-json": DAG_JSON, "json": JSON}
#: Those with links in them.
LINKED = frozenset((DAG_CBOR, DAG_JSON))

_LINK_TAG = 42
#: The tags that the library would make objects of: dates, fractions, regular expressions, shared values and so on.
_OTHER_TAGS = (*range(6), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)

_one_at_a_time = threading.Lock()


class Link(NamedTuple):
    """A link, as its binary CID: one that is not followed may be made with a hash function that we do not have."""

    binary: bytes

    @property
    def cid(self) -> CID:
        """Where it leads.

        Raises:
            InvalidCID: it is not a CID.
            UnsupportedCID: its hash function cannot be checked.
        """
        return CID.from_bytes(self.binary)


class NotALink(KacheryError):
    """A path ends inside a block, at a value that is no link; the specification leaves out what that would be."""


def decode(cid: CID, block: bytes) -> Any:
    """The value of a dag-cbor or dag-json block: of dict, list, str, bytes, int, float, bool, None and `Link`.

    Raises:
        MalformedDag: it is no such value, is nested too deep, or too large to be decoded for strangers.
    """
    if len(block) > limits.MAX_DECODED_BLOCK:
        raise MalformedDag(f"The block {cid} has {len(block)} bytes, too many to be looked into. Ask for it as it is.")
    read = _read_cbor if cid.codec == DAG_CBOR else _read_json
    with _one_at_a_time:
        try:
            return read(block)
        except RecursionError:
            raise MalformedDag(f"The block {cid} is nested too deep.") from None
        except (ValueError, OverflowError, MemoryError) as error:
            raise MalformedDag(f"The block {cid} is no valid {_name(cid)}: {_words(error)}.") from None


def _name(cid: CID) -> str:
    return next((name for name, codec in CODECS.items() if codec == cid.codec), f"block of codec 0x{cid.codec:x}")


def _words(error: BaseException) -> str:
    return str(error)[:100].rstrip(".") or type(error).__name__


def links(cid: CID, block: bytes) -> list[CID]:
    """The links of a block, in their order.

    Raises:
        MalformedDag: the block cannot be decoded.
        InvalidCID, UnsupportedCID: a link cannot be followed.
    """
    return [link.cid for link in _links(decode(cid, block))] if cid.codec in LINKED else []


def _links(value: Any) -> Iterator[Link]:
    waiting = [iter((value,))]
    while waiting:
        for each in waiting[-1]:
            if isinstance(each, Link):
                yield each
            elif isinstance(each, dict):
                waiting.append(iter(each.values()))
                break
            elif isinstance(each, list):
                waiting.append(iter(each))
                break
        else:
            waiting.pop()


def follow(cid: CID, block: bytes, names: Sequence[str]) -> tuple[CID, int]:
    """Follow names within a block up to its first link.

    Returns:
        Where that leads, and how many names it took.

    Raises:
        PathNotFound: there is no such field; NotALink: the names end before a link; MalformedDag, UnsupportedCID.
    """
    value = decode(cid, block)
    for count, name in enumerate(names, 1):
        way = "/".join([str(cid), *names[:count]])
        if isinstance(value, dict):
            if name not in value:
                raise PathNotFound(f"There is no '{name}' in {way.rpartition('/')[0]}.")
            value = value[name]
        elif isinstance(value, list):
            if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(value)):
                raise PathNotFound(f"There is no '{name}' in {way.rpartition('/')[0]}: it is a list of {len(value)}.")
            value = value[int(name)]
        else:
            raise PathNotFound(f"There is no '{name}' in {way.rpartition('/')[0]}: it is a single value.")
        if isinstance(value, Link):
            try:
                return value.cid, count
            except InvalidCID as error:
                raise MalformedDag(f"The link {way} is broken: {error}") from None
    raise NotALink(
        f"{'/'.join([str(cid), *names])} lies inside a block: reading IPLD Kinds other than Links (CBOR Tag 42) is not "
        f"implemented. Ask for {cid}."
    )


# --- dag-cbor --------------------------------------------------------------------------------------------------------


def _read_cbor(block: bytes) -> Any:
    import cbor2

    source = BytesIO(block)
    decoder = cbor2.CBORDecoder(
        source,
        tag_hook=_tagged,
        semantic_decoders=dict.fromkeys(_OTHER_TAGS, _refused_tag),
        max_depth=limits.MAX_DECODED_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
        read_size=1,
    )
    try:
        value = decoder.decode()
    except cbor2.CBORError as error:
        raise ValueError(_words(error)) from None
    if source.read(1):
        raise ValueError("something follows its value")
    _check(value)
    return value


def _tagged(tag: Any, _immutable: bool) -> Link:
    if tag.tag != _LINK_TAG or not isinstance(tag.value, bytes) or not tag.value.startswith(b"\0"):
        raise ValueError(f"it has the tag {tag.tag}, which is not that of a link, or no link in it")
    return Link(tag.value[1:])


def _refused_tag(_value: object, _immutable: bool) -> Any:
    raise ValueError("it has a tag that is not that of a link")


def _check(value: Any) -> None:
    """Refuse what CBOR has and the IPLD data model has not."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if not all(isinstance(key, str) for key in each):
                raise ValueError("it has a map whose keys are not text")
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, float) and not math.isfinite(each):
            raise ValueError("it has a number that is infinite, or none")
        elif not (each is None or isinstance(each, (str, bytes, int, float, Link))):
            raise ValueError("it has a value that is none of the data model's")


# --- dag-json --------------------------------------------------------------------------------------------------------


def _read_json(block: bytes) -> Any:
    text = block.decode("utf-8")
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_refused_constant)
    _check_depth(value)
    return value


def _refused_constant(name: str) -> Any:
    raise ValueError(f"it has a number that is {name}")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """A map, or what dag-json writes as a map with the one key `/`: a link, or bytes."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice")
    if "/" not in found:
        return found
    inside = found["/"]
    if len(found) == 1 and isinstance(inside, str):
        return Link(bytes(_parsed(inside)))
    if len(found) == 1 and isinstance(inside, dict) and list(inside) == ["bytes"] and isinstance(inside["bytes"], str):
        text = inside["bytes"]
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            raise ValueError("it has bytes that are not base64") from None
    raise ValueError("it has a map with the reserved key '/' that is neither a link nor bytes")


def _parsed(text: str) -> CID:
    return CID.parse(text)


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(limits.MAX_DECODED_DEPTH):
        level = [inner for each in level for inner in _children(each)]
        if not level:
            return
    raise RecursionError


def _children(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


# --- showing ---------------------------------------------------------------------------------------------------------


def outline(value: Any, show_link: Callable[[Link], str], escape: Callable[[str], str]) -> tuple[list[str], bool]:
    """A value as lines of text for people, indented, in the manner of JSON.

    Returns:
        At most MAX_LINES_SHOWN lines, and whether there are more.
    """
    lines: list[str] = []
    # What is still to be written: (depth, what stands before it, value), or a line that closes a map or list.
    waiting: list[tuple[int, str, Any, bool]] = [(0, "", value, False)]
    while waiting:
        if len(lines) >= limits.MAX_LINES_SHOWN:
            return lines, True
        depth, before, each, closing = waiting.pop()
        start = "  " * min(depth, limits.MAX_INDENT_SHOWN) + before
        if closing:
            lines.append(start)
        elif isinstance(each, (dict, list)) and each:
            brackets = "{}" if isinstance(each, dict) else "[]"
            lines.append(start + brackets[0])
            waiting.append((depth, brackets[1], None, True))
            inner = (
                [(f"{escape(_quoted(key))}: ", item) for key, item in each.items()]
                if isinstance(each, dict)
                else [("", item) for item in each]
            )
            waiting += [(depth + 1, before, item, False) for before, item in reversed(inner)]
        else:
            lines.append(start + (show_link(each) if isinstance(each, Link) else escape(_scalar(each))))
    return lines, False


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bytes):
        more = " ..." if len(value) > limits.MAX_VALUE_SHOWN else ""
        return f"bytes({len(value)}) {value[: limits.MAX_VALUE_SHOWN].hex()}{more}"
    return json.dumps(value)


def _quoted(text: str) -> str:
    shown = json.dumps(text[: limits.MAX_VALUE_SHOWN], ensure_ascii=False)
    return shown if len(text) <= limits.MAX_VALUE_SHOWN else f"{shown} ... ({len(text):,} characters)"
