"""`swarm.key`: the format of Kubo, and what is said of files that are not in it."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.errors import KacheryError, SwarmKeyError
from kachery_p2p.repo.swarm_key import (
    fingerprint,
    format_swarm_key,
    generate_swarm_key,
    loose_permissions,
    parse_swarm_key,
    read_swarm_key,
    write_swarm_key,
)

KEY = bytes(range(32))
HEADER = b"/key/swarm/psk/1.0.0/"


def put(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "swarm.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_new_key_is_written_once_and_read_back(tmp_path: Path) -> None:
    """Three lines as Kubo reads them, for the owner alone, in a folder made for it; no second key replaces it."""
    path = tmp_path / "new" / "swarm.key"
    write_swarm_key(path, KEY)
    assert path.read_bytes() == HEADER + b"\n/base16/\n" + KEY.hex().encode() + b"\n"
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_swarm_key(path.parent) == KEY
    with pytest.raises(SwarmKeyError, match=r"never overwritten.*mv ") as caught:
        write_swarm_key(path, bytes(32))
    assert caught.value.exit_code == 5
    assert read_swarm_key(path.parent) == KEY


def test_no_file_is_no_private_network(tmp_path: Path) -> None:
    """Nothing there, or not even a directory: None."""
    assert read_swarm_key(tmp_path) is None
    assert read_swarm_key(tmp_path / "missing") is None


def test_keys_are_random() -> None:
    """Two keys differ, and have 32 bytes."""
    one, other = generate_swarm_key(), generate_swarm_key()
    assert one != other
    assert len(one) == len(other) == 32


@given(key=st.binary(min_size=32, max_size=32), newline=st.sampled_from([b"\n", b"\r\n"]), end=st.booleans())
def test_every_encoding_of_a_key_is_read(key: bytes, newline: bytes, end: bool) -> None:
    """Hexadecimal in either case, base64, and plain bytes of any value; with line ends of Windows, too."""
    for name, text in (
        (b"/base16/", key.hex().encode()),
        (b"/base16/", key.hex().upper().encode()),
        (b"/base64/", base64.b64encode(key)),
        (b"/bin/", key),
    ):
        content = newline.join([HEADER, name, text]) + (newline if end else b"")
        assert parse_swarm_key(content) == key
    assert parse_swarm_key(format_swarm_key(key).encode()) == key


HEX = KEY.hex().encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Line 1"),
        (HEX, "Line 1"),
        (b"/key/swarm/psk/2.0.0/\n/base16/\n" + HEX, "Line 1"),
        (b" " + HEADER + b"\n/base16/\n" + HEX, "Line 1"),
        (HEADER, "Line 2"),
        (HEADER + b"\n" + HEX, "Line 2"),
        (HEADER + b"\n/base32/\n" + HEX, "Line 2"),
        (HEADER + b"\n/base16/\n", "Line 3.* 0 bytes"),
        (HEADER + b"\n/base16/\n" + HEX[:-2], "Line 3.* 31 bytes"),
        (HEADER + b"\n/base16/\n" + HEX[:-1], "Line 3.*hexadecimal"),
        (HEADER + b"\n/base16/\n" + HEX + b"00", "Line 3.* 33 bytes"),
        (HEADER + b"\n/base16/\n" + HEX[:-1] + b"g", "Line 3.*hexadecimal"),
        (HEADER + b"\n/base16/\n" + HEX[:32] + b" " + HEX[32:], "Line 3.*hexadecimal"),
        (HEADER + b"\n/base16/\n" + b"\xff" * 64, "Line 3.*hexadecimal"),
        (HEADER + b"\n/base64/\n" + HEX, "Line 3.* 48 bytes"),
        (HEADER + b"\n/base64/\n" + base64.b64encode(KEY)[:-1], "Line 3.*base64"),
        (HEADER + b"\n/bin/\n" + KEY[:-1], "Line 3.* 31 bytes"),
        (HEADER + b"\n/bin/\n" + KEY + b"x", "Line 3.* 33 bytes"),
        (HEADER + b"\n/base16/\n" + HEX * 1000, "more than 4,096 bytes"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    """A damaged file stops the node with a sentence about the file and the line, and never shows the key."""
    path = put(tmp_path, content)
    with pytest.raises(SwarmKeyError, match=says) as caught:
        read_swarm_key(tmp_path)
    text = str(caught.value)
    assert str(path) in text
    assert HEX[:16].decode() not in text
    assert base64.b64encode(KEY)[:12].decode() not in text
    assert caught.value.__cause__ is None


@given(content=st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: HEADER + b"\n/base64/\n" + rest))
def test_no_content_is_anything_but_a_key_or_an_error(content: bytes) -> None:
    """Whatever the file holds: 32 bytes or the named error."""
    try:
        assert len(parse_swarm_key(content)) == 32
    except SwarmKeyError:
        pass


def test_a_name_that_leads_nowhere_is_not_read_as_no_key(tmp_path: Path) -> None:
    """A broken link, or a folder of that name, stops the node: it must not go out unprotected."""
    (tmp_path / "swarm.key").symlink_to(tmp_path / "not mounted")
    with pytest.raises(SwarmKeyError, match="not a file"):
        read_swarm_key(tmp_path)
    (tmp_path / "swarm.key").unlink()
    (tmp_path / "swarm.key").mkdir()
    with pytest.raises(SwarmKeyError, match="not a file"):
        read_swarm_key(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions bind ordinary users of POSIX systems")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    """It is not taken for absent either."""
    put(tmp_path, format_swarm_key(KEY).encode(), 0o000)
    with pytest.raises(KacheryError, match="not allow"):
        read_swarm_key(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(
    ("mode", "verb"), [(0o600, None), (0o400, None), (0o640, "read"), (0o604, "read"), (0o660, "change")]
)
def test_others_who_may_read_it_are_worth_a_warning(
    tmp_path: Path, mode: int, verb: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The key still works, and a sentence says how to close the file."""
    path = put(tmp_path, format_swarm_key(KEY).encode(), mode)
    assert read_swarm_key(tmp_path) == KEY
    warning = loose_permissions(tmp_path)
    assert ([warning] if warning else []) == [record.getMessage() for record in caplog.records]
    if verb is None:
        assert warning is None
    else:
        assert warning is not None
        assert f"may {verb} {path}" in warning
        assert f"chmod 600 {path}" in warning


def test_fingerprints_tell_keys_apart() -> None:
    """The one that Kubo prints (rust-libp2p's tests have this pair); others differ; the key is not in it."""
    known = bytes.fromhex("6189c5cf0b87fb800c1a9feeda73c6ab5e998db48fb9e6a978575c770ceef683")
    assert fingerprint(known) == "45fc986bbc9388a11d939df26f730f0c"
    assert fingerprint(KEY) != fingerprint(known)
    assert fingerprint(KEY) not in KEY.hex()


def test_reading_a_key_is_light() -> None:
    """A process that only looks at the key imports neither libp2p nor trio."""
    code = (
        "import sys, kachery_p2p.repo.swarm_key as s; s.fingerprint(bytes(32)); "
        "print({'libp2p', 'trio'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
