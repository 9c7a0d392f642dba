"""The quickstart: two workstations on this machine, and data that goes from one to the other.

Each is a process of its own with a data directory of its own, and they meet over TCP on loopback as two machines would
over a network. Everything is in a temporary folder that is gone afterwards.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from scripts.data import recording, sha256_of
from scripts.workstation import Workstation, WorkstationError

CHANNELS = 64
TEXT = "Session 12, probe A. The animal was asleep from minute 3 on.\n"

_STORE = """
import time, numpy as np
array = np.load(args[0], mmap_mode="r")
began = time.monotonic()
uri = kcl.store_npy(array)
seconds = time.monotonic() - began
say({"npy": uri, "seconds": seconds, "text": kcl.store_text(args[1])})
"""

_LOAD = """
import time
text = kcl.load_text(args[1], providers=[args[2]])
began = time.monotonic()
path = kcl.load_file(args[0], providers=[args[2]])
seconds = time.monotonic() - began
array = kcl.load_npy(args[0])
say({"path": path, "seconds": seconds, "text": text, "shape": list(array.shape), "dtype": str(array.dtype)})
"""


def main() -> int:
    """Runs the demonstration. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="quickstart", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=52, help="length of the simulated recording (52: 200 MB)")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="kachery-quickstart-") as name:
            demonstrate(Path(name), options.seconds)
    except (WorkstationError, AssertionError) as error:
        print(f"\nThe quickstart failed: {error}", file=sys.stderr)
        print("If the message above does not help, please report it with what is on this page.", file=sys.stderr)
        return 1
    print(f"\nAll of this took {time.monotonic() - began:.0f} s. What to do next:\n{_NEXT}")
    return 0


def demonstrate(folder: Path, seconds: float) -> None:
    """Stores on one workstation, loads on the other, compares.

    Raises:
        AssertionError: something is not as it should be.
        WorkstationError: a process fails.
    """
    import numpy as np

    print(f"This is Python {platform.python_version()} on {platform.system()}, {os.cpu_count()} cores.\n")
    print("1. Two workstations start, each a process with a data directory and a key of its own.")
    with Workstation(folder / "first") as first, Workstation(folder / "second") as second:
        for name, station in (("first", first), ("second", second)):
            station.start()
            print(f"   the {name:6}  listens on {station.addr.partition('/p2p/')[0]}, its peer ID is {station.peer_id}")

        traces = recording(CHANNELS, seconds)
        megabytes = traces.nbytes / 1e6
        source = folder / "recording.npy"
        np.save(source, traces)
        print(f"\n2. The first stores a recording ({traces.shape[0]:,} samples of {CHANNELS} channels, {traces.dtype},")
        print(f"   {megabytes:.0f} MB, simulated) with store_npy, and a note with store_text.")
        stored = first.call(_STORE, source, TEXT)
        print(f"   {stored['npy']}   in {_speed(megabytes, stored['seconds'])}")
        print(f"   {stored['text']}")

        print("\n3. The second loads both by these names, straight from the first, over Bitswap.")
        print("   Each block is checked against its hash before it is used.")
        loaded = second.call(_LOAD, stored["npy"], stored["text"], first.addr)
        print(f"   {megabytes:.0f} MB in {_speed(megabytes, loaded['seconds'])}")

        print("\n4. What arrived is compared with what was stored.")
        assert loaded["text"] == TEXT, "the text that arrived is not the one that was stored"
        assert tuple(loaded["shape"]) == traces.shape, "the array that arrived has another shape"
        assert loaded["dtype"] == str(traces.dtype), "the array that arrived has another type"
        assert sha256_of(Path(loaded["path"])) == sha256_of(source), "the bytes that arrived are not those stored"
        print("   The recording is the same to the last byte, and so is the note.")
        for name, station in (("first", first), ("second", second)):
            code = station.stop()
            assert code == 0, f"the node of the {name} workstation ended with exit code {code}"
    print("   Both workstations have left cleanly.")


def _speed(megabytes: float, seconds: float) -> str:
    return f"{seconds:.2f} s, {megabytes / seconds:.0f} MB/s"


_NEXT = """\
   source .venv/bin/activate
   kachery-cloud-store FILE        prints the URI of a file of yours
   kachery-cloud-node              serves it until you stop it
   kachery-cloud-load URI          on the other machine: finds it, and prints where it is
In Python:  import kachery_cloud as kcl;  kcl.store_file(...), kcl.load_file(...). docs/ has the rest."""


if __name__ == "__main__":
    sys.exit(main())
