"""Two members and an outsider, whole nodes on loopback: what is for the group, and what anybody else hears of it.

The outsider is connected with both, serves the DHT that they announce in, and asks for whatever it likes. Everything
that is written to it on any stream is recorded, before it is encrypted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from kachery_p2p.access.audience import NOBODY, PRIVATE, PUBLIC, group_audience
from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.errors import ContentNotFound, KacheryError, NoPermission, NotAMember
from kachery_p2p.node.messages import AnnounceRequest, CopiesRequest, LoadRequest, PublishRequest, WhereisRequest
from kachery_p2p.peer_ids import peer_bytes
from kachery_p2p.routing.blinded import keys_to_announce
from kachery_p2p.routing.dht.messages import DhtPeer
from kachery_p2p.transport.stream import Stream
from tests.helpers.bitswap_fakes import cid_of
from tests.helpers.group_network import Lab, Three, assert_unheard, audiences, blocks_of, lan_dht, stored
from tests.helpers.patience import PATIENCE, until

MIB = 1 << 20
#: For a load that is to find nothing.
SOON = 3.0


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytearray]:
    """All that was written on streams to each peer, by anybody."""
    record: dict[str, bytearray] = defaultdict(bytearray)
    write_parts = Stream.write_parts

    async def recorded(self: Stream, parts: Sequence[Any]) -> None:
        for part in parts:
            record[self.peer] += part
        await write_parts(self, parts)

    monkeypatch.setattr(Stream, "write_parts", recorded)
    return record


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(2 * PATIENCE):
                yield Lab(tmp_path, nursery, stack)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def three(lab: Lab) -> Three:
    outsider, alice, bob = [await lab.node(name) for name in ("outsider", "alice", "bob")]
    await lab.met(outsider, alice, bob)
    return Three(alice, bob, outsider, await lab.join(alice, bob))


async def test_the_outsider_hears_of_nothing(three: Three, heard: dict[str, bytearray]) -> None:
    """While it is stored, announced, found, loaded, asked about and removed: what is announced is there, under a key
    that leads members to each other, and nobody else to anything."""
    alice, bob, outsider = three.alice, three.bob, three.outsider
    cid = await stored(alice, os.urandom(3 * MIB), group_audience([three.group]))
    secret = blocks_of(alice)
    assert audiences(alice, secret) == {three.group}

    announced = await alice.announce(AnnounceRequest(cid, PATIENCE))
    assert announced.copies == 2
    (key,) = keys_to_announce(alice.groups.secrets_of(three.group)[0], cid.multihash, time.time())[:1]
    wall = time.time()
    assert [each.id for each in lan_dht(outsider)._providers.get(key, wall)] == [peer_bytes(alice.host.peer_id)]
    assert lan_dht(outsider)._providers.get(cid.multihash, wall) == []
    assert alice.finding._provides(key)
    assert not alice.finding._provides(cid.multihash)
    found = [each.peer async for each in bob.finding.providers(cid, frozenset({three.group}))]
    assert set(found) == {alice.host.peer_id}

    rows = await bob.whereis(WhereisRequest(cid, SOON, groups=(three.group,)))
    assert [(row.peer, row.has) for row in rows] == [(alice.host.peer_id, True)]
    before = alice.exchange.stats().total.blocks_sent  # a small block comes in place of "I have it"
    loaded = await bob.load(LoadRequest(cid, groups=(three.group,), timeout=PATIENCE))
    assert loaded.sources.keys() == {alice.host.peer_id}
    assert alice.exchange.stats().total.blocks_sent == before + len(secret), "each block comes once, the root's, too"
    assert audiences(bob, secret) == {three.group}
    assert bob.repo.access.audience_of(cid) == group_audience([three.group])

    copies = await alice.copies(CopiesRequest(cid, (cid,), (cid,), PATIENCE))
    assert [each.peer for each in copies.seen] == [bob.host.peer_id]
    assert_unheard(heard[outsider.host.peer_id], secret)


async def test_a_load_without_the_hint_stays_among_members(three: Three, heard: dict[str, bytearray]) -> None:
    """A fellow member is asked first, and says for whom it is. What came is for the group, and goes no further."""
    alice, bob, outsider = three.alice, three.bob, three.outsider
    cid = await stored(alice, os.urandom(2 * MIB + 1), group_audience([three.group]))
    secret = blocks_of(alice)
    loaded = await bob.load(LoadRequest(cid, timeout=PATIENCE))
    assert loaded.sources.keys() == {alice.host.peer_id}
    assert audiences(bob, secret) == {three.group}
    assert_unheard(heard[outsider.host.peer_id], secret)

    with pytest.raises(ContentNotFound):
        await outsider.load(LoadRequest(cid, timeout=SOON))
    assert not blocks_of(outsider) & secret


async def test_who_is_no_member_is_told_at_once(three: Three) -> None:
    """Which group it is for, and what to do."""
    cid = await stored(three.alice, b"for the group", group_audience([three.group]))
    for ask in (
        three.outsider.load(LoadRequest(cid, groups=(three.group,), timeout=PATIENCE)),
        three.outsider.whereis(WhereisRequest(cid, PATIENCE, groups=(three.group,))),
    ):
        with pytest.raises(NotAMember, match=rf"{three.group}.*kachery-cloud-group join"):
            await ask


async def test_ranges_listings_and_folders_stay_in_the_group(
    three: Three, heard: dict[str, bytearray], tmp_path: Path
) -> None:
    """All that a load keeps is claimed: parts of files, nodes of folders, small files, and what is in them."""
    alice, bob, outsider = three.alice, three.bob, three.outsider
    folder = tmp_path / "experiment"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "big.dat").write_bytes(os.urandom(3 * MIB))
    (folder / "notes.txt").write_bytes(b"a note\n")
    (folder / "link").symlink_to("notes.txt")
    audience = group_audience([three.group])
    done = await trio.to_thread.run_sync(lambda: alice.repo.store_directory(folder, audience=audience))
    await alice.notify_stored([done.cid])
    secret = blocks_of(alice)
    request = LoadRequest(done.cid, groups=(three.group,), timeout=PATIENCE)

    await bob.load(LoadRequest(done.cid, kind="listing", groups=(three.group,), timeout=PATIENCE))
    part = LoadRequest(done.cid, ("raw", "big.dat"), "bytes", MIB + 5, MIB + 9, groups=(three.group,), timeout=PATIENCE)
    await bob.load(part)
    assert audiences(bob, blocks_of(bob) & secret) == {three.group}
    assert len(blocks_of(bob) & secret) < len(secret)
    await bob.load(LoadRequest(request.cid, kind="directory", groups=request.groups, timeout=PATIENCE))
    assert blocks_of(bob) >= secret
    assert audiences(bob, secret) == {three.group}
    assert [cid for cid, _ in bob.repo.access.roots()] == [done.cid]
    assert_unheard(heard[outsider.host.peer_id], secret)


async def test_what_is_public_stays_public_among_members(three: Three) -> None:
    """Whether it comes from a member or from anybody else; and nothing of it is claimed."""
    theirs = await stored(three.outsider, os.urandom(2 * MIB))
    ours = await stored(three.alice, os.urandom(2 * MIB))
    for cid in (theirs, ours):
        await three.bob.load(LoadRequest(cid, timeout=PATIENCE))
        assert three.bob.repo.access.audience_of(cid) == PUBLIC
    assert audiences(three.bob, blocks_of(three.bob)) == {"public"}
    assert not three.bob.repo.access.any_restricted()


async def test_who_puts_himself_under_a_key_is_not_asked(three: Three, heard: dict[str, bytearray]) -> None:
    """The outsider has seen the key, and announces it as his own. Nobody tells him the CID."""
    alice, bob, outsider = three.alice, three.bob, three.outsider
    cid = await stored(alice, b"a secret of the group", group_audience([three.group]))
    await alice.announce(AnnounceRequest(cid, PATIENCE))
    key = keys_to_announce(alice.groups.secrets_of(three.group)[0], cid.multihash, time.time())[0]
    for node in (alice, bob):
        assert await lan_dht(outsider).deliver(DhtPeer(peer_bytes(node.host.peer_id)), [key])
    named = [each.peer async for each in bob.finding.router.find_providers(key)]
    assert outsider.host.peer_id in named
    # The only one who has it is gone.
    alice._downloads.arriving.hide(cid.multihash, 1000)
    with pytest.raises(ContentNotFound):
        await bob.load(LoadRequest(cid, groups=(three.group,), providers=(outsider.host.addresses()[0],), timeout=SOON))
    assert_unheard(heard[outsider.host.peer_id], {cid.multihash})


async def test_a_group_of_one_finds_nobody(lab: Lab) -> None:
    """Its only member asks nobody, however many are connected and have it."""
    alice, outsider = await lab.node("alice"), await lab.node("outsider")
    await lab.met(outsider, alice)
    group = alice.groups.create("alone").group
    cid = await stored(outsider, b"what a stranger has, too")
    with pytest.raises(ContentNotFound, match="Only members of the group"):
        await alice.load(LoadRequest(cid, groups=(group,), timeout=SOON))
    assert alice.exchange.stats().total.blocks_received == 0


async def test_what_is_private_goes_to_own_machines_alone(lab: Lab, heard: dict[str, bytearray]) -> None:
    """It is not announced at all; the user's other machine gets it, without a hint, and a fellow member does not."""
    outsider, alice, bob = [await lab.node(name) for name in ("outsider", "alice", "bob")]
    laptop = await lab.node("laptop", own_peers=(alice.host.peer_id,))
    alice.groups.own_peers = frozenset({laptop.host.peer_id})
    await lab.met(outsider, alice, bob, laptop)
    await lab.join(alice, bob)
    cid = await stored(alice, os.urandom(2 * MIB), PRIVATE)
    secret = blocks_of(alice)
    with pytest.raises(KacheryError, match="announced to nobody"):
        await alice.announce(AnnounceRequest(cid, SOON))
    await laptop.load(LoadRequest(cid, timeout=PATIENCE))
    assert audiences(laptop, secret) == {"private"}
    assert_unheard(heard[outsider.host.peer_id], secret)
    # Whoever asks everybody for a CID tells everybody that CID; it does not help him.
    with pytest.raises(ContentNotFound):
        await bob.load(LoadRequest(cid, timeout=SOON))


