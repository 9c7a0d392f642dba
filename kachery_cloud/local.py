"""What needs no network: the repo of the data directory, and finding content in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kachery_cloud.errors import IsADirectory, NotADirectory
from kachery_cloud.uri import ContentURI

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.directory import HamtEntry
    from kachery_p2p.repo.repo import Repo

_repos: dict[Path, Repo] = {}


def repository(config: Config) -> Repo:
    """The open repo of this process for the data directory; made on first need. A forked child may go on using it."""
    repo = _repos.get(config.directory)
    if repo is None:
        from kachery_p2p.repo.repo import Repo

        # No lock, which a fork could copy while it is held: of two threads that open it at once, one keeps its own.
        mine = Repo.open(config.directory)
        repo = _repos.setdefault(config.directory, mine)
        if repo is not mine:
            mine.close()
    return repo


def close_repositories() -> None:
    """Close the repos of this process; the next call opens them again. For tests and for leaving early."""
    while _repos:
        _repos.popitem()[1].close()


class BlockNotLocal(Exception):
    """A block that this machine does not have (internal; never reaches the user)."""


class LocalContent(NamedTuple):
    """What a URI leads to, as far as this machine knows. `path` is None for directories."""

    cid: CID
    path: Path | None


def local_blocks(repo: Repo, cids: list[CID]) -> list[bytes]:
    """The blocks from this machine alone; raises `BlockNotLocal`."""
    found = repo.get_blocks([cid.multihash for cid in cids])
    for cid in cids:
        if cid.multihash not in found:
            raise BlockNotLocal(str(cid))
    return [found[cid.multihash] for cid in cids]


def resolve_local(repo: Repo, uri: ContentURI) -> CID:
    """The CID that the URI's path leads to, from the directories that are here.

    Raises `BlockNotLocal`, `PathNotFound`.
    """
    from kachery_p2p.dag.cid import CID

    root = CID.parse(uri.cid)
    if not uri.path:
        return root
    from kachery_p2p.dag.paths import drive, resolve_path

    return drive(resolve_path(root, uri.path), lambda cids: local_blocks(repo, cids)).cid


def find_local(repo: Repo, uri: ContentURI) -> LocalContent:
    """The file that the URI names, if all of it is here.

    Raises `BlockNotLocal`; `IsADirectory`; `DamagedFile` when the local copy is no longer what it was.
    """
    cid = resolve_local(repo, uri)
    path = repo.find_file(cid)
    if path is None:
        path = _inline_file(repo, cid)
    if path is not None:
        return LocalContent(cid, path)
    if is_local_directory(repo, cid):
        raise IsADirectory(
            f"{uri.locator} is a directory. Load it with load_dir(uri, dest) (kachery-cloud-load URI --dest FOLDER), "
            f"or one of its files as {uri.locator}/NAME."
        )
    raise BlockNotLocal(str(cid))


def is_local_directory(repo: Repo, cid: CID) -> bool:
    """Whether this is a directory whose block is here."""
    from kachery_p2p.dag.cid import DAG_PB

    if cid.codec != DAG_PB:
        return False
    block = repo.get_block(cid.multihash)
    if block is None:
        return False
    from kachery_p2p.dag.paths import node_kind
    from kachery_p2p.dag.unixfs import DataType

    return node_kind(block, cid) in (DataType.DIRECTORY, DataType.HAMT_SHARD)


def list_local(repo: Repo, cid: CID) -> list[HamtEntry]:
    """The entries of a directory that is here. Raises `BlockNotLocal`, `NotADirectory`."""
    from kachery_p2p.dag.cid import RAW
    from kachery_p2p.dag.directory import list_directory
    from kachery_p2p.dag.paths import drive

    if cid.codec == RAW:
        raise NotADirectory(f"{cid} is a file, not a directory.")
    return drive(list_directory(cid), lambda cids: local_blocks(repo, cids))


def _inline_file(repo: Repo, cid: CID) -> Path | None:
    """A CID can carry a few bytes in itself, or be that of no bytes at all; then the file is always here."""
    from kachery_p2p.dag.cid import RAW, known_block

    block = known_block(cid)
    if block is None or cid.codec != RAW:
        return None
    repo.add_small_files([(cid, block)])
    return repo.find_file(cid)
