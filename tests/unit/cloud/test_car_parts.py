"""An export that was ended goes on: after Ctrl-C, a kill, a full disk, and whatever they left; never a partial file
under the name of a whole one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kachery_cloud as kcl
from kachery_cloud.car_parts import CarPart, car_part
from kachery_cloud.local import close_repositories
from tests.helpers.patience import PATIENCE

MIB = 1 << 20


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "here"))
    yield tmp_path / "here"
    close_repositories()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "x.car"


def store(tmp_path: Path, size: int = 3 * MIB) -> str:
    (tmp_path / "input").write_bytes(os.urandom(size))
    return kcl.store_file(tmp_path / "input", local=True)


def parts(out: Path) -> list[Path]:
    return [path for path in out.parent.iterdir() if path.name.endswith(".part")]


def whole(uri: str, tmp_path: Path) -> bytes:
    """The CAR file, made in one go."""
    kcl.export_car(uri, tmp_path / "whole.car", local_only=True)
    return (tmp_path / "whole.car").read_bytes()


class Stop(Exception):
    """What ends an export."""


def begin(out: Path, data: bytes, header: bytes = b"header") -> None:
    with contextlib.suppress(Stop), car_part(out, header, replace=False) as part:
        part.write(data)
        raise Stop


def finish(out: Path, data: bytes, header: bytes = b"header", *, replace: bool = False, step: int = 7) -> CarPart:
    with car_part(out, header, replace=replace) as part:
        for at in range(0, len(data), step):
            part.write(data[at : at + step])
    return part


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [b"", b"0", b"0123", b"012345678", b"0123456789", b"0123456789 and more", b"01xx4567"])
def test_what_is_left_is_compared(out: Path, left: bytes) -> None:
    """What is right of it is kept, and not written again; the rest goes, whatever it is."""
    begin(out, left)
    (part,) = parts(out)
    assert part.read_bytes() == left
    inode = part.stat().st_ino
    right = next((at for at, (one, other) in enumerate(zip(left, b"0123456789", strict=False)) if one != other), 10)
    right = min(right, len(left))
    done = finish(out, b"0123456789", step=3)
    assert done.found == len(left)
    # Compared in pieces as they were written: a piece that is wrong is written as a whole.
    assert right - 3 < done.kept <= right
    assert out.read_bytes() == b"0123456789"
    assert out.stat().st_ino == inode
    assert parts(out) == []


def test_holes_of_a_lost_tail_are_written(out: Path) -> None:
    """After a loss of power a file may have its length, and zeros where data had not come to the disk yet."""
    begin(out, b"0123" + bytes(6))
    assert finish(out, b"0123456789", step=2).kept == 4
    assert out.read_bytes() == b"0123456789"


def test_other_roots_have_another_file(out: Path) -> None:
    """One that was given up is removed, for its room may be needed; what others call so is not."""
    begin(out, b"of other roots", b"other")
    (out.parent / ".x.car.0123456g.part").write_bytes(b"mine")
    (out.parent / ".y.car.01234567.part").write_bytes(b"of another name")
    assert finish(out, b"0123456789").found == 0
    assert sorted(path.name for path in out.parent.iterdir()) == [
        ".x.car.0123456g.part",
        ".y.car.01234567.part",
        "x.car",
    ]


def test_two_at_once(out: Path) -> None:
    """The second one is told so; and one of other roots does not take away what is being written."""
    with car_part(out, b"header", replace=True) as part:
        part.write(b"0123")
        with pytest.raises(kcl.FileExists, match="Another process is writing"):
            finish(out, b"0123456789")
        finish(out, b"of other roots", b"other")
        assert out.read_bytes() == b"of other roots"
    assert (out.read_bytes(), parts(out)) == (b"0123", [])


def test_a_name_that_was_taken_meanwhile(out: Path) -> None:
    """What has it stays; what was written stays, too, and the next try needs only to name it."""

    def taken() -> None:
        with car_part(out, b"header", replace=False) as part:
            part.write(b"0123456789")
            out.write_bytes(b"mine")

    with pytest.raises(kcl.FileExists, match="exists already"):
        taken()
    assert out.read_bytes() == b"mine"
    done = finish(out, b"0123456789", replace=True)
    assert (done.kept, out.read_bytes(), parts(out)) == (10, b"0123456789", [])


def test_a_part_that_has_become_the_file(out: Path) -> None:
    """A crash between the new name and the end of the old one: the file that has its name is not written to."""
    begin(out, b"0123")
    (part,) = parts(out)
    os.link(part, out)
    done = finish(out, b"other data", replace=True)
    assert (done.found, out.read_bytes(), parts(out)) == (0, b"other data", [])


def test_what_is_no_file_is_left_alone(out: Path, tmp_path: Path) -> None:
    """A link or a folder in the place of the part is an error, and what it leads to is not written."""
    begin(out, b"0123")
    (part,) = parts(out)
    part.unlink()
    (tmp_path / "precious").write_bytes(b"precious")
    part.symlink_to(tmp_path / "precious")
    with pytest.raises(kcl.KacheryError):
        finish(out, b"0123456789")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    part.unlink()
    part.mkdir()
    with pytest.raises(kcl.KacheryError):
        finish(out, b"0123456789")


# --- exports ---------------------------------------------------------------------------------------------------------


def test_an_export_goes_on(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error in the middle the same call writes what is missing, says that it goes on, and how much it kept."""
    uri = store(tmp_path)
    expected = whole(uri, tmp_path)

    write = CarPart.write
    count = 0

    def break_off(part: CarPart, data: bytes) -> None:
        nonlocal count
        count += len(data)
        if count > 2.5 * MIB:
            raise Stop
        write(part, data)

    with monkeypatch.context() as patched:
        patched.setattr(CarPart, "write", break_off)
        with pytest.raises(Stop):
            kcl.export_car(uri, out, local_only=True)
    assert not out.exists()
    (part,) = parts(out)
    left = part.stat().st_size
    assert 2 * MIB < left < len(expected)
    said: list[str] = []
    monkeypatch.setattr("kachery_cloud.cars.tell", said.append)
    made = kcl.export_car(uri, out, local_only=True)
    assert made.kept == left
    assert said == [f"Going on with {out}: the {left:,} bytes that are there are compared first."]
    assert out.read_bytes() == expected
    assert parts(out) == []


