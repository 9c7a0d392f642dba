"""Places at the control socket: who makes room when all are taken."""

from __future__ import annotations

import contextlib

import trio

from kachery_cloud.node.places import ClientPlace, Places


async def hold(places: Places, stack: contextlib.ExitStack) -> ClientPlace:
    place = stack.enter_context(places.taken())
    assert place is not None
    return place


async def test_the_one_silent_for_longest_makes_room() -> None:
    """Strangers go before processes that showed the secret, those before others that asked later; whoever waits for an
    answer stays, and when all do there is no place."""
    places, waits = Places(4), {"busy": True}
    with contextlib.ExitStack() as stack:
        busy, old, new = [await hold(places, stack) for _ in range(3)]
        busy.waits = lambda: waits["busy"]
        old.waits = new.waits = lambda: False
        stranger = await hold(places, stack)
        places.asked(old)
        places.asked(new)
        first = await hold(places, stack)
        first.waits = lambda: True
        assert stranger.scope.cancel_called
        assert not old.scope.cancel_called
        second = await hold(places, stack)
        second.waits = lambda: True
        assert old.scope.cancel_called
        assert not new.scope.cancel_called
        third = await hold(places, stack)
        third.waits = lambda: True
        assert new.scope.cancel_called
        assert not busy.scope.cancel_called
        with places.taken() as none:
            assert none is None
        waits["busy"] = False
        await hold(places, stack)
        assert busy.scope.cancel_called


async def test_a_place_is_free_again_when_its_connection_ends() -> None:
    """Connections that come and go take nobody's place."""
    places = Places(2)
    with contextlib.ExitStack() as stack:
        first = await hold(places, stack)
        for _ in range(10):
            with places.taken() as place:
                assert place is not None
                await trio.lowlevel.checkpoint()
        assert not first.scope.cancel_called
