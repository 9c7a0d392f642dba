"""Installs what the peers need, inside this folder: `python -m scripts.peers.installer`.

An old Kubo comes as a shared library in a PyPI wheel, Node.js 22 with npm in another, Helia and an OpenID provider from
npm at the versions of package-lock.json; go-libp2p is one more wheel, in an environment of its own, because it calls
itself `libp2p`, too. The newest Kubo is built from its Go modules, at the versions of kubo/go.mod, where there is a Go
compiler.
Registries and proxies are those of the caller's environment. Nothing is done when all is there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from scripts.peers import places

_INSTALL_SECONDS = 900


class InstallError(Exception):
    """An installation step failed; the message says which and shows the end of its output."""


def main() -> int:
    """Installs all peers. Returns the exit code."""
    reason = places.unsupported()
    if reason is not None:
        print(f"No peers to install: {reason}.")
        return 0
    try:
        install_venv()
        install_modules()
        install_go()
        build_kubo()
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def install_venv() -> None:
    """Makes the environment with Kubo and Node.js, unless it is there."""
    if places.stamp_of(places.VENV) == places.venv_stamp() and places.venv_python().exists():
        return
    print("Installing Kubo and Node.js (about 500 MB on disk) ...", flush=True)
    shutil.rmtree(places.VENV, ignore_errors=True)
    venv.create(places.VENV, with_pip=True)
    _run("pip", [str(places.venv_python()), "-m", "pip", "install", "--quiet", *places.REQUIREMENTS])
    places.write_stamp(places.VENV, places.venv_stamp())


def install_modules() -> None:
    """Installs Helia and the OpenID provider from the lock file, unless they are there."""
    stamp = places.modules_stamp()
    if places.stamp_of(places.NODE_MODULES) == stamp:
        return
    print("Installing Helia and an OpenID provider (about 150 MB on disk) ...", flush=True)
    # npm's own scripts start `node` by name: they must find the one that belongs to this npm.
    env = {**os.environ, "PATH": f"{places.node_program().parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    flags = ["--ignore-scripts", "--no-audit", "--no-fund"]
    _run("npm", [str(places.node_program()), str(places.npm_script()), "ci", *flags], cwd=places.HERE, env=env)
    places.write_stamp(places.NODE_MODULES, stamp)


def install_go() -> None:
    """Makes the environment with go-libp2p, where there is a CPython 3.11 for it; its wheel is for no other."""
    if places.missing_go() is None:
        return
    reason = places.unsupported_go()
    python = _python311()
    if reason is None and python is None:
        reason = "its wheel is for CPython 3.11, and there is no python3.11 here"
    if reason is not None or python is None:
        print(f"Left out go-libp2p: {reason}.")
        return
    print("Installing go-libp2p (about 60 MB on disk) ...", flush=True)
    shutil.rmtree(places.VENV_GO, ignore_errors=True)
    _run("venv", [python, "-m", "venv", str(places.VENV_GO)])
    pip = [str(places.venv_python(places.VENV_GO)), "-m", "pip", "install", "--quiet"]
    _run("pip", [*pip, *places.GO_REQUIREMENTS])
    places.write_stamp(places.VENV_GO, places.go_stamp())


def build_kubo() -> None:
    """Builds the newest Kubo, where there is a Go that can; it takes some minutes of both cores the first time."""
    if places.missing_kubo_daemon() is None:
        return
    reason = _unsuitable_go()
    if reason is not None:
        print(f"Left out the newest Kubo: {reason}.")
        return
    print("Building the newest Kubo (some minutes, about 1.5 GB of Go's caches) ...", flush=True)
    shutil.rmtree(places.KUBO_BUILT, ignore_errors=True)
    # Never another toolchain than the one that is here, and no settings of the user's for other builds.
    env = {**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    command = ["go", "build", "-trimpath", "-o", str(places.KUBO_PROGRAM), "github.com/ipfs/kubo/cmd/ipfs"]
    _run("go build", command, cwd=places.KUBO_SOURCE, env=env)
    places.write_stamp(places.KUBO_BUILT, places.kubo_stamp())


def _unsuitable_go() -> str | None:
    """Why the newest Kubo cannot be built here, or None when it can."""
    if shutil.which("go") is None:
        return "there is no Go compiler here"
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    told = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, env=env, timeout=60, check=False)
    version = told.stdout.strip().removeprefix("go")
    wanted = re.search(r"^go (\S+)$", (places.KUBO_SOURCE / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted is not None
    if _numbers(version) < _numbers(wanted[1]):
        return f"it needs Go {wanted[1]} or newer, this is {version or 'unknown'}"
    return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _python311() -> str | None:
    """An interpreter for the wheel of go-libp2p that can make environments, or None."""
    for candidate in (sys.executable, shutil.which("python3.11"), shutil.which("python3")):
        if candidate is None:
            continue
        test = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))"
        done = subprocess.run([candidate, "-c", test], capture_output=True, timeout=60, check=False)
        if done.returncode == 0:
            return candidate
    return None


def _run(what: str, command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Runs one step with its output kept back.

    Raises:
        InstallError: it fails; has the end of the output.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{what} did not end within {_INSTALL_SECONDS} seconds") from error
    if done.returncode != 0:
        raise InstallError(f"{what} failed with exit code {done.returncode}:\n{done.stdout[-4000:]}")


if __name__ == "__main__":
    sys.exit(main())
