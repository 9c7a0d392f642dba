"""Providers that are restarted while somebody loads from them: the load goes on, and fetches nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.data import sha256_of, write_random
from scripts.workstation import Workstation

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
