"""From one workstation to another in one string: typed into shells, as people do."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_cloud.privacy import sentence
from kachery_cloud.qr import qr_lines
from scripts.data import write_random
from scripts.workstation import Workstation
from tests.helpers.shells import SHELLS, Shell, shell_missing

#: Nothing that a shell or a file system would mind, but much that a shell takes for its own.
NAMES = ("v.nii.gz", "mouse 12 & co; $HOME (new) 100%~#1!.nii.gz", "Mäuse.tif")


@pytest.fixture
def ada(workstation: Callable[..., Workstation]) -> Workstation:
    return workstation().start()


@pytest.fixture
def ben(workstation: Callable[..., Workstation]) -> Workstation:
    station = workstation()
    station.env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    station.env["HOME"] = str(station.folder)
    return station


@pytest.mark.parametrize("shell", [pytest.param(name, marks=shell_missing(name)) for name in SHELLS])
def test_the_string_pasted_into_a_shell(ada: Workstation, ben: Workstation, tmp_path: Path, shell: str) -> None:
    """What `share` and `store --label` print is typed behind `get` and `load` without quotes, by somebody who set up
    nothing: the same bytes come, under their name."""
    with Shell(shell, ben.folder, ben.env) as typed:
        for number, name in enumerate(NAMES):
            source = write_random(tmp_path / f"source-{number}", 100_000, seed=number)
            done = ada.run("kachery-cloud-store", source, "--label", name, "--share")
            string = done.stdout.strip()
            assert re.fullmatch(r"[A-Za-z0-9:/._\-=%@+]+", string)
            shown, code = typed.type(f"kachery-cloud get {string}")
            assert code == 0, shown
            assert (ben.folder / name).read_bytes() == source.read_bytes()
            assert name in shown
            stored = ada.run("kachery-cloud-store", source, "--label", name).stdout.strip()
            shown, code = typed.type(f"kachery-cloud-load {stored} --local-only --dest copy-{number}")
            assert code == 0, shown
            assert (ben.folder / f"copy-{number}").read_bytes() == source.read_bytes()
            shown, code = typed.type(f"kachery-cloud load {string}")
            assert code == 0, shown
            (path,) = [line for line in shown.splitlines() if line.startswith(str(ben.directory))]
            assert path.endswith("/" + name)


@shell_missing("zsh")
def test_why_the_usual_form_is_not_printed(ben: Workstation) -> None:
    """zsh takes the '?' of a query for a pattern, and refuses the line."""
    with Shell("zsh", ben.folder, ben.env) as typed:
        shown, code = typed.type("echo ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu?label=x")
    assert (code, "no matches found" in shown) == (1, True)


def test_a_folder_comes_as_a_folder(ada: Workstation, ben: Workstation, tmp_path: Path) -> None:
    """With all that is in it, under its name; nothing is replaced; a file of it comes by appending its path."""
    folder = tmp_path / "experiment 7"
    (folder / "sub" / "empty").mkdir(parents=True)
    write_random(folder / "sub" / "large.bin", 3_000_000, seed=4)
    (folder / ".zattrs").write_text("{}")
    string = ada.run("kachery-cloud-store", "-r", folder, "--share").stdout.strip()
    done = ben.run("kachery-cloud-get", string)
    assert done.stdout.strip() == str(ben.folder / "experiment 7")
    for path in folder.rglob("*"):
        copy = ben.folder / "experiment 7" / path.relative_to(folder)
        assert copy.is_dir() == path.is_dir()
        assert path.is_dir() or copy.read_bytes() == path.read_bytes()
    again = ben.run("kachery-cloud-get", string, check=False)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    one = ben.run("kachery-cloud-get", string + "/sub/large.bin", "--json")
    assert json.loads(one.stdout)["path"] == str(ben.folder / "large.bin")
    assert sentence("lan") in done.stderr  # the first thing that came into this directory
    assert one.stderr == ""


def test_shared_from_python(ada: Workstation, ben: Workstation) -> None:
    """`kcl.share` starts the node where none runs, and what it gives is taken by every function that takes a URI."""
    process = ben.begin("say(kcl.share(kcl.store_text('hello', label='a.txt'))); sys.stdin.read()")
    assert process.stdout is not None
    string = json.loads(process.stdout.readline())
    assert ada.call("say(kcl.load_text(args[0]))", string) == "hello"
    path = ada.call("say(kcl.load_file(args[0]))", string)
    assert path.endswith("/a.txt")
    process.communicate()


def test_a_load_tells_how_many_peers_give(workstation: Callable[..., Workstation], ben: Workstation) -> None:
    """What the bar shows beside rate and time left; also where the node is in another process than the load."""
    both = [workstation().start() for _ in range(2)]
    uris = [each.call("import os; say(kcl.store_text(args[0] * 3_000_000))", "ab") for each in both]
    code = """
