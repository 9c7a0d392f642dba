"""A pinning service on this machine that really fetches, for tests and for trying things out.

It speaks as much of the IPFS Pinning Service API as a client needs (`/pins`), fetches over Bitswap with a node of its
own, and answers four commands of the IPFS RPC API (`/api/v0/dag/import`, `block/get`, `pin/ls`, `pin/rm`) as Kubo does.
It can be told to misbehave: answer with an error, late, never, cut the line, lie. Loopback only.

As a program it prints one line of JSON with its addresses and runs until its input ends:

    python -m scripts.pinning_service FOLDER [--token TOKEN] [--listen MULTIADDR]

Then `POST /misbehave` takes a JSON object with the fields of `Fault`, or of the service's own switches.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio

from kachery_p2p.dag.car import CarReader
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import IsADirectory, KacheryError
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.node.node import Node
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo

LISTEN = "/ip4/127.0.0.1/tcp/0"
#: Seconds for a client to close its side after an answer that came before the end of its request.
LINGER = 60


@dataclass
class Fault:
    """What to do instead of answering properly, for the next `count` requests that fit.

    Attributes:
        method, path: of the requests; empty fits all, `path` is a beginning.
        status, headers, body: what is answered.
        delay: seconds before it.
        after: the request is carried out first; only its answer is replaced.
        cut: the connection is closed without an answer, after `cut_at` bytes of the request's body.
        hold: nothing is answered until the service ends.
    """

    method: str = ""
    path: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    delay: float = 0.0
    after: bool = False
    cut: bool = False
    cut_at: int = 0
    hold: bool = False
    count: int = 1


@dataclass
class Pin:
    """One request, as the service keeps it."""

    request_id: str
    cid: str
    name: str
    origins: list[str]
    meta: dict[str, str]
    status: str
    created: str
    info: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any = None


class PinningService:
    """The service. `await nursery.start(service.run)`, then use `url`, `rpc`, `token` and `addr`.

    Switches: `lie`: say `pinned` at once, and fetch nothing; `stuck`: leave everything in the queue; `fail`: this many
    requests end as `failed` first, and `why` is what is said of that; `delegates`: what is told instead of those of
    the node itself.
    """

    def __init__(
        self, folder: Path, *, token: str = "a-token-of-the-test", listen: str = LISTEN, port: int = 0
    ) -> None:
        self.folder = folder
        self.token = token
        self.listen = listen
        self.port = port
        self.pins: dict[str, Pin] = {}
        self.rpc_pins: set[str] = set()
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.lie = False
        self.stuck = False
        self.fail = 0
        self.why = "the disk of the service was full"
        self.delegates: list[str] | None = None
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._count = itertools.count(1)
        self._trio: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        self.repo = Repo.open(self.folder)
        self.node = Node(self.repo, load_or_create_identity(self.folder), listen=[self.listen])
        self.server = _Server(self)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.rpc = self.url
        self._trio = trio.lowlevel.current_trio_token()
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.node.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.ended.set()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.server.shutdown)
                await trio.to_thread.run_sync(thread.join)
            self.server.server_close()
            self.repo.close()

    @property
    def addr(self) -> str:
        """A multiaddr of its node, with its peer ID."""
        return self.node.host.addresses()[0]

    def posts(self) -> list[Seen]:
        """The requests that had a root pinned, or would have."""
        return [seen for seen in self.requests if seen.method == "POST" and seen.path.startswith("/pins")]

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault that this request is to meet."""
        with self._lock:
            for fault in self.faults:
                if (not fault.method or fault.method == method) and path.startswith(fault.path):
                    fault.count -= 1
                    if fault.count <= 0:
                        self.faults.remove(fault)
                    return fault
        return None

    # --- the pinning API, called in the threads of the HTTP server ---------------------------------------------------

    def add(self, value: dict[str, Any], replaces: str = "") -> Pin:
        """Take a request."""
        pin = Pin(
            secrets.token_hex(8),
            value["cid"],
            value.get("name", ""),
            value.get("origins", []),
            value.get("meta", {}),
            "queued",
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{next(self._count) % 1000:03d}Z",
        )
        with self._lock:
            self.pins.pop(replaces, None)
            self.pins[pin.request_id] = pin
        if self.lie:
            pin.status = "pinned"
        elif self.fail > 0:
            self.fail -= 1
            pin.status, pin.info = "failed", {"status_details": self.why}
        elif not self.stuck and self._trio is not None:
            trio.from_thread.run_sync(self.start, pin, trio_token=self._trio)
        return pin

    def start(self, pin: Pin) -> None:
        """Begin to fetch. In the trio thread."""
        if self._nursery is not None:
            self._nursery.start_soon(self._fetch, pin)

    async def _fetch(self, pin: Pin) -> None:
        pin.status = "pinning"
        providers = tuple(addr for addr in pin.origins if not addr.startswith("/p2p/"))
        file = LoadRequest(CID.parse(pin.cid), providers=providers, timeout=20)
        try:
            try:
                await self.node.load(file)
            except IsADirectory:
                await self.node.load(replace(file, kind="directory"))
        except KacheryError as error:
            pin.status, pin.info = "failed", {"status_details": str(error)}
        else:
            pin.status = "pinned"

    def shown(self, pin: Pin) -> dict[str, Any]:
        """A PinStatus object."""
        delegates = self.delegates
        if delegates is None:
            delegates = self.node.host.addresses()
        return {
            "requestid": pin.request_id,
            "status": pin.status,
            "created": pin.created,
            "pin": {"cid": pin.cid, "name": pin.name, "origins": pin.origins, "meta": pin.meta},
            "delegates": delegates,
            "info": pin.info,
        }

    # --- the RPC API ------------------------------------------------------------------------------------------------

    def import_car(self, data: bytes) -> list[str]:
        """Keep the blocks of a CAR; its roots.

        Raises:
            KacheryError: it is damaged, or its blocks cannot be written.
        """
        reader = CarReader()
        view = memoryview(data)
        for start in range(0, len(view), 1 << 20):
            self.repo.put_blocks(list(reader.feed(view[start : start + (1 << 20)])))
        reader.close()
        return [str(root) for root in reader.roots or []]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_GET

    def _handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        service = server.service
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        seen = Seen(self.command, parts.path, query, headers)
        service.requests.append(seen)
        fault = service.take_fault(self.command, parts.path)
        with contextlib.suppress(OSError):
            if fault is not None and not fault.after and (fault.cut or fault.hold or fault.status):
                if fault.cut:
                    self.rfile.read(min(fault.cut_at, int(headers.get("content-length", "0"))))
                    self._cut()
                    return
                self._misbehave(fault)
                return
            if fault is not None and fault.delay and not fault.after:
                service.ended.wait(fault.delay)
            body = self.rfile.read(int(headers.get("content-length", "0")))
            status, answer = self._carry_out(service, seen, body)
            if fault is not None and fault.after:
                if fault.cut:
                    self._cut()
                else:
                    self._misbehave(fault)
                return
            self._answer(status, answer)

    def _misbehave(self, fault: Fault) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.service.ended.wait(fault.delay if not fault.hold else None)
        if fault.hold:
            self.close_connection = True
            return
        self._answer(fault.status, fault.body.encode(), fault.headers, close=True)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, close: bool = False) -> None:
        self.send_response_only(status)
        dated = {"content-type": "application/json", "date": self.date_time_string(), **(headers or {})}
        for key, value in dated.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(body)))
        if close:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)
        if close:
            # What the client still sends is read and dropped, so that it gets to see the answer. It closes then; on a
            # busy machine that takes a while.
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER)
            while self.connection.recv(1 << 16):
                pass

    def _carry_out(self, service: PinningService, seen: Seen, body: bytes) -> tuple[int, bytes]:
        if seen.path == "/misbehave":
            return 200, _control(service, json.loads(body))
        if seen.path.startswith("/ipfs/"):
            block = service.repo.get_block(CID.parse(seen.path.removeprefix("/ipfs/")).multihash)
            return (404, b"not found") if block is None else (200, block)
        if seen.headers.get("authorization") != f"Bearer {service.token}":
            return 401, _error("UNAUTHORIZED", "Access token is missing or invalid")
        if seen.path.startswith("/api/v0/"):
            return _rpc(service, seen, body)
        seen.body = json.loads(body) if body else None
        request_id = seen.path.removeprefix("/pins").strip("/")
        if request_id:
            pin = service.pins.get(request_id)
            if pin is None:
                return 404, _error("NOT_FOUND", "The specified resource was not found")
            if seen.method == "DELETE":
                del service.pins[request_id]
                service.repo.remove(CID.parse(pin.cid))
                return 202, b""
            if seen.method == "POST":
                return 202, _json(service.shown(service.add(seen.body, request_id)))
            return 200, _json(service.shown(pin))
        if seen.method == "POST":
            return 202, _json(service.shown(service.add(seen.body)))
        # Without a filter only what is pinned is listed.
        states = seen.query.get("status", "pinned").split(",")
        found = [
            service.shown(pin)
            for pin in list(service.pins.values())
            if pin.status in states and seen.query.get("cid", pin.cid) == pin.cid
        ]
        return 200, _json({"count": len(found), "results": found[: int(seen.query.get("limit", "10"))]})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, service: PinningService) -> None:
        super().__init__(("127.0.0.1", service.port), _Handler)
        self.service = service


