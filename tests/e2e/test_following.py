"""Two nodes that follow each other, as programs: one is killed and comes back, and nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.patience import wait_until
from tests.helpers.pin_clients import PinClient, add_token

_STORE_MANY = "say([kcl.store_file(path) for path in sorted(args[0])])"


def _files(folder: Path, count: int, first: int = 0) -> list[str]:
    folder.mkdir(exist_ok=True)
    paths: list[str] = []
    for number in range(first, first + count):
        path = folder / f"{number:03d}.dat"
        path.write_bytes(random.Random(number).randbytes(300_000))
        paths.append(str(path))
    return paths


def _cid(uri: str) -> str:
    return uri.removeprefix("ipfs://").partition("?")[0]


class Pair:
    """Two nodes that follow each other. Members have their tokens from the first."""

    def __init__(self, make: StartWorkstation, free_port: Callable[[], int]) -> None:
        self.ports = [free_port(), free_port()]
        self.stations = [make(), make()]
        self.alice = add_token(self.stations[0], "alice")
        rights = ["--follow", "--tokens"]
        tokens = [add_token(station, "the other node", *rights) for station in self.stations]
        for number, station in enumerate(self.stations):
            station.env["KACHERY_CLOUD_FOLLOW"] = f"{self.url(1 - number)}={tokens[1 - number]}"

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.ports[number]}"

    def start(self, number: int) -> Workstation:
        return self.stations[number].start("--pinning-service", f"127.0.0.1:{self.ports[number]}")

    def client(self, number: int) -> PinClient:
        return PinClient(self.url(number), self.alice)

    def pinned(self, number: int) -> set[str]:
        """What alice sees as pinned there."""
        status, value = self.client(number).ask("GET", "/pins?limit=1000")
        return {each["pin"]["cid"] for each in value["results"]} if status == 200 else set()


@pytest.mark.slow
def test_one_dies_and_comes_back(workstation: StartWorkstation, tmp_path: Path, free_port: Callable[[], int]) -> None:
    """What is pinned at one is pinned at the other, with the same token; also what was pinned while one was dead, and
    what was being followed when it was killed. Then each has all of it by itself."""
    pair = Pair(workstation, free_port)
    origin = workstation().start()
    uris = [_cid(uri) for uri in origin.call(_STORE_MANY, _files(tmp_path / "files", 60))]
    pair.start(0)
    pair.start(1)
    for cid in uris[:40]:
        pair.client(0).pin(cid, origin.addr)
    wait_until(lambda: len(pair.pinned(1)) >= 5, "that the other one has some")
    pair.stations[1].kill()
    for cid in uris[40:50]:
        pair.client(0).pin(cid, origin.addr)
    wait_until(lambda: len(pair.pinned(0)) == 50, "that the first has all")
    pair.start(1)
    wait_until(lambda: len(pair.pinned(1)) == 50, "that the other one has all")
    pair.stations[0].kill()
    for cid in uris[50:]:
        pair.client(1).pin(cid, origin.addr)
    wait_until(lambda: len(pair.pinned(1)) == 60, "that the other one has what is new")
    origin.stop()
    pair.start(0)
    wait_until(lambda: pair.pinned(0) == set(uris), "that the first has what it missed")
    for station in pair.stations:
        station.stop()
        assert station.run("kachery-cloud", "verify").returncode == 0


def test_a_token_that_follows_may_only_look(workstation: StartWorkstation, free_port: Callable[[], int]) -> None:
    """It lists all pins, and whose they are; it pins and deletes nothing. Others may not ask what it may."""
    pair = Pair(workstation, free_port)
    pair.start(0)
    alice = pair.client(0)
    made = alice.pin("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")
    alice.wait_pinned(made)
    follower = PinClient(pair.url(0), pair.stations[1].env["KACHERY_CLOUD_FOLLOW"].partition("=")[2])
    status, value = follower.ask("GET", "/pins")
    assert status == 200
    assert [each["info"]["owner"] for each in value["results"]] == ["alice"]
    assert follower.ask("POST", "/pins", {"cid": value["results"][0]["pin"]["cid"]})[0] == 403
    assert follower.ask("DELETE", f"/pins/{made}")[0] == 403
    assert follower.ask("POST", "/api/v0/dag/import")[0] == 403
    assert [each["name"] for each in follower.ask("GET", "/follow")[1]["tokens"]] == ["alice"]
    assert alice.ask("GET", "/follow")[0] == 403
    assert PinClient(pair.url(0), "wrong").ask("GET", "/follow")[0] == 401


def test_the_lab_listens_for_both(workstation: StartWorkstation, free_port: Callable[[], int], tmp_path: Path) -> None:
    """Where the node is the lab's own, CAR files and followers come to the same address."""
    lab, source, port = workstation(), workstation(), free_port()
    alice, follower = add_token(lab, "alice"), add_token(lab, "second", "--follow")
    lab.start("--lab", f"127.0.0.1:{port}")
    uri = source.call("say(kcl.store_text('x' * 50_000, local=True))")
    source.run("kachery-cloud", "export", uri, tmp_path / "one.car")
    url = f"http://127.0.0.1:{port}"
    with open(tmp_path / "one.car", "rb") as car:
        answer = httpx.post(
            f"{url}/api/v0/dag/import",
            files={"file": ("one.car", car, "application/octet-stream")},
            headers={"authorization": f"Bearer {alice}"},
            trust_env=False,
        )
    assert answer.json() == {"Root": {"Cid": {"/": _cid(uri)}, "PinErrorMsg": ""}}
    status, value = PinClient(url, follower).ask("GET", "/pins")
    assert status == 200
    assert [each["pin"]["cid"] for each in value["results"]] == [_cid(uri)]
    status, value = PinClient(url, follower).ask("GET", "/follow")
    assert (status, set(value)) == (200, {"list", "deleted"})
