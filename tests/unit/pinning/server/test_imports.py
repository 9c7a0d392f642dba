"""`POST /api/v0/dag/import`: CAR files that are sent to the real service over HTTP."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.pinning.server import limits
from kachery_p2p.pinning.server.app import _Body as Body
from kachery_p2p.pinning.server.imports import read_options
from kachery_p2p.pinning.server.requests import Refusal
from kachery_p2p.repo.repo import Repo
from tests.helpers.car_forms import TYPE, car_of, car_with, form, lines, roots, send
from tests.helpers.patience import PATIENCE
from tests.helpers.pin_server import NOWHERE, Served, pinning


@pytest.fixture
def source(tmp_path: Path) -> Repo:
    """Where the CAR files come from."""
    return Repo.open(tmp_path / "source")


def stored(repo: Repo, size: int, seed: int = 1) -> CID:
    """Some bytes in a repo."""
    return repo.store_bytes(random.Random(seed).randbytes(size)).cid


def left_behind(served: Served) -> list[str]:
    """What is in the folders for what is not done, and in the list of what is kept for others."""
    folder = served.node.repo.directory
    return [
        *(path.name for name in ("partial", "tmp") for path in (folder / name).iterdir()),
        *(root.hex() for root in served.node.repo.inventory.pinned_keys()),
    ]


async def let_go(served: Served) -> None:
    """Wait until what nobody has pinned is let go."""
    with trio.fail_after(PATIENCE):
        while await trio.to_thread.run_sync(served.store.leaving):
            seen = served.server.queue.changes.count
            with trio.move_on_after(0.1):
                await served.server.queue.changes.wait(seen)


# --- what works -------------------------------------------------------------------------------------------------------


async def test_roots_are_pinned_for_whoever_sends_them(tmp_path: Path, source: Repo) -> None:
    """Each root of each file is a pin of that token, with its size, and nobody else's; all of it is here."""
    first, second = stored(source, 3_000_000), stored(source, 500, 2)
    async with pinning(tmp_path / "service") as served:
        body = form(car_of(source, first), car_of(source, second))
        answer = await send(served.clients["alice"], body)
        assert roots(answer) == {str(first): "", str(second): ""}
        assert answer.headers["x-chunked-output"] == "1"
        listed = (await served.clients["alice"].get("/pins")).json()
        assert {each["pin"]["cid"]: each["info"]["raw_size"] for each in listed["results"]} == {
            str(first): "3000000",
            str(second): "500",
        }
        assert await served.listed("bob") == []
        path = served.node.repo.find_file(first)
        assert path is not None
        assert path.read_bytes() == random.Random(1).randbytes(3_000_000)
        for each in listed["results"]:
            assert (await served.clients["alice"].delete(f"/pins/{each['requestid']}")).status_code == 202
        await let_go(served)
        assert served.node.repo.find_file(first) is None


async def test_folders_come_whole(tmp_path: Path, source: Repo) -> None:
    """A folder with files in it is a root like any other, and what is sent again is the pin that it was."""
    folder = tmp_path / "folder" / "inside"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"{number}.dat").write_bytes(random.Random(number).randbytes(30_000))
    root = source.store_directory(tmp_path / "folder").cid
    async with pinning(tmp_path / "service") as served:
        for _ in range(2):
            assert roots(await send(served.clients["alice"], form(car_of(source, root)))) == {str(root): ""}
        (pin,) = await served.listed()
        assert served.node.repo.inventory.get(root) is not None
        assert (await served.clients["alice"].get(f"/pins/{pin}")).json()["status"] == "pinned"


async def test_figures_and_silence(tmp_path: Path, source: Repo) -> None:
    """`stats` has a line more, with blocks and bytes; `silent` has none; `pin-roots=false` pins nothing."""
    root = stored(source, 2_500_000)
    car = car_of(source, root)
    async with pinning(tmp_path / "service") as served:
        alice = served.clients["alice"]
        answer = lines(await send(alice, form(car), stats="true", **{"pin-roots": "false"}))
        assert len(answer) == 1
        figures = answer[0]["Stats"]
        assert figures["BlockCount"] == 4
        assert 2_500_000 < figures["BlockBytesCount"] < len(car)
        assert await served.listed() == []
        assert served.node.repo.find_file(root) is not None
        assert lines(await send(alice, form(car), silent="true", **{"allow-big-block": "true"})) == []
        assert len(await served.listed()) == 1


