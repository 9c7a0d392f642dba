"""A browser that is looked into and worked with: the Chrome DevTools Protocol over a pipe, so without any port.

with Browser(tmp_path / "profile") as browser:
    page = browser.page()
    page.open(address)
    page.wait("document.querySelector('h1')")
    assert page.complaints == []
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.helpers.browser import CHROMIUM, FLAGS

#: What would hang otherwise ends then, in seconds.
PATIENCE = 120
#: Descriptors that the browser expects its commands and answers on, and where ours are out of their way.
_COMMANDS, _ANSWERS, _FAR = 3, 4, 20
#: An axe-core finding that is an error.
_AXE = """(async () => {
  const found = await axe.run(document, { resultTypes: ['violations'] })
  return found.violations.map(each => `${each.id}: ${each.help}: ` + each.nodes.map(node =>
    `${node.html} ${node.failureSummary}`).join(' | '))
})()"""


class DevToolsError(Exception):
    """The browser refused a command, a script threw, or the browser has gone."""


class Browser:
    """Chromium without a screen. Without one installed, the test is skipped."""

    def __init__(self, profile: Path) -> None:
        if CHROMIUM is None:
            pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
        self._program: str = CHROMIUM
        self._profile = profile
        self._number = 0
        self._read = b""
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Browser:
        ends = [_far(end) for end in (*os.pipe(), *os.pipe())]
        theirs_in, self._in, self._out, theirs_out = ends
        quiet = os.open(os.devnull, os.O_RDWR)
        try:
            self._process = os.posix_spawn(
                self._program,
                [self._program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self._profile}", "about:blank"],
                os.environ,
                file_actions=[
                    *((os.POSIX_SPAWN_DUP2, quiet, end) for end in (0, 1, 2)),
                    (os.POSIX_SPAWN_DUP2, theirs_in, _COMMANDS),
                    (os.POSIX_SPAWN_DUP2, theirs_out, _ANSWERS),
                ],
                setpgroup=0,
            )
        finally:
            for end in (theirs_in, theirs_out, quiet):
                os.close(end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(DevToolsError, OSError):
            self.send("Browser.close")
        os.close(self._in)
        os.close(self._out)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)

    def page(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> Page:
        """An empty page in a context of its own: no cookies, no cache."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network", "Audits", "DOM"):
            page.send(f"{domain}.enable")
        page.size(width, height)
        page.scheme(dark=dark)
        return page

    def add_frame(self, frame: Page) -> Page:
        """Give a frame in a process of its own the events of that, from now on."""
        self._pages[frame._session] = frame
        return frame

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Carry out a command: its result."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._in, data) :]
        while True:
            answer = self._message()
            if answer.get("id") == number:
                if "error" in answer:
                    raise DevToolsError(f"{method}: {answer['error']}")
                return answer["result"]

    def _message(self) -> dict[str, Any]:
        """The next message; events are given to their page."""
        while b"\0" not in self._read:
            if not select.select([self._out], [], [], PATIENCE)[0]:
                raise DevToolsError("the browser is silent")
            part = os.read(self._out, 1 << 16)
            if not part:
                raise DevToolsError("the browser has gone")
            self._read += part
        text, _, self._read = self._read.partition(b"\0")
        message = json.loads(text)
        page = self._pages.get(message.get("sessionId", ""))
        if "method" in message and page is not None:
            page.noticed(message["method"], message["params"])
        return message


