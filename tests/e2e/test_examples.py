"""The examples of the documentation work as they stand: those of README.md and docs/, of the help of the commands, and
of docstrings. Two workstations and a pinning service on loopback; names that only a reader can know are replaced."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud
from kachery_cloud.commands.main import cli
from kachery_cloud.ownership.archive import KeySet
from kachery_cloud.ownership.kept import Kept, keep_proof
from kachery_p2p.repo.keys import load_or_create_identity
from scripts.lab_members import LabMember, running_node_of_lab
from scripts.workstation import RUN_SECONDS, Workstation
from tests.helpers import examples
from tests.helpers.examples import Scene
from tests.helpers.proofs import CLIENT, GOT, ISSUER, issuers, proof

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOKEN = "the-token-of-this-test"
#: Libraries that the examples of a page use, of the extra `science`.
NEEDED = {"open.md": ("fsspec", "h5py", "pandas", "PIL", "xarray", "zarr")}

#: The order in which the examples of the commands are tried: first what others of them need. A command that is not
#: named comes between.
FIRST = (
    "projects",
    "projects create",
    "projects add",
    "pins service add",
    "store",
    "link",
    "load",
    "pins add",
    "pins wait",
    "pins",
    "node members invite",
)
LAST = (
    "projects remove",
    "projects delete",
    "group remove",
    "group leave",
    "init",
    "pins remove",
    "repair",
    "rm",
    "move",
    "node members remove",
    "node",
    "node reload",
    "keygen-swarm",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a pinning service that really fetches."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.pinning_service", str(tmp_path_factory.mktemp("service")), "--token", TOKEN],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def other(
    module_workstation: Callable[..., Workstation], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, str, str]:
    """Another workstation that serves: its address, the URIs of a file and of a folder, and a name of the latter."""
    station = module_workstation().start()
    experiment = examples.make_experiment(tmp_path_factory.mktemp("other") / "experiment")
    code = "say([kcl.store_file(args[0] + '/session.nwb'), kcl.store_dir(args[0])])"
    file, folder = station.call(code, experiment)
    name = station.call("say(kcl.publish('recordings', args[0]).uri)", folder)
    return station.addr, file, folder, name


@pytest.fixture(scope="module")
def colleague(module_workstation: Callable[..., Workstation]) -> Workstation:
    """A workstation with a group of its own."""
    station = module_workstation().start()
    station.run("kachery-cloud", "group", "create", "reef")
    return station


@pytest.fixture
def scene(
    workstation: Callable[..., Workstation],
    other: tuple[str, str, str, str],
    service: str,
    free_port: Callable[[], int],
    request: pytest.FixtureRequest,
) -> Scene:
    """A workstation with a reader's files, which knows the other one."""
    address, file, folder, name = other
    folder_of_python = str(Path(sys.executable).parent)
    here = workstation(env={"KACHERY_CLOUD_PEERS": address})
    here.env |= {
        "PATH": os.pathsep.join((folder_of_python, os.environ["PATH"])),
        "HOME": str(here.folder),
        "PYTHONUNBUFFERED": "1",
    }

    def invite() -> str:
        colleague: Workstation = request.getfixturevalue("colleague")
        return colleague.run("kachery-cloud", "group", "invite", "reef").stdout.strip()

    made = Scene(here, address, file, folder, name, service, free_port(), invite)
    made.make_files(TOKEN)
    return made