@pytest.mark.parametrize("named_by", ["source", "loader"])
async def test_machines_that_do_not_name_each_other_are_not_of_one_owner(lab: Lab, named_by: str) -> None:
    """One that gets what is private must know that it is, or it would pass it on. So both have to name the other."""
    alice = await lab.node("alice")
    laptop = await lab.node("laptop", own_peers=(alice.host.peer_id,) if named_by == "loader" else ())
    if named_by == "source":
        alice.groups.own_peers = frozenset({laptop.host.peer_id})
    await lab.met(alice, laptop)
    cid = await stored(alice, os.urandom(2 * MIB), PRIVATE)
    with pytest.raises(ContentNotFound):
        await laptop.load(LoadRequest(cid, providers=tuple(alice.host.addresses()), timeout=SOON))
    assert alice.exchange.stats().total.blocks_sent == 0
    assert blocks_of(laptop) == set()


async def test_a_name_does_not_tell_the_cid(three: Three) -> None:
    """IPNS records are for everybody to read, so none is made of what is for some."""
    cid = await stored(three.alice, b"for the group", group_audience([three.group]))
    with pytest.raises(NoPermission, match="not for everybody"):
        await three.alice.publish(PublishRequest("self", f"/ipfs/{cid}/x", 60.0, SOON))


