"""Looking for CIDs in a record of what somebody saw, in every way in which they may stand there."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping

from kachery_p2p.dag.cid import CID, DAG_PB, RAW

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
#: Bytes of a form that are looked up; what they find is compared as a whole.
_WINDOW = 16


def forms(multihash: bytes) -> set[bytes]:
    """How a block may be named: its hash, its multihash and its CIDs, as bytes and in every base that is in use.

    Where a base gives other text by where the bytes begin in what is encoded, that is the text for each beginning,
    without what depends on the neighbours.
    """
    digest = multihash[2:]
    found = {digest, digest[::-1]}
    cids = [bytes(CID(1, codec, multihash)) for codec in (RAW, DAG_PB, 0x71, 0x72)]
    for value in (digest, multihash, *cids):
        found |= {value.hex().encode(), value.hex().upper().encode(), repr(value)[2:-1].encode()}
        found |= {number.encode() for number in (_in_base(value, _BASE36), _in_base(value, _BASE58))}
        found |= {_in_base(value, _BASE36).upper().encode()}
    for shift in range(5):
        found |= {text for plain in _inner(digest, shift, 5, 8, base64.b32encode) for text in (plain, plain.lower())}
        found |= {text for plain in _inner(digest, shift, 5, 8, _base32hex) for text in (plain, plain.lower())}
    for shift in range(3):
        found |= set(_inner(digest, shift, 3, 4, base64.b64encode))
        found |= set(_inner(digest, shift, 3, 4, base64.urlsafe_b64encode))
    return found


def _base32hex(data: bytes) -> bytes:
    plain = base64.b32encode(data)
    return plain.translate(bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHIJKLMNOPQRSTUV"))


def _inner(data: bytes, shift: int, group: int, letters: int, encode: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """What these bytes come to, `shift` bytes after the beginning of a group, without the letters of the edges."""
    whole = (shift + len(data)) // group
    text = encode(bytes(shift) + data)
    yield text[letters if shift else 0 : whole * letters]


def _in_base(data: bytes, alphabet: str) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, len(alphabet))
        text = alphabet[digit] + text
    return text


class Search:
    """Finds which of many blocks a record names. Looks at each place of it once, however many blocks there are."""

    def __init__(self, multihashes: Iterable[bytes]) -> None:
        self._forms: dict[bytes, list[tuple[bytes, bytes]]] = {}
        for multihash in multihashes:
            for form in forms(multihash):
                assert len(form) >= _WINDOW
                self._forms.setdefault(form[:_WINDOW], []).append((form, multihash))

    def named(self, record: bytes) -> dict[bytes, int]:
        """The blocks that a record names, by multihash, and where it does first."""
        found: dict[bytes, int] = {}
        starts = self._forms
        for at in range(len(record) - _WINDOW + 1):
            for form, multihash in starts.get(record[at : at + _WINDOW], ()):
                if record.startswith(form, at):
                    found.setdefault(multihash, at)
        return found

    def named_in(self, records: Mapping[str, bytes]) -> dict[bytes, str]:
        """The same for several records; the name of the first that names it."""
        found: dict[bytes, str] = {}
        for name, record in records.items():
            for multihash in self.named(record):
                found.setdefault(multihash, name)
        return found
