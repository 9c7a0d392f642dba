"""Who may see which block: claims are there before the blocks, and say what the roots say."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kachery_p2p.access.audience import NOBODY, PRIVATE, PUBLIC, Audience, group_audience
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.walk import FileWalk, Ref
from kachery_p2p.errors import ContentNotFound, RepoError
from kachery_p2p.repo import Download, Repo
from kachery_p2p.repo import access_leaving as leaving_module
from kachery_p2p.repo.catalog import SCHEMA_VERSION
from kachery_p2p.repo.locks import NodeLock
from kachery_p2p.repo.small import Stored
from kachery_p2p.sqlite_schema import check_version
from tests.helpers.profiles import custom_profile

TINY = custom_profile(chunk_size=1000, width=3)
DATA = random.Random(1).randbytes(9_500)
A, B = group_audience(["a" * 26]), group_audience(["b" * 26])


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Repo]:
    with Repo.open(tmp_path / "there") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "a").write_bytes(DATA)
    (tmp_path / "folder" / "sub" / "b").write_bytes(b"b")
    (tmp_path / "folder" / "sub" / "empty").write_bytes(b"")
    (tmp_path / "folder" / "link").symlink_to("a")
    return tmp_path / "folder"


def open_to_all(repo: Repo) -> set[bytes]:
    """The blocks that are here and that everyone may see, but for those that have no bytes."""
    here = {each for each in repo.all_multihashes() if repo.has_block(each)}
    return here - set(repo.access.audiences(here))


STORES: dict[str, Callable[[Repo, Path, Audience | None], Stored]] = {
    "a file": lambda repo, folder, to: repo.store_file(folder / "a", profile=TINY, audience=to),
    "a small file": lambda repo, folder, to: repo.store_file(folder / "sub" / "b", audience=to),
    "a linked file": lambda repo, folder, to: repo.link_file(folder / "a", profile=TINY, audience=to),
    "bytes": lambda repo, folder, to: repo.store_bytes(DATA, profile=TINY, audience=to),
    "a value": lambda repo, folder, to: repo.store_value(b"value", audience=to),
    "a large value": lambda repo, folder, to: repo.store_value(DATA * 10, audience=to),
    "a folder": lambda repo, folder, to: repo.store_directory(folder, profile=TINY, audience=to),
    "a linked folder": lambda repo, folder, to: repo.store_directory(folder, profile=TINY, audience=to, link=True),
}
each_store = pytest.mark.parametrize("store", STORES.values(), ids=list(STORES))


# --- storing ---------------------------------------------------------------------------------------------------------


@each_store
def test_all_blocks_of_what_is_stored_for_some(
    repo: Repo, folder: Path, store: Callable[[Repo, Path, Audience | None], Stored]
) -> None:
    """None of them is for everyone. Without a word everything is, and nothing is noted anywhere."""
    assert store(repo, folder, None).cid
    assert not repo.access.any_restricted()
    assert repo.access.roots() == []
    assert not (repo.directory / "access.txt").exists()
    with Repo.open(repo.directory.with_name("other")) as other:
        cid = store(other, folder, A).cid
        assert other.access.any_restricted()
        assert open_to_all(other) == set()
        assert set(other.access.audiences(list(other.all_multihashes())).values()) == {A}
        assert other.access.roots() == [(cid, A)]
        assert other.access.why(cid) == [(cid, A)]
        assert other.access.audience_of(cid) == A


@each_store
def test_stored_again(repo: Repo, folder: Path, store: Callable[[Repo, Path, Audience | None], Stored]) -> None:
    """It is for all for whom it was stored; without a word as it was; and for everyone once that is said.

    Files that are known by their stamps are not read again: their blocks get their claims all the same.
    """
    cid = store(repo, folder, A).cid
    for said, then in ((None, A), (B, A | B), (None, A | B), (PUBLIC, PUBLIC), (A, PUBLIC), (None, PUBLIC)):
        assert store(repo, folder, said).cid == cid
        assert repo.access.audience_of(cid) == then
        assert repo.access.roots() == ([] if then.everyone else [(cid, then)])
        found = repo.access.audiences(list(repo.all_multihashes()))
        assert set(found.values()) == (set() if then.everyone else {then})
        assert bool(open_to_all(repo)) == then.everyone
    assert not repo.access.any_restricted()


def test_what_a_public_root_shares(repo: Repo) -> None:
    """A block that is in both is for everyone, whichever was stored first; and it is told why."""
    begins = repo.store_bytes(DATA[:2_000], profile=TINY)
    secret = repo.store_bytes(DATA, profile=TINY, audience=A)
    public = repo.store_bytes(DATA[6_000:8_000], profile=TINY)
    assert repo.access.audience_of(secret.cid) == A
    hidden = repo.access.audiences(list(repo.all_multihashes()))
    assert len(hidden) == len(set(_blocks(repo, secret.cid))) - 4
    assert not hidden.keys() & {*_blocks(repo, begins.cid), *_blocks(repo, public.cid)}
    assert repo.access.why(secret.cid) == [(secret.cid, A), (begins.cid, PUBLIC), (public.cid, PUBLIC)]
    for root in (begins, public):
        kept = repo.inventory.get(root.cid)
        assert kept is not None
        repo.removal.remove(kept)
    assert repo.access.audiences(list(repo.all_multihashes())).keys() == set(_blocks(repo, secret.cid))


def _blocks(repo: Repo, cid: CID) -> list[bytes]:
    walk = FileWalk(cid)
    found: list[bytes] = []
    while not walk.finished:
        for ref in walk.take(8):
            block = repo.get_block(ref.cid.multihash)
            assert block is not None
            found.append(ref.cid.multihash)
            walk.feed(ref, block)
    return found


def test_a_file_of_a_restricted_folder(repo: Repo, folder: Path) -> None:
    """It has the folder's audience, also when it is stored by itself without a word; said to be public, it alone is."""
    top = repo.store_directory(folder, profile=TINY, audience=A).cid
    file = repo.hash_file(folder / "a", profile=TINY)
    assert repo.access.audience_of(file) == A
    repo.store_file(folder / "a", profile=TINY)
    assert repo.access.roots() == [(top, A), (file, A)]
    repo.store_file(folder / "a", profile=TINY, audience=PUBLIC)
    assert repo.access.roots() == [(top, A)]
    assert open_to_all(repo) == set(_blocks(repo, file))
    assert repo.access.why(file) == [(file, PUBLIC), (top, A)]


