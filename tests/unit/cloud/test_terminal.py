"""The filter between what strangers wrote and the user's terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud import progress
from kachery_cloud.commands import main as cli
from kachery_cloud.commands.support import command
from kachery_cloud.errors import FileMissing, InvalidURI, KacheryError
from kachery_cloud.privacy import sentence
from kachery_cloud.terminal import FilteredStream, program_streams, tell
from kachery_p2p.text import printable, span_text
from tests.helpers.terminal_helpers import ATTACK, DANGEROUS, harmless

ROOT = Path(__file__).parents[3]


@given(st.text(alphabet=st.characters(), max_size=50))
def test_nothing_acts_on_the_terminal(text: str) -> None:
    """Every control character becomes an escape, twice is as once, and text without any is as it was."""
    shown = printable(text)
    assert harmless(shown)
    assert "\n" not in shown
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text
    assert printable(text, keep="\n\t").count("\n") == text.count("\n")


def test_scripts_of_people_are_left_alone() -> None:
    """Accents, wide blanks, joiners and emoji are text."""
    for text in ("Mäuse 12\u00a0µm", "データ\u3000名", "می\u200cخواهم", "👩\u200d🔬", "नमस्ते"):
        assert printable(text) == text


def test_every_dangerous_character_is_shown() -> None:
    """As an escape that names it."""
    for number in range(0x20000):
        if DANGEROUS.match(char := chr(number)):
            assert printable(f"a{char}b") == f"a{char.encode('unicode_escape').decode()}b"
    assert printable("\x1b\x9b\u202e\udcff") == "\\x1b\\x9b\\u202e\\udcff"


@pytest.mark.parametrize("kind", [KacheryError, InvalidURI, FileMissing])
def test_the_text_of_an_error_is_safe_wherever_it_is_shown(kind: type[KacheryError]) -> None:
    """In notebooks and other people's programs, too: `str` is filtered, `args` has what was given."""
    error = kind(f"The name is {ATTACK}.")
    assert harmless(str(error))
    assert "\n" not in str(kind("a\nb"))
    assert "\\x1b[2J" in str(error)
    assert error.args == (f"The name is {ATTACK}.",)
    assert harmless(repr(error))


@pytest.fixture
def hostile() -> Any:
    """A command that prints what strangers wrote, by every way there is."""

    @command("hostile")
    @click.option("--how")
    def run(how: str) -> None:
        if how == "echo":
            click.echo(ATTACK)
            click.echo(ATTACK, err=True)
        elif how == "print":
            print(ATTACK)
            sys.stderr.writelines([ATTACK])
            tell(ATTACK)
        elif how == "error":
            raise KacheryError(ATTACK)
        elif how == "usage":
            raise click.UsageError(ATTACK)
        elif how == "warning":
            warnings.warn(ATTACK, RuntimeWarning, stacklevel=1)
        elif how == "log":
            logging.getLogger("kachery_cloud.test").warning("%s", ATTACK)
        elif how == "json":
            click.echo(json.dumps(ATTACK))

    return run


@pytest.mark.parametrize("how", ["echo", "print", "error", "usage", "warning", "log", "json"])
def test_whatever_prints_prints_through_the_filter(how: str, hostile: click.Command) -> None:
    """Results, errors, usage, warnings and logs of a command; line ends stay. Afterwards the streams are as before."""
    before = sys.stdout, sys.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)  # as Python's own: to sys.stderr
        result = CliRunner().invoke(hostile, ["--how", how])
    printed = result.stdout + result.stderr
    assert harmless(printed)
    assert "\\u001b[2J" in printed if how == "json" else "\\x1b" in printed or "[2J" not in printed
    assert (sys.stdout, sys.stderr) == before


def test_json_is_ascii() -> None:
    """What a program reads is not filtered but escaped by JSON itself: the same text comes out of it."""
    for path in (ROOT / "kachery_cloud").glob("cli*.py"):
        assert "ensure_ascii" not in path.read_text(), path
    assert harmless(json.dumps(ATTACK))
    assert json.loads(json.dumps(ATTACK)) == ATTACK


