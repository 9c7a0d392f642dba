"""What is kept for others, for how long, and how much: quotas, limits, several who want the same, the user's own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from kachery_p2p.access.audience import PRIVATE
from kachery_p2p.dag.cid import CID
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.repo.kept_rows import LOADED, PINNED, STORED
from tests.helpers.pin_server import HASTY, NOWHERE, Served, nowhere, origin, pinning

KIB = 1024


async def settled(served: Served, gone: str) -> None:
    """Wait until a root is not here any more."""
    while served.node.repo.inventory.get(CID.parse(gone)) is not None:
        with trio.move_on_after(0.1):
            await served.server.queue.changes.wait(served.server.queue.changes.count)


def how(served: Served, cid: str) -> int | None:
    """As what a root is kept."""
    found = served.node.repo.inventory.get(CID.parse(cid))
    return None if found is None else found.how


# --- who else wants it ------------------------------------------------------------------------------------------------


async def test_a_root_stays_while_another_token_has_it_pinned(tmp_path: Path) -> None:
    """It goes with the last pin of it, whoever has that."""
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        cid = await theirs.store(b"for both" * 1000)
        hers, his = [await served.pin(cid, who, origins=[theirs.addr]) for who in ("alice", "bob")]
        await served.become(hers, "pinned")
        await served.become(his, "pinned", who="bob")
        await served.clients["alice"].delete(f"/pins/{hers}")
        # The queue has looked at what is to be let go when it has pinned another.
        other = await served.pin(await theirs.store(b"other"), origins=[theirs.addr])
        await served.become(other, "pinned")
        assert how(served, cid) == PINNED
        await served.clients["bob"].delete(f"/pins/{his}")
        await settled(served, cid)
        assert how(served, str((await served.become(other, "pinned"))["pin"]["cid"])) == PINNED


async def test_what_the_user_has_stored_stays(tmp_path: Path) -> None:
    """Here before the pin, or stored while it was pinned: it stays as the user's when the pin goes."""
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        before, meanwhile = b"before" * 1000, b"meanwhile" * 1000
        repo = served.node.repo
        first = str((await trio.to_thread.run_sync(repo.store_bytes, before)).cid)
        second = await theirs.store(meanwhile)
        pins = [await served.pin(cid, origins=[theirs.addr]) for cid in (first, second)]
        for each in pins:
            await served.become(each, "pinned")
        assert how(served, first) == STORED | PINNED
        await trio.to_thread.run_sync(repo.store_bytes, meanwhile)
        for each in pins:
            await served.clients["alice"].delete(f"/pins/{each}")
        while not how(served, first) == how(served, second) == STORED:
            with trio.move_on_after(0.1):
                await served.server.queue.changes.wait(served.server.queue.changes.count)
        assert repo.path_for(CID.parse(second)).read_bytes() == meanwhile


async def test_what_the_user_loads_meanwhile_stays(tmp_path: Path) -> None:
    """A root that others have pinned and the user uses is the user's, too."""
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        cid = await theirs.store(b"wanted here, too" * 1000)
        made = await served.pin(cid, origins=[theirs.addr])
        await served.become(made, "pinned")
        await trio.to_thread.run_sync(served.node.repo.inventory.use, CID.parse(cid))
        assert how(served, cid) == LOADED | PINNED
        await served.clients["alice"].delete(f"/pins/{made}")
        while how(served, cid) != LOADED:
            with trio.move_on_after(0.1):
                await served.server.queue.changes.wait(served.server.queue.changes.count)


async def test_a_pin_that_is_deleted_while_it_is_fetched(tmp_path: Path) -> None:
    """It is fetched no more, and others have its place."""
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        stuck = [await served.pin(nowhere(number)) for number in range(4)]
        for each in stuck:
            await served.become(each, "pinning")
        waits = await served.pin(await theirs.store(b"waits"), origins=[theirs.addr])
        assert (await served.become(waits, "queued", "pinning"))["status"] == "queued"
        await served.clients["alice"].delete(f"/pins/{stuck[1]}")
        assert (await served.become(waits, "pinned", "failed"))["status"] == "pinned"


