"""Several processes of one data directory, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.data import sha256_of, write_random
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE

# Reads one JSON list a line, [uri, address], loads that text, says it; ends with the input.
_LOADER = """
for line in sys.stdin:
    uri, addr = json.loads(line)
    say(kcl.load_text(uri, providers=[addr], timeout=120))
"""


def _ask(process: subprocess.Popen[str], line: str) -> str:
    """Writes a line to a process and returns the line that it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE) == 0


def _texts(station: Workstation, count: int) -> list[str]:
    return station.call("say([kcl.store_text(f'text {n}') for n in range(args[0])])", count)


@pytest.mark.parametrize("served", [False, True])
def test_two_processes_load_the_same_cid(workstation: Callable[..., Workstation], tmp_path: Path, served: bool) -> None:
    """Two processes that load one CID at once both succeed, and it is fetched once."""
    source = write_random(tmp_path / "source.dat", 40_000_000, seed=1)
    first, second = workstation().start(), workstation()
    if served:
        second.start()
    uri = first.call("say(kcl.link_file(args[0]))", source)
    before = first.status()["bytes_sent"]
    code = "say(kcl.load_file(args[0], providers=[args[1]]))"
    both = [second.begin(code, uri, first.addr) for _ in range(2)]
    paths = {second.finish(process) for process in both}
    assert len(paths) == 1
    assert sha256_of(Path(paths.pop())) == sha256_of(source)
    assert first.status()["bytes_sent"] - before < 41_000_000


def test_another_process_takes_over(workstation: Callable[..., Workstation]) -> None:
    """When the process that is the node leaves, another one becomes it, and its loads work as before."""
    first, second = workstation().start(), workstation()
    uris = _texts(first, 5)
    one, two = second.begin(_LOADER), second.begin(_LOADER)
    assert _ask(one, f'["{uris[0]}", "{first.addr}"]') == '"text 0"'
    assert _ask(two, f'["{uris[1]}", "{first.addr}"]') == '"text 1"'
    _end(one)
    assert _ask(two, f'["{uris[2]}", "{first.addr}"]') == '"text 2"'
    three = second.begin(_LOADER)
    assert _ask(three, f'["{uris[3]}", "{first.addr}"]') == '"text 3"'
    two.kill()
    assert _ask(three, f'["{uris[4]}", "{first.addr}"]') == '"text 4"'
    _end(three)