def run(scene: Scene, *line: str) -> str:
    """Runs a program at the reader's, and gives what it printed; fails with all of it."""
    done = subprocess.run(
        line,
        cwd=scene.here.folder,
        env=scene.here.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",  # some print what is in a file
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{line[-1]}\n\nended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def with_group(scene: Scene, colleague: Workstation) -> None:
    """Let the reader have a group in which the colleague's workstation is called a laptop."""
    here = scene.here.start()
    here.run("kachery-cloud", "group", "create", "hippocampus", "--as", "workstation 1")
    invitation = here.run("kachery-cloud", "group", "invite", "hippocampus").stdout.strip()
    colleague.run("kachery-cloud", "group", "join", invitation, "--as", "laptop")
    here.stop()


def with_owner(scene: Scene) -> None:
    """Let somebody have signed in at the reader's."""
    peer = json.loads(scene.here.run("kachery-cloud-init", "--json").stdout)["peer_id"]
    identity = load_or_create_identity(scene.here.directory)
    assert identity.peer_id == peer
    keys = KeySet(ISSUER, GOT, issuers()[ISSUER].keys, (CLIENT,))
    keep_proof(scene.here.directory, Kept(proof(identity=identity), keys))


@pytest.fixture
def lab(workstation: Callable[..., Workstation]) -> Iterator[tuple[LabMember, LabMember]]:
    """Two members of a lab whose node runs."""
    station = workstation()
    url = running_node_of_lab(station)
    ann, bob = LabMember(station, url, "Ann", "--administrator"), LabMember(station, url, "Bob")
    with contextlib.closing(ann), contextlib.closing(bob):
        yield ann, bob


#: Registers a computer at the lab of this data directory, whose node does not run.
REGISTER = """
from kachery_cloud.lab.accounts_store import Accounts
from kachery_cloud.lab.database import LabDatabase
from kachery_p2p.pinning.server.store import STORE_NAME, PinStore
from kachery_p2p.repo.keys import new_identity
directory = kcl.load_config().directory
accounts = Accounts(LabDatabase(directory), PinStore(directory / STORE_NAME))
say(accounts.register(accounts.add_member("Carol").id, new_identity().peer_id, "laptop", bytes(32)).peer)
"""


def with_lab(scene: Scene, lab: tuple[LabMember, LabMember]) -> None:
    """Let the reader's machine be registered with a lab, in which somebody else has a project, too."""
    ann, bob = lab
    ann.register(scene.here)
    scene.client = scene.here.call(REGISTER)
    bob.call("POST", "/api/v1/projects", json={"name": "reef"})
    bob.call("PUT", f"/api/v1/projects/reef/members/{ann.id}", json={"role": "reader"})
    # What goes to other services in the examples is to go there alone.
    path = scene.here.directory / "config.json"
    config = json.loads(path.read_text())
    for service in config["pin_services"].values():
        service["default"] = False
    path.write_text(json.dumps(config))


# --- pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block runs (`bash`, `python`), or is what somebody sees or writes (`text`). Only a marked one is not run."""
    assert examples.languages(page.read_text(encoding="utf-8")) <= {"bash", "python", "text"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples.blocks(page.read_text("utf-8"), "bash")], ids=lambda page: page.name
)
def test_commands_of_a_page(scene: Scene, page: Path) -> None:
    """The commands of a page can be typed one after the other, as they stand."""
    run(scene, "bash", "-c", scene.bash("".join(examples.blocks(page.read_text(encoding="utf-8"), "bash"))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples.blocks(page.read_text("utf-8"), "python")], ids=lambda page: page.name
)
def test_python_of_a_page(scene: Scene, page: Path) -> None:
    """The Python of a page runs, one block after the other."""
    for name in NEEDED.get(page.name, ()):
        pytest.importorskip(name)
    services = {name: {"url": scene.service, "kind": "pinning"} for name in ("filebase", "lab")}
    scene.here.env |= {
        "KACHERY_CLOUD_PIN_SERVICES": "none",
        **{f"KACHERY_CLOUD_PIN_TOKEN_{name.upper()}": TOKEN for name in services},
    }
    scene.here.directory.mkdir()
    (scene.here.directory / "config.json").write_text(json.dumps({"pin_services": services}), encoding="utf-8")
    run(scene, sys.executable, "-c", scene.real("".join(examples.blocks(page.read_text(encoding="utf-8"), "python"))))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_can_be_pasted(page: Path) -> None:
    """No prompt and no comment: a shell that is typed into, such as that of macOS, takes a comment for words."""
    for line in "".join(examples.all_blocks(page.read_text(encoding="utf-8"), "bash")).splitlines():
        assert not line.startswith("$")
        assert "#" not in line, line


# --- help ----------------------------------------------------------------------------------------------------------


