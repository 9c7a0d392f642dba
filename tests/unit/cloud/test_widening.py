"""What is for some does not become public by the way: what a store refuses, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud import widening
from kachery_cloud.audiences import groups_here
from kachery_cloud.commands.main import find_command
from kachery_cloud.errors import NoPermission
from kachery_cloud.local import repository
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import parse_uri
from kachery_p2p.access.audience import PUBLIC, Audience, group_audience

SECRET = b"s" * 5000


pytestmark = pytest.mark.usefixtures("data")


@pytest.fixture
def secret(hippocampus: str) -> str:
    """Something that is for it."""
    return kcl.store_bytes(SECRET, to="hippocampus", local=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a copy of that in it."""
    made = tmp_path / "proj"
    (made / "raw").mkdir(parents=True)
    (made / "raw" / "grp.dat").write_bytes(SECRET)
    (made / "open.txt").write_bytes(b"o" * 5000)
    return made


@pytest.fixture
def as_reader(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this machine a reader in a group."""

    def make(group: str) -> None:
        monkeypatch.setattr(
            widening,
            "groups_here",
            lambda config: tuple(
                replace(each, role="reader") if each.id == group else each for each in groups_here(config)
            ),
        )

    return make


def run(*line: object) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(find_command(str(line[0])), [str(each) for each in line[1:]])


def seen_by(uri: str) -> Audience:
    """Who may see the first block of something now: what the gate goes by."""
    block = parse_uri(uri).root.multihash
    return repository(load_config()).access.audiences([block]).get(block, PUBLIC)


def test_a_folder_of_which_nothing_is_said(hippocampus: str, secret: str, folder: Path) -> None:
    """Is not stored for everybody where a file in it is for some: the error names it, and says what to say."""
    with pytest.raises(NoPermission) as caught:
        kcl.store_dir(folder, local=True)
    assert str(caught.value) == (
        "'raw/grp.dat' in it is for members of hippocampus (1) alone, and nothing was said of who may load what is "
        "stored now, so everybody could load it by that. Say for whom it is: --to hippocampus, or --to public "
        "(to='public') where everybody may have it. Or leave it out: --exclude (exclude=)."
    )
    for line in (["store", "-r", folder], ["link", "-r", folder]):
        done = run(*line)
        assert (done.exit_code, done.stdout) == (5, "")
    assert seen_by(secret) == group_audience([hippocampus])
    assert [item.uri for item in kcl.list()] == [secret]
    assert parse_uri(kcl.store_dir(folder, to="hippocampus", local=True)).groups == (hippocampus,)
    assert parse_uri(kcl.store_dir(folder, exclude=["/raw/"], local=True)).groups == ()
    assert seen_by(secret) == group_audience([hippocampus])


def test_said_it_is_done_and_told(secret: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With how to undo it, and that works. What is public already is not told again."""
    done = run("store", "-r", folder, "--to", "public")
    told = re.search(
        r"'raw/grp\.dat' in it was for members of hippocampus \(1\) alone; now everybody can load it\. "
        r"To undo: kachery-cloud visibility (ipfs://\w+) --to hippocampus\n",
        done.stderr,
    )
    assert told is not None, done.stderr
    assert told[1] == done.stdout.strip()
    assert seen_by(secret) == PUBLIC
    (folder / "more").write_text("more")
    assert "alone" not in run("store", "-r", folder).stderr
    kcl.set_visibility(kcl.store_dir(folder, local=True), "hippocampus")
    kcl.set_visibility(told[1], "hippocampus")
    assert seen_by(secret) != PUBLIC


def test_python_tells_it_too_though_nobody_watches(
    hippocampus: str, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that was for some, stored for everybody: by the root itself."""
    assert kcl.store_bytes(SECRET, local=True) == secret
    assert capsys.readouterr().err == ""
    uri = kcl.store_bytes(SECRET, to="public", local=True)
    assert capsys.readouterr().err == (
        "This was for members of hippocampus (1) alone; now everybody can load it. To undo: kachery-cloud visibility "
        f"{uri} --to hippocampus\n"
    )
    assert seen_by(uri) == PUBLIC


def test_several_files(hippocampus: str, tmp_path: Path) -> None:
    """Some are named, the others counted."""
    (tmp_path / "many").mkdir()
    for name in "abcde":
        (tmp_path / "many" / name).write_bytes(name.encode() * 5000)
        kcl.store_file(tmp_path / "many" / name, to="hippocampus", local=True)
    with pytest.raises(NoPermission, match=r"^'a', 'b', 'c' and 2 more in it are for .*Or leave them out"):
        kcl.store_dir(tmp_path / "many", local=True)


def test_a_folder_in_it_that_is_for_some(hippocampus: str, folder: Path) -> None:
    """Is named by itself, not by each of its files."""
    kcl.store_dir(folder / "raw", to="private", local=True)
    with pytest.raises(NoPermission, match=r"^'raw' in it is for your own machines alone"):
        kcl.store_dir(folder, local=True)


@pytest.mark.parametrize("to", [None, "public", "private", "lab"])
def test_a_reader_gives_it_to_nobody_else(
    to: str | None, hippocampus: str, secret: str, folder: Path, as_reader: Callable[[str], None]
) -> None:
    """Whatever is said, in a folder as alone; as `set_visibility` says it. The blocks stay as they were."""
    lab = kcl.create_group("lab").id
    as_reader(hippocampus)
    with pytest.raises(NoPermission, match=r"^'raw/grp.dat' in it is from 'hippocampus', .*is a reader.*--exclude"):
        kcl.store_dir(folder, to=to, local=True)
    if to is not None:
        with pytest.raises(NoPermission, match=r"^This is from 'hippocampus', of which this machine is a reader"):
            kcl.store_bytes(SECRET, to=to, local=True)
        with pytest.raises(NoPermission, match=r"^This is from 'hippocampus', of which this machine is a reader"):
            kcl.link_file(folder / "raw" / "grp.dat", to=to, local=True)
    assert seen_by(secret) == group_audience([hippocampus])
    assert lab not in seen_by(secret).groups
    assert [item.uri for item in kcl.list()] == [secret]
    assert kcl.store_bytes(SECRET, local=True) == secret, "without a word it stays as it is"


def test_blocks_in_common_are_told_and_not_refused(
    hippocampus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_reader: Callable[[str], None]
) -> None:
    """Two recordings that begin alike, with zeros perhaps: the other one is another file."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"\0" * (1 << 20) + b"a" * 5000)
    second.write_bytes(b"\0" * (1 << 20) + b"b" * 5000)
    kcl.store_file(first, to="hippocampus", local=True)
    as_reader(hippocampus)
    kcl.store_file(second, local=True)
    assert capsys.readouterr().err.startswith(
        "A part of this was for members of hippocampus (1) alone, for something else has it, too; now everybody can "
    )


def test_what_was_interrupted_says_nothing(hippocampus: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store for a group that failed before its end does not decide for whom the next one is."""

    def fails(*args: Any, **options: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(repository(load_config()).inventory, "keep", fails)
        with pytest.raises(RuntimeError):
            kcl.store_bytes(SECRET, to="hippocampus", local=True)
    block = repository(load_config()).hash_file(folder / "raw" / "grp.dat")
    assert seen_by(f"ipfs://{block}") == group_audience([hippocampus])
    kcl.store_dir(folder, local=True)
    assert seen_by(f"ipfs://{block}") == PUBLIC


def test_a_car_file(
    hippocampus: str, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_reader: Callable[[str], None]
) -> None:
    """Who imports says for whom, and that is held against where it is from before anything is taken."""
    kcl.export_car([secret], tmp_path / "a.car", plain=True)
    assert kcl.import_car(tmp_path / "a.car", local=True).uris == [secret]
    capsys.readouterr()
    as_reader(hippocampus)
    with pytest.raises(NoPermission, match="is a reader"):
        kcl.import_car(tmp_path / "a.car", to="public", local=True)
    assert seen_by(secret) == group_audience([hippocampus])
    as_reader("none")
    kcl.import_car(tmp_path / "a.car", to="public", local=True)
    assert "This was for members of hippocampus (1) alone; now everybody can load it." in capsys.readouterr().err


def test_a_folder_that_is_made_public_later(
    hippocampus: str, secret: str, folder: Path, capsys: pytest.CaptureFixture[str], as_reader: Callable[[str], None]
) -> None:
    """What is in it from elsewhere is held against that, too, and what becomes public by it is told."""
    kcl.create_group("lab")
    uri = kcl.store_dir(folder, to="lab", local=True)
    as_reader(hippocampus)
    with pytest.raises(NoPermission, match=r"^'raw/grp.dat' in it is from 'hippocampus', .* is a reader"):
        kcl.set_visibility(uri, "public")
    assert not seen_by(secret).everyone
    as_reader("none")
    capsys.readouterr()
    kcl.set_visibility(uri, "public")
    told = capsys.readouterr().err
    assert told.startswith("'raw/grp.dat' in it was for members of hippocampus (1) alone; now everybody can load it.")
    assert seen_by(secret) == PUBLIC
