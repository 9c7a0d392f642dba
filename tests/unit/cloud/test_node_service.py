"""What a service does beside its node: telling a service manager, sorting out settings, logging, figures."""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from click.testing import CliRunner, Result

from kachery_cloud.commands.node import node
from kachery_cloud.commands.node_service import _quoted
from kachery_cloud.node import systemd
from kachery_cloud.node.log import reopen, set_level, start_log
from kachery_cloud.node.reloading import Reloaded, differing, lines_of, sort_out
from kachery_cloud.node.service import level_of
from kachery_cloud.settings.config import load_config
from kachery_p2p.node.pulse import BUCKETS, Pulse
from kachery_p2p.pinning.server.keeper import Figures, ServiceFigures
from kachery_p2p.pinning.server.metrics import Metrics

OURS = logging.getLogger("kachery_p2p.test")


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


# --- the service manager --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_notify(tmp_path: Path) -> None:
    """One datagram; a line break in a status does not begin another line; without a manager nothing happens."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        assert systemd.notify("READY=1", "STATUS=a\nMAINPID=1", environ={"NOTIFY_SOCKET": str(path)})
        assert manager.recv(100) == b"READY=1\nSTATUS=a MAINPID=1"
    for place in ("", "relative", str(tmp_path / "missing"), "/" + "x" * 500):
        assert not systemd.notify("READY=1", environ={"NOTIFY_SOCKET": place})
    assert not systemd.notify("READY=1", environ={})


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="names without a file are Linux's")
def test_a_socket_without_a_file() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0kachery-test-{os.getpid()}")
        assert systemd.notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": f"@kachery-test-{os.getpid()}"})
        assert manager.recv(100) == b"WATCHDOG=1"


def test_how_often_it_wants_to_hear() -> None:
    """Nothing where it does not, or means another process."""
    assert systemd.watchdog_seconds({"WATCHDOG_USEC": "2000000"}) == 2
    assert systemd.watchdog_seconds({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}) == 2
    for env in ({}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}):
        assert systemd.watchdog_seconds(env) is None


def test_words_of_a_unit() -> None:
    """What means something to systemd is written so that it does not."""
    assert _quoted("/usr/bin/kachery-cloud-node") == "/usr/bin/kachery-cloud-node"
    assert _quoted("/a b/100%/$x") == '"/a b/100%%/$$x"'


def _started(*line: str) -> Result:
    return CliRunner().invoke(node, list(line))


def test_the_options_are_in_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries a node out, and adds --systemd to the line, gets a unit that starts the same."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.pem").write_text("")
    line = ["--lab", "127.0.0.1:9999", "--gateway", "--no-mdns", "-vv", "--tls-cert", "c.pem"]
    line += ["--peer", "/ip4/127.0.0.1/tcp/1", "--peer", "/ip4/127.0.0.1/tcp/2"]
    done = _started(*line, "--systemd")
    assert done.exit_code == 0, done.output
    (start,) = [each for each in done.output.splitlines() if each.startswith("ExecStart=")]
    words = shlex.split(start.partition("=")[2])[1:]
    given = " ".join(words)
    for part in (
        "--lab 127.0.0.1:9999", "--no-mdns", "--verbose --verbose", f"--tls-cert {tmp_path / 'c.pem'}",
        "--peer /ip4/127.0.0.1/tcp/1 --peer /ip4/127.0.0.1/tcp/2",
    ):  # fmt: skip
        assert part in given
    assert words[words.index("--gateway") + 1].startswith("--")
    # What the unit has is read as it was given.
    again = _started(*words, "--systemd")
    assert start in again.output.splitlines()
    assert "ExecStart" not in _started("--lab", "nowhere", "--systemd").output
    plain = _started("--systemd").output
    assert [each for each in plain.splitlines() if each.endswith("kachery-cloud-node")]


def test_init_takes_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be in no file: it says where they go, and writes none."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path))
    done = _started("--lab", "127.0.0.1:9999", "--init")
    assert done.exit_code == 2
    assert "--lab" in done.output
    assert "node.toml" in done.output
    assert not (tmp_path / "node.toml").exists()
    assert _started("--init").exit_code == 0
    assert (tmp_path / "node.toml").exists()


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_sorted_out(tmp_path: Path) -> None:
    """Into those that can be taken up, and those that need a restart."""
    old = load_config({"KACHERY_CLOUD_DIR": str(tmp_path)})
    new = replace(old, storage_limit=5, provide="off")
    assert differing(old, old) == []
    changed = differing(old, new)
    assert set(changed) == {"storage_limit", "provide"}

    async def apply(config: object) -> None: ...

    assert sort_out(changed, {"storage_limit": apply, "peers": apply}) == (["storage_limit"], ["provide"])


def test_what_is_said_of_a_reload() -> None:
    assert lines_of(Reloaded()) == ["All settings are as they were."]
    assert lines_of(Reloaded(error="no")) == ["Nothing has changed: no"]
    assert lines_of(Reloaded(("peers",), ("listen",), ("/c.pem",))) == [
        "Holds now: peers.",
        "Read again: /c.pem.",
        "Holds after a restart of the node: listen.",
    ]


# --- the log --------------------------------------------------------------------------------------------------------


def test_lines_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each an object, with the fields of the message; strangers write no lines and drive no terminal."""
    start_log("info", form="json")
    OURS.info("fetched %s", "\x1b[2J\nx", extra={"fields": {"event": "fetched", "bytes": 7, "message": "no"}})
    try:
        raise ValueError("it failed")
    except ValueError:
        OURS.exception("oh")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["bytes"], first["level"], first["logger"]) == ("fetched", 7, "info", OURS.name)
    assert first["message"].startswith("fetched ")
    assert "\x1b" not in first["message"]
    assert first["time"].endswith("+00:00")
    assert "ValueError: it failed" in second["exception"]