async def test_an_interrupted_load_stays_in_the_group(three: Three) -> None:
    """What came before it was given up is claimed, also where the URI gave no hint; the next load goes on with it."""
    alice, bob = three.alice, three.bob
    cid = await stored(alice, os.urandom(6 * MIB), group_audience([three.group]))
    secret = blocks_of(alice)
    arriving = alice._downloads.arriving
    leaf = sorted(secret - {cid.multihash})[0]
    arriving.hide(leaf, 1000)
    with pytest.raises(ContentNotFound):
        await bob.load(LoadRequest(cid, timeout=SOON))
    part = blocks_of(bob) & secret
    assert part
    assert audiences(bob, part) <= {three.group}
    assert str(NOBODY) not in audiences(bob, part)
    arriving.show([leaf])
    await bob.load(LoadRequest(cid, timeout=PATIENCE))
    assert audiences(bob, secret) == {three.group}


async def test_what_is_being_loaded_is_announced_to_its_group_alone(three: Three) -> None:
    """A part of it is here, under a claim: its root goes to the DHT under a key of the group, and else nowhere."""
    node, audience = three.bob, group_audience([three.group])
    done = await trio.to_thread.run_sync(three.alice.repo.store_bytes, os.urandom(2 * MIB))
    with node.repo.access.claim(audience) as claim, node.repo.download(done.cid, claim):
        node._lasting |= {done.cid.multihash}
        keys = set(node.finding._root_keys())
        expected = set(keys_to_announce(node.groups.secrets_of(three.group)[0], done.cid.multihash, time.time()))
        assert keys == expected
        assert node.finding._keys_among([done.cid.multihash, *keys]) == expected


