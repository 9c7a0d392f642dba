"""Pinning from end to end: our node, a service that really fetches, and a colleague who loads when we are away."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

from kachery_cloud.commands.pins_text import pin_lines
from kachery_cloud.pinning import on_their_way
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidPinService, PinTooLarge
from kachery_p2p.node.messages import LoadRequest, WaitPinnedRequest
from kachery_p2p.pinning import OUTBOX_NAME, PinOutbox, PinService
from scripts.pinning_service import Fault
from tests.helpers.patience import PATIENCE, until
from tests.helpers.pinning_helpers import (
    NAME,
    config,
    no_proxies,
    pin,
    row_that,
    serving,
    store,
    storing,
    unpin,
    wait_pinned,
    written_elsewhere,
)
from tests.helpers.transport_helpers import is_protected

__all__ = ["no_proxies"]

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", ["pinning", "rpc"])
async def test_a_file_is_loaded_while_the_machine_that_stored_it_is_away(tmp_path: Path, kind: str) -> None:
    """Store, pin, switch the storer off: a colleague loads the same bytes from the service, whichever way they went."""
    data = random.Random(1).randbytes(3_500_000)
    async with serving(tmp_path / "service") as service:
        async with storing(tmp_path / "ours", [config(service, kind)]) as node:
            stored = await trio.to_thread.run_sync(node.repo.store_bytes, data)
            await pin(node, str(stored.cid), len(data), "session.nwb")
            row = await wait_pinned(node, str(stored.cid))
            assert (row.state, row.last_error) == ("verified", "")
        async with storing(tmp_path / "colleague", []) as colleague:
            loaded = await colleague.load(LoadRequest(stored.cid, providers=(service.addr,)))
            assert Path(loaded.path or "").read_bytes() == data


@pytest.mark.parametrize("kind", ["pinning", "rpc"])
async def test_a_directory_is_pinned_whole(tmp_path: Path, kind: str) -> None:
    """A directory goes to a service with all that is in it."""
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "small.txt").write_text("small")
    (folder / "deep" / "big.dat").write_bytes(random.Random(2).randbytes(2_500_000))
    async with serving(tmp_path / "service") as service:
        async with storing(tmp_path / "ours", [config(service, kind)]) as node:
            stored = await trio.to_thread.run_sync(node.repo.store_directory, folder)
            await pin(node, str(stored.cid))
            row = await wait_pinned(node, str(stored.cid))
            assert (row.state, row.last_error) == ("verified", "")
        async with storing(tmp_path / "colleague", []) as colleague:
            loaded = await colleague.load(LoadRequest(stored.cid, ("deep", "big.dat"), providers=(service.addr,)))
            assert Path(loaded.path or "").read_bytes() == (folder / "deep" / "big.dat").read_bytes()


async def test_however_often_it_is_stored_it_is_asked_for_once(tmp_path: Path) -> None:
    """The same root again and again, in either form of its CID, is one row and one request."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        stored = await trio.to_thread.run_sync(lambda: node.repo.store_bytes(b"x" * 600_000, profile="unixfs-v0-2015"))
        for cid in (str(stored.cid), str(stored.cid.to_v1()), str(stored.cid)):
            await pin(node, cid)
        await wait_pinned(node, str(stored.cid))
        await pin(node, str(stored.cid))
        assert len(node.keeping.outbox.list()) == 1
        assert len(service.posts()) == 1


