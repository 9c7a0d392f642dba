"""Whatever is typed, wherever the output goes, and whenever somebody presses Ctrl-C: a sentence and a code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kachery_cloud.commands import main as cli
from kachery_cloud.errors import ContentNotFound
from kachery_cloud.local import close_repositories
from kachery_cloud.node import connection as background
from kachery_cloud.node import serve
from kachery_cloud.privacy import sentence
from kachery_cloud.settings.config import load_config
from tests.helpers.terminal_helpers import ATTACK, harmless

ROOT = Path(__file__).parents[3]
ABSENT = "ipfs://bafybeifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
CODES = {0, 1, 2, 3, 4, 5, 6, 130, 141}


def every_command(group: click.Group = cli.cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words by which each command is called, those of groups within groups too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


#: What is typed, or pasted, where a URI, a path or a name belongs.
STRANGE = [
    "", " ", "x", "data/x.csv", "/etc/passwd", "..", "~nobody/x", "sha1://" + "0" * 40, "https://example.org/ipfs/x",
    "ipfs://", ABSENT, f"{ABSENT}/../x", f"{ABSENT}?x=1", f"{ABSENT}?label=a/b", f"{ABSENT}#x", f"{ABSENT}/%zz",
    f"{ABSENT}?provider=localhost", "ipfs://" + "x" * 50_000, ATTACK, "\udcff", "名", "-", "--",
]  # fmt: skip


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A data directory, an empty working directory, and a network in which nobody has anything."""

    class Nobody:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def ask(*_: Any, **__: Any) -> Any:
                raise ContentNotFound("Nobody has it.")

            return ask

    def serve_nothing(*_: Any, **__: Any) -> None:
        raise ContentNotFound("Nothing is served here.")

    monkeypatch.setattr(background, "get_connection", lambda config: Nobody())
    monkeypatch.setattr(serve, "serve_forever", serve_nothing)
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield
    close_repositories()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, list(arguments))


def check(result: Result, *typed: str) -> None:
    """One sentence, or the usage and one sentence; a code that is documented; no stack trace."""
    assert result.exception is None or isinstance(result.exception, SystemExit), (typed, result.exception)
    assert result.exit_code in CODES, typed
    assert harmless(result.output), typed
    assert "Traceback" not in result.output, typed
    assert len(result.output) < 16_000, typed
    if result.exit_code == 4 and result.stdout:
        return  # what `verify` found
    if len(typed) == 2 and result.stderr.startswith("Usage: ") and "Commands:" in result.stderr:
        return  # the help of a group
    if result.exit_code and "--json" not in typed:
        assert result.stderr.rstrip("\n").splitlines()[-1].startswith("Error: "), (typed, result.stderr)
    if result.exit_code and "--json" in typed:
        error = json.loads(result.stdout.splitlines()[-1])["error"]
        assert error["message"], typed


@pytest.mark.parametrize("command", sorted(every_command()), ids=" ".join)
def test_no_command_line_is_too_strange(command: tuple[str, ...]) -> None:
    """Each command with nothing, with too much, with options that it does not have, and with everything that may be
    typed or pasted where something else belongs; in words and in JSON."""
    check(run(*command, "--nonsense"), *command)
    assert run(*command, "--nonsense").exit_code == 2
    for more in ((), ("--json",)):
        check(run(*command, *more), *command, *more)
        for strange in STRANGE:
            check(run(*command, *more, strange), *command, strange, *more)
        check(run(*command, *more, *STRANGE[:5]), *command, *more)
        for option in (
            "--timeout",
            "--peer",
            "--label",
            "--profile",
            "--start",
            "--service",
            "--listen",
            "--max-bytes",
        ):
            check(run(*command, ABSENT, option, ATTACK, *more), *command, option, *more)


