"""Links in a folder are followed by whoever reads by path: what they lead to is read, listed, and found by fsspec."""

from __future__ import annotations

import io
import json
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner

import kachery_cloud as kcl
from kachery_cloud.commands.main import cli
from kachery_cloud.errors import BrokenLink, IsADirectory, NotAFile
from kachery_cloud.local import close_repositories


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with links: to a file, to a folder, up, and nowhere."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    base = tmp_path / "f"
    (base / "s").mkdir(parents=True)
    (base / "a").write_text("content", encoding="utf-8")
    (base / "s" / "f").write_text("inner", encoding="utf-8")
    for name, target in {"b": "a", "t": "s", "s/up": "../a", "s/top": "..", "gone": "missing"}.items():
        (base / name).symlink_to(target)
    yield kcl.store_dir(base, local=True)
    close_repositories()


def test_every_reader_follows_them(uri: str, tmp_path: Path) -> None:
    """By a path that ends in one, and by one that goes through one."""
    for path, text in (("b", "content"), ("t/f", "inner"), ("t/up", "content"), ("s/top/t/top/b", "content")):
        where, out = f"{uri}/{path}", io.BytesIO()
        assert Path(kcl.load_file(where, local_only=True)).read_text(encoding="utf-8") == text
        assert kcl.load_text(where, local_only=True) == text
        assert kcl.load_bytes(where, 1, 3, local_only=True) == text.encode()[1:3]
        kcl.cat_file(where, out, local_only=True)
        with kcl.open(where, local_only=True) as file:
            assert file.read() == out.getvalue() == text.encode()
        info = kcl.load_file_info(where, local_only=True)
        assert (info["kind"], info["size"], info["local"]) == ("file", len(text), True)
    assert kcl.load_file_info(f"{uri}/b")["destination"] == "a"
    assert kcl.load_file_info(f"{uri}/t/f")["destination"] is None
    assert [each["name"] for each in kcl.list_dir(f"{uri}/t", local_only=True)] == ["f", "top", "up"]
    copy = Path(kcl.load_dir(f"{uri}/s/top/t", tmp_path / "copy", local_only=True))
    assert (copy / "f").read_text(encoding="utf-8") == "inner"
    with pytest.raises(IsADirectory):
        kcl.load_file(f"{uri}/t", local_only=True)


def test_those_that_lead_nowhere_say_where_they_point(uri: str, tmp_path: Path) -> None:
    """Within the folder and out of it; the CID of a link by itself; each says what to do."""
    with pytest.raises(BrokenLink, match=r"gone is a symbolic link to 'missing'.*There is no 'missing'"):
        kcl.load_file(f"{uri}/gone")
    said = r"up is a symbolic link to '\.\./a'.*not within.*begin with a folder that has"
    inner = kcl.load_file_info(f"{uri}/s")["cid"]
    with pytest.raises(BrokenLink, match=said):
        kcl.load_text(f"ipfs://{inner}/up")
    (entry,) = [each for each in kcl.list_dir(uri) if each["name"] == "b"]
    with pytest.raises(NotAFile, match=r"symbolic link to 'a', not a file.*ipfs://FOLDER/NAME"):
        kcl.load_text(f"ipfs://{entry['cid']}")


def test_fsspec(uri: str, tmp_path: Path) -> None:
    """As its local file system: `info` is of what a link leads to, with `islink` and `destination`."""
    fs = fsspec.filesystem("ipfs", local_only=True, skip_instance_cache=True)
    cid = uri.removeprefix("ipfs://")
    assert fs.cat(f"{uri}/b") == b"content"
    assert fs.cat(f"{uri}/t/f") == b"inner"
    info = fs.info(f"{uri}/b")
    assert info == {**fs.info(f"{uri}/a"), "name": f"{cid}/b", "islink": True, "destination": "a"}
    folder = fs.info(f"{uri}/t")
    assert (folder["type"], folder["islink"], folder["destination"]) == ("directory", True, "s")
    assert "islink" not in fs.info(f"{uri}/t/f")
    listed = {each["name"].split("/", 1)[1]: each for each in fs.ls(uri)}
    kinds = {name: (each["type"], each["size"]) for name, each in listed.items()}
    assert kinds == {
        "a": ("file", 7),
        "b": ("file", 7),
        "gone": ("link", 0),
        "s": ("directory", None),
        "t": ("link", None),
    }
    assert listed["gone"]["destination"] == "missing"
    assert fs.isdir(f"{uri}/t")
    assert not fs.exists(f"{uri}/gone")
    assert fs.ls(f"{uri}/t", detail=False) == [f"{cid}/t/f", f"{cid}/t/top", f"{cid}/t/up"]
    found = fs.find(uri)  # ends, though s/top leads back up
    assert found == [f"{cid}/{name}" for name in ("a", "b", "gone", "s/f", "s/top", "s/up", "t")]
    fs.get(f"{uri}/b", str(tmp_path / "one"))
    assert not (tmp_path / "one").is_symlink()
    assert (tmp_path / "one").read_text(encoding="utf-8") == "content"
    fs.get(f"{uri}/t/f", str(tmp_path / "two"))
    assert (tmp_path / "two").read_text(encoding="utf-8") == "inner"


def test_commands(uri: str) -> None:
    """`ls` shows where they point, and a file as one line; `cat` and `info` follow."""

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, [*arguments, "--local-only"])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    lines = run("ls", uri).splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["7", "a"], ["0", "b@ -> a"], ["0", "gone@ -> missing"], ["5", "s/"], ["0", "t@ -> s"],
    ]  # fmt: skip
    assert run("cat", f"{uri}/t/f") == "inner"
    assert "link to: s\n" in run("info", f"{uri}/t")
    assert run("ls", f"{uri}/b") == "7  b\n"
    (entry,) = json.loads(run("ls", "--json", f"{uri}/t/f"))["entries"]
    assert (entry["name"], entry["kind"], entry["size"]) == ("f", "file", 5)
    assert run("ls", kcl.store_text("x", local=True, label="note.txt")) == "1  note.txt\n"