@pytest.mark.parametrize("kind", ["pinning", "rpc"])
async def test_what_was_deleted_at_the_service_is_asked_for_anew(tmp_path: Path, kind: str) -> None:
    """Stored again, it is there again: nobody is told that it is there because it was."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, kind)]) as node:
        cid = await store(node, b"data")
        await pin(node, cid)
        await wait_pinned(node, cid)
        service.pins.clear()
        service.rpc_pins.clear()
        await pin(node, cid)
        row = await wait_pinned(node, cid)
        assert row.state == "verified"
        there = [each.cid for each in service.pins.values()] if kind == "pinning" else list(service.rpc_pins)
        assert there == [cid]


async def test_a_deletion_is_not_undone_unasked(tmp_path: Path) -> None:
    """What somebody deleted at the service stays deleted, until it is stored again; also when the node begins anew."""
    async with serving(tmp_path / "service") as service:
        async with storing(tmp_path / "ours", [config(service)]) as node:
            cid = await store(node, b"data")
            await pin(node, cid)
            await wait_pinned(node, cid)
        service.pins.clear()
        before = len(service.requests)
        async with storing(tmp_path / "ours", [config(service)]) as node:
            other = await store(node, b"other")
            await pin(node, other)
            await wait_pinned(node, other)
        assert [each.cid for each in service.pins.values()] == [other]
        assert not [seen for seen in service.requests[before:] if cid in str((seen.path, seen.query, seen.body))]


async def test_stored_again_unchanged(tmp_path: Path) -> None:
    """One question, to which the service says that it has it: no block is fetched back again."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        cid = await store(node, b"data")
        await pin(node, cid)
        first = await wait_pinned(node, cid)
        before = len(service.requests)
        await pin(node, cid)
        again = await wait_pinned(node, cid)
        assert (again.state, again.verified) == ("verified", first.verified)
        assert [seen.method for seen in service.requests[before:]] == ["GET"]
        # Where it is to be verified, a block comes back again.
        assert node.keeping.outbox.doubt(cid, NAME)
        proven = await wait_pinned(node, cid)
        assert proven.state == "verified"
        assert (proven.verified or 0) > (first.verified or 0)
        assert len(service.posts()) == 1


@pytest.mark.parametrize("kind", ["pinning", "rpc"])
async def test_who_only_wants_to_know_brings_nothing_back(tmp_path: Path, kind: str) -> None:
    """It is seen to be there, or to be gone; when the service is away, it is as it was, and looked at no more."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, kind)]) as node:
        box = node.keeping.outbox
        cid = await store(node, b"data")
        await pin(node, cid)
        first = await wait_pinned(node, cid)
        assert box.doubt(cid, NAME, anew=False)
        second = await wait_pinned(node, cid)
        assert second.state == "verified"
        assert (second.verified or 0) > (first.verified or 0)
        service.faults.append(Fault(cut=True, count=1_000_000))
        assert box.doubt(cid, NAME, anew=False)
        away = await wait_pinned(node, cid)
        assert (away.state, away.verified, away.last_error) == ("verified", second.verified, "")
        service.faults.clear()
        service.pins.clear()
        service.rpc_pins.clear()
        # A service that was away rests for a moment, and is not asked in it.
        while (gone := await wait_pinned(node, cid)).state == "verified":
            assert box.doubt(cid, NAME, anew=False)
        assert (gone.state, gone.problem, gone.verified) == ("refused", "gone", None)
        assert pin_lines([gone])[0].startswith("gone ")
        assert not service.pins
        assert not service.rpc_pins
        # Whoever wants it there says so.
        await pin(node, cid)
        assert (await wait_pinned(node, cid)).state == "verified"


@pytest.mark.parametrize("rows", [1, 3])
async def test_stored_again_while_the_service_is_away(tmp_path: Path, rows: int) -> None:
    """Nobody waits for it, and none is told more than what was seen; when it is back, it is verified as before."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        cids = [await store(node, b"data %d" % number) for number in range(rows)]
        for cid in cids:
            await pin(node, cid)
            await wait_pinned(node, cid)
        service.faults.append(Fault(cut=True, count=1_000_000))
        for cid in cids:
            await pin(node, cid)
        for cid in cids:
            (row,) = await node.keeping.wait_pinned(WaitPinnedRequest(CID.parse(cid), False))
            assert (row.state, row.problem) == ("pinned", "network")
            assert row.verified is not None
            (said,) = on_their_way([row])
            assert "could not be seen now" in said
        service.faults.clear()
        for cid in cids:
            assert (await wait_pinned(node, cid)).state == "verified"
        assert len(service.posts()) == rows


