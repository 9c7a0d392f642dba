"""An nginx of our own that serves one folder, to measure against."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

_READY_SECONDS = 10.0

_CONFIG = """
# One process does it all, so that what it uses is known.
master_process off;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address}:{port};
        root {root};
    }}
}}
"""


def missing() -> str | None:
    """Why nginx and curl cannot be measured here, or None."""
    for program in ("nginx", "curl"):
        if _program(program) is None:
            return f"{program} is not present"
    return None


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


class Nginx:
    """A running nginx. Use as a context manager."""

    def __init__(self, folder: Path, root: Path, address: str) -> None:
        """Serves the files of `root` at `address`; keeps its own in `folder`.

        Raises:
            RuntimeError: it does not start.
        """
        program = _program("nginx")
        assert program is not None
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        with socket.socket() as sock:
            sock.bind((address, 0))
            self.port: int = sock.getsockname()[1]
        config = folder / "nginx.conf"
        # It must be able to read files of ours, in folders that are closed to others.
        user = "user root;\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
        config.write_text(
            user + _CONFIG.format(folder=folder, address=address, port=self.port, root=root), encoding="utf-8"
        )
        self._process = subprocess.Popen([program, "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
        self.address = address
        self.url = f"http://{address}:{self.port}"
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as sock:
                if sock.connect_ex((self.address, self.port)) == 0:
                    return
            time.sleep(0.05)  # it does not say when it listens
        self.stop()
        raise RuntimeError("nginx did not start")

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
