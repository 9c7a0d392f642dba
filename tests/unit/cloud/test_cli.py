"""The commands: results on stdout, sentences on stderr, exit codes, and never a stack trace for a user's mistake."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kachery_cloud.commands import main as cli
from kachery_cloud.commands.support import SYNONYMS
from kachery_cloud.local import close_repositories
from kachery_cloud.privacy import sentence

ROOT = Path(__file__).parents[3]
SEED = "ipfs://bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5ga"
ELSEWHERE = "ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    yield tmp_path / "data"
    close_repositories()


@pytest.fixture
def seed_file(tmp_path: Path) -> Path:
    path = tmp_path / "test_content.txt"
    path.write_bytes(b"test-content\n")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments])


def spawn(command: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A command in a process of its own, as installed."""
    code = f"from kachery_cloud.commands.entry import {command}; {command}()"
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_store_and_load_print_one_line_each(seed_file: Path, tmp_path: Path) -> None:
    """The commands as they are installed: a URI, a path, the bytes; exit code 0. Nothing on stderr, but once, with the
    first store, to whom this machine announces it."""
    out, err = (process := spawn("store_main", seed_file)).communicate()
    assert (process.returncode, out, err.decode()) == (0, f"{SEED}\n".encode(), sentence("lan") + "\n")
    out, err = (process := spawn("store_main", seed_file)).communicate()
    assert (process.returncode, out, err) == (0, f"{SEED}\n".encode(), b"")
    out, err = (process := spawn("load_main", SEED, "--dest", tmp_path / "copy")).communicate()
    assert (process.returncode, out, err) == (0, f"{tmp_path / 'copy'}\n".encode(), b"")
    assert (tmp_path / "copy").read_bytes() == b"test-content\n"
    out, err = (process := spawn("cat_main", SEED, "--start", 5)).communicate()
    assert (process.returncode, out, err) == (0, b"content\n", b"")


