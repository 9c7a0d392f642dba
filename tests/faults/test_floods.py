"""Floods of cheap work from other processes, against a whole node: an honest peer is served all the while.

How long an answer takes depends on what else the machine does; how much CPU one round of the node's event loop takes
does not. An answer takes some ten rounds.
"""

from __future__ import annotations

import sys

import pytest

from scripts.floods.__main__ import measure
from scripts.floods.kinds import FLOODS, PLAIN

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the floods are programs for POSIX systems")


@pytest.mark.parametrize("name", [*FLOODS, *PLAIN])
def test_an_honest_peer_under_a_flood(name: str) -> None:
    """Every block and gateway request of an honest peer is answered, a newcomer gets in, and the rounds of the event
    loop stay short. Some of these floods once took it for seconds at a time; more silent connections than there are
    places keep nobody out, neither of the node nor of its gateway."""
    found = measure(name, 1)
    assert found.failed == found.web_failed == 0
    assert len(found.blocks) > 0
    assert len(found.web) > 0
    assert found.newcomer is not None
    assert found.loop["high"] < 100
