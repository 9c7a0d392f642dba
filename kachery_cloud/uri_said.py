"""What a URI says beside its CID and path: label, providers, groups, how it is encrypted. See `kachery_cloud.uri`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from kachery_cloud import uri_notes
from kachery_cloud.errors import InvalidAddress, InvalidURI
from kachery_cloud.peer_addresses import check_peer_address
from kachery_p2p.access.audience import GROUP_ID, OWN
from kachery_p2p.text import shown

#: So much of a URI is quoted in an error.
SHOWN = 300
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")
#: How content may be encrypted.
AGE = "age"
#: The parameters of a query.
_PARAMETERS = ("label", "provider", "group", "encryption")
#: Groups of one URI, and so for which one thing can be at once: each is asked for.
MAX_GROUPS = 16


def decode(text: str, quoted: str) -> str:
    """Percent-encoded UTF-8 as text.

    Raises:
        InvalidURI: it is none; `quoted` is the URI, for the error.
    """
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


def encode(text: str) -> str:
    """Text as percent-encoded UTF-8.

    Raises:
        InvalidURI: it is not Unicode.
    """
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidURI(
            f"{text!a} is not Unicode text (half of a surrogate pair), so it cannot be in a URI."
        ) from None


def check_group(group: str, origin: str) -> str:
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
class Said:
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
        group = check_group(group, "a group in the URI")
        if group not in self.groups:
            self.groups.append(group)
        if len(self.groups) > MAX_GROUPS:
            raise InvalidURI(f"The URI names more than {MAX_GROUPS} groups; no more are asked for one URI.")


def read_notes(notes: str, quoted: str) -> Said:
    """Label, providers and groups that stand before the CID."""
    said = Said()
    for key, equals, value in uri_notes.pairs(notes):
        if key == "label" and equals and "=" not in value and ":" not in value:
            said.name(decode(value, quoted), quoted)
        elif key == "encryption" and equals:
            said.encrypted(value, quoted)
        elif key == "provider" and value:
            for address in uri_notes.addresses(value, lambda part: decode(part, quoted)):
                said.ask(address)
        elif key == "group" and equals:
            said.restrict(decode(value, quoted))
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


def read_query(query: str, before: str, quoted: str, said: Said) -> Said:
    """Label, providers and groups, with what was said before the CID."""
    if "?" in query:
        raise InvalidURI(
            f"{quoted} has two '?'. What comes after the first is joined by '&', as in ?label=NAME&provider=ADDRESS; a "
            "'?' in a name is written as %3F."
        )
    for number, pair in enumerate(query.split("&") if query else ()):
        key, equals, value = pair.partition("=")
        if key == "provider" and equals:
            said.ask(decode(value, quoted))
            continue
        if key == "encryption" and equals:
            said.encrypted(value, quoted)
            continue
        if key == "group" and equals:
            said.restrict(decode(value, quoted))
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
        said.name(decode(value, quoted), quoted)
    return said