def test_a_file_of_a_restricted_folder_for_others(repo: Repo, folder: Path) -> None:
    """Nothing is read again or written, and its blocks are for both all the same."""
    top = repo.store_directory(folder, profile=TINY, audience=A).cid
    file = repo.store_file(folder / "a", profile=TINY, audience=B).cid
    assert repo.access.roots() == [(top, A), (file, B)]
    blocks = set(_blocks(repo, file))
    assert repo.access.audiences(blocks) == dict.fromkeys(blocks, A | B)
    assert repo.access.audiences([top.multihash]) == {top.multihash: A}


def test_a_public_root_that_is_restricted(repo: Repo) -> None:
    """All of it is, but for what another public root has as well."""
    other = repo.store_bytes(DATA[:2_000], profile=TINY).cid
    cid = repo.store_bytes(DATA, profile=TINY).cid
    repo.access.set_audience(cid, A)
    hidden = repo.access.audiences(list(repo.all_multihashes())).keys()
    assert hidden == set(_blocks(repo, cid)) - set(_blocks(repo, other))
    assert repo.access.why(cid) == [(cid, A), (other, PUBLIC)]
    repo.access.set_audience(other, B)
    assert open_to_all(repo) == set()
    repo.access.set_audience(cid, PUBLIC)
    assert repo.access.audiences(list(repo.all_multihashes())) == {other.multihash: B}


def test_what_is_said_of_a_root_that_is_not_kept(repo: Repo, folder: Path) -> None:
    """Nothing can be: the error names it. A file in a folder is not kept by itself."""
    repo.store_directory(folder, profile=TINY)
    file = repo.hash_file(folder / "a", profile=TINY)
    with pytest.raises(ContentNotFound, match=str(file)):
        repo.access.set_audience(file, A)
    assert not repo.access.any_restricted()


@pytest.mark.parametrize("then", [B, PUBLIC])
@pytest.mark.parametrize("before", [None, A, B])
def test_what_is_said_counts_more_than_what_was_interrupted(
    repo: Repo, before: Audience | None, then: Audience
) -> None:
    """Those for whom something was being loaded do not see it any more when the user has said for whom it is."""
    with repo.access.claim(A | PRIVATE) as claim:
        cid = repo.store_bytes(DATA, profile=TINY, audience=before).cid
        claim.cover(cid)
    repo.access.set_audience(cid, A)
    repo.access.set_audience(cid, then)
    blocks = set(repo.all_multihashes())
    assert repo.access.audiences(blocks) == ({} if then == PUBLIC else dict.fromkeys(blocks, then))


