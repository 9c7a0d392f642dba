"""What differs between two directories: their CIDs are compared, and no file is loaded.

Two entries of one CID are the same, with all that is below them, so nothing of them is looked at. Where a directory is
compared with a folder on the disk, the files of the folder are hashed by the rules that the directory's were cut by.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.arguments import check_flags, path_text
from kachery_cloud.errors import FileMissing, InvalidURI, KacheryError, NotADirectory
from kachery_cloud.local import BlockNotLocal, repository, resolve_local
from kachery_cloud.putting import checked_path, folder_options
from kachery_cloud.request import Request
from kachery_cloud.uri import ContentURI, format_uri, parse_uri
from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.directory import symlink_block
from kachery_p2p.dag.limits import MAX_BLOCK_SIZE
from kachery_p2p.dag.profiles import RANDOM_16K, UNIXFS_V0_2015, UNIXFS_V1_2025
from kachery_p2p.oserrors import explained

if TYPE_CHECKING:
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.repo.scanning import Folder, FolderOptions

#: What two files are called that are compared by themselves.
ITSELF = "."


@dataclass(frozen=True)
class Differences:
    """What differs, as paths in both, in order; true where anything does.

    Attributes:
        added: files, links and folders that only the second has. Of a folder, what is in it is not named.
        removed: those that only the first has.
        changed: files and links that are others in the second.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def diff(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    follow: bool = False,
    exclude: Sequence[str] = (),
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> Differences:
    """What differs between two directories, or two files.

    No file is loaded: their CIDs are compared, and only the listings of folders that differ are fetched. One of the two
    may be on the disk. Then its files are hashed, unless they have not changed since they were. Files that were cut
    into blocks by rules of nobody's profile, or stored with `preserve`, count as changed then.

    Args:
        first: a URI as for `load_file`, or a path.
        second: the same. One of them is a URI.
        follow: as for `store_dir`, where one is a folder on the disk.
        exclude: as for `store_dir`, where one is a folder on the disk.
        local_only: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`.

    Raises:
        InvalidURI: none of them is a URI.
        FileMissing: one is neither a URI nor a path.
        KacheryError: what `list_dir` and `store_dir` raise.

    Example:
        >>> kcl.diff(old_uri, new_uri)
        Differences(added=('notes/b.txt',), removed=(), changed=('notes/a.txt',))
    """
    check_flags(follow=follow)
    options = folder_options(follow=follow, exclude=exclude)
    uris = [_uri(first), _uri(second)]
    if uris == [None, None]:
        raise InvalidURI(
            f"Neither {os.fspath(first)} nor {os.fspath(second)} is a URI. Folders are compared with diff -r."
        )
    where = _Where(local_only, providers, timeout)
    found = _Found()
    one, other = uris
    if one is not None and other is not None:
        _compare(where, where.cid(one), where.cid(other), "", found)
        return found.differences()
    uri, path = (one, second) if one is not None else (other, first)
    assert uri is not None
    _LocalSide(where, found, repository(where.config)).compare(where.cid(uri), checked_path(path), options)
    return found.differences(turned=one is None)


def _uri(text: str | os.PathLike[str]) -> str | None:
    """The URI that it is; None for a path that is there."""
    path = path_text(text, "What is to be compared")
    try:
        parse_uri(path)
    except KacheryError:
        if os.path.lexists(checked_path(path)):
            return None
        if "://" in path or path.startswith("/ipfs/"):
            raise
        raise FileMissing(f"There is no {path}, and it is no URI.") from None
    return path


class _Found:
    """What was found to differ until now."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.removed: list[str] = []
        self.changed: list[str] = []

    def differences(self, *, turned: bool = False) -> Differences:
        added, removed = (self.removed, self.added) if turned else (self.added, self.removed)
        return Differences(tuple(sorted(added)), tuple(sorted(removed)), tuple(sorted(self.changed)))


class _Where:
    """Where directories are listed from."""

    def __init__(self, local_only: bool, providers: Sequence[str], timeout: float | None) -> None:
        self._local_only = local_only
        self._timeout = timeout
        #: The groups that a directory is for, and with it all that is in it.
        self._groups: dict[CID, tuple[str, ...]] = {}
        # Of a URI that has no bytes: what else was given is checked before anything is looked at.
        checked = Request("bafkqaaa", local_only=local_only, providers=providers, timeout=timeout)
        self._providers, self.config = checked.providers, checked.config

    def _request(self, uri: str) -> Request:
        return Request(uri, local_only=self._local_only, providers=self._providers, timeout=self._timeout)

    def cid(self, uri: str) -> CID:
        """What a URI leads to. Those that it names as providers are asked from then on."""
        request = self._request(uri)
        self._providers = tuple(dict.fromkeys((*self._providers, *request.providers)))
        found = request.uri.root
        if request.uri.path:
            parent = ContentURI(request.uri.cid, request.uri.path[:-1], groups=request.groups)
            self._request(str(parent)).entries()
            try:
                found = resolve_local(repository(self.config), request.uri)
            except BlockNotLocal as error:  # it may be a link, and lead elsewhere
                request.need_network(error)
                found = request.ask("info").cid
        self._groups.setdefault(found, request.groups)
        return found

    def entries(self, cid: CID) -> dict[str, CID] | None:
        """What is in a folder; None for what is none."""
        if cid.codec != DAG_PB:
            return None
        try:
            groups = self._groups.get(cid, ())
            found = {e.name: e.cid for e in self._request(format_uri(str(cid), groups=groups)).entries()}
        except NotADirectory:
            return None
        for each in found.values():
            self._groups.setdefault(each, groups)
        return found


def _compare(where: _Where, one: CID, other: CID, path: str, found: _Found) -> None:
    """Compare what has two CIDs, and lies at a path in both."""
    waiting = [(path, one, other)]
    while waiting:
        path, one, other = waiting.pop()
        if one.to_v1() == other.to_v1():
            continue
        # Two files are not listed, where it can be told that one of them is a file.
        first = where.entries(one) if other.codec == DAG_PB else None
        second = None if first is None else where.entries(other)
        if first is None or second is None:
            found.changed.append(path or ITSELF)
            continue
        prefix = f"{path}/" if path else ""
        found.added += [prefix + name for name in second if name not in first]
        found.removed += [prefix + name for name in first if name not in second]
        waiting += [(prefix + name, first[name], second[name]) for name in first if name in second]


class _LocalSide:
    """Compares a directory with a folder on the disk."""

    def __init__(self, where: _Where, found: _Found, repo: Repo) -> None:
        self._where = where
        self._found = found
        self._repo = repo
        #: The last that gave a CID is the most likely.
        self._profiles = [UNIXFS_V1_2025, RANDOM_16K, UNIXFS_V0_2015]

    def compare(self, cid: CID, path: Path, options: FolderOptions) -> None:
        """Compare a directory or a file with what is at a path."""
        from kachery_p2p.repo.scanning import Scan

        if not os.path.isdir(path):
            if not self._is_file(cid, path):
                self._found.changed.append(ITSELF)
            return
        entries = self._where.entries(cid)
        if entries is None:
            self._found.changed.append(ITSELF)
            return
        top = Scan(os.stat(self._repo.directory), options).run(path)
        waiting = [("", entries, top)]
        while waiting:
            prefix, entries, folder = waiting.pop()
            waiting += self._folder(prefix, entries, folder)

    def _folder(self, prefix: str, entries: dict[str, CID], folder: Folder) -> list[tuple[str, dict[str, CID], Folder]]:
        """Compare one folder, and say which of those in it are in both."""
        found = self._found
        folders = dict(folder.folders)
        links = {link.name: link.target for link in folder.links}
        files = {file.name for file in folder.files}
        both: list[tuple[str, dict[str, CID], Folder]] = []
        found.removed += [prefix + name for name in entries if not (name in folders or name in links or name in files)]
        for name in (*folders, *links, *files):
            cid = entries.get(name)
            if cid is None:
                found.added.append(prefix + name)
            elif name in folders:
                below = self._where.entries(cid)
                if below is None:
                    found.changed.append(prefix + name)
                else:
                    both.append((f"{prefix}{name}/", below, folders[name]))
            elif name in links:
                if symlink_block("unixfs-v1-2025", links[name])[0].multihash != cid.multihash:
                    found.changed.append(prefix + name)
            elif not self._is_file(cid, Path(folder.path, name)):
                found.changed.append(prefix + name)
        return both

    def _is_file(self, cid: CID, path: Path) -> bool:
        """Whether a file on the disk has that CID under a profile that others have."""
        if cid.codec == RAW:
            with explained("reading", path):
                if os.stat(path).st_size > MAX_BLOCK_SIZE:
                    return False
                return hashlib.sha256(path.read_bytes()).digest() == cid.multihash[2:]
        for profile in list(self._profiles):
            if self._repo.hash_file(path, profile=profile).multihash == cid.multihash:
                self._profiles.remove(profile)
                self._profiles.insert(0, profile)
                return True
        return False
