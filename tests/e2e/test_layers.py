"""Shared directories and the network: what one of them has is not fetched, and is not given to others."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.data import sha256_of, write_random
from scripts.workstation import Workstation, WorkstationError

MB = 1 << 20
SIZE = 24 * MB

#: Loads a file through the node of this process; its path, and how many bytes came from others.
_LOAD = """
from kachery_cloud.request import Request
result = Request(args[0], providers=[args[1]]).ask(args[2])
say([result.path, sum(result.sources.values())])
"""

# Removes the shared directory when a third has come.
_LOAD_AND_LOSE = """
import shutil, threading
from kachery_p2p.repo.download import Download
write, written, lock = Download.write, 0, threading.Lock()
def counting_write(self, offset, data):
    global written
    write(self, offset, data)
    with lock:  # several threads write
        if written < 8_000_000 <= written + len(data):
            shutil.rmtree(args[2])
        written += len(data)
Download.write = counting_write
path = kcl.load_file(args[0], providers=[args[1]])
say([path, written])
"""


@pytest.fixture
def source(workstation: Callable[..., Workstation]) -> Workstation:
    """A workstation that serves."""
    return workstation().start()


def over(lab: Workstation) -> dict[str, str]:
    """The settings of a workstation which has the lab's directory beneath its own."""
    return {"KACHERY_CLOUD_SHARED_DIRS": str(lab.directory)}


def test_only_what_is_missing_is_fetched(
    workstation: Callable[..., Workstation], source: Workstation, tmp_path: Path
) -> None:
    """Of a file that the lab has loaded in part, the rest comes from a peer; it is whole in one's own directory."""
    file = write_random(tmp_path / "file.dat", SIZE, seed=1)
    uri = source.call("say(kcl.link_file(args[0]))", file)
    lab = workstation()
    lab.call("say(len(kcl.load_bytes(args[0], 4 << 20, 12 << 20, providers=[args[1]])))", uri, source.addr)
    before = contents_of(lab)
    user = workstation(env=over(lab))
    path, fetched = user.call(_LOAD, uri, source.addr, "file")
    assert Path(path).is_relative_to(user.directory)
    assert sha256_of(Path(path)) == sha256_of(file)
    assert fetched <= SIZE - 8 * MB + MB  # and the nodes
    assert contents_of(lab) == before
    source.stop()
    again = user.call("say(kcl.load_file(args[0], local_only=True))", uri)
    assert again == path


def test_files_of_a_folder_that_are_there(
    workstation: Callable[..., Workstation], source: Workstation, tmp_path: Path
) -> None:
    """A folder comes whole into one's own directory; files of it that the lab has are copied, and not fetched."""
    folder = tmp_path / "folder"
    folder.mkdir()
    there = write_random(folder / "there.dat", 6 * MB, seed=2)
    write_random(folder / "missing.dat", 2 * MB, seed=3)
    (folder / "small.txt").write_text("a few bytes")
    uri = source.call("say(kcl.store_dir(args[0], local=True))", folder)
    lab = workstation()
    lab.call(
        "say([kcl.store_file(args[0], local=True), kcl.store_file(args[1], local=True)])", there, folder / "small.txt"
    )
    user = workstation(env=over(lab))
    _, fetched = user.call(_LOAD, uri, source.addr, "directory")
    assert 2 * MB <= fetched < 3 * MB
    source.stop()
    shutil.rmtree(lab.directory)
    out = user.call("say(kcl.load_dir(args[0], args[1], local_only=True))", uri, tmp_path / "out")
    assert sha256_of(Path(out) / "there.dat") == sha256_of(there)
    assert (Path(out) / "small.txt").read_text() == "a few bytes"


def test_the_directory_goes_in_the_middle_of_a_load(
    workstation: Callable[..., Workstation], source: Workstation, tmp_path: Path
) -> None:
    """What it had still to give comes from the peer, and the file is right."""
    file = write_random(tmp_path / "file.dat", SIZE, seed=4)
    uri = source.call("say(kcl.link_file(args[0]))", file)
    lab = workstation()
    lab.call("say(len(kcl.load_bytes(args[0], 0, 20 << 20, providers=[args[1]])))", uri, source.addr)
    user = workstation(env=over(lab))
    path, written = user.call(_LOAD_AND_LOSE, uri, source.addr, lab.directory)
    assert not lab.directory.exists()
    assert written == SIZE
    assert sha256_of(Path(path)) == sha256_of(file)


def test_others_are_not_given_what_is_there(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """What this user finds in the lab's directory, his node does not serve, announce or vouch for, nor his gateway."""
    lab = workstation()
    file = write_random(tmp_path / "file.dat", 3 * MB, seed=5)
    uri, text = lab.call("say([kcl.store_file(args[0], local=True), kcl.store_text('theirs', local=True)])", file)
    user = workstation(env=over(lab)).start("--gateway", "127.0.0.1:0")
    own, gateway = user.call("say([kcl.store_text('own'), kcl.status()['gateway']['url']])")
    path, theirs = user.call(
        "say([kcl.load_file(args[0], local_only=True), kcl.load_text(args[1], local_only=True)])", uri, text
    )
    assert Path(path).is_relative_to(lab.directory)
    assert theirs == "theirs"
    stranger = workstation()
    assert stranger.call("say(kcl.load_text(args[0], providers=[args[1]]))", own, user.addr) == "own"
    for each in (uri, text):
        rows = stranger.call("say(kcl.whereis(args[0], providers=[args[1]], timeout=5))", each, user.addr)
        assert {row["has"] for row in rows if row["peer"] == user.peer_id} == {False}
        with pytest.raises(WorkstationError, match="ContentNotFound"):
            stranger.call("kcl.load_file(args[0], providers=[args[1]], timeout=5)", each, user.addr)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(gateway.rstrip("/") + each.replace("ipfs://", "/ipfs/"), timeout=60)


def contents_of(station: Workstation) -> list[tuple[str, int, int]]:
    """Everything in its directory, with what shows a change."""
    return sorted(
        (str(path), status.st_mtime_ns, status.st_size)
        for path in station.directory.rglob("*")
        if (status := path.lstat())
    )
