"""Providers that are restarted while somebody loads from them: the load goes on, and fetches nothing twice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.data import sha256_of, write_random
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE

SIZE = 60_000_000

# Kills the node that serves, when a third has come, and says so; then the load goes on by itself.
_LOAD = """
import os, signal, threading
from kachery_p2p.repo.download import Download
write, written, lock = Download.write, 0, threading.Lock()
def counting_write(self, offset, data):
    global written
    write(self, offset, data)
    with lock:  # several threads write
        if written < 20_000_000 <= written + len(data):
            os.kill(args[2], signal.SIGKILL)
            say("killed")
        written += len(data)
Download.write = counting_write
path = kcl.load_file(args[0], providers=[args[1]])
say([path, written])
"""


@pytest.mark.parametrize("moves", [False, True], ids=["at the same address", "at another one"])
def test_the_only_source_is_restarted(
    workstation: Callable[..., Workstation], tmp_path: Path, free_port: Callable[[], int], moves: bool
) -> None:
    """The only provider is killed with -9 in the middle and started again, with the same key and the same port or
    another one from which it comes to us. The load needs no help, and its file is right."""
    source = write_random(tmp_path / "source.dat", SIZE, seed=5)
    first, port = workstation(), free_port()
    first.start()
    second = workstation(env={"KACHERY_CLOUD_LISTEN": f"/ip4/127.0.0.1/tcp/{port}"})
    uri = first.call("say(kcl.link_file(args[0]))", source)
    before = first.addr
    process = second.begin(_LOAD, uri, before, first.node.pid)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == '"killed"'
    first.node.wait()
    if moves:
        first.env["KACHERY_CLOUD_LISTEN"] = f"/ip4/127.0.0.1/tcp/{free_port()}"
        first.env["KACHERY_CLOUD_PEERS"] = f"/ip4/127.0.0.1/tcp/{port}"
    first.start()
    assert (first.addr == before) != moves
    path, written = second.finish(process, timeout=120)
    assert sha256_of(Path(path)) == sha256_of(source)
    assert written == SIZE


LONG = 300_000_000
#: Blocks of such a file: leaves of 1 MiB, and the root above them.
BLOCKS = -(-LONG // (1 << 20)) + 1
#: How the source ends each time: killed, and away for long; stopped in good order; killed.
ENDS = ["SIGKILL", "SIGINT", "SIGKILL"]
#: Bytes that have come by then.
MARKS = [60_000_000, 150_000_000, 230_000_000]
#: Seconds for which the source is away after its first end.
ABSENCE = 40.0

# Ends the source at each mark, in the middle of a write, and says so. Counts what was asked for and had not come by the
# time at which the source was seen to be gone, and for how long it was.
_LONG_LOAD = """
import os, signal, threading, time
from pathlib import Path
from kachery_p2p.bitswap.client import WantManager
from kachery_p2p.repo.download import Download
uri, addr, pid_file, ends, marks, timeout = args
write, connected, disconnected = Download.write, WantManager.connected, WantManager.disconnected
written, lock, under_way, gone_at, absences = 0, threading.Lock(), [], None, []
def counting_write(self, offset, data):
    global written
    write(self, offset, data)
    with lock:  # several threads write
        written += len(data)
        if marks and written >= marks[0]:
            marks.pop(0)
            os.kill(int(Path(pid_file).read_text()), getattr(signal, ends.pop(0)))
            say("ended")
def seen_to_leave(self, peer, now):
    global gone_at
    link = self.links.get(peer)
    if link is not None and link.connected and link.blocks:
        under_way.append(link.block_asks)
        gone_at = time.monotonic()
    disconnected(self, peer, now)
def seen_to_come(self, peer, now, **rest):
    global gone_at
    if gone_at is not None:
        absences.append(time.monotonic() - gone_at)
        gone_at = None
    connected(self, peer, now, **rest)
