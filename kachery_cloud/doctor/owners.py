"""Which process listens on a TCP port, where the system tells."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTENING = "0A"
#: Seconds for the program that is asked on macOS.
_LSOF_SECONDS = 5.0


@dataclass(frozen=True)
class Owner:
    """Who listens.

    Attributes:
        pid: of the process; None where the system does not tell.
        name: of its program; empty where the system does not tell.
        user: whose it is; empty where the system does not tell.
    """

    pid: int | None = None
    name: str = ""
    user: str = ""

    @property
    def in_words(self) -> str:
        """As in "by nginx (process 123 of the user www-data)"."""
        if self.pid is None:
            return f"by a process of the user {self.user}" if self.user else "by another program"
        who = f"process {self.pid}" + (f" of the user {self.user}" if self.user else "")
        return f"by {self.name} ({who})" if self.name else f"by {who}"


def who_listens(host: str, port: int) -> Owner:
    """Who listens on a port in such a way that nobody else can at `host` (an IP address)."""
    if sys.platform.startswith("linux"):
        return _by_proc(host, port)
    if shutil.which("lsof"):
        return _by_lsof(port)
    return Owner()


def listening(table: str, host: str, port: int) -> Iterator[tuple[int, int]]:
    """The inodes and users of the sockets in the text of /proc/net/tcp (or tcp6) that are in the way."""
    wanted = ipaddress.ip_address(host)
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != _LISTENING:
            continue
        address, _, number = fields[1].partition(":")
        if int(number, 16) != port:
            continue
        found = _address(address)
        if wanted.is_unspecified or found.is_unspecified or found == wanted:
            yield int(fields[9]), int(fields[7])


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Words of four bytes, each in the order of the machine."""
    data = bytes.fromhex(digits)
    if sys.byteorder == "little":
        data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    found = ipaddress.ip_address(data)
    return getattr(found, "ipv4_mapped", None) or found


def _by_proc(host: str, port: int) -> Owner:
    found: dict[str, int] = {}
    for name in ("tcp", "tcp6"):
        try:
            table = Path("/proc/net", name).read_text(encoding="ascii")
        except OSError:
            continue
        found.update({f"socket:[{inode}]": user for inode, user in listening(table, host, port)})
    if not found:
        return Owner()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            for each in os.listdir(folder / "fd"):
                link = os.readlink(folder / "fd" / each)
                if link in found:
                    name = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    return Owner(int(folder.name), name, _user(found[link]))
        except OSError:  # of another user, or just ended
            continue
    return Owner(user=_user(next(iter(found.values()))))


def _user(uid: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


def _by_lsof(port: int) -> Owner:
    line = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpcn"]
    try:
        said = subprocess.run(line, capture_output=True, text=True, timeout=_LSOF_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return Owner()
    fields = {each[0]: each[1:] for each in reversed(said.splitlines()) if each}
    pid = fields.get("p", "")
    return Owner(int(pid), fields.get("c", "")) if pid.isdigit() else Owner()
