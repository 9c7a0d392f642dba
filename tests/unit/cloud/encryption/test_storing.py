"""Storing and loading with encryption: files, values, folders; by the right keys, and by nobody else."""

from __future__ import annotations

import io
import os
import pickle
import stat
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_cloud as kcl
from kachery_cloud.encryption.identities import group_identity, own_identity
from kachery_cloud.encryption.plain import PlainCopies
from kachery_cloud.encryption.stanzas import X25519Identity
from kachery_cloud.local import repository
from kachery_cloud.settings.config import load_config
from tests.helpers.encryption_helpers import age, bring, encrypted_bytes, groups_of, needs_age, stored_bytes
from tests.unit.cloud.encryption.conftest import Go

CHUNK = 64 * 1024


def source(tmp_path: Path, size: int = 3 * CHUNK + 7) -> Path:
    path = tmp_path / "session.nwb"
    path.write_bytes(os.urandom(size))
    return path


def test_a_file_there_and_back(tmp_path: Path, at: Go) -> None:
    """The URI says that it is encrypted; what is stored is no plain text; what is loaded is."""
    path = source(tmp_path)
    uri = kcl.store_file(path, encrypt=True, local=True, label="session.nwb")
    assert uri.endswith("?label=session.nwb&encryption=age")
    assert path.read_bytes()[:64] not in stored_bytes(uri)
    loaded = Path(kcl.load_file(uri, local_only=True))
    assert loaded.name == "session.nwb"
    assert loaded.read_bytes() == path.read_bytes()
    assert stat.S_IMODE(loaded.stat().st_mode) == 0o400
    assert stat.S_IMODE(loaded.parent.stat().st_mode) & 0o077 == 0
    assert kcl.load_bytes(uri, CHUNK - 3, CHUNK + 3, local_only=True) == path.read_bytes()[CHUNK - 3 : CHUNK + 3]
    assert kcl.load_bytes(uri, -5, local_only=True) == path.read_bytes()[-5:]
    out = io.BytesIO()
    kcl.cat_file(uri, out, local_only=True)
    assert out.getvalue() == path.read_bytes()
    assert kcl.store_file(path, encrypt=True, local=True) != uri  # another key each time


def test_without_the_parameter_it_is_what_it_is(tmp_path: Path, at: Go) -> None:
    """A user's own age file, stored as any other, is loaded as it is; so is the cipher text of ours."""
    own = kcl.store_bytes(b"age-encryption.org/v1\nwhatever", local=True)
    assert kcl.load_bytes(own, local_only=True) == b"age-encryption.org/v1\nwhatever"
    uri = kcl.store_text("secret", encrypt=True, local=True)
    bare = f"ipfs://{kcl.parse_uri(uri).cid}"
    assert kcl.load_bytes(bare, local_only=True).startswith(b"age-encryption.org/v1\n")
    with pytest.raises(kcl.EncryptionError, match="damaged"):
        kcl.load_text(f"{own}?encryption=age", local_only=True)
    plain = kcl.store_text("plain", local=True)
    with pytest.raises(kcl.EncryptionError, match="no age file"):
        kcl.load_text(f"{plain}?encryption=age", local_only=True)


def test_values(at: Go) -> None:
    """Text, JSON, arrays, pickles and bytes: as without encryption."""
    array = np.arange(70_000, dtype=np.int32)
    assert kcl.load_text(kcl.store_text("ä", encrypt=True, local=True), local_only=True) == "ä"
    assert kcl.load_json(kcl.store_json({"a": [1]}, encrypt=True, local=True), local_only=True) == {"a": [1]}
    uri = kcl.store_npy(array, encrypt=True, local=True)
    assert (kcl.load_npy(uri, local_only=True) == array).all()
    assert (kcl.load_npy(uri, mmap_mode="r", local_only=True) == array).all()
    with kcl.open_npy(uri, local_only=True) as file:
        assert file[69_999] == 69_999
    assert kcl.load_pkl(kcl.store_pkl({1: "x"}, encrypt=True, local=True), local_only=True) == {1: "x"}
    uri = kcl.store_file(io.BytesIO(b"of a stream"), encrypt=True, local=True)
    assert kcl.load_bytes(uri, local_only=True) == b"of a stream"
    assert kcl.load_bytes(kcl.store_bytes(b"", encrypt=True, local=True), local_only=True) == b""