def test_the_users_own_words_are_filtered_in_usage_errors() -> None:
    """A URI that was copied from somewhere, pasted where no argument is expected."""
    for arguments in ([ATTACK], ["load", ATTACK], ["load", "x", ATTACK], ["load", "x", "--timeout", ATTACK]):
        result = CliRunner().invoke(cli.cli, arguments)
        assert result.exit_code == 2
        assert harmless(result.output)
        assert result.stderr


def test_a_stack_trace_goes_through_the_filter() -> None:
    """An error of ours, with a stranger's text in it, is printed by the interpreter after all else."""
    code = (
        "import kachery_cloud.load as load\n"
        "from kachery_cloud.commands.entry import cat_main\n"
        f"def fail(*_, **__): raise ZeroDivisionError({ATTACK!a})\n"
        "load.cat_file = fail\n"
        "cat_main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "x"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ZeroDivisionError" in done.stderr
    assert "\\x1b[2J" in done.stderr
    assert harmless(done.stderr)


def test_what_an_encoding_does_not_have_is_escaped() -> None:
    """On a terminal of ASCII or Latin-1 a name with other letters is shown, and is no UnicodeEncodeError."""
    for encoding, shown in (("ascii", "\\u540d \\xe9\n"), ("latin-1", "\\u540d é\n"), ("utf-8", "名 é\n")):
        raw = io.BytesIO()
        stream = FilteredStream(io.TextIOWrapper(raw, encoding=encoding), "standard output")
        print("名 é", file=stream)
        stream.flush()
        assert raw.getvalue().decode(encoding) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_commands_under_every_encoding(encoding: str, tmp_path: Path) -> None:
    """A folder with names in other letters, and one that is not UTF-8, under any encoding of the output: lines, not
    stack traces. A path, for the next command of a pipeline, is printed as the bytes that name the file."""
    name = "Mäuse 名.txt"
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / name).write_text("x")
    env = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "KACHERY_CLOUD_DIR": str(tmp_path / "data")}

    def run(*arguments: str | bytes, says: str = "") -> bytes:
        code = "from kachery_cloud.commands.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, env=env, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr.decode()) == (0, says)
        return done.stdout

    uri = run("store", "-r", str(tmp_path / "there"), says=sentence("lan") + "\n").decode().strip()
    assert run("ls", uri).decode(encoding) == "1  " + name.encode(encoding, "backslashreplace").decode(encoding) + "\n"
    assert json.loads(run("ls", uri, "--json"))["entries"][0]["name"] == name
    if sys.platform == "linux":
        dest = os.fsencode(tmp_path) + b"/caf\xe9"
        uri = json.loads(run("ls", uri, "--json"))["entries"][0]["uri"]
        assert run("load", uri, "--dest", dest) == dest + b"\n"
        assert os.fsencode(json.loads(run("load", uri, "--dest", dest, "--json"))["path"]) == dest


def test_the_words_of_a_progress_bar_are_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar moves the cursor, so it writes past the filter; the name in it is filtered before."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "DELAY", 0)
    with program_streams():
        with progress.progress_bar(f"Loading {ATTACK}", enabled=True) as update:
            update(1, 3)
            update(2, 3)
        assert "\r" in screen.getvalue()
        assert harmless(screen.getvalue().replace("\r", "").replace("\x1b[A", ""))
        assert "\\x1b[2J" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 seconds"),
        (-89.0, "89 seconds"),
        (119.9, "2 minutes"),
        (7100.0, "118 minutes"),
        (7199.3, "2 hours"),
        (-7200.0, "2 hours"),
        (86400.0 * 1.5, "36 hours"),
        (86400.0 * 2 - 0.5, "2 days"),
        (86400.0 * 30, "30 days"),
    ],
)
def test_about_how_long_a_time_is(seconds: float, text: str) -> None:
    """A reading arrives a moment after it was taken: a unit that is reached but for that moment is the right one."""
    assert span_text(seconds) == text
