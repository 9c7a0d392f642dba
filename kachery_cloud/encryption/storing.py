"""Storing age files: of files, streams and values, of folders, and of what is here already.

Of a folder, the content of each file is encrypted by itself. So one file can be loaded without the others, and a part
of it; names, sizes and the shape of the tree can be read by whoever has the URI. Whoever must hide these, too, stores
one archive (`tar c FOLDER | kachery-cloud-store --encrypt -`).
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from kachery_cloud.arguments import read_piece
from kachery_cloud.encryption.records import EncryptedRoots
from kachery_cloud.encryption.stanzas import X25519Identity
from kachery_cloud.encryption.writing import Sink, Source, encrypt
from kachery_cloud.errors import IsADirectory
from kachery_cloud.local import BlockNotLocal, repository
from kachery_cloud.parts import part_beside
from kachery_cloud.progress import progress_bar
from kachery_cloud.spool import Spool, check_size
from kachery_cloud.terminal import tell
from kachery_p2p.oserrors import explained

if TYPE_CHECKING:
    from kachery_cloud.encryption.recipients import Recipients
    from kachery_cloud.progress import Update
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.profiles import Profile
    from kachery_p2p.repo.packs import PackedFile
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.repo.scanning import Folder, FolderOptions
    from kachery_p2p.repo.small import Stored

#: Plain bytes of a value that are written through memory; more go through a file without a name.
_IN_MEMORY = 8 << 20
_PIECE = 1 << 20
#: Raises where so many plain bytes are too many.
Admit = Callable[[int], None]


def store_file_encrypted(
    config: Config,
    path: Path,
    recipients: Recipients,
    profile: str | Profile | None,
    admit: Admit,
    label: str | None,
    audience: Audience | None,
) -> Stored:
    """Store an age file of a file. Raises as `Repo.store_file`."""
    from kachery_p2p.repo.fileio import SourceFile

    with progress_bar(f"Encrypting {path.name}") as update, SourceFile(path) as source:
        size = source.stamp.size

        def read(done: int) -> None:
            admit(done)
            update(done, max(done, size))

        with open(source.fd, "rb", buffering=0, closefd=False) as file, explained("reading", path):
            stored = _store(config, cast(Source, file), recipients, profile, read, label, audience, source.check)
    if not label:
        from kachery_p2p.repo.kept_rows import label_for

        called = label_for(None, path)
        if called is not None:
            repository(config).inventory.name(stored.cid, called)
    _say_where_plain(repository(config), path, profile)
    return stored


def _say_where_plain(repo: Repo, path: Path, profile: str | Profile | None) -> None:
    """Warn where everybody can load from here what was just encrypted."""
    from kachery_p2p.access.audience import PUBLIC

    cid = repo.known_file(path, profile=profile)
    if cid is None or not repo.access.audiences([cid.multihash]).get(cid.multihash, PUBLIC).everyone:
        return
    tell(
        f"Warning: the same file is here unencrypted as well, and anybody can load that: ipfs://{cid}. To change that: "
        f"kachery-cloud visibility ipfs://{cid} --to private, or kachery-cloud rm ipfs://{cid}"
    )


def store_stream_encrypted(
    config: Config,
    file: BinaryIO,
    recipients: Recipients,
    profile: str | Profile | None,
    admit: Admit,
    label: str | None,
    audience: Audience | None,
) -> Stored:
    """Store an age file of what an open file still has to give."""
    if recipients.secret is not None:  # it is read twice

        def write(spool: BinaryIO) -> None:
            done = 0
            while piece := read_piece(file, _PIECE):
                spool.write(piece)
                done += len(piece)
                admit(done)

        return store_written_encrypted(config, write, recipients, profile, label, audience)

    class Pieces:
        def read(self, size: int = -1, /) -> bytes:
            return bytes(read_piece(file, size))

    return _store(config, Pieces(), recipients, profile, admit, label, audience)


def store_written_encrypted(
    config: Config,
    write: Callable[[BinaryIO], object],
    recipients: Recipients,
    profile: str | Profile | None,
    label: str | None,
    audience: Audience | None,
) -> Stored:
    """Store an age file of what `write` writes. The plain bytes never have a name on the disk."""
    with explained("storing in", config.directory):
        folder = str(repository(config).directory / "tmp")
        spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115 - it is closed below
    with spool:
        with explained("storing in", config.directory):
            write(cast(BinaryIO, spool))
            size = spool.tell()
            spool.seek(0)
        check_size(config, size, "The value")
        return _store(config, cast(Source, spool), recipients, profile, None, label, audience)


def _store(
    config: Config,
    source: Source,
    recipients: Recipients,
    profile: str | Profile | None,
    read: Admit | None,
    label: str | None,
    audience: Audience | None,
    check: Callable[[], None] | None = None,
) -> Stored:
    repo = repository(config)
    with Spool(config) as spool:
        encrypt(source, spool, recipients, read)
        if check is not None:
            check()
        stored = spool.store(repo, profile, label, audience)
    EncryptedRoots(repo).note(stored.cid)
    return stored


# --- folders ---------------------------------------------------------------------------------------------------------


def store_directory_encrypted(
    config: Config,
    path: Path,
    options: FolderOptions,
    recipients: Recipients,
    profile: str | Profile | None,
    admit: Admit,
    update: Update,
    label: str | None,
    audience: Audience | None,
) -> Stored:
    """Store a folder whose files are age files. Raises as `Repo.store_directory`.

    They are made beside the data directory's own files first, so that takes the room of the folder for as long.
    """
    from kachery_p2p.repo.scanning import FolderOptions, Scan

    repo = repository(config)
    scan = Scan(os.stat(repo.directory), options)
    top = scan.run(path)
    admit(scan.total)
    done = 0

    def make(found: str, target: str) -> None:
        nonlocal done
        before = done

        def read(size: int) -> None:
            nonlocal done
            done = before + size
            admit(done)
            update(done, max(done, scan.total))

        _encrypt_file(Path(found), Path(target), recipients, read)

    with _building(config, Path(top.path).name) as building:
        _mirror(top, building, options.preserve, make)
        kept = FolderOptions(preserve=options.preserve, heed_ignored=False)
        stored = repo.store_directory(building, profile=profile, options=kept, label=label, audience=audience)
    EncryptedRoots(repo).note(stored.cid)
    return stored._replace(path=path)


@contextlib.contextmanager
def _building(config: Config, name: str) -> Iterator[Path]:
    """A folder of that name, somewhere in the data directory, of which nothing stays."""
    with part_beside(repository(config).directory / "encrypting") as part:
        building = part / (name or "folder")
        os.mkdir(part, 0o700)
        os.mkdir(building, 0o700)
        yield building


def _encrypt_file(path: Path, target: Path, recipients: Recipients, read: Admit | None) -> None:
    from kachery_p2p.repo.fileio import SourceFile

    with SourceFile(path) as source, open(source.fd, "rb", buffering=0, closefd=False) as file:
        with explained("writing", target), open(target, "xb") as out:
            encrypt(cast(Source, file), out, recipients, read)
        source.check()


def _mirror(folder: Folder, target: Path, preserve: bool, make: Callable[[str, str], None]) -> None:
    """Make what is in a folder, and below, with other files in it."""
    for found in folder.files:
        to = os.path.join(target, found.name)
        make(found.real or os.path.join(folder.path, found.name), to)
        if preserve:
            os.chmod(to, stat.S_IMODE(found.mode) | stat.S_IRUSR)
            os.utime(to, ns=(found.stamp.mtime_ns, found.stamp.mtime_ns))
    for link in folder.links:
        to = os.path.join(target, link.name)
        os.symlink(link.target, to)
        if preserve:
            with contextlib.suppress(NotImplementedError):  # a system that knows no times of links
                os.utime(to, ns=(link.mtime_ns, link.mtime_ns), follow_symlinks=False)
    for name, below in folder.folders:
        inner = target / name
        os.mkdir(inner, 0o700)
        _mirror(below, inner, preserve, make)
    if preserve:
        os.chmod(target, stat.S_IMODE(folder.status.st_mode) | stat.S_IRWXU)
        os.utime(target, ns=(folder.status.st_mtime_ns, folder.status.st_mtime_ns))


# --- encrypted copies of what is here already ------------------------------------------------------------------------

#: Makes the encrypted bytes of a file: from it, to a file, telling how much of it was read. The last is its name.
Transform = Callable[[BinaryIO, Sink, Admit, str], None]


def copy_root(config: Config, cid: CID, transform: Transform, name: str = "") -> Stored:
    """An encrypted copy of a file or folder that is wholly here: public cipher text, with a URI of its own.

    Args:
        config: of the data directory.
        cid: of the file or folder.
        transform: makes the bytes of each file.
        name: what it is called.

    Raises:
        BlockNotLocal: it is not all here.
        DiskFull, NoPermission: it cannot be stored.
    """
    from kachery_cloud.local import find_local
    from kachery_cloud.placing import read_tree
    from kachery_cloud.uri import ContentURI
    from kachery_p2p.access.audience import PUBLIC
    from kachery_p2p.repo.scanning import FolderOptions

    repo = repository(config)
    title = name or str(cid)
    with progress_bar(f"Encrypting {title[:40]}") as update:
        try:
            found = find_local(repo, ContentURI(str(cid)))
        except IsADirectory:
            pass
        else:
            with found.open() as file, Spool(config) as spool:
                transform(cast(BinaryIO, file), spool, lambda done: update(done, found.size), title)
                stored = spool.store(repo, None, name or None, PUBLIC)
            EncryptedRoots(repo).note(stored.cid)
            return stored
        tree = read_tree(repo, cid)
        done = 0
        with _building(config, name.replace("/", "_") or str(cid)) as building:
            for where in tree.folders:
                os.mkdir(building / where, 0o700)
            for where, source in tree.files:
                before = done

                def read(size: int, before: int = before) -> None:
                    nonlocal done
                    done = before + size
                    update(done, max(done, tree.size))

                with _opened(repo, source) as file, open(building / where, "xb") as out:
                    transform(file, out, read, f"{title}/{where}")
            for where, target in tree.links:
                os.symlink(target, building / where)
            kept = FolderOptions(heed_ignored=False)
            stored = repo.store_directory(building, options=kept, audience=PUBLIC)
    EncryptedRoots(repo).note(stored.cid)
    return stored


def _opened(repo: Repo, source: Path | PackedFile) -> BinaryIO:
    """A file of a tree. One in a pack has a few KiB."""
    if isinstance(source, Path):
        return open(source, "rb")
    data = source.read()
    if data is not None:
        return io.BytesIO(data)
    path = repo.find_file(source.cid)
    if path is None:
        raise BlockNotLocal(source.cid)
    return open(path, "rb")


def seal_root(config: Config, cid: CID, recipients: Recipients, name: str = "") -> Stored:
    """A copy of a file or folder that is encrypted for some; raises as `copy_root`.

    What was made for the same recipients before, and is still here, is given back.
    """
    repo = repository(config)
    roots = EncryptedRoots(repo)
    known = None if recipients.passphrase else roots.sealed(cid, recipients.keys)
    if known is not None and (again := here_already(config, known)) is not None:
        return again
    stored = copy_root(config, cid, lambda file, out, read, _: encrypt(file, out, recipients, read), name)
    if recipients.passphrase is None:
        roots.note_sealed(cid, recipients.keys, stored.cid)
    return stored


def link_root(config: Config, cid: CID, keys: tuple[str, ...], name: str = "") -> tuple[Stored, X25519Identity]:
    """A copy of a file or folder that whoever has the key of a link can decrypt, and that key.

    What is encrypted already keeps its chunks, and those who can decrypt it; its header gets one recipient more. So a
    key of this machine has to open it. It is made once: later links have the same key.

    Args:
        config: of the data directory.
        cid: of the file or folder.
        keys: who can decrypt it besides, where it was not encrypted before.
        name: what it is called.

    Raises:
        NoDecryptionKey: no key that opens it is here; and what `copy_root` raises.
    """
    from kachery_cloud.encryption.identities import keyring
    from kachery_cloud.encryption.recipients import Recipients
    from kachery_cloud.encryption.writing import add_recipient

    repo = repository(config)
    roots = EncryptedRoots(repo)
    known = roots.link(cid)
    if known is not None and (again := here_already(config, known[0])) is not None:
        return again, X25519Identity.parse(known[1])
    identity = X25519Identity.new()
    if roots.has(cid):
        ring = keyring(config)

        def transform(file: BinaryIO, out: Sink, read: Admit, title: str) -> None:
            add_recipient(file, out, ring, identity.public, title, read)
    else:
        recipients = Recipients(tuple(sorted({*keys, identity.recipient})))

        def transform(file: BinaryIO, out: Sink, read: Admit, title: str) -> None:
            encrypt(file, out, recipients, read)

    stored = copy_root(config, cid, transform, name)
    roots.note_link(cid, stored.cid, identity.text)
    return stored, identity


def here_already(config: Config, cid: CID) -> Stored | None:
    """A copy that was made before, if all of it is here still."""
    from kachery_p2p.repo.small import Stored

    repo = repository(config)
    root = repo.inventory.get(cid)
    if root is None or not root.whole or root.problem:
        return None
    return Stored(cid, root.size or 0, root.path or repo.directory, root.size or 0)