Download.write, WantManager.connected, WantManager.disconnected = counting_write, seen_to_come, seen_to_leave
path = kcl.load_file(uri, providers=[addr], timeout=timeout)
status = kcl.status()
say({
    "path": path, "written": written, "under_way": under_way, "absences": absences,
    "blocks": status["blocks_received"], "again": status["duplicate_blocks"],
})
"""


@pytest.mark.slow
def test_a_long_load_over_three_restarts(
    workstation: Callable[..., Workstation], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """300 MB come over three restarts of their only source, one of them 40 s long: identical, and nothing is fetched
    twice but blocks that were under way at a restart.

    The 40 seconds are real ones: two processes and what is between them have no virtual time. That 40 seconds are
    within the timeout of a load that is told nothing, 60 seconds, is held in virtual time (`unit/load/test_patience`);
    here it is long, because a busy machine may take minutes to start a node.
    """
    source = write_random(tmp_path / "source.dat", LONG, seed=7)
    first, second = workstation(env={"KACHERY_CLOUD_LISTEN": f"/ip4/127.0.0.1/tcp/{free_port()}"}), workstation()
    pid_file = tmp_path / "pid"

    def start() -> None:
        first.start()
        pid_file.write_text(str(first.node.pid))

    start()
    uri = first.call("say(kcl.link_file(args[0]))", source)
    process = second.begin(_LONG_LOAD, uri, first.addr, pid_file, ENDS, MARKS, PATIENCE)
    assert process.stdout is not None
    for number, end in enumerate(ENDS):
        assert process.stdout.readline().strip() == '"ended"'
        assert first.node.wait(PATIENCE) == (0 if end == "SIGINT" else -signal.SIGKILL)
        if number == 0:
            time.sleep(ABSENCE)
        start()
    found = second.finish(process, timeout=PATIENCE)
    assert sha256_of(Path(found["path"])) == sha256_of(source)
    assert found["written"] == LONG
    assert len(found["absences"]) == len(found["under_way"]) == len(ENDS)
    assert found["absences"][0] >= ABSENCE
    # A block that was under way, and came all the same, may come again, once for each restart. No other one does.
    assert found["blocks"] == BLOCKS
    assert found["again"] <= sum(found["under_way"])


# A source that can be told to end all its connections.
_DROPPING_SOURCE = """
import trio
from kachery_cloud.node.thread import NodeThread
from kachery_p2p.transport.host import Host
hosts, threads = [], []
def remember(kind, found):
    init = kind.__init__
    def made(self, *rest, **named):
        found.append(self)
        init(self, *rest, **named)
    kind.__init__ = made
remember(Host, hosts), remember(NodeThread, threads)
uri = kcl.link_file(args[0])
say([uri, kcl.status(start=True)["addresses"][0]])
for _ in sys.stdin:
    async def end_all():
        for connection in list(hosts[0].table):
            connection.drop("it was told to")
    trio.from_thread.run(end_all, trio_token=threads[0]._token)
    say(len(kcl.status()["connected"]))
"""

# Stops itself in the middle. When it goes on, an hour has passed by the clock of the system.
_SLEEPER = """
import os, signal, threading, time
from kachery_p2p import clock
from kachery_p2p.repo.download import Download
uri, addr = args
asleep = 0.0
class Sleeping(clock.RunningClock):
    def __init__(self):
        super().__init__(lambda: time.perf_counter() + asleep)
clock.RunningClock = Sleeping
write, written, lock = Download.write, 0, threading.Lock()
def counting_write(self, offset, data):
    global written, asleep
    write(self, offset, data)
    with lock:
        if written < 20_000_000 <= written + len(data):
            say("stops")
            os.kill(os.getpid(), signal.SIGSTOP)
            asleep = 3600.0
        written += len(data)
Download.write = counting_write
path = kcl.load_file(uri, providers=[addr])
status = kcl.status()
say([path, written, asleep, status["blocks_received"]])
"""


@pytest.mark.skipif(not hasattr(os, "WSTOPPED"), reason="this system does not tell that a process is stopped")
@pytest.mark.parametrize("dropped", [True, False], ids=["and finds its connection gone", "and has its connection"])
def test_a_machine_that_sleeps_goes_on_when_it_wakes(
    workstation: Callable[..., Workstation], tmp_path: Path, dropped: bool
) -> None:
    """A load that is stopped for an hour, longer than every timeout that there is, goes on by itself, also where the
    source has ended the connection meanwhile. Nothing comes twice.

    Ctrl-Z does that, and a virtual machine that is put aside. The clock of a laptop that sleeps stands still, too.
    """
    source = write_random(tmp_path / "source.dat", SIZE, seed=6)
    first, second = workstation(), workstation()
    awake = first.begin(_DROPPING_SOURCE, source)
    assert awake.stdin is not None
    assert awake.stdout is not None
    uri, addr = json.loads(awake.stdout.readline())
    sleeper = second.begin(_SLEEPER, uri, addr)
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline().strip() == '"stops"', second.finish(sleeper)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
    if dropped:
        awake.stdin.write("\n")
        awake.stdin.flush()
        assert json.loads(awake.stdout.readline()) == 0
    sleeper.send_signal(signal.SIGCONT)
    path, written, asleep, blocks = second.finish(sleeper, timeout=PATIENCE)
    assert sha256_of(Path(path)) == sha256_of(source)
    assert (written, asleep) == (SIZE, 3600.0)
    assert blocks == -(-SIZE // (1 << 20)) + 1
