"""The newest Kubo as a user runs it: the `ipfs` program, a daemon on loopback, driven by its own command line.

`scripts/peers/install` builds the program where there is a Go compiler. The daemon knows no bootstrap node and asks
nothing of the internet: its automatic settings, telemetry, updates, delegated routers and resolvers are switched off.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scripts.peers import places
from scripts.peers.peer import (
    CALL_SECONDS,
    FETCH_AGAIN_SECONDS,
    READY_SECONDS,
    STOP_SECONDS,
    PeerError,
    PeerTimeout,
)

if TYPE_CHECKING:
    from typing_extensions import Self

#: What a daemon that keeps to itself is told, over what `ipfs init` writes.
_SETTINGS: dict[str, Any] = {
    "Bootstrap": [],
    "AutoConf": {"Enabled": False},
    "AutoTLS": {"Enabled": False},
    "AutoNAT": {"ServiceMode": "disabled"},
    "DNS": {"Resolvers": {}},
    "Discovery": {"MDNS": {"Enabled": False}},
    "HTTPRetrieval": {"Enabled": False},
    "Ipns": {"DelegatedPublishers": []},
    "Plugins": {"Plugins": {"telemetry": {"Disabled": True}}},
    "Routing": {"Type": "dht", "DelegatedRouters": []},
    "Swarm": {
        "AddrFilters": [],
        "DisableNatPortMap": True,
        "EnableHolePunching": False,
        "RelayClient": {"Enabled": False},
        "RelayService": {"Enabled": False},
        "Transports": {
            "Network": {
                "TCP": True,
                "QUIC": False,
                "Websocket": False,
                "WebTransport": False,
                "WebRTCDirect": False,
                "Relay": False,
            }
        },
    },
    "Version": {"SwarmCheckEnabled": False},
}


class KuboDaemon:
    """A running daemon of the newest Kubo. Use as a context manager, or call `stop()`."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        profile: str = "unixfs-v1-2025",
        host: str = "127.0.0.1",
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Starts a daemon on free ports, with its repo in `folder` (default: a temporary one).

        `profile` is one of its own, for `add`; `settings` are laid over its configuration.

        Raises:
            PeerError: it cannot be started here, or does not become ready.
        """
        reason = places.missing_kubo_daemon()
        if reason is not None:
            raise PeerError(reason)
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="kubo-")) if folder is None else folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = self.folder / "daemon.log"
        self._process: subprocess.Popen[str] | None = None
        self._env = {**os.environ, "IPFS_PATH": str(self.folder / "repo"), "IPFS_TELEMETRY": "off"}
        try:
            self._init(profile, host, settings or {})
            self._start()
            told = json.loads(self.run("id"))
        except BaseException:
            self.stop()
            raise
        self.peer_id: str = told["ID"]
        # Kubo names no loopback address to others, so the ones that it listens on are asked for.
        self.addrs = [f"{addr}/p2p/{self.peer_id}" for addr in self.run("swarm", "addrs", "listen").split()]
        self.implementation: str = told["AgentVersion"]

    @property
    def pid(self) -> int:
        """The process of the daemon."""
        assert self._process is not None
        return self._process.pid

    @property
    def gateway(self) -> str:
        """The URL of its gateway."""
        return (self.folder / "repo" / "gateway").read_text(encoding="utf-8").strip()

    # --- requests --------------------------------------------------------------------------------------------------

    def run(self, *args: str | Path, data: bytes = b"", timeout: float = CALL_SECONDS) -> str:
        """Runs an `ipfs` command against the daemon, with `data` as its input. Returns what it printed.

        Raises:
            PeerError: it fails, with its own words, or takes longer than `timeout` seconds.
        """
        return self.run_bytes(*args, data=data, timeout=timeout).decode()

    def run_bytes(self, *args: str | Path, data: bytes = b"", timeout: float = CALL_SECONDS) -> bytes:
        """Like `run`, for output that is no text."""
        command = [str(places.KUBO_PROGRAM), *map(str, args)]
        try:
            done = subprocess.run(
                command,
                env=self._env,
                cwd=self.folder,
                input=data,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerTimeout(f"ipfs {args[0]}: no answer within {timeout:.0f} s") from error
        if done.returncode != 0:
            raise PeerError(f"ipfs {args[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def connect(self, addr: str, *, timeout: float = 30) -> None:
        """Connects to the multiaddr `addr`, which ends in `/p2p/<peer ID>`."""
        self.run("swarm", "connect", addr, timeout=timeout)

    def add(self, path: Path, *options: str, timeout: float = CALL_SECONDS) -> str:
        """Adds a file or a directory, hidden files included; `options` are those of `ipfs add`. Returns its CID."""
        return self.run("add", "-r", "-H", "-Q", "--progress=false", *options, path, timeout=timeout).strip()

    def pin(self, cid: str, *, timeout: float = CALL_SECONDS) -> float:
        """Fetches the whole DAG into its block store and keeps it. Returns the seconds it took."""
        began = time.monotonic()
        self._fetch(cid, "pin", "add", "--progress=false", cid, timeout=timeout)
        return time.monotonic() - began

    def get(self, cid: str, dest: Path, *, timeout: float = CALL_SECONDS) -> float:
        """Fetches a DAG and writes it to `dest`. Returns the seconds it took."""
        began = time.monotonic()
        self._fetch(cid, "get", "--progress=false", "-o", dest, cid, timeout=timeout)
        return time.monotonic() - began

    def _fetch(self, cid: str, *args: str | Path, timeout: float) -> None:
        """Runs a command that fetches a DAG. One that takes long gets help (see `Kubo.pin` in `peer.py`)."""
        ended = threading.Event()

        def help_it() -> None:
            while not ended.wait(FETCH_AGAIN_SECONDS):
                try:
                    self.run("refs", "-r", cid, timeout=FETCH_AGAIN_SECONDS)
                except PeerError:
                    pass  # the command itself tells what is wrong

        helper = threading.Thread(target=help_it)
        helper.start()
        try:
            self.run(*args, timeout=timeout)
        finally:
            ended.set()
            helper.join()

    # --- beginning and end -----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends the daemon and clears up. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            if not self._temporary:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    pass
            process.kill()
            process.wait()
            self._reader.join()
            assert process.stdout is not None
            process.stdout.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _init(self, profile: str, host: str, settings: dict[str, Any]) -> None:
        """Makes the repo, unless it is there, and writes its configuration before anything of it runs."""
        path = self.folder / "repo" / "config"
        if not path.exists():
            self.run("init", "--empty-repo", f"--profile={profile}")
        config = json.loads(path.read_text(encoding="utf-8"))
        addresses = {
            "Swarm": [f"/ip4/{host}/tcp/0"],
            "API": f"/ip4/{host}/tcp/0",
            "Gateway": f"/ip4/{host}/tcp/0",
        }
        for layer in (_SETTINGS, {"Addresses": addresses}, settings):
            _lay_over(config, layer)
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")

    def _start(self) -> None:
        command = [str(places.KUBO_PROGRAM), "daemon"]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        ready: SimpleQueue[bool] = SimpleQueue()
        self._reader = threading.Thread(target=_wait_for_ready, args=(self._process, ready), daemon=True)
        self._reader.start()
        try:
            started = ready.get(timeout=READY_SECONDS)
        except Empty:
            started = False
        if not started:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-600:]
            raise PeerError(f"the Kubo daemon did not become ready\n{tail}")


def _wait_for_ready(process: subprocess.Popen[str], ready: SimpleQueue[bool]) -> None:
    """Reads all that the daemon prints, so that it never waits for a reader."""
    assert process.stdout is not None
    for line in process.stdout:
        if "Daemon is ready" in line:
            ready.put(True)
    ready.put(False)


def _lay_over(config: dict[str, Any], layer: dict[str, Any]) -> None:
    """Put the values of `layer` into `config`; what both have as an object is merged."""
    for name, value in layer.items():
        if isinstance(value, dict) and isinstance(config.get(name), dict) and value:
            _lay_over(config[name], value)
        else:
            config[name] = value
