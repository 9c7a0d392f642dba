"""Signing in: the address that a browser was sent to, the port that waits for it, and what is said to the provider."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import SignInError
from kachery_cloud.openid import Provider
from kachery_cloud.ownership.openid import Attempt, begin, read_answer
from kachery_cloud.ownership.redirect import MAX_CONNECTIONS, MAX_HEAD, NotOurs, Receiver
from kachery_cloud.ownership.sign_in import name_of
from tests.helpers.patience import PATIENCE

ISSUER = "https://id.example.org"
PROVIDER = Provider(ISSUER, f"{ISSUER}/auth", f"{ISSUER}/token", f"{ISSUER}/keys", ("client_secret_basic",))
REDIRECT = "http://127.0.0.1:40000/"


def attempt() -> Attempt:
    return begin(PROVIDER, "client", "secret", REDIRECT, "the-nonce")


def answer(asked: Attempt, **changes: str) -> str:
    return f"{REDIRECT}?{urlencode({'code': 'the-code', 'state': asked.state, **changes})}"


# --- what is asked, and what is answered -----------------------------------------------------------------------------


def test_what_the_provider_is_asked() -> None:
    """Authorization code with PKCE (S256), state and nonce; nothing secret is in the link."""
    asked = attempt()
    query = {name: values[0] for name, values in parse_qs(urlsplit(asked.url).query).items()}
    digest = hashlib.sha256(asked.verifier.encode()).digest()
    assert query == {
        "response_type": "code",
        "client_id": "client",
        "redirect_uri": REDIRECT,
        "scope": "openid email profile",
        "state": asked.state,
        "nonce": "the-nonce",
        "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    assert 43 <= len(asked.verifier) <= 128  # RFC 7636, section 4.1
    assert asked.verifier not in asked.url
    assert "secret" not in asked.url
    assert attempt().state != asked.state


def test_a_provider_whose_page_has_a_query() -> None:
    """Ours is added to it."""
    provider = Provider(ISSUER, f"{ISSUER}/auth?tenant=a", f"{ISSUER}/t", f"{ISSUER}/k", ())
    assert f"{ISSUER}/auth?tenant=a&response_type=code&" in begin(provider, "c", "", REDIRECT, "n").url


def test_the_code_of_an_answer() -> None:
    """From the whole address, blanks around it or not, with the issuer or not."""
    asked = attempt()
    assert read_answer(asked, answer(asked)) == "the-code"
    assert read_answer(asked, f"  {answer(asked, iss=ISSUER, scope='openid')}\n") == "the-code"
    assert read_answer(asked, "?" + answer(asked).partition("?")[2]) == "the-code"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("state=", "state=x"),
        lambda text: text.replace("state=", "stale="),
        lambda text: text + "&state=x",
        lambda text: text.replace("code=", "mode="),
        lambda text: text + "&code=other",
        lambda text: text + "&iss=https%3A%2F%2Fevil.example.org",
        lambda text: text.partition("?")[2],
        lambda text: "the-code",
        lambda text: "",
        lambda text: "http://[::1",
        lambda text: REDIRECT + "?" + "&".join(["a=b"] * 100) + "&" + text.partition("?")[2],
    ],
)
def test_what_is_no_answer(change: Callable[[str], str]) -> None:
    """Another state, none, two of them, or something else: waiting goes on."""
    asked = attempt()
    with pytest.raises(NotOurs, match=r"\.$"):
        read_answer(asked, change(answer(asked)))


def test_no_is_an_answer() -> None:
    """But only with the right state: a page elsewhere cannot end a sign-in."""
    asked = attempt()
    no = f"{REDIRECT}?{urlencode({'error': 'access_denied', 'error_description': 'no', 'state': asked.state})}"
    with pytest.raises(SignInError, match="access_denied: no"):
        read_answer(asked, no)
    with pytest.raises(NotOurs):
        read_answer(asked, no.replace(asked.state, "x"))


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    """Whatever is pasted is no answer, and never another error."""
    with pytest.raises(NotOurs):
        read_answer(attempt(), text)


def test_what_providers_are_called() -> None:
    assert name_of("https://accounts.google.com") == "Google"
    assert name_of("https://id.example.org/realms/lab") == "id.example.org"


# --- the port --------------------------------------------------------------------------------------------------------


class Waiting:
    """A receiver that waits in a thread for an address with `yes` in it."""

    def __init__(self, typed: int | None = None) -> None:
        self.receiver = Receiver()
        self.taken: list[str] = []
        self.result: bool | SignInError | None = None
        self._thread = threading.Thread(target=self._wait, args=(typed,))
        self._thread.start()

    def _wait(self, typed: int | None) -> None:
        try:
            self.result = self.receiver.wait(self._take, timeout=PATIENCE, typed=typed, page="Done.")
        except SignInError as error:
            self.result = error

    def _take(self, text: str) -> bool:
        self.taken.append(text)
        if "no=1" in text:
            raise SignInError("They said no.")
        if "odd=1" in text:
            raise NotOurs("Something else.")
        return "yes=1" in text

    def end(self) -> bool | SignInError | None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.result

    @property
    def place(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.receiver.address.split(":")[2].rstrip("/"))


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    made = Waiting()
    try:
        yield made
    finally:
        made.receiver.stop()
        made.end()
        made.receiver.close()


def get(address: str) -> httpx.Response:
    return httpx.get(address, trust_env=False, timeout=PATIENCE)


def test_the_browser_is_told_and_waiting_ends(waiting: Waiting) -> None:
    """With a page that loads nothing, is kept nowhere, and tells nobody of the address."""
    got = get(waiting.receiver.address + "?yes=1")
    assert (got.status_code, "Done." in got.text) == (200, True)
    assert got.headers["cache-control"] == "no-store"
    assert got.headers["content-security-policy"] == "default-src 'none'"
    assert got.headers["referrer-policy"] == "no-referrer"
    assert waiting.end() is True
    assert waiting.taken == ["http://127.0.0.1/?yes=1"]


def test_it_listens_on_this_machine_alone(waiting: Waiting) -> None:
    assert waiting.receiver.address.startswith("http://127.0.0.1:")


def test_whatever_else_comes_is_refused_and_waiting_goes_on(waiting: Waiting) -> None:
    """Other paths, other methods, no HTTP, an address that is not ours; none of them is repeated on the page."""
    for path in ("", "favicon.ico", "yes=1", "other?yes=1", "?odd=1<script>"):
        got = get(waiting.receiver.address + path)
        assert (got.status_code, "script" in got.text) == (404, False)
    assert httpx.post(waiting.receiver.address + "?yes=1", trust_env=False).status_code == 404
    for rubbish in (b"\r\n\r\n", b"GET /?yes=1\r\n\r\n", b"\x16\x03\x01" + b"\n\n", b"GET  /?yes=1 HTTP/1.1\r\n\r\n"):
        with socket.create_connection(waiting.place, timeout=PATIENCE) as line:
            line.sendall(rubbish)
            assert b" 404 " in line.recv(4096)
    assert get(waiting.receiver.address + "?yes=1").status_code == 200
    assert waiting.end() is True


def test_connections_that_say_nothing_do_not_keep_it(waiting: Waiting) -> None:
    """Browsers open some in advance; more than so many push out the oldest, and a head without end is cut off."""
    lines = [socket.create_connection(waiting.place, timeout=PATIENCE) for _ in range(MAX_CONNECTIONS + 4)]
    assert lines[0].recv(1) == b""
    try:
        lines[-1].sendall(b"GET /?" + b"a" * (MAX_HEAD + 1))
        assert b" 404 " in lines[-1].recv(4096)
    except ConnectionError:
        pass  # it was cut off while we were sending
    assert get(waiting.receiver.address + "?yes=1").status_code == 200
    assert waiting.end() is True
    for line in lines:
        line.close()


def test_a_request_comes_in_pieces(waiting: Waiting) -> None:
    """A browser may send a head in several packets."""
    with socket.create_connection(waiting.place, timeout=PATIENCE) as line:
        for part in (b"GET /?ye", b"s=1 HTTP/1.1\r\nHost: x", b"\r\n\r", b"\n"):
            line.sendall(part)
        assert b" 200 " in line.recv(4096)
    assert waiting.end() is True


def test_what_ends_it_ends_it(waiting: Waiting) -> None:
    """The error reaches who waits, and the browser is told."""
    got = get(waiting.receiver.address + "?no=1")
    assert (got.status_code, "not signed in" in got.text) == (403, True)
    assert isinstance(waiting.end(), SignInError)


def test_stopping(waiting: Waiting) -> None:
    """Another thread ends the waiting."""
    waiting.receiver.stop()
    assert waiting.end() is False


def test_nothing_comes() -> None:
    """When the time is over."""
    with Receiver() as receiver:
        assert receiver.wait(lambda text: True, timeout=0.01, page="") is False


def test_what_is_typed() -> None:
    """Lines of a terminal or pipe, also without an end of line at its end; the browser is heard meanwhile."""
    reading, writing = os.pipe()
    waiting = Waiting(typed=reading)
    try:
        assert get(waiting.receiver.address + "?odd=1").status_code == 404
        os.write(writing, b"first\n  second \nyes")
        os.write(writing, b"=1")
        os.close(writing)
        assert waiting.end() is True
        assert waiting.taken == ["http://127.0.0.1/?odd=1", "first", "second", "yes=1"]
    finally:
        os.close(reading)
        waiting.receiver.close()


def test_who_cannot_type_is_waited_for_all_the_same() -> None:
    """An input that has ended is left; what comes by the browser counts."""
    reading, writing = os.pipe()
    os.close(writing)
    waiting = Waiting(typed=reading)
    try:
        assert get(waiting.receiver.address + "?yes=1").status_code == 200
        assert waiting.end() is True
    finally:
        os.close(reading)
        waiting.receiver.close()
