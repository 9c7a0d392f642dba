"""Groups on the network, between hosts on loopback: join, compare, remove, leave, and what strangers get."""

from __future__ import annotations

from pathlib import Path

import trio

from kachery_p2p.membership.lists import Role
from tests.helpers.group_helpers import Machine
from tests.helpers.patience import until


async def test_three_machines(tmp_path: Path) -> None:
    """One makes a group and invites; a second joins, becomes an owner and invites a third; the first removes it. Each
    sees all of it, and the secret is another one then, which the third does not have."""
    async with trio.open_nursery() as nursery:
        a, b, c = [await Machine(tmp_path / name).start(nursery) for name in "abc"]
        group = a.groups.create("hippocampus", "a").group
        assert (await b.join(a.invite(group), "b")).name == "hippocampus"
        assert b.roles(group) == a.roles(group) == {a.peer: Role.OWNER, b.peer: Role.READER}
        assert a.groups.groups_of(b.peer) == b.groups.groups_of(a.peer) == {group}
        assert a.groups.secrets_of(group) == b.groups.secrets_of(group)
        a.groups.set_role(group, b.peer, Role.OWNER)
        a.service.changed()
        await until(lambda: b.roles(group)[b.peer] is Role.OWNER)
        await c.join(b.invite(group, Role.WRITER), "c")
        for each in (a, b, c):
            await each.sees(group, a, b, c)
        assert {each.groups.secrets_of(group) for each in (a, b, c)} == {a.groups.secrets_of(group)}
        before = c.groups.secrets_of(group)
        a.groups.remove(group, c.peer)
        a.service.changed()
        assert a.groups.groups_of(c.peer) == frozenset()
        for each in (a, b):
            await each.sees(group, a, b)
            await until(lambda each=each: len(each.groups.secrets_of(group)) == 2)
        await until(lambda: c.groups.own_groups() == frozenset())
        assert c.groups.secrets_of(group) == ()
        assert a.groups.secrets_of(group)[1:] == b.groups.secrets_of(group)[1:] == before
        assert a.groups.secrets_of(group)[0] == b.groups.secrets_of(group)[0]
        held = c.groups.get(group)
        assert held is not None
        assert held.removed
        assert a.groups.secrets_of(group)[0] not in held.ordered_secrets()
        nursery.cancel_scope.cancel()
