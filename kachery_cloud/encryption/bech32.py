"""Bech32 (BIP 173), in which age writes its keys. Without the bound of 90 characters, as age has it."""

from __future__ import annotations

_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM = 6


def encode(prefix: str, data: bytes) -> str:
    """Bytes as text in lower case, behind a prefix."""
    values = _regrouped(data, 8, 5, pad=True)
    rest = _polymod([*_expanded(prefix), *values, *[0] * _CHECKSUM]) ^ 1
    checksum = [(rest >> 5 * (_CHECKSUM - 1 - place)) & 31 for place in range(_CHECKSUM)]
    return prefix + "1" + "".join(_LETTERS[value] for value in [*values, *checksum])


def decode(text: str) -> tuple[str, bytes]:
    """The prefix, in lower case, and the bytes.

    Raises:
        ValueError: it is not Bech32. The message does not repeat it, for it may be a secret.
    """
    if text.lower() != text and text.upper() != text:
        raise ValueError("has small and capital letters")
    prefix, separator, rest = text.lower().rpartition("1")
    if not separator or not prefix or len(rest) < _CHECKSUM or any(letter not in _LETTERS for letter in rest):
        raise ValueError("has other characters than a key has")
    values = [_LETTERS.index(letter) for letter in rest]
    if not all(33 <= ord(letter) <= 126 for letter in prefix) or _polymod([*_expanded(prefix), *values]) != 1:
        raise ValueError("was not copied as a whole: its checksum is wrong")
    return prefix, bytes(_regrouped(values[:-_CHECKSUM], 5, 8, pad=False))


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATOR):
            if top >> place & 1:
                check ^= generator
    return check


def _expanded(prefix: str) -> list[int]:
    return [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]


def _regrouped(data: bytes | list[int], of: int, to: int, *, pad: bool) -> list[int]:
    """Groups of bits as groups of another size."""
    held = bits = 0
    found = []
    for value in data:
        held = held << of | value
        bits += of
        while bits >= to:
            bits -= to
            found.append(held >> bits & (1 << to) - 1)
        held &= (1 << bits) - 1
    if pad and bits:
        found.append(held << to - bits & (1 << to) - 1)
    elif not pad and (bits >= of or held):
        raise ValueError("has left-over bits at its end")
    return found