def _rank(example: tuple[str, list[str]]) -> int:
    name = example[0].removeprefix("cli ")
    return FIRST.index(name) if name in FIRST else len(FIRST) + (LAST.index(name) + 1 if name in LAST else 0)


@pytest.mark.slow
def test_examples_of_the_commands(scene: Scene, colleague: Workstation, lab: tuple[LabMember, LabMember]) -> None:
    """What `--help` shows as examples runs as it stands, for every command that has some."""
    with_lab(scene, lab)
    with_group(scene, colleague)
    with_owner(scene)
    found = sorted(examples.help_examples(cli, ""), key=_rank)
    assert {"store", "load", "node", "pins add", "status"} <= {name.removeprefix("cli ") for name, _ in found}
    run(scene, "bash", "-c", scene.bash("\n".join(line for _, lines in found for line in lines)))


# --- docstrings ----------------------------------------------------------------------------------------------------

#: What an example of a docstring finds before it: lines of Python.
BEFORE = {
    "announce": "kcl.status(start=True)",
    "load_file": "kcl.store_text('test-content\\n')",
    "load_text": "kcl.store_text('example text')",
    "load_json": "kcl.store_json({'example': 'dict'})",
    "load_bytes": "uri = kcl.store_npy(np.zeros(200_000))",
    "open": "uri = kcl.store_npy(np.zeros(200_000))",
    "open_npy": "uri = kcl.store_npy(np.zeros(200_000))",
    "cat_file": "uri = kcl.store_text('example text')",
    "export_car": "uri = kcl.store_dir('experiment')",
    "import_car": "uri = kcl.store_dir('experiment'); kcl.export_car(uri, 'session.car', overwrite=True)",
    "publish": "uri = kcl.store_text('example text')",
    "published": "kcl.publish('recordings', kcl.store_text('example text'))",
    "load_dir": "uri = kcl.store_dir('experiment')",
    "diff": "from pathlib import Path; notes = Path('experiment/notes'); (notes / 'a.txt').write_text('a'); "
    "old_uri = kcl.store_dir('experiment'); (notes / 'a.txt').write_text('aa'); (notes / 'b.txt').write_text('b'); "
    "new_uri = kcl.store_dir('experiment'); (notes / 'a.txt').unlink(); (notes / 'b.txt').unlink()",
    "list_dir": "uri = kcl.store_dir('experiment')",
    "load_file_info": "open('large.dat', 'wb').truncate(200_000_128); uri = kcl.link_file('large.dat')",
    "pin": "kcl.load_file(FILE)",
    "pins": "kcl.load_file(FILE); kcl.pin(FILE, 'filebase', wait='verified')",
    "get": "import os; os.mkdir('copies'); uri = kcl.store_text('example text', label='a.txt')",
    "repair": "kcl.store_dir('experiment', local=True)",
    "share": "uri = kcl.store_text('example text', label='session.nwb')",
    "access": "uri = kcl.store_text('example text')",
    "set_visibility": "uri = kcl.store_text('for my own machines')",
    "status": "kcl.status(start=True)",
}
#: What is put in place of what an example shows, where this network has something else.
INSTEAD = {
    "create_group": ("'q4xw...'", "'...'"),
    "invite": ("'kachery-group:...'", "'kachery...'"),
    "join_group": ("'hippocampus'", "'reef'"),
    "set_member_role": ("q4xw...", "..."),
    "usage": ("[('atlas', 53687091200, 1073741824)]", "[...]"),
    "export_car": ("/session.car", "/first.car"),
    "import_car": ("'ipfs://bafybeih...", "'ipfs:..."),
    "publish": ("'ipns://k51qzi5uqu5d...", "'ipns:..."),
    "resolve": ("'ipfs://bafybeih...", "'ipfs:..."),
    "announce": ("copies=20, seconds=1.7", "copies=..., seconds=..."),
    "join": ("ipfs://bafy...", "ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"),
    "repair": ("3", "1"),
    "share": ("=ip4:192.168.1.20:tcp:4001@bafybeih...", "=ip4:127.0.0.1:tcp:...@bafkrei..."),
    "status": ("/ip4/192.168.1.20/tcp/40121/p2p/", "/ip4/127.0.0.1/tcp/..."),
    "store_file": ("'ipfs://bafybeih...", "'ipfs:..."),
    "set_visibility": ("'ipfs://bafybeih...", "'ipfs:..."),
    "whereis": ("('mdns', '12D3KooW...')", "('...', '12D3KooW...')..."),
}
#: These have a data directory of their own: one is for when no node runs, the others need a pinning service.
ALONE = ("repair",)
PINNING = ("pin", "pins")
#: In this order: one needs what the other has made.
GROUPS = (
    "create_group",
    "groups",
    "group_members",
    "invite",
    "join_group",
    "leave_group",
    "set_member_role",
    "remove_member",
)

