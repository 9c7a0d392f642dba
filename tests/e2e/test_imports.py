"""What a command imports. Most of a short command is the reading of modules, so each kind of work has its list.

A package that is not on the list of what was asked is too much: it costs every such command time and memory. Times are
not tested here; `docs/performance.md` has them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.workstation import Workstation

#: Writes the names of all modules to the file that is the first argument, when everything else is over.
PROBE = """
import atexit, json, sys
target, before = sys.argv.pop(1), set(sys.modules)
def tell():
    with open(target, "w", encoding="utf-8") as file:
        json.dump(sorted(set(sys.modules) - before), file)
atexit.register(tell)
"""
#: Brought by packages of the lists below, under some versions of Python.
BACKPORTS = {"exceptiongroup", "typing_extensions", "importlib_metadata", "tomli"}
COMMAND = {"click"}
#: Peer IDs are written in base58.
CATALOG = {"base58"}
#: trio and what it stands on; the keys and ciphers of the transport; the addresses of network interfaces.
NODE = {
    *("trio", "attr", "attrs", "outcome", "sniffio", "sortedcontainers", "idna"),
    *("cryptography", "_cffi_backend", "_openssl", "OpenSSL", "ifaddr"),
}
#: Heavy parts of the standard library that nothing below needs.
HEAVY = {"asyncio", "email", "http", "multiprocessing", "unittest", "urllib.request", "xml", "pydoc", "doctest"}


def imported(where: Workstation, target: Path, code: str, *args: str) -> set[str]:
    """The modules that a process of its own imports which runs `code` with these arguments."""
    line = [where.python, "-c", PROBE + code, str(target), *args]
    subprocess.run(line, env=where.env, cwd=where.folder, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return set(json.loads(target.read_text(encoding="utf-8")))


def command(name: str) -> str:
    return f"from kachery_cloud.commands.entry import {name}_main as main\nmain()"


def packages(modules: set[str]) -> set[str]:
    """The packages from elsewhere that modules belong to."""
    names = {name.partition(".")[0] for name in modules}
    own = {"kachery_cloud", "kachery_p2p", "scripts", "tests"}
    return {name for name in names if name not in sys.stdlib_module_names and name not in own | BACKPORTS}


def check(modules: set[str], allowed: set[str]) -> None:
    """Nothing but what is allowed, and none of what is heavy."""
    assert packages(modules) <= allowed
    # What reads certificates for TLS knows the addresses of mails in them.
    assert not modules & (HEAVY - {"email"} if "OpenSSL" in allowed else HEAVY)


@pytest.fixture(scope="module")
def source(module_workstation: Callable[[], Workstation]) -> Workstation:
    """A workstation whose node runs, and has something."""
    assert callable(module_workstation)
    return module_workstation().start()


@pytest.fixture
def uri(source: Workstation) -> str:
    """What it has: 1 KiB that nobody else has yet."""
    return source.call("import os; say(kcl.store_text(os.urandom(512).hex(), local=True))")


def test_the_package(workstation: Callable[[], Workstation], tmp_path: Path) -> None:
    """`import kachery_cloud`: nothing at all."""
    check(imported(workstation(), tmp_path / "names", "import kachery_cloud"), set())


@pytest.mark.parametrize("name", ["load", "store", "link", "node", "status", "pins"])
def test_help(workstation: Callable[[], Workstation], tmp_path: Path, name: str) -> None:
    """`--help`: click alone, and of ours neither what stores nor what loads."""
    modules = imported(workstation(), tmp_path / "names", command(name), "--help")
    check(modules, COMMAND)
    assert not modules & {
        "kachery_cloud.load",
        "kachery_cloud.store",
        "kachery_p2p.repo",
        "logging",
        "sqlite3",
        "socket",
    }


def test_what_a_shell_asks(workstation: Callable[[], Workstation], tmp_path: Path) -> None:
    """Somebody has pressed TAB: the rows of the catalog, and nothing of what stores, loads or speaks to a node."""
    where = workstation()
    (tmp_path / "file").write_bytes(b"some bytes")
    where.run("kachery-cloud-store", tmp_path / "file")
    where.env["_KACHERY_CLOUD_WORDS"] = "zsh"
    modules = imported(where, tmp_path / "names", command("load"), "ipfs://")
    assert "kachery_p2p.repo.offering" in modules
    check(modules, COMMAND)
    assert not modules & {"kachery_p2p.repo.repo", "kachery_cloud.node", "kachery_cloud.load", "kachery_cloud.store"}


def test_storing(workstation: Callable[[], Workstation], tmp_path: Path) -> None:
    """A store, and a load of what is here: the catalog, and nothing of the network."""
    where = workstation()
    file = tmp_path / "file"
    file.write_bytes(b"some bytes")
    for code in (command("store"), command("link")):
        modules = imported(where, tmp_path / "names", code, str(file))
        check(modules, COMMAND | CATALOG)
    stored = where.run("kachery-cloud-store", file).stdout.strip()
    for args in ([stored], [stored, "--local-only"]):
        modules = imported(where, tmp_path / "names", command("load"), *args)
        check(modules, COMMAND | CATALOG)
        assert "kachery_cloud.node.connection" not in modules


def test_loading_where_a_node_runs(
    workstation: Callable[[], Workstation], source: Workstation, uri: str, tmp_path: Path
) -> None:
    """The process asks the node through its socket: the catalog, and nothing of the network."""
    where = workstation().start()
    modules = imported(where, tmp_path / "names", command("load"), uri, "--peer", source.addr)
    assert "kachery_cloud.node.control_client" in modules
    check(modules, COMMAND | CATALOG)
    assert not modules & {"kachery_p2p.node.status_messages", "kachery_cloud.node.serve"}


def test_loading_without_a_node(
    workstation: Callable[[], Workstation], source: Workstation, uri: str, tmp_path: Path
) -> None:
    """The process becomes the node: trio and the transport, no py-libp2p, no multiaddr, no HTTP, no protobuf."""
    where = workstation()
    modules = imported(where, tmp_path / "names", command("load"), uri, "--peer", source.addr)
    assert "kachery_p2p.node.node" in modules
    check(modules, COMMAND | CATALOG | NODE)
    assert not modules & {"kachery_p2p.routing.mdns", "kachery_p2p.pinning.worker", "kachery_p2p.gateway.client.client"}


def test_an_array(workstation: Callable[[], Workstation], source: Workstation, tmp_path: Path) -> None:
    """numpy, for who loads an array, and no sooner."""
    where = workstation()
    uri = source.call("import numpy as np; say(kcl.store_npy(np.zeros(3), local=True))")
    code = "import sys, kachery_cloud as kcl\nkcl.load_npy(sys.argv[1], providers=[sys.argv[2]])"
    assert packages(imported(where, tmp_path / "names", code, uri, source.addr)) - {"numpy"} <= CATALOG | NODE
