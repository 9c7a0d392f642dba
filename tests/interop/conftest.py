"""What the interoperability tests share: the inputs, and what each must come to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.data import write_random
from scripts.peers import Helia, Kubo
from scripts.workstation import Workstation

MANY = 6000
LARGE = 300_000_000

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "unixfs_cids.json"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder works with a real peer."""
    here = Path(__file__).resolve().parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("interop")


@pytest.fixture(scope="module", params=["kubo", "helia"])
def peer(request: pytest.FixtureRequest) -> Kubo | Helia:
    """A real peer, one kind after the other. It lives for the tests of a module and keeps what they brought."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def station(module_workstation: Callable[..., Workstation], peer: Kubo | Helia) -> Workstation:
    """One of our workstations, with its node running; a new one for each kind of peer."""
    return module_workstation().start()


@pytest.fixture(scope="session")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 6 000 files whose CIDs are in the vectors."""
    folder = tmp_path_factory.mktemp("input") / "many"
    folder.mkdir()
    for number in range(MANY):
        (folder / f"file-with-a-rather-long-name-{number:06d}.dat").write_bytes(str(number).encode())
    return folder


@pytest.fixture(scope="session")
def many_files_cids() -> dict[str, str]:
    """The CID of `many_files` under each profile, as Kubo and Helia compute it."""
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    return next(entry for entry in vectors["directories"] if str(MANY) in entry["input"])


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """300 MB of random bytes."""
    path = write_random(tmp_path_factory.mktemp("input") / "large.dat", LARGE, seed=300)
    yield path
    path.unlink()
