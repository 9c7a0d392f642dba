"""Storing, loading, narrowing and removing what is for some, killed with -9 before each step, while others look.

Nobody ever finds a block of what is restricted that everyone could see, neither meanwhile nor afterwards.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_p2p.access.audience import PUBLIC, Audience, group_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.walk import FileWalk
from kachery_p2p.repo import Repo
from kachery_p2p.sqlite import SQLiteFile
from tests.helpers.dying import die_after
from tests.helpers.profiles import custom_profile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does"),
]

TINY = custom_profile(chunk_size=1000, width=3)
DATA = random.Random(1).randbytes(9_500)
A, B = group_audience(["a" * 26]), group_audience(["b" * 26])
#: More steps than any of these takes.
MOST = 400


class Watched:
    """A directory with something public and something restricted in it, and what must not be seen."""

    def __init__(self, top: Path) -> None:
        self.directory = top / "data"
        self.folder = top / "folder"
        (self.folder / "sub").mkdir(parents=True)
        (self.folder / "a").write_bytes(DATA)
        (self.folder / "sub" / "b").write_bytes(b"b")
        (self.folder / "sub" / "public").write_bytes(DATA[:500])
        with Repo.open(top / "there") as there:
            self.cid = there.store_bytes(DATA, profile=TINY).cid
            self.root = there.store_directory(self.folder, profile=TINY).cid
            self.value = there.store_value(b"value").cid
            self.secret = set(there.all_multihashes())
            self.blocks = there.get_blocks(list(self.secret))
        with Repo.open(self.directory) as repo:
            self.public = repo.store_bytes(DATA[:500]).cid
            repo.store_value(b"other", audience=B)
        self.secret.remove(self.public.multihash)

    def check(self, repo: Repo) -> None:
        """As whoever serves blocks: for whom they are, what is found, and once more for whom that is."""
        before = repo.access.audiences(self.secret)
        found = {multihash for multihash in self.secret if repo.has_block(multihash) is not None}
        assert found <= before.keys() | repo.access.audiences(found).keys()
        assert repo.access.audiences([self.public.multihash]) == {}


def look(watched: Watched, until: int) -> None:
    """Another process looks, over and over, until a pipe is closed."""
    code = 1
    try:
        with Repo.open(watched.directory) as repo:
            os.set_blocking(until, False)
            while True:
                watched.check(repo)
                try:
                    if os.read(until, 1) == b"":
                        break
                except BlockingIOError:
                    pass
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def dies_watched(steps: int, watched: Watched, act: Callable[[Repo], object]) -> bool:
    """Do something in a process that is killed after so many steps, while another one looks; whether it was killed.

    The looking process has the directory open first. A step is also each commit: what was written is seen then.
    """
    read, write = os.pipe()
    looker = os.fork()
    if looker == 0:
        os.close(write)
        look(watched, read)
    os.close(read)
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            os.close(write)
            with Repo.open(watched.directory) as repo:
                die_after(steps)
                kill_before_commit(steps)
                act(repo)
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(looker, 0)[1]) == 0
    assert status in (0, -signal.SIGKILL)
    return status != 0


def kill_before_commit(steps: int) -> None:
    """Half of the runs end within a transaction: its rows are written, and not committed."""
    if steps % 2:
        left = [steps // 2]
        commit = SQLiteFile._commit

        def counted(self: SQLiteFile, *args: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            commit(self, *args)  # type: ignore[arg-type]

        SQLiteFile._commit = counted  # type: ignore[method-assign]


def at_each_step(
    tmp_path: Path,
    act: Callable[[Watched, Repo], object],
    before: Callable[[Watched, Repo], object] = lambda watched, repo: None,
    finally_: Callable[[Watched, Repo], object] = lambda watched, repo: None,
) -> int:
    """Kill it after 0, 1, 2 ... steps; each time what is left is opened, verified, made anew, and looked at."""
    for steps in range(MOST):
        top = tmp_path / str(steps)
        watched = Watched(top)
        with Repo.open(watched.directory) as repo:
            before(watched, repo)
        killed = dies_watched(steps, watched, lambda repo, watched=watched: act(watched, repo))
        with Repo.open(watched.directory) as repo:
            watched.check(repo)
            repo.verify()
            watched.check(repo)
            repo.removal.tidy()
            watched.check(repo)
        if steps % 3 == 0:
            if steps % 2:
                for path in watched.directory.glob("catalog.sqlite*"):
                    path.unlink()
            Repo.rebuild(watched.directory)
        with Repo.open(watched.directory) as repo:
            watched.check(repo)
            if not killed:
                finally_(watched, repo)
        shutil.rmtree(top)
        if not killed:
            return steps
    raise AssertionError("it does not end")


def is_for(cids: Callable[[Watched], list[CID]], audience: Audience) -> Callable[[Watched, Repo], None]:
    def check(watched: Watched, repo: Repo) -> None:
        for cid in cids(watched):
            assert repo.access.audience_of(cid) == audience

    return check


def test_a_file_is_stored(tmp_path: Path) -> None:
    """Its leaves and nodes, from the first on."""
    assert (
        at_each_step(
            tmp_path,
            lambda watched, repo: repo.store_file(watched.folder / "a", profile=TINY, audience=A),
            finally_=is_for(lambda watched: [watched.cid], A),
        )
        > 8
    )


def test_a_value_is_stored(tmp_path: Path) -> None:
    """Also where its pack has it and the catalog does not yet."""
    assert (
        at_each_step(
            tmp_path,
            lambda watched, repo: repo.store_value(b"value", audience=A),
            finally_=is_for(lambda watched: [watched.value], A),
        )
        > 4
    )


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_is_stored(tmp_path: Path, link: bool) -> None:
    """Its files, of which others are there before its nodes are; one of them is public by itself, and stays so."""
    assert (
        at_each_step(
            tmp_path,
            lambda watched, repo: repo.store_directory(watched.folder, profile=TINY, audience=A, link=link),
            finally_=is_for(lambda watched: [watched.root], A),
        )
        > 8
    )


def test_a_file_is_loaded(tmp_path: Path) -> None:
    """Its nodes come first, and claim what comes then."""

    def act(watched: Watched, repo: Repo) -> None:
        with repo.access.claim(A) as claim:
            with repo.download(watched.cid, claim) as download:
                walk = FileWalk(watched.cid)
                while not walk.finished:
                    for ref in walk.take(5):
                        block = watched.blocks[ref.cid.multihash]
                        pieces = walk.feed(ref, block)
                        if ref.length is None:
                            assert walk.size is not None
                            download.allocate(walk.size)
                        download.accept(ref, block, pieces)
                        assert repo.access.audiences([ref.cid.multihash])
                assert walk.size is not None
                download.finish(walk.size)
            claim.keep(watched.cid)
        repo.inventory.loaded(watched.cid)

    assert at_each_step(tmp_path, act, finally_=is_for(lambda watched: [watched.cid], A)) > 8


def test_a_root_is_removed(tmp_path: Path) -> None:
    """Claims go after the blocks, also where a second restricted root has some of these."""

    def before(watched: Watched, repo: Repo) -> None:
        repo.store_directory(watched.folder, profile=TINY, audience=A)
        repo.store_file(watched.folder / "a", profile=TINY, audience=B)

    def act(watched: Watched, repo: Repo) -> None:
        root = repo.inventory.get(watched.root)
        assert root is not None
        repo.removal.remove(root)

    assert at_each_step(tmp_path, act, before, is_for(lambda watched: [watched.cid], B)) > 8


def test_a_public_root_that_shares_blocks_is_removed(tmp_path: Path) -> None:
    """After that they are for whom the other root is; whoever opens the directory next sees to it."""

    def before(watched: Watched, repo: Repo) -> None:
        repo.store_directory(watched.folder, profile=TINY, audience=A)
        repo.store_file(watched.folder / "a", profile=TINY, audience=PUBLIC)

    for steps in range(MOST):
        top = tmp_path / str(steps)
        watched = Watched(top)
        with Repo.open(watched.directory) as repo:
            before(watched, repo)
            assert repo.access.audiences([watched.cid.multihash]) == {}

        def act(repo: Repo, watched: Watched = watched) -> None:
            root = repo.inventory.get(watched.cid)
            assert root is not None
            repo.removal.remove(root)

        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with Repo.open(watched.directory) as repo:
                    die_after(steps)
                    act(repo)
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with Repo.open(watched.directory) as repo:
            if repo.inventory.get(watched.cid) is None:
                watched.check(repo)
            else:
                assert repo.access.audience_of(watched.cid) == PUBLIC
                assert repo.access.audiences([watched.cid.multihash]) == {}
        shutil.rmtree(top)
        if status == 0:
            assert steps > 3
            return
    raise AssertionError("it does not end")


def test_a_public_root_is_narrowed(tmp_path: Path) -> None:
    """It is for everyone, or all of it is not; and once it is not, a catalog made anew knows, too."""
    for steps in range(MOST):
        top = tmp_path / str(steps)
        watched = Watched(top)
        with Repo.open(watched.directory) as repo:
            repo.store_directory(watched.folder, profile=TINY)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with Repo.open(watched.directory) as repo:
                    die_after(steps)
                    repo.access.set_audience(watched.root, A)
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL)
        with Repo.open(watched.directory) as repo:
            audience = repo.access.audience_of(watched.root)
            restricted = repo.access.audiences(list(watched.secret)).keys()
            assert (audience, len(restricted)) in ((PUBLIC, 0), (A, len(watched.secret - {watched.value.multihash})))
        for path in watched.directory.glob("catalog.sqlite*"):
            path.unlink()
        Repo.rebuild(watched.directory)
        with Repo.open(watched.directory) as repo:
            assert repo.access.audience_of(watched.root) <= audience
        shutil.rmtree(top)
        if status == 0:
            assert audience == A
            return
    raise AssertionError("it does not end")
