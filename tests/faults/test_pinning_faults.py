"""Services that are down, slow, out of money, lying or confused, lines that break, and processes that are killed.

In each of these nothing is lost, nothing is asked for twice, and the user is told what is wrong and what to do.
"""

from __future__ import annotations

import email.utils
import json
import logging
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.errors import DiskFull
from kachery_p2p.http import retry_after
from kachery_p2p.json_reader import json_or_none
from kachery_p2p.json_shapes import to_json
from kachery_p2p.pinning import OUTBOX_NAME, PinEntry, PinOutbox, PinService, answers, limits
from kachery_p2p.pinning.steps import Pauses
from kachery_p2p.pinning.worker import PinWorker
from kachery_p2p.repo.repo import Repo
from scripts.pinning_service import Fault, PinningService
from tests.faults.test_repo_faults import fill, small_disk
from tests.faults.test_routing_hostile import serving_tls
from tests.helpers.certificates import self_signed
from tests.helpers.patience import PATIENCE, until
from tests.helpers.pinning_helpers import (
    FAST,
    NAME,
    config,
    no_proxies,
    pin,
    row_that,
    row_that_was,
    serving,
    store,
    storing,
    wait_pinned,
    written_elsewhere,
)

__all__ = ["no_proxies", "small_disk"]

ROOT = Path(__file__).parents[2]
KINDS = pytest.mark.parametrize("kind", ["pinning", "rpc"])


def has_error(row: PinEntry) -> bool:
    return bool(row.last_error)


async def to_the_end(node: Any, cid: str) -> PinEntry:
    """The row when there is nothing more to wait for."""
    row = await wait_pinned(node, cid)
    return row


def asked(service: PinningService, kind: str = "pinning") -> int:
    """How often something was asked for at the service."""
    if kind == "pinning":
        return len(service.posts())
    return len([seen for seen in service.requests if seen.path == "/api/v0/dag/import"])


# --- services that fail ---------------------------------------------------------------------------------------------


@KINDS
async def test_down(tmp_path: Path, free_port: Callable[[], int], kind: str) -> None:
    """A service that is down is tried again after pauses, the user is told, and it goes on when it is back."""
    port = free_port()
    target = PinService(NAME, f"http://127.0.0.1:{port}", "a-token-of-the-test", kind)
    async with storing(tmp_path / "ours", [target]) as node:
        cid = await store(node, b"data")
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert (row.state in ("waiting", "uploading"), row.problem) == (True, "network")
        assert "cannot be reached" in row.last_error
        async with serving(tmp_path / "service", port) as service:
            assert (await to_the_end(node, cid)).state == "verified"
            assert asked(service, kind) == 1


async def test_slow(tmp_path: Path) -> None:
    """A request that the service takes, but answers too late, is found again instead of being made again."""
    pace = replace(FAST, request=2.0)
    async with (
        serving(tmp_path / "service") as service,
        storing(tmp_path / "ours", [config(service)], pace=pace) as node,
    ):
        cid = await store(node, b"data")
        service.faults.append(Fault("POST", "/pins", 202, delay=6.0, after=True))
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert (row.problem, row.last_error) == ("slow", "The pinning service lab did not answer in time.")
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service) == 1
        assert len(service.pins) == 1


REFUSALS = [
    (401, "unauthorized", "Make a new token"),
    (403, "forbidden", "token with the right to pin"),
    (404, "not_found", "Check its URL"),
    (409, "funds", "remove pins there"),
    (413, "too_large", "Use another service"),
    (400, "bad_request", "pin it again"),
]


