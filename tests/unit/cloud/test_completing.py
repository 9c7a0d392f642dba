"""What shells are offered: subcommands, options, values, and what is on this machine. tests/e2e/test_completion.py has
the shells themselves."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import kachery_cloud as kcl
from kachery_cloud.commands.completing import MOST_OFFERS, answer, offers, split_line
from kachery_cloud.commands.completion import script
from kachery_cloud.commands.main import PROGRAMS, cli, find_command
from kachery_cloud.local import close_repositories
from kachery_cloud.uri import parse_uri

ROOT = Path(__file__).parents[3]
#: Commands that take something that is on this machine.
TAKE_URI = ("announce", "cat", "export", "get", "info", "load", "ls", "publish", "rm", "share", "verify", "whereis")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    yield tmp_path / "data"
    close_repositories()


def words(*typed: str) -> list[str]:
    """What is offered for the last of some words behind `kachery-cloud`."""
    return [value for _, value, _ in offers(cli, list(typed[:-1]), typed[-1])]


def stored(text: str, label: str | None = None) -> tuple[str, str]:
    """Something new on this machine: its URI as it is pasted, and its CID."""
    uri = parse_uri(kcl.store_text(text, label=label, local=True))
    return uri.pasteable, uri.cid


def test_commands_and_options() -> None:
    """By their beginnings, also behind a group; options with a few words about them."""
    assert words("where") == ["whereis"]
    assert words("pins", "serv") == ["service"]
    assert words("pins", "service", "a") == ["add"]
    assert words("load", "--loc") == ["--local-only"]
    assert words("list", "--sort", "s") == ["size"]
    assert words("list", "--sort=s") == ["--sort=size"]
    ((_, _, text),) = offers(find_command("load"), [], "--loc")
    assert "do not use the network" in text


@pytest.mark.parametrize("command", TAKE_URI)
def test_what_is_here(command: str) -> None:
    """By its URI, its CID or its label, whatever the case of that; in the form that needs no quotes."""
    uri, cid = stored("one", "Session 1.nwb")
    other, other_cid = stored("two", "session2.nwb")
    nameless, _ = stored("three")
    assert words(command, "") == [nameless, other, uri]
    assert words(command, "sess") == [other, uri]
    assert words(command, "session2") == [other]
    assert words(command, "ipfs://label=Sess") == [uri]
    assert words(command, f"ipfs://{cid[:30]}") == [f"ipfs://{cid}"]
    assert words(command, other_cid[:30]) == [other_cid]
    assert words(command, "nothing") == []
    assert (uri.count(" "), uri.count("%20")) == (0, 1)


def test_the_newest_come_first_and_not_too_many(data: Path) -> None:
    """Of very many, a screen full of those that were used last."""
    stored("first")
    close_repositories()
    with sqlite3.connect(data / "catalog.sqlite") as db:
        ((key,),) = db.execute("SELECT key FROM kept").fetchall()
        for number in range(3 * MOST_OFFERS):
            other = key[:-2] + number.to_bytes(2, "big")
            db.execute("INSERT INTO kept VALUES (?, 1, ?, ?, 1)", (other, number, 2e9 + number))
            db.execute("INSERT INTO labels VALUES (?, ?, 1, 1)", (other, f"n{number}"))
    db.close()
    found = words("load", "")
    assert len(found) == MOST_OFFERS
    assert found[0].startswith(f"ipfs://label=n{3 * MOST_OFFERS - 1}@")
    assert len(words("load", "n29")) == 11


def test_values_of_options_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles, pinning services that are set, names of settings."""
    monkeypatch.setenv("KACHERY_CLOUD_PIN_SERVICES", "lab=https://pins.example.org")
    assert words("store", "--profile", "unixfs-v0") == ["unixfs-v0-2015"]
    assert words("pins", "add", "ipfs://x", "--service", "l") == ["lab"]
    assert words("settings", "KACHERY_CLOUD_MD") == ["KACHERY_CLOUD_MDNS"]
    assert words("settings", "md") == ["mdns"]


def test_files_are_left_to_the_shell() -> None:
    """It knows what there is; a comparison takes a folder or a URI."""
    assert [kind for kind, _, _ in offers(cli, ["store"], "x")] == ["file"]
    uri, _ = stored("one", "a")
    assert list(offers(cli, ["diff", uri], "")) == [("dir", "", ""), ("plain", uri, "a")]


@pytest.mark.parametrize("label", ["$(touch x)", "a\tb\nc", "\x1b[31m", "`x`", "'", "ü"])
def test_labels_of_strangers_do_no_harm(label: str) -> None:
    """What is offered needs no quotes in any shell, whatever somebody called it."""
    stored("one", label)
    ((_, value, text),) = offers(cli, ["load"], "")
    assert value.isascii()
    assert not set(value) & set("$(){}[]`'\" \t\n\\;&|<>*?!#~^")
    assert "\t" not in text
    assert "\n" not in text
    assert "\x1b" not in text


def test_nothing_is_made_and_nothing_complains(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a data directory, with a damaged catalog, or with settings that make no sense, there is no offer."""
    assert words("load", "ipfs") == []
    assert not data.exists()
    data.mkdir()
    (data / "catalog.sqlite").write_bytes(b"damaged" * 1000)
    assert words("load", "ipfs") == []
    assert [each.name for each in data.iterdir()] == ["catalog.sqlite"]
    monkeypatch.setenv("KACHERY_CLOUD_TIMEOUT", "never")
    assert words("load", "ipfs") == []


def test_a_catalog_is_only_read(data: Path) -> None:
    """No file of the data directory is changed, and no node is started."""
    stored("one", "a")
    close_repositories()
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    assert words("load", "a") != []
    assert not (data / "node.lock").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kachery-cloud load", (["load"], False)),
        ("kachery-cloud load ", (["load", ""], False)),
        ("KACHERY_CLOUD_DIR=/data kachery-cloud-load 'a b' c", (["a b", "c"], False)),
        ("kachery-cloud load 'a b", (["load", "a b"], True)),
        ("/opt/bin/kachery-cloud load a\\ b", (["load", "a b"], False)),
        ("kachery-cloud load #x ", (["load", "#x", ""], False)),
        ("kachery-cloud", ([], False)),
        ("", ([], False)),
    ],
)
def test_a_line_of_bash(line: str, expected: tuple[list[str], bool]) -> None:
    """It comes whole, with quotes and variables before the command; the last word may have just begun."""
    assert split_line(line) == expected


def test_bash_gets_the_part_behind_the_last_break(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """For it a word begins anew behind `:`, `=` and `@`, but not within quotes."""
    uri, _ = stored("one", "a.nwb")
    monkeypatch.setenv("_KACHERY_CLOUD_BREAKS", " \t\n\"'@><=;|&(:")
    line = "kachery-cloud load ipfs://label=a"
    behind = uri.partition("=")[2]
    at = "@" + uri.partition("@")[2]  # that one belongs to the word that it begins
    for given, expected in ((line, behind), (line.replace("ipfs", '"ipfs'), uri), (f"{line}.nwb@", at)):
        answer(cli, "bash", [given])
        kind, value, text = capfdbinary.readouterr().out.decode().rstrip("\n").split("\t")
        assert (kind, value, text) == ("plain", expected, "a.nwb")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_name_all_programs(shell: str) -> None:
    """Each command that is installed is completed, by each shell."""
    found = re.findall(
        r"^(kachery-cloud[a-z-]*) = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(found) == sorted(PROGRAMS)
    assert set(found) <= set(script(shell).split())
