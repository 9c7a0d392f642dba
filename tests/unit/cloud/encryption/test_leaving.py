"""What is not for everybody leaves encrypted: to pinning services, in CAR files, and by links."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud import audiences
from kachery_cloud.commands.main import find_command
from kachery_cloud.encryption.identities import group_identity, own_identity
from kachery_cloud.encryption.stanzas import X25519Identity
from kachery_cloud.local import outbox, repository
from kachery_cloud.node import connection
from kachery_cloud.settings.config import load_config
from tests.helpers.encryption_helpers import age, groups_of, needs_age, stored_bytes
from tests.unit.cloud.encryption.conftest import Go

CHUNK = 64 * 1024
SECRET = b"nobody else is to read this sentence"


@pytest.fixture(autouse=True)
def _alone(at: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """No node is started; what is to be pinned is written down all the same."""
    audiences._said.clear()
    services = {"lab": {"url": "http://127.0.0.1:5000"}}
    at("here").mkdir()
    (at("here") / "config.json").write_text(json.dumps({"pin_services": services}))
    monkeypatch.setattr("kachery_cloud.pinning._tell_node", lambda config: None)


@pytest.fixture
def member(at: Go) -> X25519Identity:
    """The key that a member of the group hippocampus has."""
    groups = groups_of(at("here"))
    return group_identity(groups.secrets_of(groups.create("hippocampus").group)[0])


def run(*line: object, data: str | None = None) -> Result:
    return CliRunner().invoke(find_command(str(line[0])), [str(each) for each in line[1:]], input=data)


def folder(tmp_path: Path) -> Path:
    top = tmp_path / "experiment"
    (top / "sub").mkdir(parents=True)
    (top / "a.txt").write_bytes(SECRET)
    (top / "sub" / "b.bin").write_bytes(SECRET * 4000)
    return top


def everything(directory: Path) -> bytes:
    """All bytes of the blocks of roots that everybody may see."""
    repo = repository(load_config())
    found = list(repo.all_multihashes())
    hidden = repo.access.audiences(found)
    return b"".join(repo.get_block(each) or b"" for each in found if each not in hidden)


# --- pinning ---------------------------------------------------------------------------------------------------------


def test_a_pinned_file_is_sealed(at: Go, member: X25519Identity, capsys: pytest.CaptureFixture[str]) -> None:
    """The service is given an encrypted copy, which is public; the file stays for those whom it is for."""
    uri = kcl.store_bytes(SECRET, to="hippocampus", local=True, pin="lab", label="s.txt")
    (entry,) = outbox(load_config()).list()
    sealed = f"ipfs://{entry.cid}?encryption=age"
    assert entry.cid != kcl.parse_uri(uri).cid
    assert entry.name == ""  # the service learns it
    told = capsys.readouterr().err
    assert "members of hippocampus (1) alone, so an encrypted copy goes to the pinning service" in told
    assert entry.cid in told
    access = repository(load_config()).access
    assert access.audience_of(kcl.parse_uri(sealed).root).everyone
    assert not access.audience_of(kcl.parse_uri(uri).root).everyone
    assert kcl.load_bytes(sealed, local_only=True) == SECRET
    assert SECRET not in everything(at("here"))
    cipher = stored_bytes(sealed)
    for identity in (member, own_identity(load_config())):
        from tests.unit.cloud.encryption.test_storing import _decrypt

        assert _decrypt(cipher, identity) == [SECRET]


def test_pinning_again_takes_the_same_copy(at: Go, member: X25519Identity) -> None:
    """By its own URI it is found, waited for and unpinned; a second service gets the copy that is there."""
    uri = kcl.store_bytes(SECRET, to="hippocampus", local=True)
    (first,) = kcl.pin(uri, "lab")
    (again,) = kcl.pin(uri, "lab")
    assert first["cid"] == again["cid"] != kcl.parse_uri(uri).cid
    assert [each["cid"] for each in kcl.pins(uri)] == [first["cid"]]
    (gone,) = kcl.unpin(uri)
    assert (gone["cid"], gone["state"]) == (first["cid"], "removed")
    kcl.remove(f"ipfs://{first['cid']}", force=True)
    (anew,) = kcl.pin(uri, "lab")
    assert anew["cid"] != first["cid"]


def test_a_pinned_folder_is_sealed(
    tmp_path: Path, at: Go, member: X25519Identity, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file by itself, in a folder of the same shape; that its names can be read is said."""
    uri = kcl.store_dir(folder(tmp_path), to="hippocampus", local=True)
    (row,) = kcl.pin(uri, "lab")
    assert "The names of the files in it can be read by anybody." in capsys.readouterr().err
    sealed = row["uri"] + "?encryption=age"
    assert kcl.load_bytes(kcl.join(sealed, "sub/b.bin"), 0, 7, local_only=True) == SECRET[:7]
    copy = kcl.load_dir(sealed, tmp_path / "copy", local_only=True)
    assert Path(copy, "a.txt").read_bytes() == SECRET
    assert SECRET not in everything(at("here"))
    assert kcl.parse_uri(uri).cid != row["cid"]


