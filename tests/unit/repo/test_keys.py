"""The key files: made once, kept, and never silently replaced."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kachery_p2p.errors import IdentityError
from kachery_p2p.repo import NodeLock, load_or_create_identity
from kachery_p2p.repo.keys import peer_id_of
from tests.helpers.patience import PATIENCE


def test_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    """The first call makes the key, in a folder that only its owner may enter; later calls read the same one."""
    home = tmp_path / "new"
    made = load_or_create_identity(home)
    assert load_or_create_identity(home) == made
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert sorted(path.name for path in home.iterdir()) == ["private.pem", "public.pem"]
    for name in ("private.pem", "public.pem"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


def test_key_files_are_what_openssl_reads(tmp_path: Path) -> None:
    """private.pem is PKCS#8, public.pem SubjectPublicKeyInfo, and both hold the seed and key that are returned."""
    from cryptography.hazmat.primitives import serialization as s

    made = load_or_create_identity(tmp_path)
    private = (tmp_path / "private.pem").read_bytes()
    assert private.startswith(b"-----BEGIN PRIVATE KEY-----")
    key = s.load_pem_private_key(private, None)
    assert made.seed == key.private_bytes(s.Encoding.Raw, s.PrivateFormat.Raw, s.NoEncryption())
    public = s.load_pem_public_key((tmp_path / "public.pem").read_bytes())
    assert made.public == public.public_bytes(s.Encoding.Raw, s.PublicFormat.Raw)
    assert made.seed.hex() not in repr(made)


def test_peer_id_is_that_of_libp2p(tmp_path: Path) -> None:
    """The peer ID is the one that libp2p computes for the same key."""
    from libp2p.crypto.ed25519 import Ed25519PublicKey
    from libp2p.peer.id import ID

    for name in "abc":
        made = load_or_create_identity(tmp_path / name)
        assert made.peer_id == peer_id_of(made.public) == str(ID.from_pubkey(Ed25519PublicKey.from_bytes(made.public)))


def test_many_processes_end_with_one_key(tmp_path: Path) -> None:
    """Processes that all find no key, and make one at the same time, have the same one."""
    code = (
        "import sys; from pathlib import Path; from kachery_p2p.repo.keys import load_or_create_identity as f;"
        "sys.stdin.read(); print(f(Path(sys.argv[1])).peer_id)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    ids = {process.communicate(timeout=PATIENCE)[0] for process in processes}
    assert len(ids) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["private.pem", "public.pem"]


def test_public_key_is_made_anew_from_the_private_one(tmp_path: Path) -> None:
    """A lost public.pem comes back as it was."""
    made = load_or_create_identity(tmp_path)
    before = (tmp_path / "public.pem").read_bytes()
    (tmp_path / "public.pem").unlink()
    assert load_or_create_identity(tmp_path) == made
    assert (tmp_path / "public.pem").read_bytes() == before


def test_keys_of_two_identities_are_an_error_that_names_both(tmp_path: Path) -> None:
    """A public key that does not belong is not overwritten, and both files are named."""
    load_or_create_identity(tmp_path)
    load_or_create_identity(tmp_path / "other")
    os.replace(tmp_path / "other" / "public.pem", tmp_path / "public.pem")
    with pytest.raises(IdentityError) as caught:
        load_or_create_identity(tmp_path)
    assert "public.pem" in str(caught.value)
    assert "private.pem" in str(caught.value)


def test_lost_private_key_is_not_replaced(tmp_path: Path) -> None:
    """With only public.pem left no new identity is made: the key may be on a backup."""
    load_or_create_identity(tmp_path)
    (tmp_path / "private.pem").unlink()
    with pytest.raises(IdentityError, match=r"private\.pem"):
        load_or_create_identity(tmp_path)
    assert not (tmp_path / "private.pem").exists()


def _rsa() -> bytes:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()
    )


def _encrypted() -> bytes:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"x")
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "PKCS#8"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PKCS#8"),
        (os.urandom(200), "PKCS#8"),
        (_rsa(), "Ed25519"),
        (_encrypted(), "password"),
    ],
    ids=["empty", "cut", "garbage", "other kind", "encrypted"],
)
def test_unusable_private_key_is_named_and_kept(tmp_path: Path, content: bytes, says: str) -> None:
    """A private key that is damaged, of another kind or encrypted is an error in words, and stays as it is."""
    path = tmp_path / "private.pem"
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=says) as caught:
        load_or_create_identity(tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_unusable_public_key_is_named_and_kept(tmp_path: Path) -> None:
    """The same for the public key."""
    load_or_create_identity(tmp_path)
    (tmp_path / "public.pem").write_bytes(b"nonsense")
    with pytest.raises(IdentityError, match=r"public\.pem"):
        load_or_create_identity(tmp_path)
    assert (tmp_path / "public.pem").read_bytes() == b"nonsense"


def test_readable_private_key_is_made_private(tmp_path: Path) -> None:
    """A private key that others may read is tightened, and used."""
    made = load_or_create_identity(tmp_path)
    (tmp_path / "private.pem").chmod(0o644)
    assert load_or_create_identity(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "private.pem").stat().st_mode) == 0o600


def test_node_lock_is_exclusive_and_can_be_given_back(tmp_path: Path) -> None:
    """Of two holders only one gets the lock; released, the other does."""
    first, second = NodeLock(tmp_path), NodeLock(tmp_path)
    assert first.try_acquire()
    assert first.try_acquire()
    assert first.held
    assert not second.try_acquire()
    assert json.loads((tmp_path / "node.lock").read_text())["pid"] == os.getpid()
    first.release()
    first.release()
    assert not first.held
    assert second.try_acquire()
    second.release()


def test_node_lock_ends_with_its_process(tmp_path: Path) -> None:
    """A process that is killed leaves no lock behind."""
    code = (
        "import sys, time; from kachery_p2p.repo import NodeLock; lock = NodeLock(sys.argv[1]);"
        "print(lock.try_acquire(), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        lock = NodeLock(tmp_path)
        assert not lock.try_acquire()
        process.kill()
        process.wait()
        assert lock.try_acquire()
        lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_neither_has_nor_keeps_the_lock(tmp_path: Path) -> None:
    """A forked worker does not think it is the node, and does not keep the lock when its parent gives it up."""
    lock = NodeLock(tmp_path)
    assert lock.try_acquire()
    hold_read, hold_write = os.pipe()
    say_read, say_write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(hold_write)
            os.write(say_write, b"y" if lock.held else b"n")
            os.read(hold_read, 1)
            status = 0
        finally:
            os._exit(status)
    os.close(hold_read)
    assert os.read(say_read, 1) == b"n"
    assert not NodeLock(tmp_path).try_acquire(), "the child's start must not free the lock"
    # What the kernel does when the parent dies: its descriptor goes, without an unlock.
    assert lock._file is not None
    fd, lock._file.fd = lock._file.fd, -1
    os.close(fd)
    other = NodeLock(tmp_path)
    assert other.try_acquire()
    other.release()
    os.close(hold_write)
    assert os.waitpid(child, 0)[1] == 0
    os.close(say_read)
    os.close(say_write)
