"""Files that are one block: one alone, or thousands at a time.

Each costs two commits of the file system, one for its bytes and one for its name. In a batch many wait for the same
commit, and their rows go into one transaction.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.dag.builder import leaf_wrap
from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.profiles import Profile
from kachery_p2p.errors import HashMismatch
from kachery_p2p.oserrors import explained
from kachery_p2p.private import open_to_group
from kachery_p2p.repo.catalog import WRAP_NONE
from kachery_p2p.repo.fileio import CLOEXEC, READABLE, sync_fd, sync_folder, write_at
from kachery_p2p.repo.layout import make_folders
from kachery_p2p.repo.leaves import block_size, find_wrap
from kachery_p2p.repo.limits import SYNC_THREADS
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.repo.placing import Placer, wrap_of
from kachery_p2p.wire import Buffer


class Stored(NamedTuple):
    """What was stored or linked.

    Attributes:
        cid: its root.
        size: in bytes.
        path: where its bytes are.
        dag_size: the bytes of all its blocks together, which is what a directory states for it.
    """

    cid: CID
    size: int
    path: Path
    dag_size: int


class SmallFile(NamedTuple):
    """A file in memory that is one block, of a CID that is right."""

    cid: CID
    data: Buffer
    wrap: int
    profile: Profile | None

    @classmethod
    def of(cls, data: Buffer, profile: Profile) -> SmallFile:
        """The file that a profile makes of these bytes, at most one chunk."""
        if profile.raw_leaves:
            return cls(CID(1, RAW, sha256_multihash(data)), data, WRAP_NONE, profile)
        head, tail = leaf_wrap(profile, len(data))
        multihash = sha256_multihash(b"".join((head, data, tail)))
        return cls(CID(profile.cid_version, DAG_PB, multihash), data, wrap_of(profile), profile)

    @classmethod
    def checked(cls, cid: CID, data: Buffer) -> SmallFile:
        """The same for a CID that came from elsewhere.

        Raises:
            HashMismatch: the bytes are not those of it.
        """
        wrap = find_wrap(cid.multihash, cid.codec, data)
        if wrap is None:
            raise HashMismatch(f"{len(data)} bytes were given for {cid}, but they do not have its hash.")
        return cls(cid, data, wrap, None)


class SmallFiles:
    """Keeps small files."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer

    def keep(self, files: Sequence[SmallFile]) -> list[Stored]:
        """Bring files into their places and into the catalog, in one transaction. What is here already stays."""
        paths: dict[CID, Path] = {}
        fresh: dict[CID, SmallFile] = {}
        for file in files:
            if file.cid not in paths and file.cid not in fresh:
                known = self._placer.own_copy(file.cid)
                if known is not None:
                    paths[file.cid] = known[0]
                else:
                    fresh[file.cid] = file
        if len(fresh) == 1:
            ((cid, file),) = fresh.items()
            paths[cid] = self._write(file)
        elif fresh:
            with ThreadPoolExecutor(min(SYNC_THREADS, len(fresh)), thread_name_prefix="kachery-small") as pool:
                paths.update(zip(fresh, pool.map(self._write, fresh.values()), strict=True))
        if fresh:
            with self._placer.catalog.write() as db:
                for file in fresh.values():
                    self._placer.add_rows(
                        db,
                        file.cid,
                        len(file.data),
                        paths[file.cid],
                        linked=False,
                        profile=file.profile,
                        wrap=lambda leaf, wrap=file.wrap: wrap,
                    )
        return [
            Stored(file.cid, len(file.data), paths[file.cid], block_size(file.wrap, len(file.data))) for file in files
        ]

    def _write(self, file: SmallFile) -> Path:
        path = self._placer.layout.path_for(file.cid)
        if write_unnamed(file.data, path):
            return path
        with NewFile(self._placer.layout.temporary) as new:
            with explained("storing", file.cid):
                write_at(new.fd, file.data, 0)
                sync_fd(new.fd)
            return self._placer.place(new, file.cid)


#: Linux: a file that has no name until it is given one, and so needs neither a temporary name nor cleaning up.
_UNNAMED = getattr(os, "O_TMPFILE", 0)
_NOT_HERE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EXDEV, errno.EEXIST}


def write_unnamed(data: Buffer, path: Path) -> bool:
    """Make the file `path` with `data`, mode 0444, in the write order of the package: data, sync, name, sync.

    False, with nothing done, when something has that name, or the file system has no unnamed files.
    """
    if not _UNNAMED:
        return False
    folder = os.path.dirname(path)
    with explained("storing", path):
        make_folders(folder)
        try:
            fd = os.open(folder, _UNNAMED | os.O_RDWR | CLOEXEC, 0o444)
        except OSError as error:
            if error.errno in _NOT_HERE:
                return False
            raise
        try:
            open_to_group(fd, folder, READABLE)
            write_at(fd, data, 0)
            sync_fd(fd)
            # The only way to name it without privileges; Python follows the link only when it is given a folder.
            open_files = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | CLOEXEC)
            try:
                os.link(str(fd), path, src_dir_fd=open_files, follow_symlinks=True)
            finally:
                os.close(open_files)
        except OSError as error:
            if error.errno in _NOT_HERE:
                return False
            raise
        finally:
            os.close(fd)
        sync_folder(folder)
    return True
