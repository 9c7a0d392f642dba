"""For the tests of the pinning service as a program: a client over HTTP that any test can use."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE, wait_until

#: As opened by tests: no proxy of the environment stands in between.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class PinClient:
    """Somebody with a token, at a service."""

    url: str
    token: str

    def ask(self, method: str, path: str, value: Any = None) -> tuple[int, Any]:
        """Status and JSON value of an answer."""
        data = None if value is None else json.dumps(value).encode()
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with _OPENER.open(request, timeout=PATIENCE) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        return status, json.loads(body) if body else None

    def pin(self, cid: str, *origins: str, **more: Any) -> str:
        """Ask for a pin, which is taken; its request ID."""
        status, value = self.ask("POST", "/pins", {"cid": cid, "origins": list(origins), **more})
        assert status == 202, value
        return value["requestid"]

    def counts(self) -> dict[str, int]:
        """How many pins are in which state."""
        return {
            status: self.ask("GET", f"/pins?limit=1&status={status}")[1]["count"]
            for status in ("queued", "pinning", "pinned", "failed")
        }

    def wait_pinned(self, request_id: str) -> dict[str, Any]:
        """Wait until a pin is done; what the service says of it."""
        found: list[dict[str, Any]] = []

        def done() -> bool:
            found[:] = [self.ask("GET", f"/pins/{request_id}")[1]]
            return found[0]["status"] in ("pinned", "failed")

        wait_until(done, f"that {request_id} is pinned")
        assert found[0]["status"] == "pinned", found[0]
        return found[0]


def pinning_lab(station: Workstation, *options: str) -> str:
    """Start the node of a workstation as a pinning service; its URL."""
    station.start("--pinning-service", "127.0.0.1:0", *options)
    return station.status()["pinning_service"]


def add_token(station: Workstation, name: str, *options: str) -> str:
    """Make a token there."""
    made = station.run("kachery-cloud-node", "tokens", "add", name, *options, "--json")
    return json.loads(made.stdout)["token"]


def trusting(certificate: str) -> ssl.SSLContext:
    """A client that trusts that certificate alone."""
    return ssl.create_default_context(cafile=certificate)
