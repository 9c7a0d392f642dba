"""Reading all that is here bit by bit: everything is read once, from any place on, and what is wrong is named once."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.repo import Repo
from kachery_p2p.repo.catalog import CHANGED
from kachery_p2p.repo.checking import Problem
from kachery_p2p.repo.scrubbing import ScrubPlace, Step
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=4)
DATA = random.Random(1).randbytes(45_500)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


def flip(path: Path, at: int) -> None:
    """Change one bit as a failing disk does: without a trace in the file's times."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as out:
        out.seek(at)
        byte = out.read(1)
        out.seek(at)
        out.write(bytes([byte[0] ^ 0x10]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def run(repo: Repo, place: ScrubPlace | None = None, most: int = 10_000) -> list[Step]:
    """All steps to the end."""
    place = place or ScrubPlace()
    steps: list[Step] = []
    while True:
        steps.append(repo.scrubber.step(place, most=most))
        if steps[-1].place is None:
            return steps
        place = steps[-1].place


def problems(steps: list[Step]) -> list[Problem]:
    return [problem for step in steps for problem in step.problems]


def test_everything_is_read_once(repo: Repo, tmp_path: Path) -> None:
    """Files, linked ones, small ones in packs, and inner nodes; and not much at a time."""
    (tmp_path / "linked").write_bytes(DATA[::-1])
    repo.store_bytes(DATA, profile=TINY)
    repo.link_file(tmp_path / "linked", profile=TINY)
    for number in range(300):
        repo.store_value(b"value %d" % number)
    steps = run(repo)
    assert sum(step.bytes for step in steps) == repo.scrubber.total()
    assert max(step.bytes for step in steps) < 15_000
    assert problems(steps) == []


def test_it_goes_on_from_any_place(repo: Repo) -> None:
    """Also in the middle of a file, and by a scrubber that knows nothing of the steps before, as after a restart."""
    cid = repo.store_bytes(DATA, profile=TINY).cid
    path = repo.find_file(cid)
    assert path is not None
    places = [step.place for step in run(repo)]
    inside = [place for place in places if place is not None and place.leaves]
    assert len(inside) == 4
    flip(path, len(DATA) - 1)
    for place in inside:
        with Repo.open(repo.directory) as again:
            (problem,) = problems(run(again, place))
            assert (problem.cid, problem.what) == (cid, "damaged")
            with again._catalog.write() as db:
                db.execute("UPDATE files SET state = 0")


def test_a_place_behind_the_damage_passes_it_over(repo: Repo) -> None:
    """What was read before is not read again: it is found in the next round."""
    path = repo.find_file(repo.store_bytes(DATA, profile=TINY).cid)
    assert path is not None
    place = run(repo)[2].place
    assert place is not None
    assert place.leaves
    flip(path, 0)
    assert problems(run(repo, place)) == []
    assert [problem.what for problem in problems(run(repo))] == ["damaged"]


def test_a_block_that_is_in_the_file_twice(repo: Repo) -> None:
    """The catalog knows one place of it; the other one is read, too."""
    data = DATA[:1000] * 40
    cid = repo.store_bytes(data, profile=TINY).cid
    path = repo.find_file(cid)
    assert path is not None
    for at in (500, 39_500):
        flip(path, at)
        assert [problem.cid for problem in problems(run(repo))] == [cid]
        flip(path, at)
        with repo._catalog.write() as db:
            db.execute("UPDATE files SET state = 0")


def test_damage_is_noted_so_that_it_is_not_served(repo: Repo) -> None:
    cid = repo.store_bytes(DATA, profile=TINY).cid
    path = repo.find_file(cid)
    assert path is not None
    flip(path, 20_000)
    (problem,) = problems(run(repo))
    assert problem.path == path
    assert f"kachery-cloud repair ipfs://{cid}" in problem.detail
    assert repo._catalog.all("SELECT state FROM files") == [(CHANGED,)]
    assert [each.what for each in problems(run(repo))] == ["damaged"]  # known, without reading it again
    assert sum(step.bytes for step in run(repo)) < len(DATA)


def test_linked_files(repo: Repo, tmp_path: Path) -> None:
    """One that was changed or deleted is said to be; one that only got another time is right."""
    paths = [tmp_path / name for name in ("same", "changed", "gone")]
    for number, path in enumerate(paths):
        path.write_bytes(random.Random(number).randbytes(40_000))
        repo.link_file(path, profile=TINY)
    os.utime(paths[0], (1, 1))
    paths[1].write_bytes(b"something else")
    paths[2].unlink()
    found = {problem.path.name: problem.what for problem in problems(run(repo))}
    assert found == {"changed": "changed", "gone": "missing"}


def test_small_files_and_nodes(repo: Repo) -> None:
    """What lies in a pack, and what the catalog keeps."""
    value = repo.store_value(b"a small value" * 10).cid
    file = repo.store_bytes(DATA, profile=TINY).cid
    (pack,) = (repo.directory / "packs").iterdir()
    flip(pack, pack.stat().st_size - 3)
    lost = repo.directory / "nodes"
    for path in sorted(lost.rglob("*"), reverse=True):
        if path.is_file():
            path.unlink()
    assert repo.find_file(file) is not None
    with repo._catalog.write() as db:
        db.execute("INSERT INTO blocks (multihash, data, added) VALUES (?, x'00', 0)", (b"\x12\x20" + bytes(32),))
    found = problems(run(repo))
    assert [problem.what for problem in found] == ["damaged", "damaged"]
    assert found[0].cid == value
    assert "kachery-cloud repair" in found[1].detail


def test_a_lost_inner_node_is_brought_back(repo: Repo) -> None:
    """From its record, while the file is read."""
    cid = repo.store_bytes(DATA, profile=TINY).cid
    with repo._catalog.write() as db:
        db.execute("UPDATE blocks SET data = x'00'")
    assert problems(run(repo)) == []
    assert repo.get_block(cid.multihash) is not None
    assert repo.verify() == []


def test_what_is_removed_meanwhile_is_no_problem(repo: Repo) -> None:
    cids = [repo.store_bytes(random.Random(number).randbytes(40_000), profile=TINY).cid for number in range(3)]
    place = repo.scrubber.step(ScrubPlace(), most=10_000).place
    assert place is not None
    for cid in cids:
        repo.remove(cid)
    assert problems(run(repo, place)) == []


def test_what_is_raised_meanwhile_ends_it(repo: Repo) -> None:
    """A file that must be read whole is left when the program is to stop."""
    path = repo.find_file(repo.store_bytes(DATA, profile=TINY).cid)
    assert path is not None
    os.utime(path, (1, 1))

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.scrubber.step(ScrubPlace(), hashed=stop)
    assert problems(run(repo)) == []