async def test_the_request_is_the_one_of_the_specification(tmp_path: Path) -> None:
    """The token in its header; CID, name, metadata and our dialable addresses in the body; its peers dialled."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        cid = await store(node, b"data")
        service.stuck = True
        await pin(node, cid, name="n" * 300, meta={"app": "kachery"})
        await row_that(node, lambda row: row.state == "queued")
        (seen,) = service.posts()
        assert seen.headers["authorization"] == f"Bearer {service.token}"
        assert seen.body == {
            "cid": cid,
            "name": "n" * 255,
            "origins": node.host.addresses(),
            "meta": {"app": "kachery"},
        }
        peer = service.node.host.peer_id
        await until(lambda: is_protected(node.host, peer))
        assert peer in node.host.connected()
        service.pins[next(iter(service.pins))].status = "pinned"
        service.repo.put_blocks([(CID.parse(cid), b"data")])
        await row_that(node, lambda row: row.state == "verified")
        assert not is_protected(node.host, peer)


@pytest.mark.parametrize("kind", ["pinning", "rpc"])
async def test_removal(tmp_path: Path, kind: str) -> None:
    """What is unpinned is gone at the service, and can be pinned again."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, kind)]) as node:
        cid = await store(node, b"data")
        await pin(node, cid)
        await wait_pinned(node, cid)
        assert service.pins or service.rpc_pins
        assert await unpin(node, cid)
        row = await wait_pinned(node, cid)
        assert row.state == "removed"
        assert not service.pins
        assert not service.rpc_pins
        assert node.keeping.outbox.list() == []
        assert not await unpin(node, cid)
        await pin(node, cid)
        row = await wait_pinned(node, cid)
        assert row.state == "verified"


async def test_what_was_never_asked_for_is_removed_without_a_request(tmp_path: Path) -> None:
    """A row that no service has heard of just goes."""
    async with storing(tmp_path / "ours", [PinService("other", "http://127.0.0.1:9")]) as node:
        written_elsewhere(node, await store(node, b"data"), "gone")
        (row,) = node.keeping.outbox.list()
        assert await unpin(node, row.cid, "gone")
        assert node.keeping.outbox.list() == []


async def test_a_limit_is_checked_before_anything_is_sent(tmp_path: Path) -> None:
    """More than the limit of a service is refused with what to do instead, also for a row of another process."""
    async with serving(tmp_path / "service") as service:
        target = config(service, max_bytes=1000)
        async with storing(tmp_path / "ours", [target]) as node:
            cid = await store(node, b"x" * 1001)
            with pytest.raises(PinTooLarge, match=r"1,001 bytes, and at most 1,000 .* own"):
                target.check_size(1001, cid)
            written_elsewhere(node, cid, NAME, size=1001)
            node.keeping.wake()
            row = await row_that(node, lambda row: row.state == "refused")
            assert row.problem == "over_limit"
            assert service.requests == []


async def test_redirects_within_the_service_are_followed(tmp_path: Path) -> None:
    """A service that moves a path keeps its token; one that leads to another host does not get it there."""
    async with serving(tmp_path / "service") as service, serving(tmp_path / "other") as other:
        target = config(service)
        async with storing(tmp_path / "ours", [target]) as node:
            cid = await store(node, b"data")
            service.faults.append(Fault("GET", "/pins", 307, {"location": "/pins?again=1&cid=" + cid}))
            await pin(node, cid)
            await wait_pinned(node, cid)
            assert all(seen.headers.get("authorization") for seen in service.requests)

            cid = await store(node, b"more data")
            service.faults.append(Fault("GET", "/pins", 307, {"location": other.url + "/pins"}))
            await pin(node, cid)
            row = await row_that(node, lambda row: row.state == "refused", cid)
            assert f"{other.url}, and the token is not sent to another host or port" in row.last_error
            assert other.requests == []


async def test_from_where_nobody_can_dial_in(tmp_path: Path) -> None:
    """A machine that has no address others could dial dials the service's peers, and the data goes over that."""
    data = random.Random(3).randbytes(2_200_000)
    async with serving(tmp_path / "service") as service:
        target = config(service)
        async with storing(tmp_path / "ours", [target], listen=[]) as node:
            cid = await store(node, data)
            await pin(node, cid)
            row = await wait_pinned(node, cid)
            assert (row.state, row.last_error) == ("verified", "")
            assert service.posts()[0].body["origins"] == [f"/p2p/{node.host.peer_id}"]