@KINDS
@pytest.mark.parametrize(("status", "problem", "advice"), REFUSALS)
async def test_refusals(tmp_path: Path, kind: str, status: int, problem: str, advice: str) -> None:
    """What a service refuses is told apart, with what it says and what to do; nothing is sent until the user acts."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, kind)]) as node:
        cid = await store(node, b"data")
        path = "/pins" if kind == "pinning" else "/api/v0/dag/import"
        body = json.dumps({"error": {"reason": "A_REASON", "details": "of the service"}})
        service.faults.append(Fault("POST", path, status, body=body))
        await pin(node, cid)
        row = await to_the_end(node, cid)
        assert (row.state, row.problem) == ("refused", problem)
        assert f"status {status}" in row.last_error
        assert "A_REASON: of the service" in row.last_error
        assert advice in row.last_error
        assert asked(service, kind) == 1
        # The user has put it right, and says so by pinning again.
        await pin(node, cid)
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service, kind) == 2


async def test_a_wrong_token_is_not_tried_with_every_row(tmp_path: Path) -> None:
    """When a service does not take the token, all rows say so after one request; a new token brings them all there."""
    async with serving(tmp_path / "service") as service:
        async with storing(tmp_path / "ours", [replace(config(service), token="the-wrong-token")]) as node:
            cids = [await store(node, b"data %d" % n) for n in range(20)]
            written_elsewhere(node, cids[0], NAME)
            node.keeping.wake()
            await row_that(node, lambda row: row.state == "refused", cids[0])
            for cid in cids[1:]:
                written_elsewhere(node, cid, NAME)
            node.keeping.wake()
            for cid in cids:
                row = await row_that(node, lambda row: row.state == "refused", cid)
                assert "does not accept the token" in row.last_error
            assert len(service.requests) == 1
        async with storing(tmp_path / "ours", [config(service)]) as node:
            for cid in cids:
                assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service) == 20


@KINDS
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_too_many_requests(tmp_path: Path, kind: str, form: str) -> None:
    """Retry-After is obeyed, in either form; a date by the service's clock, which may be years away from ours."""
    there = time.time() - 5 * 365 * 86400
    headers = {"retry-after": "2"}
    if form == "date":
        headers = {"retry-after": email.utils.formatdate(there + 3, usegmt=True)}
        headers["date"] = email.utils.formatdate(there, usegmt=True)
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, kind)]) as node:
        cid = await store(node, b"data")
        path = "/pins" if kind == "pinning" else "/api/v0/dag/import"
        service.faults.append(Fault("POST", path, 429, headers))
        begun = trio.current_time()
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert row.problem == "rate"
        assert "too often" in row.last_error
        assert (await to_the_end(node, cid)).state == "verified"
        assert trio.current_time() - begun >= 2 > FAST.last
        assert asked(service, kind) == 2


@pytest.mark.parametrize("status", [500, 502, 503, 418])
async def test_server_errors(tmp_path: Path, status: int) -> None:
    """A service that fails is asked again later; one that only says so and has taken the request is not asked twice."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        cid = await store(node, b"data")
        service.faults.append(Fault("POST", "/pins", status, after=True, body="<html>oops</html>"))
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert f"status {status}" in row.last_error
        assert "html" not in row.last_error
        if status == 418:
            assert row.state == "refused"
            await pin(node, cid)
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service) == 1


@pytest.mark.parametrize(
    "body", ["<html><body>Welcome</body></html>", "{}", "[1]", '{"requestid": 5}', "", '{"count": 1, "results": 7}']
)
async def test_nonsense(tmp_path: Path, body: str) -> None:
    """An answer that is none is said to be one, and is no reason to ask a second time."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        cid = await store(node, b"data")
        service.faults.append(Fault("GET", "/pins", 200, body=body))
        service.faults.append(Fault("POST", "/pins", 200, body=body, after=True))
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert row.problem == "answer"
        assert "not a list of pins" in row.last_error
        await row_that_was(node, lambda row: "not the status of a pin" in row.last_error)
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service) == 1


# --- services that lie ----------------------------------------------------------------------------------------------


async def test_lying_about_pinned(tmp_path: Path) -> None:
    """A service that says `pinned` and does not give back a block is shown as claiming, never as verified."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        service.lie = True
        cid = await store(node, b"data")
        await pin(node, cid)
        row = await row_that_was(node, lambda row: row.tries >= 2)
        assert (row.state, row.claimed, row.verified) == ("pinned", True, None)
        assert "did not give back the block" in row.last_error
        # It turns out to be true after all.
        await trio.to_thread.run_sync(service.repo.store_bytes, b"data")
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service) == 1


async def test_an_endpoint_that_does_not_keep_what_it_took(tmp_path: Path) -> None:
    """An RPC endpoint that says it has pinned a root, and has no block of it, is shown as claiming."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, "rpc")]) as node:
        cid = await store(node, b"data")
        said = json.dumps({"Root": {"Cid": {"/": cid}, "PinErrorMsg": ""}})
        service.faults.append(Fault("POST", "/api/v0/dag/import", 200, body=said))
        await pin(node, cid)
        row = await row_that_was(node, lambda row: row.tries >= 2)
        assert (row.state, row.verified) == ("pinned", None)
        # It is sent everything once more; this endpoint keeps it then.
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service, "rpc") == 2


