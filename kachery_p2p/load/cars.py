"""CAR files: what is here written into one, and what is in one brought here.

An import is a load whose only source is the CAR file. So its files come into the repo as all others do: through a
partial file, each leaf to its place, one copy. An import that was ended goes on from there, a CAR file that lacks
blocks leaves what it had, and a later load fetches the rest from peers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import trio

from kachery_p2p.dag.car import car_header, car_section
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, codec_name, known_block
from kachery_p2p.dag.descent import descend, unixfs_links
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.errors import (
    ContentNotFound,
    DialError,
    DiskFull,
    HashMismatch,
    KacheryError,
    MalformedDag,
    NoPermission,
    RepoError,
    UnsupportedCID,
)
from kachery_p2p.load.car_index import BlockIndex
from kachery_p2p.load.car_source import CarSession, CarSource
from kachery_p2p.load.claimed import Claimed
from kachery_p2p.load.directory import DirectoryLoad
from kachery_p2p.load.downloads import Downloads
from kachery_p2p.load.limits import EXPORT_MOST_PENDING
from kachery_p2p.load.load import Load
from kachery_p2p.wire import Buffer

if TYPE_CHECKING:
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.walk import Ref
    from kachery_p2p.load.interfaces import Progress
    from kachery_p2p.repo.download import Download
    from kachery_p2p.repo.repo import Repo


# --- out -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CarWritten:
    """What an export wrote.

    Attributes:
        blocks: how many, each once.
        size: of the CAR file, in bytes.
    """

    blocks: int
    size: int


def write_dags(
    repo: Repo, roots: Sequence[CID], write: Callable[[Buffer], object], *, progress: Progress | None = None
) -> CarWritten:
    """Write a CARv1 with all blocks of some files and directories that are here, depth first, each block once.

    The same roots give the same bytes, on every machine. `progress(done, total)` gets bytes; the total is what the
    DAGs say of themselves.

    Raises:
        ContentNotFound: a block is not here; names it.
        UnsupportedCID: something is neither file nor directory.
        MalformedDag: a DAG makes no sense.
    """
    header = car_header(roots)
    write(header)
    size, blocks = len(header), 0
    with BlockIndex() as sent:

        def read(cid: CID) -> bytes:
            block = repo.get_block(cid.multihash)
            if block is None:
                block = known_block(cid)
            if block is None:
                raise ContentNotFound(f"The block {cid} is not on this machine.")
            return block

        first = [read(root) for root in roots]
        total = sum(map(_claimed_size, roots, first))
        for root, top in zip(roots, first, strict=True):
            found = descend(
                root,
                top,
                links=unixfs_links,
                read=read,
                new=lambda cid: sent.add(cid.multihash),
                most_pending=EXPORT_MOST_PENDING,
            )
            for cid, block in found:
                head = car_section(cid, len(block))
                write(head)
                write(block)
                size += len(head) + len(block)
                blocks += 1
                if progress is not None:
                    progress(min(size, total), total)
    return CarWritten(blocks, size)


def _claimed_size(root: CID, block: bytes) -> int:
    """Bytes of a DAG, as its root says: for a bar, nothing else."""
    links = decode_node(block, root).links if root.codec == DAG_PB else ()
    return len(block) + sum(link.tsize or 0 for link in links)


# --- in --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CarRoot:
    """A root that came.

    Attributes:
        cid: as the CAR file names it.
        size: bytes of the file; None for a directory.
    """

    cid: CID
    size: int | None


@dataclass(frozen=True)
class CarRead:
    """What came of an import.

    Attributes:
        roots: what is here now, in the order of the CAR file.
        blocks: how many blocks the CAR file has.
        size: bytes of these.
    """

    roots: tuple[CarRoot, ...]
    blocks: int
    size: int = 0


class CarLoad(Load):
    """A load from a CAR file."""

    def __init__(self, repo: Repo, downloads: Downloads, source: CarSource, progress: Progress) -> None:
        super().__init__(repo, downloads, CarSession(source), connect=_nobody, timeout=float("inf"), progress=progress)
        self._source = source

    def verified(self, download: Download, leaves: Sequence[Ref], nodes: Sequence[Ref] = ()) -> None:
        """See `Load.verified`. What is in its place need not be kept when it comes through a pipe."""
        super().verified(download, leaves, nodes)
        self._source.used([ref.cid.multihash for ref in leaves])


async def read_car(
    repo: Repo,
    file: BinaryIO,
    name: str,
    *,
    progress: Progress,
    audience: Audience | None = None,
    begun: Callable[[Sequence[CID]], Awaitable[None]] | None = None,
) -> CarRead:
    """Bring what the roots of a CAR file (version 1 or 2) lead to into the repo, whole.

    What no root leads to is left. After an error, the roots that came whole are here, and of the others what had come.

    Args:
        repo: the data directory.
        file: the CAR file, open for reading: a regular file or a pipe.
        name: what it is called, for errors.
        progress: called with (bytes done, bytes in all) of one root after the other.
        audience: for whom it is; None where nobody said: then what is known stays as it is, and the rest is public.
        begun: is told the roots, each once, before anything of them is kept.

    Raises:
        MalformedDag: it is no CAR file, is cut short, names no root, or a DAG in it makes no sense. Its `exit_code`,
            and that of a HashMismatch, is that of wrong input or of damaged data here, as no peer has sent it.
        HashMismatch: a block has other bytes than its CID says.
        ContentNotFound: it lacks a block; names it.
        UnsupportedCID, NotAFile: a root is neither a file nor a directory.
        InvalidName: a directory has a name that cannot stand in a folder.
        DiskFull, NoPermission, RepoError: it cannot be stored.
    """
    downloads = Downloads(repo)
    source = CarSource(file, repo.directory / "tmp", downloads.arriving)
    roots: list[CID] | None = None
    try:
        roots = await _roots(source, name)
        if begun is not None:
            await begun(roots)
        came: list[CarRoot] = []
        failed: list[tuple[CID, KacheryError]] = []
        for root in roots:
            load = CarLoad(repo, downloads, source, progress)
            try:
                came.append(CarRoot(root, await _bring_for(audience, load, repo, root, progress)))
            except (DiskFull, NoPermission, RepoError):
                raise  # which the next root would meet, too
            except KacheryError as error:
                failed.append((root, error))
        if failed:
            raise _failure(name, failed, came)
        try:
            await trio.to_thread.run_sync(source.pass_on)
            while not source.ended:
                await trio.to_thread.run_sync(source.read, abandon_on_cancel=not source.seekable)
                await trio.to_thread.run_sync(source.pass_on)
        except (MalformedDag, UnsupportedCID) as error:
            raise type(error)(
                f"{name}: {error} All that its roots lead to stands before that place, and is on this machine now."
            ) from error
        return CarRead(tuple(came), source.blocks, source.size)
    except (MalformedDag, HashMismatch) as error:
        # No peer has sent it. It is no CAR file, or is damaged.
        error.exit_code = 2 if roots is None else 4
        raise
    finally:
        source.close()


async def _roots(source: CarSource, name: str) -> list[CID]:
    """The roots that the header names, each once.

    Raises:
        MalformedDag: there are none.
    """
    try:
        while source.roots is None:
            await trio.to_thread.run_sync(source.read, abandon_on_cancel=not source.seekable)
            await trio.to_thread.run_sync(source.begin)
    except (MalformedDag, UnsupportedCID) as error:
        raise type(error)(f"{name}: {error} Nothing of it was taken.") from error
    roots = list({root.to_v1(): root for root in source.roots}.values())
    if not roots:
        raise MalformedDag(
            f"{name} names no root, so nobody could find again what is in it. Nothing of it was taken. Export the data "
            "by its CID: kachery-cloud export ipfs://CID FILE.car, or ipfs dag export CID."
        )
    return roots


async def _bring_for(audience: Audience | None, load: CarLoad, repo: Repo, root: CID, progress: Progress) -> int | None:
    """The same as `_bring`, for some where `audience` says so; it is listed from then on, as after every load."""
    async with contextlib.AsyncExitStack() as stack:
        if audience is not None:
            load.claim = await stack.enter_async_context(Claimed(repo.access.claim(audience)))
        size = await _bring(load, repo, root, progress)
        if size is not None:  # of a directory the load of it has said so
            await trio.to_thread.run_sync(repo.inventory.loaded, root, None, load.claim)
        return size


async def _bring(load: CarLoad, repo: Repo, root: CID, progress: Progress) -> int | None:
    """One root; the size of a file, None for a directory."""
    if root.codec not in (RAW, DAG_PB):
        raise UnsupportedCID(f"{root} holds {codec_name(root.codec)} data, and no file or directory.")
    size = await load.size(root)
    if size is None:
        await DirectoryLoad(load, repo, progress).run(root)
        return None
    return (await load.file(root))[1]


def _failure(name: str, failed: Sequence[tuple[CID, KacheryError]], came: Sequence[CarRoot]) -> KacheryError:
    """The first failure, with what came all the same."""
    root, error = failed[0]
    more = f" So it is with {len(failed) - 1} more of its roots." if len(failed) > 1 else ""
    here = f" These are here, whole: {', '.join(f'ipfs://{each.cid}' for each in came[:8])}." if came else ""
    kept = (
        ""
        if isinstance(error, UnsupportedCID)
        else (
            f" What came of ipfs://{root} is kept: import it again from a file that is whole, or load it from peers "
            f"(kachery-cloud-load ipfs://{root}), and only the rest is fetched."
        )
    )
    told = type(error)(f"{name}: {error}{kept}{more}{here}")
    told.__cause__ = error
    return told


async def _nobody(addr: str, addrs: Sequence[str]) -> str:
    raise DialError("A CAR file has no peers.")
