"""Forks a process that is busy with a data directory, again and again, and counts what is lost.

    python -m scripts.forks KIND [COUNT]      one line of JSON; exit code 1 when anything is lost, fails or hangs
    python -m scripts.forks all 200           every kind

Each kind forks COUNT times. Meanwhile threads of the forking process store folders and text and load them, and another
process stores in the same directory, opening and closing it each time. Every child stores and loads, too. At the end
a new process reads back all that was stored with success, and the databases are checked.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import kachery_cloud as kcl
from kachery_cloud.node.connection import close_all

#: Seconds after which a child is taken to hang. Far more than it needs on the slowest machine, and more than SQLite's
#: longest wait.
HANGS = 100.0
FILES = 8


class Work:
    """What is stored, and the record of it that outlives every process: `uris/<pid>` and `failed/<pid>`."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for name in ("uris", "failed", "folders"):
            (top / name).mkdir(exist_ok=True)

    def note(self, where: str, text: str) -> None:
        fd = os.open(self.top / where / str(os.getpid()), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        os.write(fd, text.encode() + b"\n")
        os.close(fd)

    def folder(self, name: str) -> str:
        folder = self.top / "folders" / f"{os.getpid()}-{name}"
        folder.mkdir()
        for i in range(FILES):
            (folder / f"f{i}").write_text(f"{folder.name} {i} " * 20)
        uri = kcl.store_dir(folder, local=True)
        self.note("uris", uri)
        shutil.rmtree(folder)
        return uri

    def text(self, name: str) -> str:
        uri = kcl.store_text(f"{os.getpid()} {name}", local=True)
        self.note("uris", uri)
        return uri

    def child(self, number: int) -> int:
        """What a child does. Returns the exit code."""
        try:
            text = f"{os.getpid()} child {number}"
            if kcl.load_text(self.text(f"child {number}"), local_only=True) != text:
                raise ValueError("other text came back")
            if len(kcl.list_dir(self.folder(f"child{number}"), local_only=True)) != FILES:
                raise ValueError("another folder came back")
            kcl.load_text(self.first, local_only=True)
            if number % 8 == 0:
                _pin(self.first, f"service{number}")
        except BaseException as error:  # noqa: BLE001 - the parent counts it
            self.note("failed", f"child {number}: {type(error).__name__}: {error}")
            return 1
        return 0

    def start(self) -> None:
        self.first = self.text("before everything")
        _pin(self.first, "service")


def _pin(uri: str, service: str) -> None:
    """A row in the outbox."""
    from kachery_cloud.local import outbox
    from kachery_cloud.settings.config import load_config

    outbox(load_config()).add(uri.removeprefix("ipfs://"), service)


class Threads:
    """The forking process's other threads, busy until the end of the block."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(kind, number), daemon=True)
            for number, kind in enumerate((self._folders, self._texts, self._texts, self._loads))
        ]

    def __enter__(self) -> Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, step: Callable[[str], None], number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            try:
                step(f"{number}-{turn}")
            except Exception as error:  # noqa: BLE001 - it is counted
                self._work.note("failed", f"thread: {type(error).__name__}: {error}")
                return

    def _folders(self, name: str) -> None:
        self._work.folder(name)

    def _texts(self, name: str) -> None:
        self._work.text(name)

    def _loads(self, name: str) -> None:
        kcl.load_text(self._work.first, local_only=True)


# --- the kinds -------------------------------------------------------------------------------------------------------


class Forker:
    """Forks, times it, and waits for children."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.times: list[float] = []
        self.hung = 0
        self.failed = 0

    def fork(self, run: Callable[[], int]) -> int:
        begun = time.monotonic()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = run()
            finally:
                os._exit(code)
        self.times.append(time.monotonic() - begun)
        return pid

    def wait(self, pid: int) -> None:
        end = time.monotonic() + HANGS
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.failed += status != 0
                return
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                self.hung += 1
                return
            time.sleep(0.005)


def busy(forker: Forker, count: int) -> None:
    """os.fork while other threads store and load."""
    with Threads(forker.work):
        for number in range(count):
            forker.wait(forker.fork(lambda number=number: forker.work.child(number)))


def ended(forker: Forker, count: int) -> None:
    """os.fork after the threads that used the directory have ended."""
    for number in range(count):
        thread = threading.Thread(target=forker.work.text, args=(f"thread {number}",))
        thread.start()
        thread.join()
        forker.wait(forker.fork(lambda number=number: forker.work.child(number)))


def process(forker: Forker, count: int) -> None:
    """multiprocessing.Process."""
    context: Any = multiprocessing.get_context("fork")
    with Threads(forker.work):
        for number in range(count):
            begun = time.monotonic()
            child = context.Process(target=_exit_with, args=(forker.work, number))
            child.start()
            forker.times.append(time.monotonic() - begun)
            child.join(HANGS)
            if child.exitcode is None:
                forker.hung += 1
                child.kill()
                child.join()
            forker.failed += child.exitcode != 0


def pool(forker: Forker, count: int) -> None:
    """multiprocessing.Pool, whose helper thread forks a new worker for each task."""
    context = multiprocessing.get_context("fork")
    with Threads(forker.work), context.Pool(4, maxtasksperchild=1) as workers:
        results = [workers.apply_async(forker.work.child, (number,)) for number in range(count)]
        for result in results:
            try:
                forker.failed += result.get(HANGS)
            except multiprocessing.TimeoutError:
                forker.hung += 1


def executor(forker: Forker, count: int) -> None:
    """concurrent.futures.ProcessPoolExecutor, four workers each."""
    context = multiprocessing.get_context("fork")
    with Threads(forker.work):
        for start in range(0, count, 4):
            with ProcessPoolExecutor(4, mp_context=context) as workers:
                results = [workers.submit(forker.work.child, start + n) for n in range(4)]
                for result in results:
                    try:
                        forker.failed += result.result(HANGS)
                    except TimeoutError:
                        forker.hung += 1


def prefork(forker: Forker, count: int) -> None:
    """Four workers that live on while their master, which has the directory open, forks the next ones."""
    alive: list[int] = []
    for number in range(count):
        forker.work.text(f"master {number}")
        alive.append(forker.fork(lambda number=number: forker.work.child(number) or forker.work.child(number + count)))
        if len(alive) == 4:
            forker.wait(alive.pop(0))
    for pid in alive:
        forker.wait(pid)


def daemon(forker: Forker, count: int) -> None:
    """A process stores, forks twice and ends, as a script does that becomes a daemon; the grandchild goes on."""
    program = (
        "import os, sys; from pathlib import Path; from scripts.forks import Work; work = Work(Path(sys.argv[1]))\n"
        "work.start(); out = os.dup(1)\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "code = work.child(int(sys.argv[2])) or work.child(int(sys.argv[2]) + 1)\n"
        "os.write(out, str(code).encode()); os._exit(code)"
    )
    for number in range(count):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(forker.work.top), str(2 * number)], stdout=subprocess.PIPE
        ) as first:
            try:
                out, _ = first.communicate(timeout=HANGS)  # ends when the grandchild has
            except subprocess.TimeoutExpired:
                forker.hung += 1
                first.kill()
                continue
        forker.failed += out != b"0"