async def test_a_proof_that_cannot_be_had_now(tmp_path: Path) -> None:
    """When the line breaks between an upload and its proof, the proof is asked for again, and nothing sent again."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, "rpc")]) as node:
        cid = await store(node, b"data")
        service.faults.append(Fault("POST", "/api/v0/block/get", cut=True, count=2))
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert (row.state, row.problem) == ("pinned", "network")
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service, "rpc") == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('{"Root": {"Cid": {"/": "%s"}, "PinErrorMsg": "no room"}}', "could not pin it: no room"),
        ('{"Root": {"Cid": {"/": "bafkqaaa"}, "PinErrorMsg": ""}}', "did not say that"),
        ('{"Message": "merkledag: not found", "Type": "error"}', "merkledag: not found"),
        ("", "did not say that"),
    ],
)
async def test_an_import_that_goes_wrong_after_its_status(tmp_path: Path, said: str, told: str) -> None:
    """Status 200 is not success: only an object that names our root without an error is."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, "rpc")]) as node:
        cid = await store(node, b"data")
        body = said.replace("%s", cid)
        service.faults.append(Fault("POST", "/api/v0/dag/import", 200, body=body))
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert told in row.last_error
        assert (await to_the_end(node, cid)).state == "verified"


async def test_queued_for_ever(tmp_path: Path) -> None:
    """A root that stays in the queue is told to the user and still watched; should the service begin, all is well."""
    pace = replace(FAST, stuck=0.3, poll_stuck=0.1)
    async with (
        serving(tmp_path / "service") as service,
        storing(tmp_path / "ours", [config(service)], pace=pace) as node,
    ):
        service.stuck = True
        cid = await store(node, b"data")
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert (row.state, row.problem) == ("queued", "stuck")
        assert "in its queue for" in row.last_error
        service.start(next(iter(service.pins.values())))
        assert (await to_the_end(node, cid)).last_error == ""
        assert asked(service) == 1


async def test_queued_since_we_have_moved(tmp_path: Path) -> None:
    """Where the service was told addresses that are not ours any more, the request is replaced, not made again."""
    pace = replace(FAST, stuck=0.2, poll_stuck=0.1)
    async with serving(tmp_path / "service") as service:
        service.stuck = True
        async with storing(tmp_path / "ours", [config(service)], pace=pace) as node:
            cid = await store(node, b"data")
            await pin(node, cid)
            await row_that_was(node, lambda row: row.problem == "stuck")
            (old,) = service.pins
        moved = ["/ip4/127.0.0.2/tcp/0"]
        async with storing(tmp_path / "ours", [config(service)], pace=pace, listen=moved) as node:
            await until(lambda: old not in service.pins)
            (moved_pin,) = service.pins.values()
            assert moved_pin.origins == node.host.addresses()
            assert [seen.path for seen in service.posts()] == ["/pins", f"/pins/{old}"]


async def test_failed_then_fine(tmp_path: Path) -> None:
    """A request that failed is made again in place of the old one, with the reason shown meanwhile."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        service.fail = 2
        cid = await store(node, b"data")
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert row.state == "failed"
        assert "the disk of the service was full" in row.last_error
        assert (await to_the_end(node, cid)).state == "verified"
        assert len(service.pins) == 1
        assert asked(service) == 3


@pytest.mark.parametrize(
    "said",
    [
        "INSUFFICIENT_FUNDS: with its 1500000 bytes the quota would be crossed.",
        "INSUFFICIENT_FUNDS: it has at least 9000000 bytes; 8000000 are the most that one pin may have here.",
    ],
)
async def test_a_quota_that_is_seen_to_be_crossed_after_fetching(tmp_path: Path, said: str) -> None:
    """It is refused, as where that is known at once: it says why, nobody waits for it, it is not asked for again."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        service.fail, service.why = 1, said
        cid = await store(node, b"data")
        await pin(node, cid)
        row = await wait_pinned(node, cid)
        assert (row.state, row.problem) == ("refused", "funds")
        assert said.rstrip(".") in row.last_error
        assert asked(service) == 1
        assert row.next_try > time.time() + FAST.refused / 2
        # There is room now, and the user says so.
        await pin(node, cid)
        assert (await to_the_end(node, cid)).state == "verified"


