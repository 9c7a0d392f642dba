"""Copies for the user are made beside their place; what a killed process left there goes with the next load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kachery_cloud as kcl
from kachery_cloud.parts import part_beside, remove_left_overs

ROOT = Path(__file__).parents[3]

# Stops for ever in the middle of making the destination.
STUCK = """
import sys, threading
import kachery_cloud as kcl
from kachery_cloud import placing

copy = placing._copy

def stuck(source, target, left=0):
    copy(source, target, left)
    print("writing", flush=True)
    threading.Event().wait()

placing._copy = stuck
load = kcl.load_dir if sys.argv[3] == "tree" else kcl.load_file
load(sys.argv[1], dest=sys.argv[2], local_only=True)
"""


@pytest.fixture
def uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "kachery"))
    (tmp_path / "source").mkdir()
    for i in range(3):
        (tmp_path / "source" / str(i)).write_bytes(b"%d" % i * 50_000)  # not so small that it lies in a pack
    (tmp_path / "out").mkdir()
    return {
        "tree": kcl.store_dir(tmp_path / "source", local=True),
        "file": kcl.store_file(tmp_path / "source" / "0", local=True),
    }


def load(uri: str, dest: Path, kind: str) -> None:
    (kcl.load_dir if kind == "tree" else kcl.load_file)(uri, dest=dest, local_only=True)


@pytest.mark.parametrize("kind", ["tree", "file"])
def test_a_killed_load_leaves_nothing_after_the_next_one(uris: dict[str, str], tmp_path: Path, kind: str) -> None:
    """A load that is killed while it makes its destination leaves a part; another load leaves that alone while its
    maker lives, and removes it once it is dead. What only looks alike stays."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, uris[kind], str(out / "killed"), kind], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"writing\n"
        (part,) = out.iterdir()
        assert part.name.startswith(".killed.")
        load(uris[kind], out / "first", kind)
        assert part.exists()
        process.send_signal(signal.SIGKILL)
    foreign = out / ".mine.0123abcd.part"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("not ours")
    (out / ".file.0123abcd.part").write_text("not ours")
    load(uris[kind], out / "second", kind)
    assert {path.name for path in out.iterdir()} == {"first", "second", foreign.name, ".file.0123abcd.part"}
    assert (foreign / "thesis.txt").read_text() == "not ours"


@pytest.mark.parametrize("kind", ["tree", "file"])
def test_nothing_is_left_of_a_load_that_fails(
    uris: dict[str, str], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error, or an interrupt, in the middle takes the part away."""
    from kachery_cloud import placing

    def stop(source: Path, target: Path, left: int = 0) -> int:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(placing, "_copy", stop)
    with pytest.raises(KeyboardInterrupt):
        load(uris[kind], tmp_path / "out" / "new", kind)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_in_place_of_the_mark_is_not_followed(tmp_path: Path) -> None:
    """Only a mark that is a file with our words makes a folder ours."""
    with part_beside(tmp_path / "target") as part:
        content = next(path for path in part.parent.iterdir()).read_bytes()
        name = next(path for path in part.parent.iterdir()).name
    for number, make in enumerate(
        (lambda path: path.symlink_to(tmp_path / "mark"), lambda path: path.write_text("no"))
    ):
        folder = tmp_path / f".target.0000000{number}.part"
        folder.mkdir()
        make(folder / name)
    (tmp_path / "mark").write_bytes(content)
    assert remove_left_overs(tmp_path) == 0
    ours = tmp_path / ".target.00000009.part"
    ours.mkdir()
    (ours / name).write_bytes(content)
    assert remove_left_overs(tmp_path) == 1
    assert not ours.exists()
    assert len(os.listdir(tmp_path)) == 3
