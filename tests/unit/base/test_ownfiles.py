"""The files of a data directory that are read whole: a thing of another kind in their place hangs no command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_cloud.doctor.databases import check_databases
from kachery_cloud.doctor.directory import check_directory
from kachery_cloud.doctor.facts import Facts
from kachery_cloud.doctor.reading import read_all
from kachery_cloud.errors import ConfigError, IdentityError, KacheryError, NotAFile, SwarmKeyError
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.config_file import MAX_CONFIG
from kachery_cloud.settings.pin_services import PinSetting
from kachery_cloud.settings.pin_tokens import find_token
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.swarm_key import read_swarm_key

pytestmark = pytest.mark.skipif(os.name != "posix", reason="named pipes and devices are POSIX")

#: Of no file that is here.
ABSENT = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS = pytest.mark.parametrize(
    ("make", "what"),
    [(fifo, "a named pipe"), (folder, "a folder"), (device, "a device"), (huge, "more than")],
)


@KINDS
def test_it_is_named(tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
    """What is there instead of a file, or that it is too large; nothing is waited for, and no more is read."""
    make(tmp_path / "x")
    with pytest.raises(NotAFile, match=f"x is {what}|x has {what} 100 bytes"):
        read_own_file(tmp_path / "x", 100)


def test_files_are_read(tmp_path: Path) -> None:
    """Up to the bound, and those of which the system says no size."""
    (tmp_path / "x").write_bytes(b"a" * 100)
    assert read_own_file(tmp_path / "x", 100) == b"a" * 100
    (tmp_path / "link").symlink_to("x")
    assert read_own_file(tmp_path / "link", 100) == b"a" * 100
    if os.path.exists("/proc/self/status"):
        assert b"Umask" in read_own_file("/proc/self/status", 100_000)
    with pytest.raises(FileNotFoundError):
        read_own_file(tmp_path / "none", 100)


def config(directory: Path) -> object:
    return load_config({"KACHERY_CLOUD_DIR": str(directory)})


def token(directory: Path) -> object:
    return find_token(load_config({"KACHERY_CLOUD_DIR": str(directory)}), PinSetting("lab", "http://127.0.0.1:5000"))


@KINDS
@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("config.json", config, ConfigError),
        ("tokens.json", token, ConfigError),
        ("swarm.key", read_swarm_key, SwarmKeyError),
        ("private.pem", load_or_create_identity, IdentityError),
        ("public.pem", load_or_create_identity, IdentityError),
    ],
)
def test_each_of_ours(
    tmp_path: Path,
    make: Callable[[Path], None],
    what: str,
    name: str,
    read: Callable[[Path], object],
    error: type[KacheryError],
) -> None:
    """Settings, tokens and keys: a sentence that names the path."""
    if name == "public.pem":
        load_or_create_identity(tmp_path)
        (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(error, match=name):
        read(tmp_path)


def test_commands_do_not_hang(tmp_path: Path) -> None:
    """With a named pipe for settings, a command ends with exit code 2 and one sentence."""
    os.mkfifo(tmp_path / "config.json")
    said = f"Error: The settings cannot be read: {tmp_path}/config.json is a named pipe, not a file.\n"
    environment = {**os.environ, "KACHERY_CLOUD_DIR": str(tmp_path)}
    for command in (["status"], ["store", "x"], ["init"]):
        line = [sys.executable, "-m", "kachery_cloud.commands.main", *command]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stderr == said


def each(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, as a process of its own, which ends within a minute."""
    line = [sys.executable, "-m", "kachery_cloud.commands.main", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("node.lock", (["status"], ["repair"], ["load", "--timeout", "1", ABSENT])),
        ("removal.lock", (["store", "{file}"], ["list"])),
        ("catalog.sqlite", (["store", "{file}"], ["list"], ["load", "--local-only", ABSENT])),
        ("outbox.sqlite", (["pins"],)),
        ("labels.txt", (["store", "--label", "x", "{file}"], ["verify"])),
        ("access.txt", (["store", "--to", "private", "{file}"], ["repair"])),
    ],
)
def test_locks_databases_and_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, commands: tuple[list[str], ...]
) -> None:
    """With a named pipe in its place, no command that needs it hangs, and each says what it is, and where; the doctor,
    too."""
    directory = tmp_path / "data"
    for variable, value in (("DIR", str(directory)), ("PUBLIC", "off"), ("MDNS", "off")):
        monkeypatch.setenv(f"KACHERY_CLOUD_{variable}", value)
    (tmp_path / "file").write_text("something")
    assert each("store", "--to", "private", "--label", "other", str(tmp_path / "file")).returncode == 0
    for suffix in ("", "-wal", "-shm"):
        (directory / f"{name}{suffix}").unlink(missing_ok=True)
    os.mkfifo(directory / name)
    (tmp_path / "file").write_text("something else")
    for command in commands:
        done = each(*(part.format(file=tmp_path / "file") for part in command))
        assert done.returncode not in (0, 1), (command, done)
        assert f"{directory / name} is a named pipe, not a file" in done.stderr, (command, done)
    facts = Facts(read_all({"KACHERY_CLOUD_DIR": str(directory)}))
    findings = (*check_directory(facts).findings, *check_databases(facts).findings)
    assert any(str(directory / name) in finding.what for finding in findings)
    if name.endswith(".sqlite"):
        assert each("repair").returncode == 0
        assert each("status").returncode == 0
        assert each("pins").returncode == 0
        assert not (directory / name).is_fifo()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 200_000, "levels"),
        (b'{"timeout": ' + b"9" * 10_000 + b"}", "digits"),
        (b'{"timeout": 1, "timeout": 2}', "twice"),
        (b'{"timeout": NaN}', "NaN"),
        (b'{"peers": "\xff"}', "UTF-8"),
        (b" " * (MAX_CONFIG + 1), "more than"),
    ],
)
def test_settings_that_are_no_settings(tmp_path: Path, content: bytes, why: str) -> None:
    """A sentence that names the file, whatever is in it."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=why) as caught:
        config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_settings_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Some editors of Windows begin a file with one."""
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"timeout": 7}')
    assert load_config({"KACHERY_CLOUD_DIR": str(tmp_path)}).timeout == 7
