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
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from kachery_cloud import uri_notes
from kachery_cloud.errors import InvalidArgument, InvalidURI
from kachery_cloud.peer_addresses import check_peer_address, check_peer_addresses
from kachery_cloud.uri_said import AGE, MAX_GROUPS, SHOWN, Said, check_group, decode, encode, read_notes, read_query
from kachery_p2p.errors import InvalidCID, InvalidName, UnsupportedCID
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID

__all__ = [
    "AGE",
    "EXPECTED",
    "MAX_GROUPS",
    "ContentURI",
    "NameURI",
    "begins_with_cid",
    "check_label",
    "check_peer_address",
    "check_peer_addresses",
    "format_uri",
    "join",
    "parse_name_uri",
    "parse_uri",
    "with_groups",
    "without_key",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_NAME_URI = re.compile(r"ipns://|/ipns/", re.IGNORECASE)
_GATEWAY = re.compile(r"https?://[^/?#]+/ipfs/([A-Za-z0-9]{46,})(/[^?#]*)?", re.IGNORECASE)
_SUBDOMAIN = re.compile(r"https?://([A-Za-z0-9]{46,})\.ipfs\.[^/?#]+(/[^?#]*)?", re.IGNORECASE)
_KEY_MARK = "#key="
_LINK_KEY = re.compile(r"key=AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}")
_RAW_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: For errors: what is a URI.
EXPECTED = "Expected ipfs://<cid>, ipfs://<cid>/<path>, /ipfs/<cid> or a CID alone"
#: Longer than any file system lets a path be; a URI beyond it is a mistake (a text where a URI is meant).
_MAX_LENGTH = 16_384
#: The rest is for a path and providers.
_MAX_LABEL = _MAX_LENGTH // 2
#: A word that is longer is hardly what a file is called.
_LONGEST_NAME = 40


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
    before = read_notes(notes, quoted) if at else Said()
    cid = _content_cid(head, text, quoted)
    path = tuple(_segment(name, quoted) for name in names if name)
    said = read_query(query, rest, quoted, before)
    encryption = said.encryption or (AGE if key else None)
    found = ContentURI(str(cid), path, said.label, tuple(said.providers), tuple(said.groups), encryption, key)
    found.__dict__["root"] = cid  # it is parsed already
    return found


def parse_listed(uri: str) -> ContentURI:
    """The URI of something that is to be on this machine, as `parse_uri`. For other text it says how it is found.

    Raises:
        InvalidURI, InvalidCID, UnsupportedCID: as for `parse_uri`.
    """
    try:
        return parse_uri(uri)
    except (InvalidURI, InvalidCID):
        name = os.path.basename(uri.rstrip("/")) if isinstance(uri, str) else ""
        is_cid = len(name) > _LONGEST_NAME and name == uri and "." not in name  # with a mistake in it
        if not name.strip() or is_cid or "://" in uri or re.match(r"/?ip[fn]s[:/]", uri, re.IGNORECASE):
            raise
    raise InvalidURI(
        f"{shown(uri)} is not a URI. What is here is named by its URI, which is found by its label or path: "
        f"kachery-cloud list --find {shlex.quote(name)} (in Python: list(find=...))."
    )


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
    said = read_query(query, rest, quoted, Said())
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
    quoted = shown(text, SHOWN)
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
    more = "&".join("group=" + check_group(group, "a group") for group in groups)
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
    text = "/".join(["ipfs://" + cid, *(encode(_check_name(name, cid)) for name in path)])
    pairs = [] if label is None else ["label=" + encode(label)]
    pairs += ["provider=" + encode(address) for address in providers]
    pairs += ["group=" + check_group(group, "a group") for group in groups]
    pairs += [] if encryption is None else ["encryption=" + encode(encryption)]
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
    if len(encode(label)) > _MAX_LABEL:
        raise InvalidURI(f"The label is {len(label):,} characters long, too long for a URI.")


# --- parts -----------------------------------------------------------------------------------------------------------


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
    return _check_name(decode(part, quoted), quoted)


def _check_name(name: str, quoted: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidURI(f"{quoted} has {name!r} in its path, which cannot be the name of a file in a directory.")
    return name
