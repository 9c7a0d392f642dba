"""What one workstation stores, another loads: every kind of content, from Python and from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_cloud.privacy import sentence
from scripts.data import sha256_of_folder, write_random
from scripts.workstation import Workstation


@pytest.fixture(scope="module")
def here(module_workstation: Callable[[], Workstation]) -> Workstation:
    """The workstation that stores. Its node runs all the time."""
    return module_workstation().start()


@pytest.fixture(scope="module")
def there(module_workstation: Callable[[], Workstation]) -> Workstation:
    """The workstation that loads, with a node running, too."""
    return module_workstation().start()


# --- from Python --------------------------------------------------------------------------------------------------


def test_text(here: Workstation, there: Workstation) -> None:
    """Text arrives as it was, whatever its characters."""
    text = "Ünits: µV, 30 kHz\r\n\tdone \N{RAT}\n"
    uri = here.call("say(kcl.store_text(args[0]))", text)
    assert there.call("say(kcl.load_text(args[0], providers=[args[1]]))", uri, here.addr) == text


def test_json(here: Workstation, there: Workstation) -> None:
    """Values of JSON arrive as they were."""
    value = {"rate": 30000.0, "bad": [3, 17], "notes": None, "nested": {"a": [True, "x"]}}
    uri = here.call("say(kcl.store_json(args[0]))", value)
    assert there.call("say(kcl.load_json(args[0], providers=[args[1]]))", uri, here.addr) == value


def test_npy(here: Workstation, there: Workstation) -> None:
    """An array arrives with its values, shape and type."""
    make = "import numpy as np; a = np.arange(3_000_000, dtype='<i2').reshape(1000, 3000) * 7; "
    uri = here.call(make + "say(kcl.store_npy(a))")
    load = "b = kcl.load_npy(args[0], providers=[args[1]]); say([bool((a == b).all()), b.shape, str(b.dtype)])"
    assert there.call(make + load, uri, here.addr) == [True, [1000, 3000], "int16"]


def test_pkl(here: Workstation, there: Workstation) -> None:
    """Plain Python values, with arrays among them, arrive as they were."""
    make = "import numpy as np; v = {'t': (1, 2.5, b'x'), 's': {3, 4}, 'a': np.eye(3)}; "
    uri = here.call(make + "say(kcl.store_pkl(v))")
    load = "w = kcl.load_pkl(args[0], providers=[args[1]]); a, b = v.pop('a'), w.pop('a'); "
    assert there.call(make + load + "say([v == w, bool((a == b).all())])", uri, here.addr) == [True, True]


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 25_000_000])
def test_file(here: Workstation, there: Workstation, tmp_path: Path, size: int) -> None:
    """A file of any size arrives byte for byte, and a second load needs nobody."""
    source = write_random(tmp_path / "source.dat", size, seed=size)
    uri = here.call("say(kcl.store_file(args[0]))", source)
    path = there.call("say(kcl.load_file(args[0], providers=[args[1]]))", uri, here.addr)
    assert Path(path).read_bytes() == source.read_bytes()
    assert there.call("say(kcl.load_file(args[0], local_only=True))", uri) == path


def test_linked_file(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """A linked file is served from where it lies, under the URI that a stored copy would have."""
    source = write_random(tmp_path / "source.dat", 3_000_000, seed=42)
    uri = here.call("say(kcl.link_file(args[0]))", source)
    path = there.call("say(kcl.load_file(args[0], providers=[args[1]]))", uri, here.addr)
    assert Path(path).read_bytes() == source.read_bytes()
    assert there.call("say(kcl.store_file(args[0], local=True))", source) == uri


def test_directory(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """A folder arrives whole: sub-folders, empty files, odd names."""
    source = tmp_path / "session"
    (source / "raw" / "probe A").mkdir(parents=True)
    write_random(source / "raw" / "probe A" / "traces.bin", 2_500_000, seed=5)
    (source / "raw" / "empty").write_bytes(b"")
    (source / "Notizen über Maus #12?.txt").write_text("schläft", encoding="utf-8")
    uri = here.call("say(kcl.store_dir(args[0]))", source)
    there.call("kcl.load_dir(args[0], args[2], providers=[args[1]])", uri, here.addr, tmp_path / "copy")
    assert sha256_of_folder(tmp_path / "copy") == sha256_of_folder(source)


def test_file_in_a_directory(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """One file of a folder is loaded by its path, without the others."""
    source = tmp_path / "session"
    (source / "notes").mkdir(parents=True)
    (source / "notes" / "day 1.txt").write_text("rain", encoding="utf-8")
    write_random(source / "big.bin", 5_000_000, seed=6)
    uri = here.call("say(kcl.store_dir(args[0]))", source)
    before = here.status()["bytes_sent"]
    text = there.call("say(kcl.load_text(args[0], providers=[args[1]]))", uri + "/notes/day%201.txt", here.addr)
    assert text == "rain"
    assert here.status()["bytes_sent"] - before < 100_000


def test_range(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """A few bytes of a large file cost about a block, not the file."""
    source = write_random(tmp_path / "source.dat", 30_000_000, seed=9)
    uri = here.call("say(kcl.link_file(args[0]))", source)
    before = here.status()["bytes_sent"]
    code = "say(list(kcl.load_bytes(args[0], 20_000_000, 20_000_050, providers=[args[1]])))"
    assert bytes(there.call(code, uri, here.addr)) == source.read_bytes()[20_000_000:20_000_050]
    assert here.status()["bytes_sent"] - before < 2_500_000


def test_provider_in_the_uri(here: Workstation, there: Workstation) -> None:
    """A URI can say where to ask."""
    uri = here.call("say(kcl.store_text('hint'))")
    code = "say(kcl.load_text(args[0] + '?label=x&provider=' + args[1], timeout=120))"
    assert there.call(code, uri, here.addr) == "hint"


def test_peers_in_the_environment(here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """KACHERY_CLOUD_PEERS says whom to ask when nothing else does."""
    uri = here.call("say(kcl.store_text('configured'))")
    other = workstation(env={"KACHERY_CLOUD_PEERS": here.addr})
    assert other.call("say(kcl.load_text(args[0], timeout=120))", uri) == "configured"


def test_ipv6(workstation: Callable[..., Workstation]) -> None:
    """Two workstations can meet over IPv6."""
    first = workstation().start("--listen", "/ip6/::1/tcp/0")
    uri = first.call("say(kcl.store_text('six'))")
    assert first.addr.startswith("/ip6/::1/")
    assert workstation().call("say(kcl.load_text(args[0], providers=[args[1]]))", uri, first.addr) == "six"


# --- from the command line ----------------------------------------------------------------------------------------


def test_command_line_file(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """store prints one URI, load one path, cat the bytes."""
    source = write_random(tmp_path / "source.dat", 2_000_000, seed=21)
    uri = here.run("kachery-cloud-store", source, "--label", "source.dat").stdout.strip()
    assert uri.startswith("ipfs://label=source.dat@bafy")
    path = there.run("kachery-cloud-load", uri, "--peer", here.addr).stdout.strip()
    assert Path(path).read_bytes() == source.read_bytes()
    assert path.endswith("/source.dat")
    copy = tmp_path / "copy.dat"
    assert there.run("kachery-cloud-load", uri, "--dest", copy, "--local-only").stdout.strip() == str(copy)
    assert copy.read_bytes() == source.read_bytes()


def test_command_line_cat(here: Workstation, workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """cat streams a file that is not here yet, or a part of it."""
    source = tmp_path / "source.txt"
    source.write_text("".join(f"line {number}\n" for number in range(400_000)), encoding="utf-8")
    uri = here.run("kachery-cloud-link", source).stdout.strip()
    other = workstation()
    assert other.run("kachery-cloud-cat", uri, "--peer", here.addr).stdout == source.read_text(encoding="utf-8")
    part = other.run("kachery-cloud-cat", uri, "--peer", here.addr, "--start", "5", "--end", "13").stdout
    assert part == "0\nline 1"


def test_command_line_directory(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """A folder goes by --recursive and comes by --dest."""
    source = tmp_path / "session"
    source.mkdir()
    (source / "a.txt").write_text("a", encoding="utf-8")
    uri = here.run("kachery-cloud-store", "-r", source).stdout.strip()
    there.run("kachery-cloud-load", uri, "--dest", tmp_path / "copy", "--peer", here.addr)
    assert sha256_of_folder(tmp_path / "copy") == sha256_of_folder(source)


def test_command_line_json(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """--json gives one object a line that a program can read."""
    source = write_random(tmp_path / "source.dat", 1000, seed=22)
    stored = json.loads(here.run("kachery-cloud", "store", source, "--json").stdout)
    assert stored["uri"] == "ipfs://" + stored["cid"]
    assert stored["size"] == 1000
    loaded = json.loads(there.run("kachery-cloud", "load", stored["uri"], "--peer", here.addr, "--json").stdout)
    assert Path(loaded["path"]).read_bytes() == source.read_bytes()


def test_no_bar_without_a_terminal(here: Workstation, there: Workstation, tmp_path: Path) -> None:
    """Nothing but the result is printed when nobody watches; once, with the first store, to whom it is announced."""
    source = write_random(tmp_path / "source.dat", 40_000_000, seed=23)
    stored = here.run("kachery-cloud-store", source)
    loaded = there.run("kachery-cloud-load", stored.stdout.strip(), "--peer", here.addr)
    assert stored.stderr in ("", sentence("lan") + "\n")  # other tests may have stored something here
    assert here.run("kachery-cloud-store", source).stderr == ""
    assert loaded.stderr == ""
