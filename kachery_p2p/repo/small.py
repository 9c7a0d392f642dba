"""Files that are one block: one alone, or thousands at a time.

Those of some KiB go into a pack (packing.py), many with one sync, and become files of their own when somebody asks for
their path. Each larger one costs two commits of the file system, one for its bytes and one for its name; in a batch
many wait for the same commit, and their rows go into one transaction.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from kachery_p2p.repo.limits import PACKED_BYTES, SYNC_THREADS
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.repo.packing import PackedFile
from kachery_p2p.repo.packs import can_be_packed
from kachery_p2p.repo.placing import Placer, wrap_of
from kachery_p2p.wire import Buffer


class Stored(NamedTuple):
    """What was stored or linked.

    Attributes:
        cid: its root.
        size: in bytes.
        path: where its bytes are. `Repo.find_file` brings a small value there when it is first asked for it.
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
    """Keeps small files, and gives them out."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._packs = placer.reader.packs

    def keep(self, files: Sequence[SmallFile], *, packed: bool, how: int = 0) -> list[Stored]:
        """Keep files, durably, in one transaction for many. What is here already stays.

        Args:
            files: the files.
            packed: put those of some KiB into a pack; else each becomes a file of its own.
            how: of what is put into a pack now: how the user asked for it by itself; see inventory.py.
        """
        paths = self.add(files, packed=packed, how=how)
        stored: list[Stored] = []
        for cid, data, wrap, _ in files:
            path = paths.get(cid) or self._placer.layout.path_for(cid)
            stored.append(Stored(cid, len(data), path, block_size(wrap, len(data))))
        return stored

    def add(self, files: Sequence[SmallFile], *, packed: bool, how: int = 0) -> dict[CID, Path]:
        """The same. Returns the paths of those that are files of their own, not packed."""
        paths: dict[CID, Path] = {}
        fresh = {file.cid: file for file in files}
        met = self._placer.root_sizes(list(fresh))
        for cid in [cid for cid in fresh if bytes(cid.to_v1()) in met]:
            known = self._placer.own_copy(cid)
            if known is not None:
                paths[cid] = known[0]
                del fresh[cid]
        if packed:
            small = [file for file in fresh.values() if len(file.data) <= PACKED_BYTES and can_be_packed(file.cid)]
            self._pack(small, met, how)
            for file in small:
                del fresh[file.cid]
        self._keep_plain(fresh, paths)
        return paths

    def unpack(self, cid: CID) -> Path | None:
        """The path of a file that is packed; None for one that is not, or whose bytes went bad.

        It is made when it is first asked for: under `ipfs/`, or where nothing may be written there, in a folder of this
        user's own.
        """
        place = self._packs.file(cid)
        data = None if place is None else self._packs.read(cid.multihash, place)
        if place is None or data is None:
            return None
        if self._placer.layout.read_only:
            return copy_for_user(cid, data)
        with self._placer.lock.adding():
            if self._packs.file(cid) is None:
                return None  # it was removed just now
            return self.keep([SmallFile(cid, data, place.wrap, None)], packed=False)[0].path

    def _pack(self, files: list[SmallFile], met: Container[bytes], how: int) -> None:
        """Put into a pack what is in none yet, or has gone bad there; `met` are the keys of roots that are known."""
        places = self._packs.files([file.cid for file in files if bytes(file.cid.to_v1()) in met])
        fresh = []
        for file in files:
            place = places.get(bytes(file.cid.to_v1()))
            if place is None or self._packs.read(file.cid.multihash, place) is None:
                fresh.append(PackedFile(file.cid, file.data, file.wrap, how, self._placer.claim))
        if fresh:
            self._placer.packer.keep(fresh)

    def _keep_plain(self, fresh: dict[CID, SmallFile], paths: dict[CID, Path]) -> None:
        """Make each a file of its own, and note its path."""
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

    def _write(self, file: SmallFile) -> Path:
        path = self._placer.layout.path_for(file.cid)
        if write_unnamed(file.data, path):
            return path
        with NewFile(self._placer.layout.temporary) as new:
            with explained("storing", file.cid):
                write_at(new.fd, file.data, 0)
                sync_fd(new.fd)
            return self._placer.place(new, file.cid)


def copy_for_user(cid: CID, data: bytes) -> Path:
    """A copy of a file for this user alone, outside of the data directory, which cannot be written to.

    Raises:
        DiskFull, NoPermission: there is no room for it, or no folder.
    """
    with explained("making a copy in", tempfile.gettempdir()):
        folder = folder_of_user()
        path = Path(folder, str(cid))
        if not path.is_file() or path.read_bytes() != data:
            with NewFile(Path(folder)) as new:
                write_at(new.fd, data, 0)
                new.move_to(path, sync=False)
    return path


def folder_of_user() -> str:
    """A folder of this user's alone among the temporary ones, for what may not be written into the data directory.

    Raises:
        OSError: it cannot be made.
    """
    folder = os.path.join(tempfile.gettempdir(), f"kachery-cloud-{os.geteuid() if os.name == 'posix' else 'files'}")
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    status = os.lstat(folder)
    ours = os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
    if not stat.S_ISDIR(status.st_mode) or not ours:
        # Somebody else has taken the name.
        folder = tempfile.mkdtemp(prefix="kachery-cloud-")
    return folder


#: Linux: a file that has no name until it is given one, and so needs neither a temporary name nor cleaning up.
_UNNAMED = getattr(os, "O_TMPFILE", 0)
_NOT_HERE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EXDEV, errno.EEXIST}
#: Naming it is making a hard link, which some file systems refuse in these words.
_NO_LINKS = _NOT_HERE | {errno.EPERM, errno.EMLINK}


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
            if error.errno in _NO_LINKS:
                return False
            raise
        finally:
            os.close(fd)
        sync_folder(folder)
    return True