from kachery_cloud.node.connection import get_connection
from kachery_p2p.node.messages import LoadRequest
uri, addresses, seen = kcl.parse_uri(args[0]), args[1], []
def progress(done, total, peers, here):
    seen.append((done, total, peers))
get_connection(kcl.load_config()).load(LoadRequest(uri.root, providers=tuple(addresses)), progress)
say(seen)
"""
    seen = ben.call(code, uris[0], [each.addr for each in both])
    assert seen[-1][:2] == [6_000_000, 6_000_000]
    assert {peers for *_, peers in seen} <= {0, 1, 2}
    assert seen[-1][2] >= 1
    carol = workstation().start()
    seen = carol.call(code, uris[0], [both[0].addr])
    assert [peers for *_, peers in seen][-1:] in ([], [1])  # its lines come at a pace, and a load may be faster


@shell_missing("bash")
def test_the_terminal_says_who_can_load_it(ada: Workstation, ben: Workstation, tmp_path: Path) -> None:
    """After a store: whether anybody can load it now, and to whom it is announced; without a node, how to start one.
    `share --qr` shows the code of the string, in a window that is wide enough."""
    source = write_random(tmp_path / "source", 10_000, seed=9)
    with Shell("bash", ben.folder, ben.env) as typed:
        shown, code = typed.type(f"kachery-cloud-store {source}")
        assert code == 0
        assert "Nobody else can load it yet" in shown
        assert "kachery-cloud-node" in shown
    env = {**ben.env, "KACHERY_CLOUD_DIR": str(ada.directory)}
    with Shell("bash", ben.folder, env) as typed:
        shown, _ = typed.type(f"kachery-cloud-store {source}")
        assert "Only programs on this machine can load it now" in shown
        assert "announced to the local network" in shown
        string = ada.run("kachery-cloud-store", source, "--share").stdout.strip()
        shown, code = typed.type(f"kachery-cloud share {string} --qr --label {'x' * 60}")
        assert code == 0
        (made,) = [line for line in shown.splitlines() if line.startswith("ipfs://label=xxx")]
        assert "\n".join(qr_lines(made)) in shown
    with Shell("bash", ben.folder, env, columns=40) as typed:
        shown, code = typed.type(f"kachery-cloud share {string} --qr")
        assert (code, "wider" in shown) == (2, True)


def test_a_private_machine_announces_nothing_and_can_be_asked(
    workstation: Callable[..., Workstation], ben: Workstation, tmp_path: Path
) -> None:
    """After `init --private` its node takes part in nothing and tells nobody, also where a variable says otherwise; the
    string that it gives away still brings the data."""
    ada = workstation(env={"KACHERY_CLOUD_MDNS": "on", "KACHERY_CLOUD_PUBLIC": "on", "KACHERY_CLOUD_BOOTSTRAP": "none"})
    assert sentence("nobody") in ada.run("kachery-cloud-init", "--private").stdout
    ada.start()
    source = write_random(tmp_path / "secret.dat", 200_000, seed=7)
    done = ada.run("kachery-cloud-store", source, "--share")
    assert done.stderr.startswith(sentence("nobody"))
    found = ada.status()
    assert {name for name, source in found["sources"].items() if source["on"]} == set()
    assert found["providing"]["strategy"] == "off"
    assert found["gateways"] == {}
    assert sentence("nobody") in ada.run("kachery-cloud-status").stdout
    assert ada.run("kachery-cloud", "announce", done.stdout.strip(), check=False).returncode == 6
    ben.run("kachery-cloud-get", done.stdout.strip())
    assert (ben.folder / "secret.dat").read_bytes() == source.read_bytes()
