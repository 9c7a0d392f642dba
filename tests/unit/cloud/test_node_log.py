"""The log of kachery-cloud-node: what it says, where, and who can read it."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kachery_cloud.node import log as node_log
from kachery_cloud.node.log import start_log
from kachery_p2p.errors import NoPermission, RepoError
from scripts.workstation import Workstation

OURS = logging.getLogger("kachery_p2p.test")
OTHERS = logging.getLogger("hpack.test")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The program sets up the log of the whole process; these tests are not the program."""
    loggers = [logging.getLogger(name) for name in (None, "kachery_cloud", "kachery_p2p")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.level, logger.handlers = level, handlers
    logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]


def test_lines_have_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    """And a level, and where they come from."""
    start_log("info")
    OURS.info("served %d bytes", 7)
    said = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    kachery_p2p\.test: served 7 bytes\n", said)


@pytest.mark.parametrize(("level", "ours"), [("error", 1), ("warning", 2), ("info", 3), ("debug", 4)])
def test_levels(capsys: pytest.CaptureFixture[str], level: node_log.Level, ours: int) -> None:
    """Each says what the one before it does, and more; of other packages never more than warnings, for what some of
    them log below that is secret."""
    logging.getLogger("hpack").setLevel(logging.WARNING)  # as the client of gateways does
    start_log(level)
    for logger in (OURS, OTHERS):
        for number in (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
            logger.log(number, "x")
    said = capsys.readouterr().err.splitlines()
    assert sum("kachery_p2p" in line for line in said) == ours
    assert sum("hpack" in line for line in said) == min(ours, 2)


def test_strangers_cannot_write_lines_or_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in a message, or in the text of an exception, are shown as what they are."""
    start_log("info")
    OURS.warning("from %s", "\x1b[2Jpeer\n2026-01-01 00:00:00.000 ERROR kachery: forged\u202e")
    try:
        raise ValueError("\x1b]0;title\x07")
    except ValueError:
        OURS.exception("it failed")
    said = capsys.readouterr().err
    assert not set(said) & set("\x1b\x07\u202e")
    assert said.count("forged") == 1
    assert not any(line.startswith("2026-01-01 00:00:00.000 ERROR kachery") for line in said.splitlines())
    assert "ValueError" in said


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_log_file_is_private_bounded_and_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner alone reads it, also after it began anew; what was in it before stays; warnings are on the terminal."""
    monkeypatch.setattr(node_log, "MAX_FILE", 2000)
    path = tmp_path / "node.log"
    path.write_text("from the last time\n")
    path.chmod(0o600)
    start_log("info", path)
    OURS.info("first")
    assert path.read_text().startswith("from the last time\n")
    for number in range(200):
        OURS.info("line %d", number)
    OURS.warning("careful")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["node.log", "node.log.1", "node.log.2", "node.log.3"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert all(file.stat().st_size <= 2000 for file in files)
    assert path.read_text().splitlines()[-1].endswith("careful")
    assert "line 199" in path.read_text() + files[1].read_text()
    said = capsys.readouterr().err
    assert said.endswith("careful\n")
    assert "line" not in said


@pytest.mark.skipif(os.name != "posix", reason="named pipes are POSIX")
def test_a_log_file_that_cannot_be(tmp_path: Path) -> None:
    """No such folder, a folder, a named pipe that nobody reads: an error at once that names it."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none" / "x.log", tmp_path, tmp_path / "pipe"):
        with pytest.raises((RepoError, NoPermission, FileNotFoundError), match=re.escape(str(path))):
            start_log("info", path)
    start_log("info", Path(os.devnull))
    OURS.info("x" * 100)


def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the node serves on, and does not print a stack trace for each line."""
    start_log("info", tmp_path / "node.log")
    (handler,) = [each for each in logging.getLogger().handlers if isinstance(each, node_log._File)]

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(handler.stream, "flush", full)
    OURS.info("unwritten")
    OURS.warning("careful")
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.endswith("careful\n")
    monkeypatch.undo()


def test_the_packages_set_up_no_log() -> None:
    """Only the program does. With nothing set up, a library's info goes nowhere."""
    code = """
import logging
import kachery_cloud, kachery_p2p.node.node
import kachery_cloud.node.connection, kachery_cloud.node.log, kachery_cloud.node.serve
assert logging.root.handlers == [] and logging.root.level == logging.WARNING
for name, logger in logging.root.manager.loggerDict.items():
    if name.startswith("kachery"):
        assert not getattr(logger, "handlers", []) and not getattr(logger, "level", 0), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_the_program_says(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """Start, identity, addresses, reachability, what is served, the end: on standard error with -v, or in a file; the
    result on standard output stays as it is."""
    log = tmp_path / "node.log"
    first, second = workstation(), workstation()
    first.start("-v")
    second.start("--log-file", str(log))
    assert first.peer_id
    uri = first.call("say(kcl.store_text('something to load'))")
    second.run("kachery-cloud-load", uri, "--peer", first.addr)
    first.stop()
    second.stop()
    said = (first.folder / "node.log").read_text()
    for text in (
        rf"INFO    kachery_cloud\.node: starting for {re.escape(str(first.directory))} \(process \d+\)",
        rf"serving as {first.peer_id}",
        r"others reach this node at: /ip4/127\.0\.0\.1/tcp/\d+",
        r"whether others can dial this machine: \w+",
        r"stopping on SIGINT",
        r"kachery_cloud\.node: stopped",
    ):
        assert re.search(text, said), (text, said)
    said = log.read_text()
    assert re.search(r"loaded bafk\w+ \(file\): \d+ bytes fetched from 1 sources", said), said
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert (second.folder / "node.log").read_text() == ""


def test_without_options_only_what_is_wrong_is_said(workstation: Callable[..., Workstation]) -> None:
    """A node that works says nothing on standard error."""
    station = workstation().start()
    assert station.stop() == 0
    assert (station.folder / "node.log").read_text() == ""
