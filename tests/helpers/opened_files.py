"""A stand-in for the node, for files that are opened: it serves from a second repo, in threads, and counts."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import kachery_cloud as kcl
from kachery_cloud.local import repository
from kachery_cloud.node.connection import Begun
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.nodes import drive
from kachery_p2p.dag.paths import resolve_path
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import ContentNotFound
from kachery_p2p.node.messages import LoadRequest, LoadResult
from kachery_p2p.repo.repo import Repo


class StandInNode:
    """Answers as the node does.

    Attributes:
        asked: what it was asked for.
        moved: bytes of the blocks that it brought from the other repo.
        most: requests that were under way at one time.
        failing: what comes of requests, where it is no data.
        held: requests wait until this is set.
    """

    def __init__(self, peer: Repo) -> None:
        self.peer = peer
        self.asked: list[LoadRequest] = []
        self.moved = 0
        self.most = 0
        self.cancelled = 0
        self.failing: list[BaseException] = []
        self.held = threading.Event()
        self.held.set()
        self._under_way = 0
        self._lock = threading.Lock()

    def load(self, request: LoadRequest, progress: Any = None) -> LoadResult:
        return self.begin(None, request).future.result()

    def begin(self, call: Any, request: LoadRequest, progress: Any = None) -> Begun[LoadResult]:
        future: Future[LoadResult] = Future()
        with self._lock:
            self.asked.append(request)
            self._under_way += 1
            self.most = max(self.most, self._under_way)

        def run() -> None:
            try:
                self.held.wait(60)
                with self._lock:
                    if self.failing:
                        raise self.failing.pop(0)
                    result = self._load(request)
            except BaseException as error:  # noqa: BLE001 - handed to those who wait
                self._under_way -= 1
                future.set_exception(error)
            else:
                self._under_way -= 1
                future.set_result(result)

        threading.Thread(target=run, daemon=True).start()
        return Begun(future, self._cancel, lambda: None)

    def _cancel(self) -> None:
        self.cancelled += 1

    def _load(self, request: LoadRequest) -> LoadResult:
        cid = drive(resolve_path(request.cid, request.path), lambda cids: [self._block(each) for each in cids]).cid
        here = repository(kcl.load_config())
        known = here.find_file(cid)
        if known is not None:
            return LoadResult(cid, str(known), known.stat().st_size)
        start, end = request.start or 0, 0 if request.kind == "info" else request.end
        walk = FileWalk(cid, start, end, whole_blocks=True)
        with here.download(cid) as download:
            while not walk.finished:
                for ref in walk.take(64):
                    if ref.length is not None and download.has([ref]) == [True]:
                        walk.skip(ref)
                        continue
                    block = here.get_block(ref.cid.multihash)
                    if block is None:
                        block = self._block(ref.cid)
                    download.accept(ref, block, walk.feed(ref, block))
            assert walk.size is not None
            if request.kind == "file":
                return LoadResult(cid, str(download.finish(walk.size)), walk.size)
            return LoadResult(cid, str(download.path), walk.size)

    def _block(self, cid: CID) -> bytes:
        block = self.peer.get_block(cid.multihash)
        if block is None:
            raise ContentNotFound(f"nobody has {cid}")
        self.moved += len(block)
        return block


def partial_files(directory: Path) -> list[Path]:
    """The partial files of a data directory."""
    return sorted((directory / "partial").iterdir())
