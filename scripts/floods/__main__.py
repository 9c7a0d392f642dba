"""`python -m scripts.floods [NAME...]`: one line for each flood. See `scripts.floods`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from scripts.floods.kinds import FLOODS, PLAIN
from scripts.workstation import KEEP_TO_ITSELF

#: Connections, where it is another number than four.
CONNECTIONS = {
    "FIND_NODE": 10,
    "GET_PROVIDERS": 10,
    "ADD_PROVIDER": 10,
    "silent sockets": 300,
    "gateway silence": 256,
    "idle identities": 240,
}
#: Time for a flood to begin.
LEAD = 4.0


def start(module: str, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, **KEEP_TO_ITSELF}
    return subprocess.Popen(
        [sys.executable, "-m", f"scripts.floods.{module}", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )


def prefer(process: subprocess.Popen[str]) -> None:
    """Let a process run before the others of this machine, where that is allowed: they are not what is measured."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, process.pid, -10)


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else float("nan")


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def asked(process: subprocess.Popen[str], question: object) -> dict[str, Any]:
    assert process.stdin is not None
    print(json.dumps(question), file=process.stdin, flush=True)
    return told(process)


def run(name: str, seconds: float) -> None:
    """One flood against a node of its own: first alone, then with an honest peer beside it."""
    with tempfile.TemporaryDirectory(prefix="kachery-floods-") as folder:
        target = start("target", folder)
        said = told(target)
        honest = start("honest")
        assert honest.stdin is not None
        assert honest.stdout is not None
        print(json.dumps(said), file=honest.stdin, flush=True)
        assert honest.stdout.readline() == "ready\n"
        flood = None
        try:
            if name:
                port, gateway = said["addr"].split("/")[4], said["gateway"].rpartition(":")[2]
                count = str(CONNECTIONS.get(name, 4))
                flood = start("kinds", name, count, str(LEAD + 2 * seconds + 15), port, gateway)
                time.sleep(LEAD)
            asked(target, "begin")
            time.sleep(seconds)
            alone = asked(target, "end")
            result = asked(honest, {"seconds": seconds, "web": True, "bulk": True})
        finally:
            for each in (honest, flood, target):
                if each is not None:
                    each.kill()
                    each.communicate()
    blocks, web = result["blocks"], result["web"]
    newcomer = "never" if result["newcomer"] is None else f"{result['newcomer'] * 1000:.0f}"
    print(
        f"{name or 'nothing':22} {100 * alone['cpu']:4.0f} {alone['median']:7.2f} {alone['high']:7.2f} "
        f"{alone['most']:7.1f} | {len(blocks):5} {result['failed']:4} "
        f"{percentile(blocks, 0.5) * 1000:8.0f} {percentile(blocks, 0.95) * 1000:8.0f} {result['bulk']:7.1f} | "
        f"{len(web):5} {result['web_failed']:4} {percentile(web, 0.95) * 1000:8.0f} | {newcomer:>8} "
        f"{os.getloadavg()[0]:5.1f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"floods: {', '.join([*FLOODS, *PLAIN])}")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each is measured (8)")
    options = parser.parse_args()
    print("% of a core; milliseconds of CPU that a round of the event loop takes; milliseconds; MB/s")
    print(
        "flood                   cpu  median  95th %    most | blocks fail  median   95th %    bulk |   web fail   95th % "
        "| newcomer  load",
        flush=True,
    )
    for name in options.names or ["", *FLOODS, *PLAIN]:
        run(name, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
