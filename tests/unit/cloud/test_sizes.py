"""Sizes of what is in a folder are those of the contents, where what is here tells; else what the folder states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import kachery_cloud as kcl
from kachery_cloud.commands.main import cli
from kachery_cloud.local import close_repositories, repository
from kachery_cloud.settings.config import load_config
from kachery_cloud.sizes import Sizes
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.dag.nodes import dag_size
from kachery_p2p.dag.profiles import profile
from kachery_p2p.repo.repo import Repo

SIZES = {"large": 3_000_000, "tiny/three": 3, "deep/er/large": 3_000_000, "deep/four": 4}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    base = tmp_path / "f"
    for name, size in SIZES.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(bytes(size))
    (base / "empty").mkdir()
    (base / "link").symlink_to("large")
    yield base
    close_repositories()


def sizes(uri: str) -> dict[str, int | None]:
    return {each["name"]: each["size"] for each in kcl.list_dir(uri, local_only=True)}


@pytest.mark.parametrize("which", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_sizes_of_contents(folder: Path, which: str) -> None:
    """Of files their bytes; of folders those of all files in them, each as often as it is there; of links none."""
    uri = kcl.store_dir(folder, local=True, profile=which)
    expected = {"deep": 3_000_004, "empty": 0, "large": 3_000_000, "link": 0, "tiny": 3}
    assert sizes(uri) == expected
    rows = {each["name"]: each for each in kcl.list_dir(uri)}
    assert all(rows[name]["dag_size"] > size for name, size in expected.items())
    assert rows["link"]["destination"] == "large"
    info = kcl.load_file_info(uri)
    assert (info["kind"], info["size"]) == ("directory", 6_000_007)
    assert info["size"] == kcl.list()[0].size == sum(expected.values())
    assert kcl.load_file_info(kcl.join(uri, "deep"))["size"] == 3_000_004
    result = CliRunner().invoke(cli, ["ls", "--json", "--tree", uri])
    found = {each["uri"].removeprefix(f"{uri}/"): each["size"] for each in json.loads(result.stdout)["entries"]}
    assert {name: found[name] for name in SIZES} == SIZES
    assert found["deep/er"] == 3_000_000


def test_what_is_not_here_is_about_what_its_folder_states(folder: Path, tmp_path: Path) -> None:
    """A folder of which only the top is here: nothing is fetched, and nothing is taken for what it is not."""
    uri = kcl.store_dir(folder, local=True)
    root = CID.parse(uri.removeprefix("ipfs://"))
    block = repository(load_config()).get_block(root.multihash)
    assert block is not None
    stated = {each["name"]: each["dag_size"] for each in kcl.list_dir(uri)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "elsewhere"))
        with Repo.open(tmp_path / "elsewhere") as repo:
            repo.put_blocks([(root, block)])
        rows = {each["name"]: each for each in kcl.list_dir(uri, local_only=True)}
        assert {name: (each["size"], each["dag_size"], each["kind"]) for name, each in rows.items()} == {
            name: (None, size, None) for name, size in stated.items()
        }
        shown = CliRunner().invoke(cli, ["ls", uri, "--local-only"]).stdout.splitlines()
        assert [line.split() for line in shown] == [["about", f"{size:,}", name] for name, size in stated.items()]
        info = kcl.load_file_info(uri, local_only=True)
        assert (info["size"], info["dag_size"], info["local"]) == (None, dag_size(root, block), False)
        shown = CliRunner().invoke(cli, ["info", uri, "--local-only"]).stdout
        assert f"size:    about {dag_size(root, block):,} bytes\n" in shown


def test_a_large_folder_is_not_looked_through(folder: Path) -> None:
    """No more entries than the bound are read; of what is beyond it, nothing is said. What is known stays known."""
    uri = kcl.store_dir(folder, local=True)
    repo = repository(load_config())
    entries = [(CID.parse(each["cid"]), each["dag_size"]) for each in kcl.list_dir(uri)]
    assert [each.size for each in Sizes(repo, most=4).of(entries)] == [3_000_004, 0, 3_000_000, 0, 3]
    assert [each.size for each in Sizes(repo, most=3).of(entries)] == [3_000_004, None, 3_000_000, 0, None]
    assert [each.size for each in Sizes(repo, most=0).of(entries)] == [None, None, 3_000_000, 0, None]


def test_folders_that_are_there_many_times(folder: Path) -> None:
    """Sixty folders, each twice in the next, stand for 2^60 files: each is read once."""
    repo = repository(load_config())
    kcl.store_text("four", local=True)
    at = CID.parse(kcl.store_text("four", local=True).removeprefix("ipfs://"))
    for _ in range(60):
        builder = DirectoryBuilder(profile(), lambda cid, block: repo.put_blocks([(cid, block)]))
        builder.add("a", at, 1)
        builder.add("b", at, 1)
        at = builder.finish().cid
    assert Sizes(repo).folder(at) == 4 * 2**60
