"""A client of the IPFS RPC API, as far as it takes to hand over a DAG: `dag/import`, `pin/ls`, `pin/rm`, `block/get`.

The body of `dag/import` is a form (multipart/form-data) with one file in it, the CAR, which is sent as it is read. The
endpoint streams JSON objects, one for each root, `{"Root": {"Cid": {"/": "..."}, "PinErrorMsg": ""}}`, after it has
checked every block. Kubo reports what goes wrong after that in an HTTP trailer, which HTTP clients pass over: so only
the object that names our root counts as success, and its absence is a failure.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator

import trio

from kachery_p2p.dag.cid import CID, verify_block
from kachery_p2p.errors import InvalidCID, UnsupportedCID
from kachery_p2p.json_reader import json_or_none
from kachery_p2p.pinning import answers, blocks, limits
from kachery_p2p.pinning.answers import ServiceError
from kachery_p2p.pinning.blocks import Blocks, Sent
from kachery_p2p.pinning.service_http import ServiceHttp

#: Blocks that Kubo takes without being told to.
_USUAL_BLOCK = 1 * limits.MIB


class RpcClient:
    """One RPC endpoint. All methods raise ServiceError."""

    def __init__(self, http: ServiceHttp) -> None:
        self._http = http
        self.service = http.service

    async def is_pinned(self, cid: CID) -> bool:
        """Whether it says that it has pinned a root. False for an endpoint that does not know the question."""
        try:
            answer = await self._http.ask("POST", self._url("pin/ls"), params={"arg": str(cid), "type": "recursive"})
        except ServiceError as error:
            # Kubo's way to say no is status 500 with a sentence.
            if error.problem in ("bad_request", "not_found") or "not pinned" in error.said:
                return False
            raise
        value = json_or_none(answer)
        keys = value.get("Keys") if isinstance(value, dict) else None
        return isinstance(keys, dict) and any(_same(cid, key) for key in keys)

    async def upload(self, cid: CID, source: Blocks, sent: Sent) -> None:
        """Send all blocks of a root and have it pinned.

        Args:
            cid: the root.
            source: where the blocks are.
            sent: told how far it is, in bytes of the CAR.

        Raises:
            PinningError: not all of it is on this machine.
        """
        planned = await trio.to_thread.run_sync(blocks.plan, cid, source)
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{cid}.car"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        async def body() -> AsyncGenerator[bytes, None]:
            yield head
            pieces = blocks.car(cid, source)
            done = 0
            while (piece := await trio.to_thread.run_sync(next, pieces, None)) is not None:
                yield piece
                done += len(piece)
                sent(done, planned.size)
            yield tail

        params = {"pin-roots": "true"}
        if planned.largest > _USUAL_BLOCK:
            params["allow-big-block"] = "true"
        async with contextlib.aclosing(body()) as content:
            answer = await self._http.ask(
                "POST",
                self._url("dag/import"),
                params=params,
                content=content,
                headers={
                    "content-type": f"multipart/form-data; boundary={boundary}",
                    "content-length": str(len(head) + planned.size + len(tail)),
                },
                seconds=limits.IMPORT_SECONDS,
            )
        self._check_import(cid, answer)

    def _check_import(self, cid: CID, body: bytes) -> None:
        name, words = self.service.name, ""
        for line in body.split(b"\n"):
            value = json_or_none(line[: limits.MAX_LINE_SIZE]) if line.strip() else None
            root = value.get("Root") if isinstance(value, dict) else None
            if isinstance(root, dict):
                link = root.get("Cid")
                if isinstance(link, dict) and _same(cid, link.get("/")):
                    error = answers.one_line(root.get("PinErrorMsg"))
                    if not error:
                        return
                    raise ServiceError(
                        "server", self._http.clean(f"{name} has the blocks of {cid}, but could not pin it: {error}.")
                    )
            elif isinstance(value, dict):
                words = answers.one_line(value.get("Message")) or words
        reason = f" It says: {words.rstrip('.')}." if words else ""
        raise ServiceError(
            "server",
            self._http.clean(
                f"{name} took the blocks, and did not say that {cid} is pinned.{reason} It is sent again."
            ),
        )

    async def has_block(self, cid: CID) -> bool:
        """Whether it gives back a block, with the right hash, without asking the network for it."""
        try:
            answer = await self._block(cid, {"arg": str(cid), "offline": "true"})
        except ServiceError as error:
            if error.problem != "bad_request":
                return self._no(error)
            try:  # an endpoint that does not know the option
                answer = await self._block(cid, {"arg": str(cid)})
            except ServiceError as second:
                return self._no(second)
        return verify_block(cid.multihash, answer)

    async def _block(self, cid: CID, params: dict[str, str]) -> bytes:
        return await self._http.ask(
            "POST",
            self._url("block/get"),
            params=params,
            seconds=limits.FETCH_BACK_SECONDS,
            most=4 * limits.MIB,
        )

    def _no(self, error: ServiceError) -> bool:
        """False where the endpoint answers that it does not have the block; any other error is raised again."""
        if error.problem in ("server", "bad_request", "not_found"):
            return False
        raise error

    async def remove(self, cid: CID) -> None:
        """Unpin a root. One that is not pinned is as good as removed."""
        try:
            await self._http.ask("POST", self._url("pin/rm"), params={"arg": str(cid), "recursive": "true"})
        except ServiceError as error:
            if "not pinned" not in error.said:
                raise

    def _url(self, command: str) -> str:
        return f"{self.service.url}/api/v0/{command}"


def _same(cid: CID, text: object) -> bool:
    try:
        return isinstance(text, str) and CID.parse(text).to_v1() == cid.to_v1()
    except (InvalidCID, UnsupportedCID):
        return False