class WebRecorder:
    """An HTTP server that has nothing, and writes down all that it is asked. Routers and gateways are such servers."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.url = ""

    async def run(self, *, task_status: trio.TaskStatus[Any]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        await trio.serve_listeners(self._answer, listeners, task_status=task_status)

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            while b"\r\n\r\n" not in (request := await stream.receive_some()) and request:
                self.heard += request
            self.heard += request
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


async def test_neither_router_nor_gateway_hears_of_it(lab: Lab, nursery: trio.Nursery) -> None:
    """The router is asked for keys of the group alone, and the gateway for nothing, though no member gives the block.
    What is public is asked of both, which shows that they would hear."""
    router, gateway = WebRecorder(), WebRecorder()
    await nursery.start(router.run)
    await nursery.start(gateway.run)
    alice = await lab.node("alice")
    bob = await lab.node("bob", delegated=(router.url,), gateways=(gateway.url,))
    await lab.met(alice, bob)
    group = await lab.join(alice, bob)
    cid = await stored(alice, b"a secret of the group", group_audience([group]))
    alice._downloads.arriving.hide(cid.multihash, 1000)
    with pytest.raises(ContentNotFound):
        await bob.load(LoadRequest(cid, groups=(group,), timeout=SOON))
    assert await bob.whereis(WhereisRequest(cid, SOON, groups=(group,)))
    key = keys_to_announce(bob.groups.secrets_of(group)[0], cid.multihash, time.time())[0]
    assert str(CID(1, RAW, key)).encode() in router.heard
    assert_unheard(router.heard, {cid.multihash})
    assert gateway.heard == b""

    public = (await trio.to_thread.run_sync(alice.repo.store_bytes, b"for everybody")).cid
    alice._downloads.arriving.hide(public.multihash, 1000)
    with pytest.raises(ContentNotFound):
        await bob.load(LoadRequest(public, timeout=SOON))
    assert str(public).encode() in router.heard
    assert str(public).encode() in gateway.heard


async def test_where_every_block_is_announced_those_of_groups_are_not(lab: Lab) -> None:
    """The roots of a group are, under its keys; of the public ones every block."""
    alice = await lab.node("alice", provide="all")
    group = alice.groups.create("alone").group
    secret = await stored(alice, os.urandom(2 * MIB), group_audience([group]))
    public = await stored(alice, os.urandom(2 * MIB))
    hidden = {each for each in blocks_of(alice) if str(alice.repo.access.audiences([each]).get(each, PUBLIC)) == group}
    keys = set(alice.finding._all_keys())
    assert len(hidden) == 3
    assert not keys & hidden
    assert keys & blocks_of(alice) == blocks_of(alice) - hidden
    assert public.multihash in keys
    expected = set(keys_to_announce(alice.groups.secrets_of(group)[0], secret.multihash, time.time()))
    assert keys - blocks_of(alice) == expected
    assert alice.finding._keys_among([*hidden, *keys]) == keys


async def test_a_member_that_is_removed_is_asked_no_more(three: Three, heard: dict[str, bytearray]) -> None:
    """Bob has it, and is connected. Once he is removed, alice tells him of no CID of the group any more."""
    alice, bob = three.alice, three.bob
    cid = await stored(bob, b"bob has it, too", group_audience([three.group]))
    await trio.to_thread.run_sync(alice.groups.remove, three.group, bob.host.peer_id)
    alice.membership.changed()
    await until(lambda: three.group not in bob.groups.own_groups())
    before = len(heard[bob.host.peer_id])
    with pytest.raises(ContentNotFound):
        await alice.load(LoadRequest(cid, groups=(three.group,), timeout=SOON))
    assert_unheard(heard[bob.host.peer_id][before:] + b"-", {cid.multihash})
    with pytest.raises(NotAMember):
        await bob.load(LoadRequest(cid_of(b"another"), groups=(three.group,), timeout=SOON))


async def test_what_was_removed_is_not_asked_for_in_public(three: Three, heard: dict[str, bytearray]) -> None:
    """Nobody who has it can be reached, and the CID comes without the hint: the outsider does not hear it. Of a
    CID that nothing is known of it does: that is how public data is found."""
    alice, bob, outsider = three.alice, three.bob, three.outsider
    cid = await stored(alice, os.urandom(MIB), group_audience([three.group]))
    private = await stored(bob, os.urandom(1000), PRIVATE)
    secret = blocks_of(alice) | {private.multihash}
    await bob.load(LoadRequest(cid, groups=(three.group,), timeout=PATIENCE))
    for node, each in ((bob, cid), (bob, private), (alice, cid)):
        root = node.repo.inventory.get(each)
        assert root is not None
        await trio.to_thread.run_sync(node.repo.removal.remove, root)
        await node.notify_removed([each])
    for each in (cid, private):
        with pytest.raises(ContentNotFound):
            await bob.load(LoadRequest(each, timeout=SOON))
        await bob.whereis(WhereisRequest(each, SOON))
    assert_unheard(heard[outsider.host.peer_id], secret)
    unknown = cid_of(b"of which nothing is known")
    with pytest.raises(ContentNotFound):
        await bob.load(LoadRequest(unknown, timeout=SOON))
    assert unknown.multihash in bytes(heard[outsider.host.peer_id])


async def test_members_alone_are_asked_where_the_user_says_so(three: Three, heard: dict[str, bytearray]) -> None:
    """A CID that nothing is known of is not told to the outsider, who has it; a member gives it."""
    alice, bob, outsider = three.alice, three.bob, three.outsider
    theirs = await stored(outsider, os.urandom(1000))
    with pytest.raises(ContentNotFound):
        await bob.load(LoadRequest(theirs, timeout=SOON, members_only=True))
    rows = await bob.whereis(WhereisRequest(theirs, SOON, members_only=True))
    assert [(row.peer, row.has) for row in rows] == [(alice.host.peer_id, False)]
    assert_unheard(heard[outsider.host.peer_id], {theirs.multihash})
    cid = await stored(alice, os.urandom(1000))
    loaded = await bob.load(LoadRequest(cid, timeout=PATIENCE, members_only=True))
    assert loaded.sources.keys() == {alice.host.peer_id}
