"""Random histories of storing, loading, linking, pinning, removing and collecting, by several processes that are killed
at random instants: nothing is lost of which no other copy was seen and verified, and all that is listed can be read."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import kachery_cloud as kcl
from kachery_cloud.local import close_outboxes, close_repositories, outbox, repository
from kachery_cloud.node import connection
from kachery_cloud.settings.config import load_config
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.errors import ContentNotFound, LastCopy, RepoBusy
from kachery_p2p.node.messages import Copies, CopiesRequest, CopySeen, WaitPinnedRequest
from kachery_p2p.repo import Repo
from kachery_p2p.repo.removal_lock import RemovalLock
from tests.helpers.dying import die_after
from tests.helpers.profiles import custom_profile

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")

TINY = custom_profile(chunk_size=1000, width=3)
_RANDOM = random.Random(5)
#: One that is packed, one of three leaves, and one of many that begins as that does, so that they share leaves.
_LARGE = _RANDOM.randbytes(14_500)
CONTENTS = {"small": b"a small one", "middle": _LARGE[:2_500], "large": _LARGE, "other": _RANDOM.randbytes(900)}
FOLDERS = {
    "first": {"a": "small", "b": "middle"},
    "second": {"b": "middle", "c": "large", "sub/d": "other"},
    "third": {"sub/d": "other"},
}
FILES = st.sampled_from(sorted(CONTENTS))
ROOTS = st.sampled_from(sorted({*CONTENTS, *FOLDERS}))
#: After which of the steps that change the disk a process is killed; None lets it live.
KILLED = st.one_of(st.none(), st.none(), st.integers(0, 40))


@dataclass
class World:
    """What others have; in place of the network, of which `test_inventory_network.py` has the real one."""

    has: set[CID]
    asked: int = 0
    pinned: set[CID] = field(default_factory=set[CID])

    def copies(self, request: CopiesRequest) -> Copies:
        self.asked += 1
        assert request.cid in request.proofs
        seen = (CopySeen("a peer", len(request.blocks), len(request.proofs)),)
        return Copies(seen if request.cid in self.has else ())

    def wait_pinned(self, request: WaitPinnedRequest) -> None:
        box = outbox(load_config())
        entry = box.get(request.cid, request.services[0])
        assert entry is not None
        assert entry.in_question
        there = {"state": "verified", "verified": (entry.verified or 0.0) + 1}
        gone = {"state": "refused", "verified": None, "problem": "gone"}
        box.update(entry, **(there if request.cid in self.pinned else gone))

    def notify_removed(self, cids: Sequence[CID]) -> None:
        pass


class Histories(RuleBasedStateMachine):
    """One data directory, others who have some things, and what must be here."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="kachery-histories-"))
        self.directory = self.top / "data"
        self.before = {"KACHERY_CLOUD_DIR": os.environ.get("KACHERY_CLOUD_DIR")}
        os.environ["KACHERY_CLOUD_DIR"] = str(self.directory)
        self.config = load_config()
        self.source = Repo.open(self.top / "source")
        self.cids: dict[str, CID] = {}
        self.world = World(set())
        self.real = connection.get_connection
        connection.get_connection = lambda config: self.world  # type: ignore[assignment, return-value]
        #: Roots that are to be here, whole, whatever else happens.
        self.owed: set[str] = set()
        #: Those that were linked, and whose file the user has changed since.
        self.changed: set[str] = set()

    @initialize()
    def begin(self) -> None:
        for name, data in CONTENTS.items():
            self.cids[name] = self.source.store_bytes(data, profile=TINY).cid
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
            self.path(name).write_bytes(data)
        for name, files in FOLDERS.items():
            for inner, content in files.items():
                path = self.path(name) / inner
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(CONTENTS[content])
            self.cids[name] = self.source.store_directory(self.path(name), profile=TINY).cid
        self.repo().close  # noqa: B018 - it is open from here on
        self.other = Repo.open(self.directory)

    def path(self, name: str) -> Path:
        return self.top / "user" / name

    def repo(self) -> Repo:
        return repository(self.config)

    def teardown(self) -> None:
        self.other.close()
        close_repositories()
        close_outboxes()
        self.source.close()
        connection.get_connection = self.real
        if self.before["KACHERY_CLOUD_DIR"] is not None:
            os.environ["KACHERY_CLOUD_DIR"] = self.before["KACHERY_CLOUD_DIR"]
        shutil.rmtree(self.top)

    def done(self, act: Callable[[Repo], Any], killed: int | None, other: bool) -> bool:
        """Do something: here, by a second repo, or in another process that may be killed. Whether it was done."""
        if killed is None:
            act(self.other if other else self.repo())
            return True
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                die_after(killed)
                act(self.repo())
                code = 0
            except (LastCopy, RepoBusy, ContentNotFound, kcl.InvalidArgument):
                code = 3
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, 3, -signal.SIGKILL)
        # Another process comes after it, and ends what it had begun.
        self.other.close()
        self.other = Repo.open(self.directory)
        if status == 3:
            raise LastCopy("in the other process")
        return status == 0

    # --- what users do

    @rule(name=ROOTS, killed=KILLED, other=st.booleans(), label=st.sampled_from([None, "mine"]))
    def store(self, name: str, killed: int | None, other: bool, label: str | None) -> None:
        path = self.path(name)

        def act(repo: Repo) -> None:
            store = repo.store_directory if name in FOLDERS else repo.store_file
            assert store(path, profile=TINY, label=label).cid == self.cids[name]

        if name not in self.changed and self.done(act, killed, other):
            self.owed.add(name)

    @rule(killed=KILLED, other=st.booleans())
    def store_value(self, killed: int | None, other: bool) -> None:
        def act(repo: Repo) -> None:
            repo.store_value(CONTENTS["small"], profile=TINY)

        if self.done(act, killed, other):
            self.owed.add("small")

    @rule(name=FILES, killed=KILLED, other=st.booleans())
    def link(self, name: str, killed: int | None, other: bool) -> None:
        path = self.path(name)
        if name not in self.changed:
            self.done(lambda repo: repo.link_file(path, profile=TINY), killed, other)

    @rule(name=FILES)
    def change_a_linked_file(self, name: str) -> None:
        self.path(name).write_bytes(b"something else")
        self.changed.add(name)

    @rule(name=ROOTS, killed=KILLED, other=st.booleans())
    def load(self, name: str, killed: int | None, other: bool) -> None:
        def act(repo: Repo) -> None:
            if name in CONTENTS:
                self.load_file(repo, self.cids[name])
                repo.inventory.loaded(self.cids[name])
                return
            tree = self.source.inventory.members(self.cids[name])
            repo.put_blocks(
                (CID(1, 0x70, multihash), block) for multihash, block in self.source.get_nodes(list(tree.nodes)).items()
            )
            for cid in tree.files:
                self.load_file(repo, cid)
            repo.keep_directory(self.cids[name])

        if self.done(act, killed, other):
            self.owed.add(name)

    def load_file(self, repo: Repo, cid: CID) -> None:
        walk = FileWalk(cid)
        with repo.download(cid, timeout=10.0) as download:
            if download.complete:
                return
            while not walk.finished:
                for ref in walk.take(5):
                    block = self.source.get_block(ref.cid.multihash)
                    assert block is not None
                    download.accept(ref, block, walk.feed(ref, block))
            download.finish(walk.size or 0)

    @rule(name=ROOTS)
    def pin(self, name: str) -> None:
        box = outbox(self.config)
        box.add(self.cids[name], "a service")
        entry = box.get(self.cids[name], "a service")
        assert entry is not None
        box.update(entry, state="verified", verified=1.0)
        self.world.pinned.add(self.cids[name])

    @rule(name=ROOTS)
    def others_unpin_it(self, name: str) -> None:
        self.world.pinned.discard(self.cids[name])

    @rule(name=ROOTS)
    def others_get_it(self, name: str) -> None:
        self.world.has.add(self.cids[name])

    @rule(name=ROOTS)
    def others_lose_it(self, name: str) -> None:
        self.world.has.discard(self.cids[name])

    def is_safe(self, name: str) -> bool:
        """Whether somebody else is seen to have it, or the user's own file is as it was."""
        linked = (
            name in CONTENTS
            and name not in self.changed
            and any(each.linked for each in self.repo().inventory.roots() if each.cid == self.cids[name])
        )
        return self.cids[name] in self.world.has or self.cids[name] in self.world.pinned or linked

    @rule(name=ROOTS, force=st.booleans(), killed=KILLED)
    def remove(self, name: str, force: bool, killed: int | None) -> None:
        safe, owed = self.is_safe(name), name in self.owed
        try:
            done = self.done(lambda _: kcl.remove(f"ipfs://{self.cids[name]}", force=force), killed, False)
        except (LastCopy, ContentNotFound, kcl.InvalidArgument):
            assert not (owed and (safe or force)), "it was listed, and could go"
            return
        if force or safe:
            self.owed.discard(name)
        elif done and owed:
            # Only what something else has, and so stays, may be taken off the list.
            inside = [folder for folder in self.owed if folder in FOLDERS and name in FOLDERS[folder].values()]
            assert name in CONTENTS
            assert inside or any(each.directory for each in self.repo().inventory.roots())
            self.owed.discard(name)

    @rule(keep=st.sampled_from([0, 3_000, 20_000]), stored=st.booleans(), force=st.booleans(), killed=KILLED)
    def collect(self, keep: int, stored: bool, force: bool, killed: int | None) -> None:
        safe = {name for name in self.owed if self.is_safe(name) or self.stays_inside(name)}
        try:
            self.done(lambda _: kcl.gc(keep, stored=stored, force=force), killed, False)
        except LastCopy:
            return
        if force:
            self.owed.clear()
        self.owed -= safe

    def stays_inside(self, name: str) -> bool:
        """Whether a folder that is listed has this file."""
        folders = [each.cid for each in self.repo().inventory.roots() if each.directory]
        return any(self.cids[name] in self.repo().inventory.members(folder).files for folder in folders)

    @rule(keep=st.sampled_from([0, 3_000, 20_000]), stored=st.booleans())
    def a_dry_run_says_what_happens(self, keep: int, stored: bool) -> None:
        kcl.gc()  # what was interrupted before is ended
        foreseen = kcl.gc(keep, stored=stored, force=True, dry_run=True)
        done = kcl.gc(keep, stored=stored, force=True)
        assert [(each.uri, each.freed, each.shared) for each in done.removed] == [
            (each.uri, each.freed, each.shared) for each in foreseen.removed
        ]
        assert (done.before, done.after, done.reached) == (foreseen.before, foreseen.after, foreseen.reached)
        self.owed = {name for name in self.owed if self.is_listed(name)}

    def is_listed(self, name: str) -> bool:
        return self.repo().inventory.get(self.cids[name]) is not None

    @rule()
    def dry_run_changes_nothing(self) -> None:
        before = self.repo().inventory.roots()
        kcl.gc(0, stored=True, dry_run=True)
        assert self.repo().inventory.roots() == before

    @rule()
    def reopen(self) -> None:
        close_repositories()
        self.other.close()
        self.other = Repo.open(self.directory)

    @precondition(lambda self: self.owed)
    @rule()
    def verify(self) -> None:
        assert [each for each in self.other.verify() if each.what not in ("changed", "missing")] == []

    # --- what must be so

    @invariant()
    def nothing_is_lost(self) -> None:
        if not self.cids:
            return
        repo = self.repo()
        listed = {each.cid.to_v1(): each for each in repo.inventory.roots()}
        names = {cid.to_v1(): name for name, cid in self.cids.items()}
        for name in self.owed:
            assert self.cids[name].to_v1() in listed, f"{name} is not listed any more"
            assert listed[self.cids[name].to_v1()].whole, f"{name} is not whole any more"
        for cid, item in listed.items():
            if item.whole:
                self.read(repo, names[cid])

    def read(self, repo: Repo, name: str) -> None:
        """It can be read here, bit for bit."""
        if name in CONTENTS:
            path = repo.find_file(self.cids[name])
            assert path is not None, f"{name} is listed and cannot be read"
            assert path.read_bytes() == CONTENTS[name]
            return
        tree = repo.inventory.members(self.cids[name])
        assert tree.broken == []
        expected = {self.cids[content] for content in FOLDERS[name].values()}
        assert set(tree.files) == expected
        for inner in FOLDERS[name].values():
            self.read(repo, inner)


Histories.TestCase.settings = settings(max_examples=12, stateful_step_count=25)
TestHistories = Histories.TestCase


def test_the_lock_is_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    """A process that is killed while it stores or removes holds up nobody."""
    with Repo.open(tmp_path) as repo:
        pid = os.fork()
        if pid == 0:
            with RemovalLock(tmp_path).removing(0):
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        assert repo.store_value(b"value").size == 5