async def test_nobody_waits_for_all_that_another_has_queued(tmp_path: Path) -> None:
    """A place that is free goes to those of whom least is fetched."""
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        many = [await served.pin(nowhere(number)) for number in range(8)]
        his = await served.pin(await theirs.store(b"his"), "bob", origins=[theirs.addr])
        first = (await served.listed(status="pinning"))[0]
        assert first in many
        await served.clients["alice"].delete(f"/pins/{first}")
        assert (await served.become(his, "pinned", "failed", who="bob"))["status"] == "pinned"
        assert len(await served.listed(status="queued")) >= 3


# --- what cannot be pinned --------------------------------------------------------------------------------------------


async def test_what_nobody_has_fails_after_some_tries(tmp_path: Path) -> None:
    """The pin is failed then, and says why; what is tried again says so, too."""
    async with pinning(tmp_path, pace=HASTY) as served:
        done = await served.become(await served.pin(NOWHERE), "failed")
        assert NOWHERE in done["info"]["status_details"]
        assert how(served, NOWHERE) is None


async def test_what_is_no_file_fails_at_once(tmp_path: Path) -> None:
    """A block that nothing here can read is not tried again."""
    cbor = "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"
    async with pinning(tmp_path, pace=HASTY) as served:
        done = await served.become(await served.pin(cbor), "failed")
        assert done["info"]["status_details"]


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_what_is_larger_than_one_pin_may_be(tmp_path: Path, kind: str) -> None:
    """It fails with INSUFFICIENT_FUNDS, is not fetched whole, and leaves nothing here."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.dat").write_bytes(random.Random(number).randbytes(700 * KIB))
    async with pinning(tmp_path / "service", most_bytes=1024 * KIB) as served, origin(tmp_path / "origin") as theirs:
        if kind == "file":
            cid = await theirs.store(random.Random(9).randbytes(1025 * KIB))
        else:
            cid = await theirs.store_directory(folder)
        done = await served.become(await served.pin(cid, origins=[theirs.addr]), "pinned", "failed")
        assert done["status"] == "failed"
        assert done["info"]["status_details"].startswith("INSUFFICIENT_FUNDS")
        await settled(served, cid)
        enough = await served.pin(await theirs.store(b"x" * 1024 * KIB), origins=[theirs.addr])
        assert (await served.become(enough, "pinned", "failed"))["status"] == "pinned"


# --- quotas -----------------------------------------------------------------------------------------------------------


async def test_a_quota_that_is_used_up(tmp_path: Path) -> None:
    """409 with INSUFFICIENT_FUNDS for what is known to be too much; there is room again when a pin is deleted."""
    async with pinning(tmp_path / "service", {"alice": 10 * KIB}) as served, origin(tmp_path / "origin") as theirs:
        cid = await theirs.store(random.Random(1).randbytes(10 * KIB))
        made = await served.pin(cid, origins=[theirs.addr])
        await served.become(made, "pinned")
        answer = await served.post(NOWHERE)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (409, "INSUFFICIENT_FUNDS")
        assert (await served.post(cid)).status_code == 202  # the same root takes nothing more
        replaced = await served.clients["alice"].post(f"/pins/{made}", json={"cid": cid})
        assert replaced.status_code == 202
        for each in await served.listed(status="queued,pinning,pinned"):
            await served.clients["alice"].delete(f"/pins/{each}")
        assert (await served.post(NOWHERE)).status_code == 202


@pytest.mark.parametrize("known", [False, True])
async def test_requests_at_the_same_time_do_not_cross_the_quota(tmp_path: Path, known: bool) -> None:
    """Of twelve that come at once and of which five fit, five are pinned, whether their size is known or not."""
    size = 20 * KIB
    async with (
        pinning(tmp_path / "service", {"alice": 5 * size + 7, "bob": None}) as served,
        origin(tmp_path / "origin") as theirs,
    ):
        cids = [await theirs.store(random.Random(seed).randbytes(size)) for seed in range(12)]
        if known:
            for cid in cids:
                await served.become(await served.pin(cid, "bob", origins=[theirs.addr]), "pinned", who="bob")
        taken: list[str] = []
        refused: list[int] = []

        async def ask(cid: str) -> None:
            answer = await served.post(cid, origins=[theirs.addr])
            if answer.status_code == 202:
                taken.append(answer.json()["requestid"])
            else:
                refused.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for cid in cids:
                nursery.start_soon(ask, cid)
        ends = [(await served.become(each, "pinned", "failed"))["status"] for each in taken]
        assert ends.count("pinned") == 5
        assert set(refused) <= {409}
        if known:
            assert len(refused) == 7
        (alice,) = [each for each in served.store.tokens() if each.name == "alice"]
        assert alice.used == 5 * size


# --- beginning anew ---------------------------------------------------------------------------------------------------


async def test_a_service_that_begins_anew_goes_on(tmp_path: Path) -> None:
    """What is pinned is there, and what was queued, or fetched when it ended, is done."""
    async with origin(tmp_path / "origin") as theirs:
        first, second = await theirs.store(b"first" * 1000), await theirs.store(b"second" * 1000)
        async with pinning(tmp_path / "service") as served:
            tokens = {
                name: client.headers["authorization"].removeprefix("Bearer ") for name, client in served.clients.items()
            }
            pinned = await served.pin(first, origins=[theirs.addr])
            await served.become(pinned, "pinned")
            waits = await served.pin(NOWHERE)
            await served.become(waits, "pinning")
        store = served.store
        row = store.get(next(each for each in store.tokens() if each.name == "alice"), waits)
        assert row is not None
        assert row.status == "pinning"  # as after a kill
        async with pinning(tmp_path / "service", tokens=tokens) as served:
            assert (await served.become(pinned, "pinned", "failed"))["status"] == "pinned"
            await served.become(waits, "pinning")
            more = await served.pin(second, origins=[theirs.addr])
            await served.become(more, "pinned")


async def test_what_was_removed_by_hand_is_fetched_again(tmp_path: Path) -> None:
    """The user removes what is pinned, with or without a service running: it comes back."""
    async with origin(tmp_path / "origin") as theirs:
        cid = await theirs.store(b"removed" * 1000)
        async with pinning(tmp_path / "service") as served:
            tokens = {"alice": served.clients["alice"].headers["authorization"].removeprefix("Bearer ")}
            made = await served.pin(cid, origins=[theirs.addr])
            await served.become(made, "pinned")
            await trio.to_thread.run_sync(served.node.repo.remove, CID.parse(cid))
            await served.server.queue.lost([CID.parse(cid)])
            await served.become(made, "pinned")
            while how(served, cid) != PINNED:
                await served.server.queue.changes.wait(served.server.queue.changes.count)
            await trio.to_thread.run_sync(served.node.repo.remove, CID.parse(cid))
        async with pinning(tmp_path / "service", tokens=tokens) as served:
            await served.become(made, "pinned")
            assert how(served, cid) == PINNED


async def test_what_is_pinned_is_served_to_others(tmp_path: Path) -> None:
    """A third machine loads it from the delegates when the one that had it is gone."""
    data = b"for a third" * 10_000
    async with pinning(tmp_path / "service") as served:
        async with origin(tmp_path / "origin") as theirs:
            cid = await theirs.store(data)
            done = await served.become(await served.pin(cid, origins=[theirs.addr]), "pinned")
        async with origin(tmp_path / "third") as third:
            loaded = await third.node.load(LoadRequest(CID.parse(cid), providers=tuple(done["delegates"])))
            assert Path(loaded.path or "").read_bytes() == data


async def test_a_full_disk_makes_pins_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not failed: there may be room again."""
    from kachery_p2p.errors import DiskFull
    from kachery_p2p.node.pin_server import PinKeeper

    fetch, calls = PinKeeper.fetch, 0

    async def full_once(self: PinKeeper, *args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DiskFull("no room")
        await fetch(self, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(PinKeeper, "fetch", full_once)
    async with pinning(tmp_path / "service") as served, origin(tmp_path / "origin") as theirs:
        made = await served.pin(await theirs.store(b"waits for room"), origins=[theirs.addr])
        assert (await served.become(made, "pinned", "failed"))["status"] == "pinned"
        assert calls == 2


async def test_what_is_here_for_some_alone_cannot_be_pinned(tmp_path: Path) -> None:
    """It is as if nobody had it; its size is not told, and it stays for whom it was."""
    async with pinning(tmp_path, pace=HASTY) as served:
        repo = served.node.repo
        stored = await trio.to_thread.run_sync(lambda: repo.store_bytes(b"for us alone" * 1000, audience=PRIVATE))
        done = await served.become(await served.pin(str(stored.cid)), "pinned", "failed")
        assert done["status"] == "failed"
        assert "raw_size" not in done["info"]
        assert repo.access.audience_of(stored.cid) == PRIVATE
        assert how(served, str(stored.cid)) == STORED
