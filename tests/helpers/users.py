"""Doing things as other users of the machine, which root can."""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be other users; an ordinary user runs this"
)


class User(NamedTuple):
    """A user, who need not be in the system's list."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


#: The group of a laboratory, two of its members, and somebody else.
LAB = 31000
ALICE = User(31001, 31001, (LAB,))
BOB = User(31002, 31002, (LAB,))
MALLORY = User(31003, 31003)


def warm_up(folder: Path) -> None:
    """Import all that is imported when it is needed: others may not be able to read where it is installed."""
    import kachery_cloud as kcl
    import kachery_p2p
    from kachery_cloud import local
    from kachery_cloud.node import connection as background

    for package in (kcl, kachery_p2p):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    before = os.environ.get("KACHERY_CLOUD_DIR")
    os.environ["KACHERY_CLOUD_DIR"] = str(folder / "warm")
    try:
        (folder / "things").mkdir()
        (folder / "things" / "a").write_bytes(bytes(3 << 20))
        uri = kcl.store_dir(folder / "things", local=True, profile="unixfs-v0-2015")
        kcl.load_dir(uri, folder / "out", local_only=True)
        kcl.load_file_info(uri, local_only=True)
        kcl.verify()
        run_command(["status"])
        run_command(["pins"])
        run_command(["keygen-swarm", "--out", str(folder / "key")])
        kcl.status(start=True)
        background.close_all()
        local.close_repositories()
        local.close_outboxes()
    finally:
        os.environ["KACHERY_CLOUD_DIR"] = before or ""


def run_command(arguments: list[str], typed: str = "") -> tuple[int, str, str]:
    """A command of `kachery-cloud`: exit code, what it printed, and what it printed as errors.

    Args:
        arguments: of the command.
        typed: what it reads from standard input.
    """
    from kachery_cloud.commands.main import cli

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code = 0
    before, sys.stdin = sys.stdin, io.StringIO(typed)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main(args=arguments, prog_name="kachery-cloud")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdin = before
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
    return code, out.read(), err.read()


def _child(user: User, umask: int, work: Callable[[], Any], answer: int) -> None:
    """Never returns."""
    code = 1
    try:
        os.setgroups(user.groups)
        os.setgid(user.gid)
        os.setuid(user.uid)
        os.umask(umask)
        try:
            found: Any = work()
            code = 0
        except Exception as error:  # noqa: BLE001 - the test that asked gets it
            found = f"{type(error).__name__}: {error}"
            if "--verbose-users" in sys.argv:
                traceback.print_exc()
        from kachery_cloud.node import connection as background

        background.close_all()
        os.write(answer, json.dumps(found).encode())
    finally:
        os._exit(code)


class Failed(Exception):
    """What another user tried has failed: the name of the error, and its text."""


def as_user(user: User, work: Callable[[], Any], *, umask: int = 0o022, directory: Path | None = None) -> Any:
    """Do something as another user in a forked child, and return what it returns (plain JSON). Raises Failed."""
    reader, writer = os.pipe()
    pid = _fork(directory)
    if pid == 0:
        os.close(reader)
        _child(user, umask, work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise Failed(json.loads(data) if data else f"ended with {code}")
    return json.loads(data)


def _fork(directory: Path | None) -> int:
    from kachery_cloud import local

    # The child must not use what root has open.
    local.close_repositories()
    local.close_outboxes()
    pid = os.fork()
    if pid == 0 and directory is not None:
        os.environ["KACHERY_CLOUD_DIR"] = str(directory)
    return pid


@contextmanager
def node_of(user: User, directory: Path, *, umask: int = 0o022, patience: float = 60.0) -> Iterator[str]:
    """`kachery-cloud node` as another user, until the end of the block. Gives what it says when it serves."""
    import select

    reader, writer = os.pipe()
    pid = _fork(directory)
    if pid == 0:
        os.close(reader)
        os.dup2(writer, 1)
        sys.stdout = os.fdopen(1, "w", buffering=1)

        def work() -> None:
            from kachery_cloud.commands.main import cli

            cli.main(args=["node", "--listen", "/ip4/127.0.0.1/tcp/0", "--json"], prog_name="kachery-cloud")

        _child(user, umask, work, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as stream:
            assert select.select([stream], [], [], patience)[0], "the node does not start"
            yield stream.readline().decode()
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into. (pytest's own are root's alone.)"""
    top = Path(tempfile.mkdtemp(prefix="kachery-users-"))
    os.chmod(top, 0o755)
    try:
        yield top
    finally:
        shutil.rmtree(top)


def readable(directory: Path) -> list[str]:
    """The files of a folder that this user can open, relative to it."""
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except OSError:
                continue
            found.append(str(path.relative_to(directory)))
    return sorted(found)