@pytest.mark.parametrize(
    ("function", "command", "says"),
    [
        ("kachery_cloud.putting.put_file", ["store", __file__], "what is stored already is not stored twice"),
        ("kachery_cloud.putting.put_file", ["link", __file__], "what is stored already is not stored twice"),
        ("kachery_cloud.load.load_file", ["load", ABSENT], "What has arrived is kept"),
        ("kachery_cloud.load.cat_file", ["cat", ABSENT], "What has arrived is kept"),
        ("kachery_cloud.upkeep.iter_problems", ["verify"], "before all was read. Nothing wrong was found until then"),
        ("kachery_cloud.inventory_removal.collect", ["gc"], "and perhaps the next one, too"),
        ("kachery_cloud.inventory_removal.collect", ["gc", "--dry-run"], "Nothing was removed"),
        ("kachery_cloud.inventory_removal.remove", ["rm", ABSENT], "and perhaps the next one, too"),
        ("kachery_cloud.cars.export_car", ["export", ABSENT, "x.car"], "The CAR file is not whole"),
        ("kachery_cloud.cars.export_car", ["export", ABSENT, "-"], "no whole CAR file"),
        ("kachery_cloud.cars.import_car", ["import", "x.car"], "goes on from there"),
        ("kachery_cloud.sharing.get", ["get", ABSENT], "What has arrived is kept"),
        ("kachery_cloud.publishing.publish", ["publish", ABSENT], "may point there already"),
        ("kachery_cloud.inventory_move.move", ["move", "x"], "run the same command again"),
        ("kachery_cloud.upkeep.find_status", ["status"], "Error: Interrupted.\n"),
        ("kachery_cloud.upkeep.search_whereis", ["whereis", ABSENT], "Error: Interrupted. Nobody else was found"),
        ("kachery_cloud.initialising.make", ["init"], "the same command goes on waiting"),
        ("kachery_cloud.node.serve.serve_forever", ["node"], "Error: Interrupted.\n"),
    ],
)
def test_ctrl_c_says_what_became_of_the_work(
    function: str, command: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store speaks of storing, a load of loading; the code is 130."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(function, interrupt)
    result = run(*command)
    assert (result.exit_code, result.stdout) == (130, "")
    assert says in result.stderr
    assert ("arrived" in result.stderr) == (command[0] in ("load", "cat", "get"))


@pytest.mark.parametrize(
    ("module", "entry"), [("support", "store_main"), ("storing", "store_main"), ("storing", "main")]
)
def test_ctrl_c_before_the_command_has_begun(module: str, entry: str) -> None:
    """While Python still reads our modules, an interruption is no stack trace."""
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'kachery_cloud.commands.{module}': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"from kachery_cloud.commands.entry import {entry}\n"
        f"{entry}()"
    )
    done = subprocess.run([sys.executable, "-c", code, "store"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Error: Interrupted.\n")


def test_ctrl_c_while_the_node_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out of trio's groups is the interruption itself."""

    async def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.undo()
    monkeypatch.setattr(serve, "run_node", interrupt)
    config = load_config()
    config.directory.mkdir(parents=True, exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        serve.serve_forever(config)


# --- where the output goes -----------------------------------------------------------------------------------------


def in_a_shell(line: str, tmp_path: Path) -> tuple[int, str]:
    """The code and stderr of a command as a shell runs it; `$K` is the command."""
    env = {**os.environ, "KACHERY_CLOUD_DIR": str(tmp_path / "data")}
    env["K"] = f"{sys.executable} -c 'from kachery_cloud.commands.entry import main; main()'"
    done = subprocess.run(["bash", "-c", f"cd {ROOT}; {line}"], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["status", "verify --json", "--help", "cat $URI", "load $URI", "nonsense"])
def test_wherever_the_output_goes(command: str, tmp_path: Path) -> None:
    """Closed, full, or to a reader that has left: a code that is documented, a sentence where one can be said, and
    nothing of the interpreter's own complaints."""
    (tmp_path / "file").write_text("content")
    _, complaint = in_a_shell(f"eval $K store {tmp_path}/file >{tmp_path}/uri", tmp_path)
    assert complaint == sentence("lan") + "\n"  # said once, with the first store
    command = command.replace("$URI", (tmp_path / "uri").read_text().strip())
    good = 2 if command == "nonsense" else 0
    for closed in (">&-", ">/dev/null 2>&-", ">&- 2>&- <&-"):
        code, said = in_a_shell(f"eval $K {command} {closed}", tmp_path)
        assert (code, "Traceback" in said, "Exception ignored" in said) == (good, False, False), closed
    code, said = in_a_shell(f"eval $K {command} >/dev/full", tmp_path)
    if command != "nonsense":
        assert (code, said) == (5, "Error: Writing to standard output failed: No space left on device.\n")
    assert in_a_shell(f"eval $K {command} >/dev/full 2>/dev/full", tmp_path) == (5, "")
    code, said = in_a_shell(f"set -o pipefail; eval $K {command} 2>&1 | true", tmp_path)
    assert code in (good, 141)  # it may have been faster than `true`
    assert said == ""
