"""A gateway of ours on loopback over a repo of its own, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import trio

from kachery_p2p.access.gate import Gate
from kachery_p2p.dag.car import CarReader
from kachery_p2p.dag.cid import CID
from kachery_p2p.gateway.server.content import Fetch
from kachery_p2p.gateway.server.limits import GatewayLimits
from kachery_p2p.gateway.server.names import NameSource
from kachery_p2p.gateway.server.server import GatewayServer
from kachery_p2p.gateway.server.sites import Site
from kachery_p2p.repo.repo import Repo
from scripts.data import write_random
from tests.helpers.patience import PATIENCE

#: Of the file `data.bin` in `Served.folder`: three leaves and a bit.
SIZE = 3 * 2**20 + 12_345


class Served:
    """A repo with one folder in it.

    folder/   data.bin (SIZE random bytes), notes.txt, page.html, "a name ü#?.json", deep/er/x.npy
    """

    def __init__(self, path: Path) -> None:
        self.repo = Repo.open(path / "repo")
        self.folder = path / "folder"
        self.folder.mkdir()
        write_random(self.folder / "data.bin", SIZE, seed=4)
        (self.folder / "notes.txt").write_text("Mouse 12, all well.\n", encoding="utf-8")
        (self.folder / "page.html").write_text("<!doctype html><script>1</script>", encoding="utf-8")
        (self.folder / "a name ü#?.json").write_text("{}", encoding="utf-8")
        (self.folder / "deep" / "er").mkdir(parents=True)
        (self.folder / "deep" / "er" / "x.npy").write_bytes(b"\x93NUMPY" + bytes(100))
        self.directory = self.repo.store_directory(self.folder).cid
        self.data = (self.folder / "data.bin").read_bytes()
        self.file = self.repo.store_bytes(self.data).cid

    def store(self, data: bytes) -> CID:
        """Store some bytes; their CID."""
        return self.repo.store_bytes(data).cid


@contextlib.contextmanager
def served(path: Path) -> Iterator[Served]:
    """A repo with content, closed at the end."""
    with contextlib.ExitStack() as stack:
        made = Served(path)
        stack.callback(made.repo.close)
        yield made


@contextlib.asynccontextmanager
async def gateway(
    repo: Repo,
    *,
    fetch: Fetch | None = None,
    names: tuple[str, ...] = (),
    resolver: NameSource | None = None,
    gate: Gate | None = None,
    token: Callable[[], str | None] = lambda: None,
    origins: Sequence[str] = (),
    sites: Sequence[Site] = (),
    **limits: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that serves a repo, and a client whose addresses begin there.

    Args:
        limits: fields of `GatewayLimits`.

    Everything ends within PATIENCE.
    """
    bounds = GatewayLimits(**limits)
    server = GatewayServer(
        repo,
        "127.0.0.1:0",
        fetch=fetch,
        names=names,
        resolver=resolver,
        bounds=bounds,
        gate=gate,
        token=token,
        origins=origins,
        sites=sites,
    )
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
                yield client
            nursery.cancel_scope.cancel()


def car_blocks(data: bytes) -> list[tuple[CID, bytes]]:
    """The blocks of a whole CAR, each checked."""
    reader = CarReader()
    blocks = list(reader.feed(data))
    reader.close()
    return blocks