def test_every_entry_point_of_the_project_exists() -> None:
    """Each command named in pyproject.toml is a function here, and helps with an example."""
    text = (ROOT / "pyproject.toml").read_text()
    for line in text.split("[project.scripts]")[1].split("\n\n")[0].strip().splitlines():
        name, target = (part.strip().strip('"') for part in line.split("="))
        function = target.removeprefix("kachery_cloud.commands.entry:")
        out, _ = (process := spawn(function, "--help")).communicate()
        assert process.returncode == 0, name
        assert name.encode() in out


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help_with_an_example(command: str) -> None:
    """--help says what it does and shows a line to type."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "kachery-cloud" in result.output


def test_help_has_every_command_in_a_sentence() -> None:
    """Each stands under what it is for, with its first sentence, whole; what is put nowhere comes at the end."""
    shown = run("--help").output
    named = [name for names in cli.SECTIONS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= set(cli.COMMANDS)
    for name in cli.COMMANDS:
        command = cli.find_command(name)
        assert command.hidden or re.search(rf"^  {name} +\S", shown, re.MULTILINE)
    assert not re.search(r"\w\.\.\.$", shown.partition("Give something away")[2], re.MULTILINE)


@pytest.mark.parametrize(("typed", "meant"), [("lst", "list"), ("stor", "store"), ("laod", "load"), ("pins ad", "add")])
def test_a_command_that_is_mistyped(typed: str, meant: str) -> None:
    """The error names what is near, and only then."""
    result = run(*typed.split())
    assert result.exit_code == 2
    assert re.search(rf"Did you mean .*\b{meant}\b", result.stderr)
    assert "Did you mean" not in run("xyzzy").stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("remove", "rm"), ("delete", "rm"), ("add", "store or link"), ("download", "get or load"), ("daemon", "node")],
)
def test_a_word_of_other_programs(typed: str, meant: str) -> None:
    """What does that here is named, and nothing that is only written alike."""
    result = run(typed, "x")
    assert result.exit_code == 2
    assert f"No such command '{typed}'. Did you mean {meant}?" in result.stderr


def test_each_word_of_other_programs_leads_to_a_command() -> None:
    """To one of `kachery-cloud` itself, unless it is one of these; then to one of its groups."""
    for word, meant in SYNONYMS.items():
        assert word in cli.COMMANDS or set(meant) & set(cli.COMMANDS), word
    assert "Did you mean remove?" in run("pins", "rm", SEED).stderr
    assert "Did you mean list?" in run("group", "ls").stderr


@pytest.mark.parametrize("command", ["rm", "verify", "visibility", "pins remove"])
def test_a_name_where_a_uri_is_wanted(command: str, seed_file: Path) -> None:
    """Of what is here already: how its URI is found, by the name that was typed. A wrong CID is told as such."""
    for name in ("session.nwb", str(seed_file), "my data", "session"):
        result = run(*command.split(), name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"kachery-cloud list --find {shlex.quote(Path(name).name)} " in result.stderr
    wrong = run(*command.split(), SEED[:-3])
    assert wrong.exit_code == 2
    assert "--find" not in wrong.stderr


def test_link_label_profile_and_json(seed_file: Path, data: Path) -> None:
    """Options of storing; --json gives one object with all that is known."""
    assert run("store", seed_file, "--label", "a b").stdout == f"{SEED.replace('//', '//label=a%20b@')}\n"
    assert run("store", seed_file, "--profile", "unixfs-v0-2015").stdout.startswith("ipfs://Qm")
    found = json.loads(run("link", seed_file, "--json").stdout)
    assert (found["uri"], found["size"], found["served"]) == (SEED, 13, False)
    assert json.loads(run("load", SEED, "--json").output)["size"] == 13


def test_directories_on_the_command_line(tmp_path: Path, seed_file: Path) -> None:
    """-r stores one, --dest makes one, ls and info look into it."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a\u202e.txt").write_bytes(b"abc")
    uri = run("store", "-r", folder).stdout.strip()
    assert run("load", uri, "--dest", tmp_path / "out").output.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / "sub" / "a\u202e.txt").read_bytes() == b"abc"
    assert run("ls", uri + "/sub").output == "3  a\\u202e.txt\n"
    assert json.loads(run("ls", uri, "--json").output)["entries"][0]["name"] == "sub"
    assert "directory" in run("info", uri).output
    assert json.loads(run("info", uri + "/sub/a%E2%80%AE.txt", "--json").output)["size"] == 3
    assert run("store", folder).exit_code == 2
    assert "--recursive" in run("store", folder).output
    result = run("load", uri)
    assert result.exit_code == 2
    assert "--dest" in result.output
    assert run("store", "-r", seed_file).stdout.strip() == SEED


def test_verify_says_what_is_wrong(seed_file: Path) -> None:
    """Exit code 0 when all is well, 4 and the name of the file when it is not."""
    run("store", seed_file)
    result = run("verify")
    assert (result.exit_code, result.output) == (0, "All files are as they were stored.\n")
    path = Path(run("load", SEED).output.strip())
    path.chmod(0o600)
    path.write_bytes(b"other-bytes\n\n")
    result = run("verify", SEED)
    assert result.exit_code == 4
    assert SEED.removeprefix("ipfs://") in result.output
    problems = json.loads(run("verify", "--json").output)["problems"]
    assert [(p["what"], p["path"]) for p in problems] == [("damaged", str(path))]