async def test_a_service_that_cannot_replace(tmp_path: Path) -> None:
    """Where a failed request cannot be replaced, it is removed before a new one is made."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        service.fail = 1
        cid = await store(node, b"data")
        service.faults.append(Fault("POST", "/pins/", 405))
        await pin(node, cid)
        assert (await to_the_end(node, cid)).state == "verified"
        assert len(service.pins) == 1


async def test_a_service_that_forgets(tmp_path: Path) -> None:
    """A request that the service does not know any more is made again, and the user is told."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        service.stuck = True
        cid = await store(node, b"data")
        await pin(node, cid)
        await row_that(node, lambda row: row.state == "queued")
        service.stuck = False
        service.pins.clear()
        row = await row_that_was(node, has_error)
        assert "does not know its own request" in row.last_error
        assert (await to_the_end(node, cid)).state == "verified"


async def test_a_line_cut_while_sending(tmp_path: Path) -> None:
    """A CAR file that did not arrive whole is sent again from its beginning."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, "rpc")]) as node:
        data = random.Random(5).randbytes(20_000_000)
        cid = await store(node, data)
        service.faults.append(Fault("POST", "/api/v0/dag/import", cut=True, cut_at=3_000_000))
        await pin(node, cid, len(data))
        row = await row_that_was(node, has_error)
        assert row.problem == "network"
        assert "broke" in row.last_error
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service, "rpc") == 2


async def test_what_is_not_here_any_more_cannot_be_sent(tmp_path: Path) -> None:
    """A root of which a part is missing is said to be so, and is sent when it is here again."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service, "rpc")]) as node:
        data = random.Random(6).randbytes(3_000_000)
        stored = await trio.to_thread.run_sync(node.repo.store_bytes, data)
        cid = str(stored.cid)
        stored.path.unlink()
        node.repo.quarantine(stored.cid)
        node.repo.remove(stored.cid)
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert (row.state, row.problem) == ("failed", "local")
        assert "is missing or damaged. Load or store it again" in row.last_error
        assert asked(service, "rpc") == 0
        await trio.to_thread.run_sync(node.repo.store_bytes, data)
        await row_that(node, lambda row: row.state == "verified")


# --- our own machine ------------------------------------------------------------------------------------------------