def test_another_level_while_it_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """To both; and with a file, the terminal has warnings alone."""
    path = tmp_path / "log"
    start_log("warning", path)
    OURS.info("one")
    set_level("info")
    OURS.info("two")
    set_level("error")
    OURS.warning("three")
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["two"]
    assert capsys.readouterr().err == ""


def test_a_log_that_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "log"
    start_log("info", path)
    OURS.info("one")
    path.rename(tmp_path / "old")
    reopen()
    OURS.info("two")
    assert path.read_text().endswith("two\n")
    assert (tmp_path / "old").read_text().endswith("one\n")


def test_from_which_level_on(tmp_path: Path) -> None:
    config = load_config({"KACHERY_CLOUD_DIR": str(tmp_path)})
    assert level_of(config) == "warning"
    assert level_of(replace(config, log_file=tmp_path / "log")) == "info"
    assert level_of(replace(config, log_level="debug")) == "debug"


# --- figures --------------------------------------------------------------------------------------------------------


async def test_how_late_the_loop_is(autojump_clock: trio.testing.MockClock) -> None:
    """In virtual time it is never late; what is late is in its bucket."""
    pulse = Pulse()
    with trio.move_on_after(10.2):
        await pulse.run()
    assert pulse.counts[0] == 20
    assert sum(pulse.counts) == 20
    pulse.late(0.03)
    pulse.late(100.0)
    assert pulse.counts[BUCKETS.index(0.05)] == 1
    assert pulse.counts[-1] == 1
    assert pulse.total == pytest.approx(100.03)


def test_figures_of_a_service() -> None:
    """All of them are told; a limit only where there is one."""
    counts = tuple(range(len(BUCKETS) + 1))
    service = ServiceFigures(1, 10, 5, 4, 3, 2, 7, 1, 6, 99, {"inbound": 3, "gateway": 1}, BUCKETS, counts, 2.5)
    text = Metrics().text(Figures(1, 2, 3, 4, 5, service=service), {}, 0).decode()
    for line in (
        "kachery_uptime_seconds 1.0",
        "kachery_storage_limit_bytes 10.0",
        "kachery_storage_used_bytes 5.0",
        "kachery_cache_bytes 4.0",
        "kachery_evicted_bytes_total 3.0",
        "kachery_scrubbed_bytes_total 7.0",
        "kachery_damaged 1.0",
        "kachery_mended_total 6.0",
        'kachery_connections{kind="inbound"} 3.0',
        'kachery_event_loop_lag_seconds_bucket{le="0.0025"} 1.0',
        f'kachery_event_loop_lag_seconds_bucket{{le="+Inf"}} {float(sum(counts))}',
        "kachery_event_loop_lag_seconds_sum 2.5",
    ):
        assert f"{line}\n" in text, line
    text = Metrics().text(Figures(1, 2, 3, 4, 5, service=replace(service, storage_limit=None)), {}, 0).decode()
    assert "kachery_storage_limit_bytes" not in text
