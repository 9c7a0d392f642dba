"""The one request of a browser that brings the code of a sign-in: a port of 127.0.0.1 (RFC 8252, section 7.3).

Where the browser is on another machine (ssh, a notebook on a server), that request goes nowhere, and the user copies
the address from it. Both are waited for at the same time, in the thread of whoever waits, without another one. Other
pages and programs of this machine can reach the port, too: what is not the answer is answered with an error, and
waiting goes on.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
#: Bytes of a request's head. Browsers send all cookies of 127.0.0.1 with it, whoever has set them.
MAX_HEAD = 64 << 10
#: Connections at once: browsers open some in advance. A newer one takes the place of the oldest.
MAX_CONNECTIONS = 16
#: Characters of a line that is typed or pasted.
MAX_TYPED = 16 << 10
#: Seconds that a browser has to take the answer.
_ANSWER_SECONDS = 5.0
_REQUEST = re.compile(rb"GET (/[^ ]*) HTTP/1\.[01]\r?\n")
_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>kachery-cloud</title></head><body><p>{}</p></body></html>"
)
_NOT_DONE = "You are not signed in. This window can be closed: where kachery-cloud waits, it says why."
#: Of what macOS has, only select waits for terminals.
_SELECTOR = selectors.SelectSelector if sys.platform == "darwin" else selectors.DefaultSelector

#: Takes the address that a browser was sent to, or a text that was typed; whether it was the one to wait for.
Taker = Callable[[str], bool]


class NotOurs(ValueError):
    """An address is not the one that is waited for. The message is a sentence; waiting can go on."""


class Receiver:
    """Waits for a browser. A context manager: the port is closed with it.

    Attributes:
        address: where the browser is to be sent, such as `http://127.0.0.1:40123/`.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0), backlog=MAX_CONNECTIONS)
        self._listener.setblocking(False)
        self.address = f"http://{HOST}:{self._listener.getsockname()[1]}/"
        self._heads: dict[socket.socket, bytearray] = {}
        # Who waits in another thread is woken by this.
        self._waking, self._wake = socket.socketpair()

    def wait(
        self, take: Taker, *, timeout: float, typed: int | None = None, on_typed: Taker | None = None, page: str
    ) -> bool:
        """Wait until something was taken.

        Args:
            take: is given each address that a browser opens. Others can open some, too, so nobody is told of those for
                which it raises `NotOurs`.
            timeout: seconds.
            typed: the file descriptor of a terminal or pipe, on which an address may come as well; None for none.
            on_typed: is given each line of it, without the blanks around.
            page: what the browser says when its address was taken.

        Returns:
            False when the time is over, or `stop` was called.
        """
        deadline = time.monotonic() + timeout
        line = bytearray()
        with _SELECTOR() as selector:
            selector.register(self._listener, selectors.EVENT_READ, self._listener)
            selector.register(self._waking, selectors.EVENT_READ, self._waking)
            if typed is not None:
                try:
                    selector.register(typed, selectors.EVENT_READ, typed)
                except (OSError, ValueError):  # a file, which has nothing more to say than what is there
                    typed = None
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    source = key.data
                    if source is self._waking:
                        return False
                    if source is self._listener:
                        self._accept(selector)
                    elif source == typed:
                        ended, taken = self._read_typed(source, line, on_typed or take)
                        if taken:
                            return True
                        if ended:
                            selector.unregister(source)
                    elif source in self._heads and self._read(selector, source, take, page):
                        return True
        return False

    def stop(self) -> None:
        """Have `wait` return, in whichever thread it is."""
        self._wake.send(b"x")

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        if len(self._heads) >= MAX_CONNECTIONS:
            self._drop(selector, next(iter(self._heads)))
        connection.setblocking(False)
        self._heads[connection] = bytearray()
        selector.register(connection, selectors.EVENT_READ, connection)

    def _read(self, selector: selectors.BaseSelector, connection: socket.socket, take: Taker, page: str) -> bool:
        head = self._heads[connection]
        try:
            part = connection.recv(MAX_HEAD)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            part = b""
        head += part
        if part and b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= MAX_HEAD:
            return False
        taken = False
        match = _REQUEST.match(head)
        if match is not None and match[1].split(b"?")[0] == b"/" and b"?" in match[1]:
            try:
                taken = take(f"http://{HOST}{match[1].decode('latin-1')}")
            except NotOurs:
                taken = False
            except BaseException:
                self._answer(connection, "403 Forbidden", _NOT_DONE)
                raise
        if part:
            status, text = ("200 OK", page) if taken else ("404 Not Found", "There is nothing here.")
            self._answer(connection, status, text)
        self._drop(selector, connection)
        return taken

    def _answer(self, connection: socket.socket, status: str, text: str) -> None:
        body = _PAGE.format(text).encode()
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nContent-Security-Policy: default-src 'none'\r\n"
            "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.sendall(head.encode() + body)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # nobody is there to be told
            pass

    def _drop(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        del self._heads[connection]
        selector.unregister(connection)
        connection.close()

    @staticmethod
    def _read_typed(source: int, line: bytearray, take: Taker) -> tuple[bool, bool]:
        """What was typed: whether that was the end of it, and whether a line was taken."""
        part = os.read(source, 4096)
        line += part
        while b"\n" in line or (not part and line):
            text, _, rest = bytes(line).partition(b"\n")
            line[:] = rest
            if take(text.decode("utf-8", "replace").strip()):
                return not part, True
        if len(line) > MAX_TYPED:
            line.clear()
        return not part, False

    def close(self) -> None:
        """Lets go of the port and of all connections."""
        for each in (self._listener, self._waking, self._wake, *self._heads):
            each.close()
        self._heads.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def typed_input() -> int | None:
    """The file descriptor on which something may be typed or piped; None where there is none, or cannot be waited."""
    if sys.platform == "win32" or sys.stdin is None:
        return None
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError):
        return None