async def test_it_is_read_as_it_comes(tmp_path: Path, source: Repo) -> None:
    """Leaves are in their places while the rest is still on its way: no CAR file is held."""
    root = stored(source, 8_000_000)
    body = form(car_of(source, root))
    async with pinning(tmp_path / "service") as served:
        partial = served.node.repo.directory / "partial"

        async def slowly() -> AsyncIterator[bytes]:
            yield body[: len(body) // 2]
            with trio.fail_after(PATIENCE):
                while not any(each.stat().st_size for each in partial.iterdir()):  # noqa: ASYNC110 - a thread writes
                    await trio.sleep(0.01)
            yield body[len(body) // 2 :]

        alice = served.clients["alice"]
        answer = await alice.post("/api/v0/dag/import", content=slowly(), headers={"content-type": TYPE})
        assert roots(answer) == {str(root): ""}


# --- what does not ----------------------------------------------------------------------------------------------------


def check_refused(answer: httpx.Response, status: int, words: str) -> None:
    """It is refused, as Kubo's client reads it."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"Message", "Code", "Type"}
    assert words in answer.json()["Message"]


async def test_tokens_methods_and_forms(tmp_path: Path, source: Repo) -> None:
    """Without a token, by GET, and with what is no form, it is refused; a page of another origin may ask."""
    async with pinning(tmp_path / "service") as served:
        alice = served.clients["alice"]
        check_refused(await send(served.anybody, form(b"")), 401, "token")
        assert (await alice.get("/api/v0/dag/import")).status_code == 405
        assert (await served.anybody.options("/api/v0/dag/import")).status_code == 204
        assert (await alice.post("/api/v0/add")).status_code == 404
        check_refused(await alice.post("/api/v0/dag/import", content=b"x"), 400, "form")
        check_refused(await send(alice, form()), 400, "no file")
        check_refused(await send(alice, form(b"no CAR")), 400, "CAR")
        check_refused(await send(alice, form(), stats="maybe"), 400, "stats")
        check_refused(await send(alice, form(*[b""] * (limits.MAX_PARTS + 1))), 400, "")
        check_refused(await send(alice, form() + b"x" * 100), 400, "form")


async def test_broken_uploads_leave_nothing(tmp_path: Path, source: Repo) -> None:
    """Cut short, wrong blocks, blocks that are missing: no pin, and nothing that stays once it is let go."""
    root = stored(source, 3_000_000)
    car = car_of(source, root)
    wrong = bytearray(car)
    wrong[-1000] ^= 1
    async with pinning(tmp_path / "service") as served:
        alice = served.clients["alice"]
        check_refused(await send(alice, form(car)[:2_000_000]), 400, "")
        check_refused(await send(alice, form(car[:2_000_000])), 400, "")
        check_refused(await send(alice, form(bytes(wrong))), 400, "")
        only_root = car_with([root], [(root, source.get_block(root.multihash) or b"")])
        check_refused(await send(alice, form(only_root)), 400, "not in the CAR")
        check_refused(await send(alice, form(car_with([], []))), 400, "no root")
        assert await served.listed(status="queued,pinning,pinned,failed") == []
        await let_go(served)
        assert left_behind(served) == []
        assert served.node.repo.inventory.get(root) is None


async def test_who_goes_in_the_middle_leaves_nothing(tmp_path: Path, source: Repo) -> None:
    """A client that is gone before all was sent: what came is let go, and its place is free for others."""
    root = stored(source, 4_000_000)
    body = form(car_of(source, root))
    async with pinning(tmp_path / "service") as served:
        partial = served.node.repo.directory / "partial"
        for _ in range(limits.MAX_UPLOADS_EACH + 1):
            began = trio.Event()

            async def half(began: trio.Event = began) -> AsyncIterator[bytes]:
                yield body[: len(body) // 2]
                began.set()
                await trio.sleep_forever()

            async with (
                trio.open_nursery() as nursery,
                httpx.AsyncClient(
                    base_url=served.server.url, trust_env=False, headers=served.clients["alice"].headers
                ) as client,
            ):

                async def post(client: httpx.AsyncClient = client, content: AsyncIterator[bytes] | None = None) -> None:
                    await client.post("/api/v0/dag/import", content=content, headers={"content-type": TYPE})

                nursery.start_soon(post, client, half())
                await began.wait()
                with trio.fail_after(PATIENCE):
                    while not list(partial.iterdir()):  # noqa: ASYNC110 - a thread writes
                        await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            with trio.fail_after(PATIENCE):
                while list(partial.iterdir()):  # noqa: ASYNC110 - a thread removes it
                    await trio.sleep(0.01)
        assert left_behind(served) == []
        assert roots(await send(served.clients["alice"], body)) == {str(root): ""}


async def test_quotas_and_limits_hold(tmp_path: Path, source: Repo) -> None:
    """More than the quota has left is refused on the way, and what is over it by little when it is here; so is a file
    over the limit. What is not pinned counts, too."""
    small, large = stored(source, 400_000), stored(source, 3_000_000, 2)
    almost = stored(source, 700_000, 3)
    async with pinning(tmp_path / "service", {"alice": 1_000_000, "bob": None}, most_bytes=2_000_000) as served:
        alice, bob = served.clients["alice"], served.clients["bob"]
        check_refused(await send(alice, form(car_of(source, large))), 409, "quota")
        check_refused(await send(bob, form(car_of(source, large))), 413, "2000000")
        assert roots(await send(alice, form(car_of(source, small)))) == {str(small): ""}
        said = roots(await send(alice, form(car_of(source, almost))))
        assert "400000 of 1000000 bytes are used" in said[str(almost)]
        assert len(await served.listed(status="queued,pinning,pinned,failed")) == 1
        loose = await send(alice, form(car_of(source, stored(source, 500_000, 4))), **{"pin-roots": "false"})
        assert loose.status_code == 200
        check_refused(await send(alice, form(car_of(source, stored(source, 600_000, 5)))), 409, "quota")


async def test_uploads_side_by_side_cross_no_quota(tmp_path: Path, source: Repo) -> None:
    """Those that are sent at the same time are counted one after the other; too many at once are told to come again."""
    cars = [car_of(source, stored(source, 600_000, seed)) for seed in range(5)]
    async with pinning(tmp_path / "service", {"alice": 1_000_000}) as served:
        answers: list[httpx.Response] = []

        async def one(car: bytes) -> None:
            answers.append(await send(served.clients["alice"], form(car)))

        async with trio.open_nursery() as nursery:
            for car in cars:
                nursery.start_soon(one, car)
        assert {answer.status_code for answer in answers} <= {200, 409, 429}
        pinned = [
            each for answer in answers if answer.status_code == 200 for each in roots(answer).values() if not each
        ]
        assert len(pinned) == 1
        assert len(await served.listed()) == 1


async def test_hostile_heads(tmp_path: Path) -> None:
    """A header of a CAR, or of a part of the form, that is larger than any is refused before it is gathered."""
    async with pinning(tmp_path / "service") as served:
        alice = served.clients["alice"]
        check_refused(await send(alice, form(b"\xff\xff\xff\xff\x7f" + b"x" * 100_000)), 400, "")
        huge = form(b"").replace(b"Abspath: /tmp", b"Abspath: /tmp" + b"x" * (2 * limits.MAX_PART_HEAD))
        check_refused(await send(alice, huge), 400, "")
        unknown = CID(1, RAW, b"\x01\x05hello")
        check_refused(await send(alice, form(car_with([CID.parse(NOWHERE)], [(unknown, b"hello")]))), 400, "")
        assert left_behind(served) == []


def test_options() -> None:
    """As Go reads truth; what is not known is passed over."""
    assert read_options("stats&silent=1&pin-roots=F&x=y")["stats"] is True
    assert read_options("pin-roots=false")["pin-roots"] is False
    assert read_options("") == {"pin-roots": True, "silent": False, "stats": False, "allow-big-block": False}
    with pytest.raises(Refusal):
        read_options("stats=perhaps")


async def test_a_body_that_trickles(autojump_clock: object) -> None:
    """It loses its place, however often a byte comes; one that comes fast enough may take as long as it takes."""

    async def read(step: int, pause: float, steps: int) -> int:
        left = [steps]

        async def receive() -> dict[str, Any]:
            await trio.sleep(pause)
            left[0] -= 1
            return {"type": "http.request", "body": b"x" * step, "more_body": left[0] > 0}

        size = 0
        async with aclosing(Body({"headers": []}, receive).chunks()) as chunks:
            async for chunk in chunks:
                size += len(chunk)
        return size

    with pytest.raises(Refusal) as caught:
        await read(1, 1.0, 1000)
    assert caught.value.status == 408
    assert trio.current_time() < 2 * limits.UPLOAD_SECONDS
    assert await read(limits.UPLOAD_STEP, limits.UPLOAD_SECONDS / 2, 1000) == 1000 * limits.UPLOAD_STEP
