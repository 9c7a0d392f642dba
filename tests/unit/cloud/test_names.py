"""Names that strangers chose, and the files of the user: nothing is replaced that the user did not name."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import kachery_cloud as kcl
from kachery_cloud import placing
from kachery_cloud.commands import main as cli
from kachery_cloud.errors import FileExists, InvalidName, NotAFile
from kachery_cloud.local import close_repositories, repository
from kachery_cloud.uri import ContentURI
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.directory import DirectoryBuilder, symlink_block
from kachery_p2p.dag.names import outside_name, safe_name
from kachery_p2p.dag.profiles import profile
from kachery_p2p.repo.repo import Repo

# Names that mean something to a shell, a terminal or a system, and not only to this one.
REFUSED = [
    ".bashrc", ".", "..", "...", "-rf", "--help", "~", "~root",
    "a/b", "/etc/passwd", "../../evil", "a\\b", "..\\evil", "C:x", "a:stream",
    "CON", "con.txt", "NUL", "nul.tar.gz", "COM1", "com¹.csv", "LPT9", "aux", "PRN.md", "CONIN$",
    "a.", "a ", " a", "\u3000a", "a?", "a*", "a<b", "a|b", 'a"b',
    "a\x00b", "a\nb", "\x1b[2J", "a\tb", "\x7f", "\x9b2J", "a\u202egnp.exe", "a\u2066b", "a\u200eb", "a\u2028b",
    "\ufeffa", "\udcff", "x" * 256, "é" * 128,
]  # fmt: skip
TAKEN = [
    "session.nwb",
    "a b.txt",
    "Mäuse 12.csv",
    "データ？.txt",
    "a-b",
    "a.b.c",
    "console",
    "com10",
    "_x",
    "#1",
    "x" * 255,
]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    yield tmp_path / "data"
    close_repositories()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments])


# --- which names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_a_stranger_chooses_no_name_that_means_something(name: str, home: Path) -> None:
    """Into a folder of the user's: refused on every system, as the label and as the end of a path; nothing is written,
    and the error can be printed and says what to give instead."""
    with pytest.raises(InvalidName):
        outside_name(name)
    cid = kcl.store_text("evil", local=True).removeprefix("ipfs://")
    for uri in (ContentURI(cid, label=name), ContentURI(cid, path=(name,))):
        with pytest.raises(InvalidName, match="--dest FOLDER/NAME") as caught:
            _ = uri.file_name
        assert str(caught.value).isprintable()
    if name.isascii() and "\0" not in name:
        with pytest.raises(InvalidName):
            kcl.load_file(str(ContentURI(cid, label=name)), dest=home)
        result = run("load", str(ContentURI(cid, label=name)), "--dest", f"{home}/", "--force")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--dest FOLDER/NAME" in result.stderr
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", TAKEN)
def test_plain_names_are_taken_as_they_are(name: str, home: Path) -> None:
    """What is a name and nothing else on every system names the copy."""
    assert outside_name(name) == name
    uri = kcl.store_text("x", local=True, label=name)
    assert kcl.load_file(uri, dest=home) == str(home / name)
    assert kcl.load_text(uri) == (home / name).read_text() == "x"


@given(st.text(max_size=300))
def test_what_passes_is_one_visible_name_on_every_system(name: str) -> None:
    """Whatever the text: a name that is taken is taken by the rules of Windows, too, and prints as it is."""
    error = ""
    try:
        assert outside_name(name) == name
    except InvalidName as why:
        error = str(why)
    assert error.isprintable()
    if not error:
        assert safe_name(name, windows=True) == safe_name(name, windows=False) == name
        assert name[0] not in ".-~"
        assert os.path.basename(name) == name


# --- nothing is replaced -------------------------------------------------------------------------------------------


def test_a_name_from_the_uri_replaces_nothing(home: Path) -> None:
    """A file of that name stays, whatever the call says; the same bytes there are success."""
    mine = home / "session.nwb"
    mine.write_text("mine")
    uri = kcl.store_text("theirs", local=True, label="session.nwb")
    with pytest.raises(FileExists, match="exists already") as caught:
        kcl.load_file(uri, dest=home, overwrite=True)
    assert (caught.value.errno, isinstance(caught.value, FileExistsError)) == (errno.EEXIST, True)
    for options in ((), ("--force",)):
        result = run("load", uri, "--dest", "~/", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--force" in result.stderr
    assert mine.read_text() == "mine"
    mine.write_text("theirs")
    before = mine.stat()
    assert kcl.load_file(uri, dest=home) == str(mine)
    assert run("load", uri, "--dest", "~/").output == f"{mine}\n"
    assert mine.stat() == before
    assert [path.name for path in home.iterdir()] == ["session.nwb"]


def test_what_a_copy_in_a_folder_is_called(home: Path) -> None:
    """As the URI says; else as it is listed here, where that is a plain name; else its CID, which is said together with
    how to choose another."""
    (home / "session.nwb").write_text("a recording")
    (home / "copies").mkdir()
    listed = run("store", home / "session.nwb").stdout.strip()
    nameless = kcl.store_text("x", local=True)
    odd = kcl.store_text("y", local=True, label=".bashrc").partition("?")[0]
    for uri, name in ((listed, "session.nwb"), (f"{listed}?label=b", "b")):
        result = run("load", uri, "--dest", "~/copies")
        assert result.output == f"{home / 'copies' / name}\n"
    for uri in (nameless, odd):
        cid = uri.removeprefix("ipfs://")
        for dest in (f"{home}/copies", f"{home}/copies/"):
            result = run("load", uri, "--dest", dest)
            assert result.stdout == f"{home / 'copies' / cid}\n"
            assert (
                result.stderr
                == f"The URI gives it no name, so that is its CID. To choose one: --dest {home}/copies/NAME\n"
            )
        assert run("load", uri, "--dest", home / cid).stderr == ""  # the user's own choice
    assert kcl.load_file(listed, dest=home / "copies") == str(home / "copies" / "session.nwb")


def test_the_command_replaces_with_force_and_the_whole_name(home: Path) -> None:
    """Without --force a different file at --dest stays; with it, it is replaced. In Python the whole name suffices."""
    target = home / ".bashrc"
    target.write_text("mine")
    uri = kcl.store_text("theirs", local=True)
    result = run("load", uri, "--dest", target, "--json")
    assert (result.exit_code, "FileExists" in result.stdout) == (2, True)
    with pytest.raises(FileExists):
        kcl.load_file(uri, dest=target, overwrite=False)
    assert target.read_text() == "mine"
    assert run("load", uri, "--dest", target, "--force").output == f"{target}\n"
    assert target.read_text() == "theirs"
    assert run("load", uri, "--dest", target).exit_code == 0
    other = kcl.store_text("other", local=True)
    assert kcl.load_file(other, dest=target) == str(target)
    assert target.read_text() == "other"
    assert [path.name for path in home.iterdir()] == [".bashrc"]


def test_links_at_the_destination_are_not_followed(tmp_path: Path, home: Path) -> None:
    """A symbolic link there is not written through: with a name from the URI it is in the way, with the user's own name
    it is replaced itself."""
    secret = tmp_path / "secret"
    secret.write_text("theirs")
    for at in (secret, tmp_path / "nowhere"):
        link = home / "x"
        link.symlink_to(at)
        uri = kcl.store_text("theirs", local=True, label="x")
        with pytest.raises(FileExists):
            kcl.load_file(uri, dest=home)
        assert link.is_symlink()
        assert kcl.load_file(uri, dest=link) == str(link)
        assert not link.is_symlink()
        assert not (tmp_path / "nowhere").exists()
        link.unlink()
    assert secret.read_text() == "theirs"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_replaced(home: Path) -> None:
    """A pipe, or /dev/null, does not become a file, with or without --force."""
    os.mkfifo(home / "pipe")
    uri = kcl.store_text("x", local=True)
    for dest in (home / "pipe", Path("/dev/null")):
        kind = os.lstat(dest).st_mode
        with pytest.raises(NotAFile):
            kcl.load_file(uri, dest=dest)
        assert run("load", uri, "--dest", dest, "--force").exit_code == 2
        assert os.lstat(dest).st_mode == kind


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_of_many_at_once_one_gets_the_name(links: bool, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen different files race for one name, ten times: one has it, whole; the others are told; nothing is left."""
    texts = [f"content {number}" for number in range(16)]
    uris = [kcl.store_text(text, local=True, label="x") for text in texts]
    if not links:

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EPERM, "no hard links")

        monkeypatch.setattr(placing.os, "link", refuse)
    for _ in range(10):
        start = threading.Barrier(len(uris))
        told: list[Exception] = []

        def load(uri: str, start: threading.Barrier = start, told: list[Exception] = told) -> None:
            start.wait()
            try:
                kcl.load_file(uri, dest=home)
            except FileExists as why:
                told.append(why)

        threads = [threading.Thread(target=load, args=(uri,)) for uri in uris]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == len(uris) - 1
        assert [path.name for path in home.iterdir()] == ["x"]
        assert (home / "x").read_text() in texts
        (home / "x").unlink()


