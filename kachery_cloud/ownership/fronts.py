"""How a sign-in speaks to the user: on a terminal, in a notebook, or where nobody can type.

Everything goes to stderr, or to the output of the cell. A link is shown, and the browser opened only where that was
asked for. Waiting can be interrupted at any time.
"""

from __future__ import annotations

import html
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from kachery_cloud.ownership.redirect import NotOurs, Receiver, Taker, typed_input
from kachery_cloud.terminal import tell

_GIVE_UP = ("q", "quit", "exit")


class Console:
    """A terminal, or a pipe.

    Args:
        open_browser: open each link, too.
        typed: take what is pasted on standard input.
    """

    def __init__(self, *, open_browser: bool = False, typed: bool = True) -> None:
        self._open = open_browser
        self._typed = typed

    def show_sign_in(self, url: str, provider: str) -> None:
        _tell(f"Sign in with {provider}, in any browser:\n\n  {url}\n")
        if self._typed:
            _tell(
                "If that browser is on another computer, it ends at a page that cannot be opened. Copy the address of "
                "that page, and paste it here. (Enter alone: do not sign in.)"
            )
        self._browse(url)

    def show_registration(self, url: str, code: str, node: str) -> None:
        _tell(f"To register this computer with {node}, open this link in any browser:\n\n  {url}\n")
        if code:
            _tell(f"The page shows the code {code}. If it shows another one, do not register.")
        _tell("Waiting ... (Ctrl-C ends the waiting; the same command takes it up again.)")
        self._browse(url)

    def say(self, text: str) -> None:
        _tell(text)

    def wait(self, receiver: Receiver, take: Callable[[str], bool], page: str, timeout: float) -> bool:
        given_up: list[bool] = []

        def typed(text: str) -> bool:
            if text and text.lower() not in _GIVE_UP:
                try:
                    return take(text)
                except NotOurs as error:
                    self.say(str(error))
                    return False
            given_up.append(True)
            return True

        source = typed_input() if self._typed else None
        found = receiver.wait(take, timeout=timeout, typed=source, on_typed=typed, page=page)
        return found and not given_up

    def _browse(self, url: str) -> None:
        if self._open:
            import webbrowser

            if not webbrowser.open(url):
                _tell("No browser could be opened here.")


class Notebook:
    """A cell of a notebook. Where its browser is on another machine than its kernel, the address is pasted."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def show_sign_in(self, url: str, provider: str) -> None:
        self._show(
            f"{_link(url, f'Sign in with {provider}')}, so that others can check who stands behind this machine."
        )

    def show_registration(self, url: str, code: str, node: str) -> None:
        shown = f" The page shows the code <b>{html.escape(code)}</b>; if it shows another one, do not register."
        self._show(f"{_link(url, f'Register this machine with {node}')}.{shown if code else ''} Waiting ...")

    def say(self, text: str) -> None:
        self._show(html.escape(text))

    def _show(self, text: str) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingModuleSource]

        display(HTML(f"<p>{text}</p>"))

    def wait(self, receiver: Receiver, take: Taker, page: str, timeout: float) -> bool:
        if not self._may_type():
            return receiver.wait(take, timeout=timeout, page=page)
        # Both are waited for: a kernel on this machine hears the browser itself.
        came = threading.Event()
        ended: list[BaseException] = []
        lock = threading.Lock()

        def once(address: str) -> bool:
            with lock:
                if came.is_set():
                    return True
                try:
                    taken = take(address)
                except NotOurs:
                    raise
                except BaseException as error:
                    ended.append(error)
                    came.set()
                    raise
                if taken:
                    came.set()
                return taken

        def listen() -> None:
            try:
                receiver.wait(once, timeout=timeout, page=f"{page} Press Enter in the box of the notebook.")
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                if not ended:
                    ended.append(error)

        thread = threading.Thread(target=listen, name="sign-in", daemon=True)
        thread.start()
        try:
            self._ask(once, came)
        finally:
            receiver.stop()
            thread.join()
        if ended:
            raise ended[0]
        return came.is_set()

    def _ask(self, once: Taker, came: threading.Event) -> None:
        while not came.is_set():
            text = input(
                "When you have signed in: press Enter, or paste the address of the page that could not be opened "
                "(q to give up): "
            ).strip()
            if text.lower() in _GIVE_UP:
                return
            if text:
                try:
                    once(text)
                except NotOurs as error:
                    self.say(str(error))
            elif not came.is_set():
                self.say("Nobody has signed in yet.")

    def _may_type(self) -> bool:
        """Whether there is somebody who could answer: a notebook that is run as a program has nobody."""
        return bool(getattr(getattr(self._shell, "kernel", None), "_allow_stdin", False))


def _tell(text: str) -> None:
    for line in text.split("\n"):
        tell(line)


def _link(url: str, text: str) -> str:
    return f'<a href="{html.escape(url)}" target="_blank" rel="noopener noreferrer">{html.escape(text)}</a>'


def notebook_here() -> Notebook | None:
    """The notebook that this runs in; None elsewhere. Imports nothing that is not loaded already."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return Notebook(shell) if shell is not None and getattr(shell, "kernel", None) is not None else None


def somebody_here() -> bool:
    """Whether this program speaks with somebody: both ends are a terminal."""
    try:
        return os.isatty(0) and sys.stderr is not None and sys.stderr.isatty()
    except (OSError, ValueError):
        return False
