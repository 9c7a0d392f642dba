"""Small pickles that ask for far more time or memory than their size allows: `python -m tests.helpers.pickle_bombs`.

Each is loaded with a bound on CPU time that the system enforces. Prints, a line for each, its name, its size, the
seconds, the MiB that the process has grown by, and what came of it.
"""

from __future__ import annotations

import resource
import struct
import time
from collections.abc import Callable, Iterable

HEAD = b"\x80\x05"
SECONDS = 10
PRIME = (1 << 61) - 1  # whole numbers that differ by it have equal hashes


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL"""
    return text(module) + text(attribute) + b"\x93"


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def raw(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def long_text(data: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def plain_dtype(spec: str, size: int = -1, order: str = "<") -> bytes:
    state = b"(K\x03" + text(order) + b"NNNJ" + struct.pack("<i", size) + b"K\x01K\x00t"
    return name("numpy", "dtype") + text(spec) + b"\x89\x88\x87R" + state + b"b"


def dict_of(keys: Iterable[bytes]) -> bytes:
    """All keys in one instruction."""
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


def tuples_unfolded() -> bytes:
    """Tuples of tuples, each twice in the next, around bytes that are kept back until they are needed."""
    body = raw(b"A" * 65536) + put(0)
    return body + get(0) + b"\x86" + put(1) + b"".join(get(i) + b"\x86" + put(i + 1) for i in range(1, 40))


def sets_compared() -> bytes:
    """Two equal sets of sets of sets, which Python compares as trees of 2^40 parts."""

    def chain(base: int) -> bytes:
        body = b"(K\x01\x91" + put(base) + b"0"
        for i in range(base, base + 40):
            body += b"(" + get(i) + get(i) + b"\x85\x91" + put(i + 1) + b"0"
        return body

    return chain(0) + chain(1000) + b"\x8f(" + get(40) + get(1040) + b"\x90"


def tuple_hashed() -> bytes:
    """A key whose hash walks 2^60 parts."""
    body = b")" + put(0)
    return body + b"".join(b"0" + get(i) + get(i) + b"\x86" + put(i + 1) for i in range(60)) + b"0}" + get(60) + b"Ns"


def numbers_collide() -> bytes:
    return dict_of(number(k * PRIME) for k in range(1, 30_000))


def numbers_collide_one_by_one() -> bytes:
    return b"}" + b"".join(number(k * PRIME) + b"Ns" for k in range(1, 30_000))


def numbers_collide_in_a_set() -> bytes:
    return b"\x8f" + b"".join(b"(" + number(k * PRIME) + b"\x90" for k in range(1, 30_000))


def numbers_collide_in_a_frozenset() -> bytes:
    return b"(" + b"".join(number(k * PRIME) for k in range(1, 30_000)) + b"\x91"


def numbers_collide_in_a_list_made_a_set() -> bytes:
    numbers = b"".join(number(k * PRIME) for k in range(1, 30_000))
    return name("builtins", "set") + b"](" + numbers + b"e\x85R"


def numbers_collide_in_an_ordered_dict() -> bytes:
    return name("collections", "OrderedDict") + b")R" + dict_of(number(k * PRIME) for k in range(1, 30_000))[1:]


def tuples_collide() -> bytes:
    return dict_of(number(k * PRIME) + b"\x85" for k in range(1, 30_000))


def uuids_collide() -> bytes:
    """A UUID has the hash of its number, and is compared in Python."""
    body = name("uuid", "UUID") + put(0) + b"0"
    one = get(0) + b")\x81}" + text("int")
    return body + dict_of(one + number(k * PRIME) + b"sb" for k in range(1, 20_000))


def fractions_collide() -> bytes:
    body = name("fractions", "Fraction") + put(0) + b"0"
    return body + dict_of(get(0) + number(k * PRIME + 1) + number(PRIME + 2) + b"\x86R" for k in range(1, 10_000))


def one_number_collides_again() -> bytes:
    """Few numbers of equal hash, and the last of them set over and over."""
    body = dict_of(number(k * PRIME) for k in range(1, 3000)) + number(3000 * PRIME) + put(0) + b"0"
    return body + (get(0) + b"Ns") * 100_000


def equal_text_compared() -> bytes:
    """Two long texts that are equal but not one, used as a key in turn."""
    body = long_text(b"a" * 1_000_000) + put(0) + b"0" + long_text(b"a" * 1_000_000) + put(1) + b"0}"
    return body + (get(0) + b"Ns" + get(1) + b"Ns") * 100_000


def long_numbers_hashed() -> bytes:
    return number(1 << 8_000_000) + put(0) + b"0" + b"](" + (b"}" + get(0) + b"Ns") * 100_000 + b"e"


def scalars_copied() -> bytes:
    size = 1 << 20
    body = raw(b"A" * size) + put(0) + b"0" + plain_dtype(f"V{size}", size, "|") + put(1) + b"0"
    body += name("numpy._core.multiarray", "scalar") + put(2) + b"0]("
    return body + (get(2) + get(1) + get(0) + b"\x86R") * 1000 + b"e"


def lists_made_sets() -> bytes:
    """One list of 100 000 made a set, again and again."""
    body = b"](" + b"".join(b"J" + struct.pack("<i", i) for i in range(100_000)) + b"e" + put(0) + b"0"
    return body + name("builtins", "set") + put(1) + b"0](" + (get(1) + get(0) + b"\x85R") * 10_000 + b"e"


def fields_walked(levels: int = 18, width: int = 8) -> bytes:
    """A type of 8 fields at one place, each of them the type before: 8^18 fields."""
    body = name("numpy", "dtype") + put(900) + b"0" + plain_dtype("V1", 1, "|") + put(0) + b"0"
    names = [chr(97 + i) for i in range(width)]
    for i in range(levels):
        fields = b"".join(text(n) + get(i) + b"K\x00\x86" for n in names)
        body += get(900) + text("V1") + b"\x89\x88\x87R(K\x03" + text("|") + b"N(" + b"".join(map(text, names)) + b"t"
        body += b"}(" + fields + b"uK\x01K\x01K\x00tb" + put(i + 1) + b"0"
    return body + get(levels)


def text_fields_checked() -> bytes:
    """An array of 2^20 bytes whose type has 5 000 text fields at one place."""
    names = [str(i) for i in range(5000)]
    body = name("numpy", "dtype") + put(900) + b"0" + plain_dtype("U1", 4) + put(0) + b"0"
    body += get(900) + text("V4") + b"\x89\x88\x87R(K\x03" + text("|") + b"N(" + b"".join(map(text, names)) + b"t}("
    body += b"".join(text(n) + get(0) + b"K\x00\x86" for n in names) + b"uK\x04K\x01K\x00tb" + put(1) + b"0"
    body += raw(bytes(1 << 20)) + put(2) + b"0" + name("numpy._core.numeric", "_frombuffer") + put(3) + b"0]("
    one = get(3) + b"(" + get(2) + get(1) + b"J" + struct.pack("<i", 1 << 18) + b"\x85" + text("C") + b"tR"
    return body + one * 60 + b"e"


def empty_arrays_of_huge_items() -> bytes:
    body = plain_dtype("V999999999", 999_999_999, "|") + put(1) + b"0"
    body += name("numpy._core.numeric", "_frombuffer") + put(2) + b"0]("
    return body + (get(2) + b"(C\x00" + get(1) + b"K\x00\x85" + text("C") + b"tR") * 500 + b"e"


def arrays_of_many_dimensions() -> bytes:
    body = plain_dtype("u1") + put(1) + b"0(" + b"K\x00" * 32 + b"t" + put(3) + b"0"
    body += name("numpy._core.numeric", "_frombuffer") + put(2) + b"0(C\x00" + get(1) + get(3) + text("C") + b"t"
    return body + put(4) + b"0](" + (b"h\x02h\x04R") * 200_000 + b"e"


def slices_nested() -> bytes:
    """Python frees slices without a look at the stack."""
    body = name("builtins", "slice") + put(0) + b"0N" + put(1)
    return body + (b"0h\x00h\x01NN\x87Rq\x01") * 300_000


def fractions_reduced() -> bytes:
    body = name("fractions", "Fraction") + put(0) + b"0" + number((1 << 196_000) - 12345) + put(1) + b"0"
    return body + number((1 << 195_000) - 777) + put(2) + b"0](" + b"h\x00h\x01h\x02\x86R" * 100_000 + b"e"


def fractions_read() -> bytes:
    body = name("fractions", "Fraction") + put(0) + b"0" + long_text(b"7" * 3999 + b"/3") + put(1) + b"0"
    return body + b"](" + b"h\x00h\x01\x85R" * 200_000 + b"e"


def decimals_copied() -> bytes:
    body = name("decimal", "Decimal") + put(0) + b"0" + long_text(b"7" * 65_000) + put(1) + b"0"
    return body + b"](" + b"h\x00h\x01\x85R" * 200_000 + b"e"


def ranges_divided() -> bytes:
    start, step = number(1 << 8_000_000), number((1 << 4_000_000) + 1)
    return name("builtins", "range") + b"K\x00" + start + step + b"\x87R"


def built_again() -> bytes:
    """A value without its state yet, remembered 200 000 times, given a state 200 000 times."""
    body = b"}" + text("int") + b"K\x01s" + put(0) + b"0" + name("uuid", "UUID") + b")\x81" + b"q\x01" * 200_000
    return body + b"h\x01" * 1000 + (get(0) + b"b0") * 1000 + get(0) + b"b"


def sets_made() -> bytes:
    return b"](" + b"\x8f" * 1_500_000 + b"e"


def marks() -> bytes:
    return b"(" * 4_000_000


BOMBS: dict[str, Callable[[], bytes]] = {
    bomb.__name__: bomb
    for bomb in (
        *(tuples_unfolded, sets_compared, tuple_hashed, numbers_collide, numbers_collide_one_by_one),
        *(numbers_collide_in_a_set, numbers_collide_in_a_frozenset, numbers_collide_in_a_list_made_a_set),
        *(numbers_collide_in_an_ordered_dict, tuples_collide, uuids_collide, fractions_collide),
        *(one_number_collides_again, equal_text_compared, long_numbers_hashed, scalars_copied, lists_made_sets),
        *(fields_walked, text_fields_checked, empty_arrays_of_huge_items, arrays_of_many_dimensions, slices_nested),
        *(fractions_reduced, fractions_read, decimals_copied, ranges_divided, built_again, sets_made, marks),
    )
}


def main() -> None:
    import numpy as np

    from kachery_cloud.errors import FormatError
    from kachery_cloud.formats.unpickling import load_pickle

    load_pickle(b"\x80\x04N.")
    np.zeros(1)
    for label, bomb in BOMBS.items():
        data = HEAD + bomb() + b"."
        before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(begun) + SECONDS + 1, resource.RLIM_INFINITY))
        try:
            came = type(load_pickle(data)).__name__
        except FormatError as exc:
            came = type(exc).__name__
        seconds = time.process_time() - begun
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        print(f"{label} {len(data)} {seconds:.2f} {grown} {came}", flush=True)


if __name__ == "__main__":
    main()
