"""A process that may open few files, as on macOS: the bounds follow, newcomers get in, and nothing spins or breaks when
there are none left. Each node is a process of its own."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from kachery_p2p import descriptors
from kachery_p2p.errors import KacheryError
from kachery_p2p.transport import limits
from kachery_p2p.transport.sockets import connect_tcp
from tests.helpers.patience import PATIENCE
from tests.helpers.transport_helpers import Rogue, started

LIMIT = 256

NODE = """
import json, os, resource, sys, time, trio
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from kachery_p2p.transport.host import Host

async def main():
    host, taken = Host(os.urandom(32), ("/ip4/127.0.0.1/tcp/0",)), []
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        print(json.dumps({"addr": host.addresses()[0]}), flush=True)
        while order := (await trio.to_thread.run_sync(sys.stdin.readline)).strip():
            if order == "take":
                try:
                    while True:
                        taken.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    pass
            elif order == "give":
                while taken:
                    os.close(taken.pop())
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            said = {"cpu": time.process_time(), "taken": len(taken), "soft": soft, "connections": len(host.table)}
            print(json.dumps({**said, "handshakes": host.handshakes}), flush=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


class Node:
    """A host in a process that may open LIMIT files."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE, str(LIMIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addr: str = self._line()["addr"]
        self.peer_id = self.addr.rpartition("/")[2]
        self.port = int(self.addr.split("/")[4])

    def addresses(self) -> list[str]:
        return [self.addr]

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def _ask(self, order: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self._line()

    async def ask(self, order: str) -> dict[str, Any]:
        """`take` all files that are left, `give` them back, or just say how things are."""
        return await trio.to_thread.run_sync(self._ask, order)


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    try:
        yield made
        assert made.process.poll() is None, "it ended"
    finally:
        made.process.kill()
        made.process.communicate()


async def meets(nursery: trio.Nursery, node: Node) -> None:
    """An honest newcomer gets in."""
    host = await started(nursery)
    with trio.fail_after(PATIENCE):
        while True:
            with contextlib.suppress(KacheryError):
                await host.connect(node.addr)
                return
            await trio.sleep(0.05)


async def test_idle_identities_keep_nobody_out(nursery: trio.Nursery, node: Node) -> None:
    """More strangers connect than the process may have files, and stay silent: each newcomer gets in at its first try,
    and the soft limit of the process is left as it was."""
    rogues = []
    try:
        for number in range(300):
            rogues.append(await Rogue.connect(node))  # type: ignore[arg-type]
            if number % 75 == 74:
                honest = await started(nursery)
                with trio.fail_after(PATIENCE):
                    await honest.connect(node.addr)
        said = await node.ask("how")
        assert said["soft"] == LIMIT
        assert said["connections"] <= descriptors.shares(LIMIT).connections
    finally:
        for rogue in rogues:
            rogue.close()


async def test_silent_sockets_keep_nobody_out(nursery: trio.Nursery, node: Node) -> None:
    """Handshakes that are begun and never ended take a few files, not all."""
    strangers = []
    try:
        for number in range(400):
            strangers.append(await connect_tcp("127.0.0.1", node.port))
            if number % 100 == 99:
                await meets(nursery, node)
        assert (await node.ask("how"))["handshakes"] <= descriptors.shares(LIMIT).handshakes
    finally:
        for sock in strangers:
            sock.close()


async def test_no_files_left(nursery: trio.Nursery, node: Node) -> None:
    """When the program of the user holds all files, the node waits without spinning; when they come back, peers do."""
    friend = await started(nursery)
    await friend.connect(node.addr)
    before = await node.ask("take")
    assert before["taken"] > 0
    strangers = [await connect_tcp("127.0.0.1", node.port) for _ in range(20)]
    await trio.sleep(2)
    during = await node.ask("how")
    # Two seconds of spinning would be two seconds of CPU, on a busy machine half of one; twenty looks are nothing. This
    # sleep bounds nothing: a machine that is slower has the node look less often.
    assert during["cpu"] - before["cpu"] < 0.4
    await node.ask("give")
    await meets(nursery, node)
    for sock in strangers:
        sock.close()


def test_shares_leave_a_reserve() -> None:
    """The shares of any limit are less than the limit, and grow to the bounds of a node that may open many files."""
    for limit in (256, 512, 1024, 4096, 1 << 20):
        made = descriptors.shares(limit)
        parts = (made.connections, made.handshakes, made.dials, made.gateway, made.control)
        assert sum(parts) <= limit - descriptors.RESERVE
        assert min(parts) >= 8
    assert descriptors.shares(descriptors.WANTED).connections >= limits.DEFAULTS.max_connections
    assert descriptors.shares(descriptors.WANTED).dials >= limits.MAX_DIALS


def test_programs_raise_the_soft_limit_and_only_that() -> None:
    """What `raise_soft_limit` does, in a process of its own: up to what is wanted, or to the hard limit; never down."""
    code = (
        "import resource; from kachery_p2p.descriptors import raise_soft_limit;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {1}));"
        "print(raise_soft_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )

    def run(soft: int, hard: int) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", code.format(soft, hard)], capture_output=True, text=True, check=True
        )
        return [int(each) for each in done.stdout.split()]

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < 8192:
        pytest.skip("the hard limit of this machine is too low")
    assert run(256, 8192) == [descriptors.WANTED, descriptors.WANTED, 8192]
    assert run(256, 1000) == [1000, 1000, 1000]
    assert run(8000, 8192) == [8000, 8000, 8192]