def test_init_is_idempotent(data: Path) -> None:
    """It prints directory and peer ID, the same each time, and makes key and settings."""
    first, second = run("init"), run("init")
    assert first.exit_code == second.exit_code == 0
    assert first.output == second.output
    assert str(data) in first.output
    assert "12D3KooW" in first.output
    assert {"config.json", "private.pem", "public.pem"} <= {p.name for p in data.iterdir()}
    assert json.loads(run("init", "--json").output)["directory"] == str(data)


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "says"),
    [
        (["store", "/no/such/file"], 2, "FileMissing", "/no/such/file"),
        (["store", "/dev/null"], 2, "NotAFile", "/dev/null"),
        (["store", "."], 2, "IsADirectory", "--recursive"),
        (["store", __file__, "--profile", "x"], 2, "InvalidProfile", "'x'"),
        (["load", "sha1://abc"], 2, "InvalidURI", "sha1://"),
        (["load", "ipfs://nonsense"], 2, "InvalidCID", "nonsense"),
        (["load", "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"], 2, "UnsupportedCID", "dag-cbor"),
        (["load", ELSEWHERE, "--peer", "localhost"], 2, "InvalidAddress", "localhost"),
        (["load", ELSEWHERE, "--timeout", "-1"], 2, "ConfigError", "-1"),
        (["load", ELSEWHERE, "--local-only"], 3, "ContentNotFound", "--local-only"),
        (["load", ELSEWHERE, "--dest", "/no/such/folder/x"], 2, "FileMissing", "/no/such/folder"),
        (["cat", ELSEWHERE, "--local-only"], 3, "ContentNotFound", "--local-only"),
        (["ls", ELSEWHERE, "--local-only"], 3, "ContentNotFound", "not on this machine"),
        (["node", "--listen", "4001"], 2, "InvalidAddress", "4001"),
        (["node", "--announce", "4001"], 2, "InvalidAddress", "--announce"),
        (["node", "--relay", "relay"], 2, "InvalidAddress", "--relay"),
        (["node", "--bootstrap", "nobody"], 2, "ConfigError", "--bootstrap"),
    ],
)
def test_mistakes_are_one_sentence_and_a_code(arguments: list[str], code: int, kind: str, says: str) -> None:
    """On stderr without a stack trace; with --json an object on stdout that names the error."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    if arguments[0] != "cat":
        result = run(*arguments, "--json")
        assert result.exit_code == code
        assert json.loads(result.stdout)["error"]["type"] == kind
        assert result.stderr == ""


class Served(Exception):
    """Instead of a node."""


def served(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the `node` command would serve: the settings, and where to listen and whom to stay connected to."""
    found: dict[str, Any] = {}

    def serve_forever(config: Any, **options: Any) -> None:
        found.update(options, config=config)
        raise Served

    monkeypatch.setattr("kachery_cloud.node.serve.serve_forever", serve_forever)
    assert isinstance(run("node", *arguments).exception, Served)
    return found


def test_options_of_the_node_go_before_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option overrules the setting of that name; peers and relays are added to those that are set."""
    a, b, c = (f"/ip4/192.0.2.{number}/tcp/4001" for number in (1, 2, 3))
    for name in ("PEERS", "RELAYS", "ANNOUNCE", "BOOTSTRAP", "LISTEN"):
        monkeypatch.setenv(f"KACHERY_CLOUD_{name}", a)
    monkeypatch.setenv("KACHERY_CLOUD_PUBLIC", "on")
    monkeypatch.setenv("KACHERY_CLOUD_MDNS", "off")
    found = served([], monkeypatch)
    config = found["config"]
    assert (found["listen"], config.peers, config.relays, config.announce) == ((a,), (a,), (a,), (a,))
    assert (config.public, config.mdns, config.bootstrap) == (True, False, (a,))
    options = ["--no-public", "--mdns", "--bootstrap", b, "--bootstrap", c, "--announce", b, "--relay", b, "--peer", b]
    found = served([*options, "--listen", b, "--listen", c], monkeypatch)
    config = found["config"]
    assert (found["listen"], config.peers, config.relays, config.announce) == ((b, c), (a, b), (a, b), (b,))
    assert (config.public, config.mdns, config.bootstrap) == (False, True, (b, c))
    assert served(["--bootstrap", "none"], monkeypatch)["config"].bootstrap == ()
    assert served(["--bootstrap", "default"], monkeypatch)["config"].bootstrap is None


def test_usage_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong option is exit code 2 with the usage, and JSON where that was asked for."""
    assert run("load").exit_code == 2
    assert run("nonsense").exit_code == 2
    result = run("load", "--json", "--nonsense")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["type"] == "Usage"