def test_takeover_during_a_load(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """A load goes on when the process that was the node is killed under it."""
    source = write_random(tmp_path / "source.dat", 60_000_000, seed=2)
    first, second = workstation().start(), workstation()
    uri = first.call("say(kcl.link_file(args[0]))", source)
    # The node kills itself when half of the file has come; the other process had asked for it.
    node = second.begin(
        """
import os, signal
from kachery_p2p.repo.download import Download
write, written = Download.write, 0
def counting_write(self, offset, data):
    global written
    write(self, offset, data)
    written += len(data)
    if written > 30_000_000:
        os.kill(os.getpid(), signal.SIGKILL)
Download.write = counting_write
say(kcl.status(start=True)["peer_id"])
sys.stdin.read()
"""
    )
    assert node.stdout is not None
    node.stdout.readline()
    path = second.call("say(kcl.load_file(args[0], providers=[args[1]], timeout=120))", uri, first.addr)
    assert node.wait(PATIENCE) == -signal.SIGKILL
    assert sha256_of(Path(path)) == sha256_of(source)


def test_one_node_per_directory(workstation: Callable[..., Workstation]) -> None:
    """A second kachery-cloud-node of one directory is told which process is there already."""
    station = workstation().start()
    second = station.run("kachery-cloud-node", check=False, timeout=PATIENCE)
    assert second.returncode != 0
    assert str(station.node.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_node_takes_the_place_of_a_script(workstation: Callable[..., Workstation]) -> None:
    """kachery-cloud-node takes over from a script that happens to be the node, and the script works on."""
    first, second = workstation().start(), workstation()
    uris = _texts(first, 2)
    script = second.begin(_LOADER)
    assert _ask(script, f'["{uris[0]}", "{first.addr}"]') == '"text 0"'
    second.start()
    assert _ask(script, f'["{uris[1]}", "{first.addr}"]') == '"text 1"'
    _end(script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_worker(workstation: Callable[..., Workstation]) -> None:
    """A forked worker loads on its own, and neither its work nor its end disturbs the parent."""
    first, second = workstation().start(), workstation()
    uris = _texts(first, 3)
    code = """
import os, warnings
warnings.simplefilter("ignore")
uris, addr = args
load = lambda uri: kcl.load_text(uri, providers=[addr], timeout=120)
texts = [load(uris[0])]
peer = kcl.status()["peer_id"]
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, json.dumps([load(uris[1]), kcl.status()["pid"] == os.getppid()]).encode())
    os._exit(0)
os.close(writer)
with os.fdopen(reader) as answers:
    answer = json.loads(answers.read())
ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
say([*texts, answer, ended, load(uris[2]), kcl.status()["peer_id"] == peer])
"""
    assert second.call(code, uris, first.addr) == ["text 0", ["text 1", True], 0, "text 2", True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_pool_of_forked_workers(workstation: Callable[..., Workstation]) -> None:
    """multiprocessing's pool, forked after the node was started, loads in all its workers."""
    first, second = workstation().start(), workstation()
    uris = _texts(first, 6)
    code = """
import multiprocessing, warnings
warnings.simplefilter("ignore")
uris, addr = args
def load(uri):
    return kcl.load_text(uri, providers=[addr], timeout=120)
load(uris[0])
with multiprocessing.get_context("fork").Pool(2) as pool:
    say(pool.map(load, uris))
"""
    assert second.call(code, uris, first.addr) == [f"text {number}" for number in range(6)]


def test_interpreter_exit(workstation: Callable[..., Workstation]) -> None:
    """A script that loaded something ends by itself, quickly, with nothing on stderr."""
    first, second = workstation().start(), workstation()
    (uri,) = _texts(first, 1)
    process = second.begin("kcl.load_text(args[0], providers=[args[1]])", uri, first.addr)
    out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, errors) == (0, "", "")


def test_exception_in_a_script(workstation: Callable[..., Workstation]) -> None:
    """An exception ends a script with its own trace and exit code, as if there were no node."""
    first, second = workstation().start(), workstation()
    (uri,) = _texts(first, 1)
    process = second.begin("kcl.load_text(args[0], providers=[args[1]]); raise ValueError('mine')", uri, first.addr)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors.strip().endswith("ValueError: mine")
    assert errors.count("Traceback") == 1


def test_ctrl_c_during_a_load(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """Ctrl-C ends a command that waits for a peer with a sentence and exit code 130, at once."""
    silent = workstation().start()
    missing = "ipfs://bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
    second = workstation().start()
    command = [str(Path(sys.executable).with_name("kachery-cloud-load")), missing, "--peer", silent.addr, "-v"]
    command += ["--timeout", str(100 * PATIENCE)]
    process = subprocess.Popen(command, env=second.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "Loading" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in errors


def test_node_leaves_on_ctrl_c_and_terminate(workstation: Callable[..., Workstation]) -> None:
    """kachery-cloud-node ends with exit code 0 when it is asked to, and the directory is free for the next one."""
    station = workstation().start()
    peer_id = station.peer_id
    assert station.stop() == 0
    station.start()
    assert station.peer_id == peer_id
    station.node.terminate()
    assert station.node.wait(PATIENCE) == 0


def test_the_end_comes_while_the_node_starts(workstation: Callable[[], Workstation], tmp_path: Path) -> None:
    """A script that ends at once waits for its node: under a thread that goes on, the interpreter's end may abort."""
    (tmp_path / "file").write_bytes(b"small")
    code = """
import threading
from kachery_cloud.node import connection, serve
leaving, close, run = threading.Event(), connection.NodeConnection.close, serve.run_node
def leave(self):
    leaving.set()
    close(self)
async def late(*rest, **named):
    import trio
    await trio.to_thread.run_sync(leaving.wait)
    await trio.sleep(1)  # longer than any start on a machine that has nothing else to do
    try:
        await run(*rest, **named)
    finally:
        print("stopped", flush=True)
connection.NodeConnection.close, serve.run_node = leave, late
kcl.store_file(args[0])
"""
    process = workstation().begin(code, tmp_path / "file")
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert out.splitlines()[-1] == "stopped"