@pytest.mark.parametrize("told", ["nothing", "an old address"])
async def test_a_service_behind_a_firewall_of_its_own(tmp_path: Path, told: str) -> None:
    """A service whose peers nobody can dial fetches from us all the same, and its gateway gives the proof."""
    async with serving(tmp_path / "service") as service:
        service.delegates = [] if told == "nothing" else [f"/ip4/127.0.0.1/tcp/9/p2p/{service.node.host.peer_id}"]
        target = config(service, gateway=service.url)
        async with storing(tmp_path / "ours", [target]) as node:
            cid = await store(node, b"data")
            await pin(node, cid)
            row = await wait_pinned(node, cid)
            assert (row.state, row.last_error) == ("verified", "")
        assert all("authorization" not in seen.headers for seen in service.requests if seen.path.startswith("/ipfs/"))


async def test_a_proxy_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go through the proxy that the environment names, and not where NO_PROXY says so."""
    async with serving(tmp_path / "service") as service, serving(tmp_path / "proxy") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        for exempt in (False, True):
            monkeypatch.setenv("NO_PROXY", "127.0.0.1" if exempt else "")
            target = config(service)
            async with storing(tmp_path / f"ours-{exempt}", [target]) as node:
                cid = await store(node, b"data %d" % exempt)
                await pin(node, cid)
                await row_that(node, lambda row: row.state == "verified" or bool(row.last_error))
            assert bool(service.requests) == exempt
            assert bool(proxy.requests)


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"name": "a b"}, "name of a pinning service"),
        ({"kind": "s3"}, "There are 'pinning'"),
        ({"url": "ftp://example.org"}, "cannot be the URL"),
        ({"url": "https://user:secret@example.org"}, "as the token"),
        ({"url": "https://example.org/?token=secret"}, "has a '.' or '#'"),
        ({"url": "https://[::1"}, "does not parse"),
        ({"token": "secret secret"}, "Copy it again"),
        ({"token": "secret\n"}, "Copy it again"),
        ({"token": "basic:secret"}, "a colon and a password"),
        ({"max_bytes": -1}, "negative"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, object], wrong: str) -> None:
    """Each is an error that says what is wrong with which service; the token is not in it."""
    whole: dict[str, object] = {"name": NAME, "url": "https://pins.example.org", **values}
    with pytest.raises(InvalidPinService, match=wrong) as caught:
        PinService(**whole)  # pyright: ignore[reportArgumentType]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("pinning", "https://a.example/v1/ipfs"),
        ("pinning", "https://a.example/v1/ipfs/pins/"),
        ("rpc", "https://a.example/v1/ipfs/api/v0"),
    ],
)
def test_urls_are_taken_as_people_write_them(kind: str, url: str) -> None:
    """With or without the end that every service has."""
    assert PinService(NAME, url, kind=kind).url == "https://a.example/v1/ipfs"


def test_rows_of_many_processes(tmp_path: Path) -> None:
    """Processes and threads that add rows at the same time all succeed, and each row is there once."""
    code = (
        "import sys; from pathlib import Path; from kachery_p2p.pinning import PinOutbox\n"
        "from kachery_p2p.dag.cid import CID, hash_block\n"
        "outbox = PinOutbox(Path(sys.argv[1]))\n"
        "for n in range(40): outbox.add(CID(1, 0x55, hash_block(0x12, b'%d' % n)), 'lab')\n"
    )
    path = tmp_path / OUTBOX_NAME
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT) for _ in range(4)]
    outbox = PinOutbox(path)
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda n: outbox.add("bafkqaaa", f"service{n % 3}"), range(60)))
    assert len(set(ids)) == 3
    assert [process.wait(PATIENCE) for process in processes] == [0] * 4
    assert len(outbox.list(service="lab")) == 40
    assert path.stat().st_mode & 0o777 == 0o600
    outbox.close()


async def test_what_the_user_decides_while_a_request_is_under_way_counts(tmp_path: Path) -> None:
    """A root that is unpinned before the service has answered is removed there as soon as its request is known."""
    async with serving(tmp_path / "service") as service:
        target = config(service)
        async with storing(tmp_path / "ours", [target]) as node:
            service.stuck = True
            cid = await store(node, b"data")
            service.faults.append(Fault("POST", "/pins", delay=0.5))
            await pin(node, cid)
            await until(lambda: bool(service.posts()))
            assert await unpin(node, cid)
            row = await wait_pinned(node, cid)
            assert row.state == "removed"
            assert len(service.posts()) == 1
            assert not service.pins
