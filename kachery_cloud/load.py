"""Loading: a URI becomes a path, a value, or bytes.

What is here already needs no network and starts nothing. Anything else is asked of the node of the data directory,
which fetches what is missing. It asks the peers that the URI names (`?provider=`), those that the call names
(`providers`), those of the settings and those that are connected, and looks for more: in its address book, on the local
network (mDNS and a DHT), in the public DHT and at HTTP routers. HTTP gateways bring what no peer delivers in time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, SupportsIndex

from kachery_cloud.arguments import binary_stream, byte_range, check_flags, check_range, path_text
from kachery_cloud.errors import ContentNotFound, DamagedFile, FileMissing, IsADirectory, KacheryError, NoPermission
from kachery_cloud.formats.values import json_from_bytes, read_npy, text_from_bytes
from kachery_cloud.local import BlockNotLocal, find_local, is_local_directory, list_local, repository, resolve_local
from kachery_cloud.placing import check_tree_destination, copy_into_place, place_directory
from kachery_cloud.progress import progress_bar
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.values import parse_timeout
from kachery_cloud.terminal import tell
from kachery_cloud.uri import ContentURI, check_peer_addresses, parse_uri
from kachery_p2p.oserrors import explained

if TYPE_CHECKING:
    import numpy as np

    from kachery_cloud.settings.config import Config

# Bytes that `cat_file` asks for at a time: little at first, so that output begins at once, then enough to keep several
# peers busy. What is fetched lies on disk, so the memory used is that of one piece.
_FIRST_WINDOW = 1 << 20
_LARGEST_WINDOW = 64 << 20
_PIECE = 1 << 20


def load_file(
    uri: str,
    *,
    dest: str | os.PathLike[str] | None = None,
    overwrite: bool = True,
    local_only: bool = False,
    verbose: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> str:
    """Load a file and return the path of a local copy.

    Args:
        uri: `ipfs://<cid>`, `ipfs://<cid>/<path>`, `/ipfs/<cid>` or a CID, perhaps with `?label=` and `?provider=`.
        dest: where to put a copy of your own. A folder takes it under the last name of the path, else the label, else
            the CID; these come from whoever made the URI, so there no file is ever replaced, and names that are not
            plain ones (`.bashrc`, `-rf`, `CON`) are refused. Without `dest` the path leads into the data directory;
            that file is shared and read-only.
        overwrite: whether the copy may replace a file that is at `dest`, where that is the whole name of the copy. A
            file with the same bytes is no obstacle in any case.
        local_only: do not use the network.
        verbose: say on stderr where the data comes from.
        providers: multiaddrs of peers to ask, such as "/ip4/192.168.1.20/tcp/4001/p2p/12D3KooW...".
        timeout: seconds without any progress after which to give up; the setting (60) where None.

    Raises:
        ContentNotFound: it is not here (`local_only`), or nobody who was asked has it; says who that was.
        DamagedFile: the local copy has changed and `local_only` is set. Without it, the data is loaded anew.
        FileExists: something else is at `dest`. InvalidName: the URI may not choose the name of the copy.
        InvalidURI, InvalidCID, UnsupportedCID, InvalidAddress, PathNotFound, IsADirectory, DiskFull ...

    Example:
        >>> path = kcl.load_file("ipfs://bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5ga")
    """
    check_flags(overwrite=overwrite)
    request = _Request(uri, local_only=local_only, verbose=verbose, providers=providers, timeout=timeout)
    # Looked at first, so that a mistake in it shows before anything is loaded.
    destination = None if dest is None else _file_destination(dest, request.uri)
    path = request.file()
    if destination is None:
        return str(path)
    target, named = destination
    copy_into_place(path, target, replace=overwrite and named)
    return str(target)


def load_text(
    uri: str, *, local_only: bool = False, providers: Sequence[str] = (), timeout: float | None = None
) -> str:
    """Load text in UTF-8. Raises FormatError where it is not, and what `load_file` raises.

    Example:
        >>> kcl.load_text("ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu")
        'example text'
    """
    path, name = _path(uri, local_only, providers, timeout)
    return text_from_bytes(path.read_bytes(), name)


def load_json(
    uri: str, *, local_only: bool = False, providers: Sequence[str] = (), timeout: float | None = None
) -> Any:
    """Load JSON. Raises FormatError where it is not, and what `load_file` raises.

    Example:
        >>> kcl.load_json("ipfs://bafkreig3edwqihmsm2o7kts6v4cpvtfs66olgonclogykndsu4v7ordox4")
        {'example': 'dict'}
    """
    path, name = _path(uri, local_only, providers, timeout)
    return json_from_bytes(path.read_bytes(), name)


def load_npy(
    uri: str, *, local_only: bool = False, providers: Sequence[str] = (), timeout: float | None = None
) -> np.ndarray[Any, Any]:
    """Load a numpy array into memory. Never unpickles.

    For an array larger than memory: `numpy.load(kcl.load_file(uri), mmap_mode="r")`.

    Raises FormatError where it is no npy file, and what `load_file` raises.
    """
    path, name = _path(uri, local_only, providers, timeout)
    return read_npy(path, name)


def load_pkl(uri: str, *, local_only: bool = False, providers: Sequence[str] = (), timeout: float | None = None) -> Any:
    """Load a pickle of plain data: what `store_pkl` writes, and older kachery-cloud pickles.

    It never runs code, whoever made the file: only types on a fixed list are read (see
    `kachery_cloud.formats.unpickling`).

    Raises:
        UnsafePickle: the pickle asks for anything else; names it.
        FormatError: no pickle at all; and what `load_file` raises.
    """
    from kachery_cloud.formats.unpickling import load_pickle

    path, name = _path(uri, local_only, providers, timeout)
    try:
        with open(path, "rb") as file, _mapped(file) as data:
            return load_pickle(data)
    except KacheryError as exc:
        raise type(exc)(f"{name}: {exc}") from exc.__cause__


def load_bytes(
    uri: str,
    start: SupportsIndex | None = None,
    end: SupportsIndex | None = None,
    *,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> bytes:
    """Bytes `start` to `end` (exclusive) of a file. Only the blocks that hold them are fetched.

    Args:
        start: the first byte; the beginning where None.
        end: one past the last byte; the end of the file where None.

    Raises:
        InvalidRange: negative, reversed, or beyond the end of the file; and what `load_file` raises.

    Example:
        >>> kcl.load_bytes(uri, 1_000_000, 1_000_016)
    """
    first, last = byte_range(start, end)
    request = _Request(uri, local_only=local_only, providers=providers, timeout=timeout)
    return b"".join(request.pieces(first, last))


def cat_file(
    uri: str,
    out: BinaryIO | None = None,
    *,
    start: SupportsIndex | None = None,
    end: SupportsIndex | None = None,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> None:
    """Write a file, of any size, to a binary stream (standard output where `out` is None).

    The first bytes come as soon as they are here. Memory does not grow with the file.

    Args:
        start, end: as for `load_bytes`.

    Raises:
        InvalidArgument: `out` takes no bytes; and what `load_bytes` raises.

    Example:
        >>> with open("copy.bin", "wb") as file:
        ...     kcl.cat_file(uri, file)
    """
    first, last = byte_range(start, end)
    stream = binary_stream(out)
    request = _Request(uri, local_only=local_only, providers=providers, timeout=timeout)
    for piece in request.pieces(first, last, stream=True):
        stream.write(piece)
    stream.flush()


def load_dir(
    uri: str,
    dest: str | os.PathLike[str],
    *,
    local_only: bool = False,
    verbose: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> str:
    """Load a directory with all that is in it, and return the path of the folder made.

    Args:
        dest: the folder to make. It must not exist, or be empty. It appears when everything is there.

    Raises:
        NotADirectory: the URI names a file.
        InvalidName: a name or a symbolic link in it would leave `dest`, or has control characters; nothing is written
            then. Hidden files, such as `.zattrs`, are made as they were stored.
        FileExists: `dest` is not empty; and what `load_file` raises.
    """
    request = _Request(uri, local_only=local_only, verbose=verbose, providers=providers, timeout=timeout)
    target = _absolute(dest)
    check_tree_destination(target)
    repo = repository(request.config)
    try:
        place_directory(repo, resolve_local(repo, request.uri), target)
    except (BlockNotLocal, DamagedFile) as exc:
        request.need_network(exc)
        # The node brings everything into the data directory; the tree is made here, with this process's rights.
        request.ask("directory")
        place_directory(repo, resolve_local(repo, request.uri), target)
    return str(target)


def list_dir(
    uri: str, *, local_only: bool = False, providers: Sequence[str] = (), timeout: float | None = None
) -> list[dict[str, Any]]:
    """What is in a directory: a list of `{"name", "cid", "uri", "size"}`.

    `size` is what the directory says of all blocks of the entry, a little more than the bytes of the file; None where
    it says nothing.

    Example:
        >>> [entry["name"] for entry in kcl.list_dir(uri)]
        ['notes', 'session.nwb']
    """
    request = _Request(uri, local_only=local_only, providers=providers, timeout=timeout)
    entries = request.entries()
    parent = request.uri
    return [
        {
            "name": entry.name,
            "cid": str(entry.cid),
            "uri": ContentURI(parent.cid, (*parent.path, entry.name)).locator,
            "size": entry.tsize,
        }
        for entry in entries
    ]


def load_file_info(
    uri: str, *, local_only: bool = False, providers: Sequence[str] = (), timeout: float | None = None
) -> dict[str, Any]:
    """What is known of a file or directory without loading it.

    Returns:
        "uri", "cid" (of what the path leads to), "kind" ("file" or "directory"), "size" in bytes (None for a
        directory), "label", "local" (whether all of it is here), "path" (where; None if it is not) and "sources": where
        that was learnt now, as bytes by peer ID or ``gateway:<host>``; nowhere if it was known here.

    Example:
        >>> kcl.load_file_info(uri)["size"]
        200000128
    """
    request = _Request(uri, local_only=local_only, providers=providers, timeout=timeout)
    return request.info()


# --- one request ---------------------------------------------------------------------------------------------------


class _Request:
    """A URI with all that a call said about how to load it."""

    def __init__(
        self,
        uri: str,
        *,
        local_only: bool = False,
        verbose: bool = False,
        providers: Sequence[str] = (),
        timeout: float | None = None,
    ) -> None:
        check_flags(local_only=local_only, verbose=verbose)
        self.uri = parse_uri(uri)
        self.config: Config = load_config()
        self.local_only = local_only
        self.verbose = verbose
        self.timeout = self.config.timeout if timeout is None else parse_timeout(timeout, "The timeout")
        given = check_peer_addresses(providers, "a provider")
        self.providers = tuple(dict.fromkeys((*given, *self.uri.providers)))

    def file(self) -> Path:
        """The whole file, here or fetched."""
        found = self.local_path()
        if found is not None:
            self.say(f"{self.uri.locator} is on this machine already.")
            return found
        return Path(self.ask("file")["path"])

    def local_path(self) -> Path | None:
        """The local copy; None when the network has to be asked, which `local_only` forbids."""
        try:
            return find_local(repository(self.config), self.uri).path
        except (BlockNotLocal, DamagedFile) as exc:
            self.need_network(exc)
            return None

    def need_network(self, why: Exception) -> None:
        """Go on to the network, unless the caller wants only what is here. A damaged copy is put aside first."""
        if isinstance(why, DamagedFile):
            if self.local_only:
                raise why
            tell(f"The local copy of {self.uri.locator} is damaged or was changed. Loading it again from peers.")
            repo = repository(self.config)
            with contextlib.suppress(BlockNotLocal):  # the directory on the way to it may be what is missing
                repo.quarantine(resolve_local(repo, self.uri))
        elif self.local_only:
            raise ContentNotFound(
                f"{self.uri.locator} is not on this machine ({self.config.directory}), and only local data was asked "
                "for. Leave out local_only (--local-only) to ask peers for it."
            ) from None

    def ask(self, kind: str, *, start: int | None = None, end: int | None = None) -> dict[str, Any]:
        """Have the node load it; with a bar where that takes long."""
        from kachery_cloud.node.connection import get_connection

        repo = repository(self.config)
        if repo.read_only:
            raise NoPermission(
                f"{self.uri.locator} is not whole in {repo.directory}, and that directory can only be read by this "
                "user, so nothing can be loaded into it. Name another one in KACHERY_CLOUD_DIR and load it there."
            )
        target = {
            "cid": self.uri.cid,
            "path": list(self.uri.path),
            "providers": list(self.providers),
            "start": start,
            "end": end,
            "kind": kind,
            "timeout": self.timeout,
        }
        name = self.uri.name or self.uri.cid
        self.say(f"Loading {self.uri.locator}")
        with progress_bar(f"Loading {name[:40]}", enabled=None if kind in ("file", "directory") else False) as update:
            result = get_connection(self.config).load(target, update)
        sources = result.get("sources") or {}
        if sources:
            fetched = sum(sources.values())
            self.say(f"{fetched:,} bytes in {result.get('seconds', 0):.1f} s from {_told(sources)}")
        return result

    def pieces(self, start: int, end: int | None, *, stream: bool = False) -> Iterator[bytes]:
        """The bytes of a range, in order, in pieces of at most `_PIECE`."""
        path = self.local_path()
        if path is not None:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                check_range(start, end, size)
                yield from _read(file, start, size if end is None else end, self.uri.locator)
            return
        # Each window is one request: what it fetched is read from the (partial) file before the next is asked for.
        window = _FIRST_WINDOW if stream else None
        at = start
        while True:
            until = end if window is None else at + window if end is None else min(at + window, end)
            # The size is not known before the first answer; a window may then reach beyond the end.
            result = self.ask("bytes", start=at, end=until)
            size = int(result["size"])
            check_range(start, end, size)
            stop = size if end is None else end
            until = stop if until is None else min(until, stop)
            with self._open_result(result) as file:
                yield from _read(file, at, until, self.uri.locator)
            at = until
            if at >= stop:
                return
            window = min(2 * (window or _FIRST_WINDOW), _LARGEST_WINDOW)

    def _open_result(self, result: dict[str, Any]) -> BinaryIO:
        try:
            return open(result["path"], "rb")
        except FileNotFoundError:
            # Another request finished the file meanwhile, so it is no longer a partial one.
            from kachery_p2p.dag.cid import CID

            whole = repository(self.config).find_file(CID.parse(result["cid"]))
            if whole is None:
                raise
            return open(whole, "rb")

    def entries(self) -> list[Any]:
        """The entries of the directory, after its blocks were fetched if they are not here."""
        repo = repository(self.config)
        try:
            return list_local(repo, resolve_local(repo, self.uri))
        except BlockNotLocal as exc:
            self.need_network(exc)
        self.ask("listing")
        return list_local(repo, resolve_local(repo, self.uri))

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "uri": str(self.uri),
            "cid": None,
            "kind": "file",
            "size": None,
            "label": self.uri.label,
            "sources": {},
        }
        repo = repository(self.config)
        try:
            found = find_local(repo, self.uri)
            assert found.path is not None
            return {
                **info,
                "cid": str(found.cid),
                "size": found.path.stat().st_size,
                "local": True,
                "path": str(found.path),
            }
        except IsADirectory:
            cid = resolve_local(repo, self.uri)
            return {**info, "cid": str(cid), "kind": "directory", "local": self._all_here(cid), "path": None}
        except (BlockNotLocal, DamagedFile) as exc:
            self.need_network(exc)
        result = self.ask("info")
        return {
            **info,
            "sources": result.get("sources") or {},
            "cid": result["cid"],
            "kind": "directory" if result["size"] is None else "file",
            "size": result["size"],
            "local": False,
            "path": None,
        }

    def _all_here(self, cid: Any) -> bool:
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
                    elif repo.find_file(entry.cid) is None and repo.get_block(entry.cid.multihash) is None:
                        return False
            except (BlockNotLocal, DamagedFile):
                return False
        return True

    def say(self, text: str) -> None:
        if self.verbose:
            tell(text)


# --- parts -------------------------------------------------------------------------------------------------------


def _path(uri: str, local_only: bool, providers: Sequence[str], timeout: float | None) -> tuple[Path, str]:
    request = _Request(uri, local_only=local_only, providers=providers, timeout=timeout)
    return request.file(), request.uri.locator


def _read(file: BinaryIO, start: int, end: int, name: str) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left > 0:
        piece = file.read(min(_PIECE, left))
        if not piece:
            raise DamagedFile(f"The local copy of {name} became shorter while it was read.")
        left -= len(piece)
        yield piece


def _told(sources: dict[str, int]) -> str:
    """Who sent how much; the most first."""
    if len(sources) == 1:
        return next(iter(sources))
    return ", ".join(f"{name} ({size:,})" for name, size in sorted(sources.items(), key=lambda item: -item[1]))


@contextlib.contextmanager
def _mapped(file: BinaryIO) -> Iterator[memoryview]:
    """The whole content of a file, read only as it is used."""
    import mmap

    if os.fstat(file.fileno()).st_size == 0:
        yield memoryview(b"")
        return
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(mapped)
    try:
        yield view
    finally:
        # Where an error still holds views of the file in its traceback they go with it.
        with contextlib.suppress(BufferError):
            view.release()
            mapped.close()


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path_text(path, "dest"))))


def takes_directory(dest: str | os.PathLike[str] | None) -> bool:
    """Whether `load_dir` could make a folder there."""
    try:
        check_tree_destination(_absolute("" if dest is None else dest))
    except KacheryError:
        return False
    return True


def _file_destination(dest: str | os.PathLike[str], uri: ContentURI) -> tuple[Path, bool]:
    """Where the copy goes, and whether the user named all of that; else the last part is from whoever made the URI."""
    target = _absolute(dest)
    into_folder = os.fspath(dest).endswith(("/", os.sep))
    with explained("looking at", target):
        if target.is_dir():
            return target / uri.file_name, False
        parent_is_there = target.parent.is_dir()
    if into_folder or not parent_is_there:
        folder = target if into_folder else target.parent
        raise FileMissing(f"There is no folder {folder} to put the file into.")
    return target, True
