"""An SSH server of our own, with throwaway keys, to measure `scp` and `rsync` against."""

from __future__ import annotations

import getpass
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


def missing(tool: str) -> str | None:
    """Why `tool` (`scp` or `rsync`) cannot be measured here, or None."""
    for program in (tool, "ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            return f"{program} is not present"
    return None if _sshd() else "sshd is not present"


class SshServer:
    """A running `sshd`. Use as a context manager."""

    def __init__(self, folder: Path, address: str) -> None:
        """Makes keys and settings in `folder` and starts the server, which listens at `address`.

        Raises:
            RuntimeError: it does not start.
        """
        program = _sshd()
        assert program is not None
        folder.mkdir(parents=True)
        self._folder = folder
        self._address = address
        self.user = getpass.getuser()
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        (folder / "authorized_keys").write_bytes((folder / "user_key.pub").read_bytes())
        with socket.socket() as sock:
            sock.bind((address, 0))
            self.port: int = sock.getsockname()[1]
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # root's sshd does not start without it
        settings = {
            "Port": self.port,
            "ListenAddress": address,
            "HostKey": folder / "host_key",
            "AuthorizedKeysFile": folder / "authorized_keys",
            "PidFile": folder / "pid",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "Subsystem": "sftp internal-sftp",
        }
        config = folder / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()), encoding="utf-8")
        with open(folder / "sshd.log", "wb") as log:
            self._process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait()

    @property
    def pid(self) -> int:
        """The process of the server; those of its sessions are children of it."""
        return self._process.pid

    def settle(self) -> None:
        """Waits until its sessions have ended, so that what they used is known."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        deadline = time.monotonic() + _READY_SECONDS
        while children.exists() and children.read_text().strip() and time.monotonic() < deadline:
            time.sleep(0.01)  # nothing tells when

    def options(self) -> list[str]:
        """What `ssh` must be told to reach the server without asking anything and without the user's settings."""
        return [
            "-F", "/dev/null", "-i", str(self._folder / "user_key"), "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
        ]  # fmt: skip

    def scp(self, source: Path, dest: Path) -> list[str]:
        """The command that fetches `source` with `scp`."""
        return [
            "scp", "-q", "-r", "-P", str(self.port), *self.options(), f"{self.user}@{self._address}:{source}", str(dest)
        ]  # fmt: skip

    def rsync(self, source: Path, dest: Path) -> list[str]:
        """The command that fetches `source` with `rsync` over SSH."""
        # To rsync a slash at the end means the contents of a folder: `dest` then becomes the copy, as with scp.
        slash = "/" if source.is_dir() else ""
        shell = " ".join(["ssh", "-p", str(self.port), *self.options()])
        return ["rsync", "-a", "-e", shell, f"{self.user}@{self._address}:{source}{slash}", str(dest)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def _wait(self) -> None:
        """Waits until the server accepts connections: it has no other way to say that it is ready."""
        deadline = time.monotonic() + _READY_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((self._address, self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        self._process.kill()
        self._process.wait()
        log = (self._folder / "sshd.log").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"sshd did not start: {log[-500:]}")


def _sshd() -> str | None:
    # sshd insists on being started by its full path, which is not on every user's PATH.
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