def test_bad_settings_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that makes no sense stops every command in the same way."""
    monkeypatch.setenv("KACHERY_CLOUD_TIMEOUT", "soon")
    result = run("load", SEED)
    assert result.exit_code == 2
    assert "KACHERY_CLOUD_TIMEOUT" in result.stderr


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (BrokenPipeError(), 141, ""),
        (PermissionError(13, "Permission denied", "/x"), 5, "/x"),
        (OSError(28, "No space left on device", "/x"), 5, "no room"),
    ],
)
def test_interrupts_and_system_errors(
    raised: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is 130, a reader that went away 141 without a word, system errors are sentences."""

    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("kachery_cloud.load.cat_file", fail)
    result = run("cat", SEED)
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert (result.stderr == "") == (says == "")


def test_bugs_keep_their_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is nobody's mistake but ours is not hidden behind a sentence."""

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("kachery_cloud.load.cat_file", fail)
    assert isinstance(run("cat", SEED).exception, ZeroDivisionError)


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_a_closed_pipe_ends_cat_quietly(tmp_path: Path) -> None:
    """`kachery-cloud-cat URI | head -c 5` gives five bytes and no complaint."""
    large = tmp_path / "large"
    large.write_bytes(b"abcde" * 1_000_000)
    uri = run("store", large).stdout.strip()
    with spawn("cat_main", uri) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"abcde"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_ctrl_c_ends_a_command_with_130(tmp_path: Path) -> None:
    """An interrupt in the middle of work is one line and 130."""
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    uri = run("store", large).stdout.strip()
    # cat blocks on a pipe that nobody empties: the interrupt is sure to find it at work.
    with spawn("cat_main", uri) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\0"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert b"Interrupted" in err
    assert b"Traceback" not in err


def test_commands_are_light() -> None:
    """A local command imports neither libp2p nor trio."""
    code = (
        "import sys; from kachery_cloud.commands.main import cli\n"
        "try: cli(['init'])\n"
        "except SystemExit: pass\n"
        "assert not {'libp2p', 'trio', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("entry", "module"),
    [
        ("load_main", "loading"),
        ("node_main", "doctor node node_members node_service node_tokens"),
        ("main", "settings"),
    ],
)
def test_a_command_is_read_alone(entry: str, module: str) -> None:
    """Its help imports its own modules of the commands, and nothing of what does the work."""
    code = (
        "import sys\n"
        f"from kachery_cloud.commands.entry import {entry}\n"
        f"sys.argv[1:] = {['settings', '--help'] if entry == 'main' else ['--help']}\n"
        f"try: {entry}()\n"
        "except SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('kachery_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    shared = ("completing", "entry", "exit_codes", "main", "support")
    mine = [f"kachery_cloud.commands.{name}" for name in (*shared, *module.split())]
    light = ["kachery_cloud", "kachery_cloud.commands", "kachery_cloud.errors", "kachery_cloud.terminal"]
    assert done.stdout.splitlines()[-1] == str(
        sorted([*mine, *light, "kachery_p2p", "kachery_p2p.errors", "kachery_p2p.text"])
    )


def test_the_collector_is_set_by_commands_alone() -> None:
    """A command that is run looks for garbage less often. Who imports the commands, or the package, keeps its own."""
    code = (
        "import gc, sys\n"
        "before = gc.get_threshold()\n"
        "import kachery_cloud.load, kachery_cloud.commands.main\n"
        "from kachery_cloud.commands.entry import init_main\n"
        "assert (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()) == (before, True, 0)\n"
        "sys.argv[1:] = ['--help']\n"
        "try: init_main()\n"
        "except SystemExit: pass\n"
        "print(gc.get_threshold()[0] > before[0], gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True True"
