"""Names of content: `ipfs://<cid>[/<path>][?<query>]`.

    uri       = ( "ipfs://" [ notes "@" ] / "/ipfs/" / "" ) cid *( "/" name ) [ "?" [ parameter *( "&" parameter ) ] ]
                [ "#key=" age-key ]
    parameter = "label=" text          a note for people, once; it plays no part in finding the data
              / "provider=" multiaddr  where to ask, as verified-fetch writes it; with or without `/p2p/<peer ID>`
              / "group=" id            for the members of this group; once for each of several. Only members are asked.
                                       "own" is for the machines of whoever made the URI, which ask each other alone
              / "encryption=age"       it is encrypted, and is to be decrypted; without it, the cipher text is meant
              / text                   first, without a "=": a label, as older releases of kachery-cloud wrote it

Names, labels and addresses are percent-encoded UTF-8 (RFC 3986); `+` means itself. `/` may stand in an address as it
is. Schemes do not care about case; CIDs may (a CIDv0, `Qm...`, does). White space around a URI is cut off.

The ID of a group is no secret. It opens nothing, and tells those who are not in the group neither its name nor its
members; those who are in it learn from it whom to ask, and that nobody else is to hear of the CID.

Nothing in a URI is passed over: what is not in this grammar is refused, with a sentence that says how to write it. So
text that was appended to a URI with a query (`uri + "/name"`, `uri + "?provider=..."`) is never taken for a part of a
label; `join` appends names to any URI. To a URI with notes and no query, names can be appended as text, too.

The key of a link, `#key=AGE-SECRET-KEY-1...`, opens what is encrypted. It is taken off before anything else is looked
at, and is in no text that is made of a URI here but what `share` and `join` give: not in requests, errors, logs, lists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from kachery_cloud import uri_notes
from kachery_cloud.errors import InvalidAddress, InvalidArgument, InvalidURI
from kachery_p2p.access.audience import GROUP_ID, OWN
from kachery_p2p.errors import InvalidCID, InvalidName, UnsupportedCID
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_NAME_URI = re.compile(r"ipns://|/ipns/", re.IGNORECASE)
_GATEWAY = re.compile(r"https?://[^/?#]+/ipfs/([A-Za-z0-9]{46,})(/[^?#]*)?", re.IGNORECASE)
_SUBDOMAIN = re.compile(r"https?://([A-Za-z0-9]{46,})\.ipfs\.[^/?#]+(/[^?#]*)?", re.IGNORECASE)
#: How content may be encrypted.
AGE = "age"
_KEY_MARK = "#key="
_LINK_KEY = re.compile(r"key=AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}")
_RAW_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")
#: For errors: what is a URI.
EXPECTED = "Expected ipfs://<cid>, ipfs://<cid>/<path>, /ipfs/<cid> or a CID alone"
#: Longer than any file system lets a path be; a URI beyond it is a mistake (a text where a URI is meant).
_MAX_LENGTH = 16_384
#: The rest is for a path and providers.
_MAX_LABEL = _MAX_LENGTH // 2
#: So much of a URI is quoted in an error.
_SHOWN = 300
#: The parameters of a query.
_PARAMETERS = ("label", "provider", "group", "encryption")
#: Groups of one URI: nobody shares one thing with more, and each is asked for.
MAX_GROUPS = 16


#: The protocols of multiaddrs (github.com/multiformats/multiaddr): those that have a value, and those that have none.
_WITH_VALUE = frozenset((
    "ip4", "ip6", "ip6zone", "ipcidr", "dns", "dns4", "dns6", "dnsaddr", "tcp", "udp", "dccp", "sctp", "sni",
    "certhash", "http-path", "onion", "onion3", "garlic32", "garlic64", "p2p", "ipfs", "unix", "memory",
))  # fmt: skip
_WITHOUT_VALUE = frozenset((
    "udt", "utp", "tls", "noise", "plaintextv2", "shs", "quic", "quic-v1", "webtransport", "ws", "wss", "http", "https",
    "webrtc", "webrtc-direct", "p2p-circuit", "p2p-webrtc-direct", "p2p-webrtc-star", "p2p-websocket-star",
    "p2p-stardust",
))  # fmt: skip


@dataclass(frozen=True)
class ContentURI:
    """A parsed URI. `cid` is in its usual text form, `path` holds decoded names, `providers` are multiaddrs.

    Attributes:
        groups: the IDs of the groups that it is for; none where it does not say so.
        root: the CID as an object.
        encryption: "age" where it is encrypted, and its plain bytes are meant.
        key: the secret key of a link, where it had one. In no text that is made of this.
    """

    cid: str
    path: tuple[str, ...] = ()
    label: str | None = None
    providers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    encryption: str | None = None
    key: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return format_uri(
            self.cid,
            self.path,
            label=self.label,
            providers=self.providers,
            groups=self.groups,
            encryption=self.encryption,
        )

    @cached_property
    def root(self) -> CID:
        from kachery_p2p.dag.cid import CID

        return CID.parse(self.cid)

    @property
    def pasteable(self) -> str:
        """The URI with all it says before the CID: it needs no quotes in a shell, and fits a QR code.

        Only letters, digits and `:/._-=%@+` are in it.
        """
        return self._with_notes(uri_notes.written(self.label, self.providers, self.groups, self.encryption)).replace(
            "~", "%7E"
        )

    @property
    def locator(self) -> str:
        """The URI without label and providers: the part that decides which bytes are meant."""
        return self._with_notes(uri_notes.written(None, (), (), self.encryption))

    def _with_notes(self, notes: str) -> str:
        bare = format_uri(self.cid, self.path)
        return bare.replace("ipfs://", f"ipfs://{notes}@", 1) if notes else bare

    @property
    def source(self) -> str:
        """The same with the groups that it is for: the part that decides who may be asked, too."""
        return format_uri(self.cid, self.path, groups=self.groups, encryption=self.encryption)

    @property
    def name(self) -> str:
        """What the content is called: the last name of the path, the label, or nothing. Any text, not a file name."""
        return self.path[-1] if self.path else self.label or ""

    @property
    def file_name(self) -> str:
        """The name for a copy in a folder of the user's: `name`, or the CID where there is none.

        Raises:
            InvalidName: a stranger must not choose that name: see `kachery_p2p.dag.names.outside_name`.
        """
        from kachery_p2p.dag.names import outside_name

        if not self.name:
            return self.cid
        try:
            return outside_name(self.name)
        except InvalidName as error:
            origin = "The last name of the path" if self.path else "The label"
            raise InvalidName(
                f"{origin} of the URI cannot name the copy. {error} Say the whole name yourself: --dest FOLDER/NAME "
                "(in Python dest='FOLDER/NAME')."
            ) from None


def parse_uri(uri: str) -> ContentURI:
    """Take a URI, an `/ipfs/` path or a bare CID apart.

    Raises:
        InvalidURI: it has another scheme, no CID, a path that cannot be, or a query that says more than labels,
            providers and groups.
        InvalidCID: what stands for the CID is not one.
        UnsupportedCID: the CID is of something that is not a file or directory.
        InvalidAddress: a provider is not a multiaddr.
    """
    text, quoted, key = _checked_text(uri)
    rest = _content_part(text, quoted)
    rest, _, query = rest.partition("?")
    head, *names = rest.split("/")
    notes, at, head = head.rpartition("@")
    if at and not _SCHEME.match(text):
        raise InvalidURI(f"{quoted} has something before its CID, so it must begin with ipfs://.")
    before = _notes(notes, quoted) if at else _Said()
    cid = _content_cid(head, text, quoted)
    path = tuple(_segment(name, quoted) for name in names if name)
    said = _query(query, rest, quoted, before)
    encryption = said.encryption or (AGE if key else None)
    found = ContentURI(str(cid), path, said.label, tuple(said.providers), tuple(said.groups), encryption, key)
    found.__dict__["root"] = cid  # it is parsed already
    return found


@dataclass(frozen=True)
class NameURI:
    """A URI whose first part is a name that may point to something else tomorrow: `ipns://<name>[/<path>][?<query>]`.

    `name` is as it was written; the rest is as in `ContentURI`.
    """

    name: str
    path: tuple[str, ...] = ()
    label: str | None = None
    providers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    encryption: str | None = None
    key: str | None = field(default=None, repr=False)


def parse_name_uri(uri: str) -> NameURI | None:
    """Take an `ipns://` URI or an `/ipns/` path apart; None for every other text.

    Raises:
        InvalidURI: it has no name, or a path or a query that cannot be; as `parse_uri`.
        InvalidAddress: a provider is not a multiaddr.
    """
    if not isinstance(uri, str) or (match := _NAME_URI.match(uri.strip())) is None:
        return None
    text, quoted, key = _checked_text(uri)
    rest, _, query = text[match.end() :].partition("?")
    head, *names = rest.split("/")
    if not head or "%" in head or "@" in head or ":" in head:
        raise InvalidURI(f"{quoted} names no IPNS name. Expected ipns://k51..., perhaps with a path behind it.")
    said = _query(query, rest, quoted, _Said())
    path = tuple(_segment(name, quoted) for name in names if name)
    encryption = said.encryption or (AGE if key else None)
    return NameURI(head, path, said.label, tuple(said.providers), tuple(said.groups), encryption, key)


def without_key(uri: str) -> str:
    """A URI as it was given, without the key of a link: for what is shown."""
    return uri.partition(_KEY_MARK)[0] if isinstance(uri, str) else uri


def _checked_text(uri: object) -> tuple[str, str, str | None]:
    """A URI without white space around it and without a key, as it is quoted in errors, and the key."""
    if not isinstance(uri, str):
        raise InvalidURI(f"A URI is text, not {type(uri).__name__}. {EXPECTED}.")
    text = uri.strip()
    if not text:
        raise InvalidURI(f"The URI is empty. {EXPECTED}.")
    if len(text) > _MAX_LENGTH:
        raise InvalidURI(f"That is {len(text):,} characters long, too long for a URI. {EXPECTED}.")
    text, mark, key = text.partition("#")
    quoted = shown(text, _SHOWN)
    if mark:
        _check_key(key, quoted)
    if _RAW_CONTROL.search(text):
        raise InvalidURI(f"{quoted} has a control character or a line break in it. In a name it is written as %0A.")
    return text, quoted, key.removeprefix("key=") or None


def _check_key(fragment: str, quoted: str) -> None:
    """See that what follows the '#' is the key of a link. It is a secret, so no error repeats it."""
    if not fragment.startswith("key="):
        raise InvalidURI(
            f"{quoted} is followed by a part that begins with '#', which may only be the key of a link: "
            "#key=AGE-SECRET-KEY-1... A '#' in a name is written as %23."
        )
    if not _LINK_KEY.fullmatch(fragment):
        raise InvalidURI(f"{quoted} is followed by '#key=' and no age key: that is AGE-SECRET-KEY-1 and 58 characters.")


def with_groups(uri: str, groups: Sequence[str]) -> str:
    """A URI, of content or of a name, that says that it is for these groups as well.

    Args:
        uri: in any form. It is not looked at otherwise: whoever takes it says what is wrong with it.
        groups: their IDs.

    Raises:
        InvalidURI: one of them is not the ID of a group.
    """
    more = "&".join("group=" + _check_group(group, "a group") for group in groups)
    text, mark, key = uri.strip().partition("#")
    return f"{text}{'&' if '?' in text else '?'}{more}{mark}{key}" if more else uri


def begins_with_cid(text: str) -> bool:
    """Whether what stands before the first `/` or `?` is a CID, of whatever kind."""
    from kachery_p2p.dag.cid import CID

    try:
        CID.parse(re.split("[/?]", text, maxsplit=1)[0])
    except InvalidCID:
        return False
    except UnsupportedCID:
        return True
    return True


def join(uri: str, *names: str) -> str:
    """The URI of something inside a directory.

    Args:
        uri: of the directory, in any form. Its label, providers and groups stay, and the key of a link.
        names: the way to it, as plain text: "notes/readme.txt", or "notes", "readme.txt".

    Raises:
        InvalidURI: a name cannot be in a directory (`..`). Other errors are those of `parse_uri`.
        InvalidArgument: a name is no text.

    Example:
        >>> kcl.join("ipfs://bafy...?label=mouse", "notes/read me.txt")
        'ipfs://bafy.../notes/read%20me.txt?label=mouse'
    """
    parsed = parse_uri(uri)
    for name in names:
        if not isinstance(name, str):
            raise InvalidArgument(f"A name in a directory is text, not {type(name).__name__}.")
    more = [part for name in names for part in name.split("/") if part]
    joined = str(replace(parsed, path=(*parsed.path, *more)))
    return joined if parsed.key is None else f"{joined}{_KEY_MARK}{parsed.key}"


def format_uri(
    cid: str,
    path: Sequence[str] = (),
    *,
    label: str | None = None,
    providers: Sequence[str] = (),
    groups: Sequence[str] = (),
    encryption: str | None = None,
) -> str:
    """Put a URI together, percent-encoding what needs it.

    Raises:
        InvalidArgument: something is no text.
        InvalidURI: a name cannot be in a path, a text is not Unicode, or a group is not the ID of one.
    """
    if not isinstance(cid, str):
        raise InvalidArgument(f"A CID is text, not {type(cid).__name__}.")
    for what, texts in (("path", path), ("providers", providers), ("groups", groups)):
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise InvalidArgument(f"{what} is {shown(texts)}; it must be a list of texts.")
    check_label(label)
    if encryption is not None and not (isinstance(encryption, str) and encryption == AGE):
        raise InvalidArgument(f"encryption is {shown(encryption)}; it must be 'age', or None.")
    text = "/".join(["ipfs://" + cid, *(_encode(_check_name(name, cid)) for name in path)])
    pairs = [] if label is None else ["label=" + _encode(label)]
    pairs += ["provider=" + _encode(address) for address in providers]
    pairs += ["group=" + _check_group(group, "a group") for group in groups]
    pairs += [] if encryption is None else ["encryption=" + _encode(encryption)]
    return text + ("?" + "&".join(pairs) if pairs else "")


def check_label(label: object) -> None:
    """Check a label.

    Raises:
        InvalidArgument: it is neither text nor None.
        InvalidURI: it cannot be in a URI.
    """
    if label is None:
        return
    if not isinstance(label, str):
        raise InvalidArgument(f"label is {shown(label)}; it must be text, or None.")
    if len(_encode(label)) > _MAX_LABEL:
        raise InvalidURI(f"The label is {len(label):,} characters long, too long for a URI.")


def check_peer_address(address: str, origin: str) -> str:
    """The address, if it has the shape of a multiaddr (the node checks the values when it dials).

    Args:
        address: a bare peer ID is taken for `/p2p/<peer ID>`.
        origin: where the address came from, for the error.

    Raises:
        InvalidAddress: it has another shape.
    """
    if not isinstance(address, str):
        raise InvalidAddress(f"The address of a peer is text, not {type(address).__name__} ({origin}).")
    text = address.strip()
    if uri_notes.PEER_ID.fullmatch(text):
        return "/p2p/" + text
    unknown = None if any(c.isspace() for c in text) else _unknown_part(text)
    if unknown is None:
        raise InvalidAddress(
            f"{shown(address, _SHOWN)} ({origin}) is not the address of a peer. "
            "An address looks like /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW..."
        )
    if unknown:
        raise InvalidAddress(
            f"{shown(unknown)} in {shown(address, _SHOWN)} ({origin}) is no part of an address, which looks like "
            "/ip4/192.168.1.20/tcp/4001/p2p/12D3KooW... The path to a file goes before the '?' of a URI: "
            "ipfs://CID/PATH?provider=ADDRESS."
        )
    return text


def check_peer_addresses(addresses: object, origin: str) -> tuple[str, ...]:
    """All of them, each once; a single text is taken for one address.

    Raises:
        InvalidArgument: it is no list.
        InvalidAddress: one of them is not the address of a peer.
    """
    given = (addresses,) if isinstance(addresses, str) else addresses
    if not isinstance(given, (list, tuple)):
        raise InvalidArgument(f"providers is {shown(addresses)}; it must be a list of addresses of peers.")
    return tuple(dict.fromkeys(check_peer_address(address, origin) for address in given))


# --- parts -----------------------------------------------------------------------------------------------------------


def _unknown_part(text: str) -> str | None:
    """The first part of a multiaddr that is no protocol of one; empty where all are, None where it is no multiaddr."""
    # split("/") of a multiaddr gives an empty first part, then a protocol, then its value if it has one.
    parts = text.split("/")
    if parts[0] or len(parts) < 2 or parts[1] not in _WITH_VALUE | _WITHOUT_VALUE:
        return None
    at = 1
    while at < len(parts):
        name = parts[at]
        if name in _WITH_VALUE:
            if at + 1 >= len(parts) or not parts[at + 1]:
                return None
            if name == "unix":  # the rest is a path
                return ""
            at += 2
            after = "/".join(parts[at:])
            # What a peer ID is followed by is a way from that peer.
            if name in ("p2p", "ipfs") and after and parts[at] not in ("p2p-circuit", "http-path"):
                return after
        elif name in _WITHOUT_VALUE:
            at += 1
        else:
            return name or None
    return ""


def _content_part(text: str, quoted: str) -> str:
    if _NAME_URI.match(text):
        raise InvalidURI(
            f"{quoted} is an IPNS name (ipns://), which may point to something else tomorrow: it can be loaded, but "
            f"not used here. This says where it points now: kachery-cloud resolve {quoted}"
        )
    match = _SCHEME.match(text)
    if match:
        scheme = match[1].lower()
        if scheme == "ipfs":
            return text[match.end() :]
        gateway = _GATEWAY.match(text) or _SUBDOMAIN.match(text)
        if gateway:
            path = (gateway[2] or "").rstrip("/")
            raise InvalidURI(
                f"{quoted} is the address of a web gateway ({scheme}://), not of content. "
                f"Use ipfs://{gateway[1]}{path} instead."
            )
        if scheme == "sha1":
            raise InvalidURI(
                f"{quoted} is a URI of an older kachery ({scheme}://), which names a file by another hash. Where that "
                "file is on this machine it can be loaded with load_file (kachery-cloud-load), but not used here: "
                "store it, and use the ipfs:// URI."
            )
        if scheme == "sha1-enc":
            raise InvalidURI(
                f"{quoted} is a URI of an older kachery ({scheme}://), which only a service that is gone could read. "
                "Ask whoever has the file to store it again and give you the ipfs:// URI."
            )
        raise InvalidURI(f"{quoted} has the scheme {scheme}://, which is not supported here. {EXPECTED}.")
    if text.startswith("/ipfs/"):
        return text[len("/ipfs/") :]
    if text.startswith("ipns/"):
        raise InvalidURI(f"{quoted} is an IPNS name: write it as ipns://{text.removeprefix('ipns/')}.")
    if re.match(r"ipfs:/?[^/]", text, re.IGNORECASE):
        raise InvalidURI(f"{quoted} lacks a slash: it should begin with ipfs:// (two slashes).")
    if text.startswith(("/", ".", "~")) or "\\" in text:
        raise _is_path(text, quoted)
    return text


def _is_path(text: str, quoted: str) -> InvalidURI:
    """For text that looks like a path."""
    there = os.path.lexists(os.path.expanduser(text))
    more = "It is here: open it as it is. To share it, store" if there else "To share what lies there, store"
    return InvalidURI(
        f"{quoted} looks like a path on this machine, not a URI. {EXPECTED}. {more} it with store_file "
        "(kachery-cloud-store), which gives its URI."
    )


def _content_cid(text: str, uri: str, quoted: str) -> CID:
    from kachery_p2p.dag.cid import CID, DAG_PB, LIBP2P_KEY, RAW, codec_name

    if not text:
        raise InvalidURI(f"{quoted} names no CID. {EXPECTED}.")
    if text.startswith(("label=", "provider=", "group=", "encryption=")):
        raise InvalidURI(
            f"{quoted} has a '/' or '?' before its '@', or no '@'. In a label '/' is written there as %2F and '?' as "
            "%3F; in an address '/' is written as ':', as in provider=ip4:192.168.1.20:tcp:4001."
        )
    if ":" in text:
        raise InvalidURI(f"{quoted} has a user or a port in it, which content does not have. {EXPECTED}.")
    if text.lower() in ("ipfs", "ipns"):
        raise InvalidURI(f"{quoted} says {text!r} where the CID should be. {EXPECTED}.")
    if "%" in text:
        raise InvalidURI(f"{quoted} has a '%' in its CID; a CID is letters and digits alone. {EXPECTED}.")
    try:
        cid = CID.parse(text)
    except InvalidCID as error:
        if text.startswith("qm") and len(text) == 46:
            raise InvalidCID(
                f"{text!r} is a CIDv0 whose capital letters were lost (it should begin with Qm). Copy it again."
            ) from error
        bare = not uri.lower().startswith(("ipfs://", "/ipfs/"))
        if bare and ("/" in uri or "." in uri or os.path.lexists(uri)):
            raise _is_path(uri, quoted) from None
        raise
    if cid.codec == LIBP2P_KEY:
        raise UnsupportedCID(f"{text} is a peer ID or an IPNS name, not content. A name is loaded as ipns://{text}.")
    if cid.codec not in (RAW, DAG_PB):
        raise UnsupportedCID(
            f"{text} holds {codec_name(cid.codec)} data, not a file or directory (raw or dag-pb), so it cannot be "
            "loaded."
        )
    return cid


def _segment(part: str, quoted: str) -> str:
    return _check_name(_decode(part, quoted), quoted)


def _check_name(name: str, quoted: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidURI(f"{quoted} has {name!r} in its path, which cannot be the name of a file in a directory.")
    return name


def _decode(text: str, quoted: str) -> str:
    bad = _BAD_PERCENT.search(text)
    if bad:
        raise InvalidURI(
            f"{quoted} has a '%' that is not followed by two hexadecimal digits ({bad[0]!r}). A '%' itself is written "
            "as %25."
        )
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURI(f"{quoted} has percent-encoded bytes that are not UTF-8 ({text!r}).") from None


def _encode(text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidURI(
            f"{text!a} is not Unicode text (half of a surrogate pair), so it cannot be in a URI."
        ) from None


def _check_group(group: str, origin: str) -> str:
    """The ID of a group, if it is one; or `OWN`.

    Args:
        group: the text.
        origin: where it came from, for the error.

    Raises:
        InvalidURI: it is none.
    """
    if group != OWN and not GROUP_ID.fullmatch(group):
        raise InvalidURI(
            f"{shown(group)} ({origin}) is not the ID of a group: that is 26 letters a-z and digits 2-7. Those of your "
            "groups: kachery-cloud-group list"
        )
    return group


@dataclass
class _Said:
    """What a URI says beside its CID and path."""

    label: str | None = None
    providers: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    encryption: str | None = None

    def encrypted(self, how: str, quoted: str) -> None:
        """Take how it is encrypted."""
        if how != AGE:
            raise InvalidURI(
                f"{quoted} says encryption={shown(how)}, which is not known here: it may be 'age'. Update "
                "kachery-cloud if a newer one made the URI."
            )
        self.encryption = how

    def name(self, label: str, quoted: str) -> None:
        """Take a label."""
        if self.label is not None:
            raise InvalidURI(f"{quoted} has two labels. Only one can be meant: leave out the other.")
        self.label = label

    def ask(self, address: str) -> None:
        """Take the address of a provider."""
        address = check_peer_address(address, "a provider in the URI")
        if address not in self.providers:
            self.providers.append(address)

    def restrict(self, group: str) -> None:
        """Take the ID of a group."""
        group = _check_group(group, "a group in the URI")
        if group not in self.groups:
            self.groups.append(group)
        if len(self.groups) > MAX_GROUPS:
            raise InvalidURI(f"The URI names more than {MAX_GROUPS} groups; no more are asked for one URI.")


def _notes(notes: str, quoted: str) -> _Said:
    """Label, providers and groups that stand before the CID."""
    said = _Said()
    for key, equals, value in uri_notes.pairs(notes):
        if key == "label" and equals and "=" not in value and ":" not in value:
            said.name(_decode(value, quoted), quoted)
        elif key == "encryption" and equals:
            said.encrypted(value, quoted)
        elif key == "provider" and value:
            for address in uri_notes.addresses(value, lambda part: _decode(part, quoted)):
                said.ask(address)
        elif key == "group" and equals:
            said.restrict(_decode(value, quoted))
        else:
            raise InvalidURI(
                f"{quoted} has {shown(key + equals + value)} before its '@', which is neither a label nor the address "
                "of a peer nor a group (nor may it be a user or a port). It is written ipfs://label=NAME@CID, or "
                "ipfs://label=NAME+provider=PEER=ip4:192.168.1.20:tcp:4001@CID."
            )
    if len(said.providers) > uri_notes.MAX_ADDRESSES:
        raise InvalidAddress(
            f"{quoted} has {len(said.providers)} addresses of peers before its '@'. More than "
            f"{uri_notes.MAX_ADDRESSES} are not asked for one URI."
        )
    for address in said.providers:
        uri_notes.check_address(address)
    return said


def _query(query: str, before: str, quoted: str, said: _Said) -> _Said:
    """Label, providers and groups, with what was said before the CID."""
    if "?" in query:
        raise InvalidURI(
            f"{quoted} has two '?'. What comes after the first is joined by '&', as in ?label=NAME&provider=ADDRESS; a "
            "'?' in a name is written as %3F."
        )
    for number, pair in enumerate(query.split("&") if query else ()):
        key, equals, value = pair.partition("=")
        if key == "provider" and equals:
            said.ask(_decode(value, quoted))
            continue
        if key == "encryption" and equals:
            said.encrypted(value, quoted)
            continue
        if key == "group" and equals:
            said.restrict(_decode(value, quoted))
            continue
        if not equals and key not in ("", *_PARAMETERS) and number == 0:
            key, value = "label", key  # ipfs://CID?name.json, of older releases
        elif key not in ("", *_PARAMETERS):
            raise InvalidURI(
                f"{quoted} has the parameter {key!r}, which is not known here: it may be label=NAME, "
                "provider=ADDRESS, group=ID or encryption=age. Leave it out, or update kachery-cloud if a newer one "
                "made the URI."
            )
        elif not key or not equals:
            raise InvalidURI(
                f"{quoted} has an empty parameter in its query; it is written label=NAME, provider=ADDRESS or group=ID."
            )
        if "/" in value and said.label is None:
            first, _, path = value.partition("/")
            raise InvalidURI(
                f"{quoted} has a '/' in its label. The path to a file goes before the '?': "
                f"ipfs://{before}/{path}?label={first} (in Python: kcl.join(uri, {unquote(path)!r})). A '/' in a label "
                "is written as %2F."
            )
        said.name(_decode(value, quoted), quoted)
    return said