def test_a_large_value_leaves_no_plain_text(at: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through a file without a name."""
    from kachery_cloud.encryption import storing

    temporary = at("here") / "tmp"
    seen: list[list[str]] = []
    real = storing.encrypt

    def watched(file: Any, *more: Any) -> None:
        assert os.fstat(file.fileno()).st_nlink == 0
        seen.append(os.listdir(temporary))
        real(file, *more)

    monkeypatch.setattr(storing, "encrypt", watched)
    value = np.zeros(3_000_000)
    uri = kcl.store_npy(value, encrypt=True, local=True)
    assert seen == [[]]
    assert os.listdir(temporary) == []
    assert (kcl.load_npy(uri, local_only=True) == value).all()


def test_a_folder(tmp_path: Path, at: Go) -> None:
    """Its names can be read and its files one by one; load_dir gives it back, and brings a copy up to date."""
    top = tmp_path / "experiment"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / ".kacheryignore").write_text("*.tmp\n")
    (top / "left.tmp").write_text("left out")
    (top / "a.txt").write_text("first")
    (top / "sub" / "b.bin").write_bytes(bytes(2 * CHUNK))
    (top / "link").symlink_to("a.txt")
    os.utime(top / "a.txt", (1_000_000_000, 1_000_000_000))
    uri = kcl.store_dir(top, encrypt=True, preserve=True, local=True)
    assert [each["name"] for each in kcl.list_dir(uri, local_only=True)] == [".kacheryignore", "a.txt", "link", "sub"]
    assert kcl.load_text(kcl.join(uri, "a.txt"), local_only=True) == "first"
    assert kcl.load_text(kcl.list_dir(uri, local_only=True)[1]["uri"], local_only=True) == "first"
    assert kcl.load_bytes(kcl.join(uri, "sub/b.bin"), 5, 8, local_only=True) == bytes(3)
    copy = kcl.load_dir(uri, tmp_path / "copy", local_only=True)
    assert Path(copy, "a.txt").read_text() == "first"
    assert Path(copy, "a.txt").stat().st_mtime == 1_000_000_000
    assert Path(copy, "sub", "b.bin").read_bytes() == bytes(2 * CHUNK)
    assert os.readlink(Path(copy, "link")) == "a.txt"
    assert Path(copy, "sub", "empty").is_dir()
    Path(copy, "a.txt").write_text("FIRST")
    again = kcl.load_dir(uri, copy, local_only=True)
    assert again.written == 1
    assert Path(copy, "a.txt").read_text() == "first"
    assert kcl.load_dir(uri, copy, local_only=True).written == 0
    assert [each.label for each in kcl.list()] == ["experiment"]
    assert kcl.list()[0].uri.endswith("encryption=age")
    assert not list(at("here").glob(".encrypting*"))


def test_what_is_linked_cannot_be_encrypted(tmp_path: Path, at: Go) -> None:
    """Says so before anything is done, and what does it."""
    path = source(tmp_path)
    with pytest.raises(kcl.InvalidArgument, match="linked file is served from where it lies"):
        kcl.link_file(path, encrypt=True, local=True)
    with pytest.raises(kcl.InvalidArgument, match="linked"):
        kcl.store_dir(tmp_path / "x", link=True, encrypt=True, local=True) if (tmp_path / "x").mkdir() is None else None
    assert not kcl.list()


# --- keys ------------------------------------------------------------------------------------------------------------


def test_this_machines_key(at: Go) -> None:
    """Made once, for this user alone, as age-keygen writes it; a damaged one is an error and not replaced."""
    config = load_config()
    first = own_identity(config)
    path = at("here") / "age.key"
    assert own_identity(config) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.text in path.read_text().splitlines()
    path.chmod(0o644)
    assert own_identity(config) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("AGE-SECRET-KEY-1BROKEN")
    with pytest.raises(kcl.ConfigError) as caught:
        own_identity(config)
    assert "BROKEN" not in str(caught.value)


def test_two_that_make_the_key_at_once(at: Go) -> None:
    """Both get the same."""
    import threading

    config, found = load_config(), []
    threads = [threading.Thread(target=lambda: found.append(own_identity(config))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.secret for each in found}) == 1
    assert len(found) == 8


def test_others_need_a_key(tmp_path: Path, at: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the error says which kinds would do; with a file of keys it is loaded."""
    colleague = X25519Identity.new()
    uri = kcl.store_text("secret", encrypt=colleague.recipient, local=True)
    bring(tmp_path / "here", tmp_path / "there", uri)
    at("there")
    with pytest.raises(kcl.NoDecryptionKey, match=r"2 of age keys.*kachery-cloud key prints") as caught:
        kcl.load_text(uri, local_only=True)
    assert caught.value.exit_code == 5
    keys = tmp_path / "keys.txt"
    keys.write_text(f"# mine\n\n{colleague.text}\n")
    monkeypatch.setenv("KACHERY_CLOUD_IDENTITY", str(keys))
    assert kcl.load_text(uri, local_only=True) == "secret"
    keys.write_text("nothing of use: SECRET")
    with pytest.raises(kcl.ConfigError) as broken:
        kcl.load_text(uri, local_only=True)
    assert "SECRET" not in str(broken.value).replace("AGE-SECRET-KEY", "")


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys(tmp_path: Path, at: Go, kind: str) -> None:
    """The key of a colleague's ssh opens it, from where it lies."""
    ssh = tmp_path / "home" / ".ssh"
    ssh.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", ssh / f"id_{kind}"], check=True)
    public = (ssh / f"id_{kind}.pub").read_text()
    uri = kcl.store_text("secret", encrypt=public, local=True)
    bring(tmp_path / "here", tmp_path / "there", uri)
    at("there")
    assert kcl.load_text(uri, local_only=True) == "secret"
    (ssh / f"id_{kind}").unlink()
    with pytest.raises(kcl.NoDecryptionKey, match=f"1 of ssh-{kind} keys"):
        kcl.load_text(uri, local_only=True)


def test_passphrases(tmp_path: Path, at: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, or the first line of a file; a wrong one opens nothing."""
    uri = kcl.store_text("secret", encrypt=kcl.Passphrase("tr0ub4dor"), local=True)
    assert "tr0ub4dor" not in repr(kcl.Passphrase("tr0ub4dor"))
    with pytest.raises(kcl.NoDecryptionKey, match="KACHERY_CLOUD_PASSPHRASE_FILE"):
        kcl.load_text(uri, local_only=True)
    monkeypatch.setenv("KACHERY_CLOUD_PASSPHRASE", "wrong")
    with pytest.raises(kcl.NoDecryptionKey, match="does not open it"):
        kcl.load_text(uri, local_only=True)
    monkeypatch.setenv("KACHERY_CLOUD_PASSPHRASE", "tr0ub4dor")
    assert kcl.load_text(uri, local_only=True) == "secret"
    monkeypatch.delenv("KACHERY_CLOUD_PASSPHRASE")
    (tmp_path / "word").write_text("tr0ub4dor\r\nsomething else\n")
    monkeypatch.setenv("KACHERY_CLOUD_PASSPHRASE_FILE", str(tmp_path / "word"))
    assert kcl.load_text(uri, local_only=True) == "secret"


def test_groups(tmp_path: Path, at: Go) -> None:
    """Every member's machine opens it by the group's secret; one that was removed opens nothing that comes later."""
    here = at("here")
    groups = groups_of(here)
    group = groups.create("hippocampus").group
    secret = groups.secrets_of(group)[0]
    uri = kcl.store_text("secret", encrypt=True, to="hippocampus", local=True)
    assert f"group={group}" in uri
    member = group_identity(secret)
    assert b"".join(_decrypt(stored_bytes(uri), member)) == b"secret"
    (here / "age.key").unlink()  # the own key is not needed
    assert kcl.load_text(uri, local_only=True) == "secret"
    groups.reload()
    peer = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf"
    assert _rotated(groups, group, peer) != secret
    later = kcl.store_text("later", encrypt=True, to="hippocampus", local=True)
    with pytest.raises(AssertionError, match="no key"):
        _decrypt(stored_bytes(later), member)
    (here / "age.key").unlink()
    assert kcl.load_text(later, local_only=True) == "later"
    assert kcl.load_text(uri, local_only=True) == "secret"  # what was stored before is read with the older secret


def _decrypt(cipher: bytes, identity: X25519Identity) -> list[bytes]:
    from kachery_cloud.encryption.header import Header
    from kachery_cloud.encryption.reading import decrypted, open_file

    class Ring:
        def file_key(self, header: Header, name: str) -> bytes:
            found = [key for each in header.stanzas if (key := identity.unwrap(each)) is not None]
            assert found, "no key"
            return found[0]

    return list(decrypted(open_file(io.BytesIO(cipher), Ring(), "it"), "it"))


def _rotated(groups: Any, group: str, peer: str) -> bytes:
    """The secret after a member was removed."""
    from kachery_p2p.membership import edits

    with groups._changing(group) as held:
        state = edits.add(held.state, groups.keys, peer, edits.Role.READER)
        groups._write(state, held.kept)
    groups.reload()
    groups.remove(group, peer)
    return groups.secrets_of(group)[0]


@pytest.mark.parametrize(
    ("encrypt", "says"),
    [
        ("age1qqqq", "no recipient that age knows"),
        ("ssh-dss AAAA", "no recipient"),
        ("AGE-SECRET-KEY-1QQQQ", "a public one"),
        ("no-such-file.txt", "neither a recipient nor a file"),
        ([], "names nobody"),
        ([5, "age1qqqq"], "it must be True, a recipient"),
        (5, "it must be True, a recipient"),
        (b"age1", "it must be True, a recipient"),
        (kcl.Passphrase(""), "empty"),
    ],
)
def test_whom_it_cannot_be_for(at: Go, encrypt: Any, says: str) -> None:
    """Said before anything is stored, or a key is made."""
    with pytest.raises(kcl.KacheryError, match=says):
        kcl.store_text("secret", encrypt=encrypt, local=True)
    assert not (at("here") / "age.key").exists()


def test_a_file_of_recipients(tmp_path: Path, at: Go) -> None:
    """With comments; a line that is none is named by its number, and a secret key in it is not repeated."""
    one, two = X25519Identity.new(), X25519Identity.new()
    (tmp_path / "lab.txt").write_text(f"# lab\n{one.recipient}\n\n  {two.recipient}\n")
    uri = kcl.store_text("secret", encrypt=tmp_path / "lab.txt", local=True)
    assert _decrypt(stored_bytes(uri), one) == _decrypt(stored_bytes(uri), two) == [b"secret"]
    (tmp_path / "lab.txt").write_text(f"{one.recipient}\n{two.text}\n")
    with pytest.raises(kcl.InvalidArgument, match="line 2 of") as caught:
        kcl.store_text("secret", encrypt=str(tmp_path / "lab.txt"), local=True)
    assert two.text not in str(caught.value)


# --- the real age ----------------------------------------------------------------------------------------------------


@needs_age
def test_age_opens_what_was_stored(tmp_path: Path, at: Go) -> None:
    """With this machine's key file, whatever the size."""
    for size in (0, 1, CHUNK, 2 * CHUNK + 1):
        path = source(tmp_path, size)
        uri = kcl.store_file(path, encrypt=True, local=True)
        assert age("-d", "-i", at("here") / "age.key", data=stored_bytes(uri)) == path.read_bytes()


@needs_age
def test_what_age_wrote_is_loaded(tmp_path: Path, at: Go) -> None:
    """Stored as it is, and loaded with the parameter."""
    recipient = own_identity(load_config()).recipient
    for size in (0, 1, CHUNK, 2 * CHUNK + 1):
        data = os.urandom(size)
        uri = kcl.store_bytes(age("-r", recipient, data=data), local=True) + "?encryption=age"
        assert kcl.load_bytes(uri, local_only=True) == data
        assert kcl.load_file_info(uri, local_only=True)["size"] == size


# --- plain copies ----------------------------------------------------------------------------------------------------


def test_a_copy_elsewhere_is_the_only_one(tmp_path: Path, at: Go) -> None:
    """`dest` gets the plain bytes, the data directory none; what is in the way is told as without encryption."""
    path = source(tmp_path)
    uri = kcl.store_file(path, encrypt=True, local=True)
    dest = tmp_path / "copy.nwb"
    assert kcl.load_file(uri, dest=dest, local_only=True) == str(dest)
    assert dest.read_bytes() == path.read_bytes()
    assert not list(PlainCopies(repository(load_config())).all())
    assert kcl.load_file(uri, dest=dest, overwrite=False, local_only=True) == str(dest)  # the same bytes
    dest.write_bytes(b"mine")
    with pytest.raises(kcl.FileExists):
        kcl.load_file(uri, dest=dest, overwrite=False, local_only=True)
    assert dest.read_bytes() == b"mine"
    assert kcl.load_file(uri, dest=dest, local_only=True)
    assert dest.read_bytes() == path.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy.nwb", "here", "session.nwb"]


def test_plain_copies_are_found_counted_and_removed(tmp_path: Path, at: Go) -> None:
    """The second load needs no key; `du` counts them; `rm` and `gc` take them away."""
    path = source(tmp_path)
    first, second = (kcl.store_file(path, encrypt=True, local=True) for _ in "ab")
    loaded = kcl.load_file(first, local_only=True)
    kcl.load_file(second, local_only=True)
    (at("here") / "age.key").rename(tmp_path / "away.key")
    assert kcl.load_file(first, local_only=True) == loaded
    (row,) = [row for row in kcl.du() if row.what == "plain"]
    assert (row.files, row.bytes, row.here) == (2, 2 * path.stat().st_size, True)
    before = path.stat().st_size
    freed = kcl.remove(first, force=True).freed
    assert freed >= before + path.stat().st_size
    assert not os.path.exists(loaded)
    done = kcl.gc(0, force=True, dry_run=True)
    assert done.before - done.after >= path.stat().st_size
    assert len(list(PlainCopies(repository(load_config())).all())) == 1
    total = kcl.gc(10**9)
    assert total.reached
    assert len(list(PlainCopies(repository(load_config())).all())) == 1  # there is room for it
    kcl.gc(path.stat().st_size + 1000)
    assert not list(PlainCopies(repository(load_config())).all())
    with pytest.raises(kcl.NoDecryptionKey):
        kcl.load_file(second, local_only=True)


def test_a_kill_while_it_decrypts_leaves_no_half_file(tmp_path: Path, at: Go) -> None:
    """The next load begins anew, and what the killed one left is gone."""
    import sys

    path = source(tmp_path, 40 * CHUNK)
    uri = kcl.store_file(path, encrypt=True, local=True)
    code = (
        "import os, signal, sys\n"
        "from kachery_cloud import encrypted_request as loading\n"
        "import kachery_cloud as kcl\n"
        "real = loading.decrypted\n"
        "def half(reader, name):\n"
        "    yield next(iter(real(reader, name)))[:100_000]\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "loading.decrypted = half\n"
        "kcl.load_file(sys.argv[1], local_only=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, uri], check=False, capture_output=True, env=dict(os.environ))
    assert done.returncode == -9, done.stderr
    plain = at("here") / "plain"
    assert [each for each in plain.rglob("*") if each.name == "new"]  # it was in the middle
    assert not list(PlainCopies(repository(load_config())).all())
    assert Path(kcl.load_file(uri, local_only=True)).read_bytes() == path.read_bytes()
    assert not [each for each in plain.rglob("*") if each.name == "new"]


def test_a_damaged_file_gives_nothing(tmp_path: Path, at: Go) -> None:
    """Not even the chunks before the one that was changed: no copy appears, at no place."""
    from kachery_cloud.encryption.recipients import Recipients

    recipient = own_identity(load_config()).recipient
    cipher = bytearray(encrypted_bytes(os.urandom(20 * CHUNK), Recipients((recipient,))))
    cipher[-6 * CHUNK] ^= 1
    uri = kcl.store_bytes(bytes(cipher), local=True) + "?encryption=age"
    with pytest.raises(kcl.EncryptionError, match=f"{kcl.parse_uri(uri).cid}: Chunk 14 of"):
        kcl.load_file(uri, local_only=True)
    with pytest.raises(kcl.EncryptionError):
        kcl.load_file(uri, dest=tmp_path / "copy", local_only=True)
    assert [each.name for each in tmp_path.iterdir()] == ["here"]
    assert not list(PlainCopies(repository(load_config())).all())
    assert len(kcl.load_bytes(uri, 0, CHUNK, local_only=True)) == CHUNK


def test_interrupted_while_it_is_stored(tmp_path: Path, at: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves nothing behind, of a file or a folder."""
    from kachery_cloud.encryption import storing

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "folder").mkdir()
    path = source(tmp_path / "folder", 30 * CHUNK)
    kcl.store_text("something", local=True)
    real = storing.encrypt
    monkeypatch.setattr(storing, "encrypt", lambda file, out, who, read=None: real(Late(file), out, who, read))
    for store in (lambda: kcl.store_file(path, encrypt=True), lambda: kcl.store_dir(path.parent, encrypt=True)):
        with pytest.raises(KeyboardInterrupt):
            store()
    assert [each.size for each in kcl.list()] == [9]
    assert os.listdir(at("here") / "tmp") == []
    assert not list(at("here").glob(".*.part"))


class Late:
    """Gives a MiB, and is then interrupted."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self.file.read(size)
        self.given += len(data)
        if self.given > 1 << 20:
            raise KeyboardInterrupt
        return data


def test_opened_files_are_pickled_with_the_key_of_a_link(tmp_path: Path, at: Go) -> None:
    """Another process reads on; the URI that is shown has no key."""
    link = X25519Identity.new()
    uri = kcl.store_bytes(bytes(range(200)), encrypt=link.recipient, local=True) + f"#key={link.text}"
    (at("here") / "age.key").unlink()
    with kcl.open(uri, local_only=True) as file:
        assert link.text not in repr(file) + file.uri
        file.seek(10)
        again = pickle.loads(pickle.dumps(file))
        assert again.read(3) == bytes([10, 11, 12])
        again.close()
