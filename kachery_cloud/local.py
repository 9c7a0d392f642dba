"""What needs no network: what this process has open of a data directory, and finding content in it.

A process has one repo and one outbox open for each data directory. The functions that users call share them with the
node, where it runs in this process. Both may be used from any thread, and on both sides of a fork.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kachery_cloud.errors import IsADirectory, NotADirectory, NotAFile
from kachery_cloud.uri import ContentURI

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.directory import HamtEntry
    from kachery_p2p.dag.paths import Resolved
    from kachery_p2p.pinning import PinOutbox
    from kachery_p2p.repo.repo import Repo

log = logging.getLogger("kachery_cloud.local")

_repos: dict[Path, Repo] = {}
_outboxes: dict[Path, PinOutbox] = {}
#: Directories whose node runs in this process. There is one at most for each.
_served: set[Path] = set()


def repository(config: Config) -> Repo:
    """The open repo of this process for the data directory; made on first need. A forked child may go on using it.

    What is looked up in it is looked up in the shared directories of the settings, too; `own` does not do that.
    """
    repo = _repos.get(config.directory)
    if repo is None:
        from kachery_p2p.repo.repo import Repo

        # No lock, which a fork could copy while it is held: of two threads that open it at once, one keeps its own.
        mine = Repo.open(config.directory, layers=config.shared_dirs)
        repo = _repos.setdefault(config.directory, mine)
        if repo is not mine:
            mine.close()
    if repo.layers.directories != config.shared_dirs:
        repo.put_beneath(config.shared_dirs)
    return repo


def outbox(config: Config) -> PinOutbox:
    """The outbox of this process for the data directory; what is to be pinned is written there."""
    found = _outboxes.get(config.directory)
    if found is None:
        from kachery_p2p.pinning import OUTBOX_NAME, PinOutbox

        # Of two threads that make it at once, both get the same.
        found = _outboxes.setdefault(config.directory, PinOutbox(config.directory / OUTBOX_NAME))
    return found


@contextlib.contextmanager
def served_repository(config: Config) -> Iterator[Repo]:
    """The same repo for the node of the directory: `close_repositories` leaves it open while this lasts."""
    repo = repository(config)
    _served.add(config.directory)
    try:
        yield repo
    finally:
        _served.discard(config.directory)


def close_repositories() -> None:
    """Close the repos of this process, but for one that its node uses; the next call opens them again."""
    for directory in [each for each in _repos if each not in _served]:
        _repos.pop(directory).close()


def close_outboxes() -> None:
    """Close the outboxes of this process; the next call opens them again."""
    while _outboxes:
        _outboxes.popitem()[1].close()


if hasattr(os, "register_at_fork"):
    # The thread of a node is not in the child.
    os.register_at_fork(after_in_child=_served.clear)


class BlockNotLocal(Exception):
    """A block that this machine does not have (internal; never reaches the user)."""


class LocalContent(NamedTuple):
    """The file that a URI leads to, on this machine.

    Attributes:
        cid: of the file.
        path: where it is; None for a small one that has no path yet.
        data: its bytes then.
    """

    cid: CID
    path: Path | None
    data: bytes = b""

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data) if self.path is None else self.path.stat().st_size

    def open(self) -> BufferedIOBase:
        """The file, open for reading."""
        return BytesIO(self.data) if self.path is None else open(self.path, "rb")


class LocalFile(NamedTuple):
    """A file on this machine that is named otherwise than by its CID; as `LocalContent`."""

    path: Path
    data: bytes = b""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size

    def open(self) -> BufferedIOBase:
        """The file, open for reading."""
        return open(self.path, "rb")


def local_blocks(repo: Repo, cids: list[CID]) -> list[bytes]:
    """The blocks, from this machine alone.

    Raises:
        BlockNotLocal: one is not here.
    """
    found = repo.get_blocks([cid.multihash for cid in cids])
    for cid in cids:
        if cid.multihash not in found:
            raise BlockNotLocal(str(cid))
    return [found[cid.multihash] for cid in cids]


def resolve_local(repo: Repo, uri: ContentURI) -> CID:
    """The CID that the URI's path leads to, from the directories and symbolic links that are here.

    Raises:
        BlockNotLocal: one of them is not here.
        PathNotFound: one of them has no such entry.
        BrokenLink: one of them leads out of the root of the URI, nowhere, or in a circle.
    """
    return resolve_here(repo, uri).cid


def resolve_here(repo: Repo, uri: ContentURI, *, follow: bool = True) -> Resolved:
    """Where the URI's path leads; as `resolve_local`.

    Args:
        repo: where it is looked for.
        uri: of it.
        follow: whether the last name of the path is followed, where it is a symbolic link.
    """
    from kachery_p2p.dag.paths import Resolved, drive, resolve_path

    if not uri.path:
        return Resolved(uri.root, "", None)
    steps = resolve_path(uri.root, uri.path, repo.folder_nodes, follow=follow)
    return drive(steps, lambda cids: local_blocks(repo, cids))


def find_local(repo: Repo, uri: ContentURI, *, needs_path: bool = False) -> LocalContent:
    """The file that the URI names, if all of it is here.

    Args:
        repo: where it is looked for.
        uri: of the file.
        needs_path: give a path also to a small file that has none yet.

    Raises:
        BlockNotLocal: it is not here, or not all of it.
        IsADirectory: it is no file.
        DamagedFile: the local copy is no longer what it was.
    """
    cid = resolve_local(repo, uri)
    data = None if needs_path else repo.packed_file(cid)
    if data is not None:
        return LocalContent(cid, None, data)
    path = local_file(repo, cid)
    if path is None and finished(repo, cid):
        path = repo.find_file(cid)
    if path is not None:
        return LocalContent(cid, path)
    if is_local_directory(repo, cid):
        raise IsADirectory(
            f"{uri.locator} is a directory. Load it with load_dir(uri, dest) (kachery-cloud-load URI --dest FOLDER), "
            f"or one of its files as {uri.locator}/NAME."
        )
    raise BlockNotLocal(str(cid))


def local_file(repo: Repo, cid: CID) -> Path | None:
    """Where a file is, if all of it is here; None for one that is not here, and for a directory.

    Raises:
        DamagedFile: the local copy is no longer what it was.
    """
    path = repo.find_file(cid)
    return _inline_file(repo, cid) if path is None else path


def finished(repo: Repo, cid: CID) -> bool:
    """Whether a file that is being loaded, or was in pieces, turns out to be whole; it has its place then."""
    from kachery_cloud.errors import KacheryError

    try:
        return repo.finish_partial(cid)
    except KacheryError as error:  # it is being loaded just now, say, or the disk is full: then it is not whole
        log.info("%s cannot be made whole: %s", cid, error)
        return False


def local_size(repo: Repo, cid: CID) -> int | None:
    """How many bytes a file has, if all of it is here; None for one that is not here, and for a directory.

    Raises:
        DamagedFile: the local copy is no longer what it was.
    """
    size = repo.file_size(cid)
    if size is not None:
        return size
    block = _inline_block(cid)
    return None if block is None else len(block)


def is_local_directory(repo: Repo, cid: CID) -> bool:
    """Whether this is a directory whose block is here."""
    from kachery_p2p.dag.cid import DAG_PB

    if cid.codec != DAG_PB:
        return False
    try:
        repo.file_part(cid)  # the root of a file is decoded once, however often parts of it are read
    except IsADirectory:
        return True
    except NotAFile:
        return False
    return False


def listed_label(repo: Repo, cid: CID) -> str:
    """The newest label under which something is listed on this machine; empty where it has none."""
    root = repo.inventory.get(cid)
    return root.labels[0].text if root is not None and root.labels else ""


def list_local(repo: Repo, cid: CID) -> list[HamtEntry]:
    """The entries of a directory that is here.

    Raises:
        BlockNotLocal: one of its blocks is not here.
        NotADirectory: it is a file.
    """
    from kachery_p2p.dag.cid import RAW
    from kachery_p2p.dag.directory import list_directory
    from kachery_p2p.dag.paths import drive

    if cid.codec == RAW:
        raise NotADirectory(f"{cid} is a file, not a directory.")
    return drive(list_directory(cid), lambda cids: local_blocks(repo, cids))


def _inline_file(repo: Repo, cid: CID) -> Path | None:
    """A CID can carry a few bytes in itself, or be that of no bytes at all; then the file is always here."""
    block = _inline_block(cid)
    if block is None:
        return None
    repo.add_small_files([(cid, block)])
    return repo.find_file(cid)


def _inline_block(cid: CID) -> bytes | None:
    from kachery_p2p.dag.cid import RAW, known_block

    return known_block(cid) if cid.codec == RAW else None
