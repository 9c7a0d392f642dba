"""HTTP gateways for tests: real servers on loopback, each request in a thread, that behave as they are told."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from kachery_p2p.dag.car import car_header, car_section
from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.directory import list_directory
from kachery_p2p.dag.nodes import drive
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import IsADirectory
from kachery_p2p.repo.repo import Repo

RAW = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car; version=1; order=dfs; dups=n"


@dataclass
class Asked:
    """One request as the gateway saw it."""

    path: str
    cid: CID | None
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def car(self) -> bool:
        return self.query.get("format") == "car"

    @property
    def span(self) -> str | None:
        """The bytes of a file that a CAR is to have; "all" for all that is in a directory."""
        return "all" if self.query.get("dag-scope") == "all" else self.query.get("entity-bytes")


@dataclass
class FakeGateway:
    """A server. `behave` answers a request through the handler it is given."""

    behave: Behave
    requests: list[Asked] = field(default_factory=list)
    url: str = ""
    #: Set when the server goes: those who stall wait for it.
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return "gateway:" + urlsplit(self.url).netloc


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    gateway: FakeGateway

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        try:
            cid = CID.parse(parts.path.rpartition("/")[2])
        except ValueError:
            cid = None
        asked = Asked(parts.path, cid, query, {key.lower(): value for key, value in self.headers.items()})
        self.gateway.requests.append(asked)
        with contextlib.suppress(ConnectionError):
            self.gateway.behave(self, asked)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def send(self, status: int, body: bytes = b"", kind: str = RAW, **headers: str) -> None:
        """A whole answer; underscores of header names are hyphens."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


Behave = Callable[[Answer, Asked], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave are no error; anything else is seen as one."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextlib.contextmanager
def serving(behave: Behave) -> Iterator[FakeGateway]:
    """A gateway on 127.0.0.1, until the end of the block."""
    gateway = FakeGateway(behave)
    handler = type("Handler", (Answer,), {"gateway": gateway})
    server = _Server(("127.0.0.1", 0), handler)
    gateway.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield gateway
    finally:
        gateway.gone.set()
        server.shutdown()
        server.server_close()
        thread.join()


# --- how gateways behave --------------------------------------------------------------------------------------------


def honest(repo: Repo, *, rate: float = 0.0, delay: float = 0.0, car: bool = True) -> Behave:
    """Serves what is in a repo, all requests together at `rate` bytes per second, each after `delay` seconds."""
    lock = threading.Lock()
    free_at = [0.0]

    def behave(answer: Answer, asked: Asked) -> None:
        block = None if asked.cid is None else repo.get_block(asked.cid.multihash)
        if delay:
            answer.gateway.gone.wait(delay)
        if asked.cid is None or block is None:
            answer.send(404, b"not here", "text/plain")
            return
        if asked.car and not car:
            answer.send(400, b"no CAR here", "text/plain")
            return
        body = make_car(repo, asked.cid, asked.span) if asked.car else block
        if rate:
            with lock:
                free_at[0] = max(free_at[0], time.monotonic()) + len(body) / rate
                wait = free_at[0] - time.monotonic()
            answer.gateway.gone.wait(wait)
        answer.send(200, body, CAR if asked.car else RAW)

    return behave


def make_car(repo: Repo, root: CID, span: str | None) -> bytes:
    """The CAR of a directory, or of some bytes of a file, as `dag-scope=entity` has it; or of all that is below."""
    blocks = car_blocks(repo, root, span)
    return car_header([root]) + b"".join(car_section(cid, len(data)) + data for cid, data in blocks.items())


def car_blocks(repo: Repo, root: CID, span: str | None) -> dict[CID, bytes]:
    """The blocks of such a CAR, in their order."""
    blocks: dict[CID, bytes] = {}

    def get(cid: CID) -> bytes:
        block = repo.get_block(cid.multihash)
        assert block is not None
        return blocks.setdefault(cid, block)

    if span == "all":
        waiting = [root]
        while waiting:
            cid = waiting.pop()
            block = get(cid)
            if cid.codec == DAG_PB:
                waiting += [link.cid for link in reversed(decode_node(block, cid).links)]
        return blocks
    first, last = (int(part) for part in (span or f"0:{2**40}").split(":"))
    try:
        walk = FileWalk(root, first, last + 1, whole_blocks=True)
        while refs := walk.take(64):
            for ref in refs:
                walk.feed(ref, get(ref.cid))
    except IsADirectory:
        drive(list_directory(root), lambda cids: [get(cid) for cid in cids])
    return blocks


def liar(repo: Repo) -> Behave:
    """Has every block, with one byte changed."""

    def behave(answer: Answer, asked: Asked) -> None:
        block = None if asked.cid is None else repo.get_block(asked.cid.multihash)
        if asked.car and asked.cid is not None and block is not None:
            body = bytearray(make_car(repo, asked.cid, asked.span))
        else:
            body = bytearray(block or b"anything")
        body[-1] ^= 1
        answer.send(200, bytes(body), CAR if asked.car else RAW)

    return behave


def staller(answer: Answer, asked: Asked) -> None:
    """Begins to answer, and never goes on."""
    answer.send_response(200)
    answer.send_header("content-type", CAR if asked.car else RAW)
    answer.send_header("content-length", "1000")
    answer.end_headers()
    answer.wfile.write(b"\0")
    answer.wfile.flush()
    answer.gateway.gone.wait()


def silent(answer: Answer, asked: Asked) -> None:
    """Takes the request and says nothing."""
    answer.gateway.gone.wait()


def page(answer: Answer, asked: Asked) -> None:
    """Says that all is well, to people."""
    answer.send(200, b"<!doctype html><title>Welcome</title>", "text/html; charset=utf-8")


def limiter(answer: Answer, asked: Asked) -> None:
    """Lets nobody in."""
    answer.send(429, b"slow down", "text/plain", retry_after="120")
