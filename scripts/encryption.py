"""What encryption costs: bytes moved for random reads of a large encrypted file, and loads beside those of plain files.

    python -m scripts.encryption [GIGABYTES]

Two nodes on loopback; one has the file, plain and encrypted, the other reads and loads it. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts.workstation import Workstation

_READS = 200
_KEY = """
from kachery_cloud.encryption.identities import own_identity
say(own_identity(kcl.load_config()).recipient)
"""
_STORE = """
import time
path, recipient = args
found = {}
for name, how in (("plain", {}), ("encrypted", {"encrypt": recipient}),
                  ("encrypted, 16 KiB", {"encrypt": recipient, "profile": "random-16k"})):
    cpu, wall = time.process_time(), time.monotonic()
    found[name] = {"uri": kcl.store_file(path, local=True, **how), "cpu": time.process_time() - cpu,
                   "seconds": time.monotonic() - wall}
say(found)
"""
_READ = """
import random, time
uri, address, size, count = args
rng = random.Random(1)
begun, cpu = time.monotonic(), time.process_time()
with kcl.open(uri, providers=[address], read_ahead=0) as file:
    for _ in range(count):
        assert len(file.read_at(rng.randrange(file.size - size), size)) == size
seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
moved = sum(item.here for item in kcl.list())
say({"asked": size * count, "moved": moved, "seconds": round(seconds, 2), "cpu": round(cpu, 2)})
"""
_LOAD = """
import os, time
uri, address = args
begun, cpu = time.monotonic(), time.process_time()
path = kcl.load_file(uri, providers=[address])
say({"size": os.path.getsize(path), "seconds": round(time.monotonic() - begun, 2),
     "cpu": round(time.process_time() - cpu, 2)})
"""


def main(gigabytes: float = 2.0) -> None:
    """Measure, and print what was measured."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        path = folder / "data.bin"
        with open(path, "wb") as file:
            for _ in range(max(1, round(gigabytes * 1e9 / (1 << 24)))):
                file.write(os.urandom(1 << 24))
        report: dict[str, Any] = {"size": path.stat().st_size, "reads": {}, "loads": {}}
        with Workstation(folder / "there") as there, Workstation(folder / "reader") as keys:
            recipient = keys.call(_KEY)
            stored = there.call(_STORE, str(path), recipient)
            report["stores"] = {
                each: {key: round(found[key], 2) for key in ("cpu", "seconds")} for each, found in stored.items()
            }
            there.start()
            for kind, found in stored.items():
                for size in (4096, 65536, 1 << 20):
                    with _reader(folder, keys, f"{kind} {size}") as here:
                        done = here.call(_READ, found["uri"], there.addr, size, _READS)
                    done["moved per byte"] = round(done["moved"] / done["asked"], 2)
                    report["reads"][f"{kind}, {size}"] = done
            for kind in ("plain", "encrypted", "plain", "encrypted"):
                with _reader(folder, keys, "load") as here:
                    report["loads"].setdefault(kind, []).append(here.call(_LOAD, stored[kind]["uri"], there.addr))
        print(json.dumps(report, indent=2))


def _reader(folder: Path, keys: Workstation, name: str) -> Workstation:
    """A new machine with the same key."""
    top = folder / "reading"
    shutil.rmtree(top, ignore_errors=True)
    made = Workstation(top)
    made.directory.mkdir(mode=0o700)
    shutil.copy(keys.directory / "age.key", made.directory / "age.key")
    return made


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
