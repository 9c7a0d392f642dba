"""One call of a user that loads something: what is here already, and what the node is asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_cloud.arguments import check_flags, range_in
from kachery_cloud.errors import (
    ContentNotFound,
    DamagedFile,
    DamagedRepo,
    DiskFull,
    InvalidName,
    IsADirectory,
    NoPermission,
    RepoError,
)
from kachery_cloud.local import (
    BlockNotLocal,
    LocalContent,
    LocalFile,
    check_lost,
    find_local,
    finished,
    is_local_directory,
    list_local,
    listed_label,
    repository,
    resolve_here,
    resolve_local,
)
from kachery_cloud.progress import progress_bar
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.values import parse_timeout
from kachery_cloud.sizes import Sizes
from kachery_cloud.terminal import tell
from kachery_cloud.uri import check_peer_addresses, parse_name_uri, parse_uri, without_key
from kachery_p2p.dag.names import outside_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedIOBase

    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.directory import HamtEntry
    from kachery_p2p.node.messages import LoadKind, LoadRequest, LoadResult
    from kachery_p2p.repo.repo import Repo

#: Bytes that a stream asks for at a time: little at first, so that output begins at once, then enough to keep several
#: peers busy. What is fetched lies on disk, so the memory used is that of one piece.
_FIRST_WINDOW = 1 << 20
_LARGEST_WINDOW = 64 << 20
_PIECE = 1 << 20
#: Offsets are kept in 63 bits, as file systems do (`kachery_p2p.node.messages`, which need not be imported here).
_MAX_OFFSET = (1 << 63) - 1


class Request:
    """A URI with all that a call said about how to load it."""

    #: Whether its name was written down, which is done before anything of it comes.
    _is_named = False
    #: The groups that it is for, as the URI says.
    groups: tuple[str, ...] = ()

    def __init__(
        self,
        uri: str,
        *,
        local_only: bool = False,
        verbose: bool = False,
        providers: Sequence[str] = (),
        timeout: float | None = None,
    ) -> None:
        check_flags(local_only=local_only, verbose=verbose)  # a mistake there is told before one in the URI
        named = parse_name_uri(uri)
        found = None if named is not None else parse_uri(uri)
        self._take_options(local_only=local_only, verbose=verbose, timeout=timeout)
        if named is not None:
            from kachery_cloud.publishing import follow

            found = follow(self.config, named, local_only=local_only, timeout=self.timeout)
            self.say(f"{without_key(uri)} leads to {found.locator}")
        assert found is not None
        self.uri = found
        given = check_peer_addresses(providers, "a provider")
        self.providers = tuple(dict.fromkeys((*given, *self.uri.providers)))
        self.groups = found.groups

    def _take_options(self, *, local_only: bool, verbose: bool, timeout: float | None) -> None:
        """What a call said beside the URI; what it did not say comes from the settings."""
        self.config: Config = load_config()
        self.local_only = local_only
        self.verbose = verbose
        self.timeout = self.config.timeout if timeout is None else parse_timeout(timeout, "The timeout")

    def file(self) -> Path:
        """The path of the whole file, here or fetched."""
        found = self.local(needs_path=True)
        if found is None or found.path is None:
            return _path_of(self.ask("file"))
        self.say(f"{self.uri.locator} is on this machine already.")
        if isinstance(found, LocalContent):
            self._asked_for(found.cid)
        return found.path

    def copy_to(self, target: Path, *, replace: bool) -> None:
        """Put a copy of the file at `target`; as `kachery_cloud.placing.copy_into_place`."""
        from kachery_cloud.placing import copy_into_place

        copy_into_place(self.file(), target, replace=replace)

    def file_name(self) -> str:
        """The name for a copy in a folder: what the URI says, else the label in the list of this machine, else the CID.

        Raises:
            InvalidName: the URI may not choose the name of the copy.
        """
        if not self.uri.name:
            with contextlib.suppress(InvalidName):
                return outside_name(listed_label(repository(self.config), self.uri.root))
        return self.uri.file_name

    def named(self, path: Path) -> str:
        """A path of that file which ends in the name that the URI gives it; `path` where that is no plain name."""
        try:
            name = outside_name(self.uri.name)
        except InvalidName:
            return str(path)
        repo = repository(self.config)
        return str(repo.names.give(resolve_local(repo, self.uri), path, name))

    def open(self) -> BufferedIOBase:
        """The whole file, here or fetched, open for reading. A small one that has no path yet gets none."""
        found = self.local()
        return open(_path_of(self.ask("file", part=True)), "rb") if found is None else found.open()

    def local(self, *, needs_path: bool = False) -> LocalContent | LocalFile | None:
        """The local copy; None when the network has to be asked, which `local_only` forbids."""
        repo = repository(self.config)
        try:
            found = find_local(repo, self.uri, needs_path=needs_path)
            self._used(repo)
            return found
        except (BlockNotLocal, DamagedFile) as error:
            self.need_network(error)
            return None

    def _used(self, repo: Repo) -> None:
        """Note that this was used; see `kachery_p2p.repo.inventory`."""
        with contextlib.suppress(RepoError, DiskFull):  # a full disk, or one that is busy, is no reason not to read
            repo.inventory.use(self.uri.root)

    def _named(self, repo: Repo, cid: CID, name: str | None) -> None:
        """Note what is loaded is called: as its URI says, or by the last name of its path."""
        from kachery_p2p.repo.kept_rows import Label

        if name:
            with contextlib.suppress(RepoError, DiskFull):
                repo.inventory.name(cid, Label(name))

    def _asked_for(self, cid: CID) -> None:
        """Note that a file was asked for by itself which was read through a folder before; see `_used`."""
        from kachery_p2p.repo.kept_rows import Label

        repo = repository(self.config)
        if self.uri.path and not repo.read_only:
            with contextlib.suppress(RepoError, DiskFull):
                repo.inventory.loaded_alone(cid, Label(self.uri.name))

    def folder_asked_for(self, root: CID) -> None:
        """Note that a folder was asked for as a whole of which only parts were read before, and all is here by now."""
        repo = repository(self.config)
        if not repo.read_only and repo.inventory.parts.folders(bytes(root.to_v1())):
            with contextlib.suppress(RepoError, DiskFull):
                repo.keep_directory(root)

    def need_network(self, why: Exception) -> None:
        """Go on to the network, unless the caller wants only what is here. A damaged copy is put aside first."""
        if isinstance(why, DamagedFile):
            if self.local_only:
                raise why
            tell(f"The local copy of {self.uri.locator} is damaged or was changed. Loading it again from peers.")
            repo = repository(self.config)
            with contextlib.suppress(BlockNotLocal):  # the directory on the way to it may be what is missing
                repo.quarantine(resolve_local(repo, self.uri))
            return
        if isinstance(why, BlockNotLocal):
            try:
                check_lost(repository(self.config), self.uri, why.cid, thorough=self.local_only)
            except DamagedRepo as error:
                if self.local_only:
                    raise
                # What an interrupted load left is made whole by loading it.
                tell(f"{error} Asking peers for {self.uri.locator}.")
        if self.local_only:
            raise ContentNotFound(
                f"{self.uri.locator} is not on this machine ({self.config.directory}), and only local data was asked "
                "for. Leave out local_only (--local-only) to ask peers for it."
            ) from None

    def wanted(
        self,
        kind: LoadKind,
        *,
        start: int | None = None,
        end: int | None = None,
        part: bool = False,
        follow: bool = True,
    ) -> LoadRequest:
        """What the node is asked for; with `part`, to read it through the folder that the URI begins with.

        Where `follow` is not set, a link at the end of the path is not followed.

        Raises:
            NoPermission: nothing can be loaded into the data directory.
        """
        from kachery_p2p.node.messages import LoadRequest

        repo = repository(self.config)
        part = bool(self.uri.path) and (part or kind == "bytes")
        if (part or (kind in ("file", "bytes", "directory") and not self.uri.path)) and not self._is_named:
            self._named(repo, self.uri.root, self.uri.label)
            self._is_named = True
        if repo.read_only:
            raise NoPermission(
                f"{self.uri.locator} is not whole in {repo.directory}, and that directory can only be read by this "
                "user, so nothing can be loaded into it. Name another one in KACHERY_CLOUD_DIR and load it there."
            )
        return LoadRequest(
            self.uri.root,
            self.uri.path,
            kind,
            start,
            end,
            self.providers,
            self.timeout,
            part,
            self.groups,
            self.config.members_only,
            follow,
        )

    def ask(
        self,
        kind: LoadKind,
        *,
        start: int | None = None,
        end: int | None = None,
        part: bool = False,
        follow: bool = True,
    ) -> LoadResult:
        """Have the node load it; with a bar where that takes long."""
        from kachery_cloud.node.connection import get_connection

        wanted = self.wanted(kind, start=start, end=end, part=part, follow=follow)
        repo = repository(self.config)
        name = self.uri.name or self.uri.cid
        self.say(f"Loading {self.uri.locator}")
        with progress_bar(f"Loading {name[:40]}", enabled=None if kind in ("file", "directory") else False) as update:
            result = get_connection(self.config).load(wanted, update)
        if kind in ("file", "bytes", "directory"):
            if not wanted.part:
                self._named(repo, result.cid, self.uri.name)
            self._used(repo)
        if result.sources:
            fetched = sum(result.sources.values())
            self.say(f"{fetched:,} bytes in {result.seconds:.1f} s from {_told(result.sources)}")
        return result

    def pieces(self, start: int | None, end: int | None, *, stream: bool = False) -> Iterator[bytes]:
        """The bytes of a slice, in order, in pieces of at most `_PIECE`."""
        found = self.local()
        if found is not None:
            with found.open() as file:
                first, last = range_in(start, end, file.seek(0, os.SEEK_END))
                yield from _read(file, first, last, self.uri.locator)
            return
        if (start is not None and start < 0) or (end is not None and end < 0):
            size = self.ask("bytes", start=0, end=0).size or 0
            at, end = range_in(start, end, size)
        else:
            # The size is not known before the first answer; the slice may then reach beyond the end.
            at = min(start or 0, _MAX_OFFSET)
            end = None if end is None else max(at, min(end, _MAX_OFFSET))
        # Each window is one request: what it fetched is read from the (partial) file before the next is asked for.
        window = _FIRST_WINDOW if stream else None
        while True:
            until = end if window is None else at + window if end is None else min(at + window, end)
            result = self.ask("bytes", start=at, end=until)
            size = result.size or 0
            at, stop = range_in(at, end, size)
            until = stop if until is None else min(until, stop)
            with self._open_result(result) as file:
                yield from _read(file, at, until, self.uri.locator)
            at = until
            if at >= stop:
                return
            window = min(2 * (window or _FIRST_WINDOW), _LARGEST_WINDOW)

    def _open_result(self, result: LoadResult) -> BufferedIOBase:
        try:
            return open(_path_of(result), "rb")
        except FileNotFoundError:
            # Another request finished the file meanwhile, so it is no longer a partial one.
            whole = repository(self.config).find_file(result.cid)
            if whole is None:
                raise
            return open(whole, "rb")

    def entries(self) -> list[HamtEntry]:
        """The entries of the directory, after its blocks were fetched if they are not here."""
        repo = repository(self.config)
        try:
            return list_local(repo, resolve_local(repo, self.uri))
        except BlockNotLocal as error:
            self.need_network(error)
        self.ask("listing")
        return list_local(repo, resolve_local(repo, self.uri))

    def info(self) -> dict[str, Any]:
        """See `kachery_cloud.load.load_file_info`."""
        repo = repository(self.config)
        try:
            found = find_local(repo, self.uri, needs_path=True)
            return self._info(found.cid, found.size, self._destination(repo), path=str(found.path), local=True)
        except IsADirectory:
            cid = resolve_local(repo, self.uri)
            size, stated = self._folder_size(repo, cid)
            here = self.all_here(cid)
            return self._info(cid, size, self._destination(repo), directory=True, dag_size=stated, local=here)
        except (BlockNotLocal, DamagedFile) as error:
            self.need_network(error)
        result = self.ask("info")
        size, stated = result.size, result.dag_size
        if stated is not None:  # of a folder; what is in it may be here, though its first block is not
            size = Sizes(repo).folder(result.cid)
        return self._info(
            result.cid,
            size,
            result.destination,
            directory=result.size is None,
            dag_size=stated,
            sources=result.sources,
        )

    def _destination(self, repo: Repo) -> str | None:
        """What the last name of the path points to, if it is a link; all on the way is here."""
        return resolve_here(repo, self.uri).destination

    def _folder_size(self, repo: Repo, cid: CID) -> tuple[int | None, int | None]:
        """Bytes of all files in a folder whose first block is here; and of all blocks, as that states them."""
        from kachery_p2p.dag.nodes import dag_size

        root = repo.inventory.get(cid)
        size = root.size if root is not None and root.whole and not root.problem else Sizes(repo).folder(cid)
        block = repo.get_block(cid.multihash)
        return size, None if block is None else dag_size(cid, block)

    def look(self) -> LoadResult:
        """What the URI leads to, as the node has it for "info"; a link at its end is not followed."""
        return self.ask("info", follow=False)

    def _info(
        self,
        cid: CID,
        size: int | None,
        destination: str | None = None,
        *,
        directory: bool = False,
        dag_size: int | None = None,
        path: str | None = None,
        local: bool = False,
        sources: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        from kachery_cloud.audiences import audience_of_uri, uri_groups
        from kachery_cloud.inventory import about

        groups = self.uri.groups or uri_groups(audience_of_uri(self.config, self.uri))
        return {
            "uri": str(replace(self.uri, groups=groups)),
            "cid": str(cid),
            "kind": "directory" if directory else "file",
            "size": size,
            "dag_size": dag_size,
            "destination": destination,
            "label": self.uri.label,
            "sources": dict(sources or {}),
            "local": local,
            "path": path,
            "shared": self._shared(cid),
            **about(self.config, cid),
        }

    def _shared(self, cid: CID) -> str | None:
        """The data directory of others that alone has something here."""
        shared = repository(self.config).only_beneath(cid)
        return None if shared is None else str(shared)

    def all_here(self, cid: CID) -> bool:
        """Whether a directory and everything below it is here."""
        repo = repository(self.config)
        waiting = [cid]
        seen: set[bytes] = set()
        while waiting:
            folder = waiting.pop()
            try:
                for entry in list_local(repo, folder):
                    if entry.cid.multihash in seen:
                        continue
                    seen.add(entry.cid.multihash)
                    if is_local_directory(repo, entry.cid):
                        waiting.append(entry.cid)
                    elif (
                        repo.file_size(entry.cid) is None
                        and repo.get_block(entry.cid.multihash) is None
                        and not finished(repo, entry.cid)
                    ):
                        return False
            except (BlockNotLocal, DamagedFile):
                return False
        return True

    def say(self, text: str) -> None:
        """Tell the user, who asked for that."""
        if self.verbose:
            tell(text)


def _read(file: BufferedIOBase, start: int, end: int, name: str) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left > 0:
        piece = file.read(min(_PIECE, left))
        if not piece:
            raise DamagedFile(f"The local copy of {name} became shorter while it was read.")
        left -= len(piece)
        yield piece


def _path_of(result: LoadResult) -> Path:
    assert result.path is not None, "bytes that were loaded are in a file"
    return Path(result.path)


def _told(sources: Mapping[str, int]) -> str:
    """Who sent how much; the most first."""
    if len(sources) == 1:
        return next(iter(sources))
    return ", ".join(f"{name} ({size:,})" for name, size in sorted(sources.items(), key=lambda item: -item[1]))
