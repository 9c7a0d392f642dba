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
from dataclasses import dataclass
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
    """Start a module of this package as a process of its own."""
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
    """The value below which `part` (0 to 1) of them lie; NaN without any."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else float("nan")


def told(process: subprocess.Popen[str]) -> Any:
    """What a process says next, as a line of JSON."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def asked(process: subprocess.Popen[str], question: object) -> Any:
    """What a process answers to a question; both are a line of JSON."""
    assert process.stdin is not None
    print(json.dumps(question), file=process.stdin, flush=True)
    return told(process)


@dataclass(frozen=True)
class Measured:
    """What one flood did.

    Attributes:
        loop: of the node under the flood alone: `cpu`, its share of a core; `median`, `high` (95th percentile) and
            `most`, milliseconds of CPU for one round of its event loop.
        blocks, web: seconds that each request of an honest peer took, by Bitswap and over HTTP.
        failed, web_failed: requests without an answer.
        newcomer: seconds until another honest peer was connected; None for never.
        bulk: MB/s.
    """

    loop: dict[str, float]
    blocks: list[float]
    failed: int
    web: list[float]
    web_failed: int
    newcomer: float | None
    bulk: float


def measure(name: str, seconds: float) -> Measured:
    """One flood against a node of its own: first alone, then with an honest peer beside it. No name: no flood."""
    with tempfile.TemporaryDirectory(prefix="kachery-floods-") as folder, contextlib.ExitStack() as stack:

        def begin(module: str, *args: str) -> subprocess.Popen[str]:
            process = start(module, *args)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        target = begin("target", folder)
        prefer(target)
        said = told(target)
        honest = begin("honest")
        prefer(honest)
        if asked(honest, said) != "ready":
            raise RuntimeError("the honest peer did not start")
        if name:
            port, gateway = said["addr"].split("/")[4], said["gateway"].rpartition(":")[2]
            begin("kinds", name, str(CONNECTIONS.get(name, 4)), str(LEAD + 10 * seconds + 30), port, gateway)
            time.sleep(LEAD)
        asked(target, "begin")
        time.sleep(seconds)
        loop = asked(target, "end")
        return Measured(loop, **asked(honest, {"seconds": seconds, "web": True, "bulk": True}))


def show(name: str, found: Measured) -> None:
    """One line of the table."""
    newcomer = "never" if found.newcomer is None else f"{found.newcomer * 1000:.0f}"
    loop = found.loop
    print(
        f"{name or 'nothing':22} {100 * loop['cpu']:4.0f} {loop['median']:7.2f} {loop['high']:7.2f} "
        f"{loop['most']:7.1f} | {len(found.blocks):5} {found.failed:4} {percentile(found.blocks, 0.5) * 1000:8.0f} "
        f"{percentile(found.blocks, 0.95) * 1000:8.0f} {found.bulk:7.1f} | {len(found.web):5} {found.web_failed:4} "
        f"{percentile(found.web, 0.95) * 1000:8.0f} | {newcomer:>8} {os.getloadavg()[0]:5.1f}",
        flush=True,
    )


def main() -> int:
    """Run the floods that the command line names, and print how each was withstood."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"floods: {', '.join([*FLOODS, *PLAIN])}")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each is measured (8)")
    options = parser.parse_args()
    for name in options.names:
        if name not in {**FLOODS, **PLAIN}:
            parser.error(f"there is no flood {name!r}; there are: {', '.join([*FLOODS, *PLAIN])}")
    print("% of a core; milliseconds of CPU that a round of the event loop takes; milliseconds; MB/s")
    print(
        "flood                   cpu  median  95th %    most | blocks fail   median   95th %    bulk |   web fail "
        "  95th % | newcomer  load",
        flush=True,
    )
    for name in options.names or ["", *FLOODS, *PLAIN]:
        show(name, measure(name, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
