"""Parts of an encrypted file that is elsewhere: only the blocks in which their chunks lie are fetched."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import kachery_cloud as kcl
from kachery_cloud.encryption.identities import own_identity
from kachery_cloud.encryption.recipients import Recipients
from kachery_cloud.encryption.records import EncryptedRoots
from kachery_cloud.encryption.stanzas import X25519Identity
from kachery_cloud.local import close_repositories, repository
from kachery_cloud.node import connection
from kachery_cloud.settings.config import load_config
from kachery_p2p.repo.repo import Repo
from tests.helpers.encryption_helpers import encrypted_bytes
from tests.helpers.opened_files import StandInNode
from tests.unit.cloud.encryption.conftest import Go

CHUNK = 64 * 1024
BLOCK = 1 << 20
DATA = os.urandom(1 << 16) * (9 * BLOCK // (1 << 16)) + b"the end"


@pytest.fixture
def node(tmp_path: Path, at: Go, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInNode]:
    with Repo.open(tmp_path / "there") as peer:
        stand_in = StandInNode(peer)
        monkeypatch.setattr(connection, "get_connection", lambda config: stand_in)
        yield stand_in
        close_repositories()


@pytest.fixture
def uri(node: StandInNode) -> str:
    recipient = own_identity(load_config()).recipient
    cipher = encrypted_bytes(DATA, Recipients((recipient,)))
    return f"ipfs://{node.peer.store_bytes(cipher).cid}?encryption=age"


def test_a_read_fetches_the_blocks_of_its_chunks(node: StandInNode, uri: str) -> None:
    """To open it takes the first block and the last one; a read, the block or two in which its chunk lies."""
    with kcl.open(uri, read_ahead=0) as file:
        assert file.size == len(DATA)
        node_blocks = node.moved - 2 * BLOCK
        assert node_blocks < BLOCK // 2  # the last block has little in it; the inner node is small
        before = node.moved
        assert file.read_at(4 * BLOCK, 16) == DATA[4 * BLOCK : 4 * BLOCK + 16]
        assert BLOCK <= node.moved - before <= 2 * BLOCK
        before = node.moved
        assert file.read_at(4 * BLOCK + 100, 16) == DATA[4 * BLOCK + 100 : 4 * BLOCK + 116]
        assert node.moved == before
    assert not list(Path(os.environ["KACHERY_CLOUD_DIR"]).glob("plain/*/*"))


def test_random_reads(node: StandInNode, uri: str) -> None:
    """Each as a slice of the plain bytes, alone and many together."""
    rng = random.Random(7)
    spans = [(start, start + rng.randrange(1, 200_000)) for start in (rng.randrange(len(DATA)) for _ in range(30))]
    with kcl.open(uri) as file:
        for start, end in spans[:15]:
            assert file.read_at(start, end - start) == DATA[start:end]
        assert file.cat_ranges(spans) == [DATA[start:end] for start, end in spans]
        file.seek(-7, os.SEEK_END)
        assert file.read() == b"the end"
        assert file.read1() == b""
        file.seek(CHUNK - 2)
        assert DATA[CHUNK - 2 :].startswith(file.read1())


def test_load_bytes_and_cat(node: StandInNode, uri: str, tmp_path: Path) -> None:
    """Ranges with ends that are counted from the end, and the whole as a stream."""
    assert kcl.load_bytes(uri, -7) == b"the end"
    assert kcl.load_bytes(uri, 3 * BLOCK, 3 * BLOCK + 5) == DATA[3 * BLOCK : 3 * BLOCK + 5]
    assert kcl.load_bytes(uri, 5, 5) == b""
    with open(tmp_path / "out", "wb") as out:
        kcl.cat_file(uri, out)
    assert (tmp_path / "out").read_bytes() == DATA


def test_whole_files(node: StandInNode, uri: str, tmp_path: Path) -> None:
    """Fetched as cipher text, and given as plain bytes; what is known of it before needs no key."""
    info = kcl.load_file_info(uri)
    assert (info["size"], info["encryption"], info["path"]) == (len(DATA), "age", None)
    assert Path(kcl.load_file(uri)).read_bytes() == DATA
    assert kcl.get(uri, tmp_path / "copy") == str(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert EncryptedRoots(repository(load_config())).has(kcl.parse_uri(uri).root)  # so that `list` says so


def test_a_peer_that_has_a_file_without_its_end(node: StandInNode) -> None:
    """It is refused when it is opened, whatever is read of it."""
    recipient = own_identity(load_config()).recipient
    cipher = encrypted_bytes(DATA[: 40 * CHUNK], Recipients((recipient,)))
    cut = f"ipfs://{node.peer.store_bytes(cipher[: -(CHUNK + 16)]).cid}?encryption=age"
    with pytest.raises(kcl.EncryptionError, match="the last one"):
        kcl.load_bytes(cut, 0, 5)
    with pytest.raises(kcl.EncryptionError, match="the last one"):
        kcl.open(cut)


def test_fsspec(node: StandInNode, uri: str) -> None:
    """Plain bytes and plain sizes; the cipher text has another path. The key of a link is in no path."""
    import fsspec

    fs = fsspec.filesystem("ipfs", skip_instance_cache=True)
    cid = kcl.parse_uri(uri).cid
    assert fs.info(uri)["size"] == len(DATA)
    assert fs.cat_file(uri, 5, 9) == DATA[5:9]
    assert fs.cat_file(f"ipfs://{cid}", 0, 3) == b"age"
    assert fs.info(f"ipfs://{cid}")["size"] > len(DATA)
    with fs.open(uri) as file:
        assert file.read(4) == DATA[:4]
    assert fs.unstrip_protocol(fs._strip_protocol(uri)) == uri
    assert fs.cat_file(uri) == DATA
    link = X25519Identity.new()
    other = node.peer.store_bytes(encrypted_bytes(b"for a link", Recipients((link.recipient,)))).cid
    path = fs._strip_protocol(f"ipfs://{other}#key={link.text}")
    assert path == f"encryption=age@{other}"
    assert fs.cat_file(path) == b"for a link"


def test_the_key_of_a_link_goes_to_nobody(node: StandInNode, tmp_path: Path) -> None:
    """Neither in what the node is asked for, nor into any file of the data directory."""
    link = X25519Identity.new()
    cipher = encrypted_bytes(DATA, Recipients((link.recipient,)))
    uri = f"ipfs://{node.peer.store_bytes(cipher).cid}?label=a.bin#key={link.text}"
    assert kcl.load_bytes(uri, 5, 9) == DATA[5:9]
    assert Path(kcl.load_file(uri)).read_bytes() == DATA
    assert node.asked
    assert link.text not in repr(node.asked)
    for path in Path(os.environ["KACHERY_CLOUD_DIR"]).rglob("*"):
        assert link.text not in str(path)
        assert not path.is_file() or link.text.encode() not in path.read_bytes()