LAB = ("create_project", "projects", "usage")

_DOCTEST = """
import doctest, sys
import numpy as np
docstrings, FILE = args

class Checker(doctest.OutputChecker):
    def check_output(self, want, got, flags):
        # An example without a result shows how something is called.
        return not want or super().check_output(want, got, flags)

runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
for name, docstring, before in docstrings:
    names = {"kcl": kcl, "np": np, "FILE": FILE}
    exec(before, names)
    runner.run(doctest.DocTestParser().get_doctest(docstring, names, name, None, 0), out=sys.stderr.write)
assert not runner.failures, f"{runner.failures} of {runner.tries} examples are wrong"
say(runner.tries)
"""


def _with_examples() -> list[str]:
    public: dict[str, Any] = {name: getattr(kachery_cloud, name) for name in (*kachery_cloud.__all__, "open")}
    return [
        name for name, value in public.items() if callable(value) and doctest.DocTestParser().get_examples(_doc(value))
    ]


def _doc(value: object) -> str:
    return getattr(value, "__doc__", None) or ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [PINNING, ALONE, GROUPS, LAB, tuple(sorted({*_with_examples()} - {*PINNING, *ALONE, *GROUPS, *LAB}))],
    ids=["pinning", "repair", "groups", "lab", "functions"],
)
def test_examples_of_functions(scene: Scene, names: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    """The examples in the docstrings of public functions give what they say."""
    if names == LAB:
        with_lab(scene, request.getfixturevalue("lab"))
    if names == GROUPS:
        with_group(scene, request.getfixturevalue("colleague"))
    if "owner" in names:
        with_owner(scene)
    if names == PINNING:
        scene.here.env |= {"KACHERY_CLOUD_PIN_SERVICES": f"filebase={scene.service}", "KACHERY_CLOUD_PIN_TOKEN": TOKEN}
    docstrings: list[tuple[str, str, str]] = []
    for name in names:
        text = _doc(getattr(kachery_cloud, name))
        if name in INSTEAD:
            assert INSTEAD[name][0] in text
            text = text.replace(*INSTEAD[name])
        docstrings.append((name, scene.real(text), BEFORE.get(name, "")))
    assert scene.here.call(_DOCTEST, docstrings, scene.file) >= len(names)


def test_examples_are_found() -> None:
    """The most used functions have an example."""
    assert {"store_file", "store_dir", "load_file", "load_json", "list_dir", "pin", "status"} <= set(_with_examples())


def _modules_with_examples() -> list[str]:
    found = ["kachery_cloud", *(each.name for each in pkgutil.walk_packages(kachery_cloud.__path__, "kachery_cloud."))]
    return [name for name in found if "kcl." in examples.indented(_doc(importlib.import_module(name)))]


@pytest.mark.slow
@pytest.mark.parametrize("name", _modules_with_examples())
def test_example_of_a_module(scene: Scene, name: str) -> None:
    """The example at the top of a module runs."""
    scene.here.env |= {"KACHERY_CLOUD_PIN_SERVICES": f"filebase={scene.service}", "KACHERY_CLOUD_PIN_TOKEN": TOKEN}
    code = examples.indented(_doc(importlib.import_module(name)))
    if "import kachery_cloud" not in code:
        code = "import kachery_cloud as kcl\n" + code
    run(scene, sys.executable, "-c", scene.real(code))
