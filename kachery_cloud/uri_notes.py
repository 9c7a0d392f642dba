"""Notes before the CID: `ipfs://<notes>@<cid>`, which no shell takes for anything else, and no program for a path.

    notes    = note *( "+" note )
    note     = "label=" text                          as `?label=`
             / "provider=" address                    as `?provider=`
             / "provider=" peer *( "=" address )      addresses of one peer, whose ID stands once; or that ID alone
             / "group=" id                            as `?group=`
             / "encryption=age"                       as `?encryption=`
    address  = a multiaddr without its first "/", and with ":" for each of the others

`text`, and each part of an address, is percent-encoded UTF-8; of what RFC 3986 leaves as it is, `~` is encoded, too,
and so is `+`. So a URI with notes has only letters, digits and `:/._-=%@+` in it: neither bash nor zsh nor fish nor a
mail program takes any of these for something else within a word. The syntax is that of the "userinfo" of RFC 3986,
whose readers still find the CID where the host is, and the path behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from urllib.parse import quote

from kachery_cloud.errors import InvalidAddress
from kachery_p2p.text import shown

PEER_ID = re.compile(r"(12D3Koo|Qm|16Uiu2)[1-9A-HJ-NP-Za-km-z]{30,}")
#: A machine has a handful of addresses. What is longer has the reader's node dial for somebody else.
MAX_ADDRESSES = 16
_LAST_PEER = re.compile(r"(?P<way>.*)/p2p/(?P<peer>[^/]+)", re.DOTALL)


def written(
    label: str | None, providers: Sequence[str], groups: Sequence[str] = (), encryption: str | None = None
) -> str:
    """The notes that say this; empty where there is nothing to say. The texts are Unicode."""
    notes = [] if label is None else ["label=" + encoded(label)]
    for peer, ways in groupby(map(_split, providers), key=lambda each: each[0]):
        addresses = [_written_address(way) for _, way in ways]
        if not peer:
            notes += ["provider=" + address for address in addresses]
            continue
        # An ID without a way to it cannot stand beside those with one.
        for alone, some in groupby(addresses, key=lambda address: not address):
            named = [] if alone else list(some)
            notes.append("=".join(["provider=" + peer, *named]))
    notes += ["group=" + group for group in groups]
    notes += [] if encryption is None else ["encryption=" + encryption]
    return "+".join(notes)


def pairs(notes: str) -> Iterator[tuple[str, str, str]]:
    """Each note as its key, the "=" if there is one, and its value, which is still encoded."""
    for note in notes.split("+"):
        yield note.partition("=")


def addresses(value: str, decode: Callable[[str], str]) -> list[str]:
    """The multiaddrs of a provider; `decode` undoes the percent-encoding of a part. They are not checked here."""
    first, *others = value.split("=")
    if not PEER_ID.fullmatch(first):
        return [_read_address(each, decode) for each in (first, *others)]
    return [f"{_read_address(each, decode)}/p2p/{first}" for each in others] or ["/p2p/" + first]


def check_address(address: str) -> None:
    """Look at an address more closely than at one that the user wrote: a stranger made it.

    Raises:
        InvalidAddress: a part of it cannot be, or it leads round in a circle.
    """
    from kachery_p2p.multiaddrs import split

    parts = split(address)
    names = [name for name, _ in parts]
    peers = [value for name, value in parts if name == "p2p"]
    if names.count("p2p-circuit") > 1 or len(set(peers)) < len(peers) or len(peers) > 1 + names.count("p2p-circuit"):
        raise InvalidAddress(
            f"{shown(address, 300)} (a provider in the URI) leads from peer to peer more than once, or back to where "
            "it came from. An address leads to a peer directly, or through one relay."
        )


def encoded(text: str) -> str:
    """Percent-encoded, for a note."""
    return quote(text, safe="").replace("~", "%7E")


def _split(address: str) -> tuple[str, str]:
    """The ID of the peer that an address ends with, and the way to it; no ID where it ends otherwise."""
    match = _LAST_PEER.fullmatch(address)
    return (match["peer"], match["way"]) if match and PEER_ID.fullmatch(match["peer"]) else ("", address)


def _written_address(address: str) -> str:
    return ":".join(encoded(part) for part in address.removeprefix("/").split("/"))


def _read_address(text: str, decode: Callable[[str], str]) -> str:
    return "".join("/" + decode(part) for part in text.split(":"))
