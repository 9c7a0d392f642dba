"""Memory that the host of a virtual machine has taken back, and how to have it before the clock starts.

Some hosts take free pages from their virtual machines (virtio balloon, "free page reporting"). Each page then costs its
first user a trip to the host, two to three seconds a GiB, which falls to whichever row happens to run: the same load
took 2.2 and 4.4 s. A machine that has been up for a while has no such pages, for its page cache fills its memory.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_DRIVER = Path("/sys/bus/virtio/drivers/virtio_balloon")
_REPORTING = 5  # VIRTIO_BALLOON_F_REPORTING (Virtual I/O Device 1.2, 5.5.3)
_PIECE = 4 << 20
#: The kernel keeps some memory free whatever is read.
_SHARE_LEFT_FREE = 0.1


def is_taken_back() -> bool:
    """Whether the host takes free pages back."""
    try:
        return any(_bit(each / "features") for each in _DRIVER.glob("virtio*"))
    except OSError:
        return False


def fill(folder: Path) -> None:
    """Fills free memory with page cache, where the host takes it back; else does nothing.

    Args:
        folder: where a sparse file may lie for that long. Its pages are not written.
    """
    if not is_taken_back():
        return
    total, free = _memory("MemTotal"), _memory("MemFree")
    enough = int(total * _SHARE_LEFT_FREE)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="memory-", delete=False) as file:
        # It stays until the folder goes, for its pages would go with it. Each has a name of its own.
        os.truncate(file.fileno(), total)
        piece = bytearray(_PIECE)
        for offset in range(0, total, _PIECE):
            if free < enough:
                break
            os.preadv(file.fileno(), [piece], offset)
            free = _memory("MemFree")


def _bit(features: Path) -> bool:
    return features.read_text(encoding="ascii")[_REPORTING] == "1"


def _memory(name: str) -> int:
    """A figure of /proc/meminfo, in bytes."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no line {name}")