_CLIENT = """
import sys, trio
from dataclasses import replace
from pathlib import Path
from kachery_p2p.pinning import PinService
from tests.helpers.pinning_helpers import pin, storing, store
async def main(folder, url, token, kind):
    async with storing(Path(folder), [PinService("lab", url, token, kind)]) as node:
        await pin(node, await store(node, b"data"))
        await trio.sleep_forever()
trio.run(main, *sys.argv[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process as POSIX does")
@KINDS
async def test_killed_between_request_and_answer(tmp_path: Path, kind: str) -> None:
    """A process that is killed when the service has taken its request, and not answered, makes no second one."""
    async with serving(tmp_path / "service") as service:
        service.stuck = True
        path = "/pins" if kind == "pinning" else "/api/v0/dag/import"
        service.faults.append(Fault("POST", path, after=True, hold=True))
        arguments = [str(tmp_path / "ours"), service.url, service.token, kind]
        process = await trio.lowlevel.open_process([sys.executable, "-c", _CLIENT, *arguments], cwd=ROOT)
        await until(lambda: bool(service.pins or service.rpc_pins))
        process.kill()
        await process.wait()
        async with storing(tmp_path / "ours", [config(service, kind)]) as node:
            if kind == "pinning":
                await row_that(node, lambda row: row.state == "queued")
                service.start(next(iter(service.pins.values())))
            (row,) = node.keeping.outbox.list()
            assert (await to_the_end(node, row.cid)).state == "verified"
        assert asked(service, kind) == 1
        assert len(service.pins) + len(service.rpc_pins) == 1


@pytest.mark.skipif(os.name != "posix", reason="kills a process as POSIX does")
def test_killed_while_adding(tmp_path: Path) -> None:
    """What `add` has returned for is there after kill -9, all of it; the file is sound."""
    path = tmp_path / OUTBOX_NAME
    code = (
        "import sys; from pathlib import Path; from kachery_p2p.pinning import PinOutbox\n"
        "from kachery_p2p.dag.cid import CID, hash_block\n"
        "outbox = PinOutbox(Path(sys.argv[1]))\n"
        "for n in range(100000):\n"
        "    outbox.add(CID(1, 0x55, hash_block(0x12, b'%d' % n)), 'lab'); print(n, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(25):
            process.stdout.readline()
        process.kill()
        said = 25 + len(process.stdout.read().splitlines())
    assert len(PinOutbox(path).list()) in (said, said + 1)


@pytest.mark.parametrize("years", [-20, 20])
async def test_wrong_clock(tmp_path: Path, years: int) -> None:
    """A clock that was years off, either way, delays nothing once it is right."""
    wrong = [years * 365.0 * 86400]
    wall = lambda: time.time() + wrong[0]  # noqa: E731
    async with (
        serving(tmp_path / "service") as service,
        storing(tmp_path / "ours", [config(service)], wall=wall) as node,
    ):
        service.faults.append(Fault("GET", "/pins", 500))
        cid = await store(node, b"data")
        await pin(node, cid)
        await row_that_was(node, has_error)
        wrong[0] = 0.0
        node.keeping.wake()
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service) == 1


def test_a_full_disk_is_told_at_once(small_disk: Path) -> None:
    """Where a row cannot be written the call fails in words; what was written before is still there."""
    outbox = PinOutbox(small_disk / OUTBOX_NAME)
    outbox.add("bafkqaaa", "lab")
    filler = fill(small_disk, leave=0)

    def add_until_full() -> None:
        for n in range(5000):
            outbox.add("bafkqaaa", f"lab{n}", name="n" * 200)

    with pytest.raises(DiskFull, match="Free some space"):
        add_until_full()
    before = len(outbox.list())
    assert before >= 1
    filler.unlink()
    outbox.add("bafkqaaa", "another")
    assert len(outbox.list()) == before + 1
    outbox.close()


async def test_a_disk_that_is_full_when_the_answer_comes(small_disk: Path, tmp_path: Path) -> None:
    """When the service's answer cannot be written down, the request is found again later, not made again."""
    outbox = PinOutbox(small_disk / OUTBOX_NAME)
    filler: list[Path] = []
    with Repo.open(tmp_path / "ours") as repo:
        stored = repo.store_bytes(b"data")
        async with serving(tmp_path / "service") as service:
            service.stuck = True

            async def hold(cid: str, addrs: object) -> None:
                return None

            async def fetch_back(block: object, addrs: object) -> bool:
                return True

            worker = PinWorker(
                outbox,
                [config(service)],
                source=repo,
                origins=lambda: ["/ip4/127.0.0.1/tcp/9"],
                hold=hold,
                release=lambda cid: None,
                fetch_back=fetch_back,
                pace=FAST,
            )
            take = service.add

            def add_until_full() -> None:
                """Take the room that is left in pages that SQLite has already."""
                for n in range(5000):
                    outbox.add("bafkqaaa", f"other{n}", name="n" * 250)

            def take_and_fill(value: dict[str, Any], replaces: str = "") -> Any:
                """The disk fills up just when the service has taken the request."""
                pin = take(value, replaces)
                filler.append(fill(small_disk, leave=0))
                with pytest.raises(DiskFull):
                    add_until_full()
                return pin

            service.add = take_and_fill
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                outbox.add(stored.cid, NAME)
                worker.wake()
                await until(lambda: bool(worker.status()["error"]))
                assert "no room" in worker.status()["error"]
                entry = outbox.get(stored.cid, NAME)
                assert entry is not None
                assert (entry.state, entry.request_id) == ("waiting", "")
                filler[0].unlink()
                await until(lambda: bool(outbox.list(service=NAME)[0].request_id))
                nursery.cancel_scope.cancel()
            (entry,) = outbox.list(service=NAME)
            assert entry.state == "queued"
            assert entry.request_id == next(iter(service.pins))
            assert asked(service) == 1
    outbox.close()


# --- secrets and strangers ------------------------------------------------------------------------------------------


