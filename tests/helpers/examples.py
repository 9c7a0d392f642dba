"""The examples of the documentation, as code that runs: the blocks of a page, the examples of a command's help, and
those of docstrings.

What an example cannot know (a URI, an address, a file of the reader's) stands in it as `ipfs://bafy...` and the like.
`Scene` has real ones, and puts them there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from scripts.data import write_random
from scripts.workstation import Workstation

#: Stands before a block that cannot run in a test, with the reason.
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
_FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)

#: What bash is told before the lines of an example. `serve` starts what would stay in the foreground, waits until it
#: serves, and ends the one before; curl, jq and others that an example pipes to need not be there.
PRELUDE = r"""
set -eu
node=
leave() { if [ -n "$node" ]; then kill "$node" 2>/dev/null || true; wait "$node" || true; node=; fi; }
trap leave EXIT
serve() {
    leave
    rm -f served.txt  # or the address of the node before may be read, until the new one's shell has emptied the file
    "$@" </dev/null >served.txt 2>served.err &
    node=$!
    until grep -q ^Address served.txt; do kill -0 $node || { cat served.err; exit 1; }; sleep 0.1; done
}
for tool in jq xxd curl; do
    command -v $tool >/dev/null || eval "$tool() { if [ $tool != curl ]; then cat >/dev/null; fi; }"
done
ssh() { (cd "$HOME" && mkdir -p .kachery-cloud && bash -c "$2"); }
"""
_EXAMPLES = re.compile(r"Examples?:\n((?: *\S.*\n?)+)")
#: What asks a node that runs.
_RELOADS = re.compile(r"^(?=kachery-cloud[- ]node reload\b)", re.MULTILINE)
_SERVES = re.compile(
    r"^(?P<variables>(?:[A-Z_]+=\S+ +)*)"
    r"(?P<command>kachery-cloud[- ]node\b(?! tokens| members| clients| reload| --init| --systemd)(?![^\n]* doctor\b)"
    r"[^&|\n]*)$",
    re.MULTILINE,
)


@dataclass
class Scene:
    """What an example speaks of, and is really there.

    Attributes:
        here: where the examples run.
        address: of another workstation, which serves what follows.
        file, folder: URIs, of a file and of a folder with `notes/readme.txt` and `session.nwb`.
        name: an IPNS name that points to the folder.
        service: the URL of a pinning service.
        port: a free one, for a gateway.
        invite: makes an invitation to a group of the other workstation.
        client: the peer ID of a computer that is registered at the node of this workstation, as its lab.
    """

    here: Workstation
    address: str
    file: str
    folder: str
    name: str
    service: str
    port: int
    invite: Callable[[], str] = str
    client: str = ""

    def real(self, text: str) -> str:
        """The text of an example with real names in it."""
        text = re.sub(r"kachery-group:\.\.\.", lambda _: self.invite(), text)
        for pattern, value in (
            (r"ipfs://bafy\.\.\.nowhere", "ipfs://bafkrei" + 52 * "a"),
            (r"ipfs://bafy\w*\.\.\.(?=/)", self.folder),
            (r"/ipfs/bafy\w*\.\.\.(?=/)", self.folder.replace("ipfs://", "/ipfs/")),
            (r"ipfs://(bafy\w*)?\.\.\.", self.file),
            (r"(?<=clients remove )12D3KooW\.\.\.", self.client),
            (r"ipns://k51\w*\.\.\.", self.name),
            (r"/ip4/192\.[\d.]+/tcp/\d+/p2p/12D3KooW\.\.\.", self.address),
            (r"/ip4/0\.0\.0\.0/tcp/4001", "/ip4/127.0.0.1/tcp/0"),
            (r"/data/raw_200GB\.bin", "session.nwb"),
            (r"/data/(?=session|experiment)", ""),
            (r"/var/log/|/media/disk/", ""),
            (r"/big/disk", str(self.here.folder / "big-disk")),
            (r"--gateway(?= *$)", f"--gateway 127.0.0.1:{self.port}"),
            (r"127\.0\.0\.1:8090", f"127.0.0.1:{self.port}"),
            (r"127\.0\.0\.1:8095", "127.0.0.1:0"),
            (r"https://pins\.lab\.example\.org|http://192\.168\.1\.7:5001", self.service),
            (r"service add filebase\b", f"service add filebase {self.service} --token-stdin < token.txt"),
            (r"(service add kubo .*)", r"\1 --token-stdin < token.txt"),
        ):
            text = re.sub(pattern, value, text, flags=re.MULTILINE)
        return text

    def make_files(self, token: str) -> None:
        """Puts the reader's files into the folder of the workstation."""
        make_experiment(self.here.folder / "experiment")
        write_random(self.here.folder / "session.nwb", 300_000, seed=1)
        chart = {
            "mark": "point",
            "data": {"name": "trials"},
            "encoding": {"x": {"field": "time"}, "y": {"field": "rate"}},
        }
        (self.here.folder / "chart.json").write_text(json.dumps(chart), encoding="utf-8")
        (self.here.folder / "trials.csv").write_text("time,rate\n0,5\n1,7\n", encoding="utf-8")
        (self.here.folder / "token.txt").write_text(token, encoding="utf-8")

    def bash(self, lines: str) -> str:
        """A script of the lines of examples, with real names in it."""
        served = _SERVES.sub(r"\g<variables>serve \g<command>", self.real(lines))
        return PRELUDE + _RELOADS.sub("serve kachery-cloud-node\n", served)


def make_experiment(folder: Path) -> Path:
    """A folder with a file and notes."""
    (folder / "notes").mkdir(parents=True)
    (folder / "notes" / "readme.txt").write_text("Asleep from minute 3 on.\n", encoding="utf-8")
    write_random(folder / "session.nwb", 300_000, seed=2)
    return folder


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in a language that are to run, in their order."""
    found: list[str] = []
    for fence in _FENCE.finditer(page):
        before = page[: fence.start()].rstrip().rpartition("\n")[2].strip()
        if fence["language"] == language and not NOT_RUN.fullmatch(before):
            found.append(fence["code"])
    return found


def all_blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in a language, also those that are not run."""
    return [fence["code"] for fence in _FENCE.finditer(page) if fence["language"] == language]


def languages(page: str) -> set[str]:
    """What the blocks of a page say that they are."""
    return {fence["language"] for fence in _FENCE.finditer(page)}


def help_examples(command: click.Command, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each command below this one that has examples in its help, with their lines."""
    own = f"{name} {command.name}".strip()
    found = _EXAMPLES.search(command.help or "")
    if found:
        yield own, [line.strip() for line in found[1].splitlines()]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            inner = command.get_command(context, each)
            assert inner is not None
            yield from help_examples(inner, own)


def indented(docstring: str) -> str:
    """The indented lines of a docstring of a module: its example. Empty where it has none."""
    lines = docstring.splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    ") or not line.strip()).strip()
