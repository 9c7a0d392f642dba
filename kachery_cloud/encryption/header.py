"""The header of an age v1 file: whom it is for, each with the file key wrapped for them, and a MAC over all of that.

    header  = "age-encryption.org/v1" LF 1*stanza "--- " MAC LF
    stanza  = "->" 1*( SP argument ) LF *( 64 base64 characters LF ) less than 64 base64 characters LF

Base64 is canonical, without padding. Nothing else is taken for a header, and none is read beyond a bound: a stranger
may have written it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from kachery_cloud.errors import EncryptionError

#: What an age file begins with.
MAGIC = b"age-encryption.org/v1\n"
#: Bytes of a header, and stanzas in it, that are read at most. A stanza has some 100 bytes, for an RSA key 800.
MAX_HEADER = 1 << 20
MAX_STANZAS = 1_000
_COLUMNS = 64
_ARGUMENTS = re.compile(rb"-> [\x21-\x7e]+(?: [\x21-\x7e]+)*")
_MAC = re.compile(rb"--- ([A-Za-z0-9+/]{43})")


@dataclass(frozen=True)
class Stanza:
    """One way to get at the file key.

    Attributes:
        kind: "X25519", "scrypt", "ssh-ed25519", "ssh-rsa", or of another program.
        arguments: what that kind has, without its name.
        body: the wrapped key.
    """

    kind: str
    arguments: tuple[str, ...]
    body: bytes

    def encode(self) -> bytes:
        """As it stands in a header."""
        body = encode64(self.body)
        lines = [body[start : start + _COLUMNS] for start in range(0, len(body) + 1, _COLUMNS)]
        return "\n".join([" ".join(["->", self.kind, *self.arguments]), *lines, ""]).encode("ascii")


@dataclass(frozen=True)
class Header:
    """A header that was read. Its MAC can be checked once the file key is known.

    Attributes:
        stanzas: in order.
        mac: 32 bytes.
        signed: the bytes that the MAC is of.
        size: bytes of the header; the payload follows.
    """

    stanzas: tuple[Stanza, ...]
    mac: bytes
    signed: bytes
    size: int


def encode64(data: bytes) -> str:
    """Base64 without padding."""
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def decode64(text: str | bytes) -> bytes:
    """The bytes.

    Raises:
        ValueError: it is not canonical base64 without padding.
    """
    given = text.encode("ascii") if isinstance(text, str) else text
    try:
        data = base64.b64decode(given + b"=" * (-len(given) % 4), validate=True)
    except binascii.Error:
        raise ValueError("it is not base64") from None
    if encode64(data).encode("ascii") != given:
        raise ValueError("it is not canonical base64")
    return data


def signed_part(stanzas: list[Stanza]) -> bytes:
    """The part of a header that its MAC is of."""
    return MAGIC + b"".join(stanza.encode() for stanza in stanzas) + b"---"


def parse_header(data: bytes, *, is_all: bool) -> Header | None:
    """Read the header of an age file.

    Args:
        data: the first bytes of it.
        is_all: whether there are no more.

    Returns:
        The header; None where more bytes are needed.

    Raises:
        EncryptionError: it has none, or one that cannot be.
    """
    if not MAGIC.startswith(data[: len(MAGIC)]) or (is_all and len(data) < len(MAGIC)):
        raise EncryptionError(
            "It is no age file: it does not begin with 'age-encryption.org/v1'. The URI says that it is encrypted; "
            "leave out encryption=age to load it as it is."
        )
    at, stanzas = len(MAGIC), []
    while True:
        end = _line(data, at, is_all)
        if end is None:
            return None
        line = data[at:end]
        if line.startswith(b"---"):
            found = _MAC.fullmatch(line)
            if found is None or not stanzas:
                raise _damaged("the line of its MAC" if stanzas else "no recipient")
            header = Header(tuple(stanzas), _decoded(found[1], "its MAC"), data[: at + 3], end + 1)
            if len(stanzas) > 1 and any(stanza.kind == "scrypt" for stanza in stanzas):
                raise _damaged("a passphrase beside another recipient")
            return header
        if len(stanzas) == MAX_STANZAS:
            raise EncryptionError(f"The header of the age file names more than {MAX_STANZAS:,} recipients.")
        if not _ARGUMENTS.fullmatch(line):
            raise _damaged("the line of a recipient")
        kind, *arguments = line.decode("ascii").split(" ")[1:]
        body = b""
        while True:
            at = end + 1
            end = _line(data, at, is_all)
            if end is None:
                return None
            if end - at > _COLUMNS:
                raise _damaged("a line that is too long")
            body += _decoded(data[at:end], "a wrapped key")
            if end - at < _COLUMNS:
                break
        stanzas.append(Stanza(kind, tuple(arguments), body))
        at = end + 1


def _line(data: bytes, at: int, is_all: bool) -> int | None:
    """Where a line ends; None where its end has not come."""
    end = data.find(b"\n", at, MAX_HEADER)
    if end >= 0:
        return end
    if len(data) >= MAX_HEADER:
        raise EncryptionError(f"The header of the age file is longer than {MAX_HEADER:,} bytes.")
    if is_all:
        raise _damaged("no end")
    return None


def _decoded(text: bytes, what: str) -> bytes:
    try:
        return decode64(text)
    except ValueError:
        raise _damaged(what) from None


def _damaged(what: str) -> EncryptionError:
    return EncryptionError(f"The header of the age file is damaged, or was changed: {what}.")
