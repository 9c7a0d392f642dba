"""`gc --dry-run` says what `gc` then does: a file that several have is counted once, with the last of them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud.commands.main import find_command
from kachery_cloud.inventory_removal import Collected
from kachery_cloud.local import repository

KB = 1000


def run(*line: str) -> Result:
    return CliRunner().invoke(find_command(line[0]), list(line[1:]))


def write(folder: Path, **sizes: int) -> Path:
    """A folder with files of some sizes, in bytes; the same name has the same bytes in every folder."""
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_bytes(random.Random(name).randbytes(size))
    return folder


def both(keep: str | int | None = None, *, stored: bool = True) -> Collected:
    """What a dry run says; it is compared with what then happens."""
    before = kcl.list()
    foreseen = kcl.gc(keep, stored=stored, force=True, dry_run=True)
    assert kcl.list() == before
    done = kcl.gc(keep, stored=stored, force=True)
    assert list(done.removed) == list(foreseen.removed)
    assert (done.before, done.after, done.reached) == (foreseen.before, foreseen.after, foreseen.reached)
    return done


@pytest.fixture
def shared(tmp_path: Path) -> None:
    """Two folders with the same three files, one of which was stored by itself, too: 900 kB in all."""
    g1 = write(tmp_path / "g1", a=300 * KB, b=300 * KB, c=300 * KB)
    kcl.store_dir(g1, local=True)
    (tmp_path / "g2").mkdir()
    for path in g1.iterdir():
        (tmp_path / "g2" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "g2" / "more").write_bytes(b"m")
    kcl.store_dir(tmp_path / "g2", local=True)
    kcl.store_file(g1 / "a", label="single", local=True)


def test_what_several_have_is_counted_once(shared: None) -> None:
    """It goes with the last that has it: so no more bytes are said to be free than there are."""
    done = both(0)
    assert [(each.label, each.freed) for each in done.removed] == [("g1", 0), ("g2", 600_001), ("single", 300 * KB)]
    assert (done.before, done.after) == (900_001, 0)


def test_no_more_goes_than_is_needed(shared: None) -> None:
    """What goes first may free nothing; the one that is needed is the last that is named."""
    told = run("gc", "--keep", "500kB", "--stored", "--dry-run")
    assert told.exit_code == 0
    assert "Would remove g1: 0 bytes (if another copy is found)." in told.output
    assert "Would remove g2: 600 kB" in told.output
    assert "900 kB before, 300 kB would be left." in told.output
    done = both("500kB")
    assert [each.label for each in done.removed] == ["g1", "g2"]


def test_small_files_of_a_pack(tmp_path: Path) -> None:
    """They lie in a pack, of which a part is of no use until it is compacted, which is not always done."""
    for number in range(4):
        kcl.store_dir(write(tmp_path / str(number), **{f"{number}-{i}": 4 * KB for i in range(number + 1)}), local=True)
    done = both("36kB")
    assert [each.freed for each in done.removed] == [4 * KB]
    assert both("20kB").after < 20 * KB
    assert both(0).after == 0


def test_a_part_of_a_file_that_is_here(tmp_path: Path) -> None:
    """What tidying up gives back is told before, too."""
    repo = repository(kcl.load_config())
    uri = kcl.store_file(write(tmp_path / "f", a=100 * KB) / "a", local=True)
    (repo.directory / "partial" / uri.removeprefix("ipfs://")).write_bytes(bytes(50 * KB))
    before = kcl.du().total
    done = both()
    assert done.before - done.after == before - kcl.du().total > 50 * KB - 1


def test_further_names_keep_no_bytes(tmp_path: Path) -> None:
    """A copy that has a name of its own, and one that is there under two CIDs."""
    path = write(tmp_path / "f", a=2500 * KB) / "a"
    kcl.load_file(kcl.store_file(path, label="a.bin", local=True), local_only=True)
    kcl.store_file(path, profile="unixfs-v0-2015", local=True)
    done = both(0)
    assert sorted(each.freed for each in done.removed) == [0, 2500 * KB]
    assert done.after == 0


def test_what_was_only_loaded(tmp_path: Path) -> None:
    """`gc --to` counts all of the directory, and files that several folders have once as well."""
    repo = repository(kcl.load_config())
    for name in ("g1", "g2"):
        kcl.store_dir(write(tmp_path / name, a=300 * KB, **{name: 200 * KB}), local=True)
    with repo._catalog.write() as db:
        db.execute("UPDATE kept SET how = 4")
        db.execute("UPDATE labels SET given = 0")
    everything = kcl.gc(to="1TB", dry_run=True).before
    for to, freed in ((everything - 100 * KB, [200 * KB]), (0, [500 * KB])):
        foreseen = kcl.gc(to=to, dry_run=True)
        done = kcl.gc(to=to)
        assert [each.freed for each in done.removed] == freed
        assert list(done.removed) == list(foreseen.removed)
        # Beside what is foreseen only the catalog grows and shrinks.
        assert abs(done.after - foreseen.after) < 100 * KB
    assert os.listdir(repo.directory / "ipfs") == []
