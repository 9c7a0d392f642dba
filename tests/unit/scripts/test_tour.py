"""The recorded sessions of the documentation: what is in them, and how what differs from run to run is shown."""

from __future__ import annotations

import re

from scripts.tour import terminal
from scripts.tour.names import Names
from tests.helpers.shells import on_screen


def test_what_a_newcomer_types() -> None:
    """Every command that one needs on the first day is in the session, and so are a refusal and an error."""
    page = terminal.PAGE.read_text(encoding="utf-8")
    typed = set(re.findall(r"^(?:ada|ben)\$ kachery-cloud (\S+)", page, re.MULTILINE))
    assert typed >= {"init", "node", "store", "list", "share", "get", "load", "cat", "ls", "info", "du", "whereis"}
    assert typed >= {"rm", "gc", "verify", "--help"}
    assert "may be the last copy" in page
    assert "Error: No such command" in page


def test_names_are_the_same_in_every_run() -> None:
    """What differs from run to run is replaced, in lines that stay as long, and is found again where it is typed."""
    first, second = "12D3KooW" + 44 * "A", "12D3KooW" + 44 * "B"
    names = Names({"/tmp/x-1/ada": "/home/ada"})
    shown = names.show(f"{second} /ip4/127.0.0.1/tcp/35467 {first} tcp:35467@ /tmp/x-1/ada/a 2031-01-02 03:04")
    again = Names({"/tmp/y-2/ada": "/home/ada"})
    assert shown == again.show(f"{first} /ip4/127.0.0.1/tcp/45467 {second} tcp:45467@ /tmp/y-2/ada/a 2029-11-12 13:14")
    peer = shown.split()[0]
    assert len(peer) == len(first)
    assert names.real(f"get {peer}=ip4:127.0.0.1:tcp:40121@") == f"get {second}=ip4:127.0.0.1:tcp:35467@"


def test_a_screen_shows_what_is_left() -> None:
    """A bar that went away, and colours, are not part of what was shown."""
    assert (
        on_screen("\rLoading:  1%|  |\rLoading: 58%|# |\r                \r/home/a\r\nb\x1b[1mold\x1b[0m\r\n")
        == "/home/a\nbold\n"
    )
