"""The file system of fsspec: what it gives back for what is put into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud.local import close_outboxes, close_repositories

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")

URI = "ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


@pytest.fixture
def fs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kachery_cloud.node.connection.announce_in_background", lambda *args, **more: None)
    from kachery_cloud.filesystem import KacheryFileSystem

    yield KacheryFileSystem(skip_instance_cache=True)
    close_repositories()
    close_outboxes()


def test_what_is_stored_has_one_uri(fs: Any, tmp_path: Path) -> None:
    """For one thing that is put it is text, whichever function puts it; for several it is a list of them."""
    (tmp_path / "a.txt").write_bytes(b"example text")
    (tmp_path / "folder").mkdir()
    assert fs.pipe("ipfs://", b"example text") == URI
    assert fs.pipe_file("ipfs://", b"example text") == URI
    assert fs.pipe({"ipfs://": b"example text"}) == [URI]
    assert fs.put("a.txt", "ipfs://") == URI
    assert fs.put(tmp_path / "a.txt", "ipfs://") == URI
    assert fs.put_file("a.txt", "ipfs://") == URI
    assert fs.put(["a.txt", "a.txt"], "ipfs://") == [URI, URI]
    assert kcl.list_dir(fs.put("folder", "ipfs://", recursive=True)) == []


@pytest.mark.parametrize("path", [f"{URI}/b.txt", "b.txt"])
def test_nothing_is_put_at_a_uri(fs: Any, path: str) -> None:
    """What it names never changes."""
    with pytest.raises(kcl.NoPermission, match="never changes"):
        fs.pipe(path, b"x")
    with pytest.raises(kcl.NoPermission, match="never changes"):
        fs.pipe({path: b"x"})
