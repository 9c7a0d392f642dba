"""Starts a peer in a process of its own and drives it: one JSON object a line each way.

A request is `{"id": 1, "cmd": "add", "timeout": 60, ...}`, an answer `{"id": 1, "ok": true, "result": {...}}` or
`{"id": 1, "ok": false, "error": "..."}`, in the order in which the requests end. The first line out is
`{"event": "ready", "pid": ..., "peer_id": ..., "addrs": [...]}`. A peer ends when its standard input does, so none
outlives the process that started it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scripts.peers import places

if TYPE_CHECKING:
    from typing_extensions import Self

READY_SECONDS = 120.0
CALL_SECONDS = 600.0
STOP_SECONDS = 60.0
#: The peer itself keeps to the time-out of a request; this is only for a peer that hangs altogether.
_GRACE_SECONDS = 30.0
#: A fetch of Kubo's that takes longer is asked for once more (see `Kubo.pin`).
FETCH_AGAIN_SECONDS = 60.0


class PeerError(Exception):
    """A peer did not start, ended, or answered a request with an error."""


class PeerTimeout(PeerError):
    """A peer did not answer in time."""


class Peer:
    """A running peer. Use as a context manager, or call `stop()`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        temporary: bool,
        disposable: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts `command` and waits until it is ready.

        Args:
            command: the program and its arguments.
            folder: holds the peer's data, and its log beside it.
            temporary: the folder goes when the peer stops.
            disposable: the folder is not needed afterwards (nor is a temporary one), so the peer need not leave tidily,
                which takes Kubo up to a quarter of a minute.
            env: adds to the environment.

        Raises:
            PeerError: the peer does not become ready.
        """
        self.folder = folder
        self._temporary = temporary
        self._disposable = disposable or temporary
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        self._ready: Future[dict[str, Any]] = Future()
        #: what the peer found by mDNS so far: addresses by peer ID
        self.discovered: dict[str, list[str]] = {}
        self._log = folder / "peer.log"
        folder.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(places.ROOT), **(env or {})},
            )
        self._reader = threading.Thread(target=self._read, name=f"peer {self._process.pid}", daemon=True)
        self._reader.start()
        try:
            ready = self._ready.result(READY_SECONDS)
        except FutureTimeout:
            self.stop()
            raise PeerError(f"the peer was not ready within {READY_SECONDS:.0f} s") from None
        except PeerError:
            self.stop()
            raise
        self.implementation: str = ready["impl"]
        self.peer_id: str = ready["peer_id"]
        self.addrs: list[str] = ready["addrs"]
        self.pid: int = ready["pid"]

    # --- requests --------------------------------------------------------------------------------------------------

    def begin(self, cmd: str, *, timeout: float = CALL_SECONDS, **args: object) -> Future[dict[str, Any]]:
        """Sends a request. The future holds its result, or `PeerError`."""
        request_id = next(self._ids)
        future: Future[dict[str, Any]] = Future()
        line = json.dumps({"id": request_id, "cmd": cmd, "timeout": timeout, **args}) + "\n"
        with self._lock:
            self._pending[request_id] = future
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (OSError, ValueError):
                self._pending.pop(request_id, None)
                future.set_exception(PeerError(f"{cmd}: the peer has ended{self._log_tail()}"))
        return future

    def call(self, cmd: str, *, timeout: float = CALL_SECONDS, **args: object) -> dict[str, Any]:
        """Sends a request and returns its result.

        Raises:
            PeerError: it fails, or takes longer than `timeout` seconds.
        """
        try:
            return self.begin(cmd, timeout=timeout, **args).result(timeout + _GRACE_SECONDS)
        except FutureTimeout:
            raise PeerTimeout(f"{cmd}: no answer within {timeout + _GRACE_SECONDS:.0f} s") from None

    def connect(self, addr: str, *, timeout: float = 30) -> None:
        """Connects to the multiaddr `addr`, which ends in `/p2p/<peer ID>`."""
        self.call("connect", addr=addr, timeout=timeout)

    def pin(self, cid: str, *, timeout: float = CALL_SECONDS) -> float:
        """Fetches the whole DAG into the peer's block store and keeps it. Returns the seconds it took."""
        return float(self.call("pin", cid=cid, timeout=timeout)["seconds"])

    def get(self, cid: str, dest: Path, *, timeout: float = CALL_SECONDS, **args: object) -> float:
        """Fetches a DAG and writes it to `dest`. Returns the seconds it took."""
        return float(self.call("get", cid=cid, dest=str(dest.resolve()), timeout=timeout, **args)["seconds"])

    # --- the end ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Asks the peer to leave, ends it when it does not, and clears up. Safe to call twice."""
        if self._process.poll() is None:
            if not self._disposable:
                self.begin("stop")
                try:
                    self._process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    pass
            self._process.kill()
            self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what could not be written to a peer that has gone
                    pass
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- answers ---------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Hands each line to whoever waits for it, until the peer ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # libraries inside the peer may print, too
            if message.get("event") == "ready":
                self._ready.set_result(message)
            elif message.get("event") == "fatal":
                self._fail(message["error"])
            elif message.get("event") == "discovery":
                self.discovered[message["peer"]] = message["addrs"]
            elif "id" in message:
                self._answer(message)
        self._process.wait()
        self._fail(f"it ended with exit code {self._process.returncode}")

    def _answer(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            future = self._pending.pop(message["id"], None)
        if future is None:
            return
        if message["ok"]:
            future.set_result(message["result"])
        else:
            future.set_exception(PeerError(str(message["error"])))

    def _fail(self, why: str) -> None:
        """The peer is gone: nobody waits any longer."""
        with self._lock:
            pending = list(self._pending.values())
            self._pending.clear()
        error = PeerError(f"the peer failed: {why}{self._log_tail()}")
        for future in (self._ready, *pending):
            if not future.done():
                future.set_exception(error)

    def _log_tail(self) -> str:
        try:
            text = self._log.read_text(encoding="utf-8", errors="replace")[-600:].strip()
        except OSError:
            return ""
        return f"\n{text}" if text else ""


class Kubo(Peer):
    """Kubo 0.22. Its `add` makes CIDv0 with 256 KiB dag-pb leaves; `pin` is its fastest fetch."""

    def __init__(self, folder: Path | None = None, *, disposable: bool = False, **options: object) -> None:
        """Starts Kubo on a free loopback port, with its repo in `folder` (default: a temporary one).

        With `disposable` the repo is not used again. `options` are those of `kubo_peer.py --help`, with `_` for `-`.

        Raises:
            PeerError: it does not become ready.
        """
        _require(places.missing())
        home = _folder(folder, "kubo-")
        command = [str(places.venv_python()), "-m", "scripts.peers.kubo_peer", "--repo", str(home / "repo")]
        command += _flags(options)
        super().__init__(command, folder=home, temporary=folder is None, disposable=disposable)

    def add(self, path: Path, *, timeout: float = CALL_SECONDS) -> str:
        """Adds a file or a directory. Returns its CID."""
        return str(self.call("add", path=str(path.resolve()), timeout=timeout)["cid"])

    def pin(self, cid: str, *, timeout: float = CALL_SECONDS) -> float:
        """Fetches the whole DAG into the peer's block store and keeps it. Returns the seconds it took.

        A fetch of Kubo's can stand still for ever, from another Kubo as from us. Its session takes wants that are not
        answered within twice the usual time for refused ones, and drops a peer after 16 of them. Without a peer
        it waits for its idle timer, which was stopped if all wants had been answered by then (boxo 0.43,
        `bitswap/client/internal/session`: `processUpdates` and `handleReceive`). On a busy machine, thousands of tiny
        blocks come to that. So a fetch that takes long is asked for once more, in a session of its own: its blocks end
        the wait of the first one.
        """
        return self._fetch("pin", cid, timeout)

    def get(self, cid: str, dest: Path, *, timeout: float = CALL_SECONDS, **args: object) -> float:
        """Fetches a DAG, as `pin` does, and writes it to `dest`. Returns the seconds it took."""
        return self._fetch("get", cid, timeout, dest=str(dest.resolve()), **args)

    def _fetch(self, cmd: str, cid: str, timeout: float, **args: object) -> float:
        answer = self.begin(cmd, cid=cid, timeout=timeout, **args)
        deadline = time.monotonic() + timeout + _GRACE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            done, _ = wait([answer], min(left, FETCH_AGAIN_SECONDS))
            if done:
                return float(answer.result()["seconds"])
            self.begin("pin", cid=cid, timeout=timeout)
        raise PeerTimeout(f"{cmd}: no answer within {timeout + _GRACE_SECONDS:.0f} s")


class Helia(Peer):
    """Helia 7. It speaks Bitswap 1.2 only."""

    def __init__(
        self, folder: Path | None = None, *, disposable: bool = False, in_memory: bool = False, **options: object
    ) -> None:
        """Starts Helia on a free loopback port, with its repo in `folder` (default: a temporary one).

        With `disposable` the repo is not used again; with `in_memory` blocks are kept in memory. `options` are those
        of `helia_peer.mjs`, with `_` for `-`.

        Raises:
            PeerError: it does not become ready.
        """
        _require(places.missing())
        home = _folder(folder, "helia-")
        command = [str(places.node_program()), str(places.HERE / "helia_peer.mjs")]
        if not in_memory:
            command += ["--repo", str(home / "repo")]
        command += _flags(options)
        super().__init__(command, folder=home, temporary=folder is None, disposable=disposable)

    def add(self, path: Path, *, profile: str = "unixfs-v1-2025", timeout: float = CALL_SECONDS) -> str:
        """Adds a file or a directory under a profile (`unixfs-v1-2025` or `unixfs-v0-2015`). Returns its CID."""
        cmd = "add_dir" if path.is_dir() else "add"
        return str(self.call(cmd, path=str(path.resolve()), profile=profile, timeout=timeout)["cid"])


class GoLibp2p(Peer):
    """go-libp2p 0.24 with its Kademlia DHT and mDNS, but neither Bitswap nor blocks."""

    def __init__(self, folder: Path | None = None, *, disposable: bool = False, **options: object) -> None:
        """Starts a node on a free loopback port, a server of the LAN DHT unless told otherwise.

        `options` are those of `golibp2p_peer.py --help`, with `_` for `-`.

        Raises:
            PeerError: it does not become ready.
        """
        _require(places.missing_go())
        home = _folder(folder, "golibp2p-")
        command = [str(places.venv_python(places.VENV_GO)), "-m", "scripts.peers.golibp2p_peer", *_flags(options)]
        super().__init__(command, folder=home, temporary=folder is None, disposable=disposable)


def _require(reason: str | None) -> None:
    if reason is not None:
        raise PeerError(reason)


def _folder(folder: Path | None, prefix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=prefix)) if folder is None else folder.resolve()


def _flags(options: Mapping[str, object]) -> list[str]:
    """Keyword arguments as command line options: `a_b=3` is `--a-b 3`, True a bare flag, False and None nothing."""
    flags: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif isinstance(value, (list, tuple)):
            for item in value:
                flags += [flag, str(item)]
        elif value is not None and value is not False:
            flags += [flag, str(value)]
    return flags