def test_a_store_that_fails(repo: Repo, folder: Path) -> None:
    """What it has put here until then stays restricted, until `gc` has removed its blocks; the next store is clean."""

    def interrupt(done: int, total: int) -> None:
        if done > 5_000:
            raise KeyboardInterrupt

    (folder / "sub" / "c").write_bytes(DATA[::-1] * 2)
    with pytest.raises(KeyboardInterrupt):
        repo.store_directory(folder, profile=TINY, audience=A, progress=interrupt)
    assert open_to_all(repo) == set()
    assert repo.access.roots() == []
    repo.removal.tidy()
    assert open_to_all(repo) == set()
    repo.store_directory(folder, profile=TINY)
    assert repo.access.audiences(list(repo.all_multihashes())) == {}


def test_claims_of_what_was_interrupted_go_with_its_blocks(
    repo: Repo, there: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of blocks that are here stay, and so do all of a partial file; the others go when they are old."""
    cid = there.store_bytes(DATA, profile=TINY).cid
    with repo.access.claim(A) as claim, repo.download(cid, claim) as download:
        load(download, there, most=6)
    monkeypatch.setattr(leaving_module, "ORPHAN_SECONDS", -1.0)
    before = claims(repo)
    repo.removal.tidy()
    assert claims(repo) == before
    repo.partial_for(cid).unlink()
    repo.removal.tidy()
    here = set(repo.all_multihashes())
    assert here
    assert claims(repo) == here
    repo.sweep(-1.0)
    repo.removal.tidy()
    assert claims(repo) == set()
    assert not repo.access.any_restricted()


def claims(repo: Repo) -> set[bytes]:
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        return {each for (each,) in db.execute("SELECT multihash FROM claims")}


def test_audiences_are_changed_while_something_is_stored(repo: Repo) -> None:
    """Only where a public root is restricted, others are waited for: what it shares with them must be known."""
    cid = repo.store_value(b"value", audience=A).cid
    begun, end = threading.Event(), threading.Event()

    def store() -> None:
        with repo._placer.lock.adding():
            begun.set()
            end.wait()

    thread = threading.Thread(target=store)
    thread.start()
    try:
        begun.wait()
        for audience in (B, A | B, PUBLIC):
            repo.access.set_audience(cid, audience)
            assert repo.access.audience_of(cid) == audience
    finally:
        end.set()
        thread.join()
    repo.access.set_audience(cid, PRIVATE)
    assert repo.access.roots() == [(cid, PRIVATE)]


def test_public_values_beside_restricted_ones(repo: Repo) -> None:
    """They are listed, and `access.txt` has a line for each, as for what was there before."""
    cids = [repo.store_value(b"before").cid, repo.store_value(b"for some", audience=A).cid]
    cids += [repo.store_value(b"value %d" % number).cid for number in range(3)]
    assert [root.cid for root in repo.inventory.roots()] == cids
    records, damaged = repo.access.records.read()
    assert not damaged
    assert [(record.cid, record.audience) for record in records.values()] == [
        (cid, A if number == 1 else PUBLIC) for number, cid in enumerate(cids)
    ]


# --- loading ---------------------------------------------------------------------------------------------------------


def load(
    download: Download, source: Repo, *, most: int = 10**9, came: Callable[[Ref], None] = lambda ref: None
) -> None:
    """Load as the node does, taking blocks from another repo; `came` is called when a block is in its place."""
    walk = FileWalk(download.cid)
    count = 0
    while not walk.finished:
        refs = walk.take(7)
        for ref, present in zip(refs, download.has(refs), strict=True):
            if present:
                came(ref)
                walk.skip(ref)
                continue
            count += 1
            if count > most:
                return
            block = source.get_block(ref.cid.multihash)
            assert block is not None
            pieces = walk.feed(ref, block)
            if ref.length is None:
                assert walk.size is not None
                download.allocate(walk.size)
            download.accept(ref, block, pieces)
            came(ref)
    assert walk.size is not None
    download.finish(walk.size)


@pytest.mark.parametrize("size", [500, 1000, 9_500])
@pytest.mark.parametrize("base", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_a_file_that_is_loaded(repo: Repo, there: Repo, size: int, base: str) -> None:
    """Each block has its claim when it is in its place, and so before others could have it from the partial file."""
    profile = custom_profile(base, chunk_size=1000, width=3)
    cid = there.store_bytes(DATA[:size], profile=profile).cid

    def came(ref: Ref) -> None:
        assert repo.access.audiences([ref.cid.multihash]) == {ref.cid.multihash: A}

    for most in (3, 8, 10**9):  # interrupted, and gone on with
        with repo.access.claim(A) as claim, repo.download(cid, claim) as download:
            if download.complete is None:
                load(download, there, most=most, came=came)
        assert open_to_all(repo) == set()
    with repo.access.claim(A) as claim:
        claim.keep(cid)
    repo.inventory.loaded(cid)
    assert repo.access.roots() == [(cid, A)]
    assert open_to_all(repo) == set()


def test_nodes_that_somebody_else_brings_meanwhile(repo: Repo, there: Repo) -> None:
    """A node that is claimed claims what it links to, whoever puts it here."""
    cid = there.store_bytes(DATA, profile=TINY).cid
    nodes = [CID(1, 0x70, each) for each in there.all_multihashes() if there.get_node(each) is not None]
    assert len(nodes) > 3
    with repo.access.claim(A) as claim:
        claim.cover(cid)
        for node in sorted(nodes, key=lambda node: node.multihash != cid.multihash):
            block = there.get_node(node.multihash)
            assert block is not None
            if node.multihash in repo.access.audiences([node.multihash]):
                repo.put_blocks([(node, block)])
        assert repo.access.audiences([cid.multihash])
        assert set(_blocks(there, cid)) >= claims(repo) > {cid.multihash}
        assert open_to_all(repo) == set()


def test_a_folder_that_is_loaded(repo: Repo, there: Repo, folder: Path) -> None:
    """Its nodes, its links and its files, whatever comes first, are for whom the load says in the end."""
    root = there.store_directory(folder, profile=TINY).cid
    tree = there.inventory.members(root)
    with repo.access.claim(NOBODY) as claim:
        nodes = there.get_nodes(list(tree.nodes))
        assert len(nodes) > 2
        for multihash, block in nodes.items():
            repo.put_blocks([(CID(1, 0x70, multihash), block)], claim)
        assert set(repo.access.audiences(list(nodes)).values()) == {NOBODY}
        claim.set(B)
        claim.widen(A)
        for cid in tree.files:
            size = there.file_size(cid)
            assert size is not None
            if size <= 1000:
                repo.add_small_files([(cid, there.get_block(cid.multihash) or b"")], claim)
            else:
                with repo.download(cid, claim) as download:
                    load(download, there)
            assert open_to_all(repo) == set()
        repo.keep_directory(root, None, claim)
    assert repo.access.roots() == [(root, A | B)]
    assert set(repo.access.audiences(list(repo.all_multihashes())).values()) == {A | B}
    assert repo.verify() == []


def test_a_load_that_turns_out_public(repo: Repo, there: Repo) -> None:
    """Nothing is left of its claim."""
    cid = there.store_bytes(DATA, profile=TINY).cid
    with repo.access.claim(NOBODY) as claim, repo.download(cid, claim) as download:
        load(download, there)
        claim.set(PUBLIC)
        claim.keep(cid)
    repo.inventory.loaded(cid)
    assert not repo.access.any_restricted()
    assert repo.access.audience_of(cid) == PUBLIC
    assert repo.access.roots() == []


def test_a_claim_under_which_nothing_came(repo: Repo) -> None:
    """It leaves nothing behind."""
    with repo.access.claim(A):
        pass
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        assert db.execute("SELECT id FROM access").fetchall() == [(0,)]


def test_a_load_that_goes_on_when_its_claim_has_ended(repo: Repo, there: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes then is for nobody, until `gc` has removed it."""
    cid = there.store_bytes(DATA, profile=TINY).cid
    with repo.access.claim(A) as claim:
        pass
    node = there.get_node(cid.multihash)
    assert node is not None
    repo.put_blocks([(cid, node)], claim)
    assert set(repo.access.audiences(claims(repo)).values()) == {NOBODY}
    monkeypatch.setattr(leaving_module, "ORPHAN_SECONDS", -1.0)
    repo.removal.tidy()
    assert claims(repo) == {cid.multihash}
    assert repo.access.audience_of(cid) == NOBODY
    repo.sweep(-1.0)
    repo.removal.tidy()
    assert not repo.access.any_restricted()


def test_what_is_bound_to_its_root(repo: Repo, there: Repo) -> None:
    """For whom it is, is not said by its claim any more."""
    with repo.access.claim(A) as claim:
        cid = repo.store_bytes(DATA, profile=TINY, audience=A).cid
        claim.keep(cid)
        claim.set(A)
        with pytest.raises(RepoError, match="set_audience"):
            claim.widen(B)
    assert repo.access.roots() == [(cid, A)]


# --- several threads and processes ----------------------------------------------------------------------------------


def test_values_of_many_threads(repo: Repo) -> None:
    """They share a turn of the pack, and each is for whom it was stored, the same one for both."""
    to = [A, B, None, PRIVATE]
    begun = threading.Barrier(8)

    def store(number: int) -> None:
        begun.wait()
        for each in range(5):
            repo.store_value(b"value %d" % (number * 5 + each), audience=to[number % 4])
            repo.store_value(b"shared %d" % each, audience=A if number % 2 else B)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = {repo.packed_file(root.cid): repo.access.audience_of(root.cid) for root in repo.inventory.roots()}
    for number in range(8):
        for each in range(5):
            assert shown[b"value %d" % (number * 5 + each)] == (to[number % 4] or PUBLIC)
    assert {shown[b"shared %d" % each] for each in range(5)} == {A | B}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_another_process_sees_it_at_once(repo: Repo, tmp_path: Path) -> None:
    """What is restricted in a forked child is so for the parent, which has the catalog open, when the child is done."""
    assert not repo.access.any_restricted()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            repo.store_value(b"value", audience=A)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert repo.access.any_restricted()
    assert open_to_all(repo) == set()
    ((cid, audience),) = repo.access.roots()
    assert audience == A
    assert repo.packed_file(cid) == b"value"


# --- older programs --------------------------------------------------------------------------------------------------


def as_version_4(repo: Repo) -> None:
    """What a program that knows no audiences has left."""
    repo.close()
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        db.executescript("DROP TABLE access; DROP TABLE claims; PRAGMA user_version=4")


def test_a_catalog_of_the_older_version(repo: Repo) -> None:
    """Everything in it is public, nothing is listed that was not, and from then on no older program opens it."""
    old = repo.store_bytes(DATA, profile=TINY)
    leftover = repo.store_bytes(DATA[::-1], profile=TINY)
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        db.execute("DELETE FROM kept WHERE key = ?", (bytes(leftover.cid),))
        db.commit()
    as_version_4(repo)
    with Repo.open(repo.directory) as again:
        assert [root.cid for root in again.inventory.roots()] == [old.cid]
        assert not again.access.any_restricted()
        again.access.set_audience(old.cid, A)
        assert again.access.roots() == [(old.cid, A)]
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as db:
        found = db.execute("PRAGMA user_version").fetchone()[0]
    assert found == SCHEMA_VERSION
    with pytest.raises(RepoError, match="newer version"):
        check_version(found, 4, repo.directory, (1, 2, 3))


@pytest.mark.skipif(os.name != "posix", reason="locks as POSIX has them")
def test_a_node_of_an_older_version_is_running(repo: Repo) -> None:
    """It would give everything to everyone, so nothing can be restricted before it has ended; public stores can be."""
    as_version_4(repo)
    node = NodeLock(repo.directory)
    read, write = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:  # the older node: all that this program sees of it is the lock
        os.close(write)
        os.write(tell, b"1" if node.try_acquire() else b"0")
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    os.close(tell)
    try:
        assert os.read(told, 1) == b"1"
        with Repo.open(repo.directory) as again:
            again.store_value(b"public")
            again.store_directory(repo.directory / "links", audience=None)  # a durable commit
            with pytest.raises(RepoError, match="older version"):
                again.store_value(b"secret", audience=A)
            assert not again.access.any_restricted()
    finally:
        os.close(told)
        os.close(write)
        os.waitpid(pid, 0)
    with Repo.open(repo.directory) as again:
        again.store_value(b"secret", audience=A)
        assert len(again.access.roots()) == 1


def test_an_older_program_that_has_the_catalog_open_still(repo: Repo) -> None:
    """It writes its own version now and then; before anything is restricted, ours is written again."""
    with closing(sqlite3.connect(repo.directory / "catalog.sqlite")) as older:
        older.execute("PRAGMA user_version=4")
        repo.store_value(b"secret", audience=A)
        assert older.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
