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
from dataclasses import replace
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, SupportsIndex

from kachery_cloud.arguments import binary_stream, byte_range, check_flags, path_text
from kachery_cloud.errors import DamagedFile, InvalidArgument, KacheryError
from kachery_cloud.files_here import request_for, request_of
from kachery_cloud.local import BlockNotLocal, repository, resolve_local
from kachery_cloud.placing import check_tree_destination, no_folder, place_directory
from kachery_cloud.sizes import Sizes
from kachery_cloud.syncing import Changes, sync_directory
from kachery_cloud.terminal import tell
from kachery_cloud.uri import ContentURI
from kachery_p2p.oserrors import explained
from kachery_p2p.text import shown

if TYPE_CHECKING:
    import numpy as np

    from kachery_cloud.listing import DirTable, FileInfo
    from kachery_cloud.request import Request

#: Symbolic links that are named one by one when they are left out.
_MOST_WARNINGS = 10


def load_file(
    uri: str | os.PathLike[str],
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
        uri: `ipfs://<cid>`, `ipfs://<cid>/<path>`, `/ipfs/<cid>` or a CID, perhaps with `?label=` and `?provider=`; an
            `ipns://` name. Or the path of a file on this machine, which is given back as it is. What comes from
            strangers is checked with `parse_uri` first, which takes no paths.
        dest: where to put a copy of your own. A folder takes it under the last name of the path, else the label, else
            the one under which it is listed on this machine, else the CID. Names may come from whoever made the URI, so
            there no file is ever replaced, and names that are not plain ones (`.bashrc`, `-rf`, `CON`) are refused.
            Without `dest` the path leads into the data directory; that file is shared and read-only. Its path ends in
            the name that the URI gives, too, where it is a plain one.
        overwrite: whether the copy may replace a file that is at `dest`, where that is the whole name of the copy. A
            file with the same bytes is no obstacle in any case.
        local_only: do not use the network.
        verbose: say on stderr where the data comes from.
        providers: multiaddrs of peers to ask, such as "/ip4/192.168.1.20/tcp/4001/p2p/12D3KooW...".
        timeout: seconds without any progress after which to give up; the setting (60) where None.

    Raises:
        ContentNotFound: it is not here (`local_only`), or none of those who were asked has it; names them.
        DamagedFile: the local copy has changed and `local_only` is set. Without it, the data is loaded anew.
        FileExists: something else is at `dest`.
        FileMissing: it is neither a URI nor a file on this machine.
        InvalidName: the URI may not choose the name of the copy.
        KacheryError: InvalidURI, InvalidCID, UnsupportedCID, InvalidAddress, PathNotFound, IsADirectory, DiskFull ...

    Example:
        >>> path = kcl.load_file("ipfs://bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5ga")
    """
    check_flags(overwrite=overwrite)
    request = request_for(uri, local_only=local_only, verbose=verbose, providers=providers, timeout=timeout)
    # Looked at first, so that a mistake in it shows before anything is loaded.
    destination = None if dest is None else _file_destination(dest, request)
    if destination is None:
        return request.named(request.file())
    target, named = destination
    request.copy_to(target, replace=overwrite and named)
    return str(target)


def load_text(
    uri: str | os.PathLike[str],
    *,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> str:
    """Load text in UTF-8.

    Raises:
        FormatError: it is no text in UTF-8; and what `load_file` raises.

    Example:
        >>> kcl.load_text("ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu")
        'example text'
    """
    from kachery_cloud.formats.values import text_from_bytes

    file, name = _open(uri, local_only, providers, timeout)
    with file:
        return text_from_bytes(file.read(), name)


def load_json(
    uri: str | os.PathLike[str],
    *,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> Any:
    """Load JSON.

    Raises:
        FormatError: it is no JSON; and what `load_file` raises.

    Example:
        >>> kcl.load_json("ipfs://bafkreig3edwqihmsm2o7kts6v4cpvtfs66olgonclogykndsu4v7ordox4")
        {'example': 'dict'}
    """
    from kachery_cloud.formats.values import json_from_bytes

    file, name = _open(uri, local_only, providers, timeout)
    with file:
        return json_from_bytes(file.read(), name)


def load_npy(
    uri: str | os.PathLike[str],
    *,
    mmap_mode: Literal["r", "c"] | None = None,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> np.ndarray[Any, Any]:
    """Load a numpy array. Never unpickles.

    `open_npy` reads parts of an array without loading the file.

    Args:
        uri: as for `load_file`.
        mmap_mode: for an array that is larger than memory: "r" gives one that is read from the file as it is used, "c"
            one whose changes stay in memory. None reads all of it.
        local_only: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`.

    Raises:
        FormatError: it is no npy file; and what `load_file` raises.
        InvalidArgument: another mmap_mode: the file of a URI never changes.
    """
    from kachery_cloud.formats.values import map_npy, read_npy

    if mmap_mode is not None and not (isinstance(mmap_mode, str) and mmap_mode in ("r", "c")):
        raise InvalidArgument(
            f"mmap_mode is {shown(mmap_mode)}; it must be 'r', 'c' or None, for what has a URI never changes."
        )
    if mmap_mode is not None:
        request = request_for(uri, local_only=local_only, providers=providers, timeout=timeout)
        return map_npy(request.file(), mmap_mode, request.uri.locator)
    file, name = _open(uri, local_only, providers, timeout)
    with file:
        return read_npy(file, name)


def load_pkl(
    uri: str | os.PathLike[str],
    *,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> Any:
    """Load a pickle of plain data: what `store_pkl` writes, and older kachery-cloud pickles.

    It never runs code, wherever the file is from: only types on a fixed list are read (see
    `kachery_cloud.formats.unpickling`).

    Raises:
        UnsafePickle: the pickle asks for anything else; names it.
        FormatError: no pickle at all; and what `load_file` raises.
    """
    from kachery_cloud.formats.unpickling import load_pickle

    file, name = _open(uri, local_only, providers, timeout)
    try:
        with file, _mapped(file) as data:
            return load_pickle(data)
    except KacheryError as error:
        raise type(error)(f"{name}: {error}") from error.__cause__


def load_bytes(
    uri: str | os.PathLike[str],
    start: SupportsIndex | None = None,
    end: SupportsIndex | None = None,
    *,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
    write_to_stdout: bool = False,
) -> bytes:
    """Bytes `start` to `end` (exclusive) of a file. Only the blocks that hold them are fetched.

    A block is fetched whole: by default 1 MiB for a few bytes. Data that is read so is better stored with the profile
    "random-16k".

    Args:
        uri: as for `load_file`.
        start: the first byte, as in a slice: counted from the end where negative, the beginning where None.
        end: one past the last byte, as in a slice. Beyond the end of the file there are no bytes.
        local_only: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`.
        write_to_stdout: accepted for older scripts: write them to standard output, as `cat_file` does, and return none.

    Raises:
        InvalidRange: no whole number; and what `load_file` raises.

    Example:
        >>> kcl.load_bytes(uri, 1_000_000, 1_000_016)
        >>> footer = kcl.load_bytes(uri, -8)
    """
    check_flags(write_to_stdout=write_to_stdout)
    if write_to_stdout:
        cat_file(uri, start=start, end=end, local_only=local_only, providers=providers, timeout=timeout)
        return b""
    first, last = byte_range(start, end)
    request = request_for(uri, local_only=local_only, providers=providers, timeout=timeout)
    return b"".join(request.pieces(first, last))


def cat_file(
    uri: str | os.PathLike[str],
    out: BinaryIO | None = None,
    *,
    start: SupportsIndex | None = None,
    end: SupportsIndex | None = None,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> None:
    """Write a file, of any size, to a binary stream.

    The first bytes come as soon as they are here. Memory does not grow with the file.

    Args:
        uri: as for `load_file`.
        out: the stream; standard output where None.
        start: as for `load_bytes`.
        end: as for `load_bytes`.
        local_only: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`.

    Raises:
        InvalidArgument: `out` takes no bytes; and what `load_bytes` raises.

    Example:
        >>> with open("copy.bin", "wb") as file:
        ...     kcl.cat_file(uri, file)
    """
    first, last = byte_range(start, end)
    stream = binary_stream(out)
    request = request_for(uri, local_only=local_only, providers=providers, timeout=timeout)
    for piece in request.pieces(first, last, stream=True):
        stream.write(piece)
    stream.flush()


class LoadedFolder(str):
    """The path of a folder that `load_dir` made or brought up to date; a str, with what was done.

    Attributes:
        written: how many files and symbolic links were written.
        removed: what was deleted, as paths in the folder.
        skipped: the symbolic links that were left out because they may lead out of the folder, as paths in it.
    """

    written: int
    removed: tuple[str, ...]
    skipped: tuple[str, ...]


def load_dir(
    uri: str,
    dest: str | os.PathLike[str],
    *,
    overwrite: bool = True,
    delete: bool = False,
    local_only: bool = False,
    verbose: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> LoadedFolder:
    """Load a directory with all that is in it, and return the path of the folder.

    Where `dest` is not there, or empty, it appears when everything is there. Where it has something in it, it is
    brought up to date: only what differs is written, each file as a whole; what is in it and not in the directory
    stays, unless `delete` is set.

    Args:
        uri: as for `load_file`, of a directory.
        dest: the folder.
        overwrite: whether files in `dest` that differ are replaced. If not, and there is one, nothing is written.
        delete: whether what is in `dest` and not in the directory is deleted.
        local_only: as for `load_file`.
        verbose: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`.

    Returns:
        Its path, as text that also has `written`, `removed` and `skipped`.

    Raises:
        NotADirectory: the URI names a file.
        InvalidName: a name in it would leave `dest`, or has control characters; nothing is written then. Hidden files,
            such as `.zattrs`, are made as they were stored. Symbolic links that may lead out of it are left out, with a
            warning.
        FileExists: something else than a folder is at `dest`; it is your home directory; files would be replaced
            without `overwrite`; a folder would have to go without `delete`; and what `load_file` raises.

    Example:
        >>> kcl.load_dir(uri, "experiment-copy")
    """
    check_flags(overwrite=overwrite, delete=delete)
    request = request_of(uri, local_only=local_only, verbose=verbose, providers=providers, timeout=timeout)
    target = _absolute(dest)
    check_tree_destination(target)
    repo = repository(request.config)

    decoding = None
    if request.uri.encryption is not None:
        from kachery_cloud.encrypted_request import Decryption

        decoding = Decryption(request)

    def place() -> Changes:
        root = resolve_local(repo, request.uri)
        if check_tree_destination(target):
            changes = sync_directory(repo, root, target, overwrite=overwrite, delete=delete, decoding=decoding)
            request.folder_asked_for(root)
            return changes
        tree = place_directory(repo, root, target, decoding)
        request.folder_asked_for(root)
        skipped = [(str(where), to) for where, to in tree.skipped]
        return Changes(len(tree.files) + len(tree.links), skipped=skipped)

    try:
        changes = place()
    except (BlockNotLocal, DamagedFile) as error:
        request.need_network(error)
        # The node brings everything into the data directory; the tree is made here, with this process's rights.
        request.ask("directory")
        changes = place()
    for where, to in changes.skipped[:_MOST_WARNINGS]:
        tell(f"Warning: the symbolic link {where!r} points to {to!r}, which may be outside of the folder: left out.")
    if len(changes.skipped) > _MOST_WARNINGS:
        tell(f"Warning: {len(changes.skipped) - _MOST_WARNINGS:,} more symbolic links were left out.")
    loaded = LoadedFolder(target)
    loaded.written, loaded.removed = changes.written, tuple(changes.removed)
    loaded.skipped = tuple(where for where, _ in changes.skipped)
    return loaded


def list_dir(
    uri: str, *, local_only: bool = False, providers: Sequence[str] = (), timeout: float | None = None
) -> DirTable:
    """What is in a directory. Only the directory itself is fetched.

    Args:
        uri: as for `load_file`, of a directory.
        local_only: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`.

    Returns:
        A list of `DirEntry`, which shows itself as a table in notebooks, and has `to_dataframe()`.

    Raises:
        NotADirectory: the URI names a file; and what `load_file` raises.

    Example:
        >>> [entry.name for entry in kcl.list_dir(uri)]
        ['notes', 'session.nwb']
    """
    request = request_of(uri, local_only=local_only, providers=providers, timeout=timeout)
    return listed(request, Sizes(repository(request.config)))


def listed(request: Request, sizes: Sizes) -> DirTable:
    """What is in the directory that a request names; see `list_dir`."""
    from kachery_cloud.listing import DirEntry, DirTable

    entries = request.entries()
    parent = request.uri
    top = ContentURI(parent.cid, groups=parent.groups, encryption=parent.encryption)
    found = sizes.of([(entry.cid, entry.tsize) for entry in entries])
    return DirTable(
        DirEntry(
            name=entry.name,
            cid=str(entry.cid),
            uri=replace(top, path=(*parent.path, entry.name)).source,
            # What is here of something encrypted is its cipher text.
            size=None if parent.encryption and each.kind != "link" else each.size,
            dag_size=entry.tsize,
            kind=each.kind,
            destination=each.destination,
        )
        for entry, each in zip(entries, found, strict=True)
    )


def load_file_info(
    uri: str | os.PathLike[str],
    *,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> FileInfo:
    """What is known of a file or directory without loading it.

    Args:
        uri: as for `load_file`.
        local_only: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`.

    Returns:
        Its size, whether it is here, and where; of what `list` shows, also what that says. It is a dict of the same,
        too, and shows itself as a table in notebooks.

    Raises:
        KacheryError: what `load_file` raises.

    Example:
        >>> kcl.load_file_info(uri).size
        200000128
    """
    from kachery_cloud.listing import FileInfo

    return FileInfo(request_for(uri, local_only=local_only, providers=providers, timeout=timeout).info())


# --- parts -------------------------------------------------------------------------------------------------------


def _open(
    uri: str | os.PathLike[str], local_only: bool, providers: Sequence[str], timeout: float | None
) -> tuple[BufferedIOBase, str]:
    request = request_for(uri, local_only=local_only, providers=providers, timeout=timeout)
    return request.open(), request.uri.locator


@contextlib.contextmanager
def _mapped(file: BufferedIOBase) -> Iterator[memoryview]:
    """The whole content of a file, read only as it is used."""
    import mmap

    if isinstance(file, BytesIO):
        yield memoryview(file.read())
        return
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


def _file_destination(dest: str | os.PathLike[str], request: Request) -> tuple[Path, bool]:
    """Where the copy goes, and whether the user named all of that; else the last part comes from the URI."""
    target = _absolute(dest)
    into_folder = os.fspath(dest).endswith(("/", os.sep))
    with explained("looking at", target):
        if target.is_dir():
            return target / request.file_name(), False
        parent_is_there = target.parent.is_dir()
    if into_folder or not parent_is_there:
        raise no_folder(target if into_folder else target.parent)
    return target, True
