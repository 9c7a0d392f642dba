"""Whatever is read of a URI for a group, the node is told for which: else strangers would hear of it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import kachery_cloud as kcl
from kachery_cloud import sharing
from kachery_cloud.filesystem import KacheryFileSystem
from kachery_cloud.local import close_repositories
from kachery_cloud.node import connection
from kachery_p2p.dag.cid import CID, DAG_PB, sha256_multihash
from kachery_p2p.node.messages import CopiesRequest, LoadRequest, WhereisRequest
from kachery_p2p.repo.repo import Repo
from tests.helpers.opened_files import StandInNode

GROUP = "a" * 26
DATA = os.urandom(40_000)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInNode]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "here"))
    with Repo.open(tmp_path / "there") as peer:
        stand_in = StandInNode(peer)
        monkeypatch.setattr(connection, "get_connection", lambda config: stand_in)
        yield stand_in
        close_repositories()
        KacheryFileSystem.clear_instance_cache()


@pytest.fixture
def uri(node: StandInNode) -> str:
    return f"ipfs://{node.peer.store_bytes(DATA, profile='random-16k').cid}?group={GROUP}"


def open_and_pickle(uri: str) -> None:
    with kcl.open(uri) as file, pickle.loads(pickle.dumps(file)) as again:
        assert again.read(5) == DATA[:5]


def read_by_url(uri: str) -> None:
    opened: Any = fsspec.open(uri)
    with opened as file:
        assert file.read(5) == DATA[:5]


def read_by_path(uri: str) -> None:
    fs = fsspec.filesystem("ipfs", skip_instance_cache=True)
    assert fs.cat_file(uri, 0, 5) == DATA[:5]
    with fs.open(fs._strip_protocol(uri)) as file:
        assert file.read(5) == DATA[:5]
    assert fs.unstrip_protocol(fs._strip_protocol(uri)).endswith(f"?group={GROUP}")


def read_with_an_option(uri: str) -> None:
    fs = fsspec.filesystem("ipfs", groups=[GROUP])
    assert fs.cat_file(uri.partition("?")[0], 0, 5) == DATA[:5]
    assert pickle.loads(pickle.dumps(fs)).groups == (GROUP,)


READERS: dict[str, Callable[[str], object]] = {
    "load_file": kcl.load_file,
    "load_bytes": lambda uri: kcl.load_bytes(uri, 5, 10),
    "load_file_info": kcl.load_file_info,
    "open": open_and_pickle,
    "get": lambda uri: sharing.get(uri, "copy.bin"),
    "fsspec.open": read_by_url,
    "fsspec paths": read_by_path,
    "fsspec option": read_with_an_option,
}


@pytest.mark.parametrize("reader", READERS)
def test_the_node_is_told_the_group(
    node: StandInNode, uri: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each way to read."""
    monkeypatch.chdir(tmp_path)
    READERS[reader](uri)
    assert node.asked
    assert {each.groups for each in node.asked} == {(GROUP,)}


def test_an_array_is_read_among_members(node: StandInNode) -> None:
    """Also where parts of it are read."""
    path = Path(os.environ["KACHERY_CLOUD_DIR"]).parent / "array.npy"
    np.save(path, np.arange(50_000.0))
    uri = f"ipfs://{node.peer.store_file(path).cid}?group={GROUP}"
    assert kcl.open_npy(uri)[40_000] == 40_000
    assert {each.groups for each in node.asked} == {(GROUP,)}


def test_folders_are_read_among_members(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To list one, to load it, to compare it with another, to export it."""
    asked: list[LoadRequest] = []

    class Refusing:
        def load(self, request: LoadRequest, *_: object) -> None:
            asked.append(request)
            raise kcl.ContentNotFound("Nobody is asked in this test.")

    monkeypatch.setattr(connection, "get_connection", lambda config: Refusing())
    folder = f"ipfs://{CID(1, DAG_PB, sha256_multihash(b'a folder'))}?group={GROUP}"
    readers: list[Callable[[str], object]] = [
        kcl.list_dir,
        lambda uri: kcl.load_dir(uri, str(tmp_path / "copy")),
        lambda uri: kcl.diff(uri, folder.replace("?", "/inner?")),
        lambda uri: kcl.export_car(uri, str(tmp_path / "folder.car")),
    ]
    for read in readers:
        with pytest.raises(kcl.ContentNotFound):
            read(folder)
    assert len(asked) == len(readers)
    assert {each.groups for each in asked} == {(GROUP,)}


def test_the_entries_of_a_folder_are_for_its_group(tmp_path: Path) -> None:
    """A URI that is passed on from a list says for whom it is, too."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    uri = kcl.store_dir(str(tmp_path / "folder"), local=True)
    (entry,) = kcl.list_dir(f"{uri}?group={GROUP}", local_only=True)
    assert entry["uri"] == f"{uri}/a.txt?group={GROUP}"


def test_questions_say_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has it, and whether anybody else has all of it."""
    asked: list[WhereisRequest | CopiesRequest] = []

    class Asking:
        def whereis(self, request: WhereisRequest) -> list[object]:
            asked.append(request)
            return []

        def copies(self, request: CopiesRequest) -> None:
            asked.append(request)
            raise kcl.ContentNotFound("Nobody is asked in this test.")

    monkeypatch.setattr(connection, "get_connection", lambda config: Asking())
    uri = f"{kcl.store_text('for the group', local=True)}?group={GROUP}"
    kcl.whereis(uri)
    with pytest.raises(kcl.ContentNotFound):
        kcl.remove(uri)
    assert [each.groups for each in asked] == [(GROUP,), (GROUP,)]
