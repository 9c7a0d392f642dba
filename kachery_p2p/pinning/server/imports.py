"""`POST /api/v0/dag/import`, as the RPC API of Kubo has it (https://docs.ipfs.tech/reference/kubo/rpc/#api-v0-dag-import).

The body is a form whose files are CAR files. They are read as they come: each block that a root leads to is compared
with its hash and brought to its place, and nothing else is kept. Then each root is pinned for the one whose token was
shown, as if it had been asked for at `/pins`, where it can be seen and deleted. The answer has a JSON object on a line
for each root, and with `stats` one more:

    {"Root": {"Cid": {"/": "bafy..."}, "PinErrorMsg": ""}}
    {"Stats": {"BlockCount": 3, "BlockBytesCount": 1234}}

What is different from Kubo: blocks that no root of the file leads to are left out, and a file without roots is refused,
for nobody could find again, or let go, what is in it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import trio

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import KacheryError, plain_words
from kachery_p2p.pinning.server import limits
from kachery_p2p.pinning.server.forms import PartBegins, PartData, read_form
from kachery_p2p.pinning.server.keeper import Brought, Keeper
from kachery_p2p.pinning.server.queue import PinQueue
from kachery_p2p.pinning.server.requests import PinObject, Refusal, bad_request, no_funds
from kachery_p2p.pinning.server.rows import Token
from kachery_p2p.pinning.server.store import PinStore

log = logging.getLogger("kachery_p2p.pinning.server")

T = TypeVar("T")

_OPTIONS = {"pin-roots": True, "silent": False, "stats": False, "allow-big-block": False}


def read_options(query: str) -> dict[str, bool]:
    """The options behind the question mark; what else Kubo's clients write there is passed over.

    Raises:
        Refusal: one of them is neither true nor false.
    """
    found = dict(_OPTIONS)
    try:
        fields = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise bad_request("What is behind the question mark cannot be read.") from None
    for name, text in fields:
        if name in found:
            # As Go reads truth, and an option without a value is one that is set.
            if text.lower() not in ("", "1", "t", "true", "0", "f", "false"):
                raise bad_request(f"{name} must be true or false.")
            found[name] = text.lower() in ("", "1", "t", "true")
    return found


class UploadedFile:
    """A file as it comes, for a thread that reads it: what there is, and nothing at its end."""

    def __init__(self, chunks: trio.MemoryReceiveChannel[bytes]) -> None:
        self._chunks = chunks

    def read1(self, size: int = -1) -> bytes:
        """Some bytes, when there are; none at the end."""
        return trio.from_thread.run(self._next)

    read = read1

    async def _next(self) -> bytes:
        try:
            return await self._chunks.receive()
        except trio.EndOfChannel:
            return b""


class Importer:
    """Takes CAR files for those who have a token.

    Args:
        store: of pins.
        queue: pins what came.
        keeper: of the node.
        most_bytes: that one CAR file may have.
        admit: may refuse a pin of somebody, by raising `Refusal`. Called in a thread.
    """

    def __init__(
        self,
        store: PinStore,
        queue: PinQueue,
        keeper: Keeper,
        *,
        most_bytes: int,
        admit: Callable[[Token, PinObject], None] = lambda token, wanted: None,
    ) -> None:
        self._admit = admit
        self._store = store
        self._queue = queue
        self._keeper = keeper
        self._most = most_bytes
        self._running: Counter[int] = Counter()
        #: Bytes that came without being pinned, by token, since the start: else they would be within no quota.
        self._loose: Counter[int] = Counter()
        self._threads = trio.CapacityLimiter(limits.MAX_UPLOADS)

    async def take(self, token: Token, scope: Mapping[str, Any], chunks: AsyncIterator[bytes]) -> bytes:
        """Take the files of a request; what to answer, a JSON object on a line.

        Raises:
            Refusal: it is not carried out. What came whole before that stays unpinned, and goes with the next gc.
            KacheryError: the list of pins cannot be used, or the disk is full.
        """
        options = read_options(scope["query_string"].decode("ascii", "replace"))
        kind = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"")
        held: list[CID] = []
        lines: list[dict[str, Any]] = []
        with self._place(token):
            used, quota = await self._do(self._store.quota_of, token)
            room = _Room(self._most, quota, used + self._loose[token.id])
            try:
                came = await self._files(kind.decode("latin-1"), chunks, room, held)
                if options["pin-roots"]:
                    for root, size in [each for brought in came for each in brought.roots]:
                        why = await self._pin(token, root, size)
                        lines.append({"Root": {"Cid": {"/": str(root)}, "PinErrorMsg": why}})
                else:
                    self._loose[token.id] += sum(brought.size for brought in came)
            finally:
                await self._leave(held)
        if options["stats"]:
            blocks, size = sum(each.blocks for each in came), sum(each.size for each in came)
            lines.append({"Stats": {"BlockCount": blocks, "BlockBytesCount": size}})
        if options["silent"]:
            lines = []
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    @contextmanager
    def _place(self, token: Token) -> Iterator[None]:
        if self._running.total() >= limits.MAX_UPLOADS or self._running[token.id] >= limits.MAX_UPLOADS_EACH:
            raise Refusal(429, "TOO_MANY_REQUESTS", "Too many files are being sent. Try again.", {"retry-after": "30"})
        self._running[token.id] += 1
        try:
            yield
        finally:
            self._running[token.id] -= 1
            self._running += Counter()  # forgets who has none

    async def _files(self, kind: str, chunks: AsyncIterator[bytes], room: _Room, held: list[CID]) -> list[Brought]:
        async def hold(roots: Sequence[CID]) -> None:
            for root in roots:
                await self._queue.expect(root)
                held.append(root)

        came: list[Brought] = []
        failure: Refusal | KacheryError | None = None
        async with trio.open_nursery() as nursery:
            try:
                async with aclosing(read_form(kind, chunks)) as events:
                    upload: _Upload | None = None
                    async for event in events:
                        if isinstance(event, PartBegins):
                            if event.type == "application/x-directory" or event.type.startswith("multipart/"):
                                raise bad_request("A folder was sent. Send CAR files alone.")
                            room.begin()
                            upload = _Upload(self._keeper, hold)
                            nursery.start_soon(upload.run)
                        elif isinstance(event, PartData) and upload is not None:
                            room.take(len(event.data))
                            await upload.feed(event.data)
                        elif upload is not None:
                            came.append(await upload.end())
            except (Refusal, KacheryError) as error:
                failure = error
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not came:
            raise bad_request("The form has no file in it. Send a CAR file.")
        return came

    async def _leave(self, roots: Iterable[CID]) -> None:
        """What nobody has pinned after all is let go: also when the one who sent it is gone."""
        with trio.CancelScope(shield=True):
            for root in roots:
                await self._queue.came(root)

    async def _pin(self, token: Token, root: CID, size: int | None) -> str:
        """Pin a root that is here; why it was not, or nothing."""
        wanted = PinObject(root, str(root))

        def add() -> str:
            self._admit(token, wanted)
            # Sent again, it is the pin that it was.
            pin = self._store.pin_of(token, root) or self._store.add(token, wanted, size)
            assert pin is not None
            return pin.request_id

        try:
            request_id = await self._do(add)
        except Refusal as refusal:
            return refusal.details
        self._queue.wake()
        while True:
            seen = self._queue.changes.count
            pin = await self._do(self._store.get, token, request_id)
            if pin is None:
                return "It was deleted meanwhile."
            if pin.status in ("pinned", "failed") or pin.tries:
                return "" if pin.status == "pinned" else pin.details
            with trio.move_on_after(limits.PIN_LOOK_SECONDS):
                await self._queue.changes.wait(seen)

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._threads)


class _Room:
    """How many bytes may come."""

    def __init__(self, most: int, quota: int | None, used: int) -> None:
        self._most = most
        self._left = None if quota is None else max(0, quota - used)
        self._file = 0
        self._all = 0

    def begin(self) -> None:
        """Another file begins."""
        self._file = 0

    def take(self, size: int) -> None:
        """So many bytes came.

        Raises:
            Refusal: they are too many.
        """
        self._file += size
        self._all += size
        # A CAR file has a little more than what is in it; what is pinned is counted exactly when all of it is here.
        if self._file > self._most + self._most // 8 + limits.CAR_OVERHEAD:
            raise Refusal(
                413, "PAYLOAD_TOO_LARGE", f"A CAR file has at most {self._most} bytes here. Nothing of it was pinned."
            )
        if self._left is not None and self._all > self._left + self._left // 8 + limits.CAR_OVERHEAD:
            raise no_funds(f"The quota has {self._left} bytes left. Nothing of what was sent was pinned.")


class _Upload:
    """One CAR file on its way: what comes goes to the keeper, which makes us wait where it is slower."""

    def __init__(self, keeper: Keeper, begun: Callable[[Sequence[CID]], Any]) -> None:
        self._keeper = keeper
        self._begun = begun
        self._send, self._receive = trio.open_memory_channel[bytes](limits.UPLOAD_CHUNKS)
        self._done = trio.Event()
        self._brought: Brought | None = None
        self._failure: KacheryError | None = None

    async def run(self) -> None:
        try:
            self._brought = await self._keeper.bring(UploadedFile(self._receive), self._begun)
        except KacheryError as error:
            self._failure = error
        finally:
            self._receive.close()
            self._done.set()

    async def feed(self, data: bytes) -> None:
        try:
            await self._send.send(data)
        except trio.BrokenResourceError:
            await self._done.wait()
            self._check()
            raise bad_request("There is more behind the end of the CAR file.") from None

    async def end(self) -> Brought:
        self._send.close()
        await self._done.wait()
        self._check()
        assert self._brought is not None
        return self._brought

    def _check(self) -> None:
        if self._failure is not None:
            if self._failure.exit_code == 5:  # of this machine: the disk, the data directory
                raise self._failure
            raise bad_request(plain_words(self._failure) + ". Nothing of it was pinned.") from self._failure