def _rpc(service: PinningService, seen: Seen, body: bytes) -> tuple[int, bytes]:
    """Kubo's answers: objects, and status 500 with a sentence for whatever is wrong."""
    argument = seen.query.get("arg", "")
    match seen.path.removeprefix("/api/v0/"):
        case "dag/import":
            head, _, rest = body.partition(b"\r\n\r\n")
            boundary = head.split(b"\r\n")[0]
            try:
                roots = service.import_car(rest[: rest.rindex(b"\r\n" + boundary)])
            except (KacheryError, ValueError) as error:
                return 500, _json({"Message": f"import failed: {error}", "Code": 0, "Type": "error"})
            service.rpc_pins.update(roots)
            return 200, b"".join(_json({"Root": {"Cid": {"/": root}, "PinErrorMsg": ""}}) + b"\n" for root in roots)
        case "block/get":
            block = service.repo.get_block(CID.parse(argument).multihash)
            if block is None:
                return 500, _json({"Message": "block was not found locally (offline)", "Code": 0, "Type": "error"})
            return 200, block
        case "pin/ls":
            if argument not in service.rpc_pins:
                return 500, _json({"Message": f"path '{argument}' is not pinned", "Code": 0, "Type": "error"})
            return 200, _json({"Keys": {argument: {"Type": "recursive"}}})
        case "pin/rm":
            if argument not in service.rpc_pins:
                return 500, _json({"Message": "not pinned or pinned indirectly", "Code": 0, "Type": "error"})
            service.rpc_pins.remove(argument)
            return 200, _json({"Pins": [argument]})
    return 404, b"404 page not found"


def _control(service: PinningService, value: dict[str, Any]) -> bytes:
    switches = {key: value.pop(key) for key in ("lie", "stuck", "fail", "why", "delegates") if key in value}
    for key, switch in switches.items():
        setattr(service, key, switch)
    if value:
        service.faults.append(Fault(**value))
    return _json([f"{seen.method} {seen.path}" for seen in service.requests])


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _error(reason: str, details: str) -> bytes:
    return _json({"error": {"reason": reason, "details": details}})


async def _main(folder: Path, token: str, listen: str) -> None:
    service = PinningService(folder, token=token, listen=listen)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        print(json.dumps({"url": service.url, "rpc": service.rpc, "token": token, "addr": service.addr}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="A pinning service for tests, on loopback.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--token", default="a-token-of-the-test")
    parser.add_argument("--listen", default=LISTEN, help="where its node does; the API is on loopback")
    arguments = parser.parse_args()
    trio.run(_main, arguments.folder, arguments.token, arguments.listen)


if __name__ == "__main__":
    main()
