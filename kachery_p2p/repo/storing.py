"""Storing (copying) and linking files.

A file is read once: the bytes that are hashed are the bytes that are written. While later parts are hashed, the system
already writes the earlier ones out. A store that fails leaves nothing behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.dag.builder import BuiltFile, FileBuilder, attributed_leaf
from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.profiles import UNIXFS_V0_2015, UNIXFS_V1_2025, Profile
from kachery_p2p.dag.profiles import profile as named_profile
from kachery_p2p.dag.unixfs import NO_ATTRIBUTES
from kachery_p2p.errors import DiskFull, NotAFile
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.catalog import OK
from kachery_p2p.repo.fileio import (
    Buffer,
    Progress,
    SourceFile,
    Stamp,
    clone_file,
    read_at,
    read_bytes_at,
    sync_fd,
    sync_folder,
    write_at,
)
from kachery_p2p.repo.hashing import FileReader, TooShort, leaf_hashes
from kachery_p2p.repo.layout import make_folders
from kachery_p2p.repo.limits import MIB, PROFILE_SAMPLE, RACY_NS, SMALL_FILE, TWIN_CANDIDATES
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.repo.placing import NodeSpool, Placer, profile_from_text, profile_text, same_bytes, wrap_by_profile
from kachery_p2p.repo.records import LinkRecord
from kachery_p2p.repo.seen import Known, SeenFiles
from kachery_p2p.repo.small import SmallFile, SmallFiles, Stored


class HashedLink(NamedTuple):
    """A file to be linked: its real path, its DAG, its stamp, and when hashing began (ns since 1970)."""

    path: Path
    built: BuiltFile
    stamp: Stamp
    began: int


class Storer:
    """Stores and links single files."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._small = SmallFiles(placer)
        self._layout = placer.layout
        self._catalog = placer.catalog

    def store_file(
        self,
        path: Path,
        which: str | Profile | None,
        progress: Progress | None,
        *,
        rehash: bool = False,
        preserve: bool = False,
    ) -> Stored:
        profile = named_profile(which)
        began = time.time_ns()
        with SourceFile(path, preserve=preserve) as source:
            size = source.stamp.size
            if source.misstated():
                return self._store_stream(source, profile, progress)
            if size <= min(SMALL_FILE, profile.chunk_size) and not preserve:
                # To look it up would take as long as to hash it.
                stored = self.store_small(read_small(source), profile)
                if progress is not None:
                    progress(size, size)
                return stored
            with explained("reading", path):
                real = os.path.realpath(path)
            seen = SeenFiles(self._placer, profile, linked=False, about=about(preserve), rehash=rehash)
            known = seen.find_one(real, source.stamp)
            if known is not None:
                if progress is not None:
                    progress(size, size)
                return self._stored(known, size)
            stored = self._store_without_copy(source, profile, progress) or self._copy(source, profile, progress)
            seen.note_one(real, source.stamp, began, stored.cid, stored.dag_size)
            return stored

    def _copy(self, source: SourceFile, profile: Profile, progress: Progress | None) -> Stored:
        size = source.stamp.size
        with NewFile(self._layout.temporary) as new, NodeSpool(self._layout.temporary) as nodes:
            cloned = clone_file(source.fd, new.fd)
            if not cloned:
                self._check_room(size, source.path)
            with explained("storing", source.path):
                if cloned:
                    # The clone is ours alone, so what is hashed is what is kept.
                    built = self._hash(source, profile, nodes, progress, read_fd=new.fd)
                    if os.fstat(new.fd).st_size != size:
                        raise source.changed()
                else:
                    built = self._hash(source, profile, nodes, progress, copy_to=new.fd)
                source.check()
            return self._keep(new, nodes, built, profile)

    def store_bytes(self, data: Buffer, which: str | Profile | None, *, packed: bool = False, how: int = 0) -> Stored:
        """See Repo.store_bytes, and `SmallFiles.keep` for `packed` and `how`."""
        profile = named_profile(which)
        view = memoryview(data).cast("B")
        if len(view) <= profile.chunk_size:
            return self.store_small(view, profile, packed=packed, how=how)
        begins_alike = SmallFile.of(view[: profile.chunk_size], profile).cid.multihash
        if self._placer.reader.size(begins_alike) is not None:
            builder = FileBuilder(profile)
            for multihash, length in leaf_hashes(lambda at, length: view[at : at + length], len(view), profile):
                builder.add_leaf(multihash, length)
            built = builder.finish()
            known = self._placer.own_copy(built.cid)
            if known is not None:
                return Stored(built.cid, built.size, known[0], built.dag_size)
        self._check_room(len(view), "the data")
        with NewFile(self._layout.temporary) as new, NodeSpool(self._layout.temporary) as nodes:
            builder = FileBuilder(profile, nodes.add)
            with explained("storing", f"{len(view)} bytes"):
                for multihash, length in leaf_hashes(
                    lambda offset, length: view[offset : offset + length], len(view), profile, copy_to=new.fd
                ):
                    builder.add_leaf(multihash, length)
            return self._keep(new, nodes, builder.finish(), profile)

    def store_new(self, new: NewFile, which: str | Profile | None, progress: Progress | None) -> Stored:
        profile = named_profile(which)
        with explained("storing", new.path), NodeSpool(self._layout.temporary) as nodes:
            size = os.fstat(new.fd).st_size
            builder = FileBuilder(profile, nodes.add)
            read = FileReader(new.fd, min(profile.chunk_size, size))
            # The disk is written to while the processors hash.
            with ThreadPoolExecutor(1, thread_name_prefix="kachery-sync") as pool:
                synced = pool.submit(sync_fd, new.fd)
                for multihash, length in leaf_hashes(read, size, profile, progress=progress):
                    builder.add_leaf(multihash, length)
                synced.result()
            built = builder.finish()
            known = self._placer.own_copy(built.cid)
            if known is not None:
                return Stored(built.cid, built.size, known[0], built.dag_size)
            return self._keep(new, nodes, built, profile)

    def store_small(self, data: Buffer, profile: Profile, *, packed: bool = False, how: int = 0) -> Stored:
        """Store bytes that are one block; in a pack, where they are few and that is meant."""
        return self._small.keep([SmallFile.of(data, profile)], packed=packed, how=how)[0]

    def link_file(
        self, path: Path, which: str | Profile | None, progress: Progress | None, *, rehash: bool = False
    ) -> Stored:
        profile = named_profile(which)
        known = None if rehash else self.known_link(path, profile)
        if known is not None:
            if progress is not None:
                progress(known.size, known.size)
            return known
        with NodeSpool(self._layout.temporary) as nodes:
            link = self.hash_link(path, profile, progress, nodes)
            self.record_links([link], profile, nodes)
        built = link.built
        seen = SeenFiles(self._placer, profile, linked=True)
        seen.note_one(str(link.path), link.stamp, link.began, built.cid, built.dag_size)
        return Stored(built.cid, built.size, link.path, built.dag_size)

    def hash_file(self, path: Path, which: str | Profile | None) -> CID:
        """See Repo.hash_file."""
        profile = named_profile(which)
        began = time.time_ns()
        with SourceFile(path) as source, NodeSpool(self._layout.temporary) as nodes:
            with explained("reading", path):
                real = os.path.realpath(path)
            seen = SeenFiles(self._placer, profile, linked=None)
            known = seen.find_one(real, source.stamp)
            if known is not None:
                return known.cid
            built = self._hash(source, profile, nodes, None)
            source.check()
            if not self._catalog.read_only and not source.misstated():
                seen.note_one(real, source.stamp, began, built.cid, built.dag_size)
            return built.cid

    def known_link(self, path: Path, profile: Profile, *, preserve: bool = False) -> Stored | None:
        """What a file is that was linked before, and has not changed since."""
        with explained("linking", path):
            real = os.path.realpath(path)
        with SourceFile(Path(real)) as source:
            seen = SeenFiles(self._placer, profile, linked=True, about=about(preserve))
            known = seen.find_one(real, source.stamp)
        return None if known is None else self._stored(known, source.stamp.size)

    def hash_link(
        self,
        path: Path,
        profile: Profile,
        progress: Progress | None,
        nodes: NodeSpool,
        *,
        preserve: bool = False,
    ) -> HashedLink:
        """Hash a file that is to be linked; its inner nodes go to `nodes`."""
        with explained("linking", path):
            real = Path(os.path.realpath(path))
        settle(real)
        began = time.time_ns()
        with SourceFile(real, preserve=preserve) as source:
            if source.misstated():
                raise NotAFile(
                    f"{path} has other bytes than its size of {source.stamp.size} says, as files have that the system "
                    "makes while they are read. Parts of it cannot be served; store a copy of it instead."
                )
            with NodeSpool(self._layout.temporary) as own:
                built = self._hash(source, profile, own, progress)
                source.check()
                if preserve:
                    # The profile and the bytes alone would not give its root again.
                    self._placer.nodes.keep(built.cid, own)
                nodes.take(own)
            return HashedLink(real, built, source.stamp, began)

    def record_links(self, links: Sequence[HashedLink], profile: Profile, nodes: NodeSpool) -> None:
        """Write links down and commit them, durably: after a loss of power nothing else would tell of them."""
        wrap = wrap_by_profile(profile)
        text = profile_text(profile)
        self._placer.links.keep(
            [
                LinkRecord(built.cid, os.fsdecode(path), text)
                for path, built, _, _ in links
                if path != self._layout.path_for(built.cid) and not self._is_linked(built.cid, path)
            ]
        )
        with self._catalog.write(durable=True) as db:
            self._placer.insert_blocks(db, nodes)
            for path, built, stamp, _ in links:
                own = path == self._layout.path_for(built.cid)
                self._placer.add_rows(
                    db, built.cid, built.size, path, linked=not own, profile=profile, wrap=wrap, stamp=stamp
                )

    # --- inside ------------------------------------------------------------------------------------------------------

    def _stored(self, known: Known, size: int) -> Stored:
        path = self._layout.path_for(known.cid) if known.path is None else Path(os.fsdecode(known.path))
        return Stored(known.cid, size, path, known.dag_size)

    def _is_linked(self, cid: CID, path: Path) -> bool:
        return (
            self._catalog.one(
                "SELECT 1 FROM roots r JOIN files f ON f.root = r.id WHERE r.key = ? AND f.path = ? AND f.linked = 1",
                (bytes(cid.to_v1()), os.fsencode(path)),
            )
            is not None
        )

    def _store_stream(self, source: SourceFile, profile: Profile, progress: Progress | None) -> Stored:
        """Store a file whose size nobody knows before it was read to its end. What was read is what is stored."""
        limit = min(SMALL_FILE, profile.chunk_size)
        pieces = source.stream(MIB)
        head = bytearray()
        for piece in pieces:
            head += piece
            if len(head) > limit:
                break
        else:
            if progress is not None:
                progress(len(head), len(head))
            return self.store_small(head, profile)
        with NewFile(self._layout.temporary) as new:
            done = 0
            for piece in chain([head], pieces):
                with explained("storing", source.path):
                    write_at(new.fd, piece, done)
                done += len(piece)
                if progress is not None:
                    progress(done, done)
            return self.store_new(new, profile, None)

    def _hash(
        self,
        source: SourceFile,
        profile: Profile,
        nodes: NodeSpool,
        progress: Progress | None,
        *,
        read_fd: int | None = None,
        copy_to: int | None = None,
    ) -> BuiltFile:
        size = source.stamp.size
        read = FileReader(source.fd if read_fd is None else read_fd, min(profile.chunk_size, size))
        builder = FileBuilder(profile, nodes.add, source.attributes)
        with explained("reading", source.path):
            try:
                for multihash, length in leaf_hashes(read, size, profile, copy_to=copy_to, progress=progress):
                    builder.add_leaf(multihash, length)
            except TooShort:
                raise source.changed() from None
            built = builder.finish()
            if source.attributes != NO_ATTRIBUTES and built.leaves == 1:
                data = read_bytes_at(source.fd if read_fd is None else read_fd, size, 0)
                if len(data) != size:
                    raise source.changed()
                # That these are the bytes that were written shows when the source is checked.
                built, block = attributed_leaf(profile, data, source.attributes)
                nodes.add(built.cid, block)
        return built

    def _keep(self, new: NewFile, nodes: NodeSpool, built: BuiltFile, profile: Profile) -> Stored:
        """Bring a finished file into its place: its bytes and its inner nodes go to the disk side by side."""
        with explained("storing", new.path):
            if nodes.count:
                with ThreadPoolExecutor(1, thread_name_prefix="kachery-sync") as pool:
                    synced = pool.submit(sync_fd, new.fd)
                    self._placer.nodes.keep(built.cid, nodes)
                    synced.result()
            else:
                sync_fd(new.fd)
        path = self._placer.place(new, built.cid)
        wrap = wrap_by_profile(profile)
        self._placer.record(built.cid, built.size, path, linked=False, profile=profile, wrap=wrap, nodes=nodes)
        return Stored(built.cid, built.size, path, built.dag_size)

    def _begins_like(self, source: SourceFile, profile: Profile) -> list[tuple[Path, str | None]]:
        """Our copies of the same size with the same first block, under this or a usual profile: path and profile."""
        size = source.stamp.size
        texts = self._catalog.all(
            "SELECT DISTINCT profile FROM (SELECT r.profile FROM files f JOIN roots r ON r.id = f.root "
            f"WHERE f.size = ? AND f.linked = 0 AND f.state = {OK} LIMIT ?)",
            (size, PROFILE_SAMPLE),
        )
        if not texts:
            return []
        known = [profile_from_text(text) for (text,) in texts]
        profiles = {profile, UNIXFS_V1_2025, UNIXFS_V0_2015, *(each for each in known if each is not None)}
        with explained("reading", source.path):
            head = read_bytes_at(source.fd, max(each.chunk_size for each in profiles), 0)
        first = [SmallFile.of(head[: each.chunk_size], each).cid.multihash for each in profiles]
        return [
            (Path(os.fsdecode(self._placer.reader.absolute(path, 0))), which)
            for path, which in self._catalog.all(
                "SELECT DISTINCT f.path, r.profile FROM leaves l JOIN files f ON f.id = l.file "
                "JOIN roots r ON r.id = f.root "
                f"WHERE l.multihash IN ({','.join('?' * len(first))}) "
                f"AND f.size = ? AND f.linked = 0 AND f.state = {OK} "
                "ORDER BY r.profile IS NOT ? DESC LIMIT ?",
                (*first, size, profile_text(profile), TWIN_CANDIDATES),
            )
        ]

    def _store_without_copy(self, source: SourceFile, profile: Profile, progress: Progress | None) -> Stored | None:
        """Store without writing the bytes, when they are here already.

        They may be here under this CID, or under that of another profile.

        Returns:
            None when they are not here; that costs a second look only where a copy of this size begins alike.
        """
        alike = self._begins_like(source, profile)
        if not alike:
            return None
        with NodeSpool(self._layout.temporary) as nodes:
            built = self._hash(source, profile, nodes, progress)
            source.check()
            known = self._placer.own_copy(built.cid)
            if known is not None:
                return Stored(built.cid, built.size, known[0], built.dag_size)
            # Under the same profile the same bytes would have had the same CID, but for what else a root may say.
            same = profile_text(profile) if source.attributes == NO_ATTRIBUTES else ""
            others = [path for path, which in alike if which != same]
            twin = next((path for path in others if same_bytes(source.fd, path)), None)
            if twin is None:
                return None
            source.check()
            path = self._layout.path_for(built.cid)
            if nodes.count:
                self._placer.nodes.keep(built.cid, nodes)
            try:
                make_folders(path.parent)
                os.link(twin, path)
                sync_folder(path.parent)
            except OSError:
                # No hard links here, or something is in the way: an ordinary copy deals with both.
                return None
            wrap = wrap_by_profile(profile)
            self._placer.record(built.cid, built.size, path, linked=False, profile=profile, wrap=wrap, nodes=nodes)
        return Stored(built.cid, built.size, path, built.dag_size)

    def _check_room(self, size: int, what: object) -> None:
        """Say so before hours of copying when the disk is too small."""
        room = free_bytes(self._layout.directory)
        if room is not None and room < size:
            raise DiskFull(
                f"Storing {what} needs {size} bytes, and the disk of {self._layout.directory} has {room} left. Free "
                "some space, use a data directory on a larger disk, or link the file instead of storing a copy."
            )


def about(preserve: bool) -> str:
    """What decides CIDs beside the profile, for `SeenFiles`."""
    return "preserve" if preserve else ""


def read_small(source: SourceFile) -> bytes:
    """All bytes of a small file.

    Raises:
        FileChanged: they are not those of one moment.
    """
    with explained("reading", source.path):
        buffer = bytearray(source.stamp.size)
        if read_at(source.fd, memoryview(buffer), 0) != len(buffer):
            raise source.changed()
        source.check()
    return bytes(buffer)


def settle(path: Path) -> None:
    """Wait a moment if the file was changed just now, so that a further change moves its time."""
    try:
        age = time.time_ns() - os.stat(path).st_mtime_ns
    except OSError:
        # Opening it will say what is wrong, in words.
        return
    if age < RACY_NS:
        time.sleep(RACY_NS / 1e9)


def free_bytes(folder: Path) -> int | None:
    """What an ordinary user may still write on the disk of a folder; None when the system does not tell."""
    if not hasattr(os, "statvfs"):
        return None
    with explained("asking for the free space of", folder):
        status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