def test_what_is_public_is_pinned_as_it_is(at: Go) -> None:
    """No copy, no key."""
    uri = kcl.store_bytes(SECRET, local=True, pin="lab")
    assert [each.cid for each in outbox(load_config()).list()] == [kcl.parse_uri(uri).cid]
    assert not (at("here") / "age.key").exists()


def test_what_is_encrypted_already_is_not_encrypted_again(
    at: Go, member: X25519Identity, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cipher text becomes public, and that is said."""
    uri = kcl.store_bytes(SECRET, to="hippocampus", encrypt=True, local=True)
    (row,) = kcl.pin(uri, "lab")
    assert row["cid"] == kcl.parse_uri(uri).cid
    assert "anybody can load its cipher text now" in capsys.readouterr().err
    assert repository(load_config()).access.audience_of(kcl.parse_uri(uri).root).everyone


# --- CAR files -------------------------------------------------------------------------------------------------------


def test_a_restricted_root_does_not_go_into_a_car_file_by_itself(
    tmp_path: Path, at: Go, member: X25519Identity
) -> None:
    """Neither alone nor among public ones; with a word, encrypted or as it is."""
    mine = kcl.store_bytes(SECRET, to="private", local=True)
    theirs = kcl.store_dir(folder(tmp_path), to="hippocampus", local=True)
    public = kcl.store_bytes(b"for all", local=True)
    car = tmp_path / "out.car"
    for uris in ([mine], [public, mine], [theirs, public]):
        with pytest.raises(kcl.NoPermission, match=r"--encrypt.*--plain"):
            kcl.export_car(uris, car, local_only=True)
        assert not car.exists()
    done = run("export", mine, car)
    assert done.exit_code == 5
    with pytest.raises(kcl.InvalidArgument, match="opposites"):
        kcl.export_car(mine, car, plain=True, encrypt=True)
    made = kcl.export_car([public, mine, theirs], car, encrypt=True, local_only=True)
    assert SECRET not in car.read_bytes()
    assert b"for all" not in car.read_bytes()
    assert all(each.endswith("?encryption=age") for each in made.uris)
    assert [kcl.load_bytes(each, local_only=True) for each in made.uris[:2]] == [b"for all", SECRET]
    again = json.loads(run("export", public, mine, theirs, tmp_path / "again.car", "--encrypt", "--json").stdout)
    assert tuple(again["uris"]) == made.uris
    assert (tmp_path / "again.car").read_bytes() == car.read_bytes()
    kcl.export_car(mine, tmp_path / "plain.car", plain=True, local_only=True)
    assert SECRET in (tmp_path / "plain.car").read_bytes()


# --- links -----------------------------------------------------------------------------------------------------------


def string_of(uri: str, *options: str) -> str:
    done = run("share", uri, *options)
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("was_encrypted", [False, True])
def test_a_link_with_its_key(tmp_path: Path, at: Go, was_encrypted: bool) -> None:
    """Whoever has the string, and no key, loads it; without what follows the # it is cipher text."""
    top = folder(tmp_path)
    uris = [
        kcl.store_file(top / "a.txt", encrypt=was_encrypted, local=True),
        kcl.store_dir(top, encrypt=was_encrypted, local=True),
    ]
    option = "--with-key" if was_encrypted else "--encrypt"
    strings = [string_of(uri, option) for uri in uris]
    assert strings == [string_of(uri, option) for uri in uris]  # the same copy, and the same key
    (at("here") / "age.key").unlink()
    for string in strings:
        bare, _, key = string.partition("#key=")
        assert key.startswith("AGE-SECRET-KEY-1")
        assert key not in repr(kcl.parse_uri(string)) + str(kcl.parse_uri(string)) + kcl.parse_uri(string).pasteable
        with pytest.raises(kcl.NoDecryptionKey):
            kcl.load_dir(bare, tmp_path / "never", local_only=True) if string is strings[1] else kcl.load_bytes(
                bare, local_only=True
            )
    assert kcl.load_bytes(strings[0], local_only=True) == SECRET
    copy = kcl.load_dir(strings[1], tmp_path / "copy", local_only=True)
    assert Path(copy, "sub", "b.bin").read_bytes() == SECRET * 4000
    assert kcl.load_bytes(kcl.join(strings[1], "a.txt"), local_only=True) == SECRET
    done = run("load", strings[0], "--local-only", "--json")
    assert done.exit_code == 0
    assert "AGE-SECRET-KEY" not in done.output
    assert run("get", strings[0], "--dest", tmp_path / "got", "--local-only").exit_code == 0
    assert (tmp_path / "got").read_bytes() == SECRET


@needs_age
def test_the_key_of_a_link_is_one_of_ages(tmp_path: Path, at: Go) -> None:
    """`age -d -i` takes it."""
    string = string_of(kcl.store_bytes(SECRET, local=True), "--encrypt")
    (tmp_path / "key").write_text(string.partition("#key=")[2] + "\n")
    assert age("-d", "-i", tmp_path / "key", data=stored_bytes(string)) == SECRET


def test_what_a_link_cannot_have(at: Go, member: X25519Identity) -> None:
    """A key of what is not encrypted, one that no key here opens, two at once."""
    plain = kcl.store_bytes(SECRET, local=True)
    cipher = kcl.store_bytes(SECRET, encrypt=True, local=True)
    assert run("share", plain, "--with-key").exit_code == 2
    assert run("share", cipher, "--encrypt").exit_code == 2
    (at("here") / "age.key").unlink()
    done = run("share", cipher, "--with-key")
    assert done.exit_code == 5
    assert "no key that opens it is here" in done.stderr


KEY = X25519Identity(bytes(32)).text
CID = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@pytest.mark.parametrize(
    "line",
    [
        ("load", f"ipfs://{CID}#key={KEY}", "--local-only"),
        ("load", f"ipfs://{CID}#key={KEY[:-1]}", "--local-only"),
        ("load", f"ipfs://{CID}#{KEY}", "--local-only"),
        ("load", f"http://{CID}#key={KEY}", "--local-only"),
        ("load", f"ipfs://{CID}?x=y#key={KEY}"),
        ("load", f"ipfs://{CID}?label={KEY}&x=y"),
        ("cat", f"ipfs://{CID}#key={KEY}", "--local-only"),
        ("get", f"ipfs://{CID}#key={KEY}", "--local-only"),
        ("info", f"ipfs://{CID}#key={KEY}", "--local-only"),
        ("ls", f"ipfs://{CID}#key={KEY}", "--local-only"),
        ("rm", f"ipfs://{CID}#key={KEY}"),
        ("pins", "add", f"ipfs://{CID}#key={KEY}"),
        ("share", f"ipfs://{CID}#key={KEY}"),
        ("export", f"ipfs://{CID}#key={KEY}", "x.car", "--local-only"),
        ("store", "--encrypt-to", KEY, "/etc/hostname"),
        ("load", f"ipns://{CID}#key={KEY}", "--local-only"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_error_repeats_a_key(line: tuple[str, ...], as_json: bool) -> None:
    """Whatever is wrong with the rest of it, or with the key itself."""
    done = run(*line, *(["--json"] if as_json and line[0] != "cat" else []))
    assert done.exit_code not in (0, 1), done.output
    assert KEY[20:40] not in done.output


# --- commands --------------------------------------------------------------------------------------------------------


def test_store_and_load_commands(tmp_path: Path, at: Go) -> None:
    """--encrypt, --encrypt-to and --passphrase; the key command says whom to name."""
    (tmp_path / "a.txt").write_bytes(SECRET)
    colleague = X25519Identity.new()
    key = run("key")
    assert key.stdout.strip() == own_identity(load_config()).recipient
    assert json.loads(run("key", "--json").stdout)["file"] == str(at("here") / "age.key")
    one = run("store", tmp_path / "a.txt", "--encrypt").stdout.strip()
    assert one.startswith("ipfs://encryption=age@")
    assert Path(run("load", one, "--local-only").stdout.strip()).read_bytes() == SECRET
    two = json.loads(run("store", tmp_path / "a.txt", "--encrypt-to", colleague.recipient, "--json").stdout)["uri"]
    (at("here") / "age.key").unlink()
    assert kcl.load_bytes(f"{two}#key={colleague.text}", local_only=True) == SECRET
    assert run("link", tmp_path / "a.txt", "--encrypt").exit_code == 2
    assert run("store", tmp_path / "a.txt", "--passphrase", "--encrypt-to", colleague.recipient).exit_code == 2
    done = run("store", tmp_path / "a.txt", "--passphrase")
    assert done.exit_code == 2
    assert "KACHERY_CLOUD_PASSPHRASE_FILE" in done.stderr
    os.environ["KACHERY_CLOUD_PASSPHRASE"] = "open sesame"
    three = run("store", tmp_path / "a.txt", "--passphrase").stdout.strip()
    assert kcl.load_bytes(three, local_only=True) == SECRET
    del os.environ["KACHERY_CLOUD_PASSPHRASE"]
    assert run("load", three, "--local-only").exit_code == 5
    assert connection is not None


def test_the_terminal_asks_twice(monkeypatch: pytest.MonkeyPatch, at: Go) -> None:
    """And stores nothing where the two differ, or nothing was typed."""
    from kachery_cloud.encryption import identities

    class Terminal:
        def isatty(self) -> bool:
            return True

    typed: list[str] = []
    monkeypatch.setattr(identities.sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: typed.pop(0))
    typed[:] = ["one", "one"]
    assert identities.ask_passphrase("Passphrase", twice=True) == "one"
    for wrong in (["one", "two"], ["", ""]):
        typed[:] = wrong
        with pytest.raises(kcl.InvalidArgument):
            identities.ask_passphrase("Passphrase", twice=True)