def node(forker: Forker, count: int) -> None:
    """os.fork in the process whose background thread is the node."""
    kcl.status(start=True)
    busy(forker, count)


KINDS: dict[str, Callable[[Forker, int], None]] = {
    kind.__name__: kind for kind in (busy, ended, process, pool, executor, prefork, daemon, node)
}


def _exit_with(work: Work, number: int) -> None:
    os._exit(work.child(number))


# --- around it -------------------------------------------------------------------------------------------------------

_OTHER = """
import os, sys
from pathlib import Path
from kachery_cloud.local import close_repositories
from scripts.forks import Work
work, n = Work(Path(sys.argv[1])), 0
while os.getppid() == int(sys.argv[2]):
    work.text(f"other {n}")
    work.folder(f"other{n}")
    close_repositories()
    n += 1
"""

_CHECK = """
import sys
from pathlib import Path
import kachery_cloud as kcl
stored, lost, why = 0, 0, ""
for record in (Path(sys.argv[1]) / "uris").iterdir():
    for uri in record.read_text().split():
        stored += 1
        try:
            if kcl.load_file_info(uri, local_only=True)["kind"] == "directory":
                names = [kcl.load_text(entry["uri"], local_only=True) for entry in kcl.list_dir(uri, local_only=True)]
                assert len(names) == int(sys.argv[2]), names
            else:
                kcl.load_text(uri, local_only=True)
        except Exception as error:
            lost, why = lost + 1, f"{uri}: {type(error).__name__}: {error}"
print(stored, lost, why)
"""


def run(kind: str, count: int) -> dict[str, Any]:
    """One kind. Returns what came of it."""
    top = Path(tempfile.mkdtemp(prefix="forks-"))
    directory = top / "kachery"
    os.environ.update(KACHERY_CLOUD_DIR=str(directory), KACHERY_CLOUD_PUBLIC="off", KACHERY_CLOUD_MDNS="off")
    os.environ["KACHERY_CLOUD_LISTEN"] = "/ip4/127.0.0.1/tcp/0"
    work = Work(top)
    work.start()
    forker = Forker(work)
    other = subprocess.Popen([sys.executable, "-c", _OTHER, str(top), str(os.getpid())])
    begun = time.monotonic()
    try:
        KINDS[kind](forker, count)
    finally:
        other_code = other.poll()
        other.kill()
        other.wait()
        close_all()
    seconds = time.monotonic() - begun
    checked = subprocess.run(
        [sys.executable, "-c", _CHECK, str(top), str(FILES)], capture_output=True, text=True, check=True
    )
    stored, lost, why = checked.stdout.split(" ", 2)
    sound = True
    for name in ("catalog", "outbox", "routing"):
        path = directory / f"{name}.sqlite"
        if path.exists():
            db = sqlite3.connect(path)
            sound = sound and db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.close()
    failures = [line for file in (top / "failed").iterdir() for line in file.read_text().splitlines()]
    if other_code is not None:
        failures.append(f"the other process ended with {other_code}")
    times = sorted(forker.times)
    found: dict[str, Any] = {
        "kind": kind,
        "forks": count,
        "stored": int(stored),
        "lost": int(lost),
        "failed": forker.failed,
        "hung": forker.hung,
        "sound": sound,
        "seconds": round(seconds, 1),
        "fork_ms": [round(1000 * times[len(times) // 2], 1), round(1000 * times[-1], 1)] if times else None,
        "problems": [*failures[:5], *([why.strip()] if why.strip() else [])],
    }
    shutil.rmtree(top, ignore_errors=True)
    return found


def good(found: dict[str, Any]) -> bool:
    """Whether nothing was lost, nothing failed, and nothing hung."""
    return found["sound"] and not (found["lost"] or found["failed"] or found["hung"] or found["problems"])


def main() -> None:
    """Run one kind of fork, or all of them, as the command line says."""
    kind = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    codes = []
    if kind == "all":
        for name in KINDS:
            codes.append(
                subprocess.run([sys.executable, "-m", "scripts.forks", name, str(count)], check=False).returncode
            )
    else:
        found = run(kind, count)
        print(json.dumps(found), flush=True)
        codes.append(0 if good(found) else 1)
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
