"""What is done for one row of the outbox: one small step, written down before the next one is taken.

A step either moves its row on, and says when the next step is due, or raises ServiceError, and the worker puts the row
off. Steps of one row never run at the same time.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.pinning import blocks
from kachery_p2p.pinning.answers import NO_FUNDS, PinStatus, ServiceError
from kachery_p2p.pinning.blocks import Blocks, Sent
from kachery_p2p.pinning.limits import MAX_ADDRESSES, WorkerPace
from kachery_p2p.pinning.outbox import ASK_AGAIN, ONLY_LOOK, PinEntry, PinOutbox
from kachery_p2p.pinning.service import PinningClient
from kachery_p2p.pinning.upload import RpcClient

log = logging.getLogger("kachery_p2p.pinning")

#: (block, peers of the service) -> whether one of them gave the block.
FetchBack = Callable[[CID, Sequence[str]], Awaitable[bool]]
#: (root, addresses): dial the peers of a service, and keep the connections.
Hold = Callable[[str, Sequence[str]], Awaitable[None]]
#: Any service.
Client = PinningClient | RpcClient

#: Blocks that an RPC endpoint may fail to give back before it is sent everything once more.
_PROOFS = 3


class Pauses:
    """How long to wait after failures, with chance in it.

    Args:
        pace: see `WorkerPace`.
        rng: where chance comes from.
    """

    def __init__(self, pace: WorkerPace, rng: random.Random | None = None) -> None:
        self.pace = pace
        self._rng = rng or random.Random()

    def later(self, tries: int, *, first: float | None = None, last: float | None = None) -> float:
        """The pause after a number of failures, in seconds; `first` and `last` in place of those of the pace."""
        first, last = first or self.pace.first, last or self.pace.last
        return self.spread(min(first * 2 ** min(tries, 30), max(first, last)))

    def spread(self, seconds: float) -> float:
        """Up to a quarter more or less."""
        return seconds * self._rng.uniform(0.75, 1.25)


class Steps:
    """The steps of one worker. See `kachery_p2p.pinning.worker.PinWorker` for the other arguments.

    Args:
        written: called when a row has changed.
        pauses: after failures.
    """

    def __init__(
        self,
        outbox: PinOutbox,
        *,
        source: Blocks,
        origins: Callable[[], Sequence[str]],
        hold: Hold,
        release: Callable[[str], None],
        fetch_back: FetchBack,
        written: Callable[[], None],
        pauses: Pauses,
        wall: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._source = source
        self._origins = origins
        self._hold = hold
        self._release = release
        self._fetch_back = fetch_back
        self._written = written
        self._pauses = pauses
        self._pace = pauses.pace
        self._wall = wall
        self._rng = random.Random()
        self._held: dict[str, set[str]] = {}

    async def step(self, client: Client, entry: PinEntry, sent: Sent) -> None:
        """The next step for a row.

        Args:
            client: of the service.
            entry: the row.
            sent: told how far an upload is.

        Raises:
            ServiceError: the service could not be asked, or refuses.
            KacheryError: of this machine: the disk is full, or the root is not here.
        """
        cid = CID.parse(entry.cid)
        if entry.state == "removing":
            await self._remove(client, entry, cid)
        elif entry.state in ("waiting", "failed", "refused", "uploading"):
            client.service.check_size(entry.size, entry.name or entry.cid)
            if isinstance(client, RpcClient):
                await self._upload(client, entry, cid, sent)
            else:
                await self._ask(client, entry, cid)
        elif isinstance(client, PinningClient):
            await self._look(client, entry, cid)
        elif entry.next_try == ONLY_LOOK and not await client.is_pinned(cid):
            await self._gone(entry)
        elif entry.in_question and entry.next_try != ONLY_LOOK:
            await self._upload(client, entry, cid, sent)
        else:
            await self._prove(client, entry, cid)

    def stop(self) -> None:
        """Let go of all peers."""
        for cid in list(self._held):
            self._release(cid)

    async def write(self, entry: PinEntry, **values: Any) -> PinEntry | None:
        """Write down what came of a step; None when the user has decided otherwise meanwhile."""
        written = await trio.to_thread.run_sync(lambda: self._outbox.update(entry, **values))
        if written is not None and written.state != entry.state:
            log.info("%s at %s: %s", entry.cid, entry.service, written.state)
        self._written()
        return written

    # --- a pinning service ------------------------------------------------------------------------------------------

    async def _ask(self, client: PinningClient, entry: PinEntry, cid: CID) -> None:
        """Have a root pinned, unless that was asked for already."""
        if entry.asked:
            # The answer to a request was lost. The service may need a moment until it shows what it took.
            since = self._wall() - entry.asked
            await trio.sleep(self._pace.settle - since if 0 <= since < self._pace.settle else 0.0)
        known = await client.look_up(cid)
        as_meant = known is not None and all(known.meta.get(key) == word for key, word in entry.meta.items())
        if known is not None and known.status != "failed" and as_meant:
            await self._take(client, entry, cid, known)
            return
        origins = self._our_addresses()
        begun = await self.write(entry, asked=self._wall(), origins=origins)
        if begun is None:
            return
        status = await self._request(client, begun, cid, origins, known.request_id if known is not None else "")
        await self._take(client, begun, cid, status, new=True)

    async def _request(
        self, client: PinningClient, entry: PinEntry, cid: CID, origins: Sequence[str], replaces: str
    ) -> PinStatus:
        values: dict[str, Any] = {"name": entry.name, "origins": origins, "meta": entry.meta}
        if replaces:
            try:
                return await client.request(cid, **values, replaces=replaces)
            except ServiceError as error:
                # Some services cannot replace; then the old one has to go first, so that there is never a second one.
                if error.problem not in ("not_found", "bad_request"):
                    raise
                await client.remove(replaces)
        return await client.request(cid, **values)

    def _our_addresses(self) -> list[str]:
        return list(self._origins())[:MAX_ADDRESSES]

    async def _look(self, client: PinningClient, entry: PinEntry, cid: CID) -> None:
        """See how far a request is."""
        status = await client.status(cid, entry.request_id)
        if status is None:
            status = await client.look_up(cid)
        if status is None and entry.in_question and entry.next_try == ONLY_LOOK:
            await self._gone(entry)
            return
        if status is None:
            # Whoever has just stored it again does not wait for a pause; a service that forgets gets one.
            pause = 0.0 if entry.in_question else self._pauses.later(entry.tries)
            await self.write(
                entry,
                state="waiting",
                request_id="",
                asked=0.0,
                tries=entry.tries + 1,
                next_try=self._wall() + pause,
                verified=None,
                problem="gone",
                last_error=f"The pinning service {entry.service} does not know its own request any more. It is asked "
                "again.",
            )
            return
        await self._take(client, entry, cid, status)

    async def _gone(self, entry: PinEntry) -> None:
        """Write down that a service has a root no more, which nobody has asked it to keep again."""
        await self.write(
            entry,
            state="refused",
            request_id="",
            asked=0.0,
            verified=None,
            next_try=math.inf,
            problem="gone",
            last_error=f"The pinning service {entry.service} has this no more: it was deleted there. To have it kept "
            f"there again: kachery-cloud-pins add ipfs://{entry.cid}",
        )

    async def _take(
        self, client: PinningClient, entry: PinEntry, cid: CID, status: PinStatus, *, new: bool = False
    ) -> None:
        """Write down what the service says, and do what follows."""
        pace, now = self._pace, self._wall()
        values: dict[str, Any] = {
            "request_id": status.request_id,
            "delegates": status.delegates or entry.delegates,
            "asked": 0.0,
        }
        if status.status != "pinned":
            values["verified"] = None
        if status.status == "failed":
            self._let_go(entry)
            reason = f" It says: {status.details.rstrip('.')}." if status.details else ""
            if status.details.startswith(NO_FUNDS):
                # As where it refuses at once (`answers.refusal`): it would fetch everything again, and for nothing.
                await self.write(
                    entry,
                    **values,
                    state="refused",
                    tries=entry.tries + 1,
                    next_try=now + self._pauses.spread(pace.refused),
                    problem="funds",
                    last_error=f"The pinning service {entry.service} does not take this.{reason} Remove pins there, "
                    "have those who run it give you more, or use another service.",
                )
                return
            await self.write(
                entry,
                **values,
                state="failed",
                tries=entry.tries + 1,
                next_try=now + self._pauses.later(entry.tries, first=pace.failed),
                problem="failed",
                last_error=f"The pinning service {entry.service} could not pin this.{reason} It is asked again.",
            )
            return
        if status.status == "pinned":
            if entry.next_try == ASK_AGAIN and entry.in_question and entry.verified is not None:
                # A block came back before, and it still has the request. So a folder that is stored every night
                # costs one small question, and not a block for each of its files.
                await self.write(entry, **values, state="verified", tries=0, polls=0, problem="", last_error="")
                return
            # What it claims is written down first: the proof may take its time, or never come.
            if entry.state != "pinned":
                values.update(state="pinned", tries=0, problem="", last_error="")
            written = await self.write(entry, **values, next_try=now)
            if written is not None:
                await self._prove(client, written, cid)
            return
        fresh = new or status.request_id != entry.request_id or entry.state != status.status
        polls = 0 if fresh else entry.polls + 1
        every = min(pace.poll_first * 1.5 ** min(polls, 40), pace.poll_last)
        # Time that passed while this machine slept is not the service's fault: only pauses that were kept count.
        passed = 0.0 if fresh else min(max(0.0, now - entry.next_try + every), 2 * every)
        waited = passed + (entry.waited if not new and status.status == "queued" else 0.0)
        stuck = status.status == "queued" and waited >= pace.stuck
        if stuck and self._moved(entry):
            origins = self._our_addresses()
            begun = await self.write(entry, **{**values, "asked": now}, origins=origins, waited=0.0)
            if begun is not None:
                replacement = await self._request(client, begun, cid, origins, status.request_id)
                await self._take(client, begun, cid, replacement, new=True)
            return
        written = await self.write(
            entry,
            **values,
            state=status.status,
            tries=0,
            polls=polls,
            waited=waited,
            next_try=now + (pace.poll_stuck if stuck else self._pauses.spread(every)),
            problem="stuck" if stuck else "",
            last_error=self._stuck(entry, waited) if stuck else "",
        )
        if written is not None:
            await self._keep_connected(written)

    def _moved(self, entry: PinEntry) -> bool:
        """Whether the service was told addresses none of which is ours any more."""
        ours = self._our_addresses()
        return bool(ours) and not set(ours) & set(entry.origins)

    def _stuck(self, entry: PinEntry, waited: float) -> str:
        return (
            f"The pinning service {entry.service} has had this in its queue for {waited / 60:.0f} minutes and has not "
            "begun. It is still asked now and then. Perhaps it cannot reach this machine: see kachery-cloud-status, or "
            "use a service of the kind 'rpc', to which the data is sent."
        )

    async def _keep_connected(self, entry: PinEntry) -> None:
        if not entry.delegates:
            return
        self._held.setdefault(entry.cid, set()).add(entry.service)
        await self._hold(entry.cid, entry.delegates)

    def _let_go(self, entry: PinEntry) -> None:
        held = self._held.get(entry.cid)
        if held is not None:
            held.discard(entry.service)
            if not held:
                del self._held[entry.cid]
                self._release(entry.cid)

    # --- an RPC endpoint --------------------------------------------------------------------------------------------

    async def _upload(self, client: RpcClient, entry: PinEntry, cid: CID, sent: Sent) -> None:
        begun: PinEntry | None = entry
        lost = entry.problem == "unproven"  # it says that it has it, and has not
        if lost or not await client.is_pinned(cid):
            begun = await self.write(
                entry, state="uploading", asked=self._wall(), verified=None, problem="", last_error=""
            )
            if begun is None:
                return
            await client.upload(cid, self._source, sent)
        tries = entry.tries if lost else 0
        written = await self.write(
            begun, state="pinned", asked=0.0, tries=tries, next_try=self._wall(), problem="", last_error=""
        )
        if written is not None:
            await self._prove(client, written, cid)

    # --- either -----------------------------------------------------------------------------------------------------

    async def _prove(self, client: Client, entry: PinEntry, cid: CID) -> None:
        """Fetch a block back from a service that claims to have all of them."""
        block = await trio.to_thread.run_sync(blocks.pick, cid, self._source, self._rng)
        if isinstance(client, RpcClient):
            there = await client.has_block(block)
        else:
            there = bool(entry.delegates) and await self._fetch_back(block, entry.delegates)
            there = there or await client.from_gateway(block)
        if there:
            self._let_go(entry)
            await self.write(
                entry, state="verified", verified=self._wall(), tries=0, polls=0, problem="", last_error=""
            )
            return
        away = entry.tries + 1
        text = (
            f"{entry.service} says that it has all of this, but did not give back the block {block}. It is asked for "
            "one again later; until then do not rely on it."
        )
        # The row goes through `_look` again: the service may say something else by then. An endpoint that was sent
        # everything, and keeps nothing, is sent it once more and not for ever.
        again = isinstance(client, RpcClient) and away == _PROOFS
        await self.write(
            entry,
            state="failed" if again else "pinned",
            tries=away,
            next_try=self._wall() + self._pauses.later(entry.tries),
            problem="unproven",
            last_error=text,
        )

    async def _remove(self, client: Client, entry: PinEntry, cid: CID) -> None:
        self._let_go(entry)
        if isinstance(client, RpcClient):
            await client.remove(cid)
        else:
            request_id = entry.request_id
            if not request_id or entry.asked:
                known = await client.look_up(cid)
                request_id = known.request_id if known is not None else request_id
            if request_id:
                await client.remove(request_id)
        await self.write(entry, state="removed", request_id="", asked=0.0, tries=0, problem="", last_error="")