async def test_the_token_is_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A service that repeats the token in its errors does not get it into rows, logs or the status."""
    caplog.set_level(logging.DEBUG)
    secret = "hunter2-hunter2"
    async with serving(tmp_path / "service") as service:
        target = replace(config(service), token=secret)
        assert secret not in repr(target) + str(target)
        async with storing(tmp_path / "ours", [target]) as node:
            body = json.dumps({"error": {"reason": "BAD", "details": f"token Bearer {secret} is {secret}"}})
            service.faults += [Fault("GET", "/pins", 500, body=body), Fault("GET", "/pins", 401, body=body)]
            cid = await store(node, b"data")
            await pin(node, cid)
            first = await row_that_was(node, has_error)
            assert "(token)" in first.last_error
            last = await to_the_end(node, cid)
            assert last.state == "refused"
            shown = json.dumps([first.as_json(), last.as_json(), to_json(node.status())])
    assert secret not in shown + caplog.text
    assert secret.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "ours").glob("outbox*"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda v: (
            st.lists(v)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "requestid",
                        "status",
                        "pin",
                        "cid",
                        "delegates",
                        "info",
                        "status_details",
                        "results",
                        "count",
                        "error",
                        "Message",
                    ]
                )
                | st.text(),
                v,
            )
        ),
    )
)
def test_answers_of_strangers(value: Any) -> None:
    """Whatever JSON a service sends is read as a status, as words, or not at all; it never fails."""
    data = json.dumps(value).encode()
    parsed = json_or_none(data)
    answers.pin_status(parsed)
    answers.pin_list(parsed)
    words = answers.said(data)
    assert len(words) <= 2 * limits.MAX_WORDS + 20
    assert words.isprintable()


@given(st.text(), st.text(), st.floats(0, 1e12))
def test_retry_after_of_strangers(value: str, date: str, wall: float) -> None:
    """Whatever Retry-After says, the pause is some seconds up to a day, or none."""
    pause = retry_after({"retry-after": value, "date": date}, wall, longest=limits.MAX_RETRY_AFTER)
    assert pause is None or 0 <= pause <= limits.MAX_RETRY_AFTER


async def test_a_service_must_prove_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token does not go to a server whose certificate nobody vouches for."""
    tokens: list[str] = []

    def answer(request: Any) -> None:
        tokens.append(request.headers["authorization"])
        request.send('{"error": {"reason": "ENOUGH"}}', 403)

    certificate = self_signed(tmp_path)
    with serving_tls(certificate, answer) as url:
        for vouched in (False, True):
            if vouched:
                monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            async with storing(tmp_path / "ours", [PinService(NAME, url, "the-token")]) as node:
                cid = await store(node, b"data")
                await pin(node, cid)
                with trio.fail_after(PATIENCE):
                    row = await row_that_was(node, has_error if not vouched else lambda row: row.state == "refused")
            assert ("certificate" in row.last_error) is not vouched
            assert tokens == ["Bearer the-token"] * vouched


async def test_a_list_with_the_pins_of_others(tmp_path: Path) -> None:
    """A service that passes over the filter names other roots too; none of them is taken for ours."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        service.lie = True
        service.add({"cid": "bafkqaaa"})
        others = json.dumps({"count": 1, "results": [service.shown(pin) for pin in service.pins.values()]})
        service.lie = False
        service.faults.append(Fault("GET", "/pins", 200, body=others))
        cid = await store(node, b"data")
        await pin(node, cid)
        assert (await to_the_end(node, cid)).state == "verified"
        assert asked(service) == 1


async def test_an_answer_without_end(tmp_path: Path) -> None:
    """An answer larger than any is not read to its end."""
    async with serving(tmp_path / "service") as service, storing(tmp_path / "ours", [config(service)]) as node:
        service.faults.append(Fault("GET", "/pins", 200, body=" " * (3 * limits.MAX_ANSWER_SIZE)))
        cid = await store(node, b"data")
        await pin(node, cid)
        row = await row_that_was(node, has_error)
        assert "more than" in row.last_error
        assert (await to_the_end(node, cid)).state == "verified"


def test_pauses_grow_and_end() -> None:
    """Each pause is about twice the one before, with chance in it, and none is longer than the longest."""
    after = Pauses(limits.WorkerPace(), random.Random(1))
    pauses = [after.later(n) for n in range(40)]
    for n, pause in enumerate(pauses):
        ideal = min(5.0 * 2**n, 900.0)
        assert 0.75 * ideal <= pause <= 1.25 * ideal
    assert len(set(pauses)) == 40
    assert all(map(math.isfinite, pauses))
