"""What all commands have: a version, examples, exit codes, pages for `man` and for the documentation."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

import kachery_cloud
from kachery_cloud import errors, terminal
from kachery_cloud.commands.exit_codes import EXIT_CODES
from kachery_cloud.commands.main import PROGRAMS, cli, find_command
from kachery_cloud.commands.man_pages import man_page, write_pages
from kachery_cloud.commands.reference import Page, pages
from scripts.site.commands import commands_page

ROOT = Path(__file__).parents[3]
PAGES = {page.path: page for page in pages()}
PLAIN = Page("kachery-cloud x", "", "Do", "[OPTIONS]", (), (), (), ())


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(cli, list(arguments), prog_name="kachery-cloud")
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_command_has_a_page() -> None:
    """Those in groups, too; a page says under which other name the command is installed."""
    assert {"kachery-cloud", "kachery-cloud whereis", "kachery-cloud pins service add"} <= set(PAGES)
    assert {page.program for page in PAGES.values()} == {*PROGRAMS, ""} - {"kachery-cloud"}


@pytest.mark.parametrize("path", PAGES)
def test_help_ends_with_an_example_and_there_is_a_version(path: str) -> None:
    """Of every command and group."""
    words = path.split()[1:]
    assert shown(*words, "--version") == f"kachery-cloud {kachery_cloud.__version__}\n"
    text = shown(*words, "--help").partition("\nOptions:")[0].rstrip()
    assert PAGES[path].examples
    assert text.endswith(PAGES[path].examples[-1].strip())
    assert any("kachery-cloud" in line for line in PAGES[path].examples)


@pytest.mark.parametrize("program", sorted({*PROGRAMS} - {"kachery-cloud"}))
def test_every_program_tells_its_version(program: str) -> None:
    """By its own name."""
    done = CliRunner().invoke(find_command(program.removeprefix("kachery-cloud-")), ["--version"], prog_name=program)
    assert (done.exit_code, done.stdout) == (0, f"{program} {kachery_cloud.__version__}\n")


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_exit_codes_are_one_table() -> None:
    """The page, `--help` and the errors have those of `EXIT_CODES`, and no others."""
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    assert {
        int(code): words for code, words in re.findall(r"^\| (\d+) +\| (.*?) +\|$", text, re.MULTILINE)
    } == EXIT_CODES
    told = re.findall(r"^ +(\d+)  (\S.*)$", shown("--help"), re.MULTILINE)
    assert {int(code): words for code, words in told} == {
        code: words.replace("`", "") for code, words in EXIT_CODES.items()
    }
    for module in (errors, terminal):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, errors.KacheryError):
                assert kind.exit_code in EXIT_CODES


# --- manual pages ----------------------------------------------------------------------------------------------------


def test_man_pages_say_what_help_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each command, with its usage, options, examples and exit codes; the same bytes at each build."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1760000000")
    paths = write_pages(tmp_path / "man1")
    assert {path.name for path in paths} == {f"{page.name}.1" for page in PAGES.values()}
    text = (tmp_path / "man1" / "kachery-cloud-whereis.1").read_text(encoding="ascii")
    assert text.startswith('.TH KACHERY\\-CLOUD\\-WHEREIS 1 "2025-10-09" ')
    for part in (
        ".B kachery\\-cloud whereis\n[OPTIONS] URI",
        ".B \\-\\-peer MULTIADDR",
        ".B 3\nNot found.",
        ".EX\n\\&    kachery\\-cloud\\-whereis ipfs://bafy...\n",
    ):
        assert part in text
    assert ".BR kachery\\-cloud\\-pins\\-service\\-add (1)" in man_page(PAGES["kachery-cloud pins service"], "")


@pytest.mark.parametrize("text", [".SH x", "'x", "\\fBx", "a\\", "é ü", "-x --y", "`~^`"])
def test_no_text_is_a_request_of_roff(text: str, tmp_path: Path) -> None:
    """Whatever a help text begins with or has in it, it is shown."""
    page = Page("kachery-cloud x", "", "Do", "[OPTIONS]", (text,), (text, "    b"), (("--x", text),), ())
    made = man_page(page, "2026-01-01")
    lines = made.splitlines()
    assert (
        sum(line.startswith((".SH", "'", "\\f")) for line in lines)
        == sum(line.startswith(".SH") for line in man_page(PLAIN, "").splitlines()) + 1
    )  # that of the examples
    program = shutil.which("mandoc")
    if program is not None:
        (tmp_path / "x.1").write_text(made, encoding="ascii")
        line = [program, "-T", "utf8", str(tmp_path / "x.1")]
        seen = subprocess.run(line, capture_output=True, check=True).stdout.decode()
        assert re.sub(".\b", "", seen).count(text) == 3


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc here (Debian: apt-get install mandoc)")
def test_man_pages_are_well_formed(tmp_path: Path) -> None:
    """mandoc has no warning about any."""
    paths = map(str, write_pages(tmp_path))
    line = ["mandoc", "-T", "lint", "-W", "warning", *paths]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here (Debian: apt-get install man-db)")
def test_man_shows_them(tmp_path: Path) -> None:
    """`man` finds a page beside the programs, and shows it without a complaint."""
    write_pages(tmp_path / "share" / "man" / "man1")
    env = {"MANPATH": str(tmp_path / "share" / "man"), "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    line = ["man", "--warnings", "kachery-cloud-store"]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    if "minimized" in done.stdout:
        pytest.skip("the manual pages of this system were taken out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "kachery-cloud-store [OPTIONS] PATH..." in re.sub(".\b", "", done.stdout)


# --- the site --------------------------------------------------------------------------------------------------------


def test_the_site_has_all_commands() -> None:
    """Each with its usage and options."""
    text = commands_page()
    for page in PAGES.values():
        assert f"\n## {page.path}\n" in text
        assert f"\n{page.path} {page.usage}\n" in text
    assert "| `--peer MULTIADDR` | " in text
