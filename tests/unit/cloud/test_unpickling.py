"""load_pkl reads files from strangers: whatever they hold, nothing runs, and memory stays bounded."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kachery_cloud.errors import FormatError, UnsafePickle
from kachery_cloud.formats.unpickling import load_pickle
from tests.helpers.pickles import canonical_pickle

HEAD = b"\x80\x04"


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL"""
    return text(module) + text(attribute) + b"\x93"


def old_name(module: str, attribute: str) -> bytes:
    """GLOBAL"""
    return f"c{module}\n{attribute}\n".encode()


class Attack:
    """Reduces to any call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


MARKER = "KACHERY_TEST_MARKER"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "attack",
    [
        Attack(os.system, f"touch {MARKER}"),
        Attack(eval, f"open({MARKER!r}, 'w')"),
        Attack(exec, f"open({MARKER!r}, 'w')"),
        Attack(subprocess.Popen, ["touch", MARKER]),
        Attack(open, MARKER, "w"),
        Attack(getattr, "x", "join"),
        Attack(__import__, "os"),
        Attack(Path, "x"),
        Attack(np.load, MARKER),
        Attack(np.fromfile, MARKER),
        Attack(np.frombuffer, b"x"),
    ],
    ids=lambda a: a.call[0].__name__,
)
def test_calls_outside_the_list_are_refused(
    attack: Attack, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os.system, eval, open, getattr and the like: an error that names them, and no trace of their work."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickle, match=r"not on the list"):
        load_pickle(pickle.dumps({"data": [attack]}, protocol=protocol))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spell", [name, old_name])
@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("builtins", "type"),
        ("builtins", "object"),
        ("builtins", "__import__"),
        ("builtins", "complex.__class__"),
        ("builtins", "set.__init__"),
        ("numpy", "core.multiarray"),
        ("numpy", "core.multiarray._reconstruct"),
        ("numpy.core", "multiarray.scalar"),
        ("numpy", "dtype.__class__"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "os.system"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core.multiarray", "__builtins__"),
        ("numpy.lib.format", "read_array"),
        ("datetime", "sys.modules"),
        ("datetime", "datetime.now"),
        ("collections", "namedtuple"),
        ("collections", "defaultdict"),
        ("_codecs", "encode"),
        ("copyreg", "_reconstructor"),
        ("copyreg", "__newobj__"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("kachery_cloud.formats.unpickling", "load_pickle"),
        ("", ""),
        ("builtins", ""),
    ],
)
def test_only_exact_names_are_found(spell: Any, module: str, attribute: str) -> None:
    """Dotted names, aliases and neighbours of allowed names are not on the list."""
    with pytest.raises(UnsafePickle):
        load_pickle(HEAD + spell(module, attribute) + b".")


BAD_UNIT = b"K\x00}(C\x02xxK\x01K\x01K\x01t\x86t"
SCALAR = name("numpy.core.multiarray", "scalar")
ARRAY = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"


def dtype(spec: str, state: bytes = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t") -> bytes:
    return name("numpy", "dtype") + text(spec) + b"\x89\x88\x87R" + state + b"b"


def structured(itemsize: int, offset: int, field: bytes = dtype("i8")) -> bytes:
    state = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + field + b"J"
    return dtype(
        "V8", state + struct.pack("<i", offset) + b"\x86sJ" + struct.pack("<i", itemsize) + b"K\x01K\x10tb"[:-1]
    )


@pytest.mark.parametrize(
    "body",
    [
        # dtypes that numpy's own __setstate__ would take, and read outside of its memory with
        structured(8, 1_000_000),
        structured(8, 1),
        structured(8, -8),
        structured(-1, 0),
        dtype("O8"),
        dtype("O"),
        dtype("i8", b"N"),
        dtype("i8", b")"),
        dtype("S5", b"(K\x03" + text("|") + b"NNNJ\x40\x42\x0f\x00K\x01K\x00t"),
        dtype("i8", b"(K\x03" + text("<") + b"NNNJ\x01\x00\x00\x00J\xff\xff\xff\xffK\x00t"),
        dtype("i8,O"),
        dtype("numpy.object_"),
        dtype("M8", b"(K\x04" + text("<") + b"NNNJ" + b"\xff" * 4 + b"J" + b"\xff" * 4 + BAD_UNIT),
        # a dtype that is used before it has its state
        name("numpy", "dtype") + text("i8") + b"\x89\x88\x87R",
        name("numpy", "dtype") + text("i8") + b"\x89\x88\x87R" + b"\x85",
        # arrays
        ARRAY + b"(K\x01K\x02\x85" + dtype("i8") + b"\x89C\x08" + b"\0" * 8 + b"tb",
        ARRAY + b"(K\x01K\x02\x85" + dtype("i8") + b"\x89]tb",
        ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + dtype("i8") + b"\x89C\x00tb",
        ARRAY + b"(K\x01K\x01\x85" + text("i8") + b"\x89C\x08" + b"\0" * 8 + b"tb",
        ARRAY + b"N" + b"b",
        ARRAY,
        ARRAY + b"\x85",
        b"]" + ARRAY + b"a",
        b"}" + text("k") + ARRAY + b"s",
        name("numpy.core.multiarray", "_reconstruct") + name("builtins", "bytearray") + b"K\x00\x85C\x01b\x87R",
        name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"J\x00\x00\x00\x40\x85C\x01b\x87R",
        name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01O\x87R",
        SCALAR + dtype("i8") + b"C\x07" + b"\0" * 7 + b"\x86R",
        SCALAR + dtype("i8") + b"N\x86R",
        SCALAR + dtype("i8") + b"\x85R",
        # classes where values are meant, and calls of what is no constructor
        name("numpy", "ndarray"),
        name("numpy", "dtype"),
        b"]" + name("numpy", "ndarray") + b"a",
        name("numpy", "ndarray") + b")R",
        name("numpy", "ndarray") + b"K\x05\x85R",
        name("numpy", "ndarray") + b")\x81",
        name("datetime", "datetime") + b")\x81",
        name("uuid", "UUID") + b")\x81",
        name("uuid", "UUID") + b")\x81}" + text("int") + b"K\x01s" + text("is_safe") + b"K\x01sb",
        name("uuid", "UUID") + b")R",
        b"K\x01)R",
        text("eval") + b")R",
        # BUILD on values that have no state to take
        b"]}b",
        b"}}" + text("__class__") + b"K\x01sb",
        name("collections", "OrderedDict") + b")R}" + text("x") + b"K\x01sb",
        name("datetime", "timedelta") + b"K\x01K\x01K\x01\x87R}b",
        # arguments of the wrong kind for allowed constructors
        name("builtins", "complex") + text("1+2j") + b"\x85R",
        name("builtins", "set") + text("abc") + b"\x85R",
        name("builtins", "bytearray") + b"J\x00\x00\x00\x7f\x85R",
        name("builtins", "range") + b"K\x01\x85R",
        name("builtins", "frozenset") + name("builtins", "set") + b"\x85R",
        name("decimal", "Decimal") + b"K\x01\x85R",
        name("decimal", "Decimal") + text("abc") + b"\x85R",
        name("fractions", "Fraction") + b"K\x01K\x00\x86R",
        name("fractions", "Fraction") + text("1e999999999") + b"\x85R",
        name("datetime", "datetime") + b"C\x0a" + b"\xff" * 10 + b"\x85R",
        name("datetime", "date") + b"C\x02ab\x85R",
        name("datetime", "timedelta") + b"G" + b"\0" * 8 + b"K\x00K\x00\x87R",
        name("datetime", "timezone") + b"K\x01\x85R",
        name("datetime", "datetime") + b"C\x0a" + b"\x07\xe4" + b"\x01" * 8 + b"K\x05\x86R",
        name("collections", "OrderedDict") + b"](K\x01K\x02e\x85R",
        # items added to what is no container of them
        b"K\x01K\x02a",
        b")K\x02a",
        name("numpy", "ndarray") + b"K\x02a",
        dtype("i8") + b"K\x01K\x02s",
        b"](K\x01\x90",
        # unhashable keys, and keys whose hash would exhaust the stack or never end
        b"}]K\x01s",
        b"\x8f(]\x90",
        b"}" + b")" + b"\x85" * 5000 + b"K\x01s",
        b"}" + b")" + b"\x94h\x00h\x00\x86\x94h\x01h\x01\x86" + b"".join(
            b"\x94h" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(2, 90)
        ) + b"K\x01s",
        b"(" + b")" + b"\x85" * 5000 + b"\x91",
        # instructions that data does not need
        b"P1\n",
        b"K\x01Q",
        b"\x82\x01",
        b"\x83\x01\x00",
        b"\x84\x01\x00\x00\x00",
        b"(ios\nsystem\n",
        b"(" + old_name("os", "system") + text("true") + b"o",
        name("builtins", "complex") + b")}\x92",
        b"\x97",
        b"\x97\x98",
        b"I1\n",
        b"S'a'\n",
        b"K\x012",
    ],
    ids=lambda body: body.hex()[:30],
)  # fmt: skip
def test_crafted_pickles_are_refused(body: bytes) -> None:
    """Every trick is an UnsafePickle or a FormatError, at once, and never another exception or a crash."""
    begun = time.process_time()
    with pytest.raises(FormatError):
        load_pickle(HEAD + body + b".")
    assert time.process_time() - begun < 1


def test_the_crafted_pieces_are_right_when_they_are_honest() -> None:
    """The pieces the attacks are made of do load when used as data uses them: the refusals above are earned."""
    array = load_pickle(HEAD + ARRAY + b"(K\x01K\x01\x85" + dtype("i8") + b"\x89C\x08\x05" + b"\0" * 7 + b"tb.")
    assert array.tolist() == [5]
    assert load_pickle(HEAD + SCALAR + dtype("i8") + b"C\x08\x05" + b"\0" * 7 + b"\x86R.") == 5
    record = load_pickle(HEAD + SCALAR + structured(8, 0) + b"C\x08\x05" + b"\0" * 7 + b"\x86R.")
    assert record["a"] == 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"hello",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x06N.",
        b"\x80\x00N.",
        b"\x80\x04NN.",
        b"\x80\x04(.",
        b"\x80\x04h\x05.",
        b"\x80\x04\x87.",
        b"\x80\x04u.",
        b"\x80\x04(K\x01u.",
        b"\x80\x04}(K\x01u.",
        b"\x80\x04X\xff\xff\xff\xff.",
        b"\x80\x04\x8e" + b"\xff" * 8 + b".",
        b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0f.",
        b"\x80\x05\x96" + b"\xff" * 8 + b".",
        b"\x80\x04\x8b\xff\xff\xff\xff.",
        b"\x80\x04\x8b\xff\xff\xff\x7f.",
        b"\x80\x04\x8c\x01\xff.",
        b"\x80\x04\xff.",
        b"\x80\x04c" + b"a" * 1000,
    ],
)
def test_damaged_pickles_are_format_errors(data: bytes) -> None:
    """Cut short, lengths that lie (without memory being taken for them), no pickle at all."""
    with pytest.raises(FormatError):
        load_pickle(data)


def test_memory_does_not_follow_a_bomb() -> None:
    """A file may not unfold into much more than its size: one string made into arrays over and over is refused, huge
    memo indices cost nothing."""
    chunk = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    body = chunk + b"\x940" + dtype("u1") + b"\x940" + b"]("
    one = ARRAY + b"(K\x01J\x00\x00\x10\x00\x85h\x01\x89h\x00tb"
    with pytest.raises(UnsafePickle, match="unfolds"):
        load_pickle(HEAD + body + one * 80 + b"e.")
    assert len(load_pickle(HEAD + body + one * 3 + b"e.")) == 3
    assert load_pickle(HEAD + b"Nr\xff\xff\xff\x7fj\xff\xff\xff\x7f0.") is None


def test_large_bytes_stay_what_they_are_in_every_place() -> None:
    """Bytes of 64 KiB and more, which are read lazily for arrays, are ordinary bytes in containers, tuples and keys."""
    big = bytes(range(256)) * 300
    value = [big, (big, 1), {big: (1, (big,))}, {"k": big}, {(big,)}, frozenset([big]), slice(big, None), big]
    assert load_pickle(pickle.dumps(value)) == value
    assert load_pickle(canonical_pickle(big)) == big


def test_loaded_arrays_own_their_memory() -> None:
    """An array stays right after the file it came from is gone, and can be written to."""
    data = bytearray(canonical_pickle(np.arange(100_000)))
    array = load_pickle(memoryview(data))
    data[:] = bytes(len(data))
    array[0] = 7
    assert array[0] == 7
    assert array[99_999] == 99_999


VALUE = {"a": np.arange(4, dtype="<i2"), "b": [1.5, "x", (1, None)], "c": {1, 2}, "d": np.float32(2), "e": 10**30}


@given(st.data())
def test_any_change_of_a_byte_is_harmless(data: st.DataObject) -> None:
    """A pickle with some bytes changed loads as something, or is a named error: never another exception."""
    blob = bytearray(canonical_pickle(VALUE))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(2, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_pickle(bytes(blob))
    except FormatError:
        pass


@given(st.binary(max_size=60))
@example(b"")
def test_any_bytes_are_harmless(body: bytes) -> None:
    """So is any sequence of instructions."""
    try:
        load_pickle(HEAD + body + b".")
    except FormatError:
        pass


def test_reading_imports_nothing() -> None:
    """Names in a pickle are looked up in a table, never imported: a module with side effects is not even loaded."""
    code = (
        "import sys\n"
        "from kachery_cloud.formats.unpickling import load_pickle\n"
        "try: load_pickle(b'\\x80\\x04\\x8c\\x04this\\x8c\\x01d\\x93.')\n"
        "except Exception as e: print(type(e).__name__)\n"
        "print('this' in sys.modules, 'pickle' in sys.modules, 'numpy' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["UnsafePickle", "False", "False", "False"]
