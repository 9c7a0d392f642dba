"""Members of a lab that runs as a process: they are invited, and register workstations as they would by hand."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import httpx

from scripts.workstation import Workstation

#: Seconds for which an answer is waited for.
PATIENCE = 120.0
_LINK = re.compile(r"http://127\.0\.0\.1:\d+/register/([\w-]+)")


class LabMember:
    """Somebody who was invited to a lab, at a browser.

    Args:
        lab: the workstation whose node runs with `--lab`.
        url: of the lab.
        name: what they are called.
        options: of the command that invites.
    """

    def __init__(self, lab: Workstation, url: str, name: str, *options: str) -> None:
        made = json.loads(lab.run("kachery-cloud-node", "members", "invite", name, *options, "--json").stdout)
        self.url = url
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE)
        path = "/" + made["invitation"].split("/", 3)[3]
        answer = self.http.post(path)
        assert answer.status_code == 200, answer.text
        me = self.get("/api/v1/me")
        self.id, self._csrf = me["id"], me["csrf"]

    def get(self, path: str, **more: Any) -> Any:
        """What the API says."""
        answer = self.http.get(path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Change something, as the page does."""
        headers = {"x-csrf-token": self._csrf, "sec-fetch-site": "same-origin"}
        return self.http.request(method, path, headers=headers, **more)

    def register(self, station: Workstation) -> None:
        """Register a workstation as a client of theirs, by its command and by pressing the button."""
        process = subprocess.Popen(
            [*station._command("kachery-cloud-init"), "--node", self.url],
            env=station.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            shown = ""
            while (match := _LINK.search(shown)) is None:
                line = process.stdout.readline()
                assert line, shown
                shown += line
            pressed = self.call("POST", f"/api/v1/registrations/{match[1]}/register")
            assert pressed.status_code == 200, pressed.text
            shown += process.communicate(timeout=PATIENCE)[0]
            assert process.returncode == 0, shown
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Close the browser."""
        self.http.close()


def running_node_of_lab(station: Workstation, *options: str) -> str:
    """Start the node of a workstation with a lab; the lab's URL."""
    station.start("--lab", "127.0.0.1:0", *options)
    return station.status()["lab"]
