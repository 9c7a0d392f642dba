"""The API of a lab with example data, for how pages look and for files that no real node would have stored.

The pages are the real ones. What is behind them is here as the API says it (`kachery_cloud/lab`), without a node.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from kachery_cloud.lab import static
from kachery_p2p.http_server import HttpServer, Send
from kachery_p2p.http_server_limits import HttpLimits

CSRF = "a-value-that-only-these-pages-know"
PEERS = [
    "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5",
    "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo",
    "12D3KooWLRPJAA5o6L3RQ8SpuxLHvXGSkYPvQW9fZ7c2rrYFbPqF",
]
_INVITATION = "http://127.0.0.1:8095/invitation/WnE0bq9ZJ3y1m2TQ4a5cUg"
URI = "ipfs://bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


def member(number: int, name: str, role: str, used: int, quota: int | None) -> dict[str, Any]:
    """A member of the lab."""
    address = f"{name.split()[0].lower()}@example.org"
    seen = None if number == 3 else f"2026-11-{20 + number}T09:12:00Z"
    return {
        "id": f"m{number}", "name": name, "email": address, "role": role, "quota": quota, "used": used,
        "added": "2026-09-01T08:00:00Z", "seen": seen,
    }  # fmt: skip


class FakeLab:
    """What the pages see.

    Attributes:
        signed_in: whether somebody is.
        administrator: whether that is one.
        ends_after_me: whether the session ends when one has asked who one is.
        contents: id of a file -> its name and bytes.
        claimed: id of a file -> its size, where that is said to be another one.
        folders: id of a folder -> path of each file -> its bytes.
        stuck: ids of files of which no more than the first part is ever given.
        read: (id of a file, what Range said), for each request of its bytes.
        asked: ("POST", "/api/v1/...", what was sent), for each change.
    """

    def __init__(self, *, signed_in: bool = True, administrator: bool = True, empty: bool = False) -> None:
        self.signed_in = signed_in
        self.administrator = administrator
        self.ends_after_me = False
        self.contents: dict[str, tuple[str, bytes]] = {}
        self.claimed: dict[str, int] = {}
        self.stuck: set[str] = set()
        self.folders: dict[str, dict[str, bytes]] = {}
        self.asked: list[tuple[str, str, bytes]] = []
        self.read: list[tuple[str, str | None]] = []
        self.registration = "waiting"
        self.empty = empty
        self.uploads = 0
        self._router = Router([*static.routes(self), *self._api()], redirect_slashes=False)

    crowded = False

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Send) -> None:
        await self._router({**scope, "app": self}, receive, send)  # type: ignore[arg-type]

    def put(self, name: str, data: bytes) -> str:
        """Have a file; its ID."""
        id = f"f{len(self.contents) + 100}"
        self.contents[id] = (name, data)
        return id

    def put_folder(self, name: str, files: dict[str, bytes]) -> str:
        """Have a folder: path -> bytes; its ID."""
        id = self.put(name, b"")
        self.folders[id] = files
        return id

    def _api(self) -> list[Route]:
        answers: dict[str, Any] = {
            "/projects": lambda request: _list(self._projects()),
            "/projects/{id}": lambda request: self._projects()[0] if request.method != "DELETE" else None,
            "/projects/{id}/members/{member}": lambda request: {},
            "/clients": lambda request: _list([] if self.empty else self._clients()),
            "/clients/{peer}": lambda request: {},
            "/members": lambda request: (
                _list(self._members()) if request.method == "GET" else {"name": "Ida", "invitation": _INVITATION}
            ),
            "/members/{id}/invitation": lambda request: {"invitation": _INVITATION},
            "/members/{id}": lambda request: {},
            "/files/{id}": lambda request: self._file(request.path_params["id"]),
            "/files/{id}/copies": lambda request: _list(self._copies()),
            "/files/{id}/entries": self._entries,
            "/usage": self._usage,
            "/node": lambda request: self._node(),
            "/registrations/{id}": lambda request: self._registration(),
            "/registrations/{id}/{verb}": self._decide,
        }
        routes = [Route("/api/v1", self._about), Route("/api/v1/me", self._me)]
        routes.append(Route("/api/v1/files", self._upload, methods=["POST"]))
        routes.append(Route("/api/v1/files", self._answering(lambda request: _list(self._files(request)))))
        routes.append(Route("/api/v1/files/{id}/content", self._content))
        for path, answer in answers.items():
            methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
            routes.append(Route(f"/api/v1{path}", self._answering(answer), methods=methods))
        return routes

    def _answering(self, answer: Any) -> Any:
        async def answering(request: Request) -> Response:
            if not self.signed_in or self.ends_after_me:
                return JSONResponse({"error": {"reason": "UNAUTHORIZED", "details": "Sign in first."}}, 401)
            if request.method != "GET":
                if request.headers.get("x-csrf-token") != CSRF:
                    return JSONResponse({"error": {"reason": "CSRF", "details": "No."}}, 403)
                self.asked.append((request.method, request.url.path, await request.body()))
            return JSONResponse(answer(request))

        return answering

    async def _about(self, request: Request) -> Response:
        return JSONResponse(
            {
                "name": "Lab of Neural Circuits", "version": "1.0", "peer_id": PEERS[0],
                "addresses": [f"/ip4/192.0.2.10/tcp/4001/p2p/{PEERS[0]}"], "sign_in": "openid",
                "issuer": "https://accounts.google.com", "pins": "http://127.0.0.1:8095/pins",
            }
        )  # fmt: skip

    async def _me(self, request: Request) -> Response:
        if not self.signed_in:
            return JSONResponse({"error": {"reason": "UNAUTHORIZED", "details": "Sign in first."}}, 401)
        role = "administrator" if self.administrator else "member"
        me = member(1, "Ada Lovelace", role, 0 if self.empty else 412_000_000_000, 500_000_000_000)
        return JSONResponse({**me, "csrf": CSRF, "clients": [] if self.empty else self._clients()})

    def _projects(self) -> list[dict[str, Any]]:
        if self.empty:
            return []
        people = [
            {"id": "m1", "name": "Ada Lovelace", "role": "administrator"},
            {"id": "m2", "name": "Grace Hopper", "role": "writer"},
        ]
        common = {"group": None, "members": people}
        return [
            {**common, "id": "p1", "name": "hippocampus-2026", "description": "Tetrodes, CA1, all animals of this year",
             "visibility": "members", "role": "administrator", "bytes": 388_000_000_000, "files": 214},
            {**common, "id": "p2", "name": "atlas", "description": "", "visibility": "public", "role": "writer",
             "bytes": 24_100_000_000, "files": 3},
            {**common, "id": "p3", "name": "teaching", "description": "Examples of the course", "visibility": "public",
             "role": "reader", "bytes": 1_200_000, "files": 12},
        ]  # fmt: skip

    def _clients(self) -> list[dict[str, Any]]:
        labels = ["ada-workstation", "rig-2", "laptop of Ada"]
        seen = ["2026-11-30T18:02:11Z", "2026-11-29T23:10:00Z", None]
        return [
            {"peer": peer, "member": "m1", "label": label, "registered": "2026-10-04T12:00:00Z", "seen": time}
            for peer, label, time in zip(PEERS, labels, seen, strict=True)
        ]

    def _members(self) -> list[dict[str, Any]]:
        return [
            member(1, "Ada Lovelace", "administrator", 412_000_000_000, 500_000_000_000),
            member(2, "Grace Hopper", "member", 97_300_000_000, 500_000_000_000),
            member(3, "Emmy Noether", "member", 0, None),
        ]

    def _files(self, request: Request) -> list[dict[str, Any]]:
        if self.empty:
            return []
        label = request.query_params.get("label", "")
        rows = [
            ("f1", "day-14/session.nwb", 41_800_000_000, "p1", "pinned"),
            ("f2", "day-14/spikes.npy", 96_000_128, "p1", "pinned"),
            ("f3", "day-15/session.nwb", 39_200_000_000, "p1", "pinning"),
            ("f4", "notes.md", 4_201, None, "queued"),
            ("f5", "atlas/annotation_25.zarr", 2_210_000_000, "p2", "failed"),
        ]
        shown = [self._row(*row) for row in rows if label.lower() in row[1]]
        return shown + [self._file(id) for id, (name, _) in self.contents.items() if label.lower() in name]

    def _row(self, id: str, label: str, size: int, project: str | None, status: str) -> dict[str, Any]:
        return {
            "id": id, "uri": URI, "label": label, "size": size, "project": project, "client": PEERS[1],
            "owner": {"id": "m1", "name": "Ada Lovelace"}, "status": status, "stored": "2026-11-28T16:45:10Z",
        }  # fmt: skip

    def _file(self, id: str) -> dict[str, Any]:
        if id not in self.contents:
            return self._row(id, "day-14/session.nwb", 41_800_000_000, "p1", "pinning")
        name, data = self.contents[id]
        # What a pin has on the disk is more than what is in the file.
        return self._row(id, name, len(data) + 100, "p1", "pinned")

    def _copies(self) -> list[dict[str, Any]]:
        return [
            {"peer": PEERS[1], "label": "rig-2", "connected": True, "round_trip_ms": 0.9, "found_by": ["connected"]},
            {"peer": PEERS[2], "label": "", "connected": False, "round_trip_ms": None, "found_by": ["DHT"]},
        ]

    def _entries(self, request: Request) -> dict[str, Any]:
        below = request.query_params.get("path", "")
        before = f"{below}/" if below else ""
        found: dict[str, dict[str, Any]] = {}
        for path, data in self.folders[request.path_params["id"]].items():
            if path.startswith(before):
                name, _, _ = path.removeprefix(before).partition("/")
                sum = found.setdefault(name, {"name": name, "bytes": 0})
                sum["bytes"] += len(data)
        return _list(list(found.values()))

    async def _content(self, request: Request) -> Response:
        id, below = request.path_params["id"], request.query_params.get("path", "")
        data = self.folders[id].get(below) if id in self.folders else self.contents[id][1]
        if data is None:
            return JSONResponse({"error": {"reason": "NOT_A_FILE", "details": "This is a folder."}}, 409)
        headers = {
            "accept-ranges": "bytes",
            "content-security-policy": "sandbox; default-src 'none'",
            "x-content-type-options": "nosniff",
        }
        asked = request.headers.get("range")
        self.read.append((id, asked))
        if asked is None:
            return Response(data, headers=headers, media_type="application/octet-stream")
        if not data:
            return Response(b"", 416, {**headers, "content-range": "bytes */0"})
        if id in self.stuck and not asked.startswith("bytes=0-65535"):
            await trio.sleep_forever()
        first, last = (int(each) for each in asked.removeprefix("bytes=").split("-"))
        size = self.claimed.get(id, len(data))
        headers["content-range"] = f"bytes {first}-{min(last, size - 1)}/{size}"
        return Response(data[first : last + 1], 206, headers, "application/octet-stream")

    async def _upload(self, request: Request) -> Response:
        data = await request.body()
        self.asked.append(("POST", str(request.url.path), data))
        if request.headers.get("x-csrf-token") != CSRF:
            return JSONResponse({"error": {"reason": "CSRF", "details": "No."}}, 403)
        if request.query_params["name"].startswith("too-large"):
            details = "Your quota of 500 GB is used up. Delete something first."
            return JSONResponse({"error": {"reason": "QUOTA_EXCEEDED", "details": details}}, 507)
        self.empty = False
        return JSONResponse(self._file(self.put(request.query_params["name"], data)), 201)

    def _usage(self, request: Request) -> dict[str, Any]:
        if self.empty:
            return _list([])
        by = request.query_params["by"]
        if by == "day":
            end = date.fromisoformat(request.query_params["to"])
            days = [end - timedelta(days=back) for back in range(20, -1, -1)]
            return _list(
                [
                    {"day": day.isoformat(), "bytes_stored": 300 * 10**9 + 53 * 10**8 * at + (at % 3) * 2 * 10**9,
                     "bytes_served": (at * 37 % 11) * 1_700_000_000, "blocks_served": at * 1500, "pins": 200 + at}
                    for at, day in enumerate(days)
                ]
            )  # fmt: skip
        names = {"project": ["p1", "p2", None], "member": ["m1", "m2", "m3"], "client": [*PEERS[1:], None]}[by]
        people = {"p1": "hippocampus-2026", "p2": "atlas", "m1": "Ada Lovelace", "m2": "Grace Hopper",
                  "m3": "Emmy Noether", PEERS[1]: "rig-2"}  # fmt: skip
        return _list(
            [
                {by: name, "names": {by: people[name]} if name in people else {},
                 "bytes_stored": 412_000_000_000 // 9**at, "bytes_served": 98_000_000_000 // 5**at,
                 "blocks_served": 93_000 // 5**at, "pins": 229 // 4**at}
                for at, name in enumerate(names)
            ]
        )  # fmt: skip

    def _node(self) -> dict[str, Any]:
        peers = [
            {"peer": PEERS[1], "label": "rig-2", "direction": "inbound", "round_trip_ms": 0.9,
             "bytes_sent": 81_200_000_000, "bytes_received": 5_300_000_000, "address": "/ip4/192.0.2.22/tcp/4001"},
            {"peer": PEERS[2], "label": "", "direction": "outbound", "round_trip_ms": 187.2, "bytes_sent": 0,
             "bytes_received": 0, "address": "/ip4/198.51.100.7/tcp/4001/p2p-circuit"},
        ]  # fmt: skip
        return {
            "peer_id": PEERS[0], "ready": True, "why": [], "started": "2026-10-28T08:00:00Z", "uptime": 2_937_600,
            "peers": [] if self.empty else peers, "peers_count": 0 if self.empty else 2,
            "traffic": {"bytes_sent": 98_700_000_000, "bytes_received": 431_000_000_000, "blocks_sent": 93_112,
                        "blocks_received": 411_004},
            "disk": {"used": 512_000_000_000, "free": 3_400_000_000_000},
            "queue": {"queued": 3, "pinning": 1, "failed": 1, "pinned": 229},
            "storage": {"limit": 2_000_000_000_000, "cache": 61_000_000_000, "evicted_bytes": 4_200_000_000,
                        "evicted_roots": 17, "scrubbed": "2026-11-21T03:10:00Z", "damaged": 0, "mended": 1},
        }  # fmt: skip

    def _registration(self) -> dict[str, Any]:
        return {
            "id": "r1", "state": self.registration, "peer": PEERS[2], "label": "laptop of Ada", "code": "K7PM-2QXW",
            "address": "192.0.2.77", "made": "2026-11-30T18:00:00Z", "expires": "2026-11-30T19:00:00Z",
            "registered": False,
        }  # fmt: skip

    def _decide(self, request: Request) -> dict[str, Any]:
        self.registration = {"register": "registered", "refuse": "refused"}[request.path_params["verb"]]
        return {"state": self.registration, "peer": PEERS[2]}


def _list(items: list[Any]) -> dict[str, Any]:
    return {"items": items, "next": None}


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application on loopback, in a thread: its URL."""
    begun = threading.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        server = HttpServer(app, "127.0.0.1:0", what="The lab", option="--lab", bounds=HttpLimits())
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            found.update(url=server.url, scope=nursery.cancel_scope, token=trio.lowlevel.current_trio_token())
            begun.set()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    assert begun.wait(120)
    try:
        yield found["url"]
    finally:
        found["token"].run_sync_soon(found["scope"].cancel)
        thread.join()


def pretty(value: object) -> bytes:
    """JSON as bytes."""
    return json.dumps(value).encode()
