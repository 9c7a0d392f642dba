"""How a sign-in speaks to the user: in a notebook whose browser may be elsewhere, and on a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from kachery_cloud.errors import SignInError
from kachery_cloud.ownership import fronts
from kachery_cloud.ownership.fronts import Console, Notebook, notebook_here
from kachery_cloud.ownership.redirect import NotOurs, Receiver
from tests.helpers.patience import PATIENCE


class Cell:
    """A cell of a notebook, in which somebody answers the questions of `input` one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, may_type: bool = True) -> None:
        self.front = Notebook(SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=may_type)))
        self.shown: list[str] = []
        self.answers: Iterator[str | Callable[[], str]] = iter(())
        self.taken: list[str] = []
        monkeypatch.setattr(self.front, "_show", self.shown.append)
        monkeypatch.setattr("builtins.input", self._input)

    def _input(self, prompt: str) -> str:
        answer = next(self.answers)
        return answer() if callable(answer) else answer

    def take(self, address: str) -> bool:
        self.taken.append(address)
        if "no" in address:
            raise SignInError("They said no.")
        if "yes" not in address:
            raise NotOurs("That is something else.")
        return True

    def wait(self, *answers: str | Callable[[], str], receiver: Receiver | None = None) -> bool:
        self.answers = iter(answers)
        with receiver or Receiver() as each:
            return self.front.wait(each, self.take, "Done.", PATIENCE)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    return Cell(monkeypatch)


def open_in_browser(receiver: Receiver, query: str) -> Callable[[], str]:
    """Somebody answers with Enter after his browser was sent back to this machine."""

    def answer() -> str:
        got = httpx.get(f"{receiver.address}?{query}", trust_env=False, timeout=PATIENCE)
        assert ("Press Enter" in got.text) == ("yes" in query)
        return ""

    return answer


def test_the_address_is_pasted_into_the_box(cell: Cell) -> None:
    """Where the browser is on another machine than the kernel; what is wrong is said, and asked again."""
    assert cell.wait("", "something", " https://example.org/yes ")
    assert cell.shown == ["Nobody has signed in yet.", "That is something else."]
    assert cell.taken == ["something", "https://example.org/yes"]


def test_the_browser_is_on_this_machine(cell: Cell) -> None:
    """It brings the address itself; then Enter is enough, and a second address changes nothing."""
    receiver = Receiver()
    assert cell.wait(open_in_browser(receiver, "yes=1"), receiver=receiver)
    assert cell.taken == ["http://127.0.0.1/?yes=1"]
    receiver = Receiver()

    def both() -> str:
        open_in_browser(receiver, "yes=1")()
        return "https://example.org/yes"

    cell.taken.clear()
    assert cell.wait(both, receiver=receiver)
    assert cell.taken == ["http://127.0.0.1/?yes=1"]


def test_who_gives_up_or_is_refused(cell: Cell) -> None:
    """Gives up with q; what the provider says ends it, whichever way it comes; so does an interrupt of the kernel."""
    assert not cell.wait("q")
    with pytest.raises(SignInError):
        cell.wait("https://example.org/no")
    receiver = Receiver()
    with pytest.raises(SignInError):
        cell.wait(open_in_browser(receiver, "no=1"), receiver=receiver)

    def interrupt() -> str:
        raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        cell.wait(interrupt)
    assert threading.active_count() == threads


def test_a_notebook_that_nobody_can_type_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a program: the browser alone is waited for."""
    cell = Cell(monkeypatch, may_type=False)
    receiver = Receiver()
    person = threading.Thread(target=lambda: httpx.get(receiver.address + "?yes=1", trust_env=False, timeout=PATIENCE))
    person.start()
    assert cell.wait(receiver=receiver)
    person.join()


def test_what_is_shown_in_a_notebook(cell: Cell) -> None:
    """Links as links; what comes from others is text."""
    cell.front.show_sign_in("https://id.example.org/?a=1&b=<2>", "Google")
    cell.front.show_registration("https://lab.example.org/register/x", "AAAA-<b>", '"><script>')
    cell.front.say("<b>bold</b>")
    first, second, third = cell.shown
    assert 'href="https://id.example.org/?a=1&amp;b=&lt;2&gt;" target="_blank" rel="noopener noreferrer"' in first
    assert "Sign in with Google</a>" in first
    assert "AAAA-&lt;b&gt;" in second
    assert "<script>" not in second
    assert third == "&lt;b&gt;bold&lt;/b&gt;"


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython on a terminal is none, and nothing is imported to find out."""
    shells: list[Any] = [None, SimpleNamespace(), SimpleNamespace(kernel=object())]
    found: list[bool] = []
    for shell in shells:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        found.append(notebook_here() is not None)
    monkeypatch.delitem(sys.modules, "IPython")
    found.append(notebook_here() is not None)
    assert found == [False, False, True, False]


def test_what_is_shown_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, a link on a line of its own; a browser is opened only where that was asked for."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url))
    Console().show_sign_in("https://id.example.org/auth", "Google")
    Console(typed=False).show_registration("https://lab.example.org/register/x", "AAAA-BBBB", "Lab")
    out, shown = capsys.readouterr()
    assert (out, opened) == ("", [])
    assert "\n  https://id.example.org/auth\n" in shown
    assert "\n  https://lab.example.org/register/x\n" in shown
    assert "AAAA-BBBB" in shown
    Console(open_browser=True).show_registration("https://lab.example.org/register/x", "", "Lab")
    assert opened == ["https://lab.example.org/register/x"]
    assert "No browser could be opened here." in capsys.readouterr().err


def test_nobody_is_at_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal at both ends nobody is asked anything."""
    monkeypatch.setattr("os.isatty", lambda fd: True)
    monkeypatch.setattr(sys, "stderr", None)
    assert not fronts.somebody_here()
