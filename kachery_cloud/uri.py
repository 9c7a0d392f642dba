"""Names of content: `ipfs://<cid>[/<path>][?label=<text>&provider=<multiaddr>...]`.

Accepted on load are also `/ipfs/<cid>/<path>` and a bare CID, each with the same query. The label is a note for people
and plays no part in finding the data. A `provider` says where to ask, as verified-fetch writes it: a multiaddr,
percent-encoded or not, with or without its `/p2p/<peer ID>`. Other keys of the query, and a `#fragment`, are ignored.
Schemes do not care about case; CIDs may (a CIDv0, `Qm...`, does).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from kachery_p2p.errors import InvalidCID, UnsupportedCID

from .errors import InvalidAddress, InvalidURI

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_GATEWAY = re.compile(r"/ipfs/([A-Za-z0-9]{46,}[^?#]*)")
_EXPECTED = "Expected ipfs://<cid>, ipfs://<cid>/<path>, /ipfs/<cid> or a CID alone"
# Longer than any file system lets a path be; a URI beyond it is a mistake (a text where a URI is meant).
_MAX_LENGTH = 16_384

_RAW, _DAG_PB, _LIBP2P_KEY = 0x55, 0x70, 0x72
_CODEC_NAMES = {0x71: "dag-cbor", 0x0129: "dag-json", 0x0200: "json", 0x51: "cbor", 0x78: "git-raw"}


@dataclass(frozen=True)
class ContentURI:
    """A parsed URI. `cid` is in its usual text form, `path` holds decoded names, `providers` are multiaddrs."""

    cid: str
    path: tuple[str, ...] = ()
    label: str | None = None
    providers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return format_uri(self.cid, self.path, label=self.label, providers=self.providers)

    @property
    def locator(self) -> str:
        """The URI without its query: the part that decides which bytes are meant."""
        return format_uri(self.cid, self.path)

    @property
    def file_name(self) -> str:
        """A safe name for a copy of the content: the last name of the path, or the label's, or the CID."""
        for candidate in (self.path[-1] if self.path else "", self.label or ""):
            name = candidate.replace("\\", "/").rsplit("/", 1)[-1].strip()
            usable = name not in ("", ".", "..") and len(name.encode()) <= 255
            if usable and not any(ord(c) < 32 or ord(c) == 127 for c in name):
                return name
        return self.cid


def parse_uri(uri: str) -> ContentURI:
    """Take a URI, an `/ipfs/` path or a bare CID apart.

    Raises `InvalidURI` (another scheme, no CID, a path that cannot be), `InvalidCID`, `UnsupportedCID` (a CID of
    something that is not a file or directory) and `InvalidAddress` (a provider that is not a multiaddr).
    """
    if not isinstance(uri, str):
        raise InvalidURI(f"A URI is text, not {type(uri).__name__}. {_EXPECTED}.")
    text = uri.strip()
    if not text:
        raise InvalidURI(f"The URI is empty. {_EXPECTED}.")
    if len(text) > _MAX_LENGTH:
        raise InvalidURI(f"That is {len(text):,} characters long, too long for a URI. {_EXPECTED}.")
    text, _, _ = text.partition("#")
    text, _, query = text.partition("?")
    head, *rest = _content_part(text, uri).split("/")
    path = tuple(_segment(part, uri) for part in rest if part)
    label, providers = _query(query, uri)
    return ContentURI(_content_cid(unquote(head), uri), path, label, providers)


def format_uri(
    cid: str, path: tuple[str, ...] | list[str] = (), *, label: str | None = None, providers: tuple[str, ...] = ()
) -> str:
    """Put a URI together, percent-encoding what needs it."""
    text = "/".join(["ipfs://" + cid, *(quote(name, safe="") for name in path)])
    pairs = [] if label is None else ["label=" + quote(label, safe="")]
    pairs += ["provider=" + quote(address, safe="") for address in providers]
    return text + ("?" + "&".join(pairs) if pairs else "")


def check_peer_address(address: str, origin: str) -> str:
    """The address, if it has the shape of a multiaddr (the node checks the rest when it dials).

    `origin` says in the error where the address came from. A bare peer ID is taken for `/p2p/<peer ID>`.
    """
    text = address.strip()
    if re.fullmatch(r"(12D3Koo|Qm|16Uiu2)[1-9A-HJ-NP-Za-km-z]{30,}", text):
        return "/p2p/" + text
    # split("/") of a multiaddr gives an empty first part, then a protocol name.
    parts = text.split("/")
    if parts[0] or len(parts) < 3 or not parts[1] or any(c.isspace() for c in text):
        raise InvalidAddress(
            f"{address!r} ({origin}) is not the address of a peer. "
            "An address looks like /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW..."
        )
    return text


def _content_part(text: str, uri: str) -> str:
    match = _SCHEME.match(text)
    if match:
        scheme = match[1].lower()
        if scheme == "ipfs":
            return text[match.end() :]
        gateway = _GATEWAY.search(text)
        if scheme in ("http", "https") and gateway:
            raise InvalidURI(
                f"{uri!r} is the address of a web gateway ({scheme}://), not of content. "
                f"Use ipfs://{gateway[1]} instead."
            )
        raise InvalidURI(f"{uri!r} has the scheme {scheme}://, which is not supported here. {_EXPECTED}.")
    if text.startswith("/ipfs/"):
        return text[len("/ipfs/") :]
    if re.match(r"ipfs:/?[^/]", text, re.IGNORECASE):
        raise InvalidURI(f"{uri!r} lacks a slash: it should begin with ipfs:// (two slashes).")
    if text.startswith(("/", ".", "~")) or "\\" in text:
        raise InvalidURI(f"{uri!r} looks like a path on this machine, not a URI. {_EXPECTED}.")
    return text


def _content_cid(text: str, uri: str) -> str:
    from kachery_p2p.dag.cid import CID

    if not text:
        raise InvalidURI(f"{uri!r} names no CID. {_EXPECTED}.")
    try:
        cid = CID.parse(text)
    except InvalidCID as exc:
        if text.startswith("qm") and len(text) == 46:
            raise InvalidCID(
                f"{text!r} is a CIDv0 whose capital letters were lost (it should begin with Qm). Copy it again."
            ) from exc
        raise
    if cid.codec == _LIBP2P_KEY:
        raise UnsupportedCID(f"{text} is a peer ID or an IPNS name, not content.")
    if cid.codec not in (_RAW, _DAG_PB):
        name = _CODEC_NAMES.get(cid.codec, f"codec {cid.codec:#x}")
        raise UnsupportedCID(
            f"{text} holds {name} data, not a file or directory (raw or dag-pb), so it cannot be loaded."
        )
    return str(cid)


def _segment(part: str, uri: str) -> str:
    name = _decode(part, uri)
    if name in (".", "..") or "/" in name or "\0" in name:
        raise InvalidURI(f"{uri!r} has {name!r} in its path, which cannot be the name of a file in a directory.")
    return name


def _decode(text: str, uri: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURI(f"{uri!r} has percent-encoded bytes that are not UTF-8 ({text!r}).") from None


def _query(query: str, uri: str) -> tuple[str | None, tuple[str, ...]]:
    label: str | None = None
    providers: list[str] = []
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key == "label" and label is None:
            label = _decode(value, uri)
        elif key == "provider" and value:
            address = check_peer_address(_decode(value, uri), "a provider in the URI")
            if address not in providers:
                providers.append(address)
    return label, tuple(providers)
