"""Names that move, between whole workstations on loopback: published, followed, kept, and what is said when nobody is
there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE

_STORE = "say(kcl.store_dir(args[0]))"
_PUBLISH = "say(kcl.publish(args[0], args[1], ttl=args[2]).uri)"
_LOAD = "say(kcl.load_text(args[0], timeout=60))"


def version(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "a note.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def two(workstation: Callable[..., Workstation]) -> tuple[Workstation, Workstation]:
    """One that publishes, its node running, and one that knows its address."""
    publisher = workstation().start()
    return publisher, workstation(env={"KACHERY_CLOUD_PEERS": publisher.addr})


def test_a_name_follows(two: tuple[Workstation, Workstation], tmp_path: Path) -> None:
    """The same name gives the newer version once it is published; the URI that it was resolved to stays."""
    publisher, reader = two
    first = publisher.call(_STORE, version(tmp_path / "one", "one"))
    name = publisher.call(_PUBLISH, "recordings", first, 0)
    assert name.startswith("ipns://k51")
    reader.start()
    assert reader.call(_LOAD, f"{name}/a%20note.txt") == "one"
    assert reader.run("kachery-cloud", "resolve", name).stdout.strip() == first
    second = publisher.call(_STORE, version(tmp_path / "two", "two"))
    assert publisher.call(_PUBLISH, "recordings", second, 0) == name
    assert reader.call(_LOAD, f"{name}/a%20note.txt") == "two"
    assert reader.run("kachery-cloud-load", f"{name}?label=mine", "--dest", tmp_path / "copy").stdout.strip()
    assert (tmp_path / "copy" / "a note.txt").read_text(encoding="utf-8") == "two"
    assert reader.call(_LOAD, f"{first}/a%20note.txt") == "one"


def test_a_name_for_fsspec(two: tuple[Workstation, Workstation], tmp_path: Path) -> None:
    """What is made of a URI is a path of the version that the name points to then: all that is read through it is of
    that one, and the next URI leads to the newest. Patterns, paths and queries stay."""
    publisher, reader = two
    reader.start()
    first = publisher.call(_STORE, version(tmp_path / "one", "one"))
    second = publisher.call(_STORE, version(tmp_path / "two", "two"))
    name = publisher.call(_PUBLISH, "recordings", first, 0)
    code = """
        import fsspec
        from kachery_cloud.filesystem import KacheryFileSystem
        fs = fsspec.filesystem("ipfs")
        assert "ipns" in KacheryFileSystem.protocol
        path = fs._strip_protocol(args[0])
        say([path, fs.cat_file(args[0] + "/a%20note.txt?label=x").decode(), fs.glob(args[0] + "/a*"),
             fs.unstrip_protocol(args[0]), fs.open(args[0] + "/a%20note.txt").read().decode()])
    """
    cid = first.removeprefix("ipfs://")
    assert reader.call(dedent(code), name) == [cid, "one", [f"{cid}/a note.txt"], first, "one"]
    publisher.call(_PUBLISH, "recordings", second, 0)
    assert reader.call(dedent(code), name)[1] == "two"


def test_a_name_at_our_gateway(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """A gateway gives what a name points to: of its own machine without asking anybody, and where it fetches, of
    others."""
    publisher = workstation().start("--gateway", "127.0.0.1:0")
    name = publisher.call(_PUBLISH, "recordings", publisher.call(_STORE, version(tmp_path / "one", "one")), 7)
    other = workstation(env={"KACHERY_CLOUD_PEERS": publisher.addr})
    other.start("--gateway", "127.0.0.1:0", "--gateway-fetch")
    for station in (publisher, other):
        url = station.call("say(kcl.status())")["gateway"]["url"]
        path = name.replace("ipns://", "/ipns/")
        answer = httpx.get(f"{url}{path}/a%20note.txt", timeout=PATIENCE, trust_env=False)
        assert (answer.status_code, answer.text) == (200, "one")
        assert answer.headers["cache-control"] in {f"public, max-age={seconds}" for seconds in range(8)}
        assert answer.headers["x-ipfs-path"] == f"{path}/a note.txt"


def test_a_name_outlives_its_node(two: tuple[Workstation, Workstation], tmp_path: Path) -> None:
    """The reader's node keeps the record, and the name resolves while the publisher is away; a path to something under
    the name is kept, too."""
    publisher, reader = two
    reader.start()
    uri = publisher.call(_STORE, version(tmp_path / "one", "one"))
    name = publisher.call(_PUBLISH, "self", f"{uri}/a%20note.txt", 0)
    assert reader.call(_LOAD, name) == "one"
    publisher.kill()
    assert reader.run("kachery-cloud", "resolve", name).stdout.strip() == f"{uri}/a%20note.txt"


def test_what_the_commands_say(workstation: Callable[..., Workstation]) -> None:
    """Alone, without anybody to send it to: it is said, kept, listed, and of use here. Mistakes are sentences."""
    here = workstation()
    uri = here.call("say(kcl.store_text('text'))")
    done = here.run("kachery-cloud", "publish", "--key", "work", uri)
    name = done.stdout.strip()
    assert "Nobody has taken it yet" in done.stderr
    assert here.run("kachery-cloud", "publish", "--list").stdout.strip() == f"work  {name}  {uri}"
    assert here.run("kachery-cloud", "cat", name, "--local-only").stdout == "text"
    told = json.loads(here.run("kachery-cloud", "publish", "--key", name, uri, "--json").stdout)
    assert (told["uri"], told["key"], told["copies"]) == (name, "work", 0)
    assert here.run("kachery-cloud", "resolve", uri).stdout.strip() == uri
    for code, says, *line in (
        (2, "Give a URI", "publish"),
        (2, "cannot be the name of a key", "publish", "--key", "../x", uri),
        (
            2,
            "no key of the name",
            "publish",
            "--key",
            "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8",
            uri,
        ),
        (2, "IPNS name", "publish", name),
        (2, "not the name of a key", "resolve", "ipns://word"),
        (2, "public services are switched off", "resolve", "ipns://data.example.org"),
        (3, "has a valid record", "resolve", "ipns://k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8"),
        (
            3,
            "only local data",
            "load",
            "--local-only",
            "ipns://k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8",
        ),
        (2, "kachery-cloud resolve", "whereis", name),
    ):
        wrong = here.run("kachery-cloud", *line, check=False)
        assert (wrong.returncode, says in wrong.stderr) == (code, True), wrong.stderr
        assert "Traceback" not in wrong.stderr
