"""A workstation of its own on this machine: a data directory, processes that use it, and its node. Loopback only.

Tests, the benchmark and the quickstart run several side by side. Everything happens in subprocesses, as it would on
separate machines: nothing of `kachery_cloud` is imported here.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

LISTEN = "/ip4/127.0.0.1/tcp/0"
#: Settings that keep a node on this machine: no public service is asked, no router, and nobody on the local network.
KEEP_TO_ITSELF = {
    "KACHERY_CLOUD_LISTEN": LISTEN,
    "KACHERY_CLOUD_PUBLIC": "off",
    "KACHERY_CLOUD_MDNS": "off",
    "KACHERY_CLOUD_PORT_MAP": "off",
}
READY_SECONDS = 120.0
RUN_SECONDS = 600.0
STOP_SECONDS = 60.0


class WorkstationError(Exception):
    """A process of the workstation did not start, or failed; the message has the end of what it printed."""


class Workstation:
    """A data directory and the processes that use it. A context manager: all of them end with it."""

    def __init__(
        self,
        folder: Path,
        *,
        env: dict[str, str] | None = None,
        python: str = sys.executable,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Makes the folder; starts nothing.

        Args:
            folder: made when absent; the data directory is `data` in it.
            env: adds to the environment, and comes before `KEEP_TO_ITSELF`.
            python: the interpreter whose installation is used.
            around: entered while a process is started: it can put the process on another machine of a lab.
        """
        self.folder = folder.resolve()
        self.directory = self.folder / "data"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.python = python
        self._around = around
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("KACHERY_CLOUD_")},
            "KACHERY_CLOUD_DIR": str(self.directory),
            **KEEP_TO_ITSELF,
            **(env or {}),
        }
        self.peer_id = ""
        self.addrs: list[str] = []
        self._node: subprocess.Popen[str] | None = None
        self._running: list[subprocess.Popen[str]] = []

    # --- the node --------------------------------------------------------------------------------------------------

    @property
    def node(self) -> subprocess.Popen[str]:
        """The process of the running node."""
        assert self._node is not None, "the node was not started"
        return self._node

    @property
    def addr(self) -> str:
        """The address at which the node can be dialled."""
        return self.addrs[0]

    def start(self, *options: str) -> Self:
        """Starts `kachery-cloud-node` here and waits until it serves.

        Raises:
            WorkstationError: it does not come to that.
        """
        log = self.folder / "node.log"
        with open(log, "ab") as errors, self._around():
            self._node = subprocess.Popen(
                [*self._command("kachery-cloud-node"), "--json", *options],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_forward, args=(self._node, lines), daemon=True).start()
        try:
            line = lines.get(timeout=READY_SECONDS)
        except queue.Empty:
            line = ""
        if not line:
            self.kill()
            tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise WorkstationError(f"kachery-cloud-node did not become ready:\n{tail}")
        ready = json.loads(line)
        self.peer_id, self.addrs = ready["peer_id"], ready["addresses"]
        return self

    def stop(self) -> int:
        """Stops the node as Ctrl-C does, and returns its exit code."""
        self.node.send_signal(signal.SIGINT)
        try:
            return self.node.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise WorkstationError(f"kachery-cloud-node did not leave within {STOP_SECONDS:.0f} s") from None

    def kill(self) -> None:
        """Ends the node at once, as a crash would."""
        self.node.kill()
        self.node.wait()

    # --- other processes -------------------------------------------------------------------------------------------

    def run(
        self, command: str, *args: str | Path, check: bool = True, timeout: float = RUN_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Runs a console command such as `kachery-cloud-store` here, to its end.

        Raises:
            WorkstationError: it fails, and `check` is set.
        """
        line = [*self._command(command), *(str(arg) for arg in args)]
        with self._around():
            done = subprocess.run(
                line, env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=timeout, check=False,
            )  # fmt: skip
        if check and done.returncode != 0:
            raise WorkstationError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def begin(self, code: str, *args: object) -> subprocess.Popen[str]:
        """Starts a Python process here that runs `code`, with `args` as JSON in the list `args`.

        Its standard input and output are pipes; it is killed at the end when it still runs.
        """
        with self._around():
            process = subprocess.Popen(
                [self.python, "-c", _PRELUDE + code, json.dumps(args, default=str)],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._running.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], *, timeout: float = RUN_SECONDS) -> Any:
        """Waits for a process that `begin` started, and returns what it gave to `say` last (None: nothing).

        Raises:
            WorkstationError: it fails.
        """
        out, errors = process.communicate(timeout=timeout)
        if process.returncode != 0:
            raise WorkstationError(f"Python ended with {process.returncode}:\n{out[-2000:]}{errors[-4000:]}")
        lines = out.splitlines()
        return json.loads(lines[-1]) if lines else None

    def call(self, code: str, *args: object, timeout: float = RUN_SECONDS) -> Any:
        """Runs `code` in a Python process here and returns what it gave to `say`. See `begin` and `finish`."""
        return self.finish(self.begin(code, *args), timeout=timeout)

    def status(self) -> dict[str, Any]:
        """What the node says of itself: its counters, its peers."""
        return self.call("say(kcl.status())")

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends every process of the workstation. Its folder stays."""
        processes = [*self._running, *([self._node] if self._node is not None else [])]
        for process in processes:
            if process.poll() is None:
                process.kill()
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:  # what could not be written to a process that has gone
                        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _command(self, name: str) -> list[str]:
        script = Path(self.python).with_name(name)
        if not script.exists():
            raise WorkstationError(f"{script} is missing: install the package first (pip install -e .)")
        return [str(script)]


_PRELUDE = """
import json, sys
import kachery_cloud as kcl
args = json.loads(sys.argv[1])
def say(value):
    print(json.dumps(value, default=str), flush=True)
"""


def _forward(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    """Passes on what a process prints; an empty line says that it prints no more."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")