#: Exports, and stops for ever in the middle of it.
_EXPORT = """
import sys, time
from pathlib import Path
import kachery_cloud.cars as cars
from kachery_cloud.commands.entry import main

half = Path(sys.argv.pop())
real = cars.CarPart.write
count = 0

def write(part, data):
    global count
    real(part, data)
    count += len(data)
    if count > 2 * 2**20:
        half.touch()
        time.sleep(3600)

cars.CarPart.write = write
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_was_ended(tmp_path: Path, out: Path, number: signal.Signals) -> None:
    """Ctrl-C says what became of it; after that, and after a kill, there is no file of the name, and the same command
    goes on."""
    uri = store(tmp_path, 4 * MIB)
    expected = whole(uri, tmp_path)
    close_repositories()
    line = [sys.executable, "-c", _EXPORT, "export", "--local-only", uri, str(out), str(tmp_path / "half")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for((tmp_path / "half").exists, process)
        process.send_signal(number)
        printed, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert not out.exists()
    if number == signal.SIGINT:
        assert (process.returncode, printed) == (130, b"")
        assert b"the same command goes on from there" in said
    (part,) = parts(out)
    left = part.stat().st_size
    assert 0 < left < len(expected)
    made = kcl.export_car(uri, out, local_only=True)
    assert made.kept == left
    assert out.read_bytes() == expected


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


#: Runs in a mount namespace of its own, with a small disk (of memory) at the first argument.
_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
import kachery_cloud as kcl

disk, uri, expected = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
(disk / "filler").write_bytes(bytes(2 * 2**20))
for _ in range(2):
    try:
        kcl.export_car(uri, disk / "x.car", local_only=True)
    except kcl.DiskFull as error:
        assert "x.car" in str(error), error
    else:
        raise AssertionError("there was room")
    assert not (disk / "x.car").exists()
(part,) = disk.glob(".*.part")
left = part.stat().st_size
assert 0 < left < len(expected), left
(disk / "filler").unlink()
made = kcl.export_car(uri, disk / "x.car", local_only=True)
assert made.kept > left - 2**20, (made, left)
assert (disk / "x.car").read_bytes() == expected
assert [path.name for path in disk.iterdir()] == ["x.car"]
"""


def test_a_disk_that_was_full(tmp_path: Path, out: Path) -> None:
    """It is an error that names the file; when there is room, the same call goes on."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root and namespaces of Linux")
    uri = store(tmp_path)
    whole(uri, tmp_path)
    close_repositories()
    line = ["unshare", "--mount", sys.executable, "-c", _SMALL_DISK, str(out.parent), uri, str(tmp_path / "whole.car")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
        pytest.skip("this system allows no mount namespace")
    assert done.returncode == 0, done.stderr
