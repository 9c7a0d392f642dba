"""Data carried by hand: files and folders in one CAR file, and back.

A CAR file has the blocks of some files and folders, one after the other (https://ipld.io/specs/transport/car/). It goes
onto a disk that is sent by post, or through `ssh`, and no network is needed on the other side. Kubo, Helia and others
write and read the same: `ipfs dag export`, `ipfs dag import`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kachery_cloud.arguments import binary_stream, check_flags, path_text, text_list
from kachery_cloud.audiences import audience_for, audience_here, stored_uri
from kachery_cloud.car_parts import CarPart, car_part, in_the_way
from kachery_cloud.encryption.leaving import to_export
from kachery_cloud.encryption.records import EncryptedRoots
from kachery_cloud.errors import FileMissing, InvalidArgument, IsADirectory, NoPermission, NotAFile
from kachery_cloud.local import BlockNotLocal, LocalContent, repository, resolve_local
from kachery_cloud.progress import progress_bar
from kachery_cloud.records import Shown
from kachery_cloud.request import Request
from kachery_cloud.settings.config import load_config
from kachery_cloud.terminal import tell
from kachery_cloud.uri import AGE
from kachery_p2p.oserrors import explained

if TYPE_CHECKING:
    from kachery_cloud.audiences import To
    from kachery_cloud.encryption.recipients import Encrypt
    from kachery_cloud.progress import Update
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.load.cars import CarRead, CarWritten
    from kachery_p2p.repo.repo import Repo


@dataclass(frozen=True)
class ExportedCar(Shown):
    """What `export_car` wrote.

    Attributes:
        uris: of the roots, in order.
        path: of the CAR file; None where it went to a stream.
        blocks: how many blocks it has.
        size: of the CAR file, in bytes.
        kept: bytes of it that an export which was interrupted had written.
    """

    uris: tuple[str, ...]
    path: str | None
    blocks: int
    size: int
    kept: int = 0

    sizes = ("size", "kept")


@dataclass(frozen=True)
class ImportedRoot(Shown):
    """A file or folder that `import_car` brought here.

    Attributes:
        uri: of it.
        kind: "file" or "directory".
        size: bytes of a file; None for a directory.
    """

    uri: str
    kind: str
    size: int | None

    sizes = ("size",)


@dataclass(frozen=True)
class ImportedCar(Shown):
    """What `import_car` brought.

    Attributes:
        roots: the files and folders that the CAR file names, in its order. All of each is here.
        blocks: how many blocks the CAR file has.
    """

    roots: tuple[ImportedRoot, ...]
    blocks: int

    @property
    def uris(self) -> list[str]:
        """The URIs of the roots."""
        return [root.uri for root in self.roots]


def export_car(
    uris: str | Sequence[str],
    dest: str | os.PathLike[str] | BinaryIO,
    *,
    overwrite: bool = False,
    encrypt: Encrypt = None,
    plain: bool = False,
    local_only: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> ExportedCar:
    """Write files and folders into one CAR file (version 1), of any size.

    What is not on this machine is loaded first. Each block is written once, depth first, so the same URIs give the same
    bytes everywhere, and the file can be read as it comes. It appears under its name when it is whole. One that was
    interrupted goes on where it was, with the same URIs and the same `dest`: what is there is compared first.

    Args:
        uris: one, or several; each may have a path.
        dest: where the CAR file is to be, or a binary file to write it to.
        overwrite: whether a file that is at `dest` is replaced.
        encrypt: write encrypted copies of what is not encrypted yet, as for `store_file`; those whom it is for can
            decrypt them, too. They are stored here, and have URIs of their own.
        plain: write what is not for everybody as it is.
        local_only: do not use the network: what is not here is an error.
        providers: as for `load_file`.
        timeout: as for `load_file`.

    Raises:
        FileExists: something is at `dest`.
        NoPermission: something is not for everybody, and neither `encrypt` nor `plain` was said.
        ContentNotFound: a part of it is not here (`local_only`), or cannot be loaded.
        KacheryError: what `load_file` raises.

    Example:
        >>> kcl.export_car(uri, "/media/disk/session.car").blocks
        4
    """
    check_flags(overwrite=overwrite, plain=plain, local_only=local_only)
    if plain and encrypt is not None and encrypt is not False:
        raise InvalidArgument("encrypt and plain are opposites. Say one of them.")
    given = text_list([uris] if isinstance(uris, str) else uris, "uris")
    if not given:
        raise InvalidArgument("There is no URI to export.")
    options = {"local_only": local_only, "providers": providers, "timeout": timeout}
    requests = [Request(uri, **options) for uri in given]
    target: Path | None = None
    if hasattr(dest, "write"):
        binary_stream(dest)  # type: ignore[arg-type]
    else:
        target = Path(path_text(dest, "The destination"))
        _check_target(target, overwrite)
    config = requests[0].config
    repo = repository(config)
    roots = to_export(config, [_whole(request) for request in requests], encrypt=encrypt, plain=plain)
    kept = 0
    if target is None:
        written = _write(repo, roots, dest)  # type: ignore[arg-type]
    else:
        from kachery_p2p.dag.car import car_header

        with car_part(target, car_header(roots), replace=overwrite) as part:
            if part.found:
                tell(f"Going on with {target}: the {part.found:,} bytes that are there are compared first.")
            written = _write(repo, roots, part)
            kept = part.kept
    encrypted = EncryptedRoots(repo).all()
    named = tuple(stored_uri(repo, root, None, AGE if str(root.to_v1()) in encrypted else None) for root in roots)
    return ExportedCar(named, None if target is None else str(target), written.blocks, written.size, kept)


def import_car(source: str | os.PathLike[str] | BinaryIO, *, to: To | None = None, local: bool = False) -> ImportedCar:
    """Bring what is in a CAR file (version 1 or 2, of any size) into the data directory.

    It lies there like everything that was loaded: each file once, as a plain file, under its own URI. Each block is
    compared with its hash. An import that was interrupted goes on where it was, and copies nothing again. Needs no
    network.

    What the roots of the CAR file lead to comes; other blocks in it are left. Where some are missing, what is there is
    kept, and loading the URI fetches the rest from peers.

    Args:
        source: the CAR file, or a binary file to read it from.
        to: who may load what comes, as for `store_file`.
        local: only store; do not start the node that serves what came.

    Raises:
        FileMissing, NotAFile: there is no such file.
        MalformedDag: it is no CAR file, is cut short, or names no root.
        HashMismatch: a block has other bytes than its CID says.
        ContentNotFound: the CAR file lacks a block.
        UnsupportedCID: a root is neither a file nor a directory.
        InvalidName: a directory has a name that cannot stand in a folder.
        GroupNotFound: this machine is in no group of that name.
        RepoBusy: another process is loading the same file.
        DiskFull, NoPermission: it cannot be stored; or it is from a group in which this machine may only read, and
            would be for others.

    Example:
        >>> kcl.import_car("/media/disk/session.car").uris
        ['ipfs://bafybeih...']
    """
    check_flags(local=local)
    config = load_config()
    audience = audience_for(config, to)
    repo = repository(config)
    if repo.read_only:
        raise NoPermission(f"{repo.directory} can only be read by this user, so nothing can be imported into it.")
    if audience is not None and audience.everyone and not repo.access.any_restricted():
        audience = None  # all is public as it is
    if hasattr(source, "read"):
        found = _read(config, repo, source, "The CAR file", audience)  # type: ignore[arg-type]
    else:
        path = Path(path_text(source, "The CAR file"))  # type: ignore[arg-type]
        if os.path.isdir(path):
            raise NotAFile(f"{path} is a folder, not a CAR file.")
        with explained("reading", path), open(path, "rb", buffering=0) as file:
            found = _read(config, repo, file, str(path), audience)  # type: ignore[arg-type]
    if not local:
        from kachery_cloud.node.connection import announce_in_background

        for root in found.roots:
            announce_in_background(config, root.cid)
    roots = (
        ImportedRoot(stored_uri(repo, each.cid, None), "directory" if each.size is None else "file", each.size)
        for each in found.roots
    )
    return ImportedCar(tuple(roots), found.blocks)


# --- parts -----------------------------------------------------------------------------------------------------------


def _check_target(target: Path, overwrite: bool) -> None:
    if os.path.isdir(target):
        raise IsADirectory(f"{target} is a folder. Say the whole name of the CAR file: {target / 'FILE.car'}.")
    if not os.path.isdir(target.parent):
        raise FileMissing(f"There is no folder {target.parent} to make {target.name} in.")
    if os.path.lexists(target):
        if not overwrite:
            raise in_the_way(target)
        if not target.is_file():
            raise NotAFile(f"{target} is not a regular file, so it is not replaced. Choose another destination.")


def _whole(request: Request) -> CID:
    """What a URI leads to, after what was missing of it was loaded."""
    repo = repository(request.config)
    try:
        found = request.local()
        if isinstance(found, LocalContent):
            return found.cid
        try:
            return request.ask("file").cid
        except IsADirectory:
            return request.ask("directory").cid
    except IsADirectory:
        cid = resolve_local(repo, request.uri)
        if not request.all_here(cid):
            request.need_network(BlockNotLocal(cid))
            request.ask("directory")
        return cid


def _write(repo: Repo, roots: list[CID], file: BinaryIO | CarPart) -> CarWritten:
    from kachery_p2p.load.cars import write_dags

    with progress_bar("Exporting") as update:
        return write_dags(repo, roots, file.write, progress=update)


def _read(config: Config, repo: Repo, file: BinaryIO, name: str, audience: Audience | None) -> CarRead:
    """Run the import, in a thread: whoever calls may be inside an event loop of its own."""
    import trio

    from kachery_cloud.widening import check
    from kachery_p2p.load.cars import read_car

    async def begun(roots: Sequence[CID]) -> None:
        for root in roots if audience is not None else ():
            own = audience_here(repo, root)
            if audience is not None and not audience <= own:
                check(config, repo, root, audience, lambda own=own, root=root: {root.multihash: own})

    started: concurrent.futures.Future[Callable[[], None]] = concurrent.futures.Future()
    result: concurrent.futures.Future[CarRead] = concurrent.futures.Future()

    async def main(update: Update) -> CarRead | None:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            started.set_result(lambda: token.run_sync_soon(scope.cancel))
            return await read_car(repo, file, name, progress=update, audience=audience, begun=begun)
        return None

    def run(update: Update) -> None:
        try:
            found = trio.run(main, update, strict_exception_groups=True)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            result.set_exception(error)
        else:
            if found is None:
                result.set_exception(KeyboardInterrupt())
            else:
                result.set_result(found)

    with progress_bar("Importing") as update:
        thread = threading.Thread(target=run, args=(update,), name="kachery-import", daemon=True)
        thread.start()
        try:
            return result.result()
        except KeyboardInterrupt:
            with contextlib.suppress(RuntimeError):  # it has just ended
                started.result()()
            thread.join()
            raise
