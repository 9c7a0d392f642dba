"""A node that stays has everything ready for its first connection."""

from __future__ import annotations

import subprocess
import sys

#: Two hosts in one process, so that what either imports is seen.
_CODE = """
import os, sys
import trio
from kachery_p2p.transport.host import Host
from kachery_p2p.transport.tls import _made

async def main():
    a, b = Host(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"]), Host(os.urandom(32), [])
    async with trio.open_nursery() as nursery:
        await nursery.start(a.run)
        await nursery.start(b.run)
        await a.prepare()
        await b.prepare()
        contexts = [_made[id(host.keys)] for host in (a, b)]
        before = set(sys.modules)
        await b.connect(a.addresses()[0])
        print(sorted(set(sys.modules) - before))
        assert [_made[id(host.keys)] for host in (a, b)] == contexts
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_the_first_connection_reads_no_modules_and_makes_no_certificate() -> None:
    """After `Host.prepare` all that a handshake needs is in memory."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