class Page:
    """One page.

    Attributes:
        complaints: what went wrong in it, in the browser's words: exceptions, errors on the console, violations of the
            Content Security Policy.
        requests: the addresses that were asked for, in order.
    """

    def __init__(self, browser: Browser, session: str, target: str, context: int | None = None) -> None:
        self._context = context
        self._browser = browser
        self._session = session
        self._target = target
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.statuses: list[tuple[int, str]] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Carry out a command in this page: its result."""
        return self._browser.send(method, self._session, **parameters)

    def noticed(self, method: str, event: dict[str, Any]) -> None:
        """An event of the browser."""
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] == "error":
            self.complaints.append(" ".join(str(each.get("value", each.get("description"))) for each in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            # What the API refuses is no fault of the page; it is there in `statuses`.
            if event["entry"]["source"] != "network":
                self.complaints.append(event["entry"]["text"])
        elif method == "Audits.issueAdded" and event["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.complaints.append(f"Content Security Policy: {event['issue']['details']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Network.responseReceived":
            self.statuses.append((event["response"]["status"], event["response"]["url"]))

    def size(self, width: int, height: int = 900) -> None:
        """How large the window is, in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def scheme(self, *, dark: bool, still: bool = True) -> None:
        """Light or dark; `still` asks for less motion."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.send("Emulation.setEmulatedMedia", features=features)

    def open(self, address: str) -> None:
        """Go to an address, and wait until it is loaded."""
        answer = self.send("Page.navigate", url=address)
        if answer.get("errorText"):
            raise DevToolsError(f"{address}: {answer['errorText']}")
        self.wait(f"location.href !== 'about:blank' && document.readyState === 'complete' && {json.dumps(address)}")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, which may be a promise.

        Raises:
            DevToolsError: it threw.
        """
        where: dict[str, Any] = {} if self._context is None else {"contextId": self._context}
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, **where)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise DevToolsError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Wait until an expression is true, across pages that follow one another: its value."""
        script = f"""new Promise((done, failed) => {{
          const begun = Date.now()
          const look = () => {{
            let value = null
            try {{ value = {condition} }} catch (error) {{ value = null }}
            if (value) return done(typeof value === 'object' ? true : value)
            if (Date.now() - begun > {PATIENCE * 1000}) {{
              return failed(new Error('never came true; the page says: ' + document.body?.innerText.slice(0, 2000)))
            }}
            setTimeout(look, 20)
          }}
          look()
        }})"""
        while True:
            try:
                return self.run(script)
            except DevToolsError as error:
                # Another document came while it waited, in which it waits on.
                lost = ("Inspected target navigated", "Execution context was destroyed", "Cannot find context")
                if not any(each in str(error) for each in lost):
                    raise DevToolsError(f"{condition}: {error}; complaints: {self.complaints}") from error

    def text(self, selector: str = "body") -> str:
        """What is to be read in an element."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """Press the mouse on the middle of an element."""
        self.wait(f"document.querySelector({json.dumps(selector)})")
        place = self.run(
            f"(() => {{ const each = document.querySelector({json.dumps(selector)});"
            " each.scrollIntoView({ block: 'center' }); const box = each.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key: `Tab`, `Enter`, `Escape`, ..."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowRight": 39, "ArrowDown": 40}
        more = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        code = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        self.send("Input.dispatchKeyEvent", type="keyDown", **code, **more)
        self.send("Input.dispatchKeyEvent", type="keyUp", **code)

    def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.click(selector)
        self.send("Input.insertText", text=text)

    def choose_files(self, selector: str, paths: list[Path]) -> None:
        """Choose files in a field for files."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop_files(self, selector: str, paths: list[Path]) -> None:
        """Drop files on an element, as from the desktop."""
        place = self.run(
            f"(() => {{ const each = document.querySelector({json.dumps(selector)});"
            " each.scrollIntoView({ block: 'center' }); const box = each.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=place[0], y=place[1], data=data)

    def picture(self, path: Path) -> None:
        """Write what the whole page looks like, as PNG."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def cookie(self, name: str, value: str, address: str) -> None:
        """Set a cookie, as a server would."""
        self.send("Network.setCookie", name=name, value=value, url=address, httpOnly=True, sameSite="Lax")

    def accessibility(self, axe: Path) -> list[str]:
        """What axe-core finds wrong in the page as it is now."""
        self.run(axe.read_text(encoding="utf-8") + "\n;0")
        return self.run(_AXE)

    def frame(self, ending: str) -> Page:
        """A frame in it, by the end of its address: in a process of its own, or in that of the page.

        Raises:
            DevToolsError: there is none.
        """
        for found in self._browser.send("Target.getTargets")["targetInfos"]:
            if found["type"] == "iframe" and found["url"].endswith(ending):
                target = found["targetId"]
                session = self._browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
                frame = self._browser.add_frame(Page(self._browser, session, target))
                for domain in ("Runtime", "Log", "Audits"):  # each tells what was before, too
                    frame.send(f"{domain}.enable")
                return frame
        for found in self.send("Page.getFrameTree")["frameTree"].get("childFrames", []):
            if found["frame"]["url"].endswith(ending):
                world = self.send("Page.createIsolatedWorld", frameId=found["frame"]["id"])["executionContextId"]
                return Page(self._browser, self._session, self._target, world)
        raise DevToolsError(f"there is no frame {ending}")

    def close(self) -> None:
        """Close it."""
        self._browser.send("Target.closeTarget", targetId=self._target)


def axe_core() -> Path:
    """The script of axe-core. Where it is not installed, the test is skipped."""
    path = Path(__file__).resolve().parents[2] / "scripts" / "peers" / "node_modules" / "axe-core" / "axe.min.js"
    if not path.exists():
        pytest.skip("axe-core is not installed (scripts/peers/install)")
    return path


def _far(end: int) -> int:
    """A descriptor out of the way of those that the browser expects."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FAR)
    os.close(end)
    return moved