# --- directories ---------------------------------------------------------------------------------------------------


def directory(repo: Repo, names: list[str]) -> str:
    """A directory as a stranger may make it, with files of these names."""
    stored = repo.store_bytes(b"theirs")
    builder = DirectoryBuilder(profile(), lambda cid, block: repo.put_blocks([(cid, block)]))
    for name in names:
        builder.add(name, stored.cid, stored.dag_size)
    return f"ipfs://{builder.finish()[0]}"


def test_hidden_files_of_a_folder_come_back(tmp_path: Path) -> None:
    """In a folder that is made anew, what a scientist's folder has is right: zarr's files, a repository, `-x.txt`."""
    names = [".zattrs", ".zgroup", ".git/config", "-x.txt", "~a", "a:b", "CON", " a ", "0.0"]
    for name in names:
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    uri = kcl.store_dir(tmp_path / "there", local=True)
    out = tmp_path / "out"
    assert kcl.load_dir(uri, out) == str(out)
    assert {str(p.relative_to(out)): p.read_text() for p in out.rglob("*") if p.is_file()} == {n: n for n in names}


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "a\rb", "a\nb", "\x7f", "\x9b2J", "a\u2028b"])
def test_control_characters_stay_out_of_folders(name: str, tmp_path: Path) -> None:
    """A stranger's directory with such a name is not made, and says which; a folder that has one is not stored."""
    uri = directory(repository(kcl.load_config()), ["a.txt", name])
    with pytest.raises(InvalidName, match="control character") as caught:
        kcl.load_dir(uri, tmp_path / "out")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / name).write_text("x")
    with pytest.raises(InvalidName, match="there: rename it there"):
        kcl.store_dir(tmp_path / "there", local=True)
    assert kcl.load_text(kcl.join(uri, name)) == "theirs"


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="only Linux has names of any bytes")
def test_a_name_that_is_not_utf8_is_named_with_its_folder(tmp_path: Path) -> None:
    """The error says where the file is, in text that can be printed."""
    folder = tmp_path / "there" / "deep"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"caf\xe9.csv")).write_text("x")
    with pytest.raises(InvalidName, match="not valid UTF-8") as caught:
        kcl.store_dir(tmp_path / "there", local=True)
    assert str(folder) in str(caught.value)
    assert "caf\\udce9.csv" in str(caught.value)


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree takes an empty folder's place and no other's, also when it appears while the tree is made."""
    uri = directory(repository(kcl.load_config()), ["a"])
    fill = placing._fill

    def meanwhile(*args: Any) -> None:
        fill(*args)
        (tmp_path / "out" / "mine").mkdir(parents=True)

    monkeypatch.setattr(placing, "_fill", meanwhile)
    with pytest.raises(FileExists):
        kcl.load_dir(uri, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_file_system_that_takes_two_names_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `a` and `A` are one file, the directory is not made, and neither is half of it."""
    uri = directory(repository(kcl.load_config()), ["A", "a"])
    copy = placing._copy

    def lower(source: Path, target: Path, left: int = 0) -> int:
        return copy(source, target.with_name(target.name.lower()), left)

    monkeypatch.setattr(placing, "_copy", lower)
    with pytest.raises(InvalidName, match="tell the two names apart"):
        kcl.load_dir(uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_makes_a_directory_where_the_label_could_name_no_file(tmp_path: Path) -> None:
    """`--dest out/` of a directory makes `out`, whatever its label; a link in it leads nowhere else."""
    repo = repository(kcl.load_config())
    uri = directory(repo, [".zattrs"])
    out = tmp_path / "out"
    assert run("load", uri + "?label=%2ebashrc", "--dest", f"{out}/").output == f"{out}\n"
    assert [path.name for path in out.iterdir()] == [".zattrs"]
    cid, block = symlink_block(profile(), "../../etc/passwd")
    repo.put_blocks([(cid, block)])
    builder = DirectoryBuilder(profile(), lambda cid, block: repo.put_blocks([(cid, block)]))
    builder.add("link", CID.parse(str(cid)), len(block))
    result = run("load", f"ipfs://{builder.finish()[0]}", "--dest", tmp_path / "other")
    assert result.exit_code == 0
    assert "symbolic link 'link'" in result.stderr
    assert list((tmp_path / "other").iterdir()) == []
